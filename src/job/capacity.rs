//! How much an index of so many rows takes, whatever its rows are: the planner's formulas, for whoever has no source.

use super::estimate::{Load, estimate};
use super::scratch::Memory;
use super::spec::{IndexParams, JobSpec};
use super::truth::truth_k;
use crate::source::IdWidth;

/// What a process takes before there is a row.
const PROCESS_BYTES: u64 = 36 << 20;

/// The loader's default.
const FILTER_CACHE_BYTES: u64 = 64 << 20;

/// Rows without contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub rows: u64,
    pub dim: u64,
    /// Of ids and attributes of a row.
    pub columns_bytes: u64,
    pub queries: u64,
    pub threads: u64,
}

/// What an index takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct IndexSize {
    /// Of the published version.
    pub published: u64,
    /// Of that, what is not ids and attributes.
    pub sections: u64,
    /// Memory while it is searched, all of it in memory: the files, links and codes of a graph twice over, what ids are found
    /// by, and the masks of filters; see [`OpenOptions::needed_bytes`](crate::loader::OpenOptions::needed_bytes).
    pub serving: u64,
    /// Memory at most while it is built with all rows in memory, …
    pub building: u64,
    /// … and with the rows in files of the scratch folder.
    pub building_from_scratch: u64,
    /// The scratch folder at most.
    pub scratch: u64,
}

/// Of a job's only index.
pub(crate) fn index_size(spec: &JobSpec, shape: &Shape) -> IndexSize {
    debug_assert_eq!(spec.indexes.len(), 1);
    let load = Load {
        rows: shape.rows,
        dim: shape.dim,
        queries: shape.queries,
        truth_k: truth_k(spec) as u64,
        threads: shape.threads,
        columns_bytes: shape.columns_bytes,
        process_bytes: PROCESS_BYTES,
        ids: IdWidth::Wide,
    };
    let in_memory = estimate(spec, &load, Memory::Own);
    let in_files = estimate(spec, &load, Memory::Mapped);
    let sections = estimate(spec, &Load { columns_bytes: 0, ..load }, Memory::Mapped).output_bytes;
    let raw = 4 * shape.rows * shape.dim;
    let copied = match spec.indexes[0].params {
        IndexParams::Hnsw(_) => sections.saturating_sub(raw),
        _ => 0,
    };
    IndexSize {
        published: in_memory.output_bytes,
        sections,
        serving: in_memory.output_bytes + copied + 4 * shape.rows + FILTER_CACHE_BYTES + PROCESS_BYTES,
        building: in_memory.peak_memory_bytes,
        building_from_scratch: in_files.peak_memory_bytes,
        scratch: in_files.scratch_bytes,
    }
}
