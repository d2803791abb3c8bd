//! How far arithmetic in f32 takes a distance from what it is. Whoever finds candidates by products decides by it whether a row that
//! was left aside could be among the nearest all the same.

use crate::vectors::Metric;

/// How far a backend's distance, or score, of a query of that length and a row of at most `longest` may be from the exact one: each of
/// as many products and sums as there are dimensions is off by a unit in the last place at most (half of one where it is rounded and
/// not cut), of all that is summed. Far from the origin that is more than what rows differ by.
pub fn rounding_error(metric: Metric, dim: usize, query: f64, longest: f64) -> f64 {
    let whole = match metric {
        Metric::L2 => (query + longest).powi(2),
        Metric::InnerProduct => query * longest,
        Metric::Cosine => 1.0 + query * longest,
        Metric::L1 | Metric::Hamming => metric.without_products(),
    };
    // Products below the normal numbers may come out as 0.
    let vanished = 4.0 * f64::from(f32::MIN_POSITIVE);
    (dim + 4) as f64 * (f64::from(f32::EPSILON) * whole + vanished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Rows;
    use crate::compute::cpu::Cpu;
    use crate::compute::{Compute, reference::Reference};
    use crate::vectors::{Random, VectorBuf, squared_norm};

    #[test]
    fn distances_of_a_backend_are_within_it_of_the_definition() {
        let mut random = Random::new(7);
        for (dim, shift, scale) in [(1, 0.0, 1.0), (17, 0.0, 1e-19), (100, 3e4, 1.0), (768, -10.0, 1e6)] {
            let mut value = |_| shift + scale * random.normal() as f32;
            let rows = VectorBuf::new((0..300 * dim).map(&mut value).collect(), dim);
            let queries = VectorBuf::new((0..40 * dim).map(&mut value).collect(), dim);
            let length = |row: &[f32]| squared_norm(row).sqrt();
            let longest = rows.view().iter().map(length).fold(0.0, f64::max);
            for metric in [Metric::L2, Metric::InnerProduct] {
                let exact =
                    Reference.top_k(queries.view(), &Rows::on_host(rows.view()), metric, 300).unwrap();
                let found =
                    Cpu::new().top_k(queries.view(), &Rows::on_host(rows.view()), metric, 300).unwrap();
                for (query, values) in queries.view().iter().enumerate() {
                    let error = rounding_error(metric, dim, length(values), longest);
                    let by_row = |mut row: Vec<crate::vectors::Neighbor>| {
                        row.sort_by_key(|found| found.ordinal);
                        row
                    };
                    let (exact, found) =
                        (by_row(exact.row(query).to_vec()), by_row(found.row(query).to_vec()));
                    for (exact, found) in exact.iter().zip(&found) {
                        let off = (f64::from(exact.distance) - f64::from(found.distance)).abs();
                        assert!(off <= error, "{metric} {dim}: {off}, at most {error}");
                    }
                }
            }
        }
    }
}
