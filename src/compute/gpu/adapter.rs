//! Which GPUs this machine has, and which one is used. A CPU posing as a GPU (Mesa's lavapipe, WARP) is good for
//! testing shaders and slower than the CPU backend: it is chosen only when it was asked for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use super::super::{AdapterSummary, ComputeError, Result};

impl AdapterSummary {
    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        Self {
            name: info.name.clone(),
            api: info.backend.to_str().to_owned(),
            kind: kind(info.device_type).to_owned(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            software: info.device_type == wgpu::DeviceType::Cpu,
            binding_limit: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        }
    }
}

fn kind(device_type: wgpu::DeviceType) -> &'static str {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

/// Every adapter that wgpu finds, software ones included, in the order in which they would be preferred.
/// Empty where no driver is installed. `WGPU_BACKEND` narrows the APIs.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate(&instance()).iter().map(AdapterSummary::of).collect()
}

pub(super) fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

/// The adapter to use: the first of the preferred kind that can run the kernels.
pub(super) fn choose(instance: &wgpu::Instance, allow_software: bool) -> Result<wgpu::Adapter> {
    let mut refused = Vec::new();
    for adapter in enumerate(instance) {
        let info = adapter.get_info();
        if info.device_type == wgpu::DeviceType::Cpu && !allow_software {
            refused.push(format!("{} is a CPU", info.name));
        } else if !adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        {
            refused.push(format!("{} has no compute shaders", info.name));
        } else {
            return Ok(adapter);
        }
    }
    Err(ComputeError::NoAdapter(if refused.is_empty() {
        "no Vulkan, Metal or DX12 driver was found".into()
    } else {
        refused.join("; ")
    }))
}

fn enumerate(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let mut adapters = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    // Stable: within a kind the order is the driver's.
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::VirtualGpu => 1,
        wgpu::DeviceType::IntegratedGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// Runs a future on this thread. wgpu's are ready at once on native platforms; an async runtime around us
/// would refuse to be blocked on from within.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_without_apis_has_no_adapter_and_says_so() {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        for allow_software in [false, true] {
            let error = choose(&instance, allow_software).unwrap_err();
            assert!(matches!(error, ComputeError::NoAdapter(_)), "{error}");
            assert!(error.to_string().contains("no Vulkan, Metal or DX12 driver"), "{error}");
        }
    }

    #[test]
    fn a_software_adapter_is_never_chosen_unasked() {
        if let Ok(adapter) = choose(&instance(), false) {
            assert_ne!(adapter.get_info().device_type, wgpu::DeviceType::Cpu);
        }
    }
}
