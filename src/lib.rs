//! Annvil forges vector indexes: embeddings in Parquet go in, certified IVF-PQ and HNSW artifacts come out.

pub mod artifact;
pub mod compute;
pub mod index;
#[cfg(feature = "build")]
pub mod source;
pub mod store;
pub mod vectors;
