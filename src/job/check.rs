//! What can only be judged beside the data, once its schema and row counts are known and before any row is read.

use arrow_schema::Schema;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::parse::{MAX_PQ_M, SpecError};
use super::spec::{Auto, IndexParams, IvfPqSpec, JobSpec, QueriesSpec};
use crate::artifact::partitions;

/// Beyond this many divisors a message names the closest only.
const DIVISORS_NAMED: usize = 12;

/// What the source's metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFacts {
    /// The vectors' dimension, where the column's type says it (a list column's does not).
    pub dim: Option<usize>,
    /// Rows in all files: `where` and bad rows may leave fewer.
    pub rows_upper_bound: u64,
}

impl JobSpec {
    /// Whether the job can be done with this data: what cannot is an error that names the key and its line; what is
    /// merely unwise comes back as warnings. Call it again with the rows that were kept.
    pub fn check_against(&self, facts: &SourceFacts) -> Result<Vec<Diagnostic>, SpecError> {
        // The source says better than "nlist > 0 rows" that it is empty.
        if facts.rows_upper_bound == 0 {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut rows = facts.rows_upper_bound;
        if let QueriesSpec::Sample { sample } = self.queries {
            if sample as u64 >= rows {
                let message =
                    format!("found {sample}; allowed: fewer than the source's rows, at most {}", rows - 1);
                found.push(self.error("queries.sample", message));
            }
            rows = rows.saturating_sub(sample as u64).max(1);
        }
        for (position, index) in self.indexes.iter().enumerate() {
            let key = |key: &str| format!("index[{position}].{key}");
            let gate_k = index.gate.map(|gate| ("gate.k", gate.k));
            let target_k = index.target.map(|target| ("target.k", target.k));
            for (name, k) in gate_k.into_iter().chain(target_k) {
                if k as u64 > rows {
                    let message = format!("found {k}; allowed: 1 to the {rows} rows to index");
                    found.push(self.error(&key(name), message));
                }
            }
            if let IndexParams::IvfPq(params) = &index.params {
                self.check_ivf_pq(params, &key, rows, facts.dim, &mut found);
            }
        }
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|problem| problem.severity == super::Severity::Error);
        if errors.is_empty() { Ok(warnings) } else { Err(SpecError::Invalid(Diagnostics(errors))) }
    }

    /// That what indexes are partitioned by can tell rows apart; `attributes` are the source's.
    pub(super) fn check_partitions(&self, attributes: &Schema) -> Result<(), SpecError> {
        let mut found = Vec::new();
        for (position, index) in self.indexes.iter().enumerate() {
            let column = index.partition_by.as_deref();
            let field = column.and_then(|column| attributes.field_with_name(column).ok());
            if let Some(field) = field.filter(|field| !partitions::is_key_type(field.data_type())) {
                let message = format!(
                    "found `{}` of type {}; allowed: an attribute of integers, strings or UUIDs",
                    field.name(),
                    field.data_type()
                );
                found.push(self.error(&format!("index[{position}].partition_by"), message));
            }
        }
        if found.is_empty() { Ok(()) } else { Err(SpecError::Invalid(Diagnostics(found))) }
    }

    fn error(&self, key: &str, message: String) -> Diagnostic {
        Diagnostic::error(key, self.origin.place(key), message)
    }

    fn check_ivf_pq(
        &self,
        params: &IvfPqSpec,
        key: &dyn Fn(&str) -> String,
        rows: u64,
        dim: Option<usize>,
        found: &mut Vec<Diagnostic>,
    ) {
        if let Auto::Given(nlist) = params.nlist
            && nlist as u64 > rows
        {
            let message = format!("found {nlist}; allowed: 1 to the {rows} rows to index");
            let help = "leave it out for 4·√rows".to_string();
            found.push(self.error(&key("nlist"), message).help(help));
        }
        let Some(pq) = params.code.pq() else { return };
        let ksub = 1u64 << pq.pq_bits;
        if rows < ksub {
            let message = format!("{ksub} codes per sub-vector are trained on {rows} rows");
            let help = "kind `flat` is exact and smaller for so few rows".to_string();
            found.push(self.error(&key("pq_bits"), message).help(help).warning());
        }
        if let (Auto::Given(pq_m), Some(dim)) = (pq.pq_m, dim) {
            if pq_m > dim && dim > 0 {
                let message =
                    format!("found {pq_m}, more than the dimension {dim}; allowed: {}", divisors(dim, pq_m));
                found.push(self.error(&key("pq_m"), message));
            } else if dim > 0 && !fits(dim, pq_m) {
                let message = format!(
                    "found {pq_m}, which divides neither the dimension {dim} nor {dim} rounded up to a multiple of \
                     4; allowed: {}",
                    divisors(dim, pq_m)
                );
                found.push(self.error(&key("pq_m"), message));
            }
        }
    }
}

/// Whether vectors, or vectors padded with zeros to a multiple of 4, can be cut into `pq_m` equal pieces.
fn fits(dim: usize, pq_m: usize) -> bool {
    dim.is_multiple_of(pq_m) || dim.next_multiple_of(4).is_multiple_of(pq_m)
}

/// The sub-vector counts that fit `dim`, all of them or those around `near`.
fn divisors(dim: usize, near: usize) -> String {
    let mut allowed: Vec<usize> = (1..=dim.min(MAX_PQ_M)).filter(|&pq_m| fits(dim, pq_m)).collect();
    if allowed.len() > DIVISORS_NAMED {
        let middle = allowed.partition_point(|&pq_m| pq_m < near);
        let first = middle.saturating_sub(DIVISORS_NAMED / 2).min(allowed.len() - DIVISORS_NAMED);
        allowed = allowed[first..first + DIVISORS_NAMED].to_vec();
    }
    allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
