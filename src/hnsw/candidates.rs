//! The candidate edges of every row, gathered from leaves in any order and bounded per row.
//!
//! Only ordinals are kept, 4 bytes each: the prune reads the candidates' vectors anyway, and computing a distance
//! again there costs less than carrying it. A full row is cut back to its `l_max` nearest; because what is cut
//! always has `l_max` nearer ones beside it, the outcome is the `l_max` nearest of all candidates ever offered,
//! whatever the order of arrival.

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

    /// The candidates of `row`, with duplicates, in no particular order.
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
