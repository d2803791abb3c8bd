//! Rows in a second list (SOAR: Sun, Simcha, Dopson, Guo, Kumar, NeurIPS 2023, arXiv 2404.00774).
//!
//! A row is lost to a query that does not probe its list. It is found in a second one if it lies there in another direction from the
//! centroid than in the first: so of the lists near a row x that one is taken that makes |r′|² + λ ⟨r, r′⟩² / |r|² least, r and r′ being what
//! the first and the second centroid leave of it.
//!
//! Ordinals, and what is kept of a row, are those of its first list. Of the second list there is its number and a code of r′. Entries of second
//! lists are numbered behind all rows, list by list; what a scan finds of them is called by its row again before it is ranked, and
//! counted once.

use std::ops::Range;

use rayon::prelude::*;

use super::build::BuildError;
use super::codes::{Codes, ListCodes};
use super::fetched::RangedCodes;
use crate::artifact::{Array, RangedRows};
use crate::compute::{Compute, Rows};
use crate::train::checked_labels;
use crate::vectors::{Metric, Neighbor, VectorView};

/// Centroids near a row among which its second is chosen: more did not change which.
const NEAR: usize = 16;

/// How much a second residual's part along the first counts: the paper's choice for its sets is 1 to 1.5.
const LAMBDA: f32 = 1.0;

/// What second lists hold.
#[derive(Debug, Clone)]
pub(super) struct Spill {
    /// `nlist + 1`: list `l` has the entries `offsets[l]..offsets[l + 1]`.
    pub offsets: Array<u64>,
    /// Of each entry its row. Empty where they lie elsewhere, as the codes.
    pub rows: Array<u32>,
    pub codes: Codes,
    pub ranged: Option<RangedSpill>,
}

#[derive(Debug, Clone)]
pub(super) struct RangedSpill {
    pub codes: RangedCodes,
    pub rows: RangedRows,
}

impl Spill {
    pub fn list(&self, list: usize) -> Range<usize> {
        self.offsets[list] as usize..self.offsets[list + 1] as usize
    }

    /// The list of an entry.
    pub fn list_of(&self, entry: usize) -> usize {
        self.offsets.partition_point(|&offset| offset <= entry as u64) - 1
    }

    /// The codes and rows of a list's entries, where they are in memory.
    pub fn of_list(&self, list: usize, code_size: usize) -> (ListCodes<'_>, &[u32]) {
        let entries = self.list(list);
        (self.codes.of_list(list, entries.clone(), code_size), &self.rows[entries])
    }
}

/// The second list of each row, whose first are `labels`. There are two lists at least; `uploaded` are their centroids.
pub(super) fn second_lists(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    uploaded: &Rows<'_>,
    labels: &[u32],
) -> Result<Vec<u32>, BuildError> {
    let centroids = uploaded.host();
    let near = NEAR.min(centroids.rows());
    let nearest = compute.top_k(rows, uploaded, Metric::L2, near)?;
    let second: Vec<Neighbor> = (0..rows.rows())
        .into_par_iter()
        .with_min_len(256)
        .map_init(
            || (vec![0.0; rows.dim()], vec![0.0; rows.dim()]),
            |(first, other), row| {
                let residual = |label: u32, residual: &mut [f32]| {
                    let values = rows.row(row).iter().zip(centroids.row(label as usize));
                    residual.iter_mut().zip(values).for_each(|(r, (x, c))| *r = x - c);
                };
                residual(labels[row], first);
                let square = dot(first, first);
                let mut loss = |found: &Neighbor| {
                    residual(found.ordinal, other);
                    let along = dot(first, other);
                    let turned = if square > 0.0 { LAMBDA * along / square * along } else { 0.0 };
                    Neighbor::new(found.ordinal, dot(other, other) + turned)
                };
                let others = nearest.found(row).iter().filter(|found| found.ordinal != labels[row]);
                others.map(&mut loss).min().unwrap_or(Neighbor::NONE)
            },
        )
        .collect();
    Ok(checked_labels(&second, centroids.rows())?)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    (crate::compute::cpu::kernels().dot)(a, b)
}
