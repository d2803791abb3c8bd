//! Several segments, some of their rows no longer there, searched as one index. An index of one segment without
//! tombstones has nothing to do with this: it is searched as it is.
//!
//! Rows are numbered through, segment after segment. Each segment is searched at the setting that was asked for, and the
//! nearest of all that they find are the answer, by (distance, ordinal): what a family promises of one segment it then
//! keeps for all. Rows that are not there are looked past as those that a filter keeps away.

use std::sync::Arc;
use std::time::Instant;

use super::partitions::Chosen;
use crate::artifact::{FetchError, FetchStats, Section};
use crate::flat::{FlatIndex, FlatSearcher};
use crate::index::{Allowed, KeptVectors, RowMask, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor, VectorView};

/// One or more segments of one family, dimension and metric.
pub struct Segments {
    parts: Vec<Part>,
    rows: usize,
}

/// One segment.
struct Part {
    index: Arc<dyn SearchIndex>,
    /// Number of its first row.
    first: u32,
    /// Its rows that are there; `None` where all are.
    live: Option<RowMask>,
    exact: Option<Arc<FlatIndex>>,
}

impl Segments {
    /// Of segments, one or more, each with its dead rows.
    ///
    /// # Panics
    /// If there is none, or they have more rows than can be numbered.
    pub fn new(parts: Vec<(Arc<dyn SearchIndex>, &[u32])>) -> Self {
        let mut rows = 0usize;
        let parts: Vec<Part> = parts
            .into_iter()
            .map(|(index, dead)| {
                let first = u32::try_from(rows).expect("rows that can be numbered");
                rows += index.rows();
                let live = (!dead.is_empty()).then(|| RowMask::all(index.rows()).without(dead));
                let exact = index.kept().map(|kept| Arc::new(FlatIndex::over(kept.clone(), index.metric())));
                Part { index, first, live, exact }
            })
            .collect();
        assert!(!parts.is_empty() && rows <= u32::MAX as usize, "{} segments of {rows} rows", parts.len());
        Self { parts, rows }
    }

    /// Each segment by itself.
    pub fn indexes(&self) -> impl ExactSizeIterator<Item = &Arc<dyn SearchIndex>> {
        self.parts.iter().map(|part| &part.index)
    }

    /// The rows of a segment that are there; `None` where all are.
    pub fn live_of(&self, segment: usize) -> Option<&RowMask> {
        self.parts[segment].live.as_ref()
    }

    /// The ordinals of the rows that are there, ascending.
    pub fn live_ordinals(&self) -> Vec<u32> {
        let of = |part: &Part| -> Vec<u32> {
            match &part.live {
                Some(live) => live.iter().map(|row| part.first + row).collect(),
                None => (part.first..part.first + part.index.rows() as u32).collect(),
            }
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// Where all segments keep their vectors, so that they can be searched exactly.
    pub fn keep_vectors(&self) -> bool {
        self.parts.iter().all(|part| part.exact.is_some())
    }

    /// The vector of a row, where its segment keeps it.
    pub fn vector(&self, ordinal: u32) -> Option<Vec<f32>> {
        let mut vector = Vec::with_capacity(self.dim());
        self.push_vector(ordinal, &mut vector).then_some(vector)
    }

    /// Adds a row's vector to `out`; whether its segment keeps it.
    pub fn push_vector(&self, ordinal: u32, out: &mut Vec<f32>) -> bool {
        let place = self.parts.partition_point(|part| part.first <= ordinal) - 1;
        let part = &self.parts[place];
        let kept = part.index.kept();
        kept.iter().for_each(|kept| kept.push_to(ordinal - part.first, out));
        kept.is_some()
    }

    /// The largest segment: what holds of it holds of most rows.
    fn largest(&self) -> &Part {
        let largest = self.parts.iter().rev().max_by_key(|part| part.index.rows());
        largest.expect("one segment or more")
    }
}

impl SearchIndex for Segments {
    fn rows(&self) -> usize {
        self.rows
    }

    fn dim(&self) -> usize {
        self.parts[0].index.dim()
    }

    fn metric(&self) -> Metric {
        self.parts[0].index.metric()
    }

    fn effort_name(&self) -> Option<&'static str> {
        self.parts[0].index.effort_name()
    }

    fn ladder(&self, k: usize) -> Vec<SearchParams> {
        self.largest().index.ladder(k)
    }

    fn rows_compared(&self, params: &SearchParams) -> usize {
        let compared = |rows: usize, part: &Part| rows.saturating_add(part.index.rows_compared(params));
        self.parts.iter().fold(0, compared)
    }

    /// As if the allowed rows were spread evenly.
    fn rows_compared_among(&self, params: &SearchParams, allowed: usize) -> usize {
        let compared = |rows: usize, part: &Part| {
            let own = (allowed as u64 * part.index.rows() as u64).div_ceil(self.rows as u64) as usize;
            rows.saturating_add(part.index.rows_compared_among(params, own))
        };
        self.parts.iter().fold(0, compared)
    }

    /// No array has all of them.
    fn kept(&self) -> Option<&KeptVectors> {
        None
    }

    fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
        Box::new(SegmentsSearcher {
            searchers: self.parts.iter().map(|part| part.index.clone().searcher()).collect(),
            allowed: RowMask::all(0),
            of_part: Vec::new(),
            merging: Merging::default(),
            segments: self,
        })
    }

    /// Those of each segment in turn.
    fn sections(&self) -> Vec<Section> {
        self.parts.iter().flat_map(|part| part.index.sections()).collect()
    }
}

/// What the segments have found so far, for each query of a batch.
#[derive(Default)]
struct Merging {
    found: Vec<Vec<Neighbor>>,
}

impl Merging {
    fn begin(&mut self, queries: usize) {
        self.found.resize_with(self.found.len().max(queries), Vec::new);
        self.found[..queries].iter_mut().for_each(Vec::clear);
    }

    fn add(&mut self, query: usize, first: u32, found: &[Neighbor]) {
        let numbered = found.iter().map(|found| Neighbor::new(first + found.ordinal, found.distance));
        self.found[query].extend(numbered);
    }

    /// The `k` nearest of a query.
    fn finish(&mut self, query: usize, k: usize) -> &[Neighbor] {
        let found = &mut self.found[query];
        found.sort_unstable();
        &found[..k.min(found.len())]
    }
}

struct SegmentsSearcher {
    segments: Arc<Segments>,
    searchers: Vec<Box<dyn Searcher>>,
    /// The rows of one segment that a search under a mask may find.
    allowed: RowMask,
    of_part: Vec<Neighbor>,
    merging: Merging,
}

impl Searcher for SegmentsSearcher {
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        self.merging.begin(1);
        for (part, searcher) in self.segments.parts.iter().zip(&mut self.searchers) {
            match &part.live {
                None => searcher.search(query, params, &mut self.of_part),
                Some(live) if live.count() == 0 => continue,
                Some(live) => {
                    searcher.search_masked(query, params, &Allowed::patiently(live), &mut self.of_part);
                }
            }
            self.merging.add(0, part.first, &self.of_part);
        }
        found.clear();
        found.extend_from_slice(self.merging.finish(0, params.k));
    }

    fn search_masked(
        &mut self,
        query: &[f32],
        params: &SearchParams,
        allowed: &Allowed<'_>,
        found: &mut Vec<Neighbor>,
    ) -> bool {
        assert_eq!(allowed.mask.rows(), self.segments.rows, "a mask of all segments' rows");
        found.clear();
        self.merging.begin(1);
        for (part, searcher) in self.segments.parts.iter().zip(&mut self.searchers) {
            let (start, rows) = (part.first as usize, part.index.rows());
            self.allowed.load_part(allowed.mask, start, rows, part.live.as_ref());
            if self.allowed.count() == 0 {
                continue;
            }
            // Each segment may take its share.
            let patience = match allowed.patience {
                usize::MAX => usize::MAX,
                all => {
                    (all as u64 * self.allowed.count() as u64).div_ceil(allowed.mask.count() as u64) as usize
                }
            };
            let own = Allowed { mask: &self.allowed, patience };
            if !searcher.search_masked(query, params, &own, &mut self.of_part) {
                return false;
            }
            self.merging.add(0, part.first, &self.of_part);
        }
        found.extend_from_slice(self.merging.finish(0, params.k));
        true
    }

    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        self.merging.begin(queries.rows());
        for (part, searcher) in self.segments.parts.iter().zip(&mut self.searchers) {
            match &part.live {
                None => searcher.search_batch(queries, params, &mut |query, found| {
                    self.merging.add(query, part.first, found);
                }),
                Some(live) if live.count() == 0 => {}
                Some(live) => {
                    for (number, query) in queries.iter().enumerate() {
                        searcher.search_masked(query, params, &Allowed::patiently(live), &mut self.of_part);
                        self.merging.add(number, part.first, &self.of_part);
                    }
                }
            }
        }
        for query in 0..queries.rows() {
            found(query, self.merging.finish(query, params.k));
        }
    }
}

/// An index's rows searched exactly.
#[derive(Clone)]
pub(super) enum Exact {
    One(Arc<FlatIndex>),
    Several(Arc<Segments>),
}

impl Exact {
    pub fn searcher(self) -> ExactSearcher {
        match self {
            Exact::One(index) => ExactSearcher::One(Box::new(FlatSearcher::new(index))),
            Exact::Several(segments) => {
                let exact = segments.parts.iter().flat_map(|part| part.exact.clone());
                ExactSearcher::Several(ExactSegments {
                    searchers: exact.map(FlatSearcher::new).collect(),
                    allowed: RowMask::all(0),
                    merging: Merging::default(),
                    segments,
                })
            }
        }
    }
}

pub(super) enum ExactSearcher {
    One(Box<FlatSearcher>),
    Several(ExactSegments),
}

pub(super) struct ExactSegments {
    segments: Arc<Segments>,
    searchers: Vec<FlatSearcher>,
    allowed: RowMask,
    merging: Merging,
}

impl ExactSearcher {
    /// As [`FlatSearcher::search_among`], of the rows that are there.
    pub fn search_among(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        mask: Option<&RowMask>,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        match self {
            ExactSearcher::One(searcher) => searcher.search_among(queries, k, mask, found),
            ExactSearcher::Several(segments) => segments.search_among(queries, k, mask, found),
        }
    }

    /// As [`FlatSearcher::search_runs`], of each segment's rows.
    pub fn search_chosen(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        chosen: &Chosen,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        match self {
            ExactSearcher::One(searcher) => searcher.search_runs(queries, k, &chosen.runs[0], found),
            ExactSearcher::Several(segments) => segments.search_chosen(queries, k, chosen, found),
        }
    }

    /// As [`Searcher::fetched`]. Several segments are all in memory.
    pub fn fetched(&mut self) -> Result<FetchStats, FetchError> {
        match self {
            ExactSearcher::One(searcher) => searcher.fetched(),
            ExactSearcher::Several(_) => Ok(FetchStats::default()),
        }
    }

    /// As [`Searcher::fetch_until`].
    pub fn fetch_until(&mut self, end: Option<Instant>) {
        match self {
            ExactSearcher::One(searcher) => searcher.fetch_until(end),
            ExactSearcher::Several(_) => {}
        }
    }
}

impl ExactSegments {
    fn search_chosen(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        chosen: &Chosen,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        self.merging.begin(queries.rows());
        let parts = self.segments.parts.iter().zip(&mut self.searchers).zip(&chosen.runs);
        for ((part, searcher), runs) in parts.filter(|(_, runs)| !runs.is_empty()) {
            searcher.search_runs(queries, k, runs, &mut |query, found| {
                self.merging.add(query, part.first, found);
            });
        }
        for query in 0..queries.rows() {
            found(query, self.merging.finish(query, k));
        }
    }

    fn search_among(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        mask: Option<&RowMask>,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        self.merging.begin(queries.rows());
        for (part, searcher) in self.segments.parts.iter().zip(&mut self.searchers) {
            let own = match mask {
                None => part.live.as_ref(),
                Some(mask) => {
                    let (start, rows) = (part.first as usize, part.index.rows());
                    self.allowed.load_part(mask, start, rows, part.live.as_ref());
                    Some(&self.allowed)
                }
            };
            searcher.search_among(queries, k, own, &mut |query, found| {
                self.merging.add(query, part.first, found);
            });
        }
        for query in 0..queries.rows() {
            found(query, self.merging.finish(query, k));
        }
    }
}
