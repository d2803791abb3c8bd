//! `annvil rollback`: an older version becomes the latest again.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::{answer, json_line};
use crate::error::Error;

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
pub struct RolledBack {
    pub uri: String,
    /// The new version.
    pub version: u64,
    pub restores: u64,
    /// The latest until then.
    pub was: u64,
}

/// # Errors
/// What `roll_back` says.
pub fn run(
    args: &RollbackArgs,
    out: &mut dyn Write,
    roll_back: impl FnOnce(&str, u64) -> Result<RolledBack, Error>,
) -> Result<(), Error> {
    let done = roll_back(&args.index, args.to)?;
    let RolledBack { uri, version, restores, was } = &done;
    let text = format!("{uri}: version {version} restores version {restores}; the latest was {was}\n");
    answer(out, &if args.json { json_line(&done)? } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_says_what_it_did() {
        let done = RolledBack { uri: "out/words".into(), version: 5, restores: 3, was: 4 };
        for (json, text) in [
            (false, "out/words: version 5 restores version 3; the latest was 4\n"),
            (true, "{\"uri\":\"out/words\",\"version\":5,\"restores\":3,\"was\":4}\n"),
        ] {
            let args = RollbackArgs { index: "out/words".into(), to: 3, json };
            let mut out = Vec::new();
            run(&args, &mut out, |index, to| {
                assert_eq!((index, to), ("out/words", 3));
                Ok(done.clone())
            })
            .unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
