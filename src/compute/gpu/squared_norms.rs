//! |row|² of rows on the device, which L2 scores need of a product's columns.

use super::super::Result;
use super::Gpu;
use super::kernels::SQUARED_NORMS;
use super::layout::SquaredNormsParams;
use super::memory::DeviceBuffer;
use super::work::{Cost, Dispatch, Work};
use crate::vectors::Metric;

/// The norms of the first `rows` rows in `values`; for a metric that needs none, a buffer that is never read.
pub(super) fn squared_norms(
    gpu: &Gpu,
    values: &DeviceBuffer,
    rows: usize,
    dim: usize,
    metric: Metric,
) -> Result<DeviceBuffer> {
    if metric != Metric::L2 || rows == 0 {
        return gpu.buffers.storage(&gpu.device, "norms", 0);
    }
    let norms = gpu.buffers.storage(&gpu.device, "norms", (rows * size_of::<f32>()) as u64)?;
    let grid = gpu.device.grid((rows as u32).div_ceil(gpu.device.lanes));
    let params = SquaredNormsParams { rows: rows as u32, dim: dim as u32, grid_width: grid.width };
    let mut work = Work::new(gpu);
    work.dispatch(Dispatch {
        kernel: &SQUARED_NORMS,
        constants: gpu.constants(dim),
        params,
        bindings: &[values, &norms],
        grid,
        cost: Cost { flops: 2.0 * (rows * dim) as f64, bytes: (4 * rows * (dim + 1)) as f64 },
    })?;
    work.submit()?;
    Ok(norms)
}
