//! One candidate on one sample: built, searched and measured as a job measures what it publishes.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::Schema;

use super::candidates::Candidate;
use crate::artifact::CertificatePoint;
use crate::artifact::columns::{ATTRIBUTES_FILE, IDS_FILE};
use crate::compute::Compute;
use crate::error::Error;
use crate::job::{Progress, Rows, forge};
use crate::report::{CertifyParams, GroundTruth, QuerySet, certify};
use crate::source::{Dataset, RowCounts};
use crate::vectors::{Metric, VectorBuf, VectorView};

/// What was measured of a candidate on a sample.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Trial {
    /// Of the sample.
    pub rows: u64,
    pub queries: u64,
    /// Wall time.
    pub build_seconds: f64,
    /// Of the index, but for ids and attributes.
    pub bytes: u64,
    /// Recall@k at the setting that was chosen: the cheapest that reaches what is asked, else the best.
    pub recall: f64,
    /// The best of all settings measured.
    pub best_recall: f64,
    pub effort: u32,
    /// Of single queries on one thread, at the setting chosen.
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub qps: f64,
    /// All settings measured, cheapest first.
    pub points: Vec<Setting>,
    /// What the trial took altogether.
    pub seconds: f64,
}

/// A search setting, measured.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Setting {
    pub effort: u32,
    pub recall: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub qps: f64,
}

/// A sample that candidates are tried on.
pub(super) struct Ground<'a> {
    compute: &'a dyn Compute,
    seed: u64,
    queries: VectorView<'a>,
    rows: Dataset,
    truth: GroundTruth,
}

impl<'a> Ground<'a> {
    pub fn new(
        compute: &'a dyn Compute,
        (metric, seed): (Metric, u64),
        rows: VectorView<'_>,
        queries: VectorView<'a>,
        k: usize,
    ) -> Result<Self, Error> {
        let truth = GroundTruth::compute(compute, queries, rows, metric, k)?;
        let count = rows.rows();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let attributes = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
            .map_err(|error| Error::Internal(Box::new(error)))?;
        let rows = Dataset {
            vectors: VectorBuf::from(rows),
            ids: Arc::new(Int64Array::from_iter_values(0..count as i64)),
            attributes,
            counts: RowCounts::default(),
            rejects: None,
            inputs: Vec::new(),
        };
        Ok(Self { compute, seed, queries, rows, truth })
    }

    pub fn rows(&self) -> u64 {
        self.rows.rows() as u64
    }

    /// Builds and measures a candidate: the settings around the cheapest that reaches `recall` at `k`.
    pub fn try_one(
        &self,
        candidate: &Candidate,
        (k, recall): (usize, f64),
        progress: &Progress,
    ) -> Result<Trial, Error> {
        let started = Instant::now();
        let forged = forge(self.compute, Rows::Lent(&self.rows), &candidate.spec, self.seed, progress)?;
        let build_seconds = started.elapsed().as_secs_f64();
        let is_section = |name: &str| name != IDS_FILE && name != ATTRIBUTES_FILE;
        let bytes = forged
            .files
            .iter()
            .filter(|(name, _)| is_section(name))
            .map(|(_, bytes)| bytes.len() as u64)
            .sum();
        let set = QuerySet {
            queries: self.queries,
            truth: &self.truth,
            rows: self.rows.vectors.view(),
            order: &forged.order,
        };
        let params = CertifyParams { target_k: k, target_recall: recall, gate: None, near: None };
        let certificate = certify(&forged.index, &set, &params, &|| progress.check().is_ok())?.certificate;
        let place = certificate.k.iter().position(|&measured| measured as usize == k).unwrap_or_default();
        let setting = |point: &CertificatePoint| Setting {
            effort: point.effort,
            recall: point.recall[place].mean,
            p50_ms: point.latency_us.p50 * 1e-3,
            p95_ms: point.latency_us.p95 * 1e-3,
            qps: point.qps,
        };
        let points: Vec<Setting> = certificate.points.iter().map(setting).collect();
        let chosen = certificate.chosen_point().map(setting);
        let chosen = chosen.ok_or_else(|| Error::Internal("a certificate without its own setting".into()))?;
        Ok(Trial {
            rows: self.rows(),
            queries: self.queries.rows() as u64,
            build_seconds,
            bytes,
            recall: chosen.recall,
            best_recall: points.iter().map(|point| point.recall).fold(0.0, f64::max),
            effort: chosen.effort,
            p50_ms: chosen.p50_ms,
            p95_ms: chosen.p95_ms,
            qps: chosen.qps,
            points,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}
