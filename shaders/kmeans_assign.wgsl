// The nearest centroid of each row, and its distance.
//
// Twin: `reference::assign`. Includes grid, metric, product (of any kind), nearest.
// A workgroup takes TILE_ROWS rows through all centroids: the n × nlist distances are never stored (the idea of
// Flash-KMeans). The product ranks; the winner's distance is then summed anew from the definition, because
// |a|² − 2⟨a,b⟩ + |b|² cancels where a row is close to its centroid, which is where it matters for the loss.
// Cost: n · nlist · dim multiply-adds, and n · dim more for the exact distances.

struct KmeansAssignParams {
    rows: u32,
    nlist: u32,
    dim: u32,
    metric: u32,
    first_row: u32,
    grid_width: u32,
    // What operands are multiplied by as they are staged, and a product before it is taken from a column's bias.
    a_scale: f32,
    b_scale: f32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: KmeansAssignParams;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read> centroids: array<f32>;
@group(0) @binding(3) var<storage, read> centroid_norms: array<f32>;
// Row first_row + i at i.
@group(0) @binding(4) var<storage, read_write> assigned: array<Neighbor>;

fn a_value(row: u32, d: u32) -> f32 {
    if row >= params.rows || d >= params.dim {
        return 0.0;
    }
    return rows[row * params.dim + d];
}

fn b_value(column: u32, d: u32) -> f32 {
    if column >= params.nlist || d >= params.dim {
        return 0.0;
    }
    return centroids[column * params.dim + d];
}

fn column_bias(column: u32) -> f32 {
    if params.metric != L2 {
        return 0.0;
    }
    return centroid_norms[column];
}

@compute @workgroup_size(THREADS)
fn kmeans_assign(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = params.first_row + unfolded(group, params.grid_width) * TILE_ROWS;
    if first_row >= params.rows {
        return;
    }
    let columns = vec2(0u, params.nlist);
    find_nearest(thread, first_row, columns, vec2(0u, params.dim), params.weight);
    for (var r = 0u; r < 8u; r++) {
        exact_distance(thread, first_row, r);
    }
}

// The lanes of a row share its dimensions; one adds their sums in lane order.
fn exact_distance(thread: u32, first_row: u32, r: u32) {
    let slot = 8u * (thread / LANES) + r;
    let row = first_row + slot;
    let centroid = nearest_column[slot];
    var sum = 0.0;
    if row < params.rows {
        for (var d = thread % LANES; d < params.dim; d += LANES) {
            let a = rows[row * params.dim + d];
            let b = centroids[centroid * params.dim + d];
            sum += select(a * b, (a - b) * (a - b), params.metric == L2);
        }
    }
    lane_distance[thread] = sum;
    workgroupBarrier();
    if row < params.rows && thread % LANES == 0u {
        for (var lane = 1u; lane < LANES; lane++) {
            sum += lane_distance[thread + lane];
        }
        assigned[row - params.first_row] = Neighbor(distance_of(params.metric, sum), centroid);
    }
    workgroupBarrier();
}
