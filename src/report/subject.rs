//! An index that is measured: opened, with the exact answers to the query set in its own numbering.

use std::time::Instant;

use arrow_cast::display::{ArrayFormatter, FormatOptions};

use super::error::ReportError;
use super::truth::GroundTruth;
use crate::compute::Compute;
use crate::index::SearchParams;
use crate::loader::{Index, OpenOptions};
use crate::vectors::{Metric, Neighbor, Neighbors, Random, RowId, VectorBuf, VectorView, normalize};

/// Queries whose given truth is computed again.
const CHECKED_QUERIES: usize = 256;

/// Rows by which it is told how vectors are kept.
const KEPT_ROWS: usize = 16;

/// By how much, relative to the k-th distance, a given neighbour may be farther than computed ones. Others compute in
/// f32, by products; …
const TOLERANCE: f64 = 1e-4;
/// … and an index that keeps its vectors as f16 compares others than they did.
const TOLERANCE_F16: f64 = 5e-3;

/// An index, opened, and what opening cost.
pub struct OpenSubject {
    pub name: String,
    pub uri: String,
    pub index: Index,
    pub open_ms: Vec<f64>,
    /// What the process grew by, where the system says.
    pub memory_bytes: Option<f64>,
}

/// Exact neighbours as a file gives them: by row id, `k` for each query.
pub struct GivenTruth {
    pub file: String,
    pub k: usize,
    pub neighbors: Vec<RowId>,
}

/// What exact neighbours are computed from and checked with.
#[derive(Debug, Clone, Copy)]
pub struct Exact<'a> {
    pub queries: VectorView<'a>,
    /// By ordinal; `None` where neither the index nor anyone else has them.
    pub rows: Option<VectorView<'a>>,
    /// Whether they are the rows themselves, and not what the index keeps of them.
    pub is_base: bool,
    /// Neighbours of a computed truth.
    pub k: usize,
    /// Of the sample that is checked.
    pub seed: u64,
}

impl OpenSubject {
    /// Opens the index `times` times, at least once, and keeps the first.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(name: &str, uri: &str, version: Option<u64>, times: usize) -> Result<Self, crate::Error> {
        let options = version.map_or(OpenOptions::new(), |version| OpenOptions::new().version(version));
        let before = resident_bytes();
        let open = || {
            let start = Instant::now();
            let index = options.open(uri)?;
            Ok::<_, crate::Error>((index, start.elapsed().as_secs_f64() * 1e3))
        };
        let (index, first_ms) = open()?;
        let memory_bytes = resident_bytes().zip(before).map(|(after, before)| (after - before).max(0.0));
        let mut open_ms = vec![first_ms];
        for _ in 1..times {
            open_ms.push(open()?.1);
        }
        Ok(Self { name: name.into(), uri: uri.into(), index, open_ms, memory_bytes })
    }

    /// All vectors by ordinal: of `base`, whose row ids are given, or as the index keeps them. Zeros for rows that were deleted.
    ///
    /// # Errors
    /// Neither; a row of the index that `base` has not.
    pub fn vectors(&self, base: Option<&Base>) -> Result<VectorBuf, ReportError> {
        let (rows, dim) = (self.index.rows(), self.index.dim());
        let mut data = Vec::with_capacity(rows * dim);
        let live = self.index.live();
        for ordinal in 0..rows as u32 {
            match base {
                _ if live.is_some_and(|live| !live.contains(ordinal)) => data.resize(data.len() + dim, 0.0),
                Some(base) => {
                    let id = self.index.ids().get(ordinal);
                    let row = base.find(&id).ok_or_else(|| ReportError::NotInBase {
                        index: self.name.clone(),
                        id: id.to_string(),
                        base: base.file.clone(),
                    })?;
                    data.extend_from_slice(base.vectors.row(row));
                }
                None => {
                    let vector = self.index.vector(ordinal);
                    let vector = vector.ok_or_else(|| ReportError::NoVectors { index: self.name.clone() })?;
                    data.extend_from_slice(&vector);
                }
            }
        }
        Ok(VectorBuf::new(data, dim))
    }

    /// The setting that a search uses which says nothing else.
    pub fn default_params(&self, k: usize) -> SearchParams {
        let build = &self.index.manifest().build;
        let ladder = || self.index.ladder(k)[0];
        build.search_defaults.map_or_else(ladder, |defaults| {
            let measured_k =
                build.certificate.as_ref().map_or(k, |certificate| certificate.target_k as usize);
            let effort = defaults.effort as usize;
            SearchParams { k: measured_k, effort, refine: defaults.refine as usize }.for_k(k)
        })
    }

    /// What the certificate measured, or would measure; or `efforts`. The default is among them.
    pub fn settings(&self, k: usize, efforts: &[usize]) -> Vec<SearchParams> {
        let ladder = self.index.ladder(k);
        let certificate = self.index.manifest().build.certificate.as_ref();
        let certificate = certificate.filter(|certificate| certificate.target_k as usize == k);
        let mut settings: Vec<SearchParams> = match (efforts, certificate) {
            ([], Some(certificate)) => {
                let points = certificate.points.iter();
                points
                    .map(|p| SearchParams { k, effort: p.effort as usize, refine: p.refine as usize })
                    .collect()
            }
            ([], None) => ladder,
            (efforts, _) => {
                let refine = |effort| ladder.iter().find(|s| s.effort >= effort).map_or(0, |s| s.refine);
                efforts.iter().map(|&effort| SearchParams { k, effort, refine: refine(effort) }).collect()
            }
        };
        settings.push(self.default_params(k));
        settings.sort_by_key(|setting| (setting.effort, setting.refine));
        settings.dedup();
        settings
    }

    pub fn label(&self, params: &SearchParams) -> String {
        label(self.index.effort_name().unwrap_or_default(), params.effort, params.refine)
    }

    /// A row's attributes, as `word=river, rank=590`.
    pub fn attributes_of(&self, ordinal: u32) -> String {
        let Some(batch) = self.index.attributes() else { return String::new() };
        let options = FormatOptions::default().with_null("null");
        let schema = batch.schema();
        let texts = batch.columns().iter().zip(schema.fields()).filter_map(|(column, field)| {
            let value =
                ArrayFormatter::try_new(column.as_ref(), &options).ok()?.value(ordinal as usize).to_string();
            let short: String = value.chars().take(60).collect();
            Some(format!("{}={short}", field.name()))
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    /// Whether the kept vectors are roundings to f16, or may as well be.
    pub fn keeps_f16(&self) -> bool {
        let is_f16 = |value: f32| half::f16::from_f32(value).to_f32() == value;
        let rows =
            (0..self.index.rows().min(KEPT_ROWS) as u32).map_while(|ordinal| self.index.vector(ordinal));
        let rows: Vec<Vec<f32>> = rows.collect();
        !rows.is_empty() && rows.iter().flatten().all(|&value| is_f16(value))
    }

    /// The exact neighbours of the queries: the given ones, checked on a sample, or else computed.
    ///
    /// # Errors
    /// A given truth that is not true, or of rows that the index does not have; what the backend refuses.
    pub fn truth(
        &self,
        compute: &dyn Compute,
        exact: &Exact<'_>,
        given: Option<&GivenTruth>,
    ) -> Result<GroundTruth, ReportError> {
        match (given, exact.rows) {
            (None, None) => Err(ReportError::NoVectors { index: self.name.clone() }),
            (None, Some(rows)) => self.nearest(compute, exact.queries, rows, exact.k),
            (Some(given), rows) => {
                let truth = self.numbered(given, exact.queries, rows)?;
                if let Some(rows) = rows {
                    self.check(compute, given, &truth, exact, rows)?;
                }
                Ok(GroundTruth::of(truth))
            }
        }
    }

    /// The nearest of the rows that are there; `rows` has all, by ordinal.
    fn nearest(
        &self,
        compute: &dyn Compute,
        queries: VectorView<'_>,
        rows: VectorView<'_>,
        k: usize,
    ) -> Result<GroundTruth, ReportError> {
        let metric = self.index.metric();
        if self.index.live().is_none() {
            return Ok(GroundTruth::compute(compute, queries, rows, metric, k)?);
        }
        let ordinals = self.index.live_ordinals();
        let there = rows.gather(&ordinals);
        Ok(GroundTruth::compute(compute, queries, there.view(), metric, k)?.numbered(&ordinals))
    }

    /// By ordinal, with exact distances; 0 where there are no vectors to compute them from.
    fn numbered(
        &self,
        given: &GivenTruth,
        queries: VectorView<'_>,
        rows: Option<VectorView<'_>>,
    ) -> Result<Neighbors, ReportError> {
        let metric = self.index.metric();
        let mut truth = Neighbors::new(queries.rows(), given.k);
        for (query, ids) in given.neighbors.chunks(given.k).take(queries.rows()).enumerate() {
            for (slot, id) in truth.row_mut(query).iter_mut().zip(ids) {
                let kind = self.index.ids().kind();
                let ordinal = id.to_kind(kind).and_then(|id| self.index.ids().find(&id));
                let ordinal = ordinal.ok_or_else(|| ReportError::UnknownRow {
                    file: given.file.clone(),
                    query,
                    id: id.to_string(),
                    index: self.name.clone(),
                })?;
                let distance = rows.map_or(0.0, |rows| {
                    metric.distance(queries.row(query), rows.row(ordinal as usize)) as f32
                });
                *slot = Neighbor::new(ordinal, distance);
            }
            let row = truth.row_mut(query);
            row.sort_unstable();
            if row.windows(2).any(|pair| pair[0].ordinal == pair[1].ordinal) {
                let got = "a row twice".into();
                return Err(ReportError::WrongTruth { file: given.file.clone(), query, got });
            }
        }
        Ok(truth)
    }

    /// Each given neighbour of a sampled query is at most as far as the k-th computed one.
    fn check(
        &self,
        compute: &dyn Compute,
        given: &GivenTruth,
        truth: &Neighbors,
        exact: &Exact<'_>,
        rows: VectorView<'_>,
    ) -> Result<(), ReportError> {
        let Exact { queries, is_base, seed, .. } = *exact;
        let tolerance = if is_base || !self.keeps_f16() { TOLERANCE } else { TOLERANCE_F16 };
        let count = CHECKED_QUERIES.min(queries.rows());
        let sample = Random::new(seed).sample(queries.rows(), count);
        let sampled = queries.gather(&sample);
        let k = given.k.min(self.index.live_rows());
        let exact = self.nearest(compute, sampled.view(), rows, k)?;
        for (place, &query) in sample.iter().enumerate() {
            let kth = f64::from(exact.row(place)[k - 1].distance);
            let span = (kth - f64::from(exact.row(place)[0].distance)).abs();
            let limit = kth + tolerance * kth.abs().max(span).max(f64::MIN_POSITIVE);
            let last = truth.row(query as usize)[k - 1];
            if f64::from(last.distance) > limit {
                let id = self.index.ids().get(last.ordinal);
                let got = format!("row {id} at distance {}, where {k} rows are within {kth}", last.distance);
                return Err(ReportError::WrongTruth { file: given.file.clone(), query: query as usize, got });
            }
        }
        Ok(())
    }
}

/// Rows that the exact neighbours are computed from, where an index keeps none or only roundings.
pub struct Base {
    pub file: String,
    /// For cosine, normalised.
    pub vectors: VectorBuf,
    places: std::collections::HashMap<RowId, usize>,
}

impl Base {
    /// Of ids in the order of the rows, normalised for cosine.
    pub fn new(
        file: String,
        mut vectors: VectorBuf,
        ids: impl Iterator<Item = RowId>,
        metric: Metric,
    ) -> Self {
        if metric == Metric::Cosine {
            let dim = vectors.dim();
            vectors.as_mut_slice().chunks_exact_mut(dim).for_each(|row| {
                normalize(row);
            });
        }
        Self { file, vectors, places: ids.enumerate().map(|(row, id)| (id, row)).collect() }
    }

    fn find(&self, id: &RowId) -> Option<usize> {
        use crate::vectors::RowIdKind;
        let kinds = [id.kind(), RowIdKind::Int64, RowIdKind::UInt64];
        kinds.iter().find_map(|&kind| self.places.get(&id.to_kind(kind)?).copied())
    }
}

/// `ef_search 48`, `nprobe 8, refine 400`, `exact`.
pub fn label(effort_name: &str, effort: usize, refine: usize) -> String {
    match (effort_name, refine) {
        ("", _) => "exact".into(),
        (name, 0) => format!("{name} {effort}"),
        (name, refine) => format!("{name} {effort}, refine {refine}"),
    }
}

/// The resident set of this process.
fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096.0)
}
