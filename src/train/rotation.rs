//! A learned rotation before the product quantizer (OPQ: Ge, He, Ke, Sun 2013, the non-parametric form): of all ways to
//! turn the space, one in which sub-vectors are independent of each other and share the variance, so that a code of
//! the same size misses less.
//!
//! Alternates: with the rotation fixed a pass of Lloyd; with the codes fixed the rotation that brings rows nearest to what
//! their codes stand for, an orthogonal Procrustes problem. Neither step raises the error.
//!
//! Distances and products are the same before and after, so rows, centroids and queries are rotated alike, once, and
//! all else stays as it is.

use rayon::prelude::*;

use super::linear::nearest_orthogonal;
use super::pq::{PqParams, PqShape, PqTraining, ProductQuantizer, Run, Sample};
use super::{Observer, Progress, TrainError, check_magnitude, report};
use crate::compute::Compute;
use crate::compute::cpu::kernels;
use crate::vectors::{Random, VectorBuf, VectorView};

/// Rows that the rotation is learned from, per dimension and per codebook entry: its d² numbers need more rows than d,
/// the codebook of each pass about as many as a part of the sample has.
const ROWS_PER_DIMENSION: usize = 32;
const ROWS_PER_ENTRY: usize = 32;

/// Lloyd passes before the first rotation: codes of untrained entries would turn the space towards the seeds.
const OPENING_PASSES: usize = 4;

/// How much the last rotation pulls, relative to the data: decides where the data says nothing, as in dimensions that are
/// always 0.
const PULL: f64 = 1e-9;

/// Rows summed in f32 before the sum is carried on in f64.
const PIECE_ROWS: usize = 512;

/// An orthogonal matrix, `dim × dim`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    dim: usize,
    /// Row-major: value `i` of a rotated vector is the product of row `i` with the vector.
    matrix: Vec<f32>,
}

impl Rotation {
    pub fn identity(dim: usize) -> Self {
        let mut matrix = vec![0.0; dim * dim];
        (0..dim).for_each(|i| matrix[i * dim + i] = 1.0);
        Self { dim, matrix }
    }

    /// From `dim × dim` values, which must be orthogonal to 1e-3: rows of length 1 at right angles.
    pub fn from_matrix(dim: usize, matrix: Vec<f32>) -> Result<Self, TrainError> {
        let refused = |expected: &str, got: String| {
            Err(TrainError::Parameter { name: "rotation", expected: expected.into(), got })
        };
        if dim == 0 || Some(matrix.len()) != dim.checked_mul(dim) {
            return refused("dim × dim values", format!("{} for {dim} dimensions", matrix.len()));
        }
        if let Some(value) = matrix.iter().find(|value| !value.is_finite()) {
            return refused("an orthogonal matrix", format!("one that holds {value}"));
        }
        let rows = VectorView::new(&matrix, dim);
        let worst = (0..dim).into_par_iter().map_init(
            || vec![0.0f32; dim],
            |products, i| {
                let products = &mut products[..=i];
                (kernels().dot_rows)(rows.row(i), &matrix[..(i + 1) * dim], products);
                products[i] -= 1.0;
                // Not `f32::max`, to which a product that overflowed to NaN would be nothing.
                products
                    .iter()
                    .fold(0.0, |worst, error| if error.abs() <= worst { worst } else { error.abs() })
            },
        );
        let worst = worst.reduce(|| 0.0f32, |a, b| if a <= b { b } else { a });
        // NaN as well.
        if worst.is_nan() || worst > 1e-3 {
            return refused("an orthogonal matrix", format!("one that is off by {worst:e}"));
        }
        Ok(Self { dim, matrix })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `dim × dim`, row-major.
    pub fn matrix(&self) -> &[f32] {
        &self.matrix
    }

    /// `rotated` = R · `row`.
    pub fn rotate(&self, row: &[f32], rotated: &mut [f32]) {
        (kernels().dot_rows)(row, &self.matrix, rotated);
    }

    /// `row` = Rᵀ · `rotated`: what [`rotate`](Self::rotate) has rotated, to rounding.
    pub fn rotate_back(&self, rotated: &[f32], row: &mut [f32]) {
        assert_eq!((rotated.len(), row.len()), (self.dim, self.dim));
        row.fill(0.0);
        for (&value, axis) in rotated.iter().zip(self.matrix.chunks_exact(self.dim)) {
            row.iter_mut().zip(axis).for_each(|(sum, &part)| *sum += value * part);
        }
    }

    /// Every row, rotated.
    pub fn rotate_rows(&self, rows: VectorView<'_>) -> VectorBuf {
        assert_eq!(rows.dim(), self.dim);
        let mut rotated = VectorBuf::zeroed(rows.rows(), self.dim);
        let dim = self.dim;
        rotated
            .as_mut_slice()
            .par_chunks_exact_mut(dim)
            .zip(rows.as_slice().par_chunks_exact(dim))
            .for_each(|(rotated, row)| self.rotate(row, rotated));
        rotated
    }
}

/// Trains a rotation and the product quantizer of rotated rows: `passes` steps of each on a part of the rows, then
/// [`ProductQuantizer::train`] on `rows` rotated.
pub fn train_rotated(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    shape: PqShape,
    params: &PqParams,
    passes: usize,
    observer: Observer<'_>,
) -> Result<(Rotation, ProductQuantizer, PqTraining), TrainError> {
    assert_eq!(rows.dim(), shape.dim);
    check_magnitude(rows)?;
    let rotation = learn(compute, rows, shape, params, passes, observer)?;
    let rotated = rotation.rotate_rows(rows);
    let (quantizer, training) = ProductQuantizer::train(compute, rotated.view(), shape, params, observer)?;
    Ok((rotation, quantizer, training))
}

fn learn(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    shape: PqShape,
    params: &PqParams,
    passes: usize,
    observer: Observer<'_>,
) -> Result<Rotation, TrainError> {
    let mut rotation = Rotation::identity(shape.dim);
    let wanted = (ROWS_PER_DIMENSION * shape.dim).max(ROWS_PER_ENTRY * shape.ksub());
    let gathered = rows.gather(&Random::of(params.seed, 1).sample(rows.rows(), wanted.min(rows.rows())));
    if gathered.rows() <= shape.ksub() {
        // Every row would be an entry, whatever the rotation.
        return Ok(rotation);
    }
    // Its own progress is reported, not that of the passes within it.
    let run = Run { compute, params, observer: &super::unobserved };
    let mut training = PqTraining { inertia: vec![], rows: gathered.rows(), moved: 0, warnings: vec![] };
    let mut codebook = Sample::of(gathered.view(), shape).seeds(params.seed);
    for pass in 0..passes {
        let rotated = rotation.rotate_rows(gathered.view());
        let sample = Sample::of(rotated.view(), shape);
        let lloyd_passes = if pass == 0 { OPENING_PASSES } else { 1 };
        sample.lloyd(run, lloyd_passes, gathered.rows(), &mut codebook, &mut training)?;
        let quantizer = ProductQuantizer::from_codebook(shape, codebook.clone())?;
        let codes = quantizer.encode(compute, &compute.upload(rotated.view())?, None)?;
        let mut decoded = VectorBuf::zeroed(gathered.rows(), shape.dim);
        let code_size = shape.code_size();
        decoded
            .as_mut_slice()
            .par_chunks_exact_mut(shape.dim)
            .zip(codes.par_chunks_exact(code_size))
            .for_each(|(row, code)| quantizer.decode(code, row));
        let mut towards = outer_products(decoded.view(), gathered.view());
        let size = towards.iter().map(|value| value * value).sum::<f64>().sqrt();
        if size == 0.0 {
            break;
        }
        towards.iter_mut().zip(&rotation.matrix).for_each(|(t, &r)| *t += PULL * size * f64::from(r));
        // Singular to rounding: nothing tells one rotation from another, the last one stays.
        let Some(next) = nearest_orthogonal(&towards, shape.dim) else { break };
        rotation.matrix = next.into_iter().map(|value| value as f32).collect();
        let inertia = training.inertia.last().copied();
        let (done, total) = (pass as u64 + 1, passes as u64);
        report(observer, Progress { stage: "rotation", done, total, inertia })?;
    }
    Ok(rotation)
}

/// Σ a bᵀ over the rows, `dim × dim`.
fn outer_products(a: VectorView<'_>, b: VectorView<'_>) -> Vec<f64> {
    let dim = a.dim();
    let mut sums = vec![0.0f64; dim * dim];
    for start in (0..a.rows()).step_by(PIECE_ROWS) {
        let end = (start + PIECE_ROWS).min(a.rows());
        let (a, b) = (transposed(a.slice(start, end)), transposed(b.slice(start, end)));
        sums.par_chunks_exact_mut(dim).zip(a.as_slice().par_chunks_exact(end - start)).for_each_init(
            || vec![0.0f32; dim],
            |products, (sums, column)| {
                (kernels().dot_rows)(column, b.as_slice(), products);
                sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += f64::from(*product));
            },
        );
    }
    sums
}

fn transposed(rows: VectorView<'_>) -> Vec<f32> {
    let count = rows.rows();
    let mut columns = vec![0.0; rows.as_slice().len()];
    for (index, row) in rows.iter().enumerate() {
        row.iter().enumerate().for_each(|(d, &value)| columns[d * count + index] = value);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::super::unobserved;
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::vectors::Metric;

    /// Dimension i and i + dim / 2 are nearly the same, and variances differ 100-fold: what plain cutting handles worst.
    fn correlated(n: usize, dim: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        let mut rows = VectorBuf::new(Vec::new(), dim);
        for _ in 0..n {
            let half: Vec<f64> = (0..dim / 2).map(|d| random.normal() * 0.8f64.powi(d as i32)).collect();
            rows.push(
                &(0..dim).map(|d| (half[d % (dim / 2)] + 0.05 * random.normal()) as f32).collect::<Vec<_>>(),
            );
        }
        rows
    }

    fn error_of(quantizer: &ProductQuantizer, rows: VectorView<'_>) -> f64 {
        let uploaded = Cpu::new().upload(rows).unwrap();
        let codes = quantizer.encode(&Cpu::new(), &uploaded, None).unwrap();
        let mut decoded = vec![0.0; rows.dim()];
        let of = |(row, code): (&[f32], &[u8])| {
            quantizer.decode(code, &mut decoded);
            Metric::L2.distance(row, &decoded)
        };
        rows.iter().zip(codes.chunks_exact(quantizer.shape().code_size())).map(of).sum()
    }

    fn both(rows: &VectorBuf, shape: PqShape) -> (f64, f64, Rotation) {
        let (cpu, params) = (Cpu::new(), PqParams::new(5));
        let (plain, _) = ProductQuantizer::train(&cpu, rows.view(), shape, &params, &unobserved).unwrap();
        let (rotation, rotated, _) =
            train_rotated(&cpu, rows.view(), shape, &params, 10, &unobserved).unwrap();
        let turned = rotation.rotate_rows(rows.view());
        (error_of(&plain, rows.view()), error_of(&rotated, turned.view()), rotation)
    }

    #[test]
    fn a_learned_rotation_lowers_the_error_where_dimensions_depend_on_each_other() {
        let rows = correlated(3000, 16, 1);
        // Sub-vectors of 2 dimensions have little room to share variance: from the identity the descent ends nearby.
        for (pq_m, pq_bits, part) in [(4, 4, 0.8), (8, 4, 1.0), (4, 8, 1.0)] {
            let (plain, rotated, _) = both(&rows, PqShape::new(16, pq_m, pq_bits).unwrap());
            assert!(rotated < part * plain, "pq_m {pq_m}, {pq_bits} bits: {rotated} against {plain}");
        }
    }

    #[test]
    fn a_learned_rotation_costs_nothing_where_there_is_nothing_to_learn() {
        let mut random = Random::new(2);
        let rows = VectorBuf::new((0..4000 * 12).map(|_| random.normal() as f32).collect(), 12);
        let (plain, rotated, _) = both(&rows, PqShape::new(12, 6, 4).unwrap());
        assert!(rotated < 1.01 * plain, "{rotated} against {plain}");
    }

    #[test]
    fn a_rotation_keeps_lengths_and_products() {
        // Also of rows that lie in a subspace, and of sub-vectors that overhang the rows.
        let mut flat = correlated(700, 10, 3);
        flat.as_mut_slice().chunks_exact_mut(10).for_each(|row| row[4..9].fill(0.0));
        for rows in [correlated(700, 10, 4), flat] {
            let (_, _, rotation) = both(&rows, PqShape::new(10, 3, 4).unwrap());
            let again = Rotation::from_matrix(10, rotation.matrix().to_vec()).unwrap();
            let turned = again.rotate_rows(rows.view());
            let mut back = vec![0.0; 10];
            again.rotate_back(turned.row(5), &mut back);
            assert!(back.iter().zip(rows.row(5)).all(|(a, b)| (a - b).abs() < 1e-5), "{back:?}");
            for i in 1..700 {
                let before = Metric::L2.distance(rows.row(i), rows.row(i - 1));
                let after = Metric::L2.distance(turned.row(i), turned.row(i - 1));
                assert!((before - after).abs() <= 1e-5 * (1.0 + before), "{before}, {after}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_rotation() {
        let rows = correlated(1200, 12, 7);
        let shape = PqShape::new(12, 3, 4).unwrap();
        let run =
            || train_rotated(&Cpu::new(), rows.view(), shape, &PqParams::new(1), 5, &unobserved).unwrap().0;
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool(1).install(run), pool(3).install(run));
    }

    #[test]
    fn what_is_no_rotation_is_refused() {
        let error = |dim, matrix: Vec<f32>| Rotation::from_matrix(dim, matrix).unwrap_err().to_string();
        assert!(error(2, vec![1.0; 3]).contains("3 for 2 dimensions"));
        assert!(error(0, vec![]).contains("dim × dim"));
        assert!(error(2, vec![1.0, 0.0, 0.1, 1.0]).contains("orthogonal"));
        assert!(error(2, vec![1.0, 0.0, 0.0, f32::NAN]).contains("orthogonal"));
        // Products that are infinite, and not a number.
        assert!(error(2, vec![3e38, 3e38, 3e38, -3e38]).contains("orthogonal"));
        assert!(Rotation::from_matrix(2, vec![0.0, -1.0, 1.0, 0.0]).is_ok());
        assert_eq!(
            Rotation::identity(3).rotate_rows(VectorView::new(&[1.0, 2.0, 3.0], 3)).row(0),
            [1.0, 2.0, 3.0]
        );
    }
}
