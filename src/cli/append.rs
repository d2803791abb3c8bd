//! `annvil append`: rows come.

use std::io::Write;

use clap::Args;

use super::change::ChangeArgs;
use crate::change::{Append, append};
use crate::error::Error;

/// Add rows to a published index, as a new version with one more segment.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil append out/glove10k-hnsw --from new.parquet
  annvil append s3://bucket/memories --from 's3://bucket/day/2026-11-20/*.parquet' --replace

Nothing is trained: an IVF-PQ segment keeps centroids and codebooks, a graph's rows become a graph of their own. The new
version is measured as a whole with the queries that the index keeps, and refused with code 3 below the index's gate. An
id that the index has already is an error, or, with --replace, goes for the new row in the same version. If another
version is published meanwhile, the rows are added to that one.")]
pub struct AppendArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Parquet files: paths, URIs or globs
    #[arg(long, value_name = "FILES", required = true, num_args = 1..)]
    from: Vec<String>,
    /// Rows whose id is there already replace it
    #[arg(long)]
    replace: bool,
}

/// # Errors
/// As [`append`].
pub(super) fn run(args: &AppendArgs, out: &mut dyn Write) -> Result<(), Error> {
    let rows = Append { from: args.from.clone(), replace: args.replace };
    args.change.run(out, |options, progress| append(options, &rows, progress))
}
