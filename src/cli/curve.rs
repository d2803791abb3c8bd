//! A certificate, recall and latency by search setting, as `build` and `inspect` print it.

use std::time::Duration;

use super::table::{Align, Table};
use crate::artifact::{Certificate, CertificatePoint, Recall};
use crate::job::quantity::{count, duration};

/// The setting that became the index's default, as it was measured.
pub(super) fn default_point(certificate: &Certificate) -> Option<&CertificatePoint> {
    certificate.chosen_point()
}

/// `0.953 ±0.004`: the wider half where the interval is lopsided. Rounded down, so that what is below a gate does not
/// look as if it reached it.
pub(super) fn recall(recall: &Recall) -> String {
    let half = (recall.high - recall.mean).max(recall.mean - recall.low).max(0.0);
    // 0.95 · 1000 is 949.999… in binary.
    let mean = (recall.mean * 1e3 + 1e-6).floor() / 1e3;
    let half = (half * 1e3 - 1e-6).ceil() / 1e3;
    format!("{mean:.3} ±{:.3}", half.abs())
}

/// The table, and under it what its signs mean. An index without an effort has one setting, and no default to mark.
pub(super) fn render(certificate: &Certificate, effort_name: Option<&str>, indent: &str) -> String {
    let Certificate { k: ks, points, .. } = certificate;
    let default = default_point(certificate).filter(|_| effort_name.is_some());
    let has_refine = points.iter().any(|point| point.refine > 0);
    let recall_headers: Vec<String> = ks.iter().map(|k| format!("recall@{k}")).collect();
    let mut columns = vec![("", Align::Left)];
    columns.extend(effort_name.map(|name| (name, Align::Right)));
    columns.extend(has_refine.then_some(("refine", Align::Right)));
    columns.extend(recall_headers.iter().map(|header| (header.as_str(), Align::Left)));
    columns.extend(["p50", "p95", "p99", "queries/s"].map(|header| (header, Align::Right)));
    let mut table = Table::new(columns);
    for point in points {
        let is_default = default.is_some_and(|default| std::ptr::eq(default, point));
        let mut row = vec![if is_default { "*" } else { "" }.to_string()];
        row.extend(effort_name.map(|_| point.effort.to_string()));
        row.extend(has_refine.then(|| match point.refine {
            0 => "auto".into(),
            refine => refine.to_string(),
        }));
        row.extend(ks.iter().map(|k| {
            let measured = point.recall.iter().find(|recall| recall.k == *k);
            measured.map_or(String::new(), recall)
        }));
        let latency = point.latency_us;
        row.extend([latency.p50, latency.p95, latency.p99].map(microseconds));
        row.push(count(point.qps.max(0.0) as u64));
        table.row(row);
    }
    let mut text = table.render(indent);
    if let Some(default) = default {
        let Certificate { target_k, target_recall, .. } = certificate;
        let reaches = |recall: &Recall| recall.k == *target_k && recall.mean >= *target_recall;
        let why = if default.recall.iter().any(reaches) {
            format!("the cheapest measured that reaches recall@{target_k} {target_recall}")
        } else {
            format!("the best measured; none reaches recall@{target_k} {target_recall}")
        };
        text += &format!("{indent}* default: {why}\n");
    }
    let queries = count(certificate.queries);
    text + &format!("{indent}± 95 % confidence over {queries} queries; latency of one query on one thread\n")
}

fn microseconds(value: f64) -> String {
    Duration::try_from_secs_f64(value * 1e-6).map_or_else(|_| "?".into(), duration)
}

#[cfg(test)]
pub(super) fn example() -> Certificate {
    use crate::artifact::{Digest, Gate, Latency};
    let point = |effort, mean, p50, qps| CertificatePoint {
        effort,
        refine: 0,
        recall: vec![Recall { k: 10, mean, low: mean - 0.01, high: mean + 0.004 }],
        latency_us: Latency { p50, p95: 2.0 * p50, p99: 3.0 * p50 },
        qps,
    };
    Certificate {
        query_set_digest: Digest::of(b"queries"),
        queries: 200,
        ground_truth_digest: Digest::of(b"truth"),
        k: vec![10],
        points: vec![point(16, 0.912, 41.0, 24_100.0), point(64, 0.9509, 120.5, 8_100.0)],
        target_k: 10,
        target_recall: 0.95,
        gate: Some(Gate { k: 10, min_recall: 0.95 }),
        chosen_effort: 64,
        chosen_refine: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_a_table_with_its_default_marked() {
        let expected = "\
 \u{20}  ef_search  recall@10        p50     p95     p99  queries/s
 \u{20}         16  0.912 ±0.010  41 µs   82 µs  123 µs     24,100
 *         64  0.950 ±0.010  120 µs  241 µs  362 µs      8,100
 * default: the cheapest measured that reaches recall@10 0.95
 ± 95 % confidence over 200 queries; latency of one query on one thread
";
        let rendered = render(&example(), Some("ef_search"), " ");
        let blanks = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(blanks(&rendered), blanks(expected), "{rendered}");
        let mut ends: Vec<usize> = rendered.lines().take(3).map(|line| line.chars().count()).collect();
        ends.dedup();
        assert_eq!(ends.len(), 1, "{rendered}");
    }

    #[test]
    fn recall_is_never_rounded_up_to_a_gate() {
        let shown = |mean| recall(&Recall { k: 10, mean, low: mean, high: mean });
        assert_eq!(shown(0.949_999), "0.949 ±0.000");
        assert_eq!(shown(0.95), "0.950 ±0.000");
        assert_eq!(shown(1.0), "1.000 ±0.000");
        assert_eq!(shown(0.999_9), "0.999 ±0.000");
    }

    #[test]
    fn a_default_that_misses_its_target_is_said_to() {
        let missed = Certificate { target_recall: 0.951, ..example() };
        let rendered = render(&missed, Some("ef_search"), "");
        assert!(
            rendered.contains("* default: the best measured; none reaches recall@10 0.951\n"),
            "{rendered}"
        );
    }

    #[test]
    fn an_index_without_a_setting_has_no_column_for_it() {
        let rendered = render(&example(), None, "");
        assert!(!rendered.contains("ef_search") && !rendered.contains('*'), "{rendered}");
        assert!(render(&Certificate { points: vec![], ..example() }, None, "").contains("queries/s"));
    }
}
