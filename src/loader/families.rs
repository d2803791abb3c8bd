//! Which family an artifact's `kind` names. The one place that lists them.

use std::sync::Arc;

use super::LoadError;
use crate::artifact::Section;
use crate::flat::FlatIndex;
use crate::hnsw::Hnsw;
use crate::index::SearchIndex;
use crate::ivf::IvfPq;

/// Makes the index of a kind from its sections, which `section` fetches by name.
///
/// # Errors
/// An unknown kind, whatever `section` says, and sections that do not make an index.
pub fn assemble(
    kind: &str,
    section: &mut dyn FnMut(&str) -> Result<Section, LoadError>,
) -> Result<Arc<dyn SearchIndex>, LoadError> {
    match kind {
        "flat" => Ok(Arc::new(FlatIndex::read(section)?)),
        "ivf_pq" => Ok(Arc::new(IvfPq::read(section)?)),
        "hnsw" => Ok(Arc::new(Hnsw::read(section)?)),
        other => Err(LoadError::Kind { got: other.into(), known: "flat, ivf_pq, hnsw" }),
    }
}
