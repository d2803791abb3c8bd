//! `annvil list`: rows of an index by what they are, not by what they are near.

use std::cmp::Ordering;
use std::io::Write;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::residence::ResidenceArgs;
use super::table::{Align, Table, cell};
use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::count;
use crate::loader::{Filter, Index, json_value};
use crate::vectors::RowId;

/// The id's name where an attribute's can stand.
const ROW_ID: &str = "row_id";

/// List rows of a published index by id and attributes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil list out/knowledge --id-prefix mind:fact: --order-by created_at --descending -k 20
  annvil list out/glove10k-hnsw --where \"rank < 100\" --order-by rank --attributes word --json")]
pub struct ListArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Only rows whose ids, strings or UUIDs, begin so
    #[arg(long, value_name = "TEXT", value_parser = Filter::id_prefix)]
    id_prefix: Option<Filter>,
    /// Only rows for which an SQL condition over attributes and `row_id` is true
    #[arg(long = "where", value_name = "SQL", value_parser = Filter::parse)]
    condition: Option<Filter>,
    /// The attribute, or `row_id`, whose least value comes first; rows without a value come last
    #[arg(long, value_name = "NAME", default_value = ROW_ID)]
    order_by: String,
    /// The greatest value first
    #[arg(long)]
    descending: bool,
    /// Rows to list
    #[arg(short, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Attributes to show, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    attributes: Option<Vec<String>>,
    #[command(flatten)]
    residence: ResidenceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("index `{index}` has no attribute `{name}`; it has {known}")]
struct NoAttribute {
    index: String,
    name: String,
    known: String,
}

#[derive(Debug, Serialize)]
struct Listing {
    index: String,
    version: u64,
    /// That the conditions let through; more than are listed, perhaps.
    total: usize,
    rows: Vec<ListedRow>,
}

#[derive(Debug, Serialize)]
struct ListedRow {
    id: RowId,
    attributes: Map<String, Value>,
}

/// # Errors
/// What opening the index says; a condition or an attribute that it has not.
pub(super) fn run(args: &ListArgs, out: &mut dyn Write) -> Result<(), Error> {
    let index = args.residence.told(args.residence.options()?.open(&args.index)?);
    let listing = args.list(&index)?;
    answer(out, &if args.json { json_line(&listing)? } else { listing.render() })
}

impl ListArgs {
    fn list(&self, index: &Index) -> Result<Listing, Error> {
        let batch = index.fetch_attributes()?;
        let schema = batch.as_ref().map(|batch| batch.schema());
        let known: Vec<&str> =
            schema.iter().flat_map(|schema| schema.fields()).map(|field| field.name().as_str()).collect();
        let shown: Vec<&str> = match &self.attributes {
            Some(names) => names.iter().map(String::as_str).collect(),
            None => known.clone(),
        };
        let orders = Some(self.order_by.as_str()).filter(|name| known.contains(name) || *name != ROW_ID);
        if let Some(name) = shown.iter().chain(&orders).find(|name| !known.contains(name)) {
            let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let error = NoAttribute { index: self.index.clone(), name: (*name).into(), known };
            return Err(Error::BadInput(error.into()));
        }
        let rows: Vec<u32> = match (&self.condition, &self.id_prefix) {
            (Some(condition), Some(prefix)) => index.mask(&condition.and(prefix))?.iter().collect(),
            (Some(filter), None) | (None, Some(filter)) => index.mask(filter)?.iter().collect(),
            (None, None) => index.live_ordinals(),
        };
        let value = |name: &str, row: u32| match &batch {
            Some(batch) => {
                json_value(&batch[name], row as usize).map_err(|error| Error::Internal(error.into()))
            }
            None => Ok(Value::Null),
        };
        let key = |row: u32| match orders {
            Some(name) => value(name, row),
            None => Ok(serde_json::json!(index.ids().get(row))),
        };
        let keyed = rows.into_iter().map(|row| Ok((key(row)?, row)));
        let mut keyed = keyed.collect::<Result<Vec<(Value, u32)>, Error>>()?;
        let total = keyed.len();
        keyed.sort_by(|(a, row_a), (b, row_b)| {
            let by_value = by_value(a, b);
            // What has no value stays behind.
            let turned = self.descending && !a.is_null() && !b.is_null();
            if turned { by_value.reverse() } else { by_value }.then(row_a.cmp(row_b))
        });
        let listed = keyed.into_iter().take(self.k as usize).map(|(_, row)| {
            let attributes = shown.iter().map(|name| Ok(((*name).to_string(), value(name, row)?)));
            let attributes = attributes.collect::<Result<_, Error>>()?;
            Ok(ListedRow { id: index.ids().get(row), attributes })
        });
        let rows = listed.collect::<Result<_, Error>>()?;
        Ok(Listing { index: self.index.clone(), version: index.version(), total, rows })
    }
}

/// Values of one column; null last.
fn by_value(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(f64::NAN).total_cmp(&b.as_f64().unwrap_or(f64::NAN)),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (a, b) => a.is_null().cmp(&b.is_null()),
    }
}

impl Listing {
    fn render(&self) -> String {
        let mut columns = vec![("id", Align::Left)];
        let names = self.rows.first().map(|row| row.attributes.keys().cloned().collect::<Vec<_>>());
        let names = names.unwrap_or_default();
        columns.extend(names.iter().map(|name| (name.as_str(), Align::Left)));
        let mut table = Table::new(columns);
        for row in &self.rows {
            let values = row.attributes.values().map(|value| match value {
                Value::String(text) => cell(text),
                value => cell(&value.to_string()),
            });
            table.row(std::iter::once(cell(&row.id.to_string())).chain(values));
        }
        let (shown, total) = (count(self.rows.len() as u64), count(self.total as u64));
        table.render("") + &format!("{}: {shown} of {total} rows\n", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_last_and_numbers_are_numbers() {
        use serde_json::json;
        let mut values =
            vec![json!(null), json!(10), json!(9), json!(9.5), json!(i64::MAX), json!(i64::MAX - 1)];
        values.sort_by(by_value);
        let expected = json!([9, 9.5, 10, i64::MAX - 1, i64::MAX, null]);
        assert_eq!(json!(values), expected);
    }
}
