//! Which family an artifact's `kind` names. The one place that lists them.

use std::sync::Arc;

use super::LoadError;
use crate::artifact::Section;
use crate::flat::FlatIndex;
use crate::hnsw::Hnsw;
use crate::index::SearchIndex;
use crate::ivf::IvfPq;

/// Makes the index of a kind from its sections.
///
/// # Errors
/// An unknown kind, and sections that do not make an index.
pub fn assemble(kind: &str, sections: &[Section]) -> Result<Arc<dyn SearchIndex>, LoadError> {
    match kind {
        "flat" => Ok(Arc::new(FlatIndex::from_sections(sections)?)),
        "ivf_pq" => Ok(Arc::new(IvfPq::from_sections(sections)?)),
        "hnsw" => Ok(Arc::new(Hnsw::from_sections(sections)?)),
        other => Err(LoadError::Kind { got: other.into(), known: "flat, ivf_pq, hnsw" }),
    }
}

/// What `effort` is called in an index of this kind, as [`SearchIndex::effort_name`] has it; for whoever holds a
/// manifest and not the index. A kind that this version does not know has some effort too.
pub fn effort_name(kind: &str) -> Option<&'static str> {
    match kind {
        "flat" => None,
        "ivf_pq" => Some("nprobe"),
        "hnsw" => Some("ef_search"),
        _ => Some("effort"),
    }
}
