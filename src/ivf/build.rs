//! Rows become an index: centroids, codebooks, then every row's list and code.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;

use super::assignment::Assigner;
use super::coder::{Coder, Workbench};
use super::codes::{Blocks, Codes};
use super::params::{Code, IvfPqParams, Loss, Refine, Spilling, check_spilled_rows};
use super::quantizer::Quantizer;
use super::spill::{Spill, second_lists};
use super::{IvfPq, Parts};
use crate::artifact::Array;
use crate::artifact::spill::array_in_file;
use crate::compute::{Compute, ComputeError};
use crate::index::{KeepError, KeptVectors};
use crate::train::{
    self, Kmeans, KmeansParams, Observer, PqTraining, ProductQuantizer, Progress, ScoreAware, TrainError,
    Warning, check_magnitude,
};
use crate::vectors::{Metric, Random, VectorBuf, VectorView, far_mean, remoteness, subtract, taken_from};

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
    /// Per pass over the quantizer's sample, the sum of squared errors of the codebooks that entered it; none of codes that need
    /// no codebooks.
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

/// The rows' squared distance from the origin over that from each other from which on f16 rounds away more than a thousandth of the latter.
const ROUNDED: f64 = 16384.0;

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
/// twice its code; of rows in second lists, the same once more. The index is the same.
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
    params.check(rows.dim(), Some(rows.rows()))?;
    let loss = score_loss(params, metric)?;
    check_magnitude(rows)?;
    if let Some(precision) = params.refine.precision() {
        KeptVectors::check(rows, precision)?;
    }
    let bench = Workbench { compute, observer };
    let mut kmeans_params = KmeansParams::new(params.nlist, Random::of(seed, 1).next_u64());
    kmeans_params.iterations = params.kmeans_iterations;
    let kmeans = train_lists(bench, folder, rows, &kmeans_params)?;
    let centroids = kmeans.centroids.view();
    let assigner = Assigner::new(compute, centroids);
    let pq_seed = Random::of(seed, 2).next_u64();
    let (coder, pq_training) =
        Coder::train(bench, rows, (&assigner, centroids), (params, metric, loss), pq_seed)?;
    let spills = params.spill == Spilling::Soar;
    let encoded = encode(bench, rows, &assigner, &coder, spills)?;
    let lists = Lists::of(&encoded.labels, params.nlist);
    let kept = match params.refine.precision() {
        Some(precision) => Some(match folder {
            Some(folder) => KeptVectors::gather_in(folder, rows, &lists.order, precision)?,
            None => KeptVectors::gather(rows, &lists.order, precision)?,
        }),
        None => None,
    };
    let mut report = lists.report(&kmeans, pq_training);
    if params.refine == Refine::F16 {
        let (_, remoteness) = remoteness(rows);
        if remoteness > ROUNDED {
            report.warnings.push(Warning::Rounded { times: remoteness.sqrt() as u64 });
        }
    }
    let Coder { turn, centroids: code_centroids, quantizer, .. } = coder;
    let codes = lists.codes(&encoded.codes, &quantizer, code_centroids.view(), metric);
    let spill = encoded.second.map(|second| lists.spill(second, &quantizer, code_centroids.view(), metric));
    let index = IvfPq::from(Parts {
        metric,
        dim: rows.dim(),
        centroids: kmeans.centroids.into_vec().into(),
        list_offsets: lists.offsets.into(),
        quantizer,
        codes,
        ranged: None,
        kept,
        turn,
        spill,
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
    if like.spill.is_some() {
        check_spilled_rows(rows.rows())?;
    }
    check_magnitude(rows)?;
    let precision = like.kept().map(KeptVectors::precision);
    if let Some(precision) = precision {
        KeptVectors::check(rows, precision)?;
    }
    let code_centroids = like.code_centroids();
    let coder = Coder {
        turn: like.turn().cloned(),
        centroids: VectorBuf::from(code_centroids),
        quantizer: like.quantizer.clone(),
        metric: like.metric,
        loss: loss_of(loss, like.metric)?,
    };
    let bench = Workbench { compute, observer };
    let assigner = Assigner::new(compute, like.centroids());
    let encoded = encode(bench, rows, &assigner, &coder, like.spill.is_some())?;
    let lists = Lists::of(&encoded.labels, like.nlist());
    let kept = match precision {
        Some(precision) => Some(KeptVectors::gather(rows, &lists.order, precision)?),
        None => None,
    };
    let codes = lists.codes(&encoded.codes, &coder.quantizer, code_centroids, like.metric);
    let spill =
        encoded.second.map(|second| lists.spill(second, &coder.quantizer, code_centroids, like.metric));
    let index = like.with_rows(lists.offsets.into(), codes, kept, spill);
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

/// Centroids of the rows, trained on a sample in a file of `folder`, where there is one.
fn train_lists(
    bench: Workbench<'_>,
    folder: Option<&Path>,
    rows: VectorView<'_>,
    params: &KmeansParams,
) -> Result<Kmeans, BuildError> {
    let Workbench { compute, observer } = bench;
    let mean = far_mean(rows);
    let mut kmeans = match (folder.zip(train::sample(rows.rows(), params)), &mean) {
        (Some((folder, chosen)), mean) => {
            let sample = gathered_in(folder, rows, &chosen, mean.as_deref())?;
            train::train(compute, VectorView::new(&sample, rows.dim()), params, observer)?
        }
        (None, None) => train::train(compute, rows, params, observer)?,
        (None, Some(mean)) => {
            let sample = train::sample(rows.rows(), params).map(|chosen| rows.gather(&chosen));
            let sample = taken_from(sample.as_ref().map_or(rows, VectorBuf::view), mean);
            train::train(compute, sample.view(), params, observer)?
        }
    };
    if let Some(mean) = mean {
        let centroids = kmeans.centroids.as_mut_slice().chunks_exact_mut(mean.len());
        centroids.flatten().zip(mean.iter().cycle()).for_each(|(value, mean)| *value += mean);
    }
    Ok(kmeans)
}

/// The rows named, in a file, less their mean if it is given.
fn gathered_in(
    folder: &Path,
    rows: VectorView<'_>,
    chosen: &[u32],
    mean: Option<&[f32]>,
) -> Result<Array<f32>, BuildError> {
    let dim = rows.dim();
    array_in_file(folder, chosen.len() * dim, |values| {
        for (values, &row) in values.chunks_exact_mut(dim).zip(chosen) {
            values.copy_from_slice(rows.row(row as usize));
            if let Some(mean) = mean {
                subtract(values, mean);
            }
        }
        Ok(())
    })
}

/// The cosine from which on a query's score counts, as ScaNN has it.
const SCORE_THRESHOLD: f32 = 0.2;

fn score_loss(params: &IvfPqParams, metric: Metric) -> Result<Option<ScoreAware>, TrainError> {
    match params.code {
        Code::Pq => loss_of(params.loss, metric),
        Code::Rabitq { .. } | Code::Sq8 | Code::Flat => Ok(None),
    }
}

fn loss_of(loss: Loss, metric: Metric) -> Result<Option<ScoreAware>, TrainError> {
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

/// List and code of each row, in the order of the source.
struct Encoded {
    labels: Vec<u32>,
    codes: Vec<u8>,
    /// The same of second lists, where there are any.
    second: Option<Second>,
    /// The sum of the rows' squared distances to their centroids.
    inertia: f64,
}

struct Second {
    labels: Vec<u32>,
    codes: Vec<u8>,
}

/// Rows are read once: a block is shown to the backend, assigned and encoded before the next.
fn encode(
    bench: Workbench<'_>,
    rows: VectorView<'_>,
    assigner: &Assigner<'_>,
    coder: &Coder,
    spills: bool,
) -> Result<Encoded, BuildError> {
    let Workbench { compute, observer } = bench;
    let row_bytes = coder.quantizer.row_bytes(coder.metric);
    let uploaded_centroids = if spills { Some(compute.upload(assigner.centroids())?) } else { None };
    let mut encoded = Encoded {
        labels: Vec::with_capacity(rows.rows()),
        codes: Vec::with_capacity(rows.rows() * row_bytes),
        second: spills.then(|| Second {
            labels: Vec::with_capacity(rows.rows()),
            codes: Vec::with_capacity(rows.rows() * row_bytes),
        }),
        inertia: 0.0,
    };
    for start in (0..rows.rows()).step_by(BLOCK_ROWS) {
        let end = (start + BLOCK_ROWS).min(rows.rows());
        let block = rows.slice(start, end);
        let uploaded = compute.upload(block)?;
        let centred = assigner.centred(block);
        let (labels, inertia) = match &centred {
            Some(centred) => assigner.assign(&compute.upload(centred.view())?)?,
            None => assigner.assign(&uploaded)?,
        };
        encoded.inertia += inertia;
        encoded.codes.extend(coder.encode(compute, block, &uploaded, &labels)?);
        if let Some((second, centroids)) = encoded.second.as_mut().zip(uploaded_centroids.as_ref()) {
            let seen = centred.as_ref().map_or(block, VectorBuf::view);
            let labels = second_lists(compute, seen, centroids, &labels)?;
            second.codes.extend(coder.encode(compute, block, &uploaded, &labels)?);
            second.labels.extend(labels);
        }
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
        quantizer: &Quantizer,
        centroids: VectorView<'_>,
        metric: Metric,
    ) -> Codes {
        if let Some(shape) = quantizer.blocks(metric) {
            return Codes::Blocks(Blocks::gather(codes, shape, &self.order, &self.offsets));
        }
        if matches!(quantizer, Quantizer::Flat) {
            return Codes::Kept;
        }
        let code_size = quantizer.row_bytes(metric);
        let bytes = gather_codes(codes, code_size, &self.order);
        let terms = match quantizer {
            Quantizer::Product(quantizer) if metric == Metric::L2 => {
                Some(self.terms(&bytes, quantizer, centroids).into())
            }
            _ => None,
        };
        Codes::Rows { bytes: bytes.into(), terms }
    }

    /// What second lists hold of the rows of these.
    fn spill(
        &self,
        second: Second,
        quantizer: &Quantizer,
        centroids: VectorView<'_>,
        metric: Metric,
    ) -> Spill {
        let spilled = Self::of(&second.labels, self.offsets.len() - 1);
        let mut ordinals = vec![0u32; self.order.len()];
        (0u32..).zip(&self.order).for_each(|(ordinal, &row)| ordinals[row as usize] = ordinal);
        let rows: Vec<u32> = spilled.order.iter().map(|&row| ordinals[row as usize]).collect();
        let codes = spilled.codes(&second.codes, quantizer, centroids, metric);
        Spill { offsets: spilled.offsets.into(), rows: rows.into(), codes, ranged: None }
    }

    /// Of each row, by its code.
    fn terms(&self, bytes: &[u8], quantizer: &ProductQuantizer, centroids: VectorView<'_>) -> Vec<f32> {
        let code_size = quantizer.shape().code_size();
        let list = |list: usize| self.offsets[list] as usize..self.offsets[list + 1] as usize;
        (0..centroids.rows())
            .into_par_iter()
            .flat_map_iter(|own| list(own).map(move |row| (own, row)))
            .map(|(list, row)| {
                let code = &bytes[row * code_size..(row + 1) * code_size];
                residual_term(quantizer, centroids.row(list), code)
            })
            .collect()
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
