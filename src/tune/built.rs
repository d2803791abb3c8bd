//! The winner as a job of its own, and what came of it beside what was predicted.

use super::{Miss, TuneError, Tuning, alone};
use crate::artifact::checksums::CHECKSUMS_FILE;
use crate::artifact::columns::{ATTRIBUTES_FILE, IDS_FILE};
use crate::artifact::neighbors::NEIGHBORS_FILE;
use crate::artifact::queries::QUERIES_FILE;
use crate::error::Error;
use crate::job::{self, BuildSummary, Gate, IndexParams, IndexSpec, JobSpec, Outcome, Progress, Target};
use crate::store::IndexStore;

/// A number that was predicted and then measured.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Compared {
    /// `recall`, `p50_ms`, `p95_ms`, `qps`, `bytes_per_vector`, `published_bytes`, `build_seconds`.
    pub what: &'static str,
    pub predicted: f64,
    pub actual: f64,
    /// `actual` / `predicted` − 1; of recall `actual` − `predicted`.
    pub error: f64,
}

/// What the winner came to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Built {
    pub summary: BuildSummary,
    /// Empty where nothing was published.
    pub compared: Vec<Compared>,
    /// What the index that was published does not meet.
    pub misses: Vec<Miss>,
}

/// The job that builds the winner: the tuned job with one index, called `name`, with the gate that what was asked for sets.
///
/// # Errors
/// [`TuneError::Unmet`]
pub fn job_of(spec: &JobSpec, tuning: &Tuning, name: &str) -> Result<JobSpec, TuneError> {
    let won = tuning.won()?;
    let (k, recall) = (tuning.asked.k, tuning.asked.recall);
    let is_flat = matches!(won.params, IndexParams::Flat(_));
    let first = &spec.indexes[0];
    let index = IndexSpec {
        name: name.into(),
        params: won.params.clone(),
        metric: first.metric,
        partition_by: first.partition_by.clone(),
        gate: Some(Gate { k, min_recall: recall }),
        target: (!is_flat).then_some(Target { k, recall }),
    };
    Ok(alone(spec, index))
}

/// Runs the winner's job, as [`job::run`], and compares.
///
/// # Errors
/// As [`job::run`]; [`TuneError::Unmet`].
pub fn build(spec: &JobSpec, tuning: &Tuning, name: &str, progress: &Progress) -> Result<Built, Error> {
    let summary = job::run(&job_of(spec, tuning, name)?, progress)?;
    let bytes_per_vector = bytes_per_vector(spec, &summary)?;
    let compared = compare(tuning, &summary, bytes_per_vector);
    let limits = [("p95_ms", tuning.asked.p95_ms), ("bytes_per_vector", tuning.asked.bytes_per_vector)];
    let misses = limits.iter().filter_map(|&(what, limit)| {
        let asked = limit?;
        let actual = compared.iter().find(|compared| compared.what == what)?.actual;
        (actual > asked).then_some(Miss { what, asked, predicted: actual })
    });
    let misses = misses.collect();
    Ok(Built { summary, compared, misses })
}

impl Built {
    /// That what was published meets what was asked.
    ///
    /// # Errors
    /// [`TuneError::Mispredicted`]
    pub fn check(&self) -> Result<(), TuneError> {
        if self.misses.is_empty() {
            return Ok(());
        }
        let name = self.summary.indexes.first().map(|index| index.name.clone()).unwrap_or_default();
        let misses: Vec<String> = self.misses.iter().map(Miss::told).collect();
        Err(TuneError::Mispredicted { name, misses: misses.join(", ") })
    }
}

/// As published, but for ids, attributes and what only a change of the index reads; `None` where nothing was.
fn bytes_per_vector(spec: &JobSpec, summary: &BuildSummary) -> Result<Option<f64>, Error> {
    const BESIDE: [&str; 5] = [IDS_FILE, ATTRIBUTES_FILE, QUERIES_FILE, NEIGHBORS_FILE, CHECKSUMS_FILE];
    let Some(index) = summary.indexes.first() else { return Ok(None) };
    let Outcome::Published { version, .. } = index.outcome else { return Ok(None) };
    let store = IndexStore::named_with(spec.output.uri.resolved(), &index.name, &spec.store)?;
    let manifest = store.read_manifest(version)?;
    let files = manifest.segments.iter().flat_map(|segment| &segment.files);
    let bytes = files.filter(|file| !BESIDE.contains(&file.name.as_str())).map(|file| file.size_bytes);
    Ok(Some(bytes.sum::<u64>() as f64 / manifest.build.rows.max(1) as f64))
}

fn compare(tuning: &Tuning, summary: &BuildSummary, bytes_per_vector: Option<f64>) -> Vec<Compared> {
    let found = || {
        let index = summary.indexes.first()?;
        let prediction = tuning.won().ok()?.prediction.as_ref()?;
        let point = index.certificate.chosen_point()?;
        let Outcome::Published { size_bytes, .. } = index.outcome else { return None };
        let place = index.certificate.k.iter().position(|&k| k as usize == tuning.asked.k)?;
        let stage = summary.stages.iter().find(|stage| stage.name == format!("build {}", index.name));
        let mut pairs = vec![
            ("recall", prediction.recall, point.recall[place].mean),
            ("p50_ms", prediction.p50_ms, point.latency_us.p50 * 1e-3),
            ("p95_ms", prediction.p95_ms, point.latency_us.p95 * 1e-3),
            ("qps", prediction.qps, point.qps),
            ("bytes_per_vector", prediction.bytes_per_vector, bytes_per_vector?),
            ("published_bytes", prediction.published_bytes as f64, size_bytes as f64),
        ];
        pairs.extend(stage.map(|stage| ("build_seconds", prediction.build_seconds, stage.wall_ms * 1e-3)));
        Some(pairs)
    };
    let compared = |(what, predicted, actual): (&'static str, f64, f64)| {
        let error = if what == "recall" { actual - predicted } else { actual / predicted - 1.0 };
        Compared { what, predicted, actual, error }
    };
    found().unwrap_or_default().into_iter().map(compared).collect()
}
