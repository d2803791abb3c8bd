//! wgpu backend.
pub mod kernels;
pub mod layout;
