//! What a job will take, before it runs: whether it fits the memory budget and the disk, and if not, what would.

use std::path::Path;

use super::backend;
use super::estimate::{Estimate, Load, estimate};
use super::forecast::StageTime;
use super::progress::Progress;
use super::quantity;
use super::residence;
use super::run::{Job, on_threads};
use super::scratch::{self, Memory, Scratch};
use super::spec::{JobSpec, QueriesSpec};
use super::truth::truth_k;
use crate::error::Error;
use crate::source::Source;
use crate::store::runtime;

/// Of a process whose size the system does not tell.
const PROCESS_BYTES: u64 = 36 << 20;

/// A job that this machine, or the budget, has no room for.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(
        "memory_budget = \"{}\" is less than this job takes: `{stage}` needs {} with all rows in scratch; a budget of {} would fit",
        quantity::bytes(*budget), quantity::bytes(*needed), with_room(*least)
    )]
    Memory { budget: u64, stage: String, needed: u64, least: u64 },
    #[error(
        "scratch {folder} has {} free, this job needs {}: name another disk's folder as `scratch`{}",
        quantity::bytes(*free), quantity::bytes(*needed),
        if *is_optional { ", or do without it (`resume = false`)" } else { ", or raise `memory_budget`" }
    )]
    Scratch { folder: String, free: u64, needed: u64, is_optional: bool },
}

/// With something to spare, as a job file takes it: what a process takes before it begins differs by a few MiB from one run to
/// the next, as the system has more or less of its code in memory already.
fn with_room(bytes: u64) -> String {
    const OF_A_RUN: u64 = 6 << 20;
    format!("{}MiB", (bytes + bytes / 100 + OF_A_RUN).div_ceil(1 << 20))
}

/// What is known of a job before it runs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Sizing {
    pub load: Load,
    /// What is read of the source.
    pub fetched_bytes: u64,
    pub estimate: Estimate,
}

/// A job's plan.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Plan {
    pub job: String,
    /// As `cpu (avx512)`.
    pub compute: String,
    #[serde(flatten)]
    pub sizing: Sizing,
    pub memory_budget: Option<u64>,
    pub scratch: ScratchPlace,
    pub times: Vec<StageTime>,
}

/// Where scratch will be.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ScratchPlace {
    pub folder: String,
    /// Where the system tells.
    pub free_bytes: Option<u64>,
}

/// Plans a job: reads footers, and for a moment rows, and measures the backend. Writes nothing.
///
/// # Errors
/// What is wrong with job or source; [`PlanError`] where the budget or the disk has no room for the job.
pub fn plan(spec: &JobSpec, progress: &Progress) -> Result<Plan, Error> {
    on_threads(spec.threads, || {
        let compute = backend::choose(spec.backend, spec.gpu_memory_budget, progress)?;
        let job = Job::with(Scratch::none(progress), &*compute, spec, progress);
        let source = job.open()?;
        let sizing = size(spec, job.load(&source)?, source.size().fetched_bytes)?;
        let folder = scratch::of_job(spec);
        check_disk(spec, &folder, &sizing)?;
        let times = job.forecast(source, &sizing)?;
        Ok(Plan {
            job: spec.name.clone(),
            compute: compute.info().to_string(),
            sizing,
            memory_budget: spec.memory_budget,
            scratch: ScratchPlace { free_bytes: free_bytes(&folder), folder: folder.display().to_string() },
            times,
        })
    })
}

/// Rows in memory where they fit the budget, else in files; an error where neither fits.
pub(super) fn size(spec: &JobSpec, load: Load, fetched_bytes: u64) -> Result<Sizing, PlanError> {
    let in_memory = estimate(spec, &load, Memory::Own);
    let Some(budget) = spec.memory_budget.filter(|&budget| in_memory.peak_memory_bytes > budget) else {
        return Ok(Sizing { load, fetched_bytes, estimate: in_memory });
    };
    let in_files = estimate(spec, &load, Memory::Mapped);
    if in_files.peak_memory_bytes <= budget {
        return Ok(Sizing { load, fetched_bytes, estimate: in_files });
    }
    let worst = in_files.stages.iter().max_by_key(|stage| stage.bytes).expect("a job has stages");
    // A graph's build is counted with the least that it can be given.
    Err(PlanError::Memory {
        budget,
        stage: worst.name.clone(),
        needed: worst.bytes,
        least: in_files.peak_memory_bytes.min(in_memory.peak_memory_bytes),
    })
}

/// Whether scratch has room for what the job keeps there.
pub(super) fn check_disk(spec: &JobSpec, folder: &Path, sizing: &Sizing) -> Result<(), PlanError> {
    let needed = sizing.estimate.scratch_bytes;
    match free_bytes(folder) {
        Some(free) if free < needed => Err(PlanError::Scratch {
            folder: folder.display().to_string(),
            free,
            needed,
            is_optional: spec.resume && !sizing.estimate.spills,
        }),
        _ => Ok(()),
    }
}

/// Of the file system that `folder`, or the closest folder above it that there is, lies in.
#[cfg(unix)]
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let there = std::path::absolute(folder).ok()?;
    let there = there.ancestors().find(|folder| folder.exists())?;
    let path = std::ffi::CString::new(there.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a NUL and `found` is writable and of the right type; on success all of it has been written.
    let done = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } == 0;
    // SAFETY: as above.
    let found = done.then(|| unsafe { found.assume_init() })?;
    #[allow(clippy::unnecessary_cast, reason = "both are narrower on other systems")]
    Some(found.f_bavail as u64 * found.f_frsize as u64)
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

impl Job<'_> {
    /// How the job goes about its memory.
    pub fn size(&self, source: &Source) -> Result<Sizing, Error> {
        let load = self.load(source)?;
        let sizing = size(self.spec, load, source.size().fetched_bytes)?;
        if let Some(folder) = self.scratch.folder() {
            match check_disk(self.spec, folder, &sizing) {
                // Nobody has asked for scratch: a job that ran without it goes on doing so.
                Err(error @ PlanError::Scratch { is_optional: true, .. }) if self.spec.scratch.is_none() => {
                    self.progress.warn(format!("{error}; what does not fit is not kept"));
                }
                checked => checked?,
            }
        }
        if sizing.estimate.spills {
            self.progress.note(format!(
                "memory: rows lie in scratch, {} at most of {}",
                quantity::bytes(sizing.estimate.peak_memory_bytes),
                quantity::bytes(self.spec.memory_budget.unwrap_or_default())
            ));
        }
        Ok(sizing)
    }

    fn load(&self, source: &Source) -> Result<Load, Error> {
        let size = source.size();
        let rows = self.spec.source.shard.map_or(size.rows, |shard| shard.rows_of(size.rows));
        let (queries, held_out) = match &self.spec.queries {
            QueriesSpec::Sample { sample } => (*sample as u64, *sample as u64),
            QueriesSpec::File { uri, vector } => {
                let from = crate::source::SourceSpec {
                    uris: super::run::resolved(uri),
                    store: self.spec.store.clone(),
                    foreign: self.spec.source.foreign.of_queries(),
                    ..crate::source::SourceSpec::new("", vector, self.spec.metric())
                };
                (Source::open(from, runtime()?)?.rows_upper_bound(), 0)
            }
        };
        Ok(Load {
            rows: rows.saturating_sub(held_out).max(1),
            dim: size.dim as u64,
            queries,
            truth_k: truth_k(self.spec) as u64,
            threads: rayon::current_num_threads() as u64,
            columns_bytes: size.columns_bytes_per_row,
            process_bytes: residence::resident_bytes().unwrap_or(PROCESS_BYTES),
            ids: size.ids,
        })
    }
}
