//! The matrix product behind assignment, top-k and graph leaves: a strip of rows against panels of rows, one
//! multiply-add chain per pair from the first dimension to the last.
//!
//! A *panel* is a few rows (two registers' lanes of them) transposed, `dim × panel`, so that one load yields the same
//! dimension of many rows. A *strip* is a handful of rows read where they lie. Only one side is ever packed, and in a
//! leaf the one packing serves both: on an AVX-512 core this reached 236–252 GFLOP/s at 96–1,536 dimensions where
//! a general sgemm reached 155–197 with its two packings per call. And as a pair's product has the same bits
//! wherever it is computed, tiles, strips and threads can be laid out freely without changing any result.

use super::super::lanes::Lanes;
use super::pairs::assert_in_range;

/// Rows of a panel.
pub const fn panel<L: Lanes>() -> usize {
    2 * L::WIDTH
}

/// Packs rows of `base` into as many panels as hold them; what is left over of the last is 0.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn pack<L: Lanes>(base: &[f32], dim: usize, ordinals: &[u32], panels: &mut [f32]) {
    let width = panel::<L>();
    assert_in_range(base.len(), dim, ordinals);
    assert_eq!(panels.len(), ordinals.len().div_ceil(width) * width * dim, "panels for all rows");
    for (index, (members, panel)) in
        ordinals.chunks(width).zip(panels.chunks_exact_mut(width * dim)).enumerate()
    {
        let behind = &ordinals[ordinals.len().min((index + 1) * width)..];
        if members.len() < width {
            panel.fill(0.0);
        }
        // Sixteen dimensions of all rows at a time: a cache line of each, written to a block that stays in L1.
        for start in (0..dim).step_by(16) {
            let end = (start + 16).min(dim);
            // And one of each of the next panel's rows, which lie scattered.
            for &ordinal in &behind[..behind.len().min(width)] {
                let at = base.as_ptr().wrapping_add(ordinal as usize * dim + start);
                // SAFETY: a prefetch cannot fault.
                unsafe { L::prefetch(at.cast()) };
            }
            let (fours, rest) = members.as_chunks::<4>();
            for (index, four) in fours.iter().enumerate() {
                // SAFETY: `assert_in_range`, `start..end` lies within `dim`, and column `4 · index + 3` within `width`.
                unsafe { pack_four::<L>(base, dim, four, start..end, &mut panel[4 * index..]) };
            }
            for (column, &ordinal) in rest.iter().enumerate() {
                let row = &base[ordinal as usize * dim..][..dim];
                for k in start..end {
                    panel[k * width + 4 * fours.len() + column] = row[k];
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn pack_four<L: Lanes>(
    base: &[f32],
    dim: usize,
    four: &[u32; 4],
    range: std::ops::Range<usize>,
    columns: &mut [f32],
) {
    let width = panel::<L>();
    let mut k = range.start;
    while k + 4 <= range.end {
        // SAFETY: the caller's ranges; `k + 3 < dim`.
        unsafe {
            let [a, b, c, d] = *four;
            let at = |ordinal: u32| base.as_ptr().add(ordinal as usize * dim + k);
            L::transpose4([at(a), at(b), at(c), at(d)], columns.as_mut_ptr().add(k * width), width);
        }
        k += 4;
    }
    while k < range.end {
        for (column, &ordinal) in four.iter().enumerate() {
            columns[k * width + column] = base[ordinal as usize * dim + k];
        }
        k += 1;
    }
}

/// |row|² of each packed row, by the very chain that [`product`] follows: a row's product with its equal is its norm
/// to the last bit, and so their L2 distance is exactly 0.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn panel_norms<L: Lanes>(panels: &[f32], dim: usize, norms: &mut [f32]) {
    let width = panel::<L>();
    assert_eq!(panels.len(), norms.len() * dim);
    assert_eq!(norms.len() % width, 0);
    for (panel, norms) in panels.chunks_exact(width * dim).zip(norms.chunks_exact_mut(width)) {
        // SAFETY: a panel is `dim` times two registers, `norms` two registers.
        unsafe {
            let mut sums = [L::splat(0.0); 2];
            for k in 0..dim {
                for half in 0..2 {
                    let values = L::load(panel.as_ptr().add(k * width + half * L::WIDTH));
                    sums[half] = L::mul_add(values, values, sums[half]);
                }
            }
            L::store(norms.as_mut_ptr(), sums[0]);
            L::store(norms.as_mut_ptr().add(L::WIDTH), sums[1]);
        }
    }
}

/// The inner products of up to `MR` rows of `base` with all rows of `panels`: row `r` of the strip fills
/// `out[r · stride..]`. `out` holds `MR` rows even where fewer are asked for; what it holds behind those is then
/// meaningless.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn product<L: Lanes, const MR: usize>(
    base: &[f32],
    dim: usize,
    ordinals: &[u32],
    panels: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let width = panel::<L>();
    assert!((1..=MR).contains(&ordinals.len()), "a strip is 1 to {MR} rows");
    assert_in_range(base.len(), dim, ordinals);
    assert_eq!(panels.len() % (width * dim), 0);
    let columns = panels.len() / dim;
    assert!(columns <= stride && (MR - 1) * stride + columns <= out.len());

    // A short strip repeats its last row: cheaper than a kernel for each height.
    let mut rows = [base.as_ptr(); MR];
    for (index, row) in rows.iter_mut().enumerate() {
        let ordinal = ordinals[index.min(ordinals.len() - 1)];
        // SAFETY: `assert_in_range`.
        *row = unsafe { base.as_ptr().add(ordinal as usize * dim) };
    }
    for (index, panel) in panels.chunks_exact(width * dim).enumerate() {
        // SAFETY: `rows` and `panel` hold `dim` steps each; the last store ends at `(MR − 1) · stride + columns`.
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; MR];
            for k in 0..dim {
                let step = panel.as_ptr().add(k * width);
                let (left, right) = (L::load(step), L::load(step.add(L::WIDTH)));
                for row in 0..MR {
                    let value = L::splat(*rows[row].add(k));
                    sums[row][0] = L::mul_add(value, left, sums[row][0]);
                    sums[row][1] = L::mul_add(value, right, sums[row][1]);
                }
            }
            for (row, [left, right]) in sums.into_iter().enumerate() {
                let to = out.as_mut_ptr().add(row * stride + index * width);
                L::store(to, left);
                L::store(to.add(L::WIDTH), right);
            }
        }
    }
}

/// Panels that a lone row is multiplied with at once: eight chains, as many as keep the multipliers busy.
const PANELS: usize = 4;

/// The inner products of one row with all rows of `panels`: what [`product`] gives, bit by bit, without the seven other
/// rows of a strip.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn lone_product<L: Lanes>(row: &[f32], panels: &[f32], out: &mut [f32]) {
    let (dim, width) = (row.len(), panel::<L>());
    assert!(dim > 0 && panels.len().is_multiple_of(width * dim));
    assert_eq!(out.len() * dim, panels.len());
    for (group, out) in panels.chunks(PANELS * width * dim).zip(out.chunks_mut(PANELS * width)) {
        let count = out.len() / width;
        // SAFETY: `group` and `out` hold `count` panels; a short group repeats its last and does not store it again.
        unsafe {
            let mut starts = [group.as_ptr(); PANELS];
            for (index, start) in starts.iter_mut().enumerate() {
                *start = group.as_ptr().add(index.min(count - 1) * width * dim);
            }
            let mut sums = [[L::splat(0.0); 2]; PANELS];
            for (k, &value) in row.iter().enumerate() {
                let value = L::splat(value);
                for panel in 0..PANELS {
                    let step = starts[panel].add(k * width);
                    sums[panel][0] = L::mul_add(value, L::load(step), sums[panel][0]);
                    sums[panel][1] = L::mul_add(value, L::load(step.add(L::WIDTH)), sums[panel][1]);
                }
            }
            for (panel, [left, right]) in sums.into_iter().enumerate().take(count) {
                let to = out.as_mut_ptr().add(panel * width);
                L::store(to, left);
                L::store(to.add(L::WIDTH), right);
            }
        }
    }
}
