//! What each stage cost: wall time, processor time of all threads, bytes.

use std::time::{Duration, Instant};

use crate::artifact::Stage;

/// The stages so far, in the order that they ran.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    stages: Vec<Stage>,
}

/// Bytes that a stage moved to and from storage.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    pub read: u64,
    pub written: u64,
}

impl Ledger {
    /// Runs a stage and enters what it cost, if it succeeds.
    pub fn enter<T, E>(
        &mut self,
        name: &str,
        stage: impl FnOnce(&mut Moved) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut moved = Moved::default();
        let (wall, cpu) = (Instant::now(), cpu_time());
        let value = stage(&mut moved)?;
        let cpu = cpu_time().zip(cpu).map_or(Duration::ZERO, |(end, start)| end.saturating_sub(start));
        self.stages.push(Stage {
            name: name.into(),
            wall_ms: wall.elapsed().as_secs_f64() * 1e3,
            cpu_ms: cpu.as_secs_f64() * 1e3,
            bytes_read: moved.read,
            bytes_written: moved.written,
            resumed: false,
        });
        Ok(value)
    }

    /// Enters stages that an earlier run has done.
    pub fn resume(&mut self, stages: Vec<Stage>) {
        self.stages.extend(stages.into_iter().map(|stage| Stage { resumed: true, ..stage }));
    }

    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    pub fn extend(&mut self, stages: &[Stage]) {
        self.stages.extend_from_slice(stages);
    }
}

/// Processor time of this process, all threads, user and system.
#[cfg(unix)]
pub fn cpu_time() -> Option<Duration> {
    let usage = resource_usage()?;
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Some(of(usage.ru_utime) + of(usage.ru_stime))
}

/// The largest resident set that this process has had.
#[cfg(target_os = "linux")]
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    // Not `ru_maxrss`: that begins with what the process that started this one had.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.trim_end().parse::<u64>().ok()? << 10)
}

/// The largest resident set that this process has had.
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let peak = resource_usage()?.ru_maxrss as u64;
    // macOS counts in bytes, others in KiB.
    Some(if cfg!(target_os = "macos") { peak } else { peak << 10 })
}

#[cfg(unix)]
fn resource_usage() -> Option<libc::rusage> {
    let mut usage = std::mem::MaybeUninit::uninit();
    // SAFETY: `usage` is writable and of the right type; on success all of it has been written.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } == 0;
    // SAFETY: as above.
    done.then(|| unsafe { usage.assume_init() })
}

/// Not known on this system.
#[cfg(not(unix))]
pub fn cpu_time() -> Option<Duration> {
    None
}

#[cfg(not(unix))]
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    None
}
