//! Product-quantizer codes: `pq_encode.wgsl` over every tile of rows.

use super::super::{CodebookView, ResidualOf, Result, Rows};
use super::Gpu;
use super::buffers::Readback;
use super::kernels::PQ_ENCODE;
use super::layout::PqEncodeParams;
use super::memory::DeviceBuffer;
use super::rows::{RowTile, Tiles};
use super::squared_norms::squared_norms;
use super::work::{Cost, Dispatch, InFlight, Work};
use crate::vectors::{Metric, VectorView};

/// Codes that leave the shader in one word.
const CODES_PER_WORD: usize = 4;

pub(super) fn pq_encode(
    gpu: &Gpu,
    rows: &Rows<'_>,
    residual_of: Option<ResidualOf<'_>>,
    codebook: CodebookView<'_>,
) -> Result<Vec<u8>> {
    let CodebookView { pq_m, ksub, dsub, .. } = codebook;
    let (count, dim) = (rows.host().rows(), rows.host().dim());
    assert!((1..=256).contains(&ksub), "a code is one byte");
    assert!(pq_m * dsub >= dim, "the codebooks cover every dimension");
    assert_eq!(codebook.centroids.len(), pq_m * ksub * dsub);
    if let Some(ResidualOf { centroids, labels }) = residual_of {
        assert_eq!((centroids.dim(), labels.len()), (dim, count));
        assert!(labels.iter().all(|&label| (label as usize) < centroids.rows()), "labels name centroids");
    }
    // A workgroup walks the codebooks of one word's codes; beside that, the lanes settle.
    let walked = CODES_PER_WORD.min(pq_m) * ksub.next_multiple_of(gpu.tile_columns());
    gpu.require_walk(walked, dsub, 0, CODES_PER_WORD * 128)?;
    let mut codes = vec![0; count * pq_m];
    let encoder = Encoder::new(gpu, residual_of, codebook, dim)?;
    let words = pq_m.div_ceil(CODES_PER_WORD);
    let mut keep = |found: Vec<u32>, first_row: usize| {
        let bytes: &[u8] = bytemuck::cast_slice(&found);
        for (row, padded) in
            codes[first_row * pq_m..].chunks_exact_mut(pq_m).zip(bytes.chunks_exact(4 * words))
        {
            row.copy_from_slice(&padded[..pq_m]);
        }
    };
    let mut in_flight = InFlight::new(gpu, "product quantization");
    let mut tiles = Tiles::of(gpu, rows)?;
    let batch = gpu.batch(2.0 * (ksub * pq_m * dsub) as f64, words * size_of::<u32>());
    for t in 0..tiles.len() {
        let tile = tiles.load(gpu, t)?;
        for first in (0..tile.rows).step_by(batch) {
            let readback = encoder.start(&tile, first, batch.min(tile.rows - first))?;
            in_flight.push(readback, tile.start + first, &mut keep)?;
        }
    }
    in_flight.finish(&mut keep)?;
    Ok(codes)
}

struct Encoder<'a> {
    gpu: &'a Gpu,
    shape: CodebookView<'a>,
    codebook: DeviceBuffer,
    entry_norms: DeviceBuffer,
    centroids: DeviceBuffer,
    /// One per row, or empty where nothing is subtracted.
    labels: &'a [u32],
    dim: usize,
}

impl<'a> Encoder<'a> {
    fn new(
        gpu: &'a Gpu,
        residual_of: Option<ResidualOf<'a>>,
        shape: CodebookView<'a>,
        dim: usize,
    ) -> Result<Self> {
        let codebook = gpu.buffers.filled(&gpu.device, "codebooks", shape.centroids)?;
        let entries = shape.pq_m * shape.ksub;
        let entry_norms = squared_norms(gpu, &codebook, entries, shape.dsub, Metric::L2)?;
        let centroids = residual_of.map_or(&[][..], |of| VectorView::as_slice(&of.centroids));
        let centroids = gpu.buffers.filled(&gpu.device, "coarse centroids", centroids)?;
        let labels = residual_of.map_or(&[][..], |of| of.labels);
        Ok(Self { gpu, shape, codebook, entry_norms, centroids, labels, dim })
    }

    /// Codes of rows `first..first + count` of `tile`, each row padded to whole words.
    fn start(&self, tile: &RowTile, first: usize, count: usize) -> Result<Readback> {
        let gpu = self.gpu;
        let CodebookView { pq_m, ksub, dsub, .. } = self.shape;
        let words = pq_m.div_ceil(CODES_PER_WORD);
        let bytes = (count * words * size_of::<u32>()) as u64;
        let codes = gpu.buffers.storage(&gpu.device, "codes", bytes)?;
        let of_row = |row: usize| if self.labels.is_empty() { 0 } else { tile.start + first + row };
        let labels = gpu.buffers.filled(&gpu.device, "labels", &self.labels[of_row(0)..of_row(count)])?;
        let grid = gpu.device.grid((count.div_ceil(gpu.tile_rows()) * words) as u32);
        let params = PqEncodeParams {
            rows: (first + count) as u32,
            dim: self.dim as u32,
            pq_m: pq_m as u32,
            ksub: ksub as u32,
            dsub: dsub as u32,
            residual: u32::from(!self.labels.is_empty()),
            first_row: first as u32,
            grid_width: grid.width,
        };
        let bindings = [&*tile.values, &labels, &self.centroids, &self.codebook, &self.entry_norms, &codes];
        let mut work = Work::new(gpu);
        let centroid_bytes = if self.labels.is_empty() { 0 } else { 4 * count * self.dim };
        work.dispatch(Dispatch {
            kernel: &PQ_ENCODE,
            constants: gpu.constants(dsub),
            params,
            bindings: &bindings,
            grid,
            cost: Cost {
                flops: 2.0 * (count * ksub * pq_m * dsub) as f64,
                bytes: (4 * count * (self.dim + words) + centroid_bytes) as f64,
            },
        })?;
        work.submit_and_read(&codes, bytes)
    }
}
