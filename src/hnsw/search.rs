//! Searching the graph: greedily down the upper levels, then with a beam of `ef_search` rows on the base layer (`walk`).

use std::sync::Arc;
use std::time::Instant;

use super::Hnsw;
use super::walk::Walk;
use crate::artifact::{FetchError, FetchStats, Fetching};
use crate::compute::cpu::{Kernels, kernels};
use crate::index::{KeptVectors, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor, VectorView};

/// Walks that take turns in a batch. Six hide most of the waiting for memory (ARCHITECTURE.md); with more, their visited
/// rows and beams begin to crowd each other out of the cache.
const WALKS: usize = 6;

/// Answers that a batch holds back because an earlier query is still on its way.
const HELD: usize = 64;

/// Queries whose candidates' vectors are fetched together, where they lie elsewhere.
const FETCHED_TOGETHER: usize = 128;

/// A search session over a graph; one per thread.
pub(super) struct GraphSearcher {
    index: Arc<Hnsw>,
    kernels: &'static Kernels,
    /// At least one.
    walks: Vec<Walk>,
    /// Answers of a batch by query, modulo [`HELD`].
    held: Vec<Vec<Neighbor>>,
    /// Where the vectors lie elsewhere.
    fetching: Fetching,
    /// That nobody has asked for so far.
    failure: Option<FetchError>,
}

impl GraphSearcher {
    pub fn new(index: Arc<Hnsw>) -> Self {
        let (walks, held) = (vec![Walk::new(&index)], Vec::new());
        Self { kernels: kernels(), walks, held, fetching: Fetching::default(), failure: None, index }
    }
}

impl Searcher for GraphSearcher {
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        found.clear();
        if params.k == 0 {
            return;
        }
        if self.index.vectors.is_ranged() {
            let queries = VectorView::new(query, query.len());
            return self.search_fetching(queries, params, &mut |_, nearest| found.extend_from_slice(nearest));
        }
        let walk = &mut self.walks[0];
        walk.start(&self.index, self.kernels, query, params);
        while !walk.is_done() {
            walk.step(&self.index, self.kernels, query);
        }
        found.extend_from_slice(walk.found());
    }

    fn fetched(&mut self) -> Result<FetchStats, FetchError> {
        let stats = std::mem::take(&mut self.fetching.stats);
        self.failure.take().map_or(Ok(stats), Err)
    }

    fn fetch_until(&mut self, end: Option<Instant>) {
        self.fetching.end = end;
    }

    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        if params.k == 0 {
            (0..queries.rows()).for_each(|query| found(query, &[]));
            return;
        }
        if self.index.vectors.is_ranged() {
            return self.search_fetching(queries, params, found);
        }
        let (count, Self { index, kernels, walks, held, .. }) = (queries.rows(), self);
        let turns = WALKS.min(count);
        walks.resize_with(turns.max(walks.len()), || Walk::new(index));
        held.resize_with(HELD, Vec::new);
        // Which query each walk is on; `None` is idle.
        let mut on = [None; WALKS];
        // Queries whose answers were given, and whose walks have begun; an answer that waits is not empty.
        let (mut given, mut begun) = (0, 0);
        while given < count {
            for (walk, on) in walks.iter_mut().zip(&mut on).take(turns) {
                if let Some(query) = *on {
                    walk.step(index, kernels, queries.row(query));
                    if !walk.is_done() {
                        continue;
                    }
                    let answer = &mut held[query % HELD];
                    answer.clear();
                    answer.extend_from_slice(walk.found());
                    *on = None;
                }
                while given < begun && !held[given % HELD].is_empty() {
                    found(given, &held[given % HELD]);
                    held[given % HELD].clear();
                    given += 1;
                }
                if begun < count.min(given + HELD) {
                    walk.start(index, kernels, queries.row(begun), params);
                    *on = Some(begun);
                    begun += 1;
                }
            }
        }
    }
}

impl GraphSearcher {
    /// As [`search_batch`](Searcher::search_batch), where the vectors lie elsewhere: those of all the queries' candidates are
    /// fetched in one round trip.
    fn search_fetching(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let Self { index, kernels, walks, fetching, failure, .. } = self;
        for start in (0..queries.rows()).step_by(FETCHED_TOGETHER) {
            let batch = queries.slice(start, (start + FETCHED_TOGETHER).min(queries.rows()));
            let mut candidates = Vec::new();
            let mut ends = Vec::with_capacity(batch.rows());
            for query in batch.iter().filter(|_| failure.is_none()) {
                walks[0].start(index, kernels, query, params);
                while !walks[0].is_done() {
                    walks[0].step(index, kernels, query);
                }
                candidates.extend_from_slice(walks[0].candidates());
                ends.push(candidates.len());
            }
            let mut rows = candidates.clone();
            rows.sort_unstable();
            rows.dedup();
            if failure.is_none() {
                match index.vectors.fetch(&rows, fetching) {
                    Ok(vectors) => {
                        let fetched = FetchedRows { index, rows, vectors };
                        let mut from = 0;
                        for (query, &end) in ends.iter().enumerate() {
                            let nearest = fetched.rank(batch.row(query), &candidates[from..end], params.k);
                            found(start + query, &nearest);
                            from = end;
                        }
                        continue;
                    }
                    Err(error) => *failure = Some(error),
                }
            }
            (start..start + batch.rows()).for_each(|query| found(query, &[]));
        }
    }
}

/// Rows of an index whose vectors lie elsewhere, ascending, and those vectors.
struct FetchedRows<'a> {
    index: &'a Hnsw,
    rows: Vec<u32>,
    vectors: KeptVectors,
}

impl FetchedRows<'_> {
    /// The `k` nearest of `candidates`, which were all fetched.
    fn rank(&self, query: &[f32], candidates: &[u32], k: usize) -> Vec<Neighbor> {
        let place = |row| self.rows.binary_search(row).expect("a row that was fetched") as u32;
        let places: Vec<u32> = candidates.iter().map(place).collect();
        let mut distances = vec![0.0; places.len()];
        self.vectors.distances(self.index.metric, query, &places, &mut distances);
        let ranked = candidates.iter().zip(distances);
        let mut nearest: Vec<Neighbor> =
            ranked.map(|(&row, distance)| Neighbor::new(row, distance)).collect();
        nearest.sort_unstable();
        nearest.truncate(k);
        nearest
    }
}

impl SearchIndex for Hnsw {
    fn rows(&self) -> usize {
        self.levels.len()
    }

    fn dim(&self) -> usize {
        self.vectors.dim()
    }

    fn metric(&self) -> Metric {
        self.metric
    }

    fn effort_name(&self) -> Option<&'static str> {
        Some("ef_search")
    }

    /// k, then steps of about √2 up to 2,048: where a beam of that many rows still misses, the graph is at fault.
    fn ladder(&self, k: usize) -> Vec<SearchParams> {
        let steps = [10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280, 2048];
        let floor = k.min(self.rows());
        std::iter::once(floor)
            .chain(steps.into_iter().filter(|&ef| ef > floor && ef < self.rows()))
            .map(|effort| SearchParams { k, effort, refine: 0 })
            .collect()
    }

    fn kept(&self) -> Option<&KeptVectors> {
        Some(&self.vectors)
    }

    fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
        Box::new(GraphSearcher::new(self))
    }

    fn sections(&self) -> Vec<crate::artifact::Section> {
        super::sections::write(self)
    }
}
