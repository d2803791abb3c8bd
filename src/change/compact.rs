//! What changes have piled up is folded: one segment of the rows that are there, no tombstones. Centroids and codebooks stay
//! where the rows still lie as those that they were learned from; a graph is built anew.

use std::cell::Cell;
use std::collections::BTreeSet;

use arrow_array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::Schema;

use super::base::Base;
use super::publish::{Origin, Step};
use super::segment::{self, NewSegment, ivf_of};
use super::{ChangeError, ChangeOptions, ChangeSummary, Workplace, at_work, internal};
use crate::artifact::{queries, safetensors};
use crate::error::Error;
use crate::index::{RowMask, SearchIndex};
use crate::ivf::{self, IvfPq, MergeError};
use crate::job::{self, IndexParams, Ledger, Progress, column_files};
use crate::report::Certified;
use crate::source::{Dataset, RowCounts};
use crate::vectors::VectorBuf;

/// Rows that lie so much farther from their centroids than those of the training are no longer what it was for: the lists
/// are then longer where the new rows are, and codes err by as much more.
pub const MAX_DRIFT: f64 = 1.25;

/// Where more of the rows than this were not there at the training, it is made again, moved or not: an index that grows is
/// then trained each time it has grown by half, which costs a row no more than three trainings' share.
pub const MAX_ADDED: f64 = 1.0 / 3.0;

/// How to fold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compact {
    /// Learns centroids and codebooks again whatever the drift.
    pub retrain: bool,
}

/// Publishes the rows of the latest version as one segment. With centroids and codebooks kept, codes and vectors are moved as
/// they are; they are learned again where it is asked for, where the drift is above `MAX_DRIFT` or the share of rows that came
/// since above `MAX_ADDED`, where segments were not trained alike, and where the recall falls short of the index's target otherwise.
///
/// # Errors
/// A recall below the gate.
pub fn compact(
    options: &ChangeOptions,
    compact: Compact,
    progress: &Progress,
) -> Result<ChangeSummary, Error> {
    at_work(options, progress, |work| {
        let (retrain, retrained) = (Cell::new(compact.retrain), Cell::new(false));
        let step = |base: &Base, ledger: &mut Ledger| {
            let manifest = base.manifest();
            let drift = manifest.change.as_ref().and_then(|change| change.drift);
            if manifest.folders().count() == 1 && !retrain.get() {
                return Ok(None);
            }
            if let Some(why) = outdated(base).filter(|_| !retrain.replace(true)) {
                work.progress.note(format!("{why}: training again"));
            }
            let mut new = ledger.enter("fold", |_| fold(work, base, retrain.get()))?;
            retrained.set(new.training.is_some());
            let attributes = columns(base, Some(&base.index.live_ordinals()))?;
            let kept =
                safetensors::encode(&queries::to_section(base.queries.view().as_slice(), base.index.dim()));
            new.files.push((kept.file_name, kept.bytes));
            Ok(Some(Step {
                operation: "compact",
                dead: BTreeSet::new(),
                drift: drift.filter(|_| !retrained.get()),
                new: Some(new),
                replaces_all: true,
                added: 0,
                origin: Some(Origin::of(&attributes)?),
            }))
        };
        let again = |certified: &Certified| {
            let again = !retrained.get() && falls_short(certified);
            if again {
                work.progress.note("the recall falls short of the target: training again");
                retrain.set(true);
            }
            again
        };
        work.publish(Ledger::default(), step, again)
    })
}

/// Why what was learned is no longer what the rows would teach.
fn outdated(base: &Base) -> Option<String> {
    let change = base.manifest().change.as_ref()?;
    let added = change.added_since_training as f64 / base.index.live_rows() as f64;
    match change.drift {
        Some(drift) if drift > MAX_DRIFT => Some(format!("rows have drifted by {drift:.2}")),
        _ if added > MAX_ADDED => {
            Some(format!("{:.0} % of the rows came since the training", 100.0 * added.min(1.0)))
        }
        _ => None,
    }
}

fn falls_short(certified: &Certified) -> bool {
    let certificate = &certified.certificate;
    let at_target = |point: &crate::artifact::CertificatePoint| {
        point.recall.iter().find(|recall| recall.k == certificate.target_k).map(|recall| recall.mean)
    };
    let recall = certificate.chosen_point().and_then(at_target);
    certified.below_gate.is_some() || recall.is_some_and(|recall| recall < certificate.target_recall)
}

fn fold(work: &Workplace<'_>, base: &Base, retrain: bool) -> Result<NewSegment, Error> {
    if let (IndexParams::IvfPq(_), false) = (&base.spec.params, retrain) {
        match merged(base) {
            Err(FoldError::Merge(error @ (MergeError::Training { .. } | MergeError::Kept { .. }))) => {
                work.progress.note(format!("{error}: training again"));
            }
            Err(FoldError::Merge(MergeError::Empty)) => {
                return Err(ChangeError::NothingLeft { index: base.name().into() }.into());
            }
            Err(FoldError::Merge(MergeError::Rows { rows, most })) => {
                let index = base.name().into();
                let (rows, limit) = (rows as u64, most as u64);
                return Err(ChangeError::TooManyRows { index, rows, limit }.into());
            }
            Err(FoldError::Other(error)) => return Err(error),
            Ok(new) => return Ok(new),
        }
    }
    segment::anew(work, base, job::Rows::Given(&mut live_rows(base)?))
}

enum FoldError {
    Merge(MergeError),
    Other(Error),
}

impl From<Error> for FoldError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Codes and kept vectors as they are, in one set of lists.
fn merged(base: &Base) -> Result<NewSegment, FoldError> {
    let (indexes, segments) = (base.index.segment_indexes(), base.index.segments());
    let live = |segment: usize| segments.and_then(|segments| segments.live_of(segment));
    let of_family = || Error::Internal("an ivf_pq index of another family".into());
    let mut parts: Vec<(&IvfPq, Option<&RowMask>)> = Vec::with_capacity(indexes.len());
    for (segment, index) in indexes.iter().enumerate() {
        parts.push((ivf_of(index).ok_or_else(of_family)?, live(segment)));
    }
    let (index, rows) = ivf::merge(&parts).map_err(FoldError::Merge)?;
    let firsts: Vec<u32> = base
        .segment_rows
        .iter()
        .scan(0, |next, rows| {
            let first = *next;
            *next += *rows as u32;
            Some(first)
        })
        .collect();
    let order: Vec<u32> = rows.iter().map(|&(part, row)| firsts[part as usize] + row).collect();
    let mut new = segment::encoded("ivf_pq", &index as &dyn SearchIndex)?;
    let columns = columns(base, None)?;
    new.files.extend(column_files(&columns, &order, base.spec.partition_by.as_deref())?);
    Ok(new)
}

/// The rows that are there, with their vectors as the index keeps them.
fn live_rows(base: &Base) -> Result<Dataset, Error> {
    let (ordinals, dim) = (base.index.live_ordinals(), base.index.dim());
    let mut values = Vec::with_capacity(ordinals.len() * dim);
    for &ordinal in &ordinals {
        let vector = base.index.vector(ordinal);
        values.extend(vector.ok_or_else(|| ChangeError::NoVectors { index: base.name().into() })?);
    }
    Ok(Dataset { vectors: VectorBuf::new(values, dim), ..columns(base, Some(&ordinals))? })
}

/// Ids and attributes of all rows, or of some; no vectors.
fn columns(base: &Base, of: Option<&[u32]>) -> Result<Dataset, Error> {
    let no_columns = || {
        let options = RecordBatchOptions::new().with_row_count(Some(base.index.rows()));
        RecordBatch::try_new_with_options(Schema::empty().into(), Vec::new(), &options)
    };
    let attributes = match base.index.attributes() {
        Some(attributes) => attributes.clone(),
        None => no_columns().map_err(internal)?,
    };
    let all = Dataset {
        vectors: VectorBuf::zeroed(0, base.index.dim()),
        ids: base.index.ids().to_array(),
        attributes,
        counts: RowCounts::default(),
        rejects: None,
        inputs: Vec::new(),
    };
    let Some(of) = of else { return Ok(all) };
    let places = UInt32Array::from(of.to_vec());
    Ok(Dataset {
        ids: arrow_select::take::take(&all.ids, &places, None).map_err(internal)?,
        attributes: arrow_select::take::take_record_batch(&all.attributes, &places).map_err(internal)?,
        ..all
    })
}
