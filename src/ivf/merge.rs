//! Several indexes of one training become one, without the rows that are no longer there: lists are put together, codes
//! and kept vectors are moved as they are. No vector is needed, and none is rounded a second time.

use super::IvfPq;
use super::build::Lists;
use super::params::MAX_SPILLED;
use super::spill::Spill;
use crate::index::{KeptVectors, RowMask, SearchIndex};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MergeError {
    #[error("segments {first} and {other} were not trained alike: their codes do not mean the same")]
    Training { first: usize, other: usize },
    #[error("segments {first} and {other} keep their vectors differently")]
    Kept { first: usize, other: usize },
    #[error("no row is left")]
    Empty,
    #[error("expected {most} rows at most, got {rows}")]
    Rows { rows: usize, most: usize },
}

/// One index over the rows of `parts` that are there (all, where a mask is `None`), and of each of its ordinals the number
/// of its part and its ordinal there.
///
/// # Errors
/// Parts that were not trained alike; no rows, or more than can be numbered.
///
/// # Panics
/// If there is no part.
pub fn merge(parts: &[(&IvfPq, Option<&RowMask>)]) -> Result<(IvfPq, Vec<(u32, u32)>), MergeError> {
    let (first, _) = parts[0];
    for (other, (part, _)) in parts.iter().enumerate().skip(1) {
        if !first.is_trained_as(part) {
            return Err(MergeError::Training { first: 0, other });
        }
        if first.kept().map(KeptVectors::precision) != part.kept().map(KeptVectors::precision) {
            return Err(MergeError::Kept { first: 0, other });
        }
    }
    let mut rows: Vec<(u32, u32)> = Vec::new();
    let mut offsets = vec![0u64];
    for list in 0..first.nlist() {
        for (number, (part, live)) in (0u32..).zip(parts) {
            let own = part.list(list).map(|row| row as u32);
            let there = own.filter(|&row| live.is_none_or(|live| live.contains(row)));
            rows.extend(there.map(|row| (number, row)));
        }
        offsets.push(rows.len() as u64);
    }
    if rows.is_empty() {
        return Err(MergeError::Empty);
    }
    let most = if first.spill.is_some() { MAX_SPILLED } else { u32::MAX as usize - 1 };
    if rows.len() > most {
        return Err(MergeError::Rows { rows: rows.len(), most });
    }

    let code_size = first.code_bytes();
    let mut codes = vec![0u8; rows.len() * code_size];
    for (list, pair) in offsets.windows(2).enumerate() {
        for place in pair[0] as usize..pair[1] as usize {
            let (part, row) = rows[place];
            let code = &mut codes[place * code_size..(place + 1) * code_size];
            let part = parts[part as usize].0;
            let within = row as usize - part.list(list).start;
            part.codes.copy_code(part.list_codes(list), within, code);
        }
    }
    let lists = Lists { offsets, order: (0..rows.len() as u32).collect() };
    let codes = lists.codes(&codes, &first.quantizer, first.code_centroids(), first.metric);
    let kept: Option<Vec<&KeptVectors>> = parts.iter().map(|(part, _)| part.kept()).collect();
    let kept = kept.map(|kept| KeptVectors::gather_from(&kept, &rows));
    let spill = first.spill.is_some().then(|| merge_spills(parts, &rows));
    Ok((first.with_rows(lists.offsets.into(), codes, kept, spill), rows))
}

/// What second lists hold of `rows`, which say of each ordinal the number of its part and its ordinal there.
fn merge_spills(parts: &[(&IvfPq, Option<&RowMask>)], rows: &[(u32, u32)]) -> Spill {
    let first = parts[0].0;
    /// Of a row that is no longer there.
    const GONE: u32 = u32::MAX;
    let mut ordinals: Vec<Vec<u32>> = parts.iter().map(|(part, _)| vec![GONE; part.rows()]).collect();
    for (ordinal, &(part, row)) in (0u32..).zip(rows) {
        ordinals[part as usize][row as usize] = ordinal;
    }
    let (mut spilled, mut codes, mut offsets) = (Vec::with_capacity(rows.len()), Vec::new(), vec![0u64]);
    let mut code = vec![0u8; first.code_bytes()];
    for list in 0..first.nlist() {
        for ((part, _), ordinals) in parts.iter().zip(&ordinals) {
            let Some(spill) = &part.spill else { continue };
            let (of_list, own) = spill.of_list(list, code.len());
            for (place, &row) in own.iter().enumerate() {
                let ordinal = ordinals[row as usize];
                if ordinal != GONE {
                    spill.codes.copy_code(of_list, place, &mut code);
                    codes.extend_from_slice(&code);
                    spilled.push(ordinal);
                }
            }
        }
        offsets.push(spilled.len() as u64);
    }
    let lists = Lists { offsets, order: (0..spilled.len() as u32).collect() };
    let codes = lists.codes(&codes, &first.quantizer, first.code_centroids(), first.metric);
    Spill { offsets: lists.offsets.into(), rows: spilled.into(), codes, ranged: None }
}
