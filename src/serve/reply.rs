//! From what was found, or what was wrong, to an HTTP answer.

use std::io::{self, Write};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use super::{Fault, Limits};

/// Which version of its index an answer came from.
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("annvil-version");

pub(super) const JSON: &str = "application/json";

/// A success.
#[derive(Debug)]
pub(super) struct Reply {
    pub content_type: &'static str,
    pub version: Option<u64>,
    pub bytes: Vec<u8>,
}

/// Whose vocabulary a fault is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vocabulary {
    Ours,
    Qdrant,
}

impl Vocabulary {
    pub fn of(path: &str) -> Self {
        let is_qdrant = ["/collections", "/aliases", "/cluster", "/snapshots", "/locks", "/telemetry"];
        match is_qdrant.iter().any(|prefix| path.starts_with(prefix)) {
            true => Self::Qdrant,
            false => Self::Ours,
        }
    }
}

impl Reply {
    /// # Errors
    /// An answer longer than limits allow.
    pub fn json(value: &impl Serialize, version: Option<u64>, limits: &Limits) -> Result<Self, Fault> {
        let mut out = Bounded { bytes: Vec::new(), limit: limits.answer_bytes, is_over: false };
        match serde_json::to_writer(&mut out, value) {
            Ok(()) => Ok(Self { content_type: JSON, version, bytes: out.bytes }),
            Err(_) if out.is_over => Err(over(limits)),
            // Nothing else can fail: neither the memory written to nor a map with other keys than strings.
            Err(_) => Err(Fault::Internal),
        }
    }

    /// # Errors
    /// An answer longer than limits allow.
    pub fn bytes(
        content_type: &'static str,
        bytes: Vec<u8>,
        version: u64,
        limits: &Limits,
    ) -> Result<Self, Fault> {
        match bytes.len() <= limits.answer_bytes {
            true => Ok(Self { content_type, version: Some(version), bytes }),
            false => Err(over(limits)),
        }
    }

    pub fn into_response(self) -> Response {
        let mut response = response(StatusCode::OK, self.content_type, self.bytes);
        if let Some(version) = self.version {
            response.headers_mut().insert(VERSION_HEADER, version.into());
        }
        response
    }
}

pub(super) fn over(limits: &Limits) -> Fault {
    Fault::Value {
        what: "bytes of the answer",
        got: "more".into(),
        allowed: format!("up to {}: ask for fewer rows or attributes", limits.answer_bytes),
    }
}

pub(super) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A fault as its vocabulary has it.
pub(super) fn fault(fault: &Fault, vocabulary: Vocabulary) -> Response {
    let status = fault.status();
    let is_key = matches!(fault, Fault::NoKey | Fault::WrongKey);
    let mut response = match vocabulary {
        // As Qdrant does.
        Vocabulary::Qdrant if is_key => response(status, "text/plain; charset=utf-8", fault.to_string()),
        Vocabulary::Qdrant => {
            let prefix = match status {
                StatusCode::NOT_FOUND => "Not found: ",
                StatusCode::FORBIDDEN => "Forbidden: ",
                StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "Wrong input: ",
                _ => "",
            };
            let body = json!({ "status": { "error": format!("{prefix}{fault}") }, "time": 0.0 });
            response(status, JSON, body.to_string())
        }
        Vocabulary::Ours => {
            let body = serde_json::to_vec(&fault.body()).unwrap_or_default();
            response(status, JSON, body)
        }
    };
    let headers = response.headers_mut();
    if is_key {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let Fault::Method { allowed, .. } = fault {
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    // The body was not read to its end: what follows on this connection would be the rest of it.
    if matches!(fault, Fault::LargeBody { .. } | Fault::SlowBody { .. }) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    is_over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.is_over = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
