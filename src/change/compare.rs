//! Is an index what its source says? Row by row: ids that one has and the other has not, ids that occur twice, vectors and
//! attributes that differ. What cannot be compared is said.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use arrow_array::{Array, ArrayRef, UInt32Array};
use serde::Serialize;

use super::append::source_spec;
use super::base::job_of;
use super::internal;
use crate::artifact::Manifest;
use crate::error::Error;
use crate::index::Precision;
use crate::job::{JobSpec, Progress, QueriesSpec, Unit};
use crate::loader::Index;
use crate::source::{self, RowBatch, Source};
use crate::store::{IndexStore, runtime};
use crate::vectors::{Random, RowId, RowIds};

/// Ids that are told of each kind of difference.
pub const IDS_TOLD: usize = 10;

/// By how much a value kept as f32 may differ, relative to the vector's length: the source's rows are normalised as a build's
/// were, but perhaps by other instructions.
const F32_TOLERANCE: f32 = 1e-6;

/// What to compare with what.
#[derive(Debug, Clone)]
pub struct Compare {
    /// The index's folder or URI.
    pub index: String,
    /// Default: the latest.
    pub version: Option<u64>,
    /// Where the columns stand; default: in the manifest.
    pub job: Option<PathBuf>,
    /// Parquet files: paths, URIs or globs.
    pub against: Vec<String>,
    /// Compare the vectors and attributes of so many rows, drawn by the seed; default: of all. Ids are always all compared.
    pub sample: Option<usize>,
    pub seed: u64,
}

/// Where the rows of an index come from.
pub trait RowSource {
    fn name(&self) -> String;

    /// Hands on all rows, batch by batch. Those that no index could hold are left out and counted by reason.
    fn read(
        self: Box<Self>,
        each: &mut dyn FnMut(&RowBatch) -> Result<(), Error>,
    ) -> Result<source::RowCounts, Error>;
}

/// Parquet files. To be opened with bad rows skipped.
impl RowSource for Source {
    fn name(&self) -> String {
        self.inputs().iter().map(|input| input.uri.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn read(
        self: Box<Self>,
        each: &mut dyn FnMut(&RowBatch) -> Result<(), Error>,
    ) -> Result<source::RowCounts, Error> {
        let mut batches = self.batches()?;
        for batch in batches.by_ref() {
            each(&batch?)?;
        }
        Ok(batches.finish()?.0)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consistency {
    pub index: String,
    pub version: u64,
    pub source: String,
    /// Rows that are there.
    pub rows: u64,
    pub source_rows: u64,
    /// Left out by the job's `where`.
    pub filtered: u64,
    /// Rows of the source that were drawn as queries, and are not in the index for that reason.
    pub held_out: u64,
    /// In the source, not in the index.
    pub missing: Differing,
    /// In the index, not in the source.
    pub orphaned: Differing,
    /// Rows of the index that bear an id that another one bears.
    pub duplicated: Differing,
    /// How vectors are kept, and so how closely they can be compared; `None` where none are, and none were compared.
    pub precision: Option<&'static str>,
    /// Rows whose vectors and attributes were compared.
    pub compared: u64,
    pub vectors: Differing,
    pub attributes: Differing,
    /// Rows of the source that no index could hold, by reason: `duplicate_id`, `wrong_length`, `not_finite`, …
    pub refused: BTreeMap<String, u64>,
}

/// How many rows differ, and the ids of the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Differing {
    pub count: u64,
    pub some: Vec<RowId>,
}

impl Differing {
    fn add(&mut self, id: impl FnOnce() -> RowId) {
        self.count += 1;
        if self.some.len() < IDS_TOLD {
            self.some.push(id());
        }
    }
}

impl Consistency {
    /// Whether nothing differs.
    pub fn is_clean(&self) -> bool {
        let Self { missing, orphaned, duplicated, vectors, attributes, refused, .. } = self;
        [missing, orphaned, duplicated, vectors, attributes].iter().all(|differing| differing.count == 0)
            && refused.values().all(|&count| count == 0)
    }
}

/// Compares an index with its source.
///
/// # Errors
/// What opening either says. That they differ is no error here.
pub fn compare(asked: &Compare, progress: &Progress) -> Result<Consistency, Error> {
    let artifact = IndexStore::open(&asked.index)?.artifact(asked.version)?;
    let manifest = artifact.manifest();
    let job = match &asked.job {
        Some(path) => JobSpec::from_path(path)?,
        None => job_of(manifest)?,
    };
    let spec = source::SourceSpec {
        on_bad_row: source::OnBadRow::Skip,
        ..source_spec(&job, manifest, &asked.against)
    };
    let queries = artifact.queries()?.unwrap_or_default();
    let held_out = HeldOut::of(&job, manifest, &queries);
    let index = Index::of(artifact)?;
    let source = Source::open(spec, runtime()?)?;
    let stage = progress.stage("compare", Unit::ROWS, Some(source.rows_upper_bound()));
    let sample = asked.sample.map(|rows| (rows, asked.seed));
    let mut comparison = Comparison::new(&index, held_out, sample);
    let source: Box<dyn RowSource> = Box::new(source);
    let name = source.name();
    let counts = source.read(&mut |batch| {
        progress.check()?;
        comparison.push(batch, &mut |_, _| ())?;
        stage.inc(batch.vectors.rows() as u64);
        Ok(())
    })?;
    stage.finish();
    Ok(comparison.finish(&asked.index, name, counts).0)
}

/// What a row of the source is to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Missing,
    HeldOut,
    /// From the row that bears its id.
    Differs(u32),
}

/// Rows that a build drew as queries: known by their vectors, each as often as it was drawn.
#[derive(Default)]
pub(super) struct HeldOut(HashMap<[u8; 32], u64>);

impl HeldOut {
    pub fn of(job: &JobSpec, manifest: &Manifest, queries: &[f32]) -> Self {
        let mut held_out = Self::default();
        if matches!(job.queries, QueriesSpec::Sample { .. }) {
            for query in queries.chunks_exact(manifest.build.dim as usize) {
                *held_out.0.entry(hash(query)).or_default() += 1;
            }
        }
        held_out
    }

    fn take(&mut self, vector: &[f32]) -> bool {
        let left = self.0.get_mut(&hash(vector)).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }
}

fn hash(vector: &[f32]) -> [u8; 32] {
    *blake3::hash(bytemuck::cast_slice(vector)).as_bytes()
}

/// An index beside rows that come batch by batch.
pub(super) struct Comparison<'a> {
    index: &'a Index,
    held_out: HeldOut,
    /// The rows to look at closely; `None`: all.
    sampled: Option<HashSet<u32>>,
    precision: Option<Precision>,
    seen: Vec<bool>,
    found: Consistency,
}

impl<'a> Comparison<'a> {
    pub fn new(index: &'a Index, held_out: HeldOut, sample: Option<(usize, u64)>) -> Self {
        let live = index.live_ordinals();
        let sampled = sample.filter(|(rows, _)| *rows < live.len()).map(|(rows, seed)| {
            let chosen = Random::new(seed).sample(live.len(), rows);
            chosen.into_iter().map(|place| live[place as usize]).collect()
        });
        let kept = index.segment_indexes();
        let kept: Option<Vec<Precision>> =
            kept.iter().map(|index| index.kept().map(|kept| kept.precision())).collect();
        // The coarsest that there is.
        let precision =
            kept.map(|kept| if kept.contains(&Precision::F16) { Precision::F16 } else { Precision::F32 });
        let found = Consistency {
            index: String::new(),
            version: index.version(),
            source: String::new(),
            rows: live.len() as u64,
            source_rows: 0,
            filtered: 0,
            held_out: 0,
            missing: Differing::default(),
            orphaned: Differing::default(),
            duplicated: Differing::default(),
            precision: precision.map(Precision::name),
            compared: 0,
            vectors: Differing::default(),
            attributes: Differing::default(),
            refused: BTreeMap::new(),
        };
        Self { index, held_out, sampled, precision, seen: vec![false; index.rows()], found }
    }

    /// `told` hears of each row of the batch.
    pub fn push(&mut self, batch: &RowBatch, told: &mut dyn FnMut(u32, Verdict)) -> Result<(), Error> {
        let ids = RowIds::from_array(batch.ids.as_ref()).map_err(internal)?;
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        for row in 0..ids.len() as u32 {
            let id = ids.get(row);
            let vector = batch.vectors.row(row as usize);
            match self.index.ids().find(&id) {
                Some(ordinal) => {
                    self.seen[ordinal as usize] = true;
                    if self.sampled.as_ref().is_none_or(|sampled| sampled.contains(&ordinal)) {
                        pairs.push((row, ordinal));
                    } else {
                        told(row, Verdict::Same);
                    }
                }
                None if self.held_out.take(vector) => {
                    self.found.held_out += 1;
                    told(row, Verdict::HeldOut);
                }
                None => {
                    self.found.missing.add(|| id);
                    told(row, Verdict::Missing);
                }
            }
        }
        self.found.compared += pairs.len() as u64;
        let other_attributes = self.other_attributes(batch, &pairs)?;
        for (&(row, ordinal), other_attributes) in pairs.iter().zip(other_attributes) {
            let other_vector = self.is_other_vector(batch.vectors.row(row as usize), ordinal);
            if other_vector {
                self.found.vectors.add(|| ids.get(row));
            }
            if other_attributes {
                self.found.attributes.add(|| ids.get(row));
            }
            let differs = other_vector || other_attributes;
            told(row, if differs { Verdict::Differs(ordinal) } else { Verdict::Same });
        }
        Ok(())
    }

    fn is_other_vector(&self, vector: &[f32], ordinal: u32) -> bool {
        let (Some(precision), Some(kept)) = (self.precision, self.index.vector(ordinal)) else {
            return false;
        };
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        let tolerance = |value: f32| match precision {
            Precision::F32 => F32_TOLERANCE * length,
            // What rounding to f16 may cost: half a step of 2⁻¹⁰, or of the least numbers, 2⁻²⁴.
            Precision::F16 => F32_TOLERANCE * length + value.abs() / 2048.0 + 3e-8,
        };
        vector.iter().zip(&kept).any(|(&value, &kept)| (value - kept).abs() > tolerance(value))
    }

    /// Of each pair whether an attribute differs.
    fn other_attributes(&self, batch: &RowBatch, pairs: &[(u32, u32)]) -> Result<Vec<bool>, Error> {
        let mut differ = vec![false; pairs.len()];
        let Some(attributes) = self.index.attributes() else { return Ok(differ) };
        let (rows, ordinals): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
        let (rows, ordinals) = (UInt32Array::from(rows), UInt32Array::from(ordinals));
        let take =
            |column: &ArrayRef, places| arrow_select::take::take(column, places, None).map_err(internal);
        for (field, kept) in attributes.schema_ref().fields().iter().zip(attributes.columns()) {
            let Some(column) = batch.attributes.column_by_name(field.name()) else { continue };
            let column = arrow_cast::cast(column, field.data_type()).map_err(internal)?;
            let (given, kept) = (take(&column, &rows)?, take(kept, &ordinals)?);
            if given.to_data() != kept.to_data() {
                let other = |pair: usize| given.slice(pair, 1).to_data() != kept.slice(pair, 1).to_data();
                (0..differ.len()).for_each(|pair| differ[pair] |= other(pair));
            }
        }
        Ok(differ)
    }

    /// What was found, and the ordinals of rows that should not be there: orphans, and all but one of those that share an id.
    pub fn finish(
        mut self,
        index: &str,
        source: String,
        counts: source::RowCounts,
    ) -> (Consistency, Vec<u32>) {
        let ids = self.index.ids();
        let mut stray = Vec::new();
        for ordinal in self.index.live_ordinals() {
            if self.seen[ordinal as usize] {
                continue;
            }
            let id = ids.get(ordinal);
            match ids.find(&id) {
                Some(first) if first != ordinal => self.found.duplicated.add(|| id),
                _ => self.found.orphaned.add(|| id),
            }
            stray.push(ordinal);
        }
        let (index, source_rows, filtered) = (index.to_string(), counts.read, counts.filtered_out);
        let found =
            Consistency { index, source, source_rows, filtered, refused: counts.rejected, ..self.found };
        (found, stray)
    }
}
