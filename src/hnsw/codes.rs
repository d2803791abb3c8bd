//! What the walk compares queries with: the vectors themselves, or 8-bit codes of them, a quarter of the memory to
//! wait for. Codes only lead the walk; what is returned is ranked by the vectors.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artifact::{Array, Section, TensorError};
use crate::compute::cpu::Kernels;
use crate::vectors::{Metric, VectorView};

/// Which code the walk reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The f32 vectors: no codes are kept.
    F32,
    /// One byte per dimension.
    #[default]
    Sq8,
}

impl Code {
    pub const NAMES: &'static [&'static str] = &["f32", "sq8"];

    pub fn name(self) -> &'static str {
        match self {
            Code::F32 => "f32",
            Code::Sq8 => "sq8",
        }
    }
}

impl std::str::FromStr for Code {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Code::F32, Code::Sq8]
            .into_iter()
            .find(|code| code.name() == name)
            .ok_or_else(|| format!("expected {}, got `{name}`", Self::NAMES.join(" or ")))
    }
}

/// Rows as bytes: x ≈ offset + scale · byte, dimension by dimension, between the least and the greatest value that
/// occurs.
#[derive(Debug, Clone)]
pub(super) struct ScalarCodes {
    metric: Metric,
    /// `rows × stride`. For L2 the last four bytes of a row are its |x|² as f32.
    bytes: Array<u8>,
    stride: usize,
    offset: Array<f32>,
    scale: Array<f32>,
}

/// A cache line.
const LINE: usize = 64;

/// Bytes per row, such that no row touches more cache lines than it needs.
fn stride(dim: usize, metric: Metric) -> usize {
    let used = dim + if metric == Metric::L2 { size_of::<f32>() } else { 0 };
    if used <= LINE { used.next_power_of_two() } else { used.next_multiple_of(LINE) }
}

impl ScalarCodes {
    /// Rows encoded at once by one task.
    const BLOCK_ROWS: usize = 1024;

    /// Codes of `rows[order[0]], rows[order[1]], …`.
    pub fn encode(rows: VectorView<'_>, order: &[u32], metric: Metric) -> Self {
        let dim = rows.dim();
        let (least, greatest) = ranges(rows);
        let scale: Vec<f32> = least.iter().zip(&greatest).map(|(low, high)| (high - low) / 255.0).collect();
        let inverse: Vec<f32> = scale.iter().map(|&s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
        let stride = stride(dim, metric);
        let mut bytes = vec![0u8; rows.rows() * stride];
        bytes.par_chunks_mut(stride * Self::BLOCK_ROWS).enumerate().for_each(|(block, bytes)| {
            for (index, bytes) in bytes.chunks_exact_mut(stride).enumerate() {
                let row = rows.row(order[block * Self::BLOCK_ROWS + index] as usize);
                for (byte, ((&x, &low), &inverse)) in
                    bytes.iter_mut().zip(row.iter().zip(&least).zip(&inverse))
                {
                    // Rounded to the nearest; `as` saturates.
                    *byte = ((x - low) * inverse + 0.5) as u8;
                }
                if metric == Metric::L2 {
                    let norm: f32 = row.iter().map(|x| x * x).sum();
                    bytes[stride - size_of::<f32>()..].copy_from_slice(&norm.to_le_bytes());
                }
            }
        });
        Self {
            metric,
            bytes: Array::from_vec(bytes).aligned_to_lines(),
            stride,
            offset: least.into(),
            scale: scale.into(),
        }
    }

    pub fn section(&self) -> Section {
        let (rows, dim) = (self.bytes.len() / self.stride, self.scale.len());
        Section::new("codes")
            .with("codes", &self.bytes, &[rows, self.stride])
            .with("offset", &self.offset, &[dim])
            .with("scale", &self.scale, &[dim])
    }

    pub fn read(section: &Section, metric: Metric, rows: usize, dim: usize) -> Result<Self, TensorError> {
        let stride = stride(dim, metric);
        let bytes = section.array::<u8>("codes", &[rows, stride])?.aligned_to_lines();
        let offset = section.array::<f32>("offset", &[dim])?;
        let scale = section.array::<f32>("scale", &[dim])?;
        for (tensor, values) in [("offset", &offset), ("scale", &scale)] {
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                let what = format!("entry {place} is not finite");
                return Err(TensorError::Content { tensor: tensor.into(), what });
            }
        }
        Ok(Self { metric, bytes, stride, offset, scale })
    }
}

/// The least and greatest value of each dimension.
fn ranges(rows: VectorView<'_>) -> (Vec<f32>, Vec<f32>) {
    let dim = rows.dim();
    let start = || (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    let widen = |(mut least, mut greatest): (Vec<f32>, Vec<f32>), low: &[f32], high: &[f32]| {
        for d in 0..dim {
            least[d] = least[d].min(low[d]);
            greatest[d] = greatest[d].max(high[d]);
        }
        (least, greatest)
    };
    // Minimum and maximum do not depend on the order in which parts are joined.
    rows.as_slice()
        .par_chunks(dim * ScalarCodes::BLOCK_ROWS)
        .map(|block| block.chunks_exact(dim).fold(start(), |range, row| widen(range, row, row)))
        .reduce(start, |range, (low, high)| widen(range, &low, &high))
}

/// A query prepared for [`ScalarCodes`]: rounded to i8 in the units of the codes, so that a distance is one integer
/// product.
#[derive(Debug, Default)]
pub(super) struct ScalarQuery {
    values: Vec<i8>,
    products: Vec<i32>,
    /// distance = |x|² (L2) + `base` + `factor` · product.
    base: f32,
    factor: f32,
}

impl ScalarQuery {
    pub fn prepare(&mut self, codes: &ScalarCodes, query: &[f32]) {
        let scaled = |d: usize| query[d] * codes.scale[d];
        let widest = (0..query.len()).fold(0f32, |widest, d| widest.max(scaled(d).abs()));
        let step = if widest > 0.0 { widest / 127.0 } else { 1.0 };
        self.values.clear();
        self.values.extend((0..query.len()).map(|d| (scaled(d) / step).round() as i8));
        self.values.resize(codes.stride, 0);
        let of_offset: f32 = query.iter().zip(codes.offset.iter()).map(|(q, o)| q * o).sum();
        (self.base, self.factor) = match codes.metric {
            Metric::L2 => (query.iter().map(|q| q * q).sum::<f32>() - 2.0 * of_offset, -2.0 * step),
            metric => (metric.distance_of_dot(of_offset), -step),
        };
    }

    /// Estimated distances to the rows named by `ordinals`.
    pub fn distances(&mut self, codes: &ScalarCodes, kernels: &Kernels, ordinals: &[u32], out: &mut [f32]) {
        self.products.resize(ordinals.len(), 0);
        (kernels.sq8_gather)(&self.values, &codes.bytes, ordinals, &mut self.products);
        for (out, &product) in out.iter_mut().zip(&self.products) {
            *out = self.base + self.factor * product as f32;
        }
        if codes.metric == Metric::L2 {
            for (out, &ordinal) in out.iter_mut().zip(ordinals) {
                let end = (ordinal as usize + 1) * codes.stride;
                let norm = codes.bytes[end - size_of::<f32>()..end].try_into().expect("four bytes");
                *out += f32::from_le_bytes(norm);
            }
        }
    }
}
