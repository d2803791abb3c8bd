//! The manifest: what a version consists of, what it was made from, and what was measured of it. One JSON file for each
//! version, created once and never changed.
//!
//! The file is sealed: it begins with the BLAKE3 of the rest, so that any byte that differs from what was published is
//! noticed before a word of it is believed. FORMAT.md has it byte by byte.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::checksums::CHECKSUMS_FILE;
use super::names::{NameError, check_file_name, check_index_name};
use super::{Certificate, Digest, SearchDefaults};
use crate::vectors::Metric;

/// `major.minor` of what this code writes for a version that any reader of its major reads rightly: fields that one does
/// not know are passed over. Another major is refused by name.
pub const MANIFEST_FORMAT: &str = "1.2";
/// The format of a version that asks something of its reader, see [`Manifest::requires`].
pub const MANIFEST_FORMAT_WITH_REQUIREMENTS: &str = "2.0";
/// What [`Manifest::requires`] may ask of this code.
pub const KNOWN_REQUIREMENTS: &[&str] = &[TOMBSTONES];
const TOMBSTONES: &str = "tombstones";
/// A manifest is read whole before it can be checked, so its size has a bound. 100,000 inputs take about 20 MB.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

const SEAL_START: &[u8] = b"{\"blake3\":\"";
const SEAL_MIDDLE: &[u8] = b"\",\"manifest\":\n";
const SEAL_END: &[u8] = b"\n}\n";
const HEX_DIGITS: usize = 64;

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ManifestError {
    #[error("not a manifest: expected {expected} at byte {at}, got {got}")]
    Seal { at: usize, expected: String, got: String },
    #[error("the manifest's bytes are not those that were published: expected blake3 {expected}, got {got}")]
    Digest { expected: Digest, got: Digest },
    #[error("the manifest's JSON is not what was expected: {what}")]
    Json { what: String },
    #[error("manifest format {got} is not supported: this version of annvil reads {supported}")]
    Format { supported: String, got: String },
    #[error("the manifest requires `{got}`, which this version of annvil does not know: it knows {known}")]
    Requires { known: String, got: String },
    #[error("the private part was not encrypted for index `{index}` and the files that are named beside it")]
    Private { index: String },
    #[error("{field}: expected {expected}, got {got}")]
    Content { field: String, expected: String, got: String },
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A version of an index: where it stands, what it consists of, and what its build says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `major.minor`
    pub format_version: String,
    pub index_name: String,
    /// From 1.
    pub version: u64,
    pub created_unix_ms: u64,
    /// Drawn at random by the publisher: tells its own manifest from another's when a store's answer was lost.
    pub publish_id: String,
    /// For a rollback, the version that was the latest until then, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<u64>,
    /// … and the older version whose segments, build and certificate this one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// What a reader must know to read this version rightly. In format 2 only, which one that does not look for it refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// At least one; `rows` of them add up to the build's. Ordinals are numbered through, segment after segment.
    pub segments: Vec<SegmentRef>,
    /// The files that say which rows are no longer there; `rows` of them, fewer than the segments have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstones: Option<SegmentRef>,
    /// How this version was made of an older one, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    #[serde(flatten)]
    pub build: ManifestDraft,
}

/// How a version was made of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `append`, `replace`, `delete`, `sync`, `compact`.
    pub operation: String,
    /// The version that was the latest until then.
    pub from: u64,
    /// Rows that came, and that went.
    pub added: u64,
    pub removed: u64,
    /// How much farther from their centroids the rows lie that were added since the last training than those of the
    /// training: the ratio of mean squared distances, for families that have centroids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    /// Rows added since centroids and codebooks were learned, for families that have them.
    #[serde(default)]
    pub added_since_training: u64,
}

/// What a build says of itself: the part of a manifest that does not depend on where and when it is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestDraft {
    pub annvil_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// The index family: `flat`, `ivf_pq`, `hnsw`.
    pub kind: String,
    pub metric: Metric,
    pub dim: u32,
    /// Of all segments together, tombstones or not.
    pub rows: u64,
    /// The job, normalised: every default written out.
    pub job: serde_json::Value,
    pub seed: u64,
    pub inputs: Vec<Input>,
    pub row_counts: RowCounts,
    pub backend: Backend,
    #[serde(default)]
    pub training: Vec<Training>,
    /// What the family has to say of what it built: parameters with every default resolved, sizes, repairs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub built: serde_json::Value,
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The largest resident set of the build's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// What was expected before the first row was read, to be compared with what it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Planned>,
    #[serde(default)]
    pub attributes: Vec<AttributeSummary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_defaults: Option<SearchDefaults>,
}

/// One immutable index over one set of rows: files under `seg/<id>/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// [`segment_id`] of the files.
    pub id: Digest,
    pub rows: u64,
    /// Ascending by name.
    pub files: Vec<FileRef>,
    /// The file among them that has the block checksums of the others.
    pub checksums: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    pub name: String,
    pub size_bytes: u64,
    pub blake3: Digest,
}

/// One object that rows were read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub uri: String,
    pub size_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_tag: Option<String>,
    pub rows: u64,
}

/// `read = filtered + kept + held_out + rejected`, where `kept` are the rows of the index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    pub read: u64,
    /// Rows that the job's `where` left out.
    pub filtered: u64,
    pub kept: u64,
    /// Rows drawn as queries.
    #[serde(default)]
    pub held_out: u64,
    /// Rows that cannot be indexed, by reason (`null_vector`, `not_finite`, …).
    pub rejected: BTreeMap<String, u64>,
}

/// What computed: see `compute::BackendInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// `reference`, `cpu` or `gpu`.
    pub backend: String,
    /// The instruction set, or the adapter and its API.
    pub device: String,
}

/// The loss of each iteration of one training, e.g. of `coarse` centroids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    pub name: String,
    pub loss: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub wall_ms: f64,
    /// Of all threads together.
    pub cpu_ms: f64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Done by an earlier run of the job that was killed, and taken from its scratch: the costs are that run's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// What the stage's device did; none where there was none, or nothing to do for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceCost>,
}

/// What a device did for a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceCost {
    pub uploaded_bytes: u64,
    pub downloaded_bytes: u64,
    /// By time, the longest first; empty where the device has no clock.
    pub kernels: Vec<KernelCost>,
}

/// All runs of a kernel, by the device's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelCost {
    pub name: String,
    pub runs: u64,
    /// Of all runs together.
    pub ms: f64,
    /// 10⁹ operations a second, two to a multiply-add, by the kernel's formula.
    pub gflops: f64,
    /// 10⁹ bytes a second: every input once, every result once, by the kernel's formula.
    pub gb_per_s: f64,
}

/// What a plan expected of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Beside [`ManifestDraft::peak_memory_bytes`].
    pub peak_memory_bytes: u64,
    /// Beside the stage `read`.
    pub read_bytes: u64,
    /// Beside the sizes of this index's files.
    pub index_bytes: u64,
}

/// One attribute column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeSummary {
    pub name: String,
    /// As Arrow names it.
    pub data_type: String,
    pub nulls: u64,
    /// Distinct values, nulls apart; an estimate where the summary says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u64>,
    /// Least and greatest number, date or timestamp, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
}

impl ManifestDraft {
    /// A draft that says what was built and nothing of how.
    pub fn new(kind: &str, metric: Metric, dim: u32, rows: u64) -> Self {
        Self {
            annvil_version: env!("CARGO_PKG_VERSION").into(),
            git_commit: None,
            kind: kind.into(),
            metric,
            dim,
            rows,
            job: serde_json::Value::Null,
            seed: 0,
            inputs: Vec::new(),
            row_counts: RowCounts { read: rows, kept: rows, ..Default::default() },
            backend: Backend { backend: String::new(), device: String::new() },
            training: Vec::new(),
            built: serde_json::Value::Null,
            stages: Vec::new(),
            peak_memory_bytes: None,
            planned: None,
            attributes: Vec::new(),
            certificate: None,
            search_defaults: None,
        }
    }
}

/// BLAKE3 over the segment's file list: the text `annvil segment 1\n`, then of each file, ascending by name, the
/// name's length (u32) and bytes, the file's size (u64) and its BLAKE3.
pub fn segment_id(files: &[FileRef]) -> Digest {
    let mut sorted: Vec<&FileRef> = files.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"annvil segment 1\n");
    for FileRef { name, size_bytes, blake3 } in sorted {
        hasher.update(&(name.len() as u32).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&size_bytes.to_le_bytes());
        hasher.update(blake3.as_bytes());
    }
    hasher.finalize().into()
}

impl SegmentRef {
    /// A segment of these files, in any order.
    pub fn new(rows: u64, mut files: Vec<FileRef>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Self { id: segment_id(&files), rows, files, checksums: CHECKSUMS_FILE.into() }
    }

    pub fn file(&self, name: &str) -> Option<&FileRef> {
        self.files.iter().find(|file| file.name == name)
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_files(&self.id, &self.files)?;
        if self.file(&self.checksums).is_none() {
            let what = format!("checksums of segment {}", self.id);
            return Err(content(what, "one of its files", format!("`{}`", self.checksums)));
        }
        let id = segment_id(&self.files);
        if id != self.id {
            return Err(content("segment id".into(), id, self.id));
        }
        Ok(())
    }
}

/// Names that can be, each once.
pub(super) fn check_files(id: &Digest, files: &[FileRef]) -> Result<(), ManifestError> {
    let mut names = HashSet::new();
    for file in files {
        check_file_name(&file.name)?;
        if !names.insert(&file.name) {
            let what = format!("files of segment {id}");
            return Err(content(what, "distinct names", format!("`{}` twice", file.name)));
        }
    }
    Ok(())
}

pub(super) fn content(field: String, expected: impl ToString, got: impl ToString) -> ManifestError {
    ManifestError::Content { field, expected: expected.to_string(), got: got.to_string() }
}

impl Manifest {
    /// The same with the format, and the requirements, that its contents ask for.
    #[must_use]
    pub fn with_its_format(mut self) -> Self {
        self.requires = self.tombstones.iter().map(|_| TOMBSTONES.to_string()).collect();
        self.format_version = match self.requires[..] {
            [] => MANIFEST_FORMAT.into(),
            _ => MANIFEST_FORMAT_WITH_REQUIREMENTS.into(),
        };
        self
    }

    /// Everything under `seg/` that this version names: the segments, then the tombstones.
    pub fn folders(&self) -> impl Iterator<Item = &SegmentRef> {
        self.segments.iter().chain(&self.tombstones)
    }

    /// Rows that are no tombstones.
    pub fn live_rows(&self) -> u64 {
        self.build.rows - self.tombstones.as_ref().map_or(0, |tombstones| tombstones.rows)
    }

    /// The sealed file.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let json = serde_json::to_vec_pretty(self).map_err(json_error)?;
        // What cannot be read back is not written: a NaN, which JSON has no word for, ends here and not at a reader.
        Self::decode_json(&json)?;
        Ok(seal(&json))
    }

    /// The manifest of `index_name`'s version `version` from its file's bytes, checked against both.
    pub fn decode(file: &[u8], index_name: &str, version: u64) -> Result<Self, ManifestError> {
        let manifest = Self::decode_json(unseal(file)?)?;
        if manifest.index_name != index_name {
            return Err(content("index_name".into(), index_name, manifest.index_name));
        }
        if manifest.version != version {
            return Err(content("version".into(), version, manifest.version));
        }
        Ok(manifest)
    }

    pub(super) fn decode_json(json: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Format {
            format_version: String,
        }
        #[derive(Deserialize)]
        struct Requirements {
            #[serde(default)]
            requires: Vec<String>,
        }
        // First of all, since another major may have changed anything else.
        let Format { format_version } = serde_json::from_slice(json).map_err(json_error)?;
        let major = |format: &str| format.split('.').next().map(str::to_string);
        let supported = [MANIFEST_FORMAT, MANIFEST_FORMAT_WITH_REQUIREMENTS];
        if !supported.iter().any(|format| major(format) == major(&format_version)) {
            let supported = supported.join(" and ");
            return Err(ManifestError::Format { supported, got: format_version });
        }
        // Then this: what a reader does not know it cannot check.
        let Requirements { requires } = serde_json::from_slice(json).map_err(json_error)?;
        if let Some(got) = requires.into_iter().find(|name| !KNOWN_REQUIREMENTS.contains(&name.as_str())) {
            return Err(ManifestError::Requires { known: KNOWN_REQUIREMENTS.join(", "), got });
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(json_error)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_index_name(&self.index_name)?;
        if self.version == 0 {
            return Err(content("version".into(), "at least 1", 0));
        }
        if self.segments.is_empty() {
            return Err(content("segments".into(), "at least one", "none"));
        }
        self.folders().try_for_each(SegmentRef::check)?;
        let rows = self.segments.iter().try_fold(0u64, |rows, segment| rows.checked_add(segment.rows));
        if rows != Some(self.build.rows) {
            let got = rows.map_or("more than can be counted".into(), |rows| rows.to_string());
            return Err(content("rows of the segments together".into(), self.build.rows, got));
        }
        self.check_tombstones()?;
        self.build.certificate.as_ref().map_or(Ok(()), check_certificate)
    }

    fn check_tombstones(&self) -> Result<(), ManifestError> {
        let is_required = self.requires.iter().any(|name| name == TOMBSTONES);
        if is_required != self.tombstones.is_some() {
            let told = |has: bool| if has { "tombstones" } else { "no tombstones" };
            return Err(content("requires".into(), told(self.tombstones.is_some()), told(is_required)));
        }
        match &self.tombstones {
            Some(SegmentRef { rows, .. }) if *rows == 0 || *rows >= self.build.rows => {
                let expected = format!("1 or more, and fewer than the {} rows", self.build.rows);
                Err(content("tombstones.rows".into(), expected, rows))
            }
            _ => Ok(()),
        }
    }
}

/// A recall for every k, of which there is at least one.
fn check_certificate(certificate: &Certificate) -> Result<(), ManifestError> {
    let expected = certificate.k.len();
    if expected == 0 {
        return Err(content("certificate.k".into(), "at least one", "none"));
    }
    match certificate.points.iter().position(|point| point.recall.len() != expected) {
        Some(at) => {
            let got = certificate.points[at].recall.len();
            Err(content(format!("recalls of certificate.points[{at}]"), expected, got))
        }
        None => Ok(()),
    }
}

pub(super) fn json_error(error: serde_json::Error) -> ManifestError {
    ManifestError::Json { what: error.to_string() }
}

pub(super) fn seal(json: &[u8]) -> Vec<u8> {
    let digest = Digest::of(json).to_string();
    [SEAL_START, digest.as_bytes(), SEAL_MIDDLE, json, SEAL_END].concat()
}

/// The sealed bytes, if they are what was sealed.
pub(super) fn unseal(file: &[u8]) -> Result<&[u8], ManifestError> {
    let rest = expect(file, 0, SEAL_START)?;
    let (digits, rest) = rest.split_at_checked(HEX_DIGITS).unwrap_or((rest, &[]));
    let at = SEAL_START.len();
    let expected =
        std::str::from_utf8(digits).ok().and_then(Digest::from_hex).ok_or_else(|| ManifestError::Seal {
            at,
            expected: format!("{HEX_DIGITS} lower-case hexadecimal digits"),
            got: quoted(digits),
        })?;
    let rest = expect(rest, at + HEX_DIGITS, SEAL_MIDDLE)?;
    let end_at = rest.len().saturating_sub(SEAL_END.len());
    let (json, end) = rest.split_at(end_at);
    if end != SEAL_END {
        let at = file.len() - end.len();
        return Err(ManifestError::Seal { at, expected: quoted(SEAL_END), got: quoted(end) });
    }
    let got = Digest::of(json);
    if got == expected { Ok(json) } else { Err(ManifestError::Digest { expected, got }) }
}

fn expect<'a>(bytes: &'a [u8], at: usize, expected: &[u8]) -> Result<&'a [u8], ManifestError> {
    bytes.strip_prefix(expected).ok_or_else(|| ManifestError::Seal {
        at,
        expected: quoted(expected),
        got: quoted(&bytes[..bytes.len().min(expected.len())]),
    })
}

fn quoted(bytes: &[u8]) -> String {
    if bytes.is_empty() { "the end of the file".into() } else { format!("`{}`", bytes.escape_ascii()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{CertificatePoint, Latency, Recall};

    fn manifest() -> Manifest {
        let file =
            |name: &str| FileRef { name: name.into(), size_bytes: 9, blake3: Digest::of(name.as_bytes()) };
        let mut build = ManifestDraft::new("flat", Metric::Cosine, 3, 5);
        build.job = serde_json::json!({ "index": { "kind": "flat" }, "seed": u64::MAX });
        build.certificate = Some(certificate());
        build.training.push(Training { name: "coarse".into(), loss: vec![2.5, 1.25] });
        build.row_counts.rejected.insert("not_finite".into(), 2);
        Manifest {
            format_version: MANIFEST_FORMAT.into(),
            index_name: "glove".into(),
            version: 7,
            created_unix_ms: 1_700_000_000_000,
            publish_id: "00ff".into(),
            rolled_back_from: None,
            restores: None,
            requires: Vec::new(),
            segments: vec![SegmentRef::new(5, vec![file("vectors.safetensors"), file(CHECKSUMS_FILE)])],
            tombstones: None,
            change: None,
            build,
        }
    }

    /// Of one setting, at one k.
    fn certificate() -> Certificate {
        let recall = Recall { k: 10, mean: 0.9, low: 0.8, high: 1.0 };
        let latency_us = Latency { p50: 1.0, p95: 2.0, p99: 3.0 };
        Certificate {
            query_set_digest: Digest::of(b"queries"),
            queries: 1,
            ground_truth_digest: Digest::of(b"truth"),
            k: vec![10],
            points: vec![CertificatePoint {
                effort: 1,
                refine: 0,
                recall: vec![recall],
                latency_us,
                qps: 1.0,
            }],
            target_k: 10,
            target_recall: 0.9,
            gate: None,
            chosen_effort: 1,
            chosen_refine: 0,
        }
    }

    /// As a writer that knows nothing of our checks would.
    fn sealed(manifest: &Manifest) -> Vec<u8> {
        seal(&serde_json::to_vec(manifest).unwrap())
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_and_is_plain_json() {
        let file = manifest().encode().unwrap();
        assert_eq!(Manifest::decode(&file, "glove", 7), Ok(manifest()));
        let json: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(json["manifest"]["metric"], "cosine");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let mut file = manifest().encode().unwrap();
        for at in 0..file.len() {
            for bit in 0..8 {
                file[at] ^= 1 << bit;
                let error = Manifest::decode(&file, "glove", 7).expect_err("a flipped bit");
                assert!(
                    matches!(error, ManifestError::Seal { .. } | ManifestError::Digest { .. }),
                    "{error}"
                );
                file[at] ^= 1 << bit;
            }
            assert!(Manifest::decode(&file[..at], "glove", 7).is_err(), "cut at {at}");
        }
        file.push(b'\n');
        assert!(Manifest::decode(&file, "glove", 7).is_err());
    }

    #[test]
    fn a_manifest_in_anothers_place_is_named() {
        let file = manifest().encode().unwrap();
        for (index, version, field) in [("glove", 8, "version"), ("minilm", 7, "index_name")] {
            let error = Manifest::decode(&file, index, version).unwrap_err();
            assert!(matches!(&error, ManifestError::Content { field: got, .. } if got == field), "{error}");
        }
    }

    #[test]
    fn a_newer_minor_is_read_and_a_newer_major_is_refused_by_name() {
        let mut json = serde_json::to_value(manifest()).unwrap();
        json["format_version"] = "1.7".into();
        json["certified_by"] = "a later annvil".into();
        json["segments"][0]["compression"] = "none".into();
        let read = Manifest::decode(&seal(json.to_string().as_bytes()), "glove", 7).unwrap();
        assert_eq!(Manifest { format_version: MANIFEST_FORMAT.into(), ..read }, manifest());

        let future = seal(br#"{"format_version":"3.0","everything":"else"}"#);
        let error = Manifest::decode(&future, "glove", 7).unwrap_err();
        let supported = format!("{MANIFEST_FORMAT} and {MANIFEST_FORMAT_WITH_REQUIREMENTS}");
        assert_eq!(error, ManifestError::Format { supported, got: "3.0".into() });
    }

    #[test]
    fn tombstones_make_a_manifest_that_a_reader_of_format_1_refuses() {
        let file =
            |name: &str| FileRef { name: name.into(), size_bytes: 9, blake3: Digest::of(name.as_bytes()) };
        let tombstones = SegmentRef::new(2, vec![file("tombstones.safetensors"), file(CHECKSUMS_FILE)]);
        let dead = Manifest { tombstones: Some(tombstones), ..manifest() }.with_its_format();
        assert_eq!((dead.format_version.as_str(), dead.live_rows(), dead.folders().count()), ("2.0", 3, 2));
        let read = Manifest::decode(&dead.encode().unwrap(), "glove", 7).unwrap();
        assert_eq!(read, dead);
        let again = Manifest { tombstones: None, ..read }.with_its_format();
        assert_eq!(again, manifest());

        let silent = Manifest { requires: Vec::new(), ..dead.clone() };
        assert!(
            matches!(silent.encode(), Err(ManifestError::Content { .. })),
            "tombstones that nobody requires"
        );
        for rows in [0, 5, u64::MAX] {
            let mut all = dead.clone();
            all.tombstones.as_mut().unwrap().rows = rows;
            assert!(
                matches!(all.encode(), Err(ManifestError::Content { .. })),
                "{rows} tombstones of 5 rows"
            );
        }
        let unknown = Manifest { requires: vec!["tombstones".into(), "sealing".into()], ..dead };
        let error = Manifest::decode(&sealed(&unknown), "glove", 7).unwrap_err();
        assert_eq!(error, ManifestError::Requires { known: "tombstones".into(), got: "sealing".into() });
    }

    #[test]
    fn contents_that_contradict_themselves_are_refused() {
        let cases: [fn(&mut Manifest); 10] = [
            |m| m.build.certificate = Some(Certificate { k: vec![], ..certificate() }),
            |m| m.build.certificate = Some(Certificate { k: vec![1, 10], ..certificate() }),
            |m| m.version = 0,
            |m| m.index_name = "../glove".into(),
            |m| m.segments.clear(),
            |m| m.build.rows = 6,
            |m| m.segments[0].id = Digest::of(b"another"),
            |m| m.segments[0].files[0].size_bytes += 1,
            |m| m.segments[0] = SegmentRef::new(5, m.segments[0].files[1..].to_vec()),
            |m| {
                let mut files = m.segments[0].files.clone();
                files[1].name = "../../passwd".into();
                m.segments[0] = SegmentRef::new(5, files);
            },
        ];
        for (case, spoil) in cases.iter().enumerate() {
            let mut spoilt = manifest();
            spoil(&mut spoilt);
            assert!(spoilt.encode().is_err(), "case {case}");
            assert!(
                Manifest::decode(&sealed(&spoilt), &spoilt.index_name, spoilt.version).is_err(),
                "case {case}"
            );
        }
        let twice = manifest().segments.remove(0);
        let both =
            Manifest { segments: vec![twice.clone(), SegmentRef { rows: u64::MAX, ..twice }], ..manifest() };
        assert!(both.encode().is_err(), "rows that overflow");
    }

    #[test]
    fn a_number_that_json_cannot_say_is_not_written() {
        let mut with_nan = manifest();
        with_nan.build.training[0].loss.push(f64::NAN);
        assert!(matches!(with_nan.encode(), Err(ManifestError::Json { .. })));
    }

    #[test]
    fn every_number_is_read_as_it_was_written() {
        let mut random = crate::vectors::Random::new(5);
        let mut numbers = manifest();
        numbers.build.training[0].loss = (0..1000).map(|_| random.unit()).collect();
        assert_eq!(Manifest::decode(&numbers.encode().unwrap(), "glove", 7), Ok(numbers));
    }

    #[test]
    fn a_segment_id_depends_on_every_name_size_and_digest_and_on_no_order() {
        let files = manifest().segments.remove(0).files;
        let id = segment_id(&files);
        assert_eq!(segment_id(&[files[1].clone(), files[0].clone()]), id);
        let changes: [fn(&mut FileRef); 3] =
            [|f| f.name.push('x'), |f| f.size_bytes += 1, |f| f.blake3 = Digest::of(b"")];
        for change in changes {
            let mut changed = files.clone();
            change(&mut changed[1]);
            assert_ne!(segment_id(&changed), id);
        }
        assert_ne!(segment_id(&files[..1]), id);
    }
}
