//! `annvil sync`: an index is brought in line with its source.

use std::io::Write;

use clap::Args;

use super::change::ChangeArgs;
use crate::change::{Sync, sync};
use crate::error::Error;

/// Bring a published index in line with its source, as one new version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil verify out/memories --against 'memories/*.parquet'
  annvil sync out/memories --from 'memories/*.parquet'

What `annvil verify --against` tells is put right: missing rows are added, rows that differ replaced, orphans deleted. Rows that
a build drew as queries stay out.")]
pub struct SyncArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Parquet files with all rows that the index should have: paths, URIs or globs
    #[arg(long, value_name = "SOURCE", required = true, num_args = 1..)]
    from: Vec<String>,
}

/// # Errors
/// As [`sync`].
pub(super) fn run(args: &SyncArgs, out: &mut dyn Write) -> Result<(), Error> {
    let source = Sync { from: args.from.clone() };
    args.change.run(out, |options, progress| sync(options, &source, progress))
}
