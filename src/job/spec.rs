//! What a job file says, every default filled in. `pipelines/README.md` is the reference for users; each key's
//! default, range and hint stand here as well, beside its field, and `parse.rs` enforces them.

use serde::{Serialize, Serializer};

use super::encryption::EncryptionSpec;
use super::origin::Origin;
use super::uri::Uri;
use crate::hnsw::Code;
use crate::ivf::{Loss, Rotate, Spilling};
use crate::source::{ForeignOptions, Shard};
use crate::store::StoreOptions;
use crate::vectors::Metric;

/// A job, checked as far as one can without having seen the data. Made by [`JobSpec::from_path`] or
/// [`JobSpec::parse`] only.
#[derive(Debug, Clone, Serialize)]
pub struct JobSpec {
    /// The job's name, for its log and its manifests, and the front of the name of an index that has none.
    /// Default: the job file's stem.
    pub name: String,
    /// What every random choice follows from: the same job, data and seed give the same bytes. Default 42;
    /// 0 to 2^63 − 1.
    pub seed: u64,
    /// CPU threads. Default 0: all cores; at most 1,024. The result does not depend on it.
    pub threads: usize,
    /// Default `auto`.
    pub backend: Backend,
    /// Bytes that the whole job may take. Default: as much as it takes. At least 2^26. Changes nothing in the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<u64>,
    /// Bytes of a GPU's memory that the job may take, staging included. Default: what the driver gives. At least 2^16; of rows
    /// that do not fit a part at a time is there. Changes nothing in the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_budget: Option<u64>,
    /// The folder that stages leave what they made in, for a run that is killed to be gone on with, and that rows lie in which
    /// the budget has no room for. Default: `ANNVIL_SCRATCH`, else `annvil` in the system's folder for caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Uri>,
    /// Whether what a killed run has left is used, and left for the next. Default true.
    #[serde(skip_serializing_if = "is_true")]
    pub resume: bool,
    pub source: SourceSpec,
    pub queries: QueriesSpec,
    pub output: OutputSpec,
    /// How to reach the stores of the job's URIs. Default: as the environment says.
    #[serde(skip_serializing_if = "StoreOptions::is_default")]
    pub store: StoreOptions,
    /// What is published is encrypted. Default: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
    /// One to 64; all of one metric, under different names.
    #[serde(rename = "index")]
    pub indexes: Vec<IndexSpec>,
    #[serde(skip)]
    pub(super) origin: Origin,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_true(value: &bool) -> bool {
    *value
}

/// Where the heavy arithmetic runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A hardware GPU where there is one, else the CPU; falls back to the CPU when the GPU fails.
    #[default]
    Auto,
    /// A GPU or nothing.
    Gpu,
    Cpu,
    /// Plain loops, the definition of the other two: slow, for comparison.
    Reference,
}

impl Backend {
    pub const NAMES: &'static [&'static str] = &["auto", "gpu", "cpu", "reference"];

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Backend::Auto),
            "gpu" => Some(Backend::Gpu),
            "cpu" => Some(Backend::Cpu),
            "reference" => Some(Backend::Reference),
            _ => None,
        }
    }
}

/// The rows to index.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceSpec {
    /// Parquet files: a path, a URI or a glob (`*`, `?`, `[…]`), or a list of them; at least one.
    pub uri: Vec<Uri>,
    /// The column of embeddings. Required.
    pub vector: String,
    /// The column of row ids: int64, uint64, string or 16-byte UUID. Default: the row's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Columns kept beside each row. Default none.
    pub attributes: Vec<String>,
    /// An SQL predicate over columns; rows for which it is not true are left out. Default: all rows are kept.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Rows of one shard of so many, by a hash of their ids, as `"0/4"`. Default: all rows are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Default `fail`.
    pub on_bad_row: OnBadRow,
    /// `table`, `query`, `credential` and `embed`: for rows that are not in Parquet.
    #[serde(flatten)]
    pub foreign: ForeignOptions,
}

/// What becomes of a row that cannot be indexed: a null, NaN, infinite, wrong-length or (cosine) zero vector, a null
/// or duplicate id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// The job fails, naming file, row group and row.
    #[default]
    Fail,
    /// The row is left out, and stands in the rejects file with the reason.
    Skip,
}

/// What recall is measured with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum QueriesSpec {
    /// Vectors of their own: Parquet, as for the source.
    File {
        uri: Vec<Uri>,
        /// Default: the source's vector column.
        vector: String,
    },
    /// So many rows drawn from the source by the seed, and **held out**: they are not indexed.
    Sample { sample: usize },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputSpec {
    /// The folder that index folders are published in: a path or a URI. Required.
    pub uri: Uri,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexSpec {
    /// Folder name under the output: 1 to 128 of `A–Z a–z 0–9 . _ -`, the first a letter or digit.
    /// Default: `<job name>-<kind>`.
    pub name: String,
    #[serde(flatten)]
    pub params: IndexParams,
    /// Required.
    pub metric: Metric,
    /// One of the source's attributes, an integer, a string or a UUID: rows of one value are a partition, a tenant's for
    /// example, which is searched without touching the others' rows. No row may lack it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<String>,
    /// Default: none, any recall is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Default: recall 0.95 or the gate's, whichever is higher, at the gate's `k`, else 10. None for `flat`, which
    /// has nothing to choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// An index's parameters, by its `kind`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum IndexParams {
    Flat(FlatSpec),
    IvfPq(IvfPqSpec),
    Hnsw(HnswSpec),
}

impl IndexParams {
    pub fn kind(&self) -> &'static str {
        match self {
            IndexParams::Flat(_) => "flat",
            IndexParams::IvfPq(_) => "ivf_pq",
            IndexParams::Hnsw(_) => "hnsw",
        }
    }
}

/// Exact search: no parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FlatSpec {}

/// Inverted lists of codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IvfPqSpec {
    /// Inverted lists. Default `auto`: 4·√rows. 1 to 65,536, at most one per row; 1,000–10,000 rows per list is usual
    /// for large sets.
    pub nlist: Auto<usize>,
    /// What a row is kept as in its list. Default `pq`.
    #[serde(flatten)]
    pub code: CodeSpec,
    /// Default `f16`. With `flat` what rows are kept as: not `none`.
    pub refine: Refine,
    /// Default `none`. `soar` puts rows in a second list too, for twice the codes.
    pub spill: Spilling,
    /// Lloyd iterations for centroids and for codebooks, at most; 1 to 1,000. Default 10: more seldom pays.
    pub kmeans_iterations: usize,
}

/// What a row is kept as in its list, by `code`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum CodeSpec {
    /// The code of a product quantizer.
    Pq(PqSpec),
    /// RaBitQ's code: nothing is trained, and estimates are unbiased.
    Rabitq {
        /// Bits of a dimension, 1 to 8. Default 4.
        rabitq_bits: u32,
    },
    /// A byte a dimension.
    Sq8 {},
    /// The vector, in the precision of `refine`.
    Flat {},
}

impl CodeSpec {
    /// That of a product quantizer.
    pub fn pq(&self) -> Option<&PqSpec> {
        match self {
            CodeSpec::Pq(pq) => Some(pq),
            _ => None,
        }
    }
}

/// A product quantizer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PqSpec {
    /// Sub-vectors, one code each. Default `auto`: with 4 bits about 2 dimensions per sub-vector up to 128-d, 4 above; with 8 bits
    /// half as many. Must divide the dimension, or the dimension rounded up to a multiple of 4; more is more exact and larger. 1
    /// to 4,096.
    pub pq_m: Auto<usize>,
    /// Bits of a code, 4 or 8. Default 4, the faster by far; with 8, half the `pq_m` gives codes of the same size.
    pub pq_bits: u32,
    /// Default `none`. `opq` turns residuals by a learned rotation before they are cut into sub-vectors.
    pub rotation: Rotate,
    /// What codes are chosen by. Default `auto`: `score_aware` for cosine, else `squared`. `score_aware`, for cosine and inner
    /// product, weighs errors along a row more.
    pub loss: Loss,
}

/// What is kept of each vector to rank candidates by their exact distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refine {
    /// Nothing: distances are the codes' estimates.
    None,
    /// 2 bytes per dimension; rounding costs no measurable recall.
    #[default]
    F16,
    /// 4 bytes per dimension; distances are exact.
    F32,
}

/// A hierarchical graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HnswSpec {
    /// Links per row on the upper levels; the base level has 2·m. Default 16; 2 to 256 (with 1 an upper level is a
    /// chain and cannot be searched). 12–48 is usual, more for higher dimensions and recall.
    pub m: usize,
    /// How widely links are searched for when building. Default 200; 8 to 4,096. More is slower and links better.
    pub ef_construction: usize,
    /// What a search compares queries with on its way: the vectors (`f32`), or codes of 8 (`sq8`), 4 (`q4`, the default),
    /// 2 or 1 bits a dimension, so many times less to wait for. What is returned is ranked by the vectors either way.
    pub code: Code,
    /// For those who know the builder.
    pub expert: HnswExpert,
}

/// The partition builder's own knobs; `auto` follows from `m` and `ef_construction`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct HnswExpert {
    /// Most rows of a leaf. 32 to 4,096; 256–1,024 is usual.
    pub c_max: Auto<usize>,
    /// Leaders that a row joins at each depth of the partition, from the top; below the last, 1. One to 8 numbers,
    /// 1 to 64 each; `[10, 3]` is usual.
    pub fanout: Auto<Vec<usize>>,
    /// Nearest members of its leaf that a row is linked with. 1 to 31, below the smallest leaf; 2–4 is usual.
    pub leaf_k: Auto<usize>,
    /// Candidates that a row keeps while leaves are read. 2·m to 1,024; 64–128 is usual.
    pub l_max: Auto<usize>,
    /// The pruning rule's slack: 1.0, the default and sparsest, to 2.0.
    pub alpha: Auto<f64>,
    /// Bytes that the build may take beside its rows and the finished graph; beyond them it works through a scratch file.
    /// Default: what the job's `memory_budget` leaves. At least 2^20. Changes nothing in the index.
    #[serde(skip_serializing_if = "Auto::is_auto")]
    pub memory_budget: Auto<usize>,
}

/// A value that the job file gives, or that is chosen when the data is known. `"auto"` in the file, and when left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auto<T> {
    #[default]
    Auto,
    Given(T),
}

impl<T> Auto<T> {
    fn is_auto(&self) -> bool {
        matches!(self, Auto::Auto)
    }

    pub fn given(self) -> Option<T> {
        match self {
            Auto::Auto => None,
            Auto::Given(value) => Some(value),
        }
    }

    pub fn as_ref(&self) -> Auto<&T> {
        match self {
            Auto::Auto => Auto::Auto,
            Auto::Given(value) => Auto::Given(value),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Auto::Auto => serializer.serialize_str("auto"),
            Auto::Given(value) => value.serialize(serializer),
        }
    }
}

/// Nothing is published unless the index reaches this recall at its default setting.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gate {
    /// Default 10; 1 to 1,000.
    pub k: usize,
    /// Required; above 0, at most 1.
    pub min_recall: f64,
}

/// The cheapest search setting that reaches this recall becomes the index's default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Target {
    /// Default 10; 1 to 1,000.
    pub k: usize,
    /// Default 0.95; above 0, at most 1.
    pub recall: f64,
}

/// Values from the command line, set over the job file's by [`JobSpec::override_with`].
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub backend: Option<Backend>,
    pub threads: Option<u64>,
    pub seed: Option<u64>,
    pub output: Option<String>,
    pub memory_budget: Option<u64>,
    /// Relative to the current folder.
    pub scratch: Option<String>,
    /// This shard alone; the indexes' names end in `-<i>-of-<n>`.
    pub shard: Option<Shard>,
    /// Neither use what a killed run has left, nor leave anything.
    pub no_resume: bool,
}

impl JobSpec {
    /// The job with every default filled in, as manifests keep it. Parses back to the same job: see [`Self::to_toml`].
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self)
            .expect("a job is made of strings, numbers, lists and tables with string keys")
    }

    /// The same as a job file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a job is made of strings, numbers, lists and tables with string keys")
    }

    /// The attributes that indexes are partitioned by: no row may lack them.
    pub fn required_columns(&self) -> Vec<String> {
        let mut columns: Vec<String> =
            self.indexes.iter().filter_map(|index| index.partition_by.clone()).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The metric that all indexes of the job share.
    pub fn metric(&self) -> Metric {
        self.indexes[0].metric
    }
}
