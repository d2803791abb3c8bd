//! A workload without data, and prices, as TOML: what `annvil plan --workload` reads. Indexes are written as in a job file, and
//! whatever is wrong is told as it is of one.

use std::ops::RangeInclusive;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Diagnostics, SourceText};
use super::origin::Origin;
use super::parse::{MAX_JOB_FILE_BYTES, SpecError, indexes, name_of_stem, text_of};
use super::read::{Entry, Reader, Table};
use super::schema::Schema;
use super::spec::{Backend, IndexSpec, JobSpec, OnBadRow, OutputSpec, QueriesSpec, SourceSpec};
use super::uri::Uri;
use crate::source::ForeignOptions;
use crate::store::StoreOptions;

static WORKLOAD: Schema = Schema {
    table: "the top level of a workload",
    keys: &[
        "name",
        "rows",
        "dim",
        "type",
        "id_bytes",
        "attribute_bytes",
        "qps",
        "k",
        "recall",
        "replicas",
        "versions",
        "builds_per_month",
        "machine",
        "index",
    ],
};
static MACHINE: Schema =
    Schema { table: "`[machine]`", keys: &["memory", "cores", "memory_share", "busy_share"] };
static PRICES: Schema = Schema {
    table: "the top level of prices",
    keys: &["currency", "core_hour", "memory_gib_hour", "disk_gib_month", "store_gib_month"],
};

const MAX_ROWS: u64 = 1 << 50;

/// What is to be searched how often, and on which machines.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Workload {
    /// Default: the file's stem.
    pub name: String,
    /// Numbers of rows to plan for, one or several.
    pub rows: Vec<u64>,
    pub dim: usize,
    /// Bytes of a value in the source: 4 (`f32`, the default) or 2 (`f16`).
    #[serde(skip)]
    pub value_bytes: u64,
    /// Of a row's id. Default 8.
    pub id_bytes: u64,
    /// Of a row's attributes. Default 0.
    pub attribute_bytes: u64,
    /// Queries a second, of all clients.
    pub qps: f64,
    /// Rows that a query asks for. Default 10.
    pub k: usize,
    /// Recall@k. Default .95.
    pub recall: f64,
    /// Copies of each shard that are searched, at least. Default 1.
    pub replicas: u64,
    /// Versions that the object store keeps. Default 2: the one that is searched and the one before.
    pub versions: u64,
    /// Default 1.
    pub builds_per_month: f64,
    pub machine: MachineSpec,
    #[serde(rename = "index")]
    pub indexes: Vec<IndexSpec>,
    #[serde(skip)]
    origin: Origin,
}

/// A machine that searches, and builds.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MachineSpec {
    pub memory: u64,
    pub cores: u64,
    /// Of the memory, what an index that is searched may take. Default .7.
    pub memory_share: f64,
    /// Of the cores' time, what searches may take. Default .7.
    pub busy_share: f64,
}

/// What things cost, in one currency.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Prices {
    pub currency: String,
    /// A core for an hour, …
    pub core_hour: f64,
    /// … a GiB of memory for an hour, …
    pub memory_gib_hour: f64,
    /// … a GiB of a machine's own disk for a month, …
    pub disk_gib_month: f64,
    /// … and a GiB in the object store for a month.
    pub store_gib_month: f64,
}

impl Workload {
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, SpecError> {
        let path = path.as_ref();
        Self::parse(&text_of(path)?, path)
    }

    /// `path` is where the text stands: for messages, and the default name.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, SpecError> {
        let path = path.as_ref();
        read(text, path, |reader, document| workload(reader, document, path))
    }

    /// A job with one index of the workload, for the planner's formulas: it names no source.
    pub(crate) fn job(&self, index: &IndexSpec) -> JobSpec {
        JobSpec {
            name: self.name.clone(),
            seed: 42,
            threads: 0,
            backend: Backend::Auto,
            memory_budget: None,
            gpu_memory_budget: None,
            scratch: None,
            resume: true,
            source: SourceSpec {
                uri: Vec::new(),
                vector: String::new(),
                id: None,
                attributes: Vec::new(),
                predicate: None,
                shard: None,
                on_bad_row: OnBadRow::Fail,
                foreign: ForeignOptions::default(),
            },
            queries: QueriesSpec::Sample { sample: 1 },
            output: OutputSpec { uri: Uri::new("none", Path::new("")) },
            store: StoreOptions::default(),
            encryption: None,
            indexes: vec![index.clone()],
            origin: self.origin.clone(),
        }
    }
}

impl Prices {
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, SpecError> {
        let path = path.as_ref();
        Self::parse(&text_of(path)?, path)
    }

    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, SpecError> {
        read(text, path.as_ref(), prices)
    }
}

/// Parses a document and hands its problems on, all at once.
fn read<T>(
    text: &str,
    path: &Path,
    parse: impl FnOnce(&mut Reader, DeTable<'_>) -> Option<T>,
) -> Result<T, SpecError> {
    let file = path.display().to_string();
    if text.len() as u64 > MAX_JOB_FILE_BYTES {
        return Err(SpecError::TooLong { path: file, size_bytes: text.len() as u64 });
    }
    let source_text = SourceText::new(&file, text);
    let document = match DeTable::parse(text) {
        Ok(document) => document.into_inner(),
        Err(error) => {
            let place = source_text.place(&error.span().unwrap_or(text.len()..text.len()));
            let problem = Diagnostic::error("", place, format!("not TOML: {}", error.message()));
            return Err(SpecError::Invalid(Diagnostics(vec![problem])));
        }
    };
    let mut reader = Reader::new(source_text);
    let parsed = parse(&mut reader, document);
    match parsed {
        Some(parsed) if reader.problems.is_empty() => Ok(parsed),
        _ => Err(SpecError::Invalid(Diagnostics(reader.problems))),
    }
}

fn workload(reader: &mut Reader, document: DeTable<'_>, path: &Path) -> Option<Workload> {
    let root = &mut reader.table(String::new(), document, &WORKLOAD);
    let name = reader.take(root, "name");
    let name = reader.string(name, "a name").unwrap_or_else(|| name_of_stem(path));
    let rows = reader.require(root, "rows", "a number of rows, or a list of them");
    let rows = rows_of(reader, rows);
    let dim = reader.require(root, "dim", "an integer from 1 to 65536");
    let dim = reader.integer(dim, 1..=crate::source::MAX_DIM as u64);
    let value = reader.take(root, "type");
    let value_bytes = match reader.choice(value, &["f32", "f16"]) {
        Some("f16") => 2,
        _ => 4,
    };
    let mut count = |key: &str, range: RangeInclusive<u64>, default: u64| {
        let entry = reader.take(root, key);
        reader.integer(entry, range).unwrap_or(default)
    };
    let id_bytes = count("id_bytes", 1..=1024, 8);
    let attribute_bytes = count("attribute_bytes", 0..=1 << 20, 0);
    let k = count("k", 1..=1000, 10) as usize;
    let replicas = count("replicas", 1..=1000, 1);
    let versions = count("versions", 1..=1000, 2);
    let qps = reader.require(root, "qps", "queries a second, above 0");
    let qps = number(reader, qps, f64::MIN_POSITIVE..=1e9);
    let recall = reader.take(root, "recall");
    let recall = reader.recall(recall).unwrap_or(0.95);
    let builds = reader.take(root, "builds_per_month");
    let builds_per_month = number(reader, builds, 0.0..=1e6).unwrap_or(1.0);
    let entry = reader.require(root, "machine", "a table `[machine]` with `memory` and `cores`");
    let table = reader.subtable(entry, &MACHINE);
    let machine = table.and_then(|table| machine(reader, table));
    let entry = reader.require(root, "index", "one or more tables `[[index]]`, as in a job");
    let indexes = indexes(reader, entry, &name, Some(&[]));
    reader.finish(root.take_rest());
    Some(Workload {
        name,
        rows: rows?,
        dim: dim? as usize,
        value_bytes,
        id_bytes,
        attribute_bytes,
        qps: qps?,
        k,
        recall,
        replicas,
        versions,
        builds_per_month,
        machine: machine?,
        indexes: indexes?,
        origin: reader.origin.clone(),
    })
}

/// One number or a list.
fn rows_of(reader: &mut Reader, entry: Option<Entry<'_>>) -> Option<Vec<u64>> {
    let entry = entry?;
    if matches!(entry.value, DeValue::Array(_)) {
        let rows = reader.auto_integers(Some(entry), 1..=16, 1..=MAX_ROWS).given()?;
        return Some(rows.into_iter().map(|rows| rows as u64).collect());
    }
    reader.integer(Some(entry), 1..=MAX_ROWS).map(|rows| vec![rows])
}

fn number(reader: &mut Reader, entry: Option<Entry<'_>>, range: RangeInclusive<f64>) -> Option<f64> {
    reader.auto_number(entry, range).given()
}

fn machine(reader: &mut Reader, mut table: Table<'_>) -> Option<MachineSpec> {
    let memory = reader.require(&mut table, "memory", "bytes, as \"64GiB\"");
    let memory = reader.bytes(memory, 1 << 28..=1 << 50);
    let cores = reader.require(&mut table, "cores", "an integer from 1 to 4096");
    let cores = reader.integer(cores, 1..=4096);
    let mut share = |key: &str| {
        let entry = reader.take(&mut table, key);
        number(reader, entry, 0.01..=1.0).unwrap_or(0.7)
    };
    let (memory_share, busy_share) = (share("memory_share"), share("busy_share"));
    reader.finish(table);
    Some(MachineSpec { memory: memory?, cores: cores?, memory_share, busy_share })
}

fn prices(reader: &mut Reader, document: DeTable<'_>) -> Option<Prices> {
    let root = &mut reader.table(String::new(), document, &PRICES);
    let currency = reader.require(root, "currency", "what prices are in");
    let currency = reader.string(currency, "what prices are in");
    let mut price = |key: &'static str| {
        let entry = reader.require(root, key, "a price, 0 or more");
        number(reader, entry, 0.0..=1e12)
    };
    let [core_hour, memory_gib_hour, disk_gib_month, store_gib_month] =
        ["core_hour", "memory_gib_hour", "disk_gib_month", "store_gib_month"].map(&mut price);
    reader.finish(root.take_rest());
    Some(Prices {
        currency: currency?,
        core_hour: core_hour?,
        memory_gib_hour: memory_gib_hour?,
        disk_gib_month: disk_gib_month?,
        store_gib_month: store_gib_month?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "rows = [100_000, 10_000_000]\ndim = 1536\nqps = 50\n[machine]\nmemory = \"64GiB\"\ncores = 16\n\
                         [[index]]\nkind = \"hnsw\"\nmetric = \"cosine\"\nm = 48\n";

    #[test]
    fn a_workload_has_its_defaults() {
        let workload = Workload::parse(SMALL, "catalogue.toml").unwrap();
        assert_eq!((workload.name.as_str(), &workload.rows[..]), ("catalogue", &[100_000, 10_000_000][..]));
        assert_eq!((workload.k, workload.recall, workload.replicas, workload.versions), (10, 0.95, 1, 2));
        assert_eq!((workload.machine.memory, workload.machine.memory_share), (64 << 30, 0.7));
        assert_eq!(workload.job(&workload.indexes[0]).indexes.len(), 1);
        let one = Workload::parse(&SMALL.replace("[100_000, 10_000_000]", "7"), "x.toml").unwrap();
        assert_eq!(one.rows, [7]);
    }

    #[test]
    fn all_that_is_wrong_with_a_workload_is_told_with_its_line() {
        let wrong = "rows = 0\ndims = 3\nqps = \"many\"\nrecall = 95\n[machine]\nmemory = \"1KiB\"\ncores = 16\nmemory_share = 2\n\
                     [[index]]\nkind = \"hnsw\"\nmetric = \"cosine\"\nm = 1\n";
        let error = Workload::parse(wrong, "w.toml").unwrap_err().to_string();
        for told in [
            "w.toml:1:",
            "did you mean `dim`?",
            "w.toml:3:",
            "95 % is 0.95",
            "w.toml:6:",
            "w.toml:8:",
            "w.toml:12:",
        ] {
            assert!(error.contains(told), "{told} is not in\n{error}");
        }
        let none = Workload::parse("", "w.toml").unwrap_err();
        assert_eq!(none.diagnostics().len(), 5, "{none}");
        assert!(Workload::parse("rows = ", "w.toml").unwrap_err().to_string().contains("not TOML"));
    }

    #[test]
    fn prices_are_all_given() {
        let text = "currency = \"coins\"\ncore_hour = 1\nmemory_gib_hour = 0.5\ndisk_gib_month = 0\nstore_gib_month = 2.5\n";
        let prices = Prices::parse(text, "prices.toml").unwrap();
        assert_eq!((prices.core_hour, prices.memory_gib_hour, prices.store_gib_month), (1.0, 0.5, 2.5));
        let error = Prices::parse("currency = \"coins\"\ncore_hour = -1\n", "prices.toml").unwrap_err();
        assert_eq!(error.diagnostics().len(), 4, "{error}");
    }
}
