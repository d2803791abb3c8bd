//! Query sets and their exact answers, as Parquet: checked as rows of a source are, and never skipped over, for a
//! certificate is only as good as what it was measured with.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Schema};
use tokio::runtime::Handle;

use crate::store::StoreOptions;
use crate::vectors::Metric;

use super::columns::{FileSchema, canonical_id, column_as, describe};
use super::error::{Result, SourceError};
use super::scan::Scan;
use super::{Dataset, Source, SourceSpec, files, row_ids, scan};

/// Where queries are read from.
#[derive(Debug, Clone)]
pub struct QuerySpec {
    pub uri: String,
    pub vector_column: String,
    /// Default: row numbers.
    pub id_column: Option<String>,
    /// What the index has; other vectors are an error.
    pub dim: usize,
    pub metric: Metric,
}

/// All queries; the first bad one is the error.
pub fn read_queries(spec: QuerySpec, runtime: &Handle) -> Result<Dataset> {
    let source = SourceSpec {
        id_column: spec.id_column,
        dim: Some(spec.dim),
        ..SourceSpec::new(&spec.uri, &spec.vector_column, spec.metric)
    };
    Source::open(source, runtime)?.read_all(&|_, _| ControlFlow::Continue(()))
}

/// The exact `k` nearest rows of each query, nearest first.
#[derive(Debug, Clone)]
pub struct GroundTruth {
    pub k: usize,
    /// One per query.
    pub query_ids: ArrayRef,
    /// `queries × k` ids of rows, of a canonical id type.
    pub neighbors: ArrayRef,
    /// `queries × k`, finite, where the file has them.
    pub distances: Option<Vec<f32>>,
}

const QUERY_ID: &str = "query_id";
const NEIGHBORS: &str = "neighbors";
const DISTANCES: &str = "distances";

/// Reads the columns `query_id`, `neighbors` (lists of ids, all of one length `k` ≥ 1) and, where there is one,
/// `distances` (lists of `k` numbers).
pub fn read_ground_truth(uri: &str, runtime: &Handle) -> Result<GroundTruth> {
    let uris = [uri.to_string()];
    let files = runtime
        .block_on(async { scan::open(files::resolve(&uris, &StoreOptions::default()).await?).await })?;
    let schemas = files.iter().map(|file| TruthColumns::of(file.uri(), file.metadata.schema()));
    let columns = schemas.collect::<Result<Vec<TruthColumns>>>()?;
    if columns.windows(2).any(|pair| pair[0].types() != pair[1].types()) {
        let what = "the files matched have different column types".into();
        return Err(SourceError::GroundTruth { file: uri.into(), what });
    }
    let files = Arc::new(files);
    let roots = columns.iter().map(|columns| columns.roots.clone()).collect();
    let mut gathered = Gathered::default();
    for scanned in Scan::start(files.clone(), roots, runtime)? {
        let scanned = scanned?;
        let columns = &columns[scanned.file];
        gathered.push(columns, &scanned.rows).map_err(|what| SourceError::GroundTruth {
            file: columns.file.clone(),
            what: format!("row group {}, from row {} on: {what}", scanned.row_group, scanned.first_row),
        })?;
    }
    let Some(k) = gathered.k else {
        return Err(SourceError::NoRows { files: files.len(), first_file: uri.into() });
    };
    let has_distances = columns[0].has_distances;
    Ok(GroundTruth {
        k,
        query_ids: concat(&gathered.query_ids)?,
        neighbors: concat(&gathered.neighbors)?,
        distances: has_distances.then_some(gathered.distances),
    })
}

fn concat(chunks: &[ArrayRef]) -> Result<ArrayRef> {
    Ok(arrow_select::concat::concat(&chunks.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}

struct TruthColumns {
    file: String,
    query_id: DataType,
    neighbor: DataType,
    has_distances: bool,
    roots: Vec<usize>,
}

impl TruthColumns {
    fn of(file: &str, schema: &Schema) -> Result<Self> {
        let wrong = |column: &str, expected: &str| SourceError::GroundTruth {
            file: file.into(),
            what: format!("expected a column `{column}`: {expected}; its columns are {}", describe(schema)),
        };
        let typed = FileSchema { file, schema };
        let query_id = typed.id_type(QUERY_ID)?;
        let element = |column: &str| match schema.field_with_name(column).ok()?.data_type() {
            DataType::FixedSizeList(element, _) | DataType::List(element) | DataType::LargeList(element) => {
                Some(element.data_type().clone())
            }
            _ => None,
        };
        let neighbor = element(NEIGHBORS).and_then(|element| canonical_id(&element));
        let neighbor = neighbor.ok_or_else(|| wrong(NEIGHBORS, "a list of row ids"))?;
        let has_distances = schema.column_with_name(DISTANCES).is_some();
        if has_distances && !element(DISTANCES).is_some_and(|element| element.is_floating()) {
            return Err(wrong(DISTANCES, "a list of floating-point numbers"));
        }
        let roots = [QUERY_ID, NEIGHBORS, DISTANCES];
        let roots = roots.iter().filter_map(|column| schema.index_of(column).ok()).collect();
        Ok(Self { file: file.into(), query_id, neighbor, has_distances, roots })
    }

    fn types(&self) -> (&DataType, &DataType, bool) {
        (&self.query_id, &self.neighbor, self.has_distances)
    }
}

#[derive(Default)]
struct Gathered {
    k: Option<usize>,
    query_ids: Vec<ArrayRef>,
    neighbors: Vec<ArrayRef>,
    distances: Vec<f32>,
}

impl Gathered {
    fn push(&mut self, columns: &TruthColumns, rows: &RecordBatch) -> Result<(), String> {
        let text = |error: SourceError| error.to_string();
        let query_ids = column_as(rows, QUERY_ID, &columns.query_id).map_err(text)?;
        if query_ids.null_count() > 0 {
            return Err(format!("a `{QUERY_ID}` is null"));
        }
        let (neighbors, k) = flattened(rows, NEIGHBORS)?;
        if *self.k.get_or_insert(k) != k {
            return Err(format!("expected {} neighbors per query, got {k}", self.k.unwrap_or(k)));
        }
        let neighbors = arrow_cast::cast(&neighbors, &columns.neighbor).map_err(|error| error.to_string())?;
        self.query_ids.push(query_ids);
        self.neighbors.push(neighbors);
        if columns.has_distances {
            let (distances, len) = flattened(rows, DISTANCES)?;
            if len != k {
                return Err(format!("expected {k} distances per query, got {len}"));
            }
            let distances =
                arrow_cast::cast(&distances, &DataType::Float32).map_err(|error| error.to_string())?;
            let distances = distances.as_primitive::<Float32Type>();
            if distances.values().iter().any(|distance| !distance.is_finite()) {
                return Err("a distance is not finite".into());
            }
            self.distances.extend_from_slice(distances.values());
        }
        Ok(())
    }
}

/// The elements of a list column whose rows all have one length, and that length. Decoded batches are not empty.
fn flattened(rows: &RecordBatch, column: &str) -> Result<(ArrayRef, usize), String> {
    let lists = rows.column_by_name(column).ok_or_else(|| format!("no column `{column}` was decoded"))?;
    if lists.null_count() > 0 {
        return Err(format!("a row of `{column}` is null"));
    }
    let (values, len) = match lists.data_type() {
        DataType::FixedSizeList(_, len) => (lists.as_fixed_size_list().values().clone(), *len as usize),
        DataType::List(_) => {
            let lists = lists.as_list::<i32>();
            let offsets: Vec<usize> = lists.offsets().iter().map(|&offset| offset as usize).collect();
            evenly(&offsets, lists.values(), column)?
        }
        _ => {
            let lists = lists.as_list::<i64>();
            let offsets: Vec<usize> = lists.offsets().iter().map(|&offset| offset as usize).collect();
            evenly(&offsets, lists.values(), column)?
        }
    };
    if len == 0 {
        return Err(format!("the lists of `{column}` are empty"));
    }
    if values.null_count() > 0 {
        return Err(format!("an element of `{column}` is null"));
    }
    Ok((values, len))
}

fn evenly(offsets: &[usize], values: &ArrayRef, column: &str) -> Result<(ArrayRef, usize), String> {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let len = offsets.get(1).map_or(0, |second| second - first);
    match offsets.windows(2).map(|pair| pair[1] - pair[0]).find(|&other| other != len) {
        Some(other) => Err(format!("the lists of `{column}` have {len} and {other} elements")),
        None => Ok((values.slice(first, last - first), len)),
    }
}

impl GroundTruth {
    /// The answers to `query_ids`, in that order.
    pub fn for_queries(&self, query_ids: &dyn Array) -> Result<GroundTruth> {
        let wrong = |what: String| SourceError::GroundTruth { file: "ground truth".into(), what };
        if query_ids.data_type() != self.query_ids.data_type() {
            let (expected, got) = (query_ids.data_type(), self.query_ids.data_type());
            return Err(wrong(format!("the queries' ids are {expected}, its `{QUERY_ID}` is {got}")));
        }
        let truth_ids = self.query_ids.as_ref();
        let places: HashMap<Option<String>, u32> =
            (0..truth_ids.len()).map(|row| (row_ids::text(truth_ids, row), row as u32)).collect();
        if places.len() != truth_ids.len() {
            return Err(wrong(format!("a `{QUERY_ID}` occurs twice")));
        }
        let mut rows = Vec::with_capacity(query_ids.len());
        for query in 0..query_ids.len() {
            let id = row_ids::text(query_ids, query);
            let row = places.get(&id).ok_or_else(|| {
                wrong(format!("it has no answer to query {}", id.as_deref().unwrap_or("null")))
            })?;
            rows.push(*row);
        }
        let k = self.k;
        let places: Vec<u64> =
            rows.iter().flat_map(|&row| u64::from(row) * k as u64..(u64::from(row) + 1) * k as u64).collect();
        let distances = self.distances.as_ref().map(|distances| {
            rows.iter()
                .flat_map(|&row| &distances[row as usize * k..(row as usize + 1) * k])
                .copied()
                .collect()
        });
        Ok(GroundTruth {
            k,
            query_ids: arrow_select::take::take(&self.query_ids, &UInt32Array::from(rows), None)?,
            neighbors: arrow_select::take::take(&self.neighbors, &UInt64Array::from(places), None)?,
            distances,
        })
    }
}
