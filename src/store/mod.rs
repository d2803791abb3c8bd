//! Objects at a URI: where rows are read from, and where an index's versions are published and opened. The only module
//! that names `object_store`.
//!
//! ```text
//! <root>/<index>/v/00000000000000000007.json   manifest of version 7
//! <root>/<index>/seg/<id>/graph.safetensors    a file of the segment with that id
//! ```
//!
//! Creating a manifest is the only commit: it is put if absent, after everything that it names has been written and
//! read back. Nothing that a manifest names is ever changed; there is no pointer to the latest version to lose. All of
//! it blocks; the requests run on one small runtime that the process shares, and may be made from any thread.
//!
//! A version may be encrypted: then its manifest is a [`StoredManifest`](crate::artifact::StoredManifest) that says to all what a
//! keeper needs, and to whoever has the key the rest; its files are decrypted as they are read. Nothing above this module knows.
//!
//! A store that is reached by HTTP (feature `cloud`) may fail for a while: each operation is tried again until a deadline,
//! and what comes back is compared with what was asked for. Credentials come from the environment.

mod artifact;
mod blocks;
mod change;
mod clock;
mod connection;
mod contents;
mod copy;
mod disk_cache;
mod error;
mod gc;
mod index;
#[cfg(feature = "cloud")]
mod json_client;
mod key;
mod location;
mod mapped;
mod objects;
mod options;
mod publish;
mod rekey;
mod repair;
mod retry;
mod runtime;
mod verify;

pub use artifact::{Artifact, Segment};
pub use blocks::{BlockReader, CacheOptions, RangedFile};
pub use change::NextVersion;
pub(crate) use clock::Clock;
pub use copy::Copied;
pub use error::{FileError, Place, StoreError};
pub use gc::{GcPolicy, GcReport, RemovedSegment};
pub use index::IndexStore;
#[cfg(feature = "cloud")]
pub use json_client::{HttpError, JsonClient};
pub use key::{KEY_VARIABLE, KeyFault, KeyReference, Sealing, give_keys};
pub use location::{Level, Location, LocationError, Object, READ_ONLY_SCHEMES, SCHEMES};
pub use mapped::local_folder;
pub use options::{Encryption, Secret, StoreOptions};
pub(crate) use publish::random_id;
pub use publish::{Published, StagedSegment, Upload};
pub use runtime::runtime;
pub use verify::{Verified, VerifyProgress, VerifyReport};
