//! How long single queries take.

use std::time::Instant;

use crate::artifact::Latency;
use crate::index::{SearchParams, Searcher};
use crate::vectors::VectorView;

/// Searches a twentieth of the queries, for memory that is touched for the first time.
pub fn warm_up(searcher: &mut dyn Searcher, queries: VectorView<'_>, params: &SearchParams) {
    let mut found = Vec::with_capacity(params.k);
    for query in queries.iter().take(queries.rows().div_ceil(20)) {
        searcher.search(query, params, &mut found);
    }
}

/// Searches one query at a time on this thread: what each took, in microseconds.
pub fn single_queries(
    searcher: &mut dyn Searcher,
    queries: VectorView<'_>,
    params: &SearchParams,
) -> Vec<f64> {
    let mut found = Vec::with_capacity(params.k);
    let mut timed = |query: &[f32]| {
        let start = Instant::now();
        searcher.search(query, params, &mut found);
        start.elapsed().as_secs_f64() * 1e6
    };
    queries.iter().map(&mut timed).collect()
}

/// Percentiles of what at least one query took.
pub fn percentiles(micros: &[f64]) -> Latency {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let percentile = |p: f64| sorted[((sorted.len() - 1) as f64 * p).round() as usize];
    Latency { p50: percentile(0.50), p95: percentile(0.95), p99: percentile(0.99) }
}
