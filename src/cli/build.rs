//! `annvil build`: the main job.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

use super::interrupt::cancel_on_ctrl_c;
use super::overrides::{ComputeArgs, ResultArgs};
use super::table::{Align, Table, cell};
use super::{answer, curve};
use crate::artifact::{Gate, KernelCost};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration};
use crate::job::{
    self, Bars, BuildSummary, BuiltIndex, CancelToken, JobSpec, JsonLines, Outcome, Overrides, PlainLines,
    Progress, Renderer, RowCounts, Silent, StageCost, Trace, Traced,
};
use crate::source::Shard;

/// Build, measure and publish the indexes of a job file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil build pipelines/quickstart.toml
  annvil build job.toml --backend cpu --threads 8 --output /srv/indexes
  annvil build job.toml --trace build.trace.json
  annvil build job.toml --json | jq -c 'select(.event == \"finished\").result.indexes[].name'

A job that was killed is gone on with: run it again, and what its stages had made is taken from scratch.

Progress goes to stderr: bars on a terminal, else a line per stage and every 10 seconds. The summary goes to stdout.
With --json every line of stdout is an event; the last is `finished` or `failed`, or, below a gate, one and the other.")]
pub struct BuildArgs {
    /// The job file (TOML; every key is explained in pipelines/README.md)
    #[arg(value_name = "JOB")]
    job: PathBuf,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    result: ResultArgs,
    /// Folder for what a killed run is gone on with, instead of the job's `scratch`
    #[arg(long, value_name = "DIR")]
    scratch: Option<String>,
    /// Only rows of shard I of N, by a hash of their ids; the indexes' names end in -I-of-N
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Begin anew, and leave nothing to go on with
    #[arg(long)]
    no_resume: bool,
    /// Write when each stage ran, and each kernel of a GPU, as a Chrome trace (chrome://tracing, ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print warnings and errors only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON event per line, the result as the last
    #[arg(long)]
    json: bool,
}

/// An index did not reach its gate.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
struct BelowGate(Vec<String>);

/// Runs the job and prints what came out.
///
/// # Errors
/// The job file's problems, the job's own error, or `BelowGate` if an index was not published.
pub(super) fn run(args: &BuildArgs, out: &mut dyn Write) -> Result<(), Error> {
    let cancel = CancelToken::new();
    let trace = args.trace.as_ref().map(|path| Trace::create(path)).transpose()?;
    let progress = args.progress(cancel.clone(), trace.clone());
    let outcome = args.job().and_then(|job| {
        cancel_on_ctrl_c(cancel)?;
        args.tell(&job::run(&job, &progress)?, &progress, out)
    });
    // Of a build that fails, too: then it is wanted most.
    let traced = trace.map_or(Ok(()), Trace::finish);
    if let Err(error) = &outcome {
        progress.failed(error);
    }
    outcome.and(traced)
}

impl BuildArgs {
    fn job(&self) -> Result<JobSpec, Error> {
        let overrides = Overrides {
            seed: self.result.seed,
            output: self.result.output.clone(),
            scratch: self.scratch.clone(),
            shard: self.shard,
            no_resume: self.no_resume,
            ..self.compute.overrides()
        };
        Ok(JobSpec::from_path(&self.job)?.override_with(&overrides)?)
    }

    /// Shows what was built, published or not, and says whether all of it was.
    fn tell(&self, summary: &BuildSummary, progress: &Progress, out: &mut dyn Write) -> Result<(), Error> {
        if self.json {
            let result = serde_json::to_value(summary).map_err(|error| Error::Internal(Box::new(error)))?;
            progress.finished(&result);
        } else if !self.quiet {
            answer(out, &render(summary))?;
        }
        judge(summary)
    }

    fn progress(&self, cancel: CancelToken, trace: Option<Trace>) -> Progress {
        match trace {
            Some(trace) => Progress::new(Traced { trace, shown: renderer(self.json, self.quiet) }, cancel),
            None => progress(self.json, self.quiet, cancel),
        }
    }
}

/// Events as JSON, only warnings, bars on a terminal, or lines.
pub(super) fn progress(json: bool, quiet: bool, cancel: CancelToken) -> Progress {
    Progress::new(renderer(json, quiet), cancel)
}

fn renderer(json: bool, quiet: bool) -> Box<dyn Renderer> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if json {
        Box::new(JsonLines::new(std::io::stdout()))
    } else if quiet {
        Box::new(Silent { warn: true })
    } else if std::io::stderr().is_terminal() && !is_dumb {
        Box::new(Bars::on_stderr())
    } else {
        Box::new(PlainLines::new(std::io::stderr()))
    }
}

pub(super) fn judge(summary: &BuildSummary) -> Result<(), Error> {
    let missed = |index: &BuiltIndex| match (&index.outcome, index.certificate.gate) {
        (Outcome::BelowGate { recall }, Some(Gate { k, min_recall })) => Some(format!(
            "`{}` is not published: recall@{k} is {recall:.4} at its default setting, the gate asks for {min_recall}",
            index.name
        )),
        (Outcome::BelowGate { .. }, None) => Some(format!("`{}` is not published", index.name)),
        (Outcome::Published { .. } | Outcome::Withheld, _) => None,
    };
    let below: Vec<String> = summary.indexes.iter().filter_map(missed).collect();
    if below.is_empty() { Ok(()) } else { Err(Error::BelowGate(Box::new(BelowGate(below)))) }
}

pub(super) fn render(summary: &BuildSummary) -> String {
    let RowCounts { read, filtered, kept, held_out, rejected, rejects_uri } = &summary.rows;
    let threads =
        if summary.threads == 1 { "1 thread".into() } else { format!("{} threads", summary.threads) };
    let mut text = format!(
        "\n{}: {} rows × {}, {}; {}, {threads}\n\n",
        summary.job,
        count(*kept),
        summary.dim,
        summary.metric,
        cell(&summary.backend)
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
    text += &render_stages(&summary.stages);
    text += &render_kernels(&summary.stages);
    if let Some(peak) = summary.peak_memory_bytes {
        text += &format!("peak memory {}\n", bytes(peak));
    }
    summary.indexes.iter().fold(text, |text, index| text + &render_index(index))
}

pub(super) fn render_stages(stages: &[StageCost]) -> String {
    let columns = [
        ("stage", Align::Left),
        ("time", Align::Right),
        ("CPU", Align::Right),
        ("read", Align::Right),
        ("written", Align::Right),
    ];
    let mut table = Table::new(columns);
    let amount = |value: u64| if value == 0 { "–".into() } else { bytes(value) };
    let (mut all_wall_ms, mut all_cpu_ms) = (0.0, 0.0);
    for StageCost { name, wall_ms, cpu_ms, bytes_read, bytes_written, resumed, .. } in stages {
        if !resumed {
            all_wall_ms += wall_ms;
            all_cpu_ms += cpu_ms;
        }
        let costs =
            [milliseconds(*wall_ms), milliseconds(*cpu_ms), amount(*bytes_read), amount(*bytes_written)];
        let name = if *resumed { format!("{name} (by an earlier run)") } else { name.clone() };
        table.row([name].into_iter().chain(costs));
    }
    let all = [milliseconds(all_wall_ms), milliseconds(all_cpu_ms), String::new(), String::new()];
    table.row(["all".into()].into_iter().chain(all));
    table.render("")
}

/// What a device did; nothing where none had anything to do.
fn render_kernels(stages: &[StageCost]) -> String {
    let right = |name| (name, Align::Right);
    let mut table = Table::new([
        ("on the device", Align::Left),
        ("kernel", Align::Left),
        right("runs"),
        right("time"),
        right("GFLOP/s"),
        right("GB/s"),
    ]);
    let mut moved = (0, 0);
    let mut is_used = false;
    for (stage, device) in stages.iter().filter_map(|stage| Some((&stage.name, stage.device.as_ref()?))) {
        is_used = true;
        moved = (moved.0 + device.uploaded_bytes, moved.1 + device.downloaded_bytes);
        for KernelCost { name, runs, ms, gflops, gb_per_s } in &device.kernels {
            let rates = [format!("{gflops:.1}"), format!("{gb_per_s:.1}")];
            table
                .row([stage.clone(), name.clone(), count(*runs), milliseconds(*ms)].into_iter().chain(rates));
        }
    }
    if !is_used {
        return String::new();
    }
    format!("\n{}uploaded {}, read back {}\n", table.render(""), bytes(moved.0), bytes(moved.1))
}

fn render_index(index: &BuiltIndex) -> String {
    let BuiltIndex { name, kind, effort_name, certificate, outcome } = index;
    let outcome = match outcome {
        Outcome::Published { uri, version, size_bytes } => {
            format!("published as {uri}, version {version}, {}", bytes(*size_bytes))
        }
        Outcome::BelowGate { .. } => "NOT published: below its gate".into(),
        Outcome::Withheld => "NOT published: another index of the job is below its gate".into(),
    };
    let curve = curve::render(certificate, effort_name.as_deref(), "  ");
    format!("\n{name} ({kind}): {outcome}\n{curve}")
}

fn milliseconds(wall_ms: f64) -> String {
    std::time::Duration::try_from_secs_f64(wall_ms * 1e-3).map_or_else(|_| "?".into(), duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Certificate;
    use crate::job::Backend;
    use crate::vectors::Metric;
    use std::collections::BTreeMap;

    fn summary(outcome: Outcome) -> BuildSummary {
        let stage = |name: &str, wall_ms, bytes_read, bytes_written| StageCost {
            name: name.into(),
            wall_ms,
            cpu_ms: 2.0 * wall_ms,
            bytes_read,
            bytes_written,
            resumed: false,
            device: None,
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
                effort_name: Some("ef_search".into()),
                certificate: Certificate { gate: Some(Gate { k: 10, min_recall: 0.99 }), ..curve::example() },
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
        let text = render(&summary(published()));
        for line in [
            "words: 9,977 rows × 100, cosine; cpu (avx512), 2 threads",
            "rows  10,000 read, 20 filtered, 3 rejected, 0 held out, 9,977 kept",
            "      3 rejected: null_vector",
            "read   120 ms  240 ms  4.0 MiB        –",
            "all    1.62 s  3.24 s",
            "peak memory 150 MiB",
            "words-hnsw (hnsw): published as out/words-hnsw, version 1, 12.0 MiB",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
        assert!(text.contains("*         64  0.950 ±0.010"), "{text}");
    }

    #[test]
    fn flags_stand_above_the_job_file() {
        let (_folder, args) =
            args(&["--backend", "reference", "--threads", "3", "--seed", "5", "--output", "x", "-q"]);
        let job = args.job().unwrap();
        assert_eq!((job.backend, job.threads, job.seed), (Backend::Reference, 3, 5));
        assert_eq!(job.output.uri.resolved(), "x");
    }

    #[test]
    fn a_build_below_its_gate_is_shown_and_fails() {
        let (_folder, args) = args(&[]);
        let mut out = Vec::new();
        let below = summary(Outcome::BelowGate { recall: 0.9509 });
        let error = args.tell(&below, &Progress::silent(), &mut out).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let message = "`words-hnsw` is not published: recall@10 is 0.9509 at its default setting, the gate asks for 0.99";
        assert_eq!(error.to_string(), message);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("words-hnsw (hnsw): NOT published: below its gate"), "{text}");
        assert!(text.contains("0.912"), "{text}");
        judge(&summary(published())).unwrap();
    }

    #[test]
    fn a_summary_in_json_has_the_certificate_and_the_outcome() {
        let json = serde_json::to_value(summary(published())).unwrap();
        let index = &json["indexes"][0];
        assert_eq!((&index["outcome"], &index["version"]), (&"published".into(), &1.into()));
        assert_eq!(index["certificate"]["chosen_effort"], 64);
    }
}
