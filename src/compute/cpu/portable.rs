//! Any CPU: four lanes as an array, which compilers turn into whatever registers there are. No fused multiply-add,
//! which is a library call where the hardware has none.
#![allow(unsafe_op_in_unsafe_fn)]

use half::f16;

use super::kernels::beam;
use super::kernels::bytes::{Plain, gather};
use super::kernels::nibbles::PlainNibbles;
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Portable;

type V = [f32; 4];

#[inline(always)]
fn zip(a: V, b: V, op: impl Fn(f32, f32) -> f32) -> V {
    [op(a[0], b[0]), op(a[1], b[1]), op(a[2], b[2]), op(a[3], b[3])]
}

/// What vector units compute: the second where the two do not compare.
#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

impl Lanes for Portable {
    type V = V;
    type Mask = [bool; 4];

    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> V {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        from.cast::<V>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn load_head(from: *const f32, count: usize) -> V {
        debug_assert!(count < 4);
        let mut padded = [0.0; 4];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        padded
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> V {
        from.cast::<[f16; 4]>().read_unaligned().map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_head_f16(from: *const f16, count: usize) -> V {
        debug_assert!(count < 4);
        let mut padded = [f16::ZERO; 4];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        Self::load_f16(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> V {
        from.cast::<[u8; 4]>().read_unaligned().map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_head_u8(from: *const u8, count: usize) -> V {
        debug_assert!(count < 4);
        let mut padded = [0; 4];
        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
        Self::load_u8(padded.as_ptr())
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: V) {
        to.cast::<V>().write_unaligned(value)
    }

    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: V, b: V, c: V) -> V {
        zip(zip(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }

    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, lesser)
    }

    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn less(a: V, b: V) -> [bool; 4] {
        [a[0] < b[0], a[1] < b[1], a[2] < b[2], a[3] < b[3]]
    }

    #[inline(always)]
    unsafe fn bits(mask: [bool; 4]) -> u32 {
        let [a, b, c, d] = mask.map(u32::from);
        a | b << 1 | c << 2 | d << 3
    }

    #[inline(always)]
    unsafe fn select(mask: [bool; 4], a: V, b: V) -> V {
        std::array::from_fn(|lane| if mask[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    unsafe fn sum(value: V) -> f32 {
        (value[0] + value[2]) + (value[1] + value[3])
    }

    #[inline(always)]
    unsafe fn least(value: V) -> f32 {
        lesser(lesser(value[0], value[2]), lesser(value[1], value[3]))
    }

    #[inline(always)]
    unsafe fn transpose4(from: [*const f32; 4], to: *mut f32, stride: usize) {
        for (column, row) in from.into_iter().enumerate() {
            for (step, value) in Self::load(row).into_iter().enumerate() {
                *to.add(step * stride + column) = value;
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
}

kernel_table!(super::dispatch::Isa::Portable, Portable, strip: 4, rows: 2, features: ,
    packed_gather: entry!([] gather::<Plain>,
        (query: &[i8], base: &[u8], stride: usize, ordinals: &[u32], out: &mut [i32])),
    merge: beam::merge,
    bytes: byte_kernels!([] crate::compute::cpu::kernels::leaf_bytes::Plain<Portable, 4>, strip: 4),
    quad_product: entry!([] quads::product::<quads::Plain<4>, 4>,
        (rows: &[i8], starts: &[i32], panels: &[u8], out: &mut [f32], stride: usize)),
    has_byte_products: || false,
    nibbles: PlainNibbles);
