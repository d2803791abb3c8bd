//! The certificate: recall and latency over a sweep of search settings, and the setting that becomes the default.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::latency::{percentiles, single_queries, warm_up};
use super::recall::summarize;
use super::truth::GroundTruth;
use crate::artifact::{Certificate, CertificatePoint, Gate, Latency, Recall};
use crate::index::{SearchIndex, SearchParams, tasks_of};
use crate::vectors::{Metric, VectorView};

/// Queries that latency is measured with, one at a time on one thread: p99 then stands on ten of them.
const LATENCY_QUERIES: usize = 1000;

/// Recall@`target_k` beyond which no further setting is measured, once the target is reached: each would cost more
/// than all before it, to tell apart the last half percent.
const ENOUGH_RECALL: f64 = 0.995;

/// Two settings in a row that add less than this end the sweep: what is missing, more effort does not find.
const LEAST_GAIN: f64 = 5e-4;

/// Queries that recall at other `k` than the target's is measured with, at most: each costs a search of its own.
const OTHER_K_QUERIES: usize = 1000;

/// What to measure and what it must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CertifyParams {
    /// The cheapest setting whose recall@`target_k` reaches `target_recall` becomes the default.
    pub target_k: usize,
    pub target_recall: f64,
    /// Nothing below this is to be published.
    pub gate: Option<Gate>,
    /// The effort that was chosen, and the highest measured, of an index that is much like this one: the settings around the first
    /// and the second are measured, and no others where the first still reaches the target.
    pub near: Option<[u32; 2]>,
}

/// A certificate and whether the index passed.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
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

/// The exact distance of a row, where it is asked for: of one that was found and is not among the true ones.
pub trait ExactRows: Sync {
    fn distance(&self, metric: Metric, query: &[f32], row: u32) -> f32;
}

impl ExactRows for VectorView<'_> {
    fn distance(&self, metric: Metric, query: &[f32], row: u32) -> f32 {
        metric.distance(query, self.row(row as usize)) as f32
    }
}

/// The query set and what is true of it.
pub struct QuerySet<'a, R = VectorView<'a>> {
    pub queries: VectorView<'a>,
    pub truth: &'a GroundTruth,
    /// The rows that `truth` numbers.
    pub rows: R,
    /// `order[ordinal]` is the row that the index calls `ordinal`.
    pub order: &'a [u32],
}

/// Measures `index` on `set`, cheapest setting first, until more effort brings nothing; then halves the step between
/// the last setting that misses the target and the first that reaches it. `keep_going` is asked between settings.
pub fn certify<R: ExactRows>(
    index: &Arc<dyn SearchIndex>,
    set: &QuerySet<'_, R>,
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
    let ladder = index.ladder(params.target_k);
    let settings = params.near.map_or_else(|| ladder.clone(), |[chosen, _]| around(&ladder, chosen));
    for setting in settings {
        if !keep_going() {
            return Err(CertifyError::Cancelled);
        }
        let point = sweep.measure(&setting);
        let enough = reaches(&point) && point.recall[target].mean >= ENOUGH_RECALL;
        let is_near = params.near.is_some_and(|[chosen, _]| point.effort >= chosen && reaches(&point));
        points.push(point);
        if enough || is_near || is_saturated(&points, target) {
            break;
        }
    }
    let is_known = |points: &[CertificatePoint]| {
        let is_chosen = |point: &&CertificatePoint| params.near.is_some_and(|near| point.effort == near[0]);
        points.iter().find(is_chosen).is_some_and(reaches)
    };
    while let Some(setting) =
        between_miss_and_hit(&points, reaches, params.target_k).filter(|_| !is_known(&points))
    {
        if !keep_going() {
            return Err(CertifyError::Cancelled);
        }
        points.push(sweep.measure(&setting));
        points.sort_by_key(|point| (point.effort, point.refine));
    }

    if let Some([_, farthest]) = params.near
        && let Some(last) = points.last().filter(|last| last.effort < farthest)
    {
        let (effort, refine) = (farthest as usize, last.refine as usize);
        points.push(sweep.measure(&SearchParams { k: params.target_k, effort, refine }));
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

/// The setting below an effort, it itself, and those above.
fn around(ladder: &[SearchParams], effort: u32) -> Vec<SearchParams> {
    let effort = effort as usize;
    let above = ladder.partition_point(|setting| setting.effort < effort);
    let like = ladder.get(above).or(ladder.last()).expect("a ladder has at least one setting");
    let itself = SearchParams { effort, ..*like };
    let below = ladder[..above].last().copied();
    let above = ladder[above..].iter().filter(|setting| setting.effort > effort).copied();
    below.into_iter().chain([itself]).chain(above).collect()
}

fn is_saturated(points: &[CertificatePoint], target: usize) -> bool {
    let [.., before, _, last] = points else { return false };
    let (before, last) = (before.recall[target].mean, last.recall[target].mean);
    // Where nothing at all has been found yet, more effort may well find something.
    last > 0.0 && last - before < 2.0 * LEAST_GAIN
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

struct Sweep<'a, R> {
    index: &'a Arc<dyn SearchIndex>,
    set: &'a QuerySet<'a, R>,
    ks: Vec<usize>,
}

impl<R: ExactRows> Sweep<'_, R> {
    fn place_of(&self, k: usize) -> usize {
        self.ks.iter().position(|&measured| measured == k).expect("the job's k are measured")
    }

    fn measure(&self, setting: &SearchParams) -> CertificatePoint {
        // The first of more results answer for fewer: one search for all `k` up to the target's.
        let (within, beyond) = self.ks.split_at(self.place_of(setting.k) + 1);
        let all = self.set.queries.rows();
        let mut recall = self.recalls(setting, within, all);
        for &k in beyond {
            recall.extend(self.recalls(&setting.for_k(k), &[k], all.min(OTHER_K_QUERIES)));
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
        let QuerySet { queries, truth, rows, order } = self.set;
        let queries = queries.slice(0, count);
        let metric = self.index.metric();
        // Per query, a recall for each k.
        let recalls: Vec<Vec<f64>> = tasks_of(queries.rows(), rayon::current_num_threads())
            .into_par_iter()
            .map(|Range { start, end }| {
                let mut recalls = Vec::with_capacity((end - start) * ks.len());
                let mut searcher = self.index.clone().searcher();
                searcher.search_batch(queries.slice(start, end), params, &mut |index, found| {
                    let query = queries.row(start + index);
                    let found: Vec<u32> = found.iter().map(|found| order[found.ordinal as usize]).collect();
                    let exact = |row: u32| rows.distance(metric, query, row);
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
        let queries = queries.slice(0, queries.rows().min(LATENCY_QUERIES));
        let mut searcher = self.index.clone().searcher();
        warm_up(&mut *searcher, queries, params);
        let micros = single_queries(&mut *searcher, queries, params);
        (percentiles(&micros), micros.len() as f64 * 1e6 / micros.iter().sum::<f64>())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Section;
    use crate::compute::reference::Reference;
    use crate::flat::FlatIndex;
    use crate::index::{KeptVectors, Precision, Searcher};
    use crate::vectors::{Neighbor, Random, VectorBuf};

    /// Rows on a line. At effort `e` it finds of the `k` nearest the first, a share of `e / full`, and far rows for the
    /// others.
    struct Partial {
        rows: usize,
        full: usize,
        efforts: Vec<usize>,
        measured: std::sync::Mutex<Vec<usize>>,
    }

    impl SearchIndex for Partial {
        fn rows(&self) -> usize {
            self.rows
        }
        fn dim(&self) -> usize {
            1
        }
        fn metric(&self) -> Metric {
            Metric::L2
        }
        fn effort_name(&self) -> Option<&'static str> {
            Some("effort")
        }
        fn ladder(&self, k: usize) -> Vec<SearchParams> {
            self.efforts.iter().map(|&effort| SearchParams { k, effort, refine: 0 }).collect()
        }
        fn kept(&self) -> Option<&KeptVectors> {
            None
        }
        fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
            Box::new(PartialSearcher(self))
        }
        fn sections(&self) -> Vec<Section> {
            Vec::new()
        }
    }

    struct PartialSearcher(Arc<Partial>);

    impl Searcher for PartialSearcher {
        fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
            let index = &self.0;
            let mut measured = index.measured.lock().unwrap();
            if !measured.contains(&params.effort) {
                measured.push(params.effort);
            }
            // Ordinal `o` is the row at `rows − 1 − o`.
            let at = |ordinal: u32| (index.rows - 1 - ordinal as usize) as f32;
            let exact = |ordinal| Neighbor::new(ordinal, (query[0] - at(ordinal)).powi(2));
            let mut all: Vec<Neighbor> = (0..index.rows as u32).map(exact).collect();
            all.sort_unstable();
            let k = params.k.min(index.rows);
            let hits = (k * params.effort / index.full).min(k);
            found.clear();
            found.extend_from_slice(&all[..hits]);
            found.extend_from_slice(&all[k.max(all.len() - (k - hits))..]);
        }
    }

    struct Case {
        rows: VectorBuf,
        order: Vec<u32>,
        queries: VectorBuf,
        truth: GroundTruth,
    }

    fn case(rows: usize, k: usize) -> Case {
        let line = VectorBuf::new((0..rows).map(|row| row as f32).collect(), 1);
        let queries = VectorBuf::new((0..100).map(|query| query as f32 * 0.37 + 0.1).collect(), 1);
        let truth = GroundTruth::compute(&Reference, queries.view(), line.view(), Metric::L2, k).unwrap();
        Case { order: (0..rows as u32).rev().collect(), rows: line, queries, truth }
    }

    impl Case {
        fn set(&self) -> QuerySet<'_> {
            let (queries, rows) = (self.queries.view(), self.rows.view());
            QuerySet { queries, truth: &self.truth, rows, order: &self.order }
        }
    }

    fn partial(rows: usize, full: usize, efforts: &[usize]) -> Arc<Partial> {
        Arc::new(Partial { rows, full, efforts: efforts.to_vec(), measured: Default::default() })
    }

    fn target(target_k: usize, target_recall: f64, gate: Option<(u32, f64)>) -> CertifyParams {
        let gate = gate.map(|(k, min_recall)| Gate { k, min_recall });
        CertifyParams { target_k, target_recall, gate, near: None }
    }

    fn go_on() -> bool {
        true
    }

    #[test]
    fn the_default_is_the_least_effort_that_reaches_the_target_but_for_an_eighth() {
        let case = case(300, 100);
        let ladder = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
        for full in [3, 10, 40] {
            for recall in [0.1, 0.5, 0.9, 1.0] {
                let index = partial(300, full, &ladder);
                let dynamic: Arc<dyn SearchIndex> = index.clone();
                let Certified { certificate, below_gate } =
                    certify(&dynamic, &case.set(), &target(10, recall, None), &go_on).unwrap();
                let reached = |effort: usize| (10 * effort / full).min(10) as f64 / 10.0 >= recall - 1e-9;
                let least = (1..=1024).find(|&effort| reached(effort)).unwrap();
                let chosen = certificate.chosen_effort as usize;
                assert!(reached(chosen), "{full} {recall}: {chosen}");
                assert!(chosen <= least + (least / 7).max(1), "{full} {recall}: {chosen}, {least} is enough");
                assert_eq!(below_gate, None);
                let efforts: Vec<u32> = certificate.points.iter().map(|point| point.effort).collect();
                assert!(
                    efforts.windows(2).all(|pair| pair[0] < pair[1]),
                    "cheapest first, none twice: {efforts:?}"
                );
                assert!(index.measured.lock().unwrap().len() <= ladder.len() + 8, "{efforts:?}");
            }
        }
    }

    #[test]
    fn no_setting_is_measured_once_all_is_found() {
        let case = case(300, 100);
        let index = partial(300, 30, &[10, 20, 40, 80, 160]);
        let dynamic: Arc<dyn SearchIndex> = index.clone();
        let certified = certify(&dynamic, &case.set(), &target(10, 0.5, None), &go_on).unwrap();
        let efforts: Vec<u32> = certified.certificate.points.iter().map(|point| point.effort).collect();
        assert_eq!(efforts, [10, 12, 13, 14, 15, 20, 40], "40 finds all");
        assert_eq!(certified.certificate.chosen_effort, 15);
    }

    #[test]
    fn every_recall_is_the_share_that_was_found() {
        let case = case(300, 100);
        let index: Arc<dyn SearchIndex> = partial(300, 100, &[30, 50]);
        let Certificate { k, points, queries, .. } =
            certify(&index, &case.set(), &target(20, 0.9, Some((50, 0.1))), &go_on).unwrap().certificate;
        assert_eq!((&k[..], queries), (&[1, 10, 20, 50, 100][..], 100));
        for (point, expected) in points.iter().zip([[1.0, 0.6, 0.3, 0.3, 0.3], [1.0, 1.0, 0.5, 0.5, 0.5]]) {
            for ((recall, k), expected) in point.recall.iter().zip(&k).zip(expected) {
                assert_eq!(recall.k, *k);
                assert!((recall.mean - expected).abs() < 1e-9, "{recall:?}, not {expected}");
                assert!(recall.low <= recall.mean && recall.mean <= recall.high);
            }
            let Latency { p50, p95, p99 } = point.latency_us;
            assert!(0.0 < p50 && p50 <= p95 && p95 <= p99 && point.qps > 0.0);
        }
    }

    #[test]
    fn the_gate_judges_the_setting_that_was_chosen() {
        let case = case(300, 100);
        let certified = |recall, gate| {
            let index: Arc<dyn SearchIndex> = partial(300, 100, &[20, 50, 80]);
            certify(&index, &case.set(), &target(10, recall, gate), &go_on).unwrap()
        };
        // The best that there is, where none reaches the target.
        let missed = certified(0.95, Some((10, 0.9)));
        assert_eq!((missed.certificate.chosen_effort, missed.below_gate), (80, Some(0.8)));
        assert_eq!(certified(0.95, Some((10, 0.8))).below_gate, None, "as much as the gate asks");
        assert_eq!(certified(0.95, None).below_gate, None);
        let other_k = certified(0.5, Some((100, 0.7)));
        assert_eq!((other_k.certificate.chosen_effort, other_k.below_gate), (50, Some(0.5)));
        assert_eq!(other_k.certificate.gate, Some(Gate { k: 100, min_recall: 0.7 }));
    }

    #[test]
    fn of_settings_that_miss_equally_the_cheapest_is_chosen() {
        let case = case(300, 10);
        let index: Arc<dyn SearchIndex> = partial(300, 100, &[50, 52, 54]);
        let certified = certify(&index, &case.set(), &target(10, 0.9, None), &go_on).unwrap();
        assert_eq!(certified.certificate.chosen_effort, 50);
    }

    #[test]
    fn fewer_rows_than_k_are_all_that_is_to_be_found() {
        let case = case(4, 10);
        assert_eq!(case.truth.k(), 4);
        let certify = |full| {
            let index: Arc<dyn SearchIndex> = partial(4, full, &[1, 2]);
            certify(&index, &case.set(), &target(10, 0.9, Some((100, 0.9))), &go_on).unwrap()
        };
        let all = certify(1);
        assert_eq!(all.certificate.k, [1, 10, 100]);
        assert!(all.below_gate.is_none() && all.certificate.points[0].recall.iter().all(|r| r.mean == 1.0));
        assert_eq!(certify(4).below_gate, Some(0.5), "two of four");
    }

    /// Which of equal rows are found is the numbering's choice.
    #[test]
    fn rows_as_near_as_the_true_ones_count_as_found() {
        let mut random = Random::new(1);
        for metric in Metric::ALL {
            // Three directions, each a hundred times, of lengths that are not exactly 1.
            let mut distinct = VectorBuf::new((0..3 * 37).map(|_| random.normal() as f32).collect(), 37);
            (0..3).for_each(|row| assert!(crate::vectors::normalize(distinct.row_mut(row))));
            let copies: Vec<u32> = (0..300).map(|row| row % 3).collect();
            let rows = distinct.view().gather(&copies);
            let order: Vec<u32> = (0..300).rev().collect();
            let index = FlatIndex::build(rows.view().gather(&order).view(), metric, Precision::F32).unwrap();
            let index: Arc<dyn SearchIndex> = Arc::new(index);
            let queries = rows.view().gather(&(0..40).collect::<Vec<u32>>());
            let truth = GroundTruth::compute(
                &crate::compute::cpu::Cpu::new(),
                queries.view(),
                rows.view(),
                metric,
                100,
            )
            .unwrap();
            let set = QuerySet { queries: queries.view(), truth: &truth, rows: rows.view(), order: &order };
            let certified = certify(&index, &set, &target(10, 1.0, Some((100, 1.0))), &go_on).unwrap();
            assert_eq!(certified.below_gate, None, "{metric}: {:?}", certified.certificate.points);
        }
    }

    #[test]
    fn the_digests_say_what_was_asked_and_what_is_true_of_it() {
        let digests = |case: &Case| {
            let index: Arc<dyn SearchIndex> = partial(case.rows.rows(), 1, &[1]);
            let certificate =
                certify(&index, &case.set(), &target(10, 0.9, None), &go_on).unwrap().certificate;
            (certificate.query_set_digest, certificate.ground_truth_digest)
        };
        let (queries, truth) = digests(&case(300, 10));
        assert_eq!(digests(&case(300, 10)), (queries, truth));
        let other = digests(&case(299, 10));
        assert_eq!(other.0, queries);
        assert_ne!(other.1, truth, "the same rows, but called otherwise");
        let mut moved = case(300, 10);
        moved.queries.row_mut(3)[0] += 1.0;
        assert_ne!(digests(&moved).0, queries);
    }

    #[test]
    fn no_queries_and_a_wish_to_stop_are_named() {
        let mut case = case(300, 10);
        let index: Arc<dyn SearchIndex> = partial(300, 100, &[10, 100]);
        let asked = std::cell::Cell::new(0);
        let once = || asked.replace(asked.get() + 1) == 0;
        let stopped = certify(&index, &case.set(), &target(10, 0.9, None), &once);
        assert!(matches!(stopped, Err(CertifyError::Cancelled)));
        case.queries = VectorBuf::new(Vec::new(), 1);
        let none = certify(&index, &case.set(), &target(10, 0.9, None), &go_on);
        assert!(matches!(none, Err(CertifyError::NoQueries)));
    }
}
