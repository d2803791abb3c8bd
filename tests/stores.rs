//! The same artifact on every store: built from it and into it, searched, verified, rolled back, collected, copied,
//! repaired; by publishers that race, and through a network that fails. Against real servers, see `servers`.
//!
//! What takes longer than a default run should is ignored there: `cargo test --test stores -- --ignored`.
#![cfg(all(feature = "cli", feature = "cloud"))]

mod fixture;
mod servers;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use annvil::Error;
use annvil::job::{self, JobSpec, Outcome, Progress};
use annvil::loader::{Index, SearchOptions};
use annvil::store::{GcPolicy, IndexStore, Location, StoreError, StoreOptions};
use annvil::vectors::{Random, RowId, VectorView};
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use fixture::{contents, draft, read_contents, segment_files};
use parquet::arrow::ArrowWriter;
use servers::{Kind, Proxy, Server};

const ROWS: usize = 600;
const DIM: usize = 12;
const INDEXES: [&str; 2] = ["graph", "lists"];

fn values() -> Vec<f32> {
    let mut random = Random::new(5);
    (0..ROWS * DIM).map(|_| random.normal() as f32).collect()
}

/// Rows with ids from 1,000 on, as a Parquet file.
fn parquet() -> Bytes {
    parquet_from(1000)
}

fn parquet_from(first: i64) -> Bytes {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::new(item, DIM as i32, Arc::new(Float32Array::from(values())), None);
    let ids: Int64Array = (first..first + ROWS as i64).collect();
    let columns = [("id", Arc::new(ids) as ArrayRef), ("embedding", Arc::new(vectors))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    bytes.into()
}

/// The job that builds both indexes, with `[store]` as given.
fn job(source: &str, output: &str, store: &StoreOptions, seed: u64) -> JobSpec {
    let store = toml::to_string(store).unwrap();
    let text = format!(
        r#"
name = "stores"
seed = {seed}
threads = 2
backend = "cpu"
source = {{ uri = '{source}', vector = "embedding", id = "id" }}
queries = {{ sample = 50 }}
output = {{ uri = '{output}' }}

[[index]]
name = "graph"
kind = "hnsw"
metric = "l2"

[[index]]
name = "lists"
kind = "ivf_pq"
metric = "l2"
nlist = 10

[store]
{store}
"#
    );
    JobSpec::parse(&text, "stores.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn build(spec: &JobSpec) -> Result<(), Error> {
    let summary = job::run(spec, &Progress::silent())?;
    assert!(summary.indexes.iter().all(|index| matches!(index.outcome, Outcome::Published { .. })));
    Ok(())
}

/// The segments of both indexes, built from files into files: what every store must come to.
fn expected(seed: u64) -> [String; 2] {
    static BUILT: OnceLock<[[String; 2]; 2]> = OnceLock::new();
    BUILT.get_or_init(|| [1, 2].map(build_locally))[seed as usize - 1].clone()
}

fn build_locally(seed: u64) -> [String; 2] {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("rows.parquet");
    std::fs::write(&source, parquet()).unwrap();
    let root = folder.path().join("out");
    let root = root.to_str().unwrap();
    build(&job(source.to_str().unwrap(), root, &StoreOptions::default(), seed)).unwrap();
    INDEXES.map(|name| segment(&IndexStore::named(root, name).unwrap(), None))
}

fn segment(index: &IndexStore, version: Option<u64>) -> String {
    index.artifact(version).unwrap().manifest().segments[0].id.to_string()
}

fn write_source(server: &Server, name: &str) -> String {
    let uri = format!("{}/in/rows.parquet", server.root(name));
    Location::parse_with(&uri, &server.options()).unwrap().write(parquet()).unwrap();
    uri
}

/// Runs the command with nothing but the environment to say where the store is.
fn annvil(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    command.args(arguments).envs(server.environment()).output().unwrap()
}

fn ok(server: &Server, arguments: &[&str]) -> serde_json::Value {
    let output = annvil(server, &[arguments, &["--json"]].concat());
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{:?} {arguments:?}: {}", server.kind, said());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Everything that one does with an index, on one store.
fn everything_works_on(kind: Kind) {
    let Some(server) = Server::start(kind) else { return };
    let (root, options) = (server.root("all"), server.options());
    let source = write_source(&server, "all");
    // A folder and a pattern are listed; a name is looked up.
    for (seed, source) in [(1, source.as_str()), (2, &format!("{root}/in/*.parquet"))] {
        build(&job(source, &root, &options, seed)).unwrap();
        for (name, expected) in INDEXES.iter().zip(expected(seed)) {
            assert_eq!(segment(&server.index("all", name), None), expected, "{kind:?} {name}");
        }
    }
    let index = server.index("all", "graph");
    assert_eq!(index.versions().unwrap(), [1, 2]);
    let opened = Index::of(index.artifact(Some(1)).unwrap()).unwrap();
    let values = values();
    let query = VectorView::new(&values[7 * DIM..8 * DIM], DIM);
    let hits = opened.search(query, &SearchOptions::default()).unwrap();
    assert_eq!(hits[0][0].id.to_string(), "1007");
    let ranges = index.artifact(None).unwrap();
    let part = ranges.only_segment().unwrap().read_ranges("ids.arrow", &[3..40, 100..101]).unwrap();
    let whole = ranges.only_segment().unwrap().read("ids.arrow").unwrap();
    assert_eq!(part, [whole.slice(3..40), whole.slice(100..101)]);

    let uri = format!("{root}/graph");
    assert_eq!(ok(&server, &["verify", &uri])["files"][0]["state"], "whole");
    assert_eq!(ok(&server, &["rollback", &uri, "--to", "1"])["version"], 3);
    let diff = ok(&server, &["diff", &uri, "--from", "2", "--to", "3"]);
    let seeds = diff["parameters"].as_array().unwrap().iter().find(|changed| changed["what"] == "seed");
    assert_eq!(seeds.unwrap(), &serde_json::json!({ "what": "seed", "a": 2, "b": 1 }));
    assert_eq!(ok(&server, &["diff", &uri, "--from", "1", "--to", "3"])["same_segments"], true);

    // A copy on another store, damage here, and it is whole again.
    let backup = tempfile::tempdir().unwrap();
    let backup = backup.path().join("graph");
    ok(&server, &["copy", &uri, backup.to_str().unwrap()]);
    let codes = format!("{uri}/seg/{}/ids.arrow", expected(1)[0]);
    Location::parse_with(&codes, &options).unwrap().write(Bytes::from_static(b"damage")).unwrap();
    assert_eq!(annvil(&server, &["verify", &uri]).status.code(), Some(4));
    let repaired = ok(&server, &["verify", &uri, "--repair-from", backup.to_str().unwrap()]);
    assert_eq!(repaired["repaired"].as_array().unwrap().len(), 1);
    let there = format!("{}/copied/graph", server.root("all"));
    ok(&server, &["copy", backup.to_str().unwrap(), &there]);

    let kept = ok(&server, &["gc", &uri, "--keep", "1", "--older-than", "1h"]);
    assert_eq!(kept["kept_versions"], serde_json::json!([3, 2, 1]), "all are young");
    let policy = GcPolicy { keep: 1, older_than: Duration::ZERO, dry_run: false };
    let report = index.collect_garbage(&policy).unwrap();
    assert_eq!((report.removed_versions, report.removed_segments.len()), (vec![1, 2], 1));
    assert!(index.artifact(None).unwrap().verify(&mut |_| ()).is_sound());

    changes_race(&server, &root);

    // Above the size from which objects are written in parts.
    let big: Bytes = (0..(64 << 20) + 4321u32).map(|i| (i ^ (i >> 13)) as u8).collect::<Vec<_>>().into();
    let index = server.index("all", "big");
    index.publish(vec![("big.bin".into(), big.clone())], draft(1)).unwrap();
    assert!(index.artifact(None).unwrap().only_segment().unwrap().read("big.bin").unwrap() == big);
}

/// Three processes change an index at once: each has its version, and none loses what another brought.
fn changes_race(server: &Server, root: &str) {
    let uri = format!("{root}/lists");
    let more = [5000, 7000].map(|first| {
        let more = format!("{root}/more/{first}.parquet");
        Location::parse_with(&more, &server.options()).unwrap().write(parquet_from(first)).unwrap();
        more
    });
    let before = Index::of(server.index("all", "lists").artifact(Some(2)).unwrap()).unwrap();
    let id = |ordinal| before.ids().get(ordinal);
    let gone = (0..before.rows() as u32).filter(|&row| id(row) < RowId::Int(1100)).count();
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
        command.args(arguments).args(["--backend", "cpu", "--quiet"]).envs(server.environment());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let changes = [
        start(&["append", &uri, "--from", &more[0]]),
        start(&["append", &uri, "--from", &more[1]]),
        start(&["delete", &uri, "--where", "row_id < 1100"]),
    ];
    for change in changes {
        let output = change.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{:?}: {said}", server.kind);
    }
    let index = server.index("all", "lists");
    assert_eq!(index.versions().unwrap(), [1, 2, 3, 4, 5], "{:?}", server.kind);
    let after = Index::of(index.artifact(None).unwrap()).unwrap();
    assert_eq!(after.live_rows(), before.rows() + 2 * ROWS - gone);
    for id in [5000, 5599, 7000, 7599] {
        assert!(after.ids().find(&RowId::Int(id)).is_some(), "{:?}: row {id}", server.kind);
    }
    assert!(index.artifact(None).unwrap().verify(&mut |_| ()).is_sound());
}

#[test]
fn everything_works_on_seaweedfs() {
    everything_works_on(Kind::SeaweedFs);
}

#[test]
fn everything_works_on_moto() {
    everything_works_on(Kind::Moto);
}

#[test]
fn everything_works_on_azurite() {
    everything_works_on(Kind::Azurite);
}

#[test]
fn everything_works_on_google() {
    everything_works_on(Kind::Gcs);
}

/// Half of the publishers bring the same contents, and so the same files.
fn brought_by(publisher: u64) -> u64 {
    if publisher.is_multiple_of(2) { 0 } else { publisher }
}

/// Publishers that start together, round by round: each has a version of its own, and none is lost or mixed.
fn race_on(kind: Kind, publishers: u64, rounds: u64) {
    let Some(server) = Server::start(kind) else { return };
    let barrier = Barrier::new(publishers as usize);
    let mut published: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..publishers)
            .map(|publisher| {
                let (barrier, server) = (&barrier, &server);
                scope.spawn(move || {
                    let index = server.index("race", "contended");
                    let publish = |round| {
                        barrier.wait();
                        let brought = brought_by(publisher);
                        let seed = round * publishers + publisher;
                        let published = index.publish(segment_files(brought), draft(seed)).unwrap();
                        (published.version, seed)
                    };
                    (0..rounds).map(publish).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    published.sort_unstable();
    let versions: Vec<u64> = published.iter().map(|&(version, _)| version).collect();
    assert_eq!(versions, (1..=publishers * rounds).collect::<Vec<_>>(), "{kind:?}");
    let index = server.index("race", "contended");
    assert_eq!(index.versions().unwrap(), versions);
    for (version, seed) in published {
        let brought = brought_by(seed % publishers);
        let artifact = index.artifact(Some(version)).unwrap();
        assert_eq!(artifact.manifest().build.seed, seed, "{kind:?}: an update was lost");
        let found = read_contents(&artifact).unwrap();
        assert_eq!(found.sections, contents(brought).sections, "{kind:?}: a mixture");
    }
}

#[test]
fn publishers_that_race_all_win_on_moto() {
    race_on(Kind::Moto, 16, 1);
}

#[test]
fn publishers_that_race_all_win_on_google() {
    race_on(Kind::Gcs, 16, 10);
}

#[test]
#[ignore = "a minute or more each"]
fn publishers_that_race_all_win_ten_times_on_every_server() {
    for kind in [Kind::SeaweedFs, Kind::Moto, Kind::Azurite] {
        race_on(kind, 16, 10);
    }
}

/// Builds through a proxy that fails, `builds` times; how many were told an error.
fn build_through_faults(kind: Kind, rate: f64, builds: u64) -> Option<u64> {
    let server = Server::start(kind)?;
    let source = write_source(&server, "faults");
    let (mut failed, mut faults) = (0, 0);
    for number in 0..builds {
        let proxy = Proxy::start(server.port, rate, number + 1);
        let options =
            StoreOptions { timeout_s: Some(1), deadline_s: Some(60), ..server.options_at(proxy.port) };
        let name = format!("faults/{number}");
        match build(&job(&source, &server.root(&name), &options, 1)) {
            Ok(()) => {
                for (index, expected) in INDEXES.iter().zip(expected(1)) {
                    assert_eq!(segment(&server.index(&name, index), None), expected, "{kind:?} {index}");
                }
            }
            Err(error) => {
                assert!(matches!(error, Error::Store(_) | Error::BadInput(_)), "{error:?}");
                eprintln!("build {number} was told: {error}");
                failed += 1;
            }
        }
        // Whatever the build was told: what is there is whole, and is what it should be.
        for (index, expected) in INDEXES.iter().zip(expected(1)) {
            let index = server.index(&name, index);
            for version in index.versions().unwrap() {
                assert_eq!(segment(&index, Some(version)), expected);
                assert!(index.artifact(Some(version)).unwrap().verify(&mut |_| ()).is_sound());
            }
        }
        eprintln!("{kind:?}, build {number}: {}", proxy.told());
        faults += proxy.failed();
    }
    assert!(faults > 0, "nothing failed: nothing was tested");
    Some(failed)
}

#[test]
fn a_build_through_a_failing_network_ends_with_the_same_bytes() {
    build_through_faults(Kind::Gcs, 0.2, 3);
}

#[test]
#[ignore = "minutes"]
fn many_builds_through_failing_networks_end_with_the_same_bytes() {
    for kind in Kind::ALL {
        for rate in [0.05, 0.1, 0.2] {
            let failed = build_through_faults(kind, rate, 10);
            eprintln!("{kind:?} at {rate}: {failed:?} of 10 builds were told an error");
        }
    }
}

#[test]
fn a_store_that_is_away_is_named_with_what_it_answered() {
    let Some(server) = Server::start(Kind::Gcs) else { return };
    let proxy = Proxy::start(server.port, 1.0, 7);
    let options = StoreOptions { timeout_s: Some(1), deadline_s: Some(2), ..server.options_at(proxy.port) };
    let index = IndexStore::named_with(&server.root("away"), "words", &options).unwrap();
    let error = index.publish(segment_files(1), draft(1)).unwrap_err();
    let StoreError::Io { object, .. } = &error else { panic!("{error}") };
    assert!(object.contains("words") && object.contains("seg/"), "{error}");
    assert!(proxy.requests.load(std::sync::atomic::Ordering::SeqCst) > 2, "it was tried again");
    // Nobody listens.
    let options = StoreOptions { deadline_s: Some(0), ..server.options_at(1) };
    let index = IndexStore::named_with(&server.root("away"), "words", &options).unwrap();
    let error = Error::from(index.versions().unwrap_err());
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("away/words/v"), "{error}");
}

/// As Garage and rclone do: what is to be put if absent is put. Or, with `refusing`, answers that it knows no conditions.
fn without_conditions(upstream: u16, refusing: bool) -> u16 {
    servers::http::serve(move |stream| {
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        while let Some(mut request) = servers::http::Message::read(&mut reader, false)? {
            let is_conditional = request.header("x-goog-if-generation-match").is_some();
            request.headers.retain(|(name, _)| name != "x-goog-if-generation-match");
            if is_conditional && refusing {
                servers::http::Message::answer("501 Not Implemented").write(&mut writer)?;
                continue;
            }
            let answer = servers::http::ask(upstream, &request)?;
            let length = answer.header("content-length").and_then(|length| length.parse().ok());
            std::io::Write::write_all(&mut writer, &answer.head(length))?;
            if request.method() != "HEAD" {
                std::io::Write::write_all(&mut writer, &answer.body)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_store_that_overwrites_is_refused_before_the_job_begins_unless_there_is_one_writer() {
    let Some(server) = Server::start(Kind::Gcs) else { return };
    for refusing in [false, true] {
        let options = server.options_at(without_conditions(server.port, refusing));
        let name = format!("overwriting/{refusing}");
        // The rows are not there: had the job begun, it would say so.
        let error = build(&job("nowhere.parquet", &server.root(&name), &options, 1)).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("single_writer = true"), "{error}");
        let source = write_source(&server, &name);
        let options = StoreOptions { single_writer: true, ..options };
        for _ in 0..2 {
            build(&job(&source, &server.root(&name), &options, 1)).unwrap();
        }
        let index = server.index(&name, "graph");
        assert_eq!(index.versions().unwrap(), [1, 2]);
        assert_eq!(segment(&index, Some(2)), expected(1)[0]);
    }
}

#[test]
fn what_is_written_is_encrypted_as_the_job_says() {
    use annvil::store::{Encryption, Secret};
    let Some(server) = Server::start(Kind::Moto) else { return };
    let options = StoreOptions { encryption: Some(Encryption::SseS3), ..server.options() };
    let index = IndexStore::named_with(&server.root("sse"), "words", &options).unwrap();
    index.publish(segment_files(1), draft(1)).unwrap();
    let object = format!("/annviltest/sse/words/v/{:020}.json", 1);
    // moto wants a signature, and does not look at it.
    let signed =
        "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
    let head = servers::http::request("HEAD", &object).with("Authorization", signed);
    let head = servers::http::ask(server.port, &head).unwrap();
    assert_eq!(head.header("x-amz-server-side-encryption"), Some("AES256"));

    let Some(server) = Server::start(Kind::SeaweedFs) else { return };
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
    let options = StoreOptions {
        encryption: Some(Encryption::SseC),
        sse_c_key: Some(Secret::File(key.path().into())),
        ..server.options()
    };
    let index = IndexStore::named_with(&server.root("sse"), "words", &options).unwrap();
    index.publish(segment_files(1), draft(1)).unwrap();
    assert_eq!(read_contents(&index.artifact(None).unwrap()).unwrap(), contents(1));
    let without = server.index("sse", "words").artifact(Some(1)).unwrap_err();
    assert_eq!(Error::from(without).exit_code(), 5, "the store does not give it without the key");
}

#[test]
fn http_is_read_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_path_buf();
    let index = IndexStore::open(root.join("words").to_str().unwrap()).unwrap();
    index.publish(segment_files(1), draft(1)).unwrap();
    std::fs::write(root.join("rows.parquet"), parquet()).unwrap();
    let port = servers::http::serve(move |stream| file_server(&root, stream));
    let uri = format!("http://127.0.0.1:{port}/words");
    let remote = IndexStore::open(&uri).unwrap();
    // A plain server cannot list: the version has to be named.
    assert_eq!(read_contents(&remote.artifact(Some(1)).unwrap()).unwrap(), contents(1));
    let part = remote.artifact(Some(1)).unwrap();
    let part = part.only_segment().unwrap().read_ranges("ids.arrow", &[5..9, 20..21]).unwrap();
    assert_eq!((part[0].len(), part[1].len()), (4, 1));
    let written = [
        remote.publish(segment_files(1), draft(1)).unwrap_err(),
        remote.rollback(1).unwrap_err(),
        remote.probe().unwrap_err(),
    ];
    for error in written {
        assert!(matches!(&error, StoreError::Unsupported { what } if what.contains("http")), "{error}");
    }
    // As an input it does as well.
    let output = folder.path().join("out");
    let source = format!("http://127.0.0.1:{port}/rows.parquet");
    build(&job(&source, output.to_str().unwrap(), &StoreOptions::default(), 1)).unwrap();
    assert_eq!(segment(&IndexStore::named(output.to_str().unwrap(), "graph").unwrap(), None), expected(1)[0]);
    let text = format!("{source}/out");
    let refused = JobSpec::parse(
        &format!(
            "source = {{ uri = 'x', vector = 'v' }}\nqueries = {{ sample = 1 }}\noutput = {{ uri = '{text}' }}\n[[index]]\nkind = 'flat'\nmetric = 'l2'"
        ),
        "x.toml",
    );
    assert!(refused.unwrap_err().to_string().contains("http"), "an output must be writable");
}

/// As any web server serves files: lengths and ranges, no listing.
fn file_server(root: &Path, stream: std::net::TcpStream) -> std::io::Result<()> {
    use servers::http::Message;
    use std::io::{BufReader, Write};
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = Message::read(&mut reader, false)? {
        let file = std::fs::read(root.join(request.target().trim_start_matches('/')));
        let answer = match (request.method(), file) {
            ("GET" | "HEAD", Ok(bytes)) => {
                let size = bytes.len();
                let range = request.header("range").and_then(|range| {
                    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
                    Some(start.parse::<usize>().ok()?..size.min(end.parse::<usize>().ok()? + 1))
                });
                match range {
                    Some(range) => Message::answer("206 Partial Content")
                        .with("Content-Range", format!("bytes {}-{}/{size}", range.start, range.end - 1))
                        .body(&bytes[range]),
                    None => Message::answer("200 OK").body(bytes),
                }
            }
            ("GET" | "HEAD", Err(_)) => Message::answer("404 Not Found"),
            _ => Message::answer("405 Method Not Allowed"),
        };
        writer.write_all(&answer.head(None))?;
        if request.method() != "HEAD" {
            writer.write_all(&answer.body)?;
        }
    }
    Ok(())
}
