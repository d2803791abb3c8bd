//! Documents as memdb keeps them: typed collections, each document with a vector. A document depends on its number and on how
//! often it was written, nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use annvil::dataset::Law;
use annvil::vectors::Random;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;

/// Name and dimension of each collection.
pub const COLLECTIONS: [(&str, usize); 2] = [("articles", 128), ("sensors", 32)];

const KINDS: [&str; 5] = ["book", "record", "tool", "toy", "map"];
const TAGS: [&str; 6] = ["new", "used", "rare", "large", "signed", "import"];
const SITES: [&str; 4] = ["north", "south", "east", "west"];

/// Rows of a file that are in memory at a time.
const BLOCK_ROWS: usize = 8192;

/// Which documents there are: how often each was written, by number.
pub type Documents = BTreeMap<u64, u64>;

/// The fields of an article.
pub struct Article {
    pub id: String,
    pub kind: &'static str,
    pub rank: i64,
    pub price: f64,
    pub in_stock: bool,
    pub made_ms: i64,
    pub tags: Vec<&'static str>,
}

impl Article {
    pub fn of(number: u64, written: u64) -> Self {
        let mut random = Random::of(21 + written, number);
        Self {
            id: format!("article:{number:07}"),
            kind: KINDS[random.below(KINDS.len())],
            rank: random.below(1000) as i64,
            price: random.below(20_000) as f64 / 100.0,
            in_stock: random.below(3) > 0,
            made_ms: 1_700_000_000_000 + random.below(365) as i64 * 86_400_000,
            tags: TAGS.iter().copied().filter(|_| random.below(3) == 0).collect(),
        }
    }
}

/// Writes documents of one collection, in order.
pub fn write(path: &Path, collection: &str, documents: &Documents) {
    let dim = COLLECTIONS.iter().find(|(name, _)| *name == collection).map_or(1, |&(_, dim)| dim);
    let law = Law::new(dim, 5);
    let all: Vec<(u64, u64)> = documents.iter().map(|(&number, &written)| (number, written)).collect();
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    for block in all.chunks(BLOCK_ROWS) {
        let mut columns = match collection {
            "articles" => articles(block),
            _ => sensors(block),
        };
        columns.push(("embedding", vectors(&law, block)));
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let open = || {
            let file = std::fs::File::create(path).expect("a file that can be written");
            ArrowWriter::try_new(file, batch.schema(), None).expect("columns that Parquet has")
        };
        writer.get_or_insert_with(open).write(&batch).expect("a disk with room");
    }
    writer.expect("one document or more").close().expect("a disk with room");
}

/// One that is written again has another vector.
fn vectors(law: &Law, documents: &[(u64, u64)]) -> ArrayRef {
    let row = |&(number, written): &(u64, u64)| {
        Some(law.rows(number + (written << 32), 1).row(0).iter().copied().map(Some).collect::<Vec<_>>())
    };
    let rows = documents.iter().map(row);
    Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows, law.dim() as i32))
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn articles(documents: &[(u64, u64)]) -> Columns {
    let all: Vec<Article> = documents.iter().map(|&(number, written)| Article::of(number, written)).collect();
    let mut tags = ListBuilder::new(StringBuilder::new());
    for article in &all {
        article.tags.iter().for_each(|tag| tags.values().append_value(tag));
        tags.append(true);
    }
    let made = all.iter().map(|article| article.made_ms);
    vec![
        ("id", Arc::new(all.iter().map(|article| Some(article.id.as_str())).collect::<StringArray>())),
        ("kind", Arc::new(all.iter().map(|article| Some(article.kind)).collect::<StringArray>())),
        ("rank", Arc::new(all.iter().map(|article| article.rank).collect::<Int64Array>())),
        ("price", Arc::new(all.iter().map(|article| article.price).collect::<Float64Array>())),
        ("in_stock", Arc::new(all.iter().map(|article| Some(article.in_stock)).collect::<BooleanArray>())),
        ("made", Arc::new(TimestampMillisecondArray::from_iter_values(made).with_timezone("UTC"))),
        ("tags", Arc::new(tags.finish())),
    ]
}

fn sensors(documents: &[(u64, u64)]) -> Columns {
    let random = |&(number, written): &(u64, u64)| Random::of(31 + written, number);
    let site = |document| Some(SITES[random(document).below(SITES.len())]);
    let volts = |document| random(document).unit() * 24.0;
    vec![
        ("serial", Arc::new(documents.iter().map(|&(number, _)| number as i64).collect::<Int64Array>())),
        ("site", Arc::new(documents.iter().map(site).collect::<StringArray>())),
        ("volts", Arc::new(documents.iter().map(volts).collect::<Float64Array>())),
    ]
}
