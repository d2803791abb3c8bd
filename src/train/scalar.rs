//! Scalar quantizer: each dimension by itself, a byte for where a value lies in the range that the dimension has.
//!
//! 8 bits a dimension lose so little (a 510th of the range at most) that recall is that of the rows but for a few thousandths, at a
//! quarter of f32's bytes.

use rayon::prelude::*;

use super::TrainError;
use crate::vectors::VectorView;

/// The highest level.
const TOP: f32 = 255.0;

/// Level u of dimension d stands for `lows[d] + steps[d] · u`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalarQuantizer {
    lows: Vec<f32>,
    steps: Vec<f32>,
}

impl ScalarQuantizer {
    /// Rows that ranges are taken from, as many as 8-bit codebooks are trained on.
    pub const SAMPLE_ROWS: usize = 1 << 16;

    /// Of the least and the greatest value that `rows` have in each dimension. Other rows are cut off at these.
    ///
    /// # Panics
    /// If there are no rows.
    pub fn train(rows: VectorView<'_>) -> Self {
        assert!(!rows.is_empty(), "ranges of no rows");
        let dim = rows.dim();
        let ranges = rows
            .as_slice()
            .par_chunks(dim * 1024)
            .map(|rows| {
                let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); dim];
                for row in rows.chunks_exact(dim) {
                    for ((low, high), &value) in ranges.iter_mut().zip(row) {
                        (*low, *high) = (low.min(value), high.max(value));
                    }
                }
                ranges
            })
            .reduce_with(|mut ranges, others| {
                for ((low, high), (its_low, its_high)) in ranges.iter_mut().zip(others) {
                    (*low, *high) = (low.min(its_low), high.max(its_high));
                }
                ranges
            })
            .expect("there are rows");
        // Divided first: the difference of values that f32 just holds might not be one.
        let step = |&(low, high): &(f32, f32)| (high / TOP - low / TOP).max(0.0);
        Self { steps: ranges.iter().map(step).collect(), lows: ranges.iter().map(|&(low, _)| low).collect() }
    }

    /// Of a low and a step for each dimension, all finite, no step below 0.
    pub fn from_ranges(lows: Vec<f32>, steps: Vec<f32>) -> Result<Self, TrainError> {
        let refused = |name, expected: &str, got: String| {
            Err(TrainError::Parameter { name, expected: expected.into(), got })
        };
        if lows.len() != steps.len() || lows.is_empty() {
            return refused(
                "steps",
                "one for each of the lows",
                format!("{} for {}", steps.len(), lows.len()),
            );
        }
        if let Some(low) = lows.iter().find(|low| !low.is_finite()) {
            return refused("lows", "finite values", low.to_string());
        }
        match steps.iter().find(|step| !step.is_finite() || **step < 0.0) {
            Some(step) => refused("steps", "finite values of 0 or more", step.to_string()),
            None => Ok(Self { lows, steps }),
        }
    }

    pub fn dim(&self) -> usize {
        self.lows.len()
    }

    pub fn lows(&self) -> &[f32] {
        &self.lows
    }

    pub fn steps(&self) -> &[f32] {
        &self.steps
    }

    /// The nearest level of each value.
    pub fn encode(&self, row: &[f32], code: &mut [u8]) {
        for (d, (byte, &value)) in code.iter_mut().zip(row).enumerate() {
            let (low, step) = (self.lows[d], self.steps[d]);
            // A conversion to an integer takes the rest: below 0 and what is no number become 0, beyond 255 is 255.
            *byte = ((value - low) / step + 0.5) as u8;
        }
    }

    /// What a code stands for.
    pub fn decode(&self, code: &[u8], row: &mut [f32]) {
        for (d, (value, &byte)) in row.iter_mut().zip(code).enumerate() {
            *value = self.lows[d] + self.steps[d] * f32::from(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Random, VectorBuf};

    #[test]
    fn values_come_back_to_half_a_step_and_beyond_the_range_at_its_end() {
        let mut random = Random::new(1);
        let rows = VectorBuf::new((0..3000 * 5).map(|_| 10.0 + random.normal() as f32).collect(), 5);
        let quantizer = ScalarQuantizer::train(rows.view());
        let (mut code, mut back) = ([0; 5], [0.0; 5]);
        for row in rows.view().iter() {
            quantizer.encode(row, &mut code);
            quantizer.decode(&code, &mut back);
            for (d, (value, back)) in row.iter().zip(back).enumerate() {
                assert!((value - back).abs() <= 0.501 * quantizer.steps()[d], "{value} became {back}");
            }
        }
        quantizer.encode(&[-1e30, 1e30, f32::MAX, f32::MIN, 10.0], &mut code);
        assert_eq!(code[..4], [0, 255, 255, 0]);
    }

    #[test]
    fn a_dimension_without_a_range_is_kept_as_it_is() {
        let rows = VectorBuf::new([3.0, 1.0, 3.0, 2.0].into(), 2);
        let quantizer = ScalarQuantizer::train(rows.view());
        assert_eq!(quantizer.steps()[0], 0.0);
        let (mut code, mut back) = ([9; 2], [0.0; 2]);
        quantizer.encode(&[3.0, 2.0], &mut code);
        quantizer.decode(&code, &mut back);
        assert_eq!((code[0], back), (0, [3.0, 2.0]));
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        assert!(ScalarQuantizer::from_ranges(vec![0.0], vec![1.0]).is_ok());
        for (lows, steps) in [
            (vec![], vec![]),
            (vec![0.0], vec![]),
            (vec![f32::NAN], vec![1.0]),
            (vec![0.0], vec![f32::INFINITY]),
            (vec![0.0], vec![-1.0]),
        ] {
            assert!(ScalarQuantizer::from_ranges(lows, steps).is_err());
        }
    }
}
