//! `annvil rollback`: an older version becomes the latest again.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::{answer, json_line};
use crate::error::Error;
use crate::store::IndexStore;

/// Publish an older version's segments as a new version; nothing is deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil versions out/glove10k-hnsw
  annvil rollback out/glove10k-hnsw --to 3")]
pub struct RollbackArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Version to return to
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    to: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RolledBack {
    uri: String,
    /// The new version.
    version: u64,
    restores: u64,
    /// The latest until then.
    was: u64,
}

/// # Errors
/// A version that is not there or not whole, and what publishing says.
pub(super) fn run(args: &RollbackArgs, out: &mut dyn Write) -> Result<(), Error> {
    let store = IndexStore::open(&args.index)?;
    let version = store.rollback(args.to)?;
    // Another publisher may have been faster: what the new manifest says is what happened.
    let was = store.read_stored(version)?.head().rolled_back_from.unwrap_or(args.to);
    let done = RolledBack { uri: args.index.clone(), version, restores: args.to, was };
    answer(out, &if args.json { json_line(&done)? } else { done.render() })
}

impl RolledBack {
    fn render(&self) -> String {
        let RolledBack { uri, version, restores, was } = self;
        format!("{uri}: version {version} restores version {restores}; the latest was {was}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_says_what_it_did() {
        let done = RolledBack { uri: "out/words".into(), version: 5, restores: 3, was: 4 };
        assert_eq!(done.render(), "out/words: version 5 restores version 3; the latest was 4\n");
        let json = json_line(&done).unwrap();
        assert_eq!(json, "{\"uri\":\"out/words\",\"version\":5,\"restores\":3,\"was\":4}\n");
    }
}
