//! The few nearest leaders of a row, from its products with all of them: what assigning rows to overlapping cells asks.
//!
//! A collector per row would cost more than the products where leaders are some tens: so the scores are read twice, as in
//! [`leaf`](super::leaf). The first pass keeps the least score of every lane; the `k`-th least of those bounds the `k`-th
//! least of all from above, and the second pass has little more than `k` hits.

use super::super::lanes::Lanes;
use crate::vectors::Neighbor;

/// The products of one row with all leaders, and what turns them into scores, `offset + scale · product`. Offsets are ∞
/// behind the last leader.
#[derive(Clone, Copy)]
pub struct LeaderRow<'a> {
    pub products: &'a [f32],
    pub offsets: &'a [f32],
    pub scale: f32,
}

impl LeaderRow<'_> {
    /// # Safety
    /// As [`Lanes`]; `at` and the register behind it lie within the columns.
    #[inline(always)]
    unsafe fn scores<L: Lanes>(&self, at: usize) -> L::V {
        unsafe {
            let product = L::load(self.products.as_ptr().add(at));
            L::mul_add(L::splat(self.scale), product, L::load(self.offsets.as_ptr().add(at)))
        }
    }
}

/// Fills `nearest` with the leaders of the least scores, nearest first. Of equal scores the first leader's is less. Where
/// fewer scores are finite, the rest is `u32::MAX`.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn few_nearest<L: Lanes>(row: LeaderRow<'_>, hits: &mut Vec<Neighbor>, nearest: &mut [u32]) {
    let columns = row.products.len();
    assert_eq!(columns, row.offsets.len());
    assert_eq!(columns % (2 * L::WIDTH), 0);
    hits.clear();
    // SAFETY: the columns are a whole number of register pairs.
    unsafe {
        let bound = bound::<L>(row, nearest.len()).next_up();
        let above = L::splat(bound);
        for at in (0..columns).step_by(L::WIDTH) {
            let scores = row.scores::<L>(at);
            let mut lanes = L::bits(L::less(scores, above));
            while lanes != 0 {
                let column = at + lanes.trailing_zeros() as usize;
                // The bits of `scores`: `scale` is −1 or −2, and its product exact.
                let score = row.offsets[column] + row.scale * row.products[column];
                hits.push(Neighbor::new(column as u32, score));
                lanes &= lanes - 1;
            }
        }
    }
    hits.sort_unstable();
    let found = hits.iter().map(|hit| hit.ordinal).chain(std::iter::repeat(u32::MAX));
    nearest.iter_mut().zip(found).for_each(|(slot, leader)| *slot = leader);
}

/// At least the `k`-th least score; ∞ where there are not enough lanes to tell.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn bound<L: Lanes>(row: LeaderRow<'_>, k: usize) -> f32 {
    if k > L::WIDTH {
        return f32::INFINITY;
    }
    // SAFETY: the columns are a whole number of register pairs.
    unsafe {
        let infinite = L::splat(f32::INFINITY);
        let mut low = [infinite; 2];
        for at in (0..row.products.len()).step_by(2 * L::WIDTH) {
            low[0] = L::min(row.scores::<L>(at), low[0]);
            low[1] = L::min(row.scores::<L>(at + L::WIDTH), low[1]);
        }
        let mut bound = f32::NEG_INFINITY;
        for _ in 0..k {
            bound = L::least(L::min(low[0], low[1]));
            let above = L::splat(bound.next_up());
            // Lanes that hold the same score leave together: the bound may only grow by that.
            for half in &mut low {
                *half = L::select(L::less(*half, above), infinite, *half);
            }
        }
        bound
    }
}
