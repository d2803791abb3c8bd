//! What Prometheus is told. Labels take their values from the indexes, the routes and the codes of faults, never from a
//! request, so that nobody can make more of them.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::memory;
use crate::loader::Index;

type Labels = Vec<(&'static str, String)>;

pub(super) struct Metrics {
    registry: Registry,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    answers: Family<Labels, Counter>,
    faults: Family<Labels, Counter>,
    queries: Family<Labels, Counter>,
    under_way: Gauge<i64, AtomicI64>,
    waiting: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    resident_bytes: Gauge<i64, AtomicI64>,
    available_bytes: Gauge<i64, AtomicI64>,
    version: Family<Labels, Gauge<i64, AtomicI64>>,
    rows: Family<Labels, Gauge<i64, AtomicI64>>,
    fetched_bytes: Family<Labels, Gauge<i64, AtomicI64>>,
    fetch_requests: Family<Labels, Gauge<i64, AtomicI64>>,
    cached_bytes: Family<Labels, Gauge<i64, AtomicI64>>,
    taken: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    recall: Family<Labels, Histogram, fn() -> Histogram>,
    recall_last: Family<Labels, Gauge<f64, AtomicU64>>,
    shadows_left_out: Counter,
}

/// 100 µs to 13 s, each twice the last.
fn latency() -> Histogram {
    Histogram::new((0..18).map(|power| 1e-4 * f64::from(1 << power)))
}

fn recall() -> Histogram {
    Histogram::new([0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 1.0])
}

fn of(index: &str) -> Labels {
    vec![("index", index.into())]
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("annvil");
        let mut metrics = Self {
            registry: Registry::default(),
            seconds: Family::new_with_constructor(latency),
            answers: Family::default(),
            faults: Family::default(),
            queries: Family::default(),
            under_way: Gauge::default(),
            waiting: Gauge::default(),
            connections: Gauge::default(),
            resident_bytes: Gauge::default(),
            available_bytes: Gauge::default(),
            version: Family::default(),
            rows: Family::default(),
            fetched_bytes: Family::default(),
            fetch_requests: Family::default(),
            cached_bytes: Family::default(),
            taken: Family::default(),
            refused: Family::default(),
            recall: Family::new_with_constructor(recall),
            recall_last: Family::default(),
            shadows_left_out: Counter::default(),
        };
        let m = &metrics;
        registry.register("request_seconds", "From headers to answer, by index and route", m.seconds.clone());
        registry.register("answers", "Answers by HTTP status", m.answers.clone());
        registry.register("errors", "Answers that are no success, by code", m.faults.clone());
        registry.register("queries", "Vectors searched", m.queries.clone());
        registry.register("requests_in_flight", "Requests under way", m.under_way.clone());
        registry.register("requests_waiting", "Requests that wait for a worker", m.waiting.clone());
        registry.register("connections", "Open connections", m.connections.clone());
        let what = "Memory of this process, 0 where the system does not tell";
        registry.register("memory_resident_bytes", what, m.resident_bytes.clone());
        let what = "Memory that it may have: the machine's, or its container's limit";
        registry.register("memory_available_bytes", what, m.available_bytes.clone());
        registry.register("index_version", "The version served", m.version.clone());
        registry.register("index_rows", "Rows of the version served", m.rows.clone());
        let what = "Bytes that opening and searching the version served has fetched, where it is lazy";
        registry.register("index_fetched_bytes", what, m.fetched_bytes.clone());
        let what = "Requests to its store that took; what the cache had is not among them";
        registry.register("index_fetch_requests", what, m.fetch_requests.clone());
        registry.register("index_cached_bytes", "Bytes of its blocks in memory", m.cached_bytes.clone());
        registry.register("versions_taken", "Moves to a new version", m.taken.clone());
        registry.register("versions_refused", "New versions that were not taken", m.refused.clone());
        registry.register("shadow_recall", "Recall of sampled answers beside exact search", m.recall.clone());
        registry.register("shadow_recall_last", "The last of them", m.recall_last.clone());
        registry.register(
            "shadow_left_out",
            "Samples not compared because others were",
            m.shadows_left_out.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    /// In OpenMetrics' text format.
    pub fn text(&self, waiting: usize) -> String {
        self.waiting.set(waiting as i64);
        self.resident_bytes.set(memory::resident_bytes().unwrap_or_default() as i64);
        self.available_bytes.set(memory::available_bytes().unwrap_or_default() as i64);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    pub fn answered(&self, index: &str, route: &str, status: u16, elapsed: Duration) {
        let labels = vec![("index", index.to_string()), ("route", route.to_string())];
        self.seconds.get_or_create(&labels).observe(elapsed.as_secs_f64());
        self.answers.get_or_create(&vec![("status", status.to_string())]).inc();
    }

    pub fn failed(&self, code: &'static str) {
        self.faults.get_or_create(&vec![("code", code.into())]).inc();
    }

    pub fn searched(&self, index: &str, queries: usize) {
        self.queries.get_or_create(&of(index)).inc_by(queries as u64);
    }

    pub fn under_way(&self) -> Counted {
        Counted::new(&self.under_way)
    }

    pub fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    pub fn serves(&self, name: &str, index: &Index) {
        self.version.get_or_create(&of(name)).set(index.version() as i64);
        self.rows.get_or_create(&of(name)).set(index.live_rows() as i64);
        // So that they are there, as 0.
        drop(self.taken.get_or_create(&of(name)));
        drop(self.refused.get_or_create(&of(name)));
    }

    /// What a lazy index has cost so far.
    pub fn fetched(&self, name: &str, index: &Index) {
        let stats = index.fetched_at_open().then(index.fetched());
        self.fetched_bytes.get_or_create(&of(name)).set(stats.bytes as i64);
        self.fetch_requests.get_or_create(&of(name)).set(stats.requests as i64);
        self.cached_bytes.get_or_create(&of(name)).set(index.cached_bytes() as i64);
    }

    pub fn took(&self, name: &str, index: &Index) {
        self.serves(name, index);
        self.taken.get_or_create(&of(name)).inc();
    }

    pub fn refused(&self, name: &str) {
        self.refused.get_or_create(&of(name)).inc();
    }

    pub fn shadowed(&self, name: &str, recall: f64) {
        self.recall.get_or_create(&of(name)).observe(recall);
        self.recall_last.get_or_create(&of(name)).set(recall);
    }

    pub fn left_out_a_shadow(&self) {
        self.shadows_left_out.inc();
    }
}

/// One more for as long as it lives.
pub(super) struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    fn new(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
