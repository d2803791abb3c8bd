//! JSON lines: an object a line, as exports and logs have them. Types are told by all values of a key: so the file is read twice.
//!
//! Integers, numbers, booleans, text and lists of text become columns of these types; objects, other lists and keys whose values are of
//! several kinds become JSON as text. The vector column is a list of numbers, of whatever lengths.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float32Builder, Float64Builder, Int64Builder, ListBuilder, StringBuilder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema};
use serde_json::{Map, Value};

use super::{ForeignError, Stage, Wanted};

/// Text handed on at a time.
const BATCH_BYTES: u64 = 16 << 20;
/// A line longer than this is something else.
const MAX_LINE_BYTES: u64 = 64 << 20;

type Row = Map<String, Value>;

pub(super) fn read(
    path: &Path,
    uri: &str,
    wanted: &Wanted,
    stage: &mut Stage<'_>,
) -> Result<(), ForeignError> {
    let mut kinds = BTreeMap::<String, ValueKind>::new();
    each_row(path, uri, |row, _| {
        for (key, value) in row {
            let kind = ValueKind::of(&value);
            match kinds.get_mut(&key) {
                Some(known) => *known = known.with(kind),
                None => drop(kinds.insert(key, kind)),
            }
        }
        Ok(())
    })?;
    if kinds.is_empty() {
        return Err(ForeignError::NoRows { uri: uri.into() });
    }
    let vector = wanted.text.is_none().then_some(wanted.vector.as_str());
    let names = match wanted.columns() {
        Some(names) => names,
        None => kinds.keys().cloned().collect(),
    };
    let mut columns = Vec::new();
    for name in names {
        let Some(&kind) = kinds.get(&name) else {
            let available = kinds.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            return Err(ForeignError::MissingColumn { uri: uri.into(), column: name, available });
        };
        let builder = if vector == Some(name.as_str()) {
            if !matches!(kind, ValueKind::Numbers | ValueKind::NoItems | ValueKind::Null) {
                let got = kind.name().into();
                let expected = "lists of numbers, as vectors are";
                return Err(ForeignError::ColumnType { uri: uri.into(), column: name, expected, got });
            }
            Builder::Vector(ListBuilder::new(Float32Builder::new()))
        } else {
            Builder::of(kind)
        };
        columns.push((name, builder));
    }
    let mut pending = 0;
    each_row(path, uri, |row, bytes| {
        for (name, builder) in &mut columns {
            builder.push(row.get(name.as_str()));
        }
        pending += bytes;
        if pending > BATCH_BYTES {
            stage.push(&batch(&mut columns), std::mem::take(&mut pending))?;
        }
        Ok(())
    })?;
    let last = batch(&mut columns);
    if last.num_rows() > 0 { stage.push(&last, pending) } else { Ok(()) }
}

fn batch(columns: &mut [(String, Builder)]) -> RecordBatch {
    let arrays: Vec<ArrayRef> = columns.iter_mut().map(|(_, builder)| builder.finish()).collect();
    let fields: Vec<Field> = columns
        .iter()
        .zip(&arrays)
        .map(|((name, _), array)| Field::new(name, array.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns of as many rows")
}

/// Hands on each line's object, with its length; empty lines are none.
fn each_row(
    path: &Path,
    uri: &str,
    mut each: impl FnMut(Row, u64) -> Result<(), ForeignError>,
) -> Result<(), ForeignError> {
    use std::io::Read;
    let unreadable = |source| ForeignError::Read { uri: uri.into(), source };
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(unreadable)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let got = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(unreadable)?;
        let wrong = |what: String| ForeignError::Line { uri: uri.into(), line: number, what };
        if got as u64 == MAX_LINE_BYTES {
            return Err(wrong(format!("is longer than {MAX_LINE_BYTES} bytes")));
        }
        if got == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Value::Object(row)) => each(row, got as u64)?,
            Ok(other) => {
                let got = ValueKind::of(&other).name();
                return Err(wrong(format!("expected an object, got {got}")));
            }
            Err(error) => return Err(wrong(format!("no JSON: {error}"))),
        }
    }
    Ok(())
}

/// What all values of a key have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    Null,
    Boolean,
    Integer,
    /// At least one beyond i64, none below 0.
    Unsigned,
    /// An integer below 0 was among them.
    Signed,
    Number,
    Text,
    NoItems,
    Texts,
    Numbers,
    /// Whatever else, and what differs.
    Json,
}

impl ValueKind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => Self::Signed,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(number) if number.is_u64() => Self::Unsigned,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(items) if items.is_empty() => Self::NoItems,
            Value::Array(items) if items.iter().all(Value::is_string) => Self::Texts,
            Value::Array(items) if items.iter().all(|item| item.is_number() || item.is_null()) => {
                Self::Numbers
            }
            Value::Array(_) | Value::Object(_) => Self::Json,
        }
    }

    fn with(self, other: Self) -> Self {
        use ValueKind::{Integer, NoItems, Null, Number, Numbers, Signed, Texts, Unsigned};
        match (self, other) {
            (one, another) if one == another => one,
            (Null, one) | (one, Null) => one,
            (NoItems, one @ (Texts | Numbers)) | (one @ (Texts | Numbers), NoItems) => one,
            (Integer, one @ (Signed | Unsigned)) | (one @ (Signed | Unsigned), Integer) => one,
            (Integer | Signed | Unsigned | Number, Integer | Signed | Unsigned | Number) => Number,
            _ => Self::Json,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Null => "nothing but nulls",
            Self::Boolean => "booleans",
            Self::Integer | Self::Signed | Self::Unsigned => "integers",
            Self::Number => "numbers",
            Self::Text => "text",
            Self::NoItems => "empty lists",
            Self::Texts => "lists of text",
            Self::Numbers => "lists of numbers",
            Self::Json => "values of several kinds, or objects",
        }
    }
}

enum Builder {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Unsigned(UInt64Builder),
    Number(Float64Builder),
    /// JSON where it is no string.
    Text(StringBuilder),
    Texts(ListBuilder<StringBuilder>),
    Vector(ListBuilder<Float32Builder>),
}

impl Builder {
    fn of(kind: ValueKind) -> Self {
        match kind {
            ValueKind::Boolean => Self::Boolean(BooleanBuilder::new()),
            ValueKind::Integer | ValueKind::Signed => Self::Integer(Int64Builder::new()),
            ValueKind::Unsigned => Self::Unsigned(UInt64Builder::new()),
            ValueKind::Number => Self::Number(Float64Builder::new()),
            ValueKind::NoItems | ValueKind::Texts => Self::Texts(ListBuilder::new(StringBuilder::new())),
            ValueKind::Null | ValueKind::Text | ValueKind::Numbers | ValueKind::Json => {
                Self::Text(StringBuilder::new())
            }
        }
    }

    fn push(&mut self, value: Option<&Value>) {
        let value = value.filter(|value| !value.is_null());
        match self {
            Self::Boolean(builder) => builder.append_option(value.and_then(Value::as_bool)),
            Self::Integer(builder) => builder.append_option(value.and_then(Value::as_i64)),
            Self::Unsigned(builder) => builder.append_option(value.and_then(Value::as_u64)),
            Self::Number(builder) => builder.append_option(value.and_then(Value::as_f64)),
            Self::Text(builder) => match value {
                Some(Value::String(text)) => builder.append_value(text),
                Some(value) => builder.append_value(value.to_string()),
                None => builder.append_null(),
            },
            Self::Texts(builder) => match value.and_then(Value::as_array) {
                Some(items) => builder.append_value(items.iter().map(Value::as_str)),
                None => builder.append_null(),
            },
            Self::Vector(builder) => match value.and_then(Value::as_array) {
                Some(items) => builder.append_value(items.iter().map(|item| item.as_f64().map(|x| x as f32))),
                None => builder.append_null(),
            },
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Integer(builder) => Arc::new(builder.finish()),
            Self::Unsigned(builder) => Arc::new(builder.finish()),
            Self::Number(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Texts(builder) => Arc::new(builder.finish()),
            Self::Vector(builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(values: &[Value]) -> ValueKind {
        values.iter().map(ValueKind::of).reduce(ValueKind::with).unwrap()
    }

    #[test]
    fn a_column_is_what_all_its_values_are() {
        use serde_json::json;
        for (values, expected) in [
            (vec![json!(1), json!(null), json!(-2)], ValueKind::Signed),
            (vec![json!(1), json!(u64::MAX)], ValueKind::Unsigned),
            (vec![json!(-1), json!(u64::MAX)], ValueKind::Number),
            (vec![json!(1), json!(2.5)], ValueKind::Number),
            (vec![json!([]), json!(["a"])], ValueKind::Texts),
            (vec![json!([1, 2.5]), json!([null]), json!([])], ValueKind::Numbers),
            (vec![json!("a"), json!(1)], ValueKind::Json),
            (vec![json!({"a": 1}), json!(null)], ValueKind::Json),
            (vec![json!(true), json!(false)], ValueKind::Boolean),
        ] {
            assert_eq!(kind_of(&values), expected, "{values:?}");
            let mut turned = values.clone();
            turned.reverse();
            assert_eq!(kind_of(&turned), expected, "{turned:?}");
        }
    }
}
