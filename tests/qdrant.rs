//! Qdrant's own clients, from PyPI, against `annvil serve`: every answer is compared with that of their in-memory database over
//! the same points.
#![cfg(feature = "serve")]

mod fixture;
mod published;
mod rows;
mod served;

use std::process::Command;

use annvil::loader::{Index, json_value};
use annvil::vectors::{Metric, RowId, RowIds};
use serde_json::{Map, Value, json};

use served::{Served, Shelf, attributes, clients};

const ROWS: usize = 600;
const DIM: usize = 12;

fn uuids() -> RowIds {
    let uuid = |row: usize| *blake3_of(row).first_chunk::<16>().unwrap();
    RowIds::from((0..ROWS).map(uuid).collect::<Vec<[u8; 16]>>())
}

fn blake3_of(row: usize) -> Vec<u8> {
    let digest = annvil::artifact::Digest::of(&row.to_le_bytes()).to_string();
    (0..digest.len() / 2).map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// The points that an index should be to Qdrant's clients, said without the server's code.
fn corpus(index: &Index, id: impl Fn(u32) -> Value, has_row_id: bool) -> Value {
    let distance = match index.metric() {
        Metric::Cosine => "Cosine",
        Metric::InnerProduct => "Dot",
        Metric::L2 => "Euclid",
        Metric::L1 | Metric::Hamming => "Manhattan",
    };
    let batch = index.attributes().unwrap();
    let point = |ordinal: u32| {
        let mut payload = Map::new();
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let value = json_value(column, ordinal as usize).unwrap();
            match field.name().split_once('.') {
                None => payload.insert(field.name().clone(), value),
                Some((branch, leaf)) => {
                    let branch = payload.entry(branch).or_insert_with(|| json!({}));
                    branch.as_object_mut().unwrap().insert(leaf.into(), value)
                }
            };
        }
        if has_row_id {
            payload.insert("row_id".into(), json!(index.ids().get(ordinal)));
        }
        json!({ "id": id(ordinal), "vector": index.vector(ordinal).unwrap(), "payload": payload })
    };
    let points: Vec<Value> = (0..index.rows() as u32).map(point).collect();
    json!({ "size": index.dim(), "distance": distance, "points": points })
}

/// Collections of every metric, family and type of id; the points that they should be.
fn collections(shelf: &Shelf) -> (Vec<String>, Value) {
    let batch = attributes(ROWS, 7);
    let numbers =
        || RowIds::from((0..ROWS as u64).map(|row| row * 7 + ((row % 3) << 40)).collect::<Vec<u64>>());
    let texts = || (0..ROWS).map(|row| format!("row '{row}'")).collect::<Vec<_>>();
    let canonical = || (0..ROWS as u32).map(|row| uuids().get(row).to_string()).collect::<Vec<_>>();
    let text_ids = |texts: Vec<String>| texts.iter().map(String::as_str).collect::<RowIds>();
    let cases: [(&str, &str, Metric, RowIds, bool); 5] = [
        ("numbers", "hnsw", Metric::Cosine, numbers(), false),
        (
            "signed",
            "flat",
            Metric::L2,
            RowIds::from((0..ROWS as i64).map(|row| row * 3).collect::<Vec<i64>>()),
            false,
        ),
        ("uuids", "ivf_pq", Metric::InnerProduct, uuids(), false),
        ("uuid-texts", "flat", Metric::Cosine, text_ids(canonical()), false),
        ("texts", "hnsw", Metric::L2, text_ids(texts()), true),
    ];
    let mut described = Map::new();
    let mut uris = Vec::new();
    for (seed, (name, kind, metric, ids, are_ordinals)) in cases.into_iter().enumerate() {
        let vectors = rows::clustered(ROWS, DIM, metric, seed as u64);
        shelf.publish(name, kind, (&vectors, metric), &ids, Some(&batch));
        let index = Index::open(&shelf.uri(name)).unwrap();
        let id = |ordinal: u32| match index.ids().get(ordinal) {
            _ if are_ordinals => json!(ordinal),
            id @ RowId::Uuid(_) => json!(id.to_string()),
            id => json!(id),
        };
        described.insert(name.into(), corpus(&index, id, are_ordinals));
        uris.push(shelf.uri(name));
    }
    (uris, json!({ "collections": described }))
}

fn ask(kind: &str, script: &str) {
    let Some(installed) = clients(kind) else {
        eprintln!("no {kind}: not tested");
        return;
    };
    let shelf = Shelf::new();
    let (uris, corpus) = collections(&shelf);
    let served = Served::start(&uris, &[]);
    let file = shelf.path().join("corpus.json");
    std::fs::write(&file, corpus.to_string()).unwrap();
    let output = Command::new(installed.join("python/bin/python"))
        .arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script))
        .arg(format!("http://127.0.0.1:{}", served.port))
        .arg(&file)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(!err.contains("incompatible"), "{err}");
    println!("{out}");
}

#[test]
fn qdrant_client_finds_what_its_own_database_finds() {
    ask("qdrant-client", "qdrant.py");
}

/// `cargo test --test qdrant -- --ignored`: installs 87 packages, 300 MB.
#[test]
#[ignore = "installs LangChain and LlamaIndex from PyPI, 300 MB"]
fn langchain_and_llama_index_work_unchanged() {
    ask("frameworks", "frameworks.py");
}
