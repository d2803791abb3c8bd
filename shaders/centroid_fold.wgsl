// Adds the sums of each label's pieces to the label's sum, in order.
//
// Twin: `reference::centroid_sums`, with centroid_sums.wgsl. Includes grid.
// A label's last piece stays open while later tiles may still bring rows of it: its sum is then carried, not added.
// Cost: pieces · dim additions; bound by memory.

struct PieceRun {
    // The label's pieces: first..end.
    first: u32,
    end: u32,
    // 1 where the last of them is open.
    open: u32,
}

struct CentroidFoldParams {
    labels: u32,
    dim: u32,
    grid_width: u32,
}

@group(0) @binding(0) var<uniform> params: CentroidFoldParams;
@group(0) @binding(1) var<storage, read> runs: array<PieceRun>;
@group(0) @binding(2) var<storage, read> piece_sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> carry: array<f32>;
@group(0) @binding(4) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(THREADS)
fn centroid_fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = unfolded(group, params.grid_width) * THREADS + thread;
    let d = index % params.dim;
    if index / params.dim >= params.labels {
        return;
    }
    let run = runs[index / params.dim];
    var sum = sums[index];
    for (var piece = run.first; piece < run.end - run.open; piece++) {
        sum += piece_sums[piece * params.dim + d];
    }
    sums[index] = sum;
    if run.open == 1u {
        carry[index] = piece_sums[(run.end - 1u) * params.dim + d];
    }
}
