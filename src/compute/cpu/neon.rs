//! NEON: 4 lanes, 32 registers.
//!
//! The bodies are single intrinsics, or the shortest chain of them; see [`Lanes`] for what they ask of their callers.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::aarch64::*;

use half::f16;

use super::kernels::beam;
use super::kernels::bytes::{Plain, gather};
use super::kernels::nibbles::NeonNibbles;
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Neon;

/// The bit of each lane in [`Lanes::bits`].
static LANE_BITS: [u32; 4] = [1, 2, 4, 8];

impl Lanes for Neon {
    type V = float32x4_t;
    type Mask = uint32x4_t;

    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        vdupq_n_f32(value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        vld1q_f32(from)
    }

    #[inline(always)]
    unsafe fn load_head(from: *const f32, count: usize) -> float32x4_t {
        debug_assert!(count < 4);
        let mut padded = [0.0; 4];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        vld1q_f32(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> float32x4_t {
        widen(vld1_u16(from.cast()))
    }

    #[inline(always)]
    unsafe fn load_head_f16(from: *const f16, count: usize) -> float32x4_t {
        debug_assert!(count < 4);
        let mut padded = [f16::ZERO; 4];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        Self::load_f16(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> float32x4_t {
        let bytes = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
    }

    #[inline(always)]
    unsafe fn load_head_u8(from: *const u8, count: usize) -> float32x4_t {
        debug_assert!(count < 4);
        let mut padded = [0; 4];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        Self::load_u8(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: float32x4_t) {
        vst1q_f32(to, value)
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vaddq_f32(a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vsubq_f32(a, b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // Arm's order: the addend comes first.
        vfmaq_f32(c, a, b)
    }

    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vminnmq_f32(a, b)
    }

    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmaxq_f32(a, b)
    }

    #[inline(always)]
    unsafe fn less(a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        vcltq_f32(a, b)
    }

    #[inline(always)]
    unsafe fn bits(mask: uint32x4_t) -> u32 {
        vaddvq_u32(vandq_u32(mask, vld1q_u32(LANE_BITS.as_ptr())))
    }

    #[inline(always)]
    unsafe fn select(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vbslq_f32(mask, a, b)
    }

    #[inline(always)]
    unsafe fn sum(value: float32x4_t) -> f32 {
        vaddvq_f32(value)
    }

    #[inline(always)]
    unsafe fn least(value: float32x4_t) -> f32 {
        vminnmvq_f32(value)
    }

    #[inline(always)]
    unsafe fn transpose4(from: [*const f32; 4], to: *mut f32, stride: usize) {
        let [a, b, c, d] = from.map(|row| unsafe { vld1q_f32(row) });
        // Interleaving a with c and b with d, and then those, is a 4 × 4 transpose.
        let (low_ac, high_ac) = (vzip1q_f32(a, c), vzip2q_f32(a, c));
        let (low_bd, high_bd) = (vzip1q_f32(b, d), vzip2q_f32(b, d));
        vst1q_f32(to, vzip1q_f32(low_ac, low_bd));
        vst1q_f32(to.add(stride), vzip2q_f32(low_ac, low_bd));
        vst1q_f32(to.add(2 * stride), vzip1q_f32(high_ac, high_bd));
        vst1q_f32(to.add(3 * stride), vzip2q_f32(high_ac, high_bd));
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

/// `fcvtl` is plain Armv8 NEON, but its intrinsic needs a newer compiler than this crate's minimum.
#[inline(always)]
unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    std::arch::asm!(
        "fcvtl {wide:v}.4s, {halves:v}.4h",
        wide = out(vreg) wide,
        halves = in(vreg) halves,
        options(pure, nomem, nostack, preserves_flags),
    );
    wide
}

kernel_table!(super::dispatch::Isa::Neon, Neon, strip: 8, rows: 4, features: "neon",
    packed_gather: entry!(["neon"] gather::<Plain>,
        (query: &[i8], base: &[u8], stride: usize, ordinals: &[u32], out: &mut [i32])),
    merge: beam::merge,
    bytes: byte_kernels!(["neon"] crate::compute::cpu::kernels::leaf_bytes::Plain<Neon, 4>, strip: 8),
    quad_product: entry!(["neon"] quads::product::<quads::Plain<4>, 8>,
        (rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize)),
    has_byte_products: || false,
    nibbles: NeonNibbles);
