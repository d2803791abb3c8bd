//! What an index of several segments finds, measured against what its rows are.

use std::sync::Arc;

use super::Workplace;
use super::truth::{Known, truth};
use crate::error::Error;
use crate::index::SearchIndex;
use crate::job::Unit;
use crate::loader::Segments;
use crate::report::{Certified, CertifyParams, ExactRows, GroundTruth, QuerySet, certify};
use crate::vectors::{Metric, VectorView};

/// Neighbours that the truth has, as in a build.
const TRUTH_K: usize = GroundTruth::DIGESTED;

/// Measures `segments`.
///
/// # Errors
/// Segments without vectors; the backend's failure; cancellation. A recall below the gate is no error here.
pub(super) fn certify_segments(
    work: &Workplace<'_>,
    segments: &Arc<Segments>,
    (queries, known): (VectorView<'_>, &Known),
    params: &CertifyParams,
) -> Result<Certified, Error> {
    let gate_k = params.gate.map_or(0, |gate| gate.k as usize);
    let truth = truth(work, segments, queries, known, TRUTH_K.max(params.target_k).max(gate_k))?;
    let order: Vec<u32> = (0..segments.rows() as u32).collect();
    let set = QuerySet { queries, truth: &truth, rows: Kept(segments), order: &order };
    // One segment, all of it there, is searched by itself.
    let mut indexes = segments.indexes();
    let index: Arc<dyn SearchIndex> = match (indexes.next(), indexes.next(), segments.live_of(0)) {
        (Some(only), None, None) => only.clone(),
        _ => segments.clone(),
    };
    let stage = work.progress.stage("certify", Unit::Count("settings"), None);
    let certified = certify(&index, &set, params, &|| {
        stage.inc(1);
        work.progress.check().is_ok()
    })?;
    stage.finish();
    Ok(certified)
}

/// The segments' own vectors.
struct Kept<'a>(&'a Segments);

impl ExactRows for Kept<'_> {
    fn distance(&self, metric: Metric, query: &[f32], row: u32) -> f32 {
        let vector = self.0.vector(row).expect("the truth was computed from it");
        metric.distance(query, &vector) as f32
    }
}
