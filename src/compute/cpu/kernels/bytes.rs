//! Products of rows of small unsigned codes, 8, 4, 2 or 1 bits a value: what a graph walk spends its time on.
//!
//! A row is `stride` bytes. Of 8/bits *planes* of values, plane p lies in bits p·bits.. of each byte, so that all values of
//! a plane come out of a register of bytes by one shift and one mask. A query is i8, plane after plane, each `stride`
//! long; where it is zero, what a row holds does not matter.
//!
//! There are no closures here: one would not take on the target features of the kernel that it stands in, and each
//! intrinsic in it would be a call.

/// Products of u8 × i8 stay within i32 up to this many: the largest multiple of 64 below 2³¹ / (255 · 128).
const MAX_STRIDE: usize = 65_792;

/// Bytes from one row to the next of rows that hold `used` bytes each, such that none touches more cache lines than it needs.
pub fn row_stride(used: usize) -> usize {
    const LINE: usize = 64;
    if used <= LINE { used.next_power_of_two() } else { used.next_multiple_of(LINE) }
}

/// The integer products of four rows with one query, exact.
///
/// # Safety
/// The CPU has the instruction set of the implementation; `query` is good for `PLANES × stride` values and each row for
/// `stride` bytes.
pub trait PackedProduct {
    unsafe fn four<const PLANES: usize>(query: *const i8, rows: [*const u8; 4], stride: usize) -> [i32; 4];
}

/// `out[i] = Σ query · row` for row `ordinals[i]` of `base`. The query's length says how many planes a row has.
///
/// # Safety
/// As [`PackedProduct`].
#[inline(always)]
pub unsafe fn gather<P: PackedProduct>(
    query: &[i8],
    base: &[u8],
    stride: usize,
    ordinals: &[u32],
    out: &mut [i32],
) {
    assert!((1..=MAX_STRIDE).contains(&stride));
    assert!(base.len().is_multiple_of(stride) && query.len().is_multiple_of(stride));
    assert_eq!(ordinals.len(), out.len());
    // SAFETY: as this function.
    unsafe {
        match query.len() / stride {
            1 => gather_planes::<P, 1>(query, base, stride, ordinals, out),
            2 => gather_planes::<P, 2>(query, base, stride, ordinals, out),
            4 => gather_planes::<P, 4>(query, base, stride, ordinals, out),
            8 => gather_planes::<P, 8>(query, base, stride, ordinals, out),
            planes => panic!("{planes} planes"),
        }
    }
}

#[inline(always)]
unsafe fn gather_planes<P: PackedProduct, const PLANES: usize>(
    query: &[i8],
    base: &[u8],
    stride: usize,
    ordinals: &[u32],
    out: &mut [i32],
) {
    let rows = base.len() / stride;
    for (ordinals, out) in ordinals.chunks(4).zip(out.chunks_mut(4)) {
        let mut four = [base.as_ptr(); 4];
        for (row, &ordinal) in four.iter_mut().zip(ordinals) {
            assert!((ordinal as usize) < rows, "row {ordinal} of {rows}");
            // SAFETY: the row is in `base`, checked above.
            *row = unsafe { row.add(ordinal as usize * stride) };
        }
        // SAFETY: the query's length was divided by `stride` to give `PLANES`.
        let products = unsafe { P::four::<PLANES>(query.as_ptr(), four, stride) };
        out.copy_from_slice(&products[..out.len()]);
    }
}

/// The values of one plane, moved down.
#[inline(always)]
const fn mask(planes: usize) -> u8 {
    u8::MAX >> (8 - 8 / planes)
}

/// Loops that the compiler vectorises as far as the features of the table allow.
pub struct Plain;

impl PackedProduct for Plain {
    #[inline(always)]
    unsafe fn four<const PLANES: usize>(query: *const i8, rows: [*const u8; 4], stride: usize) -> [i32; 4] {
        let mut out = [0; 4];
        for (out, row) in out.iter_mut().zip(rows) {
            // SAFETY: as the trait.
            let row = unsafe { std::slice::from_raw_parts(row, stride) };
            for plane in 0..PLANES {
                // SAFETY: as the trait.
                let query = unsafe { std::slice::from_raw_parts(query.add(plane * stride), stride) };
                for (&q, &byte) in query.iter().zip(row) {
                    let x = byte >> (plane * 8 / PLANES) & mask(PLANES);
                    *out += i32::from(q) * i32::from(x);
                }
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2Bytes, VnniBytes};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use std::arch::x86_64::*;

    use super::{PackedProduct, Plain, mask};

    /// AVX2. Bytes are widened to 16 bits, for `maddubs` saturates; smaller values cannot make it.
    pub struct Avx2Bytes;

    impl Avx2Bytes {
        #[inline(always)]
        unsafe fn wide_product(query: *const i8, row: *const u8, stride: usize) -> __m256i {
            let mut sum = _mm256_setzero_si256();
            for at in (0..stride).step_by(16) {
                let q = _mm256_cvtepi8_epi16(_mm_loadu_si128(query.add(at).cast()));
                let x = _mm256_cvtepu8_epi16(_mm_loadu_si128(row.add(at).cast()));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(q, x));
            }
            sum
        }

        #[inline(always)]
        unsafe fn plane_products<const PLANES: usize>(
            query: *const i8,
            row: *const u8,
            stride: usize,
        ) -> __m256i {
            let (ones, mask) = (_mm256_set1_epi16(1), _mm256_set1_epi8(mask(PLANES) as i8));
            let mut sum = _mm256_setzero_si256();
            for at in (0..stride).step_by(32) {
                let bytes = _mm256_loadu_si256(row.add(at).cast());
                for plane in 0..PLANES {
                    let shift = _mm_cvtsi32_si128((plane * 8 / PLANES) as i32);
                    let x = _mm256_and_si256(_mm256_srl_epi16(bytes, shift), mask);
                    let q = _mm256_loadu_si256(query.add(plane * stride + at).cast());
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, q), ones));
                }
            }
            sum
        }
    }

    impl PackedProduct for Avx2Bytes {
        #[inline(always)]
        unsafe fn four<const PLANES: usize>(
            query: *const i8,
            rows: [*const u8; 4],
            stride: usize,
        ) -> [i32; 4] {
            // Strides are powers of two up to a line, and whole lines beyond.
            if !stride.is_multiple_of(32) {
                return Plain::four::<PLANES>(query, rows, stride);
            }
            let mut out = [0; 4];
            for (out, row) in out.iter_mut().zip(rows) {
                let sum = match PLANES {
                    1 => Self::wide_product(query, row, stride),
                    _ => Self::plane_products::<PLANES>(query, row, stride),
                };
                let halves = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let quarters = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b00_00_11_10>(halves));
                *out =
                    _mm_cvtsi128_si32(_mm_add_epi32(quarters, _mm_shuffle_epi32::<0b00_00_00_01>(quarters)));
            }
            out
        }
    }

    /// AVX-512 VNNI: 64 products an instruction, accumulated exactly.
    pub struct VnniBytes;

    impl VnniBytes {
        const LINE: usize = 64;

        #[inline(always)]
        unsafe fn products<const PLANES: usize>(query: *const i8, row: *const u8, stride: usize) -> __m512i {
            // Two chains: one would wait for itself.
            let mut sums = [_mm512_setzero_si512(); 2];
            let whole = stride / Self::LINE * Self::LINE;
            for at in (0..whole).step_by(Self::LINE) {
                let bytes = _mm512_loadu_si512(row.add(at).cast());
                for plane in 0..PLANES {
                    let q = _mm512_loadu_si512(query.add(plane * stride + at).cast());
                    let x = Self::values::<PLANES>(bytes, plane);
                    // With one plane the lines take turns, with more the planes.
                    let chain = &mut sums[if PLANES == 1 { at / Self::LINE % 2 } else { plane % 2 }];
                    *chain = _mm512_dpbusd_epi32(*chain, x, q);
                }
            }
            if whole < stride {
                let inside = (1u64 << (stride - whole)) - 1;
                let bytes = _mm512_maskz_loadu_epi8(inside, row.add(whole).cast());
                for plane in 0..PLANES {
                    let q = _mm512_maskz_loadu_epi8(inside, query.add(plane * stride + whole));
                    sums[0] = _mm512_dpbusd_epi32(sums[0], Self::values::<PLANES>(bytes, plane), q);
                }
            }
            _mm512_add_epi32(sums[0], sums[1])
        }

        #[inline(always)]
        unsafe fn values<const PLANES: usize>(bytes: __m512i, plane: usize) -> __m512i {
            if PLANES == 1 {
                return bytes;
            }
            let shift = _mm_cvtsi32_si128((plane * 8 / PLANES) as i32);
            _mm512_and_si512(_mm512_srl_epi16(bytes, shift), _mm512_set1_epi8(mask(PLANES) as i8))
        }
    }

    impl PackedProduct for VnniBytes {
        #[inline(always)]
        unsafe fn four<const PLANES: usize>(
            query: *const i8,
            rows: [*const u8; 4],
            stride: usize,
        ) -> [i32; 4] {
            let a = Self::products::<PLANES>(query, rows[0], stride);
            let b = Self::products::<PLANES>(query, rows[1], stride);
            let c = Self::products::<PLANES>(query, rows[2], stride);
            let d = Self::products::<PLANES>(query, rows[3], stride);
            // Four sums of sixteen lanes: transposed and added, they share what each would cost alone.
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let halves = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64::<1>(abcd));
            let sums = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            let mut out = [0; 4];
            _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
            out
        }
    }
}
