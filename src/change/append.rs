//! Rows come: as a segment of their own, beside those that are there. Rows that bear an id that is there replace it, where
//! that was asked for.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::base::{Base, job_of_latest};
use super::publish::{Origin, Step};
use super::segment::{self, NewSegment};
use super::{ChangeError, ChangeOptions, ChangeSummary, Workplace, at_work, internal};
use crate::artifact::{Digest, Manifest};
use crate::error::Error;
use crate::job::{JobSpec, Ledger, OnBadRow, Progress, Unit};
use crate::source::{self, Dataset, Source};
use crate::store::runtime;
use crate::vectors::RowIds;

/// Which rows come.
#[derive(Debug, Clone)]
pub struct Append {
    /// Parquet files: paths, URIs or globs, with the columns that the job names.
    pub from: Vec<String>,
    /// Rows whose id is there go for the new ones. Without it such an id is an error.
    pub replace: bool,
}

/// Publishes the latest version with more rows as the next one. What was trained stays as it is: a row of an IVF-PQ index costs
/// its assignment and its code; a graph's rows become a graph of their own.
///
/// # Errors
/// Rows that a build would refuse, or that do not fit the index; ids that are there already; a recall below the gate.
pub fn append(options: &ChangeOptions, append: &Append, progress: &Progress) -> Result<ChangeSummary, Error> {
    at_work(options, progress, |work| {
        let mut ledger = Ledger::default();
        let (job, manifest) = job_of_latest(work)?;
        if append.replace && job.source.id.is_none() {
            return Err(ChangeError::NoIds.into());
        }
        let mut rows = read(work, &job, &manifest, &append.from, &mut ledger)?;
        let (origin, given) = (Origin::of(&rows)?, rows.ids.clone());
        let mut made = Made::default();
        let step = |base: &Base, ledger: &mut Ledger| {
            rows.ids = segment::fit(base, &rows, &given)?;
            let dead = present(base, &rows, append.replace)?;
            let new = made.of(work, base, &rows, ledger)?;
            let drift = new.spread.and_then(|spread| segment::drift(base.manifest(), spread));
            Ok(Some(Step {
                operation: if append.replace { "replace" } else { "append" },
                dead,
                added: rows.rows() as u64,
                new: Some(new),
                replaces_all: false,
                origin: Some(origin.clone()),
                drift: farthest(base, drift),
            }))
        };
        work.publish(ledger, step, |_| false)
    })
}

/// The largest drift since the last training.
pub(super) fn farthest(base: &Base, drift: Option<f64>) -> Option<f64> {
    let before = base.manifest().change.as_ref().and_then(|change| change.drift);
    before.into_iter().chain(drift).reduce(f64::max)
}

/// The rows of Parquet files, read as the job reads its own.
pub(super) fn read(
    work: &Workplace<'_>,
    job: &JobSpec,
    manifest: &Manifest,
    from: &[String],
    ledger: &mut Ledger,
) -> Result<Dataset, Error> {
    let spec = source_spec(job, manifest, from);
    ledger.enter("read", |moved| {
        let source = Source::open(spec, runtime()?)?;
        let stage = work.progress.stage("read", Unit::ROWS, Some(source.rows_upper_bound()));
        let (rows_read, bytes_read) = (Cell::new(0), Cell::new(0));
        let rows = source.read_all(&|rows, bytes| {
            stage.inc(rows - rows_read.replace(rows));
            bytes_read.set(bytes);
            if work.progress.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        moved.read = bytes_read.get();
        stage.finish();
        for (reason, count) in &rows.counts.rejected {
            work.progress.warn(format!("{count} rows left out: {reason}"));
        }
        Ok::<_, Error>(rows)
    })
}

/// How the job reads its rows, from other files.
pub(super) fn source_spec(job: &JobSpec, manifest: &Manifest, from: &[String]) -> source::SourceSpec {
    source::SourceSpec {
        uris: from.to_vec(),
        vector_column: job.source.vector.clone(),
        id_column: job.source.id.clone(),
        attribute_columns: job.source.attributes.clone(),
        required_columns: job.required_columns(),
        predicate: job.source.predicate.clone(),
        shard: job.source.shard,
        on_bad_row: match job.source.on_bad_row {
            OnBadRow::Fail => source::OnBadRow::Fail,
            OnBadRow::Skip => source::OnBadRow::Skip,
        },
        dim: Some(manifest.build.dim as usize),
        metric: manifest.build.metric,
        store: job.store.clone(),
        foreign: job.source.foreign.clone(),
    }
}

/// The rows there that bear ids of the new ones.
pub(super) fn present(base: &Base, rows: &Dataset, may_replace: bool) -> Result<BTreeSet<u32>, Error> {
    const TOLD: usize = 3;
    let ids = RowIds::from_array(rows.ids.as_ref()).map_err(internal)?;
    let mut some = Vec::new();
    let mut present = BTreeSet::new();
    for row in 0..ids.len() as u32 {
        let id = ids.get(row);
        if let Some(ordinal) = base.index.ids().find(&id) {
            present.insert(ordinal);
            if some.len() < TOLD {
                some.push(format!("`{id}`"));
            }
        }
    }
    if present.is_empty() || may_replace {
        return Ok(present);
    }
    let (index, count) = (base.name().into(), present.len());
    Err(ChangeError::Present { index, count, some: some.join(", ") }.into())
}

/// The segment of the new rows, made once for all versions that it can stand beside.
#[derive(Default)]
struct Made(Option<(Digest, RowIds, NewSegment)>);

impl Made {
    fn of(
        &mut self,
        work: &Workplace<'_>,
        base: &Base,
        rows: &Dataset,
        ledger: &mut Ledger,
    ) -> Result<NewSegment, Error> {
        // What was trained comes from the first segment; rows without ids are numbered behind all others.
        let first = base.manifest().segments[0].id;
        let ids = RowIds::from_array(rows.ids.as_ref()).map_err(internal)?;
        if !self.0.as_ref().is_some_and(|(of, had, _)| *of == first && *had == ids) {
            let new = ledger.enter("build", |_| segment::beside(work, base, rows))?;
            self.0 = Some((first, ids, new));
        }
        let (.., new) = self.0.as_ref().expect("made above");
        Ok(NewSegment {
            index: new.index.clone(),
            files: new.files.clone(),
            training: new.training.clone(),
            details: new.details.clone(),
            spread: new.spread,
        })
    }
}
