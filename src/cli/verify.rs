//! `annvil verify`: reads every byte of a published index again; or compares its rows with their source.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::table::{Align, Table, one_line};
use super::{answer, json_line};
use crate::artifact::{Manifest, StoredFolder};
use crate::change::{Compare, Consistency, Differing, compare};
use crate::error::Error;
use crate::job::Progress;
use crate::job::quantity::{bytes, count, duration};
use crate::store::{IndexStore, StoreError, Verified, VerifyReport};

/// Compare every byte of a published index with what was published, or its rows with their source.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil verify out/glove10k-hnsw
  annvil verify out/glove10k-hnsw --version 1 --json
  annvil verify out/glove10k-hnsw --repair-from s3://backup/glove10k-hnsw
  annvil verify out/glove10k-hnsw --against datasets/glove10k/base.parquet --sample 1000

Exits with code 4 if a byte is not what was published; `annvil rollback` returns to a version that is whole, and
--repair-from takes the damaged files from a copy (`annvil copy`), where their digests are right there.

With --against, ids are compared with a source's, and vectors and attributes as closely as they are kept: rows missing, orphaned,
duplicated, different, and rows that no index could hold. Exits with code 7 if there is one; `annvil sync` puts it right.")]
pub struct VerifyArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Version to verify [default: the latest]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// A copy of the index to restore damaged files from
    #[arg(long, value_name = "URI")]
    repair_from: Option<String>,
    /// Parquet files that the rows came from: paths, URIs or globs
    #[arg(long, value_name = "SOURCE", num_args = 1.., conflicts_with = "repair_from")]
    against: Vec<String>,
    /// Compare vectors and attributes of so many rows only, drawn by --seed
    #[arg(long, value_name = "N", requires = "against", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Draws the sample
    #[arg(long, value_name = "N", default_value_t = 42, requires = "sample")]
    seed: u64,
    /// The job file that says which columns [default: the job that the index was built by]
    #[arg(long, value_name = "JOB", requires = "against")]
    job: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Verification {
    uri: String,
    version: u64,
    /// Not known of an encrypted version without its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<Encryption>,
    /// The segments' files; the manifest, without which there is nothing to compare them with, was read before.
    files: Vec<VerifiedFile>,
    /// What was taken from the copy, under the index's folder; the manifest may be among it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repaired: Vec<String>,
    #[serde(skip)]
    elapsed: Duration,
}

/// Of an encrypted version.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Encryption {
    key_id: String,
    /// Whether the key was there, and opened every block.
    decrypted: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct VerifiedFile {
    /// Under the index's folder.
    path: String,
    size_bytes: u64,
    #[serde(flatten)]
    state: FileState,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
enum FileState {
    Whole,
    /// Not what was published.
    Damaged(String),
    /// The store failed: what the file is, is not known.
    Unread(String),
}

#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("`{uri}` version {version} is damaged: {damaged} of {files} files")]
    Damaged { uri: String, version: u64, damaged: usize, files: usize },
    #[error("`{uri}` version {version} could not be read: {unread} of {files} files")]
    Unread { uri: String, version: u64, unread: usize, files: usize },
    #[error("`{uri}` version {version} is not what its source says")]
    Inconsistent { uri: String, version: u64 },
}

/// # Errors
/// What reading the manifest says; `BadArtifact` if a file is damaged, `Store` if one could not be read. With a copy to
/// repair from, what cannot be repaired.
pub(super) fn run(args: &VerifyArgs, out: &mut dyn Write) -> Result<(), Error> {
    if !args.against.is_empty() {
        return against(args, out);
    }
    let start = Instant::now();
    let store = IndexStore::open(&args.index)?;
    let repaired = match &args.repair_from {
        Some(copy) => store.repair_from(&IndexStore::open(copy)?, args.version)?,
        None => Vec::new(),
    };
    // Once more after a repair: what is said of a file is what it is now.
    let Verified { stored, manifest, report } = store.verify(args.version, &mut |_| ())?;
    let found = Verification {
        uri: args.index.clone(),
        version: stored.version(),
        rows: manifest.as_ref().map(Manifest::live_rows),
        encryption: stored.sealed().map(|sealed| Encryption {
            key_id: sealed.encryption.key_id.clone(),
            decrypted: manifest.is_some(),
        }),
        files: verified_files(stored.folders(), &report),
        repaired,
        elapsed: start.elapsed(),
    };
    answer(out, &if args.json { json_line(&found)? } else { found.render() })?;
    found.judge()
}

/// Compares rows with their source.
fn against(args: &VerifyArgs, out: &mut dyn Write) -> Result<(), Error> {
    let asked = Compare {
        index: args.index.clone(),
        version: args.version,
        job: args.job.clone(),
        against: args.against.clone(),
        sample: args.sample.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)),
        seed: args.seed,
    };
    let found = compare(&asked, &Progress::silent())?;
    answer(out, &if args.json { json_line(&found)? } else { render_consistency(&found) })?;
    if found.is_clean() {
        return Ok(());
    }
    let (uri, version) = (args.index.clone(), found.version);
    Err(Error::Inconsistent(Box::new(VerifyError::Inconsistent { uri, version })))
}

fn render_consistency(found: &Consistency) -> String {
    let Consistency { index, version, rows, source_rows, filtered, held_out, compared, precision, .. } =
        found;
    let mut table = Table::new([("", Align::Left), ("rows", Align::Right), ("as", Align::Left)]);
    for (what, Differing { count: rows, some }) in [
        ("missing", &found.missing),
        ("orphaned", &found.orphaned),
        ("duplicated", &found.duplicated),
        ("other vector", &found.vectors),
        ("other attributes", &found.attributes),
    ] {
        let some: Vec<String> = some.iter().map(|id| one_line(&id.to_string())).collect();
        table.row([what.into(), count(*rows), some.join(", ")]);
    }
    for (reason, rows) in &found.refused {
        table.row([format!("in the source: {reason}"), count(*rows), String::new()]);
    }
    let vectors = match precision {
        Some(precision) => {
            format!("vectors, kept as {precision}, and attributes of {} rows", count(*compared))
        }
        None => format!("attributes of {} rows; vectors are not kept", count(*compared)),
    };
    table.render("")
        + &format!("compared: all ids; {vectors}\n")
        + &format!(
            "{}: {index} version {version}, {} rows; source {} rows, {} filtered, {} held out as queries\n",
            if found.is_clean() { "consistent" } else { "NOT consistent" },
            count(*rows),
            count(*source_rows),
            count(*filtered),
            count(*held_out)
        )
}

/// Each file with what the report says of it.
fn verified_files(folders: Vec<StoredFolder<'_>>, report: &VerifyReport) -> Vec<VerifiedFile> {
    let verified = |path: String, size_bytes| {
        let error = report.damage.iter().find(|error| concerns(error, &path));
        let state = match error {
            None => FileState::Whole,
            Some(
                error @ (StoreError::Damaged { .. }
                | StoreError::Malformed { .. }
                | StoreError::Missing { .. }),
            ) => FileState::Damaged(error.to_string()),
            Some(error) => FileState::Unread(error.to_string()),
        };
        VerifiedFile { path, size_bytes, state }
    };
    let files = |segment: StoredFolder<'_>| -> Vec<VerifiedFile> {
        let path = |name: &str| format!("seg/{}/{name}", segment.id);
        segment.files.iter().map(|file| verified(path(&file.name), file.size_bytes)).collect()
    };
    folders.into_iter().flat_map(files).collect()
}

fn concerns(error: &StoreError, path: &str) -> bool {
    match error {
        StoreError::Damaged { place, .. }
        | StoreError::Malformed { place, .. }
        | StoreError::Missing { place }
        | StoreError::Range { place, .. } => place.file == path,
        // The object's name is in it, with the 64 digits of its segment. An error that names no file concerns them all:
        // none is called whole that may not have been read.
        StoreError::Io { object, .. } => object.contains(path),
        _ => true,
    }
}

impl Verification {
    fn count(&self, wanted: impl Fn(&FileState) -> bool) -> usize {
        self.files.iter().filter(|file| wanted(&file.state)).count()
    }

    fn judge(&self) -> Result<(), Error> {
        let damaged = self.count(|state| matches!(state, FileState::Damaged(_)));
        let unread = self.count(|state| matches!(state, FileState::Unread(_)));
        let (uri, version, files) = (self.uri.clone(), self.version, self.files.len());
        match (damaged, unread) {
            (0, 0) => Ok(()),
            (0, _) => Err(Error::Store(Box::new(VerifyError::Unread { uri, version, unread, files }))),
            _ => Err(Error::BadArtifact(Box::new(VerifyError::Damaged { uri, version, damaged, files }))),
        }
    }

    fn render(&self) -> String {
        let mut table = Table::new([("file", Align::Left), ("size", Align::Right), ("", Align::Left)]);
        let mut reasons = String::new();
        for VerifiedFile { path, size_bytes, state } in &self.files {
            let name = path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name);
            let (state, why) = match state {
                FileState::Whole => ("whole", None),
                FileState::Damaged(why) => ("DAMAGED", Some(why)),
                FileState::Unread(why) => ("NOT READ", Some(why)),
            };
            table.row([name.into(), bytes(*size_bytes), state.into()]);
            // Never cut: what is wrong is why the command was run.
            reasons.extend(why.map(|why| format!("{state}  {}\n", one_line(why))));
        }
        let whole = self.count(|state| *state == FileState::Whole);
        let verdict = if whole == self.files.len() { "whole" } else { "NOT whole" };
        let size = self.files.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add);
        let repaired = self.repaired.iter().map(|file| format!("repaired  {file}\n")).collect::<String>();
        let rows = self.rows.map_or(String::new(), |rows| format!(", {} rows", count(rows)));
        let encryption = self.encryption.as_ref().map(|Encryption { key_id, decrypted }| match decrypted {
            true => format!("encrypted with the key `{key_id}`, which opens every block\n"),
            false => format!(
                "encrypted with the key `{key_id}`, which was not given: the bytes are those that were published; that they can \
                 be decrypted was not checked\n"
            ),
        });
        table.render("")
            + &reasons
            + &repaired
            + &encryption.unwrap_or_default()
            + &format!(
                "{verdict}: {} version {}{rows}, {whole} of {} files, {} in {}\n",
                self.uri,
                self.version,
                self.files.len(),
                bytes(size),
                duration(self.elapsed)
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Digest, FileRef, SegmentRef};
    use crate::store::Place;

    fn segment() -> SegmentRef {
        let file = |name: &str| FileRef { name: name.into(), size_bytes: 1 << 20, blake3: Digest::of(b"") };
        SegmentRef::new(9, vec![file("codes.safetensors"), file("ids.arrow")])
    }

    fn verification(damage: Vec<StoreError>) -> Verification {
        let (report, segment) = (VerifyReport { files: 2, bytes: 2 << 20, damage }, segment());
        Verification {
            uri: "out/words".into(),
            version: 2,
            rows: Some(10_000),
            encryption: None,
            files: verified_files(vec![StoredFolder { id: &segment.id, files: &segment.files }], &report),
            repaired: Vec::new(),
            elapsed: Duration::from_millis(12),
        }
    }

    fn damaged() -> StoreError {
        let place = Place {
            index: "words".into(),
            version: Some(2),
            file: format!("seg/{}/codes.safetensors", segment().id),
        };
        StoreError::Damaged { place, expected: "checksum 1 of block 3".into(), got: "2\u{7}".into() }
    }

    #[test]
    fn a_whole_index_is_said_to_be() {
        let found = verification(vec![]);
        found.judge().unwrap();
        let expected = "\
file                  size
codes.safetensors  1.0 MiB  whole
ids.arrow          1.0 MiB  whole
whole: out/words version 2, 10,000 rows, 2 of 2 files, 2.0 MiB in 12.0 ms
";
        assert_eq!(found.render(), expected);
    }

    #[test]
    fn what_was_repaired_is_told() {
        let mut found = verification(vec![]);
        assert!(!json_line(&found).unwrap().contains("repaired"));
        found.repaired = vec!["v/00000000000000000002.json".into()];
        let text = found.render();
        assert!(text.contains("\nrepaired  v/00000000000000000002.json\nwhole: "), "{text}");
    }

    #[test]
    fn what_was_checked_without_a_key_is_told() {
        let mut found = verification(vec![]);
        found.encryption = Some(Encryption { key_id: "kb".into(), decrypted: false });
        found.rows = None;
        let text = found.render();
        assert!(text.contains("\nencrypted with the key `kb`, which was not given: "), "{text}");
        assert!(text.contains("\nwhole: out/words version 2, 2 of 2 files"), "{text}");
        found.encryption = Some(Encryption { key_id: "kb".into(), decrypted: true });
        assert!(found.render().contains("which opens every block\n"));
    }

    #[test]
    fn damage_is_named_and_has_its_exit_code() {
        let found = verification(vec![damaged()]);
        let text = found.render();
        assert!(text.contains("codes.safetensors  1.0 MiB  DAMAGED\n"), "{text}");
        assert!(
            text.contains(&format!("DAMAGED  {}\n", damaged().to_string().replace('\u{7}', " "))),
            "{text}"
        );
        assert!(text.contains("NOT whole: out/words version 2, 10,000 rows, 1 of 2 files"), "{text}");
        let error = found.judge().unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert_eq!(error.to_string(), "`out/words` version 2 is damaged: 1 of 2 files");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["files"][0]["state"], "damaged");
        assert_eq!(json["files"][0]["why"], damaged().to_string());
        assert_eq!(json["files"][1]["state"], "whole");
    }

    #[test]
    fn a_store_that_fails_is_no_damage_and_nothing_that_it_held_is_called_whole() {
        let found = verification(vec![StoreError::Runtime("no threads".into())]);
        assert_eq!(found.judge().unwrap_err().exit_code(), 5);
        assert!(found.render().contains("0 of 2 files"), "{}", found.render());
        let both = verification(vec![damaged(), StoreError::Runtime("no threads".into())]);
        assert_eq!(both.judge().unwrap_err().exit_code(), 4);
    }
}
