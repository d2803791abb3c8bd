/// What can be wrong with an embedder.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("column `{column}` is to be embedded: expected text, got {got}")]
    Column { column: String, got: String },
    #[error("this build of annvil has no feature `cloud` to ask `{url}` for embeddings")]
    NoHttp { url: String },
    #[error("embedder `{embedder}` cannot be started: {what}")]
    Start { embedder: String, what: String },
    #[error("embedder `{embedder}` has not answered for {seconds} s")]
    Timeout { embedder: String, seconds: u64 },
    /// It ended, or the connection did.
    #[error("embedder `{embedder}` is gone: {what}")]
    Gone { embedder: String, what: String },
    #[error("embedder `{embedder}`: {what}")]
    Answer { embedder: String, what: String },
}

impl EmbedError {
    pub(in crate::source) fn is_remote(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Gone { .. })
    }
}
