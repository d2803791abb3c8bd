//! Questions in JSON by HTTP, to services that are no object stores.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::connection::use_ring;

/// An answer longer than this is none that anyone waits for.
const MAX_ANSWER_BYTES: usize = 1 << 30;
const CONNECT: Duration = Duration::from_secs(10);
/// A service that is busy, or away for a moment, is asked again after growing pauses.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// What is shown of an answer that is a refusal.
const SHOWN: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Failed(String),
    #[error("answered {status}: {body}")]
    Status { status: u16, body: String },
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
}

/// Sends the same header with each request.
pub struct JsonClient {
    client: reqwest::Client,
    header: Option<(&'static str, String)>,
    timeout: Duration,
}

impl JsonClient {
    /// # Errors
    /// A machine without TLS roots.
    pub fn new(header: Option<(&'static str, String)>, timeout: Duration) -> Result<Self, HttpError> {
        use_ring();
        let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(timeout).build();
        Ok(Self { client: client.map_err(|error| HttpError::Failed(chain(&error)))?, header, timeout })
    }

    /// # Errors
    /// After some attempts, where another could help; at once where not.
    pub async fn post(&self, url: &str, body: Vec<u8>) -> Result<Bytes, HttpError> {
        let body = Bytes::from(body);
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let failed = match self.try_post(url, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_pass = match &failed {
                HttpError::Failed(_) => true,
                HttpError::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
                HttpError::Timeout | HttpError::TooLong => false,
            };
            if !may_pass || attempt == ATTEMPTS || start.elapsed() > self.timeout {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        unreachable!("attempts come to an end")
    }

    async fn try_post(&self, url: &str, body: Bytes) -> Result<Bytes, HttpError> {
        let failed = |error: reqwest::Error| {
            if error.is_timeout() { HttpError::Timeout } else { HttpError::Failed(chain(&error)) }
        };
        let mut request = self.client.post(url).header("content-type", "application/json").body(body);
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut answer = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(HttpError::TooLong);
            }
            answer.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let body = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]).into_owned();
            return Err(HttpError::Status { status: status.as_u16(), body });
        }
        Ok(answer.freeze())
    }
}

/// The error with what it came from: reqwest's own message says only that it failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
