//! Searching the graph: greedily down the upper levels, then with a beam of `ef_search` rows on the base layer (`walk`).

use std::sync::Arc;

use super::Hnsw;
use super::walk::Walk;
use crate::compute::cpu::{Kernels, kernels};
use crate::index::{KeptVectors, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor, VectorView};

/// Walks that take turns in a batch. Six hide most of the waiting for memory (ARCHITECTURE.md); with more, their visited
/// rows and beams begin to crowd each other out of the cache.
const WALKS: usize = 6;

/// Answers that a batch holds back because an earlier query is still on its way.
const HELD: usize = 64;

/// A search session over a graph; one per thread.
pub(super) struct GraphSearcher {
    index: Arc<Hnsw>,
    kernels: &'static Kernels,
    /// At least one.
    walks: Vec<Walk>,
    /// Answers of a batch by query, modulo [`HELD`].
    held: Vec<Vec<Neighbor>>,
}

impl GraphSearcher {
    pub fn new(index: Arc<Hnsw>) -> Self {
        Self { kernels: kernels(), walks: vec![Walk::new(&index)], held: Vec::new(), index }
    }
}

impl Searcher for GraphSearcher {
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        found.clear();
        if params.k == 0 {
            return;
        }
        let walk = &mut self.walks[0];
        walk.start(&self.index, self.kernels, query, params);
        while !walk.is_done() {
            walk.step(&self.index, self.kernels, query);
        }
        found.extend_from_slice(walk.found());
    }

    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let (count, Self { index, kernels, walks, held }) = (queries.rows(), self);
        if params.k == 0 {
            (0..count).for_each(|query| found(query, &[]));
            return;
        }
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
