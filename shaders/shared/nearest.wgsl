// The nearest column of each row of a tile: the product's tiles are walked along the columns, each thread keeps the
// best of its 8 rows in registers, and the lanes that share a row settle at the end. No distance reaches memory.
//
// Needs grid.wgsl, metric.wgsl, product.wgsl, and of the kernel `fn column_bias(column: u32) -> f32`.
// Cost: that of the product, and one comparison per pair.

// Of each row of the tile, its nearest column; valid after `find_nearest`.
var<workgroup> nearest_column: array<u32, TILE_ROWS>;

var<workgroup> lane_distance: array<f32, THREADS>;
var<workgroup> lane_ordinal: array<u32, THREADS>;

// Among columns.x..columns.y, over dimensions dims.x..dims.y.
fn find_nearest(thread: u32, first_row: u32, columns: vec2<u32>, dims: vec2<u32>, weight: f32) {
    let start = Neighbor(FAR, columns.x);
    var best = array<Neighbor, 8>(start, start, start, start, start, start, start, start);
    for (var first = columns.x; first < columns.y; first += TILE_COLUMNS) {
        let c = product(thread, first_row, first, dims);
        let column = first + 4u * (thread % LANES);
        let bias = vec4(
            bias_within(column, columns.y),
            bias_within(column + 1u, columns.y),
            bias_within(column + 2u, columns.y),
            bias_within(column + 3u, columns.y),
        );
        best[0] = nearer(best[0], bias - weight * c[0], column);
        best[1] = nearer(best[1], bias - weight * c[1], column);
        best[2] = nearer(best[2], bias - weight * c[2], column);
        best[3] = nearer(best[3], bias - weight * c[3], column);
        best[4] = nearer(best[4], bias - weight * c[4], column);
        best[5] = nearer(best[5], bias - weight * c[5], column);
        best[6] = nearer(best[6], bias - weight * c[6], column);
        best[7] = nearer(best[7], bias - weight * c[7], column);
    }
    settle(thread, 0u, best[0]);
    settle(thread, 1u, best[1]);
    settle(thread, 2u, best[2]);
    settle(thread, 3u, best[3]);
    settle(thread, 4u, best[4]);
    settle(thread, 5u, best[5]);
    settle(thread, 6u, best[6]);
    settle(thread, 7u, best[7]);
}

// A column past the end can never be nearest.
fn bias_within(column: u32, end: u32) -> f32 {
    if column >= end {
        return FAR;
    }
    return column_bias(column);
}

// Four more columns in ascending order: `<` leaves a tie with the lowest.
fn nearer(best: Neighbor, scores: vec4<f32>, column: u32) -> Neighbor {
    var found = best;
    if scores.x < found.distance {
        found = Neighbor(scores.x, column);
    }
    if scores.y < found.distance {
        found = Neighbor(scores.y, column + 1u);
    }
    if scores.z < found.distance {
        found = Neighbor(scores.z, column + 2u);
    }
    if scores.w < found.distance {
        found = Neighbor(scores.w, column + 3u);
    }
    return found;
}

// The lanes of each row agree on row r of their eight.
fn settle(thread: u32, r: u32, best: Neighbor) {
    lane_distance[thread] = best.distance;
    lane_ordinal[thread] = best.ordinal;
    workgroupBarrier();
    if thread % LANES == r {
        let first = thread - r;
        var found = Neighbor(lane_distance[first], lane_ordinal[first]);
        for (var lane = first + 1u; lane < first + LANES; lane++) {
            let other = Neighbor(lane_distance[lane], lane_ordinal[lane]);
            if before(other, found) {
                found = other;
            }
        }
        nearest_column[8u * (thread / LANES) + r] = found.ordinal;
    }
    workgroupBarrier();
}
