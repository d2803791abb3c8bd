//! Opens a published version read-only and searches it: what a service links. Links no wgpu, no polars, no Parquet,
//! and never writes.
//!
//! ```no_run
//! use annvil::loader::{Answers, Filter, Index, Query};
//! use annvil::vectors::VectorView;
//!
//! let index = Index::open("out/news")?;
//! let query = Query::new(10).filter(Filter::parse("lang = 'en' AND year >= 2020")?).attributes(["title"]);
//! // Once for many searches: the filter is evaluated here.
//! let prepared = index.prepare(&query)?;
//! let mut answers = Answers::new();
//! let vector = vec![0.1; index.dim()];
//! prepared.search(VectorView::new(&vector, index.dim()), &mut answers)?;
//! for &found in answers.of(0) {
//!     let hit = index.hit(found);
//!     println!("{} {}", hit.id, hit.distance);
//! }
//! # Ok::<(), annvil::Error>(())
//! ```
//!
//! [`Shards`] asks several indexes as one; [`Watched`] follows an index's versions; [`OpenOptions`] says where the
//! bytes live.

mod answers;
mod attributes;
mod families;
mod filter;
mod lazy;
mod open;
mod partitions;
mod query;
mod rows;
mod search;
mod segments;
mod shards;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

pub use crate::index::RowMask;
pub use answers::{Answers, Match};
pub use attributes::{in_utc, json_value, own_column};
pub use families::{assemble, effort_name};
pub use filter::{Bound, Condition, Constant, Filter, FilterError, Position, ROW_ID, TextTest};
pub use open::{Check, OpenOptions, Residence};
pub use partitions::EXACT_PARTITION_ROWS;
pub use query::{Effort, Query, QueryError, SearchOptions, StoreFailure};
pub use rows::told as told_columns;
pub use search::{Prepared, Way};
pub use segments::Segments;
pub use shards::{PreparedShards, Shards};
pub use watch::{Consistency, Refresh, Refused, Watch, Watched};

use self::attributes::AttributeColumns;
use self::filter::{Columns, FilterCache};
use self::lazy::Lazy;
use self::open::Checking;
use self::partitions::Partitioned;
use self::rows::Rows;
use self::search::{Limit, Sessions};
use self::segments::Exact;
use crate::artifact::{FetchStats, Fetching, Manifest, TensorError};
use crate::compute::cpu::kernels;
use crate::index::{SearchIndex, SearchParams, Searcher};
use crate::store::{Artifact, StoreError};
use crate::vectors::{Metric, RowId, RowIds, VectorBuf, VectorView};

/// Up to this many rows every search is exact: comparing a query with all of them takes less than a tenth of a
/// millisecond for most dimensions, and nothing can be missed.
pub const EXACT_ROWS: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("index kind `{got}` is not one that this version knows: {known}")]
    Kind { got: String, known: &'static str },
    #[error("the sections do not make an index: {0}")]
    Tensor(#[from] TensorError),
    #[error("the manifest and the sections disagree: {what}: expected {expected}, got {got}")]
    Mismatch { what: &'static str, expected: String, got: String },
    /// An index that cannot be asked beside another, or in its place.
    #[error("{what}: expected {expected}, got {got}")]
    Unlike { what: &'static str, expected: String, got: String },
    #[error("the index takes {needed} bytes of memory, {over} more than the limit of {limit}")]
    Memory { needed: u64, limit: u64, over: u64 },
    #[error("`{uri}` cannot be mapped: only indexes in local files can")]
    NotLocal { uri: String },
    /// The latest version, where no older one would do.
    #[error("version {version}, the latest, was not taken, version {current} is still there: {reason}")]
    Refused { version: u64, current: u64, reason: std::sync::Arc<LoadError> },
    #[error("shards: expected 1 index or more, got none")]
    NoShards,
}

/// An open version of an index. Shareable between threads; never changes.
pub struct Index {
    artifact: Arc<Artifact>,
    family: Arc<dyn SearchIndex>,
    /// The same rows searched exactly, where there are few or the search asks for it.
    exact: Option<Exact>,
    /// What `family` is where there are several segments, or rows that are no longer there.
    segments: Option<Arc<Segments>>,
    ids: RowIds,
    attributes: AttributeColumns,
    /// Where the index is partitioned.
    partitions: Option<Partitioned>,
    /// The rows that are there; `None` where all are.
    live: Option<Arc<RowMask>>,
    sessions: Sessions,
    filters: FilterCache,
    /// Where the files were not checked before.
    checking: Option<Checking>,
    /// Where the index is lazy.
    lazy: Option<Lazy>,
}

/// A found row.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub id: RowId,
    /// The row's place in the index: for [`Index::attributes`].
    pub ordinal: u32,
    /// As [`Metric`] defines it; smaller is nearer.
    pub distance: f32,
    /// For cosine and inner product; larger is nearer.
    pub similarity: Option<f32>,
}

impl Index {
    /// Opens the latest version of the index at `<root>/<index>`. Reads all of it, and checks all that it reads; for
    /// other ways see [`OpenOptions`].
    ///
    /// # Errors
    /// Whatever is missing, damaged or not understood, with its place.
    pub fn open(uri: &str) -> Result<Self, LoadError> {
        OpenOptions::new().open(uri)
    }

    /// Opens a version, the latest if none is named.
    pub fn open_version(uri: &str, version: Option<u64>) -> Result<Self, LoadError> {
        let options = OpenOptions::new();
        version.map_or(options.clone(), |version| options.version(version)).open(uri)
    }

    /// Opens what an artifact holds.
    pub fn of(artifact: Artifact) -> Result<Self, LoadError> {
        OpenOptions::new().open_artifact(artifact)
    }

    fn assembled(artifact: Artifact, filter_cache_bytes: usize) -> Result<Self, LoadError> {
        let rows = Rows::of(&artifact)?;
        Self::of_rows(artifact, rows, filter_cache_bytes)
    }

    fn of_rows(artifact: Artifact, rows: Rows, filter_cache_bytes: usize) -> Result<Self, LoadError> {
        let Rows { family, segments, exact, ids, attributes, partitions, live } = rows;
        agrees("ids", family.rows() as u64, ids.len() as u64)?;
        Ok(Self {
            artifact: Arc::new(artifact),
            family,
            exact,
            segments,
            ids,
            attributes,
            partitions,
            live,
            sessions: Sessions::default(),
            filters: FilterCache::new(filter_cache_bytes),
            checking: None,
            lazy: None,
        })
    }

    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// What the owner of its key calls that, of an encrypted index: it is in memory or lazy, and never mapped.
    pub fn key_id(&self) -> Option<&str> {
        self.artifact.key_id()
    }

    pub fn version(&self) -> u64 {
        self.artifact.version()
    }

    /// Ordinals are below this. Some of them may be of rows that were deleted, see [`live`](Self::live).
    pub fn rows(&self) -> usize {
        self.family.rows()
    }

    /// Rows that a search can find.
    pub fn live_rows(&self) -> usize {
        self.live.as_ref().map_or(self.rows(), |live| live.count())
    }

    /// The rows that a search can find; `None` where that is all of them.
    pub fn live(&self) -> Option<&RowMask> {
        self.live.as_deref()
    }

    /// Whether a search can find a row.
    pub fn is_live(&self, ordinal: u32) -> bool {
        (ordinal as usize) < self.rows() && self.live.as_ref().is_none_or(|live| live.contains(ordinal))
    }

    /// The ordinals of the rows that a search can find, ascending.
    pub fn live_ordinals(&self) -> Vec<u32> {
        self.live.as_ref().map_or_else(|| (0..self.rows() as u32).collect(), |live| live.iter().collect())
    }

    pub fn dim(&self) -> usize {
        self.family.dim()
    }

    pub fn metric(&self) -> Metric {
        self.family.metric()
    }

    /// By ordinal. A row that was deleted has its id still, and is not found by it.
    pub fn ids(&self) -> &RowIds {
        &self.ids
    }

    /// The attribute columns, a row per ordinal; also `None` where the index is lazy and was not opened
    /// [with them](OpenOptions::whole_attributes): see [`attribute_schema`](Self::attribute_schema) and
    /// [`fetch_attributes`](Self::fetch_attributes).
    pub fn attributes(&self) -> Option<&RecordBatch> {
        match &self.attributes {
            AttributeColumns::Here(batch) => Some(batch),
            AttributeColumns::None | AttributeColumns::Ranged(_) => None,
        }
    }

    /// The names and types of the attribute columns, where there are any.
    pub fn attribute_schema(&self) -> Option<&SchemaRef> {
        self.attributes.schema()
    }

    /// As [`attributes`](Self::attributes), read if they are not here.
    ///
    /// # Errors
    /// [`QueryError::Store`], [`QueryError::Damaged`].
    pub fn fetch_attributes(&self) -> Result<Option<RecordBatch>, QueryError> {
        let Some(schema) = self.attribute_schema() else { return Ok(None) };
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Ok(Some(self.columns(&all, None)?.0))
    }

    /// Some attribute columns, by their places, and what was fetched for that.
    fn columns(
        &self,
        places: &[usize],
        limit: Option<Limit>,
    ) -> Result<(RecordBatch, FetchStats), QueryError> {
        let end = limit.and_then(|limit| limit.end);
        let mut fetching = Fetching { end, ..Fetching::default() };
        match self.attributes.project(places, &mut fetching) {
            Ok(batch) => Ok((batch, fetching.stats)),
            Err(error) => Err(QueryError::of_fetch(&error, limit.map(|limit| limit.timeout), [0, 0])),
        }
    }

    /// The vector of a row as the index keeps it (for cosine normalised), where it does. Also `None` where it could not be
    /// read: see [`fetch_vector`](Self::fetch_vector).
    pub fn vector(&self, ordinal: u32) -> Option<Vec<f32>> {
        self.fetch_vector(ordinal).ok().flatten()
    }

    /// The vector of a row as the index keeps it, where it does, read if it is not here.
    ///
    /// # Errors
    /// [`QueryError::Store`], [`QueryError::Damaged`].
    ///
    /// # Panics
    /// If there is no such row.
    pub fn fetch_vector(&self, ordinal: u32) -> Result<Option<Vec<f32>>, QueryError> {
        Ok(self.fetch_vectors(&[ordinal], None)?.map(|rows| rows.row(0).to_vec()))
    }

    /// The vectors of some rows, in this order, as [`fetch_vector`](Self::fetch_vector) has each: those that are not here are read
    /// in one round trip, which has to end at `end`. `None` where one of them is not kept.
    ///
    /// # Errors
    /// [`QueryError::Store`], [`QueryError::Damaged`], [`QueryError::TimeOut`].
    ///
    /// # Panics
    /// If there is no such row.
    pub fn fetch_vectors(
        &self,
        ordinals: &[u32],
        end: Option<Instant>,
    ) -> Result<Option<VectorBuf>, QueryError> {
        let mut values = Vec::with_capacity(ordinals.len() * self.dim());
        if let Some(segments) = &self.segments {
            let are_kept = ordinals.iter().all(|&row| segments.push_vector(row, &mut values));
            return Ok(are_kept.then(|| VectorBuf::new(values, self.dim())));
        }
        let Some(kept) = self.family.kept() else { return Ok(None) };
        if kept.is_ranged() {
            let rows = kept.rows();
            assert!(ordinals.iter().all(|&row| (row as usize) < rows), "{ordinals:?} of {rows} rows");
            let start = Instant::now();
            let read = kept.fetch(ordinals, &mut Fetching { end, ..Fetching::default() });
            let read = read.map_err(|error| {
                let timeout = end.map(|end| end.saturating_duration_since(start));
                QueryError::of_fetch(&error, timeout, [0, 0])
            })?;
            (0..ordinals.len() as u32).for_each(|place| read.push_to(place, &mut values));
        } else {
            ordinals.iter().for_each(|&row| kept.push_to(row, &mut values));
        }
        Ok(Some(VectorBuf::new(values, self.dim())))
    }

    /// Whether the vectors of all rows are kept: whether rows can be searched for by id, and exactly.
    pub fn keeps_vectors(&self) -> bool {
        self.exact.is_some()
    }

    /// The distance of each of `rows` from `vector`, by the kernels that searches compare with. All of them as the index keeps
    /// its own: for cosine of unit length.
    ///
    /// # Panics
    /// If they are of other dimensions, or `out` is not one for each row.
    pub fn distances(&self, vector: &[f32], rows: VectorView<'_>, out: &mut [f32]) {
        assert_eq!((vector.len(), rows.dim(), rows.rows()), (self.dim(), self.dim(), out.len()));
        kernels().distance_rows(self.metric(), vector, rows.as_slice(), out);
    }

    /// What was asked of the store to open the index, where it is lazy; nothing otherwise.
    pub fn fetched_at_open(&self) -> FetchStats {
        self.lazy.as_ref().map_or(FetchStats::default(), |lazy| lazy.opened)
    }

    /// What was asked of the store since the index was opened, by all threads, where it is lazy. Each thread's
    /// round trips count.
    pub fn fetched(&self) -> FetchStats {
        self.lazy.as_ref().map_or(FetchStats::default(), |lazy| lazy.reader.stats())
    }

    /// Bytes of the blocks that are kept in memory, where the index is lazy.
    pub fn cached_bytes(&self) -> u64 {
        self.lazy.as_ref().map_or(0, |lazy| lazy.reader.kept_bytes())
    }

    /// What the effort of a search is called here, see [`SearchIndex::effort_name`].
    pub fn effort_name(&self) -> Option<&'static str> {
        self.family.effort_name()
    }

    /// The settings that a certificate would measure, see [`SearchIndex::ladder`].
    pub fn ladder(&self, k: usize) -> Vec<SearchParams> {
        self.family.ladder(k)
    }

    /// What a check in the background has found: `None` while it goes on. Of files that were checked when they were
    /// opened there is nothing to find.
    pub fn damage(&self) -> Option<&[StoreError]> {
        self.checking.as_ref().map_or(Some(&[]), Checking::damage)
    }

    /// As [`damage`](Self::damage), once the check is done.
    pub fn wait_for_check(&self) -> &[StoreError] {
        self.checking.as_ref().map_or(&[], Checking::wait)
    }

    /// One thread's session, below ids and checks: for callers that prepare their queries themselves (of the index's
    /// dimension, finite and, for cosine, normalised) and read ordinals. Allocates nothing per query after warm-up. Of a lazy
    /// index they ask [`Searcher::fetched`] after each call.
    pub fn searcher(&self) -> Box<dyn Searcher> {
        self.family.clone().searcher()
    }

    /// The segments, where there are several, or rows that were deleted.
    pub fn segments(&self) -> Option<&Segments> {
        self.segments.as_deref()
    }

    /// Each segment's index, below ids, checks and tombstones.
    pub fn segment_indexes(&self) -> Vec<Arc<dyn SearchIndex>> {
        match &self.segments {
            Some(segments) => segments.indexes().cloned().collect(),
            None => vec![self.family.clone()],
        }
    }

    /// The setting that `options` come to: (`nprobe` or `ef_search`, refine); `None` for an exact search.
    pub fn setting(&self, options: &SearchOptions) -> Result<Option<SearchParams>, QueryError> {
        query::setting(self, options)
    }

    /// The rows that pass a filter, and are there. Evaluated once for each filter that is in use, see
    /// [`OpenOptions::filter_cache_bytes`] and [`Filter::passing`].
    pub fn mask(&self, filter: &Filter) -> Result<Arc<RowMask>, FilterError> {
        let mask = self.mask_within(filter, None).map(|(mask, _)| mask);
        mask.map_err(|error| match error {
            QueryError::Filter(error) => error,
            QueryError::Store(failure) => FilterError::Store(failure),
            other => FilterError::Damaged(other.to_string()),
        })
    }

    /// As [`mask`](Self::mask), by the `end`: it is looked at between the conditions of the filter.
    ///
    /// # Errors
    /// Beside those of `mask`, [`QueryError::TimeOut`].
    pub fn mask_until(&self, filter: &Filter, end: Instant) -> Result<Arc<RowMask>, QueryError> {
        let limit = Limit::of(Instant::now(), None, Some(end));
        self.mask_within(filter, limit).map(|(mask, _)| mask)
    }

    /// The same, with a limit to how long columns may be read and looked through; and what was fetched.
    fn mask_within(
        &self,
        filter: &Filter,
        limit: Option<Limit>,
    ) -> Result<(Arc<RowMask>, FetchStats), QueryError> {
        let (columns, fetched) = match &self.attributes {
            AttributeColumns::None => (None, FetchStats::default()),
            AttributeColumns::Here(batch) => (Some(batch.clone()), FetchStats::default()),
            AttributeColumns::Ranged(columns) => {
                let named = filter.columns_named(&self.ids, columns.schema())?;
                let (batch, fetched) = self.columns(&named, limit)?;
                (Some(batch), fetched)
            }
        };
        let end = limit.and_then(|limit| limit.end);
        let columns = Columns::new(&self.ids, columns.as_ref()).until(end);
        match self.mask_of(filter, &columns) {
            Ok(mask) => Ok((mask, fetched)),
            Err(FilterError::TimeOut) => {
                let timeout = limit.map(|limit| limit.timeout).unwrap_or_default();
                Err(QueryError::TimeOut { timeout, answered: 0, queries: 0 })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn mask_of(&self, filter: &Filter, columns: &Columns<'_>) -> Result<Arc<RowMask>, FilterError> {
        let evaluate = || {
            let mask = filter.evaluate(columns)?;
            Ok(match &self.live {
                Some(live) => mask.and(live),
                None => mask,
            })
        };
        match filter.passing_parts() {
            None | Some([]) => self.filters.get(filter.text(), self.rows(), evaluate),
            Some([_]) => evaluate().map(Arc::new),
            Some([first, others @ ..]) => {
                others.iter().try_fold(self.mask_of(first, columns)?, |mask, part| {
                    Ok(Arc::new(mask.and(&*self.mask_of(part, columns)?)))
                })
            }
        }
    }

    /// Makes a query ready: resolves its setting and names, and evaluates its filter.
    ///
    /// # Errors
    /// `k` or effort 0; a recall that the certificate does not have; exact search where no vectors are kept; a filter or
    /// attributes that do not fit the index's columns; a similarity asked of a metric that has none.
    pub fn prepare(&self, query: &Query) -> Result<Prepared<'_>, QueryError> {
        self.prepare_since(Instant::now(), query)
    }

    fn prepare_since(&self, start: Instant, query: &Query) -> Result<Prepared<'_>, QueryError> {
        Prepared::new(self, query, start)
    }

    /// That no check in the background has found damage so far.
    fn check_intact(&self) -> Result<(), QueryError> {
        match self.damage() {
            Some([error, ..]) => Err(QueryError::Damaged(error.to_string())),
            _ => Ok(()),
        }
    }

    /// The nearest rows of each query: [`prepare`](Self::prepare) and [`Prepared::search`] in one.
    ///
    /// # Errors
    /// As `prepare`; a query of another dimension, with a value that is not finite, (cosine) of length 0 or (L2, inner
    /// product) longer than rows may be; a time-out.
    pub fn ask(&self, queries: VectorView<'_>, query: &Query) -> Result<Answers, QueryError> {
        let start = Instant::now();
        let mut answers = Answers::new();
        self.prepare_since(start, query)?.search_since(start, queries, &mut answers)?;
        Ok(answers)
    }

    /// As [`ask`](Self::ask), for no more than options say, with the ids.
    pub fn search(
        &self,
        queries: VectorView<'_>,
        options: &SearchOptions,
    ) -> Result<Vec<Vec<Hit>>, QueryError> {
        let answers = self.ask(queries, &options.clone().into())?;
        let hits = |found: &[Match]| found.iter().map(|&found| self.hit(found)).collect();
        Ok(answers.iter().map(hits).collect())
    }

    /// The id, distance and similarity of a match.
    ///
    /// # Panics
    /// If it is no row of this index.
    pub fn hit(&self, found: Match) -> Hit {
        let Match { distance, ordinal, .. } = found;
        Hit { id: self.ids.get(ordinal), ordinal, distance, similarity: self.metric().similarity(distance) }
    }
}

/// What the manifest says against what the sections are.
fn agrees<T: PartialEq + ToString>(what: &'static str, expected: T, got: T) -> Result<(), LoadError> {
    if expected == got {
        return Ok(());
    }
    Err(LoadError::Mismatch { what, expected: expected.to_string(), got: got.to_string() })
}

/// One index against another that is asked beside it, or in its place.
fn same<T: PartialEq + ToString>(what: &'static str, expected: T, got: T) -> Result<(), LoadError> {
    if expected == got {
        return Ok(());
    }
    Err(LoadError::Unlike { what, expected: expected.to_string(), got: got.to_string() })
}
