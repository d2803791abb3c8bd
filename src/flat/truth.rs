//! Exact nearest neighbours, as the measure of everything else.

use std::ops::Range;

use rayon::prelude::*;

use crate::compute::cpu::kernels;
use crate::compute::{self, Compute, rounding_error};
use crate::vectors::{
    Metric, Neighbor, Neighbors, TopK, VectorBuf, VectorView, far_mean, squared_norm, taken_from,
};

/// Rows that are compared with all queries before the next are looked at. They may be a mapped file that memory has no room for: it is
/// read once, from the first row to the last, however many queries there are.
const BLOCK_BYTES: usize = 128 << 20;

/// The `k` nearest of `rows` for each query, ascending by (distance, ordinal), distances rounded from f64: exactly those of the
/// definition.
///
/// A backend finds candidates in f32, some more than `k`, whose distances are computed again by the definition. How far f32 may
/// have been off is known: a query of which that could have hidden a row is asked again, for more candidates, and if that does not
/// settle it, because rows are as good as equal or, for inner products, far from the origin, it is compared with every row by the definition.
pub fn ground_truth(
    compute: &dyn Compute,
    queries: VectorView<'_>,
    rows: VectorView<'_>,
    metric: Metric,
    k: usize,
) -> compute::Result<Neighbors> {
    let block_rows = (BLOCK_BYTES / (4 * rows.dim())).max(1);
    Search { compute, rows, metric, k, block_rows }.run(queries)
}

/// Candidates per query of a block of rows, the first time.
fn wanted(k: usize) -> usize {
    k + k / 10 + 16
}

/// How many times as many candidates an open query is asked for the second time, and what part of all queries at once, so that these
/// take no more memory than those of all queries did; …
const MORE: usize = 8;
/// … but not fewer at once.
const FEW: usize = 64;

/// Few queries are searched for in so many parts of the rows at a time, by blocks of so many queries, whose lists wait to be put
/// together.
const PARTS: usize = 32;
const PART_QUERIES: usize = 256;

/// Memory that [`ground_truth`] takes beside rows, queries and what it returns, at most: the nearest so far, a block's candidates, the
/// backend's lists, and queries that are asked again.
pub fn truth_bytes(queries: usize, dim: usize, k: usize) -> usize {
    let (wanted, neighbor) = (wanted(k), size_of::<Neighbor>());
    // A list may have room for twice what it holds; a backend keeps up to twice as many candidates.
    let of_query = (2 * (k + wanted) + wanted) * neighbor + TopK::size_bytes(2 * wanted);
    let of_part = (wanted + wanted / 8 + 8) * neighbor;
    let again = queries.div_ceil(MORE).max(FEW).min(queries) * (dim * size_of::<f32>() + k * neighbor);
    queries * of_query + again + PARTS * queries.min(PART_QUERIES) * of_part
}

/// What part of a block is copied at a time, where it has to be.
const COPIED: usize = 8;

struct Search<'a> {
    compute: &'a dyn Compute,
    rows: VectorView<'a>,
    metric: Metric,
    k: usize,
    block_rows: usize,
}

impl Search<'_> {
    fn run(&self, queries: VectorView<'_>) -> compute::Result<Neighbors> {
        assert!(self.k > 0);
        let mut truth = Neighbors::new(queries.rows(), self.k);
        if self.rows.is_empty() || queries.is_empty() {
            return Ok(truth);
        }
        if self.metric.is_exact_only() {
            self.by_definition(queries, &mut truth);
            return Ok(truth);
        }
        let wanted = wanted(self.k);
        let open = self.by_candidates(queries, wanted, &mut truth)?;
        for asked in open.chunks((queries.rows() / MORE).max(FEW)) {
            let asked_queries = queries.gather(asked);
            let mut found = Neighbors::new(asked.len(), self.k);
            let left = self.by_candidates(asked_queries.view(), MORE * wanted, &mut found)?;
            if !left.is_empty() {
                let mut by_definition = Neighbors::new(left.len(), self.k);
                self.by_definition(asked_queries.view().gather(&left).view(), &mut by_definition);
                put(&by_definition, &left, &mut found);
            }
            put(&found, asked, &mut truth);
        }
        Ok(truth)
    }

    fn blocks(&self, step: usize) -> impl Iterator<Item = Range<usize>> {
        let rows = self.rows.rows();
        (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
    }

    /// The nearest of a backend's best `wanted` of each block; queries of which another row may be nearer.
    fn by_candidates(
        &self,
        queries: VectorView<'_>,
        wanted: usize,
        truth: &mut Neighbors,
    ) -> compute::Result<Vec<u32>> {
        let Self { compute, rows, metric, k, .. } = *self;
        // Far from the origin products do not tell rows apart; what the mean leaves of them is as far from each other, but for
        // two roundings.
        let mean = (metric == Metric::L2).then(|| far_mean(rows)).flatten();
        let centred = |rows: VectorView<'_>| mean.as_ref().map(|mean| taken_from(rows, mean));
        let summed = queries.dim() + if mean.is_some() { 2 } else { 0 };
        let centred_queries = centred(queries);
        let shown_queries = centred_queries.as_ref().map_or(queries, VectorBuf::view);
        let nothing = || Nearest { found: Vec::new(), others: f64::INFINITY };
        let mut nearest: Vec<Nearest> = queries.iter().map(|_| nothing()).collect();
        // Copies of blocks are to be small.
        let step = if mean.is_some() { self.block_rows.div_ceil(COPIED) } else { self.block_rows };
        for range in self.blocks(step) {
            let block = rows.slice(range.start, range.end);
            let centred_block = centred(block);
            let shown = centred_block.as_ref().map_or(block, VectorBuf::view);
            let longest = longest_of(shown);
            let uploaded = compute.upload(shown)?;
            let candidates = compute.top_k(shown_queries, &uploaded, metric, wanted.min(block.rows()))?;
            nearest.par_iter_mut().enumerate().for_each(|(query, nearest)| {
                let candidates = candidates.found(query);
                let length = squared_norm(shown_queries.row(query)).sqrt();
                let error = rounding_error(metric, summed, length, longest);
                let query = queries.row(query);
                let exact = |ordinal: u32| metric.distance(query, block.row(ordinal as usize)) as f32;
                nearest.see(candidates, range.start as u32, error, k, exact);
                if candidates.len() < block.rows() {
                    nearest.leave_out(candidates.get(wanted - 1), error);
                }
            });
        }
        let mut open = Vec::new();
        for (query, Nearest { found, others }) in nearest.iter().enumerate() {
            truth.row_mut(query)[..found.len()].copy_from_slice(found);
            // Distances are rounded: what is at least so far has one that rounds to this at least.
            if others.is_finite() && !found.get(k - 1).is_some_and(|last| last.distance < *others as f32) {
                open.push(query as u32);
            }
        }
        Ok(open)
    }

    /// Every pair.
    fn by_definition(&self, queries: VectorView<'_>, truth: &mut Neighbors) {
        let Self { rows, metric, k, .. } = *self;
        let mut tops = vec![TopK::new(k.min(rows.rows())); queries.rows()];
        for range in self.blocks(self.block_rows) {
            tops.par_iter_mut().enumerate().for_each(|(query, top)| {
                for row in range.clone() {
                    let distance = metric.distance(queries.row(query), rows.row(row)) as f32;
                    top.push(Neighbor::new(row as u32, distance));
                }
            });
        }
        for (query, top) in tops.iter_mut().enumerate() {
            let found = top.sorted();
            truth.row_mut(query)[..found.len()].copy_from_slice(found);
        }
    }
}

/// The length of the longest row, but for rounding.
fn longest_of(rows: VectorView<'_>) -> f64 {
    let squares = rows.as_slice().par_chunks(rows.dim()).map(|row| (kernels().dot)(row, row));
    f64::from(squares.reduce(|| 0.0, f32::max)).sqrt()
}

/// Copies answers to the places that they belong in.
fn put(answers: &Neighbors, places: &[u32], all: &mut Neighbors) {
    for (answer, &place) in places.iter().enumerate() {
        all.row_mut(place as usize).copy_from_slice(answers.row(answer));
    }
}

/// What is known of a query's neighbours after some blocks of rows.
struct Nearest {
    /// At most `k`, ascending, with their distances by the definition.
    found: Vec<Neighbor>,
    /// No row that was no candidate is nearer than this; infinite where there is none.
    others: f64,
}

impl Nearest {
    /// Takes the candidates of a block that begins with row `first`, which come in the order of a backend's distances: these are off by
    /// `error` at most.
    fn see(&mut self, candidates: &[Neighbor], first: u32, error: f64, k: usize, exact: impl Fn(u32) -> f32) {
        let bound = self.found.get(k - 1).map_or(f32::INFINITY, |last| last.distance);
        let may_be_near = |candidate: &&Neighbor| (f64::from(candidate.distance) - error) as f32 <= bound;
        let near = candidates.iter().take_while(may_be_near);
        self.found.extend(near.map(|near| Neighbor::new(first + near.ordinal, exact(near.ordinal))));
        self.found.sort_unstable();
        self.found.truncate(k);
    }

    /// Of rows that are no candidates a backend's scores were not better than those of the candidates, all of which are off by `error`
    /// at most, and so is the distance of the last of them. Without it, because distances were no numbers, nothing is known.
    fn leave_out(&mut self, last: Option<&Neighbor>, error: f64) {
        let last = last.map_or(f64::NAN, |last| f64::from(last.distance));
        let others = if last.is_finite() { last - 3.0 * error } else { f64::MIN };
        self.others = self.others.min(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::compute::reference::Reference;
    use crate::compute::{BackendInfo, CentroidSums, CodebookView, Leaves, ResidualOf, Result, Rows};
    use crate::vectors::Random;

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
                    let search = Search { compute: &Sloppy, rows: rows.view(), metric, k, block_rows };
                    let truth = search.run(queries.view()).unwrap();
                    assert_eq!(truth, expected, "{metric} k = {k}, {block_rows} rows at a time");
                }
            }
        }
    }

    /// Clusters so far from the origin that products cannot tell their rows apart.
    #[test]
    fn is_the_definition_however_far_from_the_origin_rows_lie() {
        let mut random = Random::new(3);
        for shift in [0.0, 1e2, 1e3, 1e4, 1e6] {
            let mut value = |_| shift + random.normal() as f32;
            let rows = VectorBuf::new((0..3000 * 24).map(&mut value).collect(), 24);
            let queries = VectorBuf::new((0..100 * 24).map(&mut value).collect(), 24);
            for metric in [Metric::L2, Metric::InnerProduct] {
                let expected =
                    Reference.top_k(queries.view(), &Rows::on_host(rows.view()), metric, 10).unwrap();
                for block_rows in [1000, 5000] {
                    let compute = &Cpu::new();
                    let search = Search { compute, rows: rows.view(), metric, k: 10, block_rows };
                    let truth = search.run(queries.view()).unwrap();
                    assert!(truth == expected, "{metric}, shifted by {shift}, {block_rows} rows at a time");
                }
            }
        }
    }

    /// More rows at one place than candidates, and rows whose distances f32 cannot hold apart.
    #[test]
    fn crowds_and_extremes_are_settled_by_the_definition() {
        let mut random = Random::new(4);
        let mut crowd: Vec<f32> = (0..900 * 6).map(|_| random.normal() as f32).collect();
        for row in 100..900 {
            crowd.copy_within(0..6, row * 6);
            // What products round away.
            crowd[row * 6] += (row * 7919 % 800) as f32 * 1e-6;
        }
        for scale in [1.0, 1e-30, 2e18] {
            let rows = VectorBuf::new(crowd.iter().map(|value| value * scale).collect(), 6);
            for metric in [Metric::L2, Metric::InnerProduct] {
                let expected = Reference.top_k(rows.view(), &Rows::on_host(rows.view()), metric, 10).unwrap();
                let compute = &Cpu::new();
                let search = Search { compute, rows: rows.view(), metric, k: 10, block_rows: 400 };
                assert!(search.run(rows.view()).unwrap() == expected, "{metric} {scale}");
            }
        }
    }

    #[test]
    fn candidates_alone_settle_what_lies_together() {
        let mut random = Random::new(5);
        for (dim, shift) in [(16, 0.0), (100, 0.0), (768, 0.0), (100, 1e4), (16, 1e6)] {
            let mut value = |_| shift + random.normal() as f32;
            let rows = VectorBuf::new((0..4000 * dim).map(&mut value).collect(), dim);
            let queries = VectorBuf::new((0..50 * dim).map(&mut value).collect(), dim);
            // Inner products are not those of what the mean leaves.
            let metrics: &[Metric] =
                if shift == 0.0 { &[Metric::L2, Metric::InnerProduct] } else { &[Metric::L2] };
            for &metric in metrics {
                let search =
                    Search { compute: &Cpu::new(), rows: rows.view(), metric, k: 10, block_rows: 3000 };
                let mut truth = Neighbors::new(50, 10);
                let open = search.by_candidates(queries.view(), wanted(10), &mut truth).unwrap();
                assert!(open.is_empty(), "{metric} {dim}, {shift}: {} queries", open.len());
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
