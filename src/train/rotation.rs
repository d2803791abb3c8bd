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
        let rows = VectorView::new(&matrix, dim);
        let worst = (0..dim).into_par_iter().map(|i| {
            let dot = |j: usize| rows.row(i).iter().zip(rows.row(j)).map(|(&a, &b)| f64::from(a) * f64::from(b));
            let error = |j: usize| (dot(j).sum::<f64>() - f64::from(u8::from(i == j))).abs();
            (0..=i).map(error).fold(0.0, |worst: f64, error| if error <= worst { worst } else { error })
        });
        let worst = worst.reduce(|| 0.0, |a, b| if a >= b { a } else { b });
        // NaN is no orthogonal matrix either.
        if !(worst <= 1e-3) {
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

    /// Every row, rotated.
    pub fn rotate_rows(&self, rows: VectorView<'_>) -> VectorBuf {
        assert_eq!(rows.dim(), self.dim);
        let mut rotated = VectorBuf::zeroed(rows.rows(), self.dim);
        let dim = self.dim;
        rotated.as_mut_slice().par_chunks_exact_mut(dim).zip(rows.as_slice().par_chunks_exact(dim)).for_each(
            |(rotated, row)| self.rotate(row, rotated),
        );
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
        decoded.as_mut_slice().par_chunks_exact_mut(shape.dim).zip(codes.par_chunks_exact(code_size)).for_each(
            |(row, code)| quantizer.decode(code, row),
        );
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
