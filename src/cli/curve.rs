//! Recall and latency by search setting, as `build` and `inspect` print them.

use std::time::Duration;

use serde::Serialize;

use super::table::{Align, Table};
use crate::job::quantity::{count, duration};

/// What was measured of an index: its certificate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// `nprobe`, `ef_search`; none where there is no such setting.
    pub effort_name: Option<String>,
    /// Queries that it was measured with.
    pub queries: u64,
    /// Cheapest first.
    pub points: Vec<CurvePoint>,
    /// Position of the point that is the index's default.
    pub chosen: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurvePoint {
    pub effort: u32,
    /// Candidates re-ranked; 0 is the family's default.
    pub refine: u32,
    pub recall: Vec<RecallAt>,
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    /// Of one thread, one query after the other.
    pub qps: f64,
}

/// Mean recall@k and its 95 % confidence interval, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RecallAt {
    pub k: u32,
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

impl std::fmt::Display for RecallAt {
    /// `0.953 ±0.004`: the wider half where the interval is lopsided. Rounded down, so that what is below a gate does
    /// not look as if it reached it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let half = (self.high - self.mean).max(self.mean - self.low).max(0.0);
        // 0.95 · 1000 is 949.999… in binary.
        let mean = (self.mean * 1e3 + 1e-6).floor() / 1e3;
        let half = (half * 1e3 - 1e-6).ceil() / 1e3;
        write!(f, "{mean:.3} ±{:.3}", half.abs())
    }
}

impl Curve {
    /// The table, and under it what its signs mean.
    pub fn render(&self, indent: &str) -> String {
        let ks: Vec<u32> =
            self.points.first().map_or(Vec::new(), |point| point.recall.iter().map(|r| r.k).collect());
        let recall_headers: Vec<String> = ks.iter().map(|k| format!("recall@{k}")).collect();
        let has_refine = self.points.iter().any(|point| point.refine > 0);
        let mut columns = vec![("", Align::Left)];
        columns.extend(self.effort_name.as_deref().map(|name| (name, Align::Right)));
        columns.extend(has_refine.then_some(("refine", Align::Right)));
        columns.extend(recall_headers.iter().map(|header| (header.as_str(), Align::Left)));
        columns.extend(["p50", "p95", "p99", "queries/s"].map(|header| (header, Align::Right)));
        let mut table = Table::new(columns);
        for (position, point) in self.points.iter().enumerate() {
            let mut row = vec![if self.chosen == Some(position) { "*" } else { "" }.to_string()];
            row.extend(self.effort_name.as_ref().map(|_| point.effort.to_string()));
            row.extend(
                has_refine.then(|| if point.refine > 0 { point.refine.to_string() } else { "auto".into() }),
            );
            row.extend(ks.iter().map(|k| {
                let recall = point.recall.iter().find(|recall| recall.k == *k);
                recall.map_or(String::new(), RecallAt::to_string)
            }));
            row.extend([point.p50_us, point.p95_us, point.p99_us].map(latency));
            row.push(count(point.qps.max(0.0) as u64));
            table.row(row);
        }
        let mut text = table.render(indent);
        let marks = if self.chosen.is_some() { "* default; " } else { "" };
        let queries = count(self.queries);
        text += &format!(
            "{indent}{marks}± 95 % confidence over {queries} queries; latency of one query on one thread\n"
        );
        text
    }
}

fn latency(microseconds: f64) -> String {
    Duration::try_from_secs_f64(microseconds * 1e-6).map_or_else(|_| "?".into(), duration)
}

#[cfg(test)]
pub(super) fn example() -> Curve {
    let recall = |mean| vec![RecallAt { k: 10, mean, low: mean - 0.01, high: mean + 0.004 }];
    let point = |effort, mean, p50_us, qps| CurvePoint {
        effort,
        refine: 0,
        recall: recall(mean),
        p50_us,
        p95_us: 2.0 * p50_us,
        p99_us: 3.0 * p50_us,
        qps,
    };
    let points = vec![point(16, 0.912, 41.0, 24_100.0), point(64, 0.9509, 120.5, 8_100.0)];
    Curve { effort_name: Some("ef_search".into()), queries: 200, points, chosen: Some(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_a_table_with_its_default_marked() {
        let expected = "\
 \u{20}  ef_search  recall@10        p50     p95     p99  queries/s
 \u{20}         16  0.912 ±0.010  41 µs   82 µs  123 µs     24,100
 *         64  0.950 ±0.010  120 µs  241 µs  362 µs      8,100
 * default; ± 95 % confidence over 200 queries; latency of one query on one thread
";
        let rendered = example().render(" ");
        let blanks = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(blanks(&rendered), blanks(expected), "{rendered}");
        let mut ends: Vec<usize> = rendered.lines().take(3).map(|line| line.chars().count()).collect();
        ends.dedup();
        assert_eq!(ends.len(), 1, "{rendered}");
    }

    #[test]
    fn recall_is_never_rounded_up_to_a_gate() {
        let shown = |mean| RecallAt { k: 10, mean, low: mean, high: mean }.to_string();
        assert_eq!(shown(0.949_999), "0.949 ±0.000");
        assert_eq!(shown(0.95), "0.950 ±0.000");
        assert_eq!(shown(1.0), "1.000 ±0.000");
        assert_eq!(shown(0.999_9), "0.999 ±0.000");
    }

    #[test]
    fn an_index_without_a_setting_has_no_column_for_it() {
        let curve = Curve { effort_name: None, chosen: None, ..example() };
        let rendered = curve.render("");
        assert!(!rendered.contains("ef_search") && !rendered.contains('*'), "{rendered}");
        assert!(Curve { points: vec![], ..curve }.render("").contains("queries/s"));
    }
}
