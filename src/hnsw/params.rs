//! What a user sets, and what the partition build makes of it.

use serde::{Deserialize, Serialize};

use super::codes::Code;

/// Parameters of a build. [`HnswParams::new`] derives those of the partition from the two that every HNSW has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HnswParams {
    /// Links per row on the upper levels; the base level has 2·m. 2 to 256.
    pub m: usize,
    /// Most rows in a leaf, 2 or more. Default 512: larger leaves find more neighbours at once and cost their square.
    pub c_max: usize,
    /// Leaders that a row joins at each depth of the partition, from the top; below the last, 1.
    pub fanout: Vec<usize>,
    /// Nearest members of its leaf that a row is linked with, both ways. 1 to 64.
    pub leaf_k: usize,
    /// Candidates that a row keeps while leaves are read, at least 2·m.
    pub l_max: usize,
    /// The pruning rule's slack, 1.0 or more. Default 1.0: with links given back both ways, larger values measured
    /// the same recall for more distances.
    pub alpha: f32,
    /// What a walk compares queries with.
    pub code: Code,
}

impl HnswParams {
    /// The partition that stands for `ef_construction`, the effort of an incremental build:
    ///
    /// | `ef_construction` | fanout | leaf_k at m = 16 |
    /// |---|---|---|
    /// | to 64 | 4, 2 | 2 |
    /// | to 128 | 6, 2 | 3 |
    /// | to 256 | 8, 2 | 3 |
    /// | to 512 | 10, 3 | 4 |
    /// | above | 12, 4 | 6 |
    ///
    /// `leaf_k` and `l_max` grow with `m`, so that a row has half again as many candidates as links to fill.
    pub fn new(m: usize, ef_construction: usize) -> Self {
        let (fanout, leaf_k) = match ef_construction {
            ..=64 => ([4, 2], 2),
            65..=128 => ([6, 2], 3),
            129..=256 => ([8, 2], 3),
            257..=512 => ([10, 3], 4),
            _ => ([12, 4], 6),
        };
        Self {
            m,
            c_max: 512,
            fanout: fanout.to_vec(),
            leaf_k: (leaf_k * m).div_ceil(16).clamp(2, 64),
            l_max: 3 * m,
            alpha: 1.0,
            code: Code::default(),
        }
    }
}
