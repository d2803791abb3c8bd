//! recall@k and how far it can be trusted.

/// The mean of per-query recalls, with the bounds of its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecallSummary {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// 97.5th percentile of the standard normal distribution.
const Z: f64 = 1.959_964;

/// Summarises the recalls of individual queries, each in 0..=1, at least one.
///
/// The interval is Wilson's (1927) score interval, which stays inside 0..=1 and does not collapse to a point when
/// every query is answered fully. Hits of one query are not independent, so the sample size is the effective one,
/// p(1−p)/Var(mean) from the spread between queries, at least one per query.
pub fn summarize(recalls: &[f64], k: usize) -> RecallSummary {
    assert!(!recalls.is_empty());
    let queries = recalls.len() as f64;
    // A gate of 0.8 is met by a mean of 0.8: the roundings of a thousand fractions must not decide.
    let mean = (recalls.iter().sum::<f64>() / queries * 1e12).round() / 1e12;
    let spread = recalls.iter().map(|recall| (recall - mean).powi(2)).sum::<f64>();
    interval(mean, spread / (queries - 1.0).max(1.0), queries, k)
}

/// As [`summarize`], from the mean and the (unbiased) variance of the recalls of so many queries.
pub fn interval(mean: f64, variance: f64, queries: f64, k: usize) -> RecallSummary {
    let variance_of_mean = variance / queries;
    let effective = if variance_of_mean > 0.0 {
        (mean * (1.0 - mean) / variance_of_mean).clamp(queries, queries * k as f64)
    } else {
        queries
    };
    let z2 = Z * Z / effective;
    let centre = (mean + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (mean * (1.0 - mean) / effective + z2 / (4.0 * effective)).sqrt();
    RecallSummary { mean, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn a_mean_of_equal_recalls_is_that_recall() {
        for tenths in 0..=10 {
            let recall = f64::from(tenths) / 10.0;
            for queries in [1, 3, 100, 4999] {
                assert_eq!(summarize(&vec![recall; queries], 10).mean, recall);
            }
        }
    }

    #[test]
    fn the_interval_contains_its_mean_and_stays_inside_0_to_1() {
        let mut random = Random::new(1);
        for n in [1, 2, 10, 1000] {
            for p in [0.0, 0.3, 0.95, 1.0] {
                let recalls: Vec<f64> =
                    (0..n).map(|_| (0..10).filter(|_| random.unit() <= p).count() as f64 / 10.0).collect();
                let summary = summarize(&recalls, 10);
                assert!(0.0 <= summary.low && summary.high <= 1.0, "{summary:?}");
                assert!(
                    summary.low <= summary.mean + 1e-12 && summary.mean <= summary.high + 1e-12,
                    "{summary:?}"
                );
                assert!(summary.low < summary.high, "a finite sample proves no certainty: {summary:?}");
            }
        }
    }

    #[test]
    fn the_interval_covers_the_true_recall_about_95_times_in_100() {
        let mut random = Random::new(2);
        let p = 0.9;
        let covered = (0..1000)
            .filter(|_| {
                let recalls: Vec<f64> =
                    (0..200).map(|_| (0..10).filter(|_| random.unit() <= p).count() as f64 / 10.0).collect();
                let summary = summarize(&recalls, 10);
                summary.low <= p && p <= summary.high
            })
            .count();
        // Binomial(1000, 0.95) stays within 930..=970 but for 4 draws in 1,000.
        assert!((930..=975).contains(&covered), "{covered}");
    }
}
