//! The k nearest of each member within its leaf: the hottest stage of a graph build.
//!
//! One packing of the leaf serves as both sides of its symmetric product, of which only the upper triangle is
//! computed; `kernels::leaf` says how the k nearest are taken from it. What is returned are the distances of the
//! products, not recomputed ones: a pair's distance has the same bits in whichever leaf, order or thread it is met,
//! and is exactly 0 for equal rows under L2, which is what a reservoir that merges leaves needs.

use rayon::prelude::*;

use super::kernels::{Kept, LeafRow, Minima};
use super::panels::{Aligned, score_scale};
use super::{Kernels, top_k};
use crate::compute::{Leaves, Rows};
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorView};

/// A leaf's products are kept until its bounds are known: 16 MiB at this size. Larger leaves, which a partition has
/// no reason to make, are searched as queries against rows, where they are also large enough not to suffer.
const MAX_LEAF: usize = 2048;

/// Rows of a leaf that share one minimum per column.
const GROUP: usize = 32;

pub(super) fn leaf_top_k(
    kernels: &Kernels,
    rows: &Rows<'_>,
    leaves: &Leaves,
    metric: Metric,
    k: usize,
) -> Neighbors {
    assert!(leaves.is_empty() || leaves.offsets[0] == 0);
    assert_eq!(leaves.offsets.last().map_or(0, |&end| end as usize), leaves.members.len());
    let mut found = Neighbors::new(leaves.members.len(), k);
    let mut rest = found.as_mut_slice();
    let mut tasks = Vec::with_capacity(leaves.len());
    for leaf in 0..leaves.len() {
        let members = leaves.leaf(leaf);
        let (found, behind) = rest.split_at_mut(members.len() * k);
        tasks.push((members, found));
        rest = behind;
    }
    let rows = rows.host();
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (members, found)| {
        if members.len() > MAX_LEAF {
            large(kernels, rows, members, metric, found, k);
        } else if members.len() > 1 {
            Leaf::multiply(kernels, rows, members, metric, scratch, k <= Kept::MAX_K).select(found, k);
        }
    });
    found
}

/// What one thread needs for its leaves, kept from leaf to leaf.
#[derive(Default)]
struct Scratch {
    panels: Aligned,
    products: Aligned,
    offsets: Vec<f32>,
    groups: Aligned,
    lanes: Aligned,
    lane_panels: Aligned,
    bounds: Vec<f32>,
    kept: Kept,
}

/// A leaf with the upper triangle of its products.
struct Leaf<'a> {
    kernels: &'a Kernels,
    members: &'a [u32],
    metric: Metric,
    /// Members, padded to whole panels.
    columns: usize,
    /// `members × columns`; of row `i` only the columns from its panel's first on are set.
    products: &'a [f32],
    offsets: &'a [f32],
    /// Groups of rows × columns.
    groups: &'a [f32],
    /// `members × panel`.
    lanes: &'a [f32],
    lane_panels: &'a mut Aligned,
    bounds: &'a mut Vec<f32>,
    kept: &'a mut Kept,
}

impl<'a> Leaf<'a> {
    /// All products, and the group minima if they are wanted.
    fn multiply(
        kernels: &'a Kernels,
        rows: VectorView<'_>,
        members: &'a [u32],
        metric: Metric,
        scratch: &'a mut Scratch,
        with_minima: bool,
    ) -> Self {
        let (base, dim, panel) = (rows.as_slice(), rows.dim(), kernels.panel);
        let columns = members.len().next_multiple_of(panel);
        let panels = scratch.panels.resized(columns * dim);
        (kernels.pack)(base, dim, members, panels);

        scratch.offsets.clear();
        // The halves of cosine's 1 − ⟨a, b⟩: one from either side.
        scratch.offsets.resize(columns, if metric == Metric::Cosine { 0.5 } else { 0.0 });
        if metric == Metric::L2 {
            (kernels.panel_norms)(panels, dim, &mut scratch.offsets);
        }
        scratch.offsets[members.len()..].fill(f32::INFINITY);

        let products = scratch.products.resized(members.len().next_multiple_of(kernels.strip) * columns);
        let groups = scratch.groups.resized(members.len().div_ceil(GROUP) * columns);
        groups.fill(f32::INFINITY);
        let lanes = scratch.lanes.resized(members.len() * panel);
        for (index, strip) in members.chunks(kernels.strip).enumerate() {
            let start = index * kernels.strip;
            let first = start / panel * panel;
            let out = &mut products[start * columns + first..];
            (kernels.product)(base, dim, strip, &panels[first * dim..], out, columns);
            for row in start..start + strip.len() {
                // A pair counts once, on the row of its earlier member.
                products[row * columns + first..=row * columns + row].fill(f32::NEG_INFINITY);
                if with_minima {
                    let leaf_row = leaf_row(row, columns, panel, products, &scratch.offsets, metric);
                    let group = &mut groups[row / GROUP * columns..][leaf_row.first..columns];
                    (kernels.minima)(leaf_row, group, &mut lanes[row * panel..][..panel]);
                }
            }
        }
        Self {
            kernels,
            members,
            metric,
            columns,
            products,
            offsets: &scratch.offsets,
            groups,
            lanes,
            lane_panels: &mut scratch.lane_panels,
            bounds: &mut scratch.bounds,
            kept: &mut scratch.kept,
        }
    }

    fn row(&self, row: usize) -> LeafRow<'a> {
        leaf_row(row, self.columns, self.kernels.panel, self.products, self.offsets, self.metric)
    }

    fn select(self, found: &mut [Neighbor], k: usize) {
        if k <= Kept::MAX_K { self.select_few(found, k) } else { self.select_many(found, k) }
    }

    fn select_few(mut self, found: &mut [Neighbor], k: usize) {
        self.bound(k);
        self.kept.reset(self.members.len(), k);
        for row in 0..self.members.len() {
            (self.kernels.pick)(self.row(row), self.members, self.bounds, self.kept);
        }
        for (row, found) in found.chunks_exact_mut(k).enumerate() {
            self.kept.copy_row(row, found);
        }
    }

    /// Bounds just above each member's k-th least group minimum.
    fn bound(&mut self, k: usize) {
        let panel = self.kernels.panel;
        let all: Vec<u32> = (0..self.members.len() as u32).collect();
        let lane_panels = self.lane_panels.resized(self.columns * panel);
        (self.kernels.pack)(self.lanes, panel, &all, lane_panels);
        self.bounds.clear();
        self.bounds.resize(self.columns, 0.0);
        (self.kernels.bounds)(Minima { groups: self.groups, lanes: lane_panels }, k, self.bounds);
        // `pick` takes what is less, and what equals the k-th may win by its ordinal. What is infinite may not.
        self.bounds.iter_mut().for_each(|bound| *bound = bound.next_up());
    }

    /// Every member looks at all others.
    fn select_many(self, found: &mut [Neighbor], k: usize) {
        let mut top = TopK::new(k);
        for (member, found) in found.chunks_exact_mut(k).enumerate() {
            for other in (0..self.members.len()).filter(|&other| other != member) {
                let row = self.row(member.min(other));
                let distance = row.distance(member.max(other) - row.first);
                top.push(Neighbor::new(self.members[other], distance));
            }
            top.drain_into(found);
        }
    }
}

fn leaf_row<'a>(
    row: usize,
    columns: usize,
    panel: usize,
    products: &'a [f32],
    offsets: &'a [f32],
    metric: Metric,
) -> LeafRow<'a> {
    let first = row / panel * panel;
    LeafRow {
        row,
        first,
        products: &products[row * columns..][first..columns],
        offset: offsets[row],
        offsets: &offsets[first..],
        scale: score_scale(metric),
        // |a|² + |b|² − 2⟨a, b⟩ may come out a rounding below 0.
        floor: if metric == Metric::L2 { 0.0 } else { f32::NEG_INFINITY },
    }
}

fn large(
    kernels: &Kernels,
    rows: VectorView<'_>,
    members: &[u32],
    metric: Metric,
    found: &mut [Neighbor],
    k: usize,
) {
    // Ties go to the lowest ordinal, so the leaf is laid out in that order.
    let mut ascending = members.to_vec();
    ascending.sort_unstable();
    let queries = rows.gather(members);
    let leaf = rows.gather(&ascending);
    // Itself may come anywhere among its k + 1 nearest, or, behind equal rows, not at all.
    let nearest = top_k::top_k(kernels, queries.view(), &Rows::on_host(leaf.view()), metric, k + 1);
    for (index, (&member, found)) in members.iter().zip(found.chunks_exact_mut(k)).enumerate() {
        let others = nearest
            .found(index)
            .iter()
            .map(|neighbor| Neighbor::new(ascending[neighbor.ordinal as usize], neighbor.distance))
            .filter(|neighbor| neighbor.ordinal != member);
        for (slot, neighbor) in found.iter_mut().zip(others) {
            *slot = neighbor;
        }
    }
}
