//! Parquet → validated rows. The only module that names `parquet` and `polars`.
//!
//! ```text
//! URIs ─ files ─► objects ─ scan ─► decoded batches ─ predicate ─► rows of interest ─ validate ─► RowBatch ─► Dataset
//!                   │ footers: columns, types          │ filtered out                 │ rejected, or the job fails
//! ```
//!
//! A source is checked as far as footers go when it is opened: files, columns, types, the predicate. Its data is
//! then streamed, projected, in the order of files, row groups and rows, and in bounded memory: per projected
//! column three windows of 4 MiB, and a handful of batches of 4 MiB.
//!
//! A row passes predicate and shard first (what is filtered out may be as bad as it likes), then its vector is checked,
//! then its id; the first row with an id keeps it. Rows that fail end the reading or, if the job says so, are
//! skipped and stand in a table of rejects.

mod columns;
mod dataset;
mod digest;
pub mod embed;
mod error;
mod files;
mod foreign;
mod import;
#[cfg(feature = "polars")]
mod polars_bridge;
mod predicate;
mod queries;
mod rejects;
mod row_ids;
mod scan;
mod shard;
mod size;
mod summary;
mod validate;
mod vector_files;
mod windows;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_schema::Schema;
use arrow_select::filter::FilterBuilder;
use tokio::runtime::Handle;

use crate::store::StoreOptions;
use crate::vectors::{Metric, VectorBuf};

use columns::{Columns, record_batch};
use dataset::Gathering;
use foreign::{Staged, Staging, Wanted};
use predicate::Predicate;
use rejects::Rejects;
use row_ids::SeenIds;
use scan::{ParquetFile, Scan, ScannedBatch};
use validate::VectorColumn;

pub use dataset::{Dataset, HoldOut, RowCounts};
pub use error::{Result, SourceError};
pub use foreign::{ALL_COLUMNS, FOREIGN_SCHEMES, ForeignError, ForeignOptions, Watch, uri_problem};
pub use import::{Imported, import};
pub use queries::{GroundTruth, QuerySpec, read_ground_truth, read_queries};
pub use rejects::write_rejects;
pub use shard::{Shard, ShardError};
pub use size::{IdWidth, SourceSize};
pub use summary::AttributeSummary;
pub use validate::BadRow;
pub use vector_files::{
    Table, VectorFile, VectorFileError, VectorFormat, read_hdf5_base, read_neighbor_file, read_vector_file,
};

#[cfg(feature = "polars")]
pub(crate) use polars_bridge::to_frame;

/// Dimensions that a vector may have: 1 to this. Beyond every embedding model there is, and small enough that
/// `rows × dim` of a batch cannot overflow.
pub const MAX_DIM: usize = 65_536;

/// Rows of one segment: ordinals are u32, and the highest means "none".
const MAX_ROWS: u64 = u32::MAX as u64;

/// What a bad row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Ends the reading with an error that names it.
    #[default]
    Fail,
    /// Is left out, and stands in [`Dataset::rejects`].
    Skip,
}

/// What to read and how.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// Files, folders or patterns, e.g. `data/*.parquet`; read in this order, the matches of each by path.
    pub uris: Vec<String>,
    pub vector_column: String,
    /// Default: a row's number over the concatenation of all files, from 0, counted before filtering.
    pub id_column: Option<String>,
    /// Kept with the rows. [`ALL_COLUMNS`] alone: whatever the first file has that can be kept.
    pub attribute_columns: Vec<String>,
    /// Of these, the ones that no row may lack.
    pub required_columns: Vec<String>,
    /// An SQL expression; rows for which it is not true are filtered out. It may name columns that are not kept.
    pub predicate: Option<String>,
    /// Only rows of this shard; the others are filtered out.
    pub shard: Option<Shard>,
    pub on_bad_row: OnBadRow,
    /// Default: what the column's type fixes, or else the commonest length in the first batch.
    pub dim: Option<usize>,
    pub metric: Metric,
    /// How to reach the stores of `uris`.
    pub store: StoreOptions,
    /// For `uris` that are not Parquet.
    pub foreign: ForeignOptions,
}

impl SourceSpec {
    /// One URI, no ids, attributes or predicate; bad rows fail.
    pub fn new(uri: &str, vector_column: &str, metric: Metric) -> Self {
        Self {
            uris: vec![uri.into()],
            vector_column: vector_column.into(),
            id_column: None,
            attribute_columns: Vec::new(),
            required_columns: Vec::new(),
            predicate: None,
            shard: None,
            on_bad_row: OnBadRow::Fail,
            dim: None,
            metric,
            store: StoreOptions::default(),
            foreign: ForeignOptions::default(),
        }
    }

    /// Whether anything has to be staged before it can be opened.
    pub fn is_foreign(&self) -> bool {
        self.uris.iter().any(|uri| foreign::kind(uri, &self.foreign).is_some())
    }
}

/// A file that a source reads, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InputFile {
    pub uri: String,
    pub size_bytes: u64,
    pub e_tag: Option<String>,
    pub rows: u64,
}

/// An opened source: files found, footers read, columns, types and predicate checked; none of the data read.
pub struct Source {
    spec: SourceSpec,
    columns: Columns,
    predicate: Option<Predicate>,
    files: Arc<Vec<ParquetFile>>,
    inputs: Vec<InputFile>,
    runtime: Handle,
    /// Files that go when nobody reads them any more.
    _staged: Vec<Staged>,
}

impl Source {
    /// Blocks on the runtime, which must be a multi-threaded one with timers and network; so this, and everything after it, must not be
    /// called from asynchronous code.
    pub fn open(spec: SourceSpec, runtime: &Handle) -> Result<Source> {
        Self::open_watched(spec, runtime, &|_, _| ControlFlow::Continue(()))
    }

    /// [`Source::open`], which reads what is not Parquet to its end: `watch` is told rows and bytes of it, and may end it
    /// ([`SourceError::Cancelled`]).
    pub fn open_watched(mut spec: SourceSpec, runtime: &Handle, watch: Watch<'_>) -> Result<Source> {
        let mut predicate = spec.predicate.as_deref().map(Predicate::parse).transpose()?;
        let named = predicate.as_ref().map_or(&[][..], Predicate::columns);
        let (files, staged) = open_files(&spec, named, runtime, watch)?;
        let first = files.first().expect("resolve names at least one file");
        if spec.attribute_columns == [ALL_COLUMNS] {
            spec.attribute_columns = columns::all_attributes(&spec, first.metadata.schema());
        }
        let mut columns = Columns::resolve(&spec, named, first.uri(), first.metadata.schema())?;
        for file in &files[1..] {
            columns.check(first.uri(), file.uri(), file.metadata.schema())?;
        }
        if let Some(predicate) = &mut predicate {
            predicate.bind(&columns.predicate)?;
        }
        let mut inputs: Vec<InputFile> = files.iter().map(InputFile::of).collect();
        for input in &mut inputs {
            if let Some(staged) = staged.iter().find(|staged| staged.name == input.uri) {
                input.e_tag.clone_from(&staged.e_tag);
            }
        }
        if inputs.iter().all(|input| input.rows == 0) {
            let first_file = first.uri().into();
            return Err(SourceError::NoRows { files: files.len(), first_file });
        }
        Ok(Source {
            spec,
            columns,
            predicate,
            files: Arc::new(files),
            inputs,
            runtime: runtime.clone(),
            _staged: staged,
        })
    }

    /// Rows of all files, before filtering.
    pub fn rows_upper_bound(&self) -> u64 {
        self.inputs.iter().map(|input| input.rows).sum()
    }

    /// From the spec or a FixedSizeList; `None` for lists until they are read.
    pub fn dim(&self) -> Option<usize> {
        self.columns.dim
    }

    /// Names and types of the attributes, as rows will have them.
    pub fn attributes(&self) -> &Schema {
        &self.columns.attributes
    }

    pub fn inputs(&self) -> &[InputFile] {
        &self.inputs
    }

    /// A blake3 of the inputs' URIs, sizes and e-tags: what a stage that depends on them may be named after.
    pub fn inputs_digest(&self) -> String {
        digest::of_inputs(&self.inputs)
    }

    /// Streams the rows.
    pub fn batches(self) -> Result<Batches> {
        let roots = self.files.iter().map(|file| self.columns.roots(file.metadata.schema())).collect();
        let scan = Scan::start(self.files.clone(), roots, &self.runtime)?;
        Ok(Batches {
            scan: Some(scan),
            dim: self.columns.dim,
            first_rows: first_row_numbers(&self.files),
            seen: SeenIds::default(),
            rejects: Rejects::default(),
            counts: RowCounts::default(),
            bytes_read: 0,
            source: self,
        })
    }

    /// Reads everything into memory. `progress` is told rows and bytes read so far, and may end the reading
    /// ([`SourceError::Cancelled`]).
    pub fn read_all(self, progress: &dyn Fn(u64, u64) -> ControlFlow<()>) -> Result<Dataset> {
        self.gather(None, progress)
    }

    /// [`Source::read_all`] for vectors that memory is to have no part in: they are written to `vectors` as they come, row after
    /// row, little-endian, and the dataset has none.
    pub fn read_into(
        self,
        vectors: &mut dyn io::Write,
        progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
    ) -> Result<Dataset> {
        self.gather(Some(vectors), progress)
    }

    fn gather(
        self,
        mut elsewhere: Option<&mut dyn io::Write>,
        progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
    ) -> Result<Dataset> {
        let attributes = self.columns.attributes.clone();
        let mut gathering = Gathering::new(&attributes);
        if elsewhere.is_none() {
            gathering.reserve(self.rows_upper_bound(), self.dim());
        }
        let mut batches = self.batches()?;
        while let Some(batch) = batches.next() {
            gathering.push(batch?, elsewhere.as_deref_mut())?;
            if batches.counts.kept > MAX_ROWS {
                return Err(SourceError::TooManyRows { limit: MAX_ROWS });
            }
            if progress(batches.counts.read, batches.bytes_read()).is_break() {
                return Err(SourceError::Cancelled);
            }
        }
        let Some(dim) = batches.dim.filter(|_| batches.counts.kept > 0) else {
            return Err(batches.nothing_kept());
        };
        let (vectors, ids, attributes) = gathering.finish(&attributes, dim)?;
        let (counts, rejects, inputs) = batches.finish()?;
        Ok(Dataset { vectors, ids, attributes, counts, rejects, inputs })
    }
}

/// The files of `spec`'s URIs, in their order; what is not Parquet is staged first.
fn open_files(
    spec: &SourceSpec,
    named: &[String],
    runtime: &Handle,
    watch: Watch<'_>,
) -> Result<(Vec<ParquetFile>, Vec<Staged>)> {
    if !spec.is_foreign() {
        let files =
            runtime.block_on(async { scan::open(files::resolve(&spec.uris, &spec.store).await?).await })?;
        return Ok((files, Vec::new()));
    }
    let others = || spec.attribute_columns.iter().chain(named).cloned().collect();
    let wanted = Wanted {
        vector: spec.vector_column.clone(),
        id: spec.id_column.clone(),
        others: (spec.attribute_columns != [ALL_COLUMNS]).then(others),
        text: spec.foreign.embed.as_ref().map(|embed| embed.text.clone()),
    };
    let staging = Staging { spec, wanted, runtime, watch };
    let (mut files, mut staged) = (Vec::new(), Vec::new());
    let open = |uri: &str| {
        runtime.block_on(async { scan::open(files::resolve(&[uri.into()], &spec.store).await?).await })
    };
    for uri in &spec.uris {
        let Some(kind) = foreign::kind(uri, &spec.foreign) else {
            files.extend(open(uri)?);
            continue;
        };
        let made = staging.stage(uri, kind, &staged)?;
        for mut file in open(&made.path.to_string_lossy())? {
            file.name = Some(made.name.clone());
            files.push(file);
        }
        staged.push(made);
    }
    Ok((files, staged))
}

impl InputFile {
    fn of(file: &ParquetFile) -> Self {
        Self {
            uri: file.uri().into(),
            size_bytes: file.object.size_bytes,
            e_tag: file.object.e_tag.clone(),
            rows: file.rows(),
        }
    }
}

/// The number of the first row of each (file, row group) in the concatenation of all files.
fn first_row_numbers(files: &[ParquetFile]) -> HashMap<(usize, usize), u64> {
    let mut next = 0;
    let mut first_rows = HashMap::new();
    for (file, parquet) in files.iter().enumerate() {
        for (row_group, metadata) in parquet.metadata.metadata().row_groups().iter().enumerate() {
            first_rows.insert((file, row_group), next);
            next += metadata.num_rows() as u64;
        }
    }
    first_rows
}

/// Kept rows, in order; as many in `ids` and `attributes` as in `vectors`, possibly none.
#[derive(Debug)]
pub struct RowBatch {
    /// For cosine, normalised.
    pub vectors: VectorBuf,
    /// Int64, UInt64, Utf8 or FixedSizeBinary(16), without nulls.
    pub ids: ArrayRef,
    pub attributes: RecordBatch,
}

/// A column that no row may lack, and where rows do.
struct Required {
    column: String,
    nulls: NullBuffer,
}

/// The stream of a source's kept rows. After an error it ends. Dropping it stops the reading.
pub struct Batches {
    source: Source,
    scan: Option<Scan>,
    dim: Option<usize>,
    first_rows: HashMap<(usize, usize), u64>,
    seen: SeenIds,
    rejects: Rejects,
    counts: RowCounts,
    bytes_read: u64,
}

impl Iterator for Batches {
    type Item = Result<RowBatch>;

    fn next(&mut self) -> Option<Result<RowBatch>> {
        loop {
            let scan = self.scan.as_mut()?;
            let scanned = scan.next();
            self.bytes_read = scan.bytes_read();
            let checked = match scanned {
                None => {
                    self.scan = None;
                    return None;
                }
                Some(Ok(scanned)) => self.check(&scanned),
                Some(Err(error)) => Err(error),
            };
            match checked {
                // Nothing but null vectors so far: there is no dimension to give a batch.
                Ok(None) => {}
                Ok(Some(batch)) => return Some(Ok(batch)),
                Err(error) => {
                    self.scan = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Batches {
    /// What became of the rows read so far.
    pub fn counts(&self) -> &RowCounts {
        &self.counts
    }

    /// Bytes fetched from the store so far.
    pub fn bytes_read(&self) -> u64 {
        self.scan.as_ref().map_or(self.bytes_read, Scan::bytes_read)
    }

    /// Once the stream has ended: counts, rejected rows and the files they are from.
    pub fn finish(self) -> Result<(RowCounts, Option<RecordBatch>, Vec<InputFile>)> {
        let rejects = self.rejects.finish(|file| &self.source.inputs[file].uri)?;
        Ok((self.counts, rejects, self.source.inputs))
    }

    fn check(&mut self, scanned: &ScannedBatch) -> Result<Option<RowBatch>> {
        let rows = &scanned.rows;
        let vectors = rows.column_by_name(&self.source.columns.vector);
        let vectors = vectors.and_then(VectorColumn::new).ok_or_else(|| SourceError::Damaged {
            file: self.source.inputs[scanned.file].uri.clone(),
            row_group: scanned.row_group,
            what: format!("the decoder returned no vectors `{}`", self.source.columns.vector),
        })?;
        let of_interest = match &self.source.predicate {
            Some(predicate) => Some(predicate.evaluate(&self.source.columns.predicate(rows)?)?),
            None => None,
        };
        let ids = self.ids(scanned)?;
        let shard = self.source.spec.shard;
        let is_filtered_out = |row: usize| {
            of_interest.as_ref().is_some_and(|keep| !keep.value(row))
                || shard.is_some_and(|shard| !shard.has(ids.as_ref(), row))
        };
        if self.dim.is_none() {
            self.dim = commonest_len(&vectors, is_filtered_out);
            if let Some(dim) = self.dim.filter(|&dim| dim > MAX_DIM) {
                return Err(SourceError::DimensionLimit { dim });
            }
        }
        let required = self.required(rows);

        let mut data = Vec::with_capacity(vectors.len() * self.dim.unwrap_or(0));
        let mut kept = BooleanBufferBuilder::new(vectors.len());
        let already_kept = self.counts.kept;
        for row in 0..vectors.len() {
            let keep = if is_filtered_out(row) {
                self.counts.filtered_out += 1;
                false
            } else {
                match self.check_row(&vectors, (ids.as_ref(), &required), row, &mut data) {
                    Ok(()) => true,
                    Err(reason) => {
                        self.reject(scanned, row, row_ids::text(ids.as_ref(), row), reason)?;
                        false
                    }
                }
            };
            self.counts.kept += u64::from(keep);
            kept.append(keep);
        }
        self.counts.read += vectors.len() as u64;

        let Some(dim) = self.dim else { return Ok(None) };
        let kept = FilterBuilder::new(&BooleanArray::new(kept.finish(), None)).optimize().build();
        let attributes = self.source.columns.attributes(rows)?;
        let columns = attributes.columns().iter().map(|column| kept.filter(column));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let count = (self.counts.kept - already_kept) as usize;
        Ok(Some(RowBatch {
            vectors: VectorBuf::new(data, dim),
            ids: kept.filter(&ids)?,
            attributes: record_batch(&self.source.columns.attributes, columns, count)?,
        }))
    }

    /// The columns that no row may lack, where rows of this batch do.
    fn required(&self, rows: &RecordBatch) -> Vec<Required> {
        let of = |column: &String| {
            let nulls = rows.column_by_name(column)?.logical_nulls()?;
            Some(Required { column: column.clone(), nulls })
        };
        self.source.spec.required_columns.iter().filter_map(of).collect()
    }

    /// Appends the row's vector to `data` and takes its id, if there is nothing wrong with it.
    fn check_row(
        &mut self,
        vectors: &VectorColumn<'_>,
        (ids, required): (&dyn Array, &[Required]),
        row: usize,
        data: &mut Vec<f32>,
    ) -> Result<(), BadRow> {
        let start = data.len();
        // With no dimension yet, every vector of the batch is null or empty: no length fits.
        vectors.push_row(row, self.dim.unwrap_or(0), self.source.spec.metric, data)?;
        let lacking = required.iter().find(|required| required.nulls.is_null(row));
        let id = if let Some(Required { column, .. }) = lacking {
            Err(BadRow::NullAttribute { column: column.clone() })
        } else if ids.is_null(row) {
            Err(BadRow::NullId)
        } else if self.source.columns.id.is_some() && !self.seen.insert(ids, row) {
            Err(BadRow::DuplicateId)
        } else {
            Ok(())
        };
        if id.is_err() {
            data.truncate(start);
        }
        id
    }

    fn reject(
        &mut self,
        scanned: &ScannedBatch,
        row: usize,
        id: Option<String>,
        reason: BadRow,
    ) -> Result<()> {
        let row = scanned.first_row + row as u64;
        if self.source.spec.on_bad_row == OnBadRow::Fail {
            let file = self.source.inputs[scanned.file].uri.clone();
            return Err(SourceError::BadRow { file, row_group: scanned.row_group, row, id, reason });
        }
        *self.counts.rejected.entry(reason.name().into()).or_default() += 1;
        self.rejects.push(scanned.file, scanned.row_group, row, id, reason);
        Ok(())
    }

    fn ids(&self, scanned: &ScannedBatch) -> Result<ArrayRef> {
        if let Some(ids) = self.source.columns.ids(&scanned.rows)? {
            return Ok(ids);
        }
        let first = (self.first_rows[&(scanned.file, scanned.row_group)] + scanned.first_row) as i64;
        Ok(Arc::new(Int64Array::from_iter_values(first..first + scanned.rows.num_rows() as i64)))
    }

    fn nothing_kept(&self) -> SourceError {
        let reasons: Vec<String> =
            self.counts.rejected.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        SourceError::NothingKept {
            read: self.counts.read,
            filtered_out: self.counts.filtered_out,
            rejected: self.counts.rejected_total(),
            detail: if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) },
        }
    }
}

/// The commonest length of the vectors that are there, so that one broken row at the start does not make all
/// others wrong; among equally common ones the first to occur.
fn commonest_len(vectors: &VectorColumn<'_>, is_filtered_out: impl Fn(usize) -> bool) -> Option<usize> {
    let mut lengths = HashMap::<usize, (usize, Reverse<usize>)>::new();
    for row in (0..vectors.len()).filter(|&row| !is_filtered_out(row)) {
        if let Some(len) = vectors.row_len(row).filter(|&len| len > 0) {
            lengths.entry(len).or_insert((0, Reverse(row))).0 += 1;
        }
    }
    lengths.into_iter().max_by_key(|&(_, rank)| rank).map(|(len, _)| len)
}
