//! The k nearest rows of each query: `top_k.wgsl` finds candidates by score, `SLACK` more than asked for; the host
//! sums their distances anew from the definition, in f64, and keeps k. What is returned is exact but for rows that
//! rounding hid behind the slack. Scores of halves hide more, but by a known amount: a query of which they could have hidden
//! a row is searched again in f32.

use rayon::prelude::*;

use super::super::{Result, Rows};
use super::buffers::Readback;
use super::kernels::staged_bytes;
use super::layout::TopKParams;
use super::limits::{BATCH_OUTPUT_BYTES, sort_iterations};
use super::memory::DeviceBuffer;
use super::pipelines::Constants;
use super::rows::{RowTile, Tiles, extent};
use super::squared_norms::squared_norms;
use super::variants::{Extent, Ranking, Scales, Variant, norm, score_error};
use super::work::{Cost, Dispatch, InFlight, Work};
use super::{Gpu, metric_number};
use crate::vectors::{Metric, Neighbor, Neighbors, Random, TopK, VectorBuf, VectorView};

/// Candidates beyond k. A row is lost only if so many others pass it by rounding: the f32 score of a pair is off by
/// some 1e-6 of |a|² + |b|², and few rows lie that close to the k-th. (Equal rows have equal scores: none is passed.)
const SLACK: usize = 16;
/// Candidates that the host gathers at a time, for all queries of a block.
const HOST_CANDIDATES: usize = 1 << 22;
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
    let halves = (gpu.device.variant != Variant::Plain)
        .then(|| {
            let (queries, rows) = (Extent::of(queries), extent(rows));
            let scales = Scales::halves(metric, queries, rows)?;
            Some((Ranking { variant: gpu.device.variant, scales }, rows.longest))
        })
        .flatten();
    let Some((ranking, longest)) = halves else {
        let search = Search { gpu, rows, metric, keep: k + SLACK, ranking: Ranking::plain(metric) };
        search.run(queries, &mut found, |_, _| true)?;
        return Ok(found);
    };
    let search = Search { gpu, rows, metric, keep: k + SLACK.max(k), ranking };
    let open = search.run(queries, &mut found, |query, ranked| {
        let error = score_error(metric, host.dim(), norm(query), longest);
        ranked.leave_nothing_out(query, metric, error)
    })?;
    if !open.is_empty() {
        let plain = Search { keep: k + SLACK, ranking: Ranking::plain(metric), ..search };
        let mut again = Neighbors::new(open.len(), k);
        plain.run(queries.gather(&open).view(), &mut again, |_, _| true)?;
        for (index, &query) in open.iter().enumerate() {
            found.row_mut(query as usize).copy_from_slice(again.row(index));
        }
    }
    Ok(found)
}

/// All queries against all rows, by one kind of product.
struct Search<'a> {
    gpu: &'a Gpu,
    rows: &'a Rows<'a>,
    metric: Metric,
    /// Candidates per query.
    keep: usize,
    ranking: Ranking,
}

/// A query's answer, and what it was chosen from.
struct Ranked<'a> {
    nearest: &'a [Neighbor],
    /// The worst score that was kept; none where all rows were.
    worst_kept: Option<f32>,
}

impl Ranked<'_> {
    /// Whether no row that was not kept can be among the nearest, if scores are off by at most `error`.
    fn leave_nothing_out(&self, query: &[f32], metric: Metric, error: f64) -> bool {
        let (Some(worst), Some(last)) = (self.worst_kept, self.nearest.last()) else { return true };
        // What a score leaves out of a distance.
        let beside = match metric {
            Metric::L2 => norm(query).powi(2),
            Metric::Cosine => 1.0,
            Metric::InnerProduct => 0.0,
            Metric::L1 | Metric::Hamming => metric.without_products(),
        };
        // A returned distance is rounded to f32.
        let distance = f64::from(last.distance);
        distance * (1.0 + 1e-7 * distance.signum()) - beside + error < f64::from(worst)
    }
}

impl Search<'_> {
    /// Fills `found`; which queries' answers `is_whole` does not accept.
    fn run(
        &self,
        queries: VectorView<'_>,
        found: &mut Neighbors,
        is_whole: impl Fn(&[f32], &Ranked<'_>) -> bool + Sync,
    ) -> Result<Vec<u32>> {
        let Search { gpu, metric, ranking, .. } = *self;
        let (host, k) = (self.rows.host(), found.k());
        let keep = self.keep.min(host.rows());
        let mut blocks = Tiles::streamed(gpu, queries, (HOST_CANDIDATES / keep).max(1))?;
        let mut row_tiles = Tiles::of(gpu, self.rows)?;
        let mut open = Vec::new();
        for index in 0..blocks.len() {
            let queries_held = blocks.load(gpu, index)?;
            let block = QueryBlock { gpu, queries: &queries_held, dim: host.dim(), metric, keep, ranking };
            let start = queries_held.start;
            let of_block: Vec<u32> = block
                .candidates(&mut row_tiles)?
                .par_iter_mut()
                .zip(found.as_mut_slice()[start * k..].par_chunks_exact_mut(k))
                .enumerate()
                .filter_map(|(index, (top, out))| {
                    let query = queries.row(start + index);
                    rank(query, host, metric, top, out);
                    let kept = top.sorted();
                    let worst_kept = (kept.len() < host.rows()).then(|| kept.last()).flatten();
                    let ranked = Ranked { nearest: out, worst_kept: worst_kept.map(|worst| worst.distance) };
                    (!is_whole(query, &ranked)).then_some((start + index) as u32)
                })
                .collect();
            open.extend(of_block);
        }
        Ok(open)
    }
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

/// Whether this device's products of halves are what they are taken for: scores of a few random rows within their bound.
pub(super) fn holds_its_bound(gpu: &Gpu) -> Result<bool> {
    const ROWS: usize = 300;
    const DIM: usize = 100;
    let metric = Metric::L2;
    let mut random = Random::new(1);
    let values = (0..ROWS * DIM).map(|_| random.normal() as f32).collect();
    let all = VectorBuf::new(values, DIM);
    let rows = Rows::on_host(all.view());
    let extent = Extent::of(all.view());
    let Some(scales) = Scales::halves(metric, extent, extent) else { return Ok(false) };
    let mut blocks = Tiles::streamed(gpu, all.view(), usize::MAX)?;
    let queries = blocks.load(gpu, 0)?;
    let ranking = Ranking { variant: gpu.device.variant, scales };
    let block = QueryBlock { gpu, queries: &queries, dim: DIM, metric, keep: ROWS, ranking };
    let mut candidates = block.candidates(&mut Tiles::of(gpu, &rows)?)?;
    let is_within = |query: &[f32], candidate: &Neighbor| {
        let exact = metric.distance(query, all.row(candidate.ordinal as usize)) - norm(query).powi(2);
        let error = score_error(metric, DIM, norm(query), extent.longest);
        (f64::from(candidate.distance) - exact).abs() <= error
    };
    Ok(all.view().iter().zip(&mut candidates).all(|(query, found)| {
        let found = found.sorted();
        found.len() == ROWS && found.iter().all(|candidate| is_within(query, candidate))
    }))
}

/// Queries that go through all rows together.
struct QueryBlock<'a> {
    gpu: &'a Gpu,
    queries: &'a RowTile,
    dim: usize,
    metric: Metric,
    /// Candidates per query.
    keep: usize,
    ranking: Ranking,
}

/// A tile of rows, as a block of queries goes through it.
struct Searched<'a> {
    rows: &'a RowTile,
    norms: DeviceBuffer,
    plan: Plan,
}

/// Which part of a block's candidates a batch holds.
struct Part {
    first_query: usize,
    first_row: u32,
    per_query: usize,
}

impl QueryBlock<'_> {
    /// The best-scored rows of each query, over all tiles.
    fn candidates(&self, row_tiles: &mut Tiles<'_>) -> Result<Vec<TopK>> {
        let gpu = self.gpu;
        let mut candidates = vec![TopK::new(self.keep); self.queries.rows];
        let mut gather = |found: Vec<Neighbor>, part: Part| {
            candidates[part.first_query..]
                .par_iter_mut()
                .zip(found.par_chunks_exact(part.per_query))
                .for_each(|(top, scores)| {
                    for score in scores.iter().filter(|score| !score.is_none()) {
                        top.push(Neighbor::new(score.ordinal + part.first_row, score.distance));
                    }
                });
        };
        let mut in_flight = InFlight::new(gpu, "top-k");
        for t in 0..row_tiles.len() {
            let rows = row_tiles.load(gpu, t)?;
            let norms = squared_norms(gpu, &rows.values, rows.rows, self.dim, self.metric)?;
            let plan = Plan::new(gpu, self, rows.rows)?;
            let searched = Searched { rows: &rows, norms, plan };
            for first in (0..self.queries.rows).step_by(searched.plan.batch) {
                let count = searched.plan.batch.min(self.queries.rows - first);
                let readback = self.start(first, count, &searched)?;
                let per_query = searched.plan.splits * searched.plan.keep;
                let part = Part { first_query: first, first_row: rows.start as u32, per_query };
                in_flight.push(readback, part, &mut gather)?;
            }
        }
        in_flight.finish(&mut gather)?;
        Ok(candidates)
    }

    /// Candidates of the block's queries `first..first + count`.
    fn start(&self, first: usize, count: usize, searched: &Searched<'_>) -> Result<Readback> {
        let (gpu, Searched { rows, norms, plan }) = (self.gpu, searched);
        let groups = count.div_ceil(gpu.tile_rows()) * plan.splits;
        let list_bytes = (groups * gpu.tile_rows() * plan.capacity * size_of::<Neighbor>()) as u64;
        let lists = gpu.buffers.storage(&gpu.device, "candidate lists", list_bytes)?;
        let bytes = (count * plan.splits * plan.keep * size_of::<Neighbor>()) as u64;
        let found = gpu.buffers.storage(&gpu.device, "candidates", bytes)?;
        let grid = gpu.device.grid(groups as u32);
        let params = TopKParams {
            queries: (first + count) as u32,
            rows: rows.rows as u32,
            dim: self.dim as u32,
            metric: metric_number(self.metric),
            first_query: first as u32,
            splits: plan.splits as u32,
            rows_per_split: plan.rows_per_split as u32,
            keep: plan.keep as u32,
            grid_width: grid.width,
            a_scale: self.ranking.scales.a,
            b_scale: self.ranking.scales.b,
            weight: self.ranking.scales.weight,
        };
        let variant = self.ranking.variant;
        let constants = Constants { capacity: plan.capacity as u32, ..gpu.constants_of(variant, self.dim) };
        let bindings = [&*self.queries.values, &*rows.values, norms, &lists, &found];
        let mut work = Work::new(gpu);
        work.dispatch(Dispatch {
            kernel: variant.top_k(),
            constants,
            params,
            bindings: &bindings,
            grid,
            cost: Cost {
                flops: 2.0 * (count * rows.rows * self.dim) as f64,
                bytes: (4 * self.dim * (count + rows.rows)) as f64 + bytes as f64,
            },
        })?;
        work.submit_and_read(&found, bytes)
    }
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
    fn new(gpu: &Gpu, block: &QueryBlock<'_>, rows: usize) -> Result<Self> {
        let columns = gpu.tile_columns();
        let longest = longest_list(gpu, block.ranking.variant, block.dim);
        let sort = |capacity| gpu.tile_rows() * sort_iterations(gpu.device.lanes, capacity);
        let capacity = (block.keep + columns).next_power_of_two().min(longest);
        // Every tile may crowd every list; but rows that all fit a list never do.
        let walk = gpu.longest_walk(block.dim, sort(capacity), sort(capacity))?;
        let uncut = gpu.longest_walk(block.dim, 0, sort(longest))?.min(longest - columns);
        let walk =
            if block.keep > longest - columns { uncut } else { walk.max(uncut.min(capacity - columns)) };

        let query_tiles = block.queries.rows.div_ceil(gpu.tile_rows());
        let (splits, rows_per_split) = split(rows, query_tiles, walk);
        let keep = block.keep.min(rows_per_split);
        let capacity = (keep + columns).next_power_of_two();

        // Lists are scratch beside the results: they may take what two batches of results would.
        let scratch = gpu.buffers.memory.share((2 * BATCH_OUTPUT_BYTES).min(gpu.device.binding_limit), 16);
        let by_scratch = scratch as usize / (splits * capacity * size_of::<Neighbor>());
        let by_flops = gpu.batch(2.0 * (rows * block.dim) as f64, splits * keep * size_of::<Neighbor>());
        let tile = gpu.tile_rows();
        let batch = (by_flops.min(by_scratch) / tile * tile).max(tile);
        Ok(Self { splits, rows_per_split, keep, capacity, batch })
    }
}

/// Splits and rows of each: as many as keep a large GPU busy, none longer than `longest`.
fn split(rows: usize, query_tiles: usize, longest: usize) -> (usize, usize) {
    let splits = BUSY_WORKGROUPS.div_ceil(query_tiles.max(1));
    let rows_per_split = rows.div_ceil(splits).max(SPLIT_ROWS).min(longest).min(rows);
    (rows.div_ceil(rows_per_split), rows_per_split)
}

/// The longest list that workgroup memory sorts, and whose sorting leaves software half of its loop iterations.
fn longest_list(gpu: &Gpu, variant: Variant, dim: usize) -> usize {
    let free = gpu.device.limits.max_compute_workgroup_storage_size
        - staged_bytes(variant, gpu.device.lanes, gpu.constants_of(variant, dim).depth)
        - LIST_STATE_BYTES * gpu.tile_rows() as u32;
    let mut longest = 1 << (free as usize / size_of::<Neighbor>()).ilog2();
    while gpu.tile_rows() * sort_iterations(gpu.device.lanes, longest) > gpu.device.loop_iterations / 2 {
        longest /= 2;
    }
    longest
}

/// Workgroup memory of `top_k.wgsl` per query of a tile, beside what the product stages: its list's length and bound,
/// and a share of the flags.
const LIST_STATE_BYTES: u32 = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_rows_and_none_is_empty() {
        for rows in [1, 2, 63, 4096, 4097, 100_000, 5_000_000] {
            for query_tiles in [0, 1, 7, 1000] {
                for longest in [32, 4097, usize::MAX] {
                    let (splits, rows_per_split) = split(rows, query_tiles, longest);
                    assert!(rows_per_split <= longest);
                    assert!(splits * rows_per_split >= rows && (splits - 1) * rows_per_split < rows);
                }
            }
        }
    }
}
