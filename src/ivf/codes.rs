//! Where the codes of the lists lie: row by row with 8 bits, in blocks that are looked up 32 rows at a time with 4.

use std::ops::Range;

use rayon::prelude::*;

use crate::artifact::Array;
use crate::compute::cpu::BLOCK_ROWS;
use crate::train::PqShape;

#[derive(Debug, Clone)]
pub(super) enum Codes {
    Rows {
        /// `rows × code_size`.
        bytes: Array<u8>,
        /// For L2, per row |r̂|² + 2⟨c, r̂⟩ with c its centroid and r̂ its decoded residual (`scan.rs` says why).
        terms: Option<Array<f32>>,
    },
    Blocks(Blocks),
}

/// The codes of one list, wherever they were read from.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListCodes<'a> {
    /// Its rows' codes, or its blocks.
    pub bytes: &'a [u8],
    /// One for each of its rows, where there are any.
    pub terms: Option<&'a [f32]>,
}

/// 4-bit codes: each list is whole blocks of 32 rows, and a block is `code_size × 32` bytes, byte `b` of all its rows
/// together. Places behind a list's last row are 0.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub bytes: Array<u8>,
    pub code_size: usize,
    /// `nlist + 1`: list `l` has the blocks `starts[l]..starts[l + 1]`. Derived, not stored.
    pub starts: Vec<usize>,
}

impl Codes {
    /// Those of a list, which has these rows.
    ///
    /// # Panics
    /// If the codes lie elsewhere.
    #[inline]
    pub fn of_list(&self, list: usize, rows: Range<usize>, code_size: usize) -> ListCodes<'_> {
        match self {
            Codes::Rows { bytes, terms } => ListCodes {
                bytes: &bytes[rows.start * code_size..rows.end * code_size],
                terms: terms.as_ref().map(|terms| &terms[rows]),
            },
            Codes::Blocks(blocks) => {
                let count = blocks.starts[list + 1] - blocks.starts[list];
                ListCodes { bytes: blocks.of_list(list, 0..count), terms: None }
            }
        }
    }

    /// Byte by byte, the code at a place of a list.
    pub fn code_in<'a>(&self, list: ListCodes<'a>, place: usize, code_size: usize) -> CodeBytes<'a> {
        match self {
            Codes::Rows { .. } => {
                CodeBytes { bytes: &list.bytes[place * code_size..(place + 1) * code_size], step: 1 }
            }
            Codes::Blocks(_) => {
                let block = place / BLOCK_ROWS * code_size * BLOCK_ROWS;
                let bytes = &list.bytes[block + place % BLOCK_ROWS..block + code_size * BLOCK_ROWS];
                CodeBytes { bytes, step: BLOCK_ROWS }
            }
        }
    }
}

/// A code's bytes: each `step`-th.
#[derive(Debug, Clone, Copy)]
pub(super) struct CodeBytes<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl CodeBytes<'_> {
    pub fn copy_to(self, code: &mut [u8]) {
        code.iter_mut().zip(self.bytes.iter().step_by(self.step)).for_each(|(to, &byte)| *to = byte);
    }
}

/// The first block of each list, and behind the last.
pub(super) fn block_starts(list_offsets: &[u64]) -> Vec<usize> {
    let mut starts = Vec::with_capacity(list_offsets.len());
    let mut next = 0;
    starts.push(next);
    for pair in list_offsets.windows(2) {
        next += ((pair[1] - pair[0]) as usize).div_ceil(BLOCK_ROWS);
        starts.push(next);
    }
    starts
}

impl Blocks {
    /// From codes of `code_size` bytes, `codes[order[ordinal]]` that of a row.
    pub fn gather(codes: &[u8], code_size: usize, order: &[u32], list_offsets: &[u64]) -> Self {
        let starts = block_starts(list_offsets);
        let block_bytes = code_size * BLOCK_ROWS;
        let mut bytes = vec![0u8; starts[starts.len() - 1] * block_bytes];
        let mut rest = bytes.as_mut_slice();
        let mut lists = Vec::with_capacity(starts.len());
        for (blocks, rows) in starts.windows(2).zip(list_offsets.windows(2)) {
            let (own, behind) = rest.split_at_mut((blocks[1] - blocks[0]) * block_bytes);
            lists.push((own, &order[rows[0] as usize..rows[1] as usize]));
            rest = behind;
        }
        lists.into_par_iter().for_each(|(blocks, rows)| {
            for (block, rows) in blocks.chunks_exact_mut(block_bytes).zip(rows.chunks(BLOCK_ROWS)) {
                for (place, &row) in rows.iter().enumerate() {
                    let code = &codes[row as usize * code_size..(row as usize + 1) * code_size];
                    for (column, &byte) in block.chunks_exact_mut(BLOCK_ROWS).zip(code) {
                        column[place] = byte;
                    }
                }
            }
        });
        Self { bytes: bytes.into(), code_size, starts }
    }

    /// Some blocks of a list, counted from its first.
    pub fn of_list(&self, list: usize, blocks: Range<usize>) -> &[u8] {
        let (from, block_bytes) = (self.starts[list], self.code_size * BLOCK_ROWS);
        &self.bytes[(from + blocks.start) * block_bytes..(from + blocks.end) * block_bytes]
    }

    /// The code at a place of a list.
    pub fn code(&self, list: usize, place: usize) -> impl Iterator<Item = u8> {
        let block = place / BLOCK_ROWS;
        self.of_list(list, block..block + 1)
            .chunks_exact(BLOCK_ROWS)
            .map(move |column| column[place % BLOCK_ROWS])
    }

    /// The first place of a list, behind its last row or with the half that an odd `pq_m` leaves over, that is not 0:
    /// (list, place, byte).
    pub fn find_stray(&self, list_offsets: &[u64], shape: &PqShape) -> Option<(usize, usize, u8)> {
        let odd = !shape.pq_m.is_multiple_of(2);
        (0..list_offsets.len() - 1).into_par_iter().find_map_first(|list| {
            let rows = (list_offsets[list + 1] - list_offsets[list]) as usize;
            let places = rows.next_multiple_of(BLOCK_ROWS);
            let checked = if odd { 0..places } else { rows..places };
            checked.into_iter().find_map(|place| {
                let behind = place >= rows;
                let stray = |(index, byte): (usize, u8)| {
                    let last = index == self.code_size - 1;
                    (behind && byte != 0 || odd && last && byte > 15).then_some((list, place, byte))
                };
                self.code(list, place).enumerate().find_map(stray)
            })
        })
    }
}
