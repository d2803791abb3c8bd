//! What a caller can ask, and from that what a family searches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{EXACT_ROWS, Filter, FilterError, Index};
use crate::artifact::{CertificatePoint, FetchError};
use crate::index::SearchParams;
use crate::store::StoreError;
use crate::vectors::{MAX_SQUARED_NORM, Metric, RowId, VectorView, squared_norm};

#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum QueryError {
    #[error("queries have {got} dimensions, the index {expected}")]
    Dim { expected: usize, got: usize },
    #[error("query {query}: dimension {dimension} is {value}, expected a finite number")]
    NotFinite { query: usize, dimension: usize, value: f32 },
    #[error("query {query} has length 0, and cosine compares directions")]
    Zero { query: usize },
    #[error(
        "query {query}: squared norm {got:e}, expected at most {MAX_SQUARED_NORM:e}, so that f32 holds every distance"
    )]
    Magnitude { query: usize, got: f64 },
    #[error("{name} is {got}, expected {expected}")]
    Option { name: &'static str, expected: String, got: String },
    #[error("the index keeps no vectors (refine = \"none\"), so it cannot be searched exactly")]
    NoVectors,
    #[error("no setting that the certificate measured reaches recall@{k} {asked}; the best has {best:.4}")]
    Recall { k: u32, asked: f64, best: f64 },
    #[error("the index has no certificate, so it cannot be searched by recall: give the effort instead")]
    NoCertificate,
    #[error(
        "the index is not partitioned (`partition_by` in its job), so no partition of it can be searched"
    )]
    NoPartitions,
    #[error(transparent)]
    Filter(FilterError),
    #[error("no attribute is called `{column}`; there are: {known}")]
    Attribute { column: String, known: String },
    #[error("attribute `{column}` is {got} in shard {shard}, expected {expected} as in the first")]
    ShardAttribute { column: String, shard: usize, expected: String, got: String },
    #[error("the index was found to be damaged: {0}")]
    Damaged(String),
    /// Of a lazy index: what the store said to a query that needed more of it.
    #[error(transparent)]
    Store(StoreFailure),
    #[error("time-out of {timeout:?}: {answered} of {queries} queries were answered")]
    TimeOut { timeout: Duration, answered: usize, queries: usize },
}

/// A store's error that several callers may be told. Equal to another that says the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct StoreFailure(pub Arc<StoreError>);

impl PartialEq for StoreFailure {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl From<FilterError> for QueryError {
    fn from(error: FilterError) -> Self {
        match error {
            FilterError::Store(failure) => QueryError::Store(failure),
            error => QueryError::Filter(error),
        }
    }
}

/// For whoever searches below queries, without a limit.
impl From<FetchError> for QueryError {
    fn from(error: FetchError) -> Self {
        Self::of_fetch(&error, None, [0, 0])
    }
}

impl QueryError {
    /// Why a search could not have what it needs; `timeout` is what the caller gave it, and `answered` of its queries
    /// were.
    pub(super) fn of_fetch(
        error: &FetchError,
        timeout: Option<Duration>,
        [answered, queries]: [usize; 2],
    ) -> Self {
        match (StoreError::of_fetch(error), error) {
            (Some(error), _) => QueryError::Store(StoreFailure(error)),
            (None, FetchError::TimeOut) => {
                QueryError::TimeOut { timeout: timeout.unwrap_or_default(), answered, queries }
            }
            // What was published, and makes no sense.
            (None, error) => QueryError::Damaged(error.to_string()),
        }
    }
}

/// How to search. The default: ten rows, at the setting that the certificate chose.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOptions {
    /// Rows to return, 1 or more.
    pub k: usize,
    pub effort: Effort,
    /// Candidates ranked again by kept vectors; default: the certificate's choice.
    pub refine: Option<usize>,
}

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Effort {
    /// The certificate's default.
    #[default]
    Default,
    /// `nprobe` or `ef_search`, 1 or more.
    Given(usize),
    /// The cheapest setting that the certificate measured at this recall, in 0..=1.
    Recall(f64),
    /// Compare with every row.
    Exact,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { k: 10, effort: Effort::Default, refine: None }
    }
}

/// Everything that can be asked of an index, or of several as one. Not bound to an index: prepare it with
/// [`Index::prepare`] or [`Shards::prepare`](super::Shards::prepare).
///
/// ```
/// use annvil::loader::{Filter, Query};
///
/// let query = Query::new(10)
///     .recall(0.95)
///     .filter(Filter::parse("lang = 'en' AND year BETWEEN 2020 AND 2024")?)
///     .attributes(["title", "year"]);
/// # Ok::<(), annvil::loader::FilterError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    pub(super) options: SearchOptions,
    pub(super) partition: Option<RowId>,
    pub(super) filter: Option<Filter>,
    pub(super) threshold: Option<Threshold>,
    pub(super) exclude: Vec<RowId>,
    pub(super) offset: usize,
    pub(super) attributes: Attributes,
    pub(super) timeout: Option<Duration>,
    pub(super) until: Option<Instant>,
}

/// The farthest that a row may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Threshold {
    Distance(f32),
    Similarity(f32),
}

/// Which attributes come with the rows found.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Attributes {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

impl From<SearchOptions> for Query {
    fn from(options: SearchOptions) -> Self {
        Self { options, ..Self::default() }
    }
}

impl Query {
    /// For the `k` nearest rows, 1 or more, at the setting that the certificate chose.
    pub fn new(k: usize) -> Self {
        SearchOptions { k, ..SearchOptions::default() }.into()
    }

    /// Another number of rows, 1 or more.
    #[must_use]
    pub fn k(mut self, k: usize) -> Self {
        self.options.k = k;
        self
    }

    /// `nprobe` or `ef_search`, 1 or more.
    #[must_use]
    pub fn effort(mut self, effort: usize) -> Self {
        self.options.effort = Effort::Given(effort);
        self
    }

    /// The cheapest setting certified for this recall, above 0 and at most 1.
    #[must_use]
    pub fn recall(mut self, recall: f64) -> Self {
        self.options.effort = Effort::Recall(recall);
        self
    }

    /// Compares with every row, or with every row that the filter lets through.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.options.effort = Effort::Exact;
        self
    }

    /// Candidates ranked again by kept vectors.
    #[must_use]
    pub fn refine(mut self, candidates: usize) -> Self {
        self.options.refine = Some(candidates);
        self
    }

    /// Only rows of one partition: those whose value of the attribute that the index is partitioned by is `key`. A key that
    /// no row has finds nothing. Without a partition all rows are searched. Numbers and strings are taken as
    /// [`RowId::to_kind`] has it, and a string of digits for a number.
    #[must_use]
    pub fn partition(mut self, key: impl Into<RowId>) -> Self {
        self.partition = Some(key.into());
        self
    }

    /// Only rows that pass.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Only rows at most this far.
    #[must_use]
    pub fn max_distance(mut self, distance: f32) -> Self {
        self.threshold = Some(Threshold::Distance(distance));
        self
    }

    /// Only rows at least this similar, for a metric that has similarities.
    #[must_use]
    pub fn min_similarity(mut self, similarity: f32) -> Self {
        self.threshold = Some(Threshold::Similarity(similarity));
        self
    }

    /// None of these rows; an id that the index does not have excludes nothing.
    #[must_use]
    pub fn exclude(mut self, ids: impl IntoIterator<Item = RowId>) -> Self {
        self.exclude.extend(ids);
        self
    }

    /// Leaves out the nearest rows: the next page of `k`.
    #[must_use]
    pub fn offset(mut self, rows: usize) -> Self {
        self.offset = rows;
        self
    }

    /// Attributes to return with the rows.
    #[must_use]
    pub fn attributes<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.attributes = Attributes::Named(columns.into_iter().map(Into::into).collect());
        self
    }

    /// All attributes with the rows.
    #[must_use]
    pub fn all_attributes(mut self) -> Self {
        self.attributes = Attributes::All;
        self
    }

    /// How long a call may take. Looked at between tasks of a few queries and between the conditions of a filter, not within a
    /// search: a call ends soon after, not at that moment.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// When whatever is asked must end, where it takes several calls: each has what the others left, beside its own
    /// [`timeout`](Self::timeout).
    #[must_use]
    pub fn until(mut self, end: Instant) -> Self {
        self.until = Some(end);
        self
    }
}

impl Threshold {
    pub fn check(self, metric: Metric) -> Result<(), QueryError> {
        let (name, value) = match self {
            Threshold::Distance(distance) => ("maximum distance", distance),
            Threshold::Similarity(similarity) => ("minimum similarity", similarity),
        };
        if value.is_nan() {
            return Err(QueryError::Option { name, expected: "a number".into(), got: "NaN".into() });
        }
        if matches!(self, Threshold::Similarity(_)) && metric.similarity(0.0).is_none() {
            let expected = format!("a maximum distance: {metric} has no similarities");
            return Err(QueryError::Option { name, expected, got: value.to_string() });
        }
        Ok(())
    }

    pub fn admits(self, metric: Metric, distance: f32) -> bool {
        match self {
            Threshold::Distance(farthest) => distance <= farthest,
            Threshold::Similarity(least) => metric.similarity(distance).is_some_and(|got| got >= least),
        }
    }
}

/// That an index of `dim` dimensions can be asked these.
pub(super) fn check(queries: VectorView<'_>, dim: usize, metric: Metric) -> Result<(), QueryError> {
    if queries.dim() != dim {
        return Err(QueryError::Dim { expected: dim, got: queries.dim() });
    }
    if let Some(place) = queries.as_slice().iter().position(|value| !value.is_finite()) {
        let value = queries.as_slice()[place];
        return Err(QueryError::NotFinite { query: place / dim, dimension: place % dim, value });
    }
    for (query, values) in queries.iter().enumerate() {
        let got = squared_norm(values);
        match metric {
            Metric::Cosine if got == 0.0 => return Err(QueryError::Zero { query }),
            Metric::L2 | Metric::L1 | Metric::InnerProduct if got > MAX_SQUARED_NORM => {
                return Err(QueryError::Magnitude { query, got });
            }
            _ => {}
        }
    }
    Ok(())
}

/// `None` for an exact search.
pub(super) fn setting(index: &Index, options: &SearchOptions) -> Result<Option<SearchParams>, QueryError> {
    let positive = |name, value: usize| match value {
        0 => Err(QueryError::Option { name, expected: "1 or more".into(), got: "0".into() }),
        _ => Ok(value),
    };
    let k = positive("k", options.k)?.min(index.rows());
    let build = &index.manifest().build;
    // What was measured was measured for this many rows.
    let measured_k = build.certificate.as_ref().map_or(k, |certificate| certificate.target_k as usize);
    let measured = |effort: u32, refine: u32| SearchParams {
        k: measured_k,
        effort: effort as usize,
        refine: refine as usize,
    };
    let params = match options.effort {
        Effort::Exact if index.exact.is_none() => return Err(QueryError::NoVectors),
        Effort::Exact => return Ok(None),
        Effort::Default if index.exact.is_some() && index.rows() <= EXACT_ROWS => return Ok(None),
        Effort::Default => match build.search_defaults {
            Some(defaults) => measured(defaults.effort, defaults.refine).for_k(k),
            None => SearchParams { k, effort: k, refine: 0 },
        },
        Effort::Given(effort) => SearchParams { k, effort: positive("effort", effort)?, refine: 0 },
        Effort::Recall(recall) => {
            let point = at_recall(index, k, recall)?;
            measured(point.effort, point.refine).for_k(k)
        }
    };
    Ok(Some(SearchParams { refine: options.refine.unwrap_or(params.refine), ..params }))
}

/// The cheapest certified setting whose recall, at the smallest measured `k` that is not below the one asked (else at
/// the largest), reaches `recall`.
fn at_recall(index: &Index, k: usize, recall: f64) -> Result<&CertificatePoint, QueryError> {
    if !(recall > 0.0 && recall <= 1.0) {
        let expected = "above 0 and at most 1".into();
        return Err(QueryError::Option { name: "recall", expected, got: recall.to_string() });
    }
    let certificate = index.manifest().build.certificate.as_ref().ok_or(QueryError::NoCertificate)?;
    let ks = &certificate.k;
    let place = ks.iter().position(|&measured| measured as usize >= k).unwrap_or(ks.len() - 1);
    let of = |point: &CertificatePoint| point.recall[place].mean;
    match certificate.points.iter().find(|point| of(point) >= recall) {
        Some(point) => Ok(point),
        None => {
            let best = certificate.points.iter().map(of).fold(0.0, f64::max);
            Err(QueryError::Recall { k: ks[place], asked: recall, best })
        }
    }
}
