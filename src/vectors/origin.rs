//! Rows that lie far from the origin, seen from their own mean.
//!
//! |x|² + |y|² − 2⟨x, y⟩ in f32 loses what tells rows apart where they lie far from the origin, compared with how far they lie from each other.
//! L2 distances do not change when the rows' mean is taken from both sides first.

use super::{VectorBuf, VectorView};

/// The [`remoteness`] from which on products are better made of what the mean leaves. Below, rounding makes an error of 6e-5 of a typical
/// distance at most.
const FAR: f64 = 1024.0;

/// Rows that the mean is judged by, at most.
const JUDGED: usize = 1024;

/// The rows' mean, where they lie far from the origin.
pub fn far_mean(rows: VectorView<'_>) -> Option<Vec<f32>> {
    let (mean, remoteness) = remoteness(rows);
    (remoteness > FAR).then_some(mean)
}

/// The mean of some of the rows, and its squared length over their mean squared distance to it.
///
/// # Panics
/// If there is none.
pub fn remoteness(rows: VectorView<'_>) -> (Vec<f32>, f64) {
    let judged = JUDGED.min(rows.rows());
    let judged: Vec<u32> = (0..judged).map(|i| (i * rows.rows() / judged) as u32).collect();
    let judged = rows.gather(&judged);
    let mean = judged.view().mean();
    let square = |value: f32| f64::from(value) * f64::from(value);
    let length: f64 = mean.iter().map(|&value| square(value)).sum();
    let distances = judged.view().iter().flat_map(|row| row.iter().zip(&mean)).map(|(x, m)| square(x - m));
    let spread = distances.sum::<f64>() / judged.rows() as f64;
    let remoteness = if length > 0.0 { length / spread } else { 0.0 };
    (mean, remoteness)
}

/// The rows less `mean`.
pub fn taken_from(rows: VectorView<'_>, mean: &[f32]) -> VectorBuf {
    let mut left = VectorBuf::from(rows);
    left.as_mut_slice().chunks_exact_mut(mean.len()).for_each(|row| subtract(row, mean));
    left
}

pub fn subtract(row: &mut [f32], other: &[f32]) {
    row.iter_mut().zip(other).for_each(|(value, &other)| *value -= other);
}
