//! Annvil forges vector indexes: embeddings in Parquet go in, certified IVF-PQ and HNSW artifacts come out.

pub mod artifact;
pub mod compute;
#[cfg(feature = "cli")]
pub mod dataset;
pub mod index;
pub mod vectors;
