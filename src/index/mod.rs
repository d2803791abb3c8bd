//! What every index family answers, so that the loader, the certificate and the command line need not know which
//! family they hold. The families are `flat`, `ivf` and `hnsw`.

mod kept;

use std::sync::Arc;

pub use kept::{KeepError, KeptVectors, Precision};

use crate::artifact::Section;
use crate::vectors::{Metric, Neighbor, VectorView};

/// One search setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchParams {
    /// Rows to return.
    pub k: usize,
    /// How hard to look: `nprobe` for IVF, `ef_search` for HNSW, unused by flat. At least 1.
    pub effort: usize,
    /// Candidates re-ranked with kept vectors, for families that walk on codes. 0 means the family's default.
    pub refine: usize,
}

impl SearchParams {
    /// The same effort for another `k`: candidates to rank again grow with the rows to return.
    #[must_use]
    pub fn for_k(&self, k: usize) -> Self {
        Self { k, effort: self.effort, refine: self.refine * k.div_ceil(self.k.max(1)) }
    }
}

/// An index over `rows` vectors, immutable and shareable.
pub trait SearchIndex: Send + Sync {
    fn rows(&self) -> usize;
    fn dim(&self) -> usize;
    fn metric(&self) -> Metric;

    /// What `effort` is called here: `nprobe`, `ef_search`; `None` where there is no such knob.
    fn effort_name(&self) -> Option<&'static str>;

    /// Settings worth measuring for a certificate, at least one: efforts ascending, none below what finding `k` rows
    /// needs.
    fn ladder(&self, k: usize) -> Vec<SearchParams>;

    /// The vectors of all rows by ordinal (for cosine normalised), where the index kept them.
    fn kept(&self) -> Option<&KeptVectors>;

    /// A search session: owns the memory that searches reuse, so that none is allocated per query.
    fn searcher(self: Arc<Self>) -> Box<dyn Searcher>;

    /// What a loader needs to make this index again.
    fn sections(&self) -> Vec<Section>;
}

/// One thread's search session over an index.
pub trait Searcher: Send {
    /// The nearest rows of one query, ascending by (distance, ordinal), at most `params.k`, into `found`.
    /// `query` has the index's dimension, is finite and, for cosine, normalised.
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>);

    /// Many queries; `found` is called once per query, in order. Families that share work between queries
    /// override this; the results are the same.
    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let mut neighbors = Vec::with_capacity(params.k);
        for (index, query) in queries.iter().enumerate() {
            self.search(query, params, &mut neighbors);
            found(index, &neighbors);
        }
    }
}
