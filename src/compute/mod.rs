//! The heavy arithmetic behind one small, batch-shaped contract, [`Compute`], and its three backends:
//!
//! - [`mod@reference`]: the definition, loops that one can check by eye;
//! - [`cpu`]: rayon and SIMD, the instruction set chosen once;
//! - `gpu`: wgpu compute shaders, behind the `gpu` feature.
//!
//! Knows rows of f32 and nothing of files, jobs or index layouts. [`contract`] lists what every backend must do,
//! as checks that their tests run.

pub mod contract;
pub mod cpu;
pub mod fallback;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod reference;
mod rounding;
pub mod throughput;

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use rounding::rounding_error;

use crate::vectors::{Metric, Neighbor, Neighbors, VectorView};

/// What can go wrong in a backend. Shapes are the callers' duty (checked by assertion); these are not.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    #[error("no usable GPU adapter: {0}")]
    NoAdapter(String),
    #[error("the GPU device was lost: {0}")]
    DeviceLost(String),
    #[error("GPU memory: {what} needs {needed} bytes, {allowed} are allowed")]
    OutOfMemory { what: String, needed: u64, allowed: u64 },
    #[error("the GPU refused the work: {0}")]
    Validation(String),
    #[error("the GPU did not finish {what} within {seconds} s")]
    TimedOut { what: String, seconds: u64 },
}

/// Rows that are gathered for one call where an operation is made of others.
const GATHERED_ROWS: usize = 1 << 16;

pub type Result<T, E = ComputeError> = std::result::Result<T, E>;

/// What a backend is, for the log line, the manifest and the report: "cpu (avx512)".
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BackendInfo {
    /// `reference`, `cpu` or `gpu`.
    pub backend: String,
    /// The instruction set, or the adapter and its API.
    pub device: String,
}

impl std::fmt::Display for BackendInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.backend, self.device)
    }
}

/// A GPU, or what poses as one, as a person wants to see it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct AdapterSummary {
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub api: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    pub driver: String,
    /// A CPU posing as a GPU: never chosen unless allowed.
    pub software: bool,
    /// The largest storage binding, in bytes: rows are held in tiles of at most this size.
    pub binding_limit: u64,
    /// Workgroup memory, in bytes.
    pub workgroup_memory: u32,
    pub f16: bool,
    pub subgroups: bool,
    pub cooperative_matrix: bool,
}

impl std::fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.api, self.driver)
    }
}

/// Rows that a backend has been shown, and may hold a copy of where it computes. The host's rows stay reachable:
/// falling back to another backend needs nothing but another `upload`.
pub struct Rows<'a> {
    host: VectorView<'a>,
    device: Option<Box<dyn Any + Send + Sync>>,
}

impl<'a> Rows<'a> {
    /// Rows that live on the host only.
    pub fn on_host(host: VectorView<'a>) -> Self {
        Self { host, device: None }
    }

    pub fn with_device<D: Any + Send + Sync>(host: VectorView<'a>, device: D) -> Self {
        Self { host, device: Some(Box::new(device)) }
    }

    pub fn host(&self) -> VectorView<'a> {
        self.host
    }

    pub fn device<D: Any>(&self) -> Option<&D> {
        self.device.as_ref().and_then(|device| device.downcast_ref())
    }
}

/// What a device keeps of some rows for as long as they are there: made by the first operation that wants it.
#[derive(Default)]
#[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "no device, no copies"))]
pub(crate) struct DeviceCopy(Mutex<Option<Arc<dyn Any + Send + Sync>>>);

impl DeviceCopy {
    /// The copy. Where there is none `make` is asked for one, which may find that there is no room; whoever comes
    /// meanwhile waits.
    #[cfg(feature = "gpu")]
    pub fn get_or_make<D: Any + Send + Sync>(
        &self,
        make: impl FnOnce() -> Result<Option<D>>,
    ) -> Result<Option<Arc<D>>> {
        let mut copy = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if copy.is_none() {
            *copy = make()?.map(|made| Arc::new(made) as Arc<dyn Any + Send + Sync>);
        }
        Ok(copy.clone().and_then(|copy| copy.downcast().ok()))
    }
}

/// A kernel that a device ran, by the device's own clock, set by the host's to within about a millisecond.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelRun {
    pub kernel: &'static str,
    pub started: Instant,
    pub took: Duration,
    /// Two for each multiply-add of its products, of floats or of whole numbers.
    pub flops: f64,
    /// That must cross the device's bus: every input once, every result once.
    pub bytes: f64,
}

/// What a backend's device has done since it was last asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceWork {
    /// In the order in which they began; empty where the device has no clock.
    pub runs: Vec<KernelRun>,
    pub uploaded_bytes: u64,
    pub downloaded_bytes: u64,
}

/// Per-centroid sums over the rows assigned to it.
#[derive(Debug, Clone, PartialEq)]
pub struct CentroidSums {
    /// `nlist × dim`.
    pub sums: Vec<f32>,
    /// `nlist`.
    pub counts: Vec<u32>,
}

/// The codebooks of a product quantizer: `pq_m × ksub × dsub`, dense.
#[derive(Debug, Clone, Copy)]
pub struct CodebookView<'a> {
    pub centroids: &'a [f32],
    /// Sub-vectors.
    pub pq_m: usize,
    /// Codes per sub-vector, at most 256.
    pub ksub: usize,
    /// Dimensions of a sub-vector. `pq_m · dsub` may exceed the rows' dimension: missing values are 0.
    pub dsub: usize,
}

impl<'a> CodebookView<'a> {
    /// The `ksub × dsub` centroids of sub-vector `m`.
    pub fn sub(&self, m: usize) -> &'a [f32] {
        let size = self.ksub * self.dsub;
        &self.centroids[m * size..(m + 1) * size]
    }
}

/// What is subtracted from each row before it is encoded: the centroid that `labels` names for it.
#[derive(Debug, Clone, Copy)]
pub struct ResidualOf<'a> {
    pub centroids: VectorView<'a>,
    pub labels: &'a [u32],
}

/// Small overlapping sets of rows (the leaves of a graph partition): leaf `l` is
/// `members[offsets[l]..offsets[l + 1]]`, each an ordinal. Within one leaf they are distinct, in any order.
#[derive(Debug, Clone, Default)]
pub struct Leaves {
    pub members: Vec<u32>,
    pub offsets: Vec<u32>,
}

impl Leaves {
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a leaf behind the others.
    ///
    /// # Panics
    /// If that makes more than `u32::MAX` members: larger partitions are handed over in batches.
    pub fn push(&mut self, leaf: &[u32]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.members.extend_from_slice(leaf);
        self.offsets.push(u32::try_from(self.members.len()).expect("a batch of leaves"));
    }

    pub fn leaf(&self, index: usize) -> &[u32] {
        &self.members[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }
}

/// For each group of rows the few centroids that one of its rows may be given to: those of group `g` are
/// `centroids[offsets[g]..offsets[g + 1]]`, one at least, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortlists {
    pub centroids: Vec<u32>,
    pub offsets: Vec<u32>,
}

impl Default for Shortlists {
    fn default() -> Self {
        Self { centroids: Vec::new(), offsets: vec![0] }
    }
}

impl Shortlists {
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the shortlist of the next group.
    ///
    /// # Panics
    /// If that makes more than `u32::MAX` entries in all.
    pub fn push(&mut self, centroids: &[u32]) {
        self.centroids.extend_from_slice(centroids);
        self.offsets
            .push(u32::try_from(self.centroids.len()).expect("shortlists of fewer entries than u32::MAX"));
    }

    pub fn of(&self, group: usize) -> &[u32] {
        &self.centroids[self.offsets[group] as usize..self.offsets[group + 1] as usize]
    }
}

/// A backend. Every operation works on a whole batch, is deterministic for one backend and device at any number
/// of threads, and breaks ties towards the lowest ordinal.
///
/// **Tolerance.** Backends may sum in another order than [`mod@reference`] and may find candidates by
/// |a|² − 2⟨a,b⟩ + |b|²; what they return must be what `reference` returns, but for pairs whose distances differ
/// by less than [`contract::TOLERANCE`] relative to |a|² + |b|². Returned distances are within that of the
/// definition.
pub trait Compute: Send + Sync {
    fn info(&self) -> BackendInfo;

    /// Shows `rows` to the backend for repeated use.
    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>>;

    /// The nearest of `centroids` (at least one) for each row.
    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>>;

    /// A centroid nearly as near (L2) as the nearest of each row, with its distance, for training: summed over all rows
    /// the distances exceed those of [`assign`](Compute::assign) by at most [`contract::COARSE_EXCESS`] of their sum.
    /// A backend that gains nothing by being coarse is exact.
    fn assign_coarse(&self, rows: &Rows<'_>, centroids: VectorView<'_>) -> Result<Vec<Neighbor>> {
        self.assign(rows, centroids, Metric::L2)
    }

    /// A near centroid (L2) of each row: at least as near as the nearest of shortlist `groups[row]`. A backend may look
    /// at more of them; one that gains nothing by looking at fewer looks at all.
    fn assign_shortlisted(
        &self,
        rows: &Rows<'_>,
        centroids: VectorView<'_>,
        groups: &[u32],
        shortlists: &Shortlists,
    ) -> Result<Vec<Neighbor>> {
        let _ = (groups, shortlists);
        self.assign(rows, centroids, Metric::L2)
    }

    /// Sums and counts of the rows of each label `0..nlist`, in an order that depends on the rows alone.
    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums>;

    /// Product-quantizer codes, `rows × pq_m`: the nearest (L2) codebook entry of each sub-vector of each row,
    /// of its residual where `residual_of` is given. Ties go to the lowest code.
    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>>;

    /// The `k` nearest of `rows` for each query, as products in f32 rank them: a row that is left out is nearer than one that is
    /// found by twice the [`rounding_error`] at most.
    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors>;

    /// For each of the rows that `members` names, which of the rows that `leaders` names are its `k` nearest under L2, nearest
    /// first, by their places in `leaders`: `members.len() × k`, `u32::MAX` where a distance is no number. `k` is 1 to the
    /// number of leaders. Leaders whose distances differ by the tolerance only may stand for each other; and a backend
    /// may go by `bytes`, the same rows encoded, where those can tell them apart.
    fn nearest_leaders(
        &self,
        rows: &Rows<'_>,
        _bytes: Option<&cpu::ByteRows>,
        members: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>> {
        nearest_leaders(self, rows, members, leaders, k)
    }

    /// As [`Compute::leaf_top_k`] under L2, for candidates that are compared again: a backend may answer with the `k` nearest by
    /// `bytes`, the same rows encoded, where those can tell them apart. In distances of its own measure.
    fn leaf_candidates(
        &self,
        rows: &Rows<'_>,
        _bytes: Option<&cpu::ByteRows>,
        leaves: &Leaves,
        k: usize,
    ) -> Result<Neighbors> {
        self.leaf_top_k(rows, leaves, Metric::L2, k)
    }

    /// For each member slot of each leaf the `k` nearest *other* members of the same leaf, as ordinals of `rows`:
    /// `leaves.members.len() × k`.
    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors>;

    /// What its device has done since this was last asked; nothing for a backend without one.
    fn take_device_work(&self) -> DeviceWork {
        DeviceWork::default()
    }
}

/// [`Compute::nearest_leaders`] for a backend without a way of its own.
fn nearest_leaders<C: Compute + ?Sized>(
    backend: &C,
    rows: &Rows<'_>,
    members: &[u32],
    leaders: &[u32],
    k: usize,
) -> Result<Vec<u32>> {
    let mut nearest = Vec::with_capacity(members.len() * k);
    let leaders = rows.host().gather(leaders);
    let leaders = backend.upload(leaders.view())?;
    for block in members.chunks(GATHERED_ROWS) {
        let found = backend.top_k(rows.host().gather(block).view(), &leaders, Metric::L2, k)?;
        nearest.extend(found.as_slice().iter().map(|leader| leader.ordinal));
    }
    Ok(nearest)
}

/// A backend that is shared is one.
impl<C: Compute + ?Sized> Compute for Arc<C> {
    fn info(&self) -> BackendInfo {
        C::info(self)
    }

    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
        C::upload(self, rows)
    }

    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>> {
        C::assign(self, rows, centroids, metric)
    }

    fn assign_coarse(&self, rows: &Rows<'_>, centroids: VectorView<'_>) -> Result<Vec<Neighbor>> {
        C::assign_coarse(self, rows, centroids)
    }

    fn assign_shortlisted(
        &self,
        rows: &Rows<'_>,
        centroids: VectorView<'_>,
        groups: &[u32],
        shortlists: &Shortlists,
    ) -> Result<Vec<Neighbor>> {
        C::assign_shortlisted(self, rows, centroids, groups, shortlists)
    }

    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
        C::centroid_sums(self, rows, labels, nlist)
    }

    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>> {
        C::pq_encode(self, rows, residual_of, codebook)
    }

    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors> {
        C::top_k(self, queries, rows, metric, k)
    }

    fn nearest_leaders(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&cpu::ByteRows>,
        members: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>> {
        C::nearest_leaders(self, rows, bytes, members, leaders, k)
    }

    fn leaf_candidates(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&cpu::ByteRows>,
        leaves: &Leaves,
        k: usize,
    ) -> Result<Neighbors> {
        C::leaf_candidates(self, rows, bytes, leaves, k)
    }

    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors> {
        C::leaf_top_k(self, rows, leaves, metric, k)
    }

    fn take_device_work(&self) -> DeviceWork {
        C::take_device_work(self)
    }
}
