use serde::{Deserialize, Serialize};

/// How two vectors are compared. A distance is always "smaller is nearer".
///
/// | metric | distance | similarity |
/// |---|---|---|
/// | `l2` | Σ (a−b)², the squared Euclidean distance | – |
/// | `inner_product` | −⟨a, b⟩ | ⟨a, b⟩ |
/// | `cosine` | 1 − ⟨a, b⟩ of the normalised vectors | ⟨a, b⟩ |
/// | `l1` | Σ \|a−b\| | – |
/// | `hamming` | how many dimensions differ, whatever their values: 0 and 1, ±1, labels | – |
///
/// `l1` and `hamming` are [`EXACT_ONLY`](Self::EXACT_ONLY): only flat indexes take them.
///
/// For `cosine`, rows are normalised once, when they are read, and queries when they arrive: every module
/// below `source` and `loader` may rely on unit vectors and never normalises again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    L2,
    InnerProduct,
    Cosine,
    L1,
    Hamming,
}

impl Metric {
    /// Those that products compute, which every kind of index takes.
    pub const ALL: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

    /// Those that compare row by row alone.
    pub const EXACT_ONLY: [Metric; 2] = [Metric::L1, Metric::Hamming];

    pub fn name(self) -> &'static str {
        match self {
            Metric::L2 => "l2",
            Metric::InnerProduct => "inner_product",
            Metric::Cosine => "cosine",
            Metric::L1 => "l1",
            Metric::Hamming => "hamming",
        }
    }

    pub fn is_exact_only(self) -> bool {
        Self::EXACT_ONLY.contains(&self)
    }

    /// For whoever computes by products, and was promised another metric.
    ///
    /// # Panics
    /// Always.
    #[cold]
    pub fn without_products(self) -> ! {
        panic!("{self} is no function of products: a flat index compares by it, and nothing else")
    }

    /// The distance that belongs to an inner product. Not for L2, which is no function of it alone.
    #[inline]
    pub fn distance_of_dot(self, dot: f32) -> f32 {
        match self {
            Metric::Cosine => 1.0 - dot,
            Metric::InnerProduct => -dot,
            Metric::L2 => unreachable!("an L2 distance is no function of the inner product alone"),
            Metric::L1 | Metric::Hamming => self.without_products(),
        }
    }

    /// The similarity that users of this metric expect beside a distance, if there is one.
    pub fn similarity(self, distance: f32) -> Option<f32> {
        match self {
            Metric::L2 | Metric::L1 | Metric::Hamming => None,
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
            Metric::L1 => pairs.map(|(x, y)| (x - y).abs()).sum(),
            Metric::Hamming => pairs.filter(|(x, y)| x != y).count() as f64,
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
        let mut all = Metric::ALL.into_iter().chain(Metric::EXACT_ONLY);
        all.find(|metric| metric.name() == name)
            .ok_or_else(|| format!("expected l2, inner_product, cosine, l1 or hamming, got `{name}`"))
    }
}

/// A metric that products compute, read from where any could stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfProducts(pub Metric);

impl std::str::FromStr for OfProducts {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.parse()? {
            metric @ (Metric::L1 | Metric::Hamming) => Err(format!(
                "expected l2, inner_product or cosine, got `{metric}`, which is for flat indexes"
            )),
            metric => Ok(Self(metric)),
        }
    }
}
