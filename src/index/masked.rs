//! Searching under a mask by means of a search that knows of none: for families without a way of their own.

use super::{RowMask, SearchParams};
use crate::vectors::Neighbor;

/// The rows that a search may return, and how long it looks for them.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a> {
    pub mask: &'a RowMask,
    /// Rows that may be compared, about, before the search gives up: for whoever can compare the allowed rows one by
    /// one at that price. `usize::MAX`: it does not.
    pub patience: usize,
}

impl<'a> Allowed<'a> {
    /// Looks until it has found.
    pub fn patiently(mask: &'a RowMask) -> Self {
        Self { mask, patience: usize::MAX }
    }
}

/// What [`Searcher::search_masked`](super::Searcher::search_masked) does by default: looks for more rows, and harder,
/// by the factor that the mask keeps away; then for twice as many, until enough of those found are allowed. More rows at
/// as many times the effort are found as well as few at the effort itself. The last attempt asks for all rows at the
/// highest effort.
pub(super) fn widen(
    search: &mut dyn FnMut(&SearchParams, &mut Vec<Neighbor>),
    params: &SearchParams,
    allowed: &Allowed<'_>,
    found: &mut Vec<Neighbor>,
) -> bool {
    found.clear();
    let Allowed { mask, mut patience } = *allowed;
    let k = params.k.min(mask.count());
    if k == 0 {
        return true;
    }
    if mask.count() == mask.rows() {
        search(params, found);
        return true;
    }
    // How many of the rows found are allowed varies by the root of their number: most queries need no second attempt.
    let wanted = k + 2 * k.isqrt();
    // For each row that is allowed there are rows / count: a mask that keeps few away asks for little more.
    let widened = |value: usize, times: usize| {
        let value = value.saturating_mul(times).saturating_mul(mask.rows());
        if value == usize::MAX { value } else { value.div_ceil(mask.count()) }
    };
    let mut times = 1;
    loop {
        let [k_wide, effort, refine] =
            [wanted, params.effort, params.refine].map(|value| widened(value, times));
        let mut wider = SearchParams { k: k_wide, effort, refine };
        let all = wider.k >= mask.rows();
        if all {
            wider = SearchParams { k: mask.rows(), effort: usize::MAX, refine: mask.rows() };
        }
        let compared = wider.rows_compared().min(mask.rows());
        if compared > patience {
            found.clear();
            return false;
        }
        patience -= compared;
        search(&wider, found);
        found.retain(|neighbor| mask.contains(neighbor.ordinal));
        found.truncate(k);
        if found.len() == k || all {
            return true;
        }
        times = times.saturating_mul(2);
    }
}
