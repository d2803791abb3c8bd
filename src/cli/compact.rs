//! `annvil compact`: what changes have piled up is folded.

use std::io::Write;

use clap::Args;

use super::change::ChangeArgs;
use crate::change::{Compact, compact};
use crate::error::Error;

/// Fold a published index's segments into one without tombstones, as a new version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil compact out/glove10k-ivf
  annvil compact out/glove10k-ivf --retrain

A graph is built again. Lists are put together as they are, codes and vectors untouched, unless centroids and codebooks are
learned again: with --retrain, where the rows that were added lie 1.25 times as far from their centroids as those of the
training, where more than a third of the rows came since, or where the recall misses the index's target otherwise. It is
measured with all queries that the index keeps.")]
pub struct CompactArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Learn centroids and codebooks again
    #[arg(long)]
    retrain: bool,
}

/// # Errors
/// As [`compact`].
pub(super) fn run(args: &CompactArgs, out: &mut dyn Write) -> Result<(), Error> {
    let how = Compact { retrain: args.retrain };
    args.change.run(out, |options, progress| compact(options, how, progress))
}
