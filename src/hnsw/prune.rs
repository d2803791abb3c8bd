//! Choosing a row's links among its candidates: near ones, in different directions.

use super::params::HnswParams;
use crate::compute::cpu::Kernels;
use crate::vectors::{Neighbor, VectorView};

/// The α-rule (robust prune; Vamana, NeurIPS 2019): going through the candidates from near to far, one is dropped
/// when a link already chosen is nearer to it than the row is, by a factor `alpha`. α = 1 is HNSW's heuristic
/// (arXiv 1603.09320, algorithm 4); a larger α keeps more and longer links.
pub(super) struct Prune<'a> {
    rows: VectorView<'a>,
    kernels: &'static Kernels,
    alpha_squared: f32,
    l_max: usize,
    degree: usize,
    distances: Vec<f32>,
    keys: Vec<u64>,
    ranked: Vec<Neighbor>,
    block: Vec<f32>,
    remaining: Vec<u32>,
    to_chosen: Vec<f32>,
}

impl<'a> Prune<'a> {
    /// For rows with at most `degree` links, of `params` those of the rule.
    pub fn new(rows: VectorView<'a>, kernels: &'static Kernels, params: &HnswParams, degree: usize) -> Self {
        Self {
            rows,
            kernels,
            alpha_squared: params.alpha * params.alpha,
            l_max: params.l_max,
            degree,
            distances: Vec::new(),
            keys: Vec::new(),
            ranked: Vec::new(),
            block: Vec::new(),
            remaining: Vec::new(),
            to_chosen: Vec::new(),
        }
    }

    /// Writes the links of `row` to `links` (`degree` slots, padded with `u32::MAX`), nearest first. Of the candidates none is
    /// there twice, and none is the row.
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

    /// The `l_max` nearest candidates, nearest first.
    #[cfg(test)]
    pub fn ranked(&mut self, row: u32, candidates: &[u32]) -> &[Neighbor] {
        self.rank(row, candidates);
        &self.ranked
    }

    fn rank(&mut self, row: u32, candidates: &[u32]) {
        self.distances.resize(candidates.len(), 0.0);
        let (vector, base) = (self.rows.row(row as usize), self.rows.as_slice());
        (self.kernels.l2_gather)(vector, base, candidates, &mut self.distances);
        self.keys.clear();
        let pairs = candidates.iter().zip(&self.distances);
        self.keys.extend(pairs.map(|(&ordinal, &distance)| Neighbor::new(ordinal, distance).key()));
        self.keys.sort_unstable();
        self.keys.truncate(self.l_max);
        self.ranked.clear();
        self.ranked.extend(self.keys.iter().map(|&key| Neighbor::of_key(key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::kernels;
    use crate::vectors::{Random, VectorBuf};

    /// The rule as it is told, quadratic.
    fn by_definition(
        rows: &VectorBuf,
        row: u32,
        candidates: &[u32],
        params: &HnswParams,
        degree: usize,
    ) -> Vec<u32> {
        let distance = |a: u32, b: u32| (kernels().l2)(rows.row(a as usize), rows.row(b as usize));
        let mut ranked: Vec<Neighbor> = candidates
            .iter()
            .filter(|&&candidate| candidate != row)
            .map(|&candidate| Neighbor::new(candidate, distance(row, candidate)))
            .collect();
        ranked.sort();
        ranked.dedup();
        ranked.truncate(params.l_max);
        let mut links: Vec<u32> = Vec::new();
        for candidate in ranked {
            let covered = links.iter().any(|&link| {
                params.alpha * params.alpha * distance(link, candidate.ordinal) <= candidate.distance
            });
            if !covered && links.len() < degree {
                links.push(candidate.ordinal);
            }
        }
        links
    }

    #[test]
    fn links_are_those_of_the_definition() {
        let mut random = Random::new(4);
        for dim in [1, 2, 5, 16, 33] {
            // Reals, and small integers, where candidates repeat as vectors and distances tie.
            for lattice in [false, true] {
                let value = |random: &mut Random| match lattice {
                    true => random.below(3) as f32,
                    false => random.normal() as f32,
                };
                let rows = VectorBuf::new((0..200 * dim).map(|_| value(&mut random)).collect(), dim);
                for degree in [1, 2, 4, 32] {
                    for alpha in [1.0, 1.2, 2.0] {
                        let params = HnswParams { alpha, l_max: 40, ..HnswParams::new(2, 64) };
                        let mut prune = Prune::new(rows.view(), kernels(), &params, degree);
                        for count in [0, 1, 2, 39, 41, 120] {
                            let row = random.below(200) as u32;
                            let mut candidates = random.sample(200, count);
                            candidates.retain(|&candidate| candidate != row);
                            let mut links = vec![7; degree];
                            prune.links(row, &candidates, &mut links);
                            let expected = by_definition(&rows, row, &candidates, &params, degree);
                            let (chosen, padding) = links.split_at(expected.len());
                            assert_eq!(chosen, expected, "{dim}-d, degree {degree}, alpha {alpha}");
                            assert!(padding.iter().all(|&to| to == u32::MAX));
                        }
                    }
                }
            }
        }
    }
}
