//! Moving bytes: up through a ring of persistent staging buffers, down through mapped copies that are waited for only
//! when their contents are needed, so that the host's copying overlaps the GPU's computing. (`Queue::write_buffer`
//! would allocate a staging buffer each time.) All of it is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;

use super::super::{ComputeError, Result};
use super::device::Device;
use super::memory::{DeviceBuffer, Memory};

/// Staging buffers for uploads: one being filled, one in flight, one waiting its turn.
const STAGING_SLOTS: usize = 3;
/// Bytes of each: long enough for a bus's full speed, short enough to overlap.
const STAGING_BYTES: u64 = 16 << 20;
/// Idle read-back buffers that are kept for the next batch.
const IDLE_READBACKS: usize = 4;

/// What has crossed the bus since the device was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct TransferStats {
    pub uploaded_bytes: u64,
    pub downloaded_bytes: u64,
    /// The most GPU memory held at a time.
    pub peak_memory_bytes: u64,
}

/// A device's memory and the ways into and out of it.
pub(super) struct Buffers {
    pub memory: Arc<Memory>,
    staging: Mutex<StagingRing>,
    idle: Mutex<Vec<DeviceBuffer>>,
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

/// What `map_async` will say.
pub(super) type Mapping = Receiver<Result<(), wgpu::BufferAsyncError>>;

struct StagingRing {
    chunk_bytes: usize,
    slots: Vec<StagingSlot>,
    next: usize,
}

struct StagingSlot {
    buffer: DeviceBuffer,
    /// The copy out of it that must be done before it can be filled again.
    busy: Option<(wgpu::SubmissionIndex, Mapping)>,
}

impl Buffers {
    pub fn new(memory_budget: Option<u64>) -> Self {
        let memory = Arc::new(Memory::new(memory_budget));
        let chunk_bytes = memory.share(STAGING_BYTES, 32).next_multiple_of(4096) as usize;
        Self {
            memory,
            staging: Mutex::new(StagingRing { chunk_bytes, slots: Vec::new(), next: 0 }),
            idle: Mutex::default(),
            uploaded: AtomicU64::default(),
            downloaded: AtomicU64::default(),
        }
    }

    pub fn stats(&self) -> TransferStats {
        TransferStats {
            uploaded_bytes: self.uploaded.load(Ordering::Relaxed),
            downloaded_bytes: self.downloaded.load(Ordering::Relaxed),
            peak_memory_bytes: self.memory.peak(),
        }
    }

    /// A storage buffer of `bytes`, zeroed, which one binding can hold.
    pub fn storage(&self, device: &Device, what: &str, bytes: u64) -> Result<DeviceBuffer> {
        use wgpu::BufferUsages as Usage;
        self.allocate(device, what, bytes, Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC)
    }

    /// A storage buffer that holds `items`.
    pub fn filled<T: Pod>(&self, device: &Device, what: &str, items: &[T]) -> Result<DeviceBuffer> {
        let buffer = self.storage(device, what, size_of_val(items) as u64)?;
        self.write(device, &buffer, items)?;
        Ok(buffer)
    }

    /// A uniform buffer that holds `params`.
    pub fn uniform<T: Pod>(&self, device: &Device, params: &T) -> Result<DeviceBuffer> {
        let bytes = bytemuck::bytes_of(params);
        let buffer = self.allocate(device, "parameters", bytes.len() as u64, wgpu::BufferUsages::UNIFORM)?;
        copy_into_mapped(device, &buffer, bytes)?;
        buffer.wgpu().unmap();
        Ok(buffer)
    }

    /// Copies `items` to the start of `target`, after all work submitted so far and before all that follows.
    pub fn write<T: Pod>(&self, device: &Device, target: &DeviceBuffer, items: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(items);
        let mut ring = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk_bytes = ring.chunk_bytes;
        for (index, chunk) in bytes.chunks(chunk_bytes).enumerate() {
            let slot = ring.free_slot(device, &self.memory)?;
            copy_into_mapped(device, &slot.buffer, chunk)?;
            slot.buffer.wgpu().unmap();
            let mut encoder = device.device.create_command_encoder(&Default::default());
            let (at, length) = ((index * chunk_bytes) as u64, chunk.len() as u64);
            encoder.copy_buffer_to_buffer(slot.buffer.wgpu(), 0, target.wgpu(), at, length);
            let submission = device.submit(encoder)?;
            slot.busy = Some((submission, map(slot.buffer.wgpu(), wgpu::MapMode::Write)));
        }
        self.uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Records the copy of the first `bytes` of `source`, to be read once the encoder is submitted.
    pub fn record_read(
        &self,
        device: &Device,
        encoder: &mut wgpu::CommandEncoder,
        source: &DeviceBuffer,
        bytes: u64,
    ) -> Result<RecordedRead> {
        let buffer = match self.take_idle(bytes) {
            Some(buffer) => buffer,
            None => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                self.allocate(device, "read-back", bytes, usage)?
            }
        };
        encoder.copy_buffer_to_buffer(source.wgpu(), 0, buffer.wgpu(), 0, bytes);
        Ok(RecordedRead { buffer, bytes })
    }

    /// Waits for `readback` and returns what it holds; `what` names the work in a time-out.
    pub fn finish_read<T: Pod>(&self, device: &Device, readback: Readback, what: &str) -> Result<Vec<T>> {
        let Readback { recorded: RecordedRead { buffer, bytes }, submission, mapping } = readback;
        await_mapping(device, &submission, &mapping, what)?;
        let items = take_mapped(device, &buffer, bytes)?;
        self.downloaded.fetch_add(bytes, Ordering::Relaxed);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READBACKS {
            idle.push(buffer);
        }
        Ok(items)
    }

    fn take_idle(&self, bytes: u64) -> Option<DeviceBuffer> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = idle.iter().position(|buffer| buffer.size() >= bytes && buffer.size() / 4 <= bytes)?;
        Some(idle.swap_remove(fit))
    }

    /// Idle buffers give way before an allocation is refused.
    fn allocate(
        &self,
        device: &Device,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<DeviceBuffer> {
        match DeviceBuffer::new(device, &self.memory, what, bytes, usage) {
            Err(ComputeError::OutOfMemory { .. }) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                DeviceBuffer::new(device, &self.memory, what, bytes, usage)
            }
            other => other,
        }
    }
}

impl StagingRing {
    /// The next slot of the ring, once it is mapped again.
    fn free_slot(&mut self, device: &Device, memory: &Arc<Memory>) -> Result<&mut StagingSlot> {
        let index = self.next;
        self.next = (self.next + 1) % STAGING_SLOTS;
        if index == self.slots.len() {
            let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
            match DeviceBuffer::new(device, memory, "staging", self.chunk_bytes as u64, usage) {
                Ok(buffer) => self.slots.push(StagingSlot { buffer, busy: None }),
                Err(error) => {
                    self.next = index;
                    return Err(error);
                }
            }
        }
        let slot = &mut self.slots[index];
        if let Some((submission, mapping)) = slot.busy.take() {
            await_mapping(device, &submission, &mapping, "an upload")?;
        }
        Ok(slot)
    }
}

/// A copy to the host that is part of an encoder.
pub(super) struct RecordedRead {
    buffer: DeviceBuffer,
    bytes: u64,
}

impl RecordedRead {
    /// The encoder was submitted: the copy can be waited for.
    pub fn submitted(self, submission: wgpu::SubmissionIndex) -> Readback {
        let mapping = map(self.buffer.wgpu(), wgpu::MapMode::Read);
        Readback { recorded: self, submission, mapping }
    }
}

/// Results on their way to the host.
pub(super) struct Readback {
    recorded: RecordedRead,
    submission: wgpu::SubmissionIndex,
    mapping: Mapping,
}

pub(super) fn map(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Mapping {
    let (sender, receiver) = sync_channel(1);
    // A receiver that is gone has given the buffer up.
    buffer.map_async(mode, .., move |mapped| drop(sender.send(mapped)));
    receiver
}

pub(super) fn await_mapping(
    device: &Device,
    submission: &wgpu::SubmissionIndex,
    mapping: &Mapping,
    what: &str,
) -> Result<()> {
    device.wait(submission, what)?;
    // Another thread's poll may have taken the callback and be about to call it.
    match mapping.recv_timeout(device.timeout()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refused(device, &error)),
        Err(_) => {
            device.check()?;
            Err(ComputeError::TimedOut { what: what.into(), seconds: device.timeout().as_secs() })
        }
    }
}

/// What the first `bytes` of a mapped buffer hold; it is unmapped then.
pub(super) fn take_mapped<T: Pod>(device: &Device, buffer: &DeviceBuffer, bytes: u64) -> Result<Vec<T>> {
    let items = {
        let view = buffer.wgpu().get_mapped_range(0..bytes).map_err(|error| refused(device, &error))?;
        bytemuck::allocation::pod_collect_to_vec(&view)
    };
    buffer.wgpu().unmap();
    Ok(items)
}

fn copy_into_mapped(device: &Device, buffer: &DeviceBuffer, bytes: &[u8]) -> Result<()> {
    let length = (bytes.len() as u64).next_multiple_of(4);
    let mut view = buffer.wgpu().get_mapped_range_mut(0..length).map_err(|error| refused(device, &error))?;
    view.slice(..bytes.len()).copy_from_slice(bytes);
    Ok(())
}

/// A mapping that failed: because the device is lost, or else as the error says.
fn refused(device: &Device, error: &dyn std::fmt::Display) -> ComputeError {
    device.check().err().unwrap_or_else(|| ComputeError::Validation(error.to_string()))
}
