//! What a user sets, and what the partition build makes of it.

use serde::{Deserialize, Serialize};

/// Parameters of an HNSW build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HnswParams {
    pub m: usize,
    pub c_max: usize,
    pub fanout: Vec<usize>,
    pub leaf_k: usize,
    pub l_max: usize,
    pub alpha: f32,
    pub code: super::Code,
}
