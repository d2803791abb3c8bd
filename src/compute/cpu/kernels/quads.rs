//! The matrix product of bytes behind coarse assignment: as [`product`](super::product), with four dimensions, a *quad*,
//! in each 32-bit lane. Byte instructions (VNNI) multiply and add four times as many values as those of f32.

/// One register of 32-bit sums.
///
/// # Safety
/// The CPU has the instruction set of the implementation; pointers are good for the lanes that a function names.
pub trait QuadLanes {
    type Sums: Copy;

    /// 32-bit lanes.
    const WIDTH: usize;

    unsafe fn splat(start: i32) -> Self::Sums;
    /// To each lane adds the product of its own four bytes of `panel` (`4 · WIDTH` bytes) with the four of `quad`.
    unsafe fn add_products(sums: Self::Sums, panel: *const u8, quad: *const i8) -> Self::Sums;
    /// Writes `WIDTH` sums as f32.
    unsafe fn store(to: *mut f32, sums: Self::Sums);
}

/// A start of −128 · Σ i8 and as many products of i8 × u8 as this many quads make stay within i32.
pub const MAX_QUADS: usize = 1 << 13;

/// For each row its products with all columns: row `r` fills `out[r · stride..]` with
/// `starts[r] + Σ_d rows[r][d] · column[d]`, exact in i32 and then rounded to f32.
///
/// `rows` is `starts.len()` rows, at most `MR`, of whole quads; a panel is `quads × 2·WIDTH × 4` bytes, so that one load
/// yields a quad of many columns. `out` holds `MR` rows even where fewer are asked for; what it holds behind those is then
/// meaningless.
///
/// # Safety
/// As [`QuadLanes`].
#[inline(always)]
pub unsafe fn product<L: QuadLanes, const MR: usize>(
    rows: &[i8],
    starts: &[i32],
    panels: &[u8],
    out: &mut [f32],
    stride: usize,
) {
    let width = 2 * L::WIDTH;
    assert!((1..=MR).contains(&starts.len()), "a strip is 1 to {MR} rows");
    let quads = rows.len() / (4 * starts.len());
    assert!((1..=MAX_QUADS).contains(&quads) && rows.len() == 4 * quads * starts.len());
    assert_eq!(panels.len() % (4 * width * quads), 0);
    let columns = panels.len() / (4 * quads);
    assert!(columns <= stride && (MR - 1) * stride + columns <= out.len());

    // A short strip repeats its last row: cheaper than a kernel for each height.
    let mut at = [rows.as_ptr(); MR];
    let mut start = [0; MR];
    for row in 0..MR {
        let own = row.min(starts.len() - 1);
        start[row] = starts[own];
        // SAFETY: `rows` is `starts.len()` rows of `4 · quads` bytes.
        at[row] = unsafe { rows.as_ptr().add(own * 4 * quads) };
    }
    for (index, panel) in panels.chunks_exact(4 * width * quads).enumerate() {
        // SAFETY: each of `at` and the panel hold `quads` steps; the last store ends at `(MR − 1) · stride + columns`.
        unsafe {
            let mut sums = [[L::splat(0); 2]; MR];
            for row in 0..MR {
                sums[row] = [L::splat(start[row]); 2];
            }
            for quad in 0..quads {
                let step = panel.as_ptr().add(quad * 4 * width);
                for row in 0..MR {
                    let value = at[row].add(4 * quad);
                    sums[row][0] = L::add_products(sums[row][0], step, value);
                    sums[row][1] = L::add_products(sums[row][1], step.add(4 * L::WIDTH), value);
                }
            }
            for row in 0..MR {
                let to = out.as_mut_ptr().add(row * stride + index * width);
                L::store(to, sums[row][0]);
                L::store(to.add(L::WIDTH), sums[row][1]);
            }
        }
    }
}

/// A row as bytes: what it is of `centre`, scaled to −127..=127 by its greatest value. What is left of the last quad is 0.
/// Returns what a step is worth, and the sum of all bytes.
///
/// # Safety
/// None is asked for: it is unsafe as all kernels are, for the tables' sake.
#[inline(always)]
pub unsafe fn quantize(row: &[f32], centre: &[f32], bytes: &mut [i8]) -> (f32, i32) {
    /// Added to a number of at most 2²², this leaves it in the low bits, rounded.
    const ROUND: f32 = 12_582_912.0;
    assert!(row.len() == centre.len() && row.len() <= bytes.len());
    let greatest = row.iter().zip(centre).fold(0.0f32, |greatest, (value, centre)| {
        let size = (value - centre).abs();
        if size > greatest { size } else { greatest }
    });
    let scale = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
    let (own, rest) = bytes.split_at_mut(row.len());
    let mut sum = 0;
    for ((byte, value), centre) in own.iter_mut().zip(row).zip(centre) {
        *byte = ((value - centre) * scale + ROUND).to_bits() as i8;
        sum += i32::from(*byte);
    }
    rest.fill(0);
    (greatest / 127.0, sum)
}

/// Loops that the compiler vectorises as far as the features of the table allow.
pub struct Plain<const WIDTH: usize>;

impl<const WIDTH: usize> QuadLanes for Plain<WIDTH> {
    type Sums = [i32; WIDTH];

    const WIDTH: usize = WIDTH;

    #[inline(always)]
    unsafe fn splat(start: i32) -> [i32; WIDTH] {
        [start; WIDTH]
    }

    #[inline(always)]
    unsafe fn add_products(mut sums: [i32; WIDTH], panel: *const u8, quad: *const i8) -> [i32; WIDTH] {
        // SAFETY: as the trait.
        let quad = unsafe { quad.cast::<[i8; 4]>().read_unaligned() };
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as the trait; `lane` is below `WIDTH`.
            let column = unsafe { panel.add(4 * lane).cast::<[u8; 4]>().read_unaligned() };
            for (value, column) in quad.into_iter().zip(column) {
                *sum += i32::from(value) * i32::from(column);
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, sums: [i32; WIDTH]) {
        // SAFETY: as the trait.
        unsafe { to.cast::<[f32; WIDTH]>().write_unaligned(sums.map(|sum| sum as f32)) }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{AvxVnni, Vnni};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use std::arch::x86_64::*;

    use super::QuadLanes;

    /// AVX-512 VNNI.
    pub struct Vnni;

    impl QuadLanes for Vnni {
        type Sums = __m512i;

        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn splat(start: i32) -> __m512i {
            _mm512_set1_epi32(start)
        }

        #[inline(always)]
        unsafe fn add_products(sums: __m512i, panel: *const u8, quad: *const i8) -> __m512i {
            let quad = _mm512_set1_epi32(quad.cast::<i32>().read_unaligned());
            _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(panel.cast()), quad)
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: __m512i) {
            _mm512_storeu_ps(to, _mm512_cvtepi32_ps(sums))
        }
    }

    /// AVX-VNNI: the same in 256 bits, for CPUs without AVX-512.
    pub struct AvxVnni;

    impl QuadLanes for AvxVnni {
        type Sums = __m256i;

        const WIDTH: usize = 8;

        #[inline(always)]
        unsafe fn splat(start: i32) -> __m256i {
            _mm256_set1_epi32(start)
        }

        #[inline(always)]
        unsafe fn add_products(sums: __m256i, panel: *const u8, quad: *const i8) -> __m256i {
            let quad = _mm256_set1_epi32(quad.cast::<i32>().read_unaligned());
            _mm256_dpbusd_avx_epi32(sums, _mm256_loadu_si256(panel.cast()), quad)
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: __m256i) {
            _mm256_storeu_ps(to, _mm256_cvtepi32_ps(sums))
        }
    }
}
