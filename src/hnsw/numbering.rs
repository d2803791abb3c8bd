//! The order in which an index keeps its rows, given to them in the memory that they lie in; or in a file.

use std::io;
use std::path::Path;

use crate::index::{KeepError, KeptVectors, Precision};
use crate::vectors::{VectorBuf, VectorView};

/// Rows of which place `p` holds what was row `order[p]`, mapped from a file without a name in `folder`. The rows are read once, from the
/// first to the last.
pub(super) fn in_order(folder: &Path, rows: VectorView<'_>, order: &[u32]) -> io::Result<VectorBuf> {
    match KeptVectors::gather_in(folder, rows, order, Precision::F32) {
        Ok(kept) => Ok(kept.into_rows().expect("they are f32, and mapped")),
        Err(KeepError::File(error)) => Err(error),
        Err(error @ KeepError::Overflow { .. }) => unreachable!("f32 holds any f32: {error}"),
    }
}

/// Moves rows so that place `p` holds what was row `order[p]`; every row stands once in `order`. Takes one row's memory and a
/// bit for each: it goes along the cycles of the permutation.
pub(super) fn permute(rows: &mut VectorBuf, order: &[u32]) {
    assert_eq!(order.len(), rows.rows());
    let dim = rows.dim();
    let values = rows.as_mut_slice();
    let mut settled = vec![0u64; order.len().div_ceil(64)];
    let mut first = Vec::with_capacity(dim);
    for start in 0..order.len() {
        if settled[start / 64] >> (start % 64) & 1 == 1 {
            continue;
        }
        first.clear();
        first.extend_from_slice(&values[start * dim..][..dim]);
        let mut place = start;
        loop {
            settled[place / 64] |= 1 << (place % 64);
            let from = order[place] as usize;
            if from == start {
                values[place * dim..][..dim].copy_from_slice(&first);
                break;
            }
            assert!(settled[from / 64] >> (from % 64) & 1 == 0, "row {from} stands in the order once");
            values.copy_within(from * dim..(from + 1) * dim, place * dim);
            place = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn rows_stand_where_the_order_says() {
        let mut random = Random::new(1);
        for (rows, dim) in [(0, 1), (1, 3), (2, 1), (65, 2), (500, 5)] {
            for shuffled in [false, true] {
                let mut order: Vec<u32> = (0..rows as u32).collect();
                if shuffled {
                    (1..rows).rev().for_each(|last| order.swap(last, random.below(last + 1)));
                }
                let mut data = VectorBuf::new((0..rows * dim).map(|i| i as f32).collect(), dim);
                let expected = data.view().gather(&order);
                let folder = tempfile::tempdir().unwrap();
                assert_eq!(in_order(folder.path(), data.view(), &order).unwrap(), expected);
                permute(&mut data, &order);
                assert_eq!(data, expected);
            }
        }
    }

    #[test]
    #[should_panic(expected = "row 1 stands in the order once")]
    fn an_order_that_repeats_a_row_is_a_programmers_error() {
        permute(&mut VectorBuf::zeroed(3, 1), &[1, 1, 0]);
    }
}
