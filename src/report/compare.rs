//! What changed from one measured index to another, and whether it is more than noise.
//!
//! A change is a ratio or a difference with a 95 % interval by the bootstrap (Efron 1979) over what repeats: rounds, and
//! queries. Where both were measured by turns in one run, a round of one is paired with the same round of the other, so
//! that what the machine did meanwhile falls out. Intervals over few rounds are widened by what Student's t and the
//! sample's variance ask for (Hesterberg 2015, the expanded percentile interval).

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::ReportError;
use super::header::Subject;
use super::measurements::{Measurements, Rows};
use super::plot::short;
use crate::vectors::Random;

/// Draws of a bootstrap over numbers; …
const DRAWS: usize = 2000;
/// … and over thousands of latencies, each of which is sorted.
const LATENCY_DRAWS: usize = 300;

/// Recalls at which throughput is compared.
const TARGETS: [f64; 3] = [0.90, 0.95, 0.99];

/// What a change must not pass.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounds {
    /// So many times slower, beyond noise; 1.1 is a tenth.
    pub max_slowdown: Option<f64>,
    /// So much recall less, beyond noise.
    pub max_recall_loss: Option<f64>,
}

/// B in relation to A.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub a: String,
    pub b: String,
    /// Both measured by turns in one run.
    pub interleaved: bool,
    pub lines: Vec<Change>,
    /// What passed its bound.
    pub regressions: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    pub what: String,
    pub a: String,
    pub b: String,
    /// `×1.04` or `−0.0012`
    pub change: String,
    /// Its interval as text; empty where nothing repeats.
    pub interval: String,
    pub verdict: &'static str,
    /// The change and its interval as numbers: a ratio B / A, or a difference B − A.
    pub estimate: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Interval {
    estimate: f64,
    low: f64,
    high: f64,
}

/// One side: its numbers by what they are of.
struct Side {
    subject: Subject,
    /// Of the default setting: by round, by query.
    latency: BTreeMap<u32, Vec<f64>>,
    /// By threads, by round, at the default.
    qps: BTreeMap<u32, BTreeMap<u32, f64>>,
    /// Of each setting on one thread: its recall at the main k, and speeds by round.
    sweep: BTreeMap<u32, (f64, BTreeMap<u32, f64>)>,
    /// Of the default, by k: by query.
    recall: BTreeMap<u32, Vec<(String, f64)>>,
    open_ms: Vec<f64>,
    bytes: f64,
    build_s: f64,
}

impl Side {
    fn of(measured: &Measurements, name: &str, k: u32) -> Result<Self, ReportError> {
        let subject = measured.header.subjects.iter().find(|subject| subject.name == name);
        let subject =
            subject.ok_or_else(|| ReportError::Incomparable(format!("no subject `{name}`")))?.clone();
        let default = subject.default_setting.clone();
        let mut side = Self {
            latency: BTreeMap::new(),
            qps: BTreeMap::new(),
            sweep: BTreeMap::new(),
            recall: BTreeMap::new(),
            open_ms: Vec::new(),
            bytes: 0.0,
            build_s: 0.0,
            subject,
        };
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for row in Rows::of(&measured.table).iter().filter(|row| row.subject == name && row.filter.is_empty())
        {
            let is_default = row.setting == default;
            match row.measure {
                "latency_us" if is_default => side.latency.entry(row.round).or_default().push(row.value),
                "qps" => {
                    if is_default {
                        side.qps.entry(row.threads).or_default().insert(row.round, row.value);
                    }
                    if row.threads == 1 {
                        side.sweep.entry(row.place).or_default().1.insert(row.round, row.value);
                    }
                }
                "recall" => {
                    if is_default {
                        side.recall.entry(row.k).or_default().push((row.item.to_string(), row.value));
                    }
                    if row.k == k {
                        let (sum, count) = sums.entry(row.place).or_default();
                        *sum += row.value;
                        *count += 1.0;
                    }
                }
                "open_ms" => side.open_ms.push(row.value),
                "bytes" => side.bytes += row.value,
                // What certifies measures, it does not build.
                "build_cpu_s" if row.item.starts_with("build ") => side.build_s += row.value,
                _ => {}
            }
        }
        for (place, (sum, count)) in sums {
            side.sweep.entry(place).or_default().0 = sum / count;
        }
        Ok(side)
    }

    /// Throughput of one thread at a recall, of one round: between the settings around it, log speed over recall.
    fn speed_at(&self, target: f64, round: u32) -> Option<f64> {
        let mut points: Vec<(f64, f64)> = self
            .sweep
            .values()
            .filter_map(|(recall, speeds)| Some((*recall, *speeds.get(&round)?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let above = points.iter().position(|(recall, _)| *recall >= target)?;
        let (high_recall, high) = points[above];
        let &(low_recall, low) = above.checked_sub(1).map(|below| &points[below])?;
        let share = (target - low_recall) / (high_recall - low_recall).max(1e-12);
        Some(((1.0 - share) * low.ln() + share * high.ln()).exp())
    }
}

/// Compares two subjects, each of its measurements, at their defaults and at equal recall@`k`.
///
/// # Errors
/// Subjects that are not there; measurements of different query sets.
pub fn compare(
    a: (&Measurements, &str),
    b: (&Measurements, &str),
    k: u32,
    bounds: &Bounds,
    seed: u64,
) -> Result<Comparison, ReportError> {
    let digests = (&a.0.header.dataset.digest, &b.0.header.dataset.digest);
    if digests.0 != digests.1 {
        let what = format!("measured with different query sets: {} and {}", digests.0, digests.1);
        return Err(ReportError::Incomparable(what));
    }
    let interleaved = std::ptr::eq(a.0, b.0) && a.0.header.interleaved;
    let (side_a, side_b) = (Side::of(a.0, a.1, k)?, Side::of(b.0, b.1, k)?);
    let mut bootstrap = Bootstrap { random: Random::new(seed), paired: interleaved };
    let mut comparison =
        Comparison { a: a.1.into(), b: b.1.into(), interleaved, lines: Vec::new(), regressions: Vec::new() };
    let at = match (&side_a.subject.default_setting, &side_b.subject.default_setting) {
        (a, b) if a == b => format!("at {a}"),
        (a, b) => format!("at {a} | {b}"),
    };
    for (k, recalls) in &side_a.recall {
        let Some(others) = side_b.recall.get(k) else { continue };
        comparison.recall(format!("recall@{k} {at}"), recalls, others, bounds, &mut bootstrap);
    }
    for (name, p) in [("p50", 0.50), ("p99", 0.99)] {
        if let Some(interval) = bootstrap.latency(&side_a.latency, &side_b.latency, p) {
            let of = |side: &Side| {
                short(percentile(&mut side.latency.values().flatten().copied().collect::<Vec<_>>(), p))
            };
            let (a, b) = (of(&side_a) + " µs", of(&side_b) + " µs");
            comparison.ratio(format!("latency {name} {at}"), a, b, interval, true, Some(bounds));
        }
    }
    for (threads, speeds) in &side_a.qps {
        let Some(others) = side_b.qps.get(threads) else { continue };
        let what = format!("queries/s, {threads} thread{} {at}", if *threads == 1 { "" } else { "s" });
        comparison.speed(what, speeds, others, bounds, &mut bootstrap);
    }
    for target in TARGETS {
        let rounds = |side: &Side| -> BTreeMap<u32, f64> {
            let rounds: std::collections::BTreeSet<u32> =
                side.sweep.values().flat_map(|(_, speeds)| speeds.keys().copied()).collect();
            rounds.into_iter().filter_map(|round| Some((round, side.speed_at(target, round)?))).collect()
        };
        let (speeds, others) = (rounds(&side_a), rounds(&side_b));
        if !speeds.is_empty() && !others.is_empty() {
            comparison.speed(
                format!("queries/s at recall@{k} {target}"),
                &speeds,
                &others,
                bounds,
                &mut bootstrap,
            );
        }
    }
    comparison.costs(&side_a, &side_b);
    Ok(comparison)
}

impl Comparison {
    fn recall(
        &mut self,
        what: String,
        a: &[(String, f64)],
        b: &[(String, f64)],
        bounds: &Bounds,
        bootstrap: &mut Bootstrap,
    ) {
        // The same queries in the same order, or means alone.
        if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.0 != b.0) {
            return;
        }
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b.1 - a.1).collect();
        let interval = bootstrap.mean(&differences);
        let mean =
            |values: &[(String, f64)]| values.iter().map(|value| value.1).sum::<f64>() / values.len() as f64;
        let verdict = match interval {
            Interval { low, .. } if low > 0.0 => "higher",
            Interval { high, .. } if high < 0.0 => "lower",
            _ => "within noise",
        };
        let lost = -interval.estimate;
        if let Some(most) = bounds.max_recall_loss.filter(|&most| lost > most && interval.high < 0.0) {
            self.regressions.push(format!(
                "{what}: {lost:.4} lower ({:.4} to {:.4}), allowed {most}",
                -interval.high, -interval.low
            ));
        }
        self.lines.push(Change {
            what,
            a: format!("{:.4}", mean(a)),
            b: format!("{:.4}", mean(b)),
            change: format!("{:+.4}", interval.estimate),
            interval: format!("{:+.4} … {:+.4}", interval.low, interval.high),
            verdict,
            estimate: interval.estimate,
            low: Some(interval.low),
            high: Some(interval.high),
        });
    }

    /// Of speeds by round; more is better.
    fn speed(
        &mut self,
        what: String,
        a: &BTreeMap<u32, f64>,
        b: &BTreeMap<u32, f64>,
        bounds: &Bounds,
        bootstrap: &mut Bootstrap,
    ) {
        let Some(interval) = bootstrap.ratio(a, b) else { return };
        let median = |speeds: &BTreeMap<u32, f64>| {
            short(percentile(&mut speeds.values().copied().collect::<Vec<_>>(), 0.5))
        };
        self.ratio(what, median(a), median(b), interval, false, Some(bounds));
    }

    fn ratio(
        &mut self,
        what: String,
        a: String,
        b: String,
        interval: Interval,
        less_is_better: bool,
        bounds: Option<&Bounds>,
    ) {
        let Interval { estimate, low, high } = interval;
        let slower = if less_is_better { low > 1.0 } else { high < 1.0 };
        let faster = if less_is_better { high < 1.0 } else { low > 1.0 };
        let slowdown = if less_is_better { estimate } else { 1.0 / estimate };
        if let Some(most) =
            bounds.and_then(|bounds| bounds.max_slowdown).filter(|&most| slowdown > most && slower)
        {
            self.regressions
                .push(format!("{what}: {slowdown:.3} times slower, beyond noise, allowed {most}"));
        }
        self.lines.push(Change {
            what,
            a,
            b,
            change: format!("×{estimate:.3}"),
            interval: format!("×{low:.3} … ×{high:.3}"),
            verdict: if slower {
                "slower"
            } else if faster {
                "faster"
            } else {
                "within noise"
            },
            estimate,
            low: Some(low),
            high: Some(high),
        });
    }

    /// What was measured once.
    fn costs(&mut self, a: &Side, b: &Side) {
        let per_row = |side: &Side| side.bytes / (side.subject.rows as f64).max(1.0);
        let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
        for (what, of_a, of_b, unit) in [
            ("bytes per vector", per_row(a), per_row(b), ""),
            ("opening, the fastest", least(&a.open_ms), least(&b.open_ms), " ms"),
            ("build, CPU time of its stages", a.build_s, b.build_s, " s"),
        ] {
            if !(of_a.is_finite() && of_b.is_finite() && of_a > 0.0 && of_b > 0.0) {
                continue;
            }
            let estimate = of_b / of_a;
            self.lines.push(Change {
                what: what.into(),
                a: short(of_a) + unit,
                b: short(of_b) + unit,
                change: format!("×{estimate:.3}"),
                interval: String::new(),
                verdict: "",
                estimate,
                low: None,
                high: None,
            });
        }
    }
}

struct Bootstrap {
    random: Random,
    /// Round with round.
    paired: bool,
}

impl Bootstrap {
    /// Of the mean.
    fn mean(&mut self, values: &[f64]) -> Interval {
        let n = values.len();
        let estimate = values.iter().sum::<f64>() / n as f64;
        let draw = |random: &mut Random| (0..n).map(|_| values[random.below(n)]).sum::<f64>() / n as f64;
        let draws = (0..DRAWS).map(|_| draw(&mut self.random)).collect();
        within(draws, estimate, n)
    }

    /// Of B's speed divided by A's; as ratios of geometric means. A single round has no interval.
    fn ratio(&mut self, a: &BTreeMap<u32, f64>, b: &BTreeMap<u32, f64>) -> Option<Interval> {
        let logs = if self.paired {
            let pairs = a.iter().filter_map(|(round, a)| Some(b.get(round)?.ln() - a.ln()));
            let interval = self.mean(&pairs.collect::<Vec<f64>>());
            (!interval.estimate.is_nan()).then_some(interval)?
        } else {
            let of = |side: &BTreeMap<u32, f64>| side.values().map(|speed| speed.ln()).collect::<Vec<f64>>();
            let (a, b) = (of(a), of(b));
            if a.is_empty() || b.is_empty() {
                return None;
            }
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let estimate = mean(&b) - mean(&a);
            let mut drawn = |values: &[f64]| {
                (0..values.len()).map(|_| values[self.random.below(values.len())]).sum::<f64>()
                    / values.len() as f64
            };
            let draws = (0..DRAWS).map(|_| drawn(&b) - drawn(&a)).collect();
            within(draws, estimate, a.len().min(b.len()))
        };
        Some(Interval { estimate: logs.estimate.exp(), low: logs.low.exp(), high: logs.high.exp() })
    }

    /// Of the percentile of B's latencies divided by A's: rounds are drawn, and in them queries, the same ones of both
    /// where they are paired.
    fn latency(
        &mut self,
        a: &BTreeMap<u32, Vec<f64>>,
        b: &BTreeMap<u32, Vec<f64>>,
        p: f64,
    ) -> Option<Interval> {
        let (a, b): (Vec<&Vec<f64>>, Vec<&Vec<f64>>) = (a.values().collect(), b.values().collect());
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let of = |rounds: &[&Vec<f64>]| {
            percentile(&mut rounds.iter().copied().flatten().copied().collect::<Vec<_>>(), p)
        };
        let estimate = (of(&b) / of(&a)).ln();
        let same_shape = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.len() == b.len());
        let mut draws = Vec::with_capacity(LATENCY_DRAWS);
        for _ in 0..LATENCY_DRAWS {
            let draws_of = |rounds: &[&Vec<f64>], random: &mut Random| -> Vec<(usize, usize)> {
                let drawn: Vec<usize> = (0..rounds.len()).map(|_| random.below(rounds.len())).collect();
                drawn
                    .iter()
                    .flat_map(|&round| {
                        let n = rounds[round].len();
                        (0..n).map(|_| (round, random.below(n))).collect::<Vec<_>>()
                    })
                    .collect()
            };
            let places = draws_of(&a, &mut self.random);
            let places_b =
                if self.paired && same_shape { places.clone() } else { draws_of(&b, &mut self.random) };
            let value = |rounds: &[&Vec<f64>], places: &[(usize, usize)]| {
                percentile(
                    &mut places.iter().map(|&(round, query)| rounds[round][query]).collect::<Vec<_>>(),
                    p,
                )
            };
            draws.push((value(&b, &places_b) / value(&a, &places)).ln());
        }
        let Interval { estimate, low, high } = within(draws, estimate, a.len().min(b.len()));
        Some(Interval { estimate: estimate.exp(), low: low.exp(), high: high.exp() })
    }
}

/// The 95 % interval of draws around an estimate from `n` repeats, widened for few of them.
fn within(mut draws: Vec<f64>, estimate: f64, n: usize) -> Interval {
    let (low, high) = (percentile(&mut draws, 0.025), percentile(&mut draws, 0.975));
    if n < 2 {
        return Interval { estimate, low: f64::NEG_INFINITY, high: f64::INFINITY };
    }
    // 97.5th percentiles of Student's t with 1, 2, … degrees of freedom.
    const T: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    let t = T.get(n - 2).copied().unwrap_or(1.96 + 2.6 / (n - 1) as f64);
    let wider = t / 1.96 * (n as f64 / (n - 1) as f64).sqrt();
    Interval {
        estimate,
        low: estimate + wider * (low - estimate),
        high: estimate + wider * (high - estimate),
    }
}

/// By the nearest rank; of no values, not a number.
fn percentile(values: &mut [f64], p: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let place = ((values.len() - 1) as f64 * p).round() as usize;
    *values.select_nth_unstable_by(place, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::header::Header;
    use crate::report::measurements::{Gathered, Measure, Measurement};

    /// Two subjects measured by turns on a machine whose speed wanders by 30 %, B `slower` times slower, with
    /// `recall` less.
    fn measured(slower: f64, recall: f64, seed: u64) -> Measurements {
        let mut random = Random::new(seed);
        let mut out = Gathered::default();
        for round in 0..5u32 {
            let machine = 1.0 + 0.3 * random.unit();
            for (subject, factor, loss) in [("a", 1.0, 0.0), ("b", slower, recall)] {
                for place in 0..3u32 {
                    let setting = format!("ef_search {}", 16 << place);
                    let one = |measure, value| {
                        let one = Measurement::of(subject, measure, value);
                        Measurement { setting: &setting, place, k: 10, threads: 1, round, ..one }
                    };
                    let noise = 1.0 + 0.01 * random.normal();
                    let speed = 1e4 / f64::from(1 << place) / machine / factor * noise;
                    out.push(one(Measure::Qps, speed));
                    for query in 0..300u32 {
                        let item = query.to_string();
                        let micros = 100.0 * machine * factor * (1.0 + random.unit());
                        out.push(Measurement { item: &item, ..one(Measure::LatencyUs, micros) });
                        if round == 0 {
                            // What an index misses, it misses each time.
                            let misses = Random::of(seed, u64::from(query)).unit() < 0.2;
                            let missed = f64::from(u8::from(misses)) * 0.1 + loss;
                            let recall = [0.85, 0.93, 0.995][place as usize] - missed + 0.02;
                            out.push(Measurement { item: &item, threads: 0, ..one(Measure::Recall, recall) });
                        }
                    }
                }
            }
        }
        let mut header = Header::named(&["a", "b"]);
        header.interleaved = true;
        header.subjects.iter_mut().for_each(|subject| subject.default_setting = "ef_search 32".into());
        Measurements { header, table: out.finish().unwrap() }
    }

    const BOUNDS: Bounds = Bounds { max_slowdown: Some(1.1), max_recall_loss: Some(0.005) };

    fn compared(measured: &Measurements) -> Comparison {
        compare((measured, "a"), (measured, "b"), 10, &BOUNDS, 1).unwrap()
    }

    #[test]
    fn an_index_beside_itself_has_not_changed() {
        let mut outside = 0;
        for seed in 0..20 {
            let comparison = compared(&measured(1.0, 0.0, seed));
            assert_eq!(comparison.regressions, [""; 0], "seed {seed}");
            assert!(comparison.lines.len() >= 6, "{comparison:?}");
            outside += comparison.lines.iter().filter(|line| line.verdict != "within noise").count();
        }
        // 140 intervals at 95 %: seven are expected to miss; those of one run stand and fall together.
        assert!(outside <= 16, "{outside}");
    }

    #[test]
    fn a_slowdown_of_a_quarter_is_seen_through_a_machine_that_wanders_more() {
        for seed in 0..10 {
            let comparison = compared(&measured(1.25, 0.0, seed));
            let slower: Vec<&Change> =
                comparison.lines.iter().filter(|line| line.verdict == "slower").collect();
            assert!(slower.len() >= 4, "seed {seed}: {comparison:?}");
            assert!(comparison.regressions.iter().any(|line| line.contains("latency p50")), "{comparison:?}");
            let speed =
                comparison.lines.iter().find(|line| line.what.starts_with("queries/s, 1 thread")).unwrap();
            assert!(speed.low.unwrap() <= 0.8 && 0.8 <= speed.high.unwrap(), "{speed:?}");
        }
    }

    #[test]
    fn a_loss_of_recall_is_a_regression_and_a_gain_is_none() {
        let lost = compared(&measured(1.0, 0.02, 3));
        assert!(lost.regressions.iter().any(|line| line.starts_with("recall@10")), "{lost:?}");
        let gained = compared(&measured(0.5, -0.02, 3));
        assert_eq!(gained.regressions, [""; 0]);
        assert_eq!(gained.lines[0].verdict, "higher");
    }

    #[test]
    fn other_queries_and_unknown_names_cannot_be_compared() {
        let a = measured(1.0, 0.0, 1);
        let mut b = a.clone();
        b.header.dataset.digest = "other".into();
        assert!(compare((&a, "a"), (&b, "b"), 10, &BOUNDS, 1).is_err());
        assert!(compare((&a, "a"), (&a, "c"), 10, &BOUNDS, 1).is_err());
    }

    #[test]
    fn one_round_proves_nothing() {
        let one = BTreeMap::from([(0, 100.0)]);
        let other = BTreeMap::from([(0, 50.0)]);
        let interval = Bootstrap { random: Random::new(1), paired: true }.ratio(&one, &other).unwrap();
        assert!(
            (interval.estimate - 0.5).abs() < 1e-9 && interval.low == 0.0 && interval.high == f64::INFINITY
        );
    }
}
