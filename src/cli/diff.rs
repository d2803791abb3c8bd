//! `annvil diff`: two versions side by side.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::table::{Align, Table, cell};
use super::{answer, curve, json_line};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration};
use crate::report::{Changed, RowsDiff, VersionDiff};
use crate::store::{IndexStore, StoreError};
use crate::vectors::RowId;

/// Compare two versions: parameters, rows by id, recall, size, timings.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil diff out/glove10k-hnsw                      the latest with the one before it
  annvil diff out/glove10k-hnsw --from 3 --to 7
  annvil diff s3://prod/words s3://staging/words     the latest of each")]
pub struct DiffArgs {
    /// An index's folder or URI
    #[arg(value_name = "A")]
    a: String,
    /// Another's [default: A]
    #[arg(value_name = "B")]
    b: Option<String>,
    /// Version of A [default: the latest; without B, the one before]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Version of B [default: the latest]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Compared {
    a: Named,
    b: Named,
    #[serde(flatten)]
    diff: VersionDiff,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Named {
    uri: String,
    version: u64,
}

/// # Errors
/// Versions that are not there or not whole.
pub(super) fn run(args: &DiffArgs, out: &mut dyn Write) -> Result<(), Error> {
    let first = IndexStore::open(&args.a)?;
    let second = args.b.as_deref().map(IndexStore::open).transpose()?.unwrap_or_else(|| first.clone());
    let to = second.artifact(args.to)?;
    let from = match args.from {
        None if args.b.is_none() => version_before(&first, to.version(), &args.a)?,
        from => from,
    };
    let from = first.artifact(from)?;
    let named = |uri: &str, version| Named { uri: uri.into(), version };
    let compared = Compared {
        a: named(&args.a, from.version()),
        b: named(args.b.as_ref().unwrap_or(&args.a), to.version()),
        diff: VersionDiff::between(&from, &to)?,
    };
    answer(out, &if args.json { json_line(&compared)? } else { compared.render() })
}

fn version_before(store: &IndexStore, version: u64, uri: &str) -> Result<Option<u64>, Error> {
    match store.versions()?.into_iter().rfind(|other| *other < version) {
        Some(before) => Ok(Some(before)),
        None => {
            Err(StoreError::NotFound { what: format!("a version of `{uri}` before version {version}") }
                .into())
        }
    }
}

impl Compared {
    fn render(&self) -> String {
        let Compared { a, b, diff } = self;
        let mut text = format!("a: {} version {}\nb: {} version {}\n", a.uri, a.version, b.uri, b.version);
        if diff.same_segments {
            text += "the segments are the same: they answer alike\n";
        }
        text += &render_rows(&diff.rows);
        text += &section("parameters", &diff.parameters, |value: &Value| match value {
            Value::Null => "–".into(),
            Value::String(text) => cell(text),
            value => cell(&value.to_string()),
        });
        text += &section("recall", &diff.recall, |recall| or_dash(recall.as_ref().map(curve::recall)));
        let microseconds = |value: &Option<f64>| {
            or_dash(value.and_then(|us| Duration::try_from_secs_f64(us * 1e-6).ok()).map(duration))
        };
        text += &section("latency", std::slice::from_ref(&diff.latency_p50_us), microseconds);
        text += &section("size", &diff.sizes, |size| or_dash(size.map(bytes)));
        let milliseconds = |value: &Option<f64>| {
            or_dash(value.and_then(|ms| Duration::try_from_secs_f64(ms * 1e-3).ok()).map(duration))
        };
        text += &section("time", &diff.stages_ms, milliseconds);
        text + &section("memory", std::slice::from_ref(&diff.peak_memory_bytes), |peak| {
            or_dash(peak.map(bytes))
        })
    }
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".into())
}

fn render_rows(rows: &RowsDiff) -> String {
    let RowsDiff { a, b, added, removed, some_added, some_removed } = rows;
    let told = |sign: &str, number: u64, some: &[RowId]| {
        let ids: Vec<String> = some.iter().map(|id| cell(&id.to_string())).collect();
        let more = if number > some.len() as u64 { ", …" } else { "" };
        if number == 0 {
            String::new()
        } else {
            format!("  {sign}{}: {}{more}\n", count(number), ids.join(", "))
        }
    };
    format!("\nrows: {} in a, {} in b\n", count(*a), count(*b))
        + &told("+", *added, some_added)
        + &told("−", *removed, some_removed)
}

fn section<T: PartialEq>(title: &str, rows: &[Changed<T>], value: impl Fn(&T) -> String) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table =
        Table::new([(title, Align::Left), ("a", Align::Right), ("b", Align::Right), ("", Align::Left)]);
    for Changed { what, a, b } in rows {
        let mark = if a == b { "=" } else { "" };
        table.row([what.clone(), value(a), value(b), mark.into()]);
    }
    format!("\n{}", table.render(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_reads_from_what_changed_to_what_it_costs() {
        let changed = |what: &str, a, b| Changed { what: what.into(), a, b };
        let diff = VersionDiff {
            parameters: vec![Changed { what: "index.m".into(), a: 16.into(), b: Value::Null }],
            rows: RowsDiff {
                a: 1000,
                b: 1011,
                added: 12,
                removed: 1,
                some_added: vec![RowId::Int(7)],
                some_removed: vec![RowId::Text("x\ny".into())],
            },
            recall: vec![],
            latency_p50_us: Changed { what: "latency p50".into(), a: Some(80.0), b: None },
            sizes: vec![changed("total", Some(2048), Some(2048))],
            stages_ms: vec![Changed { what: "build".into(), a: None, b: Some(1500.0) }],
            peak_memory_bytes: changed("peak memory", Some(1 << 20), None),
            same_segments: false,
        };
        let named = |version| Named { uri: "out/words".into(), version };
        let compared = Compared { a: named(1), b: named(2), diff };
        let expected = "\
a: out/words version 1
b: out/words version 2

rows: 1,000 in a, 1,011 in b
  +12: 7, …
  −1: x y

parameters   a  b
index.m     16  –

latency          a  b
latency p50  80 µs  –

size         a        b
total  2.0 KiB  2.0 KiB  =

time   a       b
build  –  1.50 s

memory             a  b
peak memory  1.0 MiB  –
";
        assert_eq!(compared.render(), expected);
        let json = serde_json::to_value(&compared).unwrap();
        assert_eq!((&json["a"]["version"], &json["rows"]["added"]), (&1.into(), &12.into()));
    }
}
