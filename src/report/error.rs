//! What a report refuses, and what it fails loudly over.

use super::measurements::MeasurementsError;
use crate::Error;
use crate::compute::ComputeError;
use crate::loader::{FilterError, QueryError};

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("no queries to measure with")]
    NoQueries,
    #[error("index `{index}` keeps no vectors to compute exact neighbours from: give its rows with --base")]
    NoVectors { index: String },
    #[error("row {id} of index `{index}` is not in `{base}`")]
    NotInBase { index: String, id: String, base: String },
    #[error("the ground truth `{file}` is wrong: query {query} has {got}")]
    WrongTruth { file: String, query: usize, got: String },
    #[error(
        "the ground truth `{file}` names row {id} for query {query}, which index `{index}` does not have"
    )]
    UnknownRow { file: String, query: usize, id: String, index: String },
    #[error("the ground truth `{file}` has answers to {got} queries, expected {expected}")]
    TruthQueries { file: String, expected: usize, got: usize },
    #[error(
        "index `{index}` is not what was certified: recall@{k} at {setting} is {measured:.4} (95 % interval up to {high:.4}), its certificate says {certified:.4} (from {low:.4}){advice}"
    )]
    BelowCertificate {
        index: String,
        k: u32,
        setting: String,
        measured: f64,
        high: f64,
        certified: f64,
        low: f64,
        advice: &'static str,
    },
    #[error(
        "index `{index}` does not hold the vectors that were certified: its exact neighbours of the same queries have digest {got}, the certificate's {expected}"
    )]
    OtherVectors { index: String, expected: String, got: String },
    #[error("{0}")]
    Regression(String),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Compute(#[from] ComputeError),
    #[error(transparent)]
    Measurements(#[from] MeasurementsError),
    #[error("the measurements cannot be summarised: {0}")]
    Summary(String),
    #[error("the page cannot be made: {0}")]
    Page(String),
    #[error("nothing to compare: {0}")]
    Incomparable(String),
}

impl From<ReportError> for Error {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Compute(error) => error.into(),
            ReportError::Query(error) => error.into(),
            ReportError::BelowCertificate { .. } | ReportError::OtherVectors { .. } => {
                Error::BadArtifact(error.into())
            }
            ReportError::Regression(_) => Error::BelowGate(error.into()),
            ReportError::Summary(_) | ReportError::Page(_) => Error::Internal(error.into()),
            error => Error::BadInput(error.into()),
        }
    }
}
