//! Distances of pairs: one query against one row, consecutive rows, or scattered rows.

use half::f16;

use super::super::lanes::Lanes;

/// What a pair of values adds to the sum.
pub trait Term {
    unsafe fn add<L: Lanes>(sum: L::V, a: L::V, b: L::V) -> L::V;
}

pub struct Dot;
pub struct L2;

impl Term for Dot {
    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L::V, a: L::V, b: L::V) -> L::V {
        unsafe { L::mul_add(a, b, sum) }
    }
}

impl Term for L2 {
    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L::V, a: L::V, b: L::V) -> L::V {
        unsafe {
            let difference = L::sub(a, b);
            L::mul_add(difference, difference, sum)
        }
    }
}

/// How a row's values are kept.
pub trait Value: Copy {
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V;
    unsafe fn load_head<L: Lanes>(from: *const Self, count: usize) -> L::V;
}

impl Value for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L::V {
        unsafe { L::load(from) }
    }

    #[inline(always)]
    unsafe fn load_head<L: Lanes>(from: *const f32, count: usize) -> L::V {
        unsafe { L::load_head(from, count) }
    }
}

impl Value for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f16) -> L::V {
        unsafe { L::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn load_head<L: Lanes>(from: *const f16, count: usize) -> L::V {
        unsafe { L::load_head_f16(from, count) }
    }
}

impl Value for u8 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L::V {
        unsafe { L::load_u8(from) }
    }

    #[inline(always)]
    unsafe fn load_head<L: Lanes>(from: *const u8, count: usize) -> L::V {
        unsafe { L::load_head_u8(from, count) }
    }
}

/// `R` rows at once, which share the loads of the query. Each row has four sums of its own (a multiply-add takes four
/// cycles and two start in each), added in one fixed tree: so a pair's bits do not depend on `R`, nor on which of
/// this file's functions computes it.
///
/// # Safety
/// As [`Lanes`]; each of `rows` is good for `query.len()` values.
#[inline(always)]
unsafe fn together<L: Lanes, T: Term, E: Value, const R: usize>(
    query: &[f32],
    rows: [*const E; R],
) -> [f32; R] {
    let (dim, query) = (query.len(), query.as_ptr());
    let mut at = 0;
    // SAFETY: `at` plus the lanes read stays within `dim`.
    unsafe {
        let mut sums = [[L::splat(0.0); 4]; R];
        while at + 4 * L::WIDTH <= dim {
            for chain in 0..4 {
                let values = L::load(query.add(at + chain * L::WIDTH));
                for row in 0..R {
                    let other = E::load::<L>(rows[row].add(at + chain * L::WIDTH));
                    sums[row][chain] = T::add::<L>(sums[row][chain], values, other);
                }
            }
            at += 4 * L::WIDTH;
        }
        for chain in 0..3 {
            if at + L::WIDTH <= dim {
                let values = L::load(query.add(at));
                for row in 0..R {
                    sums[row][chain] = T::add::<L>(sums[row][chain], values, E::load::<L>(rows[row].add(at)));
                }
                at += L::WIDTH;
            }
        }
        if at < dim {
            let values = L::load_head(query.add(at), dim - at);
            for row in 0..R {
                let other = E::load_head::<L>(rows[row].add(at), dim - at);
                sums[row][3] = T::add::<L>(sums[row][3], values, other);
            }
        }
        let mut totals = [0.0; R];
        for row in 0..R {
            let [a, b, c, d] = sums[row];
            totals[row] = L::sum(L::add(L::add(a, b), L::add(c, d)));
        }
        totals
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn pair<L: Lanes, T: Term>(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one dimension");
    // SAFETY: `b` is as long as `a`.
    let [total] = unsafe { together::<L, T, f32, 1>(a, [b.as_ptr()]) };
    total
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn rows<L: Lanes, T: Term, E: Value, const R: usize>(query: &[f32], rows: &[E], out: &mut [f32]) {
    let dim = query.len();
    assert_eq!(rows.len(), out.len() * dim, "one distance per row");
    let mut row = rows.as_ptr();
    let (groups, rest) = out.as_chunks_mut::<R>();
    // SAFETY: `row` advances over `rows`, which holds a row for each of `out`.
    unsafe {
        for group in groups {
            let mut pointers = [row; R];
            for (index, pointer) in pointers.iter_mut().enumerate() {
                *pointer = row.add(index * dim);
            }
            *group = together::<L, T, E, R>(query, pointers);
            row = row.add(R * dim);
        }
        for distance in rest {
            [*distance] = together::<L, T, E, 1>(query, [row]);
            row = row.add(dim);
        }
    }
}

/// How many rows ahead of use a scattered row is asked for: at 100 dimensions about as many as fit into the time
/// that memory takes to answer.
const AHEAD: usize = 8;

/// Of each row, how much is asked for ahead of use; the hardware follows a longer one by itself.
const AHEAD_BYTES: usize = 1024;

/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn gather<L: Lanes, T: Term, E: Value, const R: usize>(
    query: &[f32],
    base: &[E],
    ordinals: &[u32],
    out: &mut [f32],
) {
    let dim = query.len();
    assert_eq!(ordinals.len(), out.len(), "one distance per ordinal");
    assert_in_range(base.len(), dim, ordinals);
    // SAFETY: every ordinal names a whole row of `base`; a prefetch cannot fault.
    unsafe {
        let row = |ordinal: u32| base.as_ptr().add(ordinal as usize * dim);
        for &ordinal in &ordinals[..ordinals.len().min(AHEAD)] {
            prefetch_row::<L, E>(row(ordinal), dim);
        }
        let (groups, rest) = ordinals.as_chunks::<R>();
        let (out_groups, out_rest) = out.as_chunks_mut::<R>();
        for (index, (group, out)) in groups.iter().zip(out_groups).enumerate() {
            for &ordinal in ordinals.iter().skip(index * R + AHEAD).take(R) {
                prefetch_row::<L, E>(row(ordinal), dim);
            }
            let mut pointers = [base.as_ptr(); R];
            for (pointer, &ordinal) in pointers.iter_mut().zip(group) {
                *pointer = row(ordinal);
            }
            *out = together::<L, T, E, R>(query, pointers);
        }
        for (&ordinal, distance) in rest.iter().zip(out_rest) {
            [*distance] = together::<L, T, E, 1>(query, [row(ordinal)]);
        }
    }
}

#[inline(always)]
unsafe fn prefetch_row<L: Lanes, E>(row: *const E, dim: usize) {
    let bytes = (dim * size_of::<E>()).min(AHEAD_BYTES);
    for line in (0..bytes).step_by(64) {
        unsafe { L::prefetch(row.cast::<u8>().wrapping_add(line)) };
    }
}

/// # Panics
/// If one of `ordinals` names no row among `values / dim`.
#[inline(always)]
pub fn assert_in_range(values: usize, dim: usize, ordinals: &[u32]) {
    let rows = values / dim.max(1);
    let highest = ordinals.iter().copied().fold(0, u32::max);
    assert!(ordinals.is_empty() || (highest as usize) < rows, "ordinal {highest} of {rows} rows");
}
