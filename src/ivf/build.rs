//! Rows become an index: centroids, codebooks, then every row's list and code.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;

use super::codes::{Blocks, Codes};
use super::params::{IvfPqParams, Loss, Rotate};
use super::{IvfPq, Parts};
use crate::artifact::Array;
use crate::artifact::spill::array_in_file;
use crate::compute::{Compute, ComputeError, ResidualOf, Rows};
use crate::index::{KeepError, KeptVectors};
use crate::train::{
    self, Kmeans, KmeansParams, Observer, PqParams, PqShape, PqTraining, ProductQuantizer, Progress,
    Rotation, ScoreAware, ScoredRows, TrainError, Warning, check_magnitude, checked_labels,
};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{rows} rows: expected 1 to 4294967294")]
    Rows { rows: usize },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("refine: {0}")]
    Keep(#[from] KeepError),
    #[error("a file for the rows that are trained on")]
    File(#[from] io::Error),
}

impl From<ComputeError> for BuildError {
    fn from(error: ComputeError) -> Self {
        TrainError::from(error).into()
    }
}

/// How a build went, for the manifest.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BuildReport {
    /// Per pass over the k-means sample, the sum of squared distances to the centroids that entered it.
    pub kmeans_inertia: Vec<f64>,
    pub kmeans_rows: usize,
    /// Per pass over the quantizer's sample, the sum of squared errors of the codebooks that entered it.
    pub pq_inertia: Vec<f64>,
    pub pq_rows: usize,
    pub longest_list: usize,
    pub empty_lists: usize,
    pub warnings: Vec<Warning>,
}

/// An index and where its rows came from.
#[derive(Debug)]
pub struct Built {
    pub index: IvfPq,
    /// `order[ordinal]` is the source row of an ordinal.
    pub order: Vec<u32>,
    pub report: BuildReport,
}

/// Rows that are assigned and encoded between two reports to the observer.
const BLOCK_ROWS: usize = 1 << 16;

/// A list this many times the mean is warned of: k-means bounds its clusters to 8 times the mean of its sample.
const LONG_LIST: usize = 16;

/// Builds an index over `rows` (for cosine, of unit length). The same rows, parameters, seed and backend give the
/// same bytes at any number of threads.
pub fn build(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    metric: Metric,
    params: &IvfPqParams,
    seed: u64,
    observer: Observer<'_>,
) -> Result<Built, BuildError> {
    build_spilling(None, compute, rows, metric, params, seed, observer)
}

/// [`build`] of rows that memory has no room for, nor for what is kept of them: with a folder, both that and the sample that
/// centroids are trained on go to files in it. What is left in memory is the sample in bytes, and of each row its list, its place and
/// twice its code. The index is the same.
///
/// # Errors
/// As [`build`], and what the folder's file system says.
pub fn build_spilling(
    folder: Option<&Path>,
    compute: &dyn Compute,
    rows: VectorView<'_>,
    metric: Metric,
    params: &IvfPqParams,
    seed: u64,
    observer: Observer<'_>,
) -> Result<Built, BuildError> {
    // u32::MAX itself marks "no row" in results.
    if rows.is_empty() || rows.rows() >= u32::MAX as usize {
        return Err(BuildError::Rows { rows: rows.rows() });
    }
    let shape = params.check(rows.dim(), Some(rows.rows()))?;
    let loss = score_loss(params.loss, metric)?;
    check_magnitude(rows)?;
    if let Some(precision) = params.refine.precision() {
        KeptVectors::check(rows, precision)?;
    }
    let mut kmeans_params = KmeansParams::new(params.nlist, Random::of(seed, 1).next_u64());
    kmeans_params.iterations = params.kmeans_iterations;
    let kmeans = match folder.zip(train::sample(rows.rows(), &kmeans_params)) {
        Some((folder, chosen)) => {
            let sample = gathered_in(folder, rows, &chosen)?;
            let sample = VectorView::new(&sample, rows.dim());
            train::train(compute, sample, &kmeans_params, observer)?
        }
        None => train::train(compute, rows, &kmeans_params, observer)?,
    };
    let centroids = kmeans.centroids.view();
    let pq_seed = Random::of(seed, 2).next_u64();
    let (coder, pq_training) =
        Coder::train(compute, rows, centroids, shape, params.rotation, loss, pq_seed, observer)?;
    let encoded = encode(compute, rows, centroids, &coder, observer)?;
    let lists = Lists::of(&encoded.labels, params.nlist);
    let kept = match params.refine.precision() {
        Some(precision) => Some(match folder {
            Some(folder) => KeptVectors::gather_in(folder, rows, &lists.order, precision)?,
            None => KeptVectors::gather(rows, &lists.order, precision)?,
        }),
        None => None,
    };
    let report = lists.report(&kmeans, pq_training);
    let Coder { rotation, centroids: code_centroids, quantizer, .. } = coder;
    let codes = lists.codes(&encoded.codes, &quantizer, code_centroids.view(), metric);
    let index = IvfPq::from(Parts {
        metric,
        dim: rows.dim(),
        centroids: kmeans.centroids.into_vec().into(),
        list_offsets: lists.offsets.into(),
        quantizer,
        codes,
        ranged: None,
        kept,
        rotation,
    });
    Ok(Built { index, order: lists.order, report })
}

/// Builds an index over `rows` with what `like` has learned: its centroids, its codebooks, its rotation, and vectors kept as
/// it keeps them. Nothing is trained, so that a row costs an assignment and a code.
///
/// # Errors
/// As [`build`], but for parameters.
pub fn build_like(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    like: &IvfPq,
    loss: Loss,
    observer: Observer<'_>,
) -> Result<Like, BuildError> {
    if rows.is_empty() || rows.rows() >= u32::MAX as usize {
        return Err(BuildError::Rows { rows: rows.rows() });
    }
    check_magnitude(rows)?;
    let precision = like.kept().map(KeptVectors::precision);
    if let Some(precision) = precision {
        KeptVectors::check(rows, precision)?;
    }
    let code_centroids = match &like.turned {
        Some(turned) => turned.centroids.view(),
        None => like.centroids(),
    };
    let coder = Coder {
        rotation: like.rotation().cloned(),
        centroids: VectorBuf::from(code_centroids),
        quantizer: like.quantizer.clone(),
        loss: score_loss(loss, like.metric)?,
    };
    let encoded = encode(compute, rows, like.centroids(), &coder, observer)?;
    let lists = Lists::of(&encoded.labels, like.nlist());
    let kept = match precision {
        Some(precision) => Some(KeptVectors::gather(rows, &lists.order, precision)?),
        None => None,
    };
    let codes = lists.codes(&encoded.codes, &coder.quantizer, code_centroids, like.metric);
    let index = like.with_rows(lists.offsets.into(), codes, kept);
    Ok(Like { index, order: lists.order, inertia: encoded.inertia })
}

/// An index made with what another has learned.
#[derive(Debug)]
pub struct Like {
    pub index: IvfPq,
    /// `order[ordinal]` is the source row of an ordinal.
    pub order: Vec<u32>,
    /// The sum of the rows' squared distances to their centroids.
    pub inertia: f64,
}

/// The rows named, in a file.
fn gathered_in(folder: &Path, rows: VectorView<'_>, chosen: &[u32]) -> Result<Array<f32>, BuildError> {
    let dim = rows.dim();
    array_in_file(folder, chosen.len() * dim, |values| {
        for (values, &row) in values.chunks_exact_mut(dim).zip(chosen) {
            values.copy_from_slice(rows.row(row as usize));
        }
        Ok(())
    })
}

/// Steps of the rotation's training.
const ROTATIONS: usize = 8;

/// Rows, per entry of a codebook, that its entries are moved to score-aware ones by.
const SCORED_ROWS_PER_ENTRY: usize = 1024;

/// The cosine from which on a query's score counts, as ScaNN has it.
const SCORE_THRESHOLD: f32 = 0.2;

fn score_loss(loss: Loss, metric: Metric) -> Result<Option<ScoreAware>, TrainError> {
    match (loss, metric) {
        (_, Metric::L1 | Metric::Hamming) => {
            let expected = "l2, inner_product or cosine: others are for flat indexes".into();
            Err(TrainError::Parameter { name: "metric", expected, got: metric.to_string() })
        }
        (Loss::Squared, _) | (Loss::Auto, Metric::L2 | Metric::InnerProduct) => Ok(None),
        (Loss::ScoreAware, Metric::L2) => {
            let expected = "auto or squared for l2".into();
            Err(TrainError::Parameter { name: "loss", expected, got: "score_aware".into() })
        }
        (Loss::ScoreAware, _) | (Loss::Auto, Metric::Cosine) => Ok(Some(ScoreAware::new(SCORE_THRESHOLD))),
    }
}

/// How rows become codes: residuals, rotated or not, through the quantizer.
struct Coder {
    rotation: Option<Rotation>,
    /// In the space of the codes.
    centroids: VectorBuf,
    quantizer: ProductQuantizer,
    loss: Option<ScoreAware>,
}

impl Coder {
    /// Trains on the residuals of a sample.
    #[allow(clippy::too_many_arguments, reason = "what a build is made of, passed once")]
    fn train(
        compute: &dyn Compute,
        rows: VectorView<'_>,
        centroids: VectorView<'_>,
        shape: PqShape,
        rotate: Rotate,
        loss: Option<ScoreAware>,
        seed: u64,
        observer: Observer<'_>,
    ) -> Result<(Self, PqTraining), BuildError> {
        let params = PqParams::new(seed);
        let count = params.sample_rows(&shape).min(rows.rows());
        // Apart from the draw that the quantizer would make of more rows.
        let chosen = Random::of(seed, u64::MAX).sample(rows.rows(), count);
        let sample = rows.gather(&chosen);
        let labels = checked_labels(
            &compute.assign(&compute.upload(sample.view())?, centroids, Metric::L2)?,
            centroids.rows(),
        )?;
        let residuals = residuals(sample.view(), centroids, &labels);
        let (rotation, quantizer, training) = match rotate {
            Rotate::None => {
                let (quantizer, training) =
                    ProductQuantizer::train(compute, residuals.view(), shape, &params, observer)?;
                (None, quantizer, training)
            }
            Rotate::Opq => {
                let (rotation, quantizer, training) =
                    train::train_rotated(compute, residuals.view(), shape, &params, ROTATIONS, observer)?;
                (Some(rotation), quantizer, training)
            }
        };
        let centroids = match &rotation {
            Some(rotation) => rotation.rotate_rows(centroids),
            None => VectorBuf::new(centroids.as_slice().to_vec(), centroids.dim()),
        };
        let mut coder = Self { rotation, centroids, quantizer, loss };
        if let Some(loss) = loss {
            let count = (SCORED_ROWS_PER_ENTRY * shape.ksub()).min(sample.rows());
            let sample = coder.turned(sample.view().slice(0, count));
            let residual_of =
                Some(ResidualOf { centroids: coder.centroids.view(), labels: &labels[..count] });
            let scored = ScoredRows { rows: sample.view(), residual_of };
            (coder.quantizer, _) =
                coder.quantizer.clone().refine_score_aware(compute, scored, &loss, observer)?;
        }
        Ok((coder, training))
    }

    /// Rows in the space of the codes.
    fn turned<'a>(&self, rows: VectorView<'a>) -> Turned<'a> {
        match &self.rotation {
            Some(rotation) => Turned::Rotated(rotation.rotate_rows(rows)),
            None => Turned::Given(rows),
        }
    }

    /// The codes of a block of rows, which `uploaded` shows to the backend.
    fn encode(
        &self,
        compute: &dyn Compute,
        rows: VectorView<'_>,
        uploaded: &Rows<'_>,
        labels: &[u32],
    ) -> Result<Vec<u8>, TrainError> {
        let residual_of = Some(ResidualOf { centroids: self.centroids.view(), labels });
        let turned = self.turned(rows);
        match (&self.loss, &turned) {
            (Some(loss), turned) => {
                let scored = ScoredRows { rows: turned.view(), residual_of };
                self.quantizer.encode_score_aware(compute, scored, loss)
            }
            (None, Turned::Given(_)) => self.quantizer.encode(compute, uploaded, residual_of),
            (None, Turned::Rotated(rotated)) => {
                self.quantizer.encode(compute, &compute.upload(rotated.view())?, residual_of)
            }
        }
    }
}

/// Rows in the space of the codes.
enum Turned<'a> {
    Given(VectorView<'a>),
    Rotated(VectorBuf),
}

impl Turned<'_> {
    fn view(&self) -> VectorView<'_> {
        match self {
            Turned::Given(rows) => *rows,
            Turned::Rotated(rows) => rows.view(),
        }
    }
}

fn residuals(rows: VectorView<'_>, centroids: VectorView<'_>, labels: &[u32]) -> VectorBuf {
    let mut residuals = VectorBuf::new(rows.as_slice().to_vec(), rows.dim());
    residuals.as_mut_slice().par_chunks_mut(rows.dim()).with_min_len(1024).zip(labels).for_each(
        |(row, &label)| {
            row.iter_mut().zip(centroids.row(label as usize)).for_each(|(value, &centre)| *value -= centre);
        },
    );
    residuals
}

/// List and code of each row, in the order of the source.
struct Encoded {
    labels: Vec<u32>,
    codes: Vec<u8>,
    /// The sum of the rows' squared distances to their centroids.
    inertia: f64,
}

/// Rows are read once: a block is shown to the backend, assigned and encoded before the next.
fn encode(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    centroids: VectorView<'_>,
    coder: &Coder,
    observer: Observer<'_>,
) -> Result<Encoded, BuildError> {
    let mut encoded = Encoded {
        labels: Vec::with_capacity(rows.rows()),
        codes: Vec::with_capacity(rows.rows() * coder.quantizer.shape().code_size()),
        inertia: 0.0,
    };
    for start in (0..rows.rows()).step_by(BLOCK_ROWS) {
        let end = (start + BLOCK_ROWS).min(rows.rows());
        let block = rows.slice(start, end);
        let uploaded = compute.upload(block)?;
        let nearest = compute.assign(&uploaded, centroids, Metric::L2)?;
        let labels = checked_labels(&nearest, centroids.rows())?;
        encoded.inertia += nearest.iter().map(|nearest| f64::from(nearest.distance)).sum::<f64>();
        encoded.codes.extend(coder.encode(compute, block, &uploaded, &labels)?);
        encoded.labels.extend(labels);
        let progress =
            Progress { stage: "encode", done: end as u64, total: rows.rows() as u64, inertia: None };
        if let ControlFlow::Break(()) = observer(progress) {
            return Err(TrainError::Cancelled.into());
        }
    }
    Ok(encoded)
}

/// Which rows each list holds.
pub(super) struct Lists {
    pub offsets: Vec<u64>,
    /// Source rows, list by list, ascending within a list.
    pub order: Vec<u32>,
}

impl Lists {
    fn of(labels: &[u32], nlist: usize) -> Self {
        let mut offsets = vec![0u64; nlist + 1];
        labels.iter().for_each(|&label| offsets[label as usize + 1] += 1);
        (0..nlist).for_each(|list| offsets[list + 1] += offsets[list]);
        let mut next = offsets.clone();
        let mut order = vec![0u32; labels.len()];
        for (row, &label) in labels.iter().enumerate() {
            order[next[label as usize] as usize] = row as u32;
            next[label as usize] += 1;
        }
        Self { offsets, order }
    }

    /// `codes`, which are in the order of the source, as the lists hold them.
    pub fn codes(
        &self,
        codes: &[u8],
        quantizer: &ProductQuantizer,
        centroids: VectorView<'_>,
        metric: Metric,
    ) -> Codes {
        let code_size = quantizer.shape().code_size();
        if quantizer.shape().pq_bits == 4 {
            return Codes::Blocks(Blocks::gather(codes, code_size, &self.order, &self.offsets));
        }
        let bytes = gather_codes(codes, code_size, &self.order);
        let terms = (metric == Metric::L2).then(|| {
            let list = |list: usize| self.offsets[list] as usize..self.offsets[list + 1] as usize;
            let terms: Vec<f32> = (0..centroids.rows())
                .into_par_iter()
                .flat_map_iter(|own| list(own).map(move |row| (own, row)))
                .map(|(list, row)| {
                    let code = &bytes[row * code_size..(row + 1) * code_size];
                    residual_term(quantizer, centroids.row(list), code)
                })
                .collect();
            terms.into()
        });
        Codes::Rows { bytes: bytes.into(), terms }
    }

    fn report(&self, kmeans: &Kmeans, pq: PqTraining) -> BuildReport {
        let sizes = || self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        let longest_list = sizes().max().unwrap_or(0);
        let nlist = self.offsets.len() - 1;
        let mean = self.order.len().div_ceil(nlist);
        let mut warnings = kmeans.warnings.clone();
        warnings.extend(pq.warnings);
        if longest_list > LONG_LIST * mean {
            warnings.push(Warning::LongestList { rows: longest_list, mean });
        }
        BuildReport {
            kmeans_inertia: kmeans.inertia.clone(),
            kmeans_rows: kmeans.rows,
            pq_inertia: pq.inertia,
            pq_rows: pq.rows,
            longest_list,
            empty_lists: sizes().filter(|&size| size == 0).count(),
            warnings,
        }
    }
}

fn gather_codes(codes: &[u8], code_size: usize, order: &[u32]) -> Vec<u8> {
    let mut gathered = vec![0u8; codes.len()];
    gathered.par_chunks_exact_mut(code_size).with_min_len(4096).zip(order).for_each(|(code, &row)| {
        code.copy_from_slice(&codes[row as usize * code_size..(row as usize + 1) * code_size]);
    });
    gathered
}

/// |r̂|² + 2⟨c, r̂⟩, summed in f64 over the dimensions in order.
fn residual_term(quantizer: &ProductQuantizer, centroid: &[f32], code: &[u8]) -> f32 {
    let mut sum = 0.0f64;
    for (m, centre) in centroid.chunks(quantizer.shape().dsub).enumerate() {
        for (&value, &centre) in quantizer.entry(code, m).iter().zip(centre) {
            sum += f64::from(value) * (f64::from(value) + 2.0 * f64::from(centre));
        }
    }
    sum as f32
}
