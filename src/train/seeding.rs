//! First centroids: k-means++ (Arthur, Vassilvitskii 2007) on a subsample.
//!
//! On embeddings it gains nothing over plainly sampled rows: after ten passes the inertia is within 0.3 % either way
//! (glove10k with k = 256 and three seeds, minilm100k with k = 512). It is there for rows in separate groups and for
//! duplicates, where sampled rows leave groups without a centroid that Lloyd's iteration never gives them. With
//! [`ROWS_PER_CENTROID`] rows per centroid to draw from it costs a sixty-fourth of the arithmetic of one pass over
//! the usual sample.

use rayon::prelude::*;

use crate::compute::cpu::kernels;
use crate::vectors::{Random, VectorBuf, VectorView};

/// Rows of the subsample per seed.
const ROWS_PER_CENTROID: usize = 4;

/// Rows of the subsample at least: for few centroids the cost is nothing, and from a small pool k-means++ draws
/// mostly its outliers.
const POOL_ROWS: usize = 2048;

/// Rows per parallel piece: fixed, though no result depends on it.
const PIECE_ROWS: usize = 2048;

/// `k` rows of `rows`, each drawn with probability proportional to its squared distance from those drawn before.
/// Where fewer than `k` distinct rows were drawn, the rest are repeated.
///
/// # Panics
/// If there are fewer than `k` rows.
pub(super) fn plus_plus(rows: VectorView<'_>, k: usize, random: &mut Random) -> VectorBuf {
    assert!(k > 0 && rows.rows() >= k);
    let subsample;
    let wanted = (ROWS_PER_CENTROID * k).max(POOL_ROWS);
    let pool = if rows.rows() > wanted {
        subsample = rows.gather(&random.sample(rows.rows(), wanted));
        subsample.view()
    } else {
        rows
    };
    let mut seeds = VectorBuf::new(Vec::with_capacity(k * rows.dim()), rows.dim());
    seeds.push(pool.row(random.below(pool.rows())));
    let mut weights = vec![f32::INFINITY; pool.rows()];
    let mut distances = vec![0.0f32; pool.rows()];
    while seeds.rows() < k {
        let newest = seeds.row(seeds.rows() - 1);
        lower_to_distance(pool, newest, &mut distances, &mut weights);
        let next = draw(&weights, random).unwrap_or_else(|| random.below(pool.rows()));
        seeds.push(pool.row(next));
    }
    seeds
}

/// `weights[i] = min(weights[i], |row i − point|²)`.
fn lower_to_distance(rows: VectorView<'_>, point: &[f32], distances: &mut [f32], weights: &mut [f32]) {
    let l2_rows = kernels().l2_rows;
    let lower = |rows: &[f32], distances: &mut [f32], weights: &mut [f32]| {
        l2_rows(point, rows, distances);
        for (weight, &distance) in weights.iter_mut().zip(&*distances) {
            *weight = weight.min(distance);
        }
    };
    if rows.rows() * rows.dim() < 1 << 16 {
        lower(rows.as_slice(), distances, weights);
    } else {
        rows.as_slice()
            .par_chunks(PIECE_ROWS * rows.dim())
            .zip(distances.par_chunks_mut(PIECE_ROWS))
            .zip(weights.par_chunks_mut(PIECE_ROWS))
            .for_each(|((rows, distances), weights)| lower(rows, distances, weights));
    }
}

/// An index with probability proportional to its weight; `None` if all weights are 0.
pub(super) fn draw(weights: &[f32], random: &mut Random) -> Option<usize> {
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    if total <= 0.0 {
        return None;
    }
    // In (0, total]: the first index whose running sum reaches it has a positive weight.
    let target = random.unit() * total;
    let mut running = 0.0;
    for (index, &weight) in weights.iter().enumerate() {
        running += f64::from(weight);
        if running >= target && weight > 0.0 {
            return Some(index);
        }
    }
    // Unreachable but for rounding in `unit() * total`.
    weights.iter().rposition(|&weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_distinct_while_distinct_rows_are_left() {
        // 6 places, each 50 times.
        let data: Vec<f32> = (0..300).flat_map(|i| [(i % 6) as f32, 10.0 - (i % 6) as f32]).collect();
        let rows = VectorView::new(&data, 2);
        for seed in 0..20 {
            let seeds = plus_plus(rows, 6, &mut Random::new(seed));
            let mut places: Vec<i32> = seeds.view().iter().map(|row| row[0] as i32).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 6, "seed {seed}");
        }
        let more = plus_plus(rows, 10, &mut Random::new(1));
        assert_eq!(more.rows(), 10, "repeated once the distinct ones are used up");
    }

    #[test]
    fn weights_of_zero_are_never_drawn() {
        let mut random = Random::new(5);
        let weights = [0.0, 1.0, 0.0, 3.0, 0.0];
        let mut drawn = [0usize; 5];
        for _ in 0..4000 {
            drawn[draw(&weights, &mut random).unwrap()] += 1;
        }
        assert_eq!(drawn[0] + drawn[2] + drawn[4], 0);
        assert!((2700..3300).contains(&drawn[3]), "three of four, got {drawn:?}");
        assert_eq!(draw(&[0.0; 4], &mut random), None);
    }
}
