//! Walking the graph: greedily down the upper levels, then a beam of `ef_search` rows on the base layer.

use std::sync::Arc;

use super::Hnsw;
use crate::compute::cpu::{Kernels, kernels};
use crate::index::{SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor};

/// A search session over a graph; one per thread.
pub(super) struct GraphSearcher {
    index: Arc<Hnsw>,
    kernels: &'static Kernels,
    visited: Visited,
    beam: Beam,
    /// Unvisited links of the row being expanded, and their distances.
    fresh: Vec<u32>,
    distances: Vec<f32>,
}

impl GraphSearcher {
    pub fn new(index: Arc<Hnsw>) -> Self {
        let widest = index.degree.max(index.m);
        Self {
            kernels: kernels(),
            visited: Visited::new(index.rows()),
            beam: Beam::default(),
            fresh: Vec::with_capacity(widest),
            distances: Vec::with_capacity(widest),
            index,
        }
    }

    /// Where the walk on the base layer starts: the nearest row that a greedy descent finds.
    fn descend(&mut self, query: &[f32]) -> Neighbor {
        let index = &*self.index;
        let mut at = Neighbor::new(index.entry_point, 0.0);
        distances(index, self.kernels, query, &[at.ordinal], std::slice::from_mut(&mut at.distance));
        for level in (1..=index.max_level()).rev() {
            loop {
                let from = at;
                self.fresh.clear();
                self.fresh.extend(index.upper_links(from.ordinal, level));
                self.distances.resize(self.fresh.len(), 0.0);
                distances(index, self.kernels, query, &self.fresh, &mut self.distances);
                for (&ordinal, &distance) in self.fresh.iter().zip(&self.distances) {
                    at = at.min(Neighbor::new(ordinal, distance));
                }
                if at == from {
                    break;
                }
            }
        }
        at
    }
}

impl Searcher for GraphSearcher {
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        found.clear();
        // A beam narrower than k could not return k rows.
        let ef = params.effort.max(params.k).min(self.index.rows());
        let start = self.descend(query);
        let index = &*self.index;
        self.visited.next_query();
        self.visited.insert(start.ordinal);
        self.beam.reset(ef);
        self.beam.push(start);
        while let Some(row) = self.beam.expand_next() {
            self.fresh.clear();
            for &to in index.base_links(row) {
                if to == u32::MAX {
                    break;
                }
                if self.visited.insert(to) {
                    self.fresh.push(to);
                }
            }
            self.distances.resize(self.fresh.len(), 0.0);
            distances(index, self.kernels, query, &self.fresh, &mut self.distances);
            for (&ordinal, &distance) in self.fresh.iter().zip(&self.distances) {
                self.beam.push(Neighbor::new(ordinal, distance));
            }
        }
        found.extend(self.beam.nearest().take(params.k));
    }
}

#[inline]
fn distances(index: &Hnsw, kernels: &Kernels, query: &[f32], ordinals: &[u32], out: &mut [f32]) {
    match index.metric {
        Metric::L2 => (kernels.l2_gather)(query, &index.vectors, ordinals, out),
        metric => {
            (kernels.dot_gather)(query, &index.vectors, ordinals, out);
            out.iter_mut().for_each(|value| *value = metric.distance_of_dot(*value));
        }
    }
}

/// The set of rows seen by the current query: a stamp per row, so that starting a query costs nothing.
/// Two bytes a row keep it in cache four times longer than pointers would; every 65,535 queries it is cleared.
struct Visited {
    stamps: Vec<u16>,
    epoch: u16,
}

impl Visited {
    fn new(rows: usize) -> Self {
        Self { stamps: vec![0; rows], epoch: 0 }
    }

    fn next_query(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.stamps.fill(0);
            self.epoch = 1;
        }
    }

    /// Whether `ordinal` is new.
    #[inline]
    fn insert(&mut self, ordinal: u32) -> bool {
        let stamp = &mut self.stamps[ordinal as usize];
        std::mem::replace(stamp, self.epoch) != self.epoch
    }
}

/// The `ef` nearest rows seen so far, ascending, each expanded or not: one sorted array serves as candidate queue and
/// result (NSG's pool, VLDB 2019). Insertion moves memory, which for the usual `ef` of a few hundred is cheaper than
/// two heaps.
#[derive(Default)]
struct Beam {
    ef: usize,
    /// [`Neighbor::key`]s, ascending.
    keys: Vec<u64>,
    expanded: Vec<bool>,
    /// No row before this place is unexpanded.
    cursor: usize,
}

impl Beam {
    fn reset(&mut self, ef: usize) {
        self.ef = ef;
        self.keys.clear();
        self.expanded.clear();
        self.keys.reserve(ef + 1);
        self.expanded.reserve(ef + 1);
        self.cursor = 0;
    }

    #[inline]
    fn push(&mut self, candidate: Neighbor) {
        let key = candidate.key();
        if self.keys.len() == self.ef {
            if key >= self.keys[self.ef - 1] {
                return;
            }
            self.keys.pop();
            self.expanded.pop();
        }
        let place = self.keys.partition_point(|&kept| kept < key);
        self.keys.insert(place, key);
        self.expanded.insert(place, false);
        self.cursor = self.cursor.min(place);
    }

    /// Marks the nearest unexpanded row as expanded.
    fn expand_next(&mut self) -> Option<u32> {
        while self.cursor < self.keys.len() {
            let place = self.cursor;
            self.cursor += 1;
            if !std::mem::replace(&mut self.expanded[place], true) {
                return Some(Neighbor::of_key(self.keys[place]).ordinal);
            }
        }
        None
    }

    fn nearest(&self) -> impl Iterator<Item = Neighbor> + '_ {
        self.keys.iter().map(|&key| Neighbor::of_key(key))
    }
}

impl SearchIndex for Hnsw {
    fn rows(&self) -> usize {
        self.levels.len()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn metric(&self) -> Metric {
        self.metric
    }

    fn effort_name(&self) -> Option<&'static str> {
        Some("ef_search")
    }

    /// k, then steps of about √2 up to 2,048: where a beam of that many rows still misses, the graph is at fault.
    fn effort_ladder(&self, k: usize) -> Vec<usize> {
        let steps = [10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280, 2048];
        let floor = k.min(self.rows());
        std::iter::once(floor).chain(steps.into_iter().filter(|&ef| ef > floor && ef < self.rows())).collect()
    }

    fn vector(&self, ordinal: u32) -> Option<Vec<f32>> {
        let start = ordinal as usize * self.dim;
        self.vectors.get(start..start + self.dim).map(<[f32]>::to_vec)
    }

    fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
        Box::new(GraphSearcher::new(self))
    }

    fn sections(&self) -> Vec<crate::artifact::Section> {
        super::sections::write(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn beam_keeps_the_nearest_and_expands_each_once() {
        let mut random = Random::new(5);
        for ef in [1, 2, 7, 64] {
            let stream: Vec<Neighbor> =
                (0..500).map(|ordinal| Neighbor::new(ordinal, random.below(40) as f32)).collect();
            let mut beam = Beam::default();
            beam.reset(ef);
            let mut expanded = Vec::new();
            for chunk in stream.chunks(9) {
                chunk.iter().for_each(|&candidate| beam.push(candidate));
                expanded.extend(beam.expand_next());
            }
            let mut expected = stream.clone();
            expected.sort();
            assert!(beam.nearest().eq(expected.into_iter().take(ef)));
            let distinct: std::collections::BTreeSet<_> = expanded.iter().collect();
            assert_eq!(distinct.len(), expanded.len());
        }
    }

    #[test]
    fn visited_forgets_between_queries_even_after_the_epoch_wraps() {
        let mut visited = Visited::new(3);
        for _ in 0..70_000 {
            visited.next_query();
            assert!(visited.insert(1));
            assert!(!visited.insert(1));
        }
    }
}
