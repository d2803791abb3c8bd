//! Keeping the nearest of a stream sorted: a few newcomers at a time are merged into a sorted array, in one pass from its
//! end to where the least of them belongs.

/// Merges `incoming`, which is sorted here, into `slots[..len]`, which is ascending. Returns the place of the least.
/// Equal keys keep their order, the older first.
///
/// # Panics
/// Unless `slots` has room for `len + incoming.len()`, and `incoming` is not empty.
pub fn merge(slots: &mut [u64], len: usize, incoming: &mut [u64]) -> usize {
    assert!(!incoming.is_empty() && len + incoming.len() <= slots.len());
    sort(incoming);
    let mut end = len;
    for (before, &key) in incoming.iter().enumerate().rev() {
        let place = slots[..end].partition_point(|&kept| kept <= key);
        slots.copy_within(place..end, place + before + 1);
        slots[place + before] = key;
        end = place;
    }
    end
}

/// By insertion: what comes in is usually a handful.
#[inline(always)]
fn sort(keys: &mut [u64]) {
    if keys.len() > 40 {
        keys.sort_unstable();
        return;
    }
    for sorted in 1..keys.len() {
        let key = keys[sorted];
        let mut place = sorted;
        while place > 0 && keys[place - 1] > key {
            keys[place] = keys[place - 1];
            place -= 1;
        }
        keys[place] = key;
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::merge_avx512;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use std::arch::x86_64::*;

    /// [`merge`](super::merge) where looking for the place and moving what lies behind it are one pass, eight keys a
    /// step.
    ///
    /// # Safety
    /// The CPU has AVX-512 F.
    #[inline(always)]
    pub unsafe fn merge_avx512(slots: &mut [u64], len: usize, incoming: &mut [u64]) -> usize {
        const WIDTH: usize = 8;
        assert!(!incoming.is_empty() && len + incoming.len() <= slots.len());
        super::sort(incoming);
        // SAFETY (of all below): reads are within `..end`, `end` never exceeds `len`, and writes are at most
        // `incoming.len()` beyond.
        let slots = slots.as_mut_ptr();
        let mut end = len;
        for (before, &key) in incoming.iter().enumerate().rev() {
            let wanted = _mm512_set1_epi64(key as i64);
            let shift = before + 1;
            // Whole registers first: masked stores are slow.
            while end >= WIDTH {
                let kept = _mm512_loadu_si512(slots.add(end - WIDTH).cast());
                if _mm512_cmple_epu64_mask(kept, wanted) != 0 {
                    break;
                }
                _mm512_storeu_si512(slots.add(end - WIDTH + shift).cast(), kept);
                end -= WIDTH;
            }
            let (start, lanes) = match end.checked_sub(WIDTH) {
                Some(start) => (start, u8::MAX),
                None => (0, (1 << end) - 1),
            };
            let kept = _mm512_maskz_loadu_epi64(lanes, slots.add(start).cast());
            // Ascending, so these lanes come first.
            let stay = _mm512_mask_cmple_epu64_mask(lanes, kept, wanted);
            _mm512_mask_storeu_epi64(slots.add(start + shift).cast(), lanes & !stay, kept);
            end = start + stay.count_ones() as usize;
            *slots.add(end + before) = key;
        }
        end
    }
}
