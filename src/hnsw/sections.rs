//! The graph as tensors, and back. Every invariant that searching relies on is checked when it is read.
//!
//! | section | tensor | type and shape | content |
//! |---|---|---|---|
//! | `graph` | `links` | u32 [rows, 2m] | base layer, `u32::MAX` pads at the end of a row |
//! | `graph` | `levels` | u8 [rows] | the highest level of each row |
//! | `graph` | `upper_links` | u32 [Σ levels, m] | levels 1.. of each row, row by row |
//! | `vectors` | `vectors` | f32 [rows, dim] | unit length for cosine |
//! | `codes` | `codes` | u8 [rows, stride] | unless the code is `f32`: levels in planes, at the end f as f32, for L2 \|x − mean\|² before it (`codes.rs`) |
//! | `codes` | `mean` | f32 [dim] | x ≈ mean + f · (level − middle) |
//!
//! `graph` carries `metric`, `entry_point` and `code` as metadata, and `growth` where it is known (`reach.rs`).

use super::codes::{Code, Codes};
use super::reach::is_growth;
use super::{Hnsw, upper_offsets};
use crate::artifact::{RangedSection, Section, TensorError};
use crate::index::{KeptVectors, Precision, SearchIndex};
use crate::vectors::OfProducts;

/// Of the metadata; indexes of before have none, and are searched with beams of fixed width.
const GROWTH: &str = "growth";

fn read_growth(graph: &Section) -> Result<Option<f32>, TensorError> {
    if !graph.metadata.contains_key(GROWTH) {
        return Ok(None);
    }
    let growth: f32 = graph.metadata(GROWTH)?;
    let error = || {
        let what = format!("{growth} is not above 0 and at most 4");
        TensorError::Metadata { section: "graph".into(), key: GROWTH.into(), what }
    };
    is_growth(growth).ok_or_else(error).map(Some)
}

pub(super) fn write(index: &Hnsw) -> Vec<Section> {
    let rows = index.rows();
    let upper = index.upper_links.len() / index.m;
    let mut graph = Section::new("graph")
        .with("links", &index.links, &[rows, index.degree])
        .with("levels", &index.levels, &[rows])
        .with("upper_links", &index.upper_links, &[upper, index.m])
        .with_metadata("metric", index.metric)
        .with_metadata("entry_point", index.entry_point)
        .with_metadata("code", index.code().name());
    if let Some(growth) = index.growth {
        graph = graph.with_metadata(GROWTH, growth);
    }
    let mut sections = vec![graph, index.vectors.write(Section::new("vectors"), "vectors")];
    sections.extend(index.codes.as_ref().map(Codes::section));
    sections
}

impl Hnsw {
    /// The index that `write` took apart.
    ///
    /// # Errors
    /// The first section or tensor that is missing, has another type or shape, or breaks an invariant.
    pub fn from_sections(sections: &[Section]) -> Result<Self, TensorError> {
        let vectors = Section::named(sections, "vectors")?;
        let dim = vectors.tensor("vectors")?.shape.last().map_or(0, |&dim| dim as usize);
        let read = |rows, dim| KeptVectors::read(vectors, "vectors", rows, dim, Precision::F32);
        Self::with_vectors(sections, dim, &read)
    }

    /// As [`from_sections`](Self::from_sections), with the vectors left in their file: `sections` are the graph and the
    /// codes. A graph without codes is walked by its vectors, which are needed whole.
    ///
    /// # Errors
    /// As `from_sections`, but for what vectors consist of.
    pub fn ranged(sections: &[Section], vectors: &RangedSection) -> Result<Self, TensorError> {
        if let Code::F32 = Section::named(sections, "graph")?.metadata("code")? {
            let what = "f32, so the walk reads the vectors, which are not here".into();
            return Err(TensorError::Metadata { section: "graph".into(), key: "code".into(), what });
        }
        let dim = vectors.head.tensor("vectors")?.shape.last().map_or(0, |&dim| dim as usize);
        let read = |rows, dim| KeptVectors::ranged(vectors, "vectors", rows, dim, Precision::F32);
        Self::with_vectors(sections, dim, &read)
    }

    /// Whether the walk reads codes, or else the vectors of all rows that it comes by.
    pub fn walks_on_codes(graph: &Section) -> Result<bool, TensorError> {
        Ok(graph.metadata::<Code>("code")? != Code::F32)
    }

    fn with_vectors(
        sections: &[Section],
        dim: usize,
        read: &dyn Fn(usize, usize) -> Result<KeptVectors, TensorError>,
    ) -> Result<Self, TensorError> {
        let graph = Section::named(sections, "graph")?;
        let code: Code = graph.metadata("code")?;
        let broken = |tensor: &str, what: String| TensorError::Content { tensor: tensor.into(), what };
        let (links, shape) = graph.array_of_rank::<u32>("links", 2)?;
        let (rows, degree) = (shape[0], shape[1]);
        if rows == 0 || rows > Self::MAX_ROWS || degree == 0 {
            return Err(broken("links", format!("shape {shape:?}: no graph has that")));
        }
        if dim == 0 {
            return Err(broken("vectors", "no dimensions".into()));
        }
        let vectors = read(rows, dim)?;
        let levels = graph.array::<u8>("levels", &[rows])?;
        let upper_rows: usize = levels.iter().map(|&level| usize::from(level)).sum();
        let (upper_links, shape) = graph.array_of_rank::<u32>("upper_links", 2)?;
        if shape[0] != upper_rows || shape[1] == 0 {
            return Err(broken(
                "upper_links",
                format!("shape {shape:?}, but the levels add up to {upper_rows}"),
            ));
        }
        let OfProducts(metric) = graph.metadata("metric")?;
        let entry_point: u32 = graph.metadata("entry_point")?;
        let highest = levels.iter().copied().max().unwrap_or(0);
        if levels.get(entry_point as usize) != Some(&highest) {
            return Err(broken("levels", format!("the entry point {entry_point} is not on level {highest}")));
        }
        if let Some(place) = links.iter().position(|&to| to != u32::MAX && to as usize >= rows) {
            return Err(broken("links", format!("entry {place}: {} is no row of {rows}", links[place])));
        }
        let index = Self {
            metric,
            codes: Codes::read(sections, code, metric, rows, dim)?,
            vectors,
            links: links.aligned_to_lines(),
            degree,
            upper_offsets: upper_offsets(&levels),
            levels,
            upper_links,
            m: shape[1],
            entry_point,
            growth: read_growth(graph)?,
        };
        index.check_upper_links()?;
        Ok(index)
    }

    /// A link on level l must lead to a row that has a level l.
    fn check_upper_links(&self) -> Result<(), TensorError> {
        for row in 0..self.levels.len() as u32 {
            for level in 1..=usize::from(self.levels[row as usize]) {
                for to in self.upper_links(row, level) {
                    if self.levels.get(to as usize).is_none_or(|&reach| usize::from(reach) < level) {
                        let what = format!("row {row} links to {to} on level {level}, where that row is not");
                        return Err(TensorError::Content { tensor: "upper_links".into(), what });
                    }
                }
            }
        }
        Ok(())
    }
}
