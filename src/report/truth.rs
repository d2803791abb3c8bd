//! Exact neighbours, by the compute backend.

use crate::compute::{Compute, Result};
use crate::flat::ground_truth;
use crate::vectors::{Metric, Neighbor, Neighbors, VectorView};

/// The exact nearest rows of a query set.
#[derive(Debug, Clone)]
pub struct GroundTruth {
    neighbors: Neighbors,
}

/// Two rows whose distances differ by less than this, relative to the larger, are a tie: it is what f32 sums in
/// different orders differ by.
const TIE: f32 = 1e-5;

impl GroundTruth {
    /// The `k` nearest of `rows` for each query; `k` is cut to the number of rows.
    pub fn compute(
        compute: &dyn Compute,
        queries: VectorView<'_>,
        rows: VectorView<'_>,
        metric: Metric,
        k: usize,
    ) -> Result<Self> {
        Ok(Self { neighbors: ground_truth(compute, queries, rows, metric, k.min(rows.rows()))? })
    }

    /// Of neighbours known already, ascending by exact distance, all places taken.
    pub fn of(neighbors: Neighbors) -> Self {
        Self { neighbors }
    }

    pub fn k(&self) -> usize {
        self.neighbors.k()
    }

    pub fn queries(&self) -> usize {
        self.neighbors.queries()
    }

    pub fn row(&self, query: usize) -> &[Neighbor] {
        self.neighbors.row(query)
    }

    /// |found ∩ true| / k for one query, where `found` holds rows as the truth numbers them, nearest first, and
    /// `distance` is the exact distance of one. A row as near as the k-th true one counts, in the list or not.
    /// With fewer than `k` rows there are, all of them are what is to be found.
    pub fn recall(&self, query: usize, found: &[u32], k: usize, distance: impl Fn(u32) -> f32) -> f64 {
        let truth = &self.row(query)[..k.min(self.k())];
        let Some(farthest) = truth.last() else { return 1.0 };
        let limit = farthest.distance + TIE * farthest.distance.abs().max(f32::MIN_POSITIVE);
        let hits = found
            .iter()
            .take(truth.len())
            .filter(|&&row| truth.iter().any(|true_row| true_row.ordinal == row) || distance(row) <= limit)
            .count();
        hits as f64 / truth.len() as f64
    }

    /// The same for rows in another order, of which `order` names what they were called here.
    pub fn renumbered(&self, order: &[u32]) -> Self {
        let mut places = vec![0; order.len()];
        (0..).zip(order).for_each(|(place, &row)| places[row as usize] = place);
        let mut neighbors = self.neighbors.clone();
        let found =
            neighbors.as_mut_slice().iter_mut().filter(|neighbor| neighbor.ordinal != Neighbor::NONE.ordinal);
        found.for_each(|neighbor| neighbor.ordinal = places[neighbor.ordinal as usize]);
        Self { neighbors }
    }

    /// The same where what was called row `i` here is `numbers[i]`: ascending, so that ties stay in order.
    pub fn numbered(mut self, numbers: &[u32]) -> Self {
        for neighbor in self.neighbors.as_mut_slice() {
            if neighbor.ordinal != Neighbor::NONE.ordinal {
                neighbor.ordinal = numbers[neighbor.ordinal as usize];
            }
        }
        self
    }

    /// BLAKE3 of the neighbours' ordinals after `renumber`, query by query, u32 little-endian: of at most
    /// [`DIGESTED`](Self::DIGESTED) a query, so that truths of different depths have one digest.
    pub fn digest(&self, renumber: impl Fn(u32) -> u32) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for query in 0..self.queries() {
            for neighbor in self.row(query).iter().take(Self::DIGESTED) {
                hasher.update(&renumber(neighbor.ordinal).to_le_bytes());
            }
        }
        hasher.finalize()
    }

    /// Neighbours of a query that its truth is known by: no truth that is measured with has fewer, where there are as many rows.
    pub const DIGESTED: usize = 100;
}
