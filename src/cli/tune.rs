//! `annvil tune`: which index for a job.

use std::io::Write;
#[cfg(feature = "polars")]
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::answer;
use super::build::{judge, progress, render as render_build};
use super::interrupt::cancel_on_ctrl_c;
use super::overrides::{ComputeArgs, ResultArgs};
use super::table::{Align, Table};
use crate::error::Error;
use crate::job::quantity::{bytes, count};
use crate::job::{CancelToken, JobSpec, Overrides, Progress};
use crate::tune::{
    self, Asked, Built, Miss, Prefer, SAMPLE_QUERIES, SAMPLE_ROWS, TuneOptions, Tuning, build, tune,
};

/// Choose an index for a job by trying kinds and parameters on samples of its rows, and build it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil tune job.toml --recall 0.95
  annvil tune job.toml --recall 0.99 --p95-ms 2 --bytes-per-vector 512 --minutes 5
  annvil tune job.toml --recall 0.9 --prefer size --dry-run --json | jq .winner

What the job says of source, queries, metric, output and store holds; its indexes are tried too. Three samples, nested and drawn
by the seed: a sixteenth, a quarter and all of --sample rows. Each candidate is built, searched and measured on the first, the
better half goes on to the next, and the whole is predicted from how they grow. The winner is built as `annvil build` does, with
the recall asked for as its gate, and what was predicted stands beside what it came to.

Exits with code 8 if no candidate meets what is asked, and builds nothing; or if what was published does not.")]
pub struct TuneArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    job: PathBuf,
    /// Least recall@K, above 0 and at most 1
    #[arg(long, value_name = "R")]
    recall: f64,
    /// Neighbours that are compared
    #[arg(short, long, value_name = "K", default_value_t = 10)]
    k: usize,
    /// Most milliseconds of 95 in 100 single queries, on one thread of this machine
    #[arg(long, value_name = "MS")]
    p95_ms: Option<f64>,
    /// Most bytes of the index per row, without ids and attributes
    #[arg(long, value_name = "N")]
    bytes_per_vector: Option<f64>,
    /// What decides between those that meet all that: the shortest median latency, fewest bytes, the shortest build
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "speed",
        value_parser = PossibleValuesParser::new(Prefer::NAMES)
            .map(|name| Prefer::from_name(&name).expect("one of the names")),
    )]
    prefer: Prefer,
    /// Most minutes for the trials; the rows are read before, the winner is built after
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Rows of the largest sample
    #[arg(long, value_name = "N", default_value_t = SAMPLE_ROWS)]
    sample: usize,
    /// Most queries to measure with
    #[arg(long, value_name = "N", default_value_t = SAMPLE_QUERIES)]
    queries: usize,
    /// The index's name [default: the job's name and `-tuned`]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Folder for a page of what was tried, as `annvil report` draws it: recall beside speed on the largest samples
    #[cfg(feature = "polars")]
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Choose, and build nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    result: ResultArgs,
    /// Print warnings and errors only
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON event per line, all that was tried and built as the last
    #[arg(long)]
    json: bool,
}

/// What `--json` ends with.
#[derive(serde::Serialize)]
struct Chosen<'a> {
    #[serde(flatten)]
    tuning: &'a Tuning,
    built: Option<&'a Built>,
}

/// # Errors
/// As [`tune`] and [`build`].
pub(super) fn run(args: &TuneArgs, out: &mut dyn Write) -> Result<(), Error> {
    let cancel = CancelToken::new();
    let progress = progress(args.json, args.quiet, cancel.clone());
    let outcome = args.job().and_then(|job| {
        cancel_on_ctrl_c(cancel)?;
        args.choose(&job, &progress, out)
    });
    if let Err(error) = &outcome {
        progress.failed(error);
    }
    outcome
}

impl TuneArgs {
    fn job(&self) -> Result<JobSpec, Error> {
        let overrides = Overrides {
            seed: self.result.seed,
            output: self.result.output.clone(),
            ..self.compute.overrides()
        };
        Ok(JobSpec::from_path(&self.job)?.override_with(&overrides)?)
    }

    fn options(&self) -> Result<TuneOptions, Error> {
        let time = self.minutes.map(|minutes| Duration::try_from_secs_f64(minutes * 60.0)).transpose();
        let time = time.map_err(|_| Error::BadInput("--minutes: expected a number, 0 or more".into()))?;
        let asked = Asked {
            k: self.k,
            recall: self.recall,
            p95_ms: self.p95_ms,
            bytes_per_vector: self.bytes_per_vector,
            prefer: self.prefer,
        };
        Ok(TuneOptions { asked, sample_rows: self.sample, sample_queries: self.queries, time })
    }

    fn choose(&self, job: &JobSpec, progress: &Progress, out: &mut dyn Write) -> Result<(), Error> {
        let tuning = tune(job, &self.options()?, progress)?;
        if !self.json && !self.quiet {
            answer(out, &render(&tuning))?;
        }
        #[cfg(feature = "polars")]
        if let Some(folder) = &self.report {
            self.draw(&tuning, folder)?;
        }
        let name = self.name.clone().unwrap_or_else(|| format!("{}-tuned", job.name));
        let is_built = !self.dry_run && tuning.winner.is_some();
        let built = is_built.then(|| build(job, &tuning, &name, progress)).transpose()?;
        if self.json {
            let result = Chosen { tuning: &tuning, built: built.as_ref() };
            let result = serde_json::to_value(result).map_err(|error| Error::Internal(Box::new(error)))?;
            progress.finished(&result);
        } else if let Some(built) = built.as_ref().filter(|_| !self.quiet) {
            answer(out, &(render_build(&built.summary) + &render_compared(built)))?;
        }
        tuning.won()?;
        let Some(built) = built else { return Ok(()) };
        judge(&built.summary)?;
        Ok(built.check()?)
    }

    /// The report's three files.
    #[cfg(feature = "polars")]
    fn draw(&self, tuning: &Tuning, folder: &Path) -> Result<(), Error> {
        use super::report::{machine, write_to};
        use crate::report::{self, HTML_FILE, Header, MARKDOWN_FILE, MEASUREMENTS_FILE, ReportError};
        let header = Header {
            annvil_version: env!("CARGO_PKG_VERSION").into(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            machine: machine(&crate::compute::cpu::Cpu::new()),
            ..Header::default()
        };
        let measured = tune::measurements(tuning, header).map_err(ReportError::from)?;
        let k = tuning.asked.k as u32;
        write_to(folder, HTML_FILE, report::html(&measured, k, None, &[])?.as_bytes())?;
        write_to(folder, MARKDOWN_FILE, report::markdown(&measured, k, None, &[])?.as_bytes())?;
        write_to(folder, MEASUREMENTS_FILE, &measured.encode().map_err(ReportError::from)?)
    }
}

fn render(tuning: &Tuning) -> String {
    let Tuning { job, metric, dim, rows, queries, compute, asked, .. } = tuning;
    let mut text = format!(
        "\n{job}: {} rows × {dim}, {metric}; {compute}\nasked: recall@{} {}",
        count(*rows),
        asked.k,
        asked.recall
    );
    if let Some(p95_ms) = asked.p95_ms {
        text += &format!(", p95 at most {p95_ms} ms");
    }
    if let Some(bytes) = asked.bytes_per_vector {
        text += &format!(", at most {bytes} bytes a vector");
    }
    let samples: Vec<String> = tuning.samples.iter().map(|&rows| count(rows)).collect();
    text += &format!(
        "\ntried on {} rows with {} queries in {:.1} s; the whole as predicted:\n\n",
        samples.join(", "),
        count(*queries),
        tuning.seconds
    );
    text += &render_candidates(tuning);
    text += "\n* no other is faster, smaller and sooner built; recall at the cheapest setting that reaches what is asked\n";
    if tuning.is_cut_short {
        text += "time was over before all trials were done\n";
    }
    match &tuning.winner {
        Some(name) => text + &format!("chosen: {name}\n"),
        None => text + &format!("none meets what is asked; nearest: {}\n", tuning.nearest.join("; ")),
    }
}

fn render_candidates(tuning: &Tuning) -> String {
    let mut table = Table::new([
        ("", Align::Left),
        ("candidate", Align::Left),
        ("tried on", Align::Right),
        ("recall", Align::Right),
        ("p50 ms", Align::Right),
        ("p95 ms", Align::Right),
        ("bytes/row", Align::Right),
        ("build s", Align::Right),
        ("misses", Align::Left),
    ]);
    for tried in &tuning.candidates {
        let mark = match (tuning.winner.as_deref() == Some(&tried.name), tried.on_frontier) {
            (true, _) => ">",
            (false, true) => "*",
            (false, false) => "",
        };
        let on = tried.trials.last().map_or("–".into(), |trial| count(trial.rows));
        let number = |of: fn(&tune::Prediction) -> f64, digits: usize| {
            tried.prediction.as_ref().map_or("–".into(), |found| format!("{:.digits$}", of(found)))
        };
        let misses: Vec<String> = tried.misses.iter().map(Miss::told).collect();
        table.row([
            mark.into(),
            tried.name.clone(),
            on,
            number(|found| found.recall, 4),
            number(|found| found.p50_ms, 3),
            number(|found| found.p95_ms, 3),
            number(|found| found.bytes_per_vector, 0),
            number(|found| found.build_seconds, 1),
            misses.join(", "),
        ]);
    }
    table.render("")
}

/// What was predicted beside what it came to.
fn render_compared(built: &Built) -> String {
    if built.compared.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("", Align::Left),
        ("predicted", Align::Right),
        ("actual", Align::Right),
        ("error", Align::Right),
    ]);
    for compared in &built.compared {
        let shown = |value: f64| match compared.what {
            "recall" => format!("{value:.4}"),
            "published_bytes" => bytes(value as u64),
            "qps" => count(value as u64),
            "bytes_per_vector" => format!("{value:.1}"),
            _ => format!("{value:.3}"),
        };
        let error = match compared.what {
            "recall" => format!("{:+.4}", compared.error),
            _ => format!("{:+.1} %", 100.0 * compared.error),
        };
        table.row([
            compared.what.replace('_', " "),
            shown(compared.predicted),
            shown(compared.actual),
            error,
        ]);
    }
    format!("\n{}", table.render(""))
}
