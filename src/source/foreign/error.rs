use super::super::embed::EmbedError;
use super::super::vector_files::VectorFileError;

/// What can be wrong with rows that are not in Parquet.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    #[error("`{uri}`: this build of annvil has no feature `{feature}`")]
    Feature { uri: String, feature: &'static str },
    #[error("`{uri}`: {what}")]
    Uri { uri: String, what: String },
    #[error("`{uri}`: {what}")]
    Credential { uri: String, what: String },
    /// Nobody answered, or not to us.
    #[error("`{uri}`: cannot connect: {what}")]
    Connect { uri: String, what: String },
    /// The server understood, and will not.
    #[error("`{uri}`: {what}")]
    Refused { uri: String, what: String },
    #[error("`{uri}` went away while it was read, after {rows} rows: {what}")]
    Interrupted { uri: String, rows: u64, what: String },
    #[error("`{uri}` was changed while it was read: {what}")]
    Changed { uri: String, what: String },
    #[error("`{uri}` has no column `{column}`; its columns are {available}")]
    MissingColumn { uri: String, column: String, available: String },
    #[error("`{uri}`, column `{column}`: expected {expected}, got {got}")]
    ColumnType { uri: String, column: String, expected: &'static str, got: String },
    #[error("`{uri}`, row {row}, column `{column}`: {what}")]
    Value { uri: String, row: u64, column: String, what: String },
    #[error("`{uri}`, line {line}: {what}")]
    Line { uri: String, line: u64, what: String },
    #[error("`{uri}` has no rows")]
    NoRows { uri: String },
    #[error(transparent)]
    VectorFile(#[from] VectorFileError),
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error("cannot read `{uri}`")]
    Read { uri: String, source: std::io::Error },
    #[error("cannot write to the folder `{folder}`, where rows are staged")]
    Staging { folder: String, source: std::io::Error },
    #[error("cannot write `{file}`: {what}")]
    Write { file: String, what: String },
    #[error("cancelled")]
    Cancelled,
}

impl ForeignError {
    /// Whether it is for another to be put right: a server, a network, an embedder's.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Interrupted { .. } | Self::Changed { .. } => true,
            Self::Embed(error) => error.is_remote(),
            _ => false,
        }
    }
}
