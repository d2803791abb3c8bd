//! From raw measurements to what a page shows, by polars: percentiles, means, counts, frontiers.

use polars::prelude::*;

use super::error::ReportError;
use super::measurements::Measurements;
use super::recall::{RecallSummary, interval};
use crate::source::to_frame;

/// One setting of one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub setting: String,
    pub place: u32,
    /// By k, ascending. Of peers the mean alone is known: low and high are it, too.
    pub recalls: Vec<(u32, RecallSummary)>,
    /// Per second, one thread, a batch; the median of the rounds and their range.
    pub qps: Option<Spread>,
    pub cpu_qps: Option<Spread>,
    /// Of the most threads measured.
    pub qps_many: Option<(u32, Spread)>,
    pub latency: Option<Percentiles>,
    /// Nothing is better in both recall and throughput.
    pub on_frontier: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Of single queries, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub count: u32,
}

/// One filter of one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterPoint {
    pub filter: String,
    pub selectivity: f64,
    /// `scan`, `masked walk`, …
    pub way: String,
    pub recall: RecallSummary,
    pub latency: Option<Percentiles>,
}

impl Point {
    pub fn recall_at(&self, k: u32) -> Option<RecallSummary> {
        self.recalls.iter().find(|(measured, _)| *measured == k).map(|(_, recall)| *recall)
    }

    /// By CPU time where that was taken (it is what peers are compared by), else by the clock.
    pub fn speed(&self, by_cpu: bool) -> Option<Spread> {
        if by_cpu { self.cpu_qps.or(self.qps) } else { self.qps }
    }
}

/// The measurements as a frame to ask.
pub struct Summary {
    frame: LazyFrame,
}

fn wrong(error: PolarsError) -> ReportError {
    ReportError::Summary(error.to_string())
}

impl Summary {
    pub fn new(measurements: &Measurements) -> Result<Self, ReportError> {
        Ok(Self { frame: to_frame(&measurements.table).map_err(wrong)?.lazy() })
    }

    fn of(&self, subject: &str, measure: &str) -> LazyFrame {
        let is = |column: &str, value: &str| col(column).eq(lit(value.to_string()));
        self.frame.clone().filter(is("subject", subject).and(is("measure", measure)))
    }

    /// The settings of a subject by rising recall@`k`, frontiers by wall or CPU time.
    pub fn points(&self, subject: &str, k: u32, by_cpu: bool) -> Result<Vec<Point>, ReportError> {
        let mut points: Vec<Point> = Vec::new();
        for ((place, setting), recalls) in self.recalls(subject)? {
            let qps = self.speeds(subject, "qps", &setting)?;
            let one =
                |speeds: &[(u32, Spread)]| speeds.iter().find(|(threads, _)| *threads <= 1).map(|(_, s)| *s);
            points.push(Point {
                recalls,
                qps: one(&qps),
                cpu_qps: one(&self.speeds(subject, "cpu_qps", &setting)?),
                qps_many: qps.iter().rev().find(|(threads, _)| *threads > 1).copied(),
                latency: self.latency(
                    subject,
                    col("setting").eq(lit(setting.clone())).and(col("filter").eq(lit(""))),
                )?,
                on_frontier: false,
                setting,
                place,
            });
        }
        let recall = |point: &Point| point.recall_at(k).map_or(0.0, |recall| recall.mean);
        let speed = |point: &Point| point.speed(by_cpu).map_or(f64::NEG_INFINITY, |speed| speed.median);
        // Of equal recalls the fastest last: it beats the others.
        points.sort_by(|a, b| recall(a).total_cmp(&recall(b)).then(speed(a).total_cmp(&speed(b))));
        let mut fastest = f64::NEG_INFINITY;
        for point in points.iter_mut().rev() {
            let speed = speed(point);
            point.on_frontier = speed > fastest;
            fastest = fastest.max(speed);
        }
        Ok(points)
    }

    #[allow(clippy::type_complexity, reason = "settings and their recalls, nowhere else")]
    fn recalls(&self, subject: &str) -> Result<Vec<((u32, String), Vec<(u32, RecallSummary)>)>, ReportError> {
        let frame = self
            .of(subject, "recall")
            .filter(col("filter").eq(lit("")))
            .group_by([col("place"), col("setting"), col("k")])
            .agg([mean_of("value"), variance_of("value"), count_of("value")])
            .sort(["place", "setting", "k"], SortMultipleOptions::default())
            .collect()
            .map_err(wrong)?;
        let mut settings: Vec<((u32, String), Vec<(u32, RecallSummary)>)> = Vec::new();
        for row in 0..frame.height() {
            let setting = (number(&frame, "place", row)? as u32, text(&frame, "setting", row)?);
            let k = number(&frame, "k", row)? as u32;
            let recall = (k, recall_of(&frame, row, k)?);
            match settings.last_mut() {
                Some((last, recalls)) if *last == setting => recalls.push(recall),
                _ => settings.push((setting, vec![recall])),
            }
        }
        Ok(settings)
    }

    /// By number of threads, ascending.
    fn speeds(&self, subject: &str, measure: &str, setting: &str) -> Result<Vec<(u32, Spread)>, ReportError> {
        let frame = self
            .of(subject, measure)
            .filter(col("setting").eq(lit(setting.to_string())))
            .group_by([col("threads")])
            .agg([
                col("value").median().alias("median"),
                col("value").min().alias("low"),
                col("value").max().alias("high"),
            ])
            .sort(["threads"], SortMultipleOptions::default())
            .collect()
            .map_err(wrong)?;
        (0..frame.height())
            .map(|row| {
                let of = |column| number(&frame, column, row);
                let spread = Spread { median: of("median")?, low: of("low")?, high: of("high")? };
                Ok((of("threads")? as u32, spread))
            })
            .collect()
    }

    fn latency(&self, subject: &str, which: Expr) -> Result<Option<Percentiles>, ReportError> {
        let quantile =
            |q: f64, name: &str| col("value").quantile(lit(q), QuantileMethod::Nearest).alias(name);
        let frame = self
            .of(subject, "latency_us")
            .filter(which)
            .select([
                quantile(0.5, "p50"),
                quantile(0.95, "p95"),
                quantile(0.99, "p99"),
                quantile(0.999, "p999"),
                count_of("value"),
            ])
            .collect()
            .map_err(wrong)?;
        let count = number(&frame, "count", 0)? as u32;
        if count == 0 {
            return Ok(None);
        }
        let of = |column| number(&frame, column, 0);
        Ok(Some(Percentiles { p50: of("p50")?, p95: of("p95")?, p99: of("p99")?, p999: of("p999")?, count }))
    }

    /// By falling selectivity.
    pub fn filters(&self, subject: &str) -> Result<Vec<FilterPoint>, ReportError> {
        let frame = self.of(subject, "selectivity").collect().map_err(wrong)?;
        let mut points = Vec::new();
        for row in 0..frame.height() {
            let filter = text(&frame, "filter", row)?;
            let is_this = || col("filter").eq(lit(filter.clone()));
            let recall = self
                .of(subject, "recall")
                .filter(is_this())
                .select([mean_of("value"), variance_of("value"), count_of("value")])
                .collect()
                .map_err(wrong)?;
            if number(&recall, "count", 0)? < 1.0 {
                continue;
            }
            let k = number(&frame, "k", row)? as u32;
            points.push(FilterPoint {
                selectivity: number(&frame, "value", row)?,
                way: text(&frame, "item", row)?,
                recall: recall_of(&recall, 0, k)?,
                latency: self.latency(subject, is_this())?,
                filter,
            });
        }
        points.sort_by(|a, b| b.selectivity.total_cmp(&a.selectivity));
        Ok(points)
    }

    /// All values of a measure, with their items, in the order measured.
    pub fn values(&self, subject: &str, measure: &str) -> Result<Vec<(String, f64)>, ReportError> {
        let frame = self.of(subject, measure).collect().map_err(wrong)?;
        (0..frame.height())
            .map(|row| Ok((text(&frame, "item", row)?, number(&frame, "value", row)?)))
            .collect()
    }

    /// The median of each item's values, in the order first measured.
    pub fn medians(&self, subject: &str, measure: &str) -> Result<Vec<(String, f64)>, ReportError> {
        let medians = [col("value").median().alias("value")];
        let frame =
            self.of(subject, measure).group_by_stable([col("item")]).agg(medians).collect().map_err(wrong)?;
        (0..frame.height())
            .map(|row| Ok((text(&frame, "item", row)?, number(&frame, "value", row)?)))
            .collect()
    }

    /// All values of a measure at one setting without a filter, and at `k` where that is above 0.
    pub fn values_at(
        &self,
        subject: &str,
        measure: &str,
        setting: &str,
        k: u32,
    ) -> Result<Vec<f64>, ReportError> {
        let mut which = col("setting").eq(lit(setting.to_string())).and(col("filter").eq(lit("")));
        if k > 0 {
            which = which.and(col("k").eq(lit(k)));
        }
        let frame =
            self.of(subject, measure).filter(which).select([col("value")]).collect().map_err(wrong)?;
        let values = frame.column("value").and_then(|column| column.f64().cloned()).map_err(wrong)?;
        Ok(values.into_no_null_iter().collect())
    }

    /// Most frequent values first.
    pub fn ranked(&self, subject: &str, measure: &str) -> Result<Vec<f64>, ReportError> {
        let descending = SortMultipleOptions::default().with_order_descending(true);
        let frame = self.of(subject, measure).sort(["value"], descending).collect().map_err(wrong)?;
        let values = frame.column("value").and_then(|column| column.f64().cloned()).map_err(wrong)?;
        Ok(values.into_no_null_iter().collect())
    }
}

fn mean_of(column: &str) -> Expr {
    col(column).mean().alias("mean")
}

/// Unbiased; null of a single value.
fn variance_of(column: &str) -> Expr {
    col(column).var(1).alias("variance")
}

fn count_of(column: &str) -> Expr {
    col(column).count().alias("count")
}

/// With its interval, where it is of single queries.
fn recall_of(frame: &DataFrame, row: usize, k: u32) -> Result<RecallSummary, ReportError> {
    let (mean, count) = (number(frame, "mean", row)?, number(frame, "count", row)?);
    if count <= 1.0 {
        return Ok(RecallSummary { mean, low: mean, high: mean });
    }
    // As `summarize` rounds.
    let mean = (mean * 1e12).round() / 1e12;
    Ok(interval(mean, number(frame, "variance", row).unwrap_or(0.0), count, k as usize))
}

fn number(frame: &DataFrame, column: &str, row: usize) -> Result<f64, ReportError> {
    let value = frame.column(column).and_then(|column| column.get(row)).map_err(wrong)?;
    value.try_extract::<f64>().map_err(wrong)
}

fn text(frame: &DataFrame, column: &str, row: usize) -> Result<String, ReportError> {
    let value = frame.column(column).and_then(|column| column.get(row)).map_err(wrong)?;
    Ok(value.get_str().unwrap_or_default().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::header::Header;
    use crate::report::measurements::{Gathered, Measure, Measurement};
    use crate::report::summarize;

    fn measured() -> Measurements {
        let mut out = Gathered::default();
        for place in 0..3u32 {
            let setting = format!("nprobe {}", 1 << place);
            for query in 0..100u32 {
                let item = query.to_string();
                let recall = if query % 4 <= place { 1.0 } else { 0.5 };
                let one = |measure, value| {
                    let one = Measurement::of("a", measure, value);
                    Measurement { setting: &setting, place, item: &item, k: 10, ..one }
                };
                out.push(one(Measure::Recall, recall));
                out.push(one(Measure::LatencyUs, f64::from(query + 1)));
            }
            for (round, qps) in [(0, 300.0), (1, 100.0), (2, 200.0)] {
                // The middle setting is slower than the last: off the frontier.
                let qps = qps / if place == 1 { 10.0 } else { f64::from(place + 1) };
                let one = Measurement::of("a", Measure::Qps, qps);
                out.push(Measurement { setting: &setting, place, k: 10, threads: 1, round, ..one });
            }
        }
        Measurements { header: Header::named(&["a"]), table: out.finish().unwrap() }
    }

    #[test]
    fn summaries_are_those_of_the_definitions() {
        let summary = Summary::new(&measured()).unwrap();
        let points = summary.points("a", 10, false).unwrap();
        assert_eq!(points.iter().map(|point| point.on_frontier).collect::<Vec<_>>(), [true, false, true]);
        let recalls: Vec<f64> = (0..100).map(|query| if query % 4 == 0 { 1.0 } else { 0.5 }).collect();
        assert_eq!(points[0].recall_at(10), Some(summarize(&recalls, 10)));
        assert_eq!(points[0].qps, Some(Spread { median: 200.0, low: 100.0, high: 300.0 }));
        let latency = points[0].latency.unwrap();
        assert!((50.0..=51.0).contains(&latency.p50) && latency.p999 == 100.0, "{latency:?}");
        assert_eq!(latency.count, 100);
        assert_eq!(summary.points("nobody", 10, false).unwrap(), []);
    }
}
