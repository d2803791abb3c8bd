//! The queries that an index was certified with, kept beside it as the section `queries`: so that what is made of the
//! index can be certified with them again. No search reads it.

use super::tensor::{Array, Section, TensorError};

pub const QUERIES_SECTION: &str = "queries";
pub const QUERIES_FILE: &str = "queries.safetensors";

/// Of a larger set so many are kept, evenly spread over it, since queries may lie in an order: 40 MB at 1,024 dimensions, and a recall within half a percent.
pub const MAX_KEPT_QUERIES: usize = 10_000;

/// Which of so many queries are kept.
pub fn kept_places(all: usize) -> impl ExactSizeIterator<Item = usize> {
    let kept = all.min(MAX_KEPT_QUERIES);
    (0..kept).map(move |place| place * all / kept)
}

/// `queries` × `dim` values, as they are searched (cosine: of unit length).
pub fn to_section(queries: &[f32], dim: usize) -> Section {
    let places = kept_places(queries.len() / dim);
    let kept = places.len();
    let values: Vec<f32> =
        places.flat_map(|query| &queries[query * dim..(query + 1) * dim]).copied().collect();
    Section::new(QUERIES_SECTION).with(QUERIES_SECTION, &Array::from_vec(values), &[kept, dim])
}

/// The queries of an index of `dim` dimensions, row by row: finite, one or more.
pub fn from_section(section: &Section, dim: usize) -> Result<Vec<f32>, TensorError> {
    let content = |what: String| TensorError::Content { tensor: QUERIES_SECTION.into(), what };
    let (_, shape) = section.array_of_rank::<f32>(QUERIES_SECTION, 2)?;
    if shape[0] == 0 {
        return Err(content("expected 1 or more queries, got none".into()));
    }
    let values = section.array::<f32>(QUERIES_SECTION, &[shape[0], dim])?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(content(format!("query {}: expected finite values, got {}", at / dim, values[at]))),
        None => Ok(values.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_read_back_as_they_were_and_others_are_refused() {
        let section = to_section(&[1.0, -2.0, 0.5, 3.0], 2);
        assert_eq!(from_section(&section, 2), Ok(vec![1.0, -2.0, 0.5, 3.0]));
        assert!(from_section(&section, 4).is_err());
        assert!(from_section(&to_section(&[], 2), 2).is_err());
        assert!(from_section(&to_section(&[1.0, f32::NAN], 2), 2).is_err());
        assert!(from_section(&Section::new(QUERIES_SECTION), 2).is_err());
    }

    #[test]
    fn of_many_queries_some_of_all_are_kept() {
        let queries: Vec<f32> = (0..3 * MAX_KEPT_QUERIES + 5).map(|query| query as f32).collect();
        let kept = from_section(&to_section(&queries, 1), 1).unwrap();
        assert_eq!(kept.len(), MAX_KEPT_QUERIES);
        assert!(kept.windows(2).all(|pair| (3.0..5.0).contains(&(pair[1] - pair[0]))));
    }
}
