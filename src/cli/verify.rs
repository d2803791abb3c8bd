//! `annvil verify`: reads every byte of a published index again.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::table::one_line;
use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration};

/// Read every byte of a published index and compare it with what was published.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil verify out/glove10k-hnsw
  annvil verify out/glove10k-hnsw --version 1 --json

Exits with code 4 if a byte is not what was published; `annvil rollback` returns to a version that is whole.")]
pub struct VerifyArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Version to verify [default: the latest]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    pub uri: String,
    pub version: u64,
    pub rows: u64,
    pub files: Vec<VerifiedFile>,
    #[serde(skip)]
    pub elapsed: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifiedFile {
    /// Under the index's folder.
    pub path: String,
    pub size_bytes: u64,
    /// None if it is whole.
    pub damage: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("`{uri}` version {version} is damaged: {damaged} of {files} files")]
struct Damaged {
    uri: String,
    version: u64,
    damaged: usize,
    files: usize,
}

/// # Errors
/// What `verify` says, or `BadArtifact` if it found damage.
pub fn run(
    args: &VerifyArgs,
    out: &mut dyn Write,
    verify: impl FnOnce(&str, Option<u64>) -> Result<Verification, Error>,
) -> Result<(), Error> {
    let found = verify(&args.index, args.version)?;
    answer(out, &if args.json { json_line(&found)? } else { found.render() })?;
    let damaged = found.files.iter().filter(|file| file.damage.is_some()).count();
    if damaged == 0 {
        return Ok(());
    }
    let Verification { uri, version, files, .. } = found;
    Err(Error::BadArtifact(Box::new(Damaged { uri, version, damaged, files: files.len() })))
}

impl Verification {
    fn render(&self) -> String {
        let damaged: Vec<&VerifiedFile> = self.files.iter().filter(|file| file.damage.is_some()).collect();
        let mut text = String::new();
        for file in &damaged {
            // Never cut: what is wrong is why the command was run.
            let damage = one_line(file.damage.as_deref().unwrap_or_default());
            text += &format!("damaged  {}: {damage}\n", file.path);
        }
        let size: u64 = self.files.iter().map(|file| file.size_bytes).sum();
        let whole = if damaged.is_empty() { "whole" } else { "DAMAGED" };
        text + &format!(
            "{whole}: {} version {}, {} rows, {} files, {} read in {}\n",
            self.uri,
            self.version,
            count(self.rows),
            self.files.len(),
            bytes(size),
            duration(self.elapsed)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verification(damage: Option<&str>) -> Verification {
        let file = |path: &str, damage: Option<&str>| VerifiedFile {
            path: path.into(),
            size_bytes: 1 << 20,
            damage: damage.map(Into::into),
        };
        Verification {
            uri: "out/words".into(),
            version: 2,
            rows: 10_000,
            files: vec![file("v/2.json", None), file("seg/ab/codes.safetensors", damage)],
            elapsed: Duration::from_millis(12),
        }
    }

    fn ran(found: Verification, json: bool) -> (String, Result<(), Error>) {
        let args = VerifyArgs { index: "out/words".into(), version: None, json };
        let mut out = Vec::new();
        let outcome = run(&args, &mut out, |_, _| Ok(found));
        (String::from_utf8(out).unwrap(), outcome)
    }

    #[test]
    fn a_whole_index_is_said_to_be() {
        let (text, outcome) = ran(verification(None), false);
        outcome.unwrap();
        assert_eq!(text, "whole: out/words version 2, 10,000 rows, 2 files, 2.0 MiB read in 12.0 ms\n");
    }

    #[test]
    fn damage_is_named_and_has_its_exit_code() {
        let damage = "block 3 of 16 (bytes 196608..262144) has crc32c 0x12345678, expected 0x9abcdef0\u{7}";
        let (text, outcome) = ran(verification(Some(damage)), false);
        assert!(
            text.starts_with(&format!("damaged  seg/ab/codes.safetensors: {}", damage.replace('\u{7}', " ")))
        );
        assert!(text.contains("DAMAGED: out/words version 2"), "{text}");
        let error = outcome.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert_eq!(error.to_string(), "`out/words` version 2 is damaged: 1 of 2 files");
        let (json, outcome) = ran(verification(Some(damage)), true);
        outcome.unwrap_err();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["files"][1]["damage"], damage);
        assert_eq!(json["files"][0]["damage"], serde_json::Value::Null);
    }
}
