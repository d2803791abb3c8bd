//! Masks by the text of their filters, within a number of bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::FilterError;
use crate::index::RowMask;

/// Least recently used masks go first. A filter that several threads ask for at once is evaluated by one of them.
pub(in crate::loader) struct FilterCache {
    budget_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    size_bytes: usize,
    clock: u64,
}

type Slot = Arc<OnceLock<Result<Arc<RowMask>, FilterError>>>;

struct Entry {
    slot: Slot,
    size_bytes: usize,
    used: u64,
}

impl FilterCache {
    pub fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, state: Mutex::default() }
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
            let slot = self.slot(filter, rows.div_ceil(64) * size_of::<u64>() + filter.len());
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        if let Some(entry) = state.entries.get_mut(filter) {
            entry.used = now;
            return entry.slot.clone();
        }
        let slot = Slot::default();
        if size_bytes <= self.budget_bytes {
            state.make_room(self.budget_bytes - size_bytes);
            state.size_bytes += size_bytes;
            state.entries.insert(filter.into(), Entry { slot: slot.clone(), size_bytes, used: now });
        }
        slot
    }

    fn remove(&self, filter: &str, slot: &Slot) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.entries.get(filter).is_some_and(|entry| Arc::ptr_eq(&entry.slot, slot)) {
            state.forget(&filter.to_string());
        }
    }
}

impl State {
    fn make_room(&mut self, left_bytes: usize) {
        while self.size_bytes > left_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(filter) = oldest.map(|(filter, _)| filter.clone()) else { return };
            self.forget(&filter);
        }
    }

    fn forget(&mut self, filter: &String) {
        if let Some(entry) = self.entries.remove(filter) {
            self.size_bytes -= entry.size_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn mask() -> Result<RowMask, FilterError> {
        Ok(RowMask::all(640))
    }

    #[test]
    fn a_filter_is_evaluated_once_until_it_is_the_least_recently_used_one_too_many() {
        // Two masks of 80 bytes, and their one-letter filters.
        let cache = FilterCache::new(2 * 81);
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
        assert_eq!(["c", "a", "b"].map(evaluated), [true, false, true], "b was the oldest, then c");
    }

    #[test]
    fn what_is_larger_than_the_budget_is_not_kept_and_errors_are_not() {
        let cache = FilterCache::new(80);
        let error = || FilterError::Long { expected: 1, got: 2 };
        assert!(cache.get("a", 640, mask).is_ok());
        assert_eq!(cache.get("a", 640, || Err(error())), Err(error()));
        let cache = FilterCache::new(81);
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
