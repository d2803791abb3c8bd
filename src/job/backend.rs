//! From the job's `backend` to something that computes.

use super::progress::Progress;
use super::spec::Backend;
use crate::compute::Compute;
use crate::compute::cpu::Cpu;
use crate::compute::fallback::Fallback;
use crate::compute::reference::Reference;
use crate::error::Error;

/// Chooses once, at the edge of the program, and says what was chosen.
pub(crate) fn choose(
    asked: Backend,
    gpu_memory_budget: Option<u64>,
    progress: &Progress,
) -> Result<Box<dyn Compute>, Error> {
    let compute: Box<dyn Compute> = match asked {
        Backend::Reference => Box::new(Reference),
        Backend::Cpu => Box::new(Cpu::new()),
        Backend::Gpu => gpu(gpu_memory_budget)?,
        Backend::Auto => {
            let Chosen { compute, because } = automatic_within(gpu_memory_budget, progress);
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

impl Chosen {
    fn cpu(because: String) -> Self {
        Self { compute: Box::new(Cpu::new()), because }
    }
}

/// A hardware GPU, for what it is faster at than the CPU, with the CPU to go on with should it fail; else the CPU. How fast
/// they are is measured where it is not known yet.
pub fn automatic(progress: &Progress) -> Chosen {
    automatic_within(None, progress)
}

#[cfg(feature = "gpu")]
fn automatic_within(gpu_memory_budget: Option<u64>, progress: &Progress) -> Chosen {
    use super::scratch::default_root;
    use super::worth::Worth;
    use crate::compute::ComputeError;
    use crate::compute::gpu::{Gpu, GpuOptions};
    use crate::compute::throughput::Operation;
    let gpu = match Gpu::new(GpuOptions { memory_budget: gpu_memory_budget, ..GpuOptions::default() }) {
        Ok(gpu) => gpu,
        Err(ComputeError::NoAdapter(why)) => return Chosen::cpu(format!("no GPU: {why}")),
        Err(error) => return Chosen::cpu(format!("no GPU: {error}")),
    };
    let (machine, folder) = (machine(&gpu), default_root());
    if Worth::kept(&machine, &folder).is_none() {
        progress.note("measuring the GPU beside the CPU, once: some ten seconds");
    }
    let adapter = gpu.adapter().to_string();
    let slower = match Worth::of(&machine, &gpu, &Cpu::new(), &folder) {
        Ok(worth) => worth.faster_on_host(),
        Err(error) => return Chosen::cpu(format!("no use of the GPU {adapter}: {error}")),
    };
    let names: Vec<&str> = slower.iter().map(|operation| operation.name()).collect();
    if slower.len() == Operation::ALL.len() {
        return Chosen::cpu(format!("the CPU is faster than the GPU {adapter} at everything"));
    }
    let but = if slower.is_empty() { String::new() } else { format!("; the CPU for {}", names.join(", ")) };
    let compute = Box::new(or_cpu(gpu, progress).leaving(slower));
    Chosen { compute, because: format!("a hardware GPU: {adapter}{but}") }
}

#[cfg(not(feature = "gpu"))]
fn automatic_within(_: Option<u64>, _: &Progress) -> Chosen {
    Chosen::cpu(format!("no GPU: {NO_GPU_BACKEND}"))
}

/// What the speed of a GPU beside that of this CPU depends on.
#[cfg(feature = "gpu")]
pub(crate) fn machine(gpu: &crate::compute::gpu::Gpu) -> String {
    let (version, threads) = (env!("CARGO_PKG_VERSION"), rayon::current_num_threads());
    let commit = option_env!("ANNVIL_GIT_COMMIT").unwrap_or_default();
    let cpu = Cpu::new().info();
    format!("annvil {version} {commit}, {}, {cpu}, {threads} threads", gpu.adapter())
}

/// `gpu` until it fails, and then the CPU, with one warning.
pub fn or_cpu<C: Compute>(gpu: C, progress: &Progress) -> Fallback<C, Cpu> {
    let progress = progress.clone();
    Fallback::new(gpu, Cpu::new(), move |error| {
        progress.warn(format!("the GPU failed ({error}): going on on the CPU"));
    })
}

#[cfg(feature = "gpu")]
fn gpu(memory_budget: Option<u64>) -> Result<Box<dyn Compute>, Error> {
    use crate::compute::gpu::{Gpu, GpuOptions};
    // Whoever asks for the GPU by name may have a software one, for tests.
    let options = GpuOptions { allow_software: true, memory_budget, ..GpuOptions::default() };
    Ok(Box::new(Gpu::new(options)?))
}

#[cfg(not(feature = "gpu"))]
fn gpu(_: Option<u64>) -> Result<Box<dyn Compute>, Error> {
    Err(crate::compute::ComputeError::NoAdapter(NO_GPU_BACKEND.into()).into())
}

#[cfg(not(feature = "gpu"))]
const NO_GPU_BACKEND: &str = "this build has no GPU backend (feature `gpu`)";
