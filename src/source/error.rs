use crate::store::LocationError;

use super::embed::EmbedError;
use super::foreign::ForeignError;

use super::validate::BadRow;

/// Everything that can be wrong with a source, each with what was found instead of what was expected.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Rows that are not in Parquet.
    #[error(transparent)]
    Foreign(Box<ForeignError>),
    #[error("`{pattern}` is no valid pattern: {what}")]
    Pattern { pattern: String, what: String },
    #[error("no file matches `{uri}`: {found}")]
    NoFile { uri: String, found: String },
    #[error("the rows cannot be written to the scratch folder")]
    Elsewhere(#[source] std::io::Error),
    #[error("no input files were named")]
    NoInputs,
    #[error("`{file}` is no readable Parquet file: {what}")]
    Footer { file: String, what: String },
    #[error("`{file}`, row group {row_group}: damaged Parquet: {what}")]
    Damaged { file: String, row_group: usize, what: String },

    #[error("`{file}` has no column `{column}` for the {role}; its columns are {available}")]
    MissingColumn { file: String, column: String, role: &'static str, available: String },
    #[error("`{file}`, column `{column}`: the {role} must be {expected}, got {got}")]
    ColumnType { file: String, column: String, role: &'static str, expected: &'static str, got: String },
    #[error("column `{column}` is {got} in `{file}` and {expected} in `{first_file}`")]
    TypeDiffers { file: String, first_file: String, column: String, expected: String, got: String },
    #[error("column `{column}` is named twice among the attribute columns")]
    RepeatedColumn { column: String },
    #[error("`{file}`, column `{column}`: expected {expected}-dimensional vectors, got {got}")]
    Dimension { file: String, column: String, expected: usize, got: usize },
    #[error("{dim} dimensions: vectors have 1 to {} of them", super::MAX_DIM)]
    DimensionLimit { dim: usize },

    #[error("`where` predicate `{predicate}`: {what}")]
    Predicate { predicate: String, what: String },
    #[error("`where` predicate `{predicate}`: this build of annvil has no `polars` feature to evaluate it")]
    PredicateUnsupported { predicate: String },

    #[error("`{file}`, row group {row_group}, row {row}{}: {reason}",
        id.as_ref().map(|id| format!(" (id {id})")).unwrap_or_default())]
    BadRow {
        file: String,
        row_group: usize,
        /// Within the row group, from 0.
        row: u64,
        /// The row's id, where it has one.
        id: Option<String>,
        reason: BadRow,
    },
    #[error("the input has no rows: {files} file(s), first `{first_file}`")]
    NoRows { files: usize, first_file: String },
    #[error(
        "no row is left of {read} read: {filtered_out} filtered out by the predicate, {rejected} rejected{detail}"
    )]
    NothingKept { read: u64, filtered_out: u64, rejected: u64, detail: String },
    #[error("more than {limit} rows: one segment numbers its rows with 32 bits")]
    TooManyRows { limit: u64 },
    #[error("cannot hold out {count} of {rows} rows: at least 1 must be held out and at least 1 left")]
    HoldOut { count: usize, rows: usize },
    #[error("`{file}`: {what}")]
    GroundTruth { file: String, what: String },
    #[error("cancelled")]
    Cancelled,

    #[error("arrow: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("attribute summary of column `{column}`: {what}")]
    Summary { column: String, what: String },
    #[error("cannot start the reading thread: {0}")]
    Thread(std::io::Error),
}

pub type Result<T, E = SourceError> = std::result::Result<T, E>;

impl From<ForeignError> for SourceError {
    fn from(error: ForeignError) -> Self {
        match error {
            ForeignError::Cancelled => Self::Cancelled,
            error => Self::Foreign(Box::new(error)),
        }
    }
}

impl From<EmbedError> for SourceError {
    fn from(error: EmbedError) -> Self {
        ForeignError::from(error).into()
    }
}
