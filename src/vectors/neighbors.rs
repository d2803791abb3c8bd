use bytemuck::{Pod, Zeroable};

/// One found row. Ordered by (distance, ordinal): the total order that makes every top-k in Annvil independent
/// of the order of arrival, with ties going to the lowest ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Neighbor {
    pub distance: f32,
    pub ordinal: u32,
}

impl Neighbor {
    /// What pads a result with fewer than `k` rows. Sorts after every found row.
    pub const NONE: Neighbor = Neighbor { distance: f32::INFINITY, ordinal: u32::MAX };

    pub fn new(ordinal: u32, distance: f32) -> Self {
        Self { distance, ordinal }
    }

    pub fn is_none(&self) -> bool {
        self.ordinal == u32::MAX
    }

    /// A 64-bit integer that orders as (distance, ordinal) does. Distances are never NaN.
    #[inline]
    pub fn key(self) -> u64 {
        // −0.0 and 0.0 are one distance; adding 0.0 makes them one bit pattern.
        let bits = (self.distance + 0.0).to_bits();
        let sign = ((bits as i32) >> 31) as u32;
        let ordered = bits ^ (sign | 0x8000_0000);
        (u64::from(ordered) << 32) | u64::from(self.ordinal)
    }

    /// The neighbour that has this [`key`](Self::key).
    #[inline]
    pub fn of_key(key: u64) -> Self {
        let ordered = (key >> 32) as u32;
        let sign = if ordered >> 31 == 1 { 0x8000_0000 } else { u32::MAX };
        Self { distance: f32::from_bits(ordered ^ sign), ordinal: key as u32 }
    }
}

impl Eq for Neighbor {}

impl PartialOrd for Neighbor {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Neighbor {
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// The `k` nearest of each query: `queries × k`, each row ascending, padded with [`Neighbor::NONE`].
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbors {
    k: usize,
    items: Vec<Neighbor>,
}

impl Neighbors {
    pub fn new(queries: usize, k: usize) -> Self {
        assert!(k > 0);
        Self { k, items: vec![Neighbor::NONE; queries * k] }
    }

    pub fn k(&self) -> usize {
        self.k
    }

    pub fn queries(&self) -> usize {
        self.items.len() / self.k
    }

    /// All `k` slots of a query, padding included.
    pub fn row(&self, query: usize) -> &[Neighbor] {
        &self.items[query * self.k..(query + 1) * self.k]
    }

    pub fn row_mut(&mut self, query: usize) -> &mut [Neighbor] {
        &mut self.items[query * self.k..(query + 1) * self.k]
    }

    /// The rows that were found, without padding.
    pub fn found(&self, query: usize) -> &[Neighbor] {
        let row = self.row(query);
        &row[..row.iter().position(Neighbor::is_none).unwrap_or(row.len())]
    }

    pub fn as_slice(&self) -> &[Neighbor] {
        &self.items
    }

    pub fn as_mut_slice(&mut self) -> &mut [Neighbor] {
        &mut self.items
    }
}

/// Collects the `k` smallest of a stream by threshold: a candidate beyond the running k-th distance costs one
/// comparison; the others are appended and cut back by selection once `2k` (at least 32) have gathered.
/// Cheaper than a heap when most candidates are rejected, and it allocates once.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    capacity: usize,
    bound: Neighbor,
    kept: Vec<Neighbor>,
}

impl TopK {
    pub fn new(k: usize) -> Self {
        assert!(k > 0);
        let capacity = Self::capacity(k);
        Self { k, capacity, bound: Neighbor::NONE, kept: Vec::with_capacity(capacity) }
    }

    /// Neighbours that are gathered before those that are not among the `k` are let go.
    fn capacity(k: usize) -> usize {
        (2 * k).max(k + 32)
    }

    /// What one takes, with its list.
    pub fn size_bytes(k: usize) -> usize {
        size_of::<Self>() + Self::capacity(k) * size_of::<Neighbor>()
    }

    pub fn clear(&mut self) {
        self.kept.clear();
        self.bound = Neighbor::NONE;
    }

    /// A candidate farther than this cannot enter: a fast pre-check for vectorised callers. Candidates at
    /// exactly this distance may still enter by their ordinal.
    #[inline]
    pub fn bound(&self) -> f32 {
        self.bound.distance
    }

    #[inline]
    pub fn push(&mut self, candidate: Neighbor) {
        if candidate < self.bound {
            self.kept.push(candidate);
            if self.kept.len() == self.capacity {
                self.shrink();
            }
        }
    }

    #[cold]
    fn shrink(&mut self) {
        let (_, kth, _) = self.kept.select_nth_unstable(self.k - 1);
        self.bound = *kth;
        self.kept.truncate(self.k);
    }

    /// The smallest `k`, ascending; the collector is left as it is, sorted.
    pub fn sorted(&mut self) -> &[Neighbor] {
        if self.kept.len() > self.k {
            self.shrink();
        }
        self.kept.sort_unstable();
        &self.kept
    }

    /// Copies the smallest `k` into `out` (ascending, padded) and clears.
    pub fn drain_into(&mut self, out: &mut [Neighbor]) {
        let found = self.sorted();
        let count = found.len().min(out.len());
        out[..count].copy_from_slice(&found[..count]);
        out[count..].fill(Neighbor::NONE);
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn top_k_is_the_head_of_the_sorted_stream_in_any_order() {
        let mut random = Random::new(3);
        for (n, k) in [(0, 1), (1, 1), (5, 10), (1000, 1), (1000, 10), (1000, 100), (40, 33)] {
            // Few distinct distances, so that ties decide.
            let mut stream: Vec<Neighbor> =
                (0..n).map(|i| Neighbor::new(i, random.below(7) as f32 - 3.0)).collect();
            let mut expected = stream.clone();
            expected.sort();
            expected.truncate(k);
            for _ in 0..3 {
                for i in (1..stream.len()).rev() {
                    stream.swap(i, random.below(i + 1));
                }
                let mut top = TopK::new(k);
                stream.iter().for_each(|&neighbor| top.push(neighbor));
                assert_eq!(top.sorted(), expected);
            }
        }
    }

    #[test]
    fn the_key_orders_negative_zero_and_infinite_distances() {
        let ascending = [f32::NEG_INFINITY, -1.0, -1e-30, 0.0, 1e-30, 1.0, f32::INFINITY];
        for pair in ascending.windows(2) {
            assert!(Neighbor::new(9, pair[0]) < Neighbor::new(0, pair[1]), "{pair:?}");
        }
        assert_eq!(Neighbor::new(1, -0.0).key(), Neighbor::new(1, 0.0).key());
        for distance in ascending {
            assert_eq!(Neighbor::of_key(Neighbor::new(7, distance).key()), Neighbor::new(7, distance));
        }
    }
}
