//! Rows that are equal bit by bit, set aside before a graph is built.
//!
//! Among thousands of copies of one row each finds nothing near it but the others: what leads to them leads nowhere
//! else, and a search that comes by is caught. So the graph is built over one row of each kind, and its copies hang
//! on it in a tree of their own. (4,000 rows, each there twice: recall@10 at `ef_search` 100 was 0.17, and is 0.99.)

use std::hash::{DefaultHasher, Hasher};

use rayon::prelude::*;

use super::links::Links;
use crate::vectors::VectorView;

/// Which rows repeat an earlier one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Duplicates {
    /// (the first row of its kind, a later one), ascending.
    pairs: Vec<(u32, u32)>,
}

impl Duplicates {
    pub fn of(rows: VectorView<'_>) -> Self {
        let bytes = |row: u32| bytemuck::cast_slice::<f32, u8>(rows.row(row as usize));
        let hash = |row: u32| {
            let mut hasher = DefaultHasher::new();
            hasher.write(bytes(row));
            (hasher.finish(), row)
        };
        let mut hashed: Vec<(u64, u32)> = (0..rows.rows() as u32).into_par_iter().map(hash).collect();
        hashed.par_sort_unstable();
        let mut pairs = Vec::new();
        let mut kinds: Vec<u32> = Vec::new();
        for same_hash in hashed.chunk_by(|a, b| a.0 == b.0).filter(|rows| rows.len() > 1) {
            // One kind but for a collision, which only costs time: what is found does not depend on the hash.
            kinds.clear();
            for &(_, row) in same_hash {
                match kinds.iter().find(|&&first| bytes(first) == bytes(row)) {
                    Some(&first) => pairs.push((first, row)),
                    None => kinds.push(row),
                }
            }
        }
        pairs.sort_unstable();
        Self { pairs }
    }

    /// The first rows of all kinds, of `rows` in all.
    pub fn distinct(&self, rows: usize) -> Vec<u32> {
        let mut is_first = vec![true; rows];
        self.rows().for_each(|row| is_first[row as usize] = false);
        (0..rows as u32).filter(|&row| is_first[row as usize]).collect()
    }

    /// The rows that repeat another.
    pub fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.pairs.iter().map(|&(_, copy)| copy)
    }

    /// The rows that repeat `first`, ascending.
    pub fn copies_of(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        let start = self.pairs.partition_point(|&(other, _)| other < first);
        self.pairs[start..].iter().take_while(move |pair| pair.0 == first).map(|&(_, copy)| copy)
    }

    /// Of the same rows in another order, in which copies follow their first in theirs: `order[place]` is the row at a place.
    pub fn renumbered(&self, order: &[u32]) -> Self {
        if self.pairs.is_empty() {
            return Self::default();
        }
        let mut places = vec![0; order.len()];
        (0..).zip(order).for_each(|(place, &row)| places[row as usize] = place);
        let place_of = |row: u32| places[row as usize];
        let mut pairs: Vec<(u32, u32)> =
            self.pairs.iter().map(|&(first, copy)| (place_of(first), place_of(copy))).collect();
        pairs.sort_unstable();
        Self { pairs }
    }

    /// Hangs copies on their first row: one on the row itself, the others on that one, as many to each as it has links but
    /// for the one back. So all are a few steps from the first, which gives up one link at most.
    pub fn hang(&self, links: &mut Links) {
        let children = links.degree() - 1;
        for same in self.pairs.chunk_by(|a, b| a.0 == b.0) {
            for (index, &(first, copy)) in same.iter().enumerate() {
                let parent = if index == 0 { first } else { same[(index - 1) / children].1 };
                links.force(parent, copy);
                links.add(copy, parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Random, VectorBuf};

    fn repeating(rows: usize, kinds: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        let distinct = VectorBuf::new((0..kinds * 3).map(|_| random.normal() as f32).collect(), 3);
        let drawn: Vec<u32> = (0..rows).map(|_| random.below(kinds) as u32).collect();
        distinct.view().gather(&drawn)
    }

    #[test]
    fn every_row_is_the_first_of_its_kind_or_a_copy_of_that() {
        for (rows, kinds) in [(0, 1), (1, 1), (50, 1), (300, 20), (1000, 5000)] {
            let data = repeating(rows, kinds, 7);
            let duplicates = Duplicates::of(data.view());
            let first = |row: usize| (0..=row).find(|&other| data.row(other) == data.row(row)).unwrap();
            let mut expected: Vec<(u32, u32)> = (0..rows)
                .map(|row| (first(row) as u32, row as u32))
                .filter(|(first, row)| first != row)
                .collect();
            expected.sort_unstable();
            assert_eq!(duplicates.pairs, expected);
            let distinct = duplicates.distinct(rows);
            assert!(distinct.iter().all(|&row| first(row as usize) == row as usize));
            assert_eq!(distinct.len() + expected.len(), rows);
            let followed = |&row: &u32| std::iter::once(row).chain(duplicates.copies_of(row));
            let order: Vec<u32> = distinct.iter().rev().flat_map(followed).collect();
            assert!(order.windows(2).all(|pair| {
                let [a, b] = [pair[0] as usize, pair[1] as usize];
                if first(b) == b { first(a) > b } else { first(a) == first(b) && a < b }
            }));
            assert_eq!(duplicates.renumbered(&order), Duplicates::of(data.view().gather(&order).view()));
        }
    }

    #[test]
    fn copies_are_a_few_steps_from_their_first_and_back() {
        for degree in [2, 4, 32] {
            let rows = 5000;
            let data = VectorBuf::new(vec![1.0; rows], 1);
            let duplicates = Duplicates::of(data.view());
            let mut links = Links::new(None, rows, degree).unwrap();
            duplicates.hang(&mut links);
            let mut steps = vec![usize::MAX; rows];
            steps[0] = 0;
            // Parents stand before their children.
            for row in 0..rows as u32 {
                assert!(row == 0 || links.of(row).any(|to| to < row), "a way back");
                for to in links.of(row).filter(|&to| to > row) {
                    steps[to as usize] = steps[to as usize].min(steps[row as usize] + 1);
                }
            }
            let deepest = *steps.iter().max().unwrap();
            let most = if degree == 2 { rows - 1 } else { 9 };
            assert!(deepest <= most, "degree {degree}: {deepest} steps");
        }
    }

    #[test]
    fn a_row_with_all_its_links_gives_up_one() {
        let data = VectorBuf::new(vec![1.0, 2.0, 3.0, 1.0], 1);
        let mut links = Links::new(None, 4, 2).unwrap();
        links.add(0, 1);
        links.add(0, 2);
        Duplicates::of(data.view()).hang(&mut links);
        assert!(links.of(0).eq([1, 3]));
        assert!(links.of(3).eq([0]));
    }
}
