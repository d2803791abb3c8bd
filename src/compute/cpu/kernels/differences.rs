//! Distances of pairs that are no sums of products: |a − b| summed, and the dimensions counted that differ. Sixteen sums side by
//! side, which every compiler makes vectors of; the same bits on every instruction set.

use half::f16;

use crate::vectors::Metric;

const LANES: usize = 16;

/// The distance of one pair of f32.
pub fn difference(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Hamming => sum(a, b, |x, y| f32::from(u8::from(x != y))),
        _ => sum(a, b, |x, y| (x - y).abs()),
    }
}

/// … of a query and a row kept as f16.
pub fn difference_f16(metric: Metric, query: &[f32], row: &[f16]) -> f32 {
    match metric {
        Metric::Hamming => sum(query, row, |x, y| f32::from(u8::from(x != y.to_f32()))),
        _ => sum(query, row, |x, y| (x - y.to_f32()).abs()),
    }
}

#[inline(always)]
fn sum<T: Copy>(a: &[f32], b: &[T], term: impl Fn(f32, T) -> f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut sums = [0.0f32; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_whole.remainder(), b_whole.remainder());
    for (x, y) in a_whole.zip(b_whole) {
        for lane in 0..LANES {
            sums[lane] += term(x[lane], y[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&x, &y)| term(x, y)).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn is_the_definition() {
        let mut random = Random::new(3);
        for dim in [1, 3, 15, 16, 17, 96, 100, 768] {
            for metric in Metric::EXACT_ONLY {
                // Few values, so that some are equal, and all of them f16 as well.
                let mut row = || (0..dim).map(|_| random.below(4) as f32 - 1.5).collect::<Vec<f32>>();
                let (a, b) = (row(), row());
                let expected = metric.distance(&a, &b);
                let halves: Vec<f16> = b.iter().map(|&value| f16::from_f32(value)).collect();
                for got in [difference(metric, &a, &b), difference_f16(metric, &a, &halves)] {
                    assert!(
                        (f64::from(got) - expected).abs() <= 1e-6 * expected,
                        "{metric} {dim}: {got}, {expected}"
                    );
                }
            }
        }
    }
}
