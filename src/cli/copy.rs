//! `annvil copy`: a version, somewhere else as well.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::{answer, json_line, key};
use crate::error::Error;
use crate::job::quantity::bytes;
use crate::store::{Copied, IndexStore, Sealing, StoreError, StoreOptions};

/// Copy a version to another place, checked on both sides.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil copy out/glove10k-hnsw s3://backup/glove10k-hnsw
  annvil copy s3://prod/words /mnt/backup/words --all

  annvil copy prod/kb rotated/kb --all --key env:OLD_KEY --rekey file:/run/secrets/kb.key --key-id kb-2027

The copy has the version's number. Files that are there already, whole, are not written again, but for the smallest of a segment
that is old, which keeps `annvil gc` away from it. `annvil verify --repair-from` restores a damaged index from a copy.

An encrypted index is copied as it is, and no key is needed, unless the copy has another name. With --rekey all of the copy is
encrypted anew with another key, of which the old one opens nothing; an index that is not encrypted is encrypted so.")]
pub struct CopyArgs {
    /// The index's folder or URI
    #[arg(value_name = "SRC")]
    source: String,
    /// The copy's
    #[arg(value_name = "DST")]
    destination: String,
    /// Version to copy [default: the latest]
    #[arg(long, value_name = "V", conflicts_with = "all", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Copy every version
    #[arg(long)]
    all: bool,
    /// Encrypt the copy with this key: a reference, as of --key
    #[arg(long, value_name = "REF")]
    rekey: Option<String>,
    /// What the copy's manifest calls that key [default: its fingerprint]
    #[arg(long, value_name = "NAME", requires = "rekey")]
    key_id: Option<String>,
    /// Copy even to a store whose put-if-absent overwrites: nobody else writes there
    #[arg(long)]
    single_writer: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Copy {
    source: String,
    destination: String,
    versions: Vec<CopiedVersion>,
    /// Of the key that the copy was encrypted with.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CopiedVersion {
    version: u64,
    files: u64,
    size_bytes: u64,
    /// What was not there yet, or was written again.
    bytes_written: u64,
}

/// # Errors
/// Damage on either side, another version of the number there, and what the stores say.
pub(super) fn run(args: &CopyArgs, out: &mut dyn Write) -> Result<(), Error> {
    let source = IndexStore::open(&args.source)?;
    let options = StoreOptions { single_writer: args.single_writer, ..Default::default() };
    let destination = IndexStore::open_with(&args.destination, &options)?;
    let sealing = match &args.rekey {
        Some(key) => Some(Sealing::resolve(&key::reference("--rekey", key)?, args.key_id.as_deref())?),
        None => None,
    };
    destination.probe()?;
    let wanted = match args.all {
        true => source.versions()?.into_iter().map(Some).collect(),
        false => vec![args.version],
    };
    if wanted.is_empty() {
        return Err(StoreError::NotFound { what: format!("a published version of `{}`", args.source) }.into());
    }
    let mut versions = Vec::new();
    for version in wanted {
        let copied = match &sealing {
            Some(sealing) => source.copy_rekeyed(&destination, version, sealing, &mut |_| ())?,
            None => source.copy_to(&destination, version, &mut |_| ())?,
        };
        let Copied { version, files, bytes_written, bytes } = copied;
        versions.push(CopiedVersion { version, files, size_bytes: bytes, bytes_written });
    }
    let key_id = sealing.map(|sealing| sealing.key_id);
    let copy = Copy { source: args.source.clone(), destination: args.destination.clone(), versions, key_id };
    answer(out, &if args.json { json_line(&copy)? } else { copy.render() })
}

impl Copy {
    fn render(&self) -> String {
        let line = |copied: &CopiedVersion| {
            let CopiedVersion { version, files, size_bytes, bytes_written } = copied;
            let written = if bytes_written == size_bytes {
                String::new()
            } else {
                format!(", {} of them written", bytes(*bytes_written))
            };
            format!("version {version}: {files} files, {}{written}\n", bytes(*size_bytes))
        };
        let key = self.key_id.as_ref().map_or(String::new(), |id| format!(", encrypted with the key `{id}`"));
        self.versions.iter().map(line).collect::<String>()
            + &format!("{} is at {}, whole{key}\n", self.source, self.destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_what_is_where() {
        let version =
            |version, bytes_written| CopiedVersion { version, files: 5, size_bytes: 4096, bytes_written };
        let copy = Copy {
            source: "out/words".into(),
            destination: "s3://b/words".into(),
            versions: vec![version(1, 4096), version(2, 1024)],
            key_id: None,
        };
        let expected = "\
version 1: 5 files, 4.0 KiB
version 2: 5 files, 4.0 KiB, 1.0 KiB of them written
out/words is at s3://b/words, whole
";
        assert_eq!(copy.render(), expected);
        let rekeyed = Copy { key_id: Some("kb-2027".into()), ..copy };
        assert!(rekeyed.render().ends_with("words, whole, encrypted with the key `kb-2027`\n"));
    }
}
