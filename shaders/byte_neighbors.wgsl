// Of rows as bytes, the k nearest columns of each row of a tile, by their integer distance (L2): what a graph is made of.
//
// Twin: `reference::leaf_top_k` and `reference::nearest_leaders`, over rows of whole numbers. Includes grid, metric,
// byte_product, lists.
// Rows and columns are slots of one list: the members of a leaf against each other, or rows and then the leaders that they
// are dealt out to. A workgroup takes TILE_ROWS slots through the columns of its tile.
// Distances are whole numbers, and rounded as an i32 is to f32 on the CPU, where they pass 2²⁴: both find the same
// neighbours, ties included.
// Cost: rows · columns packed dot products per word of four dimensions.

struct ByteTile {
    // Its rows: slots row..row_end, of which the first TILE_ROWS are this workgroup's.
    row: u32,
    row_end: u32,
    // Its columns: slots column..column_end.
    column: u32,
    column_end: u32,
}

struct ByteNeighborsParams {
    tiles: u32,
    // Words of a row, the last of which is the integer |row|², and words of those that hold dimensions.
    stride: u32,
    words: u32,
    k: u32,
    grid_width: u32,
}

@group(0) @binding(0) var<uniform> params: ByteNeighborsParams;
// Bytes, each 128 more than its value: as many parts of the rows as a binding's limit makes of them, the first where there are
// fewer.
@group(0) @binding(1) var<storage, read> rows_0: array<u32>;
@group(0) @binding(2) var<storage, read> rows_1: array<u32>;
@group(0) @binding(3) var<storage, read> rows_2: array<u32>;
@group(0) @binding(4) var<storage, read> rows_3: array<u32>;
@group(0) @binding(5) var<storage, read> tiles: array<ByteTile>;
// Of each slot the place of its row, in the upper two bits the part and below them the row of it; and what it is called, which
// is another number where the rows were gathered, or where slots are leaders. A row never finds a column of its own name.
@group(0) @binding(6) var<storage, read> places: array<u32>;
@group(0) @binding(7) var<storage, read> names: array<u32>;
// k per row slot, ascending; padded with (FAR, 2³²−1).
@group(0) @binding(8) var<storage, read_write> found: array<Neighbor>;

const ROW_OF_PART: u32 = 0x3fffffffu;

// Turns bytes into the signed values that they stand for.
const SIGNS: u32 = 0x80808080u;

var<private> tile: ByteTile;
// |row|² of the owned row.
var<private> own_norm: i32;

fn a_word(slot: u32, word: u32) -> u32 {
    if slot >= tile.row_end {
        return 0u;
    }
    return row_word(slot, word) ^ SIGNS;
}

fn b_word(slot: u32, word: u32) -> u32 {
    if slot >= tile.column_end {
        return 0u;
    }
    return row_word(slot, word) ^ SIGNS;
}

fn norm(slot: u32) -> i32 {
    return bitcast<i32>(row_word(slot, params.stride - 1u));
}

fn row_word(slot: u32, word: u32) -> u32 {
    let place = places[slot];
    let at = (place & ROW_OF_PART) * params.stride + word;
    switch place >> 30u {
        case 0u: { return rows_0[at]; }
        case 1u: { return rows_1[at]; }
        case 2u: { return rows_2[at]; }
        default: { return rows_3[at]; }
    }
}

@compute @workgroup_size(THREADS)
fn byte_neighbors(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = unfolded(group, params.grid_width);
    if index >= params.tiles {
        return;
    }
    tile = tiles[index];
    let own = tile.row + thread;
    let owns = thread < TILE_ROWS && own < tile.row_end;
    if owns {
        own_norm = norm(own);
        open_list(own * params.k, params.k, names[own]);
    }
    for (var first = tile.column; first < tile.column_end; first += TILE_COLUMNS) {
        let c = byte_product(thread, tile.row, first, params.words);
        let slot = first + 4u * (thread % LANES);
        let norms = vec4(column_norm(slot), column_norm(slot + 1u), column_norm(slot + 2u), column_norm(slot + 3u));
        for (var j = 0u; j < 4u; j++) {
            spread(thread, j, norms, c);
            workgroupBarrier();
            if owns {
                for (var lane = 0u; lane < LANES; lane++) {
                    consider(own, first + 4u * lane + j, bitcast<i32>(stripe[thread * STRIPE_STRIDE + lane]));
                }
            }
            workgroupBarrier();
        }
    }
}

fn column_norm(slot: u32) -> i32 {
    if slot >= tile.column_end {
        return 0;
    }
    return norm(slot);
}

// Column j of each lane's four: |column|² − 2⟨row, column⟩.
fn spread(thread: u32, j: u32, norms: vec4<i32>, c: ByteBlock) {
    let at = stripe_place(thread);
    stripe[at] = component(bitcast<vec4<u32>>(norms - 2 * c[0]), j);
    stripe[at + STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[1]), j);
    stripe[at + 2u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[2]), j);
    stripe[at + 3u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[3]), j);
    stripe[at + 4u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[4]), j);
    stripe[at + 5u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[5]), j);
    stripe[at + 6u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[6]), j);
    stripe[at + 7u * STRIPE_STRIDE] = component(bitcast<vec4<u32>>(norms - 2 * c[7]), j);
}

fn consider(own: u32, slot: u32, score: i32) {
    if slot >= tile.column_end {
        return;
    }
    let distance = rounded(u32(own_norm + score));
    if distance > bound.distance {
        return;
    }
    offer(own * params.k, params.k, Neighbor(distance, names[slot]));
}

// The nearest f32, ties to even, by integers: how a conversion rounds is a device's own choice.
fn rounded(value: u32) -> f32 {
    let bits = 32u - countLeadingZeros(value);
    if bits <= 24u {
        return f32(value);
    }
    let shift = bits - 24u;
    let odd = (value >> shift) & 1u;
    let up = value + (1u << (shift - 1u)) - 1u + odd;
    return f32((up >> shift) << shift);
}
