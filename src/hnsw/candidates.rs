//! The candidate edges of every row, gathered from leaves in any order and bounded per row.
//!
//! Only ordinals are kept, 4 bytes each: the prune reads the candidates' vectors anyway, and computing a distance
//! again there costs less than carrying it. A full row is cut back to its `l_max` nearest. What is cut always has
//! `l_max` nearer ones beside it, so the `l_max` nearest of all candidates ever offered are there at the end, whatever
//! the order of arrival; which others are there too depends on it, and the prune, which ranks them, takes no more than
//! those first `l_max`.

use rayon::prelude::*;

use crate::compute::Leaves;
use crate::compute::cpu::Kernels;
use crate::vectors::{Neighbor, Neighbors, VectorView};

/// Rows per bucket: edges are gathered by bucket, and buckets are merged in parallel without locks.
const BUCKET_ROWS: usize = 4096;

/// Leaf slots turned into edges by one task.
const SLOTS_PER_TASK: usize = 1 << 15;

pub(super) struct Candidates<'a> {
    rows: VectorView<'a>,
    kernels: &'static Kernels,
    l_max: usize,
    capacity: usize,
    /// `rows × capacity`, the first `counts[row]` used.
    ordinals: Vec<u32>,
    counts: Vec<u16>,
}

/// An edge that a leaf found: `to` is a candidate of `from`.
type Edge = (u32, u32);

impl<'a> Candidates<'a> {
    pub fn new(rows: VectorView<'a>, kernels: &'static Kernels, l_max: usize) -> Self {
        // Room for arrivals between two cuts; a third beyond `l_max` keeps cuts rare and memory small.
        let capacity = l_max + l_max.div_ceil(3).max(8);
        Self {
            rows,
            kernels,
            l_max,
            capacity,
            ordinals: vec![0; rows.rows() * capacity],
            counts: vec![0; rows.rows()],
        }
    }

    /// Takes the edges of a batch of leaves, both ways.
    pub fn absorb(&mut self, leaves: &Leaves, found: &Neighbors) {
        let buckets = self.rows.rows().div_ceil(BUCKET_ROWS);
        let slots = leaves.members.len();
        let tasks: Vec<Vec<Vec<Edge>>> = (0..slots.div_ceil(SLOTS_PER_TASK))
            .into_par_iter()
            .map(|task| {
                let mut edges = vec![Vec::new(); buckets];
                for slot in task * SLOTS_PER_TASK..((task + 1) * SLOTS_PER_TASK).min(slots) {
                    let member = leaves.members[slot];
                    for neighbor in found.found(slot) {
                        edges[member as usize / BUCKET_ROWS].push((member, neighbor.ordinal));
                        edges[neighbor.ordinal as usize / BUCKET_ROWS].push((neighbor.ordinal, member));
                    }
                }
                edges
            })
            .collect();
        let (rows, kernels, l_max, capacity) = (self.rows, self.kernels, self.l_max, self.capacity);
        self.ordinals
            .par_chunks_mut(BUCKET_ROWS * capacity)
            .zip(self.counts.par_chunks_mut(BUCKET_ROWS))
            .enumerate()
            .for_each(|(bucket, (ordinals, counts))| {
                let mut cut = Cut { rows, kernels, l_max, distances: Vec::new(), ranked: Vec::new() };
                for &(from, to) in tasks.iter().flat_map(|edges| &edges[bucket]) {
                    let local = from as usize - bucket * BUCKET_ROWS;
                    let slots = &mut ordinals[local * capacity..(local + 1) * capacity];
                    let count = &mut counts[local];
                    if usize::from(*count) == capacity {
                        *count = cut.cut(from, slots) as u16;
                    }
                    slots[usize::from(*count)] = to;
                    *count += 1;
                }
            });
    }

    /// The `l_max` nearest candidates of `row` and some others, with duplicates, in no particular order.
    pub fn of(&self, row: u32) -> &[u32] {
        let start = row as usize * self.capacity;
        &self.ordinals[start..start + usize::from(self.counts[row as usize])]
    }
}

/// Cuts a full row back.
struct Cut<'a> {
    rows: VectorView<'a>,
    kernels: &'static Kernels,
    l_max: usize,
    distances: Vec<f32>,
    ranked: Vec<Neighbor>,
}

impl Cut<'_> {
    /// Removes duplicates from `slots` and, where that leaves more than `l_max`, all but the nearest; returns how
    /// many are left.
    fn cut(&mut self, row: u32, slots: &mut [u32]) -> usize {
        slots.sort_unstable();
        let mut distinct = 0;
        for index in 0..slots.len() {
            if index == 0 || slots[index] != slots[distinct - 1] {
                slots[distinct] = slots[index];
                distinct += 1;
            }
        }
        if distinct <= self.l_max {
            return distinct;
        }
        let slots = &mut slots[..distinct];
        self.distances.resize(distinct, 0.0);
        (self.kernels.l2_gather)(
            self.rows.row(row as usize),
            self.rows.as_slice(),
            slots,
            &mut self.distances,
        );
        self.ranked.clear();
        self.ranked
            .extend(slots.iter().zip(&self.distances).map(|(&to, &distance)| Neighbor::new(to, distance)));
        self.ranked.select_nth_unstable(self.l_max - 1);
        for (slot, kept) in slots.iter_mut().zip(&self.ranked[..self.l_max]) {
            *slot = kept.ordinal;
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
        let mut candidates = Candidates::new(rows.view(), kernels(), l_max);
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
                    let mut prune = Prune::new(data.view(), kernels(), &params, l_max);
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
