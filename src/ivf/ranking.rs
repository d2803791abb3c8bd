//! Which lists a query probes, and in what order.
//!
//! Nearest centroid first for L2, and by greatest ⟨q, c⟩ for inner product: it is the mean of ⟨q, x⟩ over the rows of
//! the list. For cosine by ⟨q, c⟩ / |c|, the angle: the mean of unit vectors is short where they are spread, and a wide
//! list's best row lies further above its mean. Measured at equal `nprobe` against ⟨q, c⟩: recall@10 .953 for .945
//! (glove10k, 32 of 256 lists) and .909 for .907 (minilm100k, 32 of 512); the nearest centroid by L2 gave .942 and .902.

use crate::compute::cpu::{Ranking, kernels};
use crate::vectors::{Metric, Neighbor, VectorBuf, VectorView, subtract};

/// Centroids, packed for ranking them all.
#[derive(Debug)]
pub(super) struct ListRanking {
    metric: Metric,
    ranking: Ranking,
    /// For L2 the mean of the centroids, which centroids and queries are taken from: far from the origin
    /// |c|² − 2⟨q, c⟩ would lose what tells lists apart. Empty otherwise.
    centre: Vec<f32>,
    /// For cosine, |centroid| of each list. Empty otherwise.
    norms: Vec<f32>,
}

impl ListRanking {
    pub fn of(centroids: VectorView<'_>, metric: Metric) -> Self {
        let mut packed = VectorBuf::new(centroids.as_slice().to_vec(), centroids.dim());
        let (mut centre, mut norms) = (Vec::new(), Vec::new());
        match metric {
            Metric::L2 => {
                centre = centroids.mean();
                packed
                    .as_mut_slice()
                    .chunks_exact_mut(centroids.dim())
                    .for_each(|row| subtract(row, &centre));
            }
            Metric::Cosine => {
                norms = centroids.iter().map(norm).collect();
                for (row, &norm) in packed.as_mut_slice().chunks_exact_mut(centroids.dim()).zip(&norms) {
                    let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
                    row.iter_mut().for_each(|value| *value *= inverse);
                }
            }
            Metric::InnerProduct => {}
            Metric::L1 | Metric::Hamming => metric.without_products(),
        }
        Self { metric, ranking: Ranking::of(packed.view(), metric), centre, norms }
    }

    /// Ranks of one query: one for each list, and padding.
    pub fn stride(&self) -> usize {
        self.ranking.stride()
    }

    /// Queries that are best ranked together.
    pub fn strip(&self) -> usize {
        self.ranking.strip()
    }

    /// Fills `ranks`, `queries × stride`: the lower, the earlier. A query's are the same however many come with it.
    /// `scratch` holds as many values as the queries.
    pub fn ranks(&self, queries: VectorView<'_>, scratch: &mut [f32], ranks: &mut [f32]) {
        if self.centre.is_empty() {
            return self.ranking.scores(queries, ranks);
        }
        scratch.copy_from_slice(queries.as_slice());
        scratch.chunks_exact_mut(queries.dim()).for_each(|row| subtract(row, &self.centre));
        self.ranking.scores(VectorView::new(scratch, queries.dim()), ranks);
    }

    /// The part of an estimate that the rows of a list share (`scan/product.rs`).
    pub fn shared(&self, query: &[f32], centroid: &[f32], list: usize, rank: f32) -> f32 {
        match self.metric {
            Metric::L2 => (kernels().l2)(query, centroid),
            Metric::InnerProduct => self.metric.distance_of_dot(-rank),
            Metric::Cosine => self.metric.distance_of_dot(-rank * self.norms[list]),
            Metric::L1 | Metric::Hamming => self.metric.without_products(),
        }
    }
}

/// Of how many lists one is looked at to guess how far the `nprobe`-th is.
const SAMPLED: usize = 8;

/// Fills `keys` with the [`Neighbor::key`]s of the `nprobe` lists of the least ranks, ascending; empty lists are left out.
pub(super) fn select(ranks: &[f32], list_offsets: &[u64], nprobe: usize, keys: &mut Vec<u64>) {
    // A guess leaves few to select from.
    let bound = guess(ranks, nprobe, keys);
    within(ranks, list_offsets, bound, keys);
    if keys.len() < nprobe && bound < f32::INFINITY {
        within(ranks, list_offsets, f32::INFINITY, keys);
    }
    if nprobe < keys.len() {
        keys.select_nth_unstable(nprobe);
        keys.truncate(nprobe);
    }
    keys.sort_unstable();
}

/// A rank that somewhat more than `nprobe` lists are likely to have at most.
fn guess(ranks: &[f32], nprobe: usize, keys: &mut Vec<u64>) -> f32 {
    keys.clear();
    let at = nprobe.saturating_add(nprobe / 4) / SAMPLED + 4;
    if at >= ranks.len() / SAMPLED / 2 {
        return f32::INFINITY;
    }
    keys.extend(ranks.iter().step_by(SAMPLED).map(|&rank| Neighbor::new(0, rank).key()));
    Neighbor::of_key(*keys.select_nth_unstable(at).1).distance
}

fn within(ranks: &[f32], list_offsets: &[u64], bound: f32, keys: &mut Vec<u64>) {
    keys.clear();
    for (list, &rank) in ranks.iter().enumerate() {
        if rank <= bound && list_offsets[list] < list_offsets[list + 1] {
            keys.push(Neighbor::new(list as u32, rank).key());
        }
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
}
