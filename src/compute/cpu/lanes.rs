//! One vector register of f32, as few operations as the kernels need: an algorithm is written once over [`Lanes`] and
//! compiled for each instruction set. Nothing here loops and nothing here knows what a distance is.

use half::f16;

/// A register's worth of f32 values.
///
/// # Safety
/// Every function asks two things of its caller: that the CPU has the instruction set of the implementation (the
/// table in `dispatch` is the only way in, and it asks the CPU first), and that a pointer is good for the lanes that
/// the function names. They are `#[inline(always)]` so that they take on the target features of the kernel that they
/// end up in.
pub(super) trait Lanes: Copy {
    type V: Copy;
    type Mask: Copy;

    /// f32 values in one `V`.
    const WIDTH: usize;

    unsafe fn splat(value: f32) -> Self::V;

    /// Reads `WIDTH` values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Reads the first `count < WIDTH` values and nothing behind them; the other lanes are 0.
    unsafe fn load_head(from: *const f32, count: usize) -> Self::V;
    unsafe fn load_f16(from: *const f16) -> Self::V;
    unsafe fn load_head_f16(from: *const f16, count: usize) -> Self::V;
    unsafe fn load_u8(from: *const u8) -> Self::V;
    unsafe fn load_head_u8(from: *const u8, count: usize) -> Self::V;
    /// Writes `WIDTH` values.
    unsafe fn store(to: *mut f32, value: Self::V);

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`: one rounding where the CPU can, two in `portable`.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `b` where `a` is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// NaN where `b` is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;

    unsafe fn less(a: Self::V, b: Self::V) -> Self::Mask;
    /// Bit `i` is lane `i`.
    unsafe fn bits(mask: Self::Mask) -> u32;
    /// Lane by lane, `a` where the mask is set and `b` where it is not.
    unsafe fn select(mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V;

    /// The sum of all lanes, by a tree whose shape depends on `WIDTH` alone.
    unsafe fn sum(value: Self::V) -> f32;
    unsafe fn least(value: Self::V) -> f32;

    /// Reads four values from each of four places and writes them as four columns: value `k` of `from[j]` goes to
    /// `to + k · stride + j`.
    unsafe fn transpose4(from: [*const f32; 4], to: *mut f32, stride: usize);

    /// Asks for the cache line at `at`; any address will do.
    unsafe fn prefetch(at: *const u8);
}
