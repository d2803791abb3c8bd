//! The few nearest leaders of each row: one product of all rows with all leaders, and a selection in cache.
//!
//! Unlike `top_k` it answers by score alone. Whoever deals rows out to overlapping cells does not mind which of two
//! leaders at the same distance, but for its rounding, a row joins, and on 336,000 rows of 100 dimensions the distances
//! computed again for a leader's sake were two thirds of the partition.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::kernels::{ByteStrip, LeaderRow};
use super::panels::{Aligned, Panels};
use super::{ByteRows, Kernels};
use crate::vectors::{Metric, VectorView};

/// Rows per task: with 512 leaders, their products are 128 KiB.
const ROWS: usize = 64;

/// Packed leaders that are multiplied by all of a task's rows before the next are touched: a share of L2.
const LEADER_BYTES: usize = 384 << 10;

/// Rows are compared again by their vectors if one in so many, beside the leaders themselves, has a nearer leader than the
/// bytes can tell.
const UNRESOLVED: usize = 16;

/// Whether the leaders that bytes found for `members` rows are to be believed, of which `unresolved` are nearer to one than
/// bytes can tell.
pub fn are_resolved(unresolved: usize, members: usize, leaders: usize) -> bool {
    unresolved <= members / UNRESOLVED + leaders
}

pub(super) fn nearest_leaders(
    kernels: &Kernels,
    rows: VectorView<'_>,
    bytes: Option<&ByteRows>,
    members: &[u32],
    leaders: &[u32],
    k: usize,
) -> Vec<u32> {
    assert!((1..=leaders.len()).contains(&k), "{k} of {} leaders", leaders.len());
    let asked = Asked { kernels, members, leaders, k };
    if let Some(bytes) = bytes {
        let (nearest, unresolved) = asked.by_bytes(bytes);
        if are_resolved(unresolved, members.len(), leaders.len()) {
            return nearest;
        }
    }
    asked.by_vectors(rows)
}

struct Asked<'a> {
    kernels: &'a Kernels,
    members: &'a [u32],
    leaders: &'a [u32],
    k: usize,
}

/// What turns products with packed leaders into scores.
struct Columns<'a> {
    offsets: &'a [f32],
    scale: f32,
    /// Columns that are multiplied by all rows of a task before the next are.
    step: usize,
    /// Rows nearer than this to a leader are counted.
    resolution: f32,
}

impl Asked<'_> {
    fn by_vectors(&self, rows: VectorView<'_>) -> Vec<u32> {
        let kernels = self.kernels;
        let panels = Panels::pack(kernels, rows.gather(self.leaders).view(), Metric::L2);
        let columns = Columns {
            offsets: &panels.offsets,
            scale: panels.scale,
            step: panels.columns_within(LEADER_BYTES),
            resolution: f32::NEG_INFINITY,
        };
        let product = |strip: &[u32], range: Range<usize>, out: &mut [f32]| {
            let panels = panels.slice(range.start, range.end);
            (kernels.product)(rows.as_slice(), rows.dim(), strip, panels, out, columns.offsets.len());
        };
        self.select(&columns, product).0
    }

    /// And how many rows are nearer to a leader than the bytes can tell.
    fn by_bytes(&self, bytes: &ByteRows) -> (Vec<u32>, usize) {
        let Self { kernels, leaders, .. } = *self;
        let (base, units, steps) = (bytes.as_units(), bytes.units(), bytes.steps());
        let count = leaders.len().next_multiple_of(kernels.panel);
        let mut packed = Aligned::default();
        let panels = packed.resized(count * units);
        // Four bytes move like a float.
        (kernels.pack)(bytes.as_floats(), units, leaders, panels);
        let panels: &mut [i32] = bytemuck::cast_slice_mut(panels);
        let mut byte_offsets = vec![0; count];
        (kernels.bytes.columns)(panels, units, steps, &mut byte_offsets);
        let mut offsets = vec![0.0; count];
        offsets[leaders.len()..].fill(f32::INFINITY);
        let within = LEADER_BYTES / (4 * units) / kernels.panel * kernels.panel;
        let columns = Columns {
            offsets: &offsets,
            scale: -1.0,
            step: within.clamp(kernels.panel, count),
            resolution: bytes.resolution(),
        };
        self.select(&columns, |ordinals: &[u32], range: Range<usize>, out: &mut [f32]| {
            let strip = ByteStrip { base, units, steps, ordinals };
            let panels = &panels[range.start * units..range.end * units];
            (kernels.bytes.product)(strip, panels, &byte_offsets[range], out, count);
        })
    }

    /// The leaders of the least scores for each member, and how many members are within the resolution of one. `product`
    /// multiplies a strip of rows by a range of columns.
    fn select(
        &self,
        columns: &Columns<'_>,
        product: impl Fn(&[u32], Range<usize>, &mut [f32]) + Sync,
    ) -> (Vec<u32>, usize) {
        let Self { kernels, members, k, .. } = *self;
        let (count, step) = (columns.offsets.len(), columns.step);
        let mut nearest = vec![u32::MAX; members.len() * k];
        let unresolved = AtomicUsize::new(0);
        nearest.par_chunks_mut(ROWS * k).zip(members.par_chunks(ROWS)).for_each_init(
            || (Aligned::default(), Vec::new()),
            |(scratch, hits), (nearest, members)| {
                let products = scratch.resized(members.len().next_multiple_of(kernels.strip) * count);
                for start in (0..count).step_by(step) {
                    for (first, strip) in (0..).step_by(kernels.strip).zip(members.chunks(kernels.strip)) {
                        let out = &mut products[first * count + start..];
                        product(strip, start..(start + step).min(count), out);
                    }
                }
                let mut within = 0;
                for (products, nearest) in products.chunks_exact(count).zip(nearest.chunks_exact_mut(k)) {
                    let row = LeaderRow { products, offsets: columns.offsets, scale: columns.scale };
                    (kernels.few_nearest)(row, hits, nearest);
                    within += usize::from(hits.first().is_some_and(|hit| hit.distance < columns.resolution));
                }
                unresolved.fetch_add(within, Ordering::Relaxed);
            },
        );
        (nearest, unresolved.into_inner())
    }
}
