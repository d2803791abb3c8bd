//! Sources that are not Parquet, by way of the binary: a real PostgreSQL with pgvector, our own server in Qdrant's vocabulary, files, and
//! text through embedders.
#![cfg(all(feature = "cli", feature = "postgres", feature = "serve", unix))]

mod fixture;
mod postgres;
mod published;
mod rows;
mod served;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use annvil::loader::json_value;
use annvil::source::embed::Hashed;
use annvil::source::{ALL_COLUMNS, Dataset, Source, SourceSpec};
use annvil::store::runtime;
use annvil::vectors::{Metric, RowIds};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use postgres::{PASSWORD, Postgres};
use serde_json::{Value, json};
use served::{DEADLINE, Served, Shelf};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn import(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    for variable in ["PGPASSWORD", "PGPASSFILE", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "QDRANT_API_KEY"]
    {
        command.env_remove(variable);
    }
    command.arg("import").args(arguments).envs(environment.iter().copied()).output().unwrap()
}

/// What was imported, as a build would read it; the id column is `id`, the vectors `v`.
fn read(file: &Path) -> Dataset {
    let spec = SourceSpec {
        id_column: Some("id".into()),
        attribute_columns: vec![ALL_COLUMNS.into()],
        ..SourceSpec::new(file.to_str().unwrap(), "v", Metric::L2)
    };
    Source::open(spec, runtime().unwrap())
        .unwrap()
        .read_all(&|_, _| std::ops::ControlFlow::Continue(()))
        .unwrap()
}

fn imported(file: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (Dataset, Value) {
    let out = file.to_str().unwrap();
    let output = import(&[arguments, &["--out", out, "--json"]].concat(), environment);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    (read(file), serde_json::from_slice(&output.stdout).unwrap())
}

/// What an import that must fail says; it leaves no file.
fn refused(code: i32, file: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = import(&[arguments, &["--out", file.to_str().unwrap()]].concat(), environment);
    let said = text(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains(PASSWORD) && !said.contains("hunter"), "{said}");
    let left: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().flatten().collect();
    assert!(
        !file.exists() && !left.iter().any(|f| f.file_name().to_string_lossy().starts_with(".annvil")),
        "{left:?}"
    );
    said
}

#[test]
fn rows_of_postgresql_come_as_they_are_and_bad_ones_are_named() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.parquet");
    every_type_comes_through(&server, &file);
    what_no_index_could_hold_is_refused_or_left_out(&server, &folder.path().join("ragged.parquet"));
    passwords_come_from_where_libpq_looks_and_are_never_told(&server, folder.path());
    what_is_not_there_is_named(&server, &folder.path().join("none.parquet"));
}

fn every_type_comes_through(server: &Postgres, file: &Path) {
    server.sql(
        "kimera",
        "CREATE TYPE mood AS ENUM ('calm', 'wild');
         CREATE TABLE kinds(id uuid, v vector(3), h halfvec(3), other uuid, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
           b bool, t text, ts timestamptz, d date, tags text[], j jsonb, m mood, price numeric);
         INSERT INTO kinds VALUES
           ('00000000-0000-0000-0000-000000000001', '[1,2,3.5]', '[0.5,-1,2]', 'ffffffff-0000-0000-0000-00000000000f', -2, 4,
            9223372036854775807, 1.5, -2.25, true, 'déjà|vu', '2026-11-20 15:00:00.000001+00', '2026-11-20',
            '{a,\"b c\",NULL}', '{\"k\": [1, null]}', 'wild', 9.99),
           ('00000000-0000-0000-0000-000000000002', '[-1,0,1e-3]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            NULL, NULL, NULL, NULL, NULL);",
    );
    let environment = [("PGPASSWORD", PASSWORD)];
    let arguments = ["--table", "public.kinds", "--id", "id", "--vector", "v"];
    let (rows, told) = imported(file, &[&[&*server.uri()], &arguments[..]].concat(), &environment);
    assert_eq!((&told["kept"], &told["dim"]), (&json!(2), &json!(3)));
    assert_eq!(rows.vectors.view().as_slice(), [1.0, 2.0, 3.5, -1.0, 0.0, 1e-3]);
    let ids = RowIds::from_array(&rows.ids).unwrap();
    assert_eq!(ids.get(0).to_string(), "00000000-0000-0000-0000-000000000001");
    let value = |column: &str, row| json_value(rows.attributes.column_by_name(column).unwrap(), row).unwrap();
    for (column, expected) in [
        ("other", json!("ffffffff-0000-0000-0000-00000000000f")),
        ("i2", json!(-2)),
        ("i4", json!(4)),
        ("i8", json!(i64::MAX)),
        ("f4", json!(1.5)),
        ("f8", json!(-2.25)),
        ("b", json!(true)),
        ("t", json!("déjà|vu")),
        ("ts", json!("2026-11-20T15:00:00.000001Z")),
        ("d", json!("2026-11-20")),
        ("tags", json!(["a", "b c", null])),
        ("j", json!(r#"{"k": [1, null]}"#)),
        ("m", json!("wild")),
    ] {
        assert_eq!(value(column, 0), expected, "{column}");
        assert_eq!(value(column, 1), Value::Null, "{column}");
    }
    // What cannot be kept is not there unless it is asked for; then it is an error.
    assert!(rows.attributes.column_by_name("price").is_none());
    let half = [
        "--query",
        "SELECT id, h AS v, price::float8 FROM kinds WHERE h IS NOT NULL;",
        "--id",
        "id",
        "--vector",
        "v",
    ];
    let (rows, _) = imported(file, &[&[&*server.uri()], &half[..]].concat(), &environment);
    assert_eq!(rows.vectors.view().as_slice(), [0.5, -1.0, 2.0]);
    assert_eq!(json_value(&rows.attributes["price"], 0).unwrap(), json!(9.99));
}

fn what_no_index_could_hold_is_refused_or_left_out(server: &Postgres, file: &Path) {
    server.sql(
        "kimera",
        "CREATE TABLE ragged(id int8, v vector, r real[]);
         INSERT INTO ragged VALUES (1, '[1,2]', '{1,2}'), (2, '[1,2,3]', '{NaN,1}'), (3, '[3,4]', '{1,Infinity}'),
           (4, NULL, '{}'), (NULL, '[1,1]', '{1,1}'), (1, '[2,2]', '{2,2}'), (7, '[5,6]', '{3,NULL}');",
    );
    let environment = [("PGPASSWORD", PASSWORD)];
    let uri = server.uri();
    let table = [&*uri, "--table", "ragged", "--id", "id", "--attributes="];
    let said = refused(2, file, &[&table[..], &["--vector", "v"]].concat(), &environment);
    assert!(said.contains("(id 2): expected a vector of 2 elements, got 3"), "{said}");
    let skip = ["--vector", "v", "--on-bad-row", "skip"];
    let table = [&*uri, "--table", "ragged", "--id", "id"];
    let (rows, told) = imported(file, &[&table[..], &skip].concat(), &environment);
    let expected = json!({ "wrong_length": 1, "null_vector": 1, "null_id": 1, "duplicate_id": 1 });
    assert_eq!((rows.rows(), &told["rejected"]), (3, &expected));
    let reals =
        ["--query", "SELECT id, r AS v FROM ragged WHERE id IS NOT NULL", "--id", "id", "--vector", "v"];
    let (_, told) = imported(file, &[&[&*uri], &reals[..], &["--on-bad-row", "skip"]].concat(), &environment);
    let expected =
        json!({ "nan": 1, "infinite": 1, "empty_vector": 1, "null_element": 1, "duplicate_id": 1 });
    assert_eq!(told["rejected"], expected);
}

fn passwords_come_from_where_libpq_looks_and_are_never_told(server: &Postgres, folder: &Path) {
    let file = folder.join("kinds.parquet");
    let uri = server.uri();
    let table = [&*uri, "--table", "kinds", "--id", "id", "--vector", "v"];
    let passfile = folder.join("pgpass");
    std::fs::write(&passfile, "*:*:kimera:*:hunter\\:2\\\\\n").unwrap();
    std::fs::set_permissions(&passfile, PermissionsExt::from_mode(0o600)).unwrap();
    imported(&file, &table, &[("PGPASSFILE", passfile.to_str().unwrap())]);
    let named = [&table[..], &["--credential", "env:DATABASE_PASSWORD"]].concat();
    imported(&file, &named, &[("DATABASE_PASSWORD", PASSWORD)]);
    // The place from the environment, too.
    let place = server.environment();
    let place: Vec<(&str, &str)> = place.iter().map(|(name, value)| (*name, value.as_str())).collect();
    imported(&file, &[&["postgres:///kimera"], &table[1..]].concat(), &place);

    // Encrypted to a server that can be trusted, else not at all.
    let certificate = folder.join("server.crt");
    let encrypted = uri.replace(&server.port.to_string(), &encrypting(server.port, &certificate).to_string());
    let encrypted = format!("{encrypted}?sslmode=require");
    let not_there = format!("{uri}?sslmode=require");
    let whose = |uri| [uri, "--table", "kinds", "--id", "id", "--vector", "v"];
    let trusting = [("PGPASSWORD", PASSWORD), ("SSL_CERT_FILE", certificate.to_str().unwrap())];
    imported(&file, &whose(&*encrypted), &trusting);
    std::fs::remove_file(&file).unwrap();
    let said = refused(5, &file, &whose(&*not_there), &trusting);
    assert!(said.contains("cannot connect") && said.contains("server does not support TLS"), "{said}");
    let said = refused(5, &file, &whose(&*encrypted), &trusting[..1]);
    assert!(said.contains("cannot connect") && said.contains("certificate"), "{said}");

    let said = refused(5, &file, &table, &[("PGPASSWORD", "hunter3")]);
    assert!(said.contains("cannot connect") && said.contains("password authentication failed"), "{said}");
    let said = refused(2, &file, &named, &[]);
    assert!(said.contains("the environment has no variable `DATABASE_PASSWORD`"), "{said}");
    let with_password = uri.replace("kimera@", "kimera:hunter2@");
    let said = refused(2, &file, &[&[&*with_password], &table[1..]].concat(), &[]);
    assert!(said.contains("a password in the URI would be published"), "{said}");
}

/// PostgreSQL as a server that encrypts: one before it that does, since the one that can be installed does not. Writes its certificate, and
/// passes on nothing that came unencrypted.
fn encrypting(port: u16, certificate: &Path) -> u16 {
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
    let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    std::fs::write(certificate, identity.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config =
        config.with_no_client_auth().with_single_cert(vec![identity.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap().port();
    runtime().unwrap().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((mut client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                // SSLRequest: length and 80877103.
                if request != [0, 0, 0, 8, 4, 210, 22, 47] {
                    return;
                }
                client.write_all(b"S").await.unwrap();
                // Whoever does not trust us is gone.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    at
}

fn what_is_not_there_is_named(server: &Postgres, file: &Path) {
    let environment = [("PGPASSWORD", PASSWORD)];
    let uri = server.uri();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("postgres://kimera@127.0.0.1:{free}/kimera");
    for (code, arguments, expected) in [
        (2, vec![&*uri, "--vector", "v"], "`table = \"…\"` or `query"),
        (2, vec![&*uri, "--table", "nowhere", "--vector", "v"], "there is no table `nowhere`"),
        (2, vec![&*uri, "--table", "kinds; DROP TABLE kinds", "--vector", "v"], "there is no table"),
        (2, vec![&*uri, "--table", "kinds", "--vector", "w"], "no column `w`"),
        (2, vec![&*uri, "--table", "kinds", "--vector", "t"], "expected vector, halfvec or real[], got text"),
        (2, vec![&*uri, "--table", "kinds", "--vector", "v", "--attributes", "price"], "got numeric"),
        (2, vec![&*uri, "--query", "SELECT 1 AS", "--vector", "v"], "syntax error"),
        (2, vec![&*uri, "--query", "SELECT id, v FROM kinds WHERE false", "--vector", "v"], "has no rows"),
        (5, vec![&nobody, "--table", "kinds", "--vector", "v"], "cannot connect"),
    ] {
        let said = refused(code, file, &arguments, &environment);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// 48 MB out of line: more than one range of blocks.
#[test]
fn what_is_read_of_a_table_under_change_is_one_moment_of_it() {
    const ROWS: usize = 6000;
    let Some(server) = Postgres::start() else { return };
    server.sql(
        "kimera",
        "CREATE TABLE busy(id int8 PRIMARY KEY, generation int8, v vector(2), filling text);
         ALTER TABLE busy ALTER filling SET STORAGE EXTERNAL;
         INSERT INTO busy SELECT i, 0, ARRAY[i, -i]::vector, repeat('x', 8000) FROM generate_series(1, 6000) i;",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("busy.parquet");
    let uri = server.uri();
    let arguments = [&*uri, "--table", "busy", "--id", "id", "--vector", "v", "--attributes", "generation"];
    let environment = [("PGPASSWORD", PASSWORD)];
    let (rows, _) = imported(&file, &arguments, &environment);
    let in_place = server.sql("kimera", "SELECT id FROM busy ORDER BY ctid");
    let in_place: Vec<i64> = in_place.lines().map(|id| id.parse().unwrap()).collect();
    assert_eq!(rows.ids.as_primitive::<Int64Type>().values(), &in_place[..]);

    let churn = "DO $$ BEGIN FOR i IN 1..1000000 LOOP UPDATE busy SET generation = i;
                   DELETE FROM busy WHERE id = i; INSERT INTO busy SELECT i, i, ARRAY[i, -i]::vector, repeat('x', 8000);
                   COMMIT; END LOOP; END $$";
    let mut writer = server.spawn_sql("kimera", churn);
    let generation =
        || server.sql("kimera", "SELECT max(generation) FROM busy").trim().parse::<i64>().unwrap();
    let start = Instant::now();
    while generation() < 2 {
        assert!(start.elapsed() < DEADLINE, "nobody writes: {}", server.log());
    }
    let (mut seen, before) = (Vec::new(), generation());
    for _ in 0..3 {
        let (rows, _) = imported(&file, &arguments, &environment);
        assert_eq!(rows.rows(), ROWS);
        let generations = rows.attributes["generation"].as_primitive::<Int64Type>().values().clone();
        assert!(generations.iter().all(|generation| *generation == generations[0]), "{generations:?}");
        seen.push(generations[0]);
    }
    assert!(seen[0] >= before && generation() > seen[2], "it was not changed meanwhile: {before} {seen:?}");
    server.sql("kimera", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO %'");
    writer.wait().unwrap();
    std::fs::remove_file(&file).unwrap();
    a_server_that_goes_away_is_named(&server, &file);
}

fn a_server_that_goes_away_is_named(server: &Postgres, file: &Path) {
    let uri = server.uri();
    let slow = "SELECT id, v, pg_sleep(0.002)::text AS nap FROM busy";
    let arguments = [&*uri, "--query", slow, "--id", "id", "--vector", "v"];
    std::thread::scope(|scope| {
        let import = scope.spawn(|| refused(5, file, &arguments, &[("PGPASSWORD", PASSWORD)]));
        let start = Instant::now();
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                    WHERE application_name = 'annvil' AND query LIKE 'COPY%'";
        while server.sql("kimera", kill).trim() == "0" {
            assert!(start.elapsed() < DEADLINE, "it never copied");
        }
        let said = import.join().unwrap();
        assert!(said.contains("went away while it was read, after "), "{said}");
    });
}

#[test]
fn a_collection_by_scroll_is_what_is_served() {
    let shelf = Shelf::new();
    let (rows_there, dim) = (600, 12);
    let vectors = rows::clustered(rows_there, dim, Metric::L2, 3);
    let ids = RowIds::from((0..rows_there as u64).map(|row| row * 7 + 1).collect::<Vec<u64>>());
    let attributes = served::attributes(rows_there, 7);
    shelf.publish("memories", "flat", (&vectors, Metric::L2), &ids, Some(&attributes));
    let served = Served::with_environment(
        &[shelf.uri("memories")],
        &[],
        &[("ANNVIL_API_KEYS", "open-sesame-open-sesame")],
    );
    let uri = format!("qdrant+http://127.0.0.1:{}/memories", served.port);
    let file = shelf.path().join("memories.parquet");
    let arguments = [&*uri, "--id", "id", "--vector", "v"];
    let (rows, _) = imported(&file, &arguments, &[("QDRANT_API_KEY", "open-sesame-open-sesame")]);
    assert_eq!(rows.rows(), rows_there);
    let there = RowIds::from_array(&rows.ids).unwrap();
    for row in 0..rows_there as u32 {
        let original = ids.find(&there.get(row)).expect("an id of ours");
        assert_eq!(rows.vectors.view().row(row as usize), vectors.view().row(original as usize));
        for column in ["page_content", "score", "flag", "tags"] {
            let value = |batch: &arrow_array::RecordBatch, row: u32| {
                json_value(&batch[column], row as usize).unwrap()
            };
            assert_eq!(value(&rows.attributes, row), value(&attributes, original), "{column}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let said = refused(2, &file, &arguments, &[]);
    assert!(said.contains("401"), "{said}");
    let elsewhere = uri.replace("/memories", "/nothing");
    let said = refused(
        2,
        &file,
        &[&[&*elsewhere], &arguments[1..]].concat(),
        &[("QDRANT_API_KEY", "open-sesame-open-sesame")],
    );
    assert!(said.contains("404"), "{said}");
    drop(served);
    let said = refused(5, &file, &arguments, &[]);
    assert!(said.contains("cannot connect"), "{said}");
}

/// Answers each request by what `answer` makes of its body, each connection by a thread of its own.
fn http_server(answer: impl Fn(Value) -> (u16, String) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let answer = answer.clone();
            std::thread::spawn(move || answer_all(connection.unwrap(), &*answer));
        }
    });
    port
}

fn answer_all(connection: std::net::TcpStream, answer: &dyn Fn(Value) -> (u16, String)) {
    let mut reader = BufReader::new(connection);
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line != "\r\n" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        if line.is_empty() || reader.read_exact(&mut body).is_err() {
            return;
        }
        let (status, body) = answer(serde_json::from_slice(&body).unwrap());
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if reader.get_mut().write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn a_collection_that_is_written_to_meanwhile_is_refused() {
    let counts = std::sync::atomic::AtomicU64::new(0);
    let port = http_server(move |body| {
        let result = if body["exact"] == json!(true) {
            json!({ "count": 2 + counts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) })
        } else {
            let points: Vec<Value> =
                (0..2).map(|id| json!({ "id": id, "vector": [id, 1], "payload": {} })).collect();
            json!({ "points": points, "next_page_offset": null })
        };
        (200, json!({ "result": result, "status": "ok", "time": 0 }).to_string())
    });
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("qdrant+http://127.0.0.1:{port}/memories");
    let said = refused(5, &folder.path().join("x.parquet"), &[&uri, "--id", "id", "--vector", "v"], &[]);
    assert!(said.contains("changed while it was read: 2 points before, 2 read, 3 after"), "{said}");
}

#[test]
fn files_of_vectors_and_lines_of_json_are_sources() {
    let folder = tempfile::tempdir().unwrap();
    let fvecs: Vec<u8> = [[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]]
        .iter()
        .flat_map(|row| [&2i32.to_le_bytes()[..], &row[0].to_le_bytes(), &row[1].to_le_bytes()].concat())
        .collect();
    let bvecs: Vec<u8> =
        [[1u8, 2], [3, 4], [5, 6]].iter().flat_map(|row| [&[2, 0, 0, 0], &row[..]].concat()).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend((1..=6).flat_map(|value| (value as f32).to_le_bytes()));
    let lines = b"{\"v\": [1, 2.0]}\n\n{\"v\": [3, 4]}\n{\"v\": [5, 6]}\n".to_vec();
    for (name, bytes) in [("a.fvecs", fvecs), ("a.bvecs", bvecs), ("a.npy", npy), ("a.jsonl", lines)] {
        let source = folder.path().join(name);
        std::fs::write(&source, &bytes).unwrap();
        let again = folder.path().join(format!("again-{name}"));
        std::fs::write(&again, &bytes).unwrap();
        let file = folder.path().join(format!("{name}.parquet"));
        let (rows, told) = imported(&file, &[source.to_str().unwrap(), "--vector", "v"], &[]);
        assert_eq!(rows.vectors.view().as_slice(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{name}");
        assert_eq!(rows.ids.as_primitive::<Int64Type>().values(), &[0, 1, 2], "{name}");
        assert_eq!(told["inputs"][0]["uri"], source.to_str().unwrap());
        let twice = [source.to_str().unwrap(), again.to_str().unwrap(), "--vector", "v"];
        assert_eq!(imported(&file, &twice, &[]).0.rows(), 6, "{name}");
        // A file that is cut short is none.
        std::fs::write(&source, &bytes[..bytes.len() - 3]).unwrap();
        std::fs::remove_file(&file).unwrap();
        refused(2, &file, &[source.to_str().unwrap(), "--vector", "v"], &[]);
    }
}

#[test]
fn a_line_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (source, file) = (folder.path().join("x.jsonl"), folder.path().join("x.parquet"));
    for (lines, expected) in [
        ("{\"v\": [1]}\n[1]\n", "line 2: expected an object"),
        ("{\"v\": [1]}\n{\"v\": [1}\n", "line 2: no JSON"),
        ("{\"v\": \"1 2\"}\n", "column `v`: expected lists of numbers, as vectors are, got text"),
        ("{\"w\": [1]}\n", "no column `v` for the vectors; its columns are `w`"),
        ("{\"v\": [1, null]}\n", "element 1 of the vector is null"),
        ("{\"v\": [1, 1e300]}\n", "element 1 of the vector is infinite"),
        ("\n", "has no rows"),
    ] {
        std::fs::write(&source, lines).unwrap();
        let said = refused(2, &file, &[source.to_str().unwrap(), "--vector", "v"], &[]);
        assert!(said.contains(expected), "{lines}: {said}");
    }
}

#[test]
fn text_is_embedded_by_buckets_by_a_program_and_by_a_service() {
    let folder = tempfile::tempdir().unwrap();
    let (source, file) = (folder.path().join("x.jsonl"), folder.path().join("x.parquet"));
    let entries: Vec<String> = (0..700).map(|n| format!("Entry {n} of the FORGE, anvil {}", n % 7)).collect();
    let lines: Vec<String> = entries
        .iter()
        .enumerate()
        .map(|(n, text)| json!({ "id": format!("e:{n}"), "text": text }).to_string())
        .collect();
    std::fs::write(&source, lines.join("\n")).unwrap();
    let expected: Vec<f32> = entries.iter().flat_map(|text| Hashed::new(64).vector(text)).collect();
    let uri = source.to_str().unwrap();
    let text_of = [uri, "--id", "id", "--vector", "v", "--text", "text", "--embed"];
    let (rows, _) = imported(&file, &[&text_of[..], &["hashed", "--buckets", "64"]].concat(), &[]);
    assert_eq!(rows.vectors.view().as_slice(), expected);
    assert_eq!(json_value(&rows.attributes["text"], 5).unwrap(), json!(entries[5]));

    // A Parquet file with text is as good.
    let parquet = folder.path().join("text.parquet");
    std::fs::rename(&file, &parquet).unwrap();
    let from_parquet = [&[parquet.to_str().unwrap()], &text_of[1..], &["hashed", "--buckets", "64"]].concat();
    let (rows, _) = imported(&file, &from_parquet, &[]);
    assert_eq!(rows.vectors.view().as_slice(), expected);

    let embed = |texts: &Value| -> Value {
        texts
            .as_array()
            .unwrap()
            .iter()
            .map(|text| json!(Hashed::new(64).vector(text.as_str().unwrap())))
            .collect()
    };
    let busy = std::sync::atomic::AtomicBool::new(true);
    let port = http_server(move |body| {
        // The first time it is told to come again.
        if busy.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return (503, String::new());
        }
        (200, json!({ "vectors": embed(&body["texts"]) }).to_string())
    });
    let url = format!("http://127.0.0.1:{port}/embed");
    let (rows, _) =
        imported(&file, &[&text_of[..], &["http", "--embed-url", &url, "--batch", "100"]].concat(), &[]);
    assert_eq!(rows.vectors.view().as_slice(), expected);

    let program = folder.path().join("embed.py");
    std::fs::write(
        &program,
        "import json, sys\nfor line in sys.stdin:\n    texts = json.loads(line)['texts']\n    \
         print(json.dumps({'vectors': [[len(t), t.count('E')] for t in texts]}), flush=True)\n",
    )
    .unwrap();
    let command = format!("python3 {}", program.display());
    let (rows, _) = imported(&file, &[&text_of[..], &["command", "--embed-command", &command]].concat(), &[]);
    let expected: Vec<f32> =
        entries.iter().flat_map(|text| [text.len() as f32, text.matches('E').count() as f32]).collect();
    assert_eq!(rows.vectors.view().as_slice(), expected);

    std::fs::remove_file(&file).unwrap();
    let said =
        refused(2, &file, &[&text_of[..], &["command", "--embed-command", "/nonexistent"]].concat(), &[]);
    assert!(said.contains("embedder `/nonexistent` cannot be started"), "{said}");
    let said = refused(5, &file, &[&text_of[..], &["command", "--embed-command", "false"]].concat(), &[]);
    assert!(said.contains("embedder `false` is gone"), "{said}");
    let port = http_server(|_| (200, "{\"vectors\": [[1, 2]]}".into()));
    let url = format!("http://127.0.0.1:{port}/embed");
    let said = refused(2, &file, &[&text_of[..], &["http", "--embed-url", &url]].concat(), &[]);
    assert!(said.contains("expected 256 vectors, got 1"), "{said}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/embed", silent.local_addr().unwrap());
    let start = Instant::now();
    let said =
        refused(5, &file, &[&text_of[..], &["http", "--embed-url", &url, "--timeout-s", "1"]].concat(), &[]);
    assert!(said.contains("has not answered for 1 s") && start.elapsed() < Duration::from_secs(20), "{said}");
}
