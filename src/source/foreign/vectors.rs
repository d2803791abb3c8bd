//! Files of vectors and nothing else: rows are numbered.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::super::vector_files::{VectorFormat, read_hdf5_base, read_raw_vectors};
use super::{ForeignError, Stage};

/// Bytes of vectors handed on at a time.
const BATCH_BYTES: usize = 16 << 20;

pub(super) fn read(path: &Path, column: &str, stage: &mut Stage<'_>) -> Result<(), ForeignError> {
    let uri = || path.display().to_string();
    let format = VectorFormat::of(path).map_err(|source| ForeignError::Read { uri: uri(), source })?;
    let format =
        format.ok_or_else(|| ForeignError::Uri { uri: uri(), what: "is no file of vectors".into() })?;
    let (values, dim) = match format {
        VectorFormat::Hdf5 => {
            let vectors = read_hdf5_base(path)?;
            (vectors.view().as_slice().to_vec(), vectors.dim())
        }
        _ => {
            let table = read_raw_vectors(path, format)?;
            (table.values, table.width)
        }
    };
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let schema = Arc::new(Schema::new(vec![Field::new(
        column,
        DataType::FixedSizeList(item.clone(), dim as i32),
        false,
    )]));
    let rows_at_a_time = (BATCH_BYTES / (4 * dim)).max(1);
    for rows in values.chunks(rows_at_a_time * dim) {
        let values: ArrayRef = Arc::new(Float32Array::from(rows.to_vec()));
        let column: ArrayRef = Arc::new(FixedSizeListArray::new(item.clone(), dim as i32, values, None));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).expect("made of this schema");
        stage.push(&batch, (4 * rows.len()) as u64)?;
    }
    Ok(())
}
