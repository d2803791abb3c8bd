//! What there is: collections and what they are made of.

use std::time::Instant;

use arrow_schema::{DataType, Schema};
use serde_json::{Map, Value, json};

use super::{Asked, enveloped};
use crate::serve::Fault;
use crate::serve::reply::Reply;
use crate::serve::routes::Call;
use crate::vectors::Metric;

pub(super) fn list(call: &Call) -> Result<Reply, Fault> {
    let start = Instant::now();
    let names: Vec<Value> = call.all_hosted().map(|hosted| json!({ "name": hosted.name })).collect();
    enveloped(json!({ "collections": names }), start, None, &call.shared.limits)
}

pub(super) fn aliases(call: &Call) -> Result<Reply, Fault> {
    if !call.index().is_empty() {
        call.hosted()?;
    }
    enveloped(json!({ "aliases": [] }), Instant::now(), None, &call.shared.limits)
}

pub(super) fn exists(call: &Call) -> Result<Reply, Fault> {
    let exists = call.hosted().is_ok();
    enveloped(json!({ "exists": exists }), Instant::now(), None, &call.shared.limits)
}

pub(super) fn describe(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let index = &asked.index;
    let distance = match index.metric() {
        Metric::Cosine => "Cosine",
        Metric::InnerProduct => "Dot",
        Metric::L2 => "Euclid",
        // Which of 0 and 1 is the same.
        Metric::L1 | Metric::Hamming => "Manhattan",
    };
    // Of these only size and distance say something here; clients refuse to read a description without the others.
    let result = json!({
        "status": "green",
        "optimizer_status": "ok",
        "points_count": asked.count(),
        "indexed_vectors_count": asked.count(),
        "segments_count": index.manifest().segments.len(),
        "config": {
            "params": {
                "vectors": { "size": index.dim(), "distance": distance },
                "shard_number": 1,
                "replication_factor": 1,
                "write_consistency_factor": 1,
                "on_disk_payload": false,
            },
            "hnsw_config": { "m": 0, "ef_construct": 0, "full_scan_threshold": 0 },
            "optimizer_config": {
                "deleted_threshold": 1.0,
                "vacuum_min_vector_number": 0,
                "default_segment_number": 1,
                "flush_interval_sec": 0,
            },
        },
        "payload_schema": index.attributes().map_or_else(Map::new, |batch| schema(batch.schema_ref(), asked.count())),
    });
    asked.reply(result, &call.shared.limits)
}

/// Every attribute can be filtered by.
fn schema(attributes: &Schema, rows: usize) -> Map<String, Value> {
    let of = |data_type: &DataType| match data_type {
        DataType::Boolean => "bool",
        DataType::Float32 | DataType::Float64 => "float",
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => "datetime",
        DataType::FixedSizeBinary(_) => "uuid",
        data_type if data_type.is_integer() => "integer",
        _ => "keyword",
    };
    let fields = attributes.fields().iter();
    fields
        .map(|field| (field.name().clone(), json!({ "data_type": of(field.data_type()), "points": rows })))
        .collect()
}
