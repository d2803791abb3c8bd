//! An embedder behind HTTP: `POST {"texts": […]}`, answered by `{"vectors": [[…], …]}`.

use std::time::Duration;

use super::{EmbedError, Embedder, Question, parse_answer};
use crate::store::{HttpError, JsonClient, Secret, runtime};

pub(super) struct Http {
    url: String,
    client: JsonClient,
    timeout: Duration,
}

impl Http {
    pub fn new(url: &str, credential: Option<&Secret>, timeout: Duration) -> Result<Self, EmbedError> {
        let failed = |what: String| EmbedError::Start { embedder: url.into(), what };
        let token = credential.map(Secret::resolve).transpose().map_err(failed)?;
        let headers = token.map(|token| ("authorization", format!("Bearer {token}")));
        let client = JsonClient::new(headers, timeout).map_err(|error| failed(error.to_string()))?;
        Ok(Self { url: url.into(), client, timeout })
    }
}

impl Embedder for Http {
    fn name(&self) -> String {
        self.url.clone()
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let question = serde_json::to_vec(&Question { texts }).expect("texts are JSON");
        let gone = |what: String| EmbedError::Gone { embedder: self.url.clone(), what };
        let runtime = runtime().map_err(|error| gone(error.to_string()))?;
        match runtime.block_on(self.client.post(&self.url, question)) {
            Ok(answer) => parse_answer(&|| self.name(), &answer),
            Err(HttpError::Timeout) => {
                Err(EmbedError::Timeout { embedder: self.name(), seconds: self.timeout.as_secs() })
            }
            Err(error @ HttpError::Status { .. }) => {
                Err(EmbedError::Answer { embedder: self.name(), what: error.to_string() })
            }
            Err(error) => Err(gone(error.to_string())),
        }
    }
}
