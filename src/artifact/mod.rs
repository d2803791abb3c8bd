//! Bytes ↔ checked sections, the manifest, versions. Does no I/O and knows no algorithm: it turns tensors, columns and
//! records into the bytes of a file and back, and says what is wrong with bytes that are not what they should be.
//! FORMAT.md describes those files.

mod certificate;
pub mod checksums;
mod column_places;
pub mod columns;
mod digest;
pub mod encryption;
mod manifest;
mod names;
pub mod neighbors;
mod pages;
pub mod partitions;
pub mod queries;
mod ranges;
pub mod safetensors;
mod sealed;
pub mod spill;
mod tensor;
pub mod tombstones;

pub use certificate::{Certificate, CertificatePoint, Gate, Latency, Recall, SearchDefaults};
pub use column_places::{ColumnFooter, ColumnPlaces};
pub use columns::ColumnError;
pub use digest::Digest;
pub use manifest::{
    AttributeSummary, Backend, Change, DeviceCost, FileRef, Input, KNOWN_REQUIREMENTS, KernelCost,
    MANIFEST_FORMAT, MANIFEST_FORMAT_WITH_REQUIREMENTS, MAX_MANIFEST_BYTES, Manifest, ManifestDraft,
    ManifestError, Planned, RowCounts, SegmentRef, Stage, Training, segment_id,
};
pub use names::{
    MAX_NAME_BYTES, NameError, check_file_name, check_index_name, version_file_name, version_of_file_name,
};
pub use pages::read_file;
pub use ranges::{FetchError, FetchStats, Fetching, RangedRows, RangedSection, Ranges};
pub use safetensors::{SectionBytes, SectionError, SectionHead};
pub use sealed::{
    ENCRYPTION, Encrypted, Folder, Head, SealedManifest, StoredFolder, StoredManifest, sealed_file_name,
};
pub use tensor::{Array, Dtype, Element, Section, Tensor, TensorError};
