//! `annvil plan`: what a job will take, before it runs; or what a workload would that is only described.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::interrupt::cancel_on_ctrl_c;
use super::overrides::ComputeArgs;
use super::table::{Align, Table};
use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::{bytes, count, duration};
use crate::job::{self, JobSpec, Overrides, Plan, Prices, Progress, Silent, Workload};
use crate::tune::Prediction;
use crate::tune::workload::{
    CALIBRATION_ROWS, Capacity, CapacityOptions, Case, CasePlan, capacity, thread_qps,
};

/// Say what a job will read, write, hold in memory and take in time, without running it; or what a described workload would.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil plan pipelines/quickstart.toml
  annvil plan job.toml --memory-budget 2GiB --json | jq .estimate.peak_memory_bytes
  annvil plan --workload pipelines/vector-estate/workload.toml --prices pipelines/vector-estate/prices.toml

Reads the files' footers, and for about a second rows, to see how fast that goes. Exits with code 2 if the job does not fit its
memory budget or the scratch folder's disk, and says what would fit. Sizes are within a quarter of what they come to;
times are rough.

With --workload no data is needed: for each number of rows and each index of the file it says how many shards fit the machine
described, their memory and disk, how long a shard's build takes on this machine, how many replicas the queries need and, with
--prices, what it costs a month; and which of these figures are computed and which extrapolated from what was measured here.")]
pub struct PlanArgs {
    /// The job file
    #[arg(value_name = "JOB", required_unless_present = "workload")]
    job: Option<PathBuf>,
    /// In place of a job, a workload that is described
    #[arg(long, value_name = "FILE", conflicts_with_all = ["job", "memory_budget", "scratch"])]
    workload: Option<PathBuf>,
    /// What things cost, for a workload
    #[arg(long, value_name = "FILE", conflicts_with = "job")]
    prices: Option<PathBuf>,
    /// Generated rows that a workload's searches are measured on; 0 measures nothing, and leaves out what would follow from it
    #[arg(long, value_name = "N", default_value_t = CALIBRATION_ROWS, conflicts_with = "job")]
    calibration_rows: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Scratch folder, instead of the job's `scratch`
    #[arg(long, value_name = "DIR")]
    scratch: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// # Errors
/// The job file's problems, the source's, and `BadInput` for a job that does not fit.
pub(super) fn run(args: &PlanArgs, out: &mut dyn Write) -> Result<(), Error> {
    let job = match (&args.workload, &args.job) {
        (Some(workload), _) => return plan_workload(args, workload, out),
        (None, job) => job.as_ref().expect("clap asks for one of both"),
    };
    let overrides = Overrides { scratch: args.scratch.clone(), ..args.compute.overrides() };
    let spec = JobSpec::from_path(job)?.override_with(&overrides)?;
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

fn plan_workload(args: &PlanArgs, workload: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let workload = Workload::from_path(workload)?;
    let prices = args.prices.as_ref().map(Prices::from_path).transpose()?;
    let options = CapacityOptions {
        calibration_rows: args.calibration_rows,
        backend: args.compute.backend.unwrap_or_default(),
        threads: args.compute.threads.unwrap_or(0) as usize,
    };
    let cancel = job::CancelToken::new();
    cancel_on_ctrl_c(cancel.clone())?;
    let progress = Progress::new(Silent { warn: true }, cancel);
    let capacity = capacity(&workload, prices.as_ref(), &options, &progress)?;
    answer(out, &if args.json { json_line(&capacity)? } else { render_capacity(&capacity) })
}

fn render_capacity(capacity: &Capacity) -> String {
    let Workload { name, dim, qps, k, recall, replicas, machine, .. } = &capacity.workload;
    let mut text = format!(
        "{name}: {dim} dimensions, {qps} queries/s at recall@{k} {recall}, {replicas} replicas or more; machines of {} and {} \
         cores, of which an index takes {:.0} % and searches {:.0} % at most\n\n",
        bytes(machine.memory),
        machine.cores,
        100.0 * machine.memory_share,
        100.0 * machine.busy_share
    );
    let mut table = Table::new(
        [
            "rows",
            "shards",
            "memory each",
            "used",
            "published",
            "build each",
            "p95 ms",
            "queries/s",
            "replicas",
            "machines",
            "a month",
        ]
        .map(|head| (head, Align::Right))
        .into_iter()
        .chain([("index", Align::Left), ("notes", Align::Left)]),
    );
    for case in &capacity.cases {
        table.row(case_cells(capacity, case));
    }
    text += &table.render("");
    let basis = &capacity.basis;
    for (what, how) in [
        ("bytes, memory, shards", &basis.bytes),
        ("build", &basis.build),
        ("p95, queries/s of a shard on one thread", &basis.search),
        ("replicas, money", &basis.money),
    ] {
        text += &format!("{}{what}: {how}\n", if what.starts_with("bytes") { "\n" } else { "" });
    }
    text
}

fn case_cells(capacity: &Capacity, case: &Case) -> Vec<String> {
    let Some(plan) = &case.plan else {
        let dashes = std::iter::repeat_n("–".to_string(), 10);
        let note = "fits this machine in no number of shards".to_string();
        return std::iter::once(count(case.rows)).chain(dashes).chain([case.index.clone(), note]).collect();
    };
    let CasePlan { shards, shard, published_bytes, memory_used, build_seconds, search, replicas, .. } = plan;
    let of_search = |of: fn(&Prediction) -> String| search.as_ref().map_or("–".into(), of);
    let money = plan.cost.zip(capacity.prices.as_ref());
    let mut notes = Vec::new();
    if search.as_ref().is_some_and(|search| search.recall < capacity.workload.recall) {
        notes.push("misses the recall");
    }
    if plan.builds_from_scratch {
        notes.push("built with rows in scratch");
    }
    vec![
        count(case.rows),
        count(u64::from(*shards)),
        bytes(shard.serving),
        format!("{:.0} %", 100.0 * memory_used),
        bytes(*published_bytes),
        build_seconds.map_or("–".into(), seconds),
        of_search(|search| format!("{:.2}", search.p95_ms)),
        of_search(|search| count(thread_qps(search) as u64)),
        count(*replicas),
        count(plan.machines),
        money.map_or("–".into(), |(cost, prices)| format!("{:.2} {}", cost.total, prices.currency)),
        case.index.clone(),
        notes.join(", "),
    ]
}
