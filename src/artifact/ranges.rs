//! Files that are read by range: what a section looks like that is not here, and what reading parts of it says.
//!
//! Reads nothing itself: a store implements [`Ranges`], and an index family asks it for everything that it will need next at
//! once, so that one call is one round trip.

use std::error::Error;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::safetensors::SectionHead;
use super::tensor::{Element, TensorError};

/// A file whose bytes are fetched as they are needed, and checked before they are handed out.
pub trait Ranges: Send + Sync + Debug {
    /// The bytes of each range, in order. All that is not at hand is asked for at once.
    ///
    /// # Errors
    /// What the store says of any of them; a range that the file has not; the end of `fetching`.
    fn read(&self, ranges: &[Range<u64>], fetching: &mut Fetching) -> Result<Vec<Bytes>, FetchError>;
}

/// What a search may take for reading, and what it has taken.
#[derive(Debug, Clone, Default)]
pub struct Fetching {
    /// When reading ends, whatever is still on its way.
    pub end: Option<Instant>,
    pub stats: FetchStats,
}

/// What was asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct FetchStats {
    /// Times that something was waited for, one after the other.
    pub round_trips: u64,
    /// Requests, retries not counted. Those of one round trip are under way together.
    pub requests: u64,
    /// That the requests asked for.
    pub bytes: u64,
}

impl FetchStats {
    /// Adds what was fetched at the same time, by another thread.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        let round_trips = self.round_trips.max(other.round_trips);
        Self { round_trips, requests: self.requests + other.requests, bytes: self.bytes + other.bytes }
    }

    /// Adds what was fetched afterwards.
    #[must_use]
    pub fn then(self, other: Self) -> Self {
        let round_trips = self.round_trips + other.round_trips;
        Self { round_trips, requests: self.requests + other.requests, bytes: self.bytes + other.bytes }
    }
}

/// Why bytes could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    #[error("the time was over before the bytes were there")]
    TimeOut,
    /// They are what was published, and make no sense.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// What the store says.
    #[error("{0}")]
    Store(#[source] Arc<dyn Error + Send + Sync>),
}

/// A section whose tensors are read by range.
#[derive(Debug, Clone)]
pub struct RangedSection {
    pub head: SectionHead,
    pub file: Arc<dyn Ranges>,
}

impl RangedSection {
    /// The tensor `name`, which must have type `T` and exactly this shape.
    ///
    /// # Errors
    /// As [`Section::array`](super::Section::array).
    pub fn rows<T: Element>(&self, name: &str, shape: &[usize]) -> Result<RangedRows, TensorError> {
        let start = self.head.place::<T>(name, shape)?.start;
        let row_bytes = shape[1..].iter().product::<usize>() * size_of::<T>();
        Ok(RangedRows { file: self.file.clone(), start, row_bytes: row_bytes as u64 })
    }
}

/// A tensor's rows in a file that is read by range.
#[derive(Debug, Clone)]
pub struct RangedRows {
    pub file: Arc<dyn Ranges>,
    /// Of the first row, in the file.
    start: u64,
    row_bytes: u64,
}

impl RangedRows {
    /// Where some of the rows lie in the file. They are rows of the tensor.
    pub fn range(&self, rows: Range<usize>) -> Range<u64> {
        let at = |row: usize| self.start + row as u64 * self.row_bytes;
        at(rows.start)..at(rows.end)
    }

    pub fn row_bytes(&self) -> usize {
        self.row_bytes as usize
    }
}
