// The `keep` best-scored rows of each query, for each split of the rows.
//
// Twin: `reference::top_k`, up to scores in place of distances: the host merges the splits, sums the survivors'
// distances anew from the definition, and keeps k of them. Includes grid, metric, product (of any kind).
//
// A workgroup takes TILE_ROWS queries through one split of the rows, tile by tile. A pair that beats its query's
// bound is appended to the query's list; a list that might not hold another tile is sorted, cut back to `keep`, and
// its last score becomes the bound. Once a list is warm nearly every pair costs one comparison.
// The threads append in any order; but what a list holds after a cut is the `keep` first of a set in a total order,
// and a pair at or beyond the bound is never among them (rows come in ascending order, so ties go to the earlier).
// The result therefore does not depend on that order.
// Cost: queries · rows · dim multiply-adds; about keep · ln(rows / keep) appended pairs per query and split.

// Length of a list, a power of two: at least keep + TILE_COLUMNS.
override CAPACITY: u32 = 128u;

struct TopKParams {
    queries: u32,
    rows: u32,
    dim: u32,
    metric: u32,
    first_query: u32,
    splits: u32,
    rows_per_split: u32,
    keep: u32,
    grid_width: u32,
    // What operands are multiplied by as they are staged, and a product before it is taken from a column's bias.
    a_scale: f32,
    b_scale: f32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: TopKParams;
@group(0) @binding(1) var<storage, read> queries: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<f32>;
@group(0) @binding(3) var<storage, read> row_norms: array<f32>;
// Scratch: CAPACITY per query of the grid and split.
@group(0) @binding(4) var<storage, read_write> lists: array<Neighbor>;
// Query first_query + i, split s at (i · splits + s) · keep, ascending; padded with (FAR, 2³²−1).
@group(0) @binding(5) var<storage, read_write> found: array<Neighbor>;

const NONE: u32 = 0xffffffffu;

var<workgroup> appended: array<atomic<u32>, TILE_ROWS>;
var<workgroup> bounds: array<f32, TILE_ROWS>;
// Set by whoever leaves a list with no room for a whole tile.
var<workgroup> crowded: atomic<u32>;
// Copies for all threads to branch on alike.
var<workgroup> any_crowded: u32;
var<workgroup> length: u32;

var<workgroup> sorted_distance: array<f32, CAPACITY>;
var<workgroup> sorted_ordinal: array<u32, CAPACITY>;

var<private> first_list: u32;

fn a_value(query: u32, d: u32) -> f32 {
    if query >= params.queries || d >= params.dim {
        return 0.0;
    }
    return queries[query * params.dim + d];
}

fn b_value(row: u32, d: u32) -> f32 {
    if row >= params.rows || d >= params.dim {
        return 0.0;
    }
    return rows[row * params.dim + d];
}

fn column_bias(row: u32, end: u32) -> f32 {
    if row >= end {
        return FAR;
    }
    if params.metric != L2 {
        return 0.0;
    }
    return row_norms[row];
}

@compute @workgroup_size(THREADS)
fn top_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = unfolded(group, params.grid_width);
    let split = tile % params.splits;
    let first_query = params.first_query + tile / params.splits * TILE_ROWS;
    if first_query >= params.queries {
        return;
    }
    first_list = tile * TILE_ROWS;
    for (var i = thread; i < TILE_ROWS; i += THREADS) {
        atomicStore(&appended[i], 0u);
        bounds[i] = FAR;
    }
    if thread == 0u {
        atomicStore(&crowded, 0u);
    }
    workgroupBarrier();

    let end = min((split + 1u) * params.rows_per_split, params.rows);
    for (var first = split * params.rows_per_split; first < end; first += TILE_COLUMNS) {
        let c = product(thread, first_query, first, vec2(0u, params.dim));
        offer_block(thread, first + 4u * (thread % LANES), end, c);
        storageBarrier();
        workgroupBarrier();
        if thread == 0u {
            any_crowded = atomicExchange(&crowded, 0u);
        }
        if workgroupUniformLoad(&any_crowded) == 1u {
            cut_crowded(thread);
        }
    }
    for (var i = 0u; i < TILE_ROWS; i++) {
        let query = first_query + i;
        if query < params.queries {
            sort_list(thread, i);
            let slot = ((query - params.first_query) * params.splits + split) * params.keep;
            for (var rank = thread; rank < params.keep; rank += THREADS) {
                found[slot + rank] = Neighbor(sorted_distance[rank], sorted_ordinal[rank]);
            }
            workgroupBarrier();
        }
    }
}

fn offer_block(thread: u32, row: u32, end: u32, c: Block) {
    let bias = vec4(
        column_bias(row, end),
        column_bias(row + 1u, end),
        column_bias(row + 2u, end),
        column_bias(row + 3u, end),
    );
    let weight = params.weight;
    let query = 8u * (thread / LANES);
    offer(query, row, bias - weight * c[0]);
    offer(query + 1u, row, bias - weight * c[1]);
    offer(query + 2u, row, bias - weight * c[2]);
    offer(query + 3u, row, bias - weight * c[3]);
    offer(query + 4u, row, bias - weight * c[4]);
    offer(query + 5u, row, bias - weight * c[5]);
    offer(query + 6u, row, bias - weight * c[6]);
    offer(query + 7u, row, bias - weight * c[7]);
}

fn offer(query: u32, row: u32, scores: vec4<f32>) {
    let bound = bounds[query];
    if scores.x < bound {
        append(query, Neighbor(scores.x, row));
    }
    if scores.y < bound {
        append(query, Neighbor(scores.y, row + 1u));
    }
    if scores.z < bound {
        append(query, Neighbor(scores.z, row + 2u));
    }
    if scores.w < bound {
        append(query, Neighbor(scores.w, row + 3u));
    }
}

fn append(query: u32, candidate: Neighbor) {
    let slot = atomicAdd(&appended[query], 1u);
    lists[(first_list + query) * CAPACITY + slot] = candidate;
    if slot >= CAPACITY - TILE_COLUMNS {
        atomicStore(&crowded, 1u);
    }
}

fn cut_crowded(thread: u32) {
    for (var query = 0u; query < TILE_ROWS; query++) {
        if thread == 0u {
            length = atomicLoad(&appended[query]);
        }
        if workgroupUniformLoad(&length) > CAPACITY - TILE_COLUMNS {
            sort_list(thread, query);
            for (var rank = thread; rank < params.keep; rank += THREADS) {
                lists[(first_list + query) * CAPACITY + rank] =
                    Neighbor(sorted_distance[rank], sorted_ordinal[rank]);
            }
            // The list was longer than `keep`, so it now holds exactly that many.
            if thread == 0u {
                atomicStore(&appended[query], params.keep);
                bounds[query] = sorted_distance[params.keep - 1u];
            }
            workgroupBarrier();
        }
    }
    storageBarrier();
}

// A query's list, ascending, into sorted_*: a bitonic network over CAPACITY slots.
fn sort_list(thread: u32, query: u32) {
    let count = atomicLoad(&appended[query]);
    for (var i = thread; i < CAPACITY; i += THREADS) {
        var entry = Neighbor(FAR, NONE);
        if i < count {
            entry = lists[(first_list + query) * CAPACITY + i];
        }
        sorted_distance[i] = entry.distance;
        sorted_ordinal[i] = entry.ordinal;
    }
    workgroupBarrier();
    for (var run = 2u; run <= CAPACITY; run <<= 1u) {
        for (var stride = run >> 1u; stride > 0u; stride >>= 1u) {
            for (var i = thread; i < CAPACITY / 2u; i += THREADS) {
                let low = 2u * i - (i & (stride - 1u));
                compare_exchange(low, low + stride, (low & run) == 0u);
            }
            workgroupBarrier();
        }
    }
}

fn compare_exchange(low: u32, high: u32, ascending: bool) {
    let a = Neighbor(sorted_distance[low], sorted_ordinal[low]);
    let b = Neighbor(sorted_distance[high], sorted_ordinal[high]);
    if before(b, a) == ascending {
        sorted_distance[low] = b.distance;
        sorted_ordinal[low] = b.ordinal;
        sorted_distance[high] = a.distance;
        sorted_ordinal[high] = a.ordinal;
    }
}
