//! The stages of a build, in order. Each takes the former's value and returns the next, so that a stage out of order
//! does not compile.
//!
//! ```text
//! (probe the output) open ─► read ─► draw or read queries ─► exact neighbours ─► forge ─► certify ─► (all of them) publish
//!                                                                                └─ once for each index ─┘
//! ```
//!
//! Nothing is published before every index of the job has been certified and has passed its gate, and before the files of all of
//! them are in their stores. What a stage makes is kept in
//! the job's scratch under a key of all that went into it, and the next run of a job that was killed takes it from there.

use std::ops::ControlFlow;

use serde_json::json;

use super::backend;
use super::forge::{self, Anvil, Encoder, Forged};
use super::ledger::Ledger;
use super::plan::Sizing;
use super::progress::{Progress, Unit};
use super::quantity;
use super::residence::Residence;
use super::scratch::{Key, Memory, Scratch};
use super::spec::{IndexSpec, JobSpec};
use super::summary::{BuildSummary, Outcome};
use super::truth::Measured;
use super::uri::Uri;
use crate::artifact::{self, Stage, spill};
use crate::compute::Compute;
use crate::error::Error;
use crate::index::KeptVectors;
use crate::report::{Certified, CertifyParams, GroundTruth, QuerySet, certify};
use crate::source::Source;
use crate::store::{IndexStore, Sealing};

/// Runs a job. The same job on the same data gives the same sections, byte for byte, at any number of threads.
///
/// # Errors
/// The first thing that went wrong; nothing is published then, unless it was a store that failed between the manifests of two
/// indexes, whose files were all there: the same job, run again, publishes the rest. An index below its gate is no error here: it
/// stands in the summary, and no index of the job is published.
pub fn run(spec: &JobSpec, progress: &Progress) -> Result<BuildSummary, Error> {
    on_threads(spec.threads, || {
        run_stages(&*backend::choose(spec.backend, spec.gpu_memory_budget, progress)?, spec, progress)
    })
}

/// [`run`] on a backend of the caller's: the job's own choice is not asked.
pub fn run_on(compute: &dyn Compute, spec: &JobSpec, progress: &Progress) -> Result<BuildSummary, Error> {
    on_threads(spec.threads, || run_stages(compute, spec, progress))
}

/// All work of a job runs on as many threads as it asks for; 0 is all there are.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|thread| format!("annvil-{thread}"))
        .build()
        .map_err(|error| Error::Internal(Box::new(error)))?;
    pool.install(work)
}

fn run_stages(compute: &dyn Compute, spec: &JobSpec, progress: &Progress) -> Result<BuildSummary, Error> {
    let mut ledger = Ledger::default();
    let mut job = Job::new(compute, spec, progress)?;
    job.probe_output()?;
    let source = job.open()?;
    let _residence = job.plan(&source)?;
    let read = job.read(source, &mut ledger)?;
    // Decoders and batches are done with.
    spill::trim();
    let mut measured = job.find_true_neighbours(job.take_queries(read, &mut ledger)?, &mut ledger)?;
    let mut certified = Vec::with_capacity(spec.indexes.len());
    for (place, index) in spec.indexes.iter().enumerate() {
        let is_last = place + 1 == spec.indexes.len();
        let forged = job.forge(index, &mut measured, is_last)?;
        certified.push(job.certify(index, forged, &measured)?);
    }
    let summary = job.publish(measured, certified, ledger)?;
    // An index below its gate is built again with other parameters: its rows are still good.
    if summary.indexes.iter().all(|index| matches!(index.outcome, Outcome::Published { .. })) {
        job.scratch.remove();
    }
    Ok(summary)
}

/// What all stages share.
pub(super) struct Job<'a> {
    pub spec: &'a JobSpec,
    pub progress: &'a Progress,
    pub compute: &'a dyn Compute,
    pub scratch: Scratch,
    /// What is published is encrypted with this.
    pub sealing: Option<Sealing>,
    /// Where rows are.
    pub memory: Memory,
    /// What was expected of the job, once its source is known.
    pub sizing: Option<Sizing>,
}

/// An index in memory, with the cost of its own stages.
struct ForgedIndex {
    forged: Forged,
    ledger: Ledger,
    /// What it follows from.
    key: Key,
}

pub(super) struct CertifiedIndex<'a> {
    pub spec: &'a IndexSpec,
    pub forged: Forged,
    pub certified: Certified,
    pub ledger: Ledger,
    /// What it and its certificate follow from.
    pub key: Key,
}

impl<'a> Job<'a> {
    pub fn new(compute: &'a dyn Compute, spec: &'a JobSpec, progress: &'a Progress) -> Result<Self, Error> {
        // Before hours of work.
        let sealing = spec.encryption.as_ref().map(|encryption| encryption.resolve()).transpose()?;
        let scratch = Scratch::open(spec, progress)?;
        Ok(Self { sealing, ..Self::with(scratch, compute, spec, progress) })
    }

    pub fn with(
        scratch: Scratch,
        compute: &'a dyn Compute,
        spec: &'a JobSpec,
        progress: &'a Progress,
    ) -> Self {
        Self { spec, progress, compute, scratch, sealing: None, memory: Memory::Own, sizing: None }
    }

    /// Decides where rows are to be, and sees to it that the budget is kept as long as what is returned is.
    fn plan(&mut self, source: &Source) -> Result<Option<Residence>, Error> {
        let sizing = self.size(source)?;
        let estimate = &sizing.estimate;
        self.progress.note(format!("memory: at most {}", quantity::bytes(estimate.peak_memory_bytes)));
        if estimate.spills {
            self.memory = Memory::Mapped;
        }
        let budget = self.spec.memory_budget.filter(|_| estimate.spills);
        self.sizing = Some(sizing);
        if budget.is_some() {
            spill::keep_no_large_blocks();
        }
        Ok(budget.and_then(Residence::keep))
    }

    pub fn index_store(&self, index: &IndexSpec) -> Result<IndexStore, Error> {
        let store = IndexStore::named_with(self.spec.output.uri.resolved(), &index.name, &self.spec.store)?;
        Ok(match &self.sealing {
            Some(sealing) => store.sealed_with(sealing.clone()),
            None => store,
        })
    }

    /// Asks the output's store, before hours of work, whether it will take what they make.
    fn probe_output(&self) -> Result<(), Error> {
        if let Some(sealing) = &self.sealing {
            let scratch = self
                .scratch
                .folder()
                .map_or(String::new(), |folder| format!("; scratch is not ({})", folder.display()));
            self.progress.note(format!("encryption: indexes, with the key `{}`{scratch}", sealing.key_id));
        }
        self.spec.indexes.iter().try_for_each(|index| Ok(self.index_store(index)?.probe()?))
    }

    fn forge(&self, index: &IndexSpec, measured: &mut Measured, is_last: bool) -> Result<ForgedIndex, Error> {
        let mut ledger = Ledger::default();
        let stage = format!("index-{}", index.name);
        let from = json!({
            "rows": measured.read.key.to_string(),
            "params": index.params,
            "metric": index.metric,
            "partition_by": index.partition_by,
            "seed": self.spec.seed,
            "compute": self.compute.info().to_string(),
        });
        let key = Key::of("index", &from);
        if let Some(kept) = self.scratch.take(&stage, &key, self.memory) {
            let stages: Vec<Stage> = kept.meta("stages").unwrap_or_default();
            match Forged::restored(index, kept) {
                Ok(forged) => {
                    ledger.resume(stages);
                    return Ok(ForgedIndex { forged, ledger, key });
                }
                Err(why) => self.scratch.refuse(&stage, &key, &why),
            }
        }
        // Sections are written to the entry at once.
        let mut encoder = match self.memory {
            Memory::Own => Encoder::to_memory(self.scratch.draft_if_kept(&stage, &key)),
            Memory::Mapped => Encoder::to_files(self.scratch.draft_of_need(&stage, &key)?),
        };
        let stage_name = format!("build {}", index.name);
        let forged = ledger.enter_on(self.compute, self.progress, &stage_name, || {
            let rows = &mut measured.read.rows;
            let is_given = is_last && !rows.vectors.is_shared();
            let rows = if is_given { forge::Rows::Given(rows) } else { forge::Rows::Lent(rows) };
            let load = self.sizing.as_ref().map(|sizing| &sizing.load);
            let (seed, memory_budget) = (self.spec.seed, self.spec.memory_budget);
            let anvil = Anvil { compute: self.compute, seed, memory_budget, progress: self.progress, load };
            anvil.forge(rows, index, &mut encoder)
        })?;
        for warning in &forged.warnings {
            self.progress.warn(format!("{}: {warning}", index.name));
        }
        spill::trim();
        let kept = encoder.finish().and_then(|draft| {
            let Some(mut draft) = draft else { return Ok(()) };
            let meta = forged.keep(&mut draft, ledger.stages())?;
            draft.seal(meta)
        });
        match (kept, self.memory) {
            (Err(error), Memory::Own) => self.scratch.not_kept(&stage, &error),
            (kept, _) => kept?,
        }
        Ok(ForgedIndex { forged, ledger, key })
    }

    fn certify(
        &self,
        spec: &'a IndexSpec,
        forged: ForgedIndex,
        measured: &Measured,
    ) -> Result<CertifiedIndex<'a>, Error> {
        let ForgedIndex { forged, mut ledger, key } = forged;
        let stage = format!("certificate-{}", spec.name);
        let from = json!({
            "index": key.to_string(), "truth": measured.key.to_string(), "gate": spec.gate, "target": spec.target,
        });
        let key = Key::of("certificate", &from);
        if let Some(kept) = self.scratch.take(&stage, &key, Memory::Own) {
            match kept.meta("certified") {
                Ok(certified) => {
                    ledger.resume(kept.meta("stages").unwrap_or_default());
                    return Ok(CertifiedIndex { spec, forged, certified, ledger, key });
                }
                Err(why) => self.scratch.refuse(&stage, &key, &why),
            }
        }
        let mark = ledger.stages().len();
        // Searches read where their queries lead them.
        let jumping = spill::Jumping::begin();
        let certified = ledger.enter(&format!("certify {}", spec.name), |_| {
            let stage = self.progress.stage(format!("{}: certify", spec.name), Unit::Count("settings"), None);
            let queries = measured.queries.view();
            let (order, renumbered): (Vec<u32>, GroundTruth);
            let set = if measured.read.rows.rows() > 0 {
                let rows = measured.read.rows.vectors.view();
                QuerySet { queries, truth: &measured.truth, rows, order: &forged.order }
            } else {
                // The rows are the index's, in its order.
                order = (0..measured.rows as u32).collect();
                renumbered = measured.truth.renumbered(&forged.order);
                let kept = forged.index.kept().and_then(KeptVectors::view);
                let rows = kept.expect("an index keeps the rows that it was given");
                QuerySet { queries, truth: &renumbered, rows, order: &order }
            };
            let certified = certify(&forged.index, &set, &certify_params(spec, &measured.truth), &|| {
                stage.inc(1);
                self.progress.check().is_ok()
            })?;
            stage.finish();
            Ok::<_, Error>(certified)
        })?;
        drop(jumping);
        spill::trim();
        self.scratch
            .keep(&stage, &key, |_| Ok(json!({ "certified": certified, "stages": ledger.stages()[mark..] })));
        Ok(CertifiedIndex { spec, forged, certified, ledger, key })
    }

    pub fn keep_going(&self) -> ControlFlow<()> {
        if self.progress.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn certify_params(spec: &IndexSpec, truth: &GroundTruth) -> CertifyParams {
    let gate = spec.gate.map(|gate| artifact::Gate { k: gate.k as u32, min_recall: gate.min_recall });
    // `flat` has no target: its one setting is the default.
    let (target_k, target_recall) =
        spec.target.map_or((10.min(truth.k()), 1.0), |target| (target.k, target.recall));
    CertifyParams { target_k, target_recall, gate, near: None }
}

pub(super) fn resolved(uris: &[Uri]) -> Vec<String> {
    uris.iter().map(|uri| uri.resolved().to_string()).collect()
}
