//! The kernel table: which WGSL makes up each kernel, which sizes it leaves open, which structs it shares with Rust.
//! Data only; `pipelines.rs` compiles it.
//!
//! A variant for better hardware (f16, subgroups, cooperative matrices) is another entry here with the same
//! bindings, chosen by the adapter's features where the operation picks its kernel.

use super::layout::{
    CentroidFoldParams, CentroidSumsParams, KmeansAssignParams, Layout, LeafTile, LeafTopKParams, NEIGHBOR,
    Piece, PieceRun, PqEncodeParams, SquaredNormsParams, TopKParams,
};

/// A compute shader, named as its file and its entry point are.
pub struct Kernel {
    pub name: &'static str,
    /// The shared parts it includes, then its own file.
    pub sources: &'static [&'static str],
    /// The `override` constants that a pipeline gives: some of `LANES`, `DEPTH`, `CAPACITY`.
    pub overrides: &'static [&'static str],
    /// What Rust and the shader both lay out.
    pub layouts: &'static [Layout],
}

impl Kernel {
    /// The whole WGSL module.
    pub fn source(&self) -> String {
        self.sources.concat()
    }
}

/// Rows of a tile per lane of its workgroup, and columns: as in `product.wgsl`.
pub(super) const LANE_ROWS: u32 = 8;
pub(super) const LANE_COLUMNS: u32 = 4;

/// Dimensions that `product.wgsl` stages at a time, at most: 16 keep its workgroup memory at 12.5 KiB for 16 lanes.
const MAX_DEPTH: usize = 16;

/// How many dimensions to stage at a time: as few steps as `MAX_DEPTH` allows, of equal depth, because what
/// a step has too many is multiplied as zeros (100 dimensions: 7 steps of 15, not 7 of 16).
pub(super) fn depth(dim: usize) -> u32 {
    dim.div_ceil(dim.div_ceil(MAX_DEPTH)) as u32
}

/// Bytes of workgroup memory that `product.wgsl` stages its operands in.
pub(super) fn staged_bytes(lanes: u32, depth: u32) -> u32 {
    depth * ((2 * lanes + 1) + (lanes + 1)) * 16
}

macro_rules! wgsl {
    ($($file:literal),*) => { &[$(include_str!(concat!("../../../shaders/", $file))),*] };
}

pub(super) static KMEANS_ASSIGN: Kernel = Kernel {
    name: "kmeans_assign",
    sources: wgsl!(
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product.wgsl",
        "shared/nearest.wgsl",
        "kmeans_assign.wgsl"
    ),
    overrides: &["LANES", "DEPTH"],
    layouts: &[KmeansAssignParams::LAYOUT, NEIGHBOR],
};

pub(super) static SQUARED_NORMS: Kernel = Kernel {
    name: "squared_norms",
    sources: wgsl!("shared/grid.wgsl", "squared_norms.wgsl"),
    overrides: &["LANES"],
    layouts: &[SquaredNormsParams::LAYOUT],
};

pub(super) static CENTROID_SUMS: Kernel = Kernel {
    name: "centroid_sums",
    sources: wgsl!("shared/grid.wgsl", "centroid_sums.wgsl"),
    overrides: &["LANES"],
    layouts: &[CentroidSumsParams::LAYOUT, Piece::LAYOUT],
};

pub(super) static CENTROID_FOLD: Kernel = Kernel {
    name: "centroid_fold",
    sources: wgsl!("shared/grid.wgsl", "centroid_fold.wgsl"),
    overrides: &["LANES"],
    layouts: &[CentroidFoldParams::LAYOUT, PieceRun::LAYOUT],
};

pub(super) static PQ_ENCODE: Kernel = Kernel {
    name: "pq_encode",
    sources: wgsl!(
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product.wgsl",
        "shared/nearest.wgsl",
        "pq_encode.wgsl"
    ),
    overrides: &["LANES", "DEPTH"],
    layouts: &[PqEncodeParams::LAYOUT, NEIGHBOR],
};

pub(super) static TOP_K: Kernel = Kernel {
    name: "top_k",
    sources: wgsl!("shared/grid.wgsl", "shared/metric.wgsl", "shared/product.wgsl", "top_k.wgsl"),
    overrides: &["LANES", "DEPTH", "CAPACITY"],
    layouts: &[TopKParams::LAYOUT, NEIGHBOR],
};

pub(super) static LEAF_TOP_K: Kernel = Kernel {
    name: "leaf_top_k",
    sources: wgsl!("shared/grid.wgsl", "shared/metric.wgsl", "shared/product.wgsl", "leaf_top_k.wgsl"),
    overrides: &["LANES", "DEPTH"],
    layouts: &[LeafTopKParams::LAYOUT, LeafTile::LAYOUT, NEIGHBOR],
};

/// Every kernel.
pub static ALL: [&Kernel; 7] =
    [&KMEANS_ASSIGN, &SQUARED_NORMS, &CENTROID_SUMS, &CENTROID_FOLD, &PQ_ENCODE, &TOP_K, &LEAF_TOP_K];
