//! What a build made, as data: the command line renders it, and `--json` prints it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::artifact::Certificate;
use crate::vectors::Metric;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildSummary {
    pub job: String,
    /// As `cpu (avx512)`.
    pub backend: String,
    pub threads: usize,
    pub metric: Metric,
    pub dim: usize,
    pub rows: RowCounts,
    pub queries: u64,
    /// In the order that they ran.
    pub stages: Vec<StageCost>,
    /// The largest resident set of the process.
    pub peak_memory_bytes: Option<u64>,
    /// In the job's order; those below their gate among them.
    pub indexes: Vec<BuiltIndex>,
}

/// `read = filtered + kept + held out + rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    pub read: u64,
    /// Left out by `where`.
    pub filtered: u64,
    pub kept: u64,
    /// Drawn as queries.
    pub held_out: u64,
    /// By reason.
    pub rejected: BTreeMap<String, u64>,
    /// The rejects file, where there is one.
    pub rejects_uri: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageCost {
    pub name: String,
    pub wall_ms: f64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuiltIndex {
    pub name: String,
    pub kind: String,
    /// What `effort` is called: `nprobe`, `ef_search`; none where there is no such setting.
    pub effort_name: Option<String>,
    pub certificate: Certificate,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Published {
        uri: String,
        version: u64,
        size_bytes: u64,
    },
    /// Not published: recall@k of the certificate's gate, at the setting that would have been the default.
    BelowGate {
        recall: f64,
    },
}
