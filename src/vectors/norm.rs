/// Rows and queries are at most so long, squared: |a|² + |b|² + 2|a||b|, which no distance exceeds, stays below f32's 3.4e38, with
/// room for rounding.
pub const MAX_SQUARED_NORM: f64 = 5e37;

/// |x|², summed in f64, where the square of no f32 overflows or vanishes.
pub fn squared_norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

/// Scales a finite vector to unit length, through f64: 1e-30 and 1e30 have directions as good as any. False, and nothing
/// done, for the zero vector, which has none.
pub fn normalize(vector: &mut [f32]) -> bool {
    let norm = squared_norm(vector).sqrt();
    if norm == 0.0 {
        return false;
    }
    vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    true
}
