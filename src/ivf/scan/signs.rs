//! RaBitQ's codes (`rabitq` has what they mean): signs 32 rows at a time, four dimensions a look-up; then, where there are more bits, the
//! levels of those rows that the signs do not rule out.
//!
//! Which rows are ruled out must not depend on what was scanned before. So a row counts as no nearer than the bound that its signs
//! give: what is then passed over could not have been among the best. Those that are found are estimated again, without tables and bounds.

use super::product::{Book, NibbleTables};
use super::shortlist::Shortlist;
use super::{Codes, EntryMask, IvfPq, Probe, SCAN_ROWS};
use crate::compute::cpu::{
    BLOCK_ROWS, NIBBLE_SLACK, NUMBER_COLUMNS, NibbleScan, Quantized, SignScan, kernels,
};
use crate::ivf::codes::{Blocks, ListCodes};
use crate::ivf::rabitq::Rabitq;
use crate::train::top_level;
use crate::vectors::{Metric, Neighbor, subtract};

/// Signs that are one look-up.
const TOGETHER: usize = 4;

/// By how many standard deviations of a sign's estimate a row may be nearer than it says before it is ruled out. Of rows at the very
/// bound one in 160 is lost; with 1.9, RaBitQ's own ε₀, one in 35, and of the ten nearest of 4,000 clustered rows one in 85.
const DEVIATIONS: f32 = 2.5;

/// ½√(1 − 2/π), the standard deviation of ⟨q, u⟩ for |q| = 1 and signs u = ±½ of a residual that was turned at random.
const DEVIATION: f32 = 0.301_4;

/// Rows whose levels are unpacked for one product.
const UNPACKED: usize = 8;

/// The corners that four signs stand for, ±½ in each dimension, as a codebook.
pub(super) fn book(dim: usize) -> Book {
    let pq_m = dim.div_ceil(8) * 2;
    let corner = |step: usize, sign: usize| if sign >> step & 1 == 1 { 0.5 } else { -0.5 };
    let entries = |_| (0..TOGETHER).flat_map(move |step| (0..16).map(move |sign| corner(step, sign)));
    Book { pq_m, dsub: TOGETHER, entries: (0..pq_m).flat_map(entries).collect(), offsets: Vec::new() }
}

pub(super) struct SignTables {
    rabitq: Rabitq,
    nibbles: NibbleTables,
    // Only with more bits than one:
    /// −middle of the levels · Σ q.
    base: f32,
    /// Rows of a piece of a list that the signs do not rule out.
    keys: Vec<u64>,
    levels: Vec<u8>,
}

impl SignTables {
    pub fn over(rabitq: Rabitq) -> Self {
        let more = usize::from(rabitq.bits > 1);
        Self {
            rabitq,
            nibbles: NibbleTables::new(rabitq.dim.div_ceil(8) * 2, TOGETHER),
            base: 0.0,
            keys: vec![0; (SCAN_ROWS + NIBBLE_SLACK) * more],
            levels: vec![0; (UNPACKED * rabitq.dim).next_multiple_of(8) + 8],
        }
    }

    pub fn begin(&mut self, index: &IvfPq, query: &[f32]) {
        self.nibbles.begin(index, query);
        self.base = self.base();
    }

    fn base(&self) -> f32 {
        -top_level(self.rabitq.bits) / 2.0 * self.nibbles.padded.iter().sum::<f32>()
    }

    pub fn list(&mut self, over: (&IvfPq, &[f32]), probe: Probe<'_>, shortlist: &mut Shortlist) {
        let (index, query) = over;
        self.nibbles.begin_list(over, probe.list);
        let mut quantized = self.nibbles.quantized;
        if self.rabitq.bits > 1 {
            // How far the query is from the list: what is rounded is the product of both residuals.
            let (scale, away) = match index.metric {
                Metric::L2 => {
                    self.base = self.base();
                    (2.0, probe.shared.max(0.0).sqrt())
                }
                _ => (1.0, (kernels().l2)(query, index.code_centroid(probe.list)).sqrt()),
            };
            let rounding = quantized.step * (index.book.pq_m as f32).sqrt();
            let margin = scale * DEVIATIONS * DEVIATION * away + rounding;
            quantized = Quantized { offset: quantized.offset - margin, ..quantized };
        }
        let rows = probe.entries.clone();
        let pq_m = index.book.pq_m;
        let block_bytes = (pq_m / 2 + NUMBER_COLUMNS) * BLOCK_ROWS;
        for (piece, start) in rows.clone().step_by(SCAN_ROWS).enumerate() {
            let count = (rows.end - start).min(SCAN_ROWS);
            let from = piece * (SCAN_ROWS / BLOCK_ROWS) * block_bytes;
            let (first, shift, allowed) = EntryMask::numbering(probe.allowed, start);
            let nibbles = NibbleScan {
                blocks: &probe.codes.bytes[from..from + count.div_ceil(BLOCK_ROWS) * block_bytes],
                rows: count,
                first,
                pq_m,
                tables: &self.nibbles.tables,
                quantized,
                allowed,
            };
            let scan = SignScan { nibbles, shared: probe.shared };
            if self.rabitq.bits == 1 {
                shortlist.sign_scan(scan, shift);
            } else {
                let found = (kernels().sign_scan)(scan, shortlist.bound(), &mut self.keys);
                // Numbers from here on are places in the list.
                let place = (shift as usize).wrapping_sub(rows.start);
                self.levels(index, (&probe, place), found, shortlist);
            }
        }
    }

    /// The estimate of the row at a place of a list by all its bits.
    pub fn estimate(
        &mut self,
        (index, query): (&IvfPq, &[f32]),
        list: usize,
        (place, codes): (usize, ListCodes<'_>),
    ) -> f32 {
        let Codes::Blocks(Blocks { shape, .. }) = &index.codes else { return f32::INFINITY };
        let (dim, centroid) = (self.rabitq.dim, index.code_centroid(list));
        let residual = &mut self.nibbles.padded[..dim];
        residual.copy_from_slice(query);
        let (shared, scale) = match index.metric {
            Metric::L2 => {
                subtract(residual, centroid);
                ((kernels().l2)(query, centroid), -2.0)
            }
            metric => (metric.distance_of_dot((kernels().dot)(query, centroid)), -1.0),
        };
        let extra = &codes.extra[place * shape.extra..(place + 1) * shape.extra];
        let levels = &mut self.levels[..self.rabitq.room()];
        self.rabitq.unpack(shape.columns_of(codes.bytes, place), extra, levels);
        let mut product = [0.0];
        (kernels().dot_levels)(residual, &levels[..dim], &mut product);
        let product = product[0] + self.base();
        let of_signs = |index| shape.number(codes.bytes, index, place);
        let (factor, add) = match self.rabitq.bits {
            1 => (of_signs(1), None),
            _ => self.rabitq.numbers_beside(index.metric, extra),
        };
        // Of estimates that overflow, no NaN may come before all others.
        (shared + add.unwrap_or_else(|| of_signs(0)) + factor * (scale * product)).min(f32::INFINITY)
    }

    /// Estimates the first `found` of `keys` by all their bits.
    fn levels(
        &mut self,
        index: &IvfPq,
        (probe, shift): (&Probe<'_>, usize),
        found: usize,
        shortlist: &mut Shortlist,
    ) {
        let Codes::Blocks(Blocks { shape, .. }) = &index.codes else { return };
        let (dim, room) = (self.rabitq.dim, self.rabitq.room());
        let (query, scale) =
            (&self.nibbles.padded[..dim], if index.metric == Metric::L2 { -2.0 } else { -1.0 });
        let first = probe.entries.start;
        let mut products = [0.0; UNPACKED];
        let mut rows = [(0, 0.0); UNPACKED];
        let mut keys = self.keys[..found].iter().map(|&key| Neighbor::of_key(key)).peekable();
        while keys.peek().is_some() {
            let mut count = 0;
            for row in keys.by_ref().filter(|row| row.distance <= shortlist.bound()).take(UNPACKED) {
                let place = (row.ordinal as usize).wrapping_add(shift);
                let extra = &probe.codes.extra[place * shape.extra..(place + 1) * shape.extra];
                // Padding is overwritten by the next row, and lies behind the last.
                let levels = &mut self.levels[count * dim..count * dim + room];
                self.rabitq.unpack(shape.columns_of(probe.codes.bytes, place), extra, levels);
                rows[count] = (place, row.distance);
                count += 1;
            }
            (kernels().dot_levels)(query, &self.levels[..count * dim], &mut products[..count]);
            for (&(place, bound), &product) in rows[..count].iter().zip(&products) {
                let extra = &probe.codes.extra[place * shape.extra..(place + 1) * shape.extra];
                let (factor, add) = self.rabitq.numbers_beside(index.metric, extra);
                let add = add.unwrap_or_else(|| shape.number(probe.codes.bytes, 0, place));
                let estimate = probe.shared + add + factor * (scale * (product + self.base));
                shortlist.push(Neighbor::new((first + place) as u32, estimate.max(bound)));
            }
        }
    }
}
