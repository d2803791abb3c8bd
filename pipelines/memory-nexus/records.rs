//! Records as memory-nexus keeps them: embeddings that follow `annvil::dataset::Law`, users of whom a few have most of the
//! records, and the payload of its collections. A record depends on its number and how often it was written, nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use annvil::dataset::Law;
use annvil::vectors::Random;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, FixedSizeListArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;

/// Name and dimension of each collection.
pub const COLLECTIONS: [(&str, usize); 4] =
    [("memories", 1024), ("queries", 1024), ("preferences", 384), ("sessions", 1024)];

const TOPICS: [&str; 8] = ["work", "travel", "health", "music", "family", "code", "food", "money"];
const SOURCES: [&str; 4] = ["chat", "email", "note", "web"];
const LANGUAGES: [&str; 4] = ["en", "de", "fr", "ja"];

/// Rows of a file that are in memory at a time.
const BLOCK_ROWS: usize = 4096;

/// Which records there are: how often each was written, by number.
pub type Records = BTreeMap<u64, u64>;

/// One user of `users`: the first of them has a hundred times as many records as most.
pub fn user(record: u64, users: u64) -> u64 {
    let uniform = Random::of(11, record).unit();
    ((users as f64 * uniform * uniform) as u64).min(users - 1)
}

/// Writes records of one collection, in order.
pub fn write(path: &Path, dim: usize, users: u64, records: &Records) {
    let law = Law::new(dim, 7);
    let all: Vec<(u64, u64)> = records.iter().map(|(&record, &written)| (record, written)).collect();
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    for block in all.chunks(BLOCK_ROWS) {
        let batch = batch(&law, dim, users, block);
        let open = || {
            let file = std::fs::File::create(path).expect("a file that can be written");
            ArrowWriter::try_new(file, batch.schema(), None).expect("columns that Parquet has")
        };
        writer.get_or_insert_with(open).write(&batch).expect("a disk with room");
    }
    writer.expect("one record or more").close().expect("a disk with room");
}

fn batch(law: &Law, dim: usize, users: u64, records: &[(u64, u64)]) -> RecordBatch {
    let random = |stream: u64, record: u64| Random::of(stream, record);
    let pick = |names: &[&'static str], stream, record| names[random(stream, record).below(names.len())];
    let some = |stream| {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for &(record, _) in records {
            let mut random = random(stream, record);
            (0..random.below(4))
                .for_each(|_| lists.values().append_value(TOPICS[random.below(TOPICS.len())]));
            lists.append(true);
        }
        Arc::new(lists.finish()) as ArrayRef
    };
    let strings = |of: &dyn Fn(u64, u64) -> String| {
        let values = records.iter().map(|&(record, written)| Some(of(record, written)));
        Arc::new(values.collect::<StringArray>()) as ArrayRef
    };
    // A record that is written again has another text, and so another vector.
    let vectors = records.iter().map(|&(record, written)| {
        Some(law.rows(record + (written << 32), 1).row(0).iter().copied().map(Some).collect::<Vec<_>>())
    });
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, dim as i32);
    let created = records.iter().map(|&(record, _)| 1_735_689_600_000 + record as i64 * 60_000);
    let columns: [(&str, ArrayRef); 12] = [
        ("id", Arc::new(records.iter().map(|&(record, _)| record as i64).collect::<Int64Array>())),
        ("embedding", Arc::new(vectors)),
        ("user_id", strings(&|record, _| format!("user-{}", user(record, users)))),
        ("session_id", strings(&|record, _| format!("session-{}", record / 20))),
        (
            "chunk_index",
            Arc::new(records.iter().map(|&(record, _)| record as i32 % 20).collect::<Int32Array>()),
        ),
        ("content_hash", strings(&|record, written| format!("{record:016x}{written:016x}"))),
        ("created_at", Arc::new(TimestampMillisecondArray::from_iter_values(created))),
        ("source_type", strings(&|record, _| pick(&SOURCES, 1, record).into())),
        (
            "word_count",
            Arc::new(
                records
                    .iter()
                    .map(|&(record, _)| random(2, record).below(400) as i32)
                    .collect::<Int32Array>(),
            ),
        ),
        ("language", strings(&|record, _| pick(&LANGUAGES, 3, record).into())),
        ("topics", some(4)),
        ("entities", some(5)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}
