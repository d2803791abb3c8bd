//! `annvil serve` from outside: the real program on a port of this machine, asked by sockets.
#![cfg(feature = "serve")]

mod fixture;
mod published;
mod rows;
mod served;
mod workshop;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use annvil::loader::{Answers, Filter, Index, Query};
use annvil::serve::Server;
use annvil::vectors::{Metric, RowId, RowIds, VectorBuf, VectorView};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use serde_json::{Value, json};

use annvil::change::{Append, Delete, append, delete};
use annvil::job::Progress;
use served::http::{self, Message};
use served::{DEADLINE, Served, Shelf, attributes, json, status};

const ROWS: usize = 500;
const DIM: usize = 8;

fn shelf(kind: &str, metric: Metric) -> (Shelf, VectorBuf) {
    let shelf = Shelf::new();
    let vectors = rows::clustered(ROWS, DIM, metric, 1);
    shelf.publish("news", kind, (&vectors, metric), &numbered(0), Some(&attributes(ROWS, 3)));
    (shelf, vectors)
}

fn numbered(from: u64) -> RowIds {
    RowIds::from((from..from + ROWS as u64).collect::<Vec<u64>>())
}

fn start(shelf: &Shelf, arguments: &[&str]) -> Served {
    Served::start(&[shelf.uri("news")], arguments)
}

const SEARCH: &str = "/v1/indexes/news/search";

fn code(answer: &Message) -> (u16, String) {
    (status(answer), json(answer)["error"]["code"].as_str().unwrap_or_default().into())
}

#[test]
fn an_answer_is_what_the_loader_finds_in_json_and_in_arrow() {
    let (shelf, vectors) = shelf("hnsw", Metric::Cosine);
    let served = start(&shelf, &[]);
    let index = Index::open(&shelf.uri("news")).unwrap();
    let queries: Vec<&[f32]> = (0..20).map(|row| vectors.row(row * 7)).collect();
    let body = json!({
        "vectors": queries, "k": 6, "ef": 40, "filter": "\"metadata.page\" > 2", "attributes": ["metadata.source", "tags"],
        "exclude": [7, "14"], "offset": 1, "min_similarity": 0.1,
    });
    let query = Query::new(6)
        .effort(40)
        .filter(Filter::parse("\"metadata.page\" > 2").unwrap())
        .exclude([RowId::UInt(7), RowId::UInt(14)])
        .offset(1)
        .min_similarity(0.1);
    let expected = index.ask(VectorView::new(&queries.concat(), DIM), &query).unwrap();

    let answer = served.post(SEARCH, body.to_string());
    assert_eq!((status(&answer), answer.header("annvil-version")), (200, Some("1")));
    let found = json(&answer);
    assert_eq!(
        (&found["index"], &found["version"], &found["metric"]),
        (&json!("news"), &json!(1), &json!("cosine"))
    );
    let batch = index.attributes().unwrap();
    for (place, matches) in expected.iter().enumerate() {
        let hits = found["results"][place]["hits"].as_array().unwrap();
        assert_eq!(hits.len(), matches.len());
        for (hit, &found) in hits.iter().zip(matches) {
            let row = found.ordinal as usize;
            let value =
                |name: &str| annvil::loader::json_value(batch.column_by_name(name).unwrap(), row).unwrap();
            let expected = index.hit(found);
            assert_eq!(hit["id"], json!(expected.id));
            assert_eq!(hit["distance"].as_f64().unwrap() as f32, expected.distance);
            assert_eq!(hit["similarity"].as_f64().unwrap() as f32, expected.similarity.unwrap());
            let attributes = json!({ "metadata.source": value("metadata.source"), "tags": value("tags") });
            assert_eq!(hit["attributes"], attributes);
        }
    }

    let arrow = http::request("POST", SEARCH)
        .with("Accept", "application/vnd.apache.arrow.stream")
        .body(body.to_string());
    let arrow = http::ask(served.port, &arrow).unwrap();
    assert_eq!(arrow.header("content-type"), Some("application/vnd.apache.arrow.stream"));
    let mut reader = arrow_ipc::reader::StreamReader::try_new(arrow.body.as_slice(), None).unwrap();
    assert_eq!(reader.schema().metadata()["version"], "1");
    let batch = reader.next().unwrap().unwrap();
    let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["_query", "_rank", "row_id", "_similarity", "_distance", "metadata.source", "tags"]);
    let numbers =
        |name: &str| batch.column_by_name(name).unwrap().as_primitive::<UInt32Type>().values().to_vec();
    let mut places = Vec::new();
    let mut distances = Vec::new();
    for (query, matches) in expected.iter().enumerate() {
        places.extend((0..matches.len()).map(|rank| (query as u32, rank as u32)));
        distances.extend(matches.iter().map(|found| found.distance));
    }
    assert_eq!(numbers("_query").into_iter().zip(numbers("_rank")).collect::<Vec<_>>(), places);
    assert_eq!(
        batch.column_by_name("_distance").unwrap().as_primitive::<Float32Type>().values(),
        &distances[..]
    );
    let ids = RowIds::from_array(batch.column_by_name("row_id").unwrap()).unwrap();
    assert_eq!(ids.get(0), index.hit(expected.of(0)[0]).id);
}

#[test]
fn no_two_columns_of_an_arrow_answer_have_one_name() {
    let shelf = Shelf::new();
    let vectors = rows::clustered(ROWS, DIM, Metric::L2, 1);
    let text = |name: &str| (0..ROWS).map(|row| Some(format!("{name} {row}"))).collect::<StringArray>();
    let named = ["rank", "_rank", "row_id", "distance"];
    let columns = named.map(|name| (name, std::sync::Arc::new(text(name)) as ArrayRef));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    shelf.publish("news", "flat", (&vectors, Metric::L2), &numbered(0), Some(&batch));
    let served = start(&shelf, &[]);
    let request = http::request("POST", SEARCH).with("Accept", "application/vnd.apache.arrow.stream");
    let body = json!({ "vectors": [vectors.row(7)], "k": 2, "attributes": true });
    let answer = http::ask(served.port, &request.body(body.to_string())).unwrap();
    let mut reader = arrow_ipc::reader::StreamReader::try_new(answer.body.as_slice(), None).unwrap();
    let found = reader.next().unwrap().unwrap();
    let names: Vec<String> = found.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["_query", "__rank", "_row_id", "_distance", "rank", "_rank", "row_id", "distance"]);
    assert_eq!(found.column_by_name("__rank").unwrap().as_primitive::<UInt32Type>().values(), &[0, 1]);
    assert_eq!(found.column_by_name("_rank").unwrap().as_string::<i32>().value(0), "_rank 7");
}

#[test]
fn wherever_the_bytes_are_the_answers_are_the_same() {
    for kind in ["hnsw", "ivf_pq"] {
        let (shelf, vectors) = shelf(kind, Metric::Cosine);
        let queries: Vec<&[f32]> = (0..5).map(|row| vectors.row(row * 31)).collect();
        let bodies = [
            json!({ "vectors": queries, "k": 5, "attributes": true, "filter": "\"metadata.page\" > 2" }),
            json!({ "ids": [3, 77], "k": 4 }),
        ];
        let answers = |arguments: &[&str]| {
            let served = start(&shelf, arguments);
            let found =
                bodies.each_ref().map(|body| json(&served.post(SEARCH, body.to_string()))["results"].clone());
            let metrics = String::from_utf8(served.get("/metrics").body).unwrap();
            let of = |line: &str| {
                Some(
                    line.strip_prefix("annvil_index_fetched_bytes{index=\"news\"} ")?.parse::<u64>().unwrap(),
                )
            };
            (found, metrics.lines().find_map(of).unwrap())
        };
        let (expected, fetched) = answers(&[]);
        assert!(expected[0][0]["hits"][0]["attributes"].is_object() && fetched == 0, "{expected:?}");
        assert_eq!(answers(&["--residence", "mapped"]).0, expected, "{kind}");
        let (found, fetched) = answers(&["--residence", "lazy", "--cache", "1MiB"]);
        assert_eq!(found, expected, "{kind}");
        assert!(fetched > 0);
    }
}

#[test]
fn a_row_is_searched_for_by_its_id_and_an_effort_goes_by_its_name() {
    let (shelf, _) = shelf("ivf_pq", Metric::L2);
    let served = start(&shelf, &[]);
    let ask = |body: Value| served.post(SEARCH, body.to_string());
    let first = |body: Value| json(&ask(body))["results"][0]["hits"][0]["id"].clone();
    assert_eq!(first(json!({ "ids": [42], "exact": true })), json!(42));
    assert_eq!(first(json!({ "ids": ["42"], "nprobe": 1000, "refine": 500 })), json!(42));
    assert_ne!(first(json!({ "ids": [42], "exclude": [42], "recall": 0.95 })), json!(42));
    for (body, expected) in [
        (json!({ "ids": [42], "ef": 10 }), "the effort is `ef`, allowed: `nprobe`"),
        (json!({ "ids": [42], "nprobe": 0 }), "effort is 0, expected 1 or more"),
        (json!({ "ids": [42], "nprobe": 3, "exact": true }), "the effort is more than one, allowed: one of"),
        (json!({ "ids": [42], "recall": 2.0 }), "recall is 2, expected above 0 and at most 1"),
        (
            json!({ "ids": [42], "min_similarity": 0.5 }),
            "minimum similarity is 0.5, expected a maximum distance",
        ),
        (json!({ "ids": [42], "vectors": [[1.0]] }), "the query is both, allowed: either `vectors` or `ids`"),
        (json!({}), "the query is missing"),
        (json!({ "ids": [42], "attributes": ["colour"] }), "no attribute is called `colour`"),
    ] {
        let answer = ask(body);
        let message = json(&answer)["error"]["message"].as_str().unwrap().to_string();
        assert_eq!(status(&answer), 422, "{message}");
        assert!(message.starts_with(expected), "{message}");
    }
    assert_eq!(code(&ask(json!({ "ids": [4711] }))), (404, "not_found".into()));
}

#[test]
fn a_hostile_request_is_told_what_is_wrong_and_what_is_allowed() {
    let (shelf, _) = shelf("hnsw", Metric::Cosine);
    let limits = [
        "--max-body",
        "20000",
        "--max-filter",
        "8000",
        "--max-batch",
        "4",
        "--max-k",
        "100",
        "--max-answer",
        "9000",
    ];
    let served = start(&shelf, &limits);
    let (vector, zero) = ([0.5; DIM], [0.0; DIM]);
    let five = [vector; 5];
    let deep = format!("{}1 = 1{}", "(".repeat(60), ")".repeat(60));
    let deep_qdrant = format!("{}{{}}{}", r#"{"must":["#.repeat(30), "]}".repeat(30));
    let query = |filter: &str| format!(r#"{{"query":[{}],"filter":{filter}}}"#, ["0.5"; DIM].join(","));
    let ours = |body: Value| (SEARCH, body.to_string().into_bytes());
    let theirs = |body: String| ("/collections/news/points/query", body.into_bytes());
    type Asked = (&'static str, Vec<u8>);
    let cases: Vec<(Asked, u16, &str, &str)> = vec![
        ((SEARCH, br#"{"vectors": [[NaN, 1]]}"#.to_vec()), 400, "malformed", "expected value at line 1"),
        ((SEARCH, br#"{"vectors": [[1e400]]}"#.to_vec()), 400, "malformed", "number out of range"),
        ((SEARCH, b"{\"filter\": \"\xff\xfe\"}".to_vec()), 400, "malformed", "invalid unicode code point"),
        ((SEARCH, Vec::new()), 400, "malformed", "EOF while parsing"),
        ((SEARCH, vec![b'['; 10_000]), 400, "malformed", ""),
        ((SEARCH, vec![b' '; 20_001]), 413, "large_body", "a body of 20001 bytes: allowed are at most 20000"),
        (ours(json!({ "vectors": [[1.0, 2.0]] })), 422, "query", "queries have 2 dimensions, the index 8"),
        (ours(json!({ "vectors": [vector, [1.0]] })), 400, "malformed", "vector 1 has 1 values, expected 8"),
        (ours(json!({ "vectors": [] })), 400, "malformed", "no vector, expected 1 or more"),
        (ours(json!({ "vectors": [zero] })), 422, "query", "query 0 has length 0"),
        (ours(json!({ "vectors": five })), 422, "limit", "queries is 5, allowed: 1 to 4"),
        (
            ours(json!({ "vectors": [vector], "k": 1_000_000_000 })),
            422,
            "limit",
            "k is 1000000000, allowed: 1 to 100",
        ),
        (ours(json!({ "vectors": [vector], "k": 0 })), 422, "limit", "k is 0, allowed: 1 to 100"),
        (ours(json!({ "vectors": [vector], "k": 1, "offset": u64::MAX })), 422, "limit", "k + offset is"),
        (ours(json!({ "vectors": [vector], "k": -1 })), 400, "malformed", "invalid value: integer `-1`"),
        (ours(json!({ "vectors": [vector], "kk": 1 })), 400, "malformed", "unknown field `kk`"),
        (
            ours(json!({ "vectors": [vector], "k": 100, "attributes": true })),
            422,
            "limit",
            "bytes of the answer is more",
        ),
        (ours(json!({ "vectors": [vector], "filter": deep })), 422, "filter", "filter"),
        (
            ours(json!({ "vectors": [vector], "filter": "x".repeat(8_001) })),
            422,
            "limit",
            "bytes of the filter is 8001",
        ),
        (ours(json!({ "vectors": [vector], "filter": "1 = (SELECT 1)" })), 422, "filter", "filter"),
        (theirs(query(&deep_qdrant)), 422, "", "the filter's depth is more, allowed: 0 to 20"),
        (
            theirs(query(&format!("{}{}", "[".repeat(500), "]".repeat(500)))),
            400,
            "",
            "recursion limit exceeded",
        ),
        (
            theirs(query(r#"{"must":{"key":"x","geo_radius":{}}}"#)),
            400,
            "",
            "the condition `geo_radius` is not supported",
        ),
        (
            theirs(query(r#"{"must":{"key":"x[0]","match":{"value":1}}}"#)),
            400,
            "",
            "the key `x[0]` is not supported",
        ),
        (theirs(r#"{"query":{"fusion":"rrf"}}"#.into()), 400, "", "`fusion` is no query that is answered"),
        (theirs(r#"{"query":[1],"limit":101}"#.into()), 422, "", "k is 101, allowed: 1 to 100"),
        (theirs(r#"{"query":[1],"using":"text"}"#.into()), 400, "", "the vector `text` in `using`"),
    ];
    for ((path, body), expected, kind, message) in cases {
        let answer = served.post(path, body);
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(status(&answer), expected, "{text}");
        let error = json(&answer);
        let said = match kind {
            "" => error["status"]["error"].as_str().unwrap(),
            _ => {
                assert_eq!(error["error"]["code"], kind, "{text}");
                error["error"]["message"].as_str().unwrap()
            }
        };
        assert!(said.contains(message), "{said}: expected {message}");
    }
    for (method, path, expected) in [
        ("GET", "/v1/indexes/%ff", 400),
        ("GET", "/v1/indexes/nope", 404),
        ("GET", "/v1/nope", 404),
        ("GET", "/collections/nope", 404),
        ("DELETE", "/v1/indexes", 405),
        ("GET", SEARCH, 405),
        ("PUT", "/collections/news", 403),
        ("DELETE", "/collections/news", 403),
        ("PUT", "/collections/news/points", 403),
        ("POST", "/collections/news/points/delete", 403),
        ("POST", "/collections/news/points/search", 404),
        ("PATCH", "/snapshots", 403),
    ] {
        let answer = http::ask(served.port, &http::request(method, path)).unwrap();
        assert_eq!(status(&answer), expected, "{method} {path}");
        json(&answer);
    }
    // And it goes on answering.
    assert_eq!(status(&served.post(SEARCH, json!({ "vectors": [vector], "k": 3 }).to_string())), 200);
    let metrics = String::from_utf8(served.get("/metrics").body).unwrap();
    assert!(metrics.contains(r#"annvil_errors_total{code="large_body"} 1"#), "{metrics}");
}

#[test]
fn a_body_without_a_length_is_cut_off_where_it_grows_too_large() {
    let (shelf, _) = shelf("flat", Metric::L2);
    let served = start(&shelf, &["--max-body", "1000"]);
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    write!(stream, "POST {SEARCH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    write!(stream, "400\r\n{}\r\n", " ".repeat(0x400)).unwrap();
    let answer = Message::read(&mut BufReader::new(stream), false).unwrap().unwrap();
    assert_eq!(code(&answer), (413, "large_body".into()));
}

#[test]
fn whoever_is_slow_is_cut_off_and_nobody_else_waits() {
    let (shelf, vectors) = shelf("flat", Metric::L2);
    let served = start(&shelf, &["--read-timeout", "0.5"]);
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    let begun = Instant::now();
    let silent = connect();
    let mut drip = connect();
    write!(drip, "POST {SEARCH} HTTP/1.1\r\nHost: x\r\nX-A: ").unwrap();
    let mut body = connect();
    write!(body, "POST {SEARCH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{").unwrap();
    let mut idle = connect();
    write!(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // A byte now and then does not keep a head alive: its time is that of all of it.
    let dripping = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = drip.try_clone().unwrap();
            while dripping.load(Ordering::Relaxed) && writer.write_all(b"a").is_ok() {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let answer = Message::read(&mut BufReader::new(&body), false).unwrap().unwrap();
        assert_eq!(code(&answer), (408, "time_out".into()));
        for mut stream in [&silent, &drip] {
            let mut rest = Vec::new();
            // Closed, with an answer of hyper's own or none; a reset is as good.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
        }
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        assert!(rest.starts_with(b"HTTP/1.1 200"));
        dripping.store(false, Ordering::Relaxed);
    });
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert_eq!(status(&served.post(SEARCH, json!({ "vectors": [vectors.row(0)] }).to_string())), 200);
}

#[test]
fn only_a_key_opens_the_server() {
    let (shelf, _) = shelf("flat", Metric::L2);
    let file = shelf.path().join("keys");
    std::fs::write(&file, "# ours\nkey-of-sixteen-characters\n").unwrap();
    let environment = [("ANNVIL_API_KEYS", "another-key-of-sixteen,third-key-of-sixteen")];
    let served =
        Served::with_environment(&[shelf.uri("news")], &["--api-keys", file.to_str().unwrap()], &environment);
    let ask = |path: &str, header: Option<(&str, &str)>| {
        let request = http::request("GET", path);
        let request = header.map_or(request.clone(), |(name, value)| request.with(name, value));
        http::ask(served.port, &request).unwrap()
    };
    for path in ["/v1/indexes", "/metrics", "/collections/news", "/nope"] {
        for wrong in
            [None, Some(("api-key", "key-of-sixteen-character")), Some(("Authorization", "Bearer x"))]
        {
            assert_eq!(status(&ask(path, wrong)), 401, "{path} {wrong:?}");
        }
    }
    let missing = ask("/collections", None);
    assert!(missing.header("content-type").unwrap().starts_with("text/plain"), "as Qdrant answers");
    for key in [
        ("api-key", "key-of-sixteen-characters"),
        ("Authorization", "Bearer another-key-of-sixteen"),
        ("authorization", "bearer third-key-of-sixteen"),
    ] {
        assert_eq!(status(&ask("/v1/indexes", Some(key))), 200, "{key:?}");
    }
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/page.js"] {
        assert_eq!(status(&ask(path, None)), 200, "{path}");
    }
    // A body is not even read for whoever has no key.
    let answer = http::ask(served.port, &http::request("POST", SEARCH).body(vec![b' '; 1 << 20])).unwrap();
    assert_eq!(status(&answer), 401);
}

#[test]
fn too_many_at_once_are_told_to_come_back() {
    let shelf = Shelf::new();
    let vectors = rows::clustered(20_000, 64, Metric::L2, 1);
    let ids = RowIds::from((0..20_000).collect::<Vec<u64>>());
    shelf.publish("news", "flat", (&vectors, Metric::L2), &ids, None);
    let served = start(&shelf, &["--workers", "1", "--max-waiting", "1", "--max-per-client", "6"]);
    let queries: Vec<&[f32]> = (0..1000).map(|row| vectors.row(row)).collect();
    let body = json!({ "vectors": queries, "k": 100, "exact": true }).to_string();
    let counts: [AtomicUsize; 4] = std::array::from_fn(|_| AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let answer = served.post(SEARCH, body.as_bytes());
                let place = match code(&answer) {
                    (200, _) => 0,
                    (503, code) if code == "busy" => 1,
                    (429, code) if code == "busy" => 2,
                    _ => 3,
                };
                assert_eq!(place == 1 || place == 2, answer.header("retry-after") == Some("1"));
                counts[place].fetch_add(1, Ordering::Relaxed);
            });
        }
        // Whoever asks for nothing heavy is not held up meanwhile.
        for _ in 0..20 {
            assert_eq!(status(&served.get("/healthz")), 200);
        }
    });
    let [answered, full, greedy, other] = counts.map(AtomicUsize::into_inner);
    assert!(answered >= 2 && full >= 1 && greedy >= 1 && other == 0, "{answered} {full} {greedy} {other}");
    let answer = served
        .post(SEARCH, json!({ "vectors": queries, "k": 100, "exact": true, "deadline_ms": 1 }).to_string());
    assert_eq!(code(&answer), (408, "time_out".into()));
}

#[test]
fn a_request_of_many_parts_has_one_deadline_and_one_limit() {
    let shelf = Shelf::new();
    let (rows, dim) = (20_000, 64);
    let vectors = rows::clustered(rows, dim, Metric::L2, 1);
    let ids = RowIds::from((0..rows as u64).collect::<Vec<u64>>());
    shelf.publish("news", "flat", (&vectors, Metric::L2), &ids, None);
    let served = start(&shelf, &["--timeout", "0.05", "--max-hits", "3000"]);
    let post = |path: &str, body: Value| served.post(&format!("/collections/news/{path}"), body.to_string());
    // Each row is a group of its own that has room left: a search of all rows each.
    let groups = json!({ "query": vectors.row(1), "group_by": "row_id", "limit": 1000, "group_size": 2 });
    let answer = post("points/query/groups", groups);
    assert_eq!(status(&answer), 408);

    let served = start(&shelf, &["--max-hits", "3000"]);
    let post = |path: &str, body: Value| served.post(&format!("/collections/news/{path}"), body.to_string());
    let refused = |answer: Message, expected: &str| {
        let text = String::from_utf8(answer.body).unwrap();
        assert!(answer.first.contains(" 422 ") && text.contains(expected), "{} {text}", answer.first);
    };
    refused(post("facet", json!({ "key": "row_id", "limit": 3 })), "different values of the facet's key");
    let few = json!({ "key": "row_id", "limit": 3, "filter": { "must": [{ "key": "row_id", "range": { "lt": 3000 } }] } });
    assert_eq!(json(&post("facet", few))["result"]["hits"].as_array().unwrap().len(), 3);

    // The offset's share of MMR's work counts as well.
    let mmr = |limit: usize, offset: usize, candidates: usize| {
        let query = json!({ "nearest": vectors.row(5), "mmr": { "candidates_limit": candidates } });
        post("points/query", json!({ "query": query, "limit": limit, "offset": offset }))
    };
    refused(mmr(3, 900, 1000), "queries × k");
    let points = |answer: Message| json(&answer)["result"]["points"].as_array().unwrap().clone();
    let (whole, second) = (points(mmr(10, 0, 50)), points(mmr(5, 5, 50)));
    assert_eq!((whole.len(), &whole[5..]), (10, &second[..]));
}

/// Answers of one version, by query.
fn pinned(shelf: &Shelf, version: u64, queries: &VectorBuf, query: &Query) -> Vec<Vec<(Value, f32)>> {
    let index = Index::open_version(&shelf.uri("news"), Some(version)).unwrap();
    let answers: Answers = index.ask(queries.view(), query).unwrap();
    let hit = |&found: &annvil::loader::Match| (json!(index.hit(found).id), found.distance);
    answers.iter().map(|found| found.iter().map(hit).collect()).collect()
}

#[test]
fn under_load_every_answer_is_that_of_the_version_it_names() {
    let (shelf, vectors) = shelf("hnsw", Metric::Cosine);
    let mut served = start(&shelf, &["--watch", "0.05", "--shadow-sample", "0.2"]);
    let queries = rows::clustered(16, DIM, Metric::Cosine, 99);
    let query = Query::new(5).effort(30);
    const VERSIONS: u64 = 6;
    let published = AtomicUsize::new(1);
    let answers: Vec<(u64, usize, Value)> = std::thread::scope(|scope| {
        let (served, published, queries) = (&served, &published, &queries);
        let askers: Vec<_> = (0..3)
            .map(|asker| {
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    let begun = Instant::now();
                    loop {
                        let place = (asker + seen.len()) % queries.rows();
                        let body = json!({ "vectors": [queries.row(place)], "k": 5, "ef": 30 });
                        let answer = served.post(SEARCH, body.to_string());
                        assert_eq!(status(&answer), 200);
                        let found = json(&answer);
                        let version = found["version"].as_u64().unwrap();
                        assert_eq!(answer.header("annvil-version"), Some(version.to_string().as_str()));
                        seen.push((version, place, found["results"][0]["hits"].clone()));
                        if version == VERSIONS {
                            return seen;
                        }
                        assert!(begun.elapsed() < DEADLINE, "version {version} still answers");
                    }
                })
            })
            .collect();
        for version in 2..=VERSIONS {
            let rows = rows::clustered(ROWS, DIM, Metric::Cosine, version);
            let ids = numbered(version * 10_000);
            assert_eq!(shelf.publish("news", "hnsw", (&rows, Metric::Cosine), &ids, None), version);
            published.store(version as usize, Ordering::Relaxed);
            let taken = format!(r#"annvil_index_version{{index="news"}} {version}"#);
            served.wait_for("/metrics", |text| text.contains(&taken));
        }
        askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect()
    });
    let expected: Vec<_> = (1..=VERSIONS).map(|version| pinned(&shelf, version, &queries, &query)).collect();
    for (version, place, hits) in &answers {
        let hits: Vec<(Value, f32)> = hits
            .as_array()
            .unwrap()
            .iter()
            .map(|hit| (hit["id"].clone(), hit["distance"].as_f64().unwrap() as f32))
            .collect();
        assert_eq!(hits, expected[*version as usize - 1][*place], "query {place} of version {version}");
    }
    drop(vectors);

    // A damaged version is not taken: the one before it stays, and says why.
    let rows = rows::clustered(ROWS, DIM, Metric::Cosine, 77);
    let hidden = Shelf::new();
    hidden.publish("news", "hnsw", (&rows, Metric::Cosine), &numbered(0), None);
    // Its segment is spoiled before the manifest that names it appears.
    let (segments, versions) = (hidden.path().join("news/seg"), hidden.path().join("news/v"));
    hidden.damage("news");
    copy_all(&segments, &shelf.path().join("news/seg"));
    let manifest =
        std::fs::read_to_string(std::fs::read_dir(versions).unwrap().next().unwrap().unwrap().path())
            .unwrap();
    let manifest =
        manifest.replace("\"version\": 1,", "\"version\": 7,").replace("\"version\":1,", "\"version\":7,");
    std::fs::write(shelf.path().join(format!("news/v/{:020}.json", 7)), manifest).unwrap();
    let refused = r#"annvil_versions_refused_total{index="news"} 1"#;
    served.wait_for("/metrics", |text| text.contains(refused));
    let listed = json(&served.get("/v1/indexes/news"));
    assert_eq!((&listed["version"], &listed["refused"]["version"]), (&json!(6), &json!(7)), "{listed}");
    assert_eq!(status(&served.get("/readyz")), 200);
    let events: Vec<Value> = (0..6).map(|_| served.event()).collect();
    assert_eq!(events[5]["event"], "refused", "{events:?}");
    assert!(events[..5].iter().all(|event| event["event"] == "taken"), "{events:?}");

    // Of the queries asked with an effort some were compared with exact search.
    let metrics = served.wait_for("/metrics", |text| text.contains("annvil_shadow_recall_count"));
    assert!(metrics.contains("annvil_shadow_recall_last"), "{metrics}");
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_lets_what_is_under_way_finish_and_nothing_else_begin() {
    let (shelf, vectors) = shelf("flat", Metric::L2);
    let mut served = start(&shelf, &[]);
    let body = json!({ "vectors": [vectors.row(3)], "k": 1 }).to_string();
    let mut begun = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    begun.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(begun, "POST {SEARCH} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    served.wait_for("/metrics", |text| text.contains("annvil_requests_in_flight 2"));
    let mut idle = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    write!(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut idle = BufReader::new(idle);
    idle.read_line(&mut String::new()).unwrap();
    served.terminate();
    assert_eq!(served.event()["event"], "draining");
    // The idle connection is closed, and no other is accepted.
    idle.read_to_end(&mut Vec::new()).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", served.port)).is_err());
    begun.write_all(body.as_bytes()).unwrap();
    let answer = Message::read(&mut BufReader::new(begun), false).unwrap().unwrap();
    assert_eq!(json(&answer)["results"][0]["hits"][0]["id"], json!(3));
    assert!(served.child.wait().unwrap().success());
}

/// For ids that are points' ids, and for ids that are not.
#[test]
fn rows_that_were_deleted_are_nowhere_and_rows_that_came_are_everywhere() {
    for first in [0i64, -5] {
        let workshop = workshop::Workshop::new();
        let model = workshop::model_of(&rows::clustered(300, DIM, Metric::L2, 3), first..first + 300);
        let (here, coming): (Vec<_>, Vec<_>) = model.iter().partition(|(id, _)| **id < 200);
        let queries = workshop.parquet(here.iter().copied().take(20));
        let index = workshop.build(&workshop.parquet(here), &queries, Metric::L2, "kind = \"flat\"");
        let options = workshop::options(&index);
        append(
            &options,
            &Append { from: vec![workshop.parquet(coming)], replace: false },
            &Progress::silent(),
        )
        .unwrap();
        let dead: Vec<i64> = vec![7, 150, 250];
        let ids = dead.iter().map(|&id| RowId::Int(id)).collect();
        delete(&options, &Delete::Ids(ids), &Progress::silent()).unwrap();

        let served = Served::start(std::slice::from_ref(&index), &[]);
        let post = |route: &str, body: Value| {
            json(&served.post(&format!("/collections/words/{route}"), body.to_string()))
        };
        assert_eq!(json(&served.get("/v1/indexes/words"))["rows"], 297);
        assert_eq!(json(&served.get("/collections/words"))["result"]["points_count"], 297);
        assert_eq!(post("points/count", json!({}))["result"]["count"], 297);
        let page = post("points/scroll", json!({ "limit": 300, "with_payload": true }));
        let points = page["result"]["points"].as_array().unwrap();
        assert_eq!(points.len(), 297);
        let open = Index::open(&index).unwrap();
        let told = |id: i64| match first {
            0 => id as u64,
            _ => u64::from((0..300).find(|&row| open.ids().get(row) == RowId::Int(id)).unwrap()),
        };
        for &id in &dead {
            let point = told(id);
            assert!(points.iter().all(|found| found["id"] != point), "{id} is scrolled to");
            assert_eq!(post("points", json!({ "ids": [point] }))["result"], json!([]), "{id} is retrieved");
            assert_eq!(status(&served.get(&format!("/collections/words/points/{point}"))), 404);
            let answer = served.post("/v1/indexes/words/search", json!({ "ids": [id], "k": 3 }).to_string());
            assert_eq!(status(&answer), 404, "{id} is searched for");
        }
        let facets = post("facet", json!({ "key": "n", "limit": 1000, "exact": true }));
        let counted: u64 = facets["result"]["hits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hit| hit["count"].as_u64().unwrap())
            .sum();
        assert_eq!(counted, 297);
        let near = post("points/query", json!({ "query": told(270), "limit": 300 }));
        let near = near["result"]["points"].as_array().unwrap();
        assert_eq!(near.len(), 296, "all but itself");
        assert!(dead.iter().all(|&id| near.iter().all(|found| found["id"] != told(id))));
    }
}

#[test]
fn tls_answers_whoever_trusts_its_certificate() {
    let (shelf, vectors) = shelf("flat", Metric::L2);
    let own = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let (certificate, key) = (shelf.path().join("cert.pem"), shelf.path().join("key.pem"));
    std::fs::write(&certificate, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let served = start(&shelf, &["--tls-cert", certificate, "--tls-key", key, "--read-timeout", "0.5"]);

    // Whoever connects and says nothing is cut off like others.
    let mut silent = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = silent.read_to_end(&mut Vec::new());

    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let body = json!({ "vectors": [vectors.row(9)], "k": 1 }).to_string();
    write!(
        stream,
        "POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let answer = Message::read(&mut BufReader::new(stream), false).unwrap().unwrap();
    assert_eq!(json(&answer)["results"][0]["hits"][0]["id"], json!(9));
}

#[test]
fn a_browser_gets_the_page_and_a_client_the_version() {
    let (shelf, _) = shelf("flat", Metric::L2);
    let served = start(&shelf, &[]);
    let browser = http::request("GET", "/").with("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let page = http::ask(served.port, &browser).unwrap();
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    let text = String::from_utf8(page.body).unwrap();
    assert!(text.contains("page.js") && !text.contains("http://") && !text.contains("https://"));
    let client = json(&served.get("/"));
    assert!(client["title"].is_string() && client["version"] == "1.20.0", "{client}");
}

#[test]
fn the_openapi_document_names_every_path_and_status() {
    let document: Value = serde_json::from_str(&Server::openapi()).unwrap();
    let search = &document["paths"]["/v1/indexes/{name}/search"]["post"];
    let statuses: Vec<&String> = search["responses"].as_object().unwrap().keys().collect();
    assert_eq!(statuses, ["200", "400", "401", "404", "408", "413", "422", "429", "503"]);
    let properties = &document["components"]["schemas"]["SearchRequest"]["properties"];
    for field in [
        "vectors",
        "ids",
        "k",
        "ef",
        "nprobe",
        "recall",
        "exact",
        "refine",
        "filter",
        "attributes",
        "deadline_ms",
    ] {
        assert!(properties[field].is_object(), "{field}");
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn keys_that_cannot_be_read_do_not_open_the_server() {
    use std::os::unix::ffi::OsStrExt;
    let (shelf, _) = shelf("flat", Metric::L2);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_annvil"))
        .args(["serve", &shelf.uri("news"), "--listen", "127.0.0.1:0"])
        .env("ANNVIL_API_KEYS", std::ffi::OsStr::from_bytes(b"key-of-sixteen-characters\xff"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A server that opens says so; one that does not says nothing here.
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if !line.is_empty() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((line.as_str(), output.status.code()), ("", Some(2)), "{text}");
    assert!(text.contains("ANNVIL_API_KEYS is not UTF-8"), "{text}");
}

#[test]
fn arguments_that_do_not_fit_are_refused_before_anything_is_served() {
    let (shelf, _) = shelf("flat", Metric::L2);
    let (news, missing) = (shelf.uri("news"), shelf.uri("missing"));
    std::fs::write(shelf.path().join("weak"), "short\n").unwrap();
    let weak = shelf.path().join("weak");
    for (arguments, expected) in [
        (vec![news.as_str(), "news=elsewhere"], "`news`"),
        (vec![&news, &news], "two indexes are called `news`"),
        (vec![&missing], "`missing`"),
        (vec![&news, "--api-keys", weak.to_str().unwrap()], "a key of 5 bytes, expected 16 or more"),
        (vec![&news, "--tls-cert", &missing, "--tls-key", &missing], "holds no certificate in PEM"),
        (vec![&news, "--memory-limit", "1000"], "more than the limit of 1000"),
        (vec![&news, "--shadow-sample", "2"], "allowed: 0 to 1"),
        (vec!["a b"], "names no index"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_annvil"))
            .arg("serve")
            .args(&arguments)
            .args(["--listen", "127.0.0.1:0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
