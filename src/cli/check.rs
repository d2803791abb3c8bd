//! `annvil check`: reads a job file and nothing else.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{answer, json_line};
use crate::error::Error;
use crate::job::JobSpec;

/// Check a job file and print it with every default filled in; no data is read.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil check pipelines/quickstart.toml
  annvil check --json pipelines/quickstart.toml | jq '.diagnostics[].line'")]
pub struct CheckArgs {
    /// The job file (TOML; every key is explained in pipelines/README.md)
    #[arg(value_name = "JOB")]
    job: PathBuf,
    /// Print one JSON object: `job` with every default filled in, or `diagnostics`
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Error> {
    let outcome = JobSpec::from_path(&args.job);
    let text = match &outcome {
        Ok(job) if args.json => json_line(&json!({ "job": job.to_json() }))?,
        Ok(job) => job.to_toml(),
        Err(error) if args.json => json_line(&json!({ "diagnostics": error.diagnostics() }))?,
        Err(_) => String::new(),
    };
    answer(out, &text)?;
    Ok(outcome.map(|_| ())?)
}
