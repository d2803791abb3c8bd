// Sums of pieces: runs of at most a few hundred rows that bear one label.
//
// Twin: `reference::centroid_sums`, with centroid_fold.wgsl. Includes grid.
// The host sorts the rows by label (a stable counting sort) and cuts each label's run into pieces at fixed ranks
// within the run. A thread adds one dimension of one piece, in that order: no float atomics, so the same bytes each
// time, and neighbouring threads read neighbouring dimensions. A piece that began in an earlier tile of rows starts
// from what was carried: the result does not depend on how the rows were tiled.
// Cost: rows · dim additions; bound by memory.

const NOT_CARRIED: u32 = 0xffffffffu;

struct Piece {
    // Its rows: order[first..end].
    first: u32,
    end: u32,
    // The label whose carried sum it continues, or NOT_CARRIED.
    carried: u32,
}

struct CentroidSumsParams {
    pieces: u32,
    dim: u32,
    grid_width: u32,
}

@group(0) @binding(0) var<uniform> params: CentroidSumsParams;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
// Rows of this tile, sorted by label.
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> pieces: array<Piece>;
@group(0) @binding(4) var<storage, read> carry: array<f32>;
@group(0) @binding(5) var<storage, read_write> piece_sums: array<f32>;

@compute @workgroup_size(THREADS)
fn centroid_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = unfolded(group, params.grid_width) * THREADS + thread;
    let d = index % params.dim;
    if index / params.dim >= params.pieces {
        return;
    }
    let piece = pieces[index / params.dim];
    var sum = 0.0;
    if piece.carried != NOT_CARRIED {
        sum = carry[piece.carried * params.dim + d];
    }
    for (var i = piece.first; i < piece.end; i++) {
        sum += rows[order[i] * params.dim + d];
    }
    piece_sums[index] = sum;
}
