//! The candidate edges of a range of rows, gathered from leaves and bounded per row.
//!
//! Only ordinals are kept, 4 bytes each: the prune reads the candidates' vectors anyway, and computing a distance
//! again there costs less than carrying it. Of some hundred arrivals a row, two of five are new (a pair that is near meets
//! in several leaves, and in each from both sides): one that is there already is left out at once, so that few rows are
//! ever full. A full row is cut back to its `l_max` nearest. What is cut always has `l_max` nearer ones beside it, so the
//! `l_max` nearest of all candidates ever offered are there at the end, whatever the order of arrival; which others are
//! there too depends on it, and the prune, which ranks them, takes no more than those first `l_max`.
//!
//! A range at a time, because the candidates of all rows are more than all that they are made of (`cover.rs`), and read
//! again for each range: how many ranges there are changes no row's candidates.

use std::ops::Range;

use super::cover::LeafBatch;
use super::links::NONE;
use crate::compute::cpu::{ByteQuery, ByteRows, Kernels, prefetch};
use crate::vectors::{Neighbor, VectorView};

pub(super) struct Candidates<'a> {
    cut: Cut<'a>,
    range: Range<u32>,
    capacity: usize,
    /// `rows of the range × capacity`, the first `counts[place]` used.
    ordinals: Vec<u32>,
    counts: Vec<u16>,
    /// Pairs of slots of a leaf: whose edge it is, and to where.
    edges: Vec<(u16, u16)>,
}

/// Candidates that a row has room for: a third beyond `l_max` between two cuts keeps cuts rare and memory small.
fn capacity(l_max: usize) -> usize {
    (l_max + l_max.div_ceil(3).max(8)).next_multiple_of(COMPARED)
}

impl<'a> Candidates<'a> {
    /// Of the rows of `range`, out of `rows`, which are `bytes` too where there are such.
    pub fn new(
        rows: VectorView<'a>,
        bytes: Option<&'a ByteRows>,
        kernels: &'static Kernels,
        l_max: usize,
        range: Range<u32>,
    ) -> Self {
        let capacity = capacity(l_max);
        Self {
            cut: Cut::new(rows, bytes, kernels, l_max),
            ordinals: vec![NONE; range.len() * capacity],
            counts: vec![0; range.len()],
            range,
            capacity,
            edges: Vec::new(),
        }
    }

    /// Bytes that the candidates of a row take.
    pub fn row_bytes(l_max: usize) -> usize {
        capacity(l_max) * size_of::<u32>() + size_of::<u16>()
    }

    /// Takes the edges of a batch of leaves, both ways. Leaf by leaf the rows written to are few, and stay in cache.
    pub fn absorb(&mut self, batch: &LeafBatch<'_>) {
        let mut start = 0;
        let mut ahead = self.own_slots(batch, 0, start);
        for (leaf, &size) in batch.sizes.iter().enumerate() {
            let own = ahead;
            let members = &batch.members[start..][..size as usize];
            let nearest = &batch.nearest[start * batch.k..][..members.len() * batch.k];
            start += members.len();
            // The next leaf's rows, which lie scattered, are asked for while this one's are written to.
            ahead = self.own_slots(batch, leaf + 1, start);
            for &row in &batch.members[start..][ahead.clone()] {
                self.prefetch(row);
            }
            if !own.is_empty() {
                self.absorb_leaf(members, nearest, batch.k, own);
            }
        }
    }

    /// The slots of leaf `leaf`, which starts at slot `start`, that hold rows of the range.
    fn own_slots(&self, batch: &LeafBatch<'_>, leaf: usize, start: usize) -> Range<usize> {
        let size = batch.sizes.get(leaf).map_or(0, |&size| size as usize);
        let members = &batch.members[start..][..size];
        let first = members.partition_point(|&row| row < self.range.start);
        first..first + members[first..].partition_point(|&row| row < self.range.end)
    }

    fn absorb_leaf(&mut self, members: &[u32], nearest: &[u16], k: usize, own: Range<usize>) {
        let mut edges = std::mem::take(&mut self.edges);
        edges.resize(own.len() * k + nearest.len(), (0, 0));
        let mut count = 0;
        for slot in own.clone() {
            for &to in &nearest[slot * k..][..k] {
                edges[count] = (slot as u16, to);
                count += usize::from(usize::from(to) != slot);
            }
        }
        // Whose an edge is no processor can foresee, so all are written, and a place is kept or not.
        let (first, width) = (own.start as u16, (own.len() - 1) as u16);
        for (slot, nearest) in nearest.chunks_exact(k).enumerate() {
            let slot = slot as u16;
            for &to in nearest {
                edges[count] = (to, slot);
                count += usize::from((to.wrapping_sub(first) <= width) & (to != slot));
            }
        }
        for &(from, to) in &edges[..count] {
            self.take(members[usize::from(from)], members[usize::from(to)]);
        }
        self.edges = edges;
    }

    /// The `l_max` nearest candidates of `row`, which is one of the range, and some others, none twice, in no particular order.
    pub fn of(&self, row: u32) -> &[u32] {
        let place = (row - self.range.start) as usize;
        &self.ordinals[place * self.capacity..][..usize::from(self.counts[place])]
    }

    #[inline]
    fn prefetch(&self, row: u32) {
        const LINE: usize = 16;
        let place = (row - self.range.start) as usize;
        let used = usize::from(self.counts[place]) + 1;
        let slots = &self.ordinals[place * self.capacity..][..self.capacity];
        slots.chunks(2 * LINE).take(used.div_ceil(2 * LINE)).for_each(prefetch);
    }

    #[inline]
    fn take(&mut self, from: u32, to: u32) {
        let place = (from - self.range.start) as usize;
        let slots = &mut self.ordinals[place * self.capacity..][..self.capacity];
        let count = &mut self.counts[place];
        if holds(&slots[..usize::from(*count).next_multiple_of(COMPARED)], to) {
            return;
        }
        if usize::from(*count) == self.capacity {
            *count = self.cut.cut(from, slots) as u16;
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
    use crate::hnsw::cover::{Cover, CoverBuilder};
    use crate::hnsw::duplicates::Duplicates;
    use crate::hnsw::prune::Prune;
    use crate::vectors::{Metric, Neighbors, Random, VectorBuf};

    /// Leaves of a random cover.
    fn leaves(rows: usize, count: usize, size: usize, random: &mut Random) -> Vec<Vec<u32>> {
        (0..count).map(|_| random.sample(rows, size)).collect()
    }

    fn found(rows: &VectorBuf, batch: &Leaves, k: usize) -> Neighbors {
        let uploaded = Cpu::new().upload(rows.view()).unwrap();
        Cpu::new().leaf_top_k(&uploaded, batch, Metric::L2, k).unwrap()
    }

    fn covered(rows: &VectorBuf, leaves: &[Vec<u32>]) -> Cover<'static> {
        let none = Duplicates::default();
        let mut builder = CoverBuilder::in_place(rows.rows(), &none, None);
        leaves.iter().for_each(|leaf| builder.push(leaf).unwrap());
        let (mut cover, _) = builder.finish().unwrap();
        for batch in 0..cover.batches() {
            let leaves = cover.leaves(batch).unwrap();
            cover.set_nearest(batch, &leaves, &found(rows, &leaves, 3)).unwrap();
        }
        cover
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
                let cover = covered(&data, &leaves);
                let step = [rows, 1 + rows / 3, 1 + rows / 7][shuffle] as u32;
                let ranges = (0..rows as u32).step_by(step as usize);
                let ranges: Vec<Candidates<'_>> = ranges
                    .map(|first| {
                        let range = first..(first + step).min(rows as u32);
                        let mut candidates = Candidates::new(data.view(), None, kernels(), l_max, range);
                        (0..cover.batches())
                            .for_each(|batch| candidates.absorb(&cover.batch(batch).unwrap()));
                        candidates
                    })
                    .collect();
                for (row, expected) in expected.iter().enumerate() {
                    let candidates = &ranges[row / step as usize];
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
