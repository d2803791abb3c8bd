//! Sums of the rows of each label, in an order that depends on the labels alone.

use rayon::prelude::*;

use super::Kernels;
use crate::compute::CentroidSums;
use crate::vectors::VectorView;

/// Rows summed in f32 before the sum is carried on in f64. One task each: so a list that holds most of the rows is
/// shared between threads, and a sum of a million rows loses no more digits than one of 256.
const CHUNK: usize = 256;

pub(super) fn centroid_sums(
    kernels: &Kernels,
    rows: VectorView<'_>,
    labels: &[u32],
    nlist: usize,
) -> CentroidSums {
    assert_eq!(labels.len(), rows.rows());
    let dim = rows.dim();
    let (offsets, by_label) = sort_by_label(labels, nlist);

    // (label, rows): the chunks of each list, in order.
    let chunks: Vec<(usize, &[u32])> = (0..nlist)
        .flat_map(|label| {
            by_label[offsets[label]..offsets[label + 1]].chunks(CHUNK).map(move |chunk| (label, chunk))
        })
        .collect();
    let mut partial = vec![0.0f32; chunks.len() * dim];
    partial.par_chunks_mut(dim).zip(&chunks).for_each(|(sum, (_, ordinals))| {
        (kernels.sum_gather)(rows.as_slice(), ordinals, sum);
    });

    let mut sums = vec![0.0f32; nlist * dim];
    let mut wide = vec![0.0f64; dim];
    for list in
        chunks.iter().zip(partial.chunks_exact(dim)).collect::<Vec<_>>().chunk_by(|a, b| a.0.0 == b.0.0)
    {
        wide.fill(0.0);
        for (_, partial) in list {
            wide.iter_mut().zip(*partial).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let label = list[0].0.0;
        sums[label * dim..][..dim].iter_mut().zip(&wide).for_each(|(sum, &value)| *sum = value as f32);
    }
    let counts = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect();
    CentroidSums { sums, counts }
}

/// Counting sort: the rows of label `l` are `rows[offsets[l]..offsets[l + 1]]`, ascending.
pub(super) fn sort_by_label(labels: &[u32], nlist: usize) -> (Vec<usize>, Vec<u32>) {
    let mut offsets = vec![0usize; nlist + 1];
    for &label in labels {
        assert!((label as usize) < nlist, "label {label} of {nlist} lists");
        offsets[label as usize + 1] += 1;
    }
    for label in 0..nlist {
        offsets[label + 1] += offsets[label];
    }
    let mut next = offsets.clone();
    let mut rows = vec![0u32; labels.len()];
    for (row, &label) in labels.iter().enumerate() {
        rows[next[label as usize]] = row as u32;
        next[label as usize] += 1;
    }
    (offsets, rows)
}
