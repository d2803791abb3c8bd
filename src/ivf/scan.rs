//! Estimates of the rows of a list, and the best of them.
//!
//! With a query q, a centroid c and a decoded residual r̂, the estimate of a row's distance splits into what its list
//! shares and what tables of products with the codebook give:
//!
//! | metric | estimate | once per list | 8 bits: per row | table | 4 bits: table |
//! |---|---|---|---|---|---|
//! | L2 | \|q − c − r̂\|² | \|q − c\|² | \|r̂\|² + 2⟨c, r̂⟩ | −2⟨q, ·⟩ | \|·\|² − 2⟨q − c, ·⟩, for each list |
//! | inner product | −⟨q, c + r̂⟩ | −⟨q, c⟩ | – | −⟨q, ·⟩ | −⟨q, ·⟩ |
//! | cosine | 1 − ⟨q, c + r̂⟩ | 1 − ⟨q, c⟩ | – | −⟨q, ·⟩ | −⟨q, ·⟩ |
//!
//! With 8 bits one f32 table per query serves every list (for L2 this is the decomposition that faiss calls a
//! precomputed table, here with its query-free part kept per row: 4 bytes a row in place of `nlist × pq_m × ksub`
//! values). With 4 bits the entries of a table are single bytes in steps that all tables share. For L2 ⟨q, r̂⟩ and
//! ⟨c, r̂⟩ are far larger than their difference where clusters lie apart, and bytes would not tell rows of a list apart:
//! so there the tables are made for each list, which costs less than the scan, and no term is kept per row.

use std::ops::Range;

use super::IvfPq;
use super::codes::{Codes, ListCodes};
use super::ranking::subtract;
use crate::compute::cpu::{
    BLOCK_ROWS, NIBBLE_SLACK, NibbleBook, NibbleScan, Quantized, kernels, nibble_tables_len, prefetch,
};
use crate::index::RowMask;
use crate::train::ProductQuantizer;
use crate::vectors::{Metric, Neighbor};

/// Rows scored at a time: with 8 bits their scores (4 KiB) stay in the first-level cache beside the table.
const SCAN_ROWS: usize = 1024;

/// Scores compared with the bound in one go.
const GROUP: usize = 16;

/// Of the next list, what is asked for while one is scanned: hardware would notice each list anew.
const AHEAD_BYTES: usize = 4096;

/// Codebooks of 4-bit codes as tables are made from them.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// `pq_m × dsub × 16`.
    entries: Vec<f32>,
    /// For L2, |entry|²: `pq_m × 16`. Else empty.
    offsets: Vec<f32>,
}

impl Book {
    pub fn of(quantizer: &ProductQuantizer, metric: Metric) -> Self {
        let shape = quantizer.shape();
        let (dsub, ksub) = (shape.dsub, shape.ksub());
        let mut entries = vec![0.0; quantizer.codebook().len()];
        let mut offsets = Vec::new();
        for (index, entry) in quantizer.codebook().chunks_exact(dsub).enumerate() {
            for (step, &value) in entry.iter().enumerate() {
                entries[(index / ksub * dsub + step) * ksub + index % ksub] = value;
            }
            if metric == Metric::L2 {
                offsets.push(entry.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() as f32);
            }
        }
        Self { entries, offsets }
    }
}

/// The best of a scan, by a bound: a row beyond the running `wanted`-th best is never looked at again, the others are
/// appended and cut back by selection once twice as many have gathered.
#[derive(Debug)]
pub(super) struct Shortlist {
    wanted: usize,
    bound: f32,
    /// [`Neighbor::key`]s, the first `len`; room for a scan's behind them.
    keys: Vec<u64>,
    len: usize,
}

impl Shortlist {
    pub fn new() -> Self {
        Self { wanted: 1, bound: f32::INFINITY, keys: Vec::new(), len: 0 }
    }

    fn empty(&mut self, wanted: usize) {
        (self.wanted, self.bound, self.len) = (wanted, f32::INFINITY, 0);
        let room = 2 * wanted + SCAN_ROWS + NIBBLE_SLACK;
        if self.keys.len() < room {
            self.keys.resize(room, 0);
        }
    }

    /// Drops what is not among the best, where that pays.
    #[inline]
    fn settle(&mut self) {
        if self.len >= 2 * self.wanted {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.len > self.wanted {
            let (_, last, _) = self.keys[..self.len].select_nth_unstable(self.wanted - 1);
            self.bound = Neighbor::of_key(*last).distance;
            self.len = self.wanted;
        }
    }

    /// The best, in no order.
    fn best(&mut self) -> impl Iterator<Item = Neighbor> {
        self.cut();
        self.keys[..self.len].iter().map(|&key| Neighbor::of_key(key))
    }

    fn scan(&mut self, scan: NibbleScan<'_>) {
        self.settle();
        self.len += (kernels().nibble_scan)(scan, self.bound, &mut self.keys[self.len..]);
    }

    /// Rows from `first` on, by their scores. Once full hardly any passes the bound, so a group is compared as a whole
    /// first.
    fn offer(&mut self, scores: &[f32], first: u32, mask: Option<&RowMask>) {
        for (group, scores) in scores.chunks(GROUP).enumerate() {
            let bound = self.bound;
            if scores.iter().fold(false, |any, &score| any | (score <= bound)) {
                for (ordinal, &score) in (first + (group * GROUP) as u32..).zip(scores) {
                    if score <= bound && mask.is_none_or(|mask| mask.contains(ordinal)) {
                        self.keys[self.len] = Neighbor::new(ordinal, score).key();
                        self.len += 1;
                    }
                }
                self.settle();
            }
        }
    }
}

/// A list to scan.
pub(super) struct Probe<'a> {
    pub list: usize,
    pub codes: ListCodes<'a>,
    /// The part of the estimate that all rows of the list have.
    pub shared: f32,
}

/// A search's tables and what it has found.
pub(super) struct Scan {
    shortlist: Shortlist,
    /// With 8 bits `code_size × 256` values, with 4 the scratch that byte tables are made from.
    values: Vec<f32>,
    /// With 8 bits the scores of a few rows.
    scores: Vec<f32>,
    tables: Vec<u8>,
    quantized: Quantized,
    /// The query in the space of the codes.
    query: Vec<f32>,
    /// The query, for L2 with 4 bits its residual, as long as all sub-vectors are.
    padded: Vec<f32>,
}

impl Scan {
    pub fn over(index: &IvfPq) -> Self {
        let shape = index.quantizer.shape();
        let blocks = matches!(index.codes, Codes::Blocks(_));
        let values = if blocks { shape.pq_m * shape.ksub() } else { index.quantizer.table_len() };
        Self {
            shortlist: Shortlist::new(),
            values: vec![0.0; values],
            scores: vec![0.0; if blocks { 0 } else { SCAN_ROWS }],
            tables: vec![0; if blocks { nibble_tables_len(shape.pq_m) } else { 0 }],
            quantized: Quantized { step: 0.0, offset: 0.0 },
            query: vec![0.0; index.dim],
            padded: vec![0.0; if blocks { shape.pq_m * shape.dsub } else { 0 }],
        }
    }

    /// Begins a search for the `wanted` rows with the least estimates.
    pub fn begin(&mut self, index: &IvfPq, query: &[f32], wanted: usize) {
        self.shortlist.empty(wanted);
        match index.rotation() {
            Some(rotation) => rotation.rotate(query, &mut self.query),
            None => self.query.copy_from_slice(query),
        }
        match (&index.codes, index.metric) {
            (Codes::Rows { .. }, Metric::L2) => index.quantizer.tables(&self.query, -2.0, &mut self.values),
            (Codes::Rows { .. }, _) => index.quantizer.tables(&self.query, -1.0, &mut self.values),
            (Codes::Blocks(_), Metric::L2) => {}
            (Codes::Blocks(_), _) => {
                self.padded[..query.len()].copy_from_slice(&self.query);
                self.fill_tables(index, -1.0);
            }
        }
    }

    fn fill_tables(&mut self, index: &IvfPq, scale: f32) {
        let shape = index.quantizer.shape();
        let Book { entries, offsets } = &*index.book;
        let book = NibbleBook { pq_m: shape.pq_m, dsub: shape.dsub, entries, offsets };
        self.quantized =
            (kernels().nibble_tables)(book, &self.padded, scale, &mut self.values, &mut self.tables);
    }

    /// Scans a list; of a mask, only its rows.
    pub fn list(&mut self, index: &IvfPq, probe: Probe<'_>, mask: Option<&RowMask>) {
        let Probe { list, codes, shared } = probe;
        match &index.codes {
            Codes::Rows { .. } => self.rows(index, codes, index.list(list), shared, mask),
            Codes::Blocks(_) => {
                if index.metric == Metric::L2 {
                    self.padded[..self.query.len()].copy_from_slice(&self.query);
                    subtract(&mut self.padded, index.code_centroid(list));
                    self.fill_tables(index, -2.0);
                }
                self.blocks(index, codes, index.list(list), shared, mask);
            }
        }
    }

    fn rows(
        &mut self,
        index: &IvfPq,
        codes: ListCodes<'_>,
        rows: Range<usize>,
        shared: f32,
        mask: Option<&RowMask>,
    ) {
        let code_size = index.quantizer.shape().code_size();
        for start in rows.clone().step_by(SCAN_ROWS) {
            let end = (start + SCAN_ROWS).min(rows.end);
            let (scores, own) = (&mut self.scores[..end - start], start - rows.start..end - rows.start);
            let bytes = &codes.bytes[own.start * code_size..own.end * code_size];
            (kernels().pq_scan)(&self.values, 256, bytes, scores);
            match codes.terms {
                Some(terms) => {
                    scores.iter_mut().zip(&terms[own]).for_each(|(score, &term)| *score += shared + term)
                }
                None => scores.iter_mut().for_each(|score| *score += shared),
            }
            self.shortlist.offer(scores, start as u32, mask);
        }
    }

    fn blocks(
        &mut self,
        index: &IvfPq,
        codes: ListCodes<'_>,
        rows: Range<usize>,
        shared: f32,
        mask: Option<&RowMask>,
    ) {
        let pq_m = index.quantizer.shape().pq_m;
        let block_bytes = index.quantizer.shape().code_size() * BLOCK_ROWS;
        let quantized = Quantized { offset: self.quantized.offset + shared, ..self.quantized };
        for (index_of, start) in rows.clone().step_by(SCAN_ROWS).enumerate() {
            let count = (rows.end - start).min(SCAN_ROWS);
            let first = index_of * (SCAN_ROWS / BLOCK_ROWS);
            self.shortlist.scan(NibbleScan {
                blocks: &codes.bytes[first * block_bytes..(first + count.div_ceil(BLOCK_ROWS)) * block_bytes],
                rows: count,
                first: start as u32,
                pq_m,
                tables: &self.tables,
                quantized,
                allowed: mask.map_or(&[], RowMask::words),
            });
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
        let from = blocks.starts[list] * blocks.code_size * BLOCK_ROWS;
        let soon = &blocks.bytes[from..];
        soon[..soon.len().min(AHEAD_BYTES)].chunks(128).for_each(prefetch);
    }
}
