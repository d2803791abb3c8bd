// Metrics, as `vectors::Metric` defines them. Inside a tile pairs are ranked by a score that orders the columns of
// one row as their distances do, and costs one multiply-add per inner product:
//
//     score = bias(column) − dot_weight · ⟨row, column⟩      l2: |column|² − 2⟨·,·⟩     others: −⟨·,·⟩

const L2: u32 = 0u;
const INNER_PRODUCT: u32 = 1u;
const COSINE: u32 = 2u;

// What no score is beyond: the largest finite f32.
const FAR: f32 = 0x1.fffffep+127f;

fn dot_weight(metric: u32) -> f32 {
    return select(1.0, 2.0, metric == L2);
}

// A metric's distance from its sum over the dimensions: of (a − b)² for l2, of a·b for the others.
fn distance_of(metric: u32, sum: f32) -> f32 {
    switch metric {
        case L2: { return sum; }
        case COSINE: { return 1.0 - sum; }
        default: { return -sum; }
    }
}

struct Neighbor {
    distance: f32,
    ordinal: u32,
}

// The total order of `vectors::Neighbor`: ties go to the lowest ordinal.
fn before(a: Neighbor, b: Neighbor) -> bool {
    return a.distance < b.distance || (a.distance == b.distance && a.ordinal < b.ordinal);
}
