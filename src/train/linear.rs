//! The little linear algebra that training needs, in f64: systems of a few unknowns, and the orthogonal matrix nearest to
//! a square one.

use rayon::prelude::*;

/// The x of `matrix` · x = `right` (`matrix` row-major, `right.len()` rows), by elimination with partial pivoting; `None`
/// where a pivot vanishes.
pub(super) fn solve(matrix: Vec<f64>, right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    eliminate(matrix, right, n, 1)
}

/// The inverse of an `n × n` matrix.
fn inverse(matrix: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mut identity = vec![0.0; n * n];
    (0..n).for_each(|i| identity[i * n + i] = 1.0);
    eliminate(matrix, identity, n, n)
}

/// Gauss and Jordan: `matrix` (`n × n`) becomes the identity, `right` (`n × width`) the solution.
fn eliminate(mut matrix: Vec<f64>, mut right: Vec<f64>, n: usize, width: usize) -> Option<Vec<f64>> {
    assert!(matrix.len() == n * n && right.len() == n * width);
    for column in 0..n {
        let size = |row: usize, matrix: &[f64]| matrix[row * n + column].abs();
        let pivot = (column..n)
            .fold(column, |best, row| if size(row, &matrix) > size(best, &matrix) { row } else { best });
        let value = matrix[pivot * n + column];
        if value == 0.0 || !value.is_finite() {
            return None;
        }
        for i in 0..n {
            matrix.swap(pivot * n + i, column * n + i);
        }
        for i in 0..width {
            right.swap(pivot * width + i, column * width + i);
        }
        matrix[column * n..][..n].iter_mut().for_each(|entry| *entry /= value);
        right[column * width..][..width].iter_mut().for_each(|entry| *entry /= value);
        let (own, own_right) =
            (matrix[column * n..][..n].to_vec(), right[column * width..][..width].to_vec());
        let subtract = |(row, (entries, others)): (usize, (&mut [f64], &mut [f64]))| {
            let factor = entries[column];
            if row != column && factor != 0.0 {
                entries.iter_mut().zip(&own).for_each(|(entry, &own)| *entry -= factor * own);
                others.iter_mut().zip(&own_right).for_each(|(entry, &own)| *entry -= factor * own);
            }
        };
        matrix
            .par_chunks_mut(n)
            .zip(right.par_chunks_mut(width))
            .with_min_len(64)
            .enumerate()
            .for_each(subtract);
    }
    Some(right)
}

/// The orthogonal factor of the polar decomposition of an `n × n` matrix: of all orthogonal matrices the one nearest to
/// it, and the one whose product with it has the greatest trace. By Newton's iteration, X ← (γX + X⁻ᵀ / γ) / 2, scaled
/// (Higham 1986): some ten inverses. `None` for a matrix that is singular to rounding.
pub(super) fn nearest_orthogonal(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    const MOST: usize = 60;
    let mut x = matrix.to_vec();
    for _ in 0..MOST {
        let inverse = inverse(x.clone(), n)?;
        let gamma = (frobenius(&inverse) / frobenius(&x)).sqrt();
        let mut change = 0.0;
        for i in 0..n {
            for j in 0..n {
                let next = 0.5 * (gamma * x[i * n + j] + inverse[j * n + i] / gamma);
                change += (next - x[i * n + j]).powi(2);
                x[i * n + j] = next;
            }
        }
        if !change.is_finite() {
            return None;
        }
        if change.sqrt() <= 1e-12 * n as f64 {
            return Some(x);
        }
    }
    None
}

fn frobenius(matrix: &[f64]) -> f64 {
    matrix.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    fn normal(n: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        (0..n * n).map(|_| random.normal()).collect()
    }

    fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
        (0..n * n).map(|at| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum()).collect()
    }

    #[test]
    fn solutions_solve_and_singular_systems_are_refused() {
        for n in [1, 2, 5, 16] {
            let matrix = normal(n, n as u64);
            let expected: Vec<f64> = (0..n).map(|i| i as f64 - 2.5).collect();
            let right = (0..n).map(|i| (0..n).map(|j| matrix[i * n + j] * expected[j]).sum()).collect();
            let got = solve(matrix, right).unwrap();
            assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-8), "{got:?}");
        }
        assert_eq!(solve(vec![0.0, 1.0, 1.0, 0.0], vec![3.0, 4.0]), Some(vec![4.0, 3.0]), "needs a pivot");
        assert_eq!(solve(vec![1.0, 1.0, 1.0, 1.0], vec![1.0, 2.0]), None);
    }

    #[test]
    fn the_nearest_orthogonal_matrix_is_orthogonal_and_undoes_a_stretch() {
        for n in [1, 2, 7, 40] {
            let rotation = nearest_orthogonal(&normal(n, 3), n).unwrap();
            let transposed: Vec<f64> = (0..n * n).map(|at| rotation[at % n * n + at / n]).collect();
            let unit = product(&rotation, &transposed, n);
            assert!((0..n * n).all(|at| (unit[at] - f64::from(at % n == at / n)).abs() < 1e-10));
            // rotation · stretch, a symmetric positive definite one of condition 10⁶.
            let basis = nearest_orthogonal(&normal(n, 4), n).unwrap();
            let mut stretch = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    let of = |k: usize| {
                        10f64.powf(-6.0 * k as f64 / n as f64) * basis[k * n + i] * basis[k * n + j]
                    };
                    stretch[i * n + j] = (0..n).map(of).sum();
                }
            }
            let back = nearest_orthogonal(&product(&rotation, &stretch, n), n).unwrap();
            assert!(back.iter().zip(&rotation).all(|(a, b)| (a - b).abs() < 1e-7), "{n}");
        }
        assert_eq!(nearest_orthogonal(&[0.0; 4], 2), None);
    }
}
