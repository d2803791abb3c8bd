//! Codes of a product quantizer: sums of table look-ups.
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

use super::shortlist::Shortlist;
use super::{EntryMask, IvfPq, Probe, Quantizer, SCAN_ROWS};
use crate::compute::cpu::{BLOCK_ROWS, NibbleBook, NibbleScan, Quantized, kernels, nibble_tables_len};
use crate::train::{PqShape, ProductQuantizer};
use crate::vectors::{Metric, subtract};

/// Codebooks of 4-bit codes as tables are made from them.
#[derive(Debug, Default)]
pub(in crate::ivf) struct Book {
    pub pq_m: usize,
    pub dsub: usize,
    /// `pq_m × dsub × 16`.
    pub entries: Vec<f32>,
    /// For L2, |entry|²: `pq_m × 16`. Else empty.
    pub offsets: Vec<f32>,
}

impl Book {
    /// Of codes in blocks; empty for others.
    pub fn of(quantizer: &Quantizer, metric: Metric) -> Self {
        match quantizer {
            Quantizer::Product(quantizer) if quantizer.shape().pq_bits == 4 => {
                Self::of_codebook(quantizer, metric)
            }
            Quantizer::Rabitq(rabitq) => super::signs::book(rabitq.dim),
            _ => Self::default(),
        }
    }

    fn of_codebook(quantizer: &ProductQuantizer, metric: Metric) -> Self {
        let PqShape { pq_m, dsub, .. } = *quantizer.shape();
        let ksub = quantizer.shape().ksub();
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
        Self { pq_m, dsub, entries, offsets }
    }

    pub fn view(&self) -> NibbleBook<'_> {
        let Self { pq_m, dsub, entries, offsets } = self;
        NibbleBook { pq_m: *pq_m, dsub: *dsub, entries, offsets }
    }
}

/// Tables of a query as bytes, for codes in blocks.
pub(super) struct NibbleTables {
    /// `pq_m × 16`, the scratch that byte tables are made from.
    values: Vec<f32>,
    pub tables: Vec<u8>,
    pub quantized: Quantized,
    /// The query, or its residual, as long as all sub-vectors are.
    pub padded: Vec<f32>,
}

impl NibbleTables {
    pub fn over(quantizer: &ProductQuantizer) -> Self {
        Self::new(quantizer.shape().pq_m, quantizer.shape().dsub)
    }

    pub fn new(pq_m: usize, dsub: usize) -> Self {
        Self {
            values: vec![0.0; pq_m * 16],
            tables: vec![0; nibble_tables_len(pq_m)],
            quantized: Quantized { step: 0.0, offset: 0.0 },
            padded: vec![0.0; pq_m * dsub],
        }
    }

    /// With a metric whose tables serve all lists, makes them.
    pub fn begin(&mut self, index: &IvfPq, query: &[f32]) {
        if index.metric != Metric::L2 {
            self.padded[..query.len()].copy_from_slice(query);
            self.fill(&index.book, -1.0);
        }
    }

    /// With L2, makes those of a list.
    pub fn begin_list(&mut self, (index, query): (&IvfPq, &[f32]), list: usize) {
        if index.metric == Metric::L2 {
            self.padded[..query.len()].copy_from_slice(query);
            subtract(&mut self.padded, index.code_centroid(list));
            self.fill(&index.book, -2.0);
        }
    }

    fn fill(&mut self, book: &Book, scale: f32) {
        self.quantized =
            (kernels().nibble_tables)(book.view(), &self.padded, scale, &mut self.values, &mut self.tables);
    }

    pub fn list(&mut self, over: (&IvfPq, &[f32]), probe: Probe<'_>, shortlist: &mut Shortlist) {
        self.begin_list(over, probe.list);
        let index = over.0;
        let pq_m = index.book.pq_m;
        let block_bytes = pq_m.div_ceil(2) * BLOCK_ROWS;
        let rows = probe.entries;
        let quantized = Quantized { offset: self.quantized.offset + probe.shared, ..self.quantized };
        for (index_of, start) in rows.clone().step_by(SCAN_ROWS).enumerate() {
            let count = (rows.end - start).min(SCAN_ROWS);
            let from = index_of * (SCAN_ROWS / BLOCK_ROWS) * block_bytes;
            let (first, shift, allowed) = EntryMask::numbering(probe.allowed, start);
            let scan = NibbleScan {
                blocks: &probe.codes.bytes[from..from + count.div_ceil(BLOCK_ROWS) * block_bytes],
                rows: count,
                first,
                pq_m,
                tables: &self.tables,
                quantized,
                allowed,
            };
            shortlist.scan(scan, shift);
        }
    }
}

/// Tables of a query as f32, for codes of 8 bits.
pub(super) struct Tables {
    /// `code_size × 256`.
    values: Vec<f32>,
    /// Of a few rows.
    scores: Vec<f32>,
}

impl Tables {
    pub fn over(quantizer: &ProductQuantizer) -> Self {
        Self { values: vec![0.0; quantizer.table_len()], scores: vec![0.0; SCAN_ROWS] }
    }

    pub fn begin(&mut self, index: &IvfPq, query: &[f32]) {
        if let Quantizer::Product(quantizer) = &index.quantizer {
            let scale = if index.metric == Metric::L2 { -2.0 } else { -1.0 };
            quantizer.tables(query, scale, &mut self.values);
        }
    }

    pub fn list(&mut self, probe: Probe<'_>, shortlist: &mut Shortlist) {
        let Probe { entries: rows, codes, shared, allowed, .. } = probe;
        let code_size = self.values.len() / 256;
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
            shortlist.offer(scores, start as u32, allowed);
        }
    }
}
