//! Buffers that start on a cache line, and packed rows in one.

use bytemuck::{Pod, Zeroable};

use super::Kernels;
use crate::vectors::{Metric, VectorView};

/// f32 scratch on 64-byte boundaries: a 512-bit load that crosses a cache line takes twice as long. It grows and never
/// shrinks; what it holds after [`Aligned::resized`] is what was there before.
#[derive(Default)]
pub(super) struct Aligned(Vec<Line>);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    pub fn resized(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }

    pub fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Rows packed for [`Kernels::product`], with what turns their products into scores.
#[derive(Default)]
pub(super) struct Panels {
    data: Aligned,
    dim: usize,
    columns: usize,
    rows_per_panel: usize,
    /// Per column: what is added to `scale · product`; ∞ where there is no row.
    pub offsets: Vec<f32>,
    pub scale: f32,
    /// The rows' numbers, as packing asks for them.
    ordinals: Vec<u32>,
}

impl Panels {
    /// Panels whose scores order these rows for a given other vector: |row|² − 2·product for L2, −product else.
    pub fn pack(kernels: &Kernels, rows: VectorView<'_>, metric: Metric) -> Self {
        let mut panels = Self::default();
        panels.repack(kernels, rows, metric);
        panels
    }

    /// As [`pack`](Self::pack), in the memory of what was packed before.
    pub fn repack(&mut self, kernels: &Kernels, rows: VectorView<'_>, metric: Metric) {
        let (dim, width) = (rows.dim(), kernels.panel);
        let columns = rows.rows().next_multiple_of(width);
        (self.dim, self.columns, self.rows_per_panel) = (dim, columns, width);
        self.scale = score_scale(metric);
        self.ordinals.clear();
        self.ordinals.extend(0..rows.rows() as u32);
        let panels = self.data.resized(columns * dim);
        (kernels.pack)(rows.as_slice(), dim, &self.ordinals, panels);
        self.offsets.clear();
        self.offsets.resize(columns, 0.0);
        if metric == Metric::L2 {
            (kernels.panel_norms)(panels, dim, &mut self.offsets);
        }
        self.offsets[rows.rows()..].fill(f32::INFINITY);
    }

    /// Rows, padded to whole panels.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// As many columns as fill about `bytes`: whole panels, at least one.
    pub fn columns_within(&self, bytes: usize) -> usize {
        let columns = bytes / (size_of::<f32>() * self.dim);
        (columns / self.rows_per_panel * self.rows_per_panel).clamp(self.rows_per_panel, self.columns)
    }

    /// The panels of columns `start..end`, both whole panels.
    pub fn slice(&self, start: usize, end: usize) -> &[f32] {
        &self.data.as_slice()[start * self.dim..end * self.dim]
    }
}

/// What a product is multiplied by in a score.
pub(super) fn score_scale(metric: Metric) -> f32 {
    match metric {
        Metric::L2 => -2.0,
        Metric::InnerProduct | Metric::Cosine => -1.0,
        Metric::L1 | Metric::Hamming => metric.without_products(),
    }
}

/// The ordinals `start..end` in strips of at most `strip`: (first, ordinals).
pub(super) fn strips(start: usize, end: usize, strip: usize) -> impl Iterator<Item = (usize, Strip)> {
    (start..end).step_by(strip).map(move |first| (first, Strip::new(first, strip.min(end - first))))
}

/// Ordinals of consecutive rows, at most as many as the tallest strip has.
pub(super) struct Strip {
    ordinals: [u32; Self::TALLEST],
    len: usize,
}

impl Strip {
    const TALLEST: usize = 8;

    pub fn new(first: usize, len: usize) -> Self {
        assert!(len <= Self::TALLEST);
        Self { ordinals: std::array::from_fn(|index| (first + index) as u32), len }
    }
}

impl std::ops::Deref for Strip {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.ordinals[..self.len]
    }
}
