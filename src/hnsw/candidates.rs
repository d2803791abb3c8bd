//! The candidate edges of every row, gathered from leaves in any order and bounded per row.
//!
//! Only ordinals are kept, 4 bytes each: the prune reads the candidates' vectors anyway, and computing a distance
//! again there costs less than carrying it. Of some hundred arrivals a row, two of five are new (a pair that is near meets
//! in several leaves, and in each from both sides): one that is there already is left out at once, so that few rows are
//! ever full. A full row is cut back to its `l_max` nearest. What is cut always has `l_max` nearer ones beside it, so the
//! `l_max` nearest of all candidates ever offered are there at the end, whatever the order of arrival; which others are
//! there too depends on it, and the prune, which ranks them, takes no more than those first `l_max`.

use rayon::prelude::*;

use super::links::NONE;
use crate::compute::Leaves;
use crate::compute::cpu::{ByteQuery, ByteRows, Kernels, prefetch};
use crate::vectors::{Neighbor, Neighbors, VectorView};

/// Most shares of the rows, each taken care of by one thread; a power of 2.
const MAX_SHARES: usize = 64;

pub(super) struct Candidates<'a> {
    rows: VectorView<'a>,
    bytes: Option<&'a ByteRows>,
    kernels: &'static Kernels,
    l_max: usize,
    capacity: usize,
    /// Share `s` holds rows `s`, `s + shares`, `s + 2 · shares`, …: rows that are together in a leaf, and often in the source,
    /// are spread over all. As many as there are threads, up to a power of 2.
    shares: Vec<Share>,
}

/// The candidates of some rows, by their place in the share.
struct Share {
    /// `places × capacity`, the first `counts[place]` used.
    ordinals: Vec<u32>,
    counts: Vec<u16>,
}

impl<'a> Candidates<'a> {
    /// Of `rows`, which are `bytes` too where there are such.
    pub fn new(
        rows: VectorView<'a>,
        bytes: Option<&'a ByteRows>,
        kernels: &'static Kernels,
        l_max: usize,
    ) -> Self {
        // Room for arrivals between two cuts; a third beyond `l_max` keeps cuts rare and memory small.
        let capacity = (l_max + l_max.div_ceil(3).max(8)).next_multiple_of(COMPARED);
        let shares = rayon::current_num_threads().clamp(1, MAX_SHARES).next_power_of_two();
        let places = rows.rows().div_ceil(shares);
        let share = |_| Share { ordinals: vec![NONE; places * capacity], counts: vec![0; places] };
        Self { rows, bytes, kernels, l_max, capacity, shares: (0..shares).map(share).collect() }
    }

    /// Takes the edges of a batch of leaves, both ways.
    ///
    /// Each thread reads all of them and takes those of its own rows: cheaper than to sort them by row first. Leaf by leaf the
    /// rows written to are few, and stay in cache.
    pub fn absorb(&mut self, leaves: &Leaves, found: &Neighbors) {
        let Self { rows, bytes, kernels, l_max, capacity, .. } = *self;
        let (bits, mask) = (self.shares.len().trailing_zeros(), self.shares.len() as u32 - 1);
        self.shares.par_iter_mut().enumerate().for_each(|(own, share)| {
            let mut cut = Cut::new(rows, bytes, kernels, l_max);
            let is_own = |row: u32| row & mask == own as u32;
            let mut edges: Vec<(u32, u32)> = Vec::new();
            for leaf in 0..leaves.len() {
                // The next leaf's rows, which lie scattered, are asked for while this one's are written to.
                if leaf + 1 < leaves.len() {
                    for &row in leaves.leaf(leaf + 1).iter().filter(|&&row| is_own(row)) {
                        share.prefetch(capacity, (row >> bits) as usize);
                    }
                }
                // Whose an edge is no processor can foresee, so all are written, and a place is kept or not.
                let slots = leaves.offsets[leaf] as usize..leaves.offsets[leaf + 1] as usize;
                edges.resize(2 * found.k() * slots.len(), (0, 0));
                let mut count = 0;
                for slot in slots {
                    let member = leaves.members[slot];
                    for &Neighbor { ordinal, .. } in found.row(slot) {
                        for (from, to) in [(member, ordinal), (ordinal, member)] {
                            edges[count] = (from, to);
                            count += usize::from(is_own(from) & (ordinal != Neighbor::NONE.ordinal));
                        }
                    }
                }
                for &(from, to) in &edges[..count] {
                    share.take(&mut cut, capacity, (from >> bits) as usize, from, to);
                }
            }
        });
    }

    /// The `l_max` nearest candidates of `row` and some others, none twice, in no particular order.
    pub fn of(&self, row: u32) -> &[u32] {
        let share = &self.shares[row as usize % self.shares.len()];
        let place = row as usize / self.shares.len();
        &share.ordinals[place * self.capacity..][..usize::from(share.counts[place])]
    }
}

impl Share {
    #[inline]
    fn prefetch(&self, capacity: usize, place: usize) {
        const LINE: usize = 16;
        let used = usize::from(self.counts[place]) + 1;
        let slots = &self.ordinals[place * capacity..][..capacity];
        slots.chunks(2 * LINE).take(used.div_ceil(2 * LINE)).for_each(prefetch);
    }

    #[inline]
    fn take(&mut self, cut: &mut Cut<'_>, capacity: usize, place: usize, from: u32, to: u32) {
        let slots = &mut self.ordinals[place * capacity..][..capacity];
        let count = &mut self.counts[place];
        if holds(&slots[..usize::from(*count).next_multiple_of(COMPARED)], to) {
            return;
        }
        if usize::from(*count) == capacity {
            *count = cut.cut(from, slots) as u16;
            slots[usize::from(*count)..].fill(NONE);
        }
        slots[usize::from(*count)] = to;
        *count += 1;
    }
}

/// Slots that are compared with a newcomer at once.
const COMPARED: usize = 8;

/// Without a branch for each: the compiler compares whole registers.
#[inline]
fn holds(slots: &[u32], ordinal: u32) -> bool {
    let (groups, _) = slots.as_chunks::<COMPARED>();
    let mut held = [false; COMPARED];
    for group in groups {
        for (held, &slot) in held.iter_mut().zip(group) {
            *held |= slot == ordinal;
        }
    }
    held.contains(&true)
}

/// Cuts a full row back.
struct Cut<'a> {
    rows: VectorView<'a>,
    bytes: Option<ByteQuery<'a>>,
    resolution: f32,
    kernels: &'static Kernels,
    l_max: usize,
    distances: Vec<f32>,
    keys: Vec<u64>,
}

impl<'a> Cut<'a> {
    fn new(
        rows: VectorView<'a>,
        bytes: Option<&'a ByteRows>,
        kernels: &'static Kernels,
        l_max: usize,
    ) -> Self {
        Self {
            rows,
            bytes: bytes.map(ByteQuery::new),
            resolution: bytes.map_or(0.0, ByteRows::resolution),
            kernels,
            l_max,
            distances: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Removes all but the `l_max` nearest from `slots`, which are more; returns how many are left.
    fn cut(&mut self, row: u32, slots: &mut [u32]) -> usize {
        self.distances.resize(slots.len(), 0.0);
        let by_bytes = self.bytes.as_mut().is_some_and(|bytes| {
            bytes.distances(row, slots, &mut self.distances);
            self.distances.iter().all(|&distance| distance >= self.resolution)
        });
        if !by_bytes {
            let (vector, base) = (self.rows.row(row as usize), self.rows.as_slice());
            (self.kernels.l2_gather)(vector, base, slots, &mut self.distances);
        }
        self.keys.clear();
        let pairs = slots.iter().zip(&self.distances);
        self.keys.extend(pairs.map(|(&to, &distance)| Neighbor::new(to, distance).key()));
        self.keys.select_nth_unstable(self.l_max - 1);
        for (slot, &kept) in slots.iter_mut().zip(&self.keys[..self.l_max]) {
            *slot = Neighbor::of_key(kept).ordinal;
        }
        self.l_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::{Cpu, kernels};
    use crate::compute::{Compute, Leaves};
    use crate::hnsw::HnswParams;
    use crate::hnsw::prune::Prune;
    use crate::vectors::{Metric, Random, VectorBuf};

    /// Leaves of a random cover.
    fn leaves(rows: usize, count: usize, size: usize, random: &mut Random) -> Vec<Vec<u32>> {
        (0..count).map(|_| random.sample(rows, size)).collect()
    }

    fn found(rows: &VectorBuf, batch: &Leaves, k: usize) -> Neighbors {
        let uploaded = Cpu::new().upload(rows.view()).unwrap();
        Cpu::new().leaf_top_k(&uploaded, batch, Metric::L2, k).unwrap()
    }

    /// Absorbs the leaves in batches of `size`.
    fn absorbed<'a>(rows: &'a VectorBuf, leaves: &[Vec<u32>], size: usize, l_max: usize) -> Candidates<'a> {
        let mut candidates = Candidates::new(rows.view(), None, kernels(), l_max);
        for leaves in leaves.chunks(size) {
            let mut batch = Leaves::default();
            leaves.iter().for_each(|leaf| batch.push(leaf));
            candidates.absorb(&batch, &found(rows, &batch, 3));
        }
        candidates
    }

    /// The definition: all that were ever offered, distinct, the `l_max` nearest.
    fn expected(rows: &VectorBuf, leaves: &[Vec<u32>], l_max: usize) -> Vec<Vec<Neighbor>> {
        let mut offered = vec![std::collections::BTreeSet::new(); rows.rows()];
        for leaf in leaves {
            let mut batch = Leaves::default();
            batch.push(leaf);
            let found = found(rows, &batch, 3);
            for (slot, &member) in leaf.iter().enumerate() {
                for neighbor in found.found(slot) {
                    offered[member as usize].insert(neighbor.ordinal);
                    offered[neighbor.ordinal as usize].insert(member);
                }
            }
        }
        let nearest = |(row, offered): (usize, std::collections::BTreeSet<u32>)| {
            let mut ranked: Vec<Neighbor> = offered
                .into_iter()
                .map(|to| Neighbor::new(to, (kernels().l2)(rows.row(row), rows.row(to as usize))))
                .collect();
            ranked.sort_unstable();
            ranked.truncate(l_max);
            ranked
        };
        offered.into_iter().enumerate().map(nearest).collect()
    }

    #[test]
    fn the_nearest_of_all_that_were_offered_are_kept_whatever_their_order() {
        let mut random = Random::new(3);
        // Small integers: many distances tie. And two buckets of rows.
        for (rows, count, size, l_max) in
            [(60, 40, 30, 4), (60, 80, 50, 8), (5000, 300, 200, 4), (3, 5, 3, 4), (1, 1, 1, 4)]
        {
            let data = VectorBuf::new((0..rows * 3).map(|_| random.below(6) as f32).collect(), 3);
            let mut leaves = leaves(rows, count, size, &mut random);
            let expected = expected(&data, &leaves, l_max);
            for shuffle in 0..3 {
                let candidates = absorbed(&data, &leaves, [count, 1, 7][shuffle], l_max);
                for (row, expected) in expected.iter().enumerate() {
                    let kept = candidates.of(row as u32);
                    assert!(kept.len() <= candidates.capacity);
                    assert!(!kept.contains(&(row as u32)), "never itself");
                    // As the prune takes them: by the rule of a graph without one.
                    let params = HnswParams { alpha: 100.0, l_max, ..HnswParams::new(2, 64) };
                    let mut prune = Prune::new(data.view(), None, kernels(), &params, l_max);
                    assert_eq!(prune.ranked(row as u32, kept), expected, "row {row}");
                }
                for at in (1..leaves.len()).rev() {
                    leaves.swap(at, random.below(at + 1));
                }
                leaves.iter_mut().for_each(|leaf| leaf.reverse());
            }
        }
    }
}
