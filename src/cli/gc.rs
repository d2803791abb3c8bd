//! `annvil gc`: old versions and what killed builds left behind make room.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::{bytes, count};
use crate::store::{GcPolicy, GcReport, IndexStore};

/// Remove versions beyond the latest N, and segments that no version names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil gc out/glove10k-hnsw --keep 3 --older-than 7d --dry-run
  annvil gc s3://bucket/words --keep 2 --older-than 36h

What is younger than --older-than stays, whatever --keep says: a version that someone may still be reading, a segment that a
build under way may be about to name. Make it longer than your longest build.")]
pub struct GcArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Versions to keep, the latest ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
    /// Age below which nothing is removed: a number and s, min, h or d
    #[arg(long, value_name = "DURATION", value_parser = age)]
    older_than: Duration,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `90s`, `30min`, `36h`, `7d`.
fn age(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "s" => 1,
        "min" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("expected a number and `s`, `min`, `h` or `d`, as in `36h`".into()),
    };
    let seconds = text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "not a number of seconds that there is".into())
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Collected {
    uri: String,
    dry_run: bool,
    kept_versions: Vec<u64>,
    removed_versions: Vec<u64>,
    removed_segments: Vec<Segment>,
    /// No version names them, and they are too young to be removed.
    young_segments: Vec<String>,
    removed_leftovers: u64,
    removed_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Segment {
    id: String,
    files: u64,
    size_bytes: u64,
}

/// # Errors
/// A kept version that cannot be read, and what the store says.
pub(super) fn run(args: &GcArgs, out: &mut dyn Write) -> Result<(), Error> {
    let policy = GcPolicy {
        keep: usize::try_from(args.keep).unwrap_or(usize::MAX),
        older_than: args.older_than,
        dry_run: args.dry_run,
    };
    let report = IndexStore::open(&args.index)?.collect_garbage(&policy)?;
    let collected = Collected::of(&args.index, args.dry_run, report);
    answer(out, &if args.json { json_line(&collected)? } else { collected.render() })
}

impl Collected {
    fn of(uri: &str, dry_run: bool, report: GcReport) -> Self {
        let segments = report.removed_segments.iter().map(|segment| Segment {
            id: segment.id.to_string(),
            files: segment.files,
            size_bytes: segment.size_bytes,
        });
        Self {
            uri: uri.into(),
            dry_run,
            kept_versions: report.kept_versions,
            removed_versions: report.removed_versions,
            removed_segments: segments.collect(),
            young_segments: report.young_segments.iter().map(ToString::to_string).collect(),
            removed_leftovers: report.removed_leftovers,
            removed_bytes: report.removed_bytes,
        }
    }

    fn render(&self) -> String {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        let numbers = |versions: &[u64]| {
            let numbers: Vec<String> = versions.iter().map(u64::to_string).collect();
            if numbers.is_empty() { "none".into() } else { numbers.join(", ") }
        };
        let mut text = String::new();
        for Segment { id, files, size_bytes } in &self.removed_segments {
            text += &format!("{removed} segment {id}: {files} files, {}\n", bytes(*size_bytes));
        }
        if self.removed_leftovers > 0 {
            text += &format!("{removed} {} files that were never finished\n", count(self.removed_leftovers));
        }
        for id in &self.young_segments {
            text += &format!("left segment {id}: no version names it, and it is young\n");
        }
        text + &format!("{removed} versions: {}\n", numbers(&self.removed_versions))
            + &format!("kept versions: {}\n", numbers(&self.kept_versions))
            + &format!("{}: {removed} {}\n", self.uri, bytes(self.removed_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Digest;
    use crate::store::RemovedSegment;

    #[test]
    fn ages_are_numbers_with_a_unit() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("30min", 1800), ("36h", 129_600), ("7d", 604_800)] {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "7", "d", "-1d", "1.5h", "7 d", "7days", "99999999999999999999d", "184467440737095516d"]
        {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_removed_and_what_was_left_is_said() {
        let id = Digest::of(b"segment");
        let report = GcReport {
            kept_versions: vec![5, 4],
            removed_versions: vec![1, 2],
            removed_segments: vec![RemovedSegment { id, files: 3, size_bytes: 2048 }],
            young_segments: vec![id],
            removed_leftovers: 1,
            removed_bytes: 4096,
        };
        let collected = Collected::of("out/words", true, report);
        let expected = format!(
            "\
would remove segment {id}: 3 files, 2.0 KiB
would remove 1 files that were never finished
left segment {id}: no version names it, and it is young
would remove versions: 1, 2
kept versions: 5, 4
out/words: would remove 4.0 KiB
"
        );
        assert_eq!(collected.render(), expected);
        let nothing = Collected::of("out/words", false, GcReport::default());
        assert!(nothing.render().contains("removed versions: none\n"));
    }
}
