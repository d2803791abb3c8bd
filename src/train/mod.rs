//! What is learned from rows before they are encoded: centroids (k-means), codebooks (product quantizer) or ranges (scalar
//! quantizer), and optionally a rotation (OPQ) and codes that keep scores (anisotropic loss); and what is drawn or fixed: the fast
//! rotation, and levels of a few bits.
//!
//! Algorithms over [`Compute`](crate::compute::Compute) and nothing else: no storage, no job, no index layout.
//! The same rows, parameters, seed and backend give the same bytes at any number of threads: everything drawn
//! comes from [`Random`](crate::vectors::Random), every sum has a fixed order.
//!
//! Refuses rows that f32 arithmetic cannot hold ([`TrainError::Magnitude`]) and fewer rows than centroids.

mod hadamard;
mod hierarchy;
mod kmeans;
mod levels;
mod linear;
mod pq;
mod rotation;
mod scalar;
mod score_aware;
mod seeding;
mod vacancies;

use std::ops::ControlFlow;

use rayon::prelude::*;

pub use hadamard::FastRotation;
pub use kmeans::{Kmeans, KmeansParams, sample, train};
pub use levels::{round_direction, top as top_level};
pub use pq::{PqParams, PqShape, PqTraining, ProductQuantizer};
pub use rotation::{Rotation, train_rotated};
pub use scalar::ScalarQuantizer;
pub use score_aware::{ScoreAware, ScoredRows};

use crate::compute::ComputeError;
use crate::vectors::{MAX_SQUARED_NORM, Neighbor, VectorView, squared_norm};

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("{rows} rows cannot train {k} centroids: expected at least one row per centroid")]
    TooFewRows { rows: usize, k: usize },
    #[error("parameter `{name}`: expected {expected}, got {got}")]
    Parameter { name: &'static str, expected: String, got: String },
    #[error(
        "row {row}: squared norm {got:e}, expected a finite one of at most {MAX_SQUARED_NORM:e}, so that f32 holds \
         every distance"
    )]
    Magnitude { row: usize, got: f64 },
    #[error("the backend returned label {got}, expected one below {k}")]
    Label { got: u32, k: usize },
    #[error("stopped on request")]
    Cancelled,
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

/// Where a long operation stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What runs: `k-means`, `product quantizer`, `encode`.
    pub stage: &'static str,
    /// Steps done of `total`: iterations or rows. A stage may end early.
    pub done: u64,
    pub total: u64,
    /// For iterations: the sum of squared distances, over the rows trained on, to the centroids that entered it.
    pub inertia: Option<f64>,
}

/// Who watches a long operation and may end it: `Break` becomes [`TrainError::Cancelled`]. Called between
/// batches of work from the thread that started it, so at intervals of a second or so, not at once.
pub type Observer<'a> = &'a dyn Fn(Progress) -> ControlFlow<()>;

/// An observer that lets everything go on.
pub fn unobserved(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn report(observer: Observer<'_>, progress: Progress) -> Result<(), TrainError> {
    match observer(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Cancelled),
    }
}

/// Where quality suffers although nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Warning {
    /// Fewer training rows per centroid than are usually needed for a mean to be worth something.
    FewTrainingRows { what: String, rows: usize, centroids: usize, recommended: usize },
    /// Clusters that no row of the training sample belongs to: there are fewer distinct rows than clusters.
    EmptyClusters { what: String, empty: usize, centroids: usize },
    /// One list holds so many rows that probing it costs as much as probing many.
    LongestList { rows: usize, mean: usize },
    /// Vectors kept as f16 lie so many times as far from the origin as from each other: rounding hides what tells them apart.
    Rounded { times: u64 },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::FewTrainingRows { what, rows, centroids, recommended } => write!(
                f,
                "{what}: {rows} rows train {centroids} centroids, {recommended} rows or more are recommended"
            ),
            Warning::EmptyClusters { what, empty, centroids } => {
                write!(
                    f,
                    "{what}: {empty} of {centroids} clusters are empty: the rows have too few distinct values"
                )
            }
            Warning::Rounded { times } => {
                write!(
                    f,
                    "rows lie {times} times as far from the origin as from each other: f16 rounds away what tells them apart; \
                     refine = \"f32\" does not"
                )
            }
            Warning::LongestList { rows, mean } => {
                write!(
                    f,
                    "the longest list holds {rows} rows, the mean is {mean}: queries that probe it are slow"
                )
            }
        }
    }
}

/// Refuses the first row whose squared norm is not a number in `0..=MAX_SQUARED_NORM`: its distances would be
/// infinite or NaN, and a mean that holds it would be lost.
pub fn check_magnitude(rows: VectorView<'_>) -> Result<(), TrainError> {
    let bad = rows
        .as_slice()
        .par_chunks(rows.dim())
        .with_min_len(1024)
        .enumerate()
        .filter_map(|(row, values)| {
            let got = squared_norm(values);
            (got.is_nan() || got > MAX_SQUARED_NORM).then_some((row, got))
        })
        .min_by_key(|&(row, _)| row);
    match bad {
        Some((row, got)) => Err(TrainError::Magnitude { row, got }),
        None => Ok(()),
    }
}

/// The labels of what `assign` found; a backend's label is an index from outside, checked once here.
pub fn checked_labels(nearest: &[Neighbor], k: usize) -> Result<Vec<u32>, TrainError> {
    nearest
        .iter()
        .map(|found| match found.ordinal {
            label if (label as usize) < k => Ok(label),
            got => Err(TrainError::Label { got, k }),
        })
        .collect()
}
