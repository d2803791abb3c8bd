//! Bytes of a scalar quantizer: a row of levels u stands for c + low + step · u, with a low and a step for each dimension.
//!
//! | metric | estimate | once per query | once per list |
//! |---|---|---|---|
//! | L2 | Σ (v − step · u)² | – | v = q − c − low |
//! | inner product, cosine | shared − ⟨q, low⟩ + Σ v · u | v = −q · step, ⟨q, low⟩ | – |
//!
//! The query stays f32: rounded to a byte as well it would be as wrong as the codes are, and what a list costs is to read it.

use super::shortlist::Shortlist;
use super::{IvfPq, Probe, Quantizer, SCAN_ROWS};
use crate::compute::cpu::kernels;
use crate::vectors::{Metric, subtract};

pub(super) struct LevelScan {
    /// v of the table above.
    values: Vec<f32>,
    /// −⟨q, low⟩.
    constant: f32,
    /// Of a few rows.
    scores: Vec<f32>,
}

impl LevelScan {
    pub fn over(dim: usize) -> Self {
        Self { values: vec![0.0; dim], constant: 0.0, scores: vec![0.0; SCAN_ROWS] }
    }

    pub fn begin(&mut self, index: &IvfPq, query: &[f32]) {
        if let (Quantizer::Scalar(quantizer), false) = (&index.quantizer, index.metric == Metric::L2) {
            for ((value, &q), &step) in self.values.iter_mut().zip(query).zip(quantizer.steps()) {
                *value = -q * step;
            }
            self.constant = -(kernels().dot)(query, quantizer.lows());
        }
    }

    pub fn list(&mut self, (index, query): (&IvfPq, &[f32]), probe: Probe<'_>, shortlist: &mut Shortlist) {
        let Quantizer::Scalar(quantizer) = &index.quantizer else { return };
        let (rows, l2) = (probe.entries, index.metric == Metric::L2);
        if l2 {
            self.values.copy_from_slice(query);
            subtract(&mut self.values, index.code_centroid(probe.list));
            subtract(&mut self.values, quantizer.lows());
        }
        for start in rows.clone().step_by(SCAN_ROWS) {
            let scores = &mut self.scores[..(rows.end - start).min(SCAN_ROWS)];
            let from = (start - rows.start) * index.dim;
            let levels = &probe.codes.bytes[from..from + scores.len() * index.dim];
            if l2 {
                (kernels().l2_levels)(&self.values, quantizer.steps(), levels, scores);
            } else {
                (kernels().dot_levels)(&self.values, levels, scores);
                let base = probe.shared + self.constant;
                scores.iter_mut().for_each(|score| *score += base);
            }
            shortlist.offer(scores, start as u32, probe.allowed);
        }
    }
}
