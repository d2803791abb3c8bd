//! Exact nearest neighbours, as the measure of everything else.

use rayon::prelude::*;

use crate::compute::{self, Compute};
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorView};

/// Rows that are compared with all queries before the next are looked at. They may be a mapped file that memory has no room for: it is
/// read once, from the first row to the last, however many queries there are.
const BLOCK_BYTES: usize = 128 << 20;

/// The `k` nearest of `rows` for each query, ascending by (distance, ordinal), distances rounded from f64.
///
/// A backend finds candidates in f32, some more than `k`, and may take two rows that are almost equally far in
/// the wrong order. So the candidates' distances are computed again by the definition, in f64, and the `k` best of
/// those are returned: what is lost is at most a row that is closer to the k-th than the backend's tolerance, and
/// only where more than a tenth of `k` and 16 such rows crowd there.
pub fn ground_truth(
    compute: &dyn Compute,
    queries: VectorView<'_>,
    rows: VectorView<'_>,
    metric: Metric,
    k: usize,
) -> compute::Result<Neighbors> {
    let block_rows = (BLOCK_BYTES / (4 * rows.dim())).max(1);
    block_by_block(compute, queries, rows, metric, (k, block_rows))
}

fn block_by_block(
    compute: &dyn Compute,
    queries: VectorView<'_>,
    rows: VectorView<'_>,
    metric: Metric,
    (k, block_rows): (usize, usize),
) -> compute::Result<Neighbors> {
    assert!(k > 0);
    let mut truth = Neighbors::new(queries.rows(), k);
    if rows.is_empty() || queries.is_empty() {
        return Ok(truth);
    }
    if metric.is_exact_only() {
        by_definition(queries, rows, metric, &mut truth);
        return Ok(truth);
    }
    let wanted = (k + k / 10 + 16).min(rows.rows());
    let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); queries.rows()];
    for start in (0..rows.rows()).step_by(block_rows) {
        let block = rows.slice(start, (start + block_rows).min(rows.rows()));
        let uploaded = compute.upload(block)?;
        let found = compute.top_k(queries, &uploaded, metric, wanted.min(block.rows()))?;
        candidates.par_iter_mut().enumerate().for_each(|(query, candidates)| {
            let found = found.found(query).iter();
            candidates.extend(found.map(|found| {
                let found = Neighbor::new(start as u32 + found.ordinal, found.distance);
                Candidate { found, exact: None }
            }));
            candidates.sort_unstable_by_key(|candidate| candidate.found);
            candidates.truncate(wanted);
            // While the block is in memory.
            for candidate in candidates {
                let row = || rows.row(candidate.found.ordinal as usize);
                candidate.exact.get_or_insert_with(|| metric.distance(queries.row(query), row()) as f32);
            }
        });
    }
    for (query, candidates) in candidates.iter().enumerate() {
        let exact =
            |candidate: &Candidate| candidate.exact.map(|d| Neighbor::new(candidate.found.ordinal, d));
        let mut exact: Vec<Neighbor> = candidates.iter().filter_map(exact).collect();
        exact.sort_unstable();
        exact.truncate(k);
        truth.row_mut(query)[..exact.len()].copy_from_slice(&exact);
    }
    Ok(truth)
}

/// Of metrics that no backend has: every pair.
fn by_definition(queries: VectorView<'_>, rows: VectorView<'_>, metric: Metric, truth: &mut Neighbors) {
    let k = truth.k();
    truth.as_mut_slice().par_chunks_mut(k).enumerate().for_each(|(query, nearest)| {
        let mut top = TopK::new(k.min(rows.rows()));
        for (ordinal, row) in (0u32..).zip(rows.iter()) {
            top.push(Neighbor::new(ordinal, metric.distance(queries.row(query), row) as f32));
        }
        let found = top.sorted();
        nearest[..found.len()].copy_from_slice(found);
    });
}

/// A row that may be among the nearest.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// As the backend has it.
    found: Neighbor,
    /// The distance by definition, once it is computed.
    exact: Option<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::reference::Reference;
    use crate::compute::{BackendInfo, CentroidSums, CodebookView, Leaves, ResidualOf, Result, Rows};
    use crate::vectors::{Random, VectorBuf};

    /// A backend whose distances are off by as much as the contract lets them be.
    struct Sloppy;

    impl Compute for Sloppy {
        fn info(&self) -> BackendInfo {
            Reference.info()
        }
        fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
            Reference.upload(rows)
        }
        fn assign(&self, _: &Rows<'_>, _: VectorView<'_>, _: Metric) -> Result<Vec<Neighbor>> {
            unreachable!()
        }
        fn centroid_sums(&self, _: &Rows<'_>, _: &[u32], _: usize) -> Result<CentroidSums> {
            unreachable!()
        }
        fn pq_encode(&self, _: &Rows<'_>, _: Option<ResidualOf<'_>>, _: CodebookView<'_>) -> Result<Vec<u8>> {
            unreachable!()
        }
        fn leaf_top_k(&self, _: &Rows<'_>, _: &Leaves, _: Metric, _: usize) -> Result<Neighbors> {
            unreachable!()
        }
        fn top_k(
            &self,
            queries: VectorView<'_>,
            rows: &Rows<'_>,
            metric: Metric,
            k: usize,
        ) -> Result<Neighbors> {
            let all = Reference.top_k(queries, rows, metric, rows.host().rows())?;
            let mut found = Neighbors::new(queries.rows(), k);
            for query in 0..queries.rows() {
                let error =
                    |n: &Neighbor| 1e-6 * Random::of(query as u64, u64::from(n.ordinal)).normal() as f32;
                let off = |n: &Neighbor| Neighbor::new(n.ordinal, n.distance + error(n));
                let mut row: Vec<Neighbor> = all.row(query).iter().map(off).collect();
                row.sort_unstable();
                found.row_mut(query).copy_from_slice(&row[..k]);
            }
            Ok(found)
        }
    }

    #[test]
    fn is_the_definition_although_the_backend_orders_near_ties_wrongly() {
        let mut random = Random::new(1);
        // Pairs of rows that differ by about 1e-6: thousands of near ties.
        let mut rows = VectorBuf::new(Vec::new(), 4);
        for _ in 0..300 {
            let row: Vec<f32> = (0..4).map(|_| random.normal() as f32).collect();
            for _ in 0..2 {
                let near: Vec<f32> = row.iter().map(|value| value + 1e-6 * random.normal() as f32).collect();
                rows.push(&near);
            }
        }
        let queries = VectorBuf::new((0..80).map(|_| random.normal() as f32).collect(), 4);
        for metric in Metric::ALL {
            for k in [1, 10, 599, 600, 700] {
                let expected =
                    Reference.top_k(queries.view(), &Rows::on_host(rows.view()), metric, k).unwrap();
                let truth = ground_truth(&Sloppy, queries.view(), rows.view(), metric, k).unwrap();
                assert_eq!(truth, expected, "{metric} k = {k}");
                for block_rows in [7, 300] {
                    let (queries, rows) = (queries.view(), rows.view());
                    let truth = block_by_block(&Sloppy, queries, rows, metric, (k, block_rows)).unwrap();
                    assert_eq!(truth, expected, "{metric} k = {k}, {block_rows} rows at a time");
                }
            }
        }
    }

    #[test]
    fn no_rows_give_padding_only() {
        let truth =
            ground_truth(&Reference, VectorView::new(&[1.0], 1), VectorView::new(&[], 1), Metric::L2, 3);
        assert_eq!(truth.unwrap().found(0), []);
    }
}
