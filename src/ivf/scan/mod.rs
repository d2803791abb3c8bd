//! Estimates of the rows of a list, and the best of them.
//!
//! With a query q, a centroid c and a decoded residual r̂, the estimate of a row's distance splits into what its list
//! shares and what depends on the row. A file for each kind of code says how: `product`, `signs` (RaBitQ), `levels` (scalar
//! quantizer), and rows as they are are compared by `index::KeptVectors`.

mod levels;
mod product;
mod shortlist;
mod signs;

use std::ops::Range;

use levels::LevelScan;
pub(super) use product::Book;
use product::{NibbleTables, Tables};
use shortlist::Shortlist;
use signs::SignTables;

use super::IvfPq;
use super::codes::{Codes, ListCodes};
use super::quantizer::Quantizer;
use crate::compute::cpu::prefetch;
use crate::vectors::Neighbor;

/// Rows scored at a time: with 8 bits their scores (4 KiB) stay in the first-level cache beside the table.
const SCAN_ROWS: usize = 1024;

/// Of the next list, what is asked for while one is scanned: hardware would notice each list anew.
const AHEAD_BYTES: usize = 4096;

/// Entries of a list to scan: its rows, or those that were spilled to it.
#[derive(Clone)]
pub(super) struct Probe<'a> {
    pub list: usize,
    /// What the entries found are called: ordinals, or numbers behind them.
    pub entries: Range<usize>,
    pub codes: ListCodes<'a>,
    /// The part of the estimate that all rows of the list have.
    pub shared: f32,
    /// Which entries may be found; `None`: all.
    pub allowed: Option<EntryMask<'a>>,
}

/// Bit `i % 64` of word `i / 64` is set where entry `first + i` may be found.
#[derive(Clone, Copy)]
pub(super) struct EntryMask<'a> {
    pub words: &'a [u64],
    pub first: usize,
}

impl<'a> EntryMask<'a> {
    #[inline]
    fn contains(self, entry: u32) -> bool {
        let bit = entry as usize - self.first;
        self.words[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// For a scan from an entry on: what its rows are numbered from, what is added to their numbers, and the words.
    fn numbering(mask: Option<Self>, start: usize) -> (u32, u32, &'a [u64]) {
        match mask {
            Some(EntryMask { words, first }) => ((start - first) as u32, first as u32, words),
            None => (start as u32, 0, &[]),
        }
    }
}

/// A search's tables and what it has found.
pub(super) struct Scan {
    shortlist: Shortlist,
    /// The query in the space of the codes.
    query: Vec<f32>,
    kind: Kind,
}

enum Kind {
    Product(Tables),
    Nibbles(NibbleTables),
    Signs(SignTables),
    Levels(LevelScan),
    /// The scores of a few rows.
    Vectors(Vec<f32>),
}

impl Scan {
    pub fn over(index: &IvfPq) -> Self {
        let kind = match (&index.quantizer, &index.codes) {
            (Quantizer::Product(quantizer), Codes::Blocks(_)) => Kind::Nibbles(NibbleTables::over(quantizer)),
            (Quantizer::Product(quantizer), _) => Kind::Product(Tables::over(quantizer)),
            (Quantizer::Rabitq(rabitq), _) => Kind::Signs(SignTables::over(*rabitq)),
            (Quantizer::Scalar(_), _) => Kind::Levels(LevelScan::over(index.dim)),
            (Quantizer::Flat, _) => Kind::Vectors(vec![0.0; SCAN_ROWS]),
        };
        Self { shortlist: Shortlist::new(), query: vec![0.0; index.dim], kind }
    }

    /// Begins a search for the `wanted` rows with the least estimates.
    pub fn begin(&mut self, index: &IvfPq, query: &[f32], wanted: usize) {
        self.shortlist.empty(wanted);
        match index.turn() {
            Some(turn) => turn.rotate(query, &mut self.query),
            None => self.query.copy_from_slice(query),
        }
        match &mut self.kind {
            Kind::Product(tables) => tables.begin(index, &self.query),
            Kind::Nibbles(tables) => tables.begin(index, &self.query),
            Kind::Signs(tables) => tables.begin(index, &self.query),
            Kind::Levels(scan) => scan.begin(index, &self.query),
            Kind::Vectors(_) => {}
        }
    }

    /// Scans a list.
    pub fn list(&mut self, index: &IvfPq, probe: Probe<'_>) {
        let Self { shortlist, query, kind } = self;
        let query = &query[..];
        match kind {
            Kind::Product(tables) => tables.list(probe, shortlist),
            Kind::Nibbles(tables) => tables.list((index, query), probe, shortlist),
            Kind::Signs(tables) => tables.list((index, query), probe, shortlist),
            Kind::Levels(scan) => scan.list((index, query), probe, shortlist),
            Kind::Vectors(scores) => {
                let rows = probe.entries;
                let (vectors, first) = probe.codes.vectors.expect("vectors, where there are no codes");
                for start in rows.clone().step_by(SCAN_ROWS) {
                    let scores = &mut scores[..(rows.end - start).min(SCAN_ROWS)];
                    vectors.distances_from(index.metric, query, first + start - rows.start, scores);
                    shortlist.offer(scores, start as u32, probe.allowed);
                }
            }
        }
    }

    /// What RaBitQ's code at a place of a list says of its row's distance, neither rounded to tables nor raised to a bound.
    ///
    /// # Panics
    /// With other codes.
    pub fn estimate(&mut self, index: &IvfPq, list: usize, at: (usize, ListCodes<'_>)) -> f32 {
        match &mut self.kind {
            Kind::Signs(tables) => tables.estimate((index, &self.query), list, at),
            _ => unreachable!("estimates are those of the scan"),
        }
    }

    /// The query of the search begun, in the space of the codes.
    pub fn query(&self) -> &[f32] {
        &self.query
    }

    /// The rows found, in no order.
    pub fn best(&mut self) -> impl Iterator<Item = Neighbor> {
        self.shortlist.best()
    }
}

/// Asks for the beginning of a list that will be scanned soon.
pub(super) fn prefetch_list(index: &IvfPq, list: usize) {
    if let (Codes::Blocks(blocks), None) = (&index.codes, &index.ranged) {
        let from = blocks.starts[list] * blocks.shape.block_bytes();
        let soon = &blocks.bytes[from..];
        soon[..soon.len().min(AHEAD_BYTES)].chunks(128).for_each(prefetch);
    }
}
