//! Randomized ball carving: small overlapping sets of rows that are near each other, so that the graph's
//! candidate edges can be found by all-pairs products inside each (PiPNN, arXiv 2602.21247, §4.1).
//!
//! Leaders are drawn from the rows, every row joins its `fanout` nearest leaders' cells, and cells that are still
//! too large are carved again. The overlap is what makes the union of leaves see across cell borders.

use rayon::prelude::*;

use crate::compute::{Compute, Leaves, Result};
use crate::vectors::{Metric, Random, VectorView};

/// Leaders per carving. The first carving costs rows × leaders distances and the second the rest: around 500,
/// both cost the same for a few 100,000 rows, and beyond that a third carving is cheaper than more leaders.
const MAX_LEADERS: usize = 512;

/// Rows whose leaders are looked up in one call: bounds the memory of the result.
const LOOKUP_BLOCK: usize = 1 << 16;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Carving {
    /// Most rows in a leaf.
    pub c_max: usize,
    /// Leaders that a row joins, per depth; 1 below the last.
    pub fanout: Vec<usize>,
    pub seed: u64,
}

/// Leaves that cover all `rows` (L2), each of 1 to `c_max` distinct rows. The same for any number of threads.
pub(super) fn carve(compute: &dyn Compute, rows: VectorView<'_>, carving: &Carving) -> Result<Leaves> {
    let all: Vec<u32> = (0..rows.rows() as u32).collect();
    let leaves = carve_cell(compute, rows, carving, all, 0, carving.seed)?;
    let mut flat =
        Leaves { members: Vec::with_capacity(leaves.iter().map(Vec::len).sum()), offsets: vec![0] };
    for leaf in leaves {
        flat.members.extend_from_slice(&leaf);
        flat.offsets.push(flat.members.len() as u32);
    }
    Ok(flat)
}

fn carve_cell(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    carving: &Carving,
    members: Vec<u32>,
    depth: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>> {
    if members.len() <= carving.c_max {
        return Ok(vec![members]);
    }
    let fanout = carving.fanout.get(depth).copied().unwrap_or(1);
    let cells =
        cells_of(compute, rows, &members, leader_count(members.len(), fanout, carving.c_max), fanout, seed)?;
    // Equal rows all join one cell: carving again would never end, so cut by position instead. (Of several leaders for
    // each row, one near the origin may be among all rows' nearest: its cell is carved again with fewer.)
    if fanout == 1 && cells.iter().any(|cell| cell.len() * 10 > members.len() * 9) {
        return Ok(members.chunks(carving.c_max).map(<[u32]>::to_vec).collect());
    }
    drop(members);
    let carved: Vec<Vec<Vec<u32>>> = merge_small(cells, carving.c_max)
        .into_par_iter()
        .enumerate()
        .map(|(index, cell)| {
            let seed = Random::of(seed, index as u64).next_u64();
            carve_cell(compute, rows, carving, cell, depth + 1, seed)
        })
        .collect::<Result<_>>()?;
    Ok(carved.into_iter().flatten().collect())
}

/// Enough leaders that cells come out at about half of `c_max`: sizes spread widely around their mean, and a cell
/// that exceeds `c_max` is carved once more.
fn leader_count(rows: usize, fanout: usize, c_max: usize) -> usize {
    (2 * rows * fanout).div_ceil(c_max).clamp(2 * fanout, MAX_LEADERS.max(2 * fanout)).min(rows)
}

fn cells_of(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    members: &[u32],
    leaders: usize,
    fanout: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>> {
    let drawn: Vec<u32> =
        Random::new(seed).sample(members.len(), leaders).into_iter().map(|i| members[i as usize]).collect();
    let leader_rows = rows.gather(&drawn);
    let leader_rows = compute.upload(leader_rows.view())?;
    let mut cells = vec![Vec::new(); leaders];
    for block in members.chunks(LOOKUP_BLOCK) {
        let gathered;
        let queries = if members.len() == rows.rows() {
            rows.slice(block[0] as usize, block[0] as usize + block.len())
        } else {
            gathered = rows.gather(block);
            gathered.view()
        };
        if fanout == 1 {
            // One nearest leader is a cheaper question than several.
            let nearest = compute.assign(&compute.upload(queries)?, leader_rows.host(), Metric::L2)?;
            for (leader, &member) in nearest.iter().zip(block) {
                cells[leader.ordinal as usize].push(member);
            }
            continue;
        }
        let nearest = compute.top_k(queries, &leader_rows, Metric::L2, fanout.min(leaders))?;
        for (index, &member) in block.iter().enumerate() {
            for leader in nearest.found(index) {
                cells[leader.ordinal as usize].push(member);
            }
        }
    }
    cells.retain(|cell| !cell.is_empty());
    Ok(cells)
}

/// Cells of fewer than an eighth of `c_max` rows join their neighbour in leader order: a leaf costs a call whatever
/// its size, and in a tiny one rows would find too few candidates.
fn merge_small(cells: Vec<Vec<u32>>, c_max: usize) -> Vec<Vec<u32>> {
    let mut merged: Vec<Vec<u32>> = Vec::with_capacity(cells.len());
    for cell in cells {
        match merged.last_mut() {
            Some(last) if last.len().min(cell.len()) < c_max / 8 && last.len() + cell.len() <= c_max => {
                // A row may be in both.
                last.extend_from_slice(&cell);
                last.sort_unstable();
                last.dedup();
            }
            _ => merged.push(cell),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::vectors::VectorBuf;

    fn carved(rows: VectorView<'_>, c_max: usize) -> Leaves {
        let leaves = carve(&Cpu::new(), rows, &Carving { c_max, fanout: vec![8, 2], seed: 1 }).unwrap();
        let mut covered = leaves.members.clone();
        covered.sort_unstable();
        covered.dedup();
        assert_eq!(covered.len(), rows.rows(), "every row is in a leaf");
        for leaf in 0..leaves.len() {
            let mut distinct = leaves.leaf(leaf).to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), leaves.leaf(leaf).len());
            assert!((1..=c_max).contains(&distinct.len()), "leaf {leaf} of {}", distinct.len());
        }
        leaves
    }

    #[test]
    fn leaders_that_are_near_every_row_do_not_end_the_carving() {
        let mut random = Random::new(2);
        let mut rows = VectorBuf::zeroed(2000, 32);
        for index in 0..2000 {
            // Every tenth row lies near the origin: nearer to all rows than the others are to each other.
            let scale = if index % 10 == 0 { 0.05 } else { 1.0 };
            rows.row_mut(index).iter_mut().for_each(|value| *value = scale * random.normal() as f32);
        }
        let leaves = carved(rows.view(), 512);
        assert!(leaves.members.len() > 4 * 2000, "{} places for 2,000 rows", leaves.members.len());
    }

    #[test]
    fn equal_rows_end_the_carving() {
        let rows = VectorBuf::new(vec![1.0; 1000 * 3], 3);
        carved(rows.view(), 64);
    }
}
