//! How rows become codes: residuals, turned or not, through a quantizer.

use rayon::prelude::*;

use super::assignment::Assigner;
use super::build::BuildError;
use super::params::{Code, IvfPqParams, Rotate};
use super::quantizer::{Quantizer, Turn};
use super::rabitq::{Rabitq, Room};
use crate::compute::{Compute, ResidualOf, Rows};
use crate::train::{
    self, FastRotation, Observer, PqParams, PqTraining, ProductQuantizer, ScalarQuantizer, ScoreAware,
    ScoredRows, TrainError,
};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

/// Steps of the rotation's training.
const ROTATIONS: usize = 8;

pub(super) struct Coder {
    pub turn: Option<Turn>,
    /// In the space of the codes.
    pub centroids: VectorBuf,
    pub quantizer: Quantizer,
    pub metric: Metric,
    /// Of a product quantizer.
    pub loss: Option<ScoreAware>,
}

/// Who computes, and who watches.
#[derive(Clone, Copy)]
pub(super) struct Workbench<'a> {
    pub compute: &'a dyn Compute,
    pub observer: Observer<'a>,
}

impl Coder {
    /// Learns what the codes of `params` need, from the residuals of a sample.
    pub fn train(
        bench: Workbench<'_>,
        rows: VectorView<'_>,
        (lists, centroids): (&Assigner<'_>, VectorView<'_>),
        (params, metric, loss): (&IvfPqParams, Metric, Option<ScoreAware>),
        seed: u64,
    ) -> Result<(Self, PqTraining), BuildError> {
        let with = |turn: Option<Turn>, quantizer| {
            let centroids = match &turn {
                Some(turn) => turn.rotate_rows(centroids),
                None => VectorBuf::from(centroids),
            };
            Self { turn, centroids, quantizer, metric, loss }
        };
        let dim = rows.dim();
        let (turn, quantizer) = match params.code {
            Code::Pq => {
                let pq = PqParams::new(seed);
                let count = pq.sample_rows(&params.shape(dim)?);
                let sample = Sample::draw(bench.compute, rows, lists, count, seed)?;
                let (rotation, quantizer, training) = sample.codebooks(bench, centroids, params, &pq)?;
                let mut coder = with(rotation, Quantizer::Flat);
                coder.quantizer = Quantizer::Product(coder.scored(bench, quantizer, &sample)?);
                return Ok((coder, training));
            }
            Code::Rabitq { bits } => {
                let turn = Turn::Drawn(FastRotation::random(dim, seed));
                (Some(turn), Quantizer::Rabitq(Rabitq { dim, bits: bits as usize }))
            }
            Code::Sq8 => {
                let count = ScalarQuantizer::SAMPLE_ROWS;
                let sample = Sample::draw(bench.compute, rows, lists, count, seed)?;
                (None, Quantizer::Scalar(ScalarQuantizer::train(sample.residuals(centroids).view())))
            }
            Code::Flat => (None, Quantizer::Flat),
        };
        let untrained = PqTraining { inertia: Vec::new(), rows: 0, moved: 0, warnings: Vec::new() };
        Ok((with(turn, quantizer), untrained))
    }

    /// The quantizer with its entries moved to where the loss wants them.
    fn scored(
        &self,
        bench: Workbench<'_>,
        quantizer: ProductQuantizer,
        sample: &Sample,
    ) -> Result<ProductQuantizer, TrainError> {
        let Some(loss) = &self.loss else { return Ok(quantizer) };
        let rows = self.turned(sample.rows.view());
        let residual_of = Some(ResidualOf { centroids: self.centroids.view(), labels: &sample.labels });
        let scored = ScoredRows { rows: rows.view(), residual_of };
        Ok(quantizer.refine_score_aware(bench.compute, scored, loss, bench.observer)?.0)
    }

    /// Rows in the space of the codes.
    fn turned<'a>(&self, rows: VectorView<'a>) -> Turned<'a> {
        match &self.turn {
            Some(turn) => Turned::Rotated(turn.rotate_rows(rows)),
            None => Turned::Given(rows),
        }
    }

    /// The codes of a block of rows, which `uploaded` shows to the backend.
    pub fn encode(
        &self,
        compute: &dyn Compute,
        rows: VectorView<'_>,
        uploaded: &Rows<'_>,
        labels: &[u32],
    ) -> Result<Vec<u8>, TrainError> {
        let quantizer = match &self.quantizer {
            Quantizer::Product(quantizer) => quantizer,
            Quantizer::Rabitq(rabitq) => {
                let encode = |room: &mut Room, residual: &[f32], centroid: &[f32], code: &mut [u8]| {
                    rabitq.encode(self.metric, residual, centroid, room, code);
                };
                return Ok(self.of_residuals(self.turned(rows).view(), labels, encode));
            }
            Quantizer::Scalar(quantizer) => {
                let encode = |_: &mut Room, residual: &[f32], _: &[f32], code: &mut [u8]| {
                    quantizer.encode(residual, code);
                };
                return Ok(self.of_residuals(rows, labels, encode));
            }
            Quantizer::Flat => return Ok(Vec::new()),
        };
        let residual_of = Some(ResidualOf { centroids: self.centroids.view(), labels });
        let turned = self.turned(rows);
        match (&self.loss, &turned) {
            (Some(loss), turned) => {
                let scored = ScoredRows { rows: turned.view(), residual_of };
                quantizer.encode_score_aware(compute, scored, loss)
            }
            (None, Turned::Given(_)) => quantizer.encode(compute, uploaded, residual_of),
            (None, Turned::Rotated(rotated)) => {
                quantizer.encode(compute, &compute.upload(rotated.view())?, residual_of)
            }
        }
    }

    /// A code for each row, of its residual and with its centroid.
    fn of_residuals(
        &self,
        rows: VectorView<'_>,
        labels: &[u32],
        encode: impl Fn(&mut Room, &[f32], &[f32], &mut [u8]) + Sync,
    ) -> Vec<u8> {
        let row_bytes = self.quantizer.row_bytes(self.metric);
        let mut codes = vec![0; rows.rows() * row_bytes];
        codes.par_chunks_exact_mut(row_bytes).with_min_len(256).zip(labels).enumerate().for_each_init(
            || (vec![0.0; rows.dim()], Room::default()),
            |(residual, room), (row, (code, &label))| {
                let centroid = self.centroids.row(label as usize);
                let values = rows.row(row).iter().zip(centroid);
                residual.iter_mut().zip(values).for_each(|(r, (&x, &c))| *r = x - c);
                encode(room, residual, centroid, code);
            },
        );
        codes
    }
}

/// Rows to learn from, and their lists.
struct Sample {
    rows: VectorBuf,
    labels: Vec<u32>,
}

impl Sample {
    fn draw(
        compute: &dyn Compute,
        rows: VectorView<'_>,
        lists: &Assigner<'_>,
        count: usize,
        seed: u64,
    ) -> Result<Self, TrainError> {
        // Apart from the draw that the quantizer would make of more rows.
        let chosen = Random::of(seed, u64::MAX).sample(rows.rows(), count.min(rows.rows()));
        let rows = rows.gather(&chosen);
        let centred = lists.centred(rows.view());
        let uploaded = compute.upload(centred.as_ref().unwrap_or(&rows).view())?;
        let (labels, _) = lists.assign(&uploaded)?;
        drop(uploaded);
        Ok(Self { rows, labels })
    }

    fn residuals(&self, centroids: VectorView<'_>) -> VectorBuf {
        let mut residuals = self.rows.clone();
        let dim = residuals.dim();
        residuals.as_mut_slice().par_chunks_mut(dim).with_min_len(1024).zip(&self.labels).for_each(
            |(row, &label)| {
                let centroid = centroids.row(label as usize);
                row.iter_mut().zip(centroid).for_each(|(value, &centre)| *value -= centre);
            },
        );
        residuals
    }

    fn codebooks(
        &self,
        bench: Workbench<'_>,
        centroids: VectorView<'_>,
        params: &IvfPqParams,
        pq: &PqParams,
    ) -> Result<(Option<Turn>, ProductQuantizer, PqTraining), TrainError> {
        let Workbench { compute, observer } = bench;
        let (residuals, shape) = (self.residuals(centroids), params.shape(centroids.dim())?);
        Ok(match params.rotation {
            Rotate::None => {
                let (quantizer, training) =
                    ProductQuantizer::train(compute, residuals.view(), shape, pq, observer)?;
                (None, quantizer, training)
            }
            Rotate::Opq => {
                let (rotation, quantizer, training) =
                    train::train_rotated(compute, residuals.view(), shape, pq, ROTATIONS, observer)?;
                (Some(Turn::Learned(rotation)), quantizer, training)
            }
        })
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
