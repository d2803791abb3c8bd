//! The last stage: versions of all of a job's indexes, or of none.

use bytes::Bytes;

use super::ledger::{Ledger, peak_memory_bytes};
use super::plan::Sizing;
use super::run::{CertifiedIndex, Job};
use super::spec::IndexSpec;
use super::summary::{BuildSummary, BuiltIndex, Outcome, RowCounts, StageCost};
use super::truth::Measured;
use crate::artifact::neighbors::{self, NEIGHBORS_KEPT};
use crate::artifact::{self, Digest, queries as kept_queries, safetensors, spill};
use crate::error::Error;
use crate::report::GroundTruth;
use crate::source;
use crate::store::{IndexStore, Upload, random_id};
use crate::vectors::{Neighbors, VectorBuf};

/// An index as it waits for the others.
struct Waiting {
    store: IndexStore,
    upload: Uploaded,
    size_bytes: u64,
}

enum Uploaded {
    /// By the run that was killed, as that version.
    Published(u64),
    Files(Box<Upload>),
}

impl Waiting {
    fn publish(self) -> Result<(u64, u64), Error> {
        let version = match self.upload {
            Uploaded::Published(version) => version,
            Uploaded::Files(upload) => self.store.publish_uploaded(*upload)?.version,
        };
        Ok((version, self.size_bytes))
    }
}

impl Job<'_> {
    /// Publishes all indexes, or none if one is below its gate. All of their files are written, read back and checked before the first
    /// manifest is; then what is left is one small object each, one after the other. So a store that fails leaves all or nothing
    /// but in the moment between two of those, and a run that is killed there publishes the others when it is run again.
    pub fn publish(
        &self,
        measured: Measured,
        mut certified: Vec<CertifiedIndex<'_>>,
        ledger: Ledger,
    ) -> Result<BuildSummary, Error> {
        let Measured { read, rows, queries, truth, .. } = measured;
        let dim = read.rows.vectors.dim();
        let source =
            SourceRecord { counts: read.rows.counts, inputs: read.rows.inputs, attributes: read.attributes };
        // The rows are in the indexes now.
        drop((read.rows.vectors, read.rows.ids, read.rows.attributes));
        let mut waiting = Vec::with_capacity(certified.len());
        if certified.iter().all(|index| index.certified.below_gate.is_none()) {
            let kept_queries = safetensors::encode(&kept_queries::to_section(queries.view().as_slice(), dim));
            for index in &mut certified {
                self.progress.check()?;
                index.forged.files.push((kept_queries.file_name.clone(), kept_queries.bytes.clone()));
                index.forged.files.push(kept_neighbors(&queries, &truth, &index.forged.order));
                let draft = self.draft(index, &source, rows, dim, &ledger);
                waiting.push(self.upload(index, draft)?);
                spill::trim();
            }
            self.progress.check()?;
        }
        let published = waiting.into_iter().map(Waiting::publish).collect::<Result<Vec<_>, _>>()?;
        let mut published = published.into_iter();
        let mut total = ledger;
        let mut indexes = Vec::new();
        for index in certified {
            let outcome = match (index.certified.below_gate, published.next()) {
                (Some(recall), _) => Outcome::BelowGate { recall },
                (None, None) => Outcome::Withheld,
                (None, Some((version, size_bytes))) => {
                    let uri = format!("{}/{}", self.spec.output.uri.resolved(), index.spec.name);
                    Outcome::Published { uri, version, size_bytes }
                }
            };
            total.extend(index.ledger.stages());
            indexes.push(BuiltIndex {
                name: index.spec.name.clone(),
                kind: index.spec.params.kind().into(),
                effort_name: index.forged.index.effort_name().map(str::to_string),
                certificate: index.certified.certificate,
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

    /// Brings an index's files to its store, unless this run had published it before it was killed.
    fn upload(
        &self,
        index: &mut CertifiedIndex<'_>,
        draft: artifact::ManifestDraft,
    ) -> Result<Waiting, Error> {
        let CertifiedIndex { spec, forged, ledger, key, .. } = index;
        let files = std::mem::take(&mut forged.files);
        let size_bytes = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let store = self.index_store(spec)?;
        let upload = ledger.enter(&format!("publish {}", spec.name), |moved| {
            let publish_id = self.scratch.run_id().map_or_else(random_id, |run_id| {
                Digest::of(format!("{run_id} {} {key}", spec.name).as_bytes()).to_string()[..32].into()
            });
            if self.scratch.is_resumed()
                && let Some(head) = store.published_as(&publish_id)?
            {
                let version = head.version;
                self.progress.note(format!(
                    "{}: published already, as version {version}, by the run that was killed",
                    spec.name
                ));
                return Ok(Uploaded::Published(version));
            }
            let upload = store.upload(&publish_id, files, draft)?;
            moved.written = upload.bytes_written;
            Ok::<_, Error>(Uploaded::Files(Box::new(upload)))
        })?;
        Ok(Waiting { store, upload, size_bytes })
    }

    fn planned(&self, index: &IndexSpec) -> Option<artifact::Planned> {
        let Sizing { estimate, fetched_bytes, .. } = self.sizing.as_ref()?;
        let place = self.spec.indexes.iter().position(|other| other.name == index.name)?;
        Some(artifact::Planned {
            peak_memory_bytes: estimate.peak_resident_bytes,
            read_bytes: *fetched_bytes,
            index_bytes: estimate.index_bytes[place],
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
            planned: self.planned(index.spec),
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
}

/// The nearest rows of the queries that are kept, as the index numbers them.
fn kept_neighbors(queries: &VectorBuf, truth: &GroundTruth, order: &[u32]) -> (String, Bytes) {
    let places: Vec<usize> = kept_queries::kept_places(queries.rows()).collect();
    let values: Vec<f32> = places.iter().flat_map(|&place| queries.row(place)).copied().collect();
    let renumbered = truth.renumbered(order);
    let mut kept = Neighbors::new(places.len(), truth.k().min(NEIGHBORS_KEPT));
    for (query, &place) in places.iter().enumerate() {
        let mut row = renumbered.row(place).to_vec();
        // Of rows that are equally far the order is the numbers'.
        row.sort_unstable();
        let own = kept.row_mut(query);
        own.copy_from_slice(&row[..own.len()]);
    }
    let section = neighbors::to_section(neighbors::digest_of(&values), &kept);
    let encoded = safetensors::encode(&section);
    (encoded.file_name, encoded.bytes)
}

/// What the manifests say of the rows' origin.
struct SourceRecord {
    counts: source::RowCounts,
    inputs: Vec<source::InputFile>,
    attributes: Vec<artifact::AttributeSummary>,
}
