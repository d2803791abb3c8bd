//! RaBitQ's codes (Gao, Long, SIGMOD 2024, arXiv 2405.12497; with more bits 2409.09913): of a residual that was turned at random, one to
//! eight bits a dimension, and numbers that make estimates of its distances unbiased.
//!
//! A residual r is kept as levels u, and stands for f · u, with f = |r|² / ⟨u, r⟩ and u taken around the middle of the levels. So f · ⟨q, u⟩ is an
//! unbiased estimate of ⟨q, r⟩ for a query whose direction has nothing to do with the rounding. A distance from q to the row c + r is
//! estimated as a part that its list shares, a number of the row, and a product:
//!
//! | metric | once per list | number a | product |
//! |---|---|---|---|
//! | L2 | \|q − c\|² | \|r\|² | −2 f ⟨q − c, u⟩ |
//! | inner product, cosine | as for other codes | −⟨c, r⟩ + f ⟨c, u⟩ | −f ⟨q, u⟩ |
//!
//! For inner products c has been moved from the product to the number: what is estimated is ⟨q − c, r⟩ there too, whose error is
//! the less the nearer the query is to the list, while one table of the query serves all lists.
//!
//! The highest bits of the levels, one a dimension, are signs, a code of their own with numbers of its own, and lie in blocks: four of
//! them are one look-up. With more bits the others lie beside, row by row, and are read for those rows alone that the signs
//! do not rule out. How wrong signs are is known from their factor: |q − c| · f · ½√(1 − 2/π) is the standard deviation of f · ⟨q, u⟩ where residuals
//! have been turned at random. So there is no third number, as RaBitQ's library and faiss keep it.

use super::codes::BlockShape;
use super::params::MAX_NIBBLES;
use crate::compute::cpu::kernels;
use crate::train::{TrainError, round_direction, top_level};
use crate::vectors::Metric;

/// f32 for each row in the blocks: a and f of the signs.
const NUMBERS: usize = 2;

const NUMBER: usize = size_of::<f32>();

/// Four signs are a 4-bit code, and as many of these as can be summed in 16 bits (`params`).
const MAX_DIM: usize = 4 * MAX_NIBBLES;

/// How levels are laid out. Knows nothing of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rabitq {
    pub dim: usize,
    /// 1 to 8.
    pub bits: usize,
}

/// Room for encoding a row.
#[derive(Debug, Default)]
pub(super) struct Room {
    levels: Vec<f32>,
    bytes: Vec<u8>,
}

/// Some bits of the levels of all dimensions, `width` (4, 2 or 1) of each, from bit `from` on.
#[derive(Debug, Clone, Copy)]
struct Piece {
    width: usize,
    from: usize,
}

impl Piece {
    fn bytes(self, dim: usize) -> usize {
        (dim * self.width).div_ceil(8)
    }
}

impl Rabitq {
    pub const MAX_BITS: usize = 8;

    pub fn check(dim: usize, bits: usize) -> Result<(), TrainError> {
        let refused = |name, expected: String, got: usize| {
            Err(TrainError::Parameter { name, expected, got: got.to_string() })
        };
        if !(1..=Self::MAX_BITS).contains(&bits) {
            return refused("rabitq_bits", format!("1 to {}", Self::MAX_BITS), bits);
        }
        if !(1..=MAX_DIM).contains(&dim) {
            return refused("dim", format!("1 to {MAX_DIM} with RaBitQ's codes"), dim);
        }
        Ok(())
    }

    /// The bits below the highest: in pieces of 4, 2 and 1, as many bits as there are of them.
    fn pieces(self) -> impl Iterator<Item = Piece> {
        let low = self.bits - 1;
        let widths = [4, 2, 1].into_iter().filter(move |width| low & width != 0);
        widths.scan(0, |next, width| {
            let from = *next;
            *next += width;
            Some(Piece { width, from })
        })
    }

    /// Bytes of the bits below the highest.
    fn low_bytes(self) -> usize {
        self.pieces().map(|piece| piece.bytes(self.dim)).sum()
    }

    pub fn blocks(self, metric: Metric) -> BlockShape {
        let last = u8::MAX >> (self.dim.div_ceil(8) * 8 - self.dim);
        // f, and a where it depends on the levels.
        let numbers = if metric == Metric::L2 { 1 } else { 2 };
        let extra = if self.bits > 1 { self.low_bytes() + numbers * NUMBER } else { 0 };
        BlockShape { columns: self.dim.div_ceil(8), last, numbers: NUMBERS, extra }
    }

    /// The code of a residual, of a row of a list with this centroid, both turned; `code` is zero.
    pub fn encode(
        self,
        metric: Metric,
        residual: &[f32],
        centroid: &[f32],
        room: &mut Room,
        code: &mut [u8],
    ) {
        let (dim, shape) = (self.dim, self.blocks(metric));
        let square = (kernels().dot)(residual, residual).min(f32::MAX);
        room.levels.resize(dim, 0.0);
        room.bytes.resize(dim, 0);
        let middle = top_level(self.bits) / 2.0;
        if self.bits > 1 && square / dim as f32 > 0.0 {
            round_direction(residual, square, self.bits, &mut room.levels);
        } else {
            room.levels
                .iter_mut()
                .zip(residual)
                .for_each(|(level, &r)| *level = f32::from(r >= 0.0) * 2.0 * middle);
        }
        room.bytes.iter_mut().zip(&room.levels).for_each(|(byte, &level)| *byte = level as u8);
        let high = self.bits - 1;
        for (byte, levels) in code.iter_mut().zip(room.bytes.chunks(8)) {
            *byte = levels.iter().rev().fold(0, |byte, &level| byte << 1 | level >> high);
        }
        let (columns, behind) = code.split_at_mut(shape.columns);
        let (of_signs, extra) = behind.split_at_mut(NUMBERS * NUMBER);
        let numbers = |levels: &[f32]| numbers(metric, (residual, square), centroid, levels);
        if self.bits > 1 {
            let (low, of_levels) = extra.split_at_mut(self.low_bytes());
            self.pack(&room.bytes, low);
            room.levels.iter_mut().for_each(|level| *level -= middle);
            let (add, factor) = numbers(&room.levels);
            of_levels[..NUMBER].copy_from_slice(&factor.to_le_bytes());
            if metric != Metric::L2 {
                of_levels[NUMBER..].copy_from_slice(&add.to_le_bytes());
            }
        }
        for (d, level) in room.levels.iter_mut().enumerate() {
            *level = f32::from(columns[d / 8] >> (d % 8) & 1) - 0.5;
        }
        let (add, factor) = numbers(&room.levels);
        of_signs[..NUMBER].copy_from_slice(&add.to_le_bytes());
        of_signs[NUMBER..].copy_from_slice(&factor.to_le_bytes());
    }

    /// A piece has as many planes as values fit a byte: byte j holds the bits of the dimensions j, j + bytes, j + 2 · bytes, …
    fn pack(self, levels: &[u8], mut low: &mut [u8]) {
        for piece in self.pieces() {
            let (own, rest) = low.split_at_mut(piece.bytes(self.dim));
            let mask = u8::MAX >> (8 - piece.width);
            for (plane, levels) in levels.chunks(own.len()).enumerate() {
                for (byte, &level) in own.iter_mut().zip(levels) {
                    *byte |= (level >> piece.from & mask) << (plane * piece.width);
                }
            }
            low = rest;
        }
    }

    /// The levels of a row from its signs and what lies beside them. `levels` has [`room`](Self::room) values.
    #[inline]
    pub fn unpack(self, signs: impl Iterator<Item = u8>, mut extra: &[u8], levels: &mut [u8]) {
        let high = self.bits - 1;
        for (eight, byte) in levels.as_chunks_mut::<8>().0.iter_mut().zip(signs) {
            // Bit i of the byte to byte i of eight.
            let spread = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
            let ones = ((spread + 0x7f7f_7f7f_7f7f_7f7f) >> 7) & 0x0101_0101_0101_0101;
            *eight = (ones << high).to_le_bytes();
        }
        for piece in self.pieces() {
            let (own, rest) = extra.split_at(piece.bytes(self.dim));
            let mask = u8::MAX >> (8 - piece.width);
            for (plane, levels) in levels[..self.dim].chunks_mut(own.len()).enumerate() {
                let shift = plane * piece.width;
                for (level, &byte) in levels.iter_mut().zip(own) {
                    *level |= (byte >> shift & mask) << piece.from;
                }
            }
            extra = rest;
        }
    }

    /// Values that [`unpack`](Self::unpack) wants room for.
    pub fn room(self) -> usize {
        self.dim.next_multiple_of(8)
    }

    /// f of the levels, and a where it is not that of the signs.
    #[inline]
    pub fn numbers_beside(self, metric: Metric, extra: &[u8]) -> (f32, Option<f32>) {
        let low = self.low_bytes();
        let at = |at: usize| f32::from_le_bytes(extra[at..at + NUMBER].try_into().expect("four bytes"));
        (at(low), (metric != Metric::L2).then(|| at(low + NUMBER)))
    }

    /// What a code stands for: f · u.
    pub fn decode(self, metric: Metric, code: &[u8], residual: &mut [f32]) {
        let shape = self.blocks(metric);
        let (columns, behind) = code.split_at(shape.columns);
        let (of_signs, extra) = behind.split_at(NUMBERS * NUMBER);
        let mut levels = vec![0; self.room()];
        self.unpack(columns.iter().copied(), extra, &mut levels);
        let factor = if self.bits > 1 {
            self.numbers_beside(metric, extra).0
        } else {
            f32::from_le_bytes(of_signs[NUMBER..].try_into().expect("four bytes"))
        };
        let middle = top_level(self.bits) / 2.0;
        residual.iter_mut().zip(&levels).for_each(|(r, &level)| *r = factor * (f32::from(level) - middle));
    }
}

/// (a, f) of levels around their middle.
fn numbers(
    metric: Metric,
    (residual, square): (&[f32], f32),
    centroid: &[f32],
    levels: &[f32],
) -> (f32, f32) {
    let product = (kernels().dot)(residual, levels);
    let factor = if product > 0.0 { (square / product).min(f32::MAX) } else { 0.0 };
    if metric == Metric::L2 {
        return (square, factor);
    }
    let dot = |other: &[f32]| f64::from((kernels().dot)(centroid, other));
    let add = f64::from(factor) * dot(levels) - dot(residual);
    (add.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32, factor)
}
