//! Exact search over kept vectors: the index family for few rows, what other families re-rank with
//! ([`KeptVectors`](crate::index::KeptVectors)), and the ground truth they are measured against ([`ground_truth`]).
//!
//! Refuses rows that the chosen precision cannot hold. Ordinals are the rows' numbers as given.

mod search;
mod sections;
mod truth;

pub use search::{FlatIndex, FlatSearcher};
pub use sections::SECTION;
pub use truth::{ground_truth, truth_bytes};
