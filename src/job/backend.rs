//! From the job's `backend` to something that computes.

use super::progress::Progress;
use super::spec::Backend;
use crate::compute::Compute;
use crate::compute::cpu::Cpu;
use crate::compute::fallback::Fallback;
use crate::compute::reference::Reference;
use crate::error::Error;

/// Chooses once, at the edge of the program, and says what was chosen.
pub(crate) fn choose(asked: Backend, progress: &Progress) -> Result<Box<dyn Compute>, Error> {
    let compute: Box<dyn Compute> = match asked {
        Backend::Reference => Box::new(Reference),
        Backend::Cpu => Box::new(Cpu::new()),
        Backend::Gpu => gpu()?,
        Backend::Auto => {
            let Chosen { compute, because } = automatic(progress);
            progress.note(because);
            compute
        }
    };
    progress.note(format!("compute: {}", compute.info()));
    Ok(compute)
}

/// What `backend = "auto"` means on this machine.
pub struct Chosen {
    pub compute: Box<dyn Compute>,
    /// Why it and no other.
    pub because: String,
}

/// A hardware GPU, with the CPU to go on with should it fail; else the CPU.
#[cfg(feature = "gpu")]
pub fn automatic(progress: &Progress) -> Chosen {
    use crate::compute::ComputeError;
    use crate::compute::gpu::{Gpu, GpuOptions};
    match Gpu::new(GpuOptions::default()) {
        Ok(gpu) => {
            let because = format!("a hardware GPU: {}", gpu.adapter());
            Chosen { compute: Box::new(or_cpu(gpu, progress)), because }
        }
        Err(error) => {
            let because = match error {
                ComputeError::NoAdapter(why) => format!("no GPU: {why}"),
                error => format!("no GPU: {error}"),
            };
            Chosen { compute: Box::new(Cpu::new()), because }
        }
    }
}

#[cfg(not(feature = "gpu"))]
pub fn automatic(_: &Progress) -> Chosen {
    Chosen { compute: Box::new(Cpu::new()), because: format!("no GPU: {NO_GPU_BACKEND}") }
}

/// `gpu` until it fails, and then the CPU, with one warning.
pub fn or_cpu<C: Compute>(gpu: C, progress: &Progress) -> Fallback<C, Cpu> {
    let progress = progress.clone();
    Fallback::new(gpu, Cpu::new(), move |error| {
        progress.warn(format!("the GPU failed ({error}): going on on the CPU"));
    })
}

#[cfg(feature = "gpu")]
fn gpu() -> Result<Box<dyn Compute>, Error> {
    use crate::compute::gpu::{Gpu, GpuOptions};
    // Whoever asks for the GPU by name may have a software one, for tests.
    let options = GpuOptions { allow_software: true, ..GpuOptions::default() };
    Ok(Box::new(Gpu::new(options)?))
}

#[cfg(not(feature = "gpu"))]
fn gpu() -> Result<Box<dyn Compute>, Error> {
    Err(crate::compute::ComputeError::NoAdapter(NO_GPU_BACKEND.into()).into())
}

#[cfg(not(feature = "gpu"))]
const NO_GPU_BACKEND: &str = "this build has no GPU backend (feature `gpu`)";
