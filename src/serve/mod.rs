//! HTTP over the loader: published indexes, answered to whoever asks, in a vocabulary of our own under `/v1` and in the
//! read side of Qdrant's REST API under `/collections`.
//!
//! ```text
//! connection ── listen: TLS, time-outs ── admission: key, share, body ── workers: bounded queue ── v1 | qdrant ── loader
//! ```
//!
//! A request is read whole, within limits, before a thread is spent on it; parsing, searching and writing the answer happen on
//! that thread, never on the runtime's. Where a version must be asked for it gives the thread back until that is there; and all that is
//! done for it has one deadline. It holds one version of its index from the first look to the last byte, whatever is
//! published meanwhile, and the answer names it.
//!
//! Refuses to write, whatever the method. Speaks HTTP/1.1 alone: what stands in front of it may speak more.

mod admission;
mod arrow;
mod deadline;
mod fault;
mod hosted;
mod keys;
mod limits;
mod listen;
mod memory;
mod metrics;
mod openapi;
mod page;
mod points;
mod qdrant;
mod reply;
mod routes;
mod shadow;
mod shared;
mod tls;
mod v1;
mod workers;

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

pub use fault::{ErrorBody, ErrorDetail, Fault};
pub use hosted::Source;
pub use keys::{ApiKeys, KEYS_VARIABLE, KeyError};
pub use limits::Limits;
pub use tls::{Tls, TlsError};

use self::shared::Shared;
use crate::loader::{LoadError, OpenOptions, Watch};

/// What to serve, and how.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    pub indexes: Vec<Source>,
    pub open: OpenOptions,
    /// How often to look for new versions; never, unless it is said.
    pub watch: Option<Duration>,
    /// This share of the queries, 0 to 1, is compared with exact search.
    pub shadow_rate: f64,
    /// None: whoever reaches the server may ask.
    pub keys: ApiKeys,
    pub tls: Option<Tls>,
    pub limits: Limits,
}

/// What happens beside requests: for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new version answers from now on.
    Taken { index: String, from: u64, to: u64 },
    /// A new version was not taken; the old one stays.
    Refused { index: String, version: u64, reason: String },
    /// The versions could not be listed; the old one stays.
    Unseen { index: String, reason: String },
    /// A request was told that the index's store failed, or the index is damaged; not how.
    Failed { index: String, reason: String },
    /// No connection is accepted any longer; what is under way is finished.
    Draining,
    /// So many connections were still open after the time for draining, and are cut.
    Cut { connections: usize },
}

/// Who is told of events, from any thread.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "`{text}` names no index: expected NAME=URI, or a URI whose last part is a name of letters, digits, `-`, `_`, `.`"
    )]
    Name { text: String },
    #[error("two indexes are called `{name}`: give one another name, as NAME=URI")]
    Twice { name: String },
    #[error("no index is named: expected one or more")]
    NoIndex,
    #[error("`{name}`: {source}")]
    Open { name: String, source: Box<LoadError> },
    #[error(transparent)]
    Watch(LoadError),
    #[error("shadow rate {got}: expected 0 to 1")]
    ShadowRate { got: f64 },
    #[error("the server could not be started: {0}")]
    Start(std::io::Error),
}

/// Open indexes, ready to answer.
pub struct Server {
    shared: Arc<Shared>,
    watch: Option<Duration>,
    tls: Option<Tls>,
}

impl Server {
    /// Opens every index.
    ///
    /// # Errors
    /// Names that are none or occur twice; what opening an index says.
    pub fn open(options: ServeOptions, events: Events) -> Result<Self, ServeError> {
        let (watch, tls) = (options.watch, options.tls.clone());
        Ok(Self { shared: Arc::new(Shared::open(options, events)?), watch, tls })
    }

    /// Answers on `listener` until `until` is done, then finishes what is under way, within its time. What a store still holds up
    /// then is left to its thread: it ends with the process, if not before.
    ///
    /// # Errors
    /// Threads could not be started, or the listener is none.
    pub fn run(self, listener: TcpListener, until: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { shared, watch, tls } = self;
        let watches = watch.map(|interval| shared.indexes.watch(interval)).transpose();
        let watches = watches.map_err(ServeError::Watch)?.unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("annvil-serve")
            .max_blocking_threads(shared.limits.workers.max(1))
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let served = runtime.block_on(listen::serve(shared, listener, tls, until));
        // Neither waits for a thread that waits for a store.
        watches.into_iter().for_each(Watch::detach);
        runtime.shutdown_background();
        served.map_err(ServeError::Start)
    }

    /// The OpenAPI document, as `/openapi.json` has it.
    pub fn openapi() -> String {
        openapi::document()
    }
}
