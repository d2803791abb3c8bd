//! Randomized ball carving: small overlapping sets of rows that are near each other, so that the graph's
//! candidate edges can be found by all-pairs products inside each (PiPNN, arXiv 2602.21247, §4.1).
//!
//! Leaders are drawn from the rows, every row joins its `fanout` nearest leaders' cells, and cells that are still
//! too large are carved again. The overlap is what makes the union of leaves see across cell borders.

use std::ops::Range;

use rayon::prelude::*;

use crate::compute::cpu::ByteRows;
use crate::compute::{Compute, ComputeError, Rows};
use crate::vectors::Random;

/// Leaders per carving. The first carving costs rows × leaders distances and the second the rest: around 500,
/// both cost the same for a few 100,000 rows, and beyond that a third carving is cheaper than more leaders.
const MAX_LEADERS: usize = 512;

/// Rows whose leaders are looked up in one call: bounds the memory of the result.
const LOOKUP_BLOCK: usize = 1 << 16;

/// Parts that the first carving's cells are made in: each goes through the leaders of all rows.
const PARTS: usize = 16;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Carving {
    /// Most rows in a leaf.
    pub c_max: usize,
    /// Leaders that a row joins, per depth; 1 below the last.
    pub fanout: Vec<usize>,
    pub seed: u64,
}

/// Rows, and the same as bytes where there are such.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub vectors: &'a Rows<'a>,
    pub bytes: Option<&'a ByteRows>,
}

/// Leaves in a row.
#[derive(Debug, Default, Clone, PartialEq)]
struct LeafList {
    members: Vec<u32>,
    sizes: Vec<u32>,
}

impl LeafList {
    fn push(&mut self, leaf: &[u32]) {
        self.members.extend_from_slice(leaf);
        self.sizes.push(leaf.len() as u32);
    }

    fn append(&mut self, other: &LeafList) {
        self.members.extend_from_slice(&other.members);
        self.sizes.extend_from_slice(&other.sizes);
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.sizes.iter().scan(&self.members[..], |rest, &size| {
            let (leaf, behind) = rest.split_at(size as usize);
            *rest = behind;
            Some(leaf)
        })
    }
}

/// Hands leaves to `sink` that cover `members`, which name different ones of `rows` in ascending order (L2), each of 1 to
/// `c_max` of them, none twice. The same, in the same order, for any number of threads. `c_max` is at least 2, every fanout
/// at least 1.
///
/// What lies in memory at once is the leaders of every row, 2 bytes each, and the leaves of a part of the cells.
pub(super) fn carve<E: From<ComputeError>>(
    compute: &dyn Compute,
    rows: Source<'_>,
    members: Vec<u32>,
    carving: &Carving,
    sink: &mut dyn FnMut(&[u32]) -> Result<(), E>,
) -> Result<(), E> {
    let Some(cells) = Cells::of(compute, rows, carving, &members, 0, carving.seed)? else {
        return whole(&members, carving).iter().try_for_each(sink);
    };
    let mut index = 0;
    let mut part: Vec<Vec<u32>> = Vec::new();
    let mut slots = 0;
    let mut hand_over = |part: &mut Vec<Vec<u32>>| -> Result<(), E> {
        let first = index;
        index += part.len();
        let carved: Vec<LeafList> = std::mem::take(part)
            .into_par_iter()
            .enumerate()
            .map(|(place, cell)| {
                carve_cell(compute, rows, carving, cell, 1, seed_of(carving.seed, first + place))
            })
            .collect::<Result<_, ComputeError>>()?;
        carved.iter().try_for_each(|leaves| leaves.iter().try_for_each(&mut *sink))
    };
    let at_once = (members.len() * cells.k / PARTS).max(LOOKUP_BLOCK);
    for cell in merge_small(cells.iter(&members), carving.c_max) {
        slots += cell.len();
        part.push(cell);
        if slots >= at_once {
            hand_over(&mut part)?;
            slots = 0;
        }
    }
    hand_over(&mut part)
}

fn seed_of(seed: u64, cell: usize) -> u64 {
    Random::of(seed, cell as u64).next_u64()
}

fn carve_cell(
    compute: &dyn Compute,
    rows: Source<'_>,
    carving: &Carving,
    members: Vec<u32>,
    depth: usize,
    seed: u64,
) -> Result<LeafList, ComputeError> {
    let Some(cells) = Cells::of(compute, rows, carving, &members, depth, seed)? else {
        return Ok(whole(&members, carving));
    };
    let merged: Vec<Vec<u32>> = merge_small(cells.iter(&members), carving.c_max).collect();
    drop((cells, members));
    let carved: Vec<LeafList> = merged
        .into_par_iter()
        .enumerate()
        .map(|(index, cell)| carve_cell(compute, rows, carving, cell, depth + 1, seed_of(seed, index)))
        .collect::<Result<_, ComputeError>>()?;
    let mut all = LeafList::default();
    carved.iter().for_each(|leaves| all.append(leaves));
    Ok(all)
}

/// Members that are not carved: a leaf, or such as are cut by position.
fn whole(members: &[u32], carving: &Carving) -> LeafList {
    let mut leaves = LeafList::default();
    members.chunks(carving.c_max).for_each(|leaf| leaves.push(leaf));
    leaves
}

/// Enough leaders that cells come out at about half of `c_max`: sizes spread widely around their mean, and a cell
/// that exceeds `c_max` is carved once more.
fn leader_count(rows: usize, fanout: usize, c_max: usize) -> usize {
    (2 * rows * fanout).div_ceil(c_max).clamp(2 * fanout, MAX_LEADERS.max(2 * fanout)).min(rows)
}

/// Which members each leader leads.
struct Cells {
    /// `members × k`: leaders, `NO_LEADER` where a member has no more.
    leaders: Vec<u16>,
    k: usize,
    sizes: Vec<u32>,
}

const NO_LEADER: u16 = u16::MAX;

impl Cells {
    /// `None` for members that are no more than a leaf takes, or that carving does not part.
    fn of(
        compute: &dyn Compute,
        rows: Source<'_>,
        carving: &Carving,
        members: &[u32],
        depth: usize,
        seed: u64,
    ) -> Result<Option<Self>, ComputeError> {
        if members.len() <= carving.c_max {
            return Ok(None);
        }
        let fanout = carving.fanout.get(depth).copied().unwrap_or(1);
        let count = leader_count(members.len(), fanout, carving.c_max);
        let drawn: Vec<u32> =
            Random::new(seed).sample(members.len(), count).into_iter().map(|i| members[i as usize]).collect();
        let k = fanout.min(count);
        let mut leaders = Vec::with_capacity(members.len() * k);
        let mut sizes = vec![0; count];
        for block in members.chunks(LOOKUP_BLOCK) {
            let nearest = compute.nearest_leaders(rows.vectors, rows.bytes, block, &drawn, k)?;
            for nearest in nearest.chunks_exact(k) {
                // A row that is at no finite distance of any leader must be somewhere.
                let first = nearest[0] as usize % count;
                let others =
                    nearest[1..].iter().map(|&leader| leader as usize).take_while(|&leader| leader < count);
                let start = leaders.len();
                for leader in std::iter::once(first).chain(others) {
                    leaders.push(leader as u16);
                    sizes[leader] += 1;
                }
                leaders.resize(start + k, NO_LEADER);
            }
        }
        // Where one leader is the nearest of all, as among rows that are equally far from each other, carving again would
        // never end, so cut by position instead. With several to join, a leader in the middle is among most rows' nearest
        // without being the only one: that cell is smaller after the next carving.
        if fanout == 1 && sizes.iter().any(|&size| size as usize * 10 > members.len() * 9) {
            return Ok(None);
        }
        Ok(Some(Self { leaders, k, sizes }))
    }

    /// The cells that are not empty, one after the other; `members` are those that they are of.
    fn iter<'a>(&'a self, members: &'a [u32]) -> impl Iterator<Item = Vec<u32>> + 'a {
        let at_once = self.sizes.len().div_ceil(PARTS);
        (0..self.sizes.len())
            .step_by(at_once)
            .flat_map(move |first| self.some(members, first..(first + at_once).min(self.sizes.len())))
            .filter(|cell| !cell.is_empty())
    }

    /// The cells of `range`.
    fn some(&self, members: &[u32], range: Range<usize>) -> Vec<Vec<u32>> {
        let mut cells: Vec<Vec<u32>> =
            self.sizes[range.clone()].iter().map(|&size| Vec::with_capacity(size as usize)).collect();
        let (first, width) = (range.start as u16, (range.len() - 1) as u16);
        for (leaders, &member) in self.leaders.chunks_exact(self.k).zip(members) {
            for &leader in leaders {
                let place = leader.wrapping_sub(first);
                if place <= width {
                    cells[usize::from(place)].push(member);
                }
            }
        }
        cells
    }
}

/// Cells of fewer than an eighth of `c_max` rows join their neighbour in leader order: a leaf costs a call whatever
/// its size, and in a tiny one rows would find too few candidates.
fn merge_small(mut cells: impl Iterator<Item = Vec<u32>>, c_max: usize) -> impl Iterator<Item = Vec<u32>> {
    let mut last = cells.next();
    std::iter::from_fn(move || {
        let mut merged = last.take()?;
        for cell in cells.by_ref() {
            if merged.len().min(cell.len()) < c_max / 8 && merged.len() + cell.len() <= c_max {
                // A row may be in both.
                merged.extend_from_slice(&cell);
                merged.sort_unstable();
                merged.dedup();
            } else {
                last = Some(cell);
                break;
            }
        }
        Some(merged)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::vectors::{Metric, VectorBuf};

    fn normal(rows: usize, dim: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        VectorBuf::new((0..rows * dim).map(|_| random.normal() as f32).collect(), dim)
    }

    /// One row `copies` times among normal ones.
    fn with_copies(rows: usize, copies: usize, dim: usize) -> VectorBuf {
        let mut data = normal(rows, dim, 9);
        for row in 0..copies {
            data.row_mut(row * rows / copies.max(1)).fill(0.25);
        }
        data
    }

    fn carved(rows: &VectorBuf, c_max: usize, fanout: &[usize]) -> Vec<Vec<u32>> {
        let carving = Carving { c_max, fanout: fanout.to_vec(), seed: 7 };
        leaves_of(rows, (0..rows.rows() as u32).collect(), &carving)
    }

    fn leaves_of(rows: &VectorBuf, members: Vec<u32>, carving: &Carving) -> Vec<Vec<u32>> {
        let source = Source { vectors: &Rows::on_host(rows.view()), bytes: None };
        let mut leaves = Vec::new();
        let mut sink = |leaf: &[u32]| {
            leaves.push(leaf.to_vec());
            Ok::<_, ComputeError>(())
        };
        carve(&Cpu::new(), source, members, carving, &mut sink).unwrap();
        leaves
    }

    #[test]
    fn every_row_is_in_a_leaf_and_no_leaf_is_empty_too_large_or_has_a_row_twice() {
        let shapes: [(VectorBuf, usize); 14] = [
            (normal(1, 3, 1), 2),
            (normal(2, 1, 1), 2),
            (normal(3, 3, 1), 2),
            (normal(5, 4096, 1), 2),
            (normal(40, 4096, 1), 16),
            (normal(2000, 1, 1), 32),
            (normal(511, 8, 1), 512),
            (normal(512, 8, 1), 512),
            (normal(513, 8, 1), 512),
            (normal(5000, 8, 1), 64),
            (with_copies(4000, 4000, 6), 64),
            (with_copies(4000, 3000, 6), 64),
            (with_copies(4000, 1500, 6), 64),
            (with_copies(3, 3, 2), 2),
        ];
        for (rows, c_max) in &shapes {
            for fanout in [&[][..], &[1], &[8, 2], &[2, 2, 2], &[64]] {
                let leaves = carved(rows, *c_max, fanout);
                let case = format!("{} rows of {}-d, c_max {c_max}, {fanout:?}", rows.rows(), rows.dim());
                let mut seen = vec![false; rows.rows()];
                for leaf in &leaves {
                    assert!((1..=*c_max).contains(&leaf.len()), "{case}: a leaf of {}", leaf.len());
                    let mut distinct = leaf.clone();
                    distinct.sort_unstable();
                    distinct.dedup();
                    assert_eq!(distinct.len(), leaf.len(), "{case}");
                    leaf.iter().for_each(|&row| seen[row as usize] = true);
                }
                assert!(seen.iter().all(|&seen| seen), "{case}");
                // A row joins at most the product of the fanouts.
                let slots: usize = leaves.iter().map(Vec::len).sum();
                assert!(slots <= rows.rows() * fanout.iter().product::<usize>(), "{case}: {slots} slots");
            }
        }
    }

    #[test]
    fn only_members_are_in_leaves() {
        let rows = normal(3000, 5, 2);
        let members: Vec<u32> = (0..3000).filter(|row| row % 3 != 1).collect();
        let carving = Carving { c_max: 64, fanout: vec![4, 2], seed: 7 };
        let leaves = leaves_of(&rows, members.clone(), &carving);
        let seen: std::collections::BTreeSet<u32> = leaves.into_iter().flatten().collect();
        assert!(seen.into_iter().eq(members));
    }

    #[test]
    fn leaves_do_not_depend_on_the_number_of_threads() {
        let rows = normal(6000, 12, 3);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| carved(&rows, 128, &[6, 2]))
        };
        let one = on(1);
        assert_eq!(one, on(2));
        assert_eq!(one, on(3));
    }

    #[test]
    fn leaders_that_are_near_every_row_do_not_end_the_carving() {
        let mut rows = normal(2000, 32, 2);
        // Every tenth row lies near the origin: nearer to all rows than the others are to each other.
        (0..2000).step_by(10).for_each(|row| rows.row_mut(row).iter_mut().for_each(|value| *value *= 0.05));
        let slots: usize = carved(&rows, 512, &[8, 2]).iter().map(Vec::len).sum();
        assert!(slots > 4 * 2000, "{slots} places for 2,000 rows");
    }

    #[test]
    fn equal_rows_fill_their_leaves() {
        for fanout in [&[1][..], &[8, 2]] {
            let leaves = carved(&with_copies(10_000, 10_000, 4), 100, fanout);
            let full = leaves.iter().filter(|leaf| leaf.len() == 100).count();
            assert!(full * 10 >= leaves.len() * 9, "{full} of {}", leaves.len());
        }
    }

    /// What overlap is for: most near pairs meet in some leaf.
    #[test]
    fn nearest_neighbours_share_a_leaf() {
        for (rows, dim) in [(520, 16), (700, 64), (1000, 100), (3000, 16)] {
            let data = normal(rows, dim, 5);
            let leaves = carved(&data, 512, &[8, 2]);
            let mut of = vec![Vec::new(); rows];
            for (index, leaf) in leaves.iter().enumerate() {
                leaf.iter().for_each(|&row| of[row as usize].push(index));
            }
            let uploaded = Cpu::new().upload(data.view()).unwrap();
            let near = Cpu::new().top_k(data.view(), &uploaded, Metric::L2, 6).unwrap();
            let (mut met, mut pairs) = (0, 0);
            for row in 0..rows {
                for neighbor in near.found(row).iter().filter(|n| n.ordinal as usize != row) {
                    pairs += 1;
                    met +=
                        usize::from(of[row].iter().any(|leaf| of[neighbor.ordinal as usize].contains(leaf)));
                }
            }
            assert!(met * 100 >= pairs * 99, "{rows} rows of {dim}-d: {met} of {pairs} pairs met");
        }
    }
}
