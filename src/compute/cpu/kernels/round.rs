//! Rounding a row to the levels of a scalar code.

use super::super::lanes::Lanes;

/// 1.5 · 2²³: what is added to it and taken away again is rounded to an integer, to the even one of two.
const ROUNDER: f32 = 12_582_912.0;

/// Writes for each value the nearest of the levels 0, 1, …, `top`, of which level u stands for (u − top/2) / `per_unit`.
/// Returns Σ c·x and Σ c² over all values x, where c = u − top/2.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn round_to_levels<L: Lanes>(
    values: &[f32],
    per_unit: f32,
    top: f32,
    levels: &mut [f32],
) -> (f32, f32) {
    assert_eq!(values.len(), levels.len());
    let middle = top / 2.0;
    let whole = values.len() / L::WIDTH * L::WIDTH;
    let (mut product, mut square) = (0.0, 0.0);
    // SAFETY: all lanes lie within the slices, which are as long as each other.
    unsafe {
        let (scale, half, rounder) = (L::splat(per_unit), L::splat(middle), L::splat(ROUNDER));
        let (zero, most) = (L::splat(0.0), L::splat(top));
        let (mut products, mut squares) = (zero, zero);
        for at in (0..whole).step_by(L::WIDTH) {
            let value = L::load(values.as_ptr().add(at));
            let place = L::min(L::max(L::mul_add(value, scale, half), zero), most);
            let level = L::sub(L::add(place, rounder), rounder);
            L::store(levels.as_mut_ptr().add(at), level);
            let code = L::sub(level, half);
            products = L::mul_add(code, value, products);
            squares = L::mul_add(code, code, squares);
        }
        product += L::sum(products);
        square += L::sum(squares);
    }
    for (&value, level) in values[whole..].iter().zip(&mut levels[whole..]) {
        *level = ((value * per_unit + middle).max(0.0).min(top) + ROUNDER) - ROUNDER;
        let code = *level - middle;
        product += code * value;
        square += code * code;
    }
    (product, square)
}
