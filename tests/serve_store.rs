//! `annvil serve` before a store that does not answer, or denies: who has to wait, what is told, and that it can be ended.
#![cfg(all(feature = "serve", feature = "cloud"))]

mod fixture;
#[path = "servers/gcs.rs"]
mod gcs;
mod published;
mod rows;
mod served;

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use annvil::ivf::Refine;
use annvil::store::{IndexStore, Secret, StoreOptions};
use annvil::vectors::Metric;
use serde_json::{Value, json};

use published::Published;
use served::http::{self, Message};
use served::{DEADLINE, Served, json, status};

const BUCKET: &str = "annviltest";
const ROWS: usize = 4000;
const DIM: usize = 40;
const SEARCH: &str = "/v1/indexes/news/search";

/// What becomes of requests to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// They wait until it is another.
    Held,
    Denied,
}

/// What stands before a store.
struct Gate {
    port: u16,
    state: Arc<(Mutex<(Passage, usize)>, Condvar)>,
}

impl Gate {
    fn before(upstream: u16) -> Self {
        let state = Arc::new((Mutex::new((Passage::Open, 0)), Condvar::new()));
        let gate = state.clone();
        let port = http::serve(move |stream: TcpStream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut writer = stream;
            while let Some(request) = Message::read(&mut reader, false)? {
                let (passage, change) = &*gate;
                let mut now = passage.lock().unwrap();
                if now.0 == Passage::Held {
                    now.1 += 1;
                    change.notify_all();
                    now = change.wait_while(now, |now| now.0 == Passage::Held).unwrap();
                    now.1 -= 1;
                }
                let is_denied = now.0 == Passage::Denied;
                drop(now);
                if is_denied {
                    Message::answer("403 Forbidden")
                        .body("<Error><Code>AccessDenied</Code></Error>")
                        .write(&mut writer)?;
                } else {
                    let answer = http::ask(upstream, &request)?;
                    let length = answer.header("content-length").and_then(|length| length.parse().ok());
                    writer.write_all(&answer.head(length))?;
                    writer.write_all(&answer.body)?;
                }
            }
            Ok(())
        });
        Self { port, state }
    }

    fn set(&self, passage: Passage) {
        self.state.0.lock().unwrap().0 = passage;
        self.state.1.notify_all();
    }

    /// Until so many requests wait.
    fn wait_for_held(&self, requests: usize) {
        let now = self.state.0.lock().unwrap();
        let waited = self.state.1.wait_timeout_while(now, DEADLINE, |now| now.1 < requests).unwrap();
        assert!(!waited.1.timed_out(), "{:?}, expected {requests} requests", *waited.0);
    }
}

/// An index in a store, and the gate that servers reach it by.
struct Place {
    gate: Gate,
    store: IndexStore,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let upstream = gcs::start(BUCKET);
        let folder = tempfile::tempdir().unwrap();
        let account = folder.path().join("account");
        std::fs::write(&account, service_account(upstream)).unwrap();
        let options = StoreOptions {
            endpoint: Some(format!("http://127.0.0.1:{upstream}")),
            allow_http: Some(true),
            service_account: Some(Secret::File(account)),
            ..Default::default()
        };
        let store = IndexStore::named_with(&format!("gs://{BUCKET}/root"), "news", &options).unwrap();
        let place = Self { gate: Gate::before(upstream), store, folder };
        place.publish(1);
        place
    }

    fn publish(&self, seed: u64) {
        let data = rows::clustered(ROWS, DIM, Metric::L2, seed);
        let published = Published::new("ivf_pq", &data, Metric::L2, Refine::F32);
        self.store.publish(published.files, published.draft).unwrap();
    }

    fn serve(&self, arguments: &[&str]) -> Served {
        let endpoint = format!("http://127.0.0.1:{}", self.gate.port);
        let account = service_account(self.gate.port);
        let environment = [
            ("GOOGLE_BASE_URL", endpoint.as_str()),
            ("GOOGLE_ALLOW_HTTP", "true"),
            ("GOOGLE_SERVICE_ACCOUNT_KEY", account.as_str()),
            ("HOME", self.folder.path().to_str().unwrap()),
        ];
        Served::with_environment(&[format!("gs://{BUCKET}/root/news")], arguments, &environment)
    }
}

fn service_account(port: u16) -> String {
    json!({
        "gcs_base_url": format!("http://127.0.0.1:{port}"), "disable_oauth": true,
        "client_email": "", "private_key": "", "private_key_id": "",
    })
    .to_string()
}

fn query() -> Vec<f32> {
    rows::clustered(1, DIM, Metric::L2, 9).row(0).to_vec()
}

fn code(answer: &Message) -> (u16, Value) {
    (status(answer), json(answer)["error"]["code"].clone())
}

#[test]
fn whoever_waits_for_a_version_holds_no_worker_and_waits_no_longer_than_he_may() {
    let place = Place::new();
    let served = place.serve(&["--workers", "1", "--timeout", "2"]);
    let ask = |consistency: Value| {
        let mut body = json!({ "vectors": [query()], "k": 3 });
        body.as_object_mut().unwrap().extend(consistency.as_object().unwrap().clone());
        served.post(SEARCH, body.to_string())
    };
    place.publish(2);
    place.gate.set(Passage::Held);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| ask(json!({ "consistency": "strong", "deadline_ms": 1500 }))))
            .collect();
        place.gate.wait_for_held(1);
        // The last look was when the index was opened.
        for consistency in [json!({}), json!({ "consistency": "eventual", "max_age_ms": 3_600_000 })] {
            let answer = ask(consistency);
            assert_eq!((status(&answer), answer.header("annvil-version")), (200, Some("1")));
        }
        let near = json!({ "query": query(), "limit": 1 }).to_string();
        let near = served.post("/collections/news/points/query", near);
        assert_eq!(json(&near)["result"]["points"][0]["version"], 1);
        for waiting in waiting {
            assert_eq!(code(&waiting.join().unwrap()), (408, json!("time_out")));
        }
    });
    place.gate.set(Passage::Open);
    let answer = ask(json!({ "consistency": "strong" }));
    assert_eq!((status(&answer), answer.header("annvil-version")), (200, Some("2")));
    let near = json!({ "query": query(), "limit": 1 }).to_string();
    let near = json(&served.post("/collections/news/points/query", near));
    assert_eq!(near["result"]["points"][0]["version"], 2);

    // The store is asked, and says no: whoever asked is told that, not what it said.
    place.gate.set(Passage::Denied);
    let answer = ask(json!({ "consistency": "strong" }));
    assert_eq!(code(&answer), (503, json!("stale")));
    assert_eq!(status(&ask(json!({}))), 200);
}

/// What needs vectors that were not read yet.
fn needing_the_store() -> Vec<(&'static str, Value)> {
    let last = ROWS - 1;
    vec![
        ("/v1/indexes/news/search", json!({ "vectors": [query()], "nprobe": 1000, "refine": 500 })),
        ("/v1/indexes/news/search", json!({ "ids": [format!("row {}", ROWS - 7)] })),
        ("/collections/news/points", json!({ "ids": [last, last / 2], "with_vector": true })),
        ("/collections/news/points/scroll", json!({ "limit": 1000, "with_vector": true })),
        ("/collections/news/points/query", json!({ "query": last, "limit": 3 })),
        (
            "/collections/news/points/query",
            json!({ "query": { "nearest": query(), "mmr": { "candidates_limit": 50 } }, "limit": 5 }),
        ),
        (
            "/collections/news/points/query/batch",
            json!({ "searches": [{ "limit": 1000, "with_vector": true }] }),
        ),
    ]
}

#[test]
fn a_store_that_fails_is_a_fault_of_the_server_and_its_place_is_for_the_log() {
    let place = Place::new();
    let mut served = place.serve(&["--residence", "lazy", "--cache", "1KiB", "--timeout", "2"]);
    place.gate.set(Passage::Denied);
    for (path, body) in needing_the_store() {
        let answer = served.post(path, body.to_string());
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(
            (status(&answer), answer.header("retry-after")),
            (503, Some("1")),
            "{path} {body}: {text}"
        );
        assert!(text.contains("the index's store did not give what the answer needs"), "{text}");
        assert!(!text.contains(BUCKET) && !text.contains("seg/"), "{text}");
        let event = served.event();
        assert_eq!((&event["event"], &event["index"]), (&json!("failed"), &json!("news")));
        assert!(event["reason"].as_str().unwrap().contains(BUCKET), "{event}");
    }
    let point = served.get(&format!("/collections/news/points/{}", ROWS - 1));
    assert_eq!(status(&point), 503, "not a point without its vector");
    assert_eq!(json(&served.get("/v1/indexes/news"))["keeps_vectors"], true);

    place.gate.set(Passage::Held);
    let begun = Instant::now();
    let (path, body) = &needing_the_store()[2];
    let answer = served.post(path, body.to_string());
    assert_eq!(status(&answer), 408, "{}", String::from_utf8_lossy(&answer.body));
    assert!(begun.elapsed() >= Duration::from_secs(2));

    place.gate.set(Passage::Open);
    for (path, body) in needing_the_store() {
        let answer = served.post(path, body.to_string());
        assert_eq!(status(&answer), 200, "{path} {body}: {}", String::from_utf8_lossy(&answer.body));
    }
    let (path, body) = &needing_the_store()[2];
    let points = json(&served.post(path, body.to_string()))["result"].clone();
    for point in points.as_array().unwrap() {
        assert_eq!(point["vector"].as_array().unwrap().len(), DIM, "{point}");
    }
}

#[cfg(unix)]
#[test]
fn a_server_ends_in_its_time_though_its_store_does_not_answer() {
    let place = Place::new();
    let lazy = ["--residence", "lazy", "--cache", "1KiB", "--timeout", "60", "--drain", "0.3"];
    let mut served = place.serve(&[&lazy[..], &["--watch", "0.05"]].concat());
    place.gate.set(Passage::Held);
    // A refresh, and a search on a worker.
    place.gate.wait_for_held(1);
    let (path, body) = &needing_the_store()[1];
    let body = body.to_string();
    let mut asking = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    write!(asking, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    place.gate.wait_for_held(2);
    // Closed while draining, and so not cut.
    let mut idle = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    write!(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let answer = Message::read(&mut BufReader::new(&idle), false).unwrap().unwrap();
    assert_eq!(status(&answer), 200);
    served.terminate();
    assert_eq!(served.event()["event"], "draining");
    assert_eq!(served.event(), json!({ "event": "cut", "connections": 1 }));
    let begun = Instant::now();
    let ended = loop {
        if let Some(ended) = served.child.try_wait().unwrap() {
            break ended;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it waits for its store");
        std::thread::park_timeout(Duration::from_millis(5));
    };
    assert!(ended.success(), "{ended}");
}
