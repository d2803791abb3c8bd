//! Distances of 8-bit rows within a leaf: [`product`](super::product) at four dimensions a step, on integers, exact.
//!
//! Rows are bytes b, which stand for b − 128, and end in the integer |b − 128|². Of a pair one side is read as it lies,
//! unsigned, and the other one is packed with its sign bits flipped, because instructions multiply unsigned by signed:
//! |v − w|² = |v|² + (|w|² + 256 Σw) − 2 Σ (v + 128) w. What is added for the packed side is its *offset*.

use super::super::lanes::Lanes;

/// Registers of 32-bit integers beside those of f32: as many lanes.
///
/// # Safety
/// As [`Lanes`].
pub(in super::super) trait ByteLanes {
    type L: Lanes;
    type I: Copy;

    unsafe fn splat(value: i32) -> Self::I;
    /// Reads `WIDTH` integers.
    unsafe fn load(from: *const i32) -> Self::I;
    unsafe fn store(to: *mut i32, value: Self::I);
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    /// `a + 2ⁿ · b`.
    unsafe fn add_shifted<const N: u32>(a: Self::I, b: Self::I) -> Self::I;
    /// Adds to each lane the products of its four bytes, the first unsigned, the second signed. Wraps.
    unsafe fn dot4(sum: Self::I, unsigned: Self::I, signed: Self::I) -> Self::I;
    /// −(`a` + `b` − 2 · `product`) as f32.
    unsafe fn negative_distance(a: Self::I, b: Self::I, product: Self::I) -> <Self::L as Lanes>::V;
}

/// 8-bit rows where they lie.
#[derive(Clone, Copy)]
pub struct ByteStrip<'a> {
    /// Rows of `units` × four bytes, of which the last four are the integer |b − 128|².
    pub base: &'a [i32],
    pub units: usize,
    /// Units that hold dimensions.
    pub steps: usize,
    pub ordinals: &'a [u32],
}

/// Flips the sign bits of packed rows, `units` steps per panel, and writes the offset of each.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(in super::super) unsafe fn byte_columns<B: ByteLanes>(
    panels: &mut [i32],
    units: usize,
    steps: usize,
    offsets: &mut [i32],
) {
    let width = 2 * <B::L as Lanes>::WIDTH;
    assert!(steps < units && panels.len() == offsets.len() * units && offsets.len().is_multiple_of(width));
    for (panel, offsets) in panels.chunks_exact_mut(width * units).zip(offsets.chunks_exact_mut(width)) {
        for half in [0, width / 2] {
            // SAFETY: a panel is `units` times two registers, `offsets` two.
            unsafe {
                let (flip, ones) = (B::splat(0x8080_8080_u32 as i32), B::splat(0x0101_0101));
                let mut sum = B::splat(0);
                for step in 0..steps {
                    let at = panel.as_mut_ptr().add(step * width + half);
                    let signed = B::xor(B::load(at), flip);
                    B::store(at, signed);
                    sum = B::dot4(sum, ones, signed);
                }
                let norms = B::load(panel.as_ptr().add((units - 1) * width + half));
                B::store(offsets.as_mut_ptr().add(half), B::add_shifted::<8>(norms, sum));
            }
        }
    }
}

/// Minus the distances of up to `MR` rows to all rows of `panels`, which [`byte_columns`] has prepared: row `r` of the
/// strip fills `out[r · stride..]`, of which there must be `MR` rows.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(in super::super) unsafe fn byte_product<B: ByteLanes, const MR: usize>(
    strip: ByteStrip<'_>,
    panels: &[i32],
    offsets: &[i32],
    out: &mut [f32],
    stride: usize,
) {
    let ByteStrip { base, units, steps, ordinals } = strip;
    let lanes = <B::L as Lanes>::WIDTH;
    let width = 2 * lanes;
    assert!((1..=MR).contains(&ordinals.len()), "a strip is 1 to {MR} rows");
    super::pairs::assert_in_range(base.len(), units, ordinals);
    let columns = offsets.len();
    assert!(steps < units && panels.len() == columns * units && columns.is_multiple_of(width));
    assert!(columns <= stride && (MR - 1) * stride + columns <= out.len());

    // A short strip repeats its last row: cheaper than a kernel for each height.
    let mut rows = [base.as_ptr(); MR];
    for (index, row) in rows.iter_mut().enumerate() {
        let ordinal = ordinals[index.min(ordinals.len() - 1)];
        // SAFETY: `assert_in_range`.
        *row = unsafe { base.as_ptr().add(ordinal as usize * units) };
    }
    for (index, panel) in panels.chunks_exact(width * units).enumerate() {
        // SAFETY: `rows` and `panel` hold `units` steps each; the last store ends at `(MR − 1) · stride + columns`.
        unsafe {
            let mut sums = [[B::splat(0); 2]; MR];
            for k in 0..steps {
                let step = panel.as_ptr().add(k * width);
                let (left, right) = (B::load(step), B::load(step.add(lanes)));
                for row in 0..MR {
                    let value = B::splat(*rows[row].add(k));
                    sums[row][0] = B::dot4(sums[row][0], value, left);
                    sums[row][1] = B::dot4(sums[row][1], value, right);
                }
            }
            let at = offsets.as_ptr().add(index * width);
            let (left, right) = (B::load(at), B::load(at.add(lanes)));
            for row in 0..MR {
                let norm = B::splat(*rows[row].add(units - 1));
                let to = out.as_mut_ptr().add(row * stride + index * width);
                B::L::store(to, B::negative_distance(norm, left, sums[row][0]));
                B::L::store(to.add(lanes), B::negative_distance(norm, right, sums[row][1]));
            }
        }
    }
}

/// Integers one by one, as many as the lanes of `L`.
pub(in super::super) struct Plain<L, const N: usize>(std::marker::PhantomData<L>);

impl<L: Lanes, const N: usize> ByteLanes for Plain<L, N> {
    type L = L;
    type I = [i32; N];

    #[inline(always)]
    unsafe fn splat(value: i32) -> [i32; N] {
        const { assert!(N == L::WIDTH) };
        [value; N]
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> [i32; N] {
        unsafe { from.cast::<[i32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut i32, value: [i32; N]) {
        unsafe { to.cast::<[i32; N]>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn xor(a: [i32; N], b: [i32; N]) -> [i32; N] {
        std::array::from_fn(|lane| a[lane] ^ b[lane])
    }

    #[inline(always)]
    unsafe fn add_shifted<const S: u32>(a: [i32; N], b: [i32; N]) -> [i32; N] {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane].wrapping_shl(S)))
    }

    #[inline(always)]
    unsafe fn dot4(sum: [i32; N], unsigned: [i32; N], signed: [i32; N]) -> [i32; N] {
        let product = |unsigned: i32, signed: i32, byte: u32| {
            ((unsigned >> (8 * byte)) & 255) * (signed << (24 - 8 * byte) >> 24)
        };
        std::array::from_fn(|lane| {
            (0..4).fold(sum[lane], |sum, byte| sum.wrapping_add(product(unsigned[lane], signed[lane], byte)))
        })
    }

    #[inline(always)]
    unsafe fn negative_distance(a: [i32; N], b: [i32; N], product: [i32; N]) -> L::V {
        let negative: [f32; N] = std::array::from_fn(|lane| {
            product[lane].wrapping_mul(2).wrapping_sub(a[lane]).wrapping_sub(b[lane]) as f32
        });
        unsafe { L::load(negative.as_ptr()) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) use x86::{Avx2Integers, Avx512Integers, VnniIntegers};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::super::avx2::Avx2;
    use super::super::super::avx512::Avx512;
    use super::ByteLanes;

    /// Even bytes and odd bytes, widened to 16 bits: `maddubs` would saturate.
    pub(in super::super::super) struct Avx2Integers;

    impl ByteLanes for Avx2Integers {
        type L = Avx2;
        type I = __m256i;

        #[inline(always)]
        unsafe fn splat(value: i32) -> __m256i {
            _mm256_set1_epi32(value)
        }

        #[inline(always)]
        unsafe fn load(from: *const i32) -> __m256i {
            _mm256_loadu_si256(from.cast())
        }

        #[inline(always)]
        unsafe fn store(to: *mut i32, value: __m256i) {
            _mm256_storeu_si256(to.cast(), value)
        }

        #[inline(always)]
        unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
            _mm256_xor_si256(a, b)
        }

        #[inline(always)]
        unsafe fn add_shifted<const N: u32>(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(a, _mm256_sll_epi32(b, _mm_cvtsi32_si128(N as i32)))
        }

        #[inline(always)]
        unsafe fn dot4(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
            let even = _mm256_madd_epi16(
                _mm256_and_si256(unsigned, _mm256_set1_epi16(255)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(unsigned), _mm256_srai_epi16::<8>(signed));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }

        #[inline(always)]
        unsafe fn negative_distance(a: __m256i, b: __m256i, product: __m256i) -> __m256 {
            let twice = _mm256_add_epi32(product, product);
            _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_sub_epi32(twice, a), b))
        }
    }

    /// The same, twice as wide.
    pub(in super::super::super) struct Avx512Integers;

    impl ByteLanes for Avx512Integers {
        type L = Avx512;
        type I = __m512i;

        #[inline(always)]
        unsafe fn splat(value: i32) -> __m512i {
            _mm512_set1_epi32(value)
        }

        #[inline(always)]
        unsafe fn load(from: *const i32) -> __m512i {
            _mm512_loadu_si512(from.cast())
        }

        #[inline(always)]
        unsafe fn store(to: *mut i32, value: __m512i) {
            _mm512_storeu_si512(to.cast(), value)
        }

        #[inline(always)]
        unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
            _mm512_xor_si512(a, b)
        }

        #[inline(always)]
        unsafe fn add_shifted<const N: u32>(a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(a, _mm512_sll_epi32(b, _mm_cvtsi32_si128(N as i32)))
        }

        #[inline(always)]
        unsafe fn dot4(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
            let even = _mm512_madd_epi16(
                _mm512_and_si512(unsigned, _mm512_set1_epi16(255)),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(signed)),
            );
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(unsigned), _mm512_srai_epi16::<8>(signed));
            _mm512_add_epi32(sum, _mm512_add_epi32(even, odd))
        }

        #[inline(always)]
        unsafe fn negative_distance(a: __m512i, b: __m512i, product: __m512i) -> __m512 {
            let twice = _mm512_add_epi32(product, product);
            _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_sub_epi32(twice, a), b))
        }
    }

    /// VNNI: the four products and their sum in one instruction.
    pub(in super::super::super) struct VnniIntegers;

    impl ByteLanes for VnniIntegers {
        type L = Avx512;
        type I = __m512i;

        #[inline(always)]
        unsafe fn splat(value: i32) -> __m512i {
            Avx512Integers::splat(value)
        }

        #[inline(always)]
        unsafe fn load(from: *const i32) -> __m512i {
            Avx512Integers::load(from)
        }

        #[inline(always)]
        unsafe fn store(to: *mut i32, value: __m512i) {
            Avx512Integers::store(to, value)
        }

        #[inline(always)]
        unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
            Avx512Integers::xor(a, b)
        }

        #[inline(always)]
        unsafe fn add_shifted<const N: u32>(a: __m512i, b: __m512i) -> __m512i {
            Avx512Integers::add_shifted::<N>(a, b)
        }

        #[inline(always)]
        unsafe fn dot4(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, unsigned, signed)
        }

        #[inline(always)]
        unsafe fn negative_distance(a: __m512i, b: __m512i, product: __m512i) -> __m512 {
            Avx512Integers::negative_distance(a, b, product)
        }
    }
}
