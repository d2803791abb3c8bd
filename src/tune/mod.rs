//! Chooses an index for a job: which kind and parameters reach a recall within a latency and a size, found by trying them on
//! samples of the job's own rows.
//!
//! ```text
//! job ─ draw ─► rows and queries ─► try all on n/16 ─ the better half ─► n/4 ─ the better half ─► n ─► predict ─► job::run
//!                                     └──── each built, searched and measured as a job would ────┘        the winner
//! ```
//!
//! The samples are drawn by the job's seed and nested: the smaller is the beginning of the larger (successive halving; Jamieson and
//! Talwalkar, arXiv 1502.07943). After each the whole is predicted (`predict.rs`), and the better half goes on. What is tried is a
//! table in `candidates.rs` and the job's own indexes. Partitions are not tried: the whole index's searches are what is measured.
//!
//! Publishes nothing itself: the winner is a job like any other.

mod built;
mod candidates;
mod halving;
#[cfg(feature = "polars")]
mod page;
mod predict;
mod trial;
pub mod workload;

use std::time::{Duration, Instant};

pub use built::{Built, Compared, build, job_of};
#[cfg(feature = "polars")]
pub use page::measurements;
pub use predict::Prediction;
pub use trial::{Setting, Trial};

use candidates::{Candidate, candidates, family, scaled};
use halving::{Standing, frontier, misses, ranked, survivors};
use predict::{Formula, predict};
use trial::Ground;

use crate::compute::Compute;
use crate::error::Error;
use crate::job::{
    self, IndexParams, IndexSpec, JobSpec, Progress, Sample, SampleSize, Shape, Silent, Unit, index_size,
    on_threads,
};
use crate::vectors::Metric;

/// Rows of the largest sample, where nothing else is said.
pub const SAMPLE_ROWS: usize = 1 << 16;

/// Queries of all samples, where nothing else is said: a 95th percentile then stands on fifteen of them.
pub const SAMPLE_QUERIES: usize = 300;

/// Fewer rows than this are all a sample: searches of fewer are exact anyway.
const FEWEST_ROWS: usize = 1000;

/// Nearest candidates that are named where none meets what is asked.
const NEAREST: usize = 3;

/// What the index is to be.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Asked {
    /// Rows that a query asks for, 1 to 1,000.
    pub k: usize,
    /// Least recall@k, above 0 and at most 1.
    pub recall: f64,
    /// Most milliseconds of 95 in 100 single queries on one thread.
    pub p95_ms: Option<f64>,
    /// Most bytes of the index per row, but for ids and attributes.
    pub bytes_per_vector: Option<f64>,
    pub prefer: Prefer,
}

impl Asked {
    /// That recall@10, as fast as can be.
    pub fn recall(recall: f64) -> Self {
        Self { k: 10, recall, p95_ms: None, bytes_per_vector: None, prefer: Prefer::Speed }
    }

    fn check(&self) -> Result<(), TuneError> {
        let is_positive = |limit: Option<f64>| limit.is_none_or(|limit| limit > 0.0);
        for (is_allowed, what, got, allowed) in [
            ((1..=1000).contains(&self.k), "k", self.k as f64, "1 to 1,000"),
            (self.recall > 0.0 && self.recall <= 1.0, "recall", self.recall, "above 0, at most 1"),
            (is_positive(self.p95_ms), "p95_ms", self.p95_ms.unwrap_or_default(), "above 0"),
            (
                is_positive(self.bytes_per_vector),
                "bytes_per_vector",
                self.bytes_per_vector.unwrap_or_default(),
                "above 0",
            ),
        ] {
            if !is_allowed {
                return Err(TuneError::Asked { what, got, allowed });
            }
        }
        Ok(())
    }
}

/// What decides between candidates that meet what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The shortest median latency.
    #[default]
    Speed,
    /// Fewest bytes.
    Size,
    /// The shortest build.
    Build,
}

impl Prefer {
    pub const NAMES: [&'static str; 3] = ["speed", "size", "build"];

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "speed" => Some(Prefer::Speed),
            "size" => Some(Prefer::Size),
            "build" => Some(Prefer::Build),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct TuneOptions {
    pub asked: Asked,
    /// Rows of the largest sample, at least 1,000.
    pub sample_rows: usize,
    pub sample_queries: usize,
    /// What trials may take altogether; reading the rows is not counted. One that would take longer than what is left is not begun.
    pub time: Option<Duration>,
}

impl TuneOptions {
    pub fn new(asked: Asked) -> Self {
        Self { asked, sample_rows: SAMPLE_ROWS, sample_queries: SAMPLE_QUERIES, time: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    #[error("{what}: found {got}; allowed: {allowed}")]
    Asked { what: &'static str, got: f64, allowed: &'static str },
    #[error(
        "the job leaves {rows} rows and {queries} queries to try an index with: expected at least {k} and 1"
    )]
    Few { rows: usize, queries: usize, k: usize },
    #[error("the time given was over before anything had been tried")]
    NoTime,
    #[error("none of {tried} candidates meets what is asked; nothing was built. Nearest: {nearest}")]
    Unmet { tried: usize, nearest: String },
    #[error("`{name}` was published and does not meet what was asked, though it was predicted to: {misses}")]
    Mispredicted { name: String, misses: String },
}

impl From<TuneError> for Error {
    fn from(error: TuneError) -> Self {
        match error {
            TuneError::Unmet { .. } | TuneError::Mispredicted { .. } => Error::Unmet(error.into()),
            error => Error::BadInput(error.into()),
        }
    }
}

/// Something that was asked for and is not met.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Miss {
    /// `recall`, `p95_ms`, `bytes_per_vector`.
    pub what: &'static str,
    pub asked: f64,
    pub predicted: f64,
}

impl Miss {
    /// By how much, relative to what was asked; of recall by what is not found.
    fn shortfall(&self) -> f64 {
        match self.what {
            "recall" => (1.0 - self.predicted) / (1.0 - self.asked).max(1e-3) - 1.0 + 1e-9,
            _ => self.predicted / self.asked - 1.0,
        }
    }

    pub fn told(&self) -> String {
        let digits = if self.what == "recall" { 4 } else { 2 };
        format!("{} {:.digits$} for {}", self.what, self.predicted, self.asked)
    }
}

/// A candidate and what came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Tried {
    /// As `hnsw m 16 ef_construction 200`.
    pub name: String,
    pub params: IndexParams,
    /// By ascending size of the sample; none where time was over before.
    pub trials: Vec<Trial>,
    /// Of all rows.
    pub prediction: Option<Prediction>,
    pub misses: Vec<Miss>,
    /// Whether no other that meets as much is predicted to be faster, smaller and sooner built.
    pub on_frontier: bool,
}

/// What was tried, and what to choose.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Tuning {
    pub job: String,
    pub metric: Metric,
    pub dim: usize,
    /// That the job would index.
    pub rows: u64,
    pub queries: u64,
    pub compute: String,
    pub asked: Asked,
    /// Rows of each sample, ascending.
    pub samples: Vec<u64>,
    /// Best first; those that were not tried last.
    pub candidates: Vec<Tried>,
    /// The name of the candidate to build; `None` where none meets what is asked.
    pub winner: Option<String>,
    /// Names of the nearest, where there is no winner.
    pub nearest: Vec<String>,
    /// Whether time was over before the last trial.
    pub is_cut_short: bool,
    pub seconds: f64,
}

impl Tuning {
    pub fn candidate(&self, name: &str) -> Option<&Tried> {
        self.candidates.iter().find(|tried| tried.name == name)
    }

    /// The winner, or the error that there is none.
    pub fn won(&self) -> Result<&Tried, TuneError> {
        if let Some(tried) = self.winner.as_deref().and_then(|name| self.candidate(name)) {
            return Ok(tried);
        }
        let tell = |name: &String| {
            let misses =
                self.candidate(name).map(|tried| tried.misses.iter().map(Miss::told).collect::<Vec<_>>());
            format!("{name} ({})", misses.unwrap_or_default().join(", "))
        };
        let nearest: Vec<String> = self.nearest.iter().map(tell).collect();
        let tried = self.candidates.iter().filter(|tried| !tried.trials.is_empty()).count();
        Err(TuneError::Unmet { tried, nearest: nearest.join("; ") })
    }
}

/// Tries candidates on samples of a job's rows. Reads all rows once; builds nothing that stays.
///
/// # Errors
/// What is wrong with job, source or what is asked; [`TuneError::NoTime`]. That no candidate meets what is asked is no error here:
/// see [`Tuning::won`].
pub fn tune(spec: &JobSpec, options: &TuneOptions, progress: &Progress) -> Result<Tuning, Error> {
    options.asked.check()?;
    on_threads(spec.threads, || {
        let compute = job::choose(spec.backend, spec.gpu_memory_budget, progress)?;
        let size =
            SampleSize { rows: options.sample_rows.max(FEWEST_ROWS), queries: options.sample_queries.max(1) };
        let sample = job::sample(spec, &*compute, size, progress)?;
        let (rows, queries, k) = (sample.rows.rows(), sample.queries.rows(), options.asked.k);
        if rows < k || queries == 0 {
            return Err(TuneError::Few { rows, queries, k }.into());
        }
        Race::new(spec, options, (&*compute, &sample), progress).run()
    })
}

/// The job with this index and no other.
fn alone(spec: &JobSpec, index: IndexSpec) -> JobSpec {
    let mut spec = spec.clone();
    spec.indexes = vec![index];
    spec
}

/// A sixteenth, a quarter and all of a sample.
fn sizes(rows: usize, k: usize) -> Vec<usize> {
    let least = FEWEST_ROWS.max(4 * k);
    let mut sizes: Vec<usize> = [rows / 16, rows / 4, rows].map(|size| size.max(least).min(rows)).to_vec();
    sizes.dedup();
    sizes
}

/// Candidates and their trials so far.
struct Race<'a> {
    spec: &'a JobSpec,
    options: &'a TuneOptions,
    compute: &'a dyn Compute,
    sample: &'a Sample,
    progress: &'a Progress,
    started: Instant,
    candidates: Vec<Candidate>,
    trials: Vec<Vec<Trial>>,
    is_cut_short: bool,
}

impl<'a> Race<'a> {
    fn new(
        spec: &'a JobSpec,
        options: &'a TuneOptions,
        (compute, sample): (&'a dyn Compute, &'a Sample),
        progress: &'a Progress,
    ) -> Self {
        let candidates = candidates(spec, sample.rows.dim());
        let trials = vec![Vec::new(); candidates.len()];
        let started = Instant::now();
        Self { spec, options, compute, sample, progress, started, candidates, trials, is_cut_short: false }
    }

    fn run(mut self) -> Result<Tuning, Error> {
        let sizes = sizes(self.sample.rows.rows(), self.options.asked.k);
        let mut running: Vec<usize> = (0..self.candidates.len()).collect();
        for &size in &sizes {
            self.heat(size, &running)?;
            let tried: Vec<usize> = running.into_iter().filter(|&one| self.is_tried_on(one, size)).collect();
            if self.is_cut_short {
                break;
            }
            let standings: Vec<Standing> = tried.iter().filter_map(|&one| self.standing(one)).collect();
            running = survivors(&standings).into_iter().map(|place| tried[place]).collect();
        }
        if self.trials.iter().all(Vec::is_empty) {
            return Err(TuneError::NoTime.into());
        }
        Ok(self.finish(sizes))
    }

    fn is_tried_on(&self, one: usize, size: usize) -> bool {
        self.trials[one].last().is_some_and(|trial| trial.rows == size as u64)
    }

    /// Tries candidates on the first `size` rows, best first, as long as there is time.
    fn heat(&mut self, size: usize, running: &[usize]) -> Result<(), Error> {
        let asked = &self.options.asked;
        let rows = self.sample.rows.view().slice(0, size);
        let of_job = (self.spec.metric(), self.spec.seed);
        let ground = Ground::new(self.compute, of_job, rows, self.sample.queries.view(), asked.k)?;
        let name = format!("try on {} rows", job::quantity::count(size as u64));
        let stage = self.progress.stage(name, Unit::Count("candidates"), Some(running.len() as u64));
        let quiet = Progress::new(Silent { warn: false }, self.progress.cancel_token().clone());
        for &one in running {
            self.progress.check()?;
            if !self.has_time_for(one, size) {
                self.is_cut_short = true;
                continue;
            }
            let candidate = &self.candidates[one];
            stage.set_message(candidate.name.clone());
            let scaled = scaled(&candidate.spec, size as u64, self.sample.all_rows);
            let scaled = Candidate { name: candidate.name.clone(), spec: scaled };
            self.trials[one].push(ground.try_one(&scaled, (asked.k, asked.recall), &quiet)?);
            stage.inc(1);
        }
        stage.finish();
        Ok(())
    }

    /// Whether a trial is expected to end in time: as its last one took, for as many times the rows.
    fn has_time_for(&self, one: usize, size: usize) -> bool {
        let Some(time) = self.options.time else { return true };
        let expected =
            self.trials[one].last().map_or(0.0, |last| last.seconds * size as f64 / last.rows as f64);
        self.started.elapsed().as_secs_f64() + expected < time.as_secs_f64()
    }

    fn prediction(&self, one: usize) -> Option<Prediction> {
        let (candidate, trials) = (&self.candidates[one], &self.trials[one]);
        let formula = |rows: u64| {
            let spec = alone(self.spec, scaled(&candidate.spec, rows, self.sample.all_rows));
            let shape = Shape {
                rows,
                dim: self.sample.rows.dim() as u64,
                columns_bytes: self.sample.columns_bytes,
                queries: self.sample.queries.rows() as u64,
                threads: rayon::current_num_threads() as u64,
            };
            let size = index_size(&spec, &shape);
            Formula { sections: size.sections as f64, published: size.published as f64 }
        };
        let family = family(candidate.spec.params.kind());
        (!trials.is_empty()).then(|| predict(trials, family, self.sample.all_rows, formula))
    }

    fn standing(&self, one: usize) -> Option<Standing> {
        Some(Standing::of(&self.prediction(one)?, &self.options.asked))
    }

    fn finish(self, sizes: Vec<usize>) -> Tuning {
        let asked = &self.options.asked;
        let tried: Vec<usize> =
            (0..self.candidates.len()).filter(|&one| !self.trials[one].is_empty()).collect();
        let standings: Vec<Standing> = tried.iter().filter_map(|&one| self.standing(one)).collect();
        let on_frontier = frontier(&standings);
        let most = tried.iter().filter_map(|&one| self.trials[one].last()).map(|trial| trial.rows).max();
        // Who was tried on more is known better: of them the winner is.
        let is_finalist = |&place: &usize| self.trials[tried[place]].last().map(|trial| trial.rows) == most;
        let ranked = ranked(&standings);
        let (finalists, others): (Vec<usize>, Vec<usize>) = ranked.into_iter().partition(is_finalist);
        let told = |place: usize| {
            let one = tried[place];
            let prediction = self.prediction(one);
            Tried {
                name: self.candidates[one].name.clone(),
                params: self.candidates[one].spec.params.clone(),
                trials: self.trials[one].clone(),
                misses: prediction.as_ref().map(|prediction| misses(prediction, asked)).unwrap_or_default(),
                prediction,
                on_frontier: on_frontier[place],
            }
        };
        let mut all: Vec<Tried> = finalists.iter().chain(&others).map(|&place| told(place)).collect();
        let meeting = finalists.iter().filter(|&&place| standings[place].shortfall == 0.0);
        let best = meeting.min_by(|&&a, &&b| standings[a].key.total_cmp(&standings[b].key));
        let winner = best.map(|&place| self.candidates[tried[place]].name.clone());
        let nearest = match winner {
            Some(_) => Vec::new(),
            None => all.iter().take(NEAREST).map(|tried| tried.name.clone()).collect(),
        };
        all.extend(self.candidates.iter().zip(&self.trials).filter(|(_, trials)| trials.is_empty()).map(
            |(candidate, _)| Tried {
                name: candidate.name.clone(),
                params: candidate.spec.params.clone(),
                trials: Vec::new(),
                prediction: None,
                misses: Vec::new(),
                on_frontier: false,
            },
        ));
        Tuning {
            job: self.spec.name.clone(),
            metric: self.spec.metric(),
            dim: self.sample.rows.dim(),
            rows: self.sample.all_rows,
            queries: self.sample.queries.rows() as u64,
            compute: self.compute.info().to_string(),
            asked: asked.clone(),
            samples: sizes.iter().map(|&size| size as u64).collect(),
            candidates: all,
            winner,
            nearest,
            is_cut_short: self.is_cut_short,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_grow_fourfold_and_small_ones_are_all_there_is() {
        assert_eq!(sizes(65_536, 10), [4_096, 16_384, 65_536]);
        assert_eq!(sizes(9_800, 10), [1_000, 2_450, 9_800]);
        assert_eq!(sizes(900, 10), [900]);
        assert_eq!(sizes(9_800, 1_000), [4_000, 9_800]);
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        Asked::recall(1.0).check().unwrap();
        for (asked, what) in [
            (Asked::recall(0.0), "recall: found 0"),
            (Asked::recall(95.0), "recall: found 95"),
            (Asked { k: 0, ..Asked::recall(0.9) }, "k: found 0"),
            (Asked { p95_ms: Some(0.0), ..Asked::recall(0.9) }, "p95_ms"),
            (Asked { bytes_per_vector: Some(-1.0), ..Asked::recall(0.9) }, "bytes_per_vector"),
            (Asked { p95_ms: Some(f64::NAN), ..Asked::recall(0.9) }, "p95_ms"),
        ] {
            let error = asked.check().unwrap_err().to_string();
            assert!(error.starts_with(what), "{error}");
        }
    }
}
