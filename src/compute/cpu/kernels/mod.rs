//! The algorithms of the CPU backend, each written once over [`Lanes`](super::lanes::Lanes) and compiled for every
//! instruction set by `kernel_table!`. Single-threaded; whoever calls them owns the threads and the buffers.
//!
//! They are `unsafe` for one reason only, that the CPU must have the instruction set: lengths are asserted and
//! ordinals checked here, so that the function pointers of [`Kernels`](super::Kernels) are safe to call.

// Loops over fixed-size arrays of registers are written with indices: the arrays are registers, not memory, and every
// index disappears when the loop is unrolled.
#![allow(clippy::needless_range_loop)]

pub mod beam;
pub mod bytes;
pub mod codes;
pub mod descent;
pub mod differences;
pub mod leaders;
pub mod leaf;
pub mod leaf_bytes;
pub mod levels;
pub mod nibbles;
pub mod pairs;
pub mod product;
pub mod quads;
pub mod round;
pub mod scan;
pub mod sums;

pub use codes::Book;
pub use descent::ScoredRow;
pub use leaders::LeaderRow;
pub use leaf::{LeafRow, Minima};
pub use leaf_bytes::ByteStrip;
pub use nibbles::{NibbleBook, NibbleScan, Quantized, SignScan};
pub use scan::Strip;
