//! Choosing a row's links among its candidates: near ones, in different directions.

use super::params::HnswParams;
use crate::compute::cpu::{ByteQuery, ByteRows, Kernels};
use crate::vectors::{Neighbor, VectorView};

/// The α-rule (robust prune; Vamana, NeurIPS 2019): going through the candidates from near to far, one is dropped
/// when a link already chosen is nearer to it than the row is, by a factor `alpha`. α = 1 is HNSW's heuristic
/// (arXiv 1603.09320, algorithm 4); a larger α keeps more and longer links.
///
/// Goes by the rows' bytes, and by the vectors where those are too near each other for that.
pub(super) struct Prune<'a> {
    rows: VectorView<'a>,
    bytes: Option<ByteQuery<'a>>,
    resolution: f32,
    kernels: &'static Kernels,
    alpha_squared: f32,
    l_max: usize,
    degree: usize,
    distances: Vec<f32>,
    keys: Vec<u64>,
    ranked: Vec<Neighbor>,
    remaining: Vec<u32>,
}

impl<'a> Prune<'a> {
    /// For rows with at most `degree` links, of `params` those of the rule.
    pub fn new(
        rows: VectorView<'a>,
        bytes: Option<&'a ByteRows>,
        kernels: &'static Kernels,
        params: &HnswParams,
        degree: usize,
    ) -> Self {
        Self {
            rows,
            bytes: bytes.map(ByteQuery::new),
            resolution: bytes.map_or(0.0, ByteRows::resolution),
            kernels,
            alpha_squared: params.alpha * params.alpha,
            l_max: params.l_max,
            degree,
            distances: Vec::new(),
            keys: Vec::new(),
            ranked: Vec::new(),
            remaining: Vec::new(),
        }
    }

    /// Writes the links of `row` to `links` (`degree` slots, padded with `u32::MAX`), nearest first. Of the candidates none is
    /// there twice, and none is the row.
    pub fn links(&mut self, row: u32, candidates: &[u32], links: &mut [u32]) {
        assert_eq!(links.len(), self.degree);
        if let Some(mut bytes) = self.bytes.take() {
            let mut measure = |from: u32, to: &[u32], out: &mut [f32]| bytes.distances(from, to, out);
            self.rank(row, candidates, &mut measure);
            let is_resolved = self.ranked.first().is_none_or(|nearest| nearest.distance >= self.resolution);
            if is_resolved {
                self.choose(links, &mut measure);
            }
            self.bytes = Some(bytes);
            if is_resolved {
                return;
            }
        }
        let (rows, kernels) = (self.rows, self.kernels);
        let mut measure = |from: u32, to: &[u32], out: &mut [f32]| {
            (kernels.l2_gather)(rows.row(from as usize), rows.as_slice(), to, out);
        };
        self.rank(row, candidates, &mut measure);
        self.choose(links, &mut measure);
    }

    /// Applies the rule to what [`Prune::rank`] left.
    fn choose(&mut self, links: &mut [u32], measure: &mut impl FnMut(u32, &[u32], &mut [f32])) {
        self.remaining.clear();
        self.remaining.extend(self.ranked.iter().map(|neighbor| neighbor.ordinal));
        let mut chosen = 0;
        while let Some((&nearest, others)) = self.remaining.split_first() {
            links[chosen] = nearest;
            chosen += 1;
            if chosen == self.degree {
                break;
            }
            self.distances.resize(others.len(), 0.0);
            measure(nearest, others, &mut self.distances);
            let mut kept = 0;
            for index in 0..self.distances.len() {
                let (other, from_row) = (self.remaining[index + 1], self.ranked[index + 1]);
                self.remaining[kept] = other;
                self.ranked[kept] = from_row;
                kept += usize::from(self.alpha_squared * self.distances[index] > from_row.distance);
            }
            self.remaining.truncate(kept);
        }
        links[chosen..].fill(u32::MAX);
    }

    /// The `l_max` nearest candidates, nearest first.
    #[cfg(test)]
    pub fn ranked(&mut self, row: u32, candidates: &[u32]) -> &[Neighbor] {
        let (rows, kernels) = (self.rows, self.kernels);
        self.rank(row, candidates, &mut |from: u32, to: &[u32], out: &mut [f32]| {
            (kernels.l2_gather)(rows.row(from as usize), rows.as_slice(), to, out);
        });
        &self.ranked
    }

    fn rank(&mut self, row: u32, candidates: &[u32], measure: &mut impl FnMut(u32, &[u32], &mut [f32])) {
        self.distances.resize(candidates.len(), 0.0);
        measure(row, candidates, &mut self.distances);
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
            // Reals, small integers, where candidates repeat as vectors and distances tie, and integers that bytes hold.
            for kind in 0..3 {
                let value = |random: &mut Random| match kind {
                    0 => random.normal() as f32,
                    1 => random.below(3) as f32,
                    _ => random.below(255) as f32,
                };
                let mut rows = VectorBuf::new((0..200 * dim).map(|_| value(&mut random)).collect(), dim);
                rows.row_mut(0).fill(0.0);
                rows.row_mut(1).fill(254.0);
                let bytes = ByteRows::encode(rows.view());
                let bytes = if kind == 2 { bytes.as_ref() } else { None };
                for degree in [1, 2, 4, 32] {
                    for alpha in [1.0, 1.2, 2.0] {
                        let params = HnswParams { alpha, l_max: 40, ..HnswParams::new(2, 64) };
                        let mut prune = Prune::new(rows.view(), bytes, kernels(), &params, degree);
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

    #[test]
    fn rows_too_near_each_other_for_bytes_are_pruned_by_their_vectors() {
        let mut random = Random::new(5);
        let place = |row: usize| if row < 2 { 1e3 * row as f32 } else { 0.0 };
        let data = (0..100 * 8).map(|i| place(i / 8) + 1e-3 * random.normal() as f32).collect();
        let rows = VectorBuf::new(data, 8);
        let bytes = ByteRows::encode(rows.view());
        let params = HnswParams { l_max: 40, ..HnswParams::new(2, 64) };
        let links = |bytes| {
            let mut links = [0; 16];
            let candidates: Vec<u32> = (3..100).collect();
            Prune::new(rows.view(), bytes, kernels(), &params, 16).links(2, &candidates, &mut links);
            links
        };
        assert_eq!(links(bytes.as_ref()), links(None));
    }
}
