//! Product-quantizer codes: the nearest entry of each sub-vector, and sums of table look-ups.

use super::super::lanes::Lanes;
use super::scan::MAX_WIDTH;

/// Codebooks laid out for comparing a sub-vector with a register of entries at once.
#[derive(Clone, Copy)]
pub struct Book<'a> {
    pub pq_m: usize,
    pub dsub: usize,
    /// `ksub`, padded to whole registers of every instruction set.
    pub width: usize,
    /// `pq_m × dsub × width`: −2 · entry, transposed.
    pub entries: &'a [f32],
    /// `pq_m × width`: |entry|², ∞ behind the last.
    pub offsets: &'a [f32],
}

/// Sub-vectors compared at once: they share the loads of the entries.
const TOGETHER: usize = 4;

/// The code of each sub-vector of each row (`rows × pq_m·dsub`), to `rows × pq_m`. The least of
/// |entry|² − 2⟨sub-vector, entry⟩ wins, then the lowest code.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn encode<L: Lanes>(book: Book<'_>, rows: &[f32], codes: &mut [u8]) {
    let Book { pq_m, dsub, width, entries, offsets } = book;
    let dim = pq_m * dsub;
    assert!(width.is_multiple_of(L::WIDTH) && (1..=256).contains(&width));
    assert_eq!(entries.len(), dim * width);
    assert_eq!(offsets.len(), pq_m * width);
    assert_eq!(rows.len() * pq_m, codes.len() * dim);
    let count = codes.len() / pq_m;
    for m in 0..pq_m {
        let entries = &entries[m * dsub * width..][..dsub * width];
        let offsets = &offsets[m * width..][..width];
        for first in (0..count).step_by(TOGETHER) {
            let mut subs = [rows.as_ptr(); TOGETHER];
            for (index, sub) in subs.iter_mut().enumerate() {
                // A short last group repeats its last row.
                let row = (first + index).min(count - 1);
                // SAFETY: `row < count`, and `rows` holds `count` rows of `pq_m · dsub`.
                *sub = unsafe { rows.as_ptr().add(row * dim + m * dsub) };
            }
            // SAFETY: as the caller; each of `subs` is good for `dsub` values.
            let found = unsafe { nearest_entries::<L>(subs, dsub, entries, offsets) };
            for (row, code) in (first..count).zip(found) {
                codes[row * pq_m + m] = code;
            }
        }
    }
}

/// # Safety
/// As [`Lanes`]; `offsets` is whole registers, `entries` `dsub` times as long, each of `subs` good for `dsub` values.
#[inline(always)]
unsafe fn nearest_entries<L: Lanes>(
    subs: [*const f32; TOGETHER],
    dsub: usize,
    entries: &[f32],
    offsets: &[f32],
) -> [u8; TOGETHER] {
    let width = offsets.len();
    unsafe {
        // Codes are counted in f32, exact up to 2²⁴, so that they are selected like the scores.
        let mut code = L::load(LANE_NUMBERS.as_ptr());
        let mut least = [L::splat(f32::INFINITY); TOGETHER];
        let mut least_code = [L::splat(0.0); TOGETHER];
        for at in (0..width).step_by(L::WIDTH) {
            let mut scores = [L::load(offsets.as_ptr().add(at)); TOGETHER];
            for step in 0..dsub {
                let entry = L::load(entries.as_ptr().add(step * width + at));
                for sub in 0..TOGETHER {
                    scores[sub] = L::mul_add(L::splat(*subs[sub].add(step)), entry, scores[sub]);
                }
            }
            for sub in 0..TOGETHER {
                // Strictly less: within a lane the first, lowest code stays.
                let closer = L::less(scores[sub], least[sub]);
                least[sub] = L::select(closer, scores[sub], least[sub]);
                least_code[sub] = L::select(closer, code, least_code[sub]);
            }
            code = L::add(code, L::splat(L::WIDTH as f32));
        }
        let mut found = [0; TOGETHER];
        for sub in 0..TOGETHER {
            let above = L::splat(L::least(least[sub]).next_up());
            let mut winners = L::bits(L::less(least[sub], above));
            let mut codes = [0.0f32; MAX_WIDTH];
            L::store(codes.as_mut_ptr(), least_code[sub]);
            let mut lowest = codes[winners.trailing_zeros() as usize % MAX_WIDTH];
            while winners & winners.wrapping_sub(1) != 0 {
                winners &= winners - 1;
                lowest = lowest.min(codes[winners.trailing_zeros() as usize]);
            }
            found[sub] = lowest as u8;
        }
        found
    }
}

static LANE_NUMBERS: [f32; MAX_WIDTH] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// Rows summed at once: their chains of additions are independent.
const ROWS: usize = 4;

/// Sums of table look-ups, one per row of codes; see [`Kernels::pq_scan`](crate::compute::cpu::Kernels::pq_scan).
/// Terms are added from the first sub-vector to the last.
///
/// # Panics
/// If a code is not below `ksub`.
pub fn pq_scan(tables: &[f32], ksub: usize, codes: &[u8], out: &mut [f32]) {
    assert!((1..=256).contains(&ksub) && !tables.is_empty(), "{ksub} codes per sub-vector");
    assert_eq!(tables.len() % ksub, 0);
    assert_eq!(codes.len(), out.len() * (tables.len() / ksub), "codes for every row");
    if ksub == 256 {
        // Every u8 is a code: no look-up needs a check.
        let (tables, _) = tables.as_chunks::<256>();
        scan(tables.iter(), tables.len(), codes, out, |table, code| table[usize::from(code)]);
    } else {
        scan(tables.chunks_exact(ksub), tables.len() / ksub, codes, out, |table, code| {
            table[usize::from(code)]
        });
    }
}

#[inline(always)]
fn scan<T>(
    tables: impl Iterator<Item = T> + Clone,
    pq_m: usize,
    codes: &[u8],
    out: &mut [f32],
    look_up: impl Fn(&T, u8) -> f32,
) {
    let (groups, rest) = out.as_chunks_mut::<ROWS>();
    let (grouped, left) = codes.split_at(groups.len() * ROWS * pq_m);
    for (sums, codes) in groups.iter_mut().zip(grouped.chunks_exact(ROWS * pq_m)) {
        let (a, codes) = codes.split_at(pq_m);
        let (b, codes) = codes.split_at(pq_m);
        let (c, d) = codes.split_at(pq_m);
        *sums = [0.0; ROWS];
        for (((table, &a), (&b, &c)), &d) in tables.clone().zip(a).zip(b.iter().zip(c)).zip(d) {
            for (sum, code) in sums.iter_mut().zip([a, b, c, d]) {
                *sum += look_up(&table, code);
            }
        }
    }
    for (sum, codes) in rest.iter_mut().zip(left.chunks_exact(pq_m)) {
        *sum = tables.clone().zip(codes).fold(0.0, |sum, (table, &code)| sum + look_up(&table, code));
    }
}
