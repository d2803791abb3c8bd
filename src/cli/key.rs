//! `annvil key`: keys of encrypted indexes.

use std::io::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{answer, json_line};
use crate::artifact::encryption::Key;
use crate::error::Error;
use crate::store::{KeyReference, StoreError, give_keys};

/// Draw a key for encrypted indexes, or tell which one a reference leads to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  (umask 077; annvil key new > kb.key)
  annvil key show file:/run/secrets/kb.key
  annvil build kb.toml          with `[encryption] key = \"file:/run/secrets/kb.key\"` in the job
  annvil search out/kb --row 5 --key file:/run/secrets/kb.key

Whoever has lost a key has lost what it encrypts: nothing else opens it.")]
pub struct KeyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print a new key of 256 bits, in base64, drawn by the operating system
    New,
    /// Print a key's fingerprint, as manifests have it, and nothing of the key
    Show {
        /// env:NAME, file:/absolute/path, or command:what a shell is to run
        #[arg(value_name = "REF")]
        key: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    fingerprint: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{option}: no reference to a key; allowed: {}", KeyReference::ALLOWED)]
struct NoReference {
    option: &'static str,
}

/// What is refused may be a key, so it is not repeated; a parser of clap's would.
pub(super) fn reference(option: &'static str, text: &str) -> Result<KeyReference, Error> {
    text.parse().map_err(|_| Error::BadInput(Box::new(NoReference { option })))
}

/// `--key`, which concerns whatever the process opens.
pub(super) fn give(texts: &[String]) -> Result<(), Error> {
    let references = texts.iter().map(|text| reference("--key", text)).collect::<Result<Vec<_>, _>>()?;
    if !references.is_empty() {
        give_keys(references);
    }
    Ok(())
}

/// # Errors
/// That there is no such key.
pub(super) fn run(args: &KeyArgs, out: &mut dyn Write) -> Result<(), Error> {
    match &args.what {
        What::New => {
            let key = Key::random_text().map_err(|error| Error::BadInput(Box::new(error)))?;
            answer(out, &format!("{key}\n"))
        }
        What::Show { key, json } => {
            let key = reference("REF", key)?;
            let fingerprint = key.resolve().map_err(StoreError::NoKey)?.fingerprint().to_string();
            let shown = Shown { key: key.to_string(), fingerprint };
            answer(out, &if *json { json_line(&shown)? } else { format!("{}\n", shown.fingerprint) })
        }
    }
}
