//! Walking the graph: greedily down the upper levels, then a beam of `ef_search` rows on the base layer.

use std::sync::Arc;

use super::Hnsw;
use super::codes::ScalarQuery;
use crate::compute::cpu::{Kernels, kernels, prefetch};
use crate::index::{KeptVectors, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor};

/// A search session over a graph; one per thread.
pub(super) struct GraphSearcher {
    index: Arc<Hnsw>,
    kernels: &'static Kernels,
    visited: Visited,
    beam: Beam,
    code_query: ScalarQuery,
    /// Rows to compare with the query, and their distances.
    fresh: Vec<u32>,
    distances: Vec<f32>,
}

impl GraphSearcher {
    pub fn new(index: Arc<Hnsw>) -> Self {
        let widest = index.degree.max(index.m);
        let code_query = ScalarQuery::with_capacity(widest);
        Self {
            kernels: kernels(),
            visited: Visited::new(index.rows()),
            beam: Beam::default(),
            code_query,
            fresh: Vec::with_capacity(widest),
            distances: Vec::with_capacity(widest),
            index,
        }
    }

    /// Distances, as the walk sees them, of `query` to the rows in `fresh`.
    #[inline]
    fn measure(&mut self, query: &[f32]) {
        let index = &*self.index;
        self.distances.resize(self.fresh.len(), 0.0);
        match &index.codes {
            Some(codes) => self.code_query.distances(codes, self.kernels, &self.fresh, &mut self.distances),
            None => index.vectors.distances(index.metric, query, &self.fresh, &mut self.distances),
        }
    }

    fn measured_entry(&mut self, query: &[f32]) -> Neighbor {
        self.fresh.clear();
        self.fresh.push(self.index.entry_point);
        self.measure(query);
        Neighbor::new(self.index.entry_point, self.distances[0])
    }

    /// Where the walk on the base layer starts: the nearest row that a greedy descent finds.
    fn descend(&mut self, query: &[f32]) -> Neighbor {
        let mut at = self.measured_entry(query);
        for level in (1..=self.index.max_level()).rev() {
            loop {
                let from = at;
                self.fresh.clear();
                self.fresh.extend(self.index.upper_links(from.ordinal, level));
                self.measure(query);
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

    /// Fills the beam with the nearest rows that a walk from `start` meets.
    fn walk(&mut self, query: &[f32], start: Neighbor, ef: usize) {
        self.visited.next_query();
        self.visited.insert(start.ordinal);
        self.beam.reset(ef);
        self.beam.push(start);
        loop {
            let Some(row) = self.beam.expand_next() else {
                // From `start` there may be no way to `ef` rows. From the entry point there is one to every row.
                if self.beam.is_full() || !self.visited.insert(self.index.entry_point) {
                    return;
                }
                let entry = self.measured_entry(query);
                self.beam.push(entry);
                continue;
            };
            self.fresh.clear();
            for &to in self.index.base_links(row) {
                if to == u32::MAX {
                    break;
                }
                if self.visited.insert(to) {
                    self.fresh.push(to);
                }
            }
            self.measure(query);
            for (&ordinal, &distance) in self.fresh.iter().zip(&self.distances) {
                self.beam.push(Neighbor::new(ordinal, distance));
            }
            if let Some(row) = self.beam.peek() {
                // Likely the next to be expanded; if a nearer one turns up, little is lost.
                prefetch(self.index.base_links(row));
            }
        }
    }
}

impl Searcher for GraphSearcher {
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        found.clear();
        let k = params.k.min(self.index.rows());
        if k == 0 {
            return;
        }
        // A beam narrower than k could not return k rows.
        let ef = params.effort.max(k).min(self.index.rows());
        if let Some(codes) = &self.index.codes {
            self.code_query.prepare(codes, query);
        }
        let start = self.descend(query);
        self.walk(query, start, ef);
        if self.index.codes.is_none() {
            found.extend(self.beam.nearest().take(k));
            return;
        }
        let refine = if params.refine == 0 { default_refine(k) } else { params.refine.max(k) };
        self.fresh.clear();
        self.fresh.extend(self.beam.nearest().take(refine).map(|neighbor| neighbor.ordinal));
        self.distances.resize(self.fresh.len(), 0.0);
        let index = &*self.index;
        index.vectors.distances(index.metric, query, &self.fresh, &mut self.distances);
        found.extend(
            self.fresh.iter().zip(&self.distances).map(|(&row, &distance)| Neighbor::new(row, distance)),
        );
        found.sort_unstable();
        found.truncate(k);
    }
}

/// How many rows of the beam are ranked by their vectors when 8-bit codes led the walk. Codes swap rows that are
/// within a few thousandths of each other: twice as many as asked, and 16, catch all that matter.
fn default_refine(k: usize) -> usize {
    (2 * k).max(k + 16)
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
/// result (NSG's pool, VLDB 2019). Insertion moves memory, but most candidates that enter at all enter near the end.
#[derive(Default)]
struct Beam {
    ef: usize,
    /// A [`Neighbor::key`] with its ordinal moved up one bit, and in the lowest whether the row was expanded.
    /// Ascending. (An index has at most 2³¹ rows.)
    slots: Vec<u64>,
    /// A candidate that is not below this cannot enter.
    bound: u64,
    /// No row before this place is unexpanded.
    cursor: usize,
}

const EXPANDED: u64 = 1;

impl Beam {
    fn reset(&mut self, ef: usize) {
        self.ef = ef;
        self.slots.clear();
        self.slots.reserve(ef);
        self.bound = u64::MAX;
        self.cursor = 0;
    }

    fn is_full(&self) -> bool {
        self.slots.len() == self.ef
    }

    #[inline]
    fn push(&mut self, candidate: Neighbor) {
        let key = candidate.key();
        let slot = key & !u64::from(u32::MAX) | u64::from(candidate.ordinal) << 1;
        if slot >= self.bound {
            return;
        }
        let place = self.slots.partition_point(|&kept| kept < slot);
        if self.is_full() {
            self.slots.copy_within(place..self.ef - 1, place + 1);
            self.slots[place] = slot;
        } else {
            self.slots.insert(place, slot);
        }
        if self.is_full() {
            self.bound = self.slots[self.ef - 1];
        }
        self.cursor = self.cursor.min(place);
    }

    /// Marks the nearest unexpanded row as expanded.
    #[inline]
    fn expand_next(&mut self) -> Option<u32> {
        self.skip_expanded();
        let slot = self.slots.get_mut(self.cursor)?;
        *slot |= EXPANDED;
        self.cursor += 1;
        Some(row_of(*slot))
    }

    /// The nearest unexpanded row.
    #[inline]
    fn peek(&mut self) -> Option<u32> {
        self.skip_expanded();
        self.slots.get(self.cursor).map(|&slot| row_of(slot))
    }

    #[inline]
    fn skip_expanded(&mut self) {
        while self.slots.get(self.cursor).is_some_and(|slot| slot & EXPANDED != 0) {
            self.cursor += 1;
        }
    }

    fn nearest(&self) -> impl Iterator<Item = Neighbor> + '_ {
        self.slots.iter().map(|&slot| Neighbor::of_key(slot & !u64::from(u32::MAX) | u64::from(row_of(slot))))
    }
}

#[inline]
fn row_of(slot: u64) -> u32 {
    slot as u32 >> 1
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
