//! Which rows of a layer hang together, whatever the direction of the links.
//!
//! Where rows are near nothing but each other (copies of one text, clusters far apart), all the near ones that
//! a leaf finds for them are their own kind, and the layer falls into pieces. `layers` puts a row of each on the layer above
//! and takes that layer's links between them: of 500 clusters of 12 rows, recall@10 at `ef_search` 100 was 0.60 without
//! that, and is 1.

use super::links::Links;

/// The components of a layer.
pub(super) struct Components {
    /// The lowest row of each row's component.
    lowest: Vec<u32>,
    count: usize,
}

impl Components {
    pub fn new(links: &Links) -> Self {
        let rows = links.rows();
        // Roots are the lowest rows of what is joined so far.
        let mut lowest: Vec<u32> = (0..rows as u32).collect();
        for row in 0..rows as u32 {
            for to in links.of(row) {
                let (a, b) = (root(&mut lowest, row), root(&mut lowest, to));
                lowest[a.max(b) as usize] = a.min(b);
            }
        }
        // What a row points to is lower, and so settled.
        let mut count = 0;
        for row in 0..rows {
            lowest[row] = lowest[lowest[row] as usize];
            count += usize::from(lowest[row] as usize == row);
        }
        Self { lowest, count }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn of(&self, row: u32) -> u32 {
        self.lowest[row as usize]
    }
}

/// With the path halved for whoever comes next (Tarjan and van Leeuwen 1984, doi:10.1145/62.2160).
fn root(lowest: &mut [u32], mut row: u32) -> u32 {
    while lowest[row as usize] != row {
        lowest[row as usize] = lowest[lowest[row as usize] as usize];
        row = lowest[row as usize];
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn rows_are_together_if_a_path_joins_them() {
        let mut random = Random::new(1);
        for rows in [1, 2, 10, 60] {
            for links_per_row in [0, 1, 2, 5] {
                let degree = links_per_row.max(1);
                let mut links = vec![u32::MAX; rows * degree];
                for row in 0..rows {
                    for slot in 0..random.below(links_per_row + 1) {
                        links[row * degree + slot] = random.below(rows) as u32;
                    }
                }
                let components = Components::new(&Links::of_slots(links.clone(), degree));
                // The definition: labels flow along links, both ways, until they stay.
                let mut label: Vec<u32> = (0..rows as u32).collect();
                for _ in 0..rows {
                    for (row, own) in links.chunks_exact(degree).enumerate() {
                        for &to in own.iter().filter(|&&to| to != u32::MAX) {
                            let least = label[row].min(label[to as usize]);
                            (label[row], label[to as usize]) = (least, least);
                        }
                    }
                }
                assert!((0..rows as u32).all(|row| components.of(row) == label[row as usize]));
                label.sort_unstable();
                label.dedup();
                assert_eq!(components.count(), label.len());
            }
        }
    }

    #[test]
    fn a_chain_is_walked_in_no_time_from_either_end() {
        let rows = 300_000u32;
        for next in [|row: u32| row + 1, |row: u32| row.wrapping_sub(1)] {
            let links: Vec<u32> =
                (0..rows).map(|row| Some(next(row)).filter(|&to| to < rows).unwrap_or(u32::MAX)).collect();
            assert_eq!(Components::new(&Links::of_slots(links, 1)).count(), 1);
        }
    }
}
