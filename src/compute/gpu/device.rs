//! An open device: its limits, its faults, its clock. Every way in which a GPU can fail becomes an error value here;
//! nothing above sees a wgpu error, and nothing panics.
//!
//! wgpu reports failures in three ways that all end in [`Faults`]: error scopes around what may run out of memory or
//! be invalid, a handler for every other error (it would panic by default), and a callback for a lost device, which
//! is the only sign of one: later calls silently do nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::{AdapterSummary, ComputeError, Result};
use super::adapter::{block_on, choose};
use super::variants::Variant;

/// How to open a GPU.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Accept a CPU posing as a GPU. Default `false`; for tests of shaders.
    pub allow_software: bool,
    /// Bytes of GPU memory that may be held at a time, staging included. Default: what the driver gives.
    /// Rows that do not fit are streamed for each operation.
    pub memory_budget: Option<u64>,
    /// Bytes of the largest storage binding to use, at most the adapter's. Default: the adapter's.
    pub binding_limit: Option<u64>,
    /// Threads along one side of a tile's workgroup: 8 or 16. Default: 16 where the adapter has 256 threads and
    /// 32 KiB of workgroup memory for them.
    pub lanes: Option<u32>,
    /// What products rank by, where halves may. Default: the best that the adapter offers, of software f32.
    pub variant: Option<Variant>,
    /// How long one batch of work may take before the device is given up. Default 60 s; batches are cut to
    /// take well under one on hardware.
    pub timeout: Duration,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            allow_software: false,
            memory_budget: None,
            binding_limit: None,
            lanes: None,
            variant: None,
            timeout: Duration::from_secs(60),
        }
    }
}

/// Floating-point operations in one dispatch: some 10 ms of an H200, a quarter of a second of an integrated GPU.
/// Operating systems reset a GPU that is busy for about two seconds.
const HARDWARE_BATCH_FLOPS: f64 = 2.5e11;
/// The same for a CPU at a few GFLOP/s.
const SOFTWARE_BATCH_FLOPS: f64 = 2e9;
/// Mesa's llvmpipe ends all loops of a shader, silently, once they have run 65,535 times between them
/// (`LP_MAX_TGSI_LOOP_ITERATIONS`): results would be wrong without any error.
const SOFTWARE_LOOP_ITERATIONS: usize = 60_000;

pub(super) struct Device {
    /// Tells this device's rows from another's.
    pub id: u64,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub adapter: AdapterSummary,
    pub limits: wgpu::Limits,
    /// Bytes of the largest binding, a multiple of 4.
    pub binding_limit: u64,
    pub lanes: u32,
    pub variant: Variant,
    pub batch_flops: f64,
    /// How often the loops of one invocation may run, all of them together.
    pub loop_iterations: usize,
    timeout: Duration,
    faults: Arc<Faults>,
}

/// What went wrong, as wgpu's callbacks left it.
#[derive(Default)]
struct Faults {
    is_lost: AtomicBool,
    lost: Mutex<String>,
    uncaptured: Mutex<Option<String>>,
}

impl Faults {
    fn lose(&self, reason: String) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_lost.swap(true, Ordering::AcqRel) {
            *lost = reason;
        }
    }

    fn check(&self) -> Result<()> {
        if self.is_lost.load(Ordering::Acquire) {
            let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(ComputeError::DeviceLost(lost.clone()));
        }
        let mut uncaptured = self.uncaptured.lock().unwrap_or_else(PoisonError::into_inner);
        uncaptured.take().map_or(Ok(()), |message| Err(ComputeError::Validation(message)))
    }
}

impl Device {
    pub fn open(instance: &wgpu::Instance, options: &GpuOptions) -> Result<Self> {
        let adapter = choose(instance, options.allow_software)?;
        let summary = AdapterSummary::of(&adapter);
        let limits = adapter.limits();
        let software = summary.software;
        let lanes = lanes(options.lanes, &limits, software)?;
        let variant = Variant::choose(options.variant, &adapter, lanes)?;
        // SAFETY: no condition of ours. wgpu calls cooperative matrices experimental because its own handling of them may be
        // unsound; the one shader that has them is only believed after a trial (`Gpu::new`).
        let experimental_features = match variant {
            Variant::Matrix => unsafe { wgpu::ExperimentalFeatures::enabled() },
            Variant::Plain | Variant::Half => wgpu::ExperimentalFeatures::disabled(),
        };
        // Without `required_limits` a device has WebGPU's small defaults, whatever the adapter offers.
        let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("annvil"),
            required_features: variant.features() | (adapter.features() & wgpu::Features::TIMESTAMP_QUERY),
            required_limits: limits.clone(),
            experimental_features,
            ..Default::default()
        }))
        .map_err(|error| ComputeError::NoAdapter(format!("{summary}: {error}")))?;

        let faults = Arc::new(Faults::default());
        let on_loss = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            on_loss.lose(format!("{reason:?} {message}").trim_end().to_owned());
        });
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut first = on_error.uncaptured.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| error.to_string());
        }));

        static OPENED: AtomicU64 = AtomicU64::new(0);
        let binding_limit = summary.binding_limit;
        Ok(Self {
            id: OPENED.fetch_add(1, Ordering::Relaxed),
            binding_limit: options.binding_limit.unwrap_or(binding_limit).min(binding_limit) / 4 * 4,
            lanes,
            variant,
            batch_flops: if software { SOFTWARE_BATCH_FLOPS } else { HARDWARE_BATCH_FLOPS },
            loop_iterations: if software { SOFTWARE_LOOP_ITERATIONS } else { usize::MAX },
            timeout: options.timeout,
            device,
            queue,
            adapter: summary,
            limits,
            faults,
        })
    }

    /// The errors of `make`, named; `what` says what was made.
    pub fn guarded<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let made = make();
        let errors = [memory, validation, internal].map(|scope| block_on(scope.pop()));
        let error = errors.into_iter().flatten().next();
        // A lost device makes everything invalid: then the loss is the news. It is told at a poll.
        if error.is_some() {
            self.check()?
        } else {
            self.faults.check()?
        }
        match error {
            None => Ok(made),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(ComputeError::OutOfMemory { what: what.into(), needed: 0, allowed: 0 })
            }
            Some(error) => Err(ComputeError::Validation(format!("{what}: {error}"))),
        }
    }

    /// Gives the device back to the driver. It is lost from here on: whoever meets it half gone hears that.
    pub fn destroy(&self) {
        self.faults.lose("it was given back".into());
        self.device.destroy();
    }

    /// Fails if the device is lost or has refused anything since the last check.
    pub fn check(&self) -> Result<()> {
        self.poll(wgpu::PollType::Poll, "")
    }

    pub fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<wgpu::SubmissionIndex> {
        let index = self.queue.submit([encoder.finish()]);
        self.faults.check()?;
        Ok(index)
    }

    /// Waits until `submission` is done; `what` names it if it never is.
    pub fn wait(&self, submission: &wgpu::SubmissionIndex, what: &str) -> Result<()> {
        let wait =
            wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: Some(self.timeout) };
        self.poll(wait, what)
    }

    fn poll(&self, poll: wgpu::PollType, what: &str) -> Result<()> {
        // wgpu 30 panics in here when the driver reports the loss itself.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(poll)));
        match polled {
            Ok(Ok(_)) => self.faults.check(),
            Ok(Err(wgpu::PollError::Timeout)) => {
                self.faults.check()?;
                // Its buffers are still in use by work that may never end: nothing can be done with it any more.
                self.faults.lose(format!("gave up waiting for {what}"));
                Err(ComputeError::TimedOut { what: what.into(), seconds: self.timeout.as_secs() })
            }
            Ok(Err(error)) => Err(ComputeError::Validation(error.to_string())),
            Err(_) => {
                self.faults.lose("the driver failed while it was waited for".into());
                self.faults.check()
            }
        }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The size of a grid of `groups` workgroups, folded into as many rows as the adapter's limit asks for.
    pub fn grid(&self, groups: u32) -> Grid {
        Grid::fold(groups, self.limits.max_compute_workgroups_per_dimension)
    }
}

/// A grid of workgroups; those past the end return at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub width: u32,
    pub height: u32,
}

impl Grid {
    fn fold(groups: u32, limit: u32) -> Self {
        let height = groups.div_ceil(limit).max(1);
        Self { width: groups.div_ceil(height), height }
    }
}

fn lanes(asked: Option<u32>, limits: &wgpu::Limits, software: bool) -> Result<u32> {
    let fits = |lanes: u32| {
        limits.max_compute_invocations_per_workgroup >= lanes * lanes
            && limits.max_compute_workgroup_size_x >= lanes * lanes
            && limits.max_compute_workgroup_storage_size >= if lanes == 16 { 32 << 10 } else { 16_000 }
    };
    let best = if fits(16) && !software { 16 } else { 8 };
    let lanes = asked.unwrap_or(best);
    if !matches!(lanes, 8 | 16) || !fits(lanes) {
        return Err(ComputeError::NoAdapter(format!(
            "tiles of {lanes} lanes (8 or 16 are known) do not fit {} threads and {} bytes of workgroup memory",
            limits.max_compute_invocations_per_workgroup, limits.max_compute_workgroup_storage_size
        )));
    }
    Ok(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_folded_at_the_limit_and_cover_every_group() {
        for groups in [0, 1, 65_535, 65_536, 131_071, 1_000_003] {
            let grid = Grid::fold(groups, 65_535);
            assert!(grid.width <= 65_535 && grid.height <= 65_535);
            assert!(u64::from(grid.width) * u64::from(grid.height) >= u64::from(groups));
        }
        assert_eq!(Grid::fold(65_535, 65_535), Grid { width: 65_535, height: 1 });
    }

    #[test]
    fn the_first_loss_is_the_one_that_is_told() {
        let faults = Faults::default();
        assert!(faults.check().is_ok());
        faults.lose("fell off the bus".into());
        faults.lose("destroyed".into());
        assert!(matches!(faults.check(), Err(ComputeError::DeviceLost(why)) if why == "fell off the bus"));
    }
}
