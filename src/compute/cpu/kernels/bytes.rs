//! Products of 8-bit codes: what a graph walk on scalar-quantized rows spends its time on.

use super::super::lanes::Lanes;

/// Products of u8 × i8 stay within i32 up to this many: the largest multiple of 64 below 2³¹ / (255 · 128).
const MAX_LEN: usize = 65_792;

/// One row's integer product, exact.
///
/// # Safety
/// The CPU has the instruction set of the implementation; `query` and `row` are good for `len` values.
pub trait ByteProduct {
    unsafe fn product(query: *const i8, row: *const u8, len: usize) -> i32;
}

/// `out[i] = Σ_d query[d] · row[d]` for row `ordinals[i]` of `base`, whose rows are as long as the query.
///
/// # Safety
/// As [`Lanes`] and [`ByteProduct`].
#[inline(always)]
pub unsafe fn gather<L: Lanes, P: ByteProduct>(query: &[i8], base: &[u8], ordinals: &[u32], out: &mut [i32]) {
    const LINE: usize = 64;
    let len = query.len();
    assert!((1..=MAX_LEN).contains(&len) && base.len().is_multiple_of(len));
    assert_eq!(ordinals.len(), out.len());
    let rows = base.len() / len;
    // All rows are asked for before the first is used: a walk's rows are scattered, and few.
    for &ordinal in ordinals {
        assert!((ordinal as usize) < rows, "row {ordinal} of {rows}");
        // SAFETY: a prefetch reads nothing.
        unsafe {
            let row = base.as_ptr().add(ordinal as usize * len);
            for at in (0..len).step_by(LINE) {
                L::prefetch(row.wrapping_add(at));
            }
        }
    }
    for (out, &ordinal) in out.iter_mut().zip(ordinals) {
        // SAFETY: the ordinal is a row's, checked above.
        *out = unsafe { P::product(query.as_ptr(), base.as_ptr().add(ordinal as usize * len), len) };
    }
}

/// Loops that the compiler vectorises as far as the features of the table allow.
pub struct Plain;

impl ByteProduct for Plain {
    #[inline(always)]
    unsafe fn product(query: *const i8, row: *const u8, len: usize) -> i32 {
        // SAFETY: as the trait.
        let (query, row) =
            unsafe { (std::slice::from_raw_parts(query, len), std::slice::from_raw_parts(row, len)) };
        query.iter().zip(row).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum()
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2Bytes, VnniBytes};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use std::arch::x86_64::*;

    use super::ByteProduct;

    /// AVX2: widened to 16 bits, for `maddubs` saturates.
    pub struct Avx2Bytes;

    impl ByteProduct for Avx2Bytes {
        #[inline(always)]
        unsafe fn product(query: *const i8, row: *const u8, len: usize) -> i32 {
            const WIDTH: usize = 16;
            let mut sum = _mm256_setzero_si256();
            let whole = len / WIDTH * WIDTH;
            for at in (0..whole).step_by(WIDTH) {
                let q = _mm256_cvtepi8_epi16(_mm_loadu_si128(query.add(at).cast()));
                let x = _mm256_cvtepu8_epi16(_mm_loadu_si128(row.add(at).cast()));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(q, x));
            }
            let halves = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let quarters = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b00_00_11_10>(halves));
            let total = _mm_add_epi32(quarters, _mm_shuffle_epi32::<0b00_00_00_01>(quarters));
            _mm_cvtsi128_si32(total) + super::Plain::product(query.add(whole), row.add(whole), len - whole)
        }
    }

    /// AVX-512 VNNI: 64 products an instruction, accumulated exactly.
    pub struct VnniBytes;

    impl ByteProduct for VnniBytes {
        #[inline(always)]
        unsafe fn product(query: *const i8, row: *const u8, len: usize) -> i32 {
            const WIDTH: usize = 64;
            let mut sums = [_mm512_setzero_si512(); 2];
            let whole = len / WIDTH * WIDTH;
            for (step, at) in (0..whole).step_by(WIDTH).enumerate() {
                let q = _mm512_loadu_si512(query.add(at).cast());
                let x = _mm512_loadu_si512(row.add(at).cast());
                // Two chains: one would wait for itself.
                sums[step % 2] = _mm512_dpbusd_epi32(sums[step % 2], x, q);
            }
            if whole < len {
                let mask = (1u64 << (len - whole)) - 1;
                let q = _mm512_maskz_loadu_epi8(mask, query.add(whole));
                let x = _mm512_maskz_loadu_epi8(mask, row.add(whole).cast());
                sums[0] = _mm512_dpbusd_epi32(sums[0], x, q);
            }
            _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
        }
    }
}
