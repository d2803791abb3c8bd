//! A random rotation that is fast to apply, O(d log d): by turns the signs of some dimensions are flipped, dimensions are mixed by a
//! Walsh–Hadamard transform, and halves by a step of Kac's walk. What is rotated so has its length spread evenly over the
//! dimensions, whatever the data is like, which is what codes of signs rest on (RaBitQ, arXiv 2405.12497; the transform for
//! dimensions that are no power of two follows the library of its authors).
//!
//! Nothing is added and nothing padded: d values become d values. It is sums and differences alone, in a fixed order, so that a
//! rotated vector has the same bits on every CPU.

use rayon::prelude::*;

use super::TrainError;
use crate::vectors::{Random, VectorBuf, VectorView};

/// Rounds of signs, transform and step. With four a unit vector's values look normal at 96, 100 and 384 dimensions.
const ROUNDS: usize = 4;

/// Rotates vectors of `dim` values.
#[derive(Debug, Clone, PartialEq)]
pub struct FastRotation {
    dim: usize,
    /// `ROUNDS × ⌈dim / 8⌉`: bit `d % 8` of byte `d / 8` is set where a round flips dimension d.
    signs: Vec<u8>,
    /// The same as factors, `ROUNDS × dim`, with the transform's scale in them.
    flips: Vec<f32>,
}

impl FastRotation {
    pub const ROUNDS: usize = ROUNDS;

    /// Drawn by a seed.
    pub fn random(dim: usize, seed: u64) -> Self {
        let bytes = dim.div_ceil(8);
        let mut random = Random::new(seed);
        let mut signs: Vec<u8> = (0..ROUNDS * bytes).map(|_| (random.next_u64() >> 56) as u8).collect();
        signs.chunks_exact_mut(bytes).for_each(|round| round[bytes - 1] &= last_byte(dim));
        Self::of(dim, signs)
    }

    /// Of `ROUNDS × ⌈dim / 8⌉` bytes, with nothing set behind the last dimension.
    pub fn from_signs(dim: usize, signs: Vec<u8>) -> Result<Self, TrainError> {
        let refused =
            |expected: String, got: String| Err(TrainError::Parameter { name: "signs", expected, got });
        let bytes = dim.div_ceil(8);
        if dim == 0 || signs.len() != ROUNDS * bytes {
            let expected = format!("{ROUNDS} × {bytes} bytes for {dim} dimensions");
            return refused(expected, signs.len().to_string());
        }
        let stray = |round: &&[u8]| round[bytes - 1] & !last_byte(dim) != 0;
        match signs.chunks_exact(bytes).find(stray) {
            Some(round) => {
                refused(format!("no sign behind dimension {dim}"), format!("{:#x}", round[bytes - 1]))
            }
            None => Ok(Self::of(dim, signs)),
        }
    }

    fn of(dim: usize, signs: Vec<u8>) -> Self {
        let bytes = dim.div_ceil(8);
        let power = largest_power(dim);
        let scale = (1.0 / (power as f64).sqrt()) as f32;
        let flips = (0..ROUNDS * dim)
            .map(|at| {
                let (round, d) = (at / dim, at % dim);
                let scale = if mixed(dim, round).contains(&d) { scale } else { 1.0 };
                if signs[round * bytes + d / 8] >> (d % 8) & 1 == 1 { -scale } else { scale }
            })
            .collect();
        Self { dim, signs, flips }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `ROUNDS × ⌈dim / 8⌉`, see [`from_signs`](Self::from_signs).
    pub fn signs(&self) -> &[u8] {
        &self.signs
    }

    /// `rotated` = R · `row`.
    pub fn rotate(&self, row: &[f32], rotated: &mut [f32]) {
        rotated.copy_from_slice(row);
        for (round, flips) in self.flips.chunks_exact(self.dim).enumerate() {
            rotated.iter_mut().zip(flips).for_each(|(value, &flip)| *value *= flip);
            transform(&mut rotated[mixed(self.dim, round)]);
            if !self.dim.is_power_of_two() {
                walk(rotated);
            }
        }
    }

    /// `row` = Rᵀ · `rotated`: what [`rotate`](Self::rotate) has rotated, to rounding.
    pub fn rotate_back(&self, rotated: &[f32], row: &mut [f32]) {
        row.copy_from_slice(rotated);
        for (round, flips) in self.flips.chunks_exact(self.dim).enumerate().rev() {
            // Transform and step are their own inverses.
            if !self.dim.is_power_of_two() {
                walk(row);
            }
            transform(&mut row[mixed(self.dim, round)]);
            row.iter_mut().zip(flips).for_each(|(value, &flip)| *value *= flip);
        }
    }

    /// Every row, rotated.
    pub fn rotate_rows(&self, rows: VectorView<'_>) -> VectorBuf {
        assert_eq!(rows.dim(), self.dim);
        let mut rotated = VectorBuf::zeroed(rows.rows(), self.dim);
        rotated
            .as_mut_slice()
            .par_chunks_exact_mut(self.dim)
            .with_min_len(256)
            .zip(rows.as_slice().par_chunks_exact(self.dim))
            .for_each(|(rotated, row)| self.rotate(row, rotated));
        rotated
    }
}

/// The bits of the last byte that stand for dimensions.
fn last_byte(dim: usize) -> u8 {
    u8::MAX >> (dim.div_ceil(8) * 8 - dim)
}

fn largest_power(dim: usize) -> usize {
    1 << dim.ilog2()
}

/// The dimensions that a round transforms: by turns the first and the last.
fn mixed(dim: usize, round: usize) -> std::ops::Range<usize> {
    let power = largest_power(dim);
    if round.is_multiple_of(2) { 0..power } else { dim - power..dim }
}

/// The Walsh–Hadamard transform, without its scale, of a power of two of values.
fn transform(values: &mut [f32]) {
    let (eights, rest) = values.as_chunks_mut::<8>();
    if !rest.is_empty() {
        // Fewer than eight.
        return butterflies(values, 1);
    }
    for eight in eights {
        let [a, b, c, d, e, f, g, h] = *eight;
        let (a, b, c, d, e, f, g, h) = (a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h);
        let (a, c, b, d, e, g, f, h) = (a + c, a - c, b + d, b - d, e + g, e - g, f + h, f - h);
        *eight = [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h];
    }
    butterflies(values, 8);
}

/// The steps of the transform from a distance on.
fn butterflies(values: &mut [f32], from: usize) {
    let mut distance = from;
    while distance < values.len() {
        for pair in values.chunks_exact_mut(2 * distance) {
            let (low, high) = pair.split_at_mut(distance);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        distance *= 2;
    }
}

/// A step of Kac's walk: each dimension of the first half and its like of the second turn by an eighth of a circle.
fn walk(values: &mut [f32]) {
    let half = values.len() / 2;
    let middle = values.len() - half;
    let (low, high) = values.split_at_mut(middle);
    for (low, high) in low[..half].iter_mut().zip(high) {
        let sum = (*low + *high) * std::f32::consts::FRAC_1_SQRT_2;
        (*low, *high) = (sum, (*low - *high) * std::f32::consts::FRAC_1_SQRT_2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: [usize; 14] = [1, 2, 3, 4, 5, 7, 8, 15, 17, 96, 100, 127, 128, 769];

    fn normal(seed: u64, count: usize) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    #[test]
    fn products_stay_and_the_way_back_is_the_way() {
        for dim in DIMS {
            let rotation = FastRotation::random(dim, 7);
            let rows = VectorBuf::new(normal(1, 6 * dim), dim);
            let rotated = rotation.rotate_rows(rows.view());
            let mut back = vec![0.0; dim];
            for (row, own) in rows.view().iter().zip(rotated.view().iter()) {
                for (other, its) in rows.view().iter().zip(rotated.view().iter()) {
                    let scale = (dot(row, row) * dot(other, other)).sqrt();
                    assert!((dot(row, other) - dot(own, its)).abs() <= 1e-6 * scale, "{dim}-d");
                }
                rotation.rotate_back(own, &mut back);
                for (value, back) in row.iter().zip(&back) {
                    assert!((value - back).abs() <= 1e-5, "{dim}-d");
                }
            }
        }
    }

    /// By the definition: sums over all pairs of dimensions, of which bit by bit the common ones tell the sign.
    #[test]
    fn the_transform_is_that_of_hadamard() {
        for power in [1, 2, 4, 8, 16, 64] {
            let values = normal(3, power);
            let mut transformed = values.clone();
            transform(&mut transformed);
            for (i, got) in transformed.iter().enumerate() {
                let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                let expected: f64 = values.iter().enumerate().map(|(j, &x)| sign(j) * f64::from(x)).sum();
                assert!((f64::from(*got) - expected).abs() < 1e-4, "{power}: {i}");
            }
        }
    }

    /// The worst that can come: everything in one dimension. No value may stand out among the rotated ones.
    #[test]
    fn a_single_dimension_is_spread_over_all() {
        for dim in [96, 100, 127, 128, 384, 769] {
            for axis in [0, 1, dim / 2, dim - 1] {
                let rotation = FastRotation::random(dim, 11);
                let mut row = vec![0.0; dim];
                row[axis] = 1.0;
                let mut rotated = vec![0.0; dim];
                rotation.rotate(&row, &mut rotated);
                let widest = rotated.iter().fold(0f32, |widest, x| widest.max(x.abs()));
                let deviation = (1.0 / dim as f32).sqrt();
                assert!(widest < 6.0 * deviation, "{dim}-d, axis {axis}: {}", widest / deviation);
            }
        }
    }

    #[test]
    fn signs_come_back_and_stray_ones_are_refused() {
        for dim in DIMS {
            let rotation = FastRotation::random(dim, 5);
            let signs = rotation.signs().to_vec();
            assert_eq!(FastRotation::from_signs(dim, signs.clone()).unwrap(), rotation);
            assert!(FastRotation::from_signs(dim, signs[1..].to_vec()).is_err());
            if !dim.is_multiple_of(8) {
                let mut stray = signs;
                *stray.last_mut().unwrap() |= 0x80;
                assert!(FastRotation::from_signs(dim, stray).unwrap_err().to_string().contains("`signs`"));
            }
        }
        assert!(FastRotation::from_signs(0, Vec::new()).is_err());
    }
}
