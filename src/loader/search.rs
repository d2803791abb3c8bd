//! A query made ready for one index, and its way through it.
//!
//! Under a filter there are two ways: compare the allowed rows one by one, or walk the index and look past those that
//! are not allowed. The first costs as many comparisons as rows are allowed, whatever the query. The second costs what
//! the walk costs without a filter, times the rows that it must look past for each that it may return. The cheaper is
//! taken: on minilm100k at `ef_search` 48 a walk that widens and a scan answer 1,225 and 1,570 queries per CPU-second where
//! 10 % of the rows are allowed, 1,245 and 361 where 34 % are. And since the rows allowed may lie far from the query,
//! where a walk finds few of them, one that would cost as much as the scan gives up, and the rows are scanned.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use rayon::prelude::*;

use super::answers::{Answers, Match, Slots};
use super::partitions::{Chosen, EXACT_PARTITION_ROWS};
use super::query::{self, Query, QueryError, Threshold};
use super::segments::{Exact, ExactSearcher};
use super::{Index, SearchOptions, attributes};
use crate::artifact::{FetchError, FetchStats};
use crate::index::{Allowed, BATCH, RowMask, SearchParams, Searcher, queries_per_task};
use crate::vectors::{Metric, Neighbor, RowId, VectorView, normalize};

/// Up to this many more rows are asked for to leave the excluded ones out afterwards; for more, a mask is made.
const MAX_EXTRA: usize = 64;

/// A query bound to an index: options resolved, the filter evaluated. Ask it as often as you like, from any thread.
pub struct Prepared<'a> {
    index: &'a Index,
    way: Way,
    mask: Option<Arc<RowMask>>,
    /// Of a partition: the rows to compare one by one, in place of a mask.
    chosen: Option<Chosen>,
    /// Ascending; where there is a mask, it has them already.
    excluded: Vec<u32>,
    threshold: Option<Threshold>,
    offset: usize,
    k: usize,
    /// The places of those asked for, …
    places: Vec<usize>,
    /// … and their columns: of a lazy index that has not read them yet, from the first search on, which reads them meanwhile.
    attributes: OnceLock<RecordBatch>,
    fetched: FetchStats,
    timeout: Option<Duration>,
    until: Option<Instant>,
}

/// How the rows are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// No row is allowed.
    Nothing,
    /// The allowed rows are compared one by one.
    Exact { k: usize },
    /// The index is searched.
    Index(SearchParams),
    /// The index is searched under the mask, with as much patience as scanning the allowed rows costs.
    Masked { params: SearchParams, patience: usize },
}

impl<'a> Prepared<'a> {
    /// `start` is when the call began that `query` limits.
    pub(super) fn new(index: &'a Index, query: &Query, start: Instant) -> Result<Self, QueryError> {
        let wanted = query.options.k.saturating_add(query.offset);
        // k itself is checked, not the sum.
        index.setting(&query.options)?;
        let setting = index.setting(&SearchOptions { k: wanted, ..query.options.clone() })?;
        if let Some(threshold) = query.threshold {
            threshold.check(index.metric())?;
        }
        let limit = Limit::of(start, query.timeout, query.until);
        let places = attributes::resolve(index.attribute_schema(), &query.attributes)?;
        let mut excluded: Vec<u32> = query.exclude.iter().filter_map(|id| index.ids().find(id)).collect();
        excluded.sort_unstable();
        excluded.dedup();
        let (mut mask, fetched) = match &query.filter {
            Some(filter) => {
                let (mask, fetched) = index.mask_within(filter, limit)?;
                (Some(mask).filter(|mask| mask.count() < mask.rows()), fetched)
            }
            None => (None, FetchStats::default()),
        };
        if !excluded.is_empty() && (mask.is_some() || excluded.len() > MAX_EXTRA) {
            let without = match &mask {
                Some(mask) => mask.without(&excluded),
                None => match &index.live {
                    Some(live) => live.without(&excluded),
                    None => RowMask::all(index.rows()).without(&excluded),
                },
            };
            mask = Some(Arc::new(without));
            excluded.clear();
        }
        let k = wanted.saturating_add(excluded.len()).min(index.rows());
        let chosen = query.partition.as_ref().map(|key| chosen(index, key, mask.as_deref())).transpose()?;
        let (way, chosen) = match chosen {
            None => (way(index, setting, k, mask.as_deref()), None),
            Some(chosen) => {
                let way = way_in_partition(index, setting, k, chosen.count);
                if let Way::Masked { .. } = way {
                    let partitions = index.partitions.as_ref().expect("they have chosen");
                    mask = Some(Arc::new(partitions.mask(&chosen, index.rows())));
                    (way, None)
                } else {
                    (way, Some(chosen))
                }
            }
        };
        let attributes = OnceLock::new();
        if index.attributes.are_here(&places) {
            let _ = attributes.set(index.columns(&places, limit)?.0);
        }
        let (threshold, offset) = (query.threshold, query.offset);
        let k = query.options.k.min(index.rows().saturating_sub(offset));
        Ok(Self {
            index,
            way,
            mask,
            chosen,
            excluded,
            threshold,
            offset,
            k,
            places,
            attributes,
            fetched,
            timeout: query.timeout,
            until: query.until,
        })
    }

    /// How the rows are found: for whoever wants to know why a query costs what it costs.
    pub fn way(&self) -> Way {
        self.way
    }

    /// What making it ready has fetched, of a lazy index.
    pub fn fetched(&self) -> FetchStats {
        self.fetched
    }

    /// The names and types of the attributes asked for.
    pub(super) fn attribute_fields(&self) -> impl ExactSizeIterator<Item = &Field> {
        let schema = self.index.attribute_schema();
        self.places.iter().map(move |&place| schema.expect("places are of a schema").field(place))
    }

    /// Rows that the filter, and the exclusions where they are many, let through.
    pub fn allowed_rows(&self) -> usize {
        match (&self.chosen, &self.mask) {
            (Some(chosen), _) => chosen.count,
            (None, Some(mask)) => mask.count(),
            (None, None) => self.index.live_rows(),
        }
    }

    /// The nearest rows of each query into `answers`. Up to 16 queries are searched on the caller's thread, more on all
    /// threads of its pool; what is found does not depend on their number. After the first calls nothing is
    /// allocated for a query, only a list for each batch in families that share no work within one.
    ///
    /// # Errors
    /// As [`Index::ask`].
    pub fn search(&self, queries: VectorView<'_>, answers: &mut Answers) -> Result<(), QueryError> {
        self.search_since(Instant::now(), queries, answers)
    }

    pub(super) fn search_since(
        &self,
        start: Instant,
        queries: VectorView<'_>,
        answers: &mut Answers,
    ) -> Result<(), QueryError> {
        self.index.check_intact()?;
        query::check(queries, self.index.dim(), self.index.metric())?;
        answers.reset(queries.rows(), self.k);
        if self.k == 0 {
            return Ok(());
        }
        let limit = Limit::of(start, self.timeout, self.until);
        let clock = Clock { end: limit.and_then(|limit| limit.end), ..Clock::default() };
        let (matches, counts) = answers.places();
        let columns = if self.attributes.get().is_none() {
            std::thread::scope(|scope| {
                let columns = scope.spawn(|| self.index.columns(&self.places, limit));
                self.tasks(queries, matches, counts, &clock);
                Some(columns.join().expect("reading columns does not panic"))
            })
        } else {
            self.tasks(queries, matches, counts, &clock);
            None
        };
        let (mut fetched, failure) = std::mem::take(&mut *clock.fetched());
        let failure = failure.map(|error| {
            let progress = [clock.answered.load(Ordering::Relaxed), queries.rows()];
            QueryError::of_fetch(&error, limit.map(|limit| limit.timeout), progress)
        });
        let failure = match columns.transpose() {
            Ok(columns) => {
                if let Some((columns, beside)) = columns {
                    fetched = fetched.beside(beside);
                    let _ = self.attributes.set(columns);
                }
                failure
            }
            Err(error) => failure.or(Some(error)),
        };
        if let Some(error) = failure {
            answers.reset(0, self.k);
            return Err(error);
        }
        answers.fetched = fetched;
        match limit {
            Some(Limit { timeout, .. }) if clock.is_over.into_inner() => {
                let (answered, queries) = (clock.answered.into_inner(), queries.rows());
                answers.reset(0, self.k);
                Err(QueryError::TimeOut { timeout, answered, queries })
            }
            _ => Ok(()),
        }
    }

    /// On this thread, or on all of its pool.
    fn tasks(&self, queries: VectorView<'_>, matches: &mut [Match], counts: &mut [u32], clock: &Clock) {
        // What a task needs of a lazy index is fetched at once, and waiting costs more than searching.
        let lazy = self.index.lazy.is_some();
        let per_task =
            if lazy { BATCH } else { queries_per_task(queries.rows(), rayon::current_num_threads()) };
        if queries.rows() <= per_task {
            return self.task(queries, matches, counts, clock);
        }
        matches.par_chunks_mut(per_task * self.k).zip(counts.par_chunks_mut(per_task)).enumerate().for_each(
            |(task, (matches, counts))| {
                let start = task * per_task;
                self.task(queries.slice(start, start + counts.len()), matches, counts, clock);
            },
        );
    }

    fn task(&self, queries: VectorView<'_>, matches: &mut [Match], counts: &mut [u32], clock: &Clock) {
        if clock.has_ended() {
            return;
        }
        let mut session = self.index.sessions.take(self.index);
        let Session { searcher, exact, queries: prepared, found } = &mut session;
        let queries = prepared.load(queries, self.index.metric());
        searcher.fetch_until(clock.end);
        exact.iter_mut().for_each(|exact| exact.fetch_until(clock.end));
        let mut put = |query: usize, found: &[Neighbor]| {
            let slots = Slots {
                matches: &mut matches[query * self.k..(query + 1) * self.k],
                count: &mut counts[query],
            };
            slots.fill(self.wanted(found));
        };
        let mask = self.mask.as_deref();
        match (self.way, mask, &mut *exact) {
            (Way::Nothing, ..) => {}
            (Way::Exact { k }, _, Some(exact)) if let Some(chosen) = &self.chosen => {
                exact.search_chosen(queries, k, chosen, &mut put);
            }
            (Way::Exact { k }, mask, Some(exact)) => exact.search_among(queries, k, mask, &mut put),
            (Way::Masked { params, patience }, Some(mask), exact) => {
                let allowed = Allowed { mask, patience };
                for (query, values) in queries.iter().enumerate() {
                    let one = VectorView::new(values, queries.dim());
                    match exact {
                        _ if searcher.search_masked(values, &params, &allowed, found) => put(query, found),
                        Some(exact) => {
                            exact.search_among(one, params.k, Some(mask), &mut |_, found| put(query, found));
                        }
                        None => {}
                    }
                }
            }
            (Way::Index(params), ..) if queries.rows() == 1 => {
                searcher.search(queries.row(0), &params, found);
                put(0, found);
            }
            (Way::Index(params), ..) => searcher.search_batch(queries, &params, &mut put),
            (Way::Exact { .. } | Way::Masked { .. }, ..) => {
                unreachable!("a way is only taken where there is what it takes")
            }
        }
        // Both are asked, whatever one says: a failure that stays would be told to the session's next query.
        let (searched, compared) =
            (searcher.fetched(), exact.as_mut().map_or(Ok(FetchStats::default()), ExactSearcher::fetched));
        let fetched = searched.and_then(|searched| Ok(searched.then(compared?)));
        let is_answered = fetched.is_ok();
        clock.note(fetched);
        self.index.sessions.put_back(session);
        if is_answered {
            clock.count(counts.len());
        }
    }

    /// What of the rows found was asked for.
    fn wanted<'f>(&'f self, found: &'f [Neighbor]) -> impl Iterator<Item = Match> + 'f {
        let metric = self.index.metric();
        let near = move |neighbor: &&Neighbor| {
            self.threshold.is_none_or(|threshold| threshold.admits(metric, neighbor.distance))
        };
        found
            .iter()
            .take_while(near)
            .filter(|neighbor| self.excluded.binary_search(&neighbor.ordinal).is_err())
            .skip(self.offset)
            .map(|&neighbor| Match::of(neighbor))
    }

    /// The attributes asked for, a row per match: of the first query, then of the second, and so on.
    ///
    /// # Panics
    /// If the answers are another index's or, of a lazy index, another query's.
    pub fn attributes(&self, answers: &Answers) -> RecordBatch {
        attributes::take(&[&*self.columns()], answers)
    }
}

impl Prepared<'_> {
    /// The attributes asked for, of all rows; of none, where nothing was searched for so far.
    pub(super) fn columns(&self) -> Cow<'_, RecordBatch> {
        let none = || {
            RecordBatch::new_empty(Arc::new(Schema::new(
                self.attribute_fields().cloned().collect::<Vec<_>>(),
            )))
        };
        self.attributes.get().map_or_else(|| Cow::Owned(none()), Cow::Borrowed)
    }
}

/// How to find `k` rows at a setting (`None`: exactly) among those of a mask.
fn way(index: &Index, setting: Option<SearchParams>, k: usize, mask: Option<&RowMask>) -> Way {
    let (Some(setting), Some(mask)) = (setting, mask) else {
        return match setting {
            _ if mask.is_some_and(|mask| mask.count() == 0) => Way::Nothing,
            None => Way::Exact { k },
            Some(setting) => Way::Index(SearchParams { k, ..setting }),
        };
    };
    match mask.count() {
        0 => Way::Nothing,
        allowed => way_among(index, setting, k, allowed),
    }
}

/// The rows of a partition that are there and that a mask allows.
fn chosen(index: &Index, key: &RowId, mask: Option<&RowMask>) -> Result<Chosen, QueryError> {
    let partitions = index.partitions.as_ref().ok_or(QueryError::NoPartitions)?;
    // A filter's mask allows rows that are there only.
    let allowed = mask.or(index.live.as_deref());
    let is_allowed = |row: u32| allowed.is_some_and(|allowed| allowed.contains(row));
    let keep: Option<&dyn Fn(u32) -> bool> = allowed.is_some().then_some(&is_allowed);
    Ok(partitions.chosen(key, keep))
}

/// How to find `k` rows among so many of a partition.
fn way_in_partition(index: &Index, setting: Option<SearchParams>, k: usize, allowed: usize) -> Way {
    match setting {
        _ if allowed == 0 => Way::Nothing,
        None => Way::Exact { k },
        Some(_) if index.exact.is_some() && allowed <= EXACT_PARTITION_ROWS => Way::Exact { k },
        Some(setting) => way_among(index, setting, k, allowed),
    }
}

/// How to find `k` rows among so many that are allowed, one or more.
fn way_among(index: &Index, setting: SearchParams, k: usize, allowed: usize) -> Way {
    let params = SearchParams { k, ..setting };
    let can_scan = index.exact.is_some();
    let walk = index.family.rows_compared_among(&params, allowed);
    if can_scan && (allowed <= walk || k >= allowed) {
        return Way::Exact { k };
    }
    Way::Masked { params, patience: if can_scan { allowed } else { usize::MAX } }
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub timeout: Duration,
    /// `None`: beyond what a clock tells.
    pub end: Option<Instant>,
}

impl Limit {
    /// For a call that began at `start`, by what its query says.
    pub fn of(start: Instant, timeout: Option<Duration>, until: Option<Instant>) -> Option<Self> {
        let left = until.map(|until| until.saturating_duration_since(start));
        let timeout = timeout.or(left)?;
        let own_end = start.checked_add(timeout);
        let end = own_end.into_iter().chain(until).min();
        Some(Self { timeout, end })
    }
}

/// When a call ends, how far it got, and what it has fetched.
#[derive(Default)]
struct Clock {
    end: Option<Instant>,
    is_over: AtomicBool,
    answered: AtomicUsize,
    fetched: Mutex<(FetchStats, Option<FetchError>)>,
}

impl Clock {
    fn has_ended(&self) -> bool {
        let ended = self.end.is_some_and(|end| Instant::now() >= end);
        if ended {
            self.is_over.store(true, Ordering::Relaxed);
        }
        ended
    }

    fn count(&self, answered: usize) {
        self.answered.fetch_add(answered, Ordering::Relaxed);
    }

    fn fetched(&self) -> MutexGuard<'_, (FetchStats, Option<FetchError>)> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a task has fetched, and whether it could. The first failure is the call's.
    fn note(&self, task: Result<FetchStats, FetchError>) {
        let mut fetched = self.fetched();
        match task {
            Ok(task) => fetched.0 = fetched.0.beside(task),
            Err(error) => fetched.1 = fetched.1.take().or(Some(error)),
        }
    }
}

/// One thread's memory for searching.
pub(super) struct Session {
    searcher: Box<dyn Searcher>,
    exact: Option<ExactSearcher>,
    queries: LoadedQueries,
    found: Vec<Neighbor>,
}

/// Queries as families take them: for cosine of unit length.
#[derive(Default)]
struct LoadedQueries(Vec<f32>);

impl LoadedQueries {
    fn load(&mut self, queries: VectorView<'_>, metric: Metric) -> VectorView<'_> {
        self.0.clear();
        self.0.extend_from_slice(queries.as_slice());
        if metric == Metric::Cosine {
            self.0.chunks_exact_mut(queries.dim()).for_each(|query| {
                normalize(query);
            });
        }
        VectorView::new(&self.0, queries.dim())
    }
}

/// Sessions that nobody uses just now: as many as there were ever threads searching at once.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Vec<Session>>);

impl Sessions {
    fn take(&self, index: &Index) -> Session {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        waiting.unwrap_or_else(|| Session {
            searcher: index.family.clone().searcher(),
            exact: index.exact.clone().map(Exact::searcher),
            queries: LoadedQueries::default(),
            found: Vec::new(),
        })
    }

    fn put_back(&self, session: Session) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }
}
