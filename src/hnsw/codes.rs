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
    /// One byte per dimension, a 255th of the way from the least value to the greatest. What differs by less cannot be
    /// told apart: rows in tight clusters far from each other, or of lengths that differ a thousandfold, need `F32`.
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
    /// `rows × stride`. For L2 the last four bytes of a row are |x′|² as f32, where x′ = scale · (byte − 127.5)
    /// is what the row's bytes stand for, taken from the centre of all rows.
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
                let mut norm = 0.0;
                for (d, (byte, &x)) in bytes.iter_mut().zip(row).enumerate() {
                    // Rounded to the nearest; `as` saturates.
                    *byte = ((x - least[d]) * inverse[d] + 0.5) as u8;
                    norm += (scale[d] * (f32::from(*byte) - CENTRE)).powi(2);
                }
                if metric == Metric::L2 {
                    // A sum that f32 cannot hold is as far as can be.
                    let norm: f32 = f32::min(norm, f32::MAX);
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
        let codes = Self { metric, bytes, stride, offset, scale };
        let is_norm = |&row: &u32| codes.norm(row).is_finite();
        if metric == Metric::L2
            && let Some(row) = (0..rows as u32).find(|row| !is_norm(row))
        {
            let what = format!("row {row}: its squared norm is not finite");
            return Err(TensorError::Content { tensor: "codes".into(), what });
        }
        Ok(codes)
    }

    /// |x′|² of a row, with L2.
    fn norm(&self, ordinal: u32) -> f32 {
        let end = (ordinal as usize + 1) * self.stride;
        f32::from_le_bytes(self.bytes[end - size_of::<f32>()..end].try_into().expect("four bytes"))
    }
}

/// The byte, if it were one, of the middle of a dimension's values.
const CENTRE: f32 = 127.5;

/// The middle of a dimension's values.
fn centre(offset: f32, scale: f32) -> f32 {
    offset + CENTRE * scale
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
///
/// For L2 both sides are taken from the rows' centre, |q − x|² = |q′|² + |x′|² − 2⟨q′, x′⟩: far from the origin, what
/// tells rows apart would vanish in the rounding of what they have in common. And |x′|² is that of the bytes, not of the
/// row: the estimate then errs by their distance times the error of the code, which is little where it is near.
#[derive(Debug, Default)]
pub(super) struct ScalarQuery {
    values: Vec<i8>,
    products: Vec<i32>,
    /// distance = |x′|² (L2) + `base` + `factor` · product.
    base: f32,
    factor: f32,
}

impl ScalarQuery {
    /// For products with so many rows at once.
    pub fn with_capacity(rows: usize) -> Self {
        Self { products: Vec::with_capacity(rows), ..Self::default() }
    }

    pub fn prepare(&mut self, codes: &ScalarCodes, query: &[f32]) {
        let ScalarCodes { metric, offset, scale, .. } = codes;
        let from_centre = |d: usize| match metric {
            Metric::L2 => query[d] - centre(offset[d], scale[d]),
            Metric::InnerProduct | Metric::Cosine => query[d],
        };
        let scaled = |d: usize| from_centre(d) * scale[d];
        let widest = (0..query.len()).fold(0f32, |widest, d| widest.max(scaled(d).abs()));
        let step = if widest > 0.0 { widest / 127.0 } else { 1.0 };
        self.values.clear();
        self.values.extend((0..query.len()).map(|d| (scaled(d) / step).round() as i8));
        (self.base, self.factor) = match metric {
            Metric::L2 => {
                let norm: f32 = (0..query.len()).map(|d| from_centre(d) * from_centre(d)).sum();
                // x′ = scale · (byte − 127.5)
                let sum: i32 = self.values.iter().map(|&value| i32::from(value)).sum();
                (norm + 255.0 * step * sum as f32, -2.0 * step)
            }
            Metric::InnerProduct | Metric::Cosine => {
                let of_offset: f32 = query.iter().zip(offset.iter()).map(|(q, o)| q * o).sum();
                (metric.distance_of_dot(of_offset), -step)
            }
        };
        self.values.resize(codes.stride, 0);
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
                *out += codes.norm(ordinal);
            }
        }
        // Of estimates that overflow, no NaN may come before all others.
        out.iter_mut().for_each(|out| *out = out.min(f32::INFINITY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::kernels;
    use crate::vectors::{Random, VectorBuf};

    /// Each value of a code is off by half a step at most, and each of a query by half of its own.
    #[test]
    fn estimates_are_near_the_distances_wherever_the_rows_lie() {
        let mut random = Random::new(1);
        for dim in [1, 3, 16, 60, 64, 100, 769] {
            for (shift, factor) in [(0.0, 1.0), (1000.0, 1.0), (-3.0, 1e-6), (1e9, 1e8)] {
                let mut value = || shift + factor * random.normal() as f32;
                let rows = VectorBuf::new((0..200 * dim).map(|_| value()).collect(), dim);
                let query: Vec<f32> = (0..dim).map(|_| value()).collect();
                let order: Vec<u32> = (0..200).rev().collect();
                let mut prepared = ScalarQuery::default();
                for metric in Metric::ALL {
                    let codes = ScalarCodes::encode(rows.view(), &order, metric);
                    prepared.prepare(&codes, &query);
                    let ordinals = [0, 7, 199, 7, 31];
                    let mut estimates = [0.0; 5];
                    prepared.distances(&codes, kernels(), &ordinals, &mut estimates);
                    for (estimate, ordinal) in estimates.into_iter().zip(ordinals) {
                        let row = rows.row(order[ordinal as usize] as usize);
                        let error = (f64::from(estimate) - metric.distance(&query, row)).abs();
                        let bound = error_bound(&codes, &query, row);
                        assert!(error <= bound, "{metric} {dim}-d at {shift}: off by {error}, not {bound}");
                    }
                }
            }
        }
    }

    fn error_bound(codes: &ScalarCodes, query: &[f32], row: &[f32]) -> f64 {
        let l2 = codes.metric == Metric::L2;
        let from = |d: usize| if l2 { f64::from(centre(codes.offset[d], codes.scale[d])) } else { 0.0 };
        let scale = |d: usize| f64::from(codes.scale[d]);
        let query_at = |d: usize| f64::from(query[d]) - from(d);
        let widest = (0..query.len()).map(|d| (query_at(d) * scale(d)).abs()).fold(0.0, f64::max);
        let terms = (0..query.len()).map(|d| {
            let row_at = f64::from(row[d]) - from(d);
            let away = if l2 { (query_at(d) - row_at).abs() + scale(d) / 4.0 } else { query_at(d).abs() };
            let of_code = away * scale(d) / 2.0;
            let of_query = widest / 254.0 * 255.0;
            let rounding = 1e-5 * (query_at(d).powi(2) + row_at.powi(2));
            // What f32 can say of values that lie far from the origin.
            let place = 1e-6 * f64::from(query[d]).abs() * (query_at(d).abs() + 128.0 * scale(d));
            2.0 * (of_code + of_query) + rounding + place
        });
        terms.sum::<f64>() + 1e-6
    }

    #[test]
    fn what_a_dimension_never_varies_in_costs_nothing() {
        let rows = VectorBuf::new((0..90).flat_map(|i| [5.0, i as f32]).collect(), 2);
        let order: Vec<u32> = (0..90).collect();
        let codes = ScalarCodes::encode(rows.view(), &order, Metric::L2);
        let mut prepared = ScalarQuery::default();
        prepared.prepare(&codes, &[5.0, 30.0]);
        let mut estimates = [0.0; 90];
        prepared.distances(&codes, kernels(), &order, &mut estimates);
        let nearest = (0..90).min_by(|&a, &b| estimates[a].total_cmp(&estimates[b]));
        assert!(nearest.is_some_and(|row: usize| row.abs_diff(30) <= 1), "{nearest:?}");
    }
}
