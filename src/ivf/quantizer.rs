//! What makes codes of residuals.

use super::codes::BlockShape;
use super::params::Code;
use super::rabitq::Rabitq;
use crate::train::{FastRotation, ProductQuantizer, Rotation, ScalarQuantizer};
use crate::vectors::{Metric, VectorBuf, VectorView};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Quantizer {
    Product(ProductQuantizer),
    Rabitq(Rabitq),
    Scalar(ScalarQuantizer),
    /// None: rows are kept as they are.
    Flat,
}

impl Quantizer {
    pub fn code(&self) -> Code {
        match self {
            Quantizer::Product(_) => Code::Pq,
            Quantizer::Rabitq(rabitq) => Code::Rabitq { bits: rabitq.bits as u32 },
            Quantizer::Scalar(_) => Code::Sq8,
            Quantizer::Flat => Code::Flat,
        }
    }

    /// How rows of codes become blocks, where they do.
    pub fn blocks(&self, metric: Metric) -> Option<BlockShape> {
        match self {
            Quantizer::Product(quantizer) if quantizer.shape().pq_bits == 4 => {
                let last = if quantizer.shape().pq_m.is_multiple_of(2) { 0xff } else { 0x0f };
                Some(BlockShape { columns: quantizer.shape().code_size(), last, numbers: 0, extra: 0 })
            }
            Quantizer::Rabitq(rabitq) => Some(rabitq.blocks(metric)),
            _ => None,
        }
    }

    /// Bytes of a row's code.
    pub fn row_bytes(&self, metric: Metric) -> usize {
        match self {
            Quantizer::Product(quantizer) => quantizer.shape().code_size(),
            Quantizer::Rabitq(rabitq) => rabitq.blocks(metric).row_bytes(),
            Quantizer::Scalar(quantizer) => quantizer.dim(),
            Quantizer::Flat => 0,
        }
    }

    /// The residual that a code stands for.
    ///
    /// # Panics
    /// Without codes.
    pub fn decode(&self, metric: Metric, code: &[u8], residual: &mut [f32]) {
        match self {
            Quantizer::Product(quantizer) => quantizer.decode(code, residual),
            Quantizer::Rabitq(rabitq) => rabitq.decode(metric, code, residual),
            Quantizer::Scalar(quantizer) => quantizer.decode(code, residual),
            Quantizer::Flat => unreachable!("rows without codes"),
        }
    }
}

/// What residuals are turned by before they are encoded.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Turn {
    Learned(Rotation),
    Drawn(FastRotation),
}

impl Turn {
    pub fn rotate(&self, row: &[f32], rotated: &mut [f32]) {
        match self {
            Turn::Learned(rotation) => rotation.rotate(row, rotated),
            Turn::Drawn(rotation) => rotation.rotate(row, rotated),
        }
    }

    pub fn rotate_back(&self, rotated: &[f32], row: &mut [f32]) {
        match self {
            Turn::Learned(rotation) => rotation.rotate_back(rotated, row),
            Turn::Drawn(rotation) => rotation.rotate_back(rotated, row),
        }
    }

    pub fn rotate_rows(&self, rows: VectorView<'_>) -> VectorBuf {
        match self {
            Turn::Learned(rotation) => rotation.rotate_rows(rows),
            Turn::Drawn(rotation) => rotation.rotate_rows(rows),
        }
    }
}
