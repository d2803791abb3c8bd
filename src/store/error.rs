use std::path::PathBuf;

use super::{KeyFault, LocationError};
use crate::artifact::checksums::ChecksumError;
use crate::artifact::encryption::Forged;
use crate::artifact::{ColumnError, ManifestError, NameError, SectionError, TensorError};

/// Which file of which version of which index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub index: String,
    /// `None` for a segment that no version names yet.
    pub version: Option<u64>,
    /// Below the index's folder.
    pub file: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "index `{}`, ", self.index)?;
        match self.version {
            Some(version) => write!(f, "version {version}, ")?,
            None => f.write_str("not published, ")?,
        }
        write!(f, "file `{}`", self.file)
    }
}

/// A file that is what was published, or claims to be, and makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Section(#[from] SectionError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Columns(#[from] ColumnError),
    #[error(transparent)]
    Checksums(#[from] ChecksumError),
}

/// By what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{what} does not exist")]
    NotFound { what: String },
    #[error("{place}: is missing, though the manifest names it")]
    Missing { place: Place },
    /// The bytes are not those that were published.
    #[error("{place}: damaged: expected {expected}, got {got}")]
    Damaged { place: Place, expected: String, got: String },
    /// The bytes cannot be understood. A manifest's damage is told this way too: it bears its own digest.
    #[error("{place}: {source}")]
    Malformed { place: Place, source: Box<FileError> },
    #[error("{place}: bytes {start}..{end} are not within the file's {size_bytes}")]
    Range { place: Place, start: u64, end: u64, size_bytes: u64 },
    #[error("index `{index}`: another writer was first {attempts} times, last at version {version}")]
    Conflict { index: String, attempts: u32, version: u64 },
    #[error("index `{index}`: {what}")]
    Refused { index: String, what: String },
    /// Two publishers at once could lose a version.
    #[error(
        "index `{index}`: the store overwrites where it was asked to put if absent, or cannot be asked; if nobody else publishes there, say so with `single_writer = true` in the job's `[store]`"
    )]
    Overwrites { index: String },
    #[error("{what} is not supported")]
    Unsupported { what: String },
    #[error("`{object}`: {source}")]
    Io { object: String, source: object_store::Error },
    #[error("the cache folder `{}` cannot be used: {source}", folder.display())]
    Cache { folder: PathBuf, source: std::io::Error },
    /// An encrypted version that cannot be read with what was given; or one that is not encrypted, where a key was.
    #[error("index `{index}`, version {version}: {fault}")]
    Key { index: String, version: u64, fault: KeyFault },
    #[error(transparent)]
    NoKey(KeyFault),
    #[error("cannot start the store's threads: {0}")]
    Runtime(String),
}

impl StoreError {
    pub(super) fn malformed(place: Place, error: impl Into<FileError>) -> Self {
        Self::Malformed { place, source: Box::new(error.into()) }
    }

    /// Bytes that a right key does not open.
    pub(super) fn forged(place: Place, error: &Forged) -> Self {
        let expected = format!("block {} as it was encrypted", error.block);
        Self::Damaged { place, expected, got: "other bytes".into() }
    }

    /// A block that is not what its checksum says is damage; other errors are the checksums' own.
    pub(super) fn of_checksums(place: Place, error: ChecksumError) -> Self {
        match error {
            ChecksumError::Block { block, expected, got, .. } => {
                Self::Damaged { place, expected: format!("checksum {expected} of block {block}"), got }
            }
            error => Self::malformed(place, error),
        }
    }
}
