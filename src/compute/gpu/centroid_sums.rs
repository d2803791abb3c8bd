//! Per-centroid sums: a counting sort on the host, then `centroid_sums.wgsl` and `centroid_fold.wgsl`.
//!
//! Each label's rows, in ascending order, are cut into pieces at fixed ranks: a piece is added from left to right,
//! then a label's pieces are. Neither depends on how the rows are tiled: a piece that a tile's end cuts in two is
//! carried over. So the sums are the same bytes for any memory budget.

use rayon::prelude::*;

use super::super::{CentroidSums, Result, Rows};
use super::Gpu;
use super::kernels::{CENTROID_FOLD, CENTROID_SUMS};
use super::layout::{CentroidFoldParams, CentroidSumsParams, Piece, PieceRun};
use super::memory::DeviceBuffer;
use super::rows::{RowTile, Tiles};
use super::work::{Cost, Dispatch, Work};

/// Rows of a piece. Long enough that pieces are few beside rows, short enough that a million rows of one label are
/// thousands of threads' work and that an f32 sum loses little: two levels of 256 add 65,536 rows with the rounding
/// of 512 additions.
const PIECE_ROWS: u32 = 256;
/// Rows that a thread sorts by label, at least.
const SORTED_ROWS: usize = 1 << 16;

pub(super) fn centroid_sums(
    gpu: &Gpu,
    rows: &Rows<'_>,
    labels: &[u32],
    nlist: usize,
) -> Result<CentroidSums> {
    let (count, dim) = (rows.host().rows(), rows.host().dim());
    assert_eq!(labels.len(), count, "one label per row");
    let mut counts = vec![0u32; nlist];
    for &label in labels {
        counts[label as usize] += 1;
    }
    let mut sums = Vec::with_capacity(nlist * dim);
    let mut tiles = Tiles::of(gpu, rows)?;
    let range_lists = label_range(gpu, dim);
    for first in (0..nlist).step_by(range_lists) {
        let mut range = LabelRange::new(gpu, first, range_lists.min(nlist - first), dim)?;
        for t in 0..tiles.len() {
            let tile = tiles.load(gpu, t)?;
            let tile_labels = &labels[tile.start..tile.start + tile.rows];
            range.add(&tile, tile_labels, tile.start + tile.rows == count)?;
        }
        sums.extend(range.finish()?);
    }
    Ok(CentroidSums { sums, counts })
}

/// Labels whose sums are built at a time. A tile's pieces are one per 256 rows and at most two more per label (its
/// run's head and tail): a quarter of a binding for the labels leaves room for all of them in one.
fn label_range(gpu: &Gpu, dim: usize) -> usize {
    let bytes = gpu.buffers.memory.share(gpu.device.binding_limit / 4, 32);
    (bytes as usize / (dim * size_of::<f32>())).max(1)
}

/// The sums of labels `first..first + counts.len()`, under construction.
struct LabelRange<'g> {
    gpu: &'g Gpu,
    first: usize,
    dim: usize,
    /// Rows of each label so far.
    seen: Vec<u32>,
    sums: DeviceBuffer,
    /// The sum of each label's open piece.
    carry: DeviceBuffer,
}

impl<'g> LabelRange<'g> {
    fn new(gpu: &'g Gpu, first: usize, labels: usize, dim: usize) -> Result<Self> {
        let bytes = (labels * dim * size_of::<f32>()) as u64;
        Ok(Self {
            gpu,
            first,
            dim,
            seen: vec![0; labels],
            sums: gpu.buffers.storage(&gpu.device, "sums", bytes)?,
            carry: gpu.buffers.storage(&gpu.device, "carried sums", bytes)?,
        })
    }

    /// Adds the rows of a tile. The last tile closes every piece.
    fn add(&mut self, tile: &RowTile, labels: &[u32], last: bool) -> Result<()> {
        let (gpu, dim) = (self.gpu, self.dim);
        let (order, offsets) = self.sort(labels);
        let (pieces, runs) = self.cut(&offsets, last);
        if pieces.is_empty() {
            return Ok(());
        }
        let piece_values = pieces.len() * dim;
        let piece_sums =
            gpu.buffers.storage(&gpu.device, "piece sums", (piece_values * size_of::<f32>()) as u64)?;
        let order_len = order.len();
        let order = gpu.buffers.filled(&gpu.device, "rows by label", &order)?;
        let pieces_held = gpu.buffers.filled(&gpu.device, "pieces", &pieces)?;
        let runs_held = gpu.buffers.filled(&gpu.device, "piece runs", &runs)?;
        let constants = gpu.constants(dim);
        let threads = (constants.lanes * constants.lanes) as usize;

        let mut work = Work::new(gpu);
        let grid = gpu.device.grid(piece_values.div_ceil(threads) as u32);
        let params =
            CentroidSumsParams { pieces: pieces.len() as u32, dim: dim as u32, grid_width: grid.width };
        let bindings = [&*tile.values, &order, &pieces_held, &self.carry, &piece_sums];
        work.dispatch(Dispatch {
            kernel: &CENTROID_SUMS,
            constants,
            params,
            bindings: &bindings,
            grid,
            cost: Cost {
                flops: (order_len * dim) as f64,
                bytes: (4 * (order_len * (dim + 1) + piece_values)) as f64,
            },
        })?;

        let grid = gpu.device.grid((runs.len() * dim).div_ceil(threads) as u32);
        let params =
            CentroidFoldParams { labels: runs.len() as u32, dim: dim as u32, grid_width: grid.width };
        let bindings = [&runs_held, &piece_sums, &self.carry, &self.sums];
        work.dispatch(Dispatch {
            kernel: &CENTROID_FOLD,
            constants,
            params,
            bindings: &bindings,
            grid,
            cost: Cost {
                flops: piece_values as f64,
                bytes: (4 * (piece_values + 2 * runs.len() * dim)) as f64,
            },
        })?;
        work.submit()
    }

    /// The tile's rows that bear a label of the range, by label and then in order, and where each label's begin. Threads
    /// take a range of labels each, of as many rows, and read all labels: that is cheaper than what they write.
    fn sort(&self, labels: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let offsets = self.offsets(labels);
        let total = offsets[self.seen.len()] as usize;
        let mut order = vec![0u32; total];
        let share = total.div_ceil(rayon::current_num_threads()).max(SORTED_ROWS);
        let mut tasks = Vec::new();
        let (mut rest, mut first) = (order.as_mut_slice(), 0);
        while first < self.seen.len() {
            let begin = offsets[first];
            let within = |&offset: &u32| (offset - begin) as usize <= share;
            let end = first + offsets[first + 1..].iter().take_while(|offset| within(offset)).count().max(1);
            let (own, behind) = rest.split_at_mut((offsets[end] - begin) as usize);
            tasks.push((first..end, own));
            (rest, first) = (behind, end);
        }
        tasks.into_par_iter().for_each(|(range, order)| {
            let begin = offsets[range.start];
            let mut next: Vec<u32> = offsets[range.clone()].iter().map(|&offset| offset - begin).collect();
            let first_label = (self.first + range.start) as u32;
            for (row, &label) in labels.iter().enumerate() {
                if let Some(next) = next.get_mut(label.wrapping_sub(first_label) as usize) {
                    order[*next as usize] = row as u32;
                    *next += 1;
                }
            }
        });
        (order, offsets)
    }

    /// Where each label's rows begin in the order of labels; and behind them their end.
    fn offsets(&self, labels: &[u32]) -> Vec<u32> {
        let none = || vec![0u32; self.seen.len()];
        let counts = labels.par_chunks(SORTED_ROWS).fold(none, |mut counts, labels| {
            for label in labels {
                if let Some(count) = counts.get_mut(label.wrapping_sub(self.first as u32) as usize) {
                    *count += 1;
                }
            }
            counts
        });
        let counts = counts.reduce(none, |mut sum, other| {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
            sum
        });
        let mut end = 0;
        let ends = counts.into_iter().map(|count| {
            end += count;
            end
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// The pieces of each label's run in this tile.
    fn cut(&mut self, offsets: &[u32], last: bool) -> (Vec<Piece>, Vec<PieceRun>) {
        let mut pieces = Vec::new();
        let mut runs = Vec::with_capacity(self.seen.len());
        for (label, seen) in self.seen.iter_mut().enumerate() {
            let run_first = pieces.len() as u32;
            let (mut at, end) = (offsets[label], offsets[label + 1]);
            let mut rank = *seen % PIECE_ROWS;
            // An open piece is continued, or, when no more rows can come, closed as it is.
            while at < end || (last && rank > 0) {
                let next = end.min(at + (PIECE_ROWS - rank));
                let carried = if rank > 0 { label as u32 } else { Piece::NOT_CARRIED };
                pieces.push(Piece { first: at, end: next, carried });
                (at, rank) = (next, 0);
            }
            *seen += end - offsets[label];
            let is_open = !last && end > offsets[label] && *seen % PIECE_ROWS > 0;
            runs.push(PieceRun { first: run_first, end: pieces.len() as u32, open: u32::from(is_open) });
        }
        (pieces, runs)
    }

    fn finish(self) -> Result<Vec<f32>> {
        let bytes = (self.seen.len() * self.dim * size_of::<f32>()) as u64;
        let readback = Work::new(self.gpu).submit_and_read(&self.sums, bytes)?;
        self.gpu.buffers.finish_read(&self.gpu.device, readback, "centroid sums")
    }
}
