//! Codes by the anisotropic loss: coordinate descent over sub-vectors (`train::score_aware` says what it minimises).

use super::super::lanes::Lanes;

/// One row and the codebooks that it is coded by.
#[derive(Clone, Copy)]
pub struct ScoredRow<'a> {
    /// The row, and what is encoded of it: `pq_m · dsub` values each.
    pub row: &'a [f32],
    pub target: &'a [f32],
    /// `pq_m × dsub × ksub`: a dimension of all entries together.
    pub entries: &'a [f32],
    /// 16 or 256.
    pub ksub: usize,
    /// How much more an error along the row counts, over the row's squared length.
    pub weight: f32,
    /// Passes over all sub-vectors at most.
    pub sweeps: usize,
}

/// Lowers Σ error + `weight` · (Σ along)², in which a sub-vector y of the target and an entry c have error |y − c|² and
/// along ⟨y − c, x⟩ with x the row's sub-vector: for one sub-vector after the other the entry of least loss beside those of
/// the others. Ties stay as they are, else go to the lowest code. `along`, `error` and `loss` are scratch of
/// `pq_m × ksub`, `pq_m × ksub` and `ksub`.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn descend<L: Lanes>(
    scored: ScoredRow<'_>,
    code: &mut [u8],
    along: &mut [f32],
    error: &mut [f32],
    loss: &mut [f32],
) {
    let ScoredRow { row, target, entries, ksub, weight, sweeps } = scored;
    let pq_m = code.len();
    assert!(ksub == 16 || ksub == 256, "{ksub} entries");
    assert!(ksub.is_multiple_of(L::WIDTH) && pq_m > 0 && row.len().is_multiple_of(pq_m));
    let dsub = row.len() / pq_m;
    assert_eq!((target.len(), entries.len()), (row.len(), row.len() * ksub));
    assert_eq!((along.len(), error.len(), loss.len()), (pq_m * ksub, pq_m * ksub, ksub));
    assert!(code.iter().all(|&code| usize::from(code) < ksub), "codes below {ksub}");
    let mut total = 0.0;
    for m in 0..pq_m {
        for at in (0..ksub).step_by(L::WIDTH) {
            // SAFETY: a register at `at` lies within the `ksub` values of its row, and the assertions say that the rows
            // are there.
            unsafe {
                let (mut along_sum, mut error_sum) = (L::splat(0.0), L::splat(0.0));
                for d in m * dsub..(m + 1) * dsub {
                    let missing = L::sub(L::splat(target[d]), L::load(entries.as_ptr().add(d * ksub + at)));
                    along_sum = L::mul_add(missing, L::splat(row[d]), along_sum);
                    error_sum = L::mul_add(missing, missing, error_sum);
                }
                L::store(along.as_mut_ptr().add(m * ksub + at), along_sum);
                L::store(error.as_mut_ptr().add(m * ksub + at), error_sum);
            }
        }
        total += along[m * ksub + usize::from(code[m])];
    }
    for _ in 0..sweeps {
        let mut changed = false;
        for (m, code) in code.iter_mut().enumerate() {
            let own = &along[m * ksub..(m + 1) * ksub];
            let others = total - own[usize::from(*code)];
            let error = &error[m * ksub..(m + 1) * ksub];
            // SAFETY: as above; `loss` is as long as `own` and `error`.
            let best = unsafe { least_loss::<L>(own, error, others, weight, loss, *code) };
            changed |= best != *code;
            *code = best;
            total = others + own[usize::from(best)];
        }
        if !changed {
            break;
        }
    }
}

/// # Safety
/// As [`Lanes`]; the slices are of one length, whole registers.
#[inline(always)]
unsafe fn least_loss<L: Lanes>(
    along: &[f32],
    error: &[f32],
    others: f32,
    weight: f32,
    loss: &mut [f32],
    now: u8,
) -> u8 {
    unsafe {
        let mut least = L::splat(f32::INFINITY);
        for at in (0..loss.len()).step_by(L::WIDTH) {
            let all = L::add(L::load(along.as_ptr().add(at)), L::splat(others));
            let weighed = L::mul_add(L::splat(weight), all, L::splat(0.0));
            let value = L::mul_add(weighed, all, L::load(error.as_ptr().add(at)));
            L::store(loss.as_mut_ptr().add(at), value);
            least = L::min(value, least);
        }
        let least = L::least(least);
        if loss[usize::from(now)] <= least {
            return now;
        }
        let above = L::splat(least.next_up());
        for at in (0..loss.len()).step_by(L::WIDTH) {
            let hits = L::bits(L::less(L::load(loss.as_ptr().add(at)), above));
            if hits != 0 {
                return (at + hits.trailing_zeros() as usize) as u8;
            }
        }
    }
    // Only where losses are no numbers.
    now
}
