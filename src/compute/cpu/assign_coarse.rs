//! A centroid nearly as near as the nearest, by products of bytes: what training needs, at a quarter of the arithmetic.
//!
//! Around the centroids' mean, each row is scaled to −127..=127 by its own greatest value and all centroids by theirs. The
//! error of a score is then some 0.2 % of the distances between embeddings, and only rows that lie that close to the
//! middle between two centroids can get the wrong one. How much that costs is asked of a few rows first: where clusters
//! are tighter than bytes can tell, everything is assigned exactly.

use rayon::prelude::*;

use super::Kernels;
use super::assign::{ROWS, assign};
use super::kernels::quads::MAX_QUADS;
use super::panels::{Aligned, score_scale};
use crate::compute::contract::COARSE_EXCESS;
use crate::vectors::{Metric, Neighbor, VectorBuf, VectorView};

/// Fewer rows, or fewer centroids, are not worth the packing and the probe.
const MIN_ROWS: usize = 4096;
const MIN_CENTROIDS: usize = 64;

/// Rows that are assigned both ways beforehand.
const PROBE_ROWS: usize = 512;

/// Packed centroids that are multiplied by all of a task's rows before the next are touched: a share of L2.
const CENTROID_BYTES: usize = 256 << 10;

/// Scores of a strip stay in L1 beside the rows and centroids in flight.
const MAX_COLUMNS: usize = 512;

pub(super) fn assign_coarse(
    kernels: &Kernels,
    rows: VectorView<'_>,
    centroids: VectorView<'_>,
) -> Vec<Neighbor> {
    let quads = rows.dim().div_ceil(4);
    let pays = rows.rows() >= MIN_ROWS && centroids.rows() >= MIN_CENTROIDS && quads <= MAX_QUADS;
    if !pays || !(kernels.has_byte_products)() {
        return assign(kernels, rows, centroids, Metric::L2);
    }
    let packed = QuadPanels::pack(kernels, centroids);
    let probe: VectorBuf =
        rows.gather(&(0..PROBE_ROWS).map(|i| (i * rows.rows() / PROBE_ROWS) as u32).collect::<Vec<_>>());
    let total = |found: &[Neighbor]| found.iter().map(|found| f64::from(found.distance)).sum::<f64>();
    let exact = total(&assign(kernels, probe.view(), centroids, Metric::L2));
    // Half of what is allowed: the probe is a sample.
    if total(&packed.assign(kernels, probe.view(), centroids)) > exact * (1.0 + COARSE_EXCESS / 2.0) {
        return assign(kernels, rows, centroids, Metric::L2);
    }
    packed.assign(kernels, rows, centroids)
}

/// Centroids as bytes, in panels for [`Kernels::quad_product`].
pub(super) struct QuadPanels {
    /// The panels of `quads × panel × 4` bytes, as u8: 128 more than the scaled value.
    data: Vec<u8>,
    /// Per column |c − centre|²; ∞ where there is no centroid.
    offsets: Vec<f32>,
    centre: Vec<f32>,
    quads: usize,
    /// What a step of a centroid's bytes is worth.
    step: f32,
}

impl QuadPanels {
    pub fn pack(kernels: &Kernels, centroids: VectorView<'_>) -> Self {
        let (dim, width) = (centroids.dim(), kernels.panel);
        let quads = dim.div_ceil(4);
        let centre = centroids.mean();
        let greatest = centroids
            .iter()
            .flat_map(|centroid| centroid.iter().zip(&centre))
            .fold(0.0f32, |greatest, (value, centre)| greatest.max((value - centre).abs()));
        let step = greatest / 127.0;
        let columns = centroids.rows().next_multiple_of(width);
        let mut data = vec![0u8; columns * quads * 4];
        let mut offsets = vec![f32::INFINITY; columns];
        for (column, centroid) in centroids.iter().enumerate() {
            let panel = column / width * width * quads * 4;
            let mut norm = 0.0;
            for (d, (&value, &centre)) in centroid.iter().zip(&centre).enumerate() {
                norm += (value - centre) * (value - centre);
                let byte = (((value - centre) / step).round() + 128.0) as u8;
                data[panel + (d / 4 * width + column % width) * 4 + d % 4] = byte;
            }
            offsets[column] = norm;
        }
        Self { data, offsets, centre, quads, step }
    }

    pub fn assign(
        &self,
        kernels: &Kernels,
        rows: VectorView<'_>,
        centroids: VectorView<'_>,
    ) -> Vec<Neighbor> {
        let width = kernels.panel;
        let within = CENTROID_BYTES / (4 * self.quads * width) * width;
        let step = within.clamp(width, MAX_COLUMNS).min(self.offsets.len());
        let mut found = vec![Neighbor::NONE; rows.rows()];
        found.par_chunks_mut(ROWS).enumerate().for_each_init(Scratch::default, |scratch, (block, found)| {
            let rows = rows.slice(block * ROWS, block * ROWS + found.len());
            scratch.quantize(kernels, rows, &self.centre, self.quads);
            let products = scratch.products.resized(kernels.strip * step);
            for column in (0..self.offsets.len()).step_by(step) {
                let columns = step.min(self.offsets.len() - column);
                let panels = &self.data[column * self.quads * 4..(column + columns) * self.quads * 4];
                let offsets = &self.offsets[column..column + columns];
                let strips = scratch.bytes.chunks(kernels.strip * self.quads * 4);
                let rows = scratch.starts.chunks(kernels.strip).zip(scratch.steps.chunks(kernels.strip));
                for ((strip, (starts, steps)), best) in strips.zip(rows).zip(found.chunks_mut(kernels.strip))
                {
                    (kernels.quad_product)(strip, starts, panels, products, step);
                    for ((products, best), row_step) in products.chunks_exact(step).zip(best).zip(steps) {
                        let scale = score_scale(Metric::L2) * row_step * self.step;
                        (kernels.nearest)(&products[..columns], offsets, scale, column as u32, best);
                    }
                }
            }
            for (row, best) in rows.iter().zip(found) {
                // Scores that overflowed leave nothing found; every row has a centroid all the same.
                let ordinal = if best.is_none() { 0 } else { best.ordinal };
                *best = Neighbor::new(ordinal, (kernels.l2)(row, centroids.row(ordinal as usize)));
            }
        });
        found
    }
}

/// A block's rows as bytes, and what is computed with them.
#[derive(Default)]
struct Scratch {
    /// Rows of `4 · quads` bytes.
    bytes: Vec<i8>,
    /// Per row −128 · Σ bytes: takes back what the 128 in each of a centroid's bytes adds.
    starts: Vec<i32>,
    /// What a step of a row's bytes is worth.
    steps: Vec<f32>,
    products: Aligned,
}

impl Scratch {
    fn quantize(&mut self, kernels: &Kernels, rows: VectorView<'_>, centre: &[f32], quads: usize) {
        self.bytes.resize(rows.rows() * 4 * quads, 0);
        self.starts.clear();
        self.steps.clear();
        for (row, bytes) in rows.iter().zip(self.bytes.chunks_exact_mut(4 * quads)) {
            let (step, sum) = (kernels.quantize)(row, centre, bytes);
            self.starts.push(-128 * sum);
            self.steps.push(step);
        }
    }
}
