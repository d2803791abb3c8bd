//! What one core does at best: independent multiply-adds that never wait for memory, and reads that do nothing else.

use std::hint::black_box;

/// Multiply-adds per lane and accumulator of one call.
const STEPS: usize = 1 << 14;
/// As many as hide the latency of a multiply-add on two units: 4 cycles × 2, and some.
const ACCUMULATORS: usize = 12;
/// Values of the widest register.
const LANES: usize = 16;

/// Floating-point operations of [`multiply_adds`].
pub const FLOPS: u64 = 2 * (STEPS * ACCUMULATORS * LANES) as u64;

pub fn multiply_adds() -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has it.
            return unsafe { wide() };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has both.
            return unsafe { narrow() };
        }
    }
    steps()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide() -> f32 {
    steps()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn narrow() -> f32 {
    steps()
}

/// Compiled for the instruction set of whoever calls it.
#[inline(always)]
fn steps() -> f32 {
    let factor = [black_box(0.999f32); LANES];
    let mut sums = [[black_box(1.0f32); LANES]; ACCUMULATORS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for (value, factor) in sum.iter_mut().zip(&factor) {
                *value = value.mul_add(*factor, 0.5);
            }
        }
    }
    black_box(sums).iter().flatten().sum()
}

/// The sum of all words, in as many independent parts as keep the loads coming.
pub fn read(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for chunk in words.chunks_exact(sums.len()) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
