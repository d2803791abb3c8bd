//! `annvil build`: the main job.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::answer;
use super::curve::Curve;
use super::interrupt::cancel_on_ctrl_c;
use super::table::{Align, Table, cell};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration};
use crate::job::{
    Backend, Bars, CancelToken, Gate, JobSpec, JsonLines, Overrides, PlainLines, Progress, Silent,
};
use crate::vectors::Metric;

/// Build, measure and publish the indexes of a job file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil build pipelines/quickstart.toml
  annvil build job.toml --backend cpu --threads 8 --output /srv/indexes
  annvil build job.toml --json | jq -c 'select(.event == \"finished\").result.indexes[].name'

Progress goes to stderr: bars on a terminal, else a line per stage and every 10 seconds. The summary goes to stdout.
With --json every line of stdout is an event; the last is `finished` or `failed`.")]
pub struct BuildArgs {
    /// The job file (TOML; every key is explained in pipelines/README.md)
    #[arg(value_name = "JOB")]
    job: PathBuf,
    /// Where to compute, instead of the job's `backend`
    #[arg(
        long,
        value_name = "WHERE",
        value_parser = PossibleValuesParser::new(Backend::NAMES)
            .map(|name| Backend::from_name(&name).expect("one of the names")),
    )]
    backend: Option<Backend>,
    /// CPU threads, instead of the job's `threads`; 0 is all cores. The result does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<u64>,
    /// Seed of every random choice, instead of the job's `seed`
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder (from here) or URI to publish in, instead of the job's `output.uri`
    #[arg(long, value_name = "URI")]
    output: Option<String>,
    /// Print warnings and errors only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON event per line, the result as the last
    #[arg(long)]
    json: bool,
}

/// What a build made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildSummary {
    pub job: String,
    /// As `cpu (avx512)`.
    pub backend: String,
    pub threads: usize,
    pub metric: Metric,
    pub dim: usize,
    pub rows: RowCounts,
    pub queries: u64,
    /// In the order that they ran.
    pub stages: Vec<StageCost>,
    pub peak_memory_bytes: Option<u64>,
    pub indexes: Vec<BuiltIndex>,
}

/// `read = filtered + kept + held out + rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    pub read: u64,
    /// Left out by `where`.
    pub filtered: u64,
    pub kept: u64,
    /// Drawn as queries.
    pub held_out: u64,
    /// By reason.
    pub rejected: BTreeMap<String, u64>,
    /// The rejects file, where there is one.
    pub rejects_uri: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageCost {
    pub name: String,
    pub wall_ms: f64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuiltIndex {
    pub name: String,
    pub kind: String,
    pub curve: Curve,
    pub gate: Option<Gate>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Published {
        uri: String,
        version: u64,
        size_bytes: u64,
    },
    /// Recall@k of the gate, at the best setting measured.
    BelowGate {
        recall: f64,
    },
}

/// An index did not reach its gate.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
struct BelowGate(Vec<String>);

/// Reads the job, runs `pipeline` with it and prints what came out. `pipeline` answers with what it built, whether
/// published or below its gate.
///
/// # Errors
/// The job file's problems, the pipeline's error, or `BelowGate` if any index was not published.
pub fn run(
    args: &BuildArgs,
    out: &mut (dyn Write + Send),
    pipeline: impl FnOnce(JobSpec, &Progress) -> Result<BuildSummary, Error>,
) -> Result<(), Error> {
    let cancel = CancelToken::new();
    let progress = args.progress(cancel.clone());
    let built = args.job().and_then(|job| {
        cancel_on_ctrl_c(cancel)?;
        pipeline(job, &progress)
    });
    let outcome = built.and_then(|summary| {
        if args.json {
            let result = serde_json::to_value(&summary).map_err(|error| Error::Internal(Box::new(error)))?;
            progress.finished(&result);
        } else if !args.quiet {
            answer(out, &summary.render())?;
        }
        summary.judge()
    });
    if let Err(error) = &outcome {
        progress.failed(error);
    }
    outcome
}

impl BuildArgs {
    fn job(&self) -> Result<JobSpec, Error> {
        let output = self.output.clone();
        let overrides = Overrides { backend: self.backend, threads: self.threads, seed: self.seed, output };
        let job = JobSpec::from_path(&self.job).and_then(|job| job.override_with(&overrides));
        job.map_err(|error| Error::BadInput(Box::new(error)))
    }

    fn progress(&self, cancel: CancelToken) -> Progress {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if self.json {
            Progress::new(JsonLines::new(std::io::stdout()), cancel)
        } else if self.quiet {
            Progress::new(Silent { warn: true }, cancel)
        } else if std::io::stderr().is_terminal() && !is_dumb {
            Progress::new(Bars::on_stderr(), cancel)
        } else {
            Progress::new(PlainLines::new(std::io::stderr()), cancel)
        }
    }
}

impl BuildSummary {
    fn judge(&self) -> Result<(), Error> {
        let below: Vec<String> = self
            .indexes
            .iter()
            .filter_map(|index| match (&index.outcome, index.gate) {
                (Outcome::BelowGate { recall }, Some(Gate { k, min_recall })) => Some(format!(
                    "`{}` is not published: recall@{k} is {recall:.4} at its best setting, the gate asks for {min_recall}",
                    index.name
                )),
                _ => None,
            })
            .collect();
        if below.is_empty() { Ok(()) } else { Err(Error::BelowGate(Box::new(BelowGate(below)))) }
    }

    fn render(&self) -> String {
        let RowCounts { read, filtered, kept, held_out, rejected, rejects_uri } = &self.rows;
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        let mut text = format!(
            "\n{}: {} rows × {}, {}; {}, {threads}\n\n",
            self.job,
            count(*kept),
            self.dim,
            self.metric,
            cell(&self.backend)
        );
        let all_rejected: u64 = rejected.values().sum();
        text += &format!(
            "rows  {} read, {} filtered, {} rejected, {} held out, {} kept\n",
            count(*read),
            count(*filtered),
            count(all_rejected),
            count(*held_out),
            count(*kept)
        );
        for (reason, rows) in rejected {
            text += &format!("      {} rejected: {}\n", count(*rows), cell(reason));
        }
        if let Some(uri) = rejects_uri {
            text += &format!("      rejected rows are in {uri}\n");
        }
        text.push('\n');
        text += &self.render_stages();
        for index in &self.indexes {
            text += &index.render();
        }
        text
    }

    fn render_stages(&self) -> String {
        let columns = [
            ("stage", Align::Left),
            ("time", Align::Right),
            ("read", Align::Right),
            ("written", Align::Right),
        ];
        let mut table = Table::new(columns);
        let amount = |value: u64| if value == 0 { "–".into() } else { bytes(value) };
        let mut total_ms = 0.0;
        for StageCost { name, wall_ms, bytes_read, bytes_written } in &self.stages {
            total_ms += wall_ms;
            table.row([name.clone(), milliseconds(*wall_ms), amount(*bytes_read), amount(*bytes_written)]);
        }
        table.row(["all".into(), milliseconds(total_ms), String::new(), String::new()]);
        let mut text = table.render("");
        if let Some(peak) = self.peak_memory_bytes {
            text += &format!("peak memory {}\n", bytes(peak));
        }
        text
    }
}

impl BuiltIndex {
    fn render(&self) -> String {
        let outcome = match &self.outcome {
            Outcome::Published { uri, version, size_bytes } => {
                format!("published as {uri}, version {version}, {}", bytes(*size_bytes))
            }
            Outcome::BelowGate { .. } => "NOT published: below its gate".into(),
        };
        format!("\n{} ({}): {outcome}\n{}", self.name, self.kind, self.curve.render("  "))
    }
}

fn milliseconds(wall_ms: f64) -> String {
    std::time::Duration::try_from_secs_f64(wall_ms * 1e-3).map_or_else(|_| "?".into(), duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::curve;

    fn summary(outcome: Outcome) -> BuildSummary {
        let stage = |name: &str, wall_ms, bytes_read, bytes_written| StageCost {
            name: name.into(),
            wall_ms,
            bytes_read,
            bytes_written,
        };
        BuildSummary {
            job: "words".into(),
            backend: "cpu (avx512)".into(),
            threads: 2,
            metric: Metric::Cosine,
            dim: 100,
            rows: RowCounts {
                read: 10_000,
                filtered: 20,
                kept: 9_977,
                held_out: 0,
                rejected: BTreeMap::from([("null_vector".into(), 3)]),
                rejects_uri: Some("out/rejects.parquet".into()),
            },
            queries: 200,
            stages: vec![stage("read", 120.0, 4 << 20, 0), stage("train", 1_500.0, 0, 0)],
            peak_memory_bytes: Some(150 << 20),
            indexes: vec![BuiltIndex {
                name: "words-hnsw".into(),
                kind: "hnsw".into(),
                curve: curve::example(),
                gate: Some(Gate { k: 10, min_recall: 0.99 }),
                outcome,
            }],
        }
    }

    fn published() -> Outcome {
        Outcome::Published { uri: "out/words-hnsw".into(), version: 1, size_bytes: 12 << 20 }
    }

    fn args(extra: &[&str]) -> (tempfile::TempDir, BuildArgs) {
        use clap::{Args as _, FromArgMatches as _};
        let folder = tempfile::tempdir().unwrap();
        let job = folder.path().join("words.toml");
        let text = "[source]\nuri = \"a\"\nvector = \"v\"\n[queries]\nsample = 10\n[output]\nuri = \"out\"\n[[index]]\nkind \
                    = \"flat\"\nmetric = \"l2\"\n";
        std::fs::write(&job, text).unwrap();
        let command = BuildArgs::augment_args(clap::Command::new("build"));
        let words = ["build", job.to_str().unwrap()].into_iter().chain(extra.iter().copied());
        let args = BuildArgs::from_arg_matches(&command.get_matches_from(words)).unwrap();
        (folder, args)
    }

    #[test]
    fn a_summary_says_what_was_read_made_and_published() {
        let text = summary(published()).render();
        for line in [
            "words: 9,977 rows × 100, cosine; cpu (avx512), 2 threads",
            "rows  10,000 read, 20 filtered, 3 rejected, 0 held out, 9,977 kept",
            "      3 rejected: null_vector",
            "read   120 ms  4.0 MiB        –",
            "all    1.62 s",
            "peak memory 150 MiB",
            "words-hnsw (hnsw): published as out/words-hnsw, version 1, 12.0 MiB",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
        assert!(text.contains("*         64  0.950 ±0.010"), "{text}");
    }

    #[test]
    fn flags_reach_the_pipeline() {
        let (_folder, args) =
            args(&["--backend", "reference", "--threads", "3", "--seed", "5", "--output", "x", "-q"]);
        let job = args.job().unwrap();
        assert_eq!((job.backend, job.threads, job.seed), (Backend::Reference, 3, 5));
        assert_eq!(job.output.uri.resolved(), "x");
    }

    /// One test for both, since a process has one Ctrl-C handler.
    #[test]
    fn a_build_below_its_gate_is_shown_and_fails() {
        let (_folder, args) = args(&[]);
        let mut out = Vec::new();
        let error =
            run(&args, &mut out, |_, _| Ok(summary(Outcome::BelowGate { recall: 0.9509 }))).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let message =
            "`words-hnsw` is not published: recall@10 is 0.9509 at its best setting, the gate asks for 0.99";
        assert_eq!(error.to_string(), message);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("words-hnsw (hnsw): NOT published: below its gate"), "{text}");
        assert!(text.contains("0.912"), "{text}");
        summary(published()).judge().unwrap();
    }

    #[test]
    fn a_bad_job_never_reaches_the_pipeline() {
        let (folder, args) = args(&["--quiet"]);
        std::fs::write(folder.path().join("words.toml"), "seed = -1").unwrap();
        let error = run(&args, &mut Vec::new(), |_, _| panic!("called")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
