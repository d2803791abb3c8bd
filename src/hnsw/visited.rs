//! The rows that a walk has seen.

/// A bit a row: a few walks at once keep theirs in the cache together, and near rows, which have near ordinals, share
/// words. Forgetting costs what was seen, not all rows.
pub(super) struct Visited {
    words: Vec<u64>,
    /// The words that are not 0, each once; one more place than there are words, for a write that does not count.
    touched: Vec<u32>,
    touched_len: usize,
}

impl Visited {
    pub fn new(rows: usize) -> Self {
        let words = rows.div_ceil(64);
        Self { words: vec![0; words], touched: vec![0; words + 1], touched_len: 0 }
    }

    pub fn forget(&mut self) {
        for &word in &self.touched[..self.touched_len] {
            self.words[word as usize] = 0;
        }
        self.touched_len = 0;
    }

    /// Whether `ordinal` is new; it no longer is.
    pub fn insert(&mut self, ordinal: u32) -> bool {
        let mut new = [0];
        self.insert_all(&[ordinal], &mut new) == 1
    }

    /// Writes those of `ordinals` that are new, which they no longer are, to the front of `new`, which is as long, and
    /// returns how many. Stops at `u32::MAX`, the padding of links.
    #[inline]
    pub fn insert_all(&mut self, ordinals: &[u32], new: &mut [u32]) -> usize {
        let new = &mut new[..ordinals.len()];
        let (mut count, mut touched_len) = (0, self.touched_len);
        for &ordinal in ordinals {
            if ordinal == u32::MAX {
                break;
            }
            let (word, bit) = (ordinal / 64, 1 << (ordinal % 64));
            let seen = self.words[word as usize];
            self.words[word as usize] = seen | bit;
            // No branch: which rows are new is anybody's guess. What does not count is overwritten.
            self.touched[touched_len] = word;
            touched_len += usize::from(seen == 0);
            new[count] = ordinal;
            count += usize::from(seen & bit == 0);
        }
        self.touched_len = touched_len;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_new_once_and_again_when_forgotten() {
        for rows in [1, 63, 64, 65, 1000] {
            let mut visited = Visited::new(rows);
            for _ in 0..3 {
                assert!((0..rows as u32).rev().all(|row| visited.insert(row)));
                assert!((0..rows as u32).all(|row| !visited.insert(row)));
                visited.forget();
            }
            assert!(visited.words.iter().all(|&word| word == 0));
        }
    }
}
