//! `annvil plan`: what a job will take, before it runs.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::build::byte_size;
use super::table::{Align, Table};
use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration};
use crate::job::{self, Backend, JobSpec, Overrides, Plan, Progress, Silent};

/// Say what a job will read, write, hold in memory and take in time, without running it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil plan pipelines/quickstart.toml
  annvil plan job.toml --memory-budget 2GiB --json | jq .estimate.peak_memory_bytes

Reads the files' footers, and for about a second rows, to see how fast that goes. Exits with code 2 if the job does not fit its
memory budget or the scratch folder's disk, and says what would fit. Sizes are within a quarter of what they come to;
times are rough.")]
pub struct PlanArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    job: PathBuf,
    /// What the whole job may take, as 2GiB, instead of the job's `memory_budget`
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    memory_budget: Option<u64>,
    /// Where to compute, instead of the job's `backend`
    #[arg(
        long,
        value_name = "WHERE",
        value_parser = PossibleValuesParser::new(Backend::NAMES)
            .map(|name| Backend::from_name(&name).expect("one of the names")),
    )]
    backend: Option<Backend>,
    /// Scratch folder, instead of the job's `scratch`
    #[arg(long, value_name = "DIR")]
    scratch: Option<String>,
    /// CPU threads, instead of the job's `threads`; 0 is all cores
    #[arg(long, value_name = "N")]
    threads: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// # Errors
/// The job file's problems, the source's, and `BadInput` for a job that does not fit.
pub(super) fn run(args: &PlanArgs, out: &mut dyn Write) -> Result<(), Error> {
    let overrides = Overrides {
        backend: args.backend,
        threads: args.threads,
        memory_budget: args.memory_budget,
        scratch: args.scratch.clone(),
        ..Overrides::default()
    };
    let spec = JobSpec::from_path(&args.job)?.override_with(&overrides)?;
    let progress = Progress::new(Silent { warn: true }, job::CancelToken::new());
    let plan = job::plan(&spec, &progress)?;
    answer(out, &if args.json { json_line(&plan)? } else { render(&plan) })
}

fn render(plan: &Plan) -> String {
    let Plan { job, compute, sizing, memory_budget, scratch, times } = plan;
    let (load, estimate) = (&sizing.load, &sizing.estimate);
    let mut text = format!(
        "{job}: up to {} rows × {}, {} queries; {compute}, {} threads\n\n",
        count(load.rows),
        load.dim,
        count(load.queries),
        load.threads
    );
    let within = memory_budget.map_or(String::new(), |budget| format!(" of {}", bytes(budget)));
    let where_rows = if estimate.spills { "; rows lie in scratch" } else { "" };
    let free = scratch.free_bytes.map_or(String::new(), |free| format!(", where {} are free", bytes(free)));
    for (name, value) in [
        ("read", bytes(sizing.fetched_bytes)),
        ("published", bytes(estimate.output_bytes)),
        ("peak memory", format!("{}{within}{where_rows}", bytes(estimate.peak_memory_bytes))),
        ("scratch", format!("{} in {}{free}", bytes(estimate.scratch_bytes), scratch.folder)),
    ] {
        text += &format!("{name:<12}{value}\n");
    }
    text.push('\n');
    let mut table =
        Table::new([("stage", Align::Left), ("time, about", Align::Right), ("memory", Align::Right)]);
    let mut all = 0.0;
    for time in times {
        all += time.seconds;
        let memory = estimate.stages.iter().find(|stage| stage.name == time.name);
        let memory = memory.map_or("–".into(), |stage| bytes(stage.bytes));
        table.row([time.name.clone(), seconds(time.seconds), memory]);
    }
    table.row(["all".into(), seconds(all), bytes(estimate.peak_memory_bytes)]);
    text + &table.render("")
}

fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| "?".into(), duration)
}
