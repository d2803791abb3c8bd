//! What the walk compares queries with in place of the vectors: codes of a few bits a dimension, a fraction of the memory
//! to wait for. Codes only lead the walk; what is returned is ranked by the vectors.
//!
//! A row x is kept as x ≈ c + f · u, where c is the mean of all rows, u a row of levels around 0 (with b bits −(2ᵇ−1)/2,
//! …, (2ᵇ−1)/2, in steps of 1) and f one number for the row: f = |r|² / ⟨u, r⟩ with r = x − c. That choice makes
//! f · ⟨q, u⟩ an unbiased estimate of ⟨q, r⟩ for a query whose direction has nothing to do with the rounding, and exact
//! where q points to the row itself (RaBitQ, SIGMOD 2024, arXiv 2405.12497; for several bits arXiv 2409.09913).

use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artifact::spill::Buffer;
use crate::artifact::{Array, Section, TensorError};
use crate::compute::cpu::{Kernels, prefetch, row_stride};
use crate::train::{self, round_direction};
use crate::vectors::{Metric, VectorView};

/// Which code the walk reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The f32 vectors: no codes are kept.
    F32,
    /// One byte a dimension. What differs by less than a 255th of a row's distance from the mean of all rows cannot be
    /// told apart: rows in tight clusters far from each other need `F32`.
    Sq8,
    /// Four bits a dimension: half the bytes of `Sq8` to wait for, and a few more rows to rank by their vectors.
    #[default]
    Q4,
    /// Two bits a dimension: for rows of many hundred dimensions.
    Q2,
    /// One bit a dimension: for rows of a thousand dimensions and more, or little memory.
    Q1,
}

impl Code {
    pub const ALL: [Code; 5] = [Code::F32, Code::Sq8, Code::Q4, Code::Q2, Code::Q1];
    pub const NAMES: &'static [&'static str] = &["f32", "sq8", "q4", "q2", "q1"];

    pub fn name(self) -> &'static str {
        match self {
            Code::F32 => "f32",
            Code::Sq8 => "sq8",
            Code::Q4 => "q4",
            Code::Q2 => "q2",
            Code::Q1 => "q1",
        }
    }

    /// Bits a dimension of the codes, where there are any.
    fn bits(self) -> Option<usize> {
        match self {
            Code::F32 => None,
            Code::Sq8 => Some(8),
            Code::Q4 => Some(4),
            Code::Q2 => Some(2),
            Code::Q1 => Some(1),
        }
    }

    /// Rows of a beam of `ef` to rank by their vectors for an answer of `k`: the fewer bits, the more rows lie between a
    /// near one and its place. Chosen so that glove100 and minilm100k lose less than .002 of their recall@10 anywhere.
    pub(super) fn refine(self, k: usize, ef: usize) -> usize {
        match self {
            Code::F32 => k,
            Code::Sq8 => (2 * k).max(k + 16),
            Code::Q4 => 3 * k + ef / 8,
            Code::Q2 => 6 * k + ef / 4,
            Code::Q1 => 12 * k + ef / 2,
        }
    }
}

impl std::str::FromStr for Code {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|code| code.name() == name)
            .ok_or_else(|| format!("expected {}, got `{name}`", Self::NAMES.join(", ")))
    }
}

/// Bytes of a row's code, as it is stored; 0 for [`Code::F32`].
pub fn code_bytes(code: Code, dim: usize, metric: Metric) -> usize {
    code.bits().map_or(0, |bits| Layout::new(bits, dim, metric).stride)
}

/// Codes of all rows.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    pub code: Code,
    metric: Metric,
    layout: Layout,
    /// `rows × stride`: the levels in planes (`compute::cpu`'s `packed_gather`), from 0 up, and in the last bytes f as
    /// f32, before it for L2 |r|².
    bytes: Array<u8>,
    mean: Array<f32>,
}

/// Where a row's values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    bits: usize,
    dim: usize,
    stride: usize,
}

impl Layout {
    const NUMBER: usize = size_of::<f32>();

    fn new(bits: usize, dim: usize, metric: Metric) -> Self {
        let numbers = if metric == Metric::L2 { 2 } else { 1 };
        Self { bits, dim, stride: row_stride((dim * bits).div_ceil(8) + numbers * Self::NUMBER) }
    }

    fn planes(&self) -> usize {
        8 / self.bits
    }

    /// Dimensions in a plane, the last of which may have fewer.
    fn plane_dims(&self) -> usize {
        self.dim.div_ceil(self.planes())
    }

    /// The highest level.
    fn top(&self) -> f32 {
        train::top_level(self.bits)
    }

    /// The factor f, and |r|², if they are there.
    #[inline]
    fn numbers(&self, row: &[u8]) -> (f32, f32) {
        let end = row.len();
        let at = |start: usize| {
            f32::from_le_bytes(row[start..start + Self::NUMBER].try_into().expect("four bytes"))
        };
        (at(end - Self::NUMBER), at((end - Self::NUMBER).saturating_sub(Self::NUMBER)))
    }
}

impl Codes {
    /// Rows encoded at once by one task.
    const BLOCK_ROWS: usize = 1024;

    /// Codes of `rows`, in a file in `folder` where there is one; none for [`Code::F32`].
    pub fn encode(
        folder: Option<&Path>,
        rows: VectorView<'_>,
        metric: Metric,
        code: Code,
    ) -> io::Result<Option<Self>> {
        let dim = rows.dim();
        let Some(bits) = code.bits() else { return Ok(None) };
        let layout = Layout::new(bits, dim, metric);
        let mean = mean(rows);
        let mut bytes = Buffer::<u8>::zeroed(folder, rows.rows() * layout.stride)?;
        bytes.par_chunks_mut(layout.stride * Self::BLOCK_ROWS).enumerate().for_each(|(block, bytes)| {
            let (mut residual, mut levels) = (vec![0.0; dim], vec![0.0; dim]);
            for (index, out) in bytes.chunks_exact_mut(layout.stride).enumerate() {
                let row = rows.row(block * Self::BLOCK_ROWS + index);
                for ((residual, x), c) in residual.iter_mut().zip(row).zip(&mean) {
                    *residual = x - c;
                }
                encode_row(layout, metric, &residual, &mut levels, out);
            }
        });
        Ok(Some(Self { code, metric, layout, bytes: bytes.into_array(), mean: mean.into() }))
    }

    pub fn section(&self) -> Section {
        let rows = self.bytes.len() / self.layout.stride;
        Section::new("codes").with("codes", &self.bytes, &[rows, self.layout.stride]).with(
            "mean",
            &self.mean,
            &[self.layout.dim],
        )
    }

    /// The codes that `section` wrote; none for [`Code::F32`].
    pub fn read(
        sections: &[Section],
        code: Code,
        metric: Metric,
        rows: usize,
        dim: usize,
    ) -> Result<Option<Self>, TensorError> {
        let Some(bits) = code.bits() else { return Ok(None) };
        let section = Section::named(sections, "codes")?;
        let layout = Layout::new(bits, dim, metric);
        let bytes = section.array::<u8>("codes", &[rows, layout.stride])?.aligned_to_lines();
        let mean = section.array::<f32>("mean", &[dim])?;
        if let Some(place) = mean.iter().position(|value| !value.is_finite()) {
            let what = format!("entry {place} is not finite");
            return Err(TensorError::Content { tensor: "mean".into(), what });
        }
        let is_broken = |row: &[u8]| {
            let (factor, square) = layout.numbers(row);
            !factor.is_finite() || metric == Metric::L2 && !square.is_finite()
        };
        if let Some(row) = bytes.par_chunks_exact(layout.stride).position_first(is_broken) {
            let what = format!("row {row}: its factor or its squared norm is not finite");
            return Err(TensorError::Content { tensor: "codes".into(), what });
        }
        Ok(Some(Self { code, metric, layout, bytes, mean }))
    }

    #[inline]
    fn row(&self, ordinal: u32) -> &[u8] {
        &self.bytes[ordinal as usize * self.layout.stride..][..self.layout.stride]
    }

    /// Asks for a row's code.
    #[inline]
    pub fn prefetch(&self, ordinal: u32) {
        prefetch(self.row(ordinal));
    }
}

/// The mean of all rows, summed block by block: the same at any number of threads.
fn mean(rows: VectorView<'_>) -> Vec<f32> {
    let dim = rows.dim();
    let sum = |mut sum: Vec<f64>, row: &[f32]| {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        sum
    };
    let blocks: Vec<Vec<f64>> = rows
        .as_slice()
        .par_chunks(dim * Codes::BLOCK_ROWS)
        .map(|block| block.chunks_exact(dim).fold(vec![0.0; dim], sum))
        .collect();
    let mut total = vec![0.0; dim];
    for block in blocks {
        total.iter_mut().zip(block).for_each(|(total, sum)| *total += sum);
    }
    total.iter().map(|total| (total / rows.rows() as f64) as f32).collect()
}

fn encode_row(layout: Layout, metric: Metric, residual: &[f32], levels: &mut [f32], out: &mut [u8]) {
    // A length that f32 cannot hold is as far as can be.
    let square = residual.iter().map(|r| r * r).sum::<f32>().min(f32::MAX);
    if square / residual.len() as f32 > 0.0 {
        let product = round_direction(residual, square, layout.bits, levels);
        let factor = if product > 0.0 { (square / product).min(f32::MAX) } else { 0.0 };
        for (plane, levels) in levels.chunks(layout.plane_dims()).enumerate() {
            for (byte, &level) in out.iter_mut().zip(levels) {
                *byte |= (level as u8) << (plane * layout.bits);
            }
        }
        let end = out.len() - Layout::NUMBER;
        out[end..].copy_from_slice(&factor.to_le_bytes());
        if metric == Metric::L2 {
            out[end - Layout::NUMBER..end].copy_from_slice(&square.to_le_bytes());
        }
    }
}

/// A query prepared for [`Codes`]: rounded to i8, so that a distance is one integer product.
#[derive(Debug, Default)]
pub(super) struct CodeQuery {
    /// Plane after plane, each as long as a row.
    values: Vec<i8>,
    products: Vec<i32>,
    /// distance = `base` + |r|² (L2) + f · `factor` · (product − `middle`).
    base: f32,
    factor: f32,
    middle: f32,
}

impl CodeQuery {
    /// For products with so many rows at once.
    pub fn with_capacity(rows: usize) -> Self {
        Self { products: Vec::with_capacity(rows), ..Self::default() }
    }

    pub fn prepare(&mut self, codes: &Codes, query: &[f32]) {
        let Codes { metric, layout, mean, .. } = codes;
        let l2 = *metric == Metric::L2;
        let value = |d: usize| if l2 { query[d] - mean[d] } else { query[d] };
        let widest = (0..layout.dim).fold(0f32, |widest, d| widest.max(value(d).abs()));
        let step = if widest > 0.0 { widest / 127.0 } else { 1.0 };
        self.values.clear();
        self.values.resize(layout.planes() * layout.stride, 0);
        let mut sum = 0;
        for (plane, first) in (0..layout.dim).step_by(layout.plane_dims()).enumerate() {
            let dims = first..(first + layout.plane_dims()).min(layout.dim);
            for (out, d) in self.values[plane * layout.stride..].iter_mut().zip(dims) {
                *out = (value(d) / step).round() as i8;
                sum += i32::from(*out);
            }
        }
        // ⟨q, u⟩ of levels from 0 up, less their middle times Σ q.
        self.middle = layout.top() / 2.0 * sum as f32;
        (self.base, self.factor) = if l2 {
            // |q − x|² = |q′|² + |r|² − 2⟨q′, r⟩, both taken from the mean: far from the origin, what tells rows apart
            // would vanish in the rounding of what they have in common.
            ((0..layout.dim).map(|d| value(d) * value(d)).sum(), -2.0 * step)
        } else {
            let of_mean: f32 = query.iter().zip(mean.iter()).map(|(q, c)| q * c).sum();
            (metric.distance_of_dot(of_mean), -step)
        };
    }

    /// Estimated distances to the rows named by `ordinals`.
    pub fn distances(&mut self, codes: &Codes, kernels: &Kernels, ordinals: &[u32], out: &mut [f32]) {
        self.products.resize(ordinals.len(), 0);
        let layout = codes.layout;
        (kernels.packed_gather)(&self.values, &codes.bytes, layout.stride, ordinals, &mut self.products);
        let l2 = codes.metric == Metric::L2;
        for ((out, &product), &ordinal) in out.iter_mut().zip(&self.products).zip(ordinals) {
            let (factor, square) = layout.numbers(codes.row(ordinal));
            let base = if l2 { self.base + square } else { self.base };
            // Of estimates that overflow, no NaN may come before all others.
            *out = (base + factor * (self.factor * (product as f32 - self.middle))).min(f32::INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::kernels;
    use crate::vectors::{Random, VectorBuf};

    const CODED: [Code; 4] = [Code::Sq8, Code::Q4, Code::Q2, Code::Q1];

    fn estimates(codes: &Codes, query: &[f32], ordinals: &[u32]) -> Vec<f32> {
        let mut prepared = CodeQuery::default();
        prepared.prepare(codes, query);
        let mut estimates = vec![0.0; ordinals.len()];
        prepared.distances(codes, kernels(), ordinals, &mut estimates);
        estimates
    }

    /// What the bytes of a row stand for, by the definition.
    fn decoded(codes: &Codes, ordinal: u32) -> Vec<f64> {
        let (layout, row) = (codes.layout, codes.row(ordinal));
        let (factor, _) = layout.numbers(row);
        let level = |d: usize| {
            let (plane, byte) = (d / layout.plane_dims(), row[d % layout.plane_dims()]);
            byte >> (plane * layout.bits) & layout.top() as u8
        };
        let value = |d: usize| f64::from(factor) * (f64::from(level(d)) - f64::from(layout.top()) / 2.0);
        (0..layout.dim).map(value).collect()
    }

    fn encoded(rows: &VectorBuf, metric: Metric, code: Code) -> Codes {
        Codes::encode(None, rows.view(), metric, code).unwrap().unwrap()
    }

    /// An estimate is that of the definition but for the rounding of the query to 8 bits, whatever the layout.
    #[test]
    fn estimates_are_those_of_the_decoded_rows() {
        let mut random = Random::new(1);
        for dim in [1, 2, 3, 16, 60, 64, 100, 129, 769] {
            for (shift, scale) in [(0.0, 1.0), (1000.0, 1.0), (-3.0, 1e-6), (1e9, 1e8)] {
                let mut value = || shift + scale * random.normal() as f32;
                let rows = VectorBuf::new((0..200 * dim).map(|_| value()).collect(), dim);
                let query: Vec<f32> = (0..dim).map(|_| value()).collect();
                let ordinals = [0, 7, 199, 7, 31];
                for (metric, code) in Metric::ALL.into_iter().flat_map(|m| CODED.map(|code| (m, code))) {
                    let codes = encoded(&rows, metric, code);
                    for (estimate, ordinal) in estimates(&codes, &query, &ordinals).into_iter().zip(ordinals)
                    {
                        let (defined, bound) = defined(&codes, &query, rows.row(ordinal as usize), ordinal);
                        let error = (f64::from(estimate) - defined).abs();
                        let case = format!("{metric} {} {dim}-d at {shift}", code.name());
                        assert!(error <= bound, "{case}: off by {error}, not {bound}");
                    }
                }
            }
        }
    }

    /// The estimate without rounding of the query, and how far off rounding may put it.
    fn defined(codes: &Codes, query: &[f32], row: &[f32], ordinal: u32) -> (f64, f64) {
        let l2 = codes.metric == Metric::L2;
        let code = decoded(codes, ordinal);
        let mean = |d: usize| f64::from(codes.mean[d]);
        let value: Vec<f64> =
            (0..query.len()).map(|d| f64::from(query[d]) - if l2 { mean(d) } else { 0.0 }).collect();
        let product: f64 = value.iter().zip(&code).map(|(q, u)| q * u).sum();
        let widest = value.iter().fold(0.0, |widest: f64, q| widest.max(q.abs()));
        let of_query: f64 = code.iter().map(|u| u.abs() * widest / 254.0).sum();
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let residual = (0..row.len()).map(|d| f64::from(row[d]) - mean(d));
        if l2 {
            let squares = square(&mut value.iter().copied()) + square(&mut residual.into_iter());
            // What f32 can say of values that lie far from the origin.
            let place: f64 = (0..row.len())
                .map(|d| 4e-7 * f64::from(row[d]).abs() * (value[d].abs() + f64::from(row[d]).abs() * 4e-7))
                .sum();
            (squares - 2.0 * product, 2.0 * of_query + 1e-5 * squares + 4.0 * place + 1e-12)
        } else {
            let of_mean: f64 = (0..query.len()).map(|d| f64::from(query[d]) * mean(d)).sum();
            let size: f64 = (0..query.len()).map(|d| (f64::from(query[d]) * mean(d)).abs()).sum();
            let base = if codes.metric == Metric::Cosine { 1.0 } else { 0.0 };
            let sum: f64 = value.iter().zip(&code).map(|(q, u)| (q * u).abs()).sum();
            (base - of_mean - product, of_query + 1e-5 * (size + sum) + 1e-6)
        }
    }

    /// For L2 the distance of a row to itself, for the others its length: what RaBitQ's factor is chosen for.
    #[test]
    fn a_row_is_estimated_exactly_by_itself() {
        let mut random = Random::new(2);
        let dim = 96;
        let rows = VectorBuf::new((0..500 * dim).map(|_| random.normal() as f32).collect(), dim);
        for code in CODED {
            let codes = encoded(&rows, Metric::L2, code);
            for row in [0, 17, 499] {
                let estimate = estimates(&codes, rows.row(row as usize), &[row])[0];
                assert!(estimate.abs() < 3.0, "{}: {estimate} of about 192", code.name());
            }
        }
    }

    /// More bits, nearer estimates: by about half a bit's worth each at least.
    #[test]
    fn error_falls_with_the_bits() {
        let mut random = Random::new(3);
        let dim = 100;
        let rows = VectorBuf::new((0..400 * dim).map(|_| random.normal() as f32).collect(), dim);
        let order: Vec<u32> = (0..400).collect();
        for metric in Metric::ALL {
            let error = |code: Code| -> f64 {
                let codes = encoded(&rows, metric, code);
                let errors = (0..50).map(|query| {
                    let query = rows.row(query);
                    let estimates = estimates(&codes, query, &order);
                    let exact = rows.view().iter().map(|row| metric.distance(query, row));
                    estimates.iter().zip(exact).map(|(&e, d)| (f64::from(e) - d).powi(2)).sum::<f64>()
                });
                errors.sum::<f64>().sqrt()
            };
            let [sq8, q4, q2, q1] = CODED.map(error);
            assert!(sq8 * 5.0 < q4 && q4 * 2.5 < q2 && q2 * 1.3 < q1, "{metric}: {sq8} {q4} {q2} {q1}");
        }
    }

    #[test]
    fn what_a_dimension_never_varies_in_costs_nothing() {
        let rows = VectorBuf::new((0..90).flat_map(|i| [5.0, i as f32]).collect(), 2);
        let order: Vec<u32> = (0..90).collect();
        let codes = encoded(&rows, Metric::L2, Code::Sq8);
        let estimates = estimates(&codes, &[5.0, 30.0], &order);
        let nearest = (0..90).min_by(|&a, &b| estimates[a].total_cmp(&estimates[b]));
        assert!(nearest.is_some_and(|row: usize| row.abs_diff(30) <= 1), "{nearest:?}");
    }

    #[test]
    fn rows_that_are_all_equal_are_all_as_far() {
        let rows = VectorBuf::new(vec![2.5; 70 * 5], 5);
        let order: Vec<u32> = (0..70).collect();
        for (metric, code) in Metric::ALL.into_iter().flat_map(|m| CODED.map(|code| (m, code))) {
            let codes = encoded(&rows, metric, code);
            let estimates = estimates(&codes, &[1.0; 5], &order);
            assert!(estimates.iter().all(|e| e.is_finite() && *e == estimates[0]), "{metric} {code:?}");
        }
    }
}
