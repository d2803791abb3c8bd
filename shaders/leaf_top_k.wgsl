// Within each leaf, the k nearest other members of each member.
//
// Twin: `reference::leaf_top_k`. Includes grid, metric, product, lists.
// A workgroup takes TILE_ROWS members of one leaf through all members of that leaf: their rows are gathered as the
// product stages them. k is small here (2–4 for graphs), so a list is short and nearly all pairs cost one comparison.
// Cost: Σ |leaf|² · dim multiply-adds.

struct LeafTile {
    // The leaf's member slots: first..end.
    first: u32,
    end: u32,
    // The first slot of this tile's rows.
    row: u32,
}

struct LeafTopKParams {
    tiles: u32,
    dim: u32,
    metric: u32,
    k: u32,
    grid_width: u32,
}

@group(0) @binding(0) var<uniform> params: LeafTopKParams;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read> row_norms: array<f32>;
@group(0) @binding(3) var<storage, read> tiles: array<LeafTile>;
// Of each member slot, the place of its row in `rows`, and its ordinal: not the same where the rows were gathered.
@group(0) @binding(4) var<storage, read> places: array<u32>;
@group(0) @binding(5) var<storage, read> ordinals: array<u32>;
// k per member slot, ascending; padded with (FAR, 2³²−1).
@group(0) @binding(6) var<storage, read_write> found: array<Neighbor>;

var<private> slots_end: u32;
// Of the owned row, what turns a score into a distance.
var<private> own_bias: f32;

fn a_value(slot: u32, d: u32) -> f32 {
    if slot >= slots_end || d >= params.dim {
        return 0.0;
    }
    return rows[places[slot] * params.dim + d];
}

fn b_value(slot: u32, d: u32) -> f32 {
    return a_value(slot, d);
}

fn column_bias(slot: u32) -> f32 {
    if slot >= slots_end {
        return FAR;
    }
    return squared_norm(slot);
}

fn squared_norm(slot: u32) -> f32 {
    if params.metric != L2 {
        return 0.0;
    }
    return row_norms[places[slot]];
}

@compute @workgroup_size(THREADS)
fn leaf_top_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = unfolded(group, params.grid_width);
    if index >= params.tiles {
        return;
    }
    let tile = tiles[index];
    slots_end = tile.end;
    let own = tile.row + thread;
    let owns = thread < TILE_ROWS && own < tile.end;
    if owns {
        own_bias = select(squared_norm(own), 1.0, params.metric == COSINE);
        open_list(own * params.k, params.k, ordinals[own]);
    }
    for (var first = tile.first; first < tile.end; first += TILE_COLUMNS) {
        let c = product(thread, tile.row, first, vec2(0u, params.dim));
        let slot = first + 4u * (thread % LANES);
        let bias = vec4(column_bias(slot), column_bias(slot + 1u), column_bias(slot + 2u), column_bias(slot + 3u));
        for (var j = 0u; j < 4u; j++) {
            spread(thread, j, bias, c);
            workgroupBarrier();
            if owns {
                for (var lane = 0u; lane < LANES; lane++) {
                    consider(own, first + 4u * lane + j, bitcast<f32>(stripe[thread * STRIPE_STRIDE + lane]));
                }
            }
            workgroupBarrier();
        }
    }
}

// Column j of each lane's four.
fn spread(thread: u32, j: u32, bias: vec4<f32>, c: Block) {
    let weight = dot_weight(params.metric);
    let at = stripe_place(thread);
    stripe[at] = component(bitcast<vec4<u32>>(bias - weight * c[0]), j);
    stripe[at + STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[1]), j);
    stripe[at + 2u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[2]), j);
    stripe[at + 3u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[3]), j);
    stripe[at + 4u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[4]), j);
    stripe[at + 5u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[5]), j);
    stripe[at + 6u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[6]), j);
    stripe[at + 7u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(bias - weight * c[7]), j);
}

fn consider(own: u32, slot: u32, score: f32) {
    var distance = own_bias + score;
    if params.metric == L2 {
        // Rounding may leave equal rows a little below 0.
        distance = max(distance, 0.0);
    }
    if slot >= slots_end || distance > bound.distance {
        return;
    }
    offer(own * params.k, params.k, Neighbor(distance, ordinals[slot]));
}
