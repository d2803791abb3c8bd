// One tile of the matrix product A · Bᵀ of rows of signed bytes, four of them to a word, left in registers for the kernel to
// reduce: product.wgsl in whole numbers. Exact, and so the same on every device.
//
// The kernel that includes this says what A and B are, by two functions that are 0 outside of their matrix:
//
//     fn a_word(row: u32, word: u32) -> u32
//     fn b_word(column: u32, word: u32) -> u32
//
// Cost: TILE_ROWS · TILE_COLUMNS packed dot products of four and TILE_ROWS + TILE_COLUMNS reads per word. A packed dot product
// is one instruction where the device has it (SPIR-V's OpSDot), else some ten.

// Words staged at a time; the host picks what pads a row least.
override DEPTH: u32 = 16u;

override TILE_ROWS: u32 = LANES * 8u;
override TILE_COLUMNS: u32 = LANES * 4u;

// Padded against bank conflicts, and named, as in product.wgsl.
override A_STRIDE: u32 = LANES * 2u + 1u;
override B_STRIDE: u32 = LANES + 1u;
override STAGED_A: u32 = DEPTH * A_STRIDE;
override STAGED_B: u32 = DEPTH * B_STRIDE;

var<workgroup> staged_a: array<vec4<u32>, STAGED_A>;
var<workgroup> staged_b: array<vec4<u32>, STAGED_B>;

// Eight rows by four columns. Indexed by constants only, or it would leave the registers.
alias ByteBlock = array<vec4<i32>, 8>;

// ⟨a, b⟩ of `words` words, for the pairs of this thread: rows first_row + 8·(thread / LANES) + 0..8 by columns
// first_column + 4·(thread % LANES) + 0..4.
fn byte_product(thread: u32, first_row: u32, first_column: u32, words: u32) -> ByteBlock {
    var c = ByteBlock();
    let a_lane = 2u * (thread / LANES);
    let b_lane = thread % LANES;
    for (var base = 0u; base < words; base += DEPTH) {
        stage(thread, first_row, first_column, base, words);
        workgroupBarrier();
        for (var w = 0u; w < DEPTH; w++) {
            let a0 = staged_a[w * A_STRIDE + a_lane];
            let a1 = staged_a[w * A_STRIDE + a_lane + 1u];
            let b = staged_b[w * B_STRIDE + b_lane];
            c[0] += dots(a0.x, b);
            c[1] += dots(a0.y, b);
            c[2] += dots(a0.z, b);
            c[3] += dots(a0.w, b);
            c[4] += dots(a1.x, b);
            c[5] += dots(a1.y, b);
            c[6] += dots(a1.z, b);
            c[7] += dots(a1.w, b);
        }
        workgroupBarrier();
    }
    return c;
}

fn dots(a: u32, b: vec4<u32>) -> vec4<i32> {
    return vec4(dot4I8Packed(a, b.x), dot4I8Packed(a, b.y), dot4I8Packed(a, b.z), dot4I8Packed(a, b.w));
}

// Neighbouring threads read neighbouring words of a row and store four rows as one vec4.
fn stage(thread: u32, first_row: u32, first_column: u32, base: u32, words: u32) {
    for (var i = thread; i < DEPTH * LANES * 2u; i += THREADS) {
        let word = base + i % DEPTH;
        let quad = i / DEPTH;
        let row = first_row + 4u * quad;
        var values = vec4<u32>();
        if word < words {
            values = vec4(a_word(row, word), a_word(row + 1u, word), a_word(row + 2u, word), a_word(row + 3u, word));
        }
        staged_a[(i % DEPTH) * A_STRIDE + quad] = values;
    }
    for (var i = thread; i < DEPTH * LANES; i += THREADS) {
        let word = base + i % DEPTH;
        let quad = i / DEPTH;
        let column = first_column + 4u * quad;
        var values = vec4<u32>();
        if word < words {
            values = vec4(
                b_word(column, word),
                b_word(column + 1u, word),
                b_word(column + 2u, word),
                b_word(column + 3u, word),
            );
        }
        staged_b[(i % DEPTH) * B_STRIDE + quad] = values;
    }
}
