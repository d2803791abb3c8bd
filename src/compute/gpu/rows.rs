//! Rows on the device, cut into tiles that one binding can hold: kept there between operations if they fit, else
//! streamed through two buffers, one of which is filled while the other is computed on.

use std::sync::{Arc, OnceLock};

use super::super::{ComputeError, DeviceCopy, Result, Rows};
use super::Gpu;
use super::memory::DeviceBuffer;
use super::variants::Extent;
use crate::vectors::VectorView;

/// Bytes of a streamed tile, at most: two of them, and the bus has work for some 10 ms.
const STREAMED_TILE_BYTES: u64 = 256 << 20;

/// Rows `start..start + rows`, dense, in one buffer.
#[derive(Clone)]
pub(super) struct RowTile {
    pub start: usize,
    pub rows: usize,
    pub values: Arc<DeviceBuffer>,
}

/// All rows of one `upload`, brought to the device by the first operation that reads them: a graph, which is made of
/// their bytes, may never.
pub(super) struct DeviceRows {
    device: u64,
    copy: DeviceCopy,
    extent: OnceLock<Extent>,
}

impl DeviceRows {
    /// # Errors
    /// Where a row is wider than a binding.
    pub fn of(gpu: &Gpu, host: VectorView<'_>) -> Result<Self> {
        rows_within(gpu.device.binding_limit, host.dim())?;
        Ok(Self { device: gpu.device.id, copy: DeviceCopy::default(), extent: OnceLock::new() })
    }

    /// The copy of `host`, or `None` where it does not fit: then the rows are streamed.
    fn held(&self, gpu: &Gpu, host: VectorView<'_>) -> Result<Option<Arc<Vec<RowTile>>>> {
        if self.device != gpu.device.id {
            return Ok(None);
        }
        self.copy.get_or_make(|| held_tiles(gpu, host))
    }
}

/// Of all rows; found once for those that were uploaded.
pub(super) fn extent(rows: &Rows<'_>) -> Extent {
    let find = || Extent::of(rows.host());
    rows.device::<DeviceRows>().map_or_else(find, |held| *held.extent.get_or_init(find))
}

fn held_tiles(gpu: &Gpu, host: VectorView<'_>) -> Result<Option<Vec<RowTile>>> {
    if host.is_empty() || !gpu.buffers.memory.has_room_for_rows(size_of_val(host.as_slice()) as u64) {
        return Ok(None);
    }
    let tile_rows = rows_within(gpu.device.binding_limit, host.dim())?;
    let mut tiles = Vec::new();
    for start in (0..host.rows()).step_by(tile_rows) {
        let rows = host.slice(start, host.rows().min(start + tile_rows));
        match gpu.buffers.filled(&gpu.device, "rows", rows.as_slice()) {
            Ok(values) => tiles.push(RowTile { start, rows: rows.rows(), values: Arc::new(values) }),
            Err(ComputeError::OutOfMemory { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(tiles))
}

/// The tiles of some rows, in order, wherever the rows are.
pub(super) struct Tiles<'a> {
    host: VectorView<'a>,
    resident: Option<Arc<Vec<RowTile>>>,
    tile_rows: usize,
    /// Streamed tile `i` passes through buffer `i % 2`. The queue runs in order: a buffer may be written again
    /// as soon as the work that reads it is submitted.
    stream: [Option<Arc<DeviceBuffer>>; 2],
}

impl<'a> Tiles<'a> {
    /// The tiles of `rows`: the copy that this device holds, else a stream.
    pub fn of(gpu: &Gpu, rows: &'a Rows<'_>) -> Result<Self> {
        let host = rows.host();
        let held = match rows.device::<DeviceRows>() {
            Some(rows) => rows.held(gpu, host)?,
            None => None,
        };
        match held {
            Some(tiles) => {
                let tile_rows = tiles[0].rows;
                Ok(Self { host, resident: Some(tiles), tile_rows, stream: [None, None] })
            }
            None => Self::streamed(gpu, host, usize::MAX),
        }
    }

    /// Tiles of at most `longest` rows that pass through the device.
    pub fn streamed(gpu: &Gpu, host: VectorView<'a>, longest: usize) -> Result<Self> {
        let bytes = gpu.buffers.memory.share(STREAMED_TILE_BYTES.min(gpu.device.binding_limit), 16);
        let tile_rows = rows_within(bytes, host.dim())?.min(longest).min(host.rows()).max(1);
        Ok(Self { host, resident: None, tile_rows, stream: [None, None] })
    }

    pub fn len(&self) -> usize {
        self.host.rows().div_ceil(self.tile_rows)
    }

    /// The only tile, if there is one that stays on the device.
    pub fn only_resident(&self) -> Option<&RowTile> {
        self.resident.as_ref().filter(|tiles| tiles.len() == 1).map(|tiles| &tiles[0])
    }

    /// Tile `index`. A streamed tile is valid for work that is submitted before the next but one is loaded.
    pub fn load(&mut self, gpu: &Gpu, index: usize) -> Result<RowTile> {
        if let Some(tiles) = &self.resident {
            return Ok(tiles[index].clone());
        }
        let start = index * self.tile_rows;
        let rows = self.host.slice(start, self.host.rows().min(start + self.tile_rows));
        let buffer = &mut self.stream[index % 2];
        let values = match buffer {
            Some(values) => values.clone(),
            None => {
                let bytes = (self.tile_rows * self.host.dim() * size_of::<f32>()) as u64;
                buffer.insert(Arc::new(gpu.buffers.storage(&gpu.device, "a tile of rows", bytes)?)).clone()
            }
        };
        gpu.buffers.write(&gpu.device, &values, rows.as_slice())?;
        Ok(RowTile { start, rows: rows.rows(), values })
    }
}

/// Whole rows in `bytes`.
fn rows_within(bytes: u64, dim: usize) -> Result<usize> {
    let row_bytes = (dim * size_of::<f32>()) as u64;
    if row_bytes > bytes {
        return Err(ComputeError::OutOfMemory {
            what: "a tile of one row".into(),
            needed: row_bytes,
            allowed: bytes,
        });
    }
    Ok((bytes / row_bytes) as usize)
}
