//! Masks by the text of their filters, within a number of bytes.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::FilterError;
use crate::index::RowMask;
use crate::store::Clock;

/// What an entry takes beside its text and its mask's words: the key, the slot's pointer and the accounts, in the map and on
/// the clock's hand, with the room that both keep (up to 150 bytes); the slot (100) and the mask's head (60), both shared; what
/// an allocator adds to these four pieces (60). Rounded up: of an index of few rows it is nearly all.
const ENTRY_BYTES: usize = 512;

/// Masks that nobody asks for go first, see [`Clock`]. A filter that several threads ask for at once is evaluated by one of
/// them.
pub(in crate::loader) struct FilterCache {
    slots: Mutex<Clock<Arc<str>, Slot>>,
}

type Slot = Arc<OnceLock<Result<Arc<RowMask>, FilterError>>>;

impl FilterCache {
    pub fn new(budget_bytes: usize) -> Self {
        Self { slots: Mutex::new(Clock::new(budget_bytes as u64)) }
    }

    /// The mask of `filter`, evaluated over `rows` rows if it is not there. Errors are not kept, and that another's time was over
    /// is no error of whoever waited for him.
    pub fn get(
        &self,
        filter: &str,
        rows: usize,
        evaluate: impl Fn() -> Result<RowMask, FilterError>,
    ) -> Result<Arc<RowMask>, FilterError> {
        loop {
            let slot = self.slot(filter, ENTRY_BYTES + rows.div_ceil(64) * size_of::<u64>() + filter.len());
            let mut is_own = false;
            let mask = slot.get_or_init(|| {
                is_own = true;
                evaluate().map(Arc::new)
            });
            if mask.is_err() {
                self.remove(filter, &slot);
            }
            match mask {
                Err(FilterError::TimeOut) if !is_own => {}
                mask => return mask.clone(),
            }
        }
    }

    fn slot(&self, filter: &str, size_bytes: usize) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(filter) {
            return slot.clone();
        }
        let slot = Slot::default();
        let gone = slots.insert(filter.into(), slot.clone(), size_bytes as u64);
        // Masks are freed when others may ask again.
        drop(slots);
        drop(gone);
        slot
    }

    fn remove(&self, filter: &str, slot: &Slot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.get(filter).is_some_and(|kept| Arc::ptr_eq(kept, slot)) {
            slots.remove(filter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Weak;

    use super::*;

    fn mask() -> Result<RowMask, FilterError> {
        Ok(RowMask::all(640))
    }

    /// A mask of 80 bytes and its one-letter filter.
    const ONE: usize = ENTRY_BYTES + 81;

    #[test]
    fn a_filter_is_evaluated_once_until_it_is_one_too_many() {
        let cache = FilterCache::new(2 * ONE);
        let evaluated = |filter: &str| {
            let evaluated = Cell::new(false);
            let evaluate = || {
                evaluated.set(true);
                mask()
            };
            cache.get(filter, 640, evaluate).unwrap();
            evaluated.get()
        };
        assert_eq!(["a", "a", "b", "a"].map(evaluated), [true, false, true, false]);
        assert_eq!(["c", "a", "b"].map(evaluated), [true, false, true], "b was not asked for again, nor c");
    }

    #[test]
    fn filters_that_never_come_again_keep_to_the_budget_on_an_index_of_few_rows() {
        let cache = FilterCache::new(64 * ONE);
        let masks: Vec<Weak<RowMask>> = (0..10_000)
            .map(|id| {
                let filter = format!("id = {id}");
                Arc::downgrade(&cache.get(&filter, 1, || Ok(RowMask::all(1))).unwrap())
            })
            .collect();
        let kept = masks.iter().filter(|mask| mask.strong_count() > 0).count();
        assert!((60..=74).contains(&kept), "{kept} masks are kept");
    }

    #[test]
    fn what_is_larger_than_the_budget_is_not_kept_and_errors_are_not() {
        let cache = FilterCache::new(ONE - 1);
        let error = || FilterError::Long { expected: 1, got: 2 };
        assert!(cache.get("a", 640, mask).is_ok());
        assert_eq!(cache.get("a", 640, || Err(error())), Err(error()));
        let cache = FilterCache::new(ONE);
        assert_eq!(cache.get("a", 640, || Err(error())), Err(error()));
        assert!(cache.get("a", 640, mask).is_ok());
        assert!(cache.get("a", 640, || Err(error())).is_ok());
    }

    #[test]
    fn threads_that_ask_at_once_share_one_evaluation() {
        let (cache, evaluations) = (FilterCache::new(1000), std::sync::atomic::AtomicUsize::new(0));
        let all_there = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    all_there.wait();
                    let evaluate = || {
                        evaluations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        mask()
                    };
                    cache.get("a", 640, evaluate).unwrap();
                });
            }
        });
        assert_eq!(evaluations.into_inner(), 1);
    }

    #[test]
    fn whoever_has_time_left_does_not_fail_with_one_whose_time_is_over() {
        let cache = FilterCache::new(1000);
        let (begun, slow_is_there) = std::sync::mpsc::channel();
        let (let_go, waits) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let cache = &cache;
            let slow = scope.spawn(move || {
                cache.get("a", 640, || {
                    begun.send(()).unwrap();
                    waits.recv().unwrap();
                    Err(FilterError::TimeOut)
                })
            });
            slow_is_there.recv().unwrap();
            let patient = scope.spawn(|| cache.get("a", 640, mask));
            let_go.send(()).unwrap();
            assert_eq!(slow.join().unwrap(), Err(FilterError::TimeOut));
            assert!(patient.join().unwrap().is_ok());
        });
    }
}
