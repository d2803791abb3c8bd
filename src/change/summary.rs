//! What a change did, for whoever asked for it.

use serde::Serialize;

use crate::artifact::{Certificate, Manifest};
use crate::job::StageCost;

/// A version that was made of another, or why none was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangeSummary {
    pub index: String,
    #[serde(flatten)]
    pub outcome: Changed,
    /// Ids that were named and that the index does not have.
    pub unknown: u64,
    pub stages: Vec<StageCost>,
    pub peak_memory_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Changed {
    Published(Box<PublishedChange>),
    /// There was nothing to change: the version is what it was.
    Unchanged {
        version: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedChange {
    pub operation: String,
    pub from: u64,
    pub version: u64,
    pub added: u64,
    pub removed: u64,
    /// Rows that are there now, …
    pub rows: u64,
    /// … in so many segments, …
    pub segments: usize,
    /// … beside so many that are not.
    pub tombstones: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    pub bytes_written: u64,
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

impl PublishedChange {
    pub(super) fn of(manifest: &Manifest, bytes_written: u64, effort_name: Option<&str>) -> Self {
        let change = manifest.change.as_ref().expect("the manifest of a change");
        Self {
            operation: change.operation.clone(),
            from: change.from,
            version: manifest.version,
            added: change.added,
            removed: change.removed,
            rows: manifest.live_rows(),
            segments: manifest.segments.len(),
            tombstones: manifest.build.rows - manifest.live_rows(),
            drift: change.drift,
            bytes_written,
            kind: manifest.build.kind.clone(),
            effort_name: effort_name.map(str::to_string),
            certificate: manifest.build.certificate.clone(),
        }
    }
}
