//! Inverted lists of product-quantizer codes (IVFADC: Jégou, Douze, Schmid 2011).
//!
//! Rows belong to the list of their nearest centroid and are kept as the code of their residual. Rows are numbered
//! list by list, within a list in the order they were given: a probe reads one contiguous range of every array.
//! Where vectors are kept as well (`refine`), the best candidates by code are ranked again with those.
//!
//! Knows nothing of files: `sections.rs` turns an index into named tensors and back. Refuses parameters that its
//! rows cannot fill, and sections whose invariants do not hold.

mod build;
mod params;
mod search;
mod sections;

use std::ops::Range;

pub use build::{BuildError, BuildReport, Built, build};
pub use params::{IvfPqParams, Refine};

use crate::artifact::Array;
use crate::index::KeptVectors;
use crate::train::ProductQuantizer;
use crate::vectors::{Metric, VectorView};

/// The index: centroids, and for each list the codes of its rows.
#[derive(Debug, Clone)]
pub struct IvfPq {
    metric: Metric,
    dim: usize,
    /// `nlist × dim`.
    centroids: Array<f32>,
    /// `nlist + 1`: list `l` holds the rows `list_offsets[l]..list_offsets[l + 1]`.
    list_offsets: Array<u64>,
    quantizer: ProductQuantizer,
    /// `rows × code_size`.
    codes: Array<u8>,
    /// For L2, per row |r̂|² + 2⟨c, r̂⟩ with c its centroid and r̂ its decoded residual (`search.rs` says why).
    terms: Option<Array<f32>>,
    /// What candidates are ranked again with.
    kept: Option<KeptVectors>,
    /// For cosine, 1 / |centroid| of each list (0 for a centroid of length 0). Derived, not stored.
    inverse_norms: Vec<f32>,
}

fn inverse_norms(metric: Metric, centroids: VectorView<'_>) -> Vec<f32> {
    let inverse_norm = |centroid: &[f32]| {
        let norm = centroid.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 }
    };
    match metric {
        Metric::Cosine => centroids.iter().map(inverse_norm).collect(),
        _ => Vec::new(),
    }
}

impl IvfPq {
    pub fn nlist(&self) -> usize {
        self.list_offsets.len() - 1
    }

    /// Rows that a centroid stands for.
    pub fn list(&self, list: usize) -> Range<usize> {
        self.list_offsets[list] as usize..self.list_offsets[list + 1] as usize
    }

    pub fn centroids(&self) -> VectorView<'_> {
        VectorView::new(&self.centroids, self.dim)
    }

    pub fn quantizer(&self) -> &ProductQuantizer {
        &self.quantizer
    }

    pub fn kept(&self) -> Option<&KeptVectors> {
        self.kept.as_ref()
    }

    /// The code of a row, `code_size` bytes.
    pub fn code(&self, ordinal: u32) -> &[u8] {
        let size = self.quantizer.shape().code_size();
        &self.codes[ordinal as usize * size..(ordinal as usize + 1) * size]
    }

    /// The list that holds a row.
    pub fn list_of(&self, ordinal: u32) -> usize {
        self.list_offsets.partition_point(|&offset| offset <= u64::from(ordinal)) - 1
    }

    /// The vector that a row's code stands for: its centroid plus its decoded residual. What distances are
    /// estimated to where no vectors are kept.
    pub fn decode(&self, ordinal: u32) -> Vec<f32> {
        let mut decoded = vec![0.0; self.dim];
        self.quantizer.decode(self.code(ordinal), &mut decoded);
        let centroid = self.centroids().row(self.list_of(ordinal));
        decoded.iter_mut().zip(centroid).for_each(|(value, &centre)| *value += centre);
        decoded
    }
}
