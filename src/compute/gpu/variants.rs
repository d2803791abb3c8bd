//! Which arithmetic the products of `top_k` and `assign_coarse` are made of: f32 everywhere, or halves where the adapter has
//! them. Halves only rank. What `top_k` returns is computed again in f64, and a query whose candidates the rounding of
//! halves might have kept out is searched again in f32: so no variant changes an answer, but on ties. `assign_coarse`
//! promises a sum, and is held to it by a sample.

use rayon::prelude::*;

use super::super::{ComputeError, Result, rounding_error};
use super::kernels::{KMEANS_ASSIGN, KMEANS_ASSIGN_HALF, KMEANS_ASSIGN_MATRIX, Kernel};
use super::kernels::{TOP_K, TOP_K_HALF, TOP_K_MATRIX};
use crate::vectors::{Metric, VectorView};

/// What a product is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// f32.
    Plain,
    /// f16 operands in workgroup memory, f32 arithmetic.
    Half,
    /// f16 operands, f32 sums, by cooperative matrices of 16 × 16.
    Matrix,
}

impl Variant {
    pub const ALL: [Variant; 3] = [Variant::Plain, Variant::Half, Variant::Matrix];

    pub fn name(self) -> &'static str {
        match self {
            Variant::Plain => "f32",
            Variant::Half => "f16",
            Variant::Matrix => "f16 matrices",
        }
    }

    /// What the adapter has of it.
    pub(super) fn features(self) -> wgpu::Features {
        use wgpu::Features as F;
        match self {
            Variant::Plain => F::empty(),
            Variant::Half => F::SHADER_F16,
            Variant::Matrix => F::SHADER_F16 | F::EXPERIMENTAL_COOPERATIVE_MATRIX,
        }
    }

    /// Whether `adapter` runs it.
    pub(super) fn is_offered(self, adapter: &wgpu::Adapter) -> bool {
        adapter.features().contains(self.features())
            && (self != Variant::Matrix || multiplies_halves(adapter))
    }

    /// The best that `adapter` offers for tiles of `lanes`; what was asked for, if it does.
    pub(super) fn choose(asked: Option<Variant>, adapter: &wgpu::Adapter, lanes: u32) -> Result<Self> {
        let is_offered =
            |variant: Variant| variant.is_offered(adapter) && (variant != Variant::Matrix || lanes == 16);
        if let Some(asked) = asked {
            return if is_offered(asked) {
                Ok(asked)
            } else {
                let name = adapter.get_info().name;
                Err(ComputeError::NoAdapter(format!("{name} has no products of {}", asked.name())))
            };
        }
        // A CPU has no halves: it converts them.
        let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
        let offered = Variant::ALL.into_iter().rev().find(|&variant| is_offered(variant));
        Ok(offered.filter(|_| !software).unwrap_or(Variant::Plain))
    }

    pub(super) fn top_k(self) -> &'static Kernel {
        match self {
            Variant::Plain => &TOP_K,
            Variant::Half => &TOP_K_HALF,
            Variant::Matrix => &TOP_K_MATRIX,
        }
    }

    pub(super) fn kmeans_assign(self) -> &'static Kernel {
        match self {
            Variant::Plain => &KMEANS_ASSIGN,
            Variant::Half => &KMEANS_ASSIGN_HALF,
            Variant::Matrix => &KMEANS_ASSIGN_MATRIX,
        }
    }
}

/// 16 × 16 × 16 of f16 with sums of f32, by subgroups of 32 threads: what `product_matrix.wgsl` is written for.
fn multiplies_halves(adapter: &wgpu::Adapter) -> bool {
    use wgpu::CooperativeScalarType as Scalar;
    let info = adapter.get_info();
    let is_ours = |matrix: &wgpu::CooperativeMatrixProperties| {
        (matrix.m_size, matrix.n_size, matrix.k_size) == (16, 16, 16)
            && (matrix.ab_type, matrix.cr_type) == (Scalar::F16, Scalar::F32)
    };
    (info.subgroup_min_size, info.subgroup_max_size) == (32, 32)
        && adapter.cooperative_matrix_properties().iter().any(is_ours)
}

/// How large some rows' values are, and the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    /// The greatest magnitude of a value.
    pub greatest: f32,
    /// The longest row's norm.
    pub longest: f64,
}

impl Extent {
    pub fn of(rows: VectorView<'_>) -> Self {
        let of_row = |row: &[f32]| {
            let greatest = row.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
            Self { greatest, longest: norm(row) }
        };
        let join = |a: Self, b: Self| Self {
            greatest: a.greatest.max(b.greatest),
            longest: a.longest.max(b.longest),
        };
        let none = || Self { greatest: 0.0, longest: 0.0 };
        rows.as_slice().par_chunks_exact(rows.dim()).map(of_row).reduce(none, join)
    }

    /// The power of two that brings the greatest value to 2¹⁴..2¹⁵: half of what f16 holds, 2²⁸ above where its precision
    /// ends. None where that is no f32.
    pub fn scale(self) -> Option<f32> {
        if self.greatest == 0.0 {
            return Some(1.0);
        }
        let exponent = 14 - (f64::from(self.greatest).log2().floor() as i32);
        (-126..=126).contains(&exponent).then(|| 2f32.powi(exponent))
    }
}

pub(super) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// What a kernel's parameters make of products: operands times their scales, a product times `weight`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scales {
    pub a: f32,
    pub b: f32,
    pub weight: f32,
}

impl Scales {
    pub fn plain(metric: Metric) -> Self {
        Self { a: 1.0, b: 1.0, weight: dot_weight(metric) }
    }

    /// None where values are too large or too small to be brought to f16's range.
    pub fn halves(metric: Metric, a: Extent, b: Extent) -> Option<Self> {
        let (a, b) = (a.scale()?, b.scale()?);
        let weight = dot_weight(metric) / a / b;
        (weight.is_normal()).then_some(Self { a, b, weight })
    }
}

/// As in `metric.wgsl`.
fn dot_weight(metric: Metric) -> f32 {
    if metric == Metric::L2 { 2.0 } else { 1.0 }
}

/// What products rank by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ranking {
    pub variant: Variant,
    pub scales: Scales,
}

impl Ranking {
    pub fn plain(metric: Metric) -> Self {
        Self { variant: Variant::Plain, scales: Scales::plain(metric) }
    }
}

/// How far the score of halves may be from the exact one, for a query of norm `query` and rows of norms up to `longest`: each
/// operand is off by 2⁻¹¹ of itself, or, below f16's normal numbers, by less than 2⁻³⁹ of the greatest; sums are of f32.
pub(super) fn score_error(metric: Metric, dim: usize, query: f64, longest: f64) -> f64 {
    let of_operands = query * longest * (2f64.powi(-10) + 2f64.powi(-20));
    f64::from(dot_weight(metric)) * of_operands + rounding_error(metric, dim, query, longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;
    use half::f16;

    #[test]
    fn scales_bring_values_to_the_upper_half_of_f16() {
        for greatest in [1.0f32, 0.999, 1e-30, 3e30, 65504.0] {
            let extent = Extent { greatest, longest: 0.0 };
            let scaled = extent.scale().unwrap() * greatest;
            assert!((16384.0..32768.0).contains(&scaled), "{greatest}: {scaled}");
        }
        assert_eq!(Extent { greatest: 0.0, longest: 0.0 }.scale(), Some(1.0));
        assert_eq!(Extent { greatest: f32::INFINITY, longest: 0.0 }.scale(), None);
        // A product of such rows is beyond f32, and so is what would take their scales back.
        let huge = Extent { greatest: 1e38, longest: 0.0 };
        assert!(huge.scale().is_some());
        assert_eq!(Scales::halves(Metric::L2, huge, huge), None);
    }

    #[test]
    fn scores_of_halves_are_within_their_bound() {
        for (dim, spread) in [(1, 1.0f32), (17, 1e-3), (100, 1.0), (768, 1e4)] {
            let mut random = Random::new(dim as u64);
            let mut row = || -> Vec<f32> {
                (0..dim).map(|d| spread * 2f32.powi(-(d as i32 % 30)) * random.normal() as f32).collect()
            };
            for _ in 0..200 {
                let (a, b) = (row(), row());
                let of = |row: &[f32]| Extent::of(VectorView::new(row, dim));
                for metric in [Metric::L2, Metric::InnerProduct] {
                    let scales = Scales::halves(metric, of(&a), of(&b)).unwrap();
                    let halves = |value: f32, scale: f32| f16::from_f32(value * scale).to_f32();
                    let product: f32 =
                        a.iter().zip(&b).map(|(&a, &b)| halves(a, scales.a) * halves(b, scales.b)).sum();
                    let bias: f32 = if metric == Metric::L2 { b.iter().map(|b| b * b).sum() } else { 0.0 };
                    let score = f64::from(bias - scales.weight * product);
                    let exact = match metric {
                        Metric::L2 => metric.distance(&a, &b) - norm(&a).powi(2),
                        _ => metric.distance(&a, &b),
                    };
                    let allowed = score_error(metric, dim, norm(&a), norm(&b));
                    assert!(
                        (score - exact).abs() <= allowed,
                        "{dim}-d: {score}, exactly {exact}, ± {allowed}"
                    );
                }
            }
        }
    }
}
