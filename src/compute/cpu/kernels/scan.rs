//! What is taken from a strip of products while it is in cache: the nearest column of a row, or for each column the
//! rows that come under its bound. A score is `offset + scale · product`, an order-preserving stand-in for the
//! distance: |c|² − 2⟨x, c⟩ for L2, −⟨x, c⟩ else.

use super::super::lanes::Lanes;
use crate::vectors::{Neighbor, TopK};

/// # Safety
/// As [`Lanes`]; both pointers are good for a register.
#[inline(always)]
unsafe fn score<L: Lanes>(product: *const f32, scale: L::V, offset: L::V) -> L::V {
    unsafe { L::mul_add(scale, L::load(product), offset) }
}

/// Lowers `best` to the column of the least score, the first such, if that is less than what `best` holds. Column 0
/// is called `first`.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn nearest<L: Lanes>(
    products: &[f32],
    offsets: &[f32],
    scale: f32,
    first: u32,
    best: &mut Neighbor,
) {
    assert_eq!(products.len(), offsets.len());
    assert_eq!(products.len() % (2 * L::WIDTH), 0);
    let (products, offsets, columns) = (products.as_ptr(), offsets.as_ptr(), products.len());
    // SAFETY: `columns` is a whole number of register pairs.
    unsafe {
        let scale = L::splat(scale);
        let mut low = [L::splat(f32::INFINITY); 2];
        for at in (0..columns).step_by(2 * L::WIDTH) {
            for half in 0..2 {
                let at = at + half * L::WIDTH;
                low[half] = L::min(score::<L>(products.add(at), scale, L::load(offsets.add(at))), low[half]);
            }
        }
        let least = L::least(L::min(low[0], low[1]));
        if least < best.distance {
            // Where it stands is asked only when it is wanted, which over many blocks is rare.
            let above = L::splat(least.next_up());
            for at in (0..columns).step_by(L::WIDTH) {
                let scores = score::<L>(products.add(at), scale, L::load(offsets.add(at)));
                let hits = L::bits(L::less(scores, above));
                if hits != 0 {
                    *best = Neighbor::new(first + at as u32 + hits.trailing_zeros(), least);
                    return;
                }
            }
        }
    }
}

/// Products of a few consecutive rows with many queries.
#[derive(Clone, Copy)]
pub struct Strip<'a> {
    /// Row `r` has its products at `r · stride`, one per query.
    pub products: &'a [f32],
    pub stride: usize,
    /// One per row.
    pub offsets: &'a [f32],
    pub scale: f32,
    /// The ordinal of the first row.
    pub first: u32,
}

/// Offers every row of the strip to every query whose bound its score is below. `bounds[q]` is at least as far as the
/// `k`-th best score for `q`, of rows before this strip if it is exactly that; −∞ behind the last query. Rows come in
/// ascending order, so one that only equals the bound has lost its tie already.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn offer<L: Lanes, const MR: usize>(strip: Strip<'_>, bounds: &mut [f32], tops: &mut [TopK]) {
    let Strip { products, stride, offsets, scale, first } = strip;
    assert_eq!(bounds.len() % L::WIDTH, 0);
    assert!(tops.len() <= bounds.len() && bounds.len() <= stride);
    assert!(offsets.len() <= MR && offsets.len() * stride <= products.len());
    for column in (0..bounds.len()).step_by(L::WIDTH) {
        let mut hits = [0; MR];
        let mut any = 0;
        // SAFETY: `column` and the register behind it lie within `bounds`, and so within each row of `products`.
        unsafe {
            let bound = L::load(bounds.as_ptr().add(column));
            for (row, (&offset, hits)) in offsets.iter().zip(&mut hits).enumerate() {
                let at = products.as_ptr().add(row * stride + column);
                *hits = L::bits(L::less(score::<L>(at, L::splat(scale), L::splat(offset)), bound));
                any |= *hits;
            }
        }
        if any == 0 {
            continue;
        }
        for (row, (&offset, mut lanes)) in offsets.iter().zip(hits).enumerate() {
            while lanes != 0 {
                let query = column + lanes.trailing_zeros() as usize;
                // The bits of `score`: `scale` is −1 or −2, and its product exact.
                let score = offset + scale * products[row * stride + query];
                tops[query].push(Neighbor::new(first + row as u32, score));
                bounds[query] = bounds[query].min(tops[query].bound());
                lanes &= lanes - 1;
            }
        }
    }
}

/// Lanes of the widest register.
pub const MAX_WIDTH: usize = 16;
