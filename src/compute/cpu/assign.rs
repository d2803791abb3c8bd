//! The nearest centroid of each row.

use rayon::prelude::*;

use super::Kernels;
use super::panels::{Aligned, Panels, strips};
use crate::vectors::{Metric, Neighbor, VectorView};

/// Rows per task.
pub(super) const ROWS: usize = 128;

/// Packed centroids that are multiplied by all of a task's rows before the next are touched: a share of L2.
const CENTROID_BYTES: usize = 256 << 10;

/// Scores of a strip stay in L1 beside the rows and centroids in flight.
const MAX_COLUMNS: usize = 512;

pub(super) fn assign(
    kernels: &Kernels,
    rows: VectorView<'_>,
    centroids: VectorView<'_>,
    metric: Metric,
) -> Vec<Neighbor> {
    assert!(!centroids.is_empty(), "assignment needs a centroid");
    assert_eq!(rows.dim(), centroids.dim());
    let panels = Panels::pack(kernels, centroids, metric);
    let step = panels.columns_within(CENTROID_BYTES).min(MAX_COLUMNS);
    let mut found = vec![Neighbor::NONE; rows.rows()];
    found.par_chunks_mut(ROWS).enumerate().for_each_init(Aligned::default, |scratch, (block, found)| {
        let (start, end) = (block * ROWS, block * ROWS + found.len());
        let products = scratch.resized(kernels.strip * step);
        for column in (0..panels.columns()).step_by(step) {
            let columns = step.min(panels.columns() - column);
            let block = panels.slice(column, column + columns);
            let offsets = &panels.offsets[column..column + columns];
            for (first, strip) in strips(start, end, kernels.strip) {
                (kernels.product)(rows.as_slice(), rows.dim(), &strip, block, products, step);
                let best = &mut found[first - start..][..strip.len()];
                for (products, best) in products.chunks_exact(step).zip(best) {
                    (kernels.nearest)(&products[..columns], offsets, panels.scale, column as u32, best);
                }
            }
        }
        for (row, best) in (start..end).zip(found) {
            // Scores that overflowed leave nothing found; every row has a centroid all the same.
            let ordinal = if best.is_none() { 0 } else { best.ordinal };
            let distance = kernels.distance(metric, rows.row(row), centroids.row(ordinal as usize));
            *best = Neighbor::new(ordinal, distance);
        }
    });
    found
}
