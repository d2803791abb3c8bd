//! Rows as Parquet files, jobs over them, and the indexes that these make: for tests that change indexes.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annvil::change::ChangeOptions;
use annvil::job::{self, Backend, JobSpec, Outcome, Progress};
use annvil::loader::{Filter, Index, Query};
use annvil::vectors::{Metric, Neighbor, RowId, VectorBuf, VectorView, normalize};
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, Int32Array, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;

/// Rows by id: their vectors, and an attribute `n`.
pub type Model = BTreeMap<i64, (Vec<f32>, i32)>;

pub struct Workshop {
    folder: tempfile::TempDir,
    files: std::cell::Cell<usize>,
}

impl Workshop {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), files: 0.into() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn uri(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    /// A Parquet file of these rows, at a path of its own.
    pub fn parquet<'a>(&self, rows: impl IntoIterator<Item = (&'a i64, &'a (Vec<f32>, i32))>) -> String {
        let (mut ids, mut vectors, mut ns) = (Vec::new(), Vec::new(), Vec::new());
        for (id, (vector, n)) in rows {
            ids.push(*id);
            vectors.push(Some(vector.iter().copied().map(Some).collect::<Vec<_>>()));
            ns.push(*n);
        }
        let dim = vectors.first().map_or(1, |vector| vector.as_ref().unwrap().len());
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, dim as i32);
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
            ("vector", Arc::new(vectors)),
            ("n", Arc::new(Int32Array::from(ns))),
        ])
        .unwrap();
        self.files.set(self.files.get() + 1);
        let path = self.path(&format!("rows-{}.parquet", self.files.get()));
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path.to_str().unwrap().into()
    }

    /// Builds `words` from the rows, measured with queries of their own, and says where it is.
    pub fn build(&self, rows: &str, queries: &str, metric: Metric, index: &str) -> String {
        let spec = self.job(rows, &format!("uri = {queries:?}"), metric, index);
        let summary = job::run(&spec, &Progress::silent()).unwrap();
        match &summary.indexes[0].outcome {
            Outcome::Published { uri, .. } => uri.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// `index` has the keys of the index beside its name and metric; the output is a folder of its own.
    pub fn job(&self, rows: &str, queries: &str, metric: Metric, index: &str) -> JobSpec {
        self.files.set(self.files.get() + 1);
        let text = format!(
            "threads = 2\nbackend = \"cpu\"\n[source]\nuri = {rows:?}\nvector = \"vector\"\nid = \"id\"\nattributes = [\"n\"]\n\
             [queries]\n{queries}\n[output]\nuri = {:?}\n[[index]]\nname = \"words\"\nmetric = \"{metric}\"\n{index}\n",
            self.uri(&format!("out-{}", self.files.get()))
        );
        JobSpec::parse(&text, self.path("job.toml")).unwrap()
    }
}

pub fn options(index: &str) -> ChangeOptions {
    ChangeOptions { backend: Backend::Cpu, threads: 2, ..ChangeOptions::new(index) }
}

pub fn model_of(rows: &VectorBuf, ids: impl IntoIterator<Item = i64>) -> Model {
    ids.into_iter().zip(rows.view().iter()).map(|(id, row)| (id, (row.to_vec(), (id % 100) as i32))).collect()
}

/// The vectors of a model as a source hands them on, by id.
pub fn normalised(model: &Model, metric: Metric) -> Vec<(i64, Vec<f32>)> {
    let row = |(&id, (vector, _)): (&i64, &(Vec<f32>, i32))| {
        let mut vector = vector.clone();
        if metric == Metric::Cosine {
            assert!(normalize(&mut vector));
        }
        (id, vector)
    };
    model.iter().map(row).collect()
}

/// That the index has the model's rows and no others, and that an exact search finds the nearest of them by the definition.
pub fn expect_rows(index: &Index, model: &Model, queries: VectorView<'_>, what: &str) {
    assert_eq!(index.live_rows(), model.len(), "{what}: rows");
    for (&id, (_, n)) in model {
        let ordinal =
            index.ids().find(&RowId::Int(id)).unwrap_or_else(|| panic!("{what}: row {id} is missing"));
        let column = index.attributes().unwrap().column_by_name("n").unwrap();
        let column = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Int32Type>(column);
        assert_eq!(column.value(ordinal as usize), *n, "{what}: attribute of row {id}");
    }
    expect_exact(index, model, queries, None, what);
    let few = model.iter().filter(|(_, (_, n))| *n < 20).map(|(id, row)| (*id, row.clone())).collect();
    expect_exact(index, &few, queries, Some("n < 20"), what);
}

fn expect_exact(index: &Index, model: &Model, queries: VectorView<'_>, filter: Option<&str>, what: &str) {
    let metric = index.metric();
    let rows = normalised(model, metric);
    let mut query = Query::new(10).exact();
    if let Some(filter) = filter {
        query = query.filter(Filter::parse(filter).unwrap());
    }
    let answers = index.ask(queries, &query).unwrap();
    for (number, asked) in queries.iter().enumerate() {
        let mut asked = asked.to_vec();
        if metric == Metric::Cosine {
            normalize(&mut asked);
        }
        let distance = |row: &[f32]| metric.distance(&asked, row) as f32;
        let mut nearest: Vec<Neighbor> =
            (0..).zip(&rows).map(|(place, (_, row))| Neighbor::new(place, distance(row))).collect();
        nearest.sort_unstable();
        nearest.truncate(10);
        let found = answers.of(number);
        assert_eq!(found.len(), nearest.len(), "{what}, {filter:?}: query {number}");
        for (found, expected) in found.iter().zip(&nearest) {
            let hit = index.hit(*found);
            let tolerance = 1e-5 * expected.distance.abs().max(1.0);
            assert!(
                (hit.distance - expected.distance).abs() <= tolerance,
                "{what}, {filter:?}: query {number}: {hit:?}, expected {expected:?}"
            );
            let RowId::Int(id) = hit.id else { panic!("{hit:?}") };
            let own = &rows[rows.binary_search_by_key(&id, |(id, _)| *id).expect("a row of the model")].1;
            assert!((distance(own) - hit.distance).abs() <= tolerance, "{what}: {hit:?} is another row");
        }
    }
}

/// The part of the ten nearest, found exactly, that a search at `effort` finds.
pub fn recall_at_10(index: &Index, queries: VectorView<'_>, effort: usize) -> f64 {
    let exact = index.ask(queries, &Query::new(10).exact()).unwrap();
    let answers = index.ask(queries, &Query::new(10).effort(effort)).unwrap();
    let hits = |query: usize| {
        let limit = exact.of(query)[9].distance + 1e-5;
        answers.of(query).iter().filter(|found| found.distance <= limit).count().min(10)
    };
    (0..queries.rows()).map(hits).sum::<usize>() as f64 / (10 * queries.rows()) as f64
}

/// The names of all objects in an index's folder, ascending.
pub fn objects(index: &str) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => walk(&path, root, found),
                path => found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string()),
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(index), Path::new(index), &mut found);
    found.sort();
    found
}
