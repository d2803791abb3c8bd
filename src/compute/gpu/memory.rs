//! GPU memory under a budget: every buffer is accounted for from its creation to its drop, and one that would
//! pass the budget is refused by name before the driver is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{ComputeError, Result};
use super::device::Device;

/// Bytes held, and how many may be.
#[derive(Default)]
pub(super) struct Memory {
    budget: Option<u64>,
    held: AtomicU64,
    peak: AtomicU64,
}

impl Memory {
    pub fn new(budget: Option<u64>) -> Self {
        Self { budget, ..Self::default() }
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// `bytes`, or the given share of the budget if that is less.
    pub fn share(&self, bytes: u64, denominator: u64) -> u64 {
        self.budget.map_or(bytes, |budget| bytes.min(budget / denominator))
    }

    /// Whether rows of `bytes` may stay on the device: a quarter of the budget is kept for what operations need.
    pub fn has_room_for_rows(&self, bytes: u64) -> bool {
        self.budget.is_none_or(|budget| self.held.load(Ordering::Relaxed) + bytes <= budget / 4 * 3)
    }

    fn reserve(&self, what: &str, bytes: u64) -> Result<()> {
        let budget = self.budget.unwrap_or(u64::MAX);
        let within = |held: u64| held.checked_add(bytes).filter(|&total| total <= budget);
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(held) => {
                self.peak.fetch_max(held + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(held) => Err(ComputeError::OutOfMemory {
                what: format!("{what} ({bytes} bytes beside {held} held)"),
                needed: held.saturating_add(bytes),
                allowed: budget,
            }),
        }
    }

    fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A buffer on the device. It may be longer than what was asked for: no binding may be empty.
pub(super) struct DeviceBuffer {
    buffer: wgpu::Buffer,
    memory: Arc<Memory>,
}

/// The least size of a buffer: the largest struct alignment that WGSL knows.
const LEAST_BYTES: u64 = 16;

impl DeviceBuffer {
    /// `bytes` for `usage`, zeroed; mapped if it can be written by the host at once.
    pub fn new(
        device: &Device,
        memory: &Arc<Memory>,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Self> {
        let size = bytes.max(LEAST_BYTES).next_multiple_of(4);
        let storage = usage.contains(wgpu::BufferUsages::STORAGE);
        let limit =
            if storage { device.binding_limit.max(LEAST_BYTES) } else { device.limits.max_buffer_size };
        if size > limit {
            return Err(ComputeError::OutOfMemory {
                what: format!("{what} (one binding)"),
                needed: size,
                allowed: limit,
            });
        }
        memory.reserve(what, size)?;
        let descriptor = wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: usage.intersects(wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::UNIFORM),
        };
        let created = device.guarded(what, || device.device.create_buffer(&descriptor));
        match created {
            Ok(buffer) => Ok(Self { buffer, memory: memory.clone() }),
            Err(error) => {
                memory.release(size);
                Err(match error {
                    ComputeError::OutOfMemory { .. } => ComputeError::OutOfMemory {
                        what: format!("{what} (refused by the driver)"),
                        needed: size,
                        allowed: memory.held.load(Ordering::Relaxed),
                    },
                    other => other,
                })
            }
        }
    }

    pub fn wgpu(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    pub fn size(&self) -> u64 {
        self.buffer.size()
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.memory.release(self.buffer.size());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_passed_and_the_refusal_names_what_and_how_much() {
        let memory = Memory::new(Some(100));
        memory.reserve("rows", 60).unwrap();
        let error = memory.reserve("scratch", 41).unwrap_err();
        let ComputeError::OutOfMemory { what, needed, allowed } = error else { panic!("{error}") };
        assert_eq!((what.as_str(), needed, allowed), ("scratch (41 bytes beside 60 held)", 101, 100));
        memory.reserve("scratch", 40).unwrap();
        memory.release(60);
        memory.reserve("rows", 10).unwrap();
        assert_eq!(memory.peak(), 100);
        assert!(memory.reserve("overflow", u64::MAX).is_err());
    }

    #[test]
    fn rows_leave_a_quarter_of_the_budget_to_the_operations() {
        let memory = Memory::new(Some(1000));
        assert!(memory.has_room_for_rows(750) && !memory.has_room_for_rows(751));
        assert!(Memory::new(None).has_room_for_rows(u64::MAX / 2));
    }
}
