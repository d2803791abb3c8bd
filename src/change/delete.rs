//! Rows go: their places stay, and no search finds them.

use std::collections::BTreeSet;

use super::append::farthest;
use super::base::Base;
use super::publish::Step;
use super::{ChangeOptions, ChangeSummary, at_work};
use crate::error::Error;
use crate::job::{Ledger, Progress};
use crate::loader::Filter;
use crate::vectors::RowId;

/// Which rows go.
#[derive(Debug, Clone)]
pub enum Delete {
    /// Those that bear these ids; an id that the index does not have is counted.
    Ids(Vec<RowId>),
    /// Those that pass.
    Where(Filter),
}

/// Publishes the latest version with fewer rows as the next one: with tombstones, and no new segment.
///
/// # Errors
/// A filter that does not fit; no row that would be left; a recall below the gate.
pub fn delete(options: &ChangeOptions, delete: &Delete, progress: &Progress) -> Result<ChangeSummary, Error> {
    at_work(options, progress, |work| {
        let mut unknown = 0;
        let step = |base: &Base, _: &mut Ledger| {
            let dead: BTreeSet<u32> = match delete {
                Delete::Ids(ids) => ids.iter().filter_map(|id| base.index.ids().find(id)).collect(),
                Delete::Where(filter) => base.index.mask(filter)?.iter().collect(),
            };
            if let Delete::Ids(ids) = delete {
                unknown = ids.iter().filter(|id| base.index.ids().find(id).is_none()).count() as u64;
            }
            if dead.is_empty() {
                return Ok(None);
            }
            Ok(Some(Step {
                operation: "delete",
                dead,
                new: None,
                replaces_all: false,
                added: 0,
                origin: None,
                drift: farthest(base, None),
            }))
        };
        let mut summary = work.publish(Ledger::default(), step, |_| false)?;
        summary.unknown = unknown;
        Ok(summary)
    })
}
