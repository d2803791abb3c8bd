//! What each stage cost: wall time, processor time of all threads, bytes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::progress::Progress;
use crate::artifact::{DeviceCost, KernelCost, Stage};
use crate::compute::{Compute, DeviceWork, KernelRun};

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
            device: None,
        });
        Ok(value)
    }

    /// [`enter`](Self::enter) for a stage that computes: what its device did is entered, too, and told.
    pub fn enter_on<T, E>(
        &mut self,
        compute: &dyn Compute,
        progress: &Progress,
        name: &str,
        stage: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        // What a stage that failed had done.
        drop(compute.take_device_work());
        let value = self.enter(name, |_| stage())?;
        let work = compute.take_device_work();
        progress.device_ran(&work.runs);
        if let Some(stage) = self.stages.last_mut() {
            stage.device = device_cost(&work);
        }
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

fn device_cost(work: &DeviceWork) -> Option<DeviceCost> {
    if *work == DeviceWork::default() {
        return None;
    }
    let mut totals: BTreeMap<&str, KernelTotal> = BTreeMap::new();
    for run in &work.runs {
        totals.entry(run.kernel).or_default().add(run);
    }
    let mut kernels: Vec<KernelCost> = totals.into_iter().map(|(name, total)| total.cost(name)).collect();
    kernels.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    Some(DeviceCost { uploaded_bytes: work.uploaded_bytes, downloaded_bytes: work.downloaded_bytes, kernels })
}

/// All runs of a kernel.
#[derive(Default)]
struct KernelTotal {
    runs: u64,
    took: Duration,
    flops: f64,
    bytes: f64,
}

impl KernelTotal {
    fn add(&mut self, run: &KernelRun) {
        self.runs += 1;
        self.took += run.took;
        self.flops += run.flops;
        self.bytes += run.bytes;
    }

    fn cost(&self, name: &str) -> KernelCost {
        // A clock may be too coarse for a small kernel.
        let seconds = self.took.as_secs_f64().max(1e-9);
        KernelCost {
            name: name.into(),
            runs: self.runs,
            ms: self.took.as_secs_f64() * 1e3,
            gflops: self.flops / seconds * 1e-9,
            gb_per_s: self.bytes / seconds * 1e-9,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_kernel_are_one_line_and_rates_are_of_their_sum() {
        let run = |kernel, ms, flops| KernelRun {
            kernel,
            started: Instant::now(),
            took: Duration::from_millis(ms),
            flops,
            bytes: 2e9,
        };
        let runs = vec![run("norms", 0, 5.0), run("product", 100, 3e9), run("product", 300, 1e9)];
        let work = DeviceWork { runs, uploaded_bytes: 7, downloaded_bytes: 8 };
        let cost = device_cost(&work).unwrap();
        assert_eq!((cost.uploaded_bytes, cost.downloaded_bytes), (7, 8));
        let names: Vec<&str> = cost.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["product", "norms"]);
        let KernelCost { runs, ms, gflops, gb_per_s, .. } = cost.kernels[0];
        assert_eq!((runs, ms, gflops, gb_per_s), (2, 400.0, 10.0, 10.0));
        assert!(cost.kernels[1].gflops.is_finite());
        assert_eq!(device_cost(&DeviceWork::default()), None);
    }
}
