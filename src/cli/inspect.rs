//! `annvil inspect`: the manifest for a person.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::curve::Curve;
use super::table::{Align, Table, cell};
use super::{answer, json_line};
use crate::error::Error;
use crate::job::Gate;
use crate::job::quantity::{bytes, count, duration, utc};
use crate::vectors::Metric;

/// Show what a published index is, what it was made from and what was measured of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil inspect out/glove10k-hnsw
  annvil inspect out/glove10k-hnsw --version 1 --json | jq .certificate")]
pub struct InspectArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Version to show [default: the latest]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Print the manifest itself, as one line of JSON
    #[arg(long)]
    json: bool,
}

/// A manifest, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The manifest itself, for `--json`.
    pub manifest: Value,
    pub index: String,
    pub uri: String,
    pub version: u64,
    pub is_latest: bool,
    /// The version whose segments a rollback restored.
    pub restores: Option<u64>,
    pub created_unix_ms: u64,
    pub annvil_version: String,
    pub kind: String,
    /// The index's own parameters, as `("m", "16")`.
    pub params: Vec<(String, String)>,
    pub metric: Metric,
    pub dim: u64,
    pub rows: u64,
    pub seed: u64,
    pub backend: String,
    pub inputs: Vec<InspectedInput>,
    pub rows_read: u64,
    pub rows_filtered: u64,
    /// By reason.
    pub rows_rejected: BTreeMap<String, u64>,
    pub attributes: Vec<InspectedAttribute>,
    pub files: Vec<InspectedFile>,
    /// Name and milliseconds.
    pub stages: Vec<(String, f64)>,
    pub peak_memory_bytes: Option<u64>,
    pub gate: Option<Gate>,
    pub curve: Option<Curve>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InspectedInput {
    pub uri: String,
    pub size_bytes: u64,
    pub rows: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InspectedAttribute {
    pub name: String,
    pub data_type: String,
    pub nulls: u64,
    pub distinct: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InspectedFile {
    /// Under the index's folder.
    pub path: String,
    pub size_bytes: u64,
    /// Hexadecimal.
    pub blake3: String,
}

/// # Errors
/// What `inspect` says.
pub fn run(
    args: &InspectArgs,
    out: &mut dyn Write,
    inspect: impl FnOnce(&str, Option<u64>) -> Result<Inspection, Error>,
) -> Result<(), Error> {
    let found = inspect(&args.index, args.version)?;
    answer(out, &if args.json { json_line(&found.manifest)? } else { found.render() })
}

impl Inspection {
    fn render(&self) -> String {
        let latest = if self.is_latest { ", the latest" } else { "" };
        let restores = self.restores.map_or(String::new(), |version| format!(", restores version {version}"));
        let mut text = format!("{} version {}{latest}{restores}\n\n", self.uri, self.version);
        let params: Vec<String> =
            self.params.iter().map(|(name, value)| format!("{name} {}", cell(value))).collect();
        let size: u64 = self.files.iter().map(|file| file.size_bytes).sum();
        let gate = self.gate.map_or("none".into(), |gate| format!("recall@{} ≥ {}", gate.k, gate.min_recall));
        let mut line = |name: &str, value: String| text += &format!("{name:<9} {value}\n");
        line("kind", [vec![self.kind.clone()], params].concat().join(", "));
        line("rows", format!("{} × {}, {}", count(self.rows), self.dim, self.metric));
        let files =
            if self.files.len() == 1 { "1 file".into() } else { format!("{} files", self.files.len()) };
        line("size", format!("{} in {files}", bytes(size)));
        line("built", format!("{} by annvil {}", utc(self.created_unix_ms), cell(&self.annvil_version)));
        line("backend", cell(&self.backend));
        line("seed", self.seed.to_string());
        line("gate", gate);
        if let Some(peak) = self.peak_memory_bytes {
            line("memory", format!("{} at most", bytes(peak)));
        }
        let rejected: u64 = self.rows_rejected.values().sum();
        let (read, filtered, rejected) = (count(self.rows_read), count(self.rows_filtered), count(rejected));
        line("source", format!("{read} rows read, {filtered} filtered, {rejected} rejected"));
        for (reason, rows) in &self.rows_rejected {
            line("", format!("{} rejected: {}", count(*rows), cell(reason)));
        }
        if let Some(curve) = &self.curve {
            text += "\ncertificate\n";
            text += &curve.render("  ");
        }
        text + &self.render_tables()
    }

    fn render_tables(&self) -> String {
        let mut text = String::new();
        let mut add = |title: &str, table: &Table| text += &format!("\n{title}\n{}", table.render("  "));
        let mut table = Table::new([("input", Align::Left), ("size", Align::Right), ("rows", Align::Right)]);
        for input in &self.inputs {
            table.row([input.uri.clone(), bytes(input.size_bytes), count(input.rows)]);
        }
        add("inputs", &table);
        if !self.attributes.is_empty() {
            let numbers = [("nulls", Align::Right), ("distinct", Align::Right)];
            let mut table =
                Table::new([("column", Align::Left), ("type", Align::Left)].into_iter().chain(numbers));
            for attribute in &self.attributes {
                let distinct = attribute.distinct.map_or("–".into(), count);
                let InspectedAttribute { name, data_type, nulls, .. } = attribute;
                table.row([name.clone(), data_type.clone(), count(*nulls), distinct]);
            }
            add("attributes", &table);
        }
        let mut table = Table::new([("file", Align::Left), ("size", Align::Right), ("blake3", Align::Left)]);
        for file in &self.files {
            table.row([file.path.clone(), bytes(file.size_bytes), file.blake3.chars().take(16).collect()]);
        }
        add("files", &table);
        let mut table = Table::new([("stage", Align::Left), ("time", Align::Right)]);
        for (name, wall_ms) in &self.stages {
            let time = Duration::try_from_secs_f64(wall_ms * 1e-3).map_or_else(|_| "?".into(), duration);
            table.row([name.clone(), time]);
        }
        add("stages", &table);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::curve;

    fn inspection() -> Inspection {
        Inspection {
            manifest: serde_json::json!({ "version": 4 }),
            index: "words".into(),
            uri: "out/words".into(),
            version: 4,
            is_latest: true,
            restores: Some(2),
            created_unix_ms: 1_795_159_900_000,
            annvil_version: "0.1.0".into(),
            kind: "hnsw".into(),
            params: vec![("m".into(), "16".into()), ("ef_construction".into(), "200".into())],
            metric: Metric::Cosine,
            dim: 100,
            rows: 9_997,
            seed: 42,
            backend: "cpu (avx512)".into(),
            inputs: vec![InspectedInput { uri: "base.parquet".into(), size_bytes: 4 << 20, rows: 10_000 }],
            rows_read: 10_000,
            rows_filtered: 0,
            rows_rejected: BTreeMap::from([("null_vector".into(), 3)]),
            attributes: vec![InspectedAttribute {
                name: "word".into(),
                data_type: "Utf8".into(),
                nulls: 0,
                distinct: Some(9_997),
            }],
            files: vec![InspectedFile {
                path: "seg/ab/graph.safetensors".into(),
                size_bytes: 3 << 20,
                blake3: "0123456789abcdef0123".into(),
            }],
            stages: vec![("read".into(), 120.0)],
            peak_memory_bytes: None,
            gate: Some(Gate { k: 10, min_recall: 0.95 }),
            curve: Some(curve::example()),
        }
    }

    #[test]
    fn a_manifest_is_shown_whole() {
        let text = inspection().render();
        for line in [
            "out/words version 4, the latest, restores version 2",
            "kind      hnsw, m 16, ef_construction 200",
            "rows      9,997 × 100, cosine",
            "size      3.0 MiB in 1 file",
            "built     2026-11-20 07:31:40 UTC by annvil 0.1.0",
            "gate      recall@10 ≥ 0.95",
            "source    10,000 rows read, 0 filtered, 3 rejected",
            "          3 rejected: null_vector",
            "  base.parquet  4.0 MiB  10,000",
            "  word    Utf8      0     9,997",
            "  seg/ab/graph.safetensors  3.0 MiB  0123456789abcdef",
            "  read   120 ms",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
    }

    #[test]
    fn json_is_the_manifest() {
        let args = InspectArgs { index: "out/words".into(), version: Some(4), json: true };
        let mut out = Vec::new();
        run(&args, &mut out, |index, version| {
            assert_eq!((index, version), ("out/words", Some(4)));
            Ok(inspection())
        })
        .unwrap();
        assert_eq!(out, b"{\"version\":4}\n");
    }
}
