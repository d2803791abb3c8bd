//! Bytes ↔ checked sections, the manifest, versions. Does no I/O and knows no algorithm: it turns tensors into
//! the bytes of a file and back, and says what is wrong with bytes that are not what they should be.

mod tensor;

pub use tensor::{Array, Dtype, Element, Section, Tensor, TensorError};
