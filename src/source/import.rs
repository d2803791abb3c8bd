//! Rows of any source → one Parquet file, after the row hygiene of a build.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::error::{Result, SourceError};
use super::foreign::{ForeignError, ParquetRows};
use super::{InputFile, RowBatch, RowCounts, Source};

/// What an import came to.
#[derive(Debug)]
pub struct Imported {
    pub dim: usize,
    pub counts: RowCounts,
    pub rejects: Option<RecordBatch>,
    pub inputs: Vec<InputFile>,
}

/// The id column of rows that had none.
const NUMBERED: &str = "id";

/// Writes the rows that a build would keep to `file`: ids, vectors (FixedSizeList of f32) and attributes. The file appears when it
/// is whole. A source for this is opened under a metric that does not normalise.
///
/// # Errors
/// What reading says, or writing.
pub fn import(
    source: Source,
    file: &Path,
    progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
) -> Result<Imported> {
    let id = source.spec.id_column.clone().unwrap_or_else(|| NUMBERED.into());
    let vector = source.spec.vector_column.clone();
    let failed = |what: String| ForeignError::Write { file: file.display().to_string(), what };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = tempfile::Builder::new().prefix(".annvil-import-").tempfile_in(folder);
    let partial = partial.map_err(|error| failed(error.to_string()))?.into_temp_path();
    let mut writer = ParquetRows::kept(&partial, &vector);
    let mut batches = source.batches()?;
    let mut dim = None;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        dim = Some(batch.vectors.dim());
        if batch.vectors.rows() > 0 {
            writer.push(&side_by_side(&batch, &id, &vector)?)?;
        }
        if progress(batches.counts().read, batches.bytes_read()).is_break() {
            return Err(SourceError::Cancelled);
        }
    }
    let Some(dim) = dim.filter(|_| batches.counts().kept > 0) else { return Err(batches.nothing_kept()) };
    let (counts, rejects, inputs) = batches.finish()?;
    writer.finish()?;
    partial.persist(file).map_err(|error| failed(error.to_string()))?;
    Ok(Imported { dim, counts, rejects, inputs })
}

fn side_by_side(batch: &RowBatch, id: &str, vector: &str) -> Result<RecordBatch> {
    let dim = batch.vectors.dim() as i32;
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let values: ArrayRef = Arc::new(Float32Array::from(batch.vectors.view().as_slice().to_vec()));
    let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(item.clone(), dim, values, None));
    let mut fields = vec![
        Field::new(id, batch.ids.data_type().clone(), false),
        Field::new(vector, vectors.data_type().clone(), false),
    ];
    let mut columns = vec![batch.ids.clone(), vectors];
    let schema = batch.attributes.schema();
    for (field, column) in schema.fields().iter().zip(batch.attributes.columns()) {
        // Rows that had no ids are numbered beside a column that is called so.
        if field.name() == id {
            return Err(SourceError::RepeatedColumn { column: id.into() });
        }
        fields.push(field.as_ref().clone());
        columns.push(column.clone());
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
