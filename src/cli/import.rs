//! `annvil import`: rows of any source become Parquet.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::interrupt::cancel_on_ctrl_c;
use super::{answer, json_line};
use crate::error::Error;
use crate::job::quantity::count;
use crate::job::{CancelToken, Unit};
use crate::source::embed::{EmbedSpec, EmbedderKind, Hashed};
use crate::source::{self, ALL_COLUMNS, ForeignOptions, OnBadRow, Source, SourceSpec};
use crate::store::{Secret, runtime};
use crate::vectors::Metric;

/// Read rows from a database, a service or files, check them, and write them as Parquet.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil import postgres://kimera@db/kimera --table geoid_states --id id --vector state_vector --out geoids.parquet
  annvil import qdrant+http://localhost:6333/memories --id id --vector vector --out memories.parquet
  annvil import base.fvecs --vector vector --out base.parquet
  annvil import entries.jsonl --id id --vector embedding --embed hashed --text text --out entries.parquet

Sources: postgres://USER@HOST/DATABASE with pgvector (by binary COPY in one snapshot; the password comes from --credential, PGPASSWORD
or PGPASSFILE), qdrant+http(s)://HOST/COLLECTION (the key from --credential or QDRANT_API_KEY), *.jsonl, *.fvecs, *.bvecs, *.fbin,
*.u8bin, *.i8bin, *.npy, *.hdf5, and Parquet. A job's [source] may name the same.

What is no row for an index (a null, NaN, infinite or wrong-length vector, a null or duplicate id) ends the import, or with
--on-bad-row skip is left out and counted.")]
pub struct ImportArgs {
    /// Where the rows are
    #[arg(value_name = "SOURCE", required = true, num_args = 1..)]
    source: Vec<String>,
    /// The Parquet file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The column of vectors; with --embed what to call it
    #[arg(long, value_name = "COLUMN", default_value = "vector")]
    vector: String,
    /// The column of ids [default: rows are numbered]
    #[arg(long, value_name = "COLUMN")]
    id: Option<String>,
    /// Columns to keep beside [default: all that can be]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    attributes: Option<Vec<String>>,
    /// Keep rows for which this SQL predicate is true
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: Option<String>,
    /// What to do with a row that no index could hold
    #[arg(long, value_enum, default_value_t = BadRows::Fail)]
    on_bad_row: BadRows,
    /// Write what was left out, and why, to this Parquet file
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// PostgreSQL's table or view, or Qdrant's collection
    #[arg(long, value_name = "NAME", conflicts_with = "query")]
    table: Option<String>,
    /// A SELECT in place of a table
    #[arg(long, value_name = "SQL")]
    query: Option<String>,
    /// The database's password or the service's key: env:NAME or file:/absolute/path
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    credential: Option<Secret>,
    /// Make vectors of the column that --text names
    #[arg(long, value_enum, requires = "text")]
    embed: Option<Embed>,
    /// The column of text
    #[arg(long, value_name = "COLUMN", requires = "embed")]
    text: Option<String>,
    /// Dimensions of the hashed embedder
    #[arg(long, value_name = "N", default_value_t = Hashed::DEFAULT_BUCKETS as u64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    buckets: u64,
    /// The program of `--embed command` and its arguments, between blanks
    #[arg(long, value_name = "COMMAND", required_if_eq("embed", "command"))]
    embed_command: Option<String>,
    /// The URL of `--embed http`
    #[arg(long, value_name = "URL", required_if_eq("embed", "http"))]
    embed_url: Option<String>,
    /// Texts handed to the embedder at a time
    #[arg(long, value_name = "N", default_value_t = EmbedSpec::DEFAULT_BATCH as u64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// How long the embedder may take for a batch
    #[arg(long, value_name = "SECONDS", default_value_t = EmbedSpec::DEFAULT_TIMEOUT_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BadRows {
    Fail,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Embed {
    /// Tokens hashed into buckets
    Hashed,
    /// A program: {"texts": […]} a line in, {"vectors": [[…], …]} a line out
    Command,
    /// The same by POST
    Http,
}

fn secret(text: &str) -> Result<Secret, String> {
    text.parse().map_err(|()| "expected env:NAME or file:/absolute/path".into())
}

#[derive(Debug, Serialize)]
struct Summary {
    file: String,
    dim: usize,
    #[serde(flatten)]
    counts: source::RowCounts,
    inputs: Vec<source::InputFile>,
}

/// # Errors
/// What the source says, or the folder to write to; `Cancelled` by Ctrl-C.
pub(super) fn run(args: &ImportArgs, out: &mut dyn Write) -> Result<(), Error> {
    let cancel = CancelToken::new();
    cancel_on_ctrl_c(cancel.clone())?;
    let progress = super::build::progress(false, args.json, cancel);
    let flow = || if progress.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let fetching = progress.stage("fetch", Unit::ROWS, None);
    let fetched = std::sync::atomic::AtomicU64::new(0);
    let source = Source::open_watched(args.spec(), runtime()?, &|rows, _| {
        fetching.inc(rows - fetched.swap(rows, std::sync::atomic::Ordering::Relaxed));
        flow()
    })?;
    fetching.finish();
    let writing = progress.stage("write", Unit::ROWS, Some(source.rows_upper_bound()));
    let written = std::cell::Cell::new(0);
    let imported = source::import(source, &args.out, &|rows, _| {
        writing.inc(rows - written.replace(rows));
        flow()
    })?;
    writing.finish();
    if let (Some(file), Some(rejects)) = (&args.rejects, &imported.rejects) {
        let unwritable =
            |error| Error::BadInput(format!("cannot write `{}`: {error}", file.display()).into());
        std::fs::write(file, source::write_rejects(rejects)?).map_err(unwritable)?;
    }
    let source::Imported { dim, counts, inputs, .. } = imported;
    let summary = Summary { file: args.out.display().to_string(), dim, counts, inputs };
    answer(out, &if args.json { json_line(&summary)? } else { render(&summary) })
}

impl ImportArgs {
    fn spec(&self) -> SourceSpec {
        SourceSpec {
            uris: self.source.clone(),
            vector_column: self.vector.clone(),
            id_column: self.id.clone(),
            attribute_columns: match &self.attributes {
                // `--attributes=` is none.
                Some(names) => names.iter().filter(|name| !name.is_empty()).cloned().collect(),
                None => vec![ALL_COLUMNS.into()],
            },
            predicate: self.predicate.clone(),
            shard: None,
            on_bad_row: if self.on_bad_row == BadRows::Skip { OnBadRow::Skip } else { OnBadRow::Fail },
            foreign: ForeignOptions {
                table: self.table.clone(),
                query: self.query.clone(),
                credential: self.credential.clone(),
                embed: self.embedder(),
                folder: None,
            },
            // The one that leaves vectors as they are.
            ..SourceSpec::new("", &self.vector, Metric::L2)
        }
    }

    fn embedder(&self) -> Option<EmbedSpec> {
        let (embed, text) = (self.embed?, self.text.clone()?);
        let kind = match embed {
            Embed::Hashed => EmbedderKind::Hashed { buckets: self.buckets as usize },
            Embed::Command => {
                let words = self.embed_command.as_deref().unwrap_or_default().split_whitespace();
                EmbedderKind::Command { command: words.map(String::from).collect() }
            }
            Embed::Http => {
                EmbedderKind::Http { url: self.embed_url.clone()?, credential: self.credential.clone() }
            }
        };
        Some(EmbedSpec { text, kind, batch: self.batch as usize, timeout_s: self.timeout_s })
    }
}

fn render(summary: &Summary) -> String {
    let Summary { file, dim, counts, .. } = summary;
    let mut text = format!(
        "{file}: {} rows × {dim}; {} read, {} filtered out\n",
        count(counts.kept),
        count(counts.read),
        count(counts.filtered_out)
    );
    for (reason, rows) in &counts.rejected {
        text += &format!("{} rows left out: {reason}\n", count(*rows));
    }
    text
}
