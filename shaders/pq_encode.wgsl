// Product-quantizer codes: for each sub-vector the nearest entry of its codebook, residuals taken on the way.
//
// Twin: `reference::pq_encode`. Includes grid, metric, product, nearest.
// A workgroup takes TILE_ROWS rows through four neighbouring codebooks, so that the four one-byte codes of a row
// leave as one word. An entry's absolute number is its column: codebook entry m·ksub + code.
// Cost: rows · pq_m · ksub · dsub multiply-adds.

struct PqEncodeParams {
    rows: u32,
    dim: u32,
    pq_m: u32,
    ksub: u32,
    dsub: u32,
    // 1 where centroids[labels[i]] is subtracted from row first_row + i.
    residual: u32,
    first_row: u32,
    grid_width: u32,
}

@group(0) @binding(0) var<uniform> params: PqEncodeParams;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> centroids: array<f32>;
@group(0) @binding(4) var<storage, read> codebook: array<f32>;
@group(0) @binding(5) var<storage, read> entry_norms: array<f32>;
// Row first_row + i at i · ⌈pq_m / 4⌉.
@group(0) @binding(6) var<storage, read_write> codes: array<u32>;

fn a_value(row: u32, d: u32) -> f32 {
    if row >= params.rows || d >= params.dim {
        return 0.0;
    }
    var value = rows[row * params.dim + d];
    if params.residual == 1u {
        value -= centroids[labels[row - params.first_row] * params.dim + d];
    }
    return value;
}

fn b_value(column: u32, d: u32) -> f32 {
    if column >= params.pq_m * params.ksub {
        return 0.0;
    }
    return codebook[column * params.dsub + d % params.dsub];
}

fn column_bias(column: u32) -> f32 {
    return entry_norms[column];
}

@compute @workgroup_size(THREADS)
fn pq_encode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let words = (params.pq_m + 3u) / 4u;
    let tile = unfolded(group, params.grid_width);
    let word = tile % words;
    let first_row = params.first_row + tile / words * TILE_ROWS;
    if first_row >= params.rows {
        return;
    }
    var packed = 0u;
    for (var m = 4u * word; m < min(4u * word + 4u, params.pq_m); m++) {
        let columns = vec2(m * params.ksub, (m + 1u) * params.ksub);
        let dims = vec2(m * params.dsub, (m + 1u) * params.dsub);
        find_nearest(thread, first_row, columns, dims, dot_weight(L2));
        if thread < TILE_ROWS {
            packed |= (nearest_column[thread] - columns.x) << (8u * (m % 4u));
        }
    }
    let row = first_row + thread;
    if thread < TILE_ROWS && row < params.rows {
        codes[(row - params.first_row) * words + word] = packed;
    }
}
