//! An index is brought in line with its source: what [`compare`](super::compare()) finds becomes one version.

use std::collections::BTreeSet;

use super::append::{farthest, read};
use super::base::{Base, job_of_latest};
use super::compare::{Comparison, HeldOut, Verdict};
use super::publish::{Origin, Step};
use super::{ChangeError, ChangeOptions, ChangeSummary, at_work, segment};
use crate::error::Error;
use crate::job::{Ledger, Progress};
use crate::source::RowBatch;

/// What the index should be.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Parquet files: paths, URIs or globs, with the columns that the job names.
    pub from: Vec<String>,
}

/// Publishes one version in which rows that the source has and the index has not were added, rows that differ replaced, and
/// rows that the source has not deleted.
///
/// # Errors
/// As [`append`](super::append()).
pub fn sync(options: &ChangeOptions, sync: &Sync, progress: &Progress) -> Result<ChangeSummary, Error> {
    at_work(options, progress, |work| {
        let mut ledger = Ledger::default();
        let (job, manifest) = job_of_latest(work)?;
        if job.source.id.is_none() {
            return Err(ChangeError::NoIds.into());
        }
        let rows = read(work, &job, &manifest, &sync.from, &mut ledger)?;
        let source = RowBatch {
            vectors: rows.vectors.clone(),
            ids: rows.ids.clone(),
            attributes: rows.attributes.clone(),
        };
        let step = |base: &Base, ledger: &mut Ledger| {
            segment::fit(base, &rows, &rows.ids)?;
            let held_out = HeldOut::of(&base.job, base.manifest(), base.queries.view().as_slice());
            let (chosen, dead) = ledger.enter("compare", |_| {
                let mut comparison = Comparison::new(&base.index, held_out, None);
                let (mut chosen, mut dead) = (Vec::new(), BTreeSet::new());
                comparison.push(&source, &mut |row, verdict| match verdict {
                    Verdict::Same | Verdict::HeldOut => (),
                    Verdict::Missing => chosen.push(row),
                    Verdict::Differs(ordinal) => {
                        chosen.push(row);
                        dead.insert(ordinal);
                    }
                })?;
                let (_, stray) = comparison.finish(base.name(), String::new(), rows.counts.clone());
                dead.extend(stray);
                chosen.sort_unstable();
                Ok::<_, Error>((chosen, dead))
            })?;
            if chosen.is_empty() && dead.is_empty() {
                return Ok(None);
            }
            let (mut new, mut origin) = (None, None);
            if !chosen.is_empty() {
                let chosen = segment::select(&rows, &chosen)?;
                new = Some(ledger.enter("build", |_| segment::beside(work, base, &chosen))?);
                origin = Some(Origin::of(&chosen)?);
            }
            let spread = new.as_ref().and_then(|new| new.spread);
            let drift = spread.and_then(|spread| segment::drift(base.manifest(), spread));
            Ok(Some(Step {
                operation: "sync",
                dead,
                added: chosen.len() as u64,
                new,
                replaces_all: false,
                origin,
                drift: farthest(base, drift),
            }))
        };
        work.publish(ledger, step, |_| false)
    })
}
