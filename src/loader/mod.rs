//! Opens a published version read-only and searches it: what a service links. Links no wgpu, no polars, no Parquet,
//! and never writes.
//!
//! ```no_run
//! use annvil::loader::{Index, SearchOptions};
//! use annvil::vectors::VectorView;
//!
//! let index = Index::open("out/glove10k-hnsw")?;
//! let query = vec![0.1; index.dim()];
//! for hit in &index.search(VectorView::new(&query, index.dim()), &SearchOptions::default())?[0] {
//!     println!("{} {}", hit.id, hit.distance);
//! }
//! # Ok::<(), annvil::Error>(())
//! ```

mod families;
mod query;

use std::sync::Arc;

use arrow_array::RecordBatch;
use rayon::prelude::*;

pub use families::{assemble, effort_name};
pub use query::QueryError;

use crate::artifact::{Manifest, TensorError};
use crate::flat::FlatIndex;
use crate::index::{SearchIndex, SearchParams, Searcher};
use crate::store::{Artifact, IndexStore, StoreError};
use crate::vectors::{Metric, RowId, RowIds, VectorView};

/// Up to this many rows every search is exact: comparing a query with all of them takes less than a tenth of a
/// millisecond for most dimensions, and nothing can be missed.
pub const EXACT_ROWS: usize = 1000;

/// Queries searched by one task.
const QUERIES_PER_TASK: usize = 16;

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
}

/// An open version of an index, all of it in memory and checked. Shareable between threads; never changes.
pub struct Index {
    artifact: Artifact,
    family: Arc<dyn SearchIndex>,
    /// The same rows searched exactly, where there are few or the search asks for it.
    exact: Option<Arc<FlatIndex>>,
    ids: RowIds,
    attributes: Option<RecordBatch>,
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
    /// Opens the latest version of the index at `<root>/<index>`.
    ///
    /// # Errors
    /// Whatever is missing, damaged or not understood, with its place.
    pub fn open(uri: &str) -> Result<Self, LoadError> {
        Self::open_version(uri, None)
    }

    /// Opens a version, the latest if none is named. Reads all of it, and checks all that it reads.
    pub fn open_version(uri: &str, version: Option<u64>) -> Result<Self, LoadError> {
        Self::of(IndexStore::open(uri)?.artifact(version)?)
    }

    /// Opens what an artifact holds.
    pub fn of(artifact: Artifact) -> Result<Self, LoadError> {
        let manifest = artifact.manifest();
        let segment = artifact.only_segment()?;
        let sections =
            segment.section_names().map(|name| segment.section(name)).collect::<Result<Vec<_>, _>>()?;
        let family = assemble(&manifest.build.kind, &sections)?;
        let ids = artifact.ids()?;
        agree("dim", u64::from(manifest.build.dim), family.dim() as u64)?;
        agree("rows", manifest.build.rows, family.rows() as u64)?;
        agree("ids", manifest.build.rows, ids.len() as u64)?;
        agree("metric", manifest.build.metric, family.metric())?;
        let exact = family.kept().map(|kept| Arc::new(FlatIndex::over(kept.clone(), family.metric())));
        let attributes = artifact.attributes()?;
        Ok(Self { artifact, family, exact, ids, attributes })
    }

    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    pub fn version(&self) -> u64 {
        self.artifact.version()
    }

    pub fn rows(&self) -> usize {
        self.family.rows()
    }

    pub fn dim(&self) -> usize {
        self.family.dim()
    }

    pub fn metric(&self) -> Metric {
        self.family.metric()
    }

    pub fn ids(&self) -> &RowIds {
        &self.ids
    }

    /// The attribute columns, a row per ordinal.
    pub fn attributes(&self) -> Option<&RecordBatch> {
        self.attributes.as_ref()
    }

    /// The vector of a row as the index keeps it (for cosine normalised), where it does.
    pub fn vector(&self, ordinal: u32) -> Option<Vec<f32>> {
        self.family.kept().map(|kept| kept.vector(ordinal))
    }

    /// What the effort of a search is called here, see [`SearchIndex::effort_name`].
    pub fn effort_name(&self) -> Option<&'static str> {
        self.family.effort_name()
    }

    /// The settings that a certificate would measure, see [`SearchIndex::ladder`].
    pub fn ladder(&self, k: usize) -> Vec<SearchParams> {
        self.family.ladder(k)
    }

    /// One thread's session, below ids and checks: for callers that prepare their queries themselves (of the index's
    /// dimension, finite and, for cosine, normalised) and read ordinals. Allocates nothing per query after warm-up.
    pub fn searcher(&self) -> Box<dyn Searcher> {
        self.family.clone().searcher()
    }

    /// The setting that `options` come to: (`nprobe` or `ef_search`, refine); `None` for an exact search.
    pub fn setting(&self, options: &SearchOptions) -> Result<Option<SearchParams>, QueryError> {
        query::setting(self, options)
    }

    /// The nearest rows of each query, nearest first; on all threads of the caller's pool. What is found does not
    /// depend on their number.
    ///
    /// # Errors
    /// A query of another dimension, with a value that is not finite, (cosine) of length 0 or (L2, inner product) longer
    /// than rows may be; `k` or effort 0; a recall that the certificate does not have; exact search where no vectors are kept.
    pub fn search(
        &self,
        queries: VectorView<'_>,
        options: &SearchOptions,
    ) -> Result<Vec<Vec<Hit>>, QueryError> {
        let setting = self.setting(options)?;
        let queries = query::prepare(queries, self.dim(), self.metric())?;
        let queries = queries.view();
        let params = setting.unwrap_or(SearchParams { k: options.k.min(self.rows()), effort: 1, refine: 0 });
        let chunks: Vec<usize> = (0..queries.rows()).step_by(QUERIES_PER_TASK).collect();
        let found: Vec<Vec<Vec<Hit>>> = chunks
            .into_par_iter()
            .map(|start| {
                let end = (start + QUERIES_PER_TASK).min(queries.rows());
                let mut searcher = match (&self.exact, setting) {
                    (Some(exact), None) => exact.clone().searcher(),
                    _ => self.family.clone().searcher(),
                };
                let mut hits = Vec::with_capacity(end - start);
                searcher.search_batch(queries.slice(start, end), &params, &mut |_, found| {
                    hits.push(found.iter().map(|found| self.hit(found.ordinal, found.distance)).collect());
                });
                hits
            })
            .collect();
        Ok(found.into_iter().flatten().collect())
    }

    fn hit(&self, ordinal: u32, distance: f32) -> Hit {
        let similarity = self.metric().similarity(distance);
        Hit { id: self.ids.get(ordinal), ordinal, distance, similarity }
    }
}

/// What the manifest says against what the sections are.
fn agree<T: PartialEq + ToString>(what: &'static str, expected: T, got: T) -> Result<(), LoadError> {
    if expected == got {
        return Ok(());
    }
    Err(LoadError::Mismatch { what, expected: expected.to_string(), got: got.to_string() })
}
