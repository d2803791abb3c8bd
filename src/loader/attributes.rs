//! The attributes of an index, and those of rows that were found.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::interleave::interleave;
use serde_json::{Number, Value};

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

impl From<Option<RecordBatch>> for AttributeColumns {
    fn from(batch: Option<RecordBatch>) -> Self {
        batch.map_or(AttributeColumns::None, AttributeColumns::Here)
    }
}

impl AttributeColumns {
    pub fn schema(&self) -> Option<&SchemaRef> {
        match self {
            AttributeColumns::None => None,
            AttributeColumns::Here(batch) => Some(batch.schema_ref()),
            AttributeColumns::Ranged(columns) => Some(columns.schema()),
        }
    }

    /// Whether [`project`](Self::project) has nothing to wait for.
    pub fn are_here(&self, places: &[usize]) -> bool {
        match self {
            AttributeColumns::None | AttributeColumns::Here(_) => true,
            AttributeColumns::Ranged(columns) => columns.are_here(places),
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

/// What a column that is not an attribute is called beside those that are, in a table of answers: `name`, with as many more `_`
/// before it as it takes to be no attribute's.
pub fn own_column(name: &str, attributes: &Schema) -> String {
    let mut name = name.to_string();
    while attributes.column_with_name(&name).is_some() {
        name.insert(0, '_');
    }
    name
}

/// The value as JSON has it, at a cost that does not grow with the column: numbers are numbers; lists are arrays; dates and times, and numbers that JSON cannot write, are text.
pub fn json_value(column: &dyn Array, row: usize) -> Result<Value, ArrowError> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let value = match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
        }
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            (0..items.len()).map(|item| json_value(&items, item)).collect::<Result<_, _>>()?
        }
        _ => json_of_text(column, row)?,
    };
    Ok(value)
}

/// A value as Arrow shows it, without quotes if it is a number: so an f32 0.1 stays 0.1.
fn json_of_text(column: &dyn Array, row: usize) -> Result<Value, ArrowError> {
    // Of one row: what the others are is not to be looked at each time.
    let cell = in_utc(&column.slice(row, 1))?;
    let text = ArrayFormatter::try_new(&cell, &FormatOptions::default())?.value(0).try_to_string()?;
    let number = || serde_json::from_str(&text).ok();
    Ok(cell.data_type().is_numeric().then(number).flatten().unwrap_or(Value::String(text)))
}

/// Times with a zone are shown in UTC: a zone's name says nothing without the tables of its rules.
pub fn in_utc(column: &dyn Array) -> Result<ArrayRef, ArrowError> {
    let values = column.to_data();
    let DataType::Timestamp(unit, Some(_)) = values.data_type() else { return Ok(make_array(values)) };
    let utc = DataType::Timestamp(*unit, Some("+00:00".into()));
    Ok(make_array(values.into_builder().data_type(utc).build()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Float32Type;
    use arrow_array::{
        BooleanArray, Decimal128Array, Float32Array, Float64Array, Int64Array, LargeStringArray, ListArray,
        StringArray, StringViewArray, TimestampSecondArray, UInt8Array, UInt64Array,
    };
    use arrow_cast::cast;
    use arrow_schema::Field;

    /// The definition, by way of text.
    fn by_text(column: &ArrayRef, row: usize) -> Value {
        if let Some(lists) = column.as_list_opt::<i32>().filter(|lists| lists.is_valid(row)) {
            let items = lists.value(row);
            return (0..items.len()).map(|item| by_text(&items, item)).collect();
        }
        let shown = in_utc(column).unwrap();
        let options = FormatOptions::default().with_null("null");
        let text = ArrayFormatter::try_new(&shown, &options).unwrap().value(row).to_string();
        let is_bare = column.data_type().is_numeric() || *column.data_type() == DataType::Boolean;
        let bare = (is_bare || column.is_null(row)).then(|| serde_json::from_str(&text).ok());
        bare.flatten().unwrap_or(Value::String(text))
    }

    fn awkward_columns() -> Vec<ArrayRef> {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), None, Some(-7), Some(100), Some(9)]));
        let extremes: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(i64::MIN)]));
        let fractions = [0.1, -0.0, 2.0, 1e16, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let fractions: ArrayRef = Arc::new(Float64Array::from(fractions.to_vec()));
        let words = || vec![Some("12"), None, Some(""), Some("\"drei\" €")];
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(StringArray::from(words())),
            Arc::new(LargeStringArray::from(words())),
            Arc::new(StringViewArray::from(words())),
            Arc::new(UInt64Array::from(vec![u64::MAX, 0])),
            Arc::new(Decimal128Array::from(vec![150, -1]).with_precision_and_scale(5, 2).unwrap()),
            Arc::new(TimestampSecondArray::from(vec![Some(3_600), None]).with_timezone("Europe/Berlin")),
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>([
                Some(vec![Some(0.1), None]),
                None,
                Some(vec![]),
            ])),
            extremes,
            fractions.clone(),
        ];
        let others = [DataType::Float32, DataType::Float16];
        columns.extend(others.iter().map(|of| cast(&fractions, of).unwrap()));
        use DataType::{Date32, Int8, Int16, Int32, UInt8, UInt16, UInt32};
        let others = [Int8, Int16, Int32, UInt8, UInt16, UInt32, Date32];
        columns.extend(others.iter().map(|of| cast(&cast(&numbers, &Int32).unwrap(), of).unwrap()));
        columns
    }

    #[test]
    fn a_column_of_our_own_makes_way_for_attributes() {
        let schema = |names: &[&str]| {
            Schema::new(names.iter().map(|&name| Field::new(name, DataType::Utf8, true)).collect::<Vec<_>>())
        };
        assert_eq!(own_column("_rank", &schema(&["rank"])), "_rank");
        assert_eq!(own_column("row_id", &schema(&["row_id"])), "_row_id");
        assert_eq!(own_column("row_id", &schema(&["row_id", "_row_id", "___row_id"])), "__row_id");
    }

    #[test]
    fn values_become_what_json_has_for_them() {
        let berlin = TimestampSecondArray::from(vec![3_600]).with_timezone("Europe/Berlin");
        let columns: [(ArrayRef, &str); 8] = [
            (Arc::new(berlin), "\"1970-01-01T01:00:00Z\""),
            (Arc::new(Int64Array::from(vec![i64::MIN])), "-9223372036854775808"),
            (Arc::new(UInt8Array::from(vec![Some(3)])), "3"),
            (Arc::new(Float32Array::from(vec![0.1])), "0.1"),
            (Arc::new(Float64Array::from(vec![f64::NAN])), "\"NaN\""),
            (Arc::new(BooleanArray::from(vec![true])), "true"),
            (Arc::new(LargeStringArray::from(vec!["12"])), "\"12\""),
            (Arc::new(Int64Array::from(vec![None])), "null"),
        ];
        for (column, expected) in columns {
            assert_eq!(json_value(&column, 0).unwrap().to_string(), expected, "{}", column.data_type());
        }
        for column in awkward_columns() {
            for row in 0..column.len() {
                assert_eq!(
                    json_value(&column, row).unwrap(),
                    by_text(&column, row),
                    "{}",
                    column.data_type()
                );
            }
            let part = column.slice(1, column.len() - 1);
            assert_eq!(json_value(&part, 0).unwrap(), by_text(&column, 1), "{}", column.data_type());
        }
        for number in [1e300, -2.5e-7, f64::MAX, 0.1 + 0.2] {
            let column = Float64Array::from(vec![number]);
            assert_eq!(json_value(&column, 0).unwrap().as_f64(), Some(number));
        }
    }
}
