//! Several indexes asked as one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow_array::RecordBatch;

use super::answers::{Answers, Match};
use super::query::{Query, QueryError};
use super::search::Prepared;
use super::{Hit, Index, LoadError, attributes, same};
use crate::vectors::VectorView;

/// Indexes over parts of one set of rows: the same dimension, metric and kind of ids. Rows that several of them have
/// are found several times.
pub struct Shards {
    indexes: Vec<Arc<Index>>,
    waiting: Mutex<Vec<Scratch>>,
}

/// Memory for merging.
#[derive(Default)]
struct Scratch {
    /// Of each shard.
    answers: Vec<Answers>,
    matches: Vec<Match>,
}

impl Shards {
    /// # Errors
    /// Indexes of which one cannot be asked what another can; no index at all.
    pub fn new(indexes: Vec<Arc<Index>>) -> Result<Self, LoadError> {
        let first = indexes.first().ok_or(LoadError::NoShards)?;
        for index in &indexes[1..] {
            same("dim of a shard", first.dim(), index.dim())?;
            same("metric of a shard", first.metric(), index.metric())?;
            let kind = |index: &Index| format!("{:?}", index.ids().kind());
            same("kind of ids of a shard", kind(first), kind(index))?;
        }
        Ok(Self { indexes, waiting: Mutex::default() })
    }

    pub fn indexes(&self) -> &[Arc<Index>] {
        &self.indexes
    }

    /// Of all shards, see [`Index::rows`]: some of them may be of rows that were deleted.
    pub fn rows(&self) -> usize {
        self.indexes.iter().map(|index| index.rows()).sum()
    }

    /// Rows of all shards that a search can find.
    pub fn live_rows(&self) -> usize {
        self.indexes.iter().map(|index| index.live_rows()).sum()
    }

    pub fn dim(&self) -> usize {
        self.indexes[0].dim()
    }

    /// The id, distance and similarity of a match.
    pub fn hit(&self, found: Match) -> Hit {
        self.indexes[found.shard as usize].hit(found)
    }

    /// Makes a query ready: each shard resolves it for itself, by its own certificate.
    ///
    /// # Errors
    /// As [`Index::prepare`]; attributes that are not of one type in all shards.
    pub fn prepare(&self, query: &Query) -> Result<PreparedShards<'_>, QueryError> {
        // The nearest of all may all be one shard's.
        let mut of_shard = query.clone();
        of_shard.offset = 0;
        of_shard.options.k = query.options.k.saturating_add(query.offset);
        // Said of what was asked, not of the sum.
        self.indexes[0].setting(&query.options)?;
        let parts =
            self.indexes.iter().map(|index| index.prepare(&of_shard)).collect::<Result<Vec<_>, _>>()?;
        for (shard, part) in parts.iter().enumerate() {
            check_attributes(&parts[0], shard, part)?;
        }
        let k = query.options.k.min(self.rows().saturating_sub(query.offset));
        Ok(PreparedShards { shards: self, parts, k, offset: query.offset })
    }

    /// As [`Index::ask`], over all shards.
    pub fn ask(&self, queries: VectorView<'_>, query: &Query) -> Result<Answers, QueryError> {
        let start = Instant::now();
        let mut answers = Answers::new();
        self.prepare(query)?.search_since(start, queries, &mut answers)?;
        Ok(answers)
    }
}

/// That a shard's attributes are those of the first.
fn check_attributes(first: &Prepared<'_>, shard: usize, part: &Prepared<'_>) -> Result<(), QueryError> {
    let described = |part: &Prepared<'_>, column: usize| match part.attribute_fields().nth(column) {
        Some(field) => (field.name().clone(), field.data_type().to_string()),
        None => ("none".into(), "missing".into()),
    };
    for column in 0..first.attribute_fields().len().max(part.attribute_fields().len()) {
        let expected = described(first, column);
        let got = described(part, column);
        if expected != got {
            let text = |(name, data_type): &(String, String)| format!("`{name}` ({data_type})");
            let (column, expected) = (expected.0.clone(), text(&expected));
            return Err(QueryError::ShardAttribute { column, shard, expected, got: text(&got) });
        }
    }
    Ok(())
}

/// A query bound to shards.
pub struct PreparedShards<'a> {
    shards: &'a Shards,
    parts: Vec<Prepared<'a>>,
    k: usize,
    offset: usize,
}

impl PreparedShards<'_> {
    /// The nearest rows of all shards, ascending by (distance, shard, ordinal). As [`Prepared::search`] otherwise.
    pub fn search(&self, queries: VectorView<'_>, answers: &mut Answers) -> Result<(), QueryError> {
        self.search_since(Instant::now(), queries, answers)
    }

    fn search_since(
        &self,
        start: Instant,
        queries: VectorView<'_>,
        answers: &mut Answers,
    ) -> Result<(), QueryError> {
        let waiting = &self.shards.waiting;
        let mut scratch = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        scratch.answers.resize_with(self.parts.len(), Answers::new);
        let mut parts = self.parts.iter().zip(&mut scratch.answers);
        let asked = parts.try_for_each(|(part, answers)| part.search_since(start, queries, answers));
        if asked == Ok(()) {
            self.merge(queries.rows(), &mut scratch, answers);
        }
        waiting.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        asked
    }

    fn merge(&self, queries: usize, scratch: &mut Scratch, answers: &mut Answers) {
        let Scratch { answers: of_shards, matches } = scratch;
        answers.reset(queries, self.k);
        for query in 0..queries {
            matches.clear();
            for (shard, of_shard) in (0u32..).zip(&*of_shards) {
                matches.extend(of_shard.of(query).iter().map(|&found| Match { shard, ..found }));
            }
            matches.sort_unstable_by_key(Match::key);
            answers.slots(query).fill(matches.iter().skip(self.offset).copied());
        }
    }

    /// As [`Prepared::attributes`], over all shards.
    pub fn attributes(&self, answers: &Answers) -> RecordBatch {
        let shards: Vec<_> = self.parts.iter().map(Prepared::columns).collect();
        attributes::take(&shards.iter().map(AsRef::as_ref).collect::<Vec<_>>(), answers)
    }
}
