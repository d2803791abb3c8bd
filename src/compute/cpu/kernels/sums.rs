//! Sums of scattered rows.

use super::super::lanes::Lanes;
use super::pairs::assert_in_range;

/// How many rows ahead of use a row is asked for.
const AHEAD: usize = 4;

/// Adds the rows of `base` that `ordinals` names to `sum`, one after the other.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn sum_gather<L: Lanes>(base: &[f32], ordinals: &[u32], sum: &mut [f32]) {
    let dim = sum.len();
    assert_in_range(base.len(), dim, ordinals);
    let whole = dim - dim % L::WIDTH;
    for (index, &ordinal) in ordinals.iter().enumerate() {
        let row = &base[ordinal as usize * dim..][..dim];
        if let Some(&next) = ordinals.get(index + AHEAD) {
            for line in (0..dim).step_by(16) {
                // SAFETY: a prefetch cannot fault.
                unsafe { L::prefetch(base.as_ptr().wrapping_add(next as usize * dim + line).cast()) };
            }
        }
        for at in (0..whole).step_by(L::WIDTH) {
            // SAFETY: `whole` is a whole number of registers within both `row` and `sum`.
            unsafe {
                let to = sum.as_mut_ptr().add(at);
                L::store(to, L::add(L::load(to), L::load(row.as_ptr().add(at))));
            }
        }
        for (sum, &value) in sum[whole..].iter_mut().zip(&row[whole..]) {
            *sum += value;
        }
    }
}
