//! The k nearest of each member within its leaf: the hottest stage of a graph build.
//!
//! One packing of the leaf serves as both sides of its symmetric product, of which only the upper triangle is
//! computed; `kernels::leaf` says how the k nearest are taken from it. What is returned are the distances of the
//! products, not recomputed ones: a pair's distance has the same bits in whichever leaf, order or thread it is met,
//! and is exactly 0 for equal rows under L2, which is what a reservoir that merges leaves needs.

use rayon::prelude::*;

use super::byte_rows::ByteRows;
use super::kernels::{ByteStrip, LeafRow, Minima};
use super::panels::{Aligned, score_scale};
use super::product_scan::{MAX_QUERIES, QUERY_BYTES};
use super::{Kernels, kernels, top_k};
use crate::compute::{Leaves, Rows};
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorView};

/// A leaf's products are kept until its bounds are known: 16 MiB at this size. Larger leaves, which a partition has
/// no reason to make, are searched as queries against rows, where they are also large enough not to suffer.
pub const MAX_LEAF: usize = 2048;

/// A leaf is searched again by its vectors if one row in so many has a nearer neighbour than the bytes can tell.
const UNRESOLVED: usize = 16;

/// Whether the `k` nearest of each member of a leaf, found by bytes, are to be believed: its nearest row tells whether a
/// row's neighbours are within reach of the bytes.
pub fn is_resolved(found: &[Neighbor], k: usize, resolution: f32) -> bool {
    let unresolved = found.chunks_exact(k).filter(|found| found[0].distance < resolution).count();
    unresolved <= found.len() / k / UNRESOLVED
}

/// Memory that a thread needs for the `k` nearest within leaves of up to so many members, at most.
pub fn leaf_bytes(members: usize, dim: usize, k: usize) -> usize {
    let kernels = kernels();
    if members > MAX_LEAF {
        let gathered = 2 * members * dim * size_of::<f32>();
        let kept = top_k::kept(k + 1);
        let found = members * ((kept + k + 1) * size_of::<Neighbor>() + 2 * size_of::<u32>());
        let packed =
            QUERY_BYTES.max(kernels.panel * dim * size_of::<f32>()) + MAX_QUERIES * TopK::size_bytes(kept);
        // While a thread waits for others to finish a part of its leaf it may begin with the next.
        return 2 * (gathered + found + packed);
    }
    let columns = members.next_multiple_of(kernels.panel);
    let products = members.next_multiple_of(kernels.strip) * columns;
    let minima = members.div_ceil(group(k)) * columns + (members + columns) * kernels.panel;
    // Offsets of both kinds, bounds, and members by number.
    let values = columns * dim + products + minima + 4 * columns;
    values * size_of::<f32>() + members * TopK::size_bytes(k)
}

/// Rows of a leaf that share one minimum per column: smaller groups bound a larger `k`.
fn group(k: usize) -> usize {
    if k <= 16 { 32 } else { 8 }
}

pub(super) fn leaf_top_k(
    kernels: &Kernels,
    rows: &Rows<'_>,
    leaves: &Leaves,
    metric: Metric,
    k: usize,
) -> Neighbors {
    search_leaves(kernels, &Source { rows: rows.host(), metric, bytes: None }, leaves, k)
}

/// The nearest by `bytes`, leaf by leaf, but for leaves whose rows are too near each other for those.
pub(super) fn leaf_candidates(
    kernels: &Kernels,
    rows: &Rows<'_>,
    bytes: Option<&ByteRows>,
    leaves: &Leaves,
    k: usize,
) -> Neighbors {
    search_leaves(kernels, &Source { rows: rows.host(), metric: Metric::L2, bytes }, leaves, k)
}

/// What distances are computed from.
struct Source<'a> {
    rows: VectorView<'a>,
    metric: Metric,
    bytes: Option<&'a ByteRows>,
}

fn search_leaves(kernels: &Kernels, source: &Source<'_>, leaves: &Leaves, k: usize) -> Neighbors {
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
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (members, found)| {
        let leaf = Leaf { kernels, source, members, k };
        match members.len() {
            0..=1 => {}
            2..=MAX_LEAF => leaf.search(scratch, found),
            _ => leaf.search_large(found),
        }
    });
    found
}

/// What one thread needs for its leaves, kept from leaf to leaf.
#[derive(Default)]
struct Scratch {
    panels: Aligned,
    offsets: Vec<f32>,
    scale: f32,
    byte_offsets: Vec<i32>,
    /// `members × columns`; of row `i` only the columns from its panel's first on are set.
    products: Aligned,
    /// Groups of rows × columns.
    groups: Aligned,
    /// `members × panel`, and the same packed.
    lanes: Aligned,
    lane_panels: Aligned,
    bounds: Vec<f32>,
    tops: Vec<TopK>,
}

struct Leaf<'a> {
    kernels: &'a Kernels,
    source: &'a Source<'a>,
    members: &'a [u32],
    k: usize,
}

impl Leaf<'_> {
    /// Members, padded to whole panels.
    fn columns(&self) -> usize {
        self.members.len().next_multiple_of(self.kernels.panel)
    }

    fn search(&self, scratch: &mut Scratch, found: &mut [Neighbor]) {
        if let Some(bytes) = self.source.bytes {
            self.multiply_bytes(bytes, scratch);
            self.select(scratch, found);
            if is_resolved(found, self.k, bytes.resolution()) {
                return;
            }
        }
        self.multiply(scratch);
        self.select(scratch, found);
    }

    /// The `k` nearest of each member, from the products.
    fn select(&self, scratch: &mut Scratch, found: &mut [Neighbor]) {
        self.bound(scratch);
        let Scratch { products, offsets, scale, bounds, tops, .. } = scratch;
        tops.resize_with(self.members.len().max(tops.len()), || TopK::new(self.k));
        for row in 0..self.members.len() {
            let products = self.row(row, products.as_slice(), offsets, *scale);
            (self.kernels.pick)(products, self.members, bounds, tops);
        }
        for (top, found) in tops.iter_mut().zip(found.chunks_exact_mut(self.k)) {
            top.drain_into(found);
        }
    }

    /// The products of the upper triangle, and the minima of their distances.
    fn multiply(&self, scratch: &mut Scratch) {
        let Self { kernels, source: &Source { rows, metric, .. }, members, .. } = *self;
        let (base, dim, columns) = (rows.as_slice(), rows.dim(), self.columns());
        let panels = scratch.panels.resized(columns * dim);
        (kernels.pack)(base, dim, members, panels);

        let offsets = &mut scratch.offsets;
        offsets.clear();
        // The halves of cosine's 1 − ⟨a, b⟩: one from either side.
        offsets.resize(columns, if metric == Metric::Cosine { 0.5 } else { 0.0 });
        if metric == Metric::L2 {
            (kernels.panel_norms)(panels, dim, offsets);
        }
        offsets[members.len()..].fill(f32::INFINITY);
        scratch.scale = score_scale(metric);
        self.triangle(scratch, |strip, first, panels, out| {
            (kernels.product)(base, dim, strip, &panels[first * dim..columns * dim], out, columns);
        });
    }

    /// The same of the bytes, whose distances come out whole.
    fn multiply_bytes(&self, bytes: &ByteRows, scratch: &mut Scratch) {
        let Self { kernels, members, .. } = *self;
        let (base, units, steps, columns) = (bytes.as_units(), bytes.units(), bytes.steps(), self.columns());
        let panels = scratch.panels.resized(columns * units);
        // Four bytes move like a float.
        (kernels.pack)(bytes.as_floats(), units, members, panels);
        let mut byte_offsets = std::mem::take(&mut scratch.byte_offsets);
        byte_offsets.resize(columns, 0);
        (kernels.bytes.columns)(bytemuck::cast_slice_mut(panels), units, steps, &mut byte_offsets);
        scratch.offsets.clear();
        scratch.offsets.resize(columns, 0.0);
        scratch.offsets[members.len()..].fill(f32::INFINITY);
        scratch.scale = -1.0;
        self.triangle(scratch, |ordinals, first, panels, out| {
            let strip = ByteStrip { base, units, steps, ordinals };
            let panels = bytemuck::cast_slice(&panels[first * units..columns * units]);
            (kernels.bytes.product)(strip, panels, &byte_offsets[first..], out, columns);
        });
        scratch.byte_offsets = byte_offsets;
    }

    /// What `product` makes of each strip of rows and the panels from a column on, and the minima of the distances.
    fn triangle(&self, scratch: &mut Scratch, product: impl Fn(&[u32], usize, &[f32], &mut [f32])) {
        let Self { kernels, members, .. } = *self;
        let (panel, columns) = (kernels.panel, self.columns());
        let Scratch { panels, offsets, scale, products, groups, lanes, .. } = scratch;
        let products = products.resized(members.len().next_multiple_of(kernels.strip) * columns);
        let groups = groups.resized(members.len().div_ceil(group(self.k)) * columns);
        groups.fill(f32::INFINITY);
        let lanes = lanes.resized(members.len() * panel);
        for (start, strip) in (0..).step_by(kernels.strip).zip(members.chunks(kernels.strip)) {
            let first = start / panel * panel;
            product(strip, first, panels.as_slice(), &mut products[start * columns + first..]);
            for row in start..start + strip.len() {
                // A pair counts once, on the row of its earlier member.
                let first = row / panel * panel;
                products[row * columns..][first..=row].fill(f32::NEG_INFINITY);
                let group = &mut groups[row / group(self.k) * columns..][first..columns];
                let lanes = &mut lanes[row * panel..][..panel];
                (kernels.minima)(self.row(row, products, offsets, *scale), group, lanes);
            }
        }
    }

    /// Bounds just above each member's k-th least minimum: `pick` takes what is less, and what equals the k-th may
    /// win by its ordinal. What is infinite may not.
    fn bound(&self, scratch: &mut Scratch) {
        let (count, columns, panel) = (self.members.len(), self.columns(), self.kernels.panel);
        let Scratch { groups, lanes, lane_panels, bounds, .. } = scratch;
        let groups = groups.resized(count.div_ceil(group(self.k)) * columns);
        let lane_panels = lane_panels.resized(columns * panel);
        let all: Vec<u32> = (0..count as u32).collect();
        (self.kernels.pack)(lanes.resized(count * panel), panel, &all, lane_panels);
        bounds.clear();
        bounds.resize(columns, 0.0);
        (self.kernels.bounds)(Minima { groups, lanes: lane_panels }, self.k, bounds);
        bounds.iter_mut().for_each(|bound| *bound = bound.next_up());
    }

    fn row<'s>(&self, row: usize, products: &'s [f32], offsets: &'s [f32], scale: f32) -> LeafRow<'s> {
        let (columns, first) = (self.columns(), row / self.kernels.panel * self.kernels.panel);
        LeafRow {
            row,
            first,
            products: &products[row * columns..][first..columns],
            offset: offsets[row],
            offsets: &offsets[first..columns],
            scale,
            // |a|² + |b|² − 2⟨a, b⟩ may come out a rounding below 0.
            floor: if self.source.metric == Metric::L2 { 0.0 } else { f32::NEG_INFINITY },
        }
    }

    fn search_large(&self, found: &mut [Neighbor]) {
        // Ties go to the lowest ordinal, so the leaf is laid out in that order.
        let mut ascending = self.members.to_vec();
        ascending.sort_unstable();
        let queries = self.source.rows.gather(self.members);
        let leaf = self.source.rows.gather(&ascending);
        // Itself may come anywhere among its k + 1 nearest, or, behind equal rows, not at all.
        let rows = Rows::on_host(leaf.view());
        let nearest = top_k::top_k(self.kernels, queries.view(), &rows, self.source.metric, self.k + 1);
        for (index, (&member, found)) in self.members.iter().zip(found.chunks_exact_mut(self.k)).enumerate() {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Random, VectorBuf};

    impl Scratch {
        fn size_bytes(&self, k: usize) -> usize {
            let Self {
                panels,
                offsets,
                byte_offsets,
                products,
                groups,
                lanes,
                lane_panels,
                bounds,
                tops,
                ..
            } = self;
            let aligned =
                [panels, products, groups, lanes, lane_panels].map(|values| values.as_slice().len());
            let others = offsets.len() + byte_offsets.len() + bounds.len();
            4 * (aligned.iter().sum::<usize>() + others) + tops.len() * TopK::size_bytes(k)
        }
    }

    #[test]
    fn a_thread_has_what_its_leaf_was_said_to_take() {
        let mut random = Random::new(1);
        for (members, dim, k) in [(2, 3, 1), (33, 100, 5), (512, 100, 3), (512, 768, 20), (MAX_LEAF, 64, 31)]
        {
            let rows = VectorBuf::new((0..members * dim).map(|_| random.normal() as f32).collect(), dim);
            let bytes = ByteRows::encode(rows.view());
            let ordinals: Vec<u32> = (0..members as u32).collect();
            for bytes in [None, bytes.as_ref()] {
                let source = Source { rows: rows.view(), metric: Metric::L2, bytes };
                let leaf = Leaf { kernels: kernels(), source: &source, members: &ordinals, k };
                let mut scratch = Scratch::default();
                leaf.search(&mut scratch, Neighbors::new(members, k).as_mut_slice());
                let (got, said) = (scratch.size_bytes(k), leaf_bytes(members, dim, k));
                assert!(got <= said, "{members} × {dim}: {got} bytes, {said} said");
                assert!(
                    bytes.is_some() || said <= got + got / 10 + 4096,
                    "{members} × {dim}: {got}, {said} said"
                );
            }
        }
    }
}
