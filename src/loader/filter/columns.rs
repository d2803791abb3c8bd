//! What a filter can name, and a column's values in the few domains that are compared.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, BooleanArray, FixedSizeBinaryArray, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, TimeUnit};
use sqlparser::ast::Ident;

use super::{FilterError, Position, ROW_ID};
use crate::vectors::RowIds;

/// The ids and attributes of an index's rows.
pub(in crate::loader) struct Columns<'a> {
    ids: &'a RowIds,
    attributes: Option<&'a RecordBatch>,
    /// Attributes that were asked for, by their places.
    asked: RefCell<BTreeSet<usize>>,
    end: Option<Instant>,
}

/// A column that a filter names.
pub(super) struct Column {
    pub name: String,
    pub array: ArrayRef,
}

/// The values of a column by row, whatever the width of its type.
pub(super) enum Values<'a> {
    Int(Box<dyn Fn(usize) -> i128 + 'a>),
    Float {
        of: Box<dyn Fn(usize) -> f64 + 'a>,
        single: bool,
    },
    Text(Box<dyn Fn(usize) -> &'a str + 'a>),
    Bool(&'a BooleanArray),
    /// Nanoseconds since 1970, and the zone that constants are read in.
    Time {
        of: Box<dyn Fn(usize) -> i128 + 'a>,
        zone: Option<&'a str>,
    },
    Uuid(&'a FixedSizeBinaryArray),
    /// Compared by functions of their own.
    List,
}

impl<'a> Columns<'a> {
    pub fn new(ids: &'a RowIds, attributes: Option<&'a RecordBatch>) -> Self {
        Self { ids, attributes, asked: RefCell::default(), end: None }
    }

    /// The same, for a filter whose evaluation has to end then.
    pub fn until(self, end: Option<Instant>) -> Self {
        Self { end, ..self }
    }

    /// That there is time for another pass over the rows.
    pub(super) fn check_time(&self) -> Result<(), FilterError> {
        match self.end.is_some_and(|end| Instant::now() >= end) {
            true => Err(FilterError::TimeOut),
            false => Ok(()),
        }
    }

    /// The attributes that were asked for so far, by their places, ascending.
    pub(super) fn asked(&self) -> Vec<usize> {
        self.asked.borrow().iter().copied().collect()
    }

    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// The column that `parts`, joined by dots, name.
    pub(super) fn named(&self, parts: &[Ident], at: Position) -> Result<Column, FilterError> {
        let name = parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join(".");
        let quoted = parts.iter().any(|part| part.quote_style.is_some());
        let found = self.find(|other| other == name);
        match found.or_else(|| self.find(|other| !quoted && other.eq_ignore_ascii_case(&name))) {
            Some(column) => Ok(column),
            None => Err(FilterError::Column { at, column: name, known: self.known() }),
        }
    }

    /// The column of this name, in this case.
    pub(super) fn exactly(&self, name: &str) -> Option<Column> {
        self.find(|other| other == name)
    }

    fn find(&self, is: impl Fn(&str) -> bool) -> Option<Column> {
        let attribute = self.attributes.and_then(|batch| {
            let place = batch.schema_ref().fields().iter().position(|field| is(field.name()))?;
            self.asked.borrow_mut().insert(place);
            let name = batch.schema_ref().field(place).name().clone();
            Some(Column { name, array: batch.column(place).clone() })
        });
        let ids = || is(ROW_ID).then(|| Column { name: ROW_ID.into(), array: self.ids.to_array() });
        attribute.or_else(ids)
    }

    fn known(&self) -> String {
        let fields = self.attributes.into_iter().flat_map(|batch| batch.schema_ref().fields());
        let names = fields.map(|field| format!("`{}` ({})", field.name(), kind(field.data_type())));
        names
            .chain([format!("`{ROW_ID}` ({})", kind(self.ids.to_array().data_type()))])
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What a person calls a type.
pub(super) fn kind(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Float32 | DataType::Float64 => "number",
        DataType::Utf8 | DataType::LargeUtf8 => "string",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Timestamp(..) => "timestamp",
        DataType::FixedSizeBinary(_) => "UUID",
        DataType::List(_) => "list of strings",
        _ => "integer",
    }
}

impl Column {
    pub fn nulls(&self) -> Option<NullBuffer> {
        self.array.logical_nulls()
    }

    pub fn kind(&self) -> &'static str {
        kind(self.array.data_type())
    }

    pub fn values(&self) -> Values<'_> {
        use DataType::*;
        let array = self.array.as_ref();
        match array.data_type() {
            Boolean => Values::Bool(array.as_boolean()),
            Int8 => int::<Int8Type>(array),
            Int16 => int::<Int16Type>(array),
            Int32 => int::<Int32Type>(array),
            Int64 => int::<Int64Type>(array),
            UInt8 => int::<UInt8Type>(array),
            UInt16 => int::<UInt16Type>(array),
            UInt32 => int::<UInt32Type>(array),
            UInt64 => int::<UInt64Type>(array),
            Float32 => Values::Float { of: numbers::<Float32Type, f64>(array), single: true },
            Float64 => Values::Float { of: numbers::<Float64Type, f64>(array), single: false },
            Date32 => time::<Date32Type>(array, 86_400_000_000_000, None),
            Date64 => time::<Date64Type>(array, 1_000_000, None),
            Timestamp(TimeUnit::Second, zone) => {
                time::<TimestampSecondType>(array, 1_000_000_000, zone.as_deref())
            }
            Timestamp(TimeUnit::Millisecond, zone) => {
                time::<TimestampMillisecondType>(array, 1_000_000, zone.as_deref())
            }
            Timestamp(TimeUnit::Microsecond, zone) => {
                time::<TimestampMicrosecondType>(array, 1000, zone.as_deref())
            }
            Timestamp(TimeUnit::Nanosecond, zone) => {
                time::<TimestampNanosecondType>(array, 1, zone.as_deref())
            }
            Utf8 => {
                let strings = array.as_string::<i32>();
                Values::Text(Box::new(move |row| strings.value(row)))
            }
            LargeUtf8 => {
                let strings = array.as_string::<i64>();
                Values::Text(Box::new(move |row| strings.value(row)))
            }
            List(_) => Values::List,
            // The last of the types that columns are read with.
            _ => Values::Uuid(array.as_fixed_size_binary()),
        }
    }
}

fn numbers<'a, T, W>(array: &'a dyn Array) -> Box<dyn Fn(usize) -> W + 'a>
where
    T: ArrowPrimitiveType,
    W: From<T::Native> + 'a,
{
    let values = array.as_primitive::<T>().values();
    Box::new(move |row| values[row].into())
}

fn int<'a, T: ArrowPrimitiveType>(array: &'a dyn Array) -> Values<'a>
where
    i128: From<T::Native>,
{
    Values::Int(numbers::<T, i128>(array))
}

fn time<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    nanoseconds: i128,
    zone: Option<&'a str>,
) -> Values<'a>
where
    i128: From<T::Native>,
{
    let values = array.as_primitive::<T>().values();
    Values::Time { of: Box::new(move |row| i128::from(values[row]) * nanoseconds), zone }
}
