//! AVX2 with FMA and F16C: 8 lanes.
//!
//! The bodies are single intrinsics, or the shortest chain of them; see [`Lanes`] for what they ask of their callers.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use half::f16;

use super::kernels::beam;
use super::kernels::bytes::{Avx2Bytes, gather};
use super::kernels::nibbles::Avx2Nibbles;
use super::kernels::quads;
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Eight set words, then eight clear ones: the eight from `8 - count` on are the mask of the first `count` lanes.
static HEADS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Lanes for Avx2 {
    type V = __m256;
    type Mask = __m256;

    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        _mm256_loadu_ps(from)
    }

    #[inline(always)]
    unsafe fn load_head(from: *const f32, count: usize) -> __m256 {
        debug_assert!(count < 8);
        let mask = _mm256_loadu_si256(HEADS.as_ptr().add(8 - count).cast());
        _mm256_maskload_ps(from, mask)
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
    }

    #[inline(always)]
    unsafe fn load_head_f16(from: *const f16, count: usize) -> __m256 {
        debug_assert!(count < 8);
        let mut padded = [f16::ZERO; 8];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        Self::load_f16(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m256 {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_head_u8(from: *const u8, count: usize) -> __m256 {
        debug_assert!(count < 8);
        let mut padded = [0; 8];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        Self::load_u8(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        _mm256_storeu_ps(to, value)
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }

    #[inline(always)]
    unsafe fn less(a: __m256, b: __m256) -> __m256 {
        _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)
    }

    #[inline(always)]
    unsafe fn bits(mask: __m256) -> u32 {
        _mm256_movemask_ps(mask) as u32
    }

    #[inline(always)]
    unsafe fn select(mask: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_blendv_ps(b, a, mask)
    }

    #[inline(always)]
    unsafe fn sum(value: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps::<1>(value));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn least(value: __m256) -> f32 {
        let four = _mm_min_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps::<1>(value));
        let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn transpose4(from: [*const f32; 4], to: *mut f32, stride: usize) {
        let [a, b, c, d] = from.map(|row| unsafe { _mm_loadu_ps(row) });
        let (low_ab, high_ab) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (low_cd, high_cd) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(to, _mm_movelh_ps(low_ab, low_cd));
        _mm_storeu_ps(to.add(stride), _mm_movehl_ps(low_cd, low_ab));
        _mm_storeu_ps(to.add(2 * stride), _mm_movelh_ps(high_ab, high_cd));
        _mm_storeu_ps(to.add(3 * stride), _mm_movehl_ps(high_cd, high_ab));
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast())
    }
}

kernel_table!(super::dispatch::Isa::Avx2, Avx2, strip: 6, rows: 2, features: "avx2,fma,f16c",
    packed_gather: entry!(["avx2,fma,f16c"] gather::<Avx2Bytes>,
        (query: &[i8], base: &[u8], stride: usize, ordinals: &[u32], out: &mut [i32])),
    merge: beam::merge,
    bytes: byte_kernels!(["avx2,fma,f16c"] crate::compute::cpu::kernels::leaf_bytes::Avx2Integers, strip: 6),
    quad_product: quad_product, has_byte_products: || std::arch::is_x86_feature_detected!("avxvnni"),
    nibbles: Avx2Nibbles);

/// VNNI came to 256-bit registers long after AVX2: asked for where it is used.
fn quad_product(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize) {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn with_vnni(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize) {
        // SAFETY: the features are those of this function.
        unsafe { quads::product::<quads::AvxVnni, 6>(rows, starts, panels, out, stride) }
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn plain(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize) {
        // SAFETY: the features are those of this function.
        unsafe { quads::product::<quads::Plain<8>, 6>(rows, starts, panels, out, stride) }
    }
    // SAFETY: AVX-VNNI is asked for just now, the rest by the table.
    unsafe {
        if std::arch::is_x86_feature_detected!("avxvnni") {
            with_vnni(rows, starts, panels, out, stride)
        } else {
            plain(rows, starts, panels, out, stride)
        }
    }
}
