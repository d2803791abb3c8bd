//! Searching the graph: greedily down the upper levels, then with a beam of `ef_search` rows on the base layer (`walk`).

use std::ops::Range;
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
    /// Where the vectors lie elsewhere, as are all of these.
    batch: FetchedBatch,
    fetching: Fetching,
    /// That nobody has asked for so far.
    failure: Option<FetchError>,
}

impl GraphSearcher {
    pub fn new(index: Arc<Hnsw>) -> Self {
        let (walks, held) = (vec![Walk::new(&index)], Vec::new());
        let (batch, fetching) = (FetchedBatch::default(), Fetching::default());
        Self { kernels: kernels(), walks, held, batch, fetching, failure: None, index }
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
        let Self { index, kernels, walks, batch, fetching, failure, .. } = self;
        for start in (0..queries.rows()).step_by(FETCHED_TOGETHER) {
            let queries = queries.slice(start, (start + FETCHED_TOGETHER).min(queries.rows()));
            batch.clear();
            for query in queries.iter().filter(|_| failure.is_none()) {
                walks[0].start(index, kernels, query, params);
                while !walks[0].is_done() {
                    walks[0].step(index, kernels, query);
                }
                batch.push(walks[0].candidates());
            }
            if failure.is_none() {
                match index.vectors.fetch(batch.rows(), fetching) {
                    Ok(vectors) => {
                        let mut from = 0;
                        for (number, query) in queries.iter().enumerate() {
                            let end = batch.ends[number];
                            found(
                                start + number,
                                batch.rank(index.metric, &vectors, query, from..end, params.k),
                            );
                            from = end;
                        }
                        continue;
                    }
                    Err(error) => *failure = Some(error),
                }
            }
            (start..start + queries.rows()).for_each(|query| found(query, &[]));
        }
    }
}

/// The candidates of queries whose vectors are fetched together, and memory for ranking them.
#[derive(Default)]
struct FetchedBatch {
    /// One query's after the other's.
    candidates: Vec<u32>,
    /// Where each query's end.
    ends: Vec<usize>,
    /// All of them, ascending, each once: the rows to fetch.
    rows: Vec<u32>,
    /// Of one query: its candidates' places among `rows`, their distances, and both ranked.
    places: Vec<u32>,
    distances: Vec<f32>,
    nearest: Vec<Neighbor>,
}

impl FetchedBatch {
    fn clear(&mut self) {
        self.candidates.clear();
        self.ends.clear();
    }

    /// The next query's candidates.
    fn push(&mut self, candidates: &[u32]) {
        self.candidates.extend_from_slice(candidates);
        self.ends.push(self.candidates.len());
    }

    /// What is to be fetched.
    fn rows(&mut self) -> &[u32] {
        self.rows.clear();
        self.rows.extend_from_slice(&self.candidates);
        self.rows.sort_unstable();
        self.rows.dedup();
        &self.rows
    }

    /// The `k` nearest of some of the candidates; `vectors` are those of [`rows`](Self::rows).
    fn rank(
        &mut self,
        metric: Metric,
        vectors: &KeptVectors,
        query: &[f32],
        candidates: Range<usize>,
        k: usize,
    ) -> &[Neighbor] {
        let Self { rows, places, distances, nearest, .. } = self;
        let candidates = &self.candidates[candidates];
        places.clear();
        places.extend(
            candidates.iter().map(|row| rows.binary_search(row).expect("a row that was fetched") as u32),
        );
        distances.clear();
        distances.resize(places.len(), 0.0);
        vectors.distances(metric, query, places, distances);
        nearest.clear();
        nearest
            .extend(candidates.iter().zip(&*distances).map(|(&row, &distance)| Neighbor::new(row, distance)));
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
