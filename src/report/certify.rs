//! The certificate: recall and latency over a sweep of search settings, and the setting that becomes the default.

use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::recall::summarize;
use super::truth::GroundTruth;
use crate::artifact::{Certificate, CertificatePoint, Gate, Latency, Recall};
use crate::index::{SearchIndex, SearchParams};
use crate::vectors::VectorView;

/// Queries that latency is measured with, one at a time on one thread: p99 then stands on ten of them.
const LATENCY_QUERIES: usize = 1000;

/// Recall@`target_k` beyond which no further setting is measured, once the target is reached: each would cost more
/// than all before it, to tell apart the last half percent.
const ENOUGH_RECALL: f64 = 0.995;

/// Two settings in a row that add less than this end the sweep: what is missing, more effort does not find.
const LEAST_GAIN: f64 = 5e-4;

/// Queries that recall at other `k` than the target's is measured with, at most: each costs a search of its own.
const OTHER_K_QUERIES: usize = 1000;

/// Queries searched by one task.
const QUERIES_PER_TASK: usize = 64;

/// What to measure and what it must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CertifyParams {
    /// The cheapest setting whose recall@`target_k` reaches `target_recall` becomes the default.
    pub target_k: usize,
    pub target_recall: f64,
    /// Nothing below this is to be published.
    pub gate: Option<Gate>,
}

/// A certificate and whether the index passed.
#[derive(Debug, Clone)]
pub struct Certified {
    pub certificate: Certificate,
    /// The recall@k at the chosen setting where it is below the gate.
    pub below_gate: Option<f64>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    #[error("no queries to certify with")]
    NoQueries,
    #[error("stopped on request")]
    Cancelled,
}

/// The query set and what is true of it.
pub struct QuerySet<'a> {
    pub queries: VectorView<'a>,
    pub truth: &'a GroundTruth,
    /// The rows that `truth` numbers.
    pub rows: VectorView<'a>,
    /// `order[ordinal]` is the row that the index calls `ordinal`.
    pub order: &'a [u32],
}

/// Measures `index` on `set`, cheapest setting first, until more effort brings nothing; then halves the step between
/// the last setting that misses the target and the first that reaches it. `keep_going` is asked between settings.
pub fn certify(
    index: &Arc<dyn SearchIndex>,
    set: &QuerySet<'_>,
    params: &CertifyParams,
    keep_going: &dyn Fn() -> bool,
) -> Result<Certified, CertifyError> {
    if set.queries.is_empty() {
        return Err(CertifyError::NoQueries);
    }
    let sweep = Sweep { index, set, ks: measured_ks(params, set.truth.k()) };
    let target = sweep.place_of(params.target_k);
    let reaches = |point: &CertificatePoint| point.recall[target].mean >= params.target_recall;

    let mut points: Vec<CertificatePoint> = Vec::new();
    for setting in index.ladder(params.target_k) {
        if !keep_going() {
            return Err(CertifyError::Cancelled);
        }
        let point = sweep.measure(&setting);
        let enough = reaches(&point) && point.recall[target].mean >= ENOUGH_RECALL;
        points.push(point);
        if enough || is_saturated(&points, target) {
            break;
        }
    }
    while let Some(setting) = between_miss_and_hit(&points, reaches, params.target_k) {
        if !keep_going() {
            return Err(CertifyError::Cancelled);
        }
        points.push(sweep.measure(&setting));
        points.sort_by_key(|point| (point.effort, point.refine));
    }

    let chosen = points.iter().find(|point| reaches(point)).unwrap_or_else(|| best(&points, target));
    let below_gate = params.gate.and_then(|gate| {
        let recall = chosen.recall[sweep.place_of(gate.k as usize)].mean;
        (recall < gate.min_recall).then_some(recall)
    });
    let ordinals = inverse(set.order);
    let certificate = Certificate {
        query_set_digest: digest_of_queries(set.queries).into(),
        queries: set.queries.rows() as u64,
        ground_truth_digest: set.truth.digest(|row| ordinals[row as usize]).into(),
        k: sweep.ks.iter().map(|&k| k as u32).collect(),
        target_k: params.target_k as u32,
        target_recall: params.target_recall,
        gate: params.gate,
        chosen_effort: chosen.effort,
        chosen_refine: chosen.refine,
        points,
    };
    Ok(Certified { certificate, below_gate })
}

/// 1, 10 and 100, and what the job asks for, as far as the truth reaches.
fn measured_ks(params: &CertifyParams, truth_k: usize) -> Vec<usize> {
    let gate_k = params.gate.map_or(params.target_k, |gate| gate.k as usize);
    let mut ks: Vec<usize> =
        [1, 10, 100].into_iter().filter(|&k| k <= truth_k).chain([params.target_k, gate_k]).collect();
    ks.sort_unstable();
    ks.dedup();
    ks
}

fn is_saturated(points: &[CertificatePoint], target: usize) -> bool {
    let [.., before, _, last] = points else { return false };
    last.recall[target].mean - before.recall[target].mean < 2.0 * LEAST_GAIN
}

fn best(points: &[CertificatePoint], target: usize) -> &CertificatePoint {
    let better = |a: &&CertificatePoint, b: &&CertificatePoint| {
        // Of equal recalls the cheaper setting, which stands first.
        a.recall[target].mean.total_cmp(&b.recall[target].mean).then(std::cmp::Ordering::Greater)
    };
    points.iter().max_by(better).expect("a ladder has at least one setting")
}

/// The middle between the last setting that misses and the next, which reaches the target, while they are more than
/// an eighth apart: the default then costs at most about a tenth more than it must.
fn between_miss_and_hit(
    points: &[CertificatePoint],
    reaches: impl Fn(&CertificatePoint) -> bool,
    k: usize,
) -> Option<SearchParams> {
    let hit = points.iter().position(reaches)?;
    let (low, high) = (&points[hit.checked_sub(1)?], &points[hit]);
    let middle = (low.effort + high.effort) / 2;
    let apart = high.effort - low.effort > (high.effort / 8).max(1);
    apart.then_some(SearchParams { k, effort: middle as usize, refine: high.refine as usize })
}

struct Sweep<'a> {
    index: &'a Arc<dyn SearchIndex>,
    set: &'a QuerySet<'a>,
    ks: Vec<usize>,
}

impl Sweep<'_> {
    fn place_of(&self, k: usize) -> usize {
        self.ks.iter().position(|&measured| measured == k).expect("the job's k are measured")
    }

    fn measure(&self, setting: &SearchParams) -> CertificatePoint {
        // The first of more results answer for fewer: one search for all `k` up to the target's.
        let (within, beyond) = self.ks.split_at(self.place_of(setting.k) + 1);
        let all = self.set.queries.rows();
        let mut recall = self.recalls(setting, within, all);
        for &k in beyond {
            recall.extend(self.recalls(&SearchParams { k, ..*setting }, &[k], all.min(OTHER_K_QUERIES)));
        }
        let (latency_us, qps) = self.latency(setting);
        CertificatePoint {
            effort: setting.effort as u32,
            refine: setting.refine as u32,
            recall,
            latency_us,
            qps,
        }
    }

    /// recall@k of one search for each of the first `count` queries, for each of `ks`, none above `params.k`; on all
    /// threads.
    fn recalls(&self, params: &SearchParams, ks: &[usize], count: usize) -> Vec<Recall> {
        let QuerySet { queries, truth, rows, order } = *self.set;
        let queries = queries.slice(0, count);
        let metric = self.index.metric();
        let tasks = queries.rows().div_ceil(QUERIES_PER_TASK);
        // Per query, a recall for each k.
        let recalls: Vec<Vec<f64>> = (0..tasks)
            .into_par_iter()
            .map(|task| {
                let start = task * QUERIES_PER_TASK;
                let end = (start + QUERIES_PER_TASK).min(queries.rows());
                let mut recalls = Vec::with_capacity((end - start) * ks.len());
                let mut searcher = self.index.clone().searcher();
                searcher.search_batch(queries.slice(start, end), params, &mut |index, found| {
                    let query = queries.row(start + index);
                    let found: Vec<u32> = found.iter().map(|found| order[found.ordinal as usize]).collect();
                    let exact = |row: u32| metric.distance(query, rows.row(row as usize)) as f32;
                    recalls.extend(ks.iter().map(|&k| truth.recall(start + index, &found, k, exact)));
                });
                recalls
            })
            .collect();
        let summary_of = |(place, &k): (usize, &usize)| {
            let of_k: Vec<f64> = recalls.iter().flatten().skip(place).step_by(ks.len()).copied().collect();
            let summary = summarize(&of_k, k);
            Recall { k: k as u32, mean: summary.mean, low: summary.low, high: summary.high }
        };
        ks.iter().enumerate().map(summary_of).collect()
    }

    /// One query at a time on this thread, after a short warm-up.
    fn latency(&self, params: &SearchParams) -> (Latency, f64) {
        let queries = self.set.queries;
        let count = queries.rows().min(LATENCY_QUERIES);
        let mut searcher = self.index.clone().searcher();
        let mut found = Vec::with_capacity(params.k);
        for query in queries.iter().take(count.div_ceil(20)) {
            searcher.search(query, params, &mut found);
        }
        let mut micros: Vec<f64> = queries
            .iter()
            .take(count)
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
        (latency, count as f64 * 1e6 / total)
    }
}

fn digest_of_queries(queries: VectorView<'_>) -> blake3::Hash {
    blake3::hash(bytemuck::cast_slice(queries.as_slice()))
}

fn inverse(order: &[u32]) -> Vec<u32> {
    let mut inverse = vec![0; order.len()];
    for (ordinal, &row) in order.iter().enumerate() {
        inverse[row as usize] = ordinal as u32;
    }
    inverse
}
