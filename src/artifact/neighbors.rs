//! The exact nearest rows of a segment to each of the queries that an index keeps, as the section `neighbors`: a change then compares
//! the queries with the rows that came, and not with those that stayed.
//!
//! `ordinals` u32 and `distances` f32, both `[queries, depth]`, ascending by (distance, ordinal); metadata `queries`, the BLAKE3 of
//! the values of the section `queries`. More than a certificate asks for, so that some may go.

use super::digest::Digest;
use super::tensor::{Array, Section, TensorError};
use crate::vectors::{Neighbor, Neighbors};

pub const NEIGHBORS_SECTION: &str = "neighbors";
pub const NEIGHBORS_FILE: &str = "neighbors.safetensors";

/// Neighbours kept of each query, where a segment has as many rows: as many again as a certificate measures, so that
/// half of a query's may go before it is compared with the segment's rows again.
pub const NEIGHBORS_KEPT: usize = 200;

/// What tells one set of queries from another.
pub fn digest_of(queries: &[f32]) -> Digest {
    Digest::of(bytemuck::cast_slice(queries))
}

/// Of all kept queries, every place taken.
pub fn to_section(queries: Digest, neighbors: &Neighbors) -> Section {
    let shape = [neighbors.queries(), neighbors.k()];
    let ordinals = neighbors.as_slice().iter().map(|neighbor| neighbor.ordinal).collect();
    let distances = neighbors.as_slice().iter().map(|neighbor| neighbor.distance).collect();
    Section::new(NEIGHBORS_SECTION)
        .with("ordinals", &Array::<u32>::from_vec(ordinals), &shape)
        .with("distances", &Array::<f32>::from_vec(distances), &shape)
        .with_metadata("queries", queries)
}

/// Those of a segment of so many rows; `None` where they are other queries'.
pub fn from_section(
    section: &Section,
    queries: Digest,
    count: usize,
    rows: u64,
) -> Result<Option<Neighbors>, TensorError> {
    if section.metadata::<String>("queries")? != queries.to_string() {
        return Ok(None);
    }
    let content = |what: String| TensorError::Content { tensor: "ordinals".into(), what };
    let (_, shape) = section.array_of_rank::<u32>("ordinals", 2)?;
    let depth = shape[1];
    if depth == 0 || depth as u64 > rows {
        return Err(content(format!("expected 1 to {rows} neighbours of each query, got {depth}")));
    }
    let ordinals = section.array::<u32>("ordinals", &[count, depth])?;
    let distances = section.array::<f32>("distances", &[count, depth])?;
    let mut neighbors = Neighbors::new(count, depth);
    let pairs = ordinals.iter().zip(distances.iter());
    for (place, (&ordinal, &distance)) in neighbors.as_mut_slice().iter_mut().zip(pairs) {
        if u64::from(ordinal) >= rows || !distance.is_finite() {
            let what = format!("expected rows below {rows} at finite distances, got {ordinal} at {distance}");
            return Err(content(what));
        }
        *place = Neighbor::new(ordinal, distance);
    }
    match (0..count).find(|&query| neighbors.row(query).windows(2).any(|pair| pair[0] >= pair[1])) {
        Some(query) => Err(content(format!("query {query}: expected neighbours ascending, none twice"))),
        None => Ok(Some(neighbors)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_read_back_as_they_were_and_others_are_refused() {
        let of = |pairs: [(u32, f32); 4]| {
            let mut neighbors = Neighbors::new(2, 2);
            let pairs = pairs.map(|(ordinal, distance)| Neighbor::new(ordinal, distance));
            neighbors.as_mut_slice().copy_from_slice(&pairs);
            neighbors
        };
        let queries = digest_of(&[1.0, 2.0]);
        let good = of([(3, 0.5), (1, 0.75), (0, -1.0), (2, -1.0)]);
        let section = to_section(queries, &good);
        assert_eq!(from_section(&section, queries, 2, 4), Ok(Some(good)));
        assert_eq!(from_section(&section, digest_of(&[1.0, 2.5]), 2, 4), Ok(None));
        assert!(from_section(&section, queries, 2, 3).is_err());
        assert!(from_section(&section, queries, 3, 4).is_err());
        for bad in [
            [(3, 0.75), (1, 0.5), (0, 1.0), (2, 1.0)],
            [(1, 0.5), (1, 0.5), (0, 1.0), (2, 1.0)],
            [(1, 0.5), (2, f32::NAN), (0, 1.0), (2, 1.0)],
        ] {
            assert!(from_section(&to_section(queries, &of(bad)), queries, 2, 4).is_err(), "{bad:?}");
        }
    }
}
