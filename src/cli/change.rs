//! What the commands that change an index have in common.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::build::{progress, render_stages};
use super::interrupt::cancel_on_ctrl_c;
use super::overrides::backend;
use super::table::cell;
use super::{answer, curve};
use crate::change::{CERTIFY_QUERIES, ChangeOptions, ChangeSummary, Changed, PublishedChange};
use crate::error::Error;
use crate::job::quantity::{bytes, count};
use crate::job::{Backend, CancelToken, Progress};

#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    pub index: String,
    /// The job file that says which columns and parameters [default: the job that the index was built by]
    #[arg(long, value_name = "JOB")]
    job: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = backend())]
    backend: Backend,
    /// CPU threads; 0 is all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1024))]
    threads: u64,
    /// Most queries to measure the recall with before anything is published
    #[arg(long, value_name = "N", default_value_t = CERTIFY_QUERIES as u64, value_parser = clap::value_parser!(u64).range(1..))]
    certify_queries: u64,
    /// Change this version or nothing: exit code 9 where the latest is another
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    expect_version: Option<u64>,
    /// Print warnings and errors only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON event per line, the result as the last
    #[arg(long)]
    json: bool,
}

impl ChangeArgs {
    pub fn options(&self) -> ChangeOptions {
        ChangeOptions {
            index: self.index.clone(),
            job: self.job.clone(),
            backend: self.backend,
            threads: self.threads as usize,
            certify_queries: usize::try_from(self.certify_queries).unwrap_or(usize::MAX),
            expect_version: self.expect_version,
        }
    }

    /// Makes the change, and prints what came of it.
    pub fn run(
        &self,
        out: &mut dyn Write,
        change: impl FnOnce(&ChangeOptions, &Progress) -> Result<ChangeSummary, Error>,
    ) -> Result<(), Error> {
        let cancel = CancelToken::new();
        let progress = progress(self.json, self.quiet, cancel.clone());
        let outcome = cancel_on_ctrl_c(cancel).and_then(|()| change(&self.options(), &progress));
        let outcome = outcome.and_then(|summary| {
            if self.json {
                let result = serde_json::to_value(&summary);
                progress.finished(&result.map_err(|error| Error::Internal(Box::new(error)))?);
            } else if !self.quiet {
                answer(out, &render(&summary))?;
            }
            Ok(())
        });
        if let Err(error) = &outcome {
            progress.failed(error);
        }
        outcome
    }
}

fn render(summary: &ChangeSummary) -> String {
    let ChangeSummary { index, outcome, unknown, stages, peak_memory_bytes } = summary;
    let mut text = format!("\n{}", render_stages(stages));
    if let Some(peak) = peak_memory_bytes {
        text += &format!("peak memory {}\n", bytes(*peak));
    }
    text += "\n";
    if *unknown > 0 {
        text += &format!("{} ids are not in the index\n", count(*unknown));
    }
    match outcome {
        Changed::Unchanged { version } => {
            text + &format!("{index}: nothing to change, version {version} stays the latest\n")
        }
        Changed::Published(change) => text + &render_change(index, change),
    }
}

fn render_change(index: &str, change: &PublishedChange) -> String {
    let PublishedChange { operation, from, version, added, removed, rows, segments, tombstones, .. } = change;
    let mut text = format!(
        "{index}: {} of version {from} published as version {version}: {} rows added, {} removed\n",
        cell(operation),
        count(*added),
        count(*removed)
    );
    text += &format!(
        "{} rows in {segments} segment{} beside {} tombstones, {} written\n",
        count(*rows),
        if *segments == 1 { "" } else { "s" },
        count(*tombstones),
        bytes(change.bytes_written)
    );
    if let Some(drift) = change.drift {
        text += &format!("drift {drift:.3}\n");
    }
    let curve = change.certificate.as_ref();
    text + &curve
        .map_or(String::new(), |certificate| curve::render(certificate, change.effort_name.as_deref(), "  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_told() {
        let change = PublishedChange {
            operation: "replace".into(),
            from: 6,
            version: 7,
            added: 1_000,
            removed: 990,
            rows: 10_010,
            segments: 2,
            tombstones: 990,
            drift: Some(1.0625),
            bytes_written: 2 << 20,
            kind: "ivf_pq".into(),
            effort_name: Some("nprobe".into()),
            certificate: None,
        };
        let text = render_change("out/words", &change);
        let expected = "\
out/words: replace of version 6 published as version 7: 1,000 rows added, 990 removed
10,010 rows in 2 segments beside 990 tombstones, 2.0 MiB written
drift 1.062
";
        assert_eq!(text, expected);
    }

    #[test]
    fn where_nothing_changed_that_is_told_with_the_ids_that_are_not_there() {
        let summary = ChangeSummary {
            index: "out/words".into(),
            outcome: Changed::Unchanged { version: 3 },
            unknown: 2,
            stages: Vec::new(),
            peak_memory_bytes: None,
        };
        let text = render(&summary);
        assert!(
            text.ends_with(
                "2 ids are not in the index\nout/words: nothing to change, version 3 stays the latest\n"
            ),
            "{text}"
        );
        assert_eq!(serde_json::to_value(&summary).unwrap()["outcome"], "unchanged");
    }
}
