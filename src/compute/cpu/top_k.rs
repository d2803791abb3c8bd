//! The k nearest rows of each query, exactly.
//!
//! Many queries go through products: candidates are found by score, a few more than `k` are kept, and the kept ones'
//! distances are computed directly, so that what is returned carries no cancellation. Few queries are compared
//! directly. Both end with the same distances.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::product_scan::{ProductScan, QUERY_BYTES, block};
use super::{Isa, Kernels};
use crate::compute::Rows;
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorView};

/// Fewer queries than this are compared directly: a panel of 32 with so few columns in use costs more.
const DIRECT_BELOW: usize = 8;

/// Where there are few blocks of queries, rows are split too, until there are about this many tasks, but not into
/// parts of fewer rows than this.
const TASKS: usize = 32;
const MIN_ROWS: usize = 8 << 10;

/// |row|² of uploaded rows: what L2 scores add to a product. Computed when first asked for.
pub(super) struct Norms {
    isa: Isa,
    norms: OnceLock<Vec<f32>>,
}

impl Norms {
    pub fn new(isa: Isa) -> Self {
        Self { isa, norms: OnceLock::new() }
    }
}

fn norms<'a>(kernels: &Kernels, rows: &'a Rows<'_>) -> Cow<'a, [f32]> {
    let compute = || rows.host().as_slice().par_chunks(rows.host().dim()).map(|row| (kernels.dot)(row, row));
    match rows.device::<Norms>() {
        Some(device) if device.isa == kernels.isa => {
            Cow::Borrowed(device.norms.get_or_init(|| compute().collect()))
        }
        // Rows that another backend was shown.
        _ => Cow::Owned(compute().collect()),
    }
}

pub(super) fn top_k(
    kernels: &Kernels,
    queries: VectorView<'_>,
    rows: &Rows<'_>,
    metric: Metric,
    k: usize,
) -> Neighbors {
    assert_eq!(queries.dim(), rows.host().dim());
    let count = rows.host().rows();
    assert!(count < u32::MAX as usize, "ordinals are u32");
    if queries.is_empty() || count == 0 {
        return Neighbors::new(queries.rows(), k);
    }
    if queries.rows() < DIRECT_BELOW {
        return direct(kernels, queries, rows.host(), metric, k);
    }
    let norms = match metric {
        Metric::L2 => norms(kernels, rows),
        Metric::InnerProduct | Metric::Cosine => Cow::Owned(vec![0.0; count]),
        Metric::L1 | Metric::Hamming => metric.without_products(),
    };
    by_products(&Scan { kernels, queries, rows: rows.host(), norms: &norms, metric }, k)
}

/// Chunks of rows small enough to stay in L2 while each query passes over them.
fn direct(
    kernels: &Kernels,
    queries: VectorView<'_>,
    rows: VectorView<'_>,
    metric: Metric,
    k: usize,
) -> Neighbors {
    let chunk = (QUERY_BYTES / 2 / (size_of::<f32>() * rows.dim())).clamp(64, MIN_ROWS);
    let starts: Vec<usize> = (0..rows.rows()).step_by(chunk).collect();
    let mut tops: Vec<TopK> = (0..queries.rows()).map(|_| TopK::new(k)).collect();
    // A wave of chunks at a time bounds what waits to be merged.
    for wave in starts.chunks(TASKS) {
        let found: Vec<Neighbors> = wave
            .par_iter()
            .map(|&start| {
                let rows = rows.slice(start, (start + chunk).min(rows.rows()));
                direct_chunk(kernels, queries, rows, start, metric, k)
            })
            .collect();
        for (query, top) in tops.iter_mut().enumerate() {
            found.iter().flat_map(|found| found.found(query)).for_each(|&neighbor| top.push(neighbor));
        }
    }
    let mut found = Neighbors::new(queries.rows(), k);
    for (query, mut top) in tops.into_iter().enumerate() {
        top.drain_into(found.row_mut(query));
    }
    found
}

fn direct_chunk(
    kernels: &Kernels,
    queries: VectorView<'_>,
    rows: VectorView<'_>,
    first: usize,
    metric: Metric,
    k: usize,
) -> Neighbors {
    let k = k.min(rows.rows());
    let mut found = Neighbors::new(queries.rows(), k);
    let mut distances = vec![0.0; rows.rows()];
    let mut top = TopK::new(k);
    for (index, query) in queries.iter().enumerate() {
        kernels.distance_rows(metric, query, rows.as_slice(), &mut distances);
        for (row, &distance) in distances.iter().enumerate() {
            top.push(Neighbor::new((first + row) as u32, distance));
        }
        top.drain_into(found.row_mut(index));
    }
    found
}

struct Scan<'a> {
    kernels: &'a Kernels,
    queries: VectorView<'a>,
    rows: VectorView<'a>,
    norms: &'a [f32],
    metric: Metric,
}

/// Scores order near ties by their rounding: an eighth more are kept, and ordered by their distances.
pub(super) fn kept(k: usize) -> usize {
    k + (k / 8).max(8)
}

fn by_products(scan: &Scan<'_>, k: usize) -> Neighbors {
    let count = scan.rows.rows();
    let kept = kept(k).min(count);
    let block = block(scan.kernels, scan.rows.dim());
    let blocks: Vec<Range<usize>> =
        (0..scan.queries.rows()).step_by(block).map(|at| at..(at + block).min(scan.queries.rows())).collect();

    // The first rows of all are searched first: what they leave as bounds spares the other parts most of the
    // candidates that each would gather from nothing. It does not change what is found.
    let splits = (TASKS / blocks.len()).clamp(1, count.div_ceil(MIN_ROWS));
    let head = if splits == 1 { count } else { MIN_ROWS };
    let heads: Vec<Neighbors> =
        blocks.par_iter().map(|queries| scan.candidates(queries.clone(), 0..head, kept, None)).collect();
    let part = (count - head).div_ceil(splits).max(1);
    let parts: Vec<Range<usize>> = (head..count).step_by(part).map(|at| at..(at + part).min(count)).collect();
    let tails: Vec<Neighbors> = (0..blocks.len() * parts.len())
        .into_par_iter()
        .map(|task| {
            let (block, part) = (task / parts.len(), task % parts.len());
            scan.candidates(blocks[block].clone(), parts[part].clone(), kept, Some(&heads[block]))
        })
        .collect();

    let mut found = Neighbors::new(scan.queries.rows(), k);
    found.as_mut_slice().par_chunks_mut(k).enumerate().for_each_init(Vec::new, |merged, (query, found)| {
        let (block, index) = (query / block, query % block);
        merged.clear();
        merged.extend_from_slice(heads[block].found(index));
        for tail in &tails[block * parts.len()..][..parts.len()] {
            merged.extend_from_slice(tail.found(index));
        }
        scan.finish(query, merged, kept, found);
    });
    found
}

impl Scan<'_> {
    /// The `kept` best scores of a block of queries over a range of rows, or those of them that beat the last of
    /// `before`, which was found among earlier rows.
    fn candidates(
        &self,
        queries: Range<usize>,
        rows: Range<usize>,
        kept: usize,
        before: Option<&Neighbors>,
    ) -> Neighbors {
        let own = self.queries.slice(queries.start, queries.end);
        let mut products = ProductScan::with_kernels(self.kernels, own, self.metric);
        if let Some(before) = before.filter(|before| before.k() == kept) {
            (0..queries.len()).for_each(|query| products.limit(query, before.row(query)[kept - 1].distance));
        }
        let kept = kept.min(rows.len());
        let mut tops: Vec<TopK> = queries.clone().map(|_| TopK::new(kept)).collect();
        products.rows(self.rows, self.norms, rows, &mut tops);
        let mut found = Neighbors::new(queries.len(), kept);
        for (index, mut top) in tops.into_iter().enumerate() {
            top.drain_into(found.row_mut(index));
        }
        found
    }

    /// The best `kept` of all candidates by score, their distances, and the first of those in order.
    fn finish(&self, query: usize, candidates: &mut Vec<Neighbor>, kept: usize, found: &mut [Neighbor]) {
        if candidates.len() > kept {
            candidates.select_nth_unstable(kept - 1);
            candidates.truncate(kept);
        }
        let ordinals: Vec<u32> = candidates.iter().map(|candidate| candidate.ordinal).collect();
        let mut distances = vec![0.0; ordinals.len()];
        self.kernels.distance_gather(
            self.metric,
            self.queries.row(query),
            self.rows.as_slice(),
            &ordinals,
            &mut distances,
        );
        for (candidate, distance) in candidates.iter_mut().zip(distances) {
            candidate.distance = distance;
        }
        candidates.sort_unstable();
        let count = candidates.len().min(found.len());
        found[..count].copy_from_slice(&candidates[..count]);
    }
}
