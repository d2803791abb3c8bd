// How a kernel's threads are laid out.
//
// A workgroup is LANES × LANES threads in one dimension; thread t is lane (t / LANES, t % LANES) where a kernel
// needs a square. LANES is at least 8: the tile kernels give one row to each of the first LANES·8 threads.
// WebGPU allows 65,535 workgroups per dimension, so long grids are folded into y.

override LANES: u32 = 16u;
override THREADS: u32 = LANES * LANES;

// The workgroup's place in the unfolded grid.
fn unfolded(group: vec3<u32>, grid_width: u32) -> u32 {
    return group.y * grid_width + group.x;
}
