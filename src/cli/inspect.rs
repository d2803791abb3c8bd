//! `annvil inspect`: the manifest for a person.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::table::{Align, Table, cell};
use super::{answer, curve, json_line};
use crate::artifact::{
    AttributeSummary, Backend, Change, Encrypted, FileRef, Folder, Gate, Input, Manifest, RowCounts,
    SealedManifest, SegmentRef, Stage,
};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration, utc};
use crate::loader::effort_name;
use crate::store::IndexStore;

/// Show what a published index is, what it was made from and what was measured of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil inspect out/glove10k-hnsw
  annvil inspect out/glove10k-hnsw --version 1 --json | jq .certificate

Of an encrypted index whose key is not given it shows what all may read: which key it is, when it was published, its files.")]
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

/// # Errors
/// What reading the manifest says.
pub(super) fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<(), Error> {
    let store = IndexStore::open(&args.index)?;
    let latest = store.latest()?;
    let (stored, manifest) = store.inspect(args.version)?;
    let is_latest = latest == Some(stored.version());
    let text = match (&manifest, stored.sealed()) {
        (Some(manifest), _) if args.json => json_line(manifest)?,
        (Some(manifest), None) => render(&args.index, manifest, is_latest),
        (Some(manifest), Some(sealed)) => {
            render(&args.index, manifest, is_latest) + &format!("\nencrypted with the key {}\n", key(sealed))
        }
        (None, Some(sealed)) if args.json => json_line(sealed)?,
        (None, Some(sealed)) => render_sealed(&args.index, sealed, is_latest),
        (None, None) => unreachable!("what is not encrypted was read"),
    };
    answer(out, &text)
}

fn key(sealed: &SealedManifest) -> String {
    let Encrypted { key_id, fingerprint, .. } = &sealed.encryption;
    cell(&format!("`{key_id}` (fingerprint {fingerprint})"))
}

/// What can be read without the key.
fn render_sealed(uri: &str, sealed: &SealedManifest, is_latest: bool) -> String {
    let latest = if is_latest { ", the latest" } else { "" };
    let restores =
        sealed.head.restores.map_or(String::new(), |version| format!(", restores version {version}"));
    let files = || sealed.folders.iter().flat_map(|folder| &folder.files);
    let size = files().map(|file| file.size_bytes).fold(0, u64::saturating_add);
    let mut text = format!("{uri} version {}{latest}{restores}\n\n", sealed.head.version);
    text +=
        &format!("encrypted with the key {}, which was not given: this is what all may read\n", key(sealed));
    text += &format!("size      {} in {} files\n", bytes(size), files().count());
    text += &format!("published {}\n", utc(sealed.head.created_unix_ms));
    let folder = |Folder { id, files }: &Folder| render_files(&id.to_string(), files);
    text + &sealed.folders.iter().map(folder).collect::<String>()
}

fn render(uri: &str, manifest: &Manifest, is_latest: bool) -> String {
    let build = &manifest.build;
    let latest = if is_latest { ", the latest" } else { "" };
    let restores = manifest.restores.map_or(String::new(), |version| format!(", restores version {version}"));
    let mut text = format!("{uri} version {}{latest}{restores}\n\n", manifest.version);
    let mut line = |name: &str, value: String| text += &format!("{name:<9} {value}\n");
    line("kind", [vec![cell(&build.kind)], params(manifest)].concat().join(", "));
    line("rows", format!("{} × {}, {}", count(manifest.live_rows()), build.dim, build.metric));
    let dead = build.rows - manifest.live_rows();
    if manifest.segments.len() > 1 || dead > 0 {
        line("segments", format!("{}, with {} tombstones", manifest.segments.len(), count(dead)));
    }
    if let Some(Change { operation, from, added, removed, drift, .. }) = &manifest.change {
        let drift = drift.map_or(String::new(), |drift| format!(", drift {drift:.3}"));
        let (added, removed) = (count(*added), count(*removed));
        let operation = cell(operation);
        line("change", format!("{operation} of version {from}: {added} added, {removed} removed{drift}"));
    }
    let files = || manifest.folders().flat_map(|segment| &segment.files);
    let size = files().map(|file| file.size_bytes).fold(0, u64::saturating_add);
    line("size", format!("{} in {} files", bytes(size), files().count()));
    line("per row", per_row(manifest));
    line("built", format!("{} by annvil {}", utc(manifest.created_unix_ms), cell(&build.annvil_version)));
    let Backend { backend, device } = &build.backend;
    let details = details(&build.built);
    if !details.is_empty() {
        line("details", details.join(", "));
    }
    line("backend", cell(&format!("{backend} ({device})")));
    line("seed", build.seed.to_string());
    let gate = build.certificate.as_ref().and_then(|certificate| certificate.gate);
    line("gate", gate.map_or("none".into(), |Gate { k, min_recall }| format!("recall@{k} ≥ {min_recall}")));
    if let Some(peak) = build.peak_memory_bytes {
        line("memory", format!("{} at most", bytes(peak)));
    }
    let RowCounts { read, filtered, held_out, rejected, .. } = &build.row_counts;
    let all_rejected = rejected.values().copied().fold(0, u64::saturating_add);
    let [read, filtered, all_rejected, held_out] = [*read, *filtered, all_rejected, *held_out].map(count);
    line(
        "source",
        format!("{read} rows read, {filtered} filtered, {all_rejected} rejected, {held_out} held out"),
    );
    for (reason, rows) in rejected {
        line("", format!("{} rejected: {}", count(*rows), cell(reason)));
    }
    match &build.certificate {
        Some(certificate) => {
            text += &format!("\ncertificate\n{}", curve::render(certificate, effort_name(&build.kind), "  "));
        }
        None => text += "\nno certificate: its recall was not measured\n",
    }
    text + &render_inputs(&build.inputs)
        + &render_attributes(&build.attributes)
        + &manifest.folders().map(render_segment).collect::<String>()
        + &render_stages(&build.stages)
}

/// What each file takes, shared out among the rows of its segments: what a row costs in codes, ids, vectors and links.
fn per_row(manifest: &Manifest) -> String {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for file in manifest.segments.iter().flat_map(|segment| &segment.files) {
        let name = file.name.split('.').next().unwrap_or(&file.name);
        let size = sizes.entry(name).or_default();
        *size = size.saturating_add(file.size_bytes);
    }
    let rows = manifest.build.rows.max(1) as f64;
    let told = |(name, size): (&str, u64)| format!("{} {:.1}", cell(name), size as f64 / rows);
    format!("{} bytes", sizes.into_iter().map(told).collect::<Vec<_>>().join(", "))
}

/// The index's parameters as `m 16`: as the build resolved them, and those of its entry in the job that the build does
/// not tell again.
fn params(manifest: &Manifest) -> Vec<String> {
    let Manifest { index_name, build, .. } = manifest;
    let entries = build.job["index"].as_array().into_iter().flatten();
    let entry = entries.into_iter().find(|entry| entry["name"] == index_name.as_str());
    let own = entry.and_then(Value::as_object).into_iter().flatten();
    let mut params: BTreeMap<&str, &Value> = own
        .filter(|(name, value)| !["name", "kind", "metric"].contains(&name.as_str()) && **value != "auto")
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let resolved = build.built["params"].as_object().into_iter().flatten();
    params.extend(resolved.map(|(name, value)| (name.as_str(), value)));
    params.into_iter().filter_map(|(name, value)| told(name, value)).collect()
}

/// What else the build tells of what it made.
fn details(built: &Value) -> Vec<String> {
    let mut details = Vec::new();
    for (name, value) in built.as_object().into_iter().flatten().filter(|(name, _)| *name != "params") {
        match value {
            Value::Object(group) => {
                details.extend(group.iter().filter_map(|(name, value)| told(name, value)))
            }
            _ => details.extend(told(name, value)),
        }
    }
    details
}

fn told(name: &str, value: &Value) -> Option<String> {
    let value = match value {
        Value::String(text) => text.clone(),
        // Most were f32, and look like it again.
        Value::Number(number) if number.is_f64() => (number.as_f64()? as f32).to_string(),
        Value::Number(_) | Value::Array(_) | Value::Bool(_) => value.to_string(),
        Value::Object(_) | Value::Null => return None,
    };
    Some(cell(&format!("{name} {value}")))
}

fn titled(title: &str, table: &Table) -> String {
    format!("\n{title}\n{}", table.render("  "))
}

fn render_inputs(inputs: &[Input]) -> String {
    let mut table = Table::new([("input", Align::Left), ("size", Align::Right), ("rows", Align::Right)]);
    for Input { uri, size_bytes, rows, .. } in inputs {
        table.row([uri.clone(), bytes(*size_bytes), count(*rows)]);
    }
    titled("inputs", &table)
}

fn render_attributes(attributes: &[AttributeSummary]) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("column", Align::Left),
        ("type", Align::Left),
        ("nulls", Align::Right),
        ("distinct", Align::Right),
        ("least", Align::Left),
        ("greatest", Align::Left),
    ]);
    for AttributeSummary { name, data_type, nulls, distinct, min, max } in attributes {
        let unknown = || "–".to_string();
        table.row([
            name.clone(),
            data_type.clone(),
            count(*nulls),
            distinct.map_or_else(unknown, count),
            min.clone().unwrap_or_else(unknown),
            max.clone().unwrap_or_else(unknown),
        ]);
    }
    titled("attributes", &table)
}

fn render_segment(segment: &SegmentRef) -> String {
    render_files(&segment.id.to_string(), &segment.files)
}

fn render_files(id: &str, files: &[FileRef]) -> String {
    let mut table = Table::new([("file", Align::Left), ("size", Align::Right), ("blake3", Align::Left)]);
    for file in files {
        let blake3 = file.blake3.to_string().chars().take(16).collect();
        table.row([file.name.clone(), bytes(file.size_bytes), blake3]);
    }
    titled(&format!("seg/{id}"), &table)
}

fn render_stages(stages: &[Stage]) -> String {
    let mut table = Table::new([("stage", Align::Left), ("time", Align::Right), ("CPU", Align::Right)]);
    let time = |ms: f64| Duration::try_from_secs_f64(ms * 1e-3).map_or_else(|_| "?".into(), duration);
    for stage in stages {
        table.row([stage.name.clone(), time(stage.wall_ms), time(stage.cpu_ms)]);
    }
    titled("stages", &table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Digest, ManifestDraft};
    use crate::vectors::Metric;

    fn manifest() -> Manifest {
        let mut build = ManifestDraft::new("hnsw", Metric::Cosine, 100, 9_997);
        build.annvil_version = "0.1.0".into();
        build.seed = 42;
        build.job = serde_json::json!({ "index": [
            { "name": "other", "kind": "ivf_pq", "nlist": 7 },
            { "name": "words", "kind": "hnsw", "metric": "cosine", "m": 16, "ef_construction": 200,
              "gate": { "k": 10, "min_recall": 0.95 },
              "expert": { "c_max": "auto", "fanout": [10, 3] } },
        ] });
        build.inputs =
            vec![Input { uri: "base.parquet".into(), size_bytes: 4 << 20, e_tag: None, rows: 10_000 }];
        build.row_counts.read = 10_000;
        build.row_counts.rejected.insert("null_vector".into(), 3);
        build.backend = Backend { backend: "cpu".into(), device: "avx512".into() };
        let (wall_ms, cpu_ms) = (120.0, 230.0);
        build.stages = vec![Stage {
            name: "read".into(),
            wall_ms,
            cpu_ms,
            bytes_read: 0,
            bytes_written: 0,
            resumed: false,
            device: None,
        }];
        build.attributes = vec![AttributeSummary {
            name: "word".into(),
            data_type: "Utf8".into(),
            nulls: 0,
            distinct: Some(9_997),
            min: Some("aback".into()),
            max: None,
        }];
        build.built = serde_json::json!({
            "params": { "m": 16, "alpha": 1.2f32, "c_max": 512 },
            "graph": { "level_rows": [9997, 600], "repaired_rows": 0 },
        });
        build.certificate = Some(curve::example());
        let file = |name: &str| FileRef { name: name.into(), size_bytes: 3 << 20, blake3: Digest::of(b"") };
        Manifest {
            format_version: "1.0".into(),
            index_name: "words".into(),
            version: 4,
            created_unix_ms: 1_795_159_900_000,
            publish_id: String::new(),
            rolled_back_from: Some(3),
            requires: Vec::new(),
            tombstones: None,
            change: None,
            restores: Some(2),
            segments: vec![SegmentRef::new(9_997, vec![file("graph.safetensors"), file("ids.arrow")])],
            build,
        }
    }

    #[test]
    fn a_manifest_is_shown_whole() {
        let text = render("out/words", &manifest(), true);
        for line in [
            "out/words version 4, the latest, restores version 2",
            "kind      hnsw, alpha 1.2, c_max 512, ef_construction 200, m 16",
            "details   level_rows [9997,600], repaired_rows 0",
            "rows      9,997 × 100, cosine",
            "size      6.0 MiB in 2 files",
            "built     2026-11-20 07:31:40 UTC by annvil 0.1.0",
            "backend   cpu (avx512)",
            "gate      recall@10 ≥ 0.95",
            "source    10,000 rows read, 0 filtered, 3 rejected, 0 held out",
            "          3 rejected: null_vector",
            "  base.parquet  4.0 MiB  10,000",
            "  word    Utf8      0     9,997  aback  –",
            "  graph.safetensors  3.0 MiB  af1349b9f5f9a1a6",
            "  read   120 ms  230 ms",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
        assert!(text.contains("ef_search  recall@10"), "{text}");
        let older = render("out/words", &manifest(), false);
        assert!(older.starts_with("out/words version 4, restores version 2\n"), "{older}");
    }

    #[test]
    fn a_manifest_that_says_little_is_shown_too() {
        let mut little = manifest();
        little.build = ManifestDraft::new("flat", Metric::L2, 2, 9_997);
        let text = render("out/words", &little, true);
        for line in ["kind      flat", "gate      none", "no certificate: its recall was not measured"] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
    }
}
