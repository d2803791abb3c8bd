//! `annvil versions`: what has been published under a name.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::table::{Align, Table, cell, one_line};
use super::{answer, curve, json_line};
use crate::artifact::{Manifest, Recall, StoredManifest};
use crate::error::Error;
use crate::job::quantity::{bytes, count, utc};
use crate::loader::effort_name;
use crate::store::{IndexStore, StoreError};

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
struct PublishedVersions {
    uri: String,
    /// The latest first.
    versions: Vec<PublishedVersion>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct PublishedVersion {
    version: u64,
    #[serde(flatten)]
    manifest: Readable,
}

/// What a version's manifest says, in short; or why it cannot be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Readable {
    Yes(Box<Brief>),
    /// Encrypted, and no key was given.
    Sealed(Sealed),
    No {
        damage: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Sealed {
    created_unix_ms: u64,
    size_bytes: u64,
    /// Of the key that opens it.
    key_id: String,
    restores: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Brief {
    created_unix_ms: u64,
    kind: String,
    rows: u64,
    size_bytes: u64,
    /// As `ef_search 64`; none for exact search.
    default_setting: Option<String>,
    /// At the default setting.
    recall: Option<Recall>,
    /// The version that a rollback restored.
    restores: Option<u64>,
    /// What was done to the version before, as `append`, where this one was made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<String>,
}

/// # Errors
/// An index that has none, and a store that fails.
pub(super) fn run(args: &VersionsArgs, out: &mut dyn Write) -> Result<(), Error> {
    let store = IndexStore::open(&args.index)?;
    let mut numbers = store.versions()?;
    if numbers.is_empty() {
        return Err(StoreError::NotFound { what: format!("a published version of `{}`", args.index) }.into());
    }
    numbers.reverse();
    let versions = numbers.into_iter().map(|version| published(&store, version)).collect::<Result<_, _>>()?;
    let found = PublishedVersions { uri: args.index.clone(), versions };
    answer(out, &if args.json { json_line(&found)? } else { found.render() })
}

fn published(store: &IndexStore, version: u64) -> Result<PublishedVersion, Error> {
    let manifest = match store.inspect(Some(version)).map_err(Error::from) {
        Ok((_, Some(manifest))) => Readable::Yes(Box::new(Brief::of(&manifest))),
        Ok((stored, None)) => Readable::Sealed(Sealed::of(&stored)),
        // One damaged version is no reason not to list the others.
        Err(error @ Error::BadArtifact(_)) => Readable::No { damage: error.to_string() },
        Err(error) => return Err(error),
    };
    Ok(PublishedVersion { version, manifest })
}

impl Sealed {
    fn of(stored: &StoredManifest) -> Self {
        let (head, folders) = (stored.head(), stored.folders());
        let sizes = folders.iter().flat_map(|folder| folder.files).map(|file| file.size_bytes);
        Self {
            created_unix_ms: head.created_unix_ms,
            size_bytes: sizes.fold(0, u64::saturating_add),
            key_id: stored.sealed().map_or(String::new(), |sealed| sealed.encryption.key_id.clone()),
            restores: head.restores,
        }
    }
}

impl Brief {
    fn of(manifest: &Manifest) -> Self {
        let build = &manifest.build;
        let sizes = manifest.folders().flat_map(|segment| &segment.files).map(|file| file.size_bytes);
        let effort = effort_name(&build.kind).zip(build.search_defaults);
        let measured = |certificate| curve::default_point(certificate).zip(Some(certificate.target_k));
        let point = build.certificate.as_ref().and_then(measured);
        let recall = point.and_then(|(point, k)| point.recall.iter().find(|recall| recall.k == k).copied());
        Self {
            created_unix_ms: manifest.created_unix_ms,
            kind: build.kind.clone(),
            rows: manifest.live_rows(),
            size_bytes: sizes.fold(0, u64::saturating_add),
            default_setting: effort.map(|(name, defaults)| format!("{name} {}", defaults.effort)),
            recall,
            restores: manifest.restores,
            change: manifest.change.as_ref().map(|change| change.operation.clone()),
        }
    }
}

impl PublishedVersions {
    fn render(&self) -> String {
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
        let mut damaged = String::new();
        for (position, PublishedVersion { version, manifest }) in self.versions.iter().enumerate() {
            let mut notes = Vec::new();
            notes.extend((position == 0).then(|| "latest".to_string()));
            let brief = match manifest {
                Readable::Yes(brief) => brief,
                Readable::Sealed(Sealed { created_unix_ms, size_bytes, key_id, restores }) => {
                    notes.push(cell(&format!("encrypted with `{key_id}`")));
                    notes.extend(restores.map(|restored| format!("restores {restored}")));
                    let [kind, rows, default, recall] = ["?"; 4].map(String::from);
                    let (published, size) = (utc(*created_unix_ms), bytes(*size_bytes));
                    let notes = notes.join(", ");
                    table.row([version.to_string(), published, kind, rows, size, default, recall, notes]);
                    continue;
                }
                Readable::No { damage } => {
                    notes.push("DAMAGED manifest".into());
                    damaged += &format!("damaged: {}\n", one_line(damage));
                    let blank = [const { String::new() }; 6];
                    table.row([version.to_string()].into_iter().chain(blank).chain([notes.join(", ")]));
                    continue;
                }
            };
            notes.extend(brief.restores.map(|restored| format!("restores {restored}")));
            notes.extend(brief.change.clone());
            table.row([
                version.to_string(),
                utc(brief.created_unix_ms),
                brief.kind.clone(),
                count(brief.rows),
                bytes(brief.size_bytes),
                brief.default_setting.clone().unwrap_or_else(|| "exact".into()),
                brief
                    .recall
                    .map_or("–".into(), |recall| format!("@{} {}", recall.k, curve::recall(&recall))),
                notes.join(", "),
            ]);
        }
        table.render("") + &damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u64, restores: Option<u64>) -> PublishedVersion {
        let brief = Brief {
            created_unix_ms: 1_795_159_900_000,
            kind: "hnsw".into(),
            rows: 10_000,
            size_bytes: 12 << 20,
            default_setting: Some("ef_search 64".into()),
            recall: Some(Recall { k: 10, mean: 0.953, low: 0.95, high: 0.956 }),
            restores,
            change: (version == 10).then(|| "append".into()),
        };
        PublishedVersion { version, manifest: Readable::Yes(Box::new(brief)) }
    }

    #[test]
    fn versions_are_a_table_and_a_damaged_one_says_why() {
        let damaged = PublishedVersion { version: 9, manifest: Readable::No { damage: "cut\nshort".into() } };
        let versions = vec![version(10, Some(8)), damaged, version(8, None)];
        let found = PublishedVersions { uri: "out/words".into(), versions };
        let expected = "\
version  published                kind    rows      size  default       recall
     10  2026-11-20 07:31:40 UTC  hnsw  10,000  12.0 MiB  ef_search 64  @10 0.953 ±0.003  latest, restores 8, append
      9                                                                                   DAMAGED manifest
      8  2026-11-20 07:31:40 UTC  hnsw  10,000  12.0 MiB  ef_search 64  @10 0.953 ±0.003
damaged: cut short
";
        assert_eq!(found.render(), expected);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(
            (&json["versions"][0]["restores"], &json["versions"][0]["rows"]),
            (&8.into(), &10_000.into())
        );
        assert_eq!(json["versions"][1], serde_json::json!({ "version": 9, "damage": "cut\nshort" }));
    }
}
