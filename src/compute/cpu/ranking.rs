//! Scores of all of a set of rows for a query: what a search over inverted lists begins with. The rows, a few thousand
//! centroids, are packed once.

use super::panels::{Panels, Strip};
use super::{Kernels, kernels};
use crate::vectors::{Metric, VectorView};

/// Rows packed for scoring them all.
pub struct Ranking {
    kernels: &'static Kernels,
    panels: Panels,
    dim: usize,
    rows: usize,
}

impl std::fmt::Debug for Ranking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranking").field("rows", &self.rows).field("dim", &self.dim).finish_non_exhaustive()
    }
}

impl Ranking {
    pub fn of(rows: VectorView<'_>, metric: Metric) -> Self {
        let kernels = kernels();
        let panels = Panels::pack(kernels, rows, metric);
        Self { kernels, panels, dim: rows.dim(), rows: rows.rows() }
    }

    /// Scores of one query: as many as there are rows, and padding.
    pub fn stride(&self) -> usize {
        self.panels.columns()
    }

    /// Queries that are best scored together.
    pub fn strip(&self) -> usize {
        self.kernels.strip
    }

    /// Fills `scores` (`queries × stride`): |row|² − 2⟨query, row⟩ for L2, −⟨query, row⟩ else. A query's scores have the
    /// same bits however many queries come with it; behind the last row they are meaningless.
    pub fn scores(&self, queries: VectorView<'_>, scores: &mut [f32]) {
        let stride = self.stride();
        assert_eq!(queries.dim(), self.dim);
        assert_eq!(scores.len(), queries.rows() * stride);
        let panels = self.panels.slice(0, stride);
        let strip = self.strip();
        for (index, scores) in scores.chunks_mut(strip * stride).enumerate() {
            if scores.len() == strip * stride {
                let ordinals = Strip::new(index * strip, strip);
                (self.kernels.product)(queries.as_slice(), self.dim, &ordinals, panels, scores, stride);
            } else {
                // What is left over of a batch is too little for a strip.
                for (query, scores) in (index * strip..).zip(scores.chunks_mut(stride)) {
                    (self.kernels.lone_product)(queries.row(query), panels, scores);
                }
            }
        }
        for scores in scores.chunks_mut(stride) {
            for (score, &offset) in scores.iter_mut().zip(&self.panels.offsets) {
                *score = offset + self.panels.scale * *score;
            }
        }
    }
}
