//! A device for tests of shaders; a software one will do. Where no adapter answers they fail if [`REQUIRED`] or `CI`
//! is set (`tests/run` sets the former wherever it finds a driver); else they pass unrun, and one line says so.

use std::io::Write;
use std::sync::Once;

use annvil::compute::ComputeError;
use annvil::compute::gpu::{Gpu, GpuOptions};

pub const REQUIRED: &str = "ANNVIL_REQUIRE_VULKAN";

pub fn options() -> GpuOptions {
    GpuOptions { allow_software: true, ..GpuOptions::default() }
}

/// None where there is no adapter and none is required.
pub fn open(options: GpuOptions) -> Option<Gpu> {
    let asks = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(|_| name);
    match (Gpu::new(options), asks(REQUIRED).or(asks("CI"))) {
        (Ok(gpu), _) => Some(gpu),
        (Err(ComputeError::NoAdapter(why)), None) => {
            static SAID: Once = Once::new();
            // Not `eprintln!`, which a passing test swallows.
            SAID.call_once(|| {
                let install = "install a software Vulkan driver (Debian: mesa-vulkan-drivers libvulkan1)";
                writeln!(std::io::stderr(), "shaders not run, {why}: {install}").expect("stderr");
            });
            None
        }
        (Err(error), Some(name)) => panic!("{name} is set, so shaders must run: {error}"),
        (Err(error), None) => panic!("{error}"),
    }
}
