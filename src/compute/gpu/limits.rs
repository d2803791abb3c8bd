//! What one dispatch may ask of the adapter: time, memory for its results, and, of software, iterations of loops.

use super::super::{ComputeError, Result};
use super::Gpu;
use super::kernels::{LANE_COLUMNS, LANE_ROWS, depth};

/// Bytes of one batch's results, at most: small enough to have two in flight beside the rows.
pub(super) const BATCH_OUTPUT_BYTES: u64 = 32 << 20;

impl Gpu {
    pub(super) fn tile_rows(&self) -> usize {
        (self.device.lanes * LANE_ROWS) as usize
    }

    pub(super) fn tile_columns(&self) -> usize {
        (self.device.lanes * LANE_COLUMNS) as usize
    }

    /// How many items to put into one dispatch: whole tiles, as many as the operating system's patience and the
    /// memory for their results allow.
    pub(super) fn batch(&self, flops_per_item: f64, bytes_per_item: usize) -> usize {
        let by_flops = (self.device.batch_flops / flops_per_item.max(1.0)) as usize;
        let bytes = self.buffers.memory.share(BATCH_OUTPUT_BYTES.min(self.device.binding_limit), 16);
        let by_bytes = bytes as usize / bytes_per_item.max(1);
        let tile = self.tile_rows();
        (by_flops.min(by_bytes) / tile * tile).max(tile)
    }

    /// How many columns one workgroup may walk before it runs out of loop iterations: `per_tile` of its own for each
    /// tile of columns, `fixed` once, beside those of the product.
    ///
    /// # Errors
    /// Where not even one tile can be walked.
    pub(super) fn longest_walk(&self, dim: usize, per_tile: usize, fixed: usize) -> Result<usize> {
        let tile = product_iterations(self.device.lanes, dim) + per_tile;
        let tiles = self.device.loop_iterations.saturating_sub(fixed) / tile;
        if tiles == 0 {
            return Err(ComputeError::Validation(format!(
                "{dim} dimensions take {} loop iterations in one shader, this adapter allows {}",
                tile + fixed,
                self.device.loop_iterations
            )));
        }
        Ok(tiles.saturating_mul(self.tile_columns()))
    }

    /// Fails unless one workgroup may walk `columns`, counted as [`longest_walk`](Self::longest_walk) does.
    pub(super) fn require_walk(
        &self,
        columns: usize,
        dim: usize,
        per_tile: usize,
        fixed: usize,
    ) -> Result<()> {
        let longest = self.longest_walk(dim, per_tile, fixed)?;
        if columns > longest {
            return Err(ComputeError::Validation(format!(
                "{columns} columns of {dim} dimensions in one workgroup: this adapter allows {longest}"
            )));
        }
        Ok(())
    }
}

// A loop of n rounds counts as n + 1: the round that ends it is one.

/// Loop iterations of a thread in one call of `product()` of `product.wgsl`, and one for the loop around it.
fn product_iterations(lanes: u32, dim: usize) -> usize {
    let depth = depth(dim);
    let staging = (2 * depth).div_ceil(lanes) + 1 + depth.div_ceil(lanes) + 1;
    let step = staging + (depth + 1) + 1;
    1 + dim.div_ceil(depth as usize) * step as usize + 1
}

/// Loop iterations of a thread in `sort_list` of `top_k.wgsl`, with its caller's copies, and one for the loop around.
pub(super) fn sort_iterations(lanes: u32, capacity: usize) -> usize {
    let threads = (lanes * lanes) as usize;
    let runs = capacity.ilog2() as usize;
    let strides = runs * (runs + 1) / 2;
    let copies = 2 * (capacity.div_ceil(threads) + 1);
    let network = 2 * runs + 1 + strides * (1 + (capacity / 2).div_ceil(threads) + 1);
    1 + copies + network
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_are_those_of_the_shaders_loops() {
        // 100 dimensions: 7 steps of 15. Of 8 lanes' 64 threads each stages ⌈30/8⌉ quads of A, ⌈15/8⌉ of B.
        assert_eq!(product_iterations(8, 100), 1 + 7 * (5 + 3 + 16 + 1) + 1);
        // 256 entries: 4 loads and at most 4 copies of each of 64 threads; 8 runs of 36 strides, 2 pairs each.
        assert_eq!(sort_iterations(8, 256), 1 + 5 + 5 + 9 + 8 + 36 * (1 + 3));
    }
}
