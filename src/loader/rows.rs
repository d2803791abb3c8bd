//! What the segments of a version are together: an index of some family, its rows' ids and attributes, numbered through.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use arrow_select::concat::concat;

use super::attributes::AttributeColumns;
use super::partitions::Partitioned;
use super::segments::{Exact, Segments};
use super::{LoadError, agrees, assemble};
use crate::artifact::Manifest;
use crate::flat::FlatIndex;
use crate::index::{RowMask, SearchIndex};
use crate::store::{Artifact, Segment};
use crate::vectors::RowIds;

pub(super) struct Rows {
    pub family: Arc<dyn SearchIndex>,
    /// Where there is more than one segment, or a row that is not there: what `family` is.
    pub segments: Option<Arc<Segments>>,
    /// The same rows searched exactly, where all vectors are kept.
    pub exact: Option<Exact>,
    pub ids: RowIds,
    pub attributes: AttributeColumns,
    pub partitions: Option<Partitioned>,
    /// `None` where all rows are there.
    pub live: Option<Arc<RowMask>>,
}

impl Rows {
    pub fn of(artifact: &Artifact) -> Result<Self, LoadError> {
        let manifest = artifact.manifest();
        let families =
            artifact.segments().map(|segment| family(manifest, segment)).collect::<Result<Vec<_>, _>>()?;
        if let ([family], None) = (&families[..], &manifest.tombstones) {
            let partitions = Partitioned::of(artifact)?;
            let rows = Self::of_one(family.clone(), artifact.ids()?, artifact.attributes()?.into());
            return Ok(Self { partitions, ..rows });
        }
        if manifest.build.rows > u64::from(u32::MAX) {
            let (expected, got) = (format!("at most {}", u32::MAX), manifest.build.rows.to_string());
            return Err(LoadError::Mismatch { what: "rows of all segments", expected, got });
        }
        let tombstones = artifact.tombstones()?;
        let dead = tombstones.ordinals(&artifact.segment_rows());
        let (ids, attributes) = (joined_ids(artifact)?, joined_attributes(artifact)?);
        let live = (!dead.is_empty()).then(|| Arc::new(RowMask::all(ids.len()).without(&dead)));
        let parts = families.into_iter().zip(tombstones.of_segments());
        let segments = Arc::new(Segments::new(parts.map(|(family, dead)| (family, &dead[..])).collect()));
        let exact = segments.keep_vectors().then(|| Exact::Several(segments.clone()));
        let family = segments.clone();
        let (ids, attributes) = (ids.hiding(dead), attributes.into());
        let partitions = Partitioned::of(artifact)?;
        Ok(Self { family, segments: Some(segments), exact, ids, attributes, partitions, live })
    }

    /// Of one segment whose rows are all there.
    pub fn of_one(family: Arc<dyn SearchIndex>, ids: RowIds, attributes: AttributeColumns) -> Self {
        let exact = family.kept().map(|kept| Arc::new(FlatIndex::over(kept.clone(), family.metric())));
        let exact = exact.map(Exact::One);
        Self { family, segments: None, exact, ids, attributes, partitions: None, live: None }
    }
}

/// The index of one segment.
fn family(manifest: &Manifest, segment: Segment<'_>) -> Result<Arc<dyn SearchIndex>, LoadError> {
    let sections =
        segment.section_names().map(|name| segment.section(name)).collect::<Result<Vec<_>, _>>()?;
    let family = assemble(&manifest.build.kind, &sections)?;
    check_family(manifest, segment, &*family)?;
    Ok(family)
}

/// That what a segment's sections make is what the manifest says.
pub(super) fn check_family(
    manifest: &Manifest,
    segment: Segment<'_>,
    family: &dyn SearchIndex,
) -> Result<(), LoadError> {
    agrees("dim", u64::from(manifest.build.dim), family.dim() as u64)?;
    agrees("rows", segment.rows(), family.rows() as u64)?;
    agrees("metric", manifest.build.metric, family.metric())
}

fn joined_ids(artifact: &Artifact) -> Result<RowIds, LoadError> {
    let parts = artifact.segments().map(|segment| segment.ids()).collect::<Result<Vec<_>, _>>()?;
    for ids in &parts[1..] {
        agrees("type of ids", format!("{:?}", parts[0].kind()), format!("{:?}", ids.kind()))?;
    }
    let arrays: Vec<_> = parts.iter().map(RowIds::to_array).collect();
    let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
    let joined = concat(&arrays).map_err(|error| disagree("ids", "arrays of one type", &error))?;
    RowIds::from_array(&joined).map_err(|error| disagree("ids", "ids", &error))
}

/// The attributes of all segments: of the same names and types in each.
fn joined_attributes(artifact: &Artifact) -> Result<Option<RecordBatch>, LoadError> {
    let parts = artifact.segments().map(|segment| segment.attributes()).collect::<Result<Vec<_>, _>>()?;
    let columns =
        |batch: &Option<RecordBatch>| batch.as_ref().map_or(String::new(), |batch| told(batch.schema_ref()));
    for batch in &parts[1..] {
        agrees("attributes of the segments", columns(&parts[0]), columns(batch))?;
    }
    let batches: Vec<RecordBatch> = parts.into_iter().flatten().collect();
    let joined = joined(&batches);
    joined.map_err(|error| disagree("attributes of the segments", "columns that can be joined", &error))
}

/// Names and types of columns: those of segments that can be one index are told alike. How wide the offsets of strings are
/// depends on how many there are.
pub fn told(schema: &Schema) -> String {
    let kind = |field: &Field| match field.data_type() {
        DataType::LargeUtf8 => DataType::Utf8,
        other => other.clone(),
    };
    let told = schema.fields().iter().map(|field| format!("`{}` ({})", field.name(), kind(field)));
    told.collect::<Vec<_>>().join(", ")
}

/// `None` where there are no columns.
fn joined(batches: &[RecordBatch]) -> Result<Option<RecordBatch>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(None) };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (place, field) in first.schema_ref().fields().iter().enumerate() {
        let mut parts: Vec<ArrayRef> = batches.iter().map(|batch| batch.column(place).clone()).collect();
        if is_text(field.data_type()) && needs_large_offsets(&parts) {
            for part in &mut parts {
                *part = arrow_cast::cast(part, &DataType::LargeUtf8)?;
            }
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let column = concat(&parts)?;
        // One segment may have nulls where another has none.
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map(Some)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8)
}

/// What 32-bit offsets could number in each, they may not in all.
fn needs_large_offsets(columns: &[ArrayRef]) -> bool {
    let bytes = |column: &ArrayRef| column.as_string_opt::<i32>().map(|text| text.value_data().len());
    let bytes: Option<usize> = columns.iter().map(bytes).sum();
    bytes.is_none_or(|bytes| bytes > i32::MAX as usize)
}

fn disagree(what: &'static str, expected: &str, error: &impl ToString) -> LoadError {
    LoadError::Mismatch { what, expected: expected.into(), got: error.to_string() }
}
