// One tile of the matrix product A · Bᵀ, left in registers for the kernel to reduce.
//
// A workgroup owns TILE_ROWS = 8·LANES rows of A by TILE_COLUMNS = 4·LANES rows of B (the columns of the product);
// each thread keeps 8 × 4 inner products. DEPTH dimensions at a time pass through workgroup memory, transposed, so
// that a thread needs three 16-byte loads for 32 multiply-adds. The order of summation is that of the dimensions,
// the same for every pair: equal rows have equal products, bit by bit.
//
// The kernel that includes this says what A and B are, by two functions that are 0 outside of their matrix:
//
//     fn a_value(row: u32, d: u32) -> f32
//     fn b_value(column: u32, d: u32) -> f32
//
// Cost: TILE_ROWS · TILE_COLUMNS multiply-adds and TILE_ROWS + TILE_COLUMNS reads per dimension.

// Dimensions staged at a time; the host picks what pads `dim` least.
override DEPTH: u32 = 16u;

override TILE_ROWS: u32 = LANES * 8u;
override TILE_COLUMNS: u32 = LANES * 4u;

// One vec4 of padding per dimension: without it the transposing stores would all meet in one bank.
override A_STRIDE: u32 = LANES * 2u + 1u;
override B_STRIDE: u32 = LANES + 1u;

// Named, as every length here is: naga 30 loses count of overrides beside lengths that are expressions.
override STAGED_A: u32 = DEPTH * A_STRIDE;
override STAGED_B: u32 = DEPTH * B_STRIDE;

var<workgroup> staged_a: array<vec4<f32>, STAGED_A>;
var<workgroup> staged_b: array<vec4<f32>, STAGED_B>;

// Eight rows by four columns. Indexed by constants only, or it would leave the registers.
alias Block = array<vec4<f32>, 8>;

// ⟨a, b⟩ over dimensions dims.x..dims.y, for the pairs of this thread: rows first_row + 8·(thread / LANES) + 0..8 by
// columns first_column + 4·(thread % LANES) + 0..4.
fn product(thread: u32, first_row: u32, first_column: u32, dims: vec2<u32>) -> Block {
    var c = Block();
    let a_lane = 2u * (thread / LANES);
    let b_lane = thread % LANES;
    for (var base = dims.x; base < dims.y; base += DEPTH) {
        stage(thread, first_row, first_column, vec2(base, dims.y));
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let a0 = staged_a[d * A_STRIDE + a_lane];
            let a1 = staged_a[d * A_STRIDE + a_lane + 1u];
            let b = staged_b[d * B_STRIDE + b_lane];
            c[0] += a0.x * b;
            c[1] += a0.y * b;
            c[2] += a0.z * b;
            c[3] += a0.w * b;
            c[4] += a1.x * b;
            c[5] += a1.y * b;
            c[6] += a1.z * b;
            c[7] += a1.w * b;
        }
        workgroupBarrier();
    }
    return c;
}

// Neighbouring threads read neighbouring dimensions of a row and store four rows as one vec4.
fn stage(thread: u32, first_row: u32, first_column: u32, dims: vec2<u32>) {
    for (var i = thread; i < DEPTH * LANES * 2u; i += THREADS) {
        let d = dims.x + i % DEPTH;
        let quad = i / DEPTH;
        let row = first_row + 4u * quad;
        var values = vec4<f32>();
        if d < dims.y {
            values = vec4(a_value(row, d), a_value(row + 1u, d), a_value(row + 2u, d), a_value(row + 3u, d));
        }
        staged_a[(i % DEPTH) * A_STRIDE + quad] = values;
    }
    for (var i = thread; i < DEPTH * LANES; i += THREADS) {
        let d = dims.x + i % DEPTH;
        let quad = i / DEPTH;
        let column = first_column + 4u * quad;
        var values = vec4<f32>();
        if d < dims.y {
            values = vec4(
                b_value(column, d),
                b_value(column + 1u, d),
                b_value(column + 2u, d),
                b_value(column + 3u, d),
            );
        }
        staged_b[(i % DEPTH) * B_STRIDE + quad] = values;
    }
}
