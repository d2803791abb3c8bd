//! A block of queries against stretches of rows, by products: what comes under a query's running bound is collected. Scores stand in for
//! distances, and carry the rounding of a product: whoever needs distances computes them of what was collected.

use super::panels::{Aligned, Panels, strips};
use super::{Kernels, kernels};
use crate::vectors::{Metric, TopK, VectorView};

/// Packed bytes of a block of queries: a share of L2.
pub(super) const QUERY_BYTES: usize = 1 << 20;
/// Queries of a block at most.
pub(super) const MAX_QUERIES: usize = 256;

/// Queries, packed once, and room for their products.
pub struct ProductScan<'a> {
    kernels: &'a Kernels,
    panels: Panels,
    /// One for each query: at least as far as the last of its collected rows. −∞ behind the last query.
    bounds: Vec<f32>,
    products: Aligned,
}

impl ProductScan<'static> {
    /// Queries that are best scanned together, of `dim` dimensions.
    pub fn block(dim: usize) -> usize {
        block(kernels(), dim)
    }

    /// Of no queries yet.
    pub fn empty() -> Self {
        Self::over(kernels())
    }
}

impl<'a> ProductScan<'a> {
    fn over(kernels: &'a Kernels) -> Self {
        Self { kernels, panels: Panels::default(), bounds: Vec::new(), products: Aligned::default() }
    }

    pub(super) fn with_kernels(kernels: &'a Kernels, queries: VectorView<'_>, metric: Metric) -> Self {
        let mut scan = Self::over(kernels);
        scan.load(queries, metric);
        scan
    }

    /// Takes other queries, in the memory of those before.
    pub fn load(&mut self, queries: VectorView<'_>, metric: Metric) {
        self.panels.repack(self.kernels, queries, metric);
        self.bounds.clear();
        self.bounds.resize(queries.rows(), f32::INFINITY);
        self.bounds.resize(self.panels.columns(), f32::NEG_INFINITY);
    }

    /// Nothing at or beyond a score is collected for this query.
    pub(super) fn limit(&mut self, query: usize, score: f32) {
        self.bounds[query] = score;
    }

    /// Offers `rows[range]`, whose |row|² are `norms` (for L2; else zeros), to each query's `tops`. Their ordinals are their numbers.
    pub fn rows(
        &mut self,
        rows: VectorView<'_>,
        norms: &[f32],
        range: std::ops::Range<usize>,
        tops: &mut [TopK],
    ) {
        let Self { kernels, panels, bounds, products } = self;
        let stride = panels.columns();
        let products = products.resized(kernels.strip * stride);
        for (first, strip) in strips(range.start, range.end, kernels.strip) {
            let all = panels.slice(0, stride);
            (kernels.product)(rows.as_slice(), rows.dim(), &strip, all, products, stride);
            let strip = super::kernels::Strip {
                products,
                stride,
                offsets: &norms[first..first + strip.len()],
                scale: panels.scale,
                first: first as u32,
            };
            (kernels.offer)(strip, bounds, tops);
        }
    }
}

pub(super) fn block(kernels: &Kernels, dim: usize) -> usize {
    let queries = (QUERY_BYTES / (size_of::<f32>() * dim)).clamp(kernels.panel, MAX_QUERIES);
    queries / kernels.panel * kernels.panel
}
