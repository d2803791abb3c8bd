// |row|² of each row.
//
// Twin: a row's l2 distance to the origin. Includes grid.
// The L2 score of a tile needs the norms of its columns; reading the rows once more for them is small beside the
// product, which reads them once per tile of the other side.
// Cost: rows · dim multiply-adds; bound by memory.

struct SquaredNormsParams {
    rows: u32,
    dim: u32,
    grid_width: u32,
}

@group(0) @binding(0) var<uniform> params: SquaredNormsParams;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read_write> norms: array<f32>;

var<workgroup> partial: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn squared_norms(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = unfolded(group, params.grid_width) * LANES + thread / LANES;
    var sum = 0.0;
    if row < params.rows {
        for (var d = thread % LANES; d < params.dim; d += LANES) {
            let value = rows[row * params.dim + d];
            sum += value * value;
        }
    }
    partial[thread] = sum;
    workgroupBarrier();
    if row < params.rows && thread % LANES == 0u {
        for (var lane = 1u; lane < LANES; lane++) {
            sum += partial[thread + lane];
        }
        norms[row] = sum;
    }
}
