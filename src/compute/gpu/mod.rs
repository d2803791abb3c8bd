//! Compute shaders through wgpu: Vulkan, Metal and DX12. One WGSL file per kernel in `shaders/`, and beside this file
//! one Rust file of the same name that feeds it.
//!
//! The heavy work is matrix products whose result is reduced in the tile, so that distances never reach memory as
//! an n×k matrix (Flash-KMeans' lesson). Arithmetic is f32, or, of rows as bytes, whole; results do not depend on how
//! rows are tiled, streamed or batched, so that a memory budget changes no byte.
//!
//! Refuses: values whose squares leave f32's range (2⁶³ and beyond); what cannot be cut to fit one binding (a row, a
//! codebook, a leaf). A device that is lost stays lost: open another, or fall back to another backend.

mod adapter;
mod buffers;
mod byte_neighbors;
mod centroid_sums;
mod clock;
mod device;
pub mod kernels;
mod kmeans_assign;
pub mod layout;
mod leaf_top_k;
mod limits;
mod memory;
mod pipelines;
mod pq_encode;
mod rows;
mod squared_norms;
mod top_k;
mod variants;
mod work;

pub use adapter::adapters;
pub use buffers::TransferStats;
pub use device::GpuOptions;
pub use variants::Variant;

use std::sync::{Mutex, PoisonError};

use super::cpu::ByteRows;
use super::{
    AdapterSummary, BackendInfo, CentroidSums, CodebookView, Compute, ComputeError, DeviceWork, Leaves,
    ResidualOf, Result, Rows,
};
use crate::vectors::{Metric, Neighbor, Neighbors, VectorView};
use buffers::Buffers;
use clock::Clock;
use device::Device;
use pipelines::{Constants, Pipelines};
use rows::DeviceRows;

/// The GPU backend. Cheap to share between threads; their work is interleaved on the device's one queue.
pub struct Gpu {
    device: Device,
    buffers: Buffers,
    pipelines: Pipelines,
    clock: Clock,
    /// Of the transfers, what was told already.
    told: Mutex<TransferStats>,
}

impl Gpu {
    /// Opens the preferred adapter: discrete before virtual before integrated.
    ///
    /// # Errors
    /// [`NoAdapter`](super::ComputeError::NoAdapter) where there is none, or only software and that is not allowed, or none
    /// with the variant that was asked for.
    pub fn new(options: GpuOptions) -> Result<Self> {
        let device = Device::open(&adapter::instance(), &options)?;
        let buffers = Buffers::new(options.memory_budget);
        let clock = Clock::new(&device.device, &device.queue);
        let gpu = Self { device, buffers, pipelines: Pipelines::default(), clock, told: Mutex::default() };
        // No adapter of ours has run it: it is believed on this one when it has been compared here.
        if gpu.device.variant == Variant::Matrix && !matches!(top_k::holds_its_bound(&gpu), Ok(true)) {
            return match options.variant {
                None => Self::new(GpuOptions { variant: Some(Variant::Half), ..options }),
                Some(_) => Err(ComputeError::Validation(format!(
                    "products of {} are not what they should be on {}",
                    Variant::Matrix.name(),
                    gpu.adapter()
                ))),
            };
        }
        Ok(gpu)
    }

    /// The adapter that was chosen.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.device.adapter
    }

    /// What has crossed the bus since the device was opened, and the most memory held.
    pub fn transfers(&self) -> TransferStats {
        self.buffers.stats()
    }

    /// Gives the device back to the driver now. Every later operation returns
    /// [`DeviceLost`](super::ComputeError::DeviceLost), as it would had the driver taken it.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// What products rank by on this device.
    pub fn variant(&self) -> Variant {
        self.device.variant
    }

    /// Constants for the kernels that work on `dim` dimensions.
    fn constants(&self, dim: usize) -> Constants {
        self.constants_of(Variant::Plain, dim)
    }

    fn constants_of(&self, variant: Variant, dim: usize) -> Constants {
        Constants { lanes: self.device.lanes, depth: kernels::depth_of(variant, dim), capacity: 0 }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("adapter", self.adapter()).finish_non_exhaustive()
    }
}

/// The metric's number in `metric.wgsl`.
fn metric_number(metric: Metric) -> u32 {
    match metric {
        Metric::L2 => 0,
        Metric::InnerProduct => 1,
        Metric::Cosine => 2,
        Metric::L1 | Metric::Hamming => metric.without_products(),
    }
}

impl Compute for Gpu {
    fn info(&self) -> BackendInfo {
        let AdapterSummary { name, api, .. } = &self.device.adapter;
        BackendInfo { backend: "gpu".into(), device: format!("{name}, {api}") }
    }

    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
        self.device.check()?;
        Ok(Rows::with_device(rows, DeviceRows::of(self, rows)?))
    }

    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>> {
        self.device.check()?;
        kmeans_assign::kmeans_assign(self, rows, centroids, metric)
    }

    fn assign_coarse(&self, rows: &Rows<'_>, centroids: VectorView<'_>) -> Result<Vec<Neighbor>> {
        self.device.check()?;
        kmeans_assign::assign_coarse(self, rows, centroids)
    }

    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
        self.device.check()?;
        centroid_sums::centroid_sums(self, rows, labels, nlist)
    }

    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>> {
        self.device.check()?;
        pq_encode::pq_encode(self, rows, residual_of, codebook)
    }

    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors> {
        self.device.check()?;
        top_k::top_k(self, queries, rows, metric, k)
    }

    fn nearest_leaders(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&ByteRows>,
        members: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>> {
        self.device.check()?;
        byte_neighbors::nearest_leaders(self, rows, bytes, members, leaders, k)
    }

    fn leaf_candidates(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&ByteRows>,
        leaves: &Leaves,
        k: usize,
    ) -> Result<Neighbors> {
        self.device.check()?;
        byte_neighbors::leaf_candidates(self, rows, bytes, leaves, k)
    }

    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors> {
        self.device.check()?;
        leaf_top_k::leaf_top_k(self, rows, leaves, metric, k)
    }

    fn take_device_work(&self) -> DeviceWork {
        let runs = self.clock.take(self);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.transfers();
        let before = std::mem::replace(&mut *told, now);
        DeviceWork {
            runs,
            uploaded_bytes: now.uploaded_bytes - before.uploaded_bytes,
            downloaded_bytes: now.downloaded_bytes - before.downloaded_bytes,
        }
    }
}
