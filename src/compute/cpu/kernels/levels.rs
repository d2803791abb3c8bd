//! Distances to rows of levels: bytes that stand for so many steps each, of a size of its own in every dimension.

use super::super::lanes::Lanes;

/// `out[i]` = Σ (query − step · level)² over the dimensions, for row `i` of `levels`. `R` rows at once share the loads of query and
/// steps; a row's bits do not depend on which others come with it.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn l2<L: Lanes, const R: usize>(query: &[f32], steps: &[f32], levels: &[u8], out: &mut [f32]) {
    let dim = query.len();
    assert_eq!(steps.len(), dim, "a step for each dimension");
    assert_eq!(levels.len(), out.len() * dim, "one distance per row");
    let mut row = levels.as_ptr();
    let (groups, rest) = out.as_chunks_mut::<R>();
    // SAFETY: `row` advances over `levels`, which holds a row for each of `out`.
    unsafe {
        for group in groups {
            let mut rows = [row; R];
            for (index, pointer) in rows.iter_mut().enumerate() {
                *pointer = row.add(index * dim);
            }
            *group = together::<L, R>(query, steps, rows);
            row = row.add(R * dim);
        }
        for distance in rest {
            [*distance] = together::<L, 1>(query, steps, [row]);
            row = row.add(dim);
        }
    }
}

/// Two sums a row: with the conversions there is nothing to gain from more.
///
/// # Safety
/// As [`Lanes`]; `steps` and each of `rows` are good for as many values as the query.
#[inline(always)]
unsafe fn together<L: Lanes, const R: usize>(query: &[f32], steps: &[f32], rows: [*const u8; R]) -> [f32; R] {
    let (dim, query, steps) = (query.len(), query.as_ptr(), steps.as_ptr());
    // SAFETY: `at` plus the lanes read stays within `dim`.
    unsafe {
        let none = L::splat(0.0);
        let mut sums = [[none; 2]; R];
        let mut at = 0;
        while at + L::WIDTH <= dim {
            let (value, step) = (L::load(query.add(at)), L::sub(none, L::load(steps.add(at))));
            for row in 0..R {
                let difference = L::mul_add(step, L::load_u8(rows[row].add(at)), value);
                let sum = &mut sums[row][at / L::WIDTH % 2];
                *sum = L::mul_add(difference, difference, *sum);
            }
            at += L::WIDTH;
        }
        if at < dim {
            let value = L::load_head(query.add(at), dim - at);
            let step = L::sub(none, L::load_head(steps.add(at), dim - at));
            for row in 0..R {
                let level = L::load_head_u8(rows[row].add(at), dim - at);
                let difference = L::mul_add(step, level, value);
                sums[row][0] = L::mul_add(difference, difference, sums[row][0]);
            }
        }
        let mut totals = [0.0; R];
        for row in 0..R {
            totals[row] = L::sum(L::add(sums[row][0], sums[row][1]));
        }
        totals
    }
}
