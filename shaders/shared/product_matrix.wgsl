// product.wgsl by cooperative matrices (tensor cores): f16 operands, scaled as in product_half.wgsl, and f32 sums.
//
// For 16 lanes and subgroups of 32 threads alone: a workgroup's tile of 128 × 64 is eight blocks of 32 × 32, one for each
// subgroup, which holds it as four matrices of 16 × 16. The elements of a cooperative matrix are spread over a subgroup in an
// order that only the driver knows, so they go back to the threads that reduce them by way of workgroup memory, 32 rows at a time.
//
// Cost: as product.wgsl; TILE_ROWS · TILE_COLUMNS · 8 bytes more to and from workgroup memory per tile, whatever `dims`.

// Dimensions staged at a time: a multiple of 16.
override DEPTH: u32 = 32u;

override TILE_ROWS: u32 = LANES * 8u;
override TILE_COLUMNS: u32 = LANES * 4u;

// Eight values of padding per row, against bank conflicts.
override STAGED_STRIDE: u32 = DEPTH + 8u;
override STAGED_A: u32 = TILE_ROWS * STAGED_STRIDE;
override STAGED_B: u32 = TILE_COLUMNS * STAGED_STRIDE;
const STRIP_ROWS: u32 = 32u;
override STRIP: u32 = STRIP_ROWS * TILE_COLUMNS;

// Rows of A and of B, each its dimensions.
var<workgroup> staged_a: array<f16, STAGED_A>;
var<workgroup> staged_b: array<f16, STAGED_B>;
// Products on their way from one subgroup's matrices to other threads' registers.
var<workgroup> strip: array<f32, STRIP>;

alias Block = array<vec4<f32>, 8>;

const SUBGROUP: u32 = 32u;

// As in product.wgsl, times a_scale · b_scale.
fn product(thread: u32, first_row: u32, first_column: u32, dims: vec2<u32>) -> Block {
    let own_row = STRIP_ROWS * (thread / SUBGROUP / 2u);
    let own_column = 32u * (thread / SUBGROUP % 2u);
    var c00 = coop_mat16x16<f32, C>();
    var c01 = coop_mat16x16<f32, C>();
    var c10 = coop_mat16x16<f32, C>();
    var c11 = coop_mat16x16<f32, C>();
    for (var base = dims.x; base < dims.y; base += DEPTH) {
        stage(thread, first_row, first_column, vec2(base, dims.y));
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d += 16u) {
            let at_a = own_row * STAGED_STRIDE + d;
            let at_b = own_column * STAGED_STRIDE + d;
            let a0 = coopLoadT<coop_mat16x16<f16, A>>(&staged_a[at_a], STAGED_STRIDE);
            let a1 = coopLoadT<coop_mat16x16<f16, A>>(&staged_a[at_a + 16u * STAGED_STRIDE], STAGED_STRIDE);
            // Rows of B are columns of the product: read column by column.
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&staged_b[at_b], STAGED_STRIDE);
            let b1 = coopLoad<coop_mat16x16<f16, B>>(&staged_b[at_b + 16u * STAGED_STRIDE], STAGED_STRIDE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
        workgroupBarrier();
    }
    var block = Block();
    for (var first = 0u; first < TILE_ROWS; first += STRIP_ROWS) {
        if own_row == first {
            coopStoreT(c00, &strip[own_column], TILE_COLUMNS);
            coopStoreT(c01, &strip[own_column + 16u], TILE_COLUMNS);
            coopStoreT(c10, &strip[own_column + 16u * TILE_COLUMNS], TILE_COLUMNS);
            coopStoreT(c11, &strip[own_column + 16u * TILE_COLUMNS + 16u], TILE_COLUMNS);
        }
        workgroupBarrier();
        let row = 8u * (thread / LANES);
        if row >= first && row < first + STRIP_ROWS {
            let at = (row - first) * TILE_COLUMNS + 4u * (thread % LANES);
            block[0] = four_of_strip(at);
            block[1] = four_of_strip(at + TILE_COLUMNS);
            block[2] = four_of_strip(at + 2u * TILE_COLUMNS);
            block[3] = four_of_strip(at + 3u * TILE_COLUMNS);
            block[4] = four_of_strip(at + 4u * TILE_COLUMNS);
            block[5] = four_of_strip(at + 5u * TILE_COLUMNS);
            block[6] = four_of_strip(at + 6u * TILE_COLUMNS);
            block[7] = four_of_strip(at + 7u * TILE_COLUMNS);
        }
        workgroupBarrier();
    }
    return block;
}

fn four_of_strip(at: u32) -> vec4<f32> {
    return vec4(strip[at], strip[at + 1u], strip[at + 2u], strip[at + 3u]);
}

// Neighbouring threads read and store neighbouring dimensions of a row.
fn stage(thread: u32, first_row: u32, first_column: u32, dims: vec2<u32>) {
    for (var i = thread; i < DEPTH * TILE_ROWS; i += THREADS) {
        let d = dims.x + i % DEPTH;
        var value = 0.0;
        if d < dims.y {
            value = params.a_scale * a_value(first_row + i / DEPTH, d);
        }
        staged_a[i / DEPTH * STAGED_STRIDE + i % DEPTH] = f16(value);
    }
    for (var i = thread; i < DEPTH * TILE_COLUMNS; i += THREADS) {
        let d = dims.x + i % DEPTH;
        var value = 0.0;
        if d < dims.y {
            value = params.b_scale * b_value(first_column + i / DEPTH, d);
        }
        staged_b[i / DEPTH * STAGED_STRIDE + i % DEPTH] = f16(value);
    }
}
