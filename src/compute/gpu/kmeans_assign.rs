//! The nearest centroid of each row: `kmeans_assign.wgsl` over every tile of rows and every tile of centroids. By halves,
//! where the adapter has them, a centroid nearly as near: distances are those of the definition all the same.

use super::super::contract::COARSE_EXCESS;
use super::super::{Result, Rows};
use super::buffers::Readback;
use super::layout::KmeansAssignParams;
use super::memory::DeviceBuffer;
use super::rows::{RowTile, Tiles, extent};
use super::squared_norms::squared_norms;
use super::variants::{Extent, Ranking, Scales, Variant};
use super::work::{Cost, Dispatch, InFlight, Work};
use super::{Gpu, metric_number};
use crate::vectors::{Metric, Neighbor, VectorView};

/// Fewer rows are not worth the sample.
const MIN_ROWS: usize = 1024;
/// Rows that are assigned both ways beforehand.
const SAMPLE_ROWS: usize = 512;

/// By halves, where a sample shows that they keep what [`Compute::assign_coarse`](super::super::Compute::assign_coarse)
/// promises.
pub(super) fn assign_coarse(gpu: &Gpu, rows: &Rows<'_>, centroids: VectorView<'_>) -> Result<Vec<Neighbor>> {
    let host = rows.host();
    let exactly = || kmeans_assign(gpu, rows, centroids, Metric::L2);
    if gpu.device.variant == Variant::Plain || host.rows() < MIN_ROWS {
        return exactly();
    }
    let extents = (extent(rows), Extent::of(centroids));
    let Some(scales) = Scales::halves(Metric::L2, extents.0, extents.1) else {
        return exactly();
    };
    let ranking = Ranking { variant: gpu.device.variant, scales };
    let sample: Vec<u32> = (0..SAMPLE_ROWS).map(|i| (i * host.rows() / SAMPLE_ROWS) as u32).collect();
    let sample = host.gather(&sample);
    let sample = Rows::on_host(sample.view());
    let total = |found: &[Neighbor]| found.iter().map(|found| f64::from(found.distance)).sum::<f64>();
    let least = total(&kmeans_assign(gpu, &sample, centroids, Metric::L2)?);
    // Half of what is allowed: it is a sample.
    if total(&assign_by(gpu, &sample, centroids, Metric::L2, ranking)?) > least * (1.0 + COARSE_EXCESS / 2.0)
    {
        return exactly();
    }
    assign_by(gpu, rows, centroids, Metric::L2, ranking)
}

pub(super) fn kmeans_assign(
    gpu: &Gpu,
    rows: &Rows<'_>,
    centroids: VectorView<'_>,
    metric: Metric,
) -> Result<Vec<Neighbor>> {
    assign_by(gpu, rows, centroids, metric, Ranking::plain(metric))
}

fn assign_by(
    gpu: &Gpu,
    rows: &Rows<'_>,
    centroids: VectorView<'_>,
    metric: Metric,
    ranking: Ranking,
) -> Result<Vec<Neighbor>> {
    let (count, dim) = (rows.host().rows(), rows.host().dim());
    assert_eq!(dim, centroids.dim(), "rows and centroids have one dimension");
    assert!(!centroids.is_empty(), "there is at least one centroid");
    let mut assigned = vec![Neighbor::NONE; count];
    let mut in_flight = InFlight::new(gpu, "k-means assignment");
    // Of two centroids in different tiles the nearer wins by its exact distance, and a tie goes to the lower.
    let mut keep = |found: Vec<Neighbor>, (first_row, first_centroid): (usize, u32)| {
        for (best, other) in assigned[first_row..].iter_mut().zip(found) {
            *best = (*best).min(Neighbor::new(other.ordinal + first_centroid, other.distance));
        }
    };
    let mut row_tiles = Tiles::of(gpu, rows)?;
    // Beside the walk: the lanes' settling, and the exact distances.
    let longest = gpu.longest_walk(dim, 0, 256 + dim)?;
    let mut centroid_tiles = Tiles::streamed(gpu, centroids, longest)?;
    for c in 0..centroid_tiles.len() {
        let centroid_tile = centroid_tiles.load(gpu, c)?;
        let norms = squared_norms(gpu, &centroid_tile.values, centroid_tile.rows, dim, metric)?;
        let assignment = Assignment { gpu, centroids: &centroid_tile, norms: &norms, dim, metric, ranking };
        let batch = gpu.batch(2.0 * (centroid_tile.rows * dim) as f64, size_of::<Neighbor>());
        for t in 0..row_tiles.len() {
            let tile = row_tiles.load(gpu, t)?;
            for first in (0..tile.rows).step_by(batch) {
                let readback = assignment.start(&tile, first, batch.min(tile.rows - first))?;
                in_flight.push(readback, (tile.start + first, centroid_tile.start as u32), &mut keep)?;
            }
        }
    }
    in_flight.finish(&mut keep)?;
    Ok(assigned)
}

struct Assignment<'a> {
    gpu: &'a Gpu,
    centroids: &'a RowTile,
    norms: &'a DeviceBuffer,
    dim: usize,
    metric: Metric,
    ranking: Ranking,
}

impl Assignment<'_> {
    /// Rows `first..first + count` of `tile`, as [`Neighbor`]s whose ordinals count from the centroid tile's start.
    fn start(&self, tile: &RowTile, first: usize, count: usize) -> Result<Readback> {
        let gpu = self.gpu;
        let bytes = (count * size_of::<Neighbor>()) as u64;
        let assigned = gpu.buffers.storage(&gpu.device, "assignments", bytes)?;
        let grid = gpu.device.grid(count.div_ceil(gpu.tile_rows()) as u32);
        let params = KmeansAssignParams {
            rows: (first + count) as u32,
            nlist: self.centroids.rows as u32,
            dim: self.dim as u32,
            metric: metric_number(self.metric),
            first_row: first as u32,
            grid_width: grid.width,
            a_scale: self.ranking.scales.a,
            b_scale: self.ranking.scales.b,
            weight: self.ranking.scales.weight,
        };
        let bindings = [&*tile.values, &*self.centroids.values, self.norms, &assigned];
        let mut work = Work::new(gpu);
        let nlist = self.centroids.rows;
        work.dispatch(Dispatch {
            kernel: self.ranking.variant.kmeans_assign(),
            constants: gpu.constants_of(self.ranking.variant, self.dim),
            params,
            bindings: &bindings,
            grid,
            cost: Cost {
                flops: 2.0 * (count * (nlist + 1) * self.dim) as f64,
                bytes: (4 * self.dim * (count + nlist) + count * size_of::<Neighbor>()) as f64,
            },
        })?;
        work.submit_and_read(&assigned, bytes)
    }
}
