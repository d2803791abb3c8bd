//! What a user chooses about an index of inverted lists.

use super::build::BuildError;
use super::rabitq::Rabitq;
use crate::index::Precision;
use crate::train::{PqShape, TrainError};
use crate::vectors::Metric;

/// What a row is kept as in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The product quantizer's code of its residual: `pq_m` sub-vectors of `pq_bits`.
    #[default]
    Pq,
    /// RaBitQ's: 1 to 8 bits a dimension, learned from nothing.
    Rabitq { bits: u32 },
    /// A byte a dimension.
    Sq8,
    /// As it is, in the precision of `refine`: distances are exact, of the lists that are probed.
    Flat,
}

impl Code {
    pub const NAMES: &'static [&'static str] = &["pq", "rabitq", "sq8", "flat"];
    pub const DEFAULT_RABITQ_BITS: u32 = 4;

    pub fn name(self) -> &'static str {
        match self {
            Code::Pq => "pq",
            Code::Rabitq { .. } => "rabitq",
            Code::Sq8 => "sq8",
            Code::Flat => "flat",
        }
    }
}

/// What is kept beside the codes to rank candidates again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refine {
    /// Nothing: distances are estimates, recall is what the codes give.
    None,
    /// 2 bytes per dimension, and recall as with `F32` for embeddings of moderate range.
    #[default]
    F16,
    /// 4 bytes per dimension: distances are those of the rows as given.
    F32,
}

impl Refine {
    pub const ALL: [Refine; 3] = [Refine::None, Refine::F16, Refine::F32];

    pub fn name(self) -> &'static str {
        match self {
            Refine::None => "none",
            Refine::F16 => "f16",
            Refine::F32 => "f32",
        }
    }

    pub fn precision(self) -> Option<Precision> {
        match self {
            Refine::None => None,
            Refine::F16 => Some(Precision::F16),
            Refine::F32 => Some(Precision::F32),
        }
    }
}

/// How residuals are turned before they are cut into sub-vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotate {
    #[default]
    None,
    /// By a learned rotation (optimized product quantization).
    Opq,
}

impl Rotate {
    pub fn name(self) -> &'static str {
        match self {
            Rotate::None => "none",
            Rotate::Opq => "opq",
        }
    }
}

/// Whether rows are in a second list too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spilling {
    #[default]
    None,
    /// In the one that makes up for the first (SOAR): codes take twice the bytes, and fewer lists are probed.
    Soar,
}

impl Spilling {
    pub fn name(self) -> &'static str {
        match self {
            Spilling::None => "none",
            Spilling::Soar => "soar",
        }
    }
}

/// What codes are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// `ScoreAware` for cosine, else `Squared`. With recall as it is, score-aware codes search glove100 faster by a tenth
    /// and minilm100k by a seventh, at recall .95; for inner products of rows of different lengths (MNIST) they gain nothing.
    #[default]
    Auto,
    /// The squared distance of row and code.
    Squared,
    /// The anisotropic loss of ScaNN: an error along the row counts more. For cosine and inner product.
    ScoreAware,
}

/// Parameters of a build. [`IvfPqParams::defaults_for`] gives those for a set of rows.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct IvfPqParams {
    /// Inverted lists, 1 to 65,536 and at most one per row. Default 4·√rows, but 39 rows per list or more.
    /// More lists make a probe shorter and training longer.
    pub nlist: usize,
    /// What a row is kept as. Default `pq`. What is said of sub-vectors, rotation and loss is for that alone.
    pub code: Code,
    /// Sub-vectors of a code: a divisor of the dimension, or of the dimension rounded up to a multiple of 4.
    /// Default: with 4 bits sub-vectors of about 2 dimensions up to 128-d, of 4 above; with 8 bits twice those. More
    /// cost bytes and scan time, and save candidates that must be ranked again. With 4 bits at most 4,096.
    pub pq_m: usize,
    /// Bits per sub-vector, 4 or 8. Default 4: tables stay in registers, and 32 codes are looked up at a time. With 8,
    /// take half the `pq_m`.
    pub pq_bits: usize,
    /// What is kept to rank candidates again. Default `f16`.
    pub refine: Refine,
    /// Default `none`. Wants two lists and codes.
    pub spill: Spilling,
    /// Passes of k-means at most, 1 to 1,000. Default 10.
    pub kmeans_iterations: usize,
    /// Default `none`.
    pub rotation: Rotate,
    /// Default `auto`.
    pub loss: Loss,
}

impl IvfPqParams {
    pub const MAX_NLIST: usize = 1 << 16;
    pub const DEFAULT_PQ_BITS: usize = 4;
    /// The allowed number of sub-vectors nearest to what suits `pq_bits`, the larger of two.
    pub fn default_pq_m(dim: usize, pq_bits: usize) -> usize {
        let bits_per_dimension = if dim <= 128 { 2 } else { 1 };
        let wanted = (dim * bits_per_dimension).div_ceil(pq_bits.max(1));
        let allowed = PqShape::allowed_pq_m(dim).into_iter().rev();
        let fits = |&pq_m: &usize| pq_bits != 4 || pq_m <= MAX_NIBBLES;
        allowed.filter(fits).min_by_key(|&pq_m| pq_m.abs_diff(wanted)).unwrap_or(1)
    }

    pub fn defaults_for(rows: usize, dim: usize) -> Self {
        let nlist = (4.0 * (rows as f64).sqrt()).round() as usize;
        Self {
            nlist: nlist.min(rows / 39).clamp(1, Self::MAX_NLIST),
            code: Code::default(),
            pq_m: Self::default_pq_m(dim, Self::DEFAULT_PQ_BITS),
            pq_bits: Self::DEFAULT_PQ_BITS,
            refine: Refine::default(),
            spill: Spilling::default(),
            kmeans_iterations: 10,
            rotation: Rotate::default(),
            loss: Loss::default(),
        }
    }

    /// Checks everything that can be known before a row is read but their number; with `rows`, that too.
    pub fn check(&self, dim: usize, rows: Option<usize>) -> Result<(), BuildError> {
        let highest = rows.unwrap_or(usize::MAX).min(Self::MAX_NLIST);
        if !(1..=highest).contains(&self.nlist) {
            let of_rows = rows.map_or(String::new(), |rows| format!(" for {rows} rows"));
            let expected = format!("1 to {highest}{of_rows}");
            return Err(TrainError::Parameter { name: "nlist", expected, got: self.nlist.to_string() }.into());
        }
        if !(1..=1000).contains(&self.kmeans_iterations) {
            let (expected, got) = ("1 to 1000".into(), self.kmeans_iterations.to_string());
            return Err(TrainError::Parameter { name: "kmeans_iterations", expected, got }.into());
        }
        match self.code {
            Code::Pq => check_nibbles(&self.shape(dim)?)?,
            Code::Rabitq { bits } => Rabitq::check(dim, bits as usize)?,
            Code::Sq8 => {}
            Code::Flat if self.refine == Refine::None => {
                let (expected, got) = ("f16 or f32 with code flat".into(), "none".into());
                return Err(TrainError::Parameter { name: "refine", expected, got }.into());
            }
            Code::Flat => {}
        }
        if self.spill == Spilling::Soar {
            let refused = |expected: &str, got: String| {
                Err(TrainError::Parameter { name: "spill", expected: expected.into(), got }.into())
            };
            if self.code == Code::Flat {
                return refused("none with code flat", self.spill.name().into());
            }
            if self.nlist < 2 {
                return refused("none with one list", self.spill.name().into());
            }
            if let Some(rows) = rows {
                check_spilled_rows(rows)?;
            }
        }
        Ok(())
    }

    /// The shape of a product quantizer's codes.
    pub fn shape(&self, dim: usize) -> Result<PqShape, TrainError> {
        PqShape::new(dim, self.pq_m, self.pq_bits)
    }

    /// Bytes of a row in its list, as it is encoded: without what rounds lists up to whole blocks, and without vectors. Of
    /// parameters that `check` refuses, 0.
    pub fn code_bytes(&self, dim: usize, metric: Metric) -> usize {
        match self.code {
            Code::Pq => self.shape(dim).map_or(0, |shape| shape.code_size()),
            Code::Rabitq { bits } => Rabitq { dim, bits: bits as usize }.blocks(metric).row_bytes(),
            Code::Sq8 => dim,
            Code::Flat => 0,
        }
    }
}

/// Rows in two lists each are numbered by u32 twice.
pub(super) const MAX_SPILLED: usize = u32::MAX as usize / 2;

/// That so many rows may lie in second lists, too.
pub(super) fn check_spilled_rows(rows: usize) -> Result<(), TrainError> {
    if rows > MAX_SPILLED {
        let expected = "none with so many rows".into();
        return Err(TrainError::Parameter { name: "spill", expected, got: format!("soar for {rows} rows") });
    }
    Ok(())
}

/// 4-bit codes are summed in 16 bits: with more tables than this an entry would be left fewer than 16 steps.
pub(super) const MAX_NIBBLES: usize = 4096;

/// Whether as many 4-bit codes can be summed.
pub(super) fn check_nibbles(shape: &PqShape) -> Result<(), TrainError> {
    if shape.pq_bits == 4 && shape.pq_m > MAX_NIBBLES {
        let expected = format!("at most {MAX_NIBBLES} with 4 bits");
        return Err(TrainError::Parameter { name: "pq_m", expected, got: shape.pq_m.to_string() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_always_allowed() {
        for rows in [1, 2, 38, 39, 40, 1000, 10_000, 336_479, 10_000_000, 2_000_000_000] {
            for dim in [1, 2, 3, 5, 7, 50, 96, 100, 101, 127, 128, 384, 768, 1009, 1536] {
                let params = IvfPqParams::defaults_for(rows, dim);
                params.check(dim, Some(rows)).unwrap();
                let shape = params.shape(dim).unwrap();
                assert!(shape.dsub <= 16 || dim < 16, "{dim}-d: sub-vectors of {}", shape.dsub);
            }
        }
        let glove = IvfPqParams::defaults_for(336_479, 100);
        assert_eq!((glove.nlist, glove.pq_m, glove.pq_bits), (2320, 50, 4));
        assert_eq!(IvfPqParams::defaults_for(10_000, 384).pq_m, 96);
        assert_eq!(IvfPqParams::default_pq_m(100, 8), 25);
        assert_eq!(IvfPqParams::default_pq_m(384, 8), 48);
    }

    #[test]
    fn impossible_values_are_named_with_what_is_allowed() {
        let good = IvfPqParams::defaults_for(1000, 16);
        let error = |params: IvfPqParams| params.check(16, Some(1000)).unwrap_err().to_string();
        let nlist = error(IvfPqParams { nlist: 1001, ..good.clone() });
        assert!(nlist.contains("`nlist`: expected 1 to 1000 for 1000 rows, got 1001"), "{nlist}");
        assert!(error(IvfPqParams { nlist: 0, ..good.clone() }).contains("`nlist`"));
        assert!(error(IvfPqParams { pq_m: 3, ..good.clone() }).contains("one of 1, 2, 4, 8, 16"));
        assert!(error(IvfPqParams { pq_bits: 6, ..good.clone() }).contains("`pq_bits`: expected 8 or 4"));
        let many = IvfPqParams { pq_m: 8192, pq_bits: 4, ..good.clone() }.check(8192, None).unwrap_err();
        assert!(many.to_string().contains("`pq_m`: expected at most 4096 with 4 bits, got 8192"), "{many}");
        assert!(error(IvfPqParams { kmeans_iterations: 0, ..good.clone() }).contains("`kmeans_iterations`"));
        assert!(IvfPqParams { nlist: 65_537, ..good }.check(16, None).is_err());
    }
}
