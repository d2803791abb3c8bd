//! Which rows a search may return.

use std::ops::Range;

/// A set of rows as a bitmap, immutable. Bit `i % 64` of word `i / 64` is row `i`; bits beyond the last row are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMask {
    words: Vec<u64>,
    rows: usize,
    count: usize,
}

impl RowMask {
    /// Every one of `rows` rows.
    pub fn all(rows: usize) -> Self {
        Self::from_words(vec![u64::MAX; rows.div_ceil(64)], rows)
    }

    /// From the bitmap itself; bits beyond `rows` are cleared.
    ///
    /// # Panics
    /// If there are not exactly as many words as `rows` rows take.
    pub fn from_words(mut words: Vec<u64>, rows: usize) -> Self {
        assert_eq!(words.len(), rows.div_ceil(64), "words of {rows} rows");
        if let Some(last) = words.last_mut()
            && !rows.is_multiple_of(64)
        {
            *last &= (1 << (rows % 64)) - 1;
        }
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words, rows, count }
    }

    /// The rows named, of `rows`.
    ///
    /// # Panics
    /// If one of them is no row.
    pub fn from_ordinals(rows: usize, ordinals: impl IntoIterator<Item = u32>) -> Self {
        let mut words = vec![0u64; rows.div_ceil(64)];
        for ordinal in ordinals {
            assert!((ordinal as usize) < rows, "ordinal {ordinal} of {rows} rows");
            words[ordinal as usize / 64] |= 1 << (ordinal % 64);
        }
        Self::from_words(words, rows)
    }

    /// These rows but for the ones named.
    #[must_use]
    pub fn without(&self, ordinals: &[u32]) -> Self {
        let mut words = self.words.clone();
        for &ordinal in ordinals {
            words[ordinal as usize / 64] &= !(1 << (ordinal % 64));
        }
        Self::from_words(words, self.rows)
    }

    /// The rows of both masks.
    ///
    /// # Panics
    /// If they are of different numbers of rows.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        assert_eq!(self.rows, other.rows, "masks of one index");
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        Self::from_words(words, self.rows)
    }

    /// Of the index, allowed or not.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that are allowed.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub fn size_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// # Panics
    /// May panic for what is no row.
    #[inline]
    pub fn contains(&self, ordinal: u32) -> bool {
        self.words[ordinal as usize / 64] >> (ordinal % 64) & 1 == 1
    }

    /// How many rows of a range are allowed.
    ///
    /// # Panics
    /// If the range ends beyond the last row.
    pub fn count_in(&self, range: Range<usize>) -> usize {
        assert!(range.end <= self.rows, "{range:?} of {} rows", self.rows);
        if range.is_empty() {
            return 0;
        }
        let (first, last) = (range.start / 64, (range.end - 1) / 64);
        let ones = |place: usize, word: u64| {
            let from = if place == first { range.start % 64 } else { 0 };
            let behind = if place == last { 63 - (range.end - 1) % 64 } else { 0 };
            (word >> from << from << behind).count_ones() as usize
        };
        self.words[first..=last].iter().zip(first..).map(|(&word, place)| ones(place, word)).sum()
    }

    /// The allowed rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(place, &word)| {
            let next = |word: &u64| Some(word & (word - 1)).filter(|&left| left != 0);
            let first = Some(word).filter(|&word| word != 0);
            std::iter::successors(first, next).map(move |left| place as u32 * 64 + left.trailing_zeros())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn a_mask_is_the_set_of_its_ordinals() {
        let mut random = Random::new(1);
        for rows in [0, 1, 63, 64, 65, 200] {
            for part in [0, 1, 2, 3] {
                let chosen: Vec<u32> = (0..rows as u32).filter(|_| random.below(3) < part).collect();
                let mask = RowMask::from_ordinals(rows, chosen.iter().copied());
                assert_eq!(mask.iter().collect::<Vec<_>>(), chosen);
                assert_eq!((mask.rows(), mask.count()), (rows, chosen.len()));
                for ordinal in 0..rows as u32 {
                    assert_eq!(mask.contains(ordinal), chosen.contains(&ordinal));
                }
                for from in [0, rows / 3, rows] {
                    for to in [from, from + (rows - from) / 2, rows] {
                        let inside = |row: &&u32| (from..to).contains(&(**row as usize));
                        let count = chosen.iter().filter(inside).count();
                        assert_eq!(mask.count_in(from..to), count, "{from}..{to} of {rows}");
                    }
                }
                let (gone, left) = chosen.split_at(chosen.len() / 2);
                assert_eq!(mask.without(gone), RowMask::from_ordinals(rows, left.iter().copied()));
            }
            assert_eq!(RowMask::all(rows), RowMask::from_ordinals(rows, 0..rows as u32));
        }
    }
}
