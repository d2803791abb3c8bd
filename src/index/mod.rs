//! What every index family answers, so that the loader, the certificate and the command line need not know which
//! family they hold. The families are `flat`, `ivf` and `hnsw`.

mod kept;
mod mask;
mod masked;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

pub use kept::{KeepError, KeptVectors, Precision};
pub use mask::RowMask;
pub use masked::Allowed;

use crate::artifact::{FetchError, FetchStats, Section};
use crate::vectors::{Metric, Neighbor, VectorView};

/// One search setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchParams {
    /// Rows to return.
    pub k: usize,
    /// How hard to look: `nprobe` for IVF, `ef_search` for HNSW, unused by flat. At least 1.
    /// The beam of a graph holds about `ef_search` rows, fewer where a query's neighbours stand alone, more where many are about as near.
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

    /// About how many rows a search compares with the query: in a graph each step of the walk shows some 32 that are
    /// new, and a list's codes cost about as much as 32 rows.
    pub fn rows_compared(&self) -> usize {
        self.effort.max(self.k).saturating_mul(ROWS_PER_EFFORT).saturating_add(self.refine)
    }
}

const ROWS_PER_EFFORT: usize = 32;

/// Queries of a batch that are searched together at most: of families that read a list once for all that probe it, their tables and
/// candidates (3 KiB each for codes of 25 bytes) stay in the second-level cache beside that list.
pub const BATCH: usize = 128;

/// Queries that each task of a batch takes on so many threads: as many as gain from each other, in tasks of one size.
pub fn queries_per_task(queries: usize, threads: usize) -> usize {
    /// Fewer are not worth a task.
    const LEAST: usize = 16;
    let rounds = queries.div_ceil(BATCH * threads).max(1);
    queries.div_ceil(rounds * threads).max(LEAST)
}

/// The queries of each of those tasks.
pub fn tasks_of(queries: usize, threads: usize) -> Vec<Range<usize>> {
    let step = queries_per_task(queries, threads);
    (0..queries).step_by(step).map(|start| start..(start + step).min(queries)).collect()
}

/// An index over `rows` vectors, immutable and shareable. Whoever must know the family asks by `Any`.
pub trait SearchIndex: Send + Sync + std::any::Any {
    fn rows(&self) -> usize;
    fn dim(&self) -> usize;
    fn metric(&self) -> Metric;

    /// What `effort` is called here: `nprobe`, `ef_search`; `None` where there is no such knob.
    fn effort_name(&self) -> Option<&'static str>;

    /// Settings worth measuring for a certificate, at least one: efforts ascending, none below what finding `k` rows
    /// needs.
    fn ladder(&self, k: usize) -> Vec<SearchParams>;

    /// About how many rows a search compares with the query, in units of one whole vector: what a search under a mask
    /// is weighed by against comparing the allowed rows one by one.
    fn rows_compared(&self, params: &SearchParams) -> usize {
        params.rows_compared().min(self.rows())
    }

    /// The same of a search under a mask that allows so many rows. By default, as `masked` does it, as many times more as
    /// there are rows for each that is allowed.
    fn rows_compared_among(&self, params: &SearchParams, allowed: usize) -> usize {
        self.rows_compared(params).saturating_mul(self.rows()) / allowed.max(1)
    }

    /// The vectors of all rows by ordinal (for cosine normalised), where the index kept them.
    fn kept(&self) -> Option<&KeptVectors>;

    /// A search session: owns the memory that searches reuse, so that none is allocated per query.
    fn searcher(self: Arc<Self>) -> Box<dyn Searcher>;

    /// What a loader needs to make this index again.
    ///
    /// # Panics
    /// If parts of the index lie elsewhere: they are published already.
    fn sections(&self) -> Vec<Section>;
}

/// One thread's search session over an index.
pub trait Searcher: Send {
    /// The nearest rows of one query, ascending by (distance, ordinal), at most `params.k`, into `found`.
    /// `query` has the index's dimension, is finite and, for cosine, normalised.
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>);

    /// As [`search`](Self::search), among the rows of a mask (of as many rows as the index): with the recall there that
    /// a search without one has at the same setting, at least; never with a row outside the mask; and, at the highest
    /// effort, with the nearest allowed rows themselves. With all rows allowed it finds what `search` finds.
    ///
    /// Whether it has found; if not, it gave up as [`Allowed::patience`] has it, and `found` is empty.
    ///
    /// The default asks `search` for more and more rows. It is right and slow: families that can look past rows that
    /// are not allowed while they walk override it.
    fn search_masked(
        &mut self,
        query: &[f32],
        params: &SearchParams,
        allowed: &Allowed<'_>,
        found: &mut Vec<Neighbor>,
    ) -> bool {
        masked::widen(&mut |params, found| self.search(query, params, found), params, allowed, found)
    }

    /// What the searches since the last call have fetched, where the index lies elsewhere; an error where one could not
    /// have what it needs. It has found nothing then, and so have those after it until this is asked. Whoever searches an
    /// index that may lie elsewhere asks after every call.
    fn fetched(&mut self) -> Result<FetchStats, FetchError> {
        Ok(FetchStats::default())
    }

    /// Until when searches may wait for what they fetch; `None`: as long as it takes.
    fn fetch_until(&mut self, end: Option<Instant>) {
        let _ = end;
    }

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
