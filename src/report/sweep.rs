//! What an index finds, setting by setting, and what each search takes: into measurements, number by number.

use std::ops::Range;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::error::ReportError;
use super::header::Listed;
use super::latency::warm_up;
use super::measurements::{Gathered, Measure, Measurement};
use super::subject::OpenSubject;
use super::truth::GroundTruth;
use crate::index::{SearchParams, tasks_of};
use crate::vectors::VectorView;

/// Queries that recall at `k` above the main one is measured with: each costs a search of its own. As certificates do.
const LARGER_K_QUERIES: usize = 1000;

/// Queries of one call whose throughput is taken.
const THROUGHPUT_QUERIES: usize = 10_000;

/// Recall beyond which no further setting is measured, where no certificate says which ones are worth it.
const ENOUGH_RECALL: f64 = 0.999;

/// Queries and rows that a report lists.
const LISTED: usize = 20;

/// The query set: vectors (for cosine normalised), and ids as text.
pub struct Queries<'a> {
    pub vectors: VectorView<'a>,
    pub ids: &'a [String],
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct SweepParams {
    /// The main `k`; recall is measured at 1, 10 and 100, too.
    pub k: usize,
    /// Default: the certificate's settings, or the index's ladder.
    pub efforts: Vec<usize>,
    pub rounds: u32,
    pub latency_queries: usize,
    /// Of the throughput of many.
    pub threads: usize,
    /// Processor time of this process.
    pub cpu_time: fn() -> Option<Duration>,
}

/// What one subject found at its default setting, for the lists of a report.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub worst_queries: Vec<Listed>,
    pub hubs: Vec<Listed>,
    pub skew: Option<(f64, f64)>,
}

/// One search setting of a subject.
#[derive(Debug, Clone)]
pub struct Setting {
    pub params: SearchParams,
    pub label: String,
    pub place: u32,
    pub is_default: bool,
}

/// Settings that are worth measuring further, and what was found at the default.
pub struct Swept {
    pub settings: Vec<Setting>,
    pub findings: Findings,
}

/// The ordinals found by one query, and its recall at each k.
struct Answer {
    found: Vec<u32>,
    recalls: Vec<f64>,
}

/// Measures recall at every setting; `rows` (by ordinal) tell ties.
pub fn sweep_recall(
    subject: &OpenSubject,
    queries: &Queries<'_>,
    truth: &GroundTruth,
    rows: Option<VectorView<'_>>,
    params: &SweepParams,
    out: &mut Gathered,
) -> Swept {
    let default = subject.default_params(params.k);
    let mut swept = Vec::new();
    let mut findings = Findings::default();
    let mut best = 0.0f64;
    let mut ks: Vec<usize> = [1, 10, 100, params.k].into_iter().filter(|&k| k <= truth.k()).collect();
    ks.sort_unstable();
    ks.dedup();
    let (within, beyond): (Vec<usize>, Vec<usize>) = ks.iter().partition(|&&k| k <= params.k);
    for (place, setting) in subject.settings(params.k, &params.efforts).into_iter().enumerate() {
        let is_default = setting == default;
        if best >= ENOUGH_RECALL && !is_default {
            continue;
        }
        let setting =
            Setting { params: setting, label: subject.label(&setting), place: place as u32, is_default };
        let answers = answers(subject, queries.vectors, truth, rows, &setting.params, &within);
        record(subject, queries, &setting, &within, &answers, out);
        for &k in &beyond {
            let few = queries.vectors.slice(0, queries.vectors.rows().min(LARGER_K_QUERIES));
            let answers = self::answers(subject, few, truth, rows, &setting.params.for_k(k), &[k]);
            record(subject, queries, &setting, &[k], &answers, out);
        }
        let main = within.iter().position(|&k| k == params.k).unwrap_or(within.len() - 1);
        best = answers.iter().map(|answer| answer.recalls[main]).sum::<f64>() / answers.len() as f64;
        if is_default {
            findings = Findings::of(subject, queries, truth, &answers, main, params.k, out);
        }
        swept.push(setting);
    }
    Swept { settings: swept, findings }
}

fn answers(
    subject: &OpenSubject,
    queries: VectorView<'_>,
    truth: &GroundTruth,
    rows: Option<VectorView<'_>>,
    params: &SearchParams,
    ks: &[usize],
) -> Vec<Answer> {
    let metric = subject.index.metric();
    let tasks: Vec<Vec<Answer>> = tasks_of(queries.rows(), rayon::current_num_threads())
        .into_par_iter()
        .map(|Range { start, end }| {
            let mut answers = Vec::with_capacity(end - start);
            let mut searcher = subject.index.searcher();
            searcher.search_batch(queries.slice(start, end), params, &mut |index, found| {
                let (number, query) = (start + index, queries.row(start + index));
                let found: Vec<u32> = found.iter().map(|found| found.ordinal).collect();
                let exact = |row: u32| {
                    rows.map_or(f32::INFINITY, |rows| metric.distance(query, rows.row(row as usize)) as f32)
                };
                let recalls = ks.iter().map(|&k| truth.recall(number, &found, k, exact)).collect();
                answers.push(Answer { found, recalls });
            });
            answers
        })
        .collect();
    tasks.into_iter().flatten().collect()
}

fn record(
    subject: &OpenSubject,
    queries: &Queries<'_>,
    setting: &Setting,
    ks: &[usize],
    answers: &[Answer],
    out: &mut Gathered,
) {
    for (place, &k) in ks.iter().enumerate() {
        for (answer, id) in answers.iter().zip(queries.ids) {
            let one = Measurement::of(&subject.name, Measure::Recall, answer.recalls[place]);
            out.push(Measurement {
                setting: &setting.label,
                place: setting.place,
                k: k as u32,
                item: id,
                ..one
            });
        }
    }
}

impl Findings {
    fn of(
        subject: &OpenSubject,
        queries: &Queries<'_>,
        truth: &GroundTruth,
        answers: &[Answer],
        main: usize,
        k: usize,
        out: &mut Gathered,
    ) -> Self {
        let mut worst: Vec<usize> =
            (0..answers.len()).filter(|&query| answers[query].recalls[main] < 1.0).collect();
        worst.sort_by(|&a, &b| answers[a].recalls[main].total_cmp(&answers[b].recalls[main]).then(a.cmp(&b)));
        let worst_queries = worst.iter().take(LISTED).map(|&query| {
            let nearest = truth.row(query)[0];
            Listed {
                id: queries.ids[query].clone(),
                values: vec![
                    format!("{:.2}", answers[query].recalls[main]),
                    subject.index.ids().get(nearest.ordinal).to_string(),
                    format!("{:.4}", nearest.distance),
                ],
                attributes: subject.attributes_of(nearest.ordinal),
            }
        });
        let worst_queries = worst_queries.collect();

        let rows = subject.index.rows();
        let (mut found, mut expected) = (vec![0u32; rows], vec![0u32; rows]);
        for (query, answer) in answers.iter().enumerate() {
            answer.found.iter().take(k).for_each(|&row| found[row as usize] += 1);
            truth.row(query).iter().take(k).for_each(|row| expected[row.ordinal as usize] += 1);
        }
        for (measure, counts) in [(Measure::Occurrences, &found), (Measure::TrueOccurrences, &expected)] {
            for (ordinal, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let id = subject.index.ids().get(ordinal as u32).to_string();
                let one = Measurement::of(&subject.name, measure, f64::from(count));
                out.push(Measurement { item: &id, k: k as u32, ..one });
            }
        }
        let mut hubs: Vec<usize> = (0..rows).collect();
        hubs.sort_by_key(|&row| (std::cmp::Reverse(found[row]), row));
        let hubs = hubs.iter().take(LISTED).filter(|&&row| found[row] > 0).map(|&row| Listed {
            id: subject.index.ids().get(row as u32).to_string(),
            values: vec![found[row].to_string(), expected[row].to_string()],
            attributes: subject.attributes_of(row as u32),
        });
        Self { worst_queries, hubs: hubs.collect(), skew: Some((skewness(&found), skewness(&expected))) }
    }
}

/// The third standardised moment; 0 where all are equal.
fn skewness(counts: &[u32]) -> f64 {
    let n = counts.len() as f64;
    let mean = counts.iter().map(|&count| f64::from(count)).sum::<f64>() / n;
    let moment =
        |power: i32| counts.iter().map(|&count| (f64::from(count) - mean).powi(power)).sum::<f64>() / n;
    let variance = moment(2);
    if variance > 0.0 { moment(3) / variance.powf(1.5) } else { 0.0 }
}

/// Takes latency and throughput, one round of every subject's settings after another, so that what the machine does
/// besides falls on all of them alike.
///
/// # Errors
/// No threads for the pool.
pub fn time_rounds(
    subjects: &[(&OpenSubject, &[Setting])],
    queries: &Queries<'_>,
    params: &SweepParams,
    told: &dyn Fn(u32),
    out: &mut Gathered,
) -> Result<(), ReportError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(params.threads).build();
    let pool = pool.map_err(|error| ReportError::Summary(error.to_string()))?;
    let all = queries.vectors.slice(0, queries.vectors.rows().min(THROUGHPUT_QUERIES));
    let most = subjects.iter().map(|(_, settings)| settings.len()).max().unwrap_or(0);
    for round in 0..params.rounds {
        told(round);
        for at in 0..most {
            for turn in 0..subjects.len() {
                // Whoever comes first finds other caches than whoever comes second: they take turns at that, too.
                let (subject, settings) = subjects[(turn + round as usize) % subjects.len()];
                let Some(setting) = settings.get(at) else { continue };
                let one = |measure, value| {
                    let one = Measurement::of(&subject.name, measure, value);
                    Measurement {
                        setting: &setting.label,
                        place: setting.place,
                        k: params.k as u32,
                        round,
                        ..one
                    }
                };
                let mut searcher = subject.index.searcher();
                warm_up(&mut *searcher, all, &setting.params);
                let (wall, cpu) = (Instant::now(), (params.cpu_time)());
                searcher.search_batch(all, &setting.params, &mut |_, _| {});
                let wall = wall.elapsed().as_secs_f64();
                let count = all.rows() as f64;
                out.push(Measurement { threads: 1, ..one(Measure::Qps, count / wall) });
                let spent = (params.cpu_time)().zip(cpu).map(|(end, start)| (end - start).as_secs_f64());
                if let Some(spent) = spent.filter(|&spent| spent > 0.0) {
                    out.push(Measurement { threads: 1, ..one(Measure::CpuQps, count / spent) });
                }
                if params.threads > 1 {
                    let wall = Instant::now();
                    pool.install(|| search_on_all_threads(subject, all, &setting.params));
                    let qps = count / wall.elapsed().as_secs_f64();
                    out.push(Measurement { threads: params.threads as u32, ..one(Measure::Qps, qps) });
                }
                let mut found = Vec::with_capacity(params.k);
                for (query, id) in all.iter().zip(queries.ids).take(params.latency_queries) {
                    let start = Instant::now();
                    searcher.search(query, &setting.params, &mut found);
                    let micros = start.elapsed().as_secs_f64() * 1e6;
                    out.push(Measurement { threads: 1, item: id, ..one(Measure::LatencyUs, micros) });
                }
            }
        }
    }
    Ok(())
}

fn search_on_all_threads(subject: &OpenSubject, queries: VectorView<'_>, params: &SearchParams) {
    tasks_of(queries.rows(), rayon::current_num_threads()).into_par_iter().for_each_init(
        || subject.index.searcher(),
        |searcher, Range { start, end }| {
            searcher.search_batch(queries.slice(start, end), params, &mut |_, _| {});
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewness_is_that_of_the_definition() {
        assert_eq!(skewness(&[3, 3, 3]), 0.0);
        assert!((skewness(&[1, 2, 3])).abs() < 1e-12);
        // Of 0, 0, 0, 4: mean 1, variance 3, third moment (−1 −1 −1 + 27) / 4 = 6.
        assert!((skewness(&[0, 0, 0, 4]) - 6.0 / 3f64.powf(1.5)).abs() < 1e-12);
    }
}
