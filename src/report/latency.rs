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

/// Searches for at least one query, one at a time on this thread: percentiles in microseconds, and queries per second.
pub fn latency(
    searcher: &mut dyn Searcher,
    queries: VectorView<'_>,
    params: &SearchParams,
) -> (Latency, f64) {
    let mut found = Vec::with_capacity(params.k);
    let mut micros: Vec<f64> = queries
        .iter()
        .map(|query| {
            let start = Instant::now();
            searcher.search(query, params, &mut found);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    let total: f64 = micros.iter().sum();
    micros.sort_unstable_by(f64::total_cmp);
    let percentile = |p: f64| micros[((micros.len() - 1) as f64 * p).round() as usize];
    let latency = Latency { p50: percentile(0.50), p95: percentile(0.95), p99: percentile(0.99) };
    (latency, micros.len() as f64 * 1e6 / total)
}
