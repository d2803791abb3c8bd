use serde::{Deserialize, Serialize};

/// How two vectors are compared. A distance is always "smaller is nearer".
///
/// | metric | distance | similarity |
/// |---|---|---|
/// | `l2` | Σ (a−b)², the squared Euclidean distance | – |
/// | `inner_product` | −⟨a, b⟩ | ⟨a, b⟩ |
/// | `cosine` | 1 − ⟨a, b⟩ of the normalised vectors | ⟨a, b⟩ |
///
/// For `cosine`, rows are normalised once, when they are read, and queries when they arrive: every module
/// below `source` and `loader` may rely on unit vectors and never normalises again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    L2,
    InnerProduct,
    Cosine,
}

impl Metric {
    pub const ALL: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

    pub fn name(self) -> &'static str {
        match self {
            Metric::L2 => "l2",
            Metric::InnerProduct => "inner_product",
            Metric::Cosine => "cosine",
        }
    }

    /// The distance that belongs to an inner product. Not for L2, which is no function of it alone.
    #[inline]
    pub fn distance_of_dot(self, dot: f32) -> f32 {
        match self {
            Metric::Cosine => 1.0 - dot,
            Metric::InnerProduct => -dot,
            Metric::L2 => unreachable!("an L2 distance is no function of the inner product alone"),
        }
    }

    /// The similarity that users of this metric expect beside a distance, if there is one.
    pub fn similarity(self, distance: f32) -> Option<f32> {
        match self {
            Metric::L2 => None,
            Metric::InnerProduct => Some(-distance),
            Metric::Cosine => Some(1.0 - distance),
        }
    }

    /// The definition: one pair, in f64, summed from the first dimension to the last.
    /// Every fast kernel is compared with this.
    pub fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        debug_assert_eq!(a.len(), b.len());
        let pairs = a.iter().zip(b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        match self {
            Metric::L2 => pairs.map(|(x, y)| (x - y) * (x - y)).sum(),
            Metric::InnerProduct => -pairs.map(|(x, y)| x * y).sum::<f64>(),
            Metric::Cosine => 1.0 - pairs.map(|(x, y)| x * y).sum::<f64>(),
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Metric::ALL
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| format!("expected l2, inner_product or cosine, got `{name}`"))
    }
}
