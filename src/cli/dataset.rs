//! `annvil dataset`: public datasets by recipe.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::dataset::{Fetched, Recipe, fetch};

#[derive(Debug, Args)]
pub struct DatasetArgs {
    /// Folder of the recipes (NAME.toml); what is fetched goes to its `cache` folder.
    #[arg(long, value_name = "DIR", default_value = "datasets", global = true)]
    datasets: PathBuf,
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Fetch a dataset and convert it to Parquet; does nothing where it is already there and whole.
    Fetch {
        /// A recipe's name, as `annvil dataset list` shows it.
        name: String,
    },
    /// List the datasets that there are recipes for.
    List,
}

/// # Errors
/// Those of [`crate::dataset`].
pub fn run(args: &DatasetArgs) -> Result<()> {
    match &args.command {
        DatasetCommand::Fetch { name } => {
            let recipe = Recipe::read(&args.datasets, name)?;
            let Fetched { base, queries, cached } = fetch(&recipe, &args.datasets.join("cache"))?;
            let state = if cached { "already there" } else { "fetched" };
            println!("{}: {state}; {} ({})", recipe.name, recipe.description, recipe.licence);
            println!("  {}  {} × {}, {}", base.display(), recipe.base.rows, recipe.dim, recipe.metric);
            println!("  {}  {} × {}", queries.display(), recipe.queries.rows, recipe.dim);
        }
        DatasetCommand::List => {
            for name in Recipe::names(&args.datasets)? {
                let Recipe { base, dim, metric, description, .. } = Recipe::read(&args.datasets, &name)?;
                println!("{name:<12} {:>9} × {dim:<4} {metric:<13} {description}", base.rows);
            }
        }
    }
    Ok(())
}
