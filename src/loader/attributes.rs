//! The attributes of an index, and those of rows that were found.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::interleave::interleave;

use super::answers::Answers;
use super::lazy::RangedColumns;
use super::query::{Attributes, QueryError};
use crate::artifact::{FetchError, Fetching};

/// The attribute columns of an index, a row per ordinal.
pub(super) enum AttributeColumns {
    None,
    Here(RecordBatch),
    /// Left where they are until they are asked for.
    Ranged(RangedColumns),
}

impl AttributeColumns {
    pub fn schema(&self) -> Option<&SchemaRef> {
        match self {
            AttributeColumns::None => None,
            AttributeColumns::Here(batch) => Some(batch.schema_ref()),
            AttributeColumns::Ranged(columns) => Some(columns.schema()),
        }
    }

    /// Some columns, by their places.
    pub fn project(&self, places: &[usize], fetching: &mut Fetching) -> Result<RecordBatch, FetchError> {
        match self {
            AttributeColumns::None => Ok(RecordBatch::new_empty(Arc::new(Schema::empty()))),
            AttributeColumns::Here(batch) => Ok(batch.project(places).expect("columns of the batch")),
            AttributeColumns::Ranged(columns) => columns.fetch(places, fetching),
        }
    }
}

/// The places of the columns asked for.
pub(super) fn resolve(schema: Option<&SchemaRef>, asked: &Attributes) -> Result<Vec<usize>, QueryError> {
    let fields = || schema.into_iter().flat_map(|schema| schema.fields());
    match asked {
        Attributes::None => Ok(Vec::new()),
        Attributes::All => Ok((0..fields().count()).collect()),
        Attributes::Named(columns) => {
            let place = |column: &String| {
                fields().position(|field| field.name() == column).ok_or_else(|| {
                    let known: Vec<String> = fields().map(|field| format!("`{}`", field.name())).collect();
                    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                    QueryError::Attribute { column: column.clone(), known }
                })
            };
            columns.iter().map(place).collect()
        }
    }
}

/// A row for each match of `answers`, from each shard's columns: the same number of them, of the same names and types, in
/// every shard.
pub(super) fn take(shards: &[&RecordBatch], answers: &Answers) -> RecordBatch {
    let rows: Vec<(usize, usize)> =
        answers.iter().flatten().map(|found| (found.shard as usize, found.ordinal as usize)).collect();
    let columns = shards.first().map_or(0, |batch| batch.num_columns());
    let mut fields = Vec::with_capacity(columns);
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns);
    for column in 0..columns {
        let of_shards: Vec<&dyn Array> = shards.iter().map(|batch| batch.column(column).as_ref()).collect();
        arrays.push(interleave(&of_shards, &rows).expect("columns of one type, and rows of theirs"));
        // Another shard may have nulls where the first has none.
        fields.push(shards[0].schema_ref().field(column).clone().with_nullable(true));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, arrays, &options).expect("as many rows in each column")
}
