//! Indexes of every family, published and opened.
#![allow(dead_code, reason = "each test uses a part of it")]

use annvil::artifact::columns::{self, IDS_FILE};
use annvil::artifact::{
    Certificate, CertificatePoint, Digest, Latency, ManifestDraft, Recall, SearchDefaults, Section,
    safetensors,
};
use annvil::compute::cpu::Cpu;
use annvil::flat::FlatIndex;
use annvil::hnsw::{self, HnswParams};
use annvil::index::{Precision, SearchIndex};
use annvil::ivf::{self, Code, IvfPqParams, Refine, Spilling};
use annvil::loader::{Index, LoadError};
use annvil::train::unobserved;
use annvil::vectors::{Metric, RowIds, VectorBuf};
use bytes::Bytes;

use crate::fixture::Place;

pub const KINDS: [&str; 3] = ["flat", "ivf_pq", "hnsw"];

/// Inverted lists of other codes than a product quantizer's, and with second lists.
pub const CODED: [&str; 6] =
    ["ivf_pq signs", "ivf_pq rabitq", "ivf_pq sq8", "ivf_pq flat", "ivf_pq soar", "ivf_pq rabitq soar"];

/// The family of one of [`KINDS`] or [`CODED`].
pub fn family(kind: &str) -> &str {
    kind.split(' ').next().unwrap()
}

fn code(kind: &str) -> Code {
    match kind.split(' ').nth(1) {
        Some("signs") => Code::Rabitq { bits: 1 },
        Some("rabitq") => Code::Rabitq { bits: 5 },
        Some("sq8") => Code::Sq8,
        Some("flat") => Code::Flat,
        _ => Code::Pq,
    }
}

/// The sections of a family over `rows`, and which row each ordinal is.
pub fn forge(kind: &str, rows: &VectorBuf, metric: Metric, refine: Refine) -> (Vec<Section>, Vec<u32>) {
    match family(kind) {
        "flat" => {
            let index = FlatIndex::build(rows.view(), metric, Precision::F32).unwrap();
            (index.sections(), (0..rows.rows() as u32).collect())
        }
        "ivf_pq" => {
            let defaults = IvfPqParams::defaults_for(rows.rows(), rows.dim());
            let spill = if kind.ends_with("soar") { Spilling::Soar } else { Spilling::None };
            let params = IvfPqParams { refine, code: code(kind), spill, ..defaults };
            let built = ivf::build(&Cpu::new(), rows.view(), metric, &params, 1, &unobserved).unwrap();
            (built.index.sections(), built.order)
        }
        _ => {
            let params = HnswParams::new(8, 100);
            let built = hnsw::build(&Cpu::new(), rows.view(), metric, &params, 1, &unobserved).unwrap();
            (built.index.sections(), built.order)
        }
    }
}

pub fn certificate(k: &[u32], points: &[(u32, &[f64])]) -> Certificate {
    let point = |&(effort, recalls): &(u32, &[f64])| CertificatePoint {
        effort,
        refine: effort / 10,
        recall: k.iter().zip(recalls).map(|(&k, &mean)| Recall { k, mean, low: mean, high: mean }).collect(),
        latency_us: Latency { p50: 1.0, p95: 1.0, p99: 1.0 },
        qps: 1.0,
    };
    Certificate {
        query_set_digest: Digest::of(b"queries"),
        queries: 1,
        ground_truth_digest: Digest::of(b"truth"),
        k: k.to_vec(),
        points: points.iter().map(point).collect(),
        target_k: 10,
        target_recall: 0.9,
        gate: None,
        chosen_effort: 20,
        chosen_refine: 2,
    }
}

pub fn text_ids(ids: impl Iterator<Item = String>) -> RowIds {
    let ids: Vec<String> = ids.collect();
    ids.iter().map(String::as_str).collect()
}

/// Publishes an index of `rows`, whose ids are `row <number>`, and opens it.
pub struct Published {
    pub place: Place,
    pub files: Vec<(String, Bytes)>,
    pub draft: ManifestDraft,
}

impl Published {
    pub fn new(kind: &str, rows: &VectorBuf, metric: Metric, refine: Refine) -> Self {
        let (sections, order) = forge(kind, rows, metric, refine);
        let ids = text_ids(order.iter().map(|row| format!("row {row}")));
        let mut files: Vec<(String, Bytes)> =
            sections.iter().map(safetensors::encode).map(|file| (file.file_name, file.bytes)).collect();
        files.push((IDS_FILE.into(), columns::encode_ids(&ids).unwrap()));
        let mut draft = ManifestDraft::new(family(kind), metric, rows.dim() as u32, rows.rows() as u64);
        draft.search_defaults = Some(SearchDefaults { effort: 20, refine: 2 });
        draft.certificate =
            Some(certificate(&[1, 10], &[(5, &[0.7, 0.5]), (20, &[0.95, 0.9]), (80, &[1.0, 0.99])]));
        Self { place: Place::memory(), files, draft }
    }

    pub fn open(self) -> Result<Index, LoadError> {
        let index = self.place.index();
        index.publish(self.files, self.draft).unwrap();
        Index::of(index.artifact(None).unwrap())
    }
}

pub fn open(kind: &str, rows: &VectorBuf, metric: Metric) -> Index {
    Published::new(kind, rows, metric, Refine::F32).open().unwrap()
}
