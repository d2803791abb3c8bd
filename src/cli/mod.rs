//! The `annvil` command: arguments in, a library call, text out. Decides nothing about indexes: what a subcommand
//! prints is what the library answered.
//!
//! What was asked for goes to stdout, what happens on the way to stderr. With `--json` stdout is JSON and nothing
//! else. The exit code is [`Error::exit_code`]'s.

mod append;
mod attributes;
mod build;
mod change;
mod check;
mod compact;
mod copy;
mod curve;
mod dataset;
mod delete;
mod diff;
mod doctor;
mod gc;
mod headless;
mod import;
mod inspect;
mod interrupt;
mod key;
mod list;
mod measure;
mod overrides;
mod plan;
mod query_file;
#[cfg(feature = "polars")]
mod report;
mod residence;
mod rollback;
mod search;
#[cfg(feature = "serve")]
mod serve;
mod sync;
mod table;
mod tune;
mod verify;
mod versions;

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use query_file::{QueryFile, QueryFileError};

use crate::error::Error;

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  a fault of annvil itself
    2  wrong arguments, job file or data
    3  an index is below its recall gate, and was not published
    4  a published index is damaged
    5  the store refused or failed
    6  the GPU or its driver failed
    7  an index and its source differ
    8  no index meets what was asked of it
    9  the latest version is not the expected one; nothing was published
  130  cancelled by Ctrl-C; nothing was published";

/// Forges vector indexes: embeddings in Parquet become certified IVF-PQ and HNSW artifacts.
#[derive(Debug, Parser)]
#[command(name = "annvil", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Where the key of an encrypted index is: env:NAME, file:/absolute/path, or command:what a shell is to run; may be repeated
    /// [default: the lines of ANNVIL_KEY, where an index asks for one]
    #[arg(long = "key", value_name = "REF", global = true)]
    keys: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::BuildArgs),
    Plan(plan::PlanArgs),
    Tune(tune::TuneArgs),
    Import(Box<import::ImportArgs>),
    Check(check::CheckArgs),
    Search(Box<search::SearchArgs>),
    List(list::ListArgs),
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    Measure(measure::MeasureArgs),
    #[cfg(feature = "polars")]
    Report(Box<report::ReportArgs>),
    Inspect(inspect::InspectArgs),
    Append(append::AppendArgs),
    Delete(delete::DeleteArgs),
    Sync(sync::SyncArgs),
    Compact(compact::CompactArgs),
    Verify(verify::VerifyArgs),
    Versions(versions::VersionsArgs),
    Rollback(rollback::RollbackArgs),
    Diff(diff::DiffArgs),
    Copy(copy::CopyArgs),
    Key(key::KeyArgs),
    Gc(gc::GcArgs),
    Dataset(dataset::DatasetArgs),
    Doctor(doctor::DoctorArgs),
}

/// Parses the process's arguments and does what they ask. To be called by a `main` that has done nothing before it.
pub fn main() -> ExitCode {
    // SAFETY: the process has just started, and this is its only thread.
    unsafe { headless::quieten_mesa() };
    let Cli { keys, command } = Cli::parse();
    // Not locked: `build --json` writes its events from other threads.
    let out = &mut io::stdout();
    let outcome = key::give(&keys).and_then(|()| done(&command, out));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = write_error(&mut io::stderr().lock(), &error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn done(command: &Command, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Command::Build(args) => build::run(args, out),
        Command::Plan(args) => plan::run(args, out),
        Command::Tune(args) => tune::run(args, out),
        Command::Import(args) => import::run(args, out),
        Command::Check(args) => check::run(args, out),
        Command::Search(args) => search::run(args, out),
        Command::List(args) => list::run(args, out),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args, out),
        Command::Measure(args) => measure::run(args, out),
        #[cfg(feature = "polars")]
        Command::Report(args) => report::run(args, out),
        Command::Inspect(args) => inspect::run(args, out),
        Command::Append(args) => append::run(args, out),
        Command::Delete(args) => delete::run(args, out),
        Command::Sync(args) => sync::run(args, out),
        Command::Compact(args) => compact::run(args, out),
        Command::Verify(args) => verify::run(args, out),
        Command::Versions(args) => versions::run(args, out),
        Command::Rollback(args) => rollback::run(args, out),
        Command::Diff(args) => diff::run(args, out),
        Command::Copy(args) => copy::run(args, out),
        Command::Key(args) => key::run(args, out),
        Command::Gc(args) => gc::run(args, out),
        Command::Dataset(args) => dataset::run(args, out),
        Command::Doctor(args) => doctor::run(args, out),
    }
}

/// The error and, one per line, what it came from, unless it has said so itself.
fn write_error(out: &mut dyn Write, error: &Error) -> io::Result<()> {
    let message = error.to_string();
    // A diagnostic opens with its place, as editors and `grep -n` like it.
    let has_place =
        error.cause().is_some_and(|cause| cause.is::<crate::job::SpecError>() && message.contains('\n'));
    writeln!(out, "{}{message}", if has_place { "" } else { "error: " })?;
    let mut source = error.source();
    while let Some(cause) = source {
        let why = cause.to_string();
        if !message.contains(&why) {
            writeln!(out, "  because: {why}")?;
        }
        source = cause.source();
    }
    Ok(())
}

/// Writes an answer. A reader that has seen enough (`annvil versions x | head -1`) is no error.
fn answer(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Internal(format!("cannot write to stdout: {error}").into()))
        }
        _ => Ok(()),
    }
}

/// One line of JSON.
fn json_line(value: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_string(value).map_err(|error| Error::Internal(Box::new(error)))?;
    Ok(json + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_leaves_is_no_error_and_a_full_disk_is() {
        struct Refusing(io::ErrorKind);
        impl Write for Refusing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        answer(&mut Refusing(io::ErrorKind::BrokenPipe), "x").unwrap();
        answer(&mut Refusing(io::ErrorKind::StorageFull), "x").unwrap_err();
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = std::fs::read("/nonexistent/x").unwrap_err();
        let error = crate::job::SpecError::Read { path: "job.toml".into(), source: inner };
        let mut text = Vec::new();
        write_error(&mut text, &Error::BadInput(Box::new(error))).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("error: cannot read job file `job.toml`\n  because: No such file"),
            "{text}"
        );
    }
}
