//! How far a beam reaches. One of a fixed number of rows spends as much on a query whose neighbours stand alone as on one whose
//! neighbours lie among thousands about as near. So a beam is bounded by distance: it keeps what is at most so many times as far as the
//! k-th nearest row seen so far (Al-Jazzazi et al., "Distance Adaptive Beam Search", NeurIPS 2025, arXiv:2505.15636), and the walk
//! ends when all that is nearer was expanded.
//!
//! How many times, `ef_search` says: among rows of an index the distance of the r-th nearest grows about as r^g. A beam that reaches
//! (ef / k)^g times as far as the k-th row holds `ef` rows for a query like most, and fewer or more for others. What g is, the build
//! measures ([`growth`]) and the index keeps. Inner products have no such ratio, nor have indexes too small to tell: there a beam
//! holds `ef` rows.

use rayon::prelude::*;

use super::Hnsw;
use super::walk::Walk;
use crate::compute::cpu::kernels;
use crate::index::{SearchIndex as _, SearchParams};
use crate::vectors::{Metric, Random};

/// Rows that [`growth`] is measured from.
const SAMPLE: u64 = 256;

/// The ranks between which it is measured: beams are about as wide.
const NEAR: usize = 10;
const FAR: usize = 512;

/// Fewer rows than this hold no `FAR` neighbours that say something of more rows.
const ENOUGH_ROWS: usize = 8 * FAR;

/// Distinct stream of the job's seed.
const STREAM: u64 = 0x72_6561_6368;

/// A beam holds at least `ef` over this many rows, however far, and at most as many times `ef`.
const SPREAD: usize = 4;

/// The bounds of one beam.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Reach {
    /// Rows held however far they are.
    pub least: usize,
    /// Rows held at most; at least 1.
    pub most: usize,
    /// Beyond `least`, rows are held up to `stretch` times the distance of this many-th nearest.
    pub k: usize,
    pub stretch: f32,
}

impl Reach {
    /// Rows whose number is all that bounds them.
    pub fn fixed(ef: usize) -> Self {
        Self { least: ef, most: ef, k: ef, stretch: 1.0 }
    }

    /// For an answer of `k` rows, `refine` of which are ranked again: about `ef` rows of an index of `rows`.
    pub fn about(ef: usize, k: usize, refine: usize, rows: usize, growth: Option<f32>) -> Self {
        match growth {
            Some(growth) if k < ef && ef < rows => Self {
                least: (ef / SPREAD).max(k).max(refine).min(ef),
                most: (ef * SPREAD).min(rows),
                k,
                stretch: (ef as f32 / k as f32).powf(growth),
            },
            _ => Self::fixed(ef),
        }
    }
}

/// The g of r^g, as the rows of an index see each other: the median, over a sample, of what the distance of the 512th nearest row
/// is to that of the tenth. `None` where that says nothing.
pub(super) fn growth(index: &Hnsw, seed: u64) -> Option<f32> {
    let rows = index.rows();
    if index.metric == Metric::InnerProduct || rows < ENOUGH_ROWS {
        return None;
    }
    // The nearest row is the sampled row itself.
    let params = SearchParams { k: FAR + 1, effort: FAR + 1, refine: FAR + 1 };
    let of_row = |walk: &mut Walk, sample: u64| {
        let query = index.vectors.vector(Random::of(seed ^ STREAM, sample).below(rows) as u32);
        walk.start(index, kernels(), &query, &params);
        while !walk.is_done() {
            walk.step(index, kernels(), &query);
        }
        let (near, far) = (walk.found().get(NEAR)?.distance, walk.found().get(FAR)?.distance);
        let growth = (far / near).ln() / (FAR as f32 / NEAR as f32).ln();
        (near > 0.0 && growth.is_finite()).then_some(growth)
    };
    let sampled = (0..SAMPLE).into_par_iter().map_init(|| Walk::new(index), of_row);
    let mut growths: Vec<f32> = sampled.flatten().collect();
    if growths.len() < SAMPLE as usize / 2 {
        return None;
    }
    growths.sort_unstable_by(f32::total_cmp);
    // Three decimals are more than it is known to; instruction sets differ by far less, so that two of them round it to the same
    // almost always.
    is_growth((growths[growths.len() / 2] * 1000.0).round() / 1000.0)
}

/// What can be one: a beam of twice as many rows reaches farther, and not beyond all sense.
pub(super) fn is_growth(growth: f32) -> Option<f32> {
    (growth > 0.0 && growth <= 4.0).then_some(growth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beam_reaches_as_far_as_asked_within_its_bounds() {
        let reach = Reach::about(640, 10, 110, 100_000, Some(0.05));
        assert_eq!((reach.least, reach.most, reach.k), (160, 2560, 10));
        assert!((reach.stretch - 64f32.powf(0.05)).abs() < 1e-6);
        // Everything that is ranked again is there, and never more than there are rows.
        assert_eq!(Reach::about(640, 10, 300, 1000, Some(0.05)).least, 300);
        assert_eq!(Reach::about(640, 10, 300, 1000, Some(0.05)).most, 1000);
        assert_eq!(Reach::about(640, 10, 2000, 1000, Some(0.05)).least, 640);
    }

    #[test]
    fn a_beam_is_of_fixed_width_where_distances_say_nothing() {
        for (ef, k, rows, growth) in
            [(64, 10, 1000, None), (10, 10, 1000, Some(0.1)), (64, 10, 64, Some(0.1))]
        {
            assert_eq!(Reach::about(ef, k, k, rows, growth), Reach::fixed(ef));
        }
    }
}
