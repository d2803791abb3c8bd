//! Rows on the device, cut into tiles that one binding can hold: kept there between operations if they fit, else
//! streamed through two buffers, one of which is filled while the other is computed on.

use std::sync::Arc;

use super::super::{ComputeError, Result, Rows};
use super::Gpu;
use super::memory::DeviceBuffer;
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

/// All rows of one `upload`.
pub(super) struct DeviceRows {
    device: u64,
    tiles: Vec<RowTile>,
}

impl DeviceRows {
    /// A copy of `host`, or `None` where it does not fit: then the rows are streamed.
    pub fn new(gpu: &Gpu, host: VectorView<'_>) -> Result<Option<Self>> {
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
        Ok(Some(Self { device: gpu.device.id, tiles }))
    }
}

/// The tiles of some rows, in order, wherever the rows are.
pub(super) struct Tiles<'a> {
    host: VectorView<'a>,
    resident: Option<&'a [RowTile]>,
    tile_rows: usize,
    /// Streamed tile `i` passes through buffer `i % 2`. The queue runs in order: a buffer may be written again
    /// as soon as the work that reads it is submitted.
    stream: [Option<Arc<DeviceBuffer>>; 2],
}

impl<'a> Tiles<'a> {
    /// The tiles of `rows`: the copy that this device holds, else a stream.
    pub fn of(gpu: &Gpu, rows: &'a Rows<'_>) -> Result<Self> {
        let held: Option<&DeviceRows> = rows.device();
        match held.filter(|held| held.device == gpu.device.id) {
            Some(held) => Ok(Self {
                host: rows.host(),
                resident: Some(&held.tiles),
                tile_rows: held.tiles[0].rows,
                stream: [None, None],
            }),
            None => Self::streamed(gpu, rows.host(), usize::MAX),
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
        self.resident.filter(|tiles| tiles.len() == 1).map(|tiles| &tiles[0])
    }

    /// Tile `index`. A streamed tile is valid for work that is submitted before the next but one is loaded.
    pub fn load(&mut self, gpu: &Gpu, index: usize) -> Result<RowTile> {
        if let Some(tiles) = self.resident {
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
