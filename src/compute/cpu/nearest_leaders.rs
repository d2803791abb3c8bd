//! The few nearest leaders of each row: one product of all rows with all leaders, and a selection in cache.
//!
//! Unlike `top_k` it answers by score alone. Whoever deals rows out to overlapping cells does not mind which of two
//! leaders at the same distance, but for its rounding, a row joins, and on 336,000 rows of 100 dimensions the distances
//! computed again for a leader's sake were two thirds of the partition.

use rayon::prelude::*;

use super::Kernels;
use super::kernels::LeaderRow;
use super::panels::{Aligned, Panels};
use crate::vectors::{Metric, Neighbor, VectorView};

/// Rows per task: with 512 leaders, their products are 128 KiB.
const ROWS: usize = 64;

/// Packed leaders that are multiplied by all of a task's rows before the next are touched: a share of L2.
const LEADER_BYTES: usize = 384 << 10;

pub(super) fn nearest_leaders(
    kernels: &Kernels,
    rows: VectorView<'_>,
    members: &[u32],
    leaders: VectorView<'_>,
    k: usize,
) -> Vec<u32> {
    assert_eq!(rows.dim(), leaders.dim());
    assert!((1..=leaders.rows()).contains(&k), "{k} of {} leaders", leaders.rows());
    let panels = Panels::pack(kernels, leaders, Metric::L2);
    let (columns, step) = (panels.columns(), panels.columns_within(LEADER_BYTES));
    let mut nearest = vec![u32::MAX; members.len() * k];
    nearest.par_chunks_mut(ROWS * k).zip(members.par_chunks(ROWS)).for_each_init(
        || (Aligned::default(), Vec::new()),
        |(scratch, hits): &mut (Aligned, Vec<Neighbor>), (nearest, members)| {
            let products = scratch.resized(members.len().next_multiple_of(kernels.strip) * columns);
            for start in (0..columns).step_by(step) {
                let end = (start + step).min(columns);
                for (first, strip) in (0..).step_by(kernels.strip).zip(members.chunks(kernels.strip)) {
                    let out = &mut products[first * columns + start..];
                    let block = panels.slice(start, end);
                    (kernels.product)(rows.as_slice(), rows.dim(), strip, block, out, columns);
                }
            }
            for (products, nearest) in products.chunks_exact(columns).zip(nearest.chunks_exact_mut(k)) {
                let row = LeaderRow { products, offsets: &panels.offsets, scale: panels.scale };
                (kernels.few_nearest)(row, hits, nearest);
            }
        },
    );
    nearest
}
