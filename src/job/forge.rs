//! From rows to an index that the loader's own code has put together from encoded bytes.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::UInt32Array;
use bytes::Bytes;

use super::estimate::{self, Load};
use super::progress::{self, Progress, Unit};
use super::scratch::{self, Draft, ScratchError, Taken};
use super::spec::{Auto, CodeSpec, HnswSpec, IndexParams, IndexSpec, IvfPqSpec, Refine};
use crate::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use crate::artifact::partitions::{self, Partitions};
use crate::artifact::{Array, Section, Stage, Training, safetensors};
use crate::compute::Compute;
use crate::error::Error;
use crate::flat::FlatIndex;
use crate::hnsw::{self, GraphRows, HnswParams, Memory};
use crate::index::{KeptVectors, Precision, SearchIndex};
use crate::ivf::{self, IvfPqParams};
use crate::loader;
use crate::source::Dataset;
use crate::train;
use crate::vectors::{Metric, RowIds, VectorBuf};

/// An index in its published form, and what its build has to say.
pub(crate) struct Forged {
    /// Assembled from `files`.
    pub index: Arc<dyn SearchIndex>,
    /// `order[ordinal]` is the row of the dataset.
    pub order: Vec<u32>,
    /// Everything that is to be published but the manifest.
    pub files: Vec<(String, Bytes)>,
    pub training: Vec<Training>,
    pub warnings: Vec<String>,
    /// What was built, beyond the job's parameters.
    pub details: serde_json::Value,
}

/// What a family's build returns, whatever the family.
struct Raw {
    sections: Vec<Section>,
    order: Vec<u32>,
    training: Vec<Training>,
    warnings: Vec<String>,
    details: serde_json::Value,
}

/// The rows of an index.
pub(crate) enum Rows<'a> {
    /// Which others need as well.
    Lent(&'a Dataset),
    /// Whose vectors an index may make its own, that none are left here: what would hold a second copy for all its build.
    Given(&'a mut Dataset),
}

impl Rows<'_> {
    fn dataset(&self) -> &Dataset {
        match self {
            Rows::Lent(rows) => rows,
            Rows::Given(rows) => rows,
        }
    }

    /// The vectors, or a copy.
    fn vectors(&mut self) -> VectorBuf {
        match self {
            Rows::Lent(rows) => rows.vectors.clone(),
            Rows::Given(rows) => {
                let none = VectorBuf::zeroed(0, rows.vectors.dim());
                std::mem::replace(&mut rows.vectors, none)
            }
        }
    }
}

/// What every index of a job is built with.
pub(super) struct Anvil<'a> {
    pub compute: &'a dyn Compute,
    pub seed: u64,
    pub memory_budget: Option<u64>,
    pub progress: &'a Progress,
    /// Where the job has been planned.
    pub load: Option<&'a Load>,
}

impl Anvil<'_> {
    /// Builds, encodes, decodes and assembles. What is certified later is what is published, bytes and all.
    pub(super) fn forge(
        &self,
        mut rows: Rows<'_>,
        spec: &IndexSpec,
        encoder: &mut Encoder,
    ) -> Result<Forged, Error> {
        let watch = Watch::new(self.progress, &spec.name);
        let partitions =
            spec.partition_by.as_deref().map(|column| partition_keys(rows.dataset(), column)).transpose()?;
        let partitions = partitions.as_ref();
        let folder = encoder.folder();
        let Raw { sections, order, training, warnings, details } = match &spec.params {
            IndexParams::Flat(_) => flat(rows.dataset(), spec, partitions, folder.as_deref())?,
            IndexParams::IvfPq(params) => {
                self.ivf_pq(rows.dataset(), spec, params, folder.as_deref(), &watch)?
            }
            IndexParams::Hnsw(params) => {
                let vectors = graph_rows(&mut rows, partitions);
                self.hnsw(vectors, spec, params, folder, &watch)?
            }
        };
        watch.finish();
        let mut files = Vec::with_capacity(sections.len() + 2);
        let mut decoded = Vec::with_capacity(sections.len());
        // Each section's own tensors are dropped once they are encoded, and the index uses the encoded ones in place.
        for section in sections {
            let name = section.name.clone();
            let (file_name, bytes) = encoder.encode(section)?;
            decoded.push(safetensors::decode(&name, bytes.clone()).map_err(internal)?);
            files.push((file_name, bytes));
        }
        let index = loader::assemble(spec.params.kind(), &decoded).map_err(internal)?;
        files.extend(column_files(rows.dataset(), &order, spec.partition_by.as_deref())?);
        Ok(Forged { index, order, files, training, warnings, details })
    }

    fn ivf_pq(
        &self,
        rows: &Dataset,
        spec: &IndexSpec,
        params: &IvfPqSpec,
        folder: Option<&Path>,
        watch: &Watch<'_>,
    ) -> Result<Raw, Error> {
        let params = ivf_params(params, rows.rows(), rows.vectors.dim());
        let observer = |state: train::Progress| watch.observe(state);
        let (view, seed) = (rows.vectors.view(), self.seed);
        let built = ivf::build_spilling(folder, self.compute, view, spec.metric, &params, seed, &observer)?;
        let report = built.report;
        let training = [("k-means", &report.kmeans_inertia), ("product quantizer", &report.pq_inertia)];
        let trained = training.into_iter().filter(|(_, loss)| !loss.is_empty());
        let training = trained.map(|(name, loss)| Training { name: name.into(), loss: loss.clone() });
        Ok(Raw {
            sections: built.index.sections(),
            order: built.order,
            training: training.collect(),
            warnings: report.warnings.iter().map(ToString::to_string).collect(),
            details: serde_json::json!({
                "params": params,
                "kmeans_rows": report.kmeans_rows,
                "pq_rows": report.pq_rows,
                "longest_list": report.longest_list,
                "empty_lists": report.empty_lists,
            }),
        })
    }

    fn hnsw(
        &self,
        rows: GraphRows,
        spec: &IndexSpec,
        params: &HnswSpec,
        folder: Option<PathBuf>,
        watch: &Watch<'_>,
    ) -> Result<Raw, Error> {
        let is_mapped = folder.is_some();
        let memory =
            Memory { budget: self.graph_budget(params, spec.metric, is_mapped), scratch: folder, is_mapped };
        let params = hnsw_params(params);
        let observer = |state: train::Progress| watch.observe(state);
        let built =
            hnsw::build_within(&memory, self.compute, rows, spec.metric, &params, self.seed, &observer)?;
        Ok(Raw {
            sections: built.index.sections(),
            order: built.order,
            training: Vec::new(),
            warnings: Vec::new(),
            details: serde_json::json!({ "params": params, "graph": built.stats }),
        })
    }

    /// What the graph's build may take: what it is given, or what the job's budget leaves.
    fn graph_budget(&self, params: &HnswSpec, metric: Metric, is_mapped: bool) -> Option<u64> {
        let given = params.expert.memory_budget.given().map(|bytes| bytes as u64);
        let left = || {
            let (budget, load) = (self.memory_budget?, self.load?);
            Some(estimate::graph_budget(params, metric, budget, load, is_mapped))
        };
        given.or_else(left)
    }
}

/// [`Anvil::forge`] in memory, of a job that is nobody's plan.
pub(crate) fn forge(
    compute: &dyn Compute,
    rows: Rows<'_>,
    spec: &IndexSpec,
    seed: u64,
    progress: &Progress,
) -> Result<Forged, Error> {
    let anvil = Anvil { compute, seed, memory_budget: None, progress, load: None };
    anvil.forge(rows, spec, &mut Encoder::to_memory(None))
}

/// Encodes sections: where there is a draft in a file of it. From there they come back to memory when what they are made of is gone, so
/// that each is there once; or they stay there, mapped, as what they are made of does.
pub(super) struct Encoder {
    /// `None`: beside what they are made of, in memory.
    draft: Option<Draft>,
    memory: scratch::Memory,
    /// Why there is no draft any more.
    failure: Option<ScratchError>,
}

impl Encoder {
    /// That stays in memory where a section cannot be written to the draft. One that was written and cannot be flushed or read back is an
    /// error: what it was made of is gone by then.
    pub fn to_memory(draft: Option<Draft>) -> Self {
        Self { draft, memory: scratch::Memory::Own, failure: None }
    }

    pub fn to_files(draft: Draft) -> Self {
        Self { draft: Some(draft), memory: scratch::Memory::Mapped, failure: None }
    }

    /// The draft with all sections, or why there is none, if there was one.
    pub fn finish(self) -> Result<Option<Draft>, ScratchError> {
        self.failure.map_or(Ok(self.draft), Err)
    }

    /// For arrays that memory has no room for.
    fn folder(&self) -> Option<PathBuf> {
        let draft = self.draft.as_ref().filter(|_| self.memory == scratch::Memory::Mapped);
        draft.map(|draft| draft.folder().to_path_buf())
    }

    fn encode(&mut self, section: Section) -> Result<(String, Bytes), ScratchError> {
        let name = safetensors::section_file_name(&section.name);
        if let Some(mut draft) = self.draft.take() {
            match (write_section(&section, &name, &draft), self.memory) {
                (Ok(()), memory) => {
                    drop(section);
                    let bytes = draft.adopt(&name, memory)?;
                    self.draft = Some(draft);
                    return Ok((name, bytes));
                }
                (Err(error), scratch::Memory::Mapped) => return Err(error),
                (Err(error), scratch::Memory::Own) => self.failure = Some(error),
            }
        }
        let encoded = safetensors::encode(&section);
        Ok((encoded.file_name, encoded.bytes))
    }
}

fn write_section(section: &Section, name: &str, draft: &Draft) -> Result<(), ScratchError> {
    let (path, mut file) = draft.create(name)?;
    let written = safetensors::write(section, &mut file).and_then(|()| {
        file.flush()?;
        file.get_ref().sync_data()
    });
    written.map_err(|source| ScratchError::Io { path, source })
}

const ORDER: &str = "order.u32";

impl Forged {
    /// Writes all of it to an entry of the job's scratch; what else an entry says of it.
    pub(super) fn keep(
        &self,
        draft: &mut Draft,
        stages: &[Stage],
    ) -> Result<serde_json::Value, ScratchError> {
        for (name, bytes) in &self.files {
            // Those of an index that memory had no room for are there.
            if !draft.has(name) {
                draft.write(name, bytes)?;
            }
        }
        draft.write(ORDER, bytemuck::cast_slice(&self.order))?;
        Ok(serde_json::json!({
            "training": self.training,
            "warnings": self.warnings,
            "details": self.details,
            "stages": stages,
        }))
    }

    /// The index that [`Forged::keep`] has kept.
    pub(super) fn restored(spec: &IndexSpec, mut kept: Taken) -> Result<Self, Box<dyn std::error::Error>> {
        let order = Array::<u32>::from_bytes(kept.file(ORDER)?).to_vec();
        let (training, warnings) = (kept.meta("training")?, kept.meta("warnings")?);
        let details = kept.meta("details")?;
        let files: Vec<(String, Bytes)> = kept.rest().collect();
        let mut decoded = Vec::new();
        for (name, bytes) in &files {
            if let Some(section) = name.strip_suffix(".safetensors") {
                decoded.push(safetensors::decode(section, bytes.clone())?);
            }
        }
        let index = loader::assemble(spec.params.kind(), &decoded)?;
        if index.rows() != order.len() {
            return Err(format!("an index of {} rows and an order of {}", index.rows(), order.len()).into());
        }
        Ok(Self { index, order, files, training, warnings, details })
    }
}

/// A fault of ours: what we wrote could not be read.
fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Internal(Box::new(error))
}

fn flat(
    rows: &Dataset,
    spec: &IndexSpec,
    partitions: Option<&RowIds>,
    folder: Option<&Path>,
) -> Result<Raw, Error> {
    let order = match partitions {
        Some(keys) => keys.in_order().to_vec(),
        None => (0..rows.rows() as u32).collect(),
    };
    let view = rows.vectors.view();
    let vectors = match folder {
        Some(folder) => KeptVectors::gather_in(folder, view, &order, Precision::F32),
        None => KeptVectors::gather(view, &order, Precision::F32),
    };
    let vectors = vectors.map_err(internal)?;
    let index = FlatIndex::over(vectors, spec.metric);
    Ok(Raw {
        sections: index.sections(),
        order,
        training: Vec::new(),
        warnings: Vec::new(),
        details: serde_json::Value::Null,
    })
}

/// What the job leaves open, chosen for so many rows.
pub(super) fn ivf_params(params: &IvfPqSpec, rows: usize, dim: usize) -> IvfPqParams {
    let defaults = IvfPqParams::defaults_for(rows, dim);
    let of_code = match &params.code {
        CodeSpec::Pq(pq) => {
            let default_pq_m = || IvfPqParams::default_pq_m(dim, pq.pq_bits as usize);
            IvfPqParams {
                pq_m: pq.pq_m.given().unwrap_or_else(default_pq_m),
                pq_bits: pq.pq_bits as usize,
                rotation: pq.rotation,
                loss: pq.loss,
                ..defaults
            }
        }
        CodeSpec::Rabitq { rabitq_bits: bits } => {
            IvfPqParams { code: ivf::Code::Rabitq { bits: *bits }, ..defaults }
        }
        CodeSpec::Sq8 {} => IvfPqParams { code: ivf::Code::Sq8, ..defaults },
        CodeSpec::Flat {} => IvfPqParams { code: ivf::Code::Flat, ..defaults },
    };
    IvfPqParams {
        nlist: params.nlist.given().unwrap_or(of_code.nlist),
        refine: match params.refine {
            Refine::None => ivf::Refine::None,
            Refine::F16 => ivf::Refine::F16,
            Refine::F32 => ivf::Refine::F32,
        },
        spill: params.spill,
        kmeans_iterations: params.kmeans_iterations,
        ..of_code
    }
}

pub(super) fn hnsw_params(spec: &HnswSpec) -> HnswParams {
    let defaults = HnswParams::new(spec.m, spec.ef_construction);
    let expert = &spec.expert;
    HnswParams {
        m: spec.m,
        c_max: expert.c_max.given().unwrap_or(defaults.c_max),
        fanout: match &expert.fanout {
            Auto::Auto => defaults.fanout,
            Auto::Given(fanout) => fanout.clone(),
        },
        leaf_k: expert.leaf_k.given().unwrap_or(defaults.leaf_k),
        l_max: expert.l_max.given().unwrap_or(defaults.l_max),
        alpha: expert.alpha.given().map_or(defaults.alpha, |alpha| alpha as f32),
        code: spec.code,
    }
}

/// The values that tell partitions apart, row by row.
fn partition_keys(rows: &Dataset, column: &str) -> Result<RowIds, Error> {
    let missing = || Error::Internal(format!("no attribute `{column}` to partition by").into());
    let values = rows.attributes.column_by_name(column).ok_or_else(missing)?;
    partitions::keys_of(values).map_err(|error| Error::BadInput(Box::new(error)))
}

fn graph_rows(rows: &mut Rows<'_>, partitions: Option<&RowIds>) -> GraphRows {
    match partitions {
        Some(keys) => GraphRows::grouped(rows.vectors(), Partitions::ranks(keys)),
        None => rows.vectors().into(),
    }
}

/// Ids, attributes and, where there are any, partitions in the index's order.
pub(crate) fn column_files(
    rows: &Dataset,
    order: &[u32],
    partition_by: Option<&str>,
) -> Result<Vec<(String, Bytes)>, Error> {
    let order = UInt32Array::from(order.to_vec());
    let ids = arrow_select::take::take(&rows.ids, &order, None).map_err(internal)?;
    let ids = RowIds::from_array(ids.as_ref()).map_err(internal)?;
    let mut files = vec![(IDS_FILE.to_string(), columns::encode_ids(&ids).map_err(internal)?)];
    if rows.attributes.num_columns() > 0 {
        let attributes = arrow_select::take::take_record_batch(&rows.attributes, &order).map_err(internal)?;
        files.push((ATTRIBUTES_FILE.into(), columns::encode(&attributes).map_err(internal)?));
    }
    if let Some(column) = partition_by {
        let keys = partition_keys(rows, column)?.gather(order.values());
        let encoded = safetensors::encode(&Partitions::of(column, &keys).to_section());
        files.push((encoded.file_name, encoded.bytes));
    }
    Ok(files)
}

/// Turns what a build reports into stages of the job's progress: one at a time, each until another is named.
pub(crate) struct Watch<'a> {
    progress: &'a Progress,
    index: &'a str,
    current: Mutex<Option<Current>>,
}

struct Current {
    name: &'static str,
    stage: progress::Stage,
    done: u64,
}

impl<'a> Watch<'a> {
    pub fn new(progress: &'a Progress, index: &'a str) -> Self {
        Self { progress, index, current: Mutex::new(None) }
    }

    pub fn observe(&self, state: train::Progress) -> ControlFlow<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|current| current.name != state.stage || current.done > state.done) {
            if let Some(finished) = current.take() {
                finished.stage.finish();
            }
            let name = format!("{}: {}", self.index, state.stage);
            let stage = self.progress.stage(name, Unit::STEPS, Some(state.total));
            *current = Some(Current { name: state.stage, stage, done: 0 });
        }
        if let Some(current) = current.as_mut() {
            current.stage.set_total(state.total);
            current.stage.inc(state.done - current.done);
            current.done = state.done;
            if let Some(inertia) = state.inertia {
                current.stage.set_message(format!("inertia {inertia:.6e}"));
            }
        }
        if self.progress.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub fn finish(self) {
        if let Some(current) = self.current.into_inner().unwrap_or_else(PoisonError::into_inner) {
            current.stage.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Key;
    use super::*;

    fn section() -> Section {
        Section::new("links").with("links", &Array::from_vec((0..5000u32).collect()), &[50, 100])
    }

    #[test]
    fn sections_are_the_same_bytes_wherever_they_are_encoded() {
        let root = tempfile::tempdir().unwrap();
        let key = Key::of("index", &serde_json::json!(1));
        let draft = |name: &str| Draft::begin(root.path().join(name), "index", key).unwrap();
        let expected = safetensors::encode(&section());
        let broken = draft("gone-1");
        std::fs::remove_dir_all(broken.folder()).unwrap();
        for (mut encoder, is_kept) in [
            (Encoder::to_memory(None), Some(false)),
            (Encoder::to_memory(Some(draft("a-1"))), Some(true)),
            (Encoder::to_files(draft("b-1")), Some(true)),
            // What cannot be kept is in memory all the same.
            (Encoder::to_memory(Some(broken)), None),
        ] {
            let (name, bytes) = encoder.encode(section()).unwrap();
            assert_eq!((name, &bytes), (expected.file_name.clone(), &expected.bytes));
            match (encoder.finish(), is_kept) {
                (Ok(draft), Some(is_kept)) => {
                    assert_eq!(draft.is_some_and(|draft| draft.has("links.safetensors")), is_kept)
                }
                (Err(ScratchError::Io { .. }), None) => {}
                (finished, _) => panic!("{:?}", finished.err()),
            }
        }
        let gone = draft("gone-2");
        std::fs::remove_dir_all(gone.folder()).unwrap();
        assert!(Encoder::to_files(gone).encode(section()).is_err(), "memory has no room for it");
    }
}
