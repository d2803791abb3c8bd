//! What a user sets, and what the partition build makes of it.

use serde::{Deserialize, Serialize};

use super::codes::Code;
use crate::train::TrainError;

/// Parameters of a build. [`HnswParams::new`] derives those of the partition from the two that every HNSW has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HnswParams {
    /// Links per row on the upper levels; the base level has 2·m. 2 to 256.
    pub m: usize,
    /// Most rows in a leaf, 2 to 65,536. Default 512: larger leaves find more neighbours at once and cost their
    /// square.
    pub c_max: usize,
    /// Leaders that a row joins at each depth of the partition, from the top, 1 to 64 each and their product at most
    /// 256, the places that a row can take in all; below the last, 1.
    pub fanout: Vec<usize>,
    /// Nearest members of its leaf that a row is linked with, both ways, on the base layer; above it, at least `m`.
    /// 1 to 64.
    pub leaf_k: usize,
    /// Candidates that a row keeps while leaves are read, 2·m to 4,096.
    pub l_max: usize,
    /// The pruning rule's slack, 1.0 to 100.0. Default 1.0: with links given back both ways, larger values measured
    /// the same recall for more distances.
    pub alpha: f32,
    /// What a walk compares queries with.
    pub code: Code,
}

impl HnswParams {
    /// The partition that stands for `ef_construction`, the effort of an incremental build:
    ///
    /// | `ef_construction` | fanout | leaf_k at m = 16 |
    /// |---|---|---|
    /// | to 64 | 4, 2 | 2 |
    /// | to 128 | 6, 2 | 3 |
    /// | to 256 | 8, 2 | 3 |
    /// | to 512 | 10, 3 | 4 |
    /// | above | 12, 4 | 6 |
    ///
    /// `leaf_k` and `l_max` grow with `m`, so that a row has half again as many candidates as links to fill.
    pub fn new(m: usize, ef_construction: usize) -> Self {
        let (fanout, leaf_k) = match ef_construction {
            ..=64 => ([4, 2], 2),
            65..=128 => ([6, 2], 3),
            129..=256 => ([8, 2], 3),
            257..=512 => ([10, 3], 4),
            _ => ([12, 4], 6),
        };
        Self {
            m,
            c_max: 512,
            fanout: fanout.to_vec(),
            leaf_k: (leaf_k * m).div_ceil(16).clamp(2, 64),
            l_max: 3 * m,
            alpha: 1.0,
            code: Code::default(),
        }
    }

    /// Refuses what no graph can be built with.
    pub fn check(&self) -> Result<(), TrainError> {
        let within = |name, value: usize, allowed: std::ops::RangeInclusive<usize>| {
            if allowed.contains(&value) {
                return Ok(());
            }
            let expected = format!("{} to {}", allowed.start(), allowed.end());
            Err(TrainError::Parameter { name, expected, got: value.to_string() })
        };
        within("m", self.m, 2..=256)?;
        within("c_max", self.c_max, 2..=1 << 16)?;
        self.fanout.iter().try_for_each(|&fanout| within("fanout", fanout, 1..=64))?;
        if self.fanout.iter().fold(1, |places: usize, &fanout| places.saturating_mul(fanout)) > 256 {
            let (expected, got) =
                ("numbers whose product is at most 256".into(), format!("{:?}", self.fanout));
            return Err(TrainError::Parameter { name: "fanout", expected, got });
        }
        within("leaf_k", self.leaf_k, 1..=64)?;
        within("l_max", self.l_max, 2 * self.m..=4096)?;
        if !(1.0..=100.0).contains(&self.alpha) {
            let (expected, got) = ("1 to 100".into(), self.alpha.to_string());
            return Err(TrainError::Parameter { name: "alpha", expected, got });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_every_effort_is_allowed() {
        for m in [2, 3, 16, 100, 256] {
            for ef_construction in [0, 8, 64, 65, 128, 200, 256, 400, 512, 513, 4096, usize::MAX] {
                assert!(HnswParams::new(m, ef_construction).check().is_ok(), "{m} {ef_construction}");
            }
        }
    }

    #[test]
    fn impossible_values_are_named_with_what_is_allowed() {
        let good = HnswParams::new(16, 200);
        for (params, expected) in [
            (HnswParams { m: 1, ..good.clone() }, "`m`: expected 2 to 256, got 1"),
            (HnswParams { m: 257, ..good.clone() }, "`m`"),
            (HnswParams { c_max: 1, ..good.clone() }, "`c_max`: expected 2 to 65536, got 1"),
            (HnswParams { fanout: vec![8, 0], ..good.clone() }, "`fanout`: expected 1 to 64, got 0"),
            (HnswParams { fanout: vec![64, 5], ..good.clone() }, "product is at most 256, got [64, 5]"),
            (HnswParams { leaf_k: 0, ..good.clone() }, "`leaf_k`: expected 1 to 64, got 0"),
            (HnswParams { l_max: 31, ..good.clone() }, "`l_max`: expected 32 to 4096, got 31"),
            (HnswParams { l_max: 60_000, ..good.clone() }, "`l_max`"),
            (HnswParams { alpha: 0.99, ..good.clone() }, "`alpha`: expected 1 to 100, got 0.99"),
            (HnswParams { alpha: f32::NAN, ..good.clone() }, "`alpha`: expected 1 to 100, got NaN"),
        ] {
            let error = params.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
