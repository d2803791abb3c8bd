use serde::{Deserialize, Serialize};

use super::Digest;

/// What was measured of an index before it was published, and against what: enough to measure it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Of the queries' f32 values, row-major, little-endian, as they were searched (cosine: normalised).
    pub query_set_digest: Digest,
    pub queries: u64,
    /// Of the exact neighbours' row ordinals, `queries × max(k)`, u32 little-endian.
    pub ground_truth_digest: Digest,
    /// The `k` of every recall@k below, ascending.
    pub k: Vec<u32>,
    /// One for each setting measured, cheapest first.
    pub points: Vec<CertificatePoint>,
    /// The defaults are the cheapest setting measured that reaches this recall@`target_k`, in 0..=1; the best one where
    /// none does.
    pub target_k: u32,
    pub target_recall: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    pub chosen_effort: u32,
    pub chosen_refine: u32,
}

impl Certificate {
    /// The setting that became the index's default, as it was measured.
    pub fn chosen_point(&self) -> Option<&CertificatePoint> {
        let chosen = (self.chosen_effort, self.chosen_refine);
        self.points.iter().find(|point| (point.effort, point.refine) == chosen)
    }
}

/// One search setting, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificatePoint {
    /// `nprobe` or `ef_search`.
    pub effort: u32,
    /// Candidates re-ranked; 0 is the family's default.
    pub refine: u32,
    /// One for each `k` of the certificate, in its order.
    pub recall: Vec<Recall>,
    pub latency_us: Latency,
    /// Queries per second of one thread that sends one query after the other.
    pub qps: f64,
}

/// recall@k, in 0..=1: |found ∩ true| / k, ties counted as found; the mean over the queries, and the bounds of its 95 %
/// confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    pub k: u32,
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// Of single queries on one thread, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// A build whose recall@`k` is below `min_recall` is not published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub k: u32,
    pub min_recall: f64,
}

/// What a search uses that says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchDefaults {
    pub effort: u32,
    pub refine: u32,
}
