//! `annvil copy`: a version, somewhere else as well.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::bytes;
use crate::store::{Copied, IndexStore, StoreError, StoreOptions};

/// Copy a version to another place, checked on both sides.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil copy out/glove10k-hnsw s3://backup/glove10k-hnsw
  annvil copy s3://prod/words /mnt/backup/words --all

The copy has the version's number. Files that are there already, whole, are not written again. `annvil verify
--repair-from` restores a damaged index from a copy.")]
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
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CopiedVersion {
    version: u64,
    files: u64,
    size_bytes: u64,
    /// What was not there yet.
    bytes_written: u64,
}

/// # Errors
/// Damage on either side, another version of the number there, and what the stores say.
pub(super) fn run(args: &CopyArgs, out: &mut dyn Write) -> Result<(), Error> {
    let source = IndexStore::open(&args.source)?;
    let options = StoreOptions { single_writer: args.single_writer, ..Default::default() };
    let destination = IndexStore::open_with(&args.destination, &options)?;
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
        let Copied { version, files, bytes_written, bytes } =
            source.copy_to(&destination, version, &mut |_| ())?;
        versions.push(CopiedVersion { version, files, size_bytes: bytes, bytes_written });
    }
    let copy = Copy { source: args.source.clone(), destination: args.destination.clone(), versions };
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
        self.versions.iter().map(line).collect::<String>()
            + &format!("{} is at {}, whole\n", self.source, self.destination)
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
        };
        let expected = "\
version 1: 5 files, 4.0 KiB
version 2: 5 files, 4.0 KiB, 1.0 KiB of them written
out/words is at s3://b/words, whole
";
        assert_eq!(copy.render(), expected);
    }
}
