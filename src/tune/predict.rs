//! From trials on samples to the whole.
//!
//! | | predicted by |
//! |---|---|
//! | latency, queries/s | a power of the rows through the last trial, its exponent fitted to the last three in logarithms and kept within the family's bounds; the family's usual one where there is a single trial. The recall asked for is held while the effort grows, so it is the cost of that recall which is extrapolated |
//! | build time | the same |
//! | bytes | the job planner's formula, times what the last trial's index had over what the formula gave for it |
//! | recall | that of the last trial, or, where that is less, the best that effort brings, which goes on falling along ln(rows) as it did over the trials; a fall within what so many queries tell recall by is none |
//!
//! What is not seen: a sample that fits a cache and a whole that does not. The larger the last sample, the less of it.

use super::candidates::{Family, Growth};
use super::trial::Trial;

/// What an index of all rows is expected to be.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Prediction {
    pub rows: u64,
    /// Rows of the samples that it rests on.
    pub from: Vec<u64>,
    /// Recall@k at the setting that the index would be published with, …
    pub recall: f64,
    /// … and with all effort.
    pub best_recall: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub qps: f64,
    /// Of the index, but for ids and attributes, per row.
    pub bytes_per_vector: f64,
    /// Of the published version.
    pub published_bytes: u64,
    pub build_seconds: f64,
}

/// An index of so many rows by the planner's formulas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Formula {
    /// Without ids and attributes, …
    pub sections: f64,
    /// … and all of it.
    pub published: f64,
}

/// `trials` by ascending size, at least one; `formula` by rows.
pub(super) fn predict(
    trials: &[Trial],
    family: &Family,
    all_rows: u64,
    formula: impl Fn(u64) -> Formula,
) -> Prediction {
    let last = trials.last().expect("at least one trial");
    let rows = all_rows as f64;
    let curve = |value: fn(&Trial) -> f64| -> Vec<(f64, f64)> {
        trials.iter().map(|trial| (trial.rows as f64, value(trial))).collect()
    };
    let grown = |value, growth| extrapolate(&curve(value), growth, rows);
    let best_recall = ceiling(&curve(|trial| trial.best_recall), last.queries, rows);
    let (then, now) = (formula(last.rows), formula(all_rows));
    let sections = last.bytes as f64 * now.sections / then.sections.max(1.0);
    Prediction {
        rows: all_rows,
        from: trials.iter().map(|trial| trial.rows).collect(),
        recall: last.recall.min(best_recall),
        best_recall,
        p50_ms: grown(|trial| trial.p50_ms, family.search),
        p95_ms: grown(|trial| trial.p95_ms, family.search),
        qps: 1.0 / grown(|trial| 1.0 / trial.qps.max(1e-9), family.search),
        bytes_per_vector: sections / rows.max(1.0),
        published_bytes: (sections + now.published - now.sections).max(0.0) as u64,
        build_seconds: grown(|trial| trial.build_seconds, family.build),
    }
}

/// A power law through the last point.
fn extrapolate(points: &[(f64, f64)], growth: Growth, rows: f64) -> f64 {
    let &[.., (last_rows, last)] = points else { return f64::NAN };
    let points = &points[points.len().saturating_sub(3)..];
    let exponent = match slope(points.iter().map(|&(rows, value)| (rows.ln(), value.max(1e-12).ln()))) {
        Some(slope) => slope.clamp(growth.least, growth.most),
        None => growth.usual,
    };
    last * (rows / last_rows).powf(exponent)
}

/// What recall with all effort falls to; it is not believed to rise.
fn ceiling(points: &[(f64, f64)], queries: u64, rows: f64) -> f64 {
    let &[.., (last_rows, last)] = points else { return f64::NAN };
    let points = &points[points.len().saturating_sub(3)..];
    // Twice the standard error, were each query's recall 0 or 1.
    let mean = f64::midpoint(points[0].1, last);
    let noise = 2.0 * (mean * (1.0 - mean) / queries.max(1) as f64).sqrt();
    if points[0].1 - last <= noise {
        return last;
    }
    let fall = slope(points.iter().map(|&(rows, recall)| (rows.ln(), recall))).unwrap_or(0.0).min(0.0);
    (last + fall * (rows / last_rows).ln()).clamp(0.0, 1.0)
}

/// Least squares; `None` of fewer than two different places.
fn slope(points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let points: Vec<(f64, f64)> = points.collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let along: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 1e-9).then(|| along / spread)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::candidates::family;
    use super::*;

    pub fn trial(rows: u64, recall: f64, ms: f64) -> Trial {
        Trial {
            rows,
            queries: 300,
            build_seconds: rows as f64 * 1e-4,
            bytes: rows * 100,
            recall,
            best_recall: recall,
            effort: 8,
            p50_ms: ms,
            p95_ms: 2.0 * ms,
            qps: 1e3 / ms,
            points: Vec::new(),
            seconds: 1.0,
        }
    }

    fn linear(rows: u64) -> Formula {
        Formula { sections: 50.0 * rows as f64, published: 60.0 * rows as f64 }
    }

    #[test]
    fn a_power_law_is_continued_and_kept_within_bounds() {
        let growth = Growth { least: 0.0, usual: 0.5, most: 0.75 };
        let points = |exponent: f64| [1e3f64, 4e3, 16e3].map(|rows| (rows, 3.0 * rows.powf(exponent)));
        for (exponent, expected) in [(0.25, 0.25), (0.6, 0.6), (1.0, 0.75), (-0.5, 0.0)] {
            let points = points(exponent);
            let got = extrapolate(&points, growth, 1e6);
            let expected = points[2].1 * (1e6f64 / 16e3).powf(expected);
            assert!((got / expected - 1.0).abs() < 1e-9, "{exponent}: {got}, expected {expected}");
        }
        assert!(
            (extrapolate(&[(100.0, 2.0)], growth, 400.0) - 4.0).abs() < 1e-9,
            "one trial: the usual power"
        );
    }

    #[test]
    fn of_all_rows_what_was_measured_is_the_prediction() {
        let trials = [trial(1_000, 0.99, 0.1), trial(16_000, 0.96, 0.4)];
        let found = predict(&trials, family("ivf_pq"), 16_000, linear);
        assert_eq!((found.recall, found.p50_ms, found.p95_ms), (0.96, 0.4, 0.8));
        assert!((found.qps - 2_500.0).abs() < 1e-6 && (found.build_seconds - 1.6).abs() < 1e-9);
        assert_eq!((found.bytes_per_vector, found.published_bytes), (100.0, 16_000 * 110));
        assert_eq!(found.from, [1_000, 16_000]);
    }

    #[test]
    fn recall_that_falls_goes_on_falling_and_none_is_believed_to_rise() {
        let falling = [trial(1_000, 0.90, 0.1), trial(10_000, 0.80, 0.1)];
        let found = predict(&falling, family("ivf_pq"), 1_000_000, linear);
        assert!((found.best_recall - 0.60).abs() < 1e-9 && found.recall == found.best_recall, "{found:?}");
        let wavering = [trial(1_000, 0.99, 0.1), trial(10_000, 0.985, 0.1)];
        assert_eq!(predict(&wavering, family("hnsw"), 1_000_000_000, linear).recall, 0.985);
        let rising = [trial(1_000, 0.90, 0.1), trial(10_000, 0.95, 0.1)];
        assert_eq!(predict(&rising, family("hnsw"), 1_000_000, linear).recall, 0.95);
    }

    #[test]
    fn bytes_follow_the_formula_as_far_as_it_was_right() {
        let found = predict(&[trial(1_000, 0.9, 0.1)], family("hnsw"), 8_000, linear);
        // Twice what the formula gave for the sample, and the columns as they are.
        assert_eq!((found.bytes_per_vector, found.published_bytes), (100.0, 8_000 * 110));
    }
}
