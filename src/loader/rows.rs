//! What the segments of a version are together: an index of some family, its rows' ids and attributes, numbered through.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use arrow_select::concat::{concat, concat_batches};

use super::attributes::AttributeColumns;
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
    /// `None` where all rows are there.
    pub live: Option<Arc<RowMask>>,
}

impl Rows {
    pub fn of(artifact: &Artifact) -> Result<Self, LoadError> {
        let manifest = artifact.manifest();
        let families =
            artifact.segments().map(|segment| family(manifest, segment)).collect::<Result<Vec<_>, _>>()?;
        if let ([family], None) = (&families[..], &manifest.tombstones) {
            return Ok(Self::of_one(family.clone(), artifact.ids()?, artifact.attributes()?.into()));
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
        Ok(Self { family, segments: Some(segments), exact, ids, attributes, live })
    }

    /// Of one segment whose rows are all there.
    pub fn of_one(family: Arc<dyn SearchIndex>, ids: RowIds, attributes: AttributeColumns) -> Self {
        let exact = family.kept().map(|kept| Arc::new(FlatIndex::over(kept.clone(), family.metric())));
        Self { family, segments: None, exact: exact.map(Exact::One), ids, attributes, live: None }
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
    let columns = |batch: &Option<RecordBatch>| {
        let fields = batch.iter().flat_map(|batch| batch.schema_ref().fields());
        let told = fields.map(|field| format!("`{}` ({})", field.name(), field.data_type()));
        told.collect::<Vec<_>>().join(", ")
    };
    for batch in &parts[1..] {
        agrees("attributes of the segments", columns(&parts[0]), columns(batch))?;
    }
    let batches: Vec<RecordBatch> = parts.into_iter().flatten().collect();
    let Some(first) = batches.first() else { return Ok(None) };
    // One segment may have nulls where another has none.
    let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    let fields: Vec<Field> = first.schema_ref().fields().iter().map(nullable).collect();
    let schema = Arc::new(Schema::new(fields));
    let batches = batches.into_iter().map(|batch| batch.with_schema(schema.clone()));
    let joined = batches.collect::<Result<Vec<_>, _>>().and_then(|batches| concat_batches(&schema, &batches));
    joined.map(Some).map_err(|error| disagree("attributes of the segments", "columns of one type", &error))
}

fn disagree(what: &'static str, expected: &str, error: &impl ToString) -> LoadError {
    LoadError::Mismatch { what, expected: expected.into(), got: error.to_string() }
}
