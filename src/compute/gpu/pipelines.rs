//! Compiled kernels, each made once per set of constants and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::Result;
use super::device::Device;
use super::kernels::Kernel;
use super::variants::Variant;

/// Values for the constants that a kernel leaves open; those that it does not name are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Constants {
    pub lanes: u32,
    pub depth: u32,
    pub capacity: u32,
}

impl Constants {
    fn of(&self, name: &str) -> u32 {
        match name {
            "LANES" => self.lanes,
            "DEPTH" => self.depth,
            "CAPACITY" => self.capacity,
            other => unreachable!("no kernel has an override {other}"),
        }
    }
}

/// A kernel, and the values of its overrides, in its order.
type Key = (&'static str, Variant, Vec<u32>);

#[derive(Default)]
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<Key, Arc<wgpu::ComputePipeline>>>,
}

impl Pipelines {
    /// The pipeline of `kernel` with `constants`, compiled now if it is new.
    pub fn get(
        &self,
        device: &Device,
        kernel: &'static Kernel,
        constants: Constants,
    ) -> Result<Arc<wgpu::ComputePipeline>> {
        let values: Vec<u32> = kernel.overrides.iter().map(|name| constants.of(name)).collect();
        // Held while compiling: two threads that want the same kernel should not both pay for it.
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = compiled.get(&(kernel.name, kernel.variant, values.clone())) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(compile(device, kernel, &values)?);
        compiled.insert((kernel.name, kernel.variant, values), pipeline.clone());
        Ok(pipeline)
    }
}

fn compile(device: &Device, kernel: &'static Kernel, values: &[u32]) -> Result<wgpu::ComputePipeline> {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
    };
    let constants: Vec<(&str, f64)> =
        kernel.overrides.iter().zip(values).map(|(&name, &value)| (name, f64::from(value))).collect();
    device.guarded(kernel.name, || {
        // SAFETY: the checks left out are those that our shaders do not need. Every index into a binding is below
        // a bound that the host derives from that binding's length (rows, columns, members and labels are asserted
        // before they are uploaded); indices into workgroup memory are functions of the thread's number and the
        // same constants that size it; all loops run to such bounds; every divisor (dim, dsub, words, splits) is
        // at least 1. Checked loops and indices would cost a third of the speed, inside the innermost loop.
        let module = unsafe {
            device.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: None,
            module: &module,
            entry_point: Some(kernel.name),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    })
}
