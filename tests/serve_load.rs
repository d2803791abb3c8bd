//! `annvil serve` at saturation, while versions come and go: `benches/serve/run`.
#![cfg(feature = "serve")]

mod fixture;
mod published;
mod rows;
mod served;

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use annvil::loader::{Index, Query};
use annvil::vectors::{Metric, RowIds, VectorBuf};
use serde_json::{Value, json};

use served::http::Message;
use served::{Served, Shelf, json, status};

const ROWS: usize = 50_000;
const DIM: usize = 96;
const QUERIES: usize = 200;
const K: usize = 10;
const SWAP: Duration = Duration::from_secs(5);

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// What the latest version answers, query by query, as JSON has it.
fn pinned(shelf: &Shelf, queries: &VectorBuf) -> Vec<Vec<(u64, f32)>> {
    let index = Index::open(&shelf.uri("load")).unwrap();
    let answers = index.ask(queries.view(), &Query::new(K).effort(64)).unwrap();
    let hit = |&found: &annvil::loader::Match| (json!(index.hit(found).id).as_u64().unwrap(), found.distance);
    answers.iter().map(|found| found.iter().map(hit).collect()).collect()
}

struct Seen {
    micros: Vec<u32>,
    versions: BTreeSet<u64>,
    wrong: u64,
    errors: u64,
}

fn ask_until_told(
    port: u16,
    bodies: &[String],
    expected: &[Vec<Vec<(u64, f32)>>; 2],
    over: &AtomicBool,
    first: usize,
) -> Seen {
    let mut seen = Seen { micros: Vec::new(), versions: BTreeSet::new(), wrong: 0, errors: 0 };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for place in (0..bodies.len()).cycle().skip(first) {
        if over.load(Ordering::Relaxed) {
            return seen;
        }
        let begun = Instant::now();
        stream.write_all(bodies[place].as_bytes()).unwrap();
        let answer = Message::read(&mut reader, false).unwrap().unwrap();
        seen.micros.push(begun.elapsed().as_micros() as u32);
        if status(&answer) != 200 {
            seen.errors += 1;
            continue;
        }
        let found = json(&answer);
        let version = found["version"].as_u64().unwrap();
        seen.versions.insert(version);
        let hit = |hit: &Value| (hit["id"].as_u64().unwrap(), hit["distance"].as_f64().unwrap() as f32);
        let hits: Vec<(u64, f32)> = found["results"][0]["hits"].as_array().unwrap().iter().map(hit).collect();
        seen.wrong += u64::from(hits != expected[version as usize % 2][place]);
    }
    seen
}

#[test]
#[ignore = "ten minutes: benches/serve/run"]
fn no_answer_is_wrong_or_missing_under_load_and_swaps() {
    let seconds = from_environment("ANNVIL_LOAD_SECONDS", 600);
    let clients = from_environment("ANNVIL_LOAD_CLIENTS", 8) as usize;
    let shelf = Shelf::new();
    let queries = rows::clustered(QUERIES, DIM, Metric::Cosine, 1);
    // Odd versions hold one set of rows, even ones another.
    let contents = [2, 1].map(|seed| rows::clustered(ROWS, DIM, Metric::Cosine, seed));
    let of = |version: u64| {
        let first = version % 2 * 1_000_000;
        RowIds::from((first..first + ROWS as u64).collect::<Vec<u64>>())
    };
    let publish = |version: u64| {
        let rows = &contents[version as usize % 2];
        assert_eq!(shelf.publish("load", "hnsw", (rows, Metric::Cosine), &of(version), None), version);
    };
    publish(1);
    let odd = pinned(&shelf, &queries);
    publish(2);
    let expected = [pinned(&shelf, &queries), odd];
    let served = Served::start(&[shelf.uri("load")], &["--watch", "0.5"]);
    let bodies: Vec<String> = (0..QUERIES)
        .map(|place| {
            let body = json!({ "vectors": [queries.row(place)], "k": K, "ef": 64 }).to_string();
            format!(
                "POST /v1/indexes/load/search HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        })
        .collect();
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..clients)
            .map(|client| {
                let (bodies, expected, over, port) = (&bodies, &expected, &over, served.port);
                scope.spawn(move || ask_until_told(port, bodies, expected, over, client * 7))
            })
            .collect();
        let store = annvil::store::IndexStore::open(&shelf.uri("load")).unwrap();
        let mut version = 2;
        while begun.elapsed() < Duration::from_secs(seconds) {
            std::thread::park_timeout(SWAP);
            version += 1;
            // As a publisher of the same job would: a new manifest over segments that are there.
            assert_eq!(store.rollback(version - 2).unwrap(), version);
        }
        over.store(true, Ordering::Relaxed);
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let mut micros: Vec<u32> = seen.iter().flat_map(|seen| seen.micros.iter().copied()).collect();
    micros.sort_unstable();
    let at = |part: f64| micros[((micros.len() - 1) as f64 * part) as usize];
    let versions: BTreeSet<u64> = seen.iter().flat_map(|seen| seen.versions.iter().copied()).collect();
    let (wrong, errors) =
        seen.iter().fold((0, 0), |(wrong, errors), seen| (wrong + seen.wrong, errors + seen.errors));
    println!(
        "{} answers in {elapsed:.0} s by {clients} clients: {:.0} a second, p50 {} µs, p99 {} µs, most {} µs; {} versions; \
         {wrong} wrong, {errors} errors",
        micros.len(),
        micros.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
        versions.len(),
    );
    assert_eq!((wrong, errors), (0, 0));
    assert!(versions.len() as u64 > seconds / 6, "{versions:?}");
}
