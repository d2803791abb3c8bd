//! The order of a report's measuring: recall of each index, then rounds of timing of all of them by turns.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::ReportError;
use super::filters::{made_of_attributes, sweep_filters};
use super::header::{Header, Subject};
use super::measurements::{Gathered, Measure, Measurement, Measurements, Rows};
use super::recall::summarize;
use super::subject::{Base, Exact, GivenTruth, OpenSubject, label};
use super::sweep::{Queries, Setting, SweepParams, sweep_recall, time_rounds};
use super::truth::GroundTruth;
use crate::artifact::{Certificate, Digest};
use crate::compute::Compute;
use crate::loader::OpenOptions;

/// Neighbours that a computed truth has.
const TRUTH_K: usize = GroundTruth::DIGESTED;

/// What to measure with.
pub struct ReportSpec<'a> {
    pub queries: Queries<'a>,
    pub given: Option<&'a GivenTruth>,
    pub base: Option<&'a Base>,
    /// Conditions to measure under; none: made of the attributes.
    pub filters: Vec<String>,
    pub sweep: SweepParams,
    pub seed: u64,
    /// Filled in: machine, command, query set. Subjects are added.
    pub header: Header,
    /// Told what is being done, a line at a time.
    pub told: &'a dyn Fn(String),
}

/// Measures all subjects.
///
/// # Errors
/// No queries; those of another dimension; a given truth that is not true.
pub fn measure(
    subjects: &[OpenSubject],
    spec: ReportSpec<'_>,
    compute: &dyn Compute,
) -> Result<Measurements, ReportError> {
    let ReportSpec { queries, given, base, filters, sweep, seed, mut header, told } = spec;
    if queries.vectors.is_empty() {
        return Err(ReportError::NoQueries);
    }
    let digest = Digest::from(blake3::hash(bytemuck::cast_slice(queries.vectors.as_slice())));
    header.dataset.digest = digest.to_string();
    header.dataset.queries = queries.vectors.rows() as u64;
    header.dataset.dim = queries.vectors.dim() as u32;
    header.seed = seed;
    header.rounds = sweep.rounds;
    header.interleaved = true;
    let mut out = Gathered::default();
    let mut settings: Vec<Vec<Setting>> = Vec::new();
    for subject in subjects {
        told(format!("{}: recall", subject.name));
        record_facts(subject, &mut out);
        let rows = match subject.vectors(base) {
            Ok(rows) => Some(rows),
            Err(ReportError::NoVectors { .. }) if given.is_some() => {
                let name = &subject.name;
                header.notes.push(format!("{name} keeps no vectors: the ground truth was not checked, and ties are not counted as found"));
                None
            }
            Err(error) => return Err(error),
        };
        let rows = rows.as_ref().map(|rows| rows.view());
        let exact = Exact { queries: queries.vectors, rows, is_base: base.is_some(), k: TRUTH_K, seed };
        let truth = subject.truth(compute, &exact, given)?;
        let swept = sweep_recall(subject, &queries, &truth, rows, &sweep, &mut out);
        let filters =
            if filters.is_empty() { made_of_attributes(subject.index.attributes()) } else { filters.clone() };
        match sweep_filters(subject, &queries, &filters, &sweep, &mut out) {
            Err(ReportError::Query(crate::loader::QueryError::NoVectors)) => {
                header
                    .notes
                    .push(format!("{} keeps no vectors: it was not measured under filters", subject.name));
            }
            outcome => outcome?,
        }
        if let Some(note) = other_vectors(subject, &truth, &digest, base.is_some(), given.is_some()) {
            return Err(note);
        }
        let default = swept.settings.iter().find(|setting| setting.is_default);
        header.subjects.push(Subject {
            default_setting: default.map_or(String::new(), |setting| setting.label.clone()),
            worst_queries: swept.findings.worst_queries,
            hubs: swept.findings.hubs,
            skew: swept.findings.skew,
            ..described(subject)
        });
        settings.push(swept.settings);
    }
    let timed: Vec<(&OpenSubject, &[Setting])> =
        subjects.iter().zip(&settings).map(|(subject, settings)| (subject, &settings[..])).collect();
    let rounds = sweep.rounds;
    time_rounds(
        &timed,
        &queries,
        &sweep,
        &|round| told(format!("timing, round {} of {rounds}", round + 1)),
        &mut out,
    )?;
    header.created_unix_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Ok(Measurements { header, table: out.finish()? })
}

/// Where the certificate is of the same queries, and the exact neighbours were computed from f32 vectors here as there,
/// they are the same ones.
fn other_vectors(
    subject: &OpenSubject,
    truth: &GroundTruth,
    digest: &Digest,
    has_base: bool,
    is_given: bool,
) -> Option<ReportError> {
    let build = &subject.index.manifest().build;
    let certificate = build.certificate.as_ref()?;
    let ks_agree = certificate.k.last().is_some_and(|&k| k as usize == truth.k());
    let is_exact = has_base || !subject.keeps_f16();
    if certificate.query_set_digest != *digest || !ks_agree || is_given || !is_exact {
        return None;
    }
    let got = Digest::from(truth.digest(|ordinal| ordinal));
    (certificate.ground_truth_digest != got).then(|| ReportError::OtherVectors {
        index: subject.name.clone(),
        expected: certificate.ground_truth_digest.to_string(),
        got: got.to_string(),
    })
}

/// The first setting whose recall, with its interval, lies below what the certificate says of it, with its own.
pub fn below_certificate(
    measured: &Measurements,
    subject: &Subject,
    certificate: &Certificate,
) -> Option<ReportError> {
    let k = certificate.target_k;
    let mut recalls: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in Rows::of(&measured.table).iter() {
        if row.subject == subject.name
            && row.measure == Measure::Recall.name()
            && row.k == k
            && row.filter.is_empty()
        {
            recalls.entry(row.setting).or_default().push(row.value);
        }
    }
    let is_same = certificate.query_set_digest.to_string() == measured.header.dataset.digest;
    let advice = match is_same {
        true => {
            "; the queries are the certificate's: the index was damaged or changed after it was certified"
        }
        false => {
            "; the queries are not the certificate's: if they are meant to be harder, --allow-below-certificate"
        }
    };
    certificate.points.iter().find_map(|point| {
        let setting = label(&subject.effort_name, point.effort as usize, point.refine as usize);
        let certified = point.recall.iter().find(|recall| recall.k == k)?;
        let got = summarize(recalls.get(setting.as_str())?, k as usize);
        (got.high < certified.low).then(|| ReportError::BelowCertificate {
            index: subject.name.clone(),
            k,
            setting: setting.clone(),
            measured: got.mean,
            high: got.high,
            certified: certified.mean,
            low: certified.low,
            advice,
        })
    })
}

/// What the manifest and opening say.
fn record_facts(subject: &OpenSubject, out: &mut Gathered) {
    let of = |measure, value| Measurement::of(&subject.name, measure, value);
    let manifest = subject.index.manifest();
    for stage in &manifest.build.stages {
        out.push(Measurement { item: &stage.name, ..of(Measure::BuildWallS, stage.wall_ms / 1e3) });
        out.push(Measurement { item: &stage.name, ..of(Measure::BuildCpuS, stage.cpu_ms / 1e3) });
    }
    for file in manifest.folders().flat_map(|segment| &segment.files) {
        out.push(Measurement { item: &file.name, ..of(Measure::Bytes, file.size_bytes as f64) });
    }
    for (round, &ms) in subject.open_ms.iter().enumerate() {
        out.push(Measurement { round: round as u32, ..of(Measure::OpenMs, ms) });
    }
    if let Some(bytes) = subject.memory_bytes {
        out.push(of(Measure::MemoryBytes, bytes));
    }
    out.push(of(Measure::NeededBytes, OpenOptions::new().needed_bytes(manifest) as f64));
}

fn described(subject: &OpenSubject) -> Subject {
    let manifest = subject.index.manifest();
    let build = &manifest.build;
    let mut facts = vec![
        ("built by".to_string(), format!("annvil {}", build.annvil_version)),
        ("backend".into(), format!("{} ({})", build.backend.backend, build.backend.device)),
        ("seed".into(), build.seed.to_string()),
        ("metric".into(), build.metric.to_string()),
        ("dimensions".into(), build.dim.to_string()),
        ("segment".into(), manifest.segments.first().map_or(String::new(), |segment| segment.id.to_string())),
    ];
    facts.extend(build.inputs.iter().take(3).map(|input| ("input".into(), input.uri.clone())));
    Subject {
        name: subject.name.clone(),
        uri: subject.uri.clone(),
        version: Some(manifest.version),
        kind: build.kind.clone(),
        rows: manifest.live_rows(),
        effort_name: subject.index.effort_name().unwrap_or_default().into(),
        facts,
        is_ours: true,
        ..Subject::default()
    }
}
