//! Keeps what this process has resident within a budget, as far as maps of files are concerned: their pages are taken out when it
//! comes near, and what an allocator keeps of freed memory. What else it has of its own is the stages' matter, see `estimate.rs`. Pages that the system still has come back
//! within milliseconds: some tens of MiB more than the budget may be resident for a moment, of which none is needed: where a limit
//! is enforced (a cgroup's), the system takes them itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::artifact::spill;

/// How often it is looked. At 4 GB/s, as pages come that the system still has, it is 8 MB later by then.
const INTERVAL: Duration = Duration::from_millis(2);

/// Less than this is not worth the faults that bring it back.
const LEAST: u64 = 8 << 20;

/// From how much on pages are taken out, of a budget.
pub(super) fn limit(budget: u64) -> u64 {
    budget / 8 * 7
}

/// Looks after a budget until it is dropped.
pub(super) struct Residence {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Residence {
    /// `None` where a thread cannot be had, or the system does not tell what is resident: the system's own paging is then all
    /// there is.
    pub fn keep(budget: u64) -> Option<Self> {
        resident_bytes()?;
        let ended = Arc::new(AtomicBool::new(false));
        let watched = ended.clone();
        let limit = limit(budget);
        let watch = move || {
            // What was resident after the last time, which is neither in maps nor free: it is not tried again for nothing.
            let mut rest = 0;
            while !watched.load(Ordering::Relaxed) {
                if resident_bytes().is_some_and(|resident| resident > limit.max(rest + LEAST)) {
                    spill::give_back(&|| resident_bytes().is_none_or(|resident| resident + LEAST <= limit));
                    if resident_bytes().is_some_and(|resident| resident > limit) {
                        spill::trim();
                    }
                    rest = resident_bytes().unwrap_or(0);
                }
                std::thread::park_timeout(INTERVAL);
            }
        };
        let thread = std::thread::Builder::new().name("annvil-residence".into()).spawn(watch).ok()?;
        Some(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// What of this process is in memory now.
#[cfg(target_os = "linux")]
pub(super) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: takes no pointer and changes nothing.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn resident_bytes() -> Option<u64> {
    None
}
