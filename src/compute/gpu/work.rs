//! Batches of work: dispatches recorded into one submission, whose result is read later, with a few in flight.

use std::collections::VecDeque;

use bytemuck::Pod;

use super::super::Result;
use super::Gpu;
use super::buffers::Readback;
use super::clock::Stamps;
use super::device::Grid;
use super::kernels::Kernel;
use super::memory::DeviceBuffer;
use super::pipelines::Constants;

/// A kernel and all that one run of it needs.
pub(super) struct Dispatch<'a, P> {
    pub kernel: &'static Kernel,
    pub constants: Constants,
    /// Binding 0.
    pub params: P,
    /// The others, in the shader's order.
    pub bindings: &'a [&'a DeviceBuffer],
    pub grid: Grid,
    pub cost: Cost,
}

/// What a run of a kernel takes on paper: shaders/README.md has the formulas.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Cost {
    pub flops: f64,
    /// Every input once, every result once.
    pub bytes: f64,
}

/// One submission under construction.
pub(super) struct Work<'g> {
    gpu: &'g Gpu,
    encoder: wgpu::CommandEncoder,
    stamps: Option<Stamps>,
}

impl<'g> Work<'g> {
    pub fn new(gpu: &'g Gpu) -> Self {
        let encoder = gpu.device.device.create_command_encoder(&Default::default());
        Self { gpu, encoder, stamps: gpu.clock.stamps(gpu) }
    }

    /// Runs a kernel after everything recorded so far.
    pub fn dispatch<P: Pod>(&mut self, dispatch: Dispatch<'_, P>) -> Result<()> {
        let Dispatch { kernel, constants, params, bindings, grid, cost } = dispatch;
        let device = &self.gpu.device;
        let pipeline = self.gpu.pipelines.get(device, kernel, constants)?;
        let params = self.gpu.buffers.uniform(device, &params)?;
        let entries: Vec<wgpu::BindGroupEntry<'_>> = std::iter::once(&params)
            .chain(bindings.iter().copied())
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.wgpu().as_entire_binding(),
            })
            .collect();
        let bind_group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let timestamp_writes = self.stamps.as_mut().and_then(|stamps| stamps.of(kernel.name, cost));
        let descriptor = wgpu::ComputePassDescriptor { label: Some(kernel.name), timestamp_writes };
        let mut pass = self.encoder.begin_compute_pass(&descriptor);
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(grid.width, grid.height, 1);
        Ok(())
    }

    pub fn submit(self) -> Result<()> {
        self.close().map(drop)
    }

    /// Submits, and asks for the first `bytes` of `output`.
    pub fn submit_and_read(mut self, output: &DeviceBuffer, bytes: u64) -> Result<Readback> {
        let (buffers, device) = (&self.gpu.buffers, &self.gpu.device);
        let recorded = buffers.record_read(device, &mut self.encoder, output, bytes)?;
        Ok(recorded.submitted(self.close()?))
    }

    fn close(mut self) -> Result<wgpu::SubmissionIndex> {
        let stamps = self.stamps.take().map(|stamps| stamps.resolve(&mut self.encoder));
        let submission = self.gpu.device.submit(self.encoder)?;
        if let Some(stamps) = stamps {
            self.gpu.clock.submitted(self.gpu, stamps, submission.clone());
        }
        Ok(submission)
    }
}

/// Submissions whose results the host has not read: enough that the GPU never waits for the host's reading.
const DEPTH: usize = 2;

/// Results in flight, each with a note of what it is, read in the order of submission.
pub(super) struct InFlight<'g, Note> {
    gpu: &'g Gpu,
    what: &'static str,
    queue: VecDeque<(Readback, Note)>,
}

impl<'g, Note> InFlight<'g, Note> {
    /// `what` names the work in a time-out.
    pub fn new(gpu: &'g Gpu, what: &'static str) -> Self {
        Self { gpu, what, queue: VecDeque::new() }
    }

    /// Adds a submission; hands to `read` the results of one that is old enough.
    pub fn push<T: Pod>(
        &mut self,
        readback: Readback,
        note: Note,
        read: impl FnMut(Vec<T>, Note),
    ) -> Result<()> {
        self.queue.push_back((readback, note));
        self.drain_to(DEPTH, read)
    }

    /// Hands over all that is left.
    pub fn finish<T: Pod>(mut self, read: impl FnMut(Vec<T>, Note)) -> Result<()> {
        self.drain_to(0, read)
    }

    fn drain_to<T: Pod>(&mut self, left: usize, mut read: impl FnMut(Vec<T>, Note)) -> Result<()> {
        while self.queue.len() > left
            && let Some((readback, note)) = self.queue.pop_front()
        {
            read(self.gpu.buffers.finish_read(&self.gpu.device, readback, self.what)?, note);
        }
        Ok(())
    }
}
