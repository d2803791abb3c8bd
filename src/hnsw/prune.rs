//! Choosing a row's links among its candidates: near ones, in different directions.

use crate::compute::cpu::Kernels;
use crate::vectors::{Neighbor, VectorView};

/// The α-rule (robust prune; Vamana, NeurIPS 2019): going through the candidates from near to far, one is dropped
/// when a link already chosen is nearer to it than the row is, by a factor `alpha`. α = 1 is HNSW's heuristic
/// (arXiv 1603.09320, algorithm 4); a larger α keeps more and longer links.
pub(super) struct Prune<'a> {
    rows: VectorView<'a>,
    kernels: &'static Kernels,
    alpha_squared: f32,
    degree: usize,
    distinct: Vec<u32>,
    distances: Vec<f32>,
    ranked: Vec<Neighbor>,
    block: Vec<f32>,
    remaining: Vec<u32>,
    to_chosen: Vec<f32>,
}

impl<'a> Prune<'a> {
    pub fn new(rows: VectorView<'a>, kernels: &'static Kernels, alpha: f32, degree: usize) -> Self {
        Self {
            rows,
            kernels,
            alpha_squared: alpha * alpha,
            degree,
            distinct: Vec::new(),
            distances: Vec::new(),
            ranked: Vec::new(),
            block: Vec::new(),
            remaining: Vec::new(),
            to_chosen: Vec::new(),
        }
    }

    /// Writes the links of `row` to `links` (`degree` slots, padded with `u32::MAX`), nearest first.
    pub fn links(&mut self, row: u32, candidates: &[u32], links: &mut [u32]) {
        assert_eq!(links.len(), self.degree);
        self.rank(row, candidates);
        self.block.clear();
        for neighbor in &self.ranked {
            self.block.extend_from_slice(self.rows.row(neighbor.ordinal as usize));
        }
        let dim = self.rows.dim();
        self.remaining.clear();
        self.remaining.extend(0..self.ranked.len() as u32);
        let mut chosen = 0;
        while let Some((&nearest, others)) = self.remaining.split_first() {
            links[chosen] = self.ranked[nearest as usize].ordinal;
            chosen += 1;
            if chosen == self.degree {
                break;
            }
            let vector = &self.block[nearest as usize * dim..(nearest as usize + 1) * dim];
            self.to_chosen.resize(others.len(), 0.0);
            (self.kernels.l2_gather)(vector, &self.block, others, &mut self.to_chosen);
            let mut kept = 0;
            for index in 0..self.to_chosen.len() {
                let other = self.remaining[index + 1];
                let from_row = self.ranked[other as usize].distance;
                if self.alpha_squared * self.to_chosen[index] > from_row {
                    self.remaining[kept] = other;
                    kept += 1;
                }
            }
            self.remaining.truncate(kept);
        }
        links[chosen..].fill(u32::MAX);
    }

    /// Distinct candidates with their distances, nearest first.
    fn rank(&mut self, row: u32, candidates: &[u32]) {
        self.distinct.clear();
        self.distinct.extend_from_slice(candidates);
        self.distinct.sort_unstable();
        self.distinct.dedup();
        self.distinct.retain(|&candidate| candidate != row);
        self.distances.resize(self.distinct.len(), 0.0);
        let vector = self.rows.row(row as usize);
        (self.kernels.l2_gather)(vector, self.rows.as_slice(), &self.distinct, &mut self.distances);
        self.ranked.clear();
        let pairs = self.distinct.iter().zip(&self.distances);
        self.ranked.extend(pairs.map(|(&ordinal, &distance)| Neighbor::new(ordinal, distance)));
        self.ranked.sort_unstable();
    }
}
