//! Bytes ↔ checked sections, the manifest, versions. Does no I/O and knows no algorithm: it turns tensors, columns and
//! records into the bytes of a file and back, and says what is wrong with bytes that are not what they should be.
//! FORMAT.md describes those files.

mod certificate;
pub mod checksums;
pub mod columns;
mod digest;
mod manifest;
mod names;
mod pages;
pub mod safetensors;
pub mod spill;
mod tensor;

pub use certificate::{Certificate, CertificatePoint, Gate, Latency, Recall, SearchDefaults};
pub use columns::ColumnError;
pub use digest::Digest;
pub use manifest::{
    AttributeSummary, Backend, FileRef, Input, MANIFEST_FORMAT, MAX_MANIFEST_BYTES, Manifest, ManifestDraft,
    ManifestError, Planned, RowCounts, SegmentRef, Stage, Training, segment_id,
};
pub use names::{
    MAX_NAME_BYTES, NameError, check_file_name, check_index_name, version_file_name, version_of_file_name,
};
pub use safetensors::{SectionBytes, SectionError};
pub use tensor::{Array, Dtype, Element, Section, Tensor, TensorError};
