//! Answers as an Arrow stream: a row per hit.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, UInt32Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Field, Schema};

use super::Fault;
use crate::loader::{Answers, Index, own_column};

pub(super) const STREAM: &str = "application/vnd.apache.arrow.stream";

/// Columns `_query` and `_rank` from 0, `row_id`, `_similarity` where the metric has one, `_distance`, then `attributes`, which keep
/// their names: see [`own_column`]. The schema's metadata names index, version and metric.
pub(super) fn stream(
    name: &str,
    index: &Index,
    answers: &Answers,
    attributes: RecordBatch,
) -> Result<Vec<u8>, Fault> {
    written(name, index, answers, &attributes).map_err(|_| Fault::Internal)
}

fn written(
    name: &str,
    index: &Index,
    answers: &Answers,
    attributes: &RecordBatch,
) -> Result<Vec<u8>, ArrowError> {
    let all = || answers.iter().flatten();
    let numbered = answers.iter().enumerate();
    let places =
        numbered.flat_map(|(query, found)| (0..found.len()).map(move |rank| (query as u32, rank as u32)));
    let (queries, ranks): (Vec<u32>, Vec<u32>) = places.unzip();
    let ordinals: Vec<u32> = all().map(|found| found.ordinal).collect();
    let mut columns: Vec<(Field, ArrayRef)> = Vec::new();
    let mut add = |name: &str, array: ArrayRef| {
        let name = own_column(name, attributes.schema_ref());
        columns.push((Field::new(name, array.data_type().clone(), false), array));
    };
    add("_query", Arc::new(UInt32Array::from(queries)));
    add("_rank", Arc::new(UInt32Array::from(ranks)));
    add("row_id", index.ids().gather(&ordinals).to_array());
    let similarities: Option<Vec<f32>> =
        all().map(|found| index.metric().similarity(found.distance)).collect();
    if let Some(similarities) = similarities.filter(|_| index.metric().similarity(0.0).is_some()) {
        add("_similarity", Arc::new(Float32Array::from(similarities)));
    }
    add("_distance", Arc::new(all().map(|found| Some(found.distance)).collect::<Float32Array>()));
    let fields = attributes.schema_ref().fields().iter().map(|field| field.as_ref().clone());
    columns.extend(fields.zip(attributes.columns().iter().cloned()));
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let metadata = HashMap::from([
        ("index".to_string(), name.to_string()),
        ("version".into(), index.version().to_string()),
        ("metric".into(), index.metric().to_string()),
    ]);
    let schema = Arc::new(Schema::new(fields).with_metadata(metadata));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&RecordBatch::try_new(schema.clone(), arrays)?)?;
    writer.finish()?;
    writer.into_inner()
}
