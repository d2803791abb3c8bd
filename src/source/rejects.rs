//! Rows that were skipped, each with its place and its reason, as a table of their own.

use std::sync::Arc;

use arrow_array::builder::{LargeStringBuilder, StringDictionaryBuilder, UInt32Builder, UInt64Builder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::error::Result;
use super::validate::BadRow;

/// Collects skipped rows.
#[derive(Debug, Default)]
pub(super) struct Rejects {
    rows: Vec<Reject>,
}

#[derive(Debug)]
struct Reject {
    file: u32,
    row_group: u32,
    row: u64,
    id: Option<String>,
    reason: BadRow,
}

impl Rejects {
    pub fn push(&mut self, file: usize, row_group: usize, row: u64, id: Option<String>, reason: BadRow) {
        self.rows.push(Reject { file: file as u32, row_group: row_group as u32, row, id, reason });
    }

    /// Columns `file`, `row_group`, `row` (within the row group, from 0), `id` (as text, null where the row has
    /// none), `reason` (a [`BadRow::name`]), `detail`; in the order of the input. `None` if no row was rejected.
    pub fn finish<'a>(self, file_uri: impl Fn(usize) -> &'a str) -> Result<Option<RecordBatch>> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let mut files = StringDictionaryBuilder::<Int32Type>::new();
        let mut reasons = StringDictionaryBuilder::<Int32Type>::new();
        let mut details = LargeStringBuilder::new();
        let (mut row_groups, mut rows, mut ids) =
            (UInt32Builder::new(), UInt64Builder::new(), LargeStringBuilder::new());
        for reject in self.rows {
            files.append(file_uri(reject.file as usize))?;
            row_groups.append_value(reject.row_group);
            rows.append_value(reject.row);
            ids.append_option(reject.id);
            reasons.append(reject.reason.name())?;
            details.append_value(reject.reason.to_string());
        }
        let columns: [(&str, ArrayRef, bool); 6] = [
            ("file", Arc::new(files.finish()), false),
            ("row_group", Arc::new(row_groups.finish()), false),
            ("row", Arc::new(rows.finish()), false),
            ("id", Arc::new(ids.finish()), true),
            ("reason", Arc::new(reasons.finish()), false),
            ("detail", Arc::new(details.finish()), false),
        ];
        Ok(Some(RecordBatch::try_from_iter_with_nullable(columns)?))
    }
}

/// Rows of a rejects table turned from dictionaries into plain text at a time.
const WRITTEN_AT_A_TIME: usize = 65_536;

/// A rejects table as the bytes of a Parquet file (zstd).
pub fn write_rejects(rejects: &RecordBatch) -> Result<Vec<u8>> {
    // Dictionaries are an encoding here, not a type: readers need not know them.
    let schema = rejects.schema();
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Dictionary(_, values) => field.as_ref().clone().with_data_type((**values).clone()),
        _ => field.as_ref().clone(),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema.clone(), Some(properties))?;
    for start in (0..rejects.num_rows()).step_by(WRITTEN_AT_A_TIME) {
        let rows = rejects.slice(start, WRITTEN_AT_A_TIME.min(rejects.num_rows() - start));
        let columns = rows.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| arrow_cast::cast(column, field.data_type()));
        writer.write(&RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)?)?;
    }
    writer.close()?;
    Ok(bytes)
}
