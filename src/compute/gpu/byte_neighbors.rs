//! What a graph is made of, by rows as bytes: `byte_neighbors.wgsl` over leaves, and over rows and the leaders that they
//! are dealt out to. Whole numbers, so that neighbours are the CPU's, bit by bit; where bytes cannot tell rows apart,
//! which is decided as the CPU decides it, the vectors are compared.
//!
//! The bytes of all rows stay on the device where four bindings and the budget hold them; else the host gathers each
//! batch's, and they are streamed.

use std::sync::Arc;

use rayon::prelude::*;

use super::super::cpu::ByteRows;
use super::super::cpu::by_bytes::{MAX_LEAF, are_leaders_resolved, is_leaf_resolved};
use super::super::{ComputeError, Leaves, Result, Rows};
use super::Gpu;
use super::buffers::Readback;
use super::kernels::{BYTE_NEIGHBORS, depth};
use super::layout::{ByteNeighborsParams, ByteTile};
use super::leaf_top_k::leaf_top_k;
use super::memory::DeviceBuffer;
use super::pipelines::Constants;
use super::work::{Cost, Dispatch, InFlight, Work};
use crate::vectors::{Metric, Neighbor, Neighbors};

/// Bytes of rows that the host gathers for one batch, at most.
const GATHERED_BYTES: u64 = 64 << 20;
/// The name of a slot that may find any column.
const NO_NAME: u32 = u32::MAX;
/// Bindings that rows may be in.
const PARTS: usize = 4;
/// A place's bits that say which row of its part it is.
const PLACE_BITS: u32 = 30;

pub(super) fn leaf_candidates(
    gpu: &Gpu,
    rows: &Rows<'_>,
    bytes: Option<&ByteRows>,
    leaves: &Leaves,
    k: usize,
) -> Result<Neighbors> {
    let Some(bytes) = bytes else {
        return leaf_top_k(gpu, rows, leaves, Metric::L2, k);
    };
    let search = ByteSearch::new(gpu, bytes, k)?;
    assert!(leaves.members.iter().all(|&member| (member as usize) < bytes.rows()), "members are rows");
    let mut found = Neighbors::new(leaves.members.len(), k);
    let by_bytes = |leaf: usize| leaves.leaf(leaf).len() <= MAX_LEAF;
    let longest = (0..leaves.len()).filter(|&leaf| by_bytes(leaf)).map(|leaf| leaves.leaf(leaf).len());
    gpu.require_walk(longest.max().unwrap_or(0), search.steps(), search.per_tile(), k + 1)?;
    let mut in_flight = InFlight::new(gpu, "leaf neighbours");
    let mut keep = |part: Vec<Neighbor>, first_slot: usize| {
        found.as_mut_slice()[first_slot * k..][..part.len()].copy_from_slice(&part);
    };
    let mut leaf = 0;
    while leaf < leaves.len() {
        let end = if by_bytes(leaf) { search.batch_end(leaves, leaf) } else { leaf + 1 };
        let slots = leaves.offsets[leaf] as usize..leaves.offsets[end] as usize;
        if by_bytes(leaf) && !slots.is_empty() {
            let members = &leaves.members[slots.clone()];
            let tiles = search.leaf_tiles(&leaves.offsets[leaf..=end]);
            let readback = search.start(&Slots { rows: members, names: members }, members.len(), &tiles)?;
            in_flight.push(readback, slots.start, &mut keep)?;
        }
        leaf = end;
    }
    in_flight.finish(&mut keep)?;
    restore_padding(found.as_mut_slice());

    let is_settled = |leaf: usize| {
        let slots = leaves.offsets[leaf] as usize * k..leaves.offsets[leaf + 1] as usize * k;
        by_bytes(leaf) && is_leaf_resolved(&found.as_slice()[slots], k, bytes.resolution())
    };
    let again: Vec<usize> = (0..leaves.len()).filter(|&leaf| !is_settled(leaf)).collect();
    if !again.is_empty() {
        let mut unresolved = Leaves::default();
        again.iter().for_each(|&leaf| unresolved.push(leaves.leaf(leaf)));
        let by_vectors = leaf_top_k(gpu, rows, &unresolved, Metric::L2, k)?;
        for (place, &leaf) in again.iter().enumerate() {
            let from = unresolved.offsets[place] as usize * k..unresolved.offsets[place + 1] as usize * k;
            let to = leaves.offsets[leaf] as usize * k..leaves.offsets[leaf + 1] as usize * k;
            found.as_mut_slice()[to].copy_from_slice(&by_vectors.as_slice()[from]);
        }
    }
    Ok(found)
}

pub(super) fn nearest_leaders(
    gpu: &Gpu,
    rows: &Rows<'_>,
    bytes: Option<&ByteRows>,
    members: &[u32],
    leaders: &[u32],
    k: usize,
) -> Result<Vec<u32>> {
    assert!((1..=leaders.len()).contains(&k), "{k} of {} leaders", leaders.len());
    if let Some(bytes) = bytes {
        let nearest = ByteSearch::new(gpu, bytes, k)?.leaders(members, leaders)?;
        let unresolved =
            nearest.chunks_exact(k).filter(|nearest| nearest[0].distance < bytes.resolution()).count();
        if are_leaders_resolved(unresolved, members.len(), leaders.len()) {
            return Ok(nearest.iter().map(|leader| leader.ordinal).collect());
        }
    }
    super::super::nearest_leaders(gpu, rows, members, leaders, k)
}

/// The shader pads with the largest finite distance: WGSL has no infinity.
fn restore_padding(found: &mut [Neighbor]) {
    found.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = Neighbor::NONE);
}

/// What a batch compares: of each slot its row, and what it is called.
struct Slots<'a> {
    rows: &'a [u32],
    names: &'a [u32],
}

struct ByteSearch<'a> {
    gpu: &'a Gpu,
    bytes: &'a ByteRows,
    held: Option<Arc<HeldBytes>>,
    k: usize,
}

/// The bytes of all rows on one device, in parts that a binding holds.
struct HeldBytes {
    device: u64,
    parts: Vec<DeviceBuffer>,
    rows_per_part: usize,
}

impl HeldBytes {
    /// `None` where there are too many parts, or there is no room.
    fn new(gpu: &Gpu, bytes: &ByteRows) -> Result<Option<Self>> {
        let (words, units) = (bytes.as_units(), bytes.units());
        let rows_per_part = (gpu.device.binding_limit as usize / (4 * units)).min(1 << PLACE_BITS);
        let fits = rows_per_part > 0
            && bytes.rows().div_ceil(rows_per_part) <= PARTS
            && gpu.buffers.memory.has_room_for_rows(size_of_val(words) as u64);
        if !fits {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for part in words.chunks(rows_per_part * units) {
            match gpu.buffers.filled(&gpu.device, "rows as bytes", part) {
                Ok(part) => parts.push(part),
                Err(ComputeError::OutOfMemory { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Self { device: gpu.device.id, parts, rows_per_part }))
    }

    fn place(&self, row: u32) -> u32 {
        let row = row as usize;
        (((row / self.rows_per_part) << PLACE_BITS) | (row % self.rows_per_part)) as u32
    }
}

impl<'a> ByteSearch<'a> {
    fn new(gpu: &'a Gpu, bytes: &'a ByteRows, k: usize) -> Result<Self> {
        let held = bytes.copy.get_or_make(|| HeldBytes::new(gpu, bytes))?;
        let held = held.filter(|held| held.device == gpu.device.id);
        Ok(Self { gpu, bytes, held, k })
    }

    /// Words of a row that hold dimensions.
    fn steps(&self) -> usize {
        self.bytes.steps()
    }

    /// Loop iterations of a tile of columns beside the product's: every column is looked at, and may go through the list.
    fn per_tile(&self) -> usize {
        9 + self.gpu.tile_columns() * (self.k + 2)
    }

    /// Row slots of one batch, each with so many bytes beside its row and its results.
    fn batch_slots(&self, flops_per_slot: f64) -> usize {
        let gpu = self.gpu;
        let by_output = gpu.batch(flops_per_slot, self.k * size_of::<Neighbor>());
        if self.held.is_some() {
            return by_output;
        }
        let gathered = gpu.buffers.memory.share(GATHERED_BYTES.min(gpu.device.binding_limit), 16);
        by_output.min(gathered as usize / (self.bytes.units() * 4)).max(1)
    }

    /// The end of the batch of leaves that starts at `first`: at least one leaf, and no more than time and memory allow.
    fn batch_end(&self, leaves: &Leaves, first: usize) -> usize {
        let slots = self.batch_slots(0.0);
        let mut flops = 0.0;
        let mut end = first;
        while end < leaves.len() {
            let members = leaves.leaf(end).len();
            flops += flops_of(members * members, self.bytes.dim());
            let total = (leaves.offsets[end + 1] - leaves.offsets[first]) as usize;
            let is_full = flops > self.gpu.device.batch_flops || total > slots || members > MAX_LEAF;
            if end > first && is_full {
                break;
            }
            end += 1;
        }
        end
    }

    /// Each leaf's slots against all slots of the leaf; slots count from the batch's first.
    fn leaf_tiles(&self, offsets: &[u32]) -> Vec<ByteTile> {
        let leaf_tiles = |leaf: &[u32]| {
            let (column, column_end) = (leaf[0] - offsets[0], leaf[1] - offsets[0]);
            let rows = (column..column_end).step_by(self.gpu.tile_rows());
            rows.map(move |row| ByteTile { row, row_end: column_end, column, column_end })
        };
        offsets.windows(2).flat_map(leaf_tiles).collect()
    }

    /// The `k` nearest of `leaders` for each member, by their places in `leaders`.
    fn leaders(&self, members: &[u32], leaders: &[u32]) -> Result<Vec<Neighbor>> {
        let (gpu, k) = (self.gpu, self.k);
        let mut nearest = vec![Neighbor::NONE; members.len() * k];
        let longest = gpu.longest_walk(self.steps(), self.per_tile(), k + 1)?;
        let mut in_flight = InFlight::new(gpu, "nearest leaders");
        let mut keep = |part: Vec<Neighbor>, first: usize| {
            let known = nearest[first * k..][..part.len()].par_chunks_exact_mut(k);
            known.zip(part.par_chunks_exact(k)).for_each(|(known, found)| merge(known, found));
        };
        for (place, leaders) in leaders.chunks(longest).enumerate() {
            let names = (place * longest) as u32..(place * longest + leaders.len()) as u32;
            let batch = self.batch_slots(flops_of(leaders.len(), self.bytes.dim()));
            for (first, members) in (0..).step_by(batch).zip(members.chunks(batch)) {
                let rows: Vec<u32> = members.iter().chain(leaders).copied().collect();
                let names: Vec<u32> =
                    std::iter::repeat_n(NO_NAME, members.len()).chain(names.clone()).collect();
                let (row_end, column_end) = (members.len() as u32, rows.len() as u32);
                let tiles: Vec<ByteTile> = (0..row_end)
                    .step_by(gpu.tile_rows())
                    .map(|row| ByteTile { row, row_end, column: row_end, column_end })
                    .collect();
                let readback = self.start(&Slots { rows: &rows, names: &names }, members.len(), &tiles)?;
                in_flight.push(readback, first, &mut keep)?;
            }
        }
        in_flight.finish(&mut keep)?;
        Ok(nearest)
    }

    /// The neighbours of the first `count` slots, which are the rows of `tiles`.
    fn start(&self, slots: &Slots<'_>, count: usize, tiles: &[ByteTile]) -> Result<Readback> {
        let gpu = self.gpu;
        let (buffers, device) = (&gpu.buffers, &gpu.device);
        let names = buffers.filled(device, "names of slots", slots.names)?;
        let bytes = (count * self.k * size_of::<Neighbor>()) as u64;
        let found = buffers.storage(device, "neighbours by bytes", bytes)?;
        let tiles_held = buffers.filled(device, "tiles of bytes", tiles)?;
        let gathered: DeviceBuffer;
        let (parts, places): (&[DeviceBuffer], Vec<u32>) = match &self.held {
            Some(held) => (&held.parts, slots.rows.iter().map(|&row| held.place(row)).collect()),
            None => {
                gathered = buffers.filled(device, "gathered bytes", &self.gather(slots.rows))?;
                (std::slice::from_ref(&gathered), (0..slots.rows.len() as u32).collect())
            }
        };
        let places = buffers.filled(device, "places of slots", &places)?;
        let part = |index: usize| parts.get(index).unwrap_or(&parts[0]);
        let grid = device.grid(tiles.len() as u32);
        let params = ByteNeighborsParams {
            tiles: tiles.len() as u32,
            stride: self.bytes.units() as u32,
            words: self.steps() as u32,
            k: self.k as u32,
            grid_width: grid.width,
        };
        let mut work = Work::new(gpu);
        work.dispatch(Dispatch {
            kernel: &BYTE_NEIGHBORS,
            constants: Constants { depth: depth(self.steps()), ..gpu.constants(self.steps()) },
            params,
            bindings: &[part(0), part(1), part(2), part(3), &tiles_held, &places, &names, &found],
            grid,
            cost: self.cost(slots.rows.len(), count, tiles),
        })?;
        work.submit_and_read(&found, bytes)
    }

    fn cost(&self, slots: usize, rows: usize, tiles: &[ByteTile]) -> Cost {
        let tile_rows = self.gpu.tile_rows() as u32;
        let pairs = |tile: &ByteTile| {
            let rows = (tile.row_end - tile.row).min(tile_rows);
            rows as usize * (tile.column_end - tile.column) as usize
        };
        Cost {
            flops: flops_of(tiles.iter().map(pairs).sum(), self.bytes.dim()),
            bytes: (4 * slots * (self.steps() + 3) + rows * self.k * size_of::<Neighbor>()) as f64,
        }
    }

    /// The words of `rows`, in their order.
    fn gather(&self, rows: &[u32]) -> Vec<i32> {
        let (units, words) = (self.bytes.units(), self.bytes.as_units());
        let mut gathered = vec![0; rows.len() * units];
        gathered.par_chunks_mut(units).zip(rows).for_each(|(to, &row)| {
            to.copy_from_slice(&words[row as usize * units..][..units]);
        });
        gathered
    }
}

/// Two for each multiply-add of the products of so many pairs.
fn flops_of(pairs: usize, dim: usize) -> f64 {
    2.0 * pairs as f64 * dim as f64
}

/// The least of two ascending lists, into the first.
fn merge(known: &mut [Neighbor], found: &[Neighbor]) {
    if known[0].is_none() {
        known.copy_from_slice(found);
        return restore_padding(known);
    }
    let mut all: Vec<Neighbor> = known.iter().chain(found).copied().collect();
    restore_padding(&mut all);
    all.sort_unstable();
    known.copy_from_slice(&all[..known.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_lists_hold_the_least_and_padding_comes_last() {
        let of = |pairs: &[(u32, f32)]| -> Vec<Neighbor> {
            pairs.iter().map(|&(ordinal, distance)| Neighbor::new(ordinal, distance)).collect()
        };
        let mut known = of(&[(4, 1.0), (9, 3.0), (2, 7.0)]);
        merge(&mut known, &[of(&[(12, 1.0), (10, 2.0)]), vec![Neighbor::new(u32::MAX, f32::MAX)]].concat());
        assert_eq!(known, of(&[(4, 1.0), (12, 1.0), (10, 2.0)]));
        let mut known = vec![Neighbor::NONE; 2];
        merge(&mut known, &[Neighbor::new(3, 5.0), Neighbor::new(u32::MAX, f32::MAX)]);
        assert_eq!(known, [Neighbor::new(3, 5.0), Neighbor::NONE]);
    }
}
