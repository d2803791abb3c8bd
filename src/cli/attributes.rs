//! Attribute columns: the row that has a value. Reads what a person typed as the column
//! would print it: `4711`, `true`, `2024-05-01`.

use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::ArrowError;

use crate::artifact::columns::IDS_COLUMN;
use crate::loader::in_utc;
use crate::vectors::RowIds;

/// Why a value names no row.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("the index has no column `{column}`; it has {available}")]
    Column { column: String, available: String },
    #[error("no row has `{value}` in {searched}; --column takes {available}")]
    Value { value: String, searched: String, available: String },
    #[error("column `{column}` cannot be read as text: {source}")]
    Text { column: String, source: ArrowError },
}

/// A row, and the column that named it.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub ordinal: u32,
    pub column: String,
}

/// The first row that is there, by `is_live`, and whose `column` reads `value`. Without a column: the first text attribute, and
/// if it has no such value, the row ids.
pub(super) fn find(
    attributes: Option<&RecordBatch>,
    ids: &RowIds,
    is_live: &dyn Fn(u32) -> bool,
    column: Option<&str>,
    value: &str,
) -> Result<Found, LookupError> {
    let in_attribute = |name: &str| -> Result<Option<Found>, LookupError> {
        let Some(values) = attributes.and_then(|batch| batch.column_by_name(name)) else { return Ok(None) };
        let found = row_of(values.as_ref(), is_live, value)
            .map_err(|source| LookupError::Text { column: name.into(), source })?;
        Ok(found.map(|ordinal| Found { ordinal, column: name.into() }))
    };
    let in_ids = || {
        let id = ids.kind().parse(value).ok()?;
        ids.find(&id).map(|ordinal| Found { ordinal, column: IDS_COLUMN.into() })
    };
    let names = column_names(attributes);
    let available = || {
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        quoted.join(", ")
    };
    let missing =
        |searched: String| LookupError::Value { value: value.into(), searched, available: available() };
    match column {
        Some(name) if !names.iter().any(|known| known == name) => {
            Err(LookupError::Column { column: name.into(), available: available() })
        }
        Some(name) => {
            let found = if is_attribute(attributes, name) { in_attribute(name)? } else { in_ids() };
            found.ok_or_else(|| missing(format!("column `{name}`")))
        }
        None => {
            let text = attributes.and_then(first_text_column);
            let found = text.map_or(Ok(None), in_attribute)?.or_else(in_ids);
            found.ok_or_else(|| {
                let first = text.map_or(String::new(), |name| format!("column `{name}` or "));
                missing(format!("{first}the row ids"))
            })
        }
    }
}

/// The attributes and the row ids, which go by a name of their own unless an attribute has it.
fn column_names(attributes: Option<&RecordBatch>) -> Vec<String> {
    let fields = attributes.map(|batch| batch.schema_ref().fields().iter());
    let mut names: Vec<String> = fields.into_iter().flatten().map(|field| field.name().clone()).collect();
    if !names.iter().any(|name| name == IDS_COLUMN) {
        names.push(IDS_COLUMN.into());
    }
    names
}

fn is_attribute(attributes: Option<&RecordBatch>, name: &str) -> bool {
    attributes.is_some_and(|batch| batch.column_by_name(name).is_some())
}

fn first_text_column(attributes: &RecordBatch) -> Option<&str> {
    let fields = attributes.schema_ref().fields();
    fields.iter().find(|field| field.data_type().is_string()).map(|field| field.name().as_str())
}

fn row_of(column: &dyn Array, is_live: &dyn Fn(u32) -> bool, value: &str) -> Result<Option<u32>, ArrowError> {
    let column = in_utc(column)?;
    let formatter = ArrayFormatter::try_new(&column, &FormatOptions::default())?;
    let mut text = String::new();
    for row in (0..column.len() as u32).filter(|&row| is_live(row)) {
        if column.is_null(row as usize) {
            continue;
        }
        text.clear();
        formatter.value(row as usize).write(&mut text)?;
        if text == value {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Date32Array, Int64Array, LargeStringArray};
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("rank", Arc::new(Int64Array::from(vec![Some(7), None, Some(8)])) as ArrayRef, true),
            ("word", Arc::new(LargeStringArray::from(vec![Some("8"), None, Some("king")])), true),
            ("when", Arc::new(Date32Array::from(vec![0, 1, 2])), true),
        ])
        .unwrap()
    }

    fn found(column: Option<&str>, value: &str) -> Result<(u32, String), String> {
        let found = find(Some(&batch()), &RowIds::from(vec![30u64, 20, 10]), &|_| true, column, value);
        found.map(|found| (found.ordinal, found.column)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_row_is_found_by_text_then_by_id_or_in_the_column_named() {
        for (column, value, expected) in [
            (None, "king", (2, "word")),
            (None, "8", (0, "word")),
            (None, "20", (1, "row_id")),
            (Some("rank"), "8", (2, "rank")),
            (Some("when"), "1970-01-02", (1, "when")),
            (Some("row_id"), "10", (2, "row_id")),
        ] {
            assert_eq!(found(column, value), Ok((expected.0, expected.1.into())), "{column:?} {value}");
        }
        let found = find(None, &RowIds::from(vec![30u64]), &|_| true, None, "30").unwrap();
        assert_eq!(found, Found { ordinal: 0, column: "row_id".into() });
    }

    #[test]
    fn a_row_that_was_deleted_is_not_found_by_its_value() {
        let words = Arc::new(LargeStringArray::from(vec!["river", "king", "river"])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("word", words)]).unwrap();
        let ids = RowIds::from(vec![1u64, 2, 3]);
        let found = |live: &[u32], value| {
            let found = find(Some(&batch), &ids, &|row| live.contains(&row), None, value);
            found.ok().map(|found| found.ordinal)
        };
        assert_eq!(found(&[0, 1, 2], "river"), Some(0));
        assert_eq!(found(&[1, 2], "river"), Some(2), "the row in its place");
        assert_eq!(found(&[0, 2], "king"), None);
    }

    #[test]
    fn what_is_not_found_is_said_with_where_it_was_looked_for() {
        for (column, value, expected) in [
            (
                None,
                "queen",
                "no row has `queen` in column `word` or the row ids; --column takes `rank`, `word`, `when`, `row_id`",
            ),
            (
                Some("rank"),
                "king",
                "no row has `king` in column `rank`; --column takes `rank`, `word`, `when`, `row_id`",
            ),
            (Some("id"), "7", "the index has no column `id`; it has `rank`, `word`, `when`, `row_id`"),
            // A null is no value, not even an empty one.
            (
                Some("word"),
                "",
                "no row has `` in column `word`; --column takes `rank`, `word`, `when`, `row_id`",
            ),
        ] {
            assert_eq!(found(column, value), Err(expected.into()));
        }
        let error = find(None, &RowIds::from(vec![30u64]), &|_| true, None, "x").unwrap_err();
        assert_eq!(error.to_string(), "no row has `x` in the row ids; --column takes `row_id`");
    }
}
