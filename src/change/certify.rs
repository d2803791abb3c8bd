//! What an index of several segments finds, measured against what its rows are.

use std::sync::Arc;

use super::{ChangeError, Workplace};
use crate::error::Error;
use crate::flat::ground_truth;
use crate::index::SearchIndex;
use crate::job::Unit;
use crate::loader::Segments;
use crate::report::{Certified, CertifyParams, ExactRows, GroundTruth, QuerySet, certify};
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorBuf, VectorView};

/// Neighbours that the truth has, as in a build.
const TRUTH_K: usize = 100;

/// Rows whose vectors are gathered at a time to be compared.
const BLOCK_ROWS: usize = 1 << 15;

/// Measures `segments`.
///
/// # Errors
/// Segments without vectors; the backend's failure; cancellation. A recall below the gate is no error here.
pub(super) fn certify_segments(
    work: &Workplace<'_>,
    segments: &Arc<Segments>,
    queries: VectorView<'_>,
    params: &CertifyParams,
) -> Result<Certified, Error> {
    let gate_k = params.gate.map_or(0, |gate| gate.k as usize);
    let truth = truth(work, segments, queries, TRUTH_K.max(params.target_k).max(gate_k))?;
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

/// The nearest of the rows that are there, by the vectors that the segments keep; block by block, so that no second copy of
/// all vectors is needed.
fn truth(
    work: &Workplace<'_>,
    segments: &Segments,
    queries: VectorView<'_>,
    k: usize,
) -> Result<GroundTruth, Error> {
    let ordinals = segments.live_ordinals();
    let k = k.min(ordinals.len());
    let stage = work.progress.stage("exact neighbours", Unit::ROWS, Some(ordinals.len() as u64));
    let mut nearest: Vec<TopK> = (0..queries.rows()).map(|_| TopK::new(k)).collect();
    for block in ordinals.chunks(BLOCK_ROWS) {
        work.progress.check()?;
        let mut values = Vec::with_capacity(block.len() * segments.dim());
        for &ordinal in block {
            if !segments.push_vector(ordinal, &mut values) {
                return Err(ChangeError::NoVectors { index: work.store.name().into() }.into());
            }
        }
        let rows = VectorBuf::new(values, segments.dim());
        let found = ground_truth(work.compute, queries, rows.view(), segments.metric(), k)?;
        for (query, nearest) in nearest.iter_mut().enumerate() {
            let own = found.found(query).iter();
            own.for_each(|own| nearest.push(Neighbor::new(block[own.ordinal as usize], own.distance)));
        }
        stage.inc(block.len() as u64);
    }
    stage.finish();
    let mut all = Neighbors::new(queries.rows(), k);
    for (query, nearest) in nearest.iter_mut().enumerate() {
        all.row_mut(query).copy_from_slice(nearest.sorted());
    }
    Ok(GroundTruth::of(all))
}

/// The segments' own vectors.
struct Kept<'a>(&'a Segments);

impl ExactRows for Kept<'_> {
    fn distance(&self, metric: Metric, query: &[f32], row: u32) -> f32 {
        let vector = self.0.vector(row).expect("the truth was computed from it");
        metric.distance(query, &vector) as f32
    }
}
