//! Which family an artifact's `kind` names. The one place that lists them.

use std::sync::Arc;

use super::LoadError;
use crate::artifact::{RangedSection, Section};
use crate::flat::FlatIndex;
use crate::hnsw::Hnsw;
use crate::index::SearchIndex;
use crate::ivf::IvfPq;

const KNOWN: &str = "flat, ivf_pq, hnsw";

/// Makes the index of a kind from its sections.
///
/// # Errors
/// An unknown kind, and sections that do not make an index.
pub fn assemble(kind: &str, sections: &[Section]) -> Result<Arc<dyn SearchIndex>, LoadError> {
    match kind {
        "flat" => Ok(Arc::new(FlatIndex::from_sections(sections)?)),
        "ivf_pq" => Ok(Arc::new(IvfPq::from_sections(sections)?)),
        "hnsw" => Ok(Arc::new(Hnsw::from_sections(sections)?)),
        other => Err(LoadError::Kind { got: other.into(), known: KNOWN }),
    }
}

/// The sections that every search of a kind needs, of those that an artifact has. The others are read by range, where
/// the index is opened so.
///
/// # Errors
/// An unknown kind.
pub fn needed_whole<'a>(kind: &str, sections: &[&'a str]) -> Result<Vec<&'a str>, LoadError> {
    let of_all = |names: &[&str]| sections.iter().copied().filter(|name| names.contains(name)).collect();
    match kind {
        "flat" => Ok(Vec::new()),
        "ivf_pq" => Ok(of_all(&["ivf"])),
        // Without codes a walk reads the vectors.
        "hnsw" if sections.contains(&"codes") => Ok(of_all(&["graph", "codes"])),
        "hnsw" => Ok(sections.to_vec()),
        other => Err(LoadError::Kind { got: other.into(), known: KNOWN }),
    }
}

/// As [`assemble`], of the sections that [`needed_whole`] names and the others by range.
pub fn assemble_ranged(
    kind: &str,
    whole: &[Section],
    ranged: &[RangedSection],
) -> Result<Arc<dyn SearchIndex>, LoadError> {
    match (kind, ranged) {
        (_, []) => assemble(kind, whole),
        ("flat", [vectors, ..]) => Ok(Arc::new(FlatIndex::ranged(vectors)?)),
        ("ivf_pq", others) => Ok(Arc::new(IvfPq::ranged(Section::named(whole, "ivf")?, others)?)),
        ("hnsw", [vectors, ..]) => Ok(Arc::new(Hnsw::ranged(whole, vectors)?)),
        (other, _) => Err(LoadError::Kind { got: other.into(), known: KNOWN }),
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
