//! Rows of one value of an attribute, a tenant's for example, and how a search keeps to them.
//!
//! A query that names a partition is compared with the partition's rows one by one where they are few, which touches no
//! row of another: in a `flat` index or a graph they lie one behind the other. Of a partition of more rows than a search
//! of the whole index would compare, and more than [`EXACT_PARTITION_ROWS`], the rows are a mask that the search looks past, as it does
//! with a filter's.

use std::ops::Range;

use super::query::QueryError;
use super::{LoadError, agrees};
use crate::artifact::partitions::{PartitionRows, Partitions};
use crate::index::RowMask;
use crate::store::Artifact;
use crate::vectors::{RowId, RowIdKind};

/// A partition of up to this many rows is always compared row by row, so that nothing in it can be missed: 4,096 rows of 1,024
/// dimensions take about as long as a search of a graph over a million of them (`pipelines/memory-nexus`).
pub const EXACT_PARTITION_ROWS: usize = 4096;

/// The partitions of all segments.
#[derive(Debug)]
pub(super) struct Partitioned {
    column: String,
    /// Each segment's, and the number of its first row.
    parts: Vec<(u32, Partitions)>,
}

/// Rows that are to be compared, by segment: runs of ordinals within it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub runs: Vec<Vec<Range<u32>>>,
    pub count: usize,
}

impl Partitioned {
    /// Of all segments; `None` where the index is not partitioned.
    pub fn of(artifact: &Artifact) -> Result<Option<Self>, LoadError> {
        let parts = artifact.segments().map(|segment| segment.partitions()).collect::<Result<Vec<_>, _>>()?;
        Self::of_parts(parts, &artifact.segment_rows())
    }

    pub fn of_parts(parts: Vec<Option<Partitions>>, rows: &[u64]) -> Result<Option<Self>, LoadError> {
        let column = |part: &Option<Partitions>| {
            part.as_ref().map_or("none".to_string(), |part| format!("`{}`", part.column()))
        };
        for part in &parts[1..] {
            agrees("partitions of the segments", column(&parts[0]), column(part))?;
            let kind = |part: &Option<Partitions>| {
                part.as_ref().map_or(String::new(), |part| format!("{:?}", part.keys().kind()))
            };
            agrees("keys of partitions of the segments", kind(&parts[0]), kind(part))?;
        }
        let firsts = rows.iter().scan(0, |next, rows| {
            let first = *next;
            *next += *rows as u32;
            Some(first)
        });
        let parts: Vec<(u32, Partitions)> =
            firsts.zip(parts).filter_map(|(first, part)| Some((first, part?))).collect();
        let Some((_, part)) = parts.first() else { return Ok(None) };
        Ok(Some(Self { column: part.column().into(), parts }))
    }

    pub fn column(&self) -> &str {
        &self.column
    }

    fn kind(&self) -> RowIdKind {
        self.parts[0].1.keys().kind()
    }

    /// A key as the column has it: a number may stand as a string, for those whose JSON would round it.
    fn typed(&self, key: &RowId) -> RowId {
        match key {
            RowId::Text(text) => self.kind().parse(text).unwrap_or_else(|_| key.clone()),
            key => key.clone(),
        }
    }

    /// A partition's rows of each segment, of those that `keep` lets through; none of a key that no row has. `None` for `keep`: all
    /// of them.
    pub fn chosen(&self, key: &RowId, keep: Option<&dyn Fn(u32) -> bool>) -> Chosen {
        let key = self.typed(key);
        let mut chosen = Chosen::default();
        for (first, partitions) in &self.parts {
            let rows = partitions.find(&key);
            let runs = match (&rows, keep) {
                (PartitionRows::Range(range), None) if range.is_empty() => Vec::new(),
                (PartitionRows::Range(range), None) => vec![range.clone()],
                (rows, None) => runs_of(rows.iter()),
                (rows, Some(keep)) => runs_of(rows.iter().filter(|row| keep(first + row))),
            };
            chosen.count += runs.iter().map(|run| run.len()).sum::<usize>();
            chosen.runs.push(runs);
        }
        chosen
    }

    /// The same rows, numbered through, ascending.
    pub fn ordinals(&self, chosen: &Chosen) -> Vec<u32> {
        let of = |((first, _), runs): (&(u32, Partitions), &Vec<Range<u32>>)| {
            let first = *first;
            runs.iter().cloned().flatten().map(move |row| first + row).collect::<Vec<_>>()
        };
        self.parts.iter().zip(&chosen.runs).flat_map(of).collect()
    }

    /// The same rows as a mask of all `rows`.
    pub fn mask(&self, chosen: &Chosen, rows: usize) -> RowMask {
        RowMask::from_ordinals(rows, self.ordinals(chosen))
    }

    /// The keys that occur, ascending in each segment, one that several segments have several times.
    pub fn keys(&self) -> impl Iterator<Item = RowId> + '_ {
        self.parts.iter().flat_map(|(_, part)| (0..part.count() as u32).map(|at| part.keys().get(at)))
    }
}

/// Ascending ordinals as runs.
fn runs_of(rows: impl Iterator<Item = u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for row in rows {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}

impl super::Index {
    /// The attribute that the index is partitioned by, where it is.
    pub fn partition_by(&self) -> Option<&str> {
        self.partitions.as_ref().map(Partitioned::column)
    }

    /// The partitions that occur, in order; some of them may have lost all their rows. `None` where the index is not partitioned.
    pub fn partition_keys(&self) -> Option<Vec<RowId>> {
        let mut keys: Vec<RowId> = self.partitions.as_ref()?.keys().collect();
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }

    /// The rows of a partition that are there, ascending; none of a key that no row has.
    ///
    /// # Errors
    /// [`QueryError::NoPartitions`].
    pub fn partition_ordinals(&self, key: &RowId) -> Result<Vec<u32>, QueryError> {
        let partitions = self.partitions.as_ref().ok_or(QueryError::NoPartitions)?;
        let is_live = |row: u32| self.live.as_ref().is_none_or(|live| live.contains(row));
        let keep: Option<&dyn Fn(u32) -> bool> = self.live.is_some().then_some(&is_live);
        Ok(partitions.ordinals(&partitions.chosen(key, keep)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_rows() {
        for rows in [vec![], vec![0], vec![0, 1, 2], vec![1, 3, 4, 9, 10, 12]] {
            let runs = runs_of(rows.iter().copied());
            assert_eq!(runs.iter().cloned().flatten().collect::<Vec<u32>>(), rows);
            assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
