//! The nearest centroid of each row among the few that its group may choose from.

use rayon::prelude::*;

use super::centroid_sums::sort_by_label;
use super::panels::{Aligned, score_scale};
use super::{Kernels, prefetch};
use crate::compute::Shortlists;
use crate::vectors::{Metric, Neighbor, VectorView};

/// Rows per task at most: so a group that holds most of the rows is shared between threads, and packing its shortlist
/// once more for each task costs little beside the products.
const ROWS: usize = 512;

/// Packed centroids of a shortlist that are multiplied at once: a share of L2.
const PANEL_BYTES: usize = 256 << 10;

pub(super) fn assign_shortlisted(
    kernels: &Kernels,
    rows: VectorView<'_>,
    centroids: VectorView<'_>,
    groups: &[u32],
    shortlists: &Shortlists,
) -> Vec<Neighbor> {
    assert_eq!(groups.len(), rows.rows());
    assert_eq!(rows.dim(), centroids.dim());
    // Rows of one group lie together, so that its shortlist is packed once for all of them.
    let (offsets, by_group) = sort_by_label(groups, shortlists.len());
    let mut found = vec![Neighbor::NONE; rows.rows()];
    let mut tasks: Vec<(usize, &[u32], &mut [Neighbor])> = Vec::new();
    let mut rest = found.as_mut_slice();
    for (group, bounds) in offsets.windows(2).enumerate() {
        for members in by_group[bounds[0]..bounds[1]].chunks(ROWS) {
            let (own, behind) = rest.split_at_mut(members.len());
            tasks.push((group, members, own));
            rest = behind;
        }
    }
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (group, members, found)| {
        nearest_of_shortlist(kernels, rows, centroids, shortlists.of(group), members, found, scratch);
    });
    let mut by_row = vec![Neighbor::NONE; rows.rows()];
    for (&row, &found) in by_group.iter().zip(&found) {
        by_row[row as usize] = found;
    }
    by_row
}

#[derive(Default)]
struct Scratch {
    panels: Aligned,
    products: Aligned,
    offsets: Vec<f32>,
}

/// `found[i]` is the nearest of `shortlist` to row `members[i]`.
fn nearest_of_shortlist(
    kernels: &Kernels,
    rows: VectorView<'_>,
    centroids: VectorView<'_>,
    shortlist: &[u32],
    members: &[u32],
    found: &mut [Neighbor],
    scratch: &mut Scratch,
) {
    assert!(!shortlist.is_empty(), "a group needs a centroid");
    let dim = rows.dim();
    let scale = score_scale(Metric::L2);
    let most = (PANEL_BYTES / (size_of::<f32>() * dim) / kernels.panel).max(1) * kernels.panel;
    for (part, chosen) in shortlist.chunks(most).enumerate() {
        let columns = chosen.len().next_multiple_of(kernels.panel);
        let panels = scratch.panels.resized(columns * dim);
        (kernels.pack)(centroids.as_slice(), dim, chosen, panels);
        scratch.offsets.resize(columns, 0.0);
        (kernels.panel_norms)(panels, dim, &mut scratch.offsets);
        scratch.offsets[chosen.len()..].fill(f32::INFINITY);
        let products = scratch.products.resized(kernels.strip * columns);
        let next_strips = members.chunks(kernels.strip).skip(1).chain([&[][..]]);
        for ((strip, next), found) in
            members.chunks(kernels.strip).zip(next_strips).zip(found.chunks_mut(kernels.strip))
        {
            // Rows of a group lie scattered: while one strip is multiplied the next is on its way.
            for &row in next {
                rows.row(row as usize).chunks(32).for_each(prefetch);
            }
            (kernels.product)(rows.as_slice(), dim, strip, panels, products, columns);
            for (products, best) in products.chunks_exact(columns).zip(found) {
                (kernels.nearest)(products, &scratch.offsets, scale, (part * most) as u32, best);
            }
        }
    }
    for (&row, best) in members.iter().zip(found) {
        // Scores that overflowed leave nothing found; every row has a centroid all the same.
        let place = if best.is_none() { 0 } else { best.ordinal as usize };
        let ordinal = shortlist[place];
        let distance = (kernels.l2)(rows.row(row as usize), centroids.row(ordinal as usize));
        *best = Neighbor::new(ordinal, distance);
    }
}
