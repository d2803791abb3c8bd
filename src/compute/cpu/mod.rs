//! The CPU backend: rayon over blocks of rows, SIMD kernels within one.
//!
//! ```text
//! lanes      one register: a trait      avx512, avx2, neon, portable: its implementations
//! kernels/   algorithms over it, single-threaded, compiled once per instruction set
//! dispatch   the tables of compiled kernels; which one this CPU gets
//! ranking    all of a few thousand rows in the order of a query: what IVF searches begin with
//! product_scan   many rows, and of each of some queries those that come under its bound: what exact search consists of
//! assign…, centroid_sums, pq_encode, top_k, leaf…, nearest_leaders     the operations: threads and blocks over a table
//! ```
//!
//! [`kernels`] is also what searching uses. Results do not depend on the number of threads: what one pair's product,
//! distance or sum is never depends on the block it was computed in, and every selection is by the total order of
//! (distance, ordinal).

#[macro_use]
mod dispatch;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernels;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

mod assign;
mod assign_coarse;
mod assign_shortlisted;
mod byte_rows;
mod centroid_sums;
#[cfg(test)]
mod descent_tests;
mod leaf_top_k;
mod nearest_leaders;
#[cfg(test)]
mod nibble_tests;
mod panels;
mod pq_encode;
mod product_scan;
mod ranking;
#[cfg(test)]
mod tests;
mod top_k;

pub use byte_rows::{ByteQuery, ByteRows};
pub use dispatch::{ISA_VARIABLE, Isa, Kernels, available, kernels};
pub use kernels::ScoredRow;
pub use kernels::bytes::row_stride;
pub use kernels::nibbles::{
    BLOCK_ROWS, NUMBER_COLUMNS, NibbleBook, NibbleScan, Quantized, SLACK as NIBBLE_SLACK, SignScan,
    tables_len as nibble_tables_len,
};
pub use leaf_top_k::leaf_bytes;
pub use product_scan::ProductScan;
pub use ranking::Ranking;

/// When bytes are asked, and believed: every backend that goes by them follows these, so that their graphs are the same.
#[cfg(feature = "gpu")]
pub(in crate::compute) mod by_bytes {
    pub use super::leaf_top_k::{MAX_LEAF, is_resolved as is_leaf_resolved};
    pub use super::nearest_leaders::are_resolved as are_leaders_resolved;
}

use super::{BackendInfo, CentroidSums, CodebookView, Compute, Leaves, ResidualOf, Result, Rows, Shortlists};
use crate::vectors::{Metric, Neighbor, Neighbors, VectorView};

/// Asks for the cache lines of a slice that will be read soon.
#[inline(always)]
pub fn prefetch<T>(soon: &[T]) {
    const LINE: usize = 64;
    let start = soon.as_ptr().cast::<u8>();
    for at in (0..size_of_val(soon)).step_by(LINE) {
        let at = start.wrapping_add(at);
        // SAFETY: a prefetch reads nothing, whatever the address; its instruction is in every x86-64 and aarch64.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use lanes::Lanes;
            avx2::Avx2::prefetch(at);
        }
        #[cfg(target_arch = "aarch64")]
        unsafe {
            use lanes::Lanes;
            neon::Neon::prefetch(at);
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = at;
    }
}

/// The backend that is always there. Its work runs on the rayon pool that it is called from.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    kernels: &'static Kernels,
}

impl Cpu {
    /// With the best instruction set of this CPU, or the one that [`ISA_VARIABLE`] names.
    pub fn new() -> Self {
        Self::with_kernels(kernels())
    }

    pub fn with_kernels(kernels: &'static Kernels) -> Self {
        Self { kernels }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Compute for Cpu {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "cpu".into(), device: self.kernels.isa.name().into() }
    }

    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
        Ok(Rows::with_device(rows, top_k::Norms::new(self.kernels.isa)))
    }

    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>> {
        Ok(assign::assign(self.kernels, rows.host(), centroids, metric))
    }

    fn assign_coarse(&self, rows: &Rows<'_>, centroids: VectorView<'_>) -> Result<Vec<Neighbor>> {
        Ok(assign_coarse::assign_coarse(self.kernels, rows.host(), centroids))
    }

    fn assign_shortlisted(
        &self,
        rows: &Rows<'_>,
        centroids: VectorView<'_>,
        groups: &[u32],
        shortlists: &Shortlists,
    ) -> Result<Vec<Neighbor>> {
        Ok(assign_shortlisted::assign_shortlisted(self.kernels, rows.host(), centroids, groups, shortlists))
    }

    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
        Ok(centroid_sums::centroid_sums(self.kernels, rows.host(), labels, nlist))
    }

    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>> {
        Ok(pq_encode::pq_encode(self.kernels, rows.host(), residual_of, codebook))
    }

    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors> {
        Ok(top_k::top_k(self.kernels, queries, rows, metric, k))
    }

    fn nearest_leaders(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&ByteRows>,
        members: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>> {
        Ok(nearest_leaders::nearest_leaders(self.kernels, rows.host(), bytes, members, leaders, k))
    }

    fn leaf_candidates(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&ByteRows>,
        leaves: &Leaves,
        k: usize,
    ) -> Result<Neighbors> {
        Ok(leaf_top_k::leaf_candidates(self.kernels, rows, bytes, leaves, k))
    }

    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors> {
        Ok(leaf_top_k::leaf_top_k(self.kernels, rows, leaves, metric, k))
    }
}
