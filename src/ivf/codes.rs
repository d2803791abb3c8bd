//! Where the codes of the lists lie: row by row, or in blocks that are looked up 32 rows at a time.

use std::ops::Range;

use rayon::prelude::*;

use crate::artifact::Array;
use crate::compute::cpu::BLOCK_ROWS;
use crate::index::KeptVectors;

#[derive(Debug, Clone)]
pub(super) enum Codes {
    Rows {
        /// `rows × code_size`.
        bytes: Array<u8>,
        /// Of product quantizers, for L2: per row |r̂|² + 2⟨c, r̂⟩ with c its centroid and r̂ its decoded residual
        /// (`scan/product.rs` says why).
        terms: Option<Array<f32>>,
    },
    Blocks(Blocks),
    /// None: the vectors that are kept are what is searched.
    Kept,
}

/// The codes of one list, wherever they were read from.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListCodes<'a> {
    /// Its rows' codes, or its blocks.
    pub bytes: &'a [u8],
    /// One for each of its rows, where there are any.
    pub terms: Option<&'a [f32]>,
    /// What its rows have beside the blocks.
    pub extra: &'a [u8],
    /// In place of codes, vectors, of which the list's first has this place.
    pub vectors: Option<(&'a KeptVectors, usize)>,
}

/// How a row's code is laid out in blocks: its bytes are `columns` of the blocks, then `numbers` f32 of them, then `extra` that
/// lie beside the blocks, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockShape {
    pub columns: usize,
    /// The bits that the last column may have.
    pub last: u8,
    pub numbers: usize,
    pub extra: usize,
}

const NUMBER: usize = size_of::<f32>();

impl BlockShape {
    /// Of 32 bytes each.
    pub fn block_columns(&self) -> usize {
        self.columns + self.numbers * NUMBER
    }

    pub fn block_bytes(&self) -> usize {
        self.block_columns() * BLOCK_ROWS
    }

    pub fn row_bytes(&self) -> usize {
        self.block_columns() + self.extra
    }

    /// Puts a row's code, but for what lies beside, at a place of its block.
    fn put(&self, block: &mut [u8], place: usize, code: &[u8]) {
        let (columns, numbers) = code[..self.block_columns()].split_at(self.columns);
        for (column, &byte) in block.chunks_exact_mut(BLOCK_ROWS).zip(columns) {
            column[place] = byte;
        }
        for (index, number) in numbers.chunks_exact(NUMBER).enumerate() {
            let at = self.number_at(index, place);
            block[at..at + NUMBER].copy_from_slice(number);
        }
    }

    fn number_at(&self, index: usize, place: usize) -> usize {
        self.columns * BLOCK_ROWS + (index * BLOCK_ROWS + place) * NUMBER
    }

    /// A number of a row at a place of its list.
    #[inline]
    pub fn number(&self, blocks: &[u8], index: usize, place: usize) -> f32 {
        let at = place / BLOCK_ROWS * self.block_bytes() + self.number_at(index, place % BLOCK_ROWS);
        f32::from_le_bytes(blocks[at..at + NUMBER].try_into().expect("four bytes"))
    }

    /// The columns of a row at a place of its list.
    #[inline]
    pub fn columns_of<'a>(&self, blocks: &'a [u8], place: usize) -> impl Iterator<Item = u8> + use<'a> {
        let start = place / BLOCK_ROWS * self.block_bytes();
        let columns = &blocks[start..start + self.columns * BLOCK_ROWS];
        columns[place % BLOCK_ROWS..].iter().step_by(BLOCK_ROWS).copied()
    }
}

/// Codes in blocks of 32 rows: each list is whole blocks, and a block has a byte of all its rows together, then the next. Places
/// behind a list's last row are 0.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub bytes: Array<u8>,
    /// `rows × shape.extra`.
    pub extra: Array<u8>,
    pub shape: BlockShape,
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
        let none = ListCodes { bytes: &[], terms: None, extra: &[], vectors: None };
        match self {
            Codes::Rows { bytes, terms } => ListCodes {
                bytes: &bytes[rows.start * code_size..rows.end * code_size],
                terms: terms.as_ref().map(|terms| &terms[rows]),
                ..none
            },
            Codes::Blocks(blocks) => {
                let (count, extra) = (blocks.starts[list + 1] - blocks.starts[list], blocks.shape.extra);
                let extra = &blocks.extra[rows.start * extra..rows.end * extra];
                ListCodes { bytes: blocks.of_list(list, 0..count), extra, ..none }
            }
            Codes::Kept => none,
        }
    }

    /// The code at a place of a list, as long as its rows' are.
    pub fn copy_code(&self, list: ListCodes<'_>, place: usize, code: &mut [u8]) {
        match self {
            Codes::Rows { .. } => {
                code.copy_from_slice(&list.bytes[place * code.len()..(place + 1) * code.len()])
            }
            Codes::Blocks(Blocks { shape, .. }) => {
                let (columns, behind) = code.split_at_mut(shape.columns);
                columns.iter_mut().zip(shape.columns_of(list.bytes, place)).for_each(|(to, byte)| *to = byte);
                let (numbers, extra) = behind.split_at_mut(shape.numbers * NUMBER);
                for (index, number) in numbers.chunks_exact_mut(NUMBER).enumerate() {
                    number.copy_from_slice(&shape.number(list.bytes, index, place).to_le_bytes());
                }
                extra.copy_from_slice(&list.extra[place * shape.extra..(place + 1) * shape.extra]);
            }
            Codes::Kept => {}
        }
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
    /// From codes of `shape.row_bytes()`, `codes[order[ordinal]]` that of a row.
    pub fn gather(codes: &[u8], shape: BlockShape, order: &[u32], list_offsets: &[u64]) -> Self {
        let starts = block_starts(list_offsets);
        let (block_bytes, row_bytes) = (shape.block_bytes(), shape.row_bytes());
        let mut bytes = vec![0u8; starts[starts.len() - 1] * block_bytes];
        let mut rest = bytes.as_mut_slice();
        let mut lists = Vec::with_capacity(starts.len());
        for (blocks, rows) in starts.windows(2).zip(list_offsets.windows(2)) {
            let (own, behind) = rest.split_at_mut((blocks[1] - blocks[0]) * block_bytes);
            lists.push((own, &order[rows[0] as usize..rows[1] as usize]));
            rest = behind;
        }
        let code = |row: u32| &codes[row as usize * row_bytes..(row as usize + 1) * row_bytes];
        lists.into_par_iter().for_each(|(blocks, rows)| {
            for (block, rows) in blocks.chunks_exact_mut(block_bytes).zip(rows.chunks(BLOCK_ROWS)) {
                for (place, &row) in rows.iter().enumerate() {
                    shape.put(block, place, code(row));
                }
            }
        });
        let mut extra = vec![0u8; order.len() * shape.extra];
        if shape.extra > 0 {
            extra.par_chunks_exact_mut(shape.extra).with_min_len(4096).zip(order).for_each(
                |(extra, &row)| {
                    extra.copy_from_slice(&code(row)[shape.block_columns()..]);
                },
            );
        }
        Self { bytes: bytes.into(), extra: extra.into(), shape, starts }
    }

    /// Some blocks of a list, counted from its first.
    pub fn of_list(&self, list: usize, blocks: Range<usize>) -> &[u8] {
        let (from, block_bytes) = (self.starts[list], self.shape.block_bytes());
        &self.bytes[(from + blocks.start) * block_bytes..(from + blocks.end) * block_bytes]
    }

    /// The first place of a list, behind its last row or in the bits that the last column may not have, that is not 0:
    /// (list, place, byte).
    pub fn find_stray(&self, list_offsets: &[u64]) -> Option<(usize, usize, u8)> {
        let Self { shape, .. } = self;
        (0..list_offsets.len() - 1).into_par_iter().find_map_first(|list| {
            let rows = (list_offsets[list + 1] - list_offsets[list]) as usize;
            let places = rows.next_multiple_of(BLOCK_ROWS);
            let blocks = self.of_list(list, 0..places / BLOCK_ROWS);
            let checked = if shape.last == u8::MAX { rows..places } else { 0..places };
            checked.into_iter().find_map(|place| {
                let (first, allowed) = if place < rows { (shape.columns - 1, shape.last) } else { (0, 0) };
                let mut columns = shape.columns_of(blocks, place).skip(first);
                let in_numbers = |index: usize| {
                    let bytes = shape.number(blocks, index, place).to_le_bytes();
                    bytes.into_iter().find(|&byte| byte != 0).filter(|_| place >= rows)
                };
                let byte = columns.find(|&byte| byte & !allowed != 0);
                let byte = byte.or_else(|| (0..shape.numbers).find_map(in_numbers));
                byte.map(|byte| (list, place, byte))
            })
        })
    }

    /// The first row whose numbers are not all finite. `beside` reads those that lie beside the blocks.
    pub fn find_not_finite(
        &self,
        list_offsets: &[u64],
        beside: impl Fn(&[u8]) -> bool + Sync,
    ) -> Option<usize> {
        let Self { shape, extra, .. } = self;
        (0..list_offsets.len() - 1).into_par_iter().find_map_first(|list| {
            let rows = list_offsets[list] as usize..list_offsets[list + 1] as usize;
            let blocks = self.of_list(list, 0..rows.len().div_ceil(BLOCK_ROWS));
            rows.clone().find(|&row| {
                let finite = |index| shape.number(blocks, index, row - rows.start).is_finite();
                !((0..shape.numbers).all(finite)
                    && beside(&extra[row * shape.extra..(row + 1) * shape.extra]))
            })
        })
    }
}
