//! Codes that keep scores rather than vectors: the anisotropic loss of ScaNN (Guo et al., ICML 2020).
//!
//! With x a row and r what its code misses of it, a query's score errs by ⟨q, r⟩. Queries that matter score x highly, so
//! they point where x points: an error along x costs them more than one across it. The loss weighs the two apart,
//! h∥·|r∥|² + h⊥·|r⊥|² with h∥ / h⊥ = (d − 1) · T² / (1 − T²): the queries that count are those whose cosine with x is above
//! the threshold T. Up to a factor that is |r|² + (η − 1) · ⟨r, x⟩² / |x|².
//!
//! For inner product and cosine. Sub-vectors no longer decide by themselves: codes are found by coordinate descent
//! over sub-vectors from the plain ones, entries by a small linear system each.

use rayon::prelude::*;

use super::pq::{PqShape, ProductQuantizer};
use super::{Observer, Progress, TrainError, report};
use crate::compute::cpu::{ScoredRow, kernels};
use crate::compute::{Compute, ResidualOf, Rows};
use crate::vectors::VectorView;

/// Sweeps over all sub-vectors of a row. The first changes most of the codes that will ever change.
const SWEEPS: usize = 2;

/// Rows per task.
const BLOCK_ROWS: usize = 256;

/// The anisotropic loss.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ScoreAware {
    /// Cosine of query and row above which a query counts, 0 up to, not including, 1. 0.2 is ScaNN's default; 1/√d weighs both
    /// parts of the error alike.
    pub threshold: f32,
    /// Passes over the training rows, 1 to 1,000. Default 4.
    pub iterations: usize,
}

impl ScoreAware {
    pub fn new(threshold: f32) -> Self {
        Self { threshold, iterations: 4 }
    }

    pub fn check(&self) -> Result<(), TrainError> {
        if !(0.0..1.0).contains(&self.threshold) {
            let (expected, got) = ("0 up to, not including, 1".into(), self.threshold.to_string());
            return Err(TrainError::Parameter { name: "threshold", expected, got });
        }
        if !(1..=1000).contains(&self.iterations) {
            let (expected, got) = ("1 to 1000".into(), self.iterations.to_string());
            return Err(TrainError::Parameter { name: "iterations", expected, got });
        }
        Ok(())
    }

    /// η = h∥ / h⊥ for rows of `dim` dimensions, at least 1: an error along the row is never the cheaper one.
    fn ratio(&self, dim: usize) -> f32 {
        let squared = f64::from(self.threshold).powi(2);
        ((dim as f64 - 1.0) * squared / (1.0 - squared)).max(1.0) as f32
    }
}

/// Rows and what is encoded of them: their residuals, or themselves.
#[derive(Clone, Copy)]
pub struct ScoredRows<'a> {
    pub rows: VectorView<'a>,
    pub residual_of: Option<ResidualOf<'a>>,
}

impl ProductQuantizer {
    /// Moves the entries of this quantizer, trained by plain error, to those of least anisotropic loss over `rows`.
    /// Returns it with the mean loss that entered each pass, per row and |x|².
    pub fn refine_score_aware(
        self,
        compute: &dyn Compute,
        rows: ScoredRows<'_>,
        loss: &ScoreAware,
        observer: Observer<'_>,
    ) -> Result<(Self, Vec<f64>), TrainError> {
        loss.check()?;
        let mut quantizer = self;
        let mut losses = Vec::with_capacity(loss.iterations);
        for pass in 0..loss.iterations {
            let codes = quantizer.unpacked_codes(compute, rows, loss)?;
            let problem = Problem::of(&quantizer, rows, loss);
            let total = problem.total_loss(&codes);
            losses.push(total / rows.rows.rows().max(1) as f64);
            let codebook = problem.best_entries(&codes);
            quantizer = Self::from_codebook(*quantizer.shape(), codebook)?;
            let (done, total_passes) = (pass as u64 + 1, loss.iterations as u64);
            let stage = "product quantizer, score-aware";
            report(observer, Progress { stage, done, total: total_passes, inertia: Some(total) })?;
        }
        Ok((quantizer, losses))
    }

    /// As [`encode`](Self::encode), by the anisotropic loss: `rows × code_size` bytes.
    pub fn encode_score_aware(
        &self,
        compute: &dyn Compute,
        rows: ScoredRows<'_>,
        loss: &ScoreAware,
    ) -> Result<Vec<u8>, TrainError> {
        loss.check()?;
        let codes = self.unpacked_codes(compute, rows, loss)?;
        Ok(self.pack(codes))
    }

    /// One byte per sub-vector.
    fn unpacked_codes(
        &self,
        compute: &dyn Compute,
        rows: ScoredRows<'_>,
        loss: &ScoreAware,
    ) -> Result<Vec<u8>, TrainError> {
        let mut codes = self.plain_codes(compute, &Rows::on_host(rows.rows), rows.residual_of)?;
        let problem = Problem::of(self, rows, loss);
        let pq_m = self.shape().pq_m;
        codes.par_chunks_mut(BLOCK_ROWS * pq_m).enumerate().for_each(|(block, codes)| {
            let (mut scratch, mut losses) = (Scratch::new(self.shape()), Losses::new(self.shape()));
            for (index, code) in codes.chunks_exact_mut(pq_m).enumerate() {
                problem.descend(block * BLOCK_ROWS + index, code, &mut scratch, &mut losses);
            }
        });
        Ok(codes)
    }
}

/// What the codes of a set of rows are judged by.
struct Problem<'a> {
    quantizer: &'a ProductQuantizer,
    rows: ScoredRows<'a>,
    /// η − 1.
    excess: f32,
}

/// Of each row the factor of errors along it, and what its code misses along it.
struct Scores {
    weights: Vec<f32>,
    totals: Vec<f32>,
}

struct Scratch {
    /// The row and what is encoded of it, padded to `pq_m · dsub`.
    row: Vec<f32>,
    target: Vec<f32>,
}

/// What each entry misses along a row, its error, and the losses of one sub-space's.
struct Losses {
    along: Vec<f32>,
    error: Vec<f32>,
    loss: Vec<f32>,
}

impl Losses {
    fn new(shape: &PqShape) -> Self {
        let (all, ksub) = (shape.pq_m * shape.ksub(), shape.ksub());
        Self { along: vec![0.0; all], error: vec![0.0; all], loss: vec![0.0; ksub] }
    }
}

impl Scratch {
    fn new(shape: &PqShape) -> Self {
        let padded = shape.pq_m * shape.dsub;
        Self { row: vec![0.0; padded], target: vec![0.0; padded] }
    }
}

impl<'a> Problem<'a> {
    fn of(quantizer: &'a ProductQuantizer, rows: ScoredRows<'a>, loss: &ScoreAware) -> Self {
        assert_eq!(rows.rows.dim(), quantizer.shape().dim);
        Self { quantizer, rows, excess: loss.ratio(quantizer.shape().dim) - 1.0 }
    }

    /// Fills `scratch` with row `index`; returns (η − 1) / |x|², 0 for a row of length 0.
    fn load(&self, index: usize, scratch: &mut Scratch) -> f32 {
        let row = self.rows.rows.row(index);
        scratch.row[..row.len()].copy_from_slice(row);
        scratch.target[..row.len()].copy_from_slice(row);
        if let Some(ResidualOf { centroids, labels }) = self.rows.residual_of {
            let centroid = centroids.row(labels[index] as usize);
            scratch.target.iter_mut().zip(centroid).for_each(|(value, &centre)| *value -= centre);
        }
        let norm = (kernels().dot)(row, row);
        if norm > 0.0 { self.excess / norm } else { 0.0 }
    }

    /// ⟨r_m, x_m⟩ of one sub-vector.
    fn along(&self, m: usize, code: u8, scratch: &Scratch) -> f32 {
        let dsub = self.quantizer.shape().dsub;
        let entry = self.entry(m, code);
        let own = m * dsub..(m + 1) * dsub;
        let parts = scratch.target[own.clone()].iter().zip(entry).zip(&scratch.row[own]);
        parts.map(|((&target, &entry), &row)| (target - entry) * row).sum()
    }

    fn entry(&self, m: usize, code: u8) -> &'a [f32] {
        let shape = self.quantizer.shape();
        let start = (m * shape.ksub() + usize::from(code)) * shape.dsub;
        &self.quantizer.codebook()[start..start + shape.dsub]
    }

    /// Lowers the loss of one row's code, one sub-vector after the other.
    fn descend(&self, index: usize, code: &mut [u8], scratch: &mut Scratch, losses: &mut Losses) {
        let weight = self.load(index, scratch);
        let scored = ScoredRow {
            row: &scratch.row,
            target: &scratch.target,
            entries: self.quantizer.all_entries_by_dimension(),
            ksub: self.quantizer.shape().ksub(),
            weight,
            sweeps: SWEEPS,
        };
        let Losses { along, error, loss } = losses;
        (kernels().descend)(scored, code, along, error, loss);
    }

    fn total_loss(&self, codes: &[u8]) -> f64 {
        let pq_m = self.quantizer.shape().pq_m;
        let blocks: Vec<f64> = codes
            .par_chunks(BLOCK_ROWS * pq_m)
            .enumerate()
            .map(|(block, codes)| {
                let mut scratch = Scratch::new(self.quantizer.shape());
                let mut sum = 0.0;
                for (index, code) in codes.chunks_exact(pq_m).enumerate() {
                    let weight = self.load(block * BLOCK_ROWS + index, &mut scratch);
                    let along: f32 = (0..pq_m).map(|m| self.along(m, code[m], &scratch)).sum();
                    let mut error = 0.0;
                    for (m, target) in scratch.target.chunks_exact(self.quantizer.shape().dsub).enumerate() {
                        let parts = target.iter().zip(self.entry(m, code[m]));
                        error += parts.map(|(y, c)| (y - c) * (y - c)).sum::<f32>();
                    }
                    sum += f64::from(error) + f64::from(weight) * f64::from(along) * f64::from(along);
                }
                sum
            })
            .collect();
        // In the order of the blocks.
        blocks.iter().sum()
    }

    /// For fixed codes the entries of least loss, sub-space by sub-space, each with what the others miss as it was: entry
    /// c solves Σ (I + w x xᵀ) c = Σ y + w x (s + ⟨y, x⟩) over its rows, where s is what other sub-vectors miss along the
    /// row. One that no row uses stays.
    fn best_entries(&self, codes: &[u8]) -> Vec<f32> {
        let shape = *self.quantizer.shape();
        let (pq_m, ksub, dsub) = (shape.pq_m, shape.ksub(), shape.dsub);
        let rows = self.rows.rows.rows();
        let mut scratch = Scratch::new(&shape);
        // What each row's code misses along it, kept up to date as sub-spaces change one after the other.
        let mut scores = Scores { weights: vec![0.0; rows], totals: vec![0.0; rows] };
        for (index, code) in codes.chunks_exact(pq_m).enumerate() {
            scores.weights[index] = self.load(index, &mut scratch);
            scores.totals[index] = (0..pq_m).map(|m| self.along(m, code[m], &scratch)).sum();
        }
        let mut codebook = self.quantizer.codebook().to_vec();
        for m in 0..pq_m {
            let mut members = vec![Vec::new(); ksub];
            for (index, code) in codes.chunks_exact(pq_m).enumerate() {
                members[usize::from(code[m])].push(index);
            }
            let own = &mut codebook[m * ksub * dsub..(m + 1) * ksub * dsub];
            own.par_chunks_exact_mut(dsub).zip(&members).filter(|(_, members)| !members.is_empty()).for_each(
                |(entry, members)| {
                    if let Some(best) = self.best_entry(m, entry, members, &scores) {
                        entry.copy_from_slice(&best);
                    }
                },
            );
            for (index, total) in scores.totals.iter_mut().enumerate() {
                let code = codes[index * pq_m + m];
                let old = self.entry(m, code);
                let new = &own[usize::from(code) * dsub..][..dsub];
                let row = self.rows.rows.row(index).get(m * dsub..).unwrap_or(&[]);
                *total +=
                    old.iter().zip(new).zip(row).map(|((old, new), row)| (old - new) * row).sum::<f32>();
            }
        }
        codebook
    }

    /// Fills `x` and `y` with sub-vector `m` of row `index` and of what is encoded of it.
    fn load_piece(&self, index: usize, m: usize, x: &mut [f32], y: &mut [f32]) {
        let piece = |row: &'a [f32]| {
            let from = (m * x.len()).min(row.len());
            &row[from..(from + x.len()).min(row.len())]
        };
        let row = piece(self.rows.rows.row(index));
        let residual_of = self.rows.residual_of.as_ref();
        let centroid =
            residual_of.map(|of| piece(of.centroids.row(of.labels[index] as usize))).unwrap_or(&[]);
        x.fill(0.0);
        x[..row.len()].copy_from_slice(row);
        y.copy_from_slice(x);
        y.iter_mut().zip(centroid).for_each(|(value, &centre)| *value -= centre);
    }

    fn best_entry(&self, m: usize, entry: &[f32], members: &[usize], scores: &Scores) -> Option<Vec<f32>> {
        let dsub = entry.len();
        let (mut x, mut y) = (vec![0.0; dsub], vec![0.0; dsub]);
        let mut matrix = vec![0.0f64; dsub * dsub];
        let mut right = vec![0.0f64; dsub];
        for &index in members {
            let weight = f64::from(scores.weights[index]);
            self.load_piece(index, m, &mut x, &mut y);
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
            };
            // s + ⟨y, x⟩: what all miss along the row, without this entry.
            let missing = f64::from(scores.totals[index]) + dot(entry, &x);
            for i in 0..dsub {
                right[i] += f64::from(y[i]) + weight * f64::from(x[i]) * missing;
                matrix[i * dsub + i] += 1.0;
                for j in 0..dsub {
                    matrix[i * dsub + j] += weight * f64::from(x[i]) * f64::from(x[j]);
                }
            }
        }
        let solved = super::linear::solve(matrix, right)?;
        Some(solved.into_iter().map(|value| value as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PqParams, unobserved};
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::vectors::{Random, VectorBuf};

    fn rows_and_quantizer(
        n: usize,
        dim: usize,
        pq_m: usize,
        pq_bits: usize,
    ) -> (VectorBuf, ProductQuantizer) {
        let mut random = Random::new((dim + pq_m) as u64);
        // Away from the origin, as residuals' rows are: along and across differ.
        let rows = VectorBuf::new((0..n * dim).map(|_| 0.5 + random.normal() as f32).collect(), dim);
        let shape = PqShape::new(dim, pq_m, pq_bits).unwrap();
        let (quantizer, _) =
            ProductQuantizer::train(&Cpu::new(), rows.view(), shape, &PqParams::new(3), &unobserved).unwrap();
        (rows, quantizer)
    }

    /// Mean of ⟨r, x⟩² / |x|², and of |r|², by definition in f64.
    fn errors(quantizer: &ProductQuantizer, rows: ScoredRows<'_>, codes: &[u8]) -> (f64, f64) {
        let mut decoded = vec![0.0; rows.rows.dim()];
        let (mut along, mut all) = (0.0, 0.0);
        for (index, (row, code)) in
            rows.rows.iter().zip(codes.chunks_exact(quantizer.shape().code_size())).enumerate()
        {
            quantizer.decode(code, &mut decoded);
            let (mut dot, mut norm) = (0.0, 0.0);
            for (d, (&x, &decoded)) in row.iter().zip(&decoded).enumerate() {
                let centre =
                    rows.residual_of.map_or(0.0, |of| of.centroids.row(of.labels[index] as usize)[d]);
                let missing = f64::from(x) - f64::from(centre) - f64::from(decoded);
                dot += missing * f64::from(x);
                norm += f64::from(x).powi(2);
                all += missing * missing;
            }
            along += dot * dot / norm;
        }
        (along / rows.rows.rows() as f64, all / rows.rows.rows() as f64)
    }

    #[test]
    fn the_error_along_the_row_falls_with_the_loss_and_the_loss_with_every_pass() {
        let centroids: Vec<f32> = (0..3 * 24).map(|i| 0.4 + 0.01 * (i % 7) as f32).collect();
        let labels: Vec<u32> = (0..2000).map(|row| row % 3).collect();
        let residual = ResidualOf { centroids: VectorView::new(&centroids, 24), labels: &labels };
        for (pq_m, pq_bits, residual_of) in
            [(12, 4, None), (12, 4, Some(residual)), (6, 8, Some(residual)), (5, 4, None)]
        {
            let dim = if pq_m == 5 { 18 } else { 24 };
            let (rows, quantizer) = rows_and_quantizer(2000, dim, pq_m, pq_bits);
            let rows = ScoredRows { rows: rows.view(), residual_of };
            let loss = ScoreAware::new(0.5);
            let ratio = f64::from(loss.ratio(dim));
            let total = |(along, all): (f64, f64)| all + (ratio - 1.0) * along;
            let uploaded = Rows::on_host(rows.rows);
            let plain = quantizer.encode(&Cpu::new(), &uploaded, residual_of).unwrap();
            let before = errors(&quantizer, rows, &plain);
            let codes = quantizer.encode_score_aware(&Cpu::new(), rows, &loss).unwrap();
            let chosen = errors(&quantizer, rows, &codes);
            assert!(
                chosen.0 < 0.7 * before.0 && total(chosen) < total(before),
                "{before:?}, then {chosen:?}"
            );

            let (refined, losses) =
                quantizer.refine_score_aware(&Cpu::new(), rows, &loss, &unobserved).unwrap();
            assert!((losses[0] - total(chosen)).abs() < 1e-3 * losses[0], "{losses:?}: {}", total(chosen));
            assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-5)), "{losses:?}");
            let codes = refined.encode_score_aware(&Cpu::new(), rows, &loss).unwrap();
            let after = errors(&refined, rows, &codes);
            assert!(after.0 < before.0 && total(after) < total(chosen), "{chosen:?}, then {after:?}");
        }
    }

    #[test]
    fn one_sub_vector_gets_the_entry_of_least_loss() {
        let (rows, quantizer) = rows_and_quantizer(400, 3, 1, 4);
        let scored = ScoredRows { rows: rows.view(), residual_of: None };
        let loss = ScoreAware::new(0.9);
        let codes = quantizer.encode_score_aware(&Cpu::new(), scored, &loss).unwrap();
        for (row, &code) in rows.view().iter().zip(&codes) {
            let of = |entry: usize| {
                let entry = &quantizer.codebook()[entry * 3..][..3];
                let missing: Vec<f64> = row.iter().zip(entry).map(|(x, c)| f64::from(x - c)).collect();
                let along: f64 = missing.iter().zip(row).map(|(r, &x)| r * f64::from(x)).sum();
                let norm: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
                let all: f64 = missing.iter().map(|r| r * r).sum();
                all + f64::from(loss.ratio(3) - 1.0) * along * along / norm
            };
            let least = (0..16).map(of).fold(f64::INFINITY, f64::min);
            assert!(of(usize::from(code)) <= least * (1.0 + 1e-4) + 1e-6);
        }
    }

    #[test]
    fn a_threshold_of_nothing_changes_no_code() {
        let (rows, quantizer) = rows_and_quantizer(500, 10, 5, 4);
        let scored = ScoredRows { rows: rows.view(), residual_of: None };
        let aware = quantizer.encode_score_aware(&Cpu::new(), scored, &ScoreAware::new(0.0)).unwrap();
        assert_eq!(aware, quantizer.encode(&Cpu::new(), &Rows::on_host(rows.view()), None).unwrap());
    }

    #[test]
    fn rows_of_length_zero_and_bad_parameters_are_handled() {
        let (_, quantizer) = rows_and_quantizer(300, 8, 4, 4);
        let zero = [0.0f32; 16];
        let scored = ScoredRows { rows: VectorView::new(&zero, 8), residual_of: None };
        let codes = quantizer.encode_score_aware(&Cpu::new(), scored, &ScoreAware::new(0.2)).unwrap();
        assert_eq!(codes.len(), 2 * 2);
        for threshold in [1.0, -0.1, f32::NAN] {
            let error =
                quantizer.encode_score_aware(&Cpu::new(), scored, &ScoreAware::new(threshold)).unwrap_err();
            assert!(error.to_string().contains("`threshold`"), "{error}");
        }
        let none = ScoreAware { iterations: 0, ..ScoreAware::new(0.2) };
        assert!(quantizer.refine_score_aware(&Cpu::new(), scored, &none, &unobserved).is_err());
    }
}
