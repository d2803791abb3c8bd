//! Annvil forges vector indexes: embeddings in Parquet go in, certified IVF-PQ and HNSW artifacts come out.

pub mod artifact;
#[cfg(feature = "cli")]
pub mod cli;
pub mod compute;
pub mod error;
pub mod index;
#[cfg(feature = "build")]
pub mod job;
pub mod vectors;

pub use error::Error;
