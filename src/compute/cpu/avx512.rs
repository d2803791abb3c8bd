//! AVX-512 (F, BW, VL): 16 lanes, tails by mask registers, which never touch what they mask off.
//!
//! The bodies are single intrinsics; see [`Lanes`] for what they ask of their callers.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use half::f16;

use super::dispatch::ByteKernels;
use super::kernels::ByteStrip;
use super::kernels::beam;
use super::kernels::bytes::{VnniBytes, gather};
use super::kernels::leaf_bytes::{Avx512Integers, VnniIntegers};
use super::kernels::nibbles::Avx512Nibbles;
use super::kernels::quads;
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

#[inline(always)]
fn head(count: usize) -> u16 {
    debug_assert!(count < 16);
    (1 << count) - 1
}

impl Lanes for Avx512 {
    type V = __m512;
    type Mask = __mmask16;

    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }

    #[inline(always)]
    unsafe fn load_head(from: *const f32, count: usize) -> __m512 {
        _mm512_maskz_loadu_ps(head(count), from)
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }

    #[inline(always)]
    unsafe fn load_head_f16(from: *const f16, count: usize) -> __m512 {
        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(head(count), from.cast()))
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_head_u8(from: *const u8, count: usize) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(head(count), from.cast())))
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        _mm512_storeu_ps(to, value)
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }

    #[inline(always)]
    unsafe fn less(a: __m512, b: __m512) -> __mmask16 {
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b)
    }

    #[inline(always)]
    unsafe fn bits(mask: __mmask16) -> u32 {
        u32::from(mask)
    }

    #[inline(always)]
    unsafe fn select(mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        _mm512_mask_blend_ps(mask, b, a)
    }

    #[inline(always)]
    unsafe fn sum(value: __m512) -> f32 {
        _mm512_reduce_add_ps(value)
    }

    #[inline(always)]
    unsafe fn least(value: __m512) -> f32 {
        _mm512_reduce_min_ps(value)
    }

    #[inline(always)]
    unsafe fn transpose4(from: [*const f32; 4], to: *mut f32, stride: usize) {
        super::avx2::Avx2::transpose4(from, to, stride)
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast())
    }
}

kernel_table!(super::dispatch::Isa::Avx512, Avx512, strip: 8, rows: 4, features: "avx512f,avx512bw,avx512vl",
    packed_gather: packed_gather,
    merge: entry!(["avx512f,avx512bw,avx512vl"] beam::merge_avx512,
        (slots: &mut [u64], len: usize, incoming: &mut [u64]) -> usize),
    bytes: ByteKernels { columns: byte_columns, product: byte_product },
    quad_product: quad_product,
    has_byte_products: || std::arch::is_x86_feature_detected!("avx512vnni"),
    nibbles: Avx512Nibbles);

const WITH_VNNI: ByteKernels = byte_kernels!(["avx512f,avx512bw,avx512vl,avx512vnni"] VnniIntegers, strip: 8);
pub(super) const WITHOUT_VNNI: ByteKernels =
    byte_kernels!(["avx512f,avx512bw,avx512vl"] Avx512Integers, strip: 8);

/// VNNI came a generation after the rest of this table's features: asked for where it is used.
fn byte_kernels() -> &'static ByteKernels {
    if std::arch::is_x86_feature_detected!("avx512vnni") { &WITH_VNNI } else { &WITHOUT_VNNI }
}

fn byte_columns(panels: &mut [i32], units: usize, steps: usize, offsets: &mut [i32]) {
    (byte_kernels().columns)(panels, units, steps, offsets);
}

fn byte_product(strip: ByteStrip<'_>, panels: &[i32], offsets: &[i32], out: &mut [f32], stride: usize) {
    (byte_kernels().product)(strip, panels, offsets, out, stride);
}

fn packed_gather(query: &[i8], base: &[u8], stride: usize, ordinals: &[u32], out: &mut [i32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn with_vnni(query: &[i8], base: &[u8], stride: usize, ordinals: &[u32], out: &mut [i32]) {
        // SAFETY: the features are those of this function.
        unsafe { gather::<VnniBytes>(query, base, stride, ordinals, out) }
    }
    if std::arch::is_x86_feature_detected!("avx512vnni") {
        // SAFETY: asked for just now, and the rest by the table.
        unsafe { with_vnni(query, base, stride, ordinals, out) }
    } else {
        (super::avx2::KERNELS.packed_gather)(query, base, stride, ordinals, out);
    }
}

fn quad_product(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn with_vnni(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize) {
        // SAFETY: the features are those of this function.
        unsafe { quads::product::<quads::Vnni, 8>(rows, starts, panels, out, stride) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn plain(rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize) {
        // SAFETY: the features are those of this function.
        unsafe { quads::product::<quads::Plain<16>, 8>(rows, starts, panels, out, stride) }
    }
    // SAFETY: VNNI is asked for just now, the rest by the table.
    unsafe {
        if std::arch::is_x86_feature_detected!("avx512vnni") {
            with_vnni(rows, starts, panels, out, stride)
        } else {
            plain(rows, starts, panels, out, stride)
        }
    }
}
