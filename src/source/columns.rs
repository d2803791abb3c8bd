//! Which columns are read, what types they may have, and the one type that each is brought to.
//!
//! | role | accepted | becomes |
//! |---|---|---|
//! | vector | FixedSizeList, List, LargeList of f16, f32, f64 | f32 rows |
//! | id | signed ints | Int64 |
//! | | unsigned ints | UInt64 |
//! | | strings (plain, large, view, dictionary) | Utf8 |
//! | | FixedSizeBinary(16) | itself: a UUID |
//! | attribute | ints, f32, f64, bool, Date32, timestamps | itself |
//! | | f16; Date64 | Float32; Timestamp(ms) |
//! | | strings as above; lists of strings | Utf8; List of Utf8 |
//!
//! Anything else is refused when the source is opened.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::error::{Result, SourceError};
use super::{MAX_DIM, SourceSpec};

const VECTOR_TYPES: &str = "a FixedSizeList or List of Float16, Float32 or Float64";
const ID_TYPES: &str = "an integer, a string or a FixedSizeBinary(16) UUID";
const ATTRIBUTE_TYPES: &str = "a number, a boolean, a string, a date, a timestamp or a list of strings";

/// How many columns an error lists of those that are there.
const SHOWN: usize = 32;

/// The columns of one source, resolved and checked against its files' schemas.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub vector: String,
    /// From a FixedSizeList or the spec; lists tell only when they are read.
    pub dim: Option<usize>,
    /// Name and canonical type.
    pub id: Option<(String, DataType)>,
    /// What rows keep, in the order asked for, canonical types.
    pub attributes: SchemaRef,
    /// What the predicate sees: its own columns, canonical types, UUIDs as text.
    pub predicate: SchemaRef,
}

impl Columns {
    /// Resolves against the first file; `predicate_columns` are the names that the predicate mentions.
    pub fn resolve(
        spec: &SourceSpec,
        predicate_columns: &[String],
        file: &str,
        schema: &Schema,
    ) -> Result<Self> {
        let file = FileSchema { file, schema };
        let dim = file.agreed_dim(&spec.vector_column, spec.dim)?;
        let id = match &spec.id_column {
            Some(name) => Some((name.clone(), file.id_type(name)?)),
            None => None,
        };
        let mut attributes = Vec::<Field>::with_capacity(spec.attribute_columns.len());
        for name in &spec.attribute_columns {
            if attributes.iter().any(|field| field.name() == name) {
                return Err(SourceError::RepeatedColumn { column: name.clone() });
            }
            attributes.push(Field::new(name, file.attribute_type(name, "attribute")?, true));
        }
        let mut predicate = Vec::with_capacity(predicate_columns.len());
        for name in predicate_columns {
            predicate.push(Field::new(name, file.predicate_type(name)?, true));
        }
        Ok(Self {
            vector: spec.vector_column.clone(),
            dim,
            id,
            attributes: Arc::new(Schema::new(attributes)),
            predicate: Arc::new(Schema::new(predicate)),
        })
    }

    /// That a further file has the same columns; types may differ where they become the same.
    pub fn check(&mut self, first_file: &str, file: &str, schema: &Schema) -> Result<()> {
        let file = FileSchema { file, schema };
        self.dim = file.agreed_dim(&self.vector, self.dim)?;
        let same = |column: &str, expected: &DataType, got: DataType| {
            if *expected == got {
                return Ok(());
            }
            Err(SourceError::TypeDiffers {
                file: file.file.into(),
                first_file: first_file.into(),
                column: column.into(),
                expected: expected.to_string(),
                got: got.to_string(),
            })
        };
        if let Some((name, expected)) = &self.id {
            same(name, expected, file.id_type(name)?)?;
        }
        for field in self.attributes.fields() {
            same(field.name(), field.data_type(), file.attribute_type(field.name(), "attribute")?)?;
        }
        for field in self.predicate.fields() {
            same(field.name(), field.data_type(), file.predicate_type(field.name())?)?;
        }
        Ok(())
    }

    /// The root columns of a file with this schema that must be read.
    pub fn roots(&self, schema: &Schema) -> Vec<usize> {
        let id = self.id.iter().map(|(name, _)| name);
        let attributes = self.attributes.fields().iter().map(|field| field.name());
        let predicate = self.predicate.fields().iter().map(|field| field.name());
        let mut roots: Vec<usize> = std::iter::once(&self.vector)
            .chain(id)
            .chain(attributes)
            .chain(predicate)
            .filter_map(|name| schema.index_of(name).ok())
            .collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    pub fn ids(&self, rows: &RecordBatch) -> Result<Option<ArrayRef>> {
        self.id.as_ref().map(|(name, data_type)| column_as(rows, name, data_type)).transpose()
    }

    pub fn attributes(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        project(rows, &self.attributes)
    }

    pub fn predicate(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        project(rows, &self.predicate)
    }
}

fn project(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| column_as(rows, field.name(), field.data_type()))
        .collect::<Result<Vec<ArrayRef>>>()?;
    record_batch(schema, columns, rows.num_rows())
}

/// A batch that knows its row count even when it has no columns.
pub(super) fn record_batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// The column `name` as `data_type`; the schema was checked, so a failure here is damage.
pub(super) fn column_as(rows: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef> {
    let column = rows.column_by_name(name).ok_or_else(|| {
        arrow_schema::ArrowError::SchemaError(format!("the decoder returned no column `{name}`"))
    })?;
    if column.data_type() == data_type {
        return Ok(column.clone());
    }
    if let (DataType::FixedSizeBinary(16), DataType::Utf8) = (column.data_type(), data_type) {
        return Ok(Arc::new(super::row_ids::uuids_as_text(column)));
    }
    // Not "safe" casts: those turn what they cannot convert into nulls.
    let options = CastOptions { safe: false, ..Default::default() };
    Ok(cast_with_options(column, data_type, &options)?)
}

/// What an error lists of a file's columns.
pub(super) fn describe(schema: &Schema) -> String {
    let fields = schema.fields();
    let mut text: Vec<String> =
        fields.iter().take(SHOWN).map(|field| format!("`{}` {}", field.name(), field.data_type())).collect();
    if fields.len() > SHOWN {
        text.push(format!("and {} more", fields.len() - SHOWN));
    }
    if text.is_empty() { "none".into() } else { text.join(", ") }
}

/// One file's schema, asked for columns by role.
pub(super) struct FileSchema<'a> {
    pub file: &'a str,
    pub schema: &'a Schema,
}

impl FileSchema<'_> {
    fn field(&self, column: &str, role: &'static str) -> Result<&DataType> {
        match self.schema.field_with_name(column) {
            Ok(field) => Ok(field.data_type()),
            Err(_) => Err(SourceError::MissingColumn {
                file: self.file.into(),
                column: column.into(),
                role,
                available: describe(self.schema),
            }),
        }
    }

    fn wrong_type(
        &self,
        column: &str,
        role: &'static str,
        expected: &'static str,
        got: &DataType,
    ) -> SourceError {
        SourceError::ColumnType {
            file: self.file.into(),
            column: column.into(),
            role,
            expected,
            got: got.to_string(),
        }
    }

    /// The dimension of a vector column, where its type fixes it.
    pub fn vector_dim(&self, column: &str) -> Result<Option<usize>> {
        let got = self.field(column, "vectors")?;
        let (element, dim) = match got {
            DataType::FixedSizeList(element, dim) => (element, Some(*dim as usize)),
            DataType::List(element) | DataType::LargeList(element) => (element, None),
            _ => return Err(self.wrong_type(column, "vectors", VECTOR_TYPES, got)),
        };
        match element.data_type() {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Ok(dim),
            _ => Err(self.wrong_type(column, "vectors", VECTOR_TYPES, got)),
        }
    }

    /// The dimension that is expected, checked against what this file's type says.
    fn agreed_dim(&self, column: &str, expected: Option<usize>) -> Result<Option<usize>> {
        let got = self.vector_dim(column)?;
        if let (Some(expected), Some(got)) = (expected, got)
            && expected != got
        {
            let (file, column) = (self.file.into(), column.into());
            return Err(SourceError::Dimension { file, column, expected, got });
        }
        match expected.or(got) {
            Some(dim) if dim == 0 || dim > MAX_DIM => Err(SourceError::DimensionLimit { dim }),
            dim => Ok(dim),
        }
    }

    pub fn id_type(&self, column: &str) -> Result<DataType> {
        let got = self.field(column, "ids")?;
        canonical_id(got).ok_or_else(|| self.wrong_type(column, "ids", ID_TYPES, got))
    }

    fn attribute_type(&self, column: &str, role: &'static str) -> Result<DataType> {
        let got = self.field(column, role)?;
        canonical_attribute(got).ok_or_else(|| self.wrong_type(column, role, ATTRIBUTE_TYPES, got))
    }

    fn predicate_type(&self, column: &str) -> Result<DataType> {
        match self.field(column, "predicate")? {
            DataType::FixedSizeBinary(16) => Ok(DataType::Utf8),
            _ => self.attribute_type(column, "predicate"),
        }
    }
}

pub(super) fn canonical_id(data_type: &DataType) -> Option<DataType> {
    match data_type {
        data_type if data_type.is_signed_integer() => Some(DataType::Int64),
        data_type if data_type.is_unsigned_integer() => Some(DataType::UInt64),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(DataType::Utf8),
        DataType::FixedSizeBinary(16) => Some(DataType::FixedSizeBinary(16)),
        DataType::Dictionary(_, values) => {
            canonical_id(values).filter(|canonical| *canonical == DataType::Utf8)
        }
        _ => None,
    }
}

/// The columns that can be attributes, but for those of another role.
pub(super) fn all_attributes(spec: &SourceSpec, schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    let can_be = fields.filter(|field| canonical_attribute(field.data_type()).is_some());
    let names = can_be.map(|field| field.name().clone());
    names.filter(|name| *name != spec.vector_column && spec.id_column.as_ref() != Some(name)).collect()
}

fn canonical_attribute(data_type: &DataType) -> Option<DataType> {
    match data_type {
        data_type if data_type.is_integer() => Some(data_type.clone()),
        DataType::Float32 | DataType::Float64 | DataType::Boolean | DataType::Date32 => {
            Some(data_type.clone())
        }
        DataType::Timestamp(..) => Some(data_type.clone()),
        DataType::Float16 => Some(DataType::Float32),
        DataType::Date64 => Some(DataType::Timestamp(TimeUnit::Millisecond, None)),
        DataType::List(element) | DataType::LargeList(element) => {
            let text = canonical_attribute(element.data_type()).filter(|text| *text == DataType::Utf8)?;
            Some(DataType::new_list(text, true))
        }
        _ => canonical_id(data_type).filter(|canonical| *canonical == DataType::Utf8),
    }
}

/// The type with 64-bit offsets, for columns whose text is beyond 2 GiB; `None` for types that have none.
pub(super) fn with_large_offsets(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Utf8 => Some(DataType::LargeUtf8),
        DataType::List(_) => {
            Some(DataType::LargeList(Arc::new(Field::new_list_field(DataType::LargeUtf8, true))))
        }
        _ => None,
    }
}

/// The bytes of text below a column, those of a list's elements included.
pub(super) fn text_bytes(column: &dyn Array) -> usize {
    use arrow_array::cast::AsArray;
    match column.data_type() {
        DataType::Utf8 => {
            let offsets = column.as_string::<i32>().value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as usize
        }
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            let offsets = lists.value_offsets();
            let (start, end) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
            // The elements count too: a list's own offsets number them with 32 bits.
            text_bytes(&lists.values().slice(start, end - start)).max(end - start)
        }
        _ => 0,
    }
}
