//! Rows as bytes: what a graph's build compares, where they can tell its rows apart.
//!
//! One step size for all dimensions, each taken from the middle of its values, so that the distance of two rows of bytes is
//! an integer: exact, the same on every instruction set, and four dimensions to an instruction's f32. What is lost is
//! told by [`ByteRows::resolution`]: nearer rows are for the vectors themselves to compare.

use rayon::prelude::*;

use super::panels::Aligned;
use super::{Kernels, kernels};
use crate::vectors::VectorView;

/// See [`ByteRows::encode`].
pub struct ByteRows {
    data: Aligned,
    rows: usize,
    dim: usize,
    /// Four bytes each, of one row.
    units: usize,
}

/// Bytes of the integer behind a row's dimensions.
const NORM: usize = size_of::<i32>();

/// Rows of one task.
const BLOCK_ROWS: usize = 1024;

impl ByteRows {
    /// With more, a distance might not fit an i32.
    const MAX_DIM: usize = 32_000;

    /// Bytes b = 128 + (x − middle) / step, rounded. `None` where there are none to be had: too many dimensions.
    pub fn encode(rows: VectorView<'_>) -> Option<Self> {
        let dim = rows.dim();
        if rows.is_empty() || dim > Self::MAX_DIM {
            return None;
        }
        let (least, greatest) = ranges(rows);
        let middle: Vec<f32> = least.iter().zip(&greatest).map(|(low, high)| low / 2.0 + high / 2.0).collect();
        let widest = least.iter().zip(&greatest).fold(0f32, |widest, (low, high)| widest.max(high / 2.0 - low / 2.0));
        let per_step = if widest > 0.0 { (127.0 / widest).min(f32::MAX) } else { 0.0 };
        let stride = stride(dim);
        let mut data = Aligned::default();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(data.resized(rows.rows() * stride / 4));
        bytes.par_chunks_mut(stride * BLOCK_ROWS).zip(rows.as_slice().par_chunks(dim * BLOCK_ROWS)).for_each(
            |(bytes, rows)| {
                for (bytes, row) in bytes.chunks_exact_mut(stride).zip(rows.chunks_exact(dim)) {
                    let (values, behind) = bytes.split_at_mut(dim);
                    for ((byte, &x), &middle) in values.iter_mut().zip(row).zip(&middle) {
                        // Rounded to the nearest; `as` saturates.
                        *byte = ((x - middle) * per_step + 128.5) as u8;
                    }
                    let norm: i32 = values.iter().map(|&byte| (i32::from(byte) - 128).pow(2)).sum();
                    let (padding, own) = behind.split_at_mut(behind.len() - NORM);
                    padding.fill(128);
                    own.copy_from_slice(&norm.to_ne_bytes());
                }
            },
        );
        Some(Self { data, rows: rows.rows(), dim, units: stride / 4 })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The squared distance, in steps, below which two rows' distance is not to be relied on. Rounding each value by up to
    /// half a step moves a squared distance of δ² by 0.8 · δ (one standard deviation), 2.5 % of it at 32 steps, and adds a
    /// sixth for every dimension.
    pub fn resolution(&self) -> f32 {
        (1024 + 4 * self.dim) as f32
    }

    /// Four bytes to a unit.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// Units that hold dimensions.
    pub(super) fn steps(&self) -> usize {
        self.dim.div_ceil(4)
    }

    /// `rows × units`, as [`Kernels::pack`] takes them: nothing is computed with these floats.
    pub(super) fn as_floats(&self) -> &[f32] {
        &self.data.as_slice()[..self.rows * self.units]
    }

    pub(super) fn as_units(&self) -> &[i32] {
        bytemuck::cast_slice(self.as_floats())
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.as_floats())
    }

    fn row(&self, ordinal: u32) -> &[u8] {
        &self.bytes()[ordinal as usize * self.units * 4..][..self.units * 4]
    }

    fn norm(&self, ordinal: u32) -> i32 {
        self.as_units()[(ordinal as usize + 1) * self.units - 1]
    }
}

/// Bytes per row, such that no row touches more cache lines than it needs.
fn stride(dim: usize) -> usize {
    const LINE: usize = 64;
    let used = dim + NORM;
    if used <= LINE { used.next_power_of_two() } else { used.next_multiple_of(LINE) }
}

/// The least and greatest value of each dimension.
fn ranges(rows: VectorView<'_>) -> (Vec<f32>, Vec<f32>) {
    let dim = rows.dim();
    let start = || (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    let widen = |(mut least, mut greatest): (Vec<f32>, Vec<f32>), low: &[f32], high: &[f32]| {
        for ((least, greatest), (&low, &high)) in
            least.iter_mut().zip(&mut greatest).zip(low.iter().zip(high))
        {
            *least = least.min(low);
            *greatest = greatest.max(high);
        }
        (least, greatest)
    };
    // Minimum and maximum do not depend on the order in which parts are joined.
    rows.as_slice()
        .par_chunks(dim * BLOCK_ROWS)
        .map(|block| block.chunks_exact(dim).fold(start(), |range, row| widen(range, row, row)))
        .reduce(start, |range, (low, high)| widen(range, &low, &high))
}

/// One row, prepared for distances to others.
pub struct ByteQuery<'a> {
    rows: &'a ByteRows,
    kernels: &'static Kernels,
    values: Vec<i8>,
    products: Vec<i32>,
}

impl<'a> ByteQuery<'a> {
    pub fn new(rows: &'a ByteRows) -> Self {
        Self { rows, kernels: kernels(), values: vec![0; rows.units * 4], products: Vec::new() }
    }

    /// `out[i]`, the squared distance of `row` and `others[i]` in steps.
    pub fn distances(&mut self, row: u32, others: &[u32], out: &mut [f32]) {
        let Self { rows, kernels, values, products } = self;
        let mut sum = 0;
        for (value, &byte) in values[..rows.dim].iter_mut().zip(rows.row(row)) {
            *value = (byte ^ 128) as i8;
            sum += i32::from(*value);
        }
        // |v − w|² = |v|² + |w|² − 2 Σ v (b − 128), where b is w's byte.
        let own = rows.norm(row).wrapping_add(sum << 8);
        products.resize(others.len(), 0);
        (kernels.sq8_gather)(values, rows.bytes(), others, products);
        for ((out, &product), &other) in out.iter_mut().zip(&*products).zip(others) {
            *out = own.wrapping_add(rows.norm(other)).wrapping_sub(product.wrapping_mul(2)) as f32;
        }
    }
}
