//! The stages of a build, in order. Each takes the former's value and returns the next, so that a stage out of order
//! does not compile.
//!
//! ```text
//! (probe the output) open ─► read ─► draw or read queries ─► exact neighbours ─► forge ─► certify ─► (all of them) publish
//!                                                                                └─ once for each index ─┘
//! ```
//!
//! Nothing is published before every index of the job has been certified and has passed its gate.

use std::cell::Cell;
use std::ops::ControlFlow;

use arrow_array::RecordBatch;

use super::backend;
use super::check::SourceFacts;
use super::forge::{self, Forged, forge};
use super::ledger::{Ledger, peak_memory_bytes};
use super::progress::{Progress, Unit};
use super::spec::{IndexSpec, JobSpec, OnBadRow, QueriesSpec};
use super::summary::{BuildSummary, BuiltIndex, Outcome, RowCounts, StageCost};
use super::uri::Uri;
use crate::artifact::{self, queries as kept_queries, safetensors};
use crate::compute::Compute;
use crate::error::Error;
use crate::index::KeptVectors;
use crate::report::{Certified, CertifyParams, GroundTruth, QuerySet, certify};
use crate::source::{self, Dataset, Source};
use crate::store::{IndexStore, Location, runtime};
use crate::vectors::VectorBuf;

/// Neighbours that every certificate's ground truth has, so that recall@100 can stand in it.
const TRUTH_K: usize = 100;

/// Runs a job. The same job on the same data gives the same sections, byte for byte, at any number of threads.
///
/// # Errors
/// The first thing that went wrong; nothing is published then. An index below its gate is no error here: it stands in
/// the summary, and no index of the job is published.
pub fn run(spec: &JobSpec, progress: &Progress) -> Result<BuildSummary, Error> {
    on_threads(spec.threads, || run_stages(&*backend::choose(spec.backend, progress)?, spec, progress))
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
    let job = Job { spec, progress, compute };
    job.probe_output()?;
    let read = job.read(job.open()?, &mut ledger)?;
    let mut measured = job.find_true_neighbours(job.take_queries(read, &mut ledger)?, &mut ledger)?;
    let mut certified = Vec::with_capacity(spec.indexes.len());
    for (place, index) in spec.indexes.iter().enumerate() {
        let is_last = place + 1 == spec.indexes.len();
        let forged = job.forge(index, &mut measured, is_last)?;
        certified.push(job.certify(index, forged, &measured)?);
    }
    job.publish(measured, certified, ledger)
}

/// The stream of the job's seed that held-out queries are drawn from.
const QUERY_STREAM: u64 = 0x0071_7565_7269_6573;

/// What all stages share.
struct Job<'a> {
    spec: &'a JobSpec,
    progress: &'a Progress,
    compute: &'a dyn Compute,
}

/// Rows in memory.
struct Read {
    rows: Dataset,
    rejects_uri: Option<String>,
    attributes: Vec<artifact::AttributeSummary>,
}

/// Rows and what they are to be measured with.
struct Queried {
    read: Read,
    queries: VectorBuf,
}

/// … and what is true of it.
struct Measured {
    /// Without the vectors, once the last index has become their owner.
    read: Read,
    rows: usize,
    queries: VectorBuf,
    truth: GroundTruth,
}

/// An index in memory, with the cost of its own stages.
struct ForgedIndex {
    forged: Forged,
    ledger: Ledger,
}

struct CertifiedIndex<'a> {
    spec: &'a IndexSpec,
    forged: Forged,
    certified: Certified,
    ledger: Ledger,
}

impl<'a> Job<'a> {
    fn index_store(&self, index: &IndexSpec) -> Result<IndexStore, Error> {
        Ok(IndexStore::named_with(self.spec.output.uri.resolved(), &index.name, &self.spec.store)?)
    }

    /// Asks the output's store, before hours of work, whether it will take what they make.
    fn probe_output(&self) -> Result<(), Error> {
        self.spec.indexes.iter().try_for_each(|index| Ok(self.index_store(index)?.probe()?))
    }

    /// Reads footers and schemas, and checks the job against them.
    fn open(&self) -> Result<Source, Error> {
        let from = &self.spec.source;
        let source = Source::open(
            source::SourceSpec {
                uris: resolved(&from.uri),
                vector_column: from.vector.clone(),
                id_column: from.id.clone(),
                attribute_columns: from.attributes.clone(),
                predicate: from.predicate.clone(),
                on_bad_row: match from.on_bad_row {
                    OnBadRow::Fail => source::OnBadRow::Fail,
                    OnBadRow::Skip => source::OnBadRow::Skip,
                },
                dim: None,
                metric: self.spec.metric(),
                store: self.spec.store.clone(),
            },
            runtime()?,
        )?;
        self.check(source.dim(), source.rows_upper_bound(), true)?;
        Ok(source)
    }

    fn check(&self, dim: Option<usize>, rows_upper_bound: u64, say: bool) -> Result<(), Error> {
        let warnings = self.spec.check_against(&SourceFacts { dim, rows_upper_bound })?;
        for warning in warnings.iter().filter(|_| say) {
            self.progress.warn(warning.to_string());
        }
        Ok(())
    }

    fn read(&self, source: Source, ledger: &mut Ledger) -> Result<Read, Error> {
        let rows = ledger.enter("read", |moved| {
            let stage = self.progress.stage("read", Unit::ROWS, Some(source.rows_upper_bound()));
            let (rows_read, bytes_read) = (Cell::new(0), Cell::new(0));
            let rows = source.read_all(&|rows, bytes| {
                stage.inc(rows - rows_read.replace(rows));
                bytes_read.set(bytes);
                self.keep_going()
            })?;
            moved.read = bytes_read.get();
            stage.finish();
            Ok::<_, Error>(rows)
        })?;
        // What a list column's length and `where` leave is only known now.
        self.check(Some(rows.vectors.dim()), rows.rows() as u64, false)?;
        let rejects_uri =
            rows.rejects.as_ref().map(|rejects| self.keep_rejects(rejects, ledger)).transpose()?;
        let attributes = ledger.enter("summarise attributes", |_| rows.attribute_summary())?;
        let attributes = attributes
            .into_iter()
            .map(|summary| artifact::AttributeSummary {
                name: summary.name,
                data_type: summary.data_type,
                nulls: summary.nulls,
                distinct: summary.distinct,
                min: summary.min,
                max: summary.max,
            })
            .collect();
        Ok(Read { rows, rejects_uri, attributes })
    }

    /// Writes the rejected rows beside the indexes, under a name made of their contents: a job that runs twice leaves
    /// one file.
    fn keep_rejects(&self, rejects: &RecordBatch, ledger: &mut Ledger) -> Result<String, Error> {
        ledger.enter("write rejects", |moved| {
            let bytes = source::write_rejects(rejects)?;
            let digest = blake3::hash(&bytes).to_hex();
            let name = format!("rejects/{}-{}.parquet", self.spec.name, &digest[..16]);
            let place =
                Location::parse_with(self.spec.output.uri.resolved(), &self.spec.store)?.join(&name)?;
            moved.written = bytes.len() as u64;
            place.write(bytes.into())?;
            Ok(place.uri().to_string())
        })
    }

    fn take_queries(&self, read: Read, ledger: &mut Ledger) -> Result<Queried, Error> {
        ledger.enter("queries", |_| match &self.spec.queries {
            QueriesSpec::Sample { sample } => {
                let Read { rows, rejects_uri, attributes } = read;
                let (rows, queries) = rows.hold_out(*sample, self.spec.seed ^ QUERY_STREAM)?;
                Ok(Queried { read: Read { rows, rejects_uri, attributes }, queries: queries.vectors })
            }
            QueriesSpec::File { uri, vector } => {
                let from = source::SourceSpec {
                    uris: resolved(uri),
                    dim: Some(read.rows.vectors.dim()),
                    store: self.spec.store.clone(),
                    ..source::SourceSpec::new("", vector, self.spec.metric())
                };
                let queries = Source::open(from, runtime()?)?.read_all(&|_, _| self.keep_going())?;
                Ok(Queried { read, queries: queries.vectors })
            }
        })
    }

    fn find_true_neighbours(&self, queried: Queried, ledger: &mut Ledger) -> Result<Measured, Error> {
        let Queried { read, queries } = queried;
        let asked = self.spec.indexes.iter().flat_map(|index| {
            [index.gate.map(|gate| gate.k), index.target.map(|target| target.k)].into_iter().flatten()
        });
        let k = asked.fold(TRUTH_K, usize::max);
        let truth = ledger.enter("exact neighbours", |_| {
            let stage = self.progress.stage("exact neighbours", Unit::QUERIES, Some(queries.rows() as u64));
            let rows = read.rows.vectors.view();
            let truth = GroundTruth::compute(self.compute, queries.view(), rows, self.spec.metric(), k)?;
            stage.inc(queries.rows() as u64);
            stage.finish();
            Ok::<_, Error>(truth)
        })?;
        Ok(Measured { rows: read.rows.rows(), read, queries, truth })
    }

    fn forge(&self, index: &IndexSpec, measured: &mut Measured, is_last: bool) -> Result<ForgedIndex, Error> {
        let mut ledger = Ledger::default();
        let forged = ledger.enter(&format!("build {}", index.name), |_| {
            let rows = &mut measured.read.rows;
            let rows = if is_last { forge::Rows::Given(rows) } else { forge::Rows::Lent(rows) };
            forge(self.compute, rows, index, self.spec.seed, self.progress)
        })?;
        for warning in &forged.warnings {
            self.progress.warn(format!("{}: {warning}", index.name));
        }
        Ok(ForgedIndex { forged, ledger })
    }

    fn certify(
        &self,
        spec: &'a IndexSpec,
        forged: ForgedIndex,
        measured: &Measured,
    ) -> Result<CertifiedIndex<'a>, Error> {
        let ForgedIndex { forged, mut ledger } = forged;
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
        Ok(CertifiedIndex { spec, forged, certified, ledger })
    }

    /// Publishes all indexes, or none if one is below its gate.
    fn publish(
        &self,
        measured: Measured,
        certified: Vec<CertifiedIndex<'_>>,
        ledger: Ledger,
    ) -> Result<BuildSummary, Error> {
        let Measured { read, rows, queries, .. } = measured;
        let dim = read.rows.vectors.dim();
        let source =
            SourceRecord { counts: read.rows.counts, inputs: read.rows.inputs, attributes: read.attributes };
        // The rows are in the indexes now.
        drop((read.rows.vectors, read.rows.ids, read.rows.attributes));
        let all_pass = certified.iter().all(|index| index.certified.below_gate.is_none());
        let mut total = ledger.clone();
        let mut indexes = Vec::new();
        let kept_queries = safetensors::encode(&kept_queries::to_section(queries.view().as_slice(), dim));
        for mut index in certified {
            self.progress.check()?;
            index.forged.files.push((kept_queries.file_name.clone(), kept_queries.bytes.clone()));
            let certificate = index.certified.certificate.clone();
            let effort_name = index.forged.index.effort_name().map(str::to_string);
            let mut own = index.ledger.clone();
            let outcome = match index.certified.below_gate {
                Some(recall) => Outcome::BelowGate { recall },
                None if !all_pass => Outcome::Withheld,
                None => {
                    let draft = self.draft(&index, &source, rows, dim, &ledger);
                    let store = self.index_store(index.spec)?;
                    let size_bytes = index.forged.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                    let published = own.enter(&format!("publish {}", index.spec.name), |moved| {
                        let published = store.publish(index.forged.files, draft)?;
                        moved.written = published.bytes_written;
                        Ok::<_, Error>(published)
                    })?;
                    let uri = format!("{}/{}", self.spec.output.uri.resolved(), index.spec.name);
                    Outcome::Published { uri, version: published.version, size_bytes }
                }
            };
            total.extend(own.stages());
            indexes.push(BuiltIndex {
                name: index.spec.name.clone(),
                kind: index.spec.params.kind().into(),
                effort_name,
                certificate,
                outcome,
            });
        }
        Ok(BuildSummary {
            job: self.spec.name.clone(),
            backend: self.compute.info().to_string(),
            threads: rayon::current_num_threads(),
            metric: self.spec.metric(),
            dim,
            rows: RowCounts {
                read: source.counts.read,
                filtered: source.counts.filtered_out,
                kept: source.counts.kept,
                held_out: source.counts.held_out,
                rejected: source.counts.rejected,
                rejects_uri: read.rejects_uri,
            },
            queries: queries.rows() as u64,
            stages: total.stages().iter().map(StageCost::from).collect(),
            peak_memory_bytes: peak_memory_bytes(),
            indexes,
        })
    }

    fn draft(
        &self,
        index: &CertifiedIndex<'_>,
        source: &SourceRecord,
        rows: usize,
        dim: usize,
        ledger: &Ledger,
    ) -> artifact::ManifestDraft {
        let certificate = &index.certified.certificate;
        let info = self.compute.info();
        let counts = source.counts.clone();
        artifact::ManifestDraft {
            git_commit: option_env!("ANNVIL_GIT_COMMIT").map(str::to_string),
            job: self.spec.to_json(),
            seed: self.spec.seed,
            inputs: source
                .inputs
                .iter()
                .map(|input| artifact::Input {
                    uri: input.uri.clone(),
                    size_bytes: input.size_bytes,
                    e_tag: input.e_tag.clone(),
                    rows: input.rows,
                })
                .collect(),
            row_counts: artifact::RowCounts {
                read: counts.read,
                filtered: counts.filtered_out,
                kept: counts.kept,
                held_out: counts.held_out,
                rejected: counts.rejected,
            },
            backend: artifact::Backend { backend: info.backend, device: info.device },
            training: index.forged.training.clone(),
            built: index.forged.details.clone(),
            stages: ledger.stages().iter().chain(index.ledger.stages()).cloned().collect(),
            peak_memory_bytes: peak_memory_bytes(),
            attributes: source.attributes.clone(),
            search_defaults: Some(artifact::SearchDefaults {
                effort: certificate.chosen_effort,
                refine: certificate.chosen_refine,
            }),
            certificate: Some(certificate.clone()),
            ..artifact::ManifestDraft::new(
                index.spec.params.kind(),
                index.spec.metric,
                dim as u32,
                rows as u64,
            )
        }
    }

    fn keep_going(&self) -> ControlFlow<()> {
        if self.progress.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// What the manifests say of the rows' origin.
struct SourceRecord {
    counts: source::RowCounts,
    inputs: Vec<source::InputFile>,
    attributes: Vec<artifact::AttributeSummary>,
}

fn certify_params(spec: &IndexSpec, truth: &GroundTruth) -> CertifyParams {
    let gate = spec.gate.map(|gate| artifact::Gate { k: gate.k as u32, min_recall: gate.min_recall });
    // `flat` has no target: its one setting is the default.
    let (target_k, target_recall) =
        spec.target.map_or((10.min(truth.k()), 1.0), |target| (target.k, target.recall));
    CertifyParams { target_k, target_recall, gate }
}

fn resolved(uris: &[Uri]) -> Vec<String> {
    uris.iter().map(|uri| uri.resolved().to_string()).collect()
}
