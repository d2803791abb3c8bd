//! Hierarchical navigable small world graphs (arXiv 1603.09320), built as a batch from overlapping partitions instead
//! of one row at a time.
//!
//! Knows nothing of files: `sections.rs` turns a graph into tensors and back.
//!
//! ```text
//! rows ─ carve ─► leaves ─ leaf_top_k ─► candidates ─ prune ─► links ─ reverse, repair ─► base layer
//! members of level l ─── the same ───────────────────────────────────────────────────────► level l
//! ```

mod build;
mod candidates;
mod connect;
mod params;
mod partition;
mod prune;
mod search;
mod sections;

pub use build::{Built, build};
pub use params::HnswParams;

use crate::artifact::Array;
use crate::vectors::Metric;

/// A built or loaded graph with its vectors, immutable.
#[derive(Debug, Clone)]
pub struct Hnsw {
    metric: Metric,
    dim: usize,
    /// `rows × dim`; unit length for cosine.
    vectors: Array<f32>,
    /// `rows × degree`, padded with `u32::MAX` at the end.
    links: Array<u32>,
    /// Links per row on the base layer, usually `2m`.
    degree: usize,
    levels: Array<u8>,
    /// `Σ levels × m`.
    upper_links: Array<u32>,
    m: usize,
    /// Where a row's upper links start, in rows of `upper_links`: the running sum of `levels`.
    upper_offsets: Vec<u32>,
    entry_point: u32,
}

impl Hnsw {
    #[expect(clippy::too_many_arguments, reason = "one per part; called by the builder and the reader only")]
    fn assemble(
        metric: Metric,
        dim: usize,
        vectors: Array<f32>,
        links: Array<u32>,
        degree: usize,
        levels: Array<u8>,
        upper_links: Array<u32>,
        m: usize,
        entry_point: u32,
    ) -> Self {
        let mut upper_offsets = Vec::with_capacity(levels.len());
        let mut next = 0;
        for &level in levels.iter() {
            upper_offsets.push(next);
            next += u32::from(level);
        }
        Self { metric, dim, vectors, links, degree, levels, upper_links, m, upper_offsets, entry_point }
    }

    fn max_level(&self) -> usize {
        usize::from(self.levels[self.entry_point as usize])
    }

    fn base_links(&self, row: u32) -> &[u32] {
        &self.links[row as usize * self.degree..(row as usize + 1) * self.degree]
    }

    /// Links of `row` on `level`, which is at least 1 and at most the row's own.
    fn upper_links(&self, row: u32, level: usize) -> impl Iterator<Item = u32> + '_ {
        let start = (self.upper_offsets[row as usize] as usize + level - 1) * self.m;
        self.upper_links[start..start + self.m].iter().copied().take_while(|&to| to != u32::MAX)
    }
}
