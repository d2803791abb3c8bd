//! Product-quantizer codes of rows or of their residuals.

use rayon::prelude::*;

use super::Kernels;
use super::kernels::Book;
use super::panels::Aligned;
use crate::compute::{CodebookView, ResidualOf};
use crate::vectors::VectorView;

/// Rows per task: their residuals fit in L2 together with a sub-vector's entries in L1.
const ROWS: usize = 128;

/// Lanes of the widest register: entries are padded to it whatever the instruction set.
const PADDING: usize = 16;

pub(super) fn pq_encode(
    kernels: &Kernels,
    rows: VectorView<'_>,
    residual_of: Option<ResidualOf<'_>>,
    codebook: CodebookView<'_>,
) -> Vec<u8> {
    let CodebookView { pq_m, ksub, dsub, .. } = codebook;
    assert!((1..=256).contains(&ksub) && pq_m > 0 && dsub > 0);
    assert!(rows.dim() <= pq_m * dsub, "{pq_m} × {dsub} is less than {} dimensions", rows.dim());
    if let Some(ResidualOf { centroids, labels }) = residual_of {
        assert_eq!(centroids.dim(), rows.dim());
        assert_eq!(labels.len(), rows.rows());
    }
    let (entries, offsets) = transpose(codebook);
    let width = ksub.next_multiple_of(PADDING);
    let book = Book { pq_m, dsub, width, entries: &entries, offsets: &offsets };

    let mut codes = vec![0u8; rows.rows() * pq_m];
    codes.par_chunks_mut(ROWS * pq_m).enumerate().for_each_init(
        Aligned::default,
        |scratch, (block, codes)| {
            let (start, count) = (block * ROWS, codes.len() / pq_m);
            let rows = rows.slice(start, start + count);
            let padded = scratch.resized(count * pq_m * dsub);
            for (index, (padded, row)) in padded.chunks_exact_mut(pq_m * dsub).zip(rows.iter()).enumerate() {
                let (values, rest) = padded.split_at_mut(row.len());
                match residual_of {
                    Some(ResidualOf { centroids, labels }) => {
                        let centroid = centroids.row(labels[start + index] as usize);
                        for ((value, &row), &centre) in values.iter_mut().zip(row).zip(centroid) {
                            *value = row - centre;
                        }
                    }
                    None => values.copy_from_slice(row),
                }
                rest.fill(0.0);
            }
            (kernels.encode)(book, padded, codes);
        },
    );
    codes
}

/// Entries and offsets as [`Book`] wants them.
fn transpose(codebook: CodebookView<'_>) -> (Vec<f32>, Vec<f32>) {
    let CodebookView { pq_m, ksub, dsub, .. } = codebook;
    let width = ksub.next_multiple_of(PADDING);
    let mut entries = vec![0.0; pq_m * dsub * width];
    let mut offsets = vec![f32::INFINITY; pq_m * width];
    for m in 0..pq_m {
        for (code, entry) in codebook.sub(m).chunks_exact(dsub).enumerate() {
            for (step, &value) in entry.iter().enumerate() {
                entries[(m * dsub + step) * width + code] = -2.0 * value;
            }
            offsets[m * width + code] = entry.iter().map(|value| value * value).sum();
        }
    }
    (entries, offsets)
}
