//! What one request, one client and all of them together may take. Beyond it a request is answered with what is
//! allowed, and nothing else suffers.

use std::time::Duration;

use super::Fault;

/// The limits of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body: 413. Default 16 MiB, a batch of 1,000 vectors of 1,536 dimensions.
    pub body_bytes: usize,
    /// Bytes of an answer: 422. Default 64 MiB.
    pub answer_bytes: usize,
    /// Rows for one query, those that an offset leaves out among them: 422. Default 10,000.
    pub k: usize,
    /// Queries in one request: 422. Default 1,000.
    pub batch: usize,
    /// Rows for all queries of one request, and different values of a facet: 422. Default 100,000.
    pub hits: usize,
    /// Bytes of a filter, or of Qdrant's as JSON: 422. Default 64 KiB. They may be nested 50 deep.
    pub filter_bytes: usize,
    /// Ids to leave out, to retrieve, or to search like: 422. Default 10,000.
    pub ids: usize,
    /// Requests that are worked on at once. Default: as many as cores.
    pub workers: usize,
    /// Requests that wait for a worker: 503. Default 256.
    pub waiting: usize,
    /// Requests under way of one API key or, without keys, of one address: 429. Default 256.
    pub per_client: usize,
    /// Open connections; more wait to be accepted. Default 4,096.
    pub connections: usize,
    /// From a request's first byte, or the end of the last, to the end of its headers: the connection is closed. Default
    /// 10 s. A TLS handshake may take as long, and so may a pause of whoever reads an answer.
    pub header_time: Duration,
    /// From the headers to the end of the body: 408. Default 10 s.
    pub body_time: Duration,
    /// Waiting for a worker, 503, and everything after it together, 408; a request may ask for less. Default 10 s.
    pub request_time: Duration,
    /// From the signal to stop to the end of what is under way; what takes longer is cut. Default 30 s.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            answer_bytes: 64 << 20,
            k: 10_000,
            batch: 1_000,
            hits: 100_000,
            filter_bytes: 64 << 10,
            ids: 10_000,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            waiting: 256,
            per_client: 256,
            connections: 4_096,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            request_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// That `batch` queries may ask for `k` rows each after leaving out `offset`.
    pub(super) fn check_size(&self, batch: usize, k: usize, offset: usize) -> Result<(), Fault> {
        within("k", k, 1, self.k)?;
        within("k + offset", k.saturating_add(offset), 1, self.k)?;
        within("queries", batch, 1, self.batch)?;
        self.check_hits(batch.saturating_mul(k))
    }

    pub(super) fn check_hits(&self, hits: usize) -> Result<(), Fault> {
        within("queries × k", hits, 0, self.hits)
    }

    pub(super) fn check_ids(&self, what: &'static str, ids: usize) -> Result<(), Fault> {
        within(what, ids, 0, self.ids)
    }

    pub(super) fn check_filter(&self, bytes: usize) -> Result<(), Fault> {
        within("bytes of the filter", bytes, 0, self.filter_bytes)
    }
}

/// What a facet may still count: how many different values, and how many bytes these have.
#[derive(Debug)]
pub(super) struct FacetRoom {
    limits: (usize, usize),
    values: usize,
    bytes: usize,
}

impl FacetRoom {
    pub fn of(limits: &Limits) -> Self {
        let limits = (limits.hits, limits.answer_bytes);
        Self { limits, values: limits.0, bytes: limits.1 }
    }

    /// Takes the place of a value that was not there.
    pub fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        let full = |what, allowed: usize| Fault::Value {
            what,
            got: "more".into(),
            allowed: format!("up to {allowed}: filter the points, or ask for another key"),
        };
        let values = self.values.checked_sub(1);
        self.values = values.ok_or_else(|| full("different values of the facet's key", self.limits.0))?;
        let bytes = self.bytes.checked_sub(bytes);
        self.bytes = bytes.ok_or_else(|| full("bytes of the facet's values", self.limits.1))?;
        Ok(())
    }
}

fn within(what: &'static str, got: usize, least: usize, most: usize) -> Result<(), Fault> {
    if (least..=most).contains(&got) {
        return Ok(());
    }
    Err(Fault::Value { what, got: got.to_string(), allowed: format!("{least} to {most}") })
}
