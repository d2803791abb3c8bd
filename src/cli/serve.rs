//! `annvil serve`: published indexes over HTTP, until a signal.

use std::future::Future;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::residence::ResidenceArgs;
use super::{answer, json_line};
use crate::error::Error;
use crate::serve::{
    ApiKeys, Event, KEYS_VARIABLE, KeyError, Limits, ServeError, ServeOptions, Server, Source, Tls, TlsError,
};

/// Answer searches over HTTP: JSON, Arrow, and the read side of Qdrant's REST API.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil serve out/glove10k-hnsw
  annvil serve words=s3://bucket/words --watch 30 --listen 0.0.0.0:6333 --api-keys keys.txt --tls-cert cert.pem --tls-key key.pem
  curl localhost:6333/v1/indexes/glove10k-hnsw/search -d '{\"ids\": [590], \"k\": 5, \"attributes\": true}'

Paths: / (a page to search with), /v1/indexes, /v1/indexes/NAME, /v1/indexes/NAME/search, /openapi.json, /healthz, /readyz, /metrics,
and under /collections what Qdrant's clients read. Keys come from --api-keys or the environment variable ANNVIL_API_KEYS, and are
sent as `api-key: KEY` or `Authorization: Bearer KEY`; without any, whoever reaches the address may ask.
SIGTERM or Ctrl-C stops accepting, finishes what is under way and ends with 0; a second one ends at once.")]
pub struct ServeArgs {
    /// Indexes to serve: folders or URIs, as `build` printed them, or NAME=URI
    #[arg(value_name = "INDEX", required = true, value_parser = Source::parse)]
    indexes: Vec<Source>,
    /// Address to listen on; port 0 is any that is free
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6333")]
    listen: SocketAddr,
    /// Look for new versions every so many seconds, and move over between queries [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    watch: Option<Duration>,
    #[command(flatten)]
    residence: ResidenceArgs,
    /// Most bytes of memory for each open index; one that takes more is not opened [default: no limit]
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<u64>,
    /// File with API keys, one per line, of 16 characters or more; `KEY tenant=NAME` sees the partition NAME and nothing else
    #[arg(long, value_name = "FILE")]
    api_keys: Option<PathBuf>,
    /// Certificates in PEM, the server's own first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Share of queries to compare with exact search, for the recall in /metrics
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = share)]
    shadow_sample: f64,
    /// Print what happens as JSON, one object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Most bytes of a request's body [default: 16 MiB]
    #[arg(long, value_name = "BYTES")]
    max_body: Option<usize>,
    /// Most bytes of an answer [default: 64 MiB]
    #[arg(long, value_name = "BYTES")]
    max_answer: Option<usize>,
    /// Most rows for one query [default: 10000]
    #[arg(long, value_name = "N")]
    max_k: Option<usize>,
    /// Most queries in one request [default: 1000]
    #[arg(long, value_name = "N")]
    max_batch: Option<usize>,
    /// Most rows for all queries of one request, and most different values of a facet [default: 100000]
    #[arg(long, value_name = "N")]
    max_hits: Option<usize>,
    /// Most bytes of a filter [default: 64 KiB]
    #[arg(long, value_name = "BYTES")]
    max_filter: Option<usize>,
    /// Requests worked on at once [default: as many as cores]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Most requests that wait for a worker [default: 256]
    #[arg(long, value_name = "N")]
    max_waiting: Option<usize>,
    /// Most requests under way of one key, or of one address [default: 256]
    #[arg(long, value_name = "N")]
    max_per_client: Option<usize>,
    /// Most open connections [default: 4096]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Longest wait of a request, and longest work on it [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Longest that headers, and then a body, may take to arrive [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    read_timeout: Option<Duration>,
    /// Longest that requests under way may take after a signal; then they are cut [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    drain: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if (Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(&time) => Ok(time),
        _ => Err("allowed: 0.01 to 86400".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("allowed: 0 to 1".into()) }
}

#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {address}: {source}")]
    Address { address: SocketAddr, source: std::io::Error },
}

impl From<ListenError> for Error {
    fn from(error: ListenError) -> Self {
        Error::BadInput(Box::new(error))
    }
}

impl From<ServeError> for Error {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Open { name, source } => match Error::from(*source) {
                Error::BadInput(cause) => Error::BadInput(format!("`{name}`: {cause}").into()),
                error => error,
            },
            ServeError::Watch(error) => error.into(),
            ServeError::Start(_) => Error::Internal(Box::new(error)),
            error => Error::BadInput(Box::new(error)),
        }
    }
}

/// # Errors
/// Arguments and files that do not fit, an address that cannot be had, and what opening the indexes says.
pub(super) fn run(args: &ServeArgs, out: &mut dyn Write) -> Result<(), Error> {
    let options = args.options()?;
    let (indexes, is_open, is_encrypted) =
        (options.indexes.clone(), options.keys.is_empty(), options.tls.is_some());
    // Before the indexes are read: whoever cannot listen need not wait to be told.
    let address = |source| ListenError::Address { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).map_err(address)?;
    let local = listener.local_addr().map_err(address)?;
    let as_json = args.json;
    let server = Server::open(options, Arc::new(move |event| log(&event, as_json)))?;
    let url = format!("{}://{local}", if is_encrypted { "https" } else { "http" });
    let names: Vec<&str> = indexes.iter().map(|source| source.name.as_str()).collect();
    let line = match as_json {
        true => json_line(&json!({ "event": "listening", "url": url, "indexes": names }))?,
        false => format!("serving {} at {url}\n", names.join(", ")),
    };
    answer(out, &line)?;
    if is_open && !local.ip().is_loopback() {
        let _ = writeln!(
            std::io::stderr(),
            "no API key is asked for: whoever reaches {local} may search (see --api-keys and {KEYS_VARIABLE})"
        );
    }
    Ok(server.run(listener, signal())?)
}

impl ServeArgs {
    fn options(&self) -> Result<ServeOptions, Error> {
        // Answers carry attributes.
        let mut open = self.residence.options()?.whole_attributes();
        if let Some(limit) = self.memory_limit {
            open = open.memory_limit_bytes(limit);
        }
        Ok(ServeOptions {
            indexes: self.indexes.clone(),
            open,
            watch: self.watch,
            shadow_rate: self.shadow_sample,
            keys: self.keys().map_err(ListenError::from)?,
            tls: self.tls().map_err(ListenError::from)?,
            limits: self.limits.limits(),
        })
    }

    fn keys(&self) -> Result<ApiKeys, KeyError> {
        let from_file = self.api_keys.as_deref().map(ApiKeys::read).transpose()?.unwrap_or_default();
        Ok(from_file.and(ApiKeys::from_environment()?.unwrap_or_default()))
    }

    fn tls(&self) -> Result<Option<Tls>, TlsError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificates), Some(key)) => Tls::read(certificates, key).map(Some),
            _ => Ok(None),
        }
    }
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            body_bytes: self.max_body.unwrap_or(default.body_bytes),
            answer_bytes: self.max_answer.unwrap_or(default.answer_bytes),
            k: self.max_k.unwrap_or(default.k),
            batch: self.max_batch.unwrap_or(default.batch),
            hits: self.max_hits.unwrap_or(default.hits),
            filter_bytes: self.max_filter.unwrap_or(default.filter_bytes),
            workers: self.workers.unwrap_or(default.workers),
            waiting: self.max_waiting.unwrap_or(default.waiting),
            per_client: self.max_per_client.unwrap_or(default.per_client),
            connections: self.max_connections.unwrap_or(default.connections),
            request_time: self.timeout.unwrap_or(default.request_time),
            header_time: self.read_timeout.unwrap_or(default.header_time),
            body_time: self.read_timeout.unwrap_or(default.body_time),
            drain_time: self.drain.unwrap_or(default.drain_time),
            ..default
        }
    }
}

/// Done at the first SIGTERM or Ctrl-C; a second one ends the process.
fn signal() -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async {
        asked_to_end().await;
        tokio::spawn(async {
            asked_to_end().await;
            std::process::exit(i32::from(Error::Cancelled.exit_code()));
        });
    })
}

async fn asked_to_end() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    let _ = interrupt.await;
}

/// A line on stderr for people, or on stdout for programs. Whoever no longer reads it is not waited for.
fn log(event: &Event, as_json: bool) {
    if as_json {
        let _ = writeln!(std::io::stdout(), "{}", as_value(event));
        return;
    }
    let text = match event {
        Event::Taken { index, from, to } => format!("{index}: version {to} answers in place of {from}"),
        Event::Refused { index, version, reason } => {
            format!("{index}: version {version} is refused, the one before it stays: {reason}")
        }
        Event::Unseen { index, reason } => format!("{index}: versions could not be listed: {reason}"),
        Event::Failed { index, reason } => format!("{index}: a request failed: {reason}"),
        Event::Draining => "finishing what is under way".into(),
        Event::Cut { connections } => format!("{connections} connections were cut"),
    };
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn as_value(event: &Event) -> Value {
    match event {
        Event::Taken { index, from, to } => {
            json!({ "event": "taken", "index": index, "from": from, "to": to })
        }
        Event::Refused { index, version, reason } => {
            json!({ "event": "refused", "index": index, "version": version, "reason": reason })
        }
        Event::Unseen { index, reason } => json!({ "event": "unseen", "index": index, "reason": reason }),
        Event::Failed { index, reason } => json!({ "event": "failed", "index": index, "reason": reason }),
        Event::Draining => json!({ "event": "draining" }),
        Event::Cut { connections } => json!({ "event": "cut", "connections": connections }),
    }
}
