//! A part of a source's rows, by a hash of their ids: which of so many indexes a row belongs to follows from its id alone, on
//! every machine and in every run, so that shards are built, changed and verified apart.

use std::fmt;
use std::str::FromStr;

use arrow_array::Array;
use serde::{Serialize, Serializer};

use super::row_ids;

/// Shard `place` of `count`, written `place/count`: `0/4` to `3/4`.
///
/// A row is in the shard whose place is the remainder of its id's hash by `count`. The hash is the first 8 bytes, little-endian, of the
/// BLAKE3 of the id as text: a number in decimal, a UUID in lower case with hyphens. So `7`, whether it is an integer or a
/// string, is in the same shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    place: u32,
    count: u32,
}

impl Shard {
    pub const MAX_COUNT: u32 = 1 << 16;
    pub const ALLOWED: &'static str = "\"i/n\", shard i of n: n from 1 to 65536, i from 0 to n − 1";

    /// `None` for a place that is not below the count, or a count of 0 or above [`Self::MAX_COUNT`].
    pub fn new(place: u32, count: u32) -> Option<Self> {
        (place < count && count <= Self::MAX_COUNT).then_some(Self { place, count })
    }

    pub fn place(self) -> u32 {
        self.place
    }

    pub fn count(self) -> u32 {
        self.count
    }

    /// The place of the shard, of `count`, that a row of this id is in.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn place_of(id: &str, count: u32) -> u32 {
        let hash = blake3::hash(id.as_bytes());
        let (head, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        (u64::from_le_bytes(*head) % u64::from(count)) as u32
    }

    /// Whether the row is this shard's. One without an id is the first's, so that one of them complains of it.
    pub(super) fn has(self, ids: &dyn Array, row: usize) -> bool {
        self.place == row_ids::text(ids, row).map_or(0, |id| Self::place_of(&id, self.count))
    }

    /// Of so many rows at most so many are to be expected in a shard: four standard deviations above the mean.
    pub fn rows_of(self, rows: u64) -> u64 {
        let mean = rows as f64 / f64::from(self.count);
        ((mean + 4.0 * mean.sqrt()).ceil() as u64).min(rows)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.place, self.count)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", Shard::ALLOWED)]
pub struct ShardError;

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let digits = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_plain.then(|| text.parse().ok()).flatten()
        };
        let (place, count) = text.split_once('/').ok_or(ShardError)?;
        digits(place).zip(digits(count)).and_then(|(place, count)| Shard::new(place, count)).ok_or(ShardError)
    }
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{FixedSizeBinaryArray, Int64Array, StringArray, UInt64Array};

    #[test]
    fn what_is_no_shard_is_refused() {
        for text in ["0/1", "3/4", "65535/65536"] {
            assert_eq!(text.parse::<Shard>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "4/4",
            "0/0",
            "1",
            "-1/4",
            "+1/4",
            "0/65537",
            " 0/4",
            "0/4/1",
            "a/b",
            "4294967296/4294967297",
        ] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    /// Which shard an id is in is written into published indexes: it never changes.
    #[test]
    fn an_id_is_where_it_has_always_been() {
        let places = |id: &str| [2, 3, 4, 1000].map(|count| Shard::place_of(id, count));
        for id in ["0", "-1", "memory:7", "00112233-4455-6677-8899-aabbccddeeff"] {
            let head = u64::from_le_bytes(blake3::hash(id.as_bytes()).as_bytes()[..8].try_into().unwrap());
            assert_eq!(places(id), [2, 3, 4, 1000].map(|count| (head % count) as u32), "{id}");
        }
        assert_eq!(places("7"), [0, 0, 2, 866]);
    }

    #[test]
    fn an_id_of_any_type_is_in_the_shard_of_its_text() {
        let uuid: Vec<u8> = (0u8..16).map(|i| i * 17).collect();
        let arrays: [(&dyn Array, &str); 4] = [
            (&Int64Array::from(vec![-7]), "-7"),
            (&UInt64Array::from(vec![u64::MAX]), "18446744073709551615"),
            (&StringArray::from(vec!["river"]), "river"),
            (
                &FixedSizeBinaryArray::try_from_iter([uuid].into_iter()).unwrap(),
                "00112233-4455-6677-8899-aabbccddeeff",
            ),
        ];
        for (ids, text) in arrays {
            let homes: Vec<u32> = (0..5).filter(|&place| Shard::new(place, 5).unwrap().has(ids, 0)).collect();
            assert_eq!(homes, [Shard::place_of(text, 5)], "{text}");
        }
    }

    #[test]
    fn shards_are_about_equal() {
        let shard = Shard::new(0, 8).unwrap();
        let mut rows = [0u64; 8];
        (0..20_000).for_each(|id: u64| rows[Shard::place_of(&id.to_string(), 8) as usize] += 1);
        assert!(rows.iter().all(|&rows| rows <= shard.rows_of(20_000) && rows > 2_300), "{rows:?}");
        assert_eq!((shard.rows_of(0), shard.rows_of(3)), (0, 3));
    }
}
