//! The attributes of rows that were found.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::Schema;
use arrow_select::interleave::interleave;

use super::answers::Answers;
use super::query::{Attributes, QueryError};

/// The places of the columns asked for.
pub(super) fn resolve(batch: Option<&RecordBatch>, asked: &Attributes) -> Result<Vec<usize>, QueryError> {
    let fields = || batch.into_iter().flat_map(|batch| batch.schema_ref().fields());
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

/// A row for each match of `answers`, from each shard's batch and the places of its columns: the same number of
/// columns, of the same names and types, in every shard.
pub(super) fn take(shards: &[(Option<&RecordBatch>, &[usize])], answers: &Answers) -> RecordBatch {
    let rows: Vec<(usize, usize)> =
        answers.iter().flatten().map(|found| (found.shard as usize, found.ordinal as usize)).collect();
    let columns = shards.first().map_or(0, |(_, places)| places.len());
    let mut fields = Vec::with_capacity(columns);
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns);
    for column in 0..columns {
        let of_shards: Vec<&dyn Array> = shards
            .iter()
            .filter_map(|(batch, places)| Some(batch.as_ref()?.column(places[column]).as_ref()))
            .collect();
        arrays.push(interleave(&of_shards, &rows).expect("columns of one type, and rows of theirs"));
        let (batch, places) = &shards[0];
        fields.extend(batch.map(|batch| {
            let field = batch.schema_ref().field(places[column]).clone();
            // Another shard may have nulls where the first has none.
            field.with_nullable(true)
        }));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, arrays, &options).expect("as many rows in each column")
}
