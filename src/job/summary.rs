//! What a build made, for whoever asked for it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::artifact::{Certificate, DeviceCost, Stage};
use crate::vectors::Metric;

/// What a build made.
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
    pub peak_memory_bytes: Option<u64>,
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
    /// Of all threads together.
    pub cpu_ms: f64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Done by an earlier run of the job that was killed; the costs are that run's.
    pub resumed: bool,
    /// None where no device had anything to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceCost>,
}

impl From<&Stage> for StageCost {
    fn from(stage: &Stage) -> Self {
        Self {
            name: stage.name.clone(),
            wall_ms: stage.wall_ms,
            cpu_ms: stage.cpu_ms,
            bytes_read: stage.bytes_read,
            bytes_written: stage.bytes_written,
            resumed: stage.resumed,
            device: stage.device.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuiltIndex {
    pub name: String,
    pub kind: String,
    /// `nprobe`, `ef_search`; none for exact search.
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
    /// Recall@k of the gate, at the best setting measured.
    BelowGate {
        recall: f64,
    },
    /// It passed, and another index of the job did not: a job publishes all of its indexes or none.
    Withheld,
}
