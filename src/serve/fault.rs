//! Answers that are no success: what was wrong, and what is allowed.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::loader::{FilterError, QueryError};

/// Why a request is not answered as it asks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("the body is not understood: {0}")]
    Body(String),
    #[error("the path is not UTF-8")]
    Path,
    #[error("Must provide an API key or an Authorization bearer token")]
    NoKey,
    #[error("Invalid API key")]
    WrongKey,
    #[error("this server only reads: {method} {path} would write")]
    ReadOnly { method: String, path: String },
    #[error("nothing is served at {path}")]
    Nowhere { path: String },
    #[error("no index is called `{name}`; there are: {known}")]
    NoIndex { name: String, known: String },
    #[error("no point has the id {id}")]
    NoPoint { id: String },
    #[error("{method} is not answered here, only {allowed}")]
    Method { method: String, allowed: &'static str },
    #[error("the body did not arrive within {allowed_seconds} s")]
    SlowBody { allowed_seconds: f64 },
    #[error("a body of {got} bytes: allowed are at most {allowed}")]
    LargeBody { got: String, allowed: usize },
    #[error("{what} is {got}, allowed: {allowed}")]
    Value { what: &'static str, got: String, allowed: String },
    #[error("{what} is not supported; allowed: {allowed}")]
    Unsupported { what: String, allowed: &'static str },
    #[error("{what} is not for a key that is bound to a tenant")]
    OfOthers { what: &'static str },
    #[error(transparent)]
    Query(QueryError),
    #[error("the request took longer than {allowed_seconds} s")]
    TimeOut { allowed_seconds: f64 },
    #[error("this client has {allowed} requests under way, as many as are allowed")]
    Greedy { allowed: usize },
    #[error("{allowed} requests are waiting already, as many as are allowed")]
    Full { allowed: usize },
    #[error("no worker was free within {allowed_seconds} s")]
    Waited { allowed_seconds: f64 },
    // None of these says why: that may tell where the index lies. A `reason` is for the log.
    #[error(
        "version {version}, the latest, could not be taken, and version {current} is older than was asked for"
    )]
    Behind { version: u64, current: u64 },
    #[error("the index's store did not say which version is the latest")]
    Unseen,
    #[error("the index's store did not give what the answer needs")]
    Store { reason: String },
    #[error("the index was found to be damaged")]
    Damaged { reason: String },
    #[error("the answer could not be made: this is a fault of the server")]
    Internal,
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Store(failure) | QueryError::Filter(FilterError::Store(failure)) => {
                Fault::Store { reason: failure.to_string() }
            }
            QueryError::Damaged(reason) | QueryError::Filter(FilterError::Damaged(reason)) => {
                Fault::Damaged { reason }
            }
            error => Fault::Query(error),
        }
    }
}

impl From<FilterError> for Fault {
    fn from(error: FilterError) -> Self {
        QueryError::from(error).into()
    }
}

/// The body of every answer under `/v1` that is no success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What kind of fault it is, for programs: `malformed`, `limit`, `not_found`, ….
    pub code: &'static str,
    /// What exactly, for people.
    pub message: String,
    /// What would have been allowed, where that is a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Fault::Body(_) | Fault::Path | Fault::Unsupported { .. } => StatusCode::BAD_REQUEST,
            Fault::NoKey | Fault::WrongKey => StatusCode::UNAUTHORIZED,
            Fault::ReadOnly { .. } | Fault::OfOthers { .. } => StatusCode::FORBIDDEN,
            Fault::Nowhere { .. } | Fault::NoIndex { .. } | Fault::NoPoint { .. } => StatusCode::NOT_FOUND,
            Fault::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Fault::SlowBody { .. } | Fault::TimeOut { .. } | Fault::Query(QueryError::TimeOut { .. }) => {
                StatusCode::REQUEST_TIMEOUT
            }
            Fault::LargeBody { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::Store { .. }
            | Fault::Damaged { .. }
            | Fault::Full { .. }
            | Fault::Waited { .. }
            | Fault::Behind { .. }
            | Fault::Unseen => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Value { .. } | Fault::Query(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Fault::Greedy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Fault::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A word for programs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Fault::Body(_) | Fault::Path => "malformed",
            Fault::Unsupported { .. } => "unsupported",
            Fault::NoKey | Fault::WrongKey => "unauthorized",
            Fault::ReadOnly { .. } => "read_only",
            Fault::OfOthers { .. } => "forbidden",
            Fault::Nowhere { .. } | Fault::NoIndex { .. } | Fault::NoPoint { .. } => "not_found",
            Fault::Method { .. } => "method",
            Fault::SlowBody { .. } | Fault::TimeOut { .. } | Fault::Query(QueryError::TimeOut { .. }) => {
                "time_out"
            }
            Fault::LargeBody { .. } => "large_body",
            Fault::Value { .. } => "limit",
            Fault::Store { .. } => "store",
            Fault::Damaged { .. } => "damaged",
            Fault::Query(QueryError::Filter(_)) => "filter",
            Fault::Query(_) => "query",
            Fault::Greedy { .. } | Fault::Full { .. } | Fault::Waited { .. } => "busy",
            Fault::Behind { .. } | Fault::Unseen => "stale",
            Fault::Internal => "internal",
        }
    }

    fn allowed(&self) -> Option<String> {
        match self {
            Fault::Value { allowed, .. } => Some(allowed.clone()),
            Fault::Unsupported { allowed, .. } | Fault::Method { allowed, .. } => Some((*allowed).into()),
            Fault::SlowBody { allowed_seconds }
            | Fault::TimeOut { allowed_seconds }
            | Fault::Waited { allowed_seconds } => Some(format!("{allowed_seconds} s")),
            Fault::LargeBody { allowed, .. } | Fault::Greedy { allowed } | Fault::Full { allowed } => {
                Some(allowed.to_string())
            }
            Fault::NoIndex { known, .. } => Some(known.clone()),
            Fault::Query(
                QueryError::Option { expected, .. } | QueryError::ShardAttribute { expected, .. },
            ) => Some(expected.clone()),
            Fault::Query(QueryError::Dim { expected, .. }) => Some(expected.to_string()),
            Fault::Query(QueryError::Attribute { known, .. }) => Some(known.clone()),
            Fault::Query(QueryError::TimeOut { timeout, .. }) => Some(format!("{} s", timeout.as_secs_f64())),
            Fault::Query(QueryError::Filter(error)) => match error {
                FilterError::Long { expected, .. } => Some(expected.to_string()),
                FilterError::Deep { limit, .. } | FilterError::Complex { limit, .. } => {
                    Some(limit.to_string())
                }
                FilterError::Column { known, .. } => Some(known.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the log is told, and whoever asked is not.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Fault::Store { reason } | Fault::Damaged { reason } => Some(reason),
            _ => None,
        }
    }

    pub fn body(&self) -> ErrorBody {
        let error = ErrorDetail { code: self.code(), message: self.to_string(), allowed: self.allowed() };
        ErrorBody { error }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::loader::StoreFailure;
    use crate::store::StoreError;

    #[test]
    fn what_the_store_says_is_for_the_log_alone() {
        let place = "s3://bucket/secret/seg/1/vectors.safetensors";
        let failure = || StoreFailure(Arc::new(StoreError::NotFound { what: place.into() }));
        let errors = [
            QueryError::Store(failure()),
            QueryError::Filter(FilterError::Store(failure())),
            QueryError::Damaged(place.into()),
            QueryError::Filter(FilterError::Damaged(place.into())),
        ];
        for (error, code) in errors.into_iter().zip(["store", "store", "damaged", "damaged"]) {
            let fault = Fault::from(error);
            assert_eq!((fault.status().as_u16(), fault.code()), (503, code), "{fault:?}");
            let body = serde_json::to_string(&fault.body()).unwrap();
            assert!(!body.contains("secret"), "{body}");
            assert!(fault.reason().unwrap().contains(place));
        }
    }
}
