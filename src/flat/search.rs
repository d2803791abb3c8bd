//! The exact index and its search.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::artifact::{FetchError, FetchStats, Fetching, Section};
use crate::compute::cpu::{ProductScan, kernels};
use crate::compute::rounding_error;
use crate::index::{
    Allowed, KeepError, KeptVectors, Precision, RowMask, SearchIndex, SearchParams, Searcher,
};
use crate::vectors::{Metric, Neighbor, TopK, VectorView};

/// All rows, compared one by one; with many queries at once by products of matrices.
#[derive(Debug)]
pub struct FlatIndex {
    pub(super) vectors: KeptVectors,
    pub(super) metric: Metric,
    /// Derived when many queries first ask for it.
    lengths: OnceLock<Lengths>,
}

/// What scores of products want to know of rows.
#[derive(Debug)]
struct Lengths {
    /// |row|² for L2, else zeros.
    offsets: Vec<f32>,
    /// The length of the longest row.
    greatest: f64,
}

impl FlatIndex {
    /// Keeps `rows` as they come: ordinals are their numbers.
    pub fn build(rows: VectorView<'_>, metric: Metric, precision: Precision) -> Result<Self, KeepError> {
        let order: Vec<u32> = (0..rows.rows() as u32).collect();
        Ok(Self::over(KeptVectors::gather(rows, &order, precision)?, metric))
    }

    /// Over vectors that another index keeps: the same rows, searched exactly.
    pub fn over(vectors: KeptVectors, metric: Metric) -> Self {
        Self { vectors, metric, lengths: OnceLock::new() }
    }

    fn lengths(&self, rows: VectorView<'_>) -> &Lengths {
        self.lengths.get_or_init(|| {
            let mut squares: Vec<f32> = rows.iter().map(|row| (kernels().dot)(row, row)).collect();
            let greatest = f64::from(squares.iter().copied().fold(0.0, f32::max)).sqrt();
            if self.metric != Metric::L2 {
                squares.fill(0.0);
            }
            Lengths { offsets: squares, greatest }
        })
    }
}

impl SearchIndex for FlatIndex {
    fn rows(&self) -> usize {
        self.vectors.rows()
    }

    fn dim(&self) -> usize {
        self.vectors.dim()
    }

    fn metric(&self) -> Metric {
        self.metric
    }

    fn effort_name(&self) -> Option<&'static str> {
        None
    }

    /// One setting: there is nothing to trade.
    fn ladder(&self, k: usize) -> Vec<SearchParams> {
        vec![SearchParams { k, effort: 1, refine: 0 }]
    }

    fn kept(&self) -> Option<&KeptVectors> {
        Some(&self.vectors)
    }

    fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
        Box::new(FlatSearcher::new(self))
    }

    fn rows_compared(&self, _: &SearchParams) -> usize {
        self.rows()
    }

    fn sections(&self) -> Vec<Section> {
        super::sections::write(self)
    }
}

/// Rows compared with all queries of a group before the next are touched: 128 × 100-d rows are 50 KB, so that
/// they stay in a core's cache.
const BLOCK_ROWS: usize = 128;

/// Queries that share a pass over the rows.
const GROUP_QUERIES: usize = 32;

/// Bytes of vectors that are fetched at once, where they lie elsewhere.
const WINDOW_BYTES: usize = 32 << 20;

/// A run of so many rows is read one behind the other; shorter ones are gathered.
const LONG_RUN: usize = 8;

/// Fewer queries than these are compared one by one.
const BY_PRODUCTS: usize = 8;

/// Rows beyond those wanted whose distances are computed as well, at least: scores order near ties by their rounding.
const SPARE: usize = 8;

impl Lengths {
    /// Whether no row whose score is `left` or more can be as near as `distance`.
    fn certain(&self, metric: Metric, query: &[f32], distance: f32, left: f32) -> bool {
        let square = f64::from((kernels().dot)(query, query));
        let score = match metric {
            Metric::L2 => f64::from(distance) - square,
            Metric::InnerProduct => f64::from(distance),
            Metric::Cosine => f64::from(distance) - 1.0,
            Metric::L1 | Metric::Hamming => metric.without_products(),
        };
        // Of the score, of the distance and of the two lengths.
        let rounding = rounding_error(metric, query.len(), square.sqrt(), self.greatest);
        score + rounding < f64::from(left)
    }
}

/// The rows that queries are compared with.
#[derive(Clone, Copy)]
enum Among<'a> {
    All,
    Mask(&'a RowMask),
    Runs(&'a [Range<u32>]),
}

/// A search session over all rows, or over some of them; one per thread.
pub struct FlatSearcher {
    index: Arc<FlatIndex>,
    /// Allowed rows that wait to be compared.
    ordinals: Vec<u32>,
    distances: Vec<f32>,
    /// One per query of a group, for `k` rows each.
    tops: Vec<TopK>,
    k: usize,
    batch: Batch,
    /// Where the vectors lie elsewhere.
    fetching: Fetching,
    /// That nobody has asked for so far.
    failure: Option<FetchError>,
}

/// What queries that are compared by products are worked on in, from one batch to the next.
#[derive(Default)]
struct Batch {
    scan: Option<ProductScan<'static>>,
    /// One per query, for `kept` rows each.
    candidates: Vec<TopK>,
    kept: usize,
    nearest: Vec<Neighbor>,
}

impl Batch {
    fn load(&mut self, queries: VectorView<'_>, metric: Metric, kept: usize) {
        if self.kept != kept {
            self.candidates.clear();
            self.kept = kept;
        }
        self.candidates.iter_mut().for_each(TopK::clear);
        while self.candidates.len() < queries.rows() {
            self.candidates.push(TopK::new(kept));
        }
        self.scan.get_or_insert_with(ProductScan::empty).load(queries, metric);
    }
}

impl FlatSearcher {
    pub fn new(index: Arc<FlatIndex>) -> Self {
        Self {
            index,
            ordinals: Vec::with_capacity(BLOCK_ROWS),
            distances: vec![0.0; BLOCK_ROWS],
            tops: Vec::new(),
            k: 0,
            batch: Batch::default(),
            fetching: Fetching::default(),
            failure: None,
        }
    }

    /// The `k` nearest of a mask's rows for each query, or of all rows; `found` is called once per query, in order.
    ///
    /// # Panics
    /// If the mask is of another number of rows.
    pub fn search_among(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        mask: Option<&RowMask>,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        self.search_rows(queries, k, mask.map_or(Among::All, Among::Mask), found);
    }

    /// The same of the rows of some runs, which do not overlap: no other row is touched.
    ///
    /// # Panics
    /// If a run ends beyond the last row.
    pub fn search_runs(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        runs: &[Range<u32>],
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        self.search_rows(queries, k, Among::Runs(runs), found);
    }

    fn search_rows(
        &mut self,
        queries: VectorView<'_>,
        k: usize,
        among: Among<'_>,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let index = self.index.clone();
        if let (Among::All, Some(rows)) = (among, index.vectors.view())
            && queries.rows() >= BY_PRODUCTS
            && !index.metric.is_exact_only()
            && k > 0
            && !rows.is_empty()
        {
            let block = ProductScan::block(rows.dim());
            for start in (0..queries.rows()).step_by(block) {
                let end = (start + block).min(queries.rows());
                let block = queries.slice(start, end);
                let mut of_block = |query, nearest: &[Neighbor]| found(start + query, nearest);
                self.by_products(rows, block, k.min(rows.rows()), &mut of_block);
            }
            return;
        }
        // What is fetched is fetched once for all.
        let group = if self.index.vectors.is_ranged() { queries.rows().max(1) } else { GROUP_QUERIES };
        for start in (0..queries.rows()).step_by(group) {
            let end = (start + group).min(queries.rows());
            if k == 0 || self.index.rows() == 0 || self.failure.is_some() {
                (start..end).for_each(|query| found(query, &[]));
                continue;
            }
            self.scan(queries.slice(start, end), k, among);
            if self.failure.is_some() {
                self.tops.iter_mut().for_each(TopK::clear);
            }
            for (query, top) in (start..end).zip(&mut self.tops) {
                found(query, top.sorted());
            }
        }
    }

    /// Of a block of queries the nearest rows. Products find candidates, a few more than are wanted, and their distances are
    /// computed directly. Where the scores of what was left aside could be those of nearer rows, for all that rounding may have done to
    /// them, the query is compared with every row.
    fn by_products(
        &mut self,
        rows: VectorView<'_>,
        queries: VectorView<'_>,
        k: usize,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let index = self.index.clone();
        let lengths = index.lengths(rows);
        let kept = (k + (k / 8).max(SPARE)).min(rows.rows());
        let mut batch = std::mem::take(&mut self.batch);
        batch.load(queries, index.metric, kept);
        let Batch { scan, candidates, nearest, .. } = &mut batch;
        let candidates = &mut candidates[..queries.rows()];
        let scan = scan.as_mut().expect("the queries were loaded");
        scan.rows(rows, &lengths.offsets, 0..rows.rows(), candidates);
        for (number, (query, candidates)) in queries.iter().zip(candidates).enumerate() {
            let scored = candidates.sorted();
            self.ordinals.clear();
            self.ordinals.extend(scored.iter().map(|candidate| candidate.ordinal));
            self.distances.resize(scored.len().max(BLOCK_ROWS), 0.0);
            let distances = &mut self.distances[..scored.len()];
            index.vectors.distances(index.metric, query, &self.ordinals, distances);
            nearest.clear();
            let rows_of = self.ordinals.iter().zip(&*distances);
            nearest.extend(rows_of.map(|(&ordinal, &distance)| Neighbor::new(ordinal, distance)));
            nearest.sort_unstable();
            // Scores that are not finite are not collected.
            let is_certain = match scored.last().filter(|_| scored.len() == kept) {
                Some(_) if kept == rows.rows() => true,
                Some(last) => lengths.certain(index.metric, query, nearest[k - 1].distance, last.distance),
                None => false,
            };
            self.ordinals.clear();
            if is_certain {
                found(number, &nearest[..k]);
            } else {
                self.scan(VectorView::new(query, rows.dim()), k, Among::All);
                found(number, self.tops[0].sorted());
            }
        }
        self.batch = batch;
    }

    /// Fills `tops[i]` for each query.
    fn scan(&mut self, queries: VectorView<'_>, k: usize, among: Among<'_>) {
        let k = k.min(self.index.rows());
        if self.k != k {
            self.tops.clear();
            self.k = k;
        }
        while self.tops.len() < queries.rows() {
            self.tops.push(TopK::new(k));
        }
        self.tops.iter_mut().for_each(TopK::clear);
        if let Among::Mask(mask) = among {
            assert_eq!(mask.rows(), self.index.rows(), "a mask of the index's rows");
        }
        if self.index.vectors.is_ranged() {
            let scanned = match among {
                Among::All => self.scan_fetched(queries),
                Among::Mask(mask) => self.scan_fetched_rows(queries, &mut mask.iter()),
                Among::Runs(runs) => self.scan_fetched_rows(queries, &mut runs.iter().cloned().flatten()),
            };
            self.failure = scanned.err();
            return;
        }
        match among {
            Among::All => self.scan_range(queries, 0..self.index.rows()),
            Among::Mask(mask) => self.scan_rows(queries, &mut mask.iter()),
            Among::Runs(runs) => {
                let is_long = |run: &&Range<u32>| run.len() >= LONG_RUN;
                for run in runs.iter().filter(is_long) {
                    self.scan_range(queries, run.start as usize..run.end as usize);
                }
                self.scan_rows(queries, &mut runs.iter().filter(|run| !is_long(run)).cloned().flatten());
            }
        }
    }

    /// As [`scan_range`](Self::scan_range) of all rows, of vectors that lie elsewhere.
    fn scan_fetched(&mut self, queries: VectorView<'_>) -> Result<(), FetchError> {
        let window = self.window_rows();
        for first in (0..self.index.rows()).step_by(window) {
            let rows = first..(first + window).min(self.index.rows());
            let vectors = self.index.vectors.fetch_range(rows.clone(), &mut self.fetching)?;
            for start in rows.clone().step_by(BLOCK_ROWS) {
                let distances = &mut self.distances[..BLOCK_ROWS.min(rows.end - start)];
                for (query, top) in queries.iter().zip(&mut self.tops) {
                    vectors.distances_from(self.index.metric, query, start - first, distances);
                    collect(start as u32.., distances, top);
                }
            }
        }
        Ok(())
    }

    /// As [`scan_rows`](Self::scan_rows), of vectors that lie elsewhere.
    fn scan_fetched_rows(
        &mut self,
        queries: VectorView<'_>,
        allowed: &mut dyn Iterator<Item = u32>,
    ) -> Result<(), FetchError> {
        let window = self.window_rows();
        loop {
            let ordinals: Vec<u32> = (&mut *allowed).take(window).collect();
            if ordinals.is_empty() {
                return Ok(());
            }
            let vectors = self.index.vectors.fetch(&ordinals, &mut self.fetching)?;
            for (block, ordinals) in ordinals.chunks(BLOCK_ROWS).enumerate() {
                let first = (block * BLOCK_ROWS) as u32;
                let distances = &mut self.distances[..ordinals.len()];
                self.ordinals.clear();
                self.ordinals.extend(first..first + ordinals.len() as u32);
                for (query, top) in queries.iter().zip(&mut self.tops) {
                    vectors.distances(self.index.metric, query, &self.ordinals, distances);
                    collect(ordinals.iter().copied(), distances, top);
                }
            }
        }
    }

    /// Rows that are fetched at once: whole blocks, so that they are compared as those in memory are.
    fn window_rows(&self) -> usize {
        let row_bytes = self.index.dim() * size_of::<f32>();
        (WINDOW_BYTES / row_bytes / BLOCK_ROWS).max(1) * BLOCK_ROWS
    }

    fn scan_range(&mut self, queries: VectorView<'_>, rows: Range<usize>) {
        for start in rows.clone().step_by(BLOCK_ROWS) {
            let distances = &mut self.distances[..BLOCK_ROWS.min(rows.end - start)];
            for (query, top) in queries.iter().zip(&mut self.tops) {
                self.index.vectors.distances_from(self.index.metric, query, start, distances);
                collect(start as u32.., distances, top);
            }
        }
    }

    fn scan_rows(&mut self, queries: VectorView<'_>, allowed: &mut dyn Iterator<Item = u32>) {
        self.ordinals.clear();
        for ordinal in allowed {
            self.ordinals.push(ordinal);
            if self.ordinals.len() == BLOCK_ROWS {
                self.compare_waiting(queries);
            }
        }
        self.compare_waiting(queries);
    }

    fn compare_waiting(&mut self, queries: VectorView<'_>) {
        let distances = &mut self.distances[..self.ordinals.len()];
        for (query, top) in queries.iter().zip(&mut self.tops) {
            self.index.vectors.distances(self.index.metric, query, &self.ordinals, distances);
            collect(self.ordinals.iter().copied(), distances, top);
        }
        self.ordinals.clear();
    }
}

fn collect(ordinals: impl Iterator<Item = u32>, distances: &[f32], top: &mut TopK) {
    for (ordinal, &distance) in ordinals.zip(distances) {
        if distance <= top.bound() {
            top.push(Neighbor::new(ordinal, distance));
        }
    }
}

impl Searcher for FlatSearcher {
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        found.clear();
        let query = VectorView::new(query, self.index.dim());
        self.search_among(query, params.k, None, &mut |_, nearest| found.extend_from_slice(nearest));
    }

    /// Compares with the allowed rows, whatever the patience.
    fn search_masked(
        &mut self,
        query: &[f32],
        params: &SearchParams,
        allowed: &Allowed<'_>,
        found: &mut Vec<Neighbor>,
    ) -> bool {
        found.clear();
        let query = VectorView::new(query, self.index.dim());
        let mask = Some(allowed.mask);
        self.search_among(query, params.k, mask, &mut |_, nearest| found.extend_from_slice(nearest));
        true
    }

    fn fetched(&mut self) -> Result<FetchStats, FetchError> {
        let stats = std::mem::take(&mut self.fetching.stats);
        self.failure.take().map_or(Ok(stats), Err)
    }

    fn fetch_until(&mut self, end: Option<Instant>) {
        self.fetching.end = end;
    }

    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        self.search_among(queries, params.k, None, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Random, VectorBuf};

    fn random_rows(n: usize, dim: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        // Few distinct values, so that ties are everywhere.
        VectorBuf::new((0..n * dim).map(|_| random.below(5) as f32 - 2.0).collect(), dim)
    }

    #[test]
    fn finds_what_the_definition_finds_one_by_one_and_in_batches() {
        for (n, dim) in [(1, 1), (130, 3), (300, 17)] {
            let rows = random_rows(n, dim, 1);
            let queries = random_rows(40, dim, 2);
            for metric in Metric::ALL {
                for precision in [Precision::F32, Precision::F16] {
                    let index = Arc::new(FlatIndex::build(rows.view(), metric, precision).unwrap());
                    let mut searcher = index.clone().searcher();
                    for k in [1, 10, 1000] {
                        let params = SearchParams { k, effort: 1, refine: 0 };
                        let mut batch = Vec::new();
                        searcher.search_batch(queries.view(), &params, &mut |_, found| {
                            batch.push(found.to_vec())
                        });
                        for (query, batch) in queries.view().iter().zip(&batch) {
                            let mut expected: Vec<Neighbor> = (0..n)
                                .map(|i| Neighbor::new(i as u32, metric.distance(query, rows.row(i)) as f32))
                                .collect();
                            expected.sort();
                            expected.truncate(k);
                            let mut found = Vec::new();
                            searcher.search(query, &params, &mut found);
                            assert_eq!(found, expected, "{metric} {precision:?} k = {k}");
                            assert_eq!(batch, &expected);
                        }
                    }
                }
            }
        }
    }

    /// Clusters so far from the origin that scores of products cannot tell their rows apart: what rounding leaves open is compared
    /// row by row.
    #[test]
    fn a_batch_is_exact_however_far_from_the_origin_rows_lie() {
        let mut random = Random::new(3);
        for shift in [0.0, 1e3, 1e6] {
            let mut row = |_| shift + random.normal() as f32;
            let rows = VectorBuf::new((0..700 * 12).map(&mut row).collect(), 12);
            let queries = VectorBuf::new((0..300 * 12).map(&mut row).collect(), 12);
            for metric in [Metric::L2, Metric::InnerProduct] {
                let index = Arc::new(FlatIndex::build(rows.view(), metric, Precision::F32).unwrap());
                let mut searcher = index.searcher();
                for k in [1, 10, 699, 700, 5000] {
                    let params = SearchParams { k, effort: 1, refine: 0 };
                    let mut batch = Vec::new();
                    searcher
                        .search_batch(queries.view(), &params, &mut |_, found| batch.push(found.to_vec()));
                    let mut alone = Vec::new();
                    for (query, batch) in queries.view().iter().zip(&batch).step_by(7) {
                        searcher.search(query, &params, &mut alone);
                        assert_eq!(batch, &alone, "{metric}, k = {k}, shifted by {shift}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_whose_products_f32_cannot_hold_are_found_as_well() {
        let rows: Vec<f32> = (0..60).map(|i| (i as f32 - 30.0) * 1e18).collect();
        let (rows, queries) = (VectorView::new(&rows, 3), VectorView::new(&rows, 3));
        for metric in [Metric::L2, Metric::InnerProduct] {
            let mut searcher = Arc::new(FlatIndex::build(rows, metric, Precision::F32).unwrap()).searcher();
            let params = SearchParams { k: 5, effort: 1, refine: 0 };
            let mut batch = Vec::new();
            searcher.search_batch(queries, &params, &mut |_, found| batch.push(found.to_vec()));
            let mut alone = Vec::new();
            for (query, batch) in queries.iter().zip(&batch) {
                searcher.search(query, &params, &mut alone);
                assert_eq!(batch, &alone, "{metric}");
            }
        }
    }

    #[test]
    fn no_rows_and_k_of_zero_find_nothing() {
        let empty = FlatIndex::build(VectorView::new(&[], 3), Metric::L2, Precision::F32).unwrap();
        let one = FlatIndex::build(VectorView::new(&[1.0; 3], 3), Metric::L2, Precision::F32).unwrap();
        for (index, k) in [(empty, 5), (one, 0)] {
            let mut searcher = Arc::new(index).searcher();
            let params = SearchParams { k, effort: 1, refine: 0 };
            let mut found = vec![Neighbor::NONE];
            searcher.search(&[0.0; 3], &params, &mut found);
            assert!(found.is_empty());
            let mut answered = 0;
            let queries = [0.0; 9];
            searcher.search_batch(VectorView::new(&queries, 3), &params, &mut |_, found| {
                assert!(found.is_empty());
                answered += 1;
            });
            assert_eq!(answered, 3);
        }
    }

    #[test]
    fn values_beyond_f16_are_refused_with_their_row() {
        let rows = [1.0, 2.0, 3.0, 70_000.0];
        let rows = VectorView::new(&rows, 2);
        assert!(FlatIndex::build(rows, Metric::L2, Precision::F32).is_ok());
        let error = FlatIndex::build(rows, Metric::L2, Precision::F16).unwrap_err();
        assert!(matches!(error, KeepError::Overflow { row: 1, got: 70_000.0 }));
    }
}
