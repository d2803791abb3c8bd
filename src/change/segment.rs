//! Rows that come, as a segment of their own.

use std::any::Any;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, UInt32Array};
use bytes::Bytes;

use super::base::Base;
use super::{ChangeError, Workplace, internal};
use crate::artifact::{Manifest, Training, safetensors};
use crate::error::Error;
use crate::index::SearchIndex;
use crate::ivf::{self, IvfPq};
use crate::job::{self, IndexParams, IvfPqSpec, forge};
use crate::loader::{self, told_columns};
use crate::source::Dataset;
use crate::vectors::{RowId, RowIdKind, RowIds};

pub(super) struct NewSegment {
    /// Assembled from `files`.
    pub index: Arc<dyn SearchIndex>,
    pub files: Vec<(String, Bytes)>,
    /// Where something was trained.
    pub training: Option<Vec<Training>>,
    pub details: serde_json::Value,
    /// The rows' mean squared distance to their centroids, where these are another segment's.
    pub spread: Option<f64>,
}

/// Where centroids and codebooks are there already they stay; a graph is a new one.
pub(super) fn beside(work: &Workplace<'_>, base: &Base, rows: &Dataset) -> Result<NewSegment, Error> {
    match &base.spec.params {
        IndexParams::IvfPq(params) => like(work, base, params, rows),
        IndexParams::Flat(_) | IndexParams::Hnsw(_) => anew(work, base, job::Rows::Lent(rows)),
    }
}

/// Built as its job says, training and all.
pub(super) fn anew(work: &Workplace<'_>, base: &Base, rows: job::Rows<'_>) -> Result<NewSegment, Error> {
    let seed = base.manifest().build.seed;
    let forged = forge(work.compute, rows, &base.spec, seed, work.progress)?;
    forged.warnings.iter().for_each(|warning| work.progress.warn(warning));
    Ok(NewSegment {
        index: forged.index,
        files: forged.files,
        training: Some(forged.training),
        details: forged.details,
        spread: None,
    })
}

fn like(work: &Workplace<'_>, base: &Base, params: &IvfPqSpec, rows: &Dataset) -> Result<NewSegment, Error> {
    let indexes = base.index.segment_indexes();
    let first =
        ivf_of(&indexes[0]).ok_or_else(|| Error::Internal("an ivf_pq index of another family".into()))?;
    let watch = job::Watch::new(work.progress, &base.spec.name);
    let observer = |state: crate::train::Progress| watch.observe(state);
    let loss = params.code.pq().map_or(ivf::Loss::Auto, |pq| pq.loss);
    let built = ivf::build_like(work.compute, rows.vectors.view(), first, loss, &observer)?;
    watch.finish();
    let spread = built.inertia / rows.rows() as f64;
    let mut segment = encoded("ivf_pq", &built.index)?;
    segment.files.extend(job::column_files(rows, &built.order, base.spec.partition_by.as_deref())?);
    Ok(NewSegment { spread: Some(spread), ..segment })
}

pub(super) fn ivf_of(index: &Arc<dyn SearchIndex>) -> Option<&IvfPq> {
    let index: &dyn Any = &**index;
    index.downcast_ref()
}

/// An index's sections as files, and the index that a reader makes of them.
pub(super) fn encoded(kind: &str, index: &dyn SearchIndex) -> Result<NewSegment, Error> {
    let (mut files, mut decoded) = (Vec::new(), Vec::new());
    for section in index.sections() {
        let encoded = safetensors::encode(&section);
        decoded.push(safetensors::decode(&section.name, encoded.bytes.clone()).map_err(internal)?);
        files.push((encoded.file_name, encoded.bytes));
    }
    let index = loader::assemble(kind, &decoded).map_err(internal)?;
    Ok(NewSegment { index, files, training: None, details: serde_json::Value::Null, spread: None })
}

/// How much farther from their centroids rows lie than those of the training: above 1 by as much as the data has moved.
pub(super) fn drift(manifest: &Manifest, spread: f64) -> Option<f64> {
    let kmeans = manifest.build.training.iter().find(|training| training.name == "k-means")?;
    let rows = manifest.build.built.get("kmeans_rows")?.as_f64()?;
    let trained = kmeans.loss.last()? / rows;
    (trained > 0.0).then_some(spread / trained)
}

/// That the rows can stand in the index; and their ids there: those that are given, but rows without ids of their own are
/// numbered behind the highest.
pub(super) fn fit(base: &Base, rows: &Dataset, given: &ArrayRef) -> Result<ArrayRef, Error> {
    let unlike = |what, expected: String, got: String| ChangeError::Unlike {
        index: base.name().into(),
        what,
        expected,
        got,
    };
    let (expected, got) = (base.index.dim(), rows.vectors.dim());
    if expected != got {
        return Err(unlike("dimension", expected.to_string(), got.to_string()).into());
    }
    let ids = base.index.ids();
    let new_ids = RowIds::from_array(given.as_ref()).map_err(internal)?;
    if ids.kind() != new_ids.kind() {
        return Err(unlike("ids", format!("{:?}", ids.kind()), format!("{:?}", new_ids.kind())).into());
    }
    let attributes = base.index.attributes();
    let expected = attributes.map_or(String::new(), |batch| told_columns(batch.schema_ref()));
    let got = told_columns(rows.attributes.schema_ref());
    if expected != got {
        return Err(unlike("attributes", expected, got).into());
    }
    let (rows, limit) = (base.index.rows() as u64 + rows.rows() as u64, u64::from(u32::MAX) - 1);
    if rows > limit {
        return Err(ChangeError::TooManyRows { index: base.name().into(), rows, limit }.into());
    }
    if base.job.source.id.is_none() && ids.kind() == RowIdKind::Int64 {
        return Ok(numbered_behind(ids, &new_ids));
    }
    Ok(given.clone())
}

fn numbered_behind(ids: &RowIds, new_ids: &RowIds) -> ArrayRef {
    let number = |id: RowId| if let RowId::Int(number) = id { number } else { unreachable!("checked above") };
    let highest = (0..ids.len() as u32).map(|row| number(ids.get(row))).max();
    let first = highest.map_or(0, |highest| highest.wrapping_add(1));
    let numbered = (0..new_ids.len() as u32).map(|row| number(new_ids.get(row)).wrapping_add(first));
    Arc::new(Int64Array::from_iter_values(numbered))
}

/// Some rows, in this order.
pub(super) fn select(rows: &Dataset, chosen: &[u32]) -> Result<Dataset, Error> {
    let places = UInt32Array::from(chosen.to_vec());
    Ok(Dataset {
        vectors: rows.vectors.view().gather(chosen),
        ids: arrow_select::take::take(&rows.ids, &places, None).map_err(internal)?,
        attributes: arrow_select::take::take_record_batch(&rows.attributes, &places).map_err(internal)?,
        counts: rows.counts.clone(),
        rejects: None,
        inputs: rows.inputs.clone(),
    })
}
