// Short sorted lists, one per row of a tile, each owned by one thread: for kernels that keep the few nearest of each row.
//
// Distances go, LANES columns at a time, through workgroup memory to the thread that owns the row, which inserts the few
// that beat its last. One owner per list: no atomics, one order.
//
// Needs grid.wgsl, metric.wgsl, a product, and of the kernel `found: array<Neighbor>`, which the lists lie in.

const NONE: u32 = 0xffffffffu;

override STRIPE_STRIDE: u32 = LANES + 1u;
override STRIPE: u32 = TILE_ROWS * STRIPE_STRIDE;

// The bits of one column per lane, for each row of the tile.
var<workgroup> stripe: array<u32, STRIPE>;

// Of the owned row: its ordinal, which its list must not hold, and the list's last entry.
var<private> own_ordinal: u32;
var<private> bound: Neighbor;

fn open_list(list: u32, k: u32, ordinal: u32) {
    own_ordinal = ordinal;
    bound = Neighbor(FAR, NONE);
    for (var rank = 0u; rank < k; rank++) {
        found[list + rank] = bound;
    }
}

// Where this thread's first row of eight has its place for this thread's column; the others follow STRIPE_STRIDE apart.
fn stripe_place(thread: u32) -> u32 {
    return 8u * (thread / LANES) * STRIPE_STRIDE + thread % LANES;
}

fn component(values: vec4<u32>, j: u32) -> u32 {
    switch j {
        case 0u: { return values.x; }
        case 1u: { return values.y; }
        case 2u: { return values.z; }
        default: { return values.w; }
    }
}

// Into the list that starts at `list`, if it is nearer than the last entry, which falls out.
fn offer(list: u32, k: u32, candidate: Neighbor) {
    if candidate.ordinal == own_ordinal || !before(candidate, bound) {
        return;
    }
    var rank = k - 1u;
    while rank > 0u {
        let previous = found[list + rank - 1u];
        if !before(candidate, previous) {
            break;
        }
        found[list + rank] = previous;
        rank -= 1u;
    }
    found[list + rank] = candidate;
    bound = found[list + k - 1u];
}
