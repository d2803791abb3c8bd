//! Annvil forges vector indexes: embeddings in Parquet go in, certified IVF-PQ and HNSW artifacts come out, and services
//! open those read-only.
//!
//! ```text
//! Parquet ─ source ─► rows ─ train, ivf | hnsw | flat ─► sections ─ report ─► certificate ─ store ─► version
//!                              └─ compute: reference | cpu | gpu ─┘                                     │
//!                                                            answers ◄── loader ◄── artifact, checked ──┘
//! ```
//!
//! [`job`] runs the upper line, [`loader`] the lower one.

pub mod artifact;
#[cfg(feature = "build")]
pub mod change;
#[cfg(feature = "cli")]
pub mod cli;
pub mod compute;
#[cfg(feature = "build")]
pub mod dataset;
pub mod error;
pub mod flat;
pub mod hnsw;
pub mod index;
pub mod ivf;
#[cfg(feature = "build")]
pub mod job;
pub mod loader;
pub mod report;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "build")]
pub mod source;
pub mod store;
pub mod train;
#[cfg(feature = "build")]
pub mod tune;
pub mod vectors;

pub use error::Error;
