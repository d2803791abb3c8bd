//! Annvil forges vector indexes: embeddings in Parquet go in, certified IVF-PQ and HNSW artifacts come out.

pub mod artifact;
pub mod compute;
pub mod flat;
pub mod index;
pub mod ivf;
pub mod train;
pub mod vectors;
