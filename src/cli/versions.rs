//! `annvil versions`: what has been published under a name.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::curve::RecallAt;
use super::table::{Align, Table};
use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::{bytes, count, utc};

/// List the versions of an index, the latest first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil versions out/glove10k-hnsw
  annvil versions out/glove10k-hnsw --json | jq '.versions[0].version'")]
pub struct VersionsArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedVersions {
    pub uri: String,
    /// In any order.
    pub versions: Vec<PublishedVersion>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedVersion {
    pub version: u64,
    pub created_unix_ms: u64,
    pub kind: String,
    pub rows: u64,
    pub size_bytes: u64,
    /// As `ef_search 64`; none for exact search.
    pub default_setting: Option<String>,
    /// At the default setting.
    pub recall: Option<RecallAt>,
    /// The version that a rollback restored.
    pub restores: Option<u64>,
    /// Why its manifest cannot be read; the rest is then 0 and empty.
    pub damage: Option<String>,
}

/// # Errors
/// What `list` says.
pub fn run(
    args: &VersionsArgs,
    out: &mut dyn Write,
    list: impl FnOnce(&str) -> Result<PublishedVersions, Error>,
) -> Result<(), Error> {
    let mut found = list(&args.index)?;
    found.versions.sort_by_key(|version| std::cmp::Reverse(version.version));
    answer(out, &if args.json { json_line(&found)? } else { found.render() })
}

impl PublishedVersions {
    fn render(&self) -> String {
        if self.versions.is_empty() {
            return format!("{} has no versions\n", self.uri);
        }
        let right = |name| (name, Align::Right);
        let left = |name| (name, Align::Left);
        let mut table = Table::new([
            right("version"),
            left("published"),
            left("kind"),
            right("rows"),
            right("size"),
            left("default"),
            left("recall"),
            left(""),
        ]);
        for (position, version) in self.versions.iter().enumerate() {
            let mut notes = Vec::new();
            notes.extend((position == 0).then(|| "latest".to_string()));
            notes.extend(version.restores.map(|restored| format!("restores {restored}")));
            let number = version.version.to_string();
            if version.damage.is_some() {
                notes.push("DAMAGED manifest".into());
                let [published, kind, rows, size, default, recall] = [const { String::new() }; 6];
                table.row([number, published, kind, rows, size, default, recall, notes.join(", ")]);
                continue;
            }
            table.row([
                number,
                utc(version.created_unix_ms),
                version.kind.clone(),
                count(version.rows),
                bytes(version.size_bytes),
                version.default_setting.clone().unwrap_or_else(|| "exact".into()),
                version.recall.map_or("–".into(), |recall| format!("@{} {recall}", recall.k)),
                notes.join(", "),
            ]);
        }
        table.render("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u64, restores: Option<u64>, damage: Option<&str>) -> PublishedVersion {
        PublishedVersion {
            version,
            created_unix_ms: 1_795_159_900_000,
            kind: "hnsw".into(),
            rows: 10_000,
            size_bytes: 12 << 20,
            default_setting: Some("ef_search 64".into()),
            recall: Some(RecallAt { k: 10, mean: 0.953, low: 0.95, high: 0.956 }),
            restores,
            damage: damage.map(Into::into),
        }
    }

    #[test]
    fn the_latest_stands_first() {
        let versions =
            vec![version(9, None, Some("cut short")), version(10, Some(8), None), version(8, None, None)];
        let found = PublishedVersions { uri: "out/words".into(), versions };
        let mut out = Vec::new();
        run(&VersionsArgs { index: "out/words".into(), json: false }, &mut out, |_| Ok(found)).unwrap();
        let expected = "\
version  published                kind    rows      size  default       recall
     10  2026-11-20 07:31:40 UTC  hnsw  10,000  12.0 MiB  ef_search 64  @10 0.953 ±0.003  latest, restores 8
      9                                                                                   DAMAGED manifest
      8  2026-11-20 07:31:40 UTC  hnsw  10,000  12.0 MiB  ef_search 64  @10 0.953 ±0.003
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_index_without_versions_is_said_to_have_none() {
        let found = PublishedVersions { uri: "out/words".into(), versions: vec![] };
        assert_eq!(found.render(), "out/words has no versions\n");
    }
}
