//! Hierarchical navigable small world graphs (arXiv 1603.09320), built as a batch from overlapping partitions instead
//! of one row at a time.
//!
//! Knows nothing of files: `sections.rs` turns a graph into tensors and back.
//!
//! ```text
//! rows ─ duplicates aside ─ carve ─► leaves, rows in their order ─ leaf_candidates ─► cover: what each row found in each leaf
//! cover ─ for each range of rows: candidates ─ prune ─► links ─ both ways ─► base layer
//! members of level l ─── the same ──────────────────────────────────────────────────────────────► level l
//! layers, from the top down ─ bridge components, repair ─► every row is reached from the entry point
//! ```

mod beam;
mod build;
mod candidates;
mod codes;
mod components;
mod connect;
mod cover;
mod duplicates;
mod layers;
mod links;
mod memory;
mod numbering;
mod params;
mod partition;
mod prune;
mod reach;
mod scratch;
mod search;
mod sections;
mod visited;
mod walk;

pub use build::{BuildError, BuildStats, Built, GraphRows, build, build_within};
pub use codes::{Code, code_bytes};
pub use memory::{Memory, working_bytes};
pub use params::HnswParams;

use codes::Codes;

use crate::artifact::Array;
use crate::index::KeptVectors;
use crate::vectors::Metric;

/// A built or loaded graph with its vectors, immutable.
#[derive(Debug, Clone)]
pub struct Hnsw {
    metric: Metric,
    /// Of unit length for cosine.
    vectors: KeptVectors,
    /// What the walk reads in place of the vectors.
    codes: Option<Codes>,
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
    /// How distances grow with rank, if that is known (`reach.rs`).
    growth: Option<f32>,
}

impl Hnsw {
    /// A search marks rows in the top bit of their ordinals.
    pub const MAX_ROWS: usize = 1 << 31;

    /// What a walk compares queries with.
    pub fn code(&self) -> Code {
        self.codes.as_ref().map_or(Code::F32, |codes| codes.code)
    }

    fn max_level(&self) -> usize {
        usize::from(self.levels[self.entry_point as usize])
    }

    #[inline]
    fn base_links(&self, row: u32) -> &[u32] {
        &self.links[row as usize * self.degree..(row as usize + 1) * self.degree]
    }

    /// Links of `row` on `level`, which is at least 1 and at most the row's own.
    fn upper_links(&self, row: u32, level: usize) -> impl Iterator<Item = u32> + '_ {
        self.upper_slots(row, level).iter().copied().take_while(|&to| to != u32::MAX)
    }

    /// The same, with the padding.
    fn upper_slots(&self, row: u32, level: usize) -> &[u32] {
        let start = (self.upper_offsets[row as usize] as usize + level - 1) * self.m;
        &self.upper_links[start..start + self.m]
    }

    /// Most rows that a row links to on a level.
    fn widest(&self) -> usize {
        self.degree.max(self.m)
    }

    /// Asks for what a walk compares with its query.
    #[inline]
    fn prefetch_compared(&self, row: u32) {
        match &self.codes {
            Some(codes) => codes.prefetch(row),
            None => self.vectors.prefetch(row),
        }
    }
}

/// Where each row's upper links start: the running sum of the levels.
fn upper_offsets(levels: &[u8]) -> Vec<u32> {
    let mut next = 0;
    let mut offsets = Vec::with_capacity(levels.len());
    for &level in levels {
        offsets.push(next);
        next += u32::from(level);
    }
    offsets
}
