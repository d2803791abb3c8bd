//! The `k` nearest within a leaf, from the upper triangle of its products: each product serves both of its rows.
//!
//! Inserting every candidate that is under the bound so far would insert k·(1 + ln(leaf/k)) per row, each at the price
//! of a mispredicted branch: at 100 dimensions about as much again as the products. So the triangle is read twice. The
//! first pass ([`minima`]) has no branch: it splits each row's candidates into disjoint groups and keeps each group's
//! least distance. The `k`-th least of those ([`bounds`]) bounds the `k`-th least of all from above, closely: the second
//! pass ([`pick`]) has little more than `k` hits per row.

use super::super::lanes::Lanes;
use crate::vectors::{Neighbor, TopK};

/// Products of one row of a leaf with the rows (columns) from `first` on, panels whole; −∞ where the column is not
/// behind the row.
///
/// distance = max(`floor`, `offset` + `offsets[column]` + `scale` · product), infinite where the product is −∞ or the
/// offset ∞ (behind the leaf's last row).
#[derive(Clone, Copy)]
pub struct LeafRow<'a> {
    pub row: usize,
    pub first: usize,
    pub products: &'a [f32],
    pub offset: f32,
    pub offsets: &'a [f32],
    pub scale: f32,
    pub floor: f32,
}

impl LeafRow<'_> {
    #[inline(always)]
    fn assert_whole(&self, width: usize) {
        assert_eq!(self.products.len(), self.offsets.len());
        assert_eq!(self.products.len() % width, 0);
    }

    /// # Safety
    /// As [`Lanes`]; `at` and the register behind it lie within the columns.
    #[inline(always)]
    unsafe fn distances<L: Lanes>(&self, at: usize) -> L::V {
        unsafe {
            let offsets = L::add(L::splat(self.offset), L::load(self.offsets.as_ptr().add(at)));
            let product = L::load(self.products.as_ptr().add(at));
            // In this order a NaN (an overflow) stays one, and is never picked.
            L::max(L::splat(self.floor), L::mul_add(L::splat(self.scale), product, offsets))
        }
    }

    /// The distance of one column, with the bits that [`LeafRow::distances`] gives it: `scale` is −1 or −2, so that
    /// the product with it is exact and a fused multiply-add rounds no differently.
    #[inline(always)]
    fn distance(&self, at: usize) -> f32 {
        (self.offset + self.offsets[at] + self.scale * self.products[at]).max(self.floor)
    }
}

/// Lowers the minima of groups by one row: `group[column]`, the column's least distance to the rows of one group,
/// and `lanes[lane]`, the row's own least distance over the columns that fall on a lane of a panel.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn minima<L: Lanes>(row: LeafRow<'_>, group: &mut [f32], lanes: &mut [f32]) {
    row.assert_whole(2 * L::WIDTH);
    assert_eq!(group.len(), row.products.len());
    assert_eq!(lanes.len(), 2 * L::WIDTH);
    // SAFETY: columns are a whole number of register pairs, `lanes` is one.
    unsafe {
        let mut low = [L::splat(f32::INFINITY); 2];
        for at in (0..row.products.len()).step_by(2 * L::WIDTH) {
            for half in 0..2 {
                let at = at + half * L::WIDTH;
                let distances = row.distances::<L>(at);
                low[half] = L::min(distances, low[half]);
                let column = group.as_mut_ptr().add(at);
                L::store(column, L::min(distances, L::load(column)));
            }
        }
        L::store(lanes.as_mut_ptr(), low[0]);
        L::store(lanes.as_mut_ptr().add(L::WIDTH), low[1]);
    }
}

/// Every row's group minima: those over rows before it, and those over rows behind it.
#[derive(Clone, Copy)]
pub struct Minima<'a> {
    /// Groups × columns.
    pub groups: &'a [f32],
    /// The lane minima of each row, packed as panels are: one step per lane.
    pub lanes: &'a [f32],
}

/// Beyond this `k` there are not enough groups in a usual leaf to bound anything.
const MAX_BOUNDED: usize = 64;

/// For each row the `k`-th least of its minima: at least as far as its `k`-th nearest. ∞ where there are fewer.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn bounds<L: Lanes>(minima: Minima<'_>, k: usize, bounds: &mut [f32]) {
    unsafe {
        match k {
            1..=2 => least_of::<L, 2>(minima, k, bounds),
            3..=4 => least_of::<L, 4>(minima, k, bounds),
            5..=8 => least_of::<L, 8>(minima, k, bounds),
            9..=16 => least_of::<L, 16>(minima, k, bounds),
            17..=32 => least_of::<L, 32>(minima, k, bounds),
            33..=MAX_BOUNDED => least_of::<L, MAX_BOUNDED>(minima, k, bounds),
            _ => bounds.fill(f32::INFINITY),
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn least_of<L: Lanes, const K: usize>(minima: Minima<'_>, k: usize, bounds: &mut [f32]) {
    let Minima { groups, lanes } = minima;
    let (columns, width) = (bounds.len(), 2 * L::WIDTH);
    assert!(columns % width == 0 && groups.len() % columns == 0 && lanes.len() == columns * width);
    for column in (0..columns).step_by(L::WIDTH) {
        let panel = &lanes[column / width * width * width..][..width * width];
        // SAFETY: `column` and the register behind it lie within the columns, `column % width` within a panel's.
        unsafe {
            let mut least = [L::splat(f32::INFINITY); K];
            for group in (column..groups.len()).step_by(columns) {
                sink::<L, K>(&mut least, L::load(groups.as_ptr().add(group)));
            }
            for step in (column % width..panel.len()).step_by(width) {
                sink::<L, K>(&mut least, L::load(panel.as_ptr().add(step)));
            }
            L::store(bounds.as_mut_ptr().add(column), least[k - 1]);
        }
    }
}

/// Lets a value sink to its place in an ascending column, lane by lane; the greatest falls out.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn sink<L: Lanes, const K: usize>(least: &mut [L::V; K], mut value: L::V) {
    for slot in 0..K {
        unsafe {
            let held = least[slot];
            least[slot] = L::min(held, value);
            value = L::max(held, value);
        }
    }
}

/// Registers that are compared before the hits among them are looked at.
const BLOCK: usize = 16;

/// Offers each column of the row to the row, and the row to each column, where the distance is less than the bound of
/// the one it is offered to.
///
/// The comparing loop only notes its hits: a branch for each would be mispredicted, and a call behind it would cost
/// the loop its registers.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn pick<L: Lanes>(row: LeafRow<'_>, members: &[u32], bounds: &[f32], tops: &mut [TopK]) {
    row.assert_whole(L::WIDTH);
    let columns = row.products.len();
    assert!(row.first + columns <= bounds.len() && row.row < bounds.len());
    for start in (0..columns).step_by(BLOCK * L::WIDTH) {
        let mut hits = [(0, 0, 0); BLOCK];
        let mut count = 0;
        // SAFETY: the columns are a whole number of registers, and `bounds` covers them.
        unsafe {
            let bound = L::splat(bounds[row.row]);
            let column_bounds = bounds.as_ptr().add(row.first);
            for at in (start..columns.min(start + BLOCK * L::WIDTH)).step_by(L::WIDTH) {
                let distances = row.distances::<L>(at);
                let of_row = L::bits(L::less(distances, bound));
                let of_columns = L::bits(L::less(distances, L::load(column_bounds.add(at))));
                hits[count % BLOCK] = (at as u32, of_row, of_columns);
                count += usize::from(of_row | of_columns != 0);
            }
        }
        for &(at, of_row, of_columns) in &hits[..count] {
            let mut lanes = of_row | of_columns;
            while lanes != 0 {
                let lane = lanes.trailing_zeros();
                let at = (at + lane) as usize;
                let (column, distance) = (row.first + at, row.distance(at));
                if of_row >> lane & 1 == 1 {
                    tops[row.row].push(Neighbor::new(members[column], distance));
                }
                if of_columns >> lane & 1 == 1 {
                    tops[column].push(Neighbor::new(members[row.row], distance));
                }
                lanes &= lanes - 1;
            }
        }
    }
}
