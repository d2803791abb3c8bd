//! A published index is changed: rows come ([`append`]), go ([`delete`]), are replaced, brought in line with a source
//! ([`sync`]), and what has piled up is folded ([`compact`]). A version is never touched: each change publishes a new
//! one, of the segments that stay, a new segment for the rows that came, and tombstones for those that went.
//!
//! ```text
//! latest version ─ open ─► rows that go, rows that come ─► segment ─ certify ─► put if absent as the next version
//!        ▲                                                                              │ taken by another
//!        └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What is published was certified as a whole, with the queries that the index keeps, and passes the gate of its build. A
//! change that another publisher overtook is made again over the version that was faster: neither is lost. Refuses indexes
//! that keep no vectors, whose recall could not be measured.

mod append;
mod base;
mod certify;
mod compact;
mod compare;
mod delete;
mod publish;
mod segment;
mod summary;
mod sync;
mod truth;

pub use append::{Append, append};
#[cfg(feature = "cli")]
pub(crate) use base::job_of;
pub use compact::{Compact, compact};
pub use compare::{Compare, Consistency, Differing, RowSource, compare};
pub use delete::{Delete, delete};
pub use summary::{ChangeSummary, Changed, PublishedChange};
pub use sync::{Sync, sync};

use std::path::PathBuf;

use crate::compute::Compute;
use crate::error::Error;
use crate::job::{self, Backend, Progress};
use crate::store::IndexStore;

/// Queries that a change is certified with where nothing else is said: recall within about two percent, for a fraction of
/// what the rows cost that it searches.
pub const CERTIFY_QUERIES: usize = 300;

/// What every change is told.
#[derive(Debug, Clone)]
pub struct ChangeOptions {
    /// The index's folder or URI.
    pub index: String,
    /// Where the columns and parameters stand; default: in the manifest.
    pub job: Option<PathBuf>,
    pub backend: Backend,
    /// CPU threads; 0 is all cores.
    pub threads: usize,
    /// Most queries to certify with, 1 or more.
    pub certify_queries: usize,
    /// The version that is to be changed: where the latest is another, before or after the work, nothing is published
    /// ([`ChangeError::Version`]). Default: whatever is the latest, again over another that came meanwhile.
    pub expect_version: Option<u64>,
}

impl ChangeOptions {
    pub fn new(index: &str) -> Self {
        Self {
            index: index.into(),
            job: None,
            backend: Backend::Auto,
            threads: 0,
            certify_queries: CERTIFY_QUERIES,
            expect_version: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("version {version} of index `{index}` says nothing of the job that made it: give the job")]
    NoJob { index: String, version: u64 },
    #[error("the job has no index `{index}`; it has {known}")]
    NotInJob { index: String, known: String },
    /// What cannot be in one index.
    #[error("{what}: expected {expected} as in index `{index}`, got {got}")]
    Unlike { index: String, what: &'static str, expected: String, got: String },
    #[error(
        "{count} of the rows are in index `{index}` already, as {some}: they can only replace those there"
    )]
    Present { index: String, count: usize, some: String },
    #[error("the job names no id column: rows that are numbered as they come replace nothing")]
    NoIds,
    #[error(
        "index `{index}` keeps no vectors (refine = \"none\"), so that what a changed version finds cannot be compared with \
         what it should: build it again from its source"
    )]
    NoVectors { index: String },
    #[error(
        "index `{index}` was published by a version of annvil that kept no queries to certify a change with, and its job \
         drew them from the rows: build it again"
    )]
    NoQueries { index: String },
    #[error("no row would be left of index `{index}`")]
    NothingLeft { index: String },
    #[error("index `{index}` would have {rows} rows: expected at most {limit}")]
    TooManyRows { index: String, rows: u64, limit: u64 },
    #[error(
        "the changed index `{index}` is not published: recall@{k} is {recall:.4} at its default setting, the gate asks for \
         {min_recall}"
    )]
    BelowGate { index: String, k: u32, recall: f64, min_recall: f64 },
    /// Another publisher was first. What was read is not what is there: read it again, and decide again.
    #[error(
        "index `{index}`: expected version {expected} to be the latest, got {got}; nothing was published"
    )]
    Version { index: String, expected: u64, got: u64 },
    #[error("index `{index}`: other publishers were first {attempts} times")]
    Overtaken { index: String, attempts: u32 },
    #[error("`{path}`, line {line}: {source}")]
    Id { path: String, line: usize, source: crate::vectors::RowIdError },
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::BelowGate { .. } => Error::BelowGate(error.into()),
            ChangeError::Version { .. } => Error::Conflict(error.into()),
            ChangeError::Overtaken { .. } => Error::Store(error.into()),
            error => Error::BadInput(error.into()),
        }
    }
}

/// A fault of ours.
fn internal(error: impl std::error::Error + Send + std::marker::Sync + 'static) -> Error {
    Error::Internal(Box::new(error))
}

/// Where a change is made and with what.
struct Workplace<'a> {
    store: IndexStore,
    options: &'a ChangeOptions,
    compute: &'a dyn Compute,
    progress: &'a Progress,
}

/// Runs a change on as many threads as were asked for, where there is something to compute with.
fn at_work<T: Send>(
    options: &ChangeOptions,
    progress: &Progress,
    work: impl FnOnce(&Workplace<'_>) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    job::on_threads(options.threads, || {
        let store = IndexStore::open(&options.index)?;
        store.probe()?;
        let compute = job::choose(options.backend, None, progress)?;
        work(&Workplace { store, options, compute: &*compute, progress })
    })
}
