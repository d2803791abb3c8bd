// product.wgsl with its operands staged as f16: half the workgroup memory and half of what is read from it, which is what
// bounds product.wgsl. They are multiplied and added in f32, so that what is lost is the rounding of an operand, 2⁻¹¹ of it.
//
// The kernel's parameters bring both operands to f16's range by powers of two, `a_scale` and `b_scale`, and take that back
// in `weight`. Whoever reads these products compares what they found again, in f32.
//
// Cost: as product.wgsl.

override DEPTH: u32 = 16u;

override TILE_ROWS: u32 = LANES * 8u;
override TILE_COLUMNS: u32 = LANES * 4u;

override A_STRIDE: u32 = LANES * 2u + 1u;
override B_STRIDE: u32 = LANES + 1u;
override STAGED_A: u32 = DEPTH * A_STRIDE;
override STAGED_B: u32 = DEPTH * B_STRIDE;

var<workgroup> staged_a: array<vec4<f16>, STAGED_A>;
var<workgroup> staged_b: array<vec4<f16>, STAGED_B>;

alias Block = array<vec4<f32>, 8>;

// As in product.wgsl, times a_scale · b_scale.
fn product(thread: u32, first_row: u32, first_column: u32, dims: vec2<u32>) -> Block {
    var c = Block();
    let a_lane = 2u * (thread / LANES);
    let b_lane = thread % LANES;
    for (var base = dims.x; base < dims.y; base += DEPTH) {
        stage(thread, first_row, first_column, vec2(base, dims.y));
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let a0 = vec4<f32>(staged_a[d * A_STRIDE + a_lane]);
            let a1 = vec4<f32>(staged_a[d * A_STRIDE + a_lane + 1u]);
            let b = vec4<f32>(staged_b[d * B_STRIDE + b_lane]);
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

fn stage(thread: u32, first_row: u32, first_column: u32, dims: vec2<u32>) {
    for (var i = thread; i < DEPTH * LANES * 2u; i += THREADS) {
        let d = dims.x + i % DEPTH;
        let quad = i / DEPTH;
        let row = first_row + 4u * quad;
        var values = vec4<f32>();
        if d < dims.y {
            values = vec4(a_value(row, d), a_value(row + 1u, d), a_value(row + 2u, d), a_value(row + 3u, d));
        }
        staged_a[(i % DEPTH) * A_STRIDE + quad] = vec4<f16>(params.a_scale * values);
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
        staged_b[(i % DEPTH) * B_STRIDE + quad] = vec4<f16>(params.b_scale * values);
    }
}
