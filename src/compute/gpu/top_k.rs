//! The k nearest rows of each query: `top_k.wgsl` finds candidates by score, `SLACK` more than asked for; the host
//! sums their distances anew from the definition, in f64, and keeps k. What is returned is exact but for rows that
//! rounding hid behind the slack.

use rayon::prelude::*;

use super::super::{Result, Rows};
use super::buffers::Readback;
use super::kernels::{TOP_K, staged_bytes};
use super::layout::TopKParams;
use super::memory::DeviceBuffer;
use super::pipelines::Constants;
use super::rows::{RowTile, Tiles};
use super::squared_norms::squared_norms;
use super::work::{InFlight, Work};
use super::{BATCH_OUTPUT_BYTES, Gpu, metric_number};
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorView};

/// Candidates beyond k. The f32 score of a pair is off by some 1e-6 of |a|² + |b|²; about k rows lie within as many
/// ranks of the k-th, and only those within that error of it can change places.
const SLACK: usize = 16;
/// Queries whose candidates the host gathers at a time.
const QUERY_BLOCK: usize = 1 << 15;
/// Workgroups that keep a large GPU busy; rows are split until there are as many.
const BUSY_WORKGROUPS: usize = 512;
/// Rows of a split, at least: each split finds its candidates anew before its bound is worth anything.
const SPLIT_ROWS: usize = 4096;

pub(super) fn top_k(
    gpu: &Gpu,
    queries: VectorView<'_>,
    rows: &Rows<'_>,
    metric: Metric,
    k: usize,
) -> Result<Neighbors> {
    let host = rows.host();
    assert_eq!(queries.dim(), host.dim(), "queries and rows have one dimension");
    let mut found = Neighbors::new(queries.rows(), k);
    if host.is_empty() {
        return Ok(found);
    }
    let mut query_tiles = Tiles::streamed(gpu, queries)?;
    let mut row_tiles = Tiles::of(gpu, rows)?;
    let keep = (k + SLACK).min(host.rows());
    for q in 0..query_tiles.len() {
        let query_tile = query_tiles.load(gpu, q)?;
        for first in (0..query_tile.rows).step_by(QUERY_BLOCK) {
            let count = QUERY_BLOCK.min(query_tile.rows - first);
            let block = QueryBlock { gpu, queries: &query_tile, first, count, metric, keep };
            let mut candidates = block.candidates(host.dim(), &mut row_tiles)?;
            let start = query_tile.start + first;
            candidates
                .par_iter_mut()
                .zip(found.as_mut_slice()[start * k..].par_chunks_exact_mut(k))
                .enumerate()
                .for_each(|(index, (top, out))| rank(queries.row(start + index), host, metric, top, out));
        }
    }
    Ok(found)
}

/// The nearest of `candidates`, by the definition.
fn rank(query: &[f32], rows: VectorView<'_>, metric: Metric, candidates: &mut TopK, out: &mut [Neighbor]) {
    let exact = |candidate: &Neighbor| {
        let distance = metric.distance(query, rows.row(candidate.ordinal as usize));
        Neighbor::new(candidate.ordinal, distance as f32)
    };
    let mut nearest: Vec<Neighbor> = candidates.sorted().iter().map(exact).collect();
    nearest.sort_unstable();
    nearest.truncate(out.len());
    out[..nearest.len()].copy_from_slice(&nearest);
    out[nearest.len()..].fill(Neighbor::NONE);
}

/// Queries `first..first + count` of a tile.
struct QueryBlock<'a> {
    gpu: &'a Gpu,
    queries: &'a RowTile,
    first: usize,
    count: usize,
    metric: Metric,
    /// Candidates per query.
    keep: usize,
}

impl QueryBlock<'_> {
    /// The best-scored rows of each query, over all tiles.
    fn candidates(&self, dim: usize, row_tiles: &mut Tiles<'_>) -> Result<Vec<TopK>> {
        let gpu = self.gpu;
        let mut candidates = vec![TopK::new(self.keep); self.count];
        let mut gather = |found: Vec<Neighbor>, note: Part| {
            candidates[note.first_query..]
                .par_iter_mut()
                .zip(found.par_chunks_exact(note.per_query))
                .for_each(|(top, scores)| {
                    let found = scores.iter().filter(|score| !score.is_none());
                    found.for_each(|score| {
                        top.push(Neighbor::new(score.ordinal + note.first_row, score.distance));
                    });
                });
        };
        let mut in_flight = InFlight::new(gpu, "top-k");
        for t in 0..row_tiles.len() {
            let tile = row_tiles.load(gpu, t)?;
            let norms = squared_norms(gpu, &tile.values, tile.rows, dim, self.metric)?;
            let plan = Plan::new(gpu, self.count, &tile, dim, self.keep);
            for first in (0..self.count).step_by(plan.batch) {
                let count = plan.batch.min(self.count - first);
                let readback = self.start(first, count, &tile, &norms, dim, &plan)?;
                let note = Part {
                    first_query: first,
                    first_row: tile.start as u32,
                    per_query: plan.splits * plan.keep,
                };
                in_flight.push(readback, note, &mut gather)?;
            }
        }
        in_flight.finish(&mut gather)?;
        Ok(candidates)
    }

    /// Candidates of the block's queries `first..first + count` among the rows of `tile`.
    fn start(
        &self,
        first: usize,
        count: usize,
        tile: &RowTile,
        norms: &DeviceBuffer,
        dim: usize,
        plan: &Plan,
    ) -> Result<Readback> {
        let gpu = self.gpu;
        let groups = count.div_ceil(gpu.tile_rows()) * plan.splits;
        let list_bytes = (groups * gpu.tile_rows() * plan.capacity * size_of::<Neighbor>()) as u64;
        let lists = gpu.buffers.storage(&gpu.device, "candidate lists", list_bytes)?;
        let bytes = (count * plan.splits * plan.keep * size_of::<Neighbor>()) as u64;
        let found = gpu.buffers.storage(&gpu.device, "candidates", bytes)?;
        let grid = gpu.device.grid(groups as u32);
        let params = TopKParams {
            queries: (self.first + first + count) as u32,
            rows: tile.rows as u32,
            dim: dim as u32,
            metric: metric_number(self.metric),
            first_query: (self.first + first) as u32,
            splits: plan.splits as u32,
            rows_per_split: plan.rows_per_split as u32,
            keep: plan.keep as u32,
            grid_width: grid.width,
        };
        let constants = Constants { capacity: plan.capacity as u32, ..gpu.constants(dim) };
        let bindings = [&*self.queries.values, &*tile.values, norms, &lists, &found];
        let mut work = Work::new(gpu);
        work.dispatch(&TOP_K, constants, &params, &bindings, grid)?;
        work.submit_and_read(&found, bytes)
    }
}

/// Which part of a block's candidates a batch holds.
struct Part {
    first_query: usize,
    first_row: u32,
    per_query: usize,
}

/// How the rows of a tile are split between workgroups, and how many queries go into one dispatch.
#[derive(Debug, PartialEq)]
struct Plan {
    splits: usize,
    rows_per_split: usize,
    /// Candidates that each split finds for each query.
    keep: usize,
    /// Length of a list: a power of two with room for `keep` and a whole tile of columns.
    capacity: usize,
    batch: usize,
}

impl Plan {
    fn new(gpu: &Gpu, queries: usize, tile: &RowTile, dim: usize, keep: usize) -> Self {
        let columns = gpu.tile_columns();
        let free = gpu.device.limits.max_compute_workgroup_storage_size
            - staged_bytes(gpu.device.lanes, gpu.constants(dim).depth)
            - LIST_STATE_BYTES * gpu.tile_rows() as u32;
        let longest = prev_power_of_two(free as usize / size_of::<Neighbor>());
        let query_tiles = queries.div_ceil(gpu.tile_rows());
        let plan = Self::split(tile.rows, query_tiles, keep, longest - columns);
        let capacity = (plan.keep + columns).next_power_of_two();
        let scratch = plan.splits * capacity * size_of::<Neighbor>();
        // Lists are scratch beside the results: they may take what two batches of results would.
        let by_scratch = gpu.buffers.memory.share((2 * BATCH_OUTPUT_BYTES).min(gpu.device.binding_limit), 16);
        let by_scratch = by_scratch as usize / scratch / gpu.tile_rows() * gpu.tile_rows();
        let by_flops = gpu.batch(2.0 * (tile.rows * dim) as f64, plan.splits * plan.keep * size_of::<Neighbor>());
        Self { capacity, batch: by_flops.min(by_scratch).max(gpu.tile_rows()), ..plan }
    }

    /// Few queries: more splits, so that every part of the GPU has one. More candidates than the longest list holds
    /// (`longest_keep`): splits so short that each of their rows is a candidate.
    fn split(rows: usize, query_tiles: usize, keep: usize, longest_keep: usize) -> Self {
        let rows_per_split = if keep > longest_keep {
            longest_keep
        } else {
            let splits = BUSY_WORKGROUPS.div_ceil(query_tiles.max(1));
            rows.div_ceil(splits).max(SPLIT_ROWS)
        };
        let rows_per_split = rows_per_split.min(rows);
        let splits = rows.div_ceil(rows_per_split);
        Self { splits, rows_per_split, keep: keep.min(rows_per_split), capacity: 0, batch: 0 }
    }
}

/// Workgroup memory of `top_k.wgsl` per query of a tile, beside what the product stages: its list's length and bound,
/// and a share of the flags.
const LIST_STATE_BYTES: u32 = 12;

fn prev_power_of_two(n: usize) -> usize {
    1 << n.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_rows_and_hold_every_candidate() {
        for rows in [1, 2, 63, 4096, 4097, 100_000, 5_000_000] {
            for query_tiles in [0, 1, 7, 1000] {
                for keep in [1, 17, 116, 1936, 1937, 5000] {
                    let keep = keep.min(rows);
                    let plan = Plan::split(rows, query_tiles, keep, 1936);
                    assert!(plan.splits * plan.rows_per_split >= rows, "{plan:?}");
                    assert!((plan.splits - 1) * plan.rows_per_split < rows, "{plan:?}");
                    assert!(plan.keep <= 1936, "{plan:?}");
                    assert!(plan.keep == keep || plan.keep == plan.rows_per_split, "{plan:?}");
                }
            }
        }
    }
}
