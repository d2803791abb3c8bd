//! From what a caller asks to what a family searches.

use super::{EXACT_ROWS, Effort, Index, SearchOptions};
use crate::artifact::CertificatePoint;
use crate::index::SearchParams;
use crate::train::MAX_SQUARED_NORM;
use crate::vectors::{Metric, VectorBuf, VectorView, normalize, squared_norm};

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum QueryError {
    #[error("queries have {got} dimensions, the index {expected}")]
    Dim { expected: usize, got: usize },
    #[error("query {query}: dimension {dimension} is {value}, expected a finite number")]
    NotFinite { query: usize, dimension: usize, value: f32 },
    #[error("query {query} has length 0, and cosine compares directions")]
    Zero { query: usize },
    #[error(
        "query {query}: squared norm {got:e}, expected at most {MAX_SQUARED_NORM:e}, so that f32 holds every distance"
    )]
    Magnitude { query: usize, got: f64 },
    #[error("{name} is {got}, expected {expected}")]
    Option { name: &'static str, expected: String, got: String },
    #[error("the index keeps no vectors (refine = \"none\"), so it cannot be searched exactly")]
    NoVectors,
    #[error("no setting that the certificate measured reaches recall@{k} {asked}; the best has {best:.4}")]
    Recall { k: u32, asked: f64, best: f64 },
    #[error("the index has no certificate, so it cannot be searched by recall: give the effort instead")]
    NoCertificate,
}

/// Checked queries, for cosine normalised.
pub(super) fn prepare(queries: VectorView<'_>, dim: usize, metric: Metric) -> Result<VectorBuf, QueryError> {
    if queries.dim() != dim {
        return Err(QueryError::Dim { expected: dim, got: queries.dim() });
    }
    if let Some(place) = queries.as_slice().iter().position(|value| !value.is_finite()) {
        let value = queries.as_slice()[place];
        return Err(QueryError::NotFinite { query: place / dim, dimension: place % dim, value });
    }
    let mut prepared = VectorBuf::new(queries.as_slice().to_vec(), dim);
    for query in 0..prepared.rows() {
        match metric {
            Metric::Cosine if !normalize(prepared.row_mut(query)) => return Err(QueryError::Zero { query }),
            Metric::Cosine => {}
            Metric::L2 | Metric::InnerProduct => {
                let got = squared_norm(prepared.row(query));
                if got > MAX_SQUARED_NORM {
                    return Err(QueryError::Magnitude { query, got });
                }
            }
        }
    }
    Ok(prepared)
}

/// `None` for an exact search.
pub(super) fn setting(index: &Index, options: &SearchOptions) -> Result<Option<SearchParams>, QueryError> {
    let positive = |name, value: usize| match value {
        0 => Err(QueryError::Option { name, expected: "1 or more".into(), got: "0".into() }),
        _ => Ok(value),
    };
    let k = positive("k", options.k)?.min(index.rows());
    let build = &index.manifest().build;
    // What was measured was measured for this many rows.
    let measured_k = build.certificate.as_ref().map_or(k, |certificate| certificate.target_k as usize);
    let measured = |effort: u32, refine: u32| SearchParams {
        k: measured_k,
        effort: effort as usize,
        refine: refine as usize,
    };
    let params = match options.effort {
        Effort::Exact if index.exact.is_none() => return Err(QueryError::NoVectors),
        Effort::Exact => return Ok(None),
        Effort::Default if index.exact.is_some() && index.rows() <= EXACT_ROWS => return Ok(None),
        Effort::Default => match build.search_defaults {
            Some(defaults) => measured(defaults.effort, defaults.refine).for_k(k),
            None => SearchParams { k, effort: k, refine: 0 },
        },
        Effort::Given(effort) => SearchParams { k, effort: positive("effort", effort)?, refine: 0 },
        Effort::Recall(recall) => {
            let point = at_recall(index, k, recall)?;
            measured(point.effort, point.refine).for_k(k)
        }
    };
    Ok(Some(SearchParams { refine: options.refine.unwrap_or(params.refine), ..params }))
}

/// The cheapest certified setting whose recall, at the smallest measured `k` that is not below the one asked (else at
/// the largest), reaches `recall`.
fn at_recall(index: &Index, k: usize, recall: f64) -> Result<&CertificatePoint, QueryError> {
    if !(recall > 0.0 && recall <= 1.0) {
        let expected = "above 0 and at most 1".into();
        return Err(QueryError::Option { name: "recall", expected, got: recall.to_string() });
    }
    let certificate = index.manifest().build.certificate.as_ref().ok_or(QueryError::NoCertificate)?;
    let ks = &certificate.k;
    let place = ks.iter().position(|&measured| measured as usize >= k).unwrap_or(ks.len() - 1);
    let of = |point: &CertificatePoint| point.recall[place].mean;
    match certificate.points.iter().find(|point| of(point) >= recall) {
        Some(point) => Ok(point),
        None => {
            let best = certificate.points.iter().map(of).fold(0.0, f64::max);
            Err(QueryError::Recall { k: ks[place], asked: recall, best })
        }
    }
}
