//! When each kernel began and ended, by the device's own clock: two timestamps around each pass, where the adapter has
//! them. They are read when somebody asks, or when so many are waiting; nothing waits for them before.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::{KernelRun, Result};
use super::Gpu;
use super::buffers::{Mapping, await_mapping, map, take_mapped};
use super::memory::DeviceBuffer;
use super::work::Cost;

/// Kernels of one submission that are timed.
const PASSES: usize = 4;
/// Submissions whose timestamps have not been read; with more, the oldest, which is done by then, is.
const WAITING: usize = 16;
/// Runs that are kept until somebody asks: some hundred megabytes of them. Later ones are not.
const RUNS: usize = 1 << 21;

/// Timestamps of one submission.
pub(super) struct Stamps {
    queries: wgpu::QuerySet,
    resolved: DeviceBuffer,
    read: DeviceBuffer,
    timed: Vec<(&'static str, Cost)>,
}

struct Waiting {
    stamps: Stamps,
    submission: wgpu::SubmissionIndex,
    mapping: Mapping,
}

#[derive(Default)]
struct State {
    idle: Vec<Stamps>,
    waiting: VecDeque<Waiting>,
    runs: Vec<KernelRun>,
    /// A moment by both clocks.
    set: Option<(Instant, u64)>,
}

/// A device's clock. Times nothing where there is none, or no memory for its buffers.
pub(super) struct Clock {
    /// Nanoseconds of a tick; 0 where there is no clock.
    period: f64,
    state: Mutex<State>,
}

impl Clock {
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let has_clock = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let period = if has_clock { f64::from(queue.get_timestamp_period()) } else { 0.0 };
        Self { period, state: Mutex::default() }
    }

    pub fn stamps(&self, gpu: &Gpu) -> Option<Stamps> {
        if self.period <= 0.0 {
            return None;
        }
        let idle = self.state().idle.pop();
        idle.or_else(|| Stamps::new(gpu).ok())
    }

    /// `stamps` will be there once `submission` is done.
    pub fn submitted(&self, gpu: &Gpu, stamps: Stamps, submission: wgpu::SubmissionIndex) {
        let mut state = self.state();
        if stamps.timed.is_empty() {
            state.idle.push(stamps);
            return;
        }
        let mapping = map(stamps.read.wgpu(), wgpu::MapMode::Read);
        state.waiting.push_back(Waiting { stamps, submission, mapping });
        if state.waiting.len() > WAITING {
            state.read_oldest(gpu, self.period);
        }
    }

    /// All that ran since this was last asked, in the order in which it began.
    pub fn take(&self, gpu: &Gpu) -> Vec<KernelRun> {
        let mut state = self.state();
        while !state.waiting.is_empty() {
            state.read_oldest(gpu, self.period);
        }
        let mut runs = std::mem::take(&mut state.runs);
        runs.sort_by_key(|run| run.started);
        runs
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read_oldest(&mut self, gpu: &Gpu, period: f64) {
        let Some(Waiting { mut stamps, submission, mapping }) = self.waiting.pop_front() else { return };
        // A device that failed says so where results are read; its times are of no more use.
        let Ok(ticks) =
            await_mapping(&gpu.device, &submission, &mapping, "timestamps").and_then(|()| stamps.ticks(gpu))
        else {
            return;
        };
        // The end of the first submission that is read is now, or was as long ago as the host took to hear of it.
        let last = ticks.iter().copied().max().unwrap_or_default();
        let (moment, at) = *self.set.get_or_insert_with(|| (Instant::now(), last));
        for (pair, &(kernel, Cost { flops, bytes })) in ticks.chunks_exact(2).zip(&stamps.timed) {
            let since = pair[0].wrapping_sub(at) as i64 as f64 * period;
            let offset = Duration::from_nanos(since.abs() as u64);
            let started = if since < 0.0 { moment.checked_sub(offset) } else { moment.checked_add(offset) };
            let took = Duration::from_nanos((pair[1].saturating_sub(pair[0]) as f64 * period) as u64);
            if let Some(started) = started.filter(|_| self.runs.len() < RUNS) {
                self.runs.push(KernelRun { kernel, started, took, flops, bytes });
            }
        }
        stamps.timed.clear();
        self.idle.push(stamps);
    }
}

impl Stamps {
    const BYTES: u64 = (2 * PASSES * size_of::<u64>()) as u64;

    fn new(gpu: &Gpu) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let device = &gpu.device;
        let descriptor = wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * PASSES as u32,
        };
        let queries = device.guarded("timestamps", || device.device.create_query_set(&descriptor))?;
        let buffer = |usage| DeviceBuffer::new(device, &gpu.buffers.memory, "timestamps", Self::BYTES, usage);
        Ok(Self {
            queries,
            resolved: buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC)?,
            read: buffer(Usage::MAP_READ | Usage::COPY_DST)?,
            timed: Vec::with_capacity(PASSES),
        })
    }

    /// Where the next pass is to write, if it is timed.
    pub fn of(&mut self, kernel: &'static str, cost: Cost) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        if self.timed.len() == PASSES {
            return None;
        }
        let first = 2 * self.timed.len() as u32;
        self.timed.push((kernel, cost));
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Has what was written copied to where the host reads it.
    pub fn resolve(self, encoder: &mut wgpu::CommandEncoder) -> Self {
        let count = 2 * self.timed.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, self.resolved.wgpu(), 0);
            encoder.copy_buffer_to_buffer(self.resolved.wgpu(), 0, self.read.wgpu(), 0, Self::BYTES);
        }
        self
    }

    /// Beginning and end of each timed pass.
    fn ticks(&self, gpu: &Gpu) -> Result<Vec<u64>> {
        let bytes = (2 * self.timed.len() * size_of::<u64>()) as u64;
        take_mapped(&gpu.device, &self.read, bytes)
    }
}
