//! The kernel table: which WGSL makes up each kernel, which sizes it leaves open, which structs it shares with Rust.
//! Data only; `pipelines.rs` compiles it.
//!
//! A variant for better hardware is another entry of the same name, entry point and bindings, which includes another
//! product; `variants.rs` chooses.

use super::layout::{
    ByteNeighborsParams, ByteTile, CentroidFoldParams, CentroidSumsParams, KmeansAssignParams, Layout,
    LeafTile, LeafTopKParams, NEIGHBOR, Piece, PieceRun, PqEncodeParams, SquaredNormsParams, TopKParams,
};
use super::variants::Variant;

/// A compute shader, named as its file and its entry point are.
pub struct Kernel {
    pub name: &'static str,
    /// What its products are made of.
    pub variant: Variant,
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

/// Of `product_matrix.wgsl`, where there are so many: whole matrices of 16, and fewer barriers.
const MATRIX_DEPTH: usize = 32;

/// How many dimensions to stage at a time: as few steps as `MAX_DEPTH` allows, of equal depth, because what
/// a step has too many is multiplied as zeros (100 dimensions: 7 steps of 15, not 7 of 16).
pub(super) fn depth(dim: usize) -> u32 {
    dim.div_ceil(dim.div_ceil(MAX_DEPTH)) as u32
}

/// The same for products of a variant.
pub(super) fn depth_of(variant: Variant, dim: usize) -> u32 {
    match variant {
        Variant::Plain | Variant::Half => depth(dim),
        Variant::Matrix => dim.next_multiple_of(16).min(MATRIX_DEPTH) as u32,
    }
}

/// Bytes of workgroup memory that a product stages its operands, and hands its results out, in.
pub(super) fn staged_bytes(variant: Variant, lanes: u32, depth: u32) -> u32 {
    let (rows, columns) = (LANE_ROWS * lanes, LANE_COLUMNS * lanes);
    match variant {
        Variant::Plain => depth * ((2 * lanes + 1) + (lanes + 1)) * 16,
        Variant::Half => depth * ((2 * lanes + 1) + (lanes + 1)) * 8,
        Variant::Matrix => (rows + columns) * (depth + 8) * 2 + 32 * columns * 4,
    }
}

macro_rules! wgsl {
    ($($file:literal),*) => { &[$(include_str!(concat!("../../../shaders/", $file))),*] };
}

pub(super) static KMEANS_ASSIGN: Kernel = Kernel {
    name: "kmeans_assign",
    variant: Variant::Plain,
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

pub(super) static KMEANS_ASSIGN_HALF: Kernel = Kernel {
    variant: Variant::Half,
    sources: wgsl!(
        "shared/half.wgsl",
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product_half.wgsl",
        "shared/nearest.wgsl",
        "kmeans_assign.wgsl"
    ),
    ..KMEANS_ASSIGN
};

pub(super) static KMEANS_ASSIGN_MATRIX: Kernel = Kernel {
    variant: Variant::Matrix,
    sources: wgsl!(
        "shared/matrix.wgsl",
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product_matrix.wgsl",
        "shared/nearest.wgsl",
        "kmeans_assign.wgsl"
    ),
    ..KMEANS_ASSIGN
};

pub(super) static SQUARED_NORMS: Kernel = Kernel {
    name: "squared_norms",
    variant: Variant::Plain,
    sources: wgsl!("shared/grid.wgsl", "squared_norms.wgsl"),
    overrides: &["LANES"],
    layouts: &[SquaredNormsParams::LAYOUT],
};

pub(super) static CENTROID_SUMS: Kernel = Kernel {
    name: "centroid_sums",
    variant: Variant::Plain,
    sources: wgsl!("shared/grid.wgsl", "centroid_sums.wgsl"),
    overrides: &["LANES"],
    layouts: &[CentroidSumsParams::LAYOUT, Piece::LAYOUT],
};

pub(super) static CENTROID_FOLD: Kernel = Kernel {
    name: "centroid_fold",
    variant: Variant::Plain,
    sources: wgsl!("shared/grid.wgsl", "centroid_fold.wgsl"),
    overrides: &["LANES"],
    layouts: &[CentroidFoldParams::LAYOUT, PieceRun::LAYOUT],
};

pub(super) static PQ_ENCODE: Kernel = Kernel {
    name: "pq_encode",
    variant: Variant::Plain,
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
    variant: Variant::Plain,
    sources: wgsl!("shared/grid.wgsl", "shared/metric.wgsl", "shared/product.wgsl", "top_k.wgsl"),
    overrides: &["LANES", "DEPTH", "CAPACITY"],
    layouts: &[TopKParams::LAYOUT, NEIGHBOR],
};

pub(super) static TOP_K_HALF: Kernel = Kernel {
    variant: Variant::Half,
    sources: wgsl!(
        "shared/half.wgsl",
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product_half.wgsl",
        "top_k.wgsl"
    ),
    ..TOP_K
};

pub(super) static TOP_K_MATRIX: Kernel = Kernel {
    variant: Variant::Matrix,
    sources: wgsl!(
        "shared/matrix.wgsl",
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product_matrix.wgsl",
        "top_k.wgsl"
    ),
    ..TOP_K
};

pub(super) static LEAF_TOP_K: Kernel = Kernel {
    name: "leaf_top_k",
    variant: Variant::Plain,
    sources: wgsl!(
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/product.wgsl",
        "shared/lists.wgsl",
        "leaf_top_k.wgsl"
    ),
    overrides: &["LANES", "DEPTH"],
    layouts: &[LeafTopKParams::LAYOUT, LeafTile::LAYOUT, NEIGHBOR],
};

pub(super) static BYTE_NEIGHBORS: Kernel = Kernel {
    name: "byte_neighbors",
    variant: Variant::Plain,
    sources: wgsl!(
        "shared/grid.wgsl",
        "shared/metric.wgsl",
        "shared/byte_product.wgsl",
        "shared/lists.wgsl",
        "byte_neighbors.wgsl"
    ),
    overrides: &["LANES", "DEPTH"],
    layouts: &[ByteNeighborsParams::LAYOUT, ByteTile::LAYOUT, NEIGHBOR],
};

/// Every kernel.
pub static ALL: [&Kernel; 12] = [
    &KMEANS_ASSIGN,
    &KMEANS_ASSIGN_HALF,
    &KMEANS_ASSIGN_MATRIX,
    &SQUARED_NORMS,
    &CENTROID_SUMS,
    &CENTROID_FOLD,
    &PQ_ENCODE,
    &TOP_K,
    &TOP_K_HALF,
    &TOP_K_MATRIX,
    &LEAF_TOP_K,
    &BYTE_NEIGHBORS,
];
