//! One query's walk over the graph, in steps: each ends by asking for the memory that the next one reads. A walk that goes
//! on at once waits for that memory; several walks that take turns do not, for each finds what it asked for a turn ago.

use super::Hnsw;
use super::beam::Beam;
use super::codes::CodeQuery;
use super::reach::Reach;
use super::visited::Visited;
use crate::compute::cpu::{Kernels, prefetch};
use crate::index::SearchParams;
use crate::vectors::Neighbor;

/// What the next step does. In each case the memory that it reads was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    /// Reads `at`'s links on this upper level.
    Upper {
        level: usize,
    },
    /// Measures `fresh`, and goes on from the nearest row.
    Descend {
        level: usize,
    },
    /// Reads the links of this row on the base layer.
    Expand {
        row: u32,
    },
    /// Measures `fresh` into the beam.
    Measure,
    /// Ranks `fresh` by their vectors.
    Rank,
    Done,
}

pub(super) struct Walk {
    next: Next,
    k: usize,
    ef: usize,
    refine: usize,
    code_query: CodeQuery,
    /// Where the descent stands.
    at: Neighbor,
    visited: Visited,
    beam: Beam,
    /// Rows to compare with the query, and their distances.
    fresh: Vec<u32>,
    distances: Vec<f32>,
    found: Vec<Neighbor>,
}

impl Walk {
    pub fn new(index: &Hnsw) -> Self {
        let widest = index.widest();
        Self {
            next: Next::Done,
            k: 0,
            ef: 0,
            refine: 0,
            code_query: CodeQuery::with_capacity(widest),
            at: Neighbor::new(0, 0.0),
            visited: Visited::new(index.levels.len()),
            beam: Beam::default(),
            fresh: Vec::with_capacity(widest),
            distances: Vec::with_capacity(widest),
            found: Vec::new(),
        }
    }

    /// Begins a search. `params.k` is at least 1.
    pub fn start(&mut self, index: &Hnsw, kernels: &Kernels, query: &[f32], params: &SearchParams) {
        let rows = index.levels.len();
        self.k = params.k.min(rows);
        // A beam narrower than k could not return k rows.
        self.ef = params.effort.max(self.k).min(rows);
        self.refine = match params.refine {
            0 => index.code().refine(self.k, self.ef),
            refine => refine.max(self.k),
        };
        self.visited.forget();
        let reach = Reach::about(self.ef, self.k, self.refine, rows, index.growth);
        self.beam.reset(reach, index.widest());
        if let Some(codes) = &index.codes {
            self.code_query.prepare(codes, query);
        }
        self.fresh.clear();
        self.fresh.push(index.entry_point);
        self.measure(index, kernels, query);
        self.at = Neighbor::new(index.entry_point, self.distances[0]);
        self.descend_to(index, kernels, index.max_level());
    }

    pub fn is_done(&self) -> bool {
        self.next == Next::Done
    }

    /// The nearest rows, once the walk is done.
    pub fn found(&self) -> &[Neighbor] {
        &self.found
    }

    /// What a walk whose vectors lie elsewhere has come to: the rows to rank by them.
    pub fn candidates(&self) -> &[u32] {
        &self.fresh
    }

    #[inline]
    pub fn step(&mut self, index: &Hnsw, kernels: &Kernels, query: &[f32]) {
        match self.next {
            Next::Upper { level } => {
                self.fresh.clear();
                self.fresh.extend(index.upper_links(self.at.ordinal, level));
                self.fresh.iter().for_each(|&row| index.prefetch_compared(row));
                self.next = Next::Descend { level };
            }
            Next::Descend { level } => {
                self.measure(index, kernels, query);
                let measured = self.fresh.iter().zip(&self.distances);
                let nearest = measured.map(|(&row, &distance)| Neighbor::new(row, distance)).min();
                match nearest.filter(|&nearest| nearest < self.at) {
                    Some(nearest) => {
                        self.at = nearest;
                        self.descend_to(index, kernels, level);
                    }
                    None => self.descend_to(index, kernels, level - 1),
                }
            }
            Next::Expand { row } => {
                let links = index.base_links(row);
                self.fresh.resize(links.len(), 0);
                let count = self.visited.insert_all(links, &mut self.fresh);
                self.fresh.truncate(count);
                self.fresh.iter().for_each(|&row| index.prefetch_compared(row));
                self.next = Next::Measure;
            }
            Next::Measure => {
                self.measure(index, kernels, query);
                self.beam.offer(kernels, &self.fresh, &self.distances);
                self.go_on(index);
            }
            Next::Rank => {
                self.distances.resize(self.fresh.len(), 0.0);
                index.vectors.distances(index.metric, query, &self.fresh, &mut self.distances);
                let ranked = self.fresh.iter().zip(&self.distances);
                self.found.extend(ranked.map(|(&row, &distance)| Neighbor::new(row, distance)));
                self.found.sort_unstable();
                self.found.truncate(self.k);
                self.next = Next::Done;
            }
            Next::Done => {}
        }
    }

    /// Distances of `query` to the rows in `fresh`, as the walk sees them.
    #[inline]
    fn measure(&mut self, index: &Hnsw, kernels: &Kernels, query: &[f32]) {
        self.distances.resize(self.fresh.len(), 0.0);
        match &index.codes {
            Some(codes) => self.code_query.distances(codes, kernels, &self.fresh, &mut self.distances),
            None => index.vectors.distances(index.metric, query, &self.fresh, &mut self.distances),
        }
    }

    fn descend_to(&mut self, index: &Hnsw, kernels: &Kernels, level: usize) {
        if level == 0 {
            self.visited.insert(self.at.ordinal);
            self.beam.offer(kernels, &[self.at.ordinal], &[self.at.distance]);
            self.go_on(index);
        } else {
            prefetch(index.upper_slots(self.at.ordinal, level));
            self.next = Next::Upper { level };
        }
    }

    /// To the nearest row that was not expanded, or, where all were, to the end.
    #[inline]
    fn go_on(&mut self, index: &Hnsw) {
        if let Some(row) = self.beam.expand_next() {
            prefetch(index.base_links(row));
            self.next = Next::Expand { row };
        } else if !self.beam.is_full() && self.visited.insert(index.entry_point) {
            // From where the descent ended there may be no way to `ef` rows. From the entry point there is one to every
            // row.
            self.fresh.clear();
            self.fresh.push(index.entry_point);
            self.next = Next::Measure;
        } else {
            self.finish(index);
        }
    }

    fn finish(&mut self, index: &Hnsw) {
        self.found.clear();
        if index.codes.is_none() {
            self.found.extend(self.beam.nearest().take(self.k));
            self.next = Next::Done;
            return;
        }
        self.fresh.clear();
        self.fresh.extend(self.beam.nearest().take(self.refine).map(|neighbor| neighbor.ordinal));
        self.fresh.iter().for_each(|&row| index.vectors.prefetch(row));
        // Vectors that lie elsewhere are fetched for many walks at once, and ranked by whoever does.
        self.next = if index.vectors.is_ranged() { Next::Done } else { Next::Rank };
    }
}
