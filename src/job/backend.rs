//! From the job's `backend` to something that computes.

use super::progress::Progress;
use super::spec::Backend;
use crate::compute::Compute;
use crate::compute::cpu::Cpu;
use crate::compute::reference::Reference;
use crate::error::Error;

/// Chooses once, at the edge of the program, and says what was chosen.
pub(super) fn choose(asked: Backend, progress: &Progress) -> Result<Box<dyn Compute>, Error> {
    let compute: Box<dyn Compute> = match asked {
        Backend::Reference => Box::new(Reference),
        Backend::Cpu => Box::new(Cpu::new()),
        Backend::Gpu => gpu()?,
        Backend::Auto => automatic(progress),
    };
    progress.note(format!("compute: {}", compute.info()));
    Ok(compute)
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
    Err(crate::compute::ComputeError::NoAdapter("this build has no GPU backend (feature `gpu`)".into())
        .into())
}

/// A hardware GPU, with the CPU to go on with should it fail; else the CPU.
#[cfg(feature = "gpu")]
fn automatic(progress: &Progress) -> Box<dyn Compute> {
    use crate::compute::fallback::Fallback;
    use crate::compute::gpu::{Gpu, GpuOptions};
    match Gpu::new(GpuOptions::default()) {
        Ok(gpu) => {
            let progress = progress.clone();
            Box::new(Fallback::new(gpu, Cpu::new(), move |error| {
                progress.warn(format!("the GPU failed ({error}): going on on the CPU"));
            }))
        }
        Err(error) => {
            progress.note(format!("no GPU: {error}"));
            Box::new(Cpu::new())
        }
    }
}

#[cfg(not(feature = "gpu"))]
fn automatic(_: &Progress) -> Box<dyn Compute> {
    Box::new(Cpu::new())
}
