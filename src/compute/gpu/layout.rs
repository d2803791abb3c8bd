//! The structs that Rust and WGSL share, each with its field offsets, so that a test can hold them against what the
//! shader says. All fields are 4 bytes wide: then `repr(C)`, WGSL's uniform and its storage layout agree.

use std::mem::offset_of;

/// A struct of a shader, as Rust lays it out.
pub struct Layout {
    /// Its name in WGSL.
    pub name: &'static str,
    pub size: usize,
    /// Field and offset, in order.
    pub fields: &'static [(&'static str, usize)],
}

macro_rules! shader_struct {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub(super) struct $name { $(pub $field: $type),* }

        impl $name {
            pub(super) const LAYOUT: Layout = Layout {
                name: stringify!($name),
                size: size_of::<Self>(),
                fields: &[$((stringify!($field), offset_of!(Self, $field))),*],
            };
        }
    };
}

shader_struct! {
    KmeansAssignParams {
        rows: u32, nlist: u32, dim: u32, metric: u32, first_row: u32, grid_width: u32,
        a_scale: f32, b_scale: f32, weight: f32,
    }
}

shader_struct! { SquaredNormsParams { rows: u32, dim: u32, grid_width: u32 } }

shader_struct! { CentroidSumsParams { pieces: u32, dim: u32, grid_width: u32 } }

shader_struct! {
    /// A run of rows of one label, added by one thread per dimension.
    Piece { first: u32, end: u32, carried: u32 }
}

impl Piece {
    /// In `carried`: the piece starts from 0.
    pub(super) const NOT_CARRIED: u32 = u32::MAX;
}

shader_struct! { CentroidFoldParams { labels: u32, dim: u32, grid_width: u32 } }

shader_struct! {
    /// The pieces of one label.
    PieceRun { first: u32, end: u32, open: u32 }
}

shader_struct! {
    PqEncodeParams {
        rows: u32, dim: u32, pq_m: u32, ksub: u32, dsub: u32, residual: u32, first_row: u32, grid_width: u32,
    }
}

shader_struct! {
    TopKParams {
        queries: u32, rows: u32, dim: u32, metric: u32, first_query: u32,
        splits: u32, rows_per_split: u32, keep: u32, grid_width: u32,
        a_scale: f32, b_scale: f32, weight: f32,
    }
}

shader_struct! { LeafTopKParams { tiles: u32, dim: u32, metric: u32, k: u32, grid_width: u32 } }

shader_struct! {
    /// A workgroup's share of a leaf.
    LeafTile { first: u32, end: u32, row: u32 }
}

shader_struct! { ByteNeighborsParams { tiles: u32, stride: u32, words: u32, k: u32, grid_width: u32 } }

shader_struct! {
    /// A workgroup's rows, and the columns that they are compared with.
    ByteTile { row: u32, row_end: u32, column: u32, column_end: u32 }
}

/// `vectors::Neighbor`, which the shaders read and write as it is.
pub(super) const NEIGHBOR: Layout = {
    use crate::vectors::Neighbor;
    Layout {
        name: "Neighbor",
        size: size_of::<Neighbor>(),
        fields: &[("distance", offset_of!(Neighbor, distance)), ("ordinal", offset_of!(Neighbor, ordinal))],
    }
};
