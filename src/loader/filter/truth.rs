//! SQL's three truth values of every row at once.

use std::ops::{BitAnd, BitOr, Not};

use arrow_array::{Array, BooleanArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};

use crate::index::RowMask;

/// Per row true, false or, where neither bit is set, unknown.
#[derive(Debug, Clone)]
pub(super) struct Truth {
    yes: BooleanBuffer,
    no: BooleanBuffer,
}

impl Truth {
    pub fn constant(value: Option<bool>, rows: usize) -> Self {
        let all = |wanted| match value == Some(wanted) {
            true => BooleanBuffer::new_set(rows),
            false => BooleanBuffer::new_unset(rows),
        };
        Self { yes: all(true), no: all(false) }
    }

    /// `holds`, and unknown where `valid` says that there is no value.
    pub fn new(holds: BooleanBuffer, valid: Option<&NullBuffer>) -> Self {
        match valid {
            None => Self { no: !&holds, yes: holds },
            Some(valid) => Self { no: &!&holds & valid.inner(), yes: &holds & valid.inner() },
        }
    }

    pub fn of_array(array: &BooleanArray) -> Self {
        Self::new(array.values().clone(), array.nulls())
    }

    /// False becomes unknown: what `x IN (…, NULL)` is where `x` was not among the others.
    pub fn or_unknown(self) -> Self {
        Self { no: BooleanBuffer::new_unset(self.yes.len()), yes: self.yes }
    }

    /// Where it is `value`, known everywhere.
    pub fn is(self, value: Option<bool>) -> Self {
        let yes = match value {
            Some(true) => self.yes,
            Some(false) => self.no,
            None => !&(&self.yes | &self.no),
        };
        Self { no: !&yes, yes }
    }

    /// The rows for which it is true.
    pub fn into_true(self) -> BooleanBuffer {
        self.yes
    }
}

/// The rows whose bit is set.
pub(super) fn mask(rows: &BooleanBuffer) -> RowMask {
    let words = rows.bit_chunks().iter_padded().take(rows.len().div_ceil(64)).collect();
    RowMask::from_words(words, rows.len())
}

impl BitAnd for Truth {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self { yes: &self.yes & &other.yes, no: &self.no | &other.no }
    }
}

impl BitOr for Truth {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { yes: &self.yes | &other.yes, no: &self.no & &other.no }
    }
}

impl Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        Self { yes: self.no, no: self.yes }
    }
}
