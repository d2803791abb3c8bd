//! Neighbours within leaves: `leaf_top_k.wgsl` over batches of leaves. Where all rows are in one binding the shader
//! gathers them itself; else the host gathers each batch's rows and they are streamed.

use super::super::{Leaves, Result, Rows};
use super::buffers::Readback;
use super::kernels::LEAF_TOP_K;
use super::layout::{LeafTile, LeafTopKParams};
use super::memory::DeviceBuffer;
use super::rows::Tiles;
use super::squared_norms::squared_norms;
use super::work::{Cost, Dispatch, InFlight, Work};
use super::{Gpu, metric_number};
use crate::vectors::{Metric, Neighbor, Neighbors, VectorView};

/// Bytes of rows that the host gathers for one batch, at most.
const GATHERED_BYTES: u64 = 64 << 20;

pub(super) fn leaf_top_k(
    gpu: &Gpu,
    rows: &Rows<'_>,
    leaves: &Leaves,
    metric: Metric,
    k: usize,
) -> Result<Neighbors> {
    let host = rows.host();
    assert!(leaves.members.iter().all(|&member| (member as usize) < host.rows()), "members are rows");
    let mut found = Neighbors::new(leaves.members.len(), k);
    let mut keep = |part: Vec<Neighbor>, first_slot: usize| {
        for (out, neighbor) in found.as_mut_slice()[first_slot * k..].iter_mut().zip(part) {
            // The shader pads with the largest finite distance: WGSL has no infinity.
            *out = if neighbor.is_none() { Neighbor::NONE } else { neighbor };
        }
    };
    let longest = (0..leaves.len()).map(|leaf| leaves.leaf(leaf).len()).max().unwrap_or(0);
    // Beside the walk: every column is looked at, and may go through the whole list.
    gpu.require_walk(longest, host.dim(), 9 + gpu.tile_columns() * (k + 2), k + 1)?;
    let tiles = Tiles::of(gpu, rows)?;
    let held = match tiles.only_resident() {
        Some(tile) => Some(HeldRows {
            values: &tile.values,
            norms: squared_norms(gpu, &tile.values, tile.rows, host.dim(), metric)?,
        }),
        None => None,
    };
    let search = LeafSearch { gpu, host, held, metric, k };
    let mut in_flight = InFlight::new(gpu, "leaf neighbours");
    let mut leaf = 0;
    while leaf < leaves.len() {
        let end = search.batch_end(leaves, leaf);
        let first_slot = leaves.offsets[leaf] as usize;
        if leaves.offsets[end] as usize > first_slot {
            in_flight.push(search.start(leaves, leaf, end)?, first_slot, &mut keep)?;
        }
        leaf = end;
    }
    in_flight.finish(&mut keep)?;
    Ok(found)
}

/// All rows, on the device, in one binding.
struct HeldRows<'a> {
    values: &'a DeviceBuffer,
    norms: DeviceBuffer,
}

struct LeafSearch<'a> {
    gpu: &'a Gpu,
    host: VectorView<'a>,
    held: Option<HeldRows<'a>>,
    metric: Metric,
    k: usize,
}

impl LeafSearch<'_> {
    /// The end of the batch of leaves that starts at `first`: at least one leaf, and no more than time and memory
    /// allow.
    fn batch_end(&self, leaves: &Leaves, first: usize) -> usize {
        let (gpu, dim) = (self.gpu, self.host.dim());
        let limit = gpu.device.binding_limit;
        let by_output = gpu.batch(0.0, self.k * size_of::<Neighbor>());
        let by_gather =
            gpu.buffers.memory.share(GATHERED_BYTES.min(limit), 16) as usize / (dim * size_of::<f32>());
        let slots = if self.held.is_some() { by_output } else { by_output.min(by_gather) };
        let mut flops = 0.0;
        let mut end = first;
        while end < leaves.len() {
            let members = leaves.leaf(end).len() as f64;
            flops += 2.0 * members * members * dim as f64;
            let total = (leaves.offsets[end + 1] - leaves.offsets[first]) as usize;
            if end > first && (flops > gpu.device.batch_flops || total > slots) {
                break;
            }
            end += 1;
        }
        end
    }

    /// Neighbours of the members of leaves `first..end`.
    fn start(&self, leaves: &Leaves, first: usize, end: usize) -> Result<Readback> {
        let (gpu, dim) = (self.gpu, self.host.dim());
        let first_slot = leaves.offsets[first];
        let members = &leaves.members[first_slot as usize..leaves.offsets[end] as usize];
        let tiles = self.tiles(&leaves.offsets[first..=end]);
        let ordinals = gpu.buffers.filled(&gpu.device, "leaf members", members)?;
        let bytes = (members.len() * self.k * size_of::<Neighbor>()) as u64;
        let found = gpu.buffers.storage(&gpu.device, "leaf neighbours", bytes)?;
        let tiles_held = gpu.buffers.filled(&gpu.device, "leaf tiles", &tiles)?;
        let grid = gpu.device.grid(tiles.len() as u32);
        let params = LeafTopKParams {
            tiles: tiles.len() as u32,
            dim: dim as u32,
            metric: metric_number(self.metric),
            k: self.k as u32,
            grid_width: grid.width,
        };
        let sizes = leaves.offsets[first..=end].windows(2).map(|leaf| f64::from(leaf[1] - leaf[0]));
        let cost = Cost {
            flops: sizes.map(|members| 2.0 * members * members * dim as f64).sum(),
            bytes: (members.len() * 4 * dim) as f64 + bytes as f64,
        };
        let gathered: (DeviceBuffer, DeviceBuffer, DeviceBuffer);
        let (values, norms, places) = match &self.held {
            Some(HeldRows { values, norms }) => (*values, norms, &ordinals),
            None => {
                gathered = self.gather(members)?;
                (&gathered.0, &gathered.1, &gathered.2)
            }
        };
        let mut work = Work::new(gpu);
        work.dispatch(Dispatch {
            kernel: &LEAF_TOP_K,
            constants: gpu.constants(dim),
            params,
            bindings: &[values, norms, &tiles_held, places, &ordinals, &found],
            grid,
            cost,
        })?;
        work.submit_and_read(&found, bytes)
    }

    /// The rows of `members`, their norms and their places, brought to the device for one batch.
    fn gather(&self, members: &[u32]) -> Result<(DeviceBuffer, DeviceBuffer, DeviceBuffer)> {
        let gpu = self.gpu;
        let gathered = self.host.gather(members);
        let values = gpu.buffers.filled(&gpu.device, "gathered rows", gathered.view().as_slice())?;
        let norms = squared_norms(gpu, &values, members.len(), self.host.dim(), self.metric)?;
        let places: Vec<u32> = (0..members.len() as u32).collect();
        Ok((values, norms, gpu.buffers.filled(&gpu.device, "gathered places", &places)?))
    }

    /// Each leaf's rows in tiles; slots count from the batch's first.
    fn tiles(&self, offsets: &[u32]) -> Vec<LeafTile> {
        let mut tiles = Vec::new();
        for leaf in offsets.windows(2) {
            let (first, end) = (leaf[0] - offsets[0], leaf[1] - offsets[0]);
            tiles.extend((first..end).step_by(self.gpu.tile_rows()).map(|row| LeafTile { first, end, row }));
        }
        tiles
    }
}
