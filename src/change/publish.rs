//! What all changes share: over the latest version, certified, put as the next; again where another publisher was faster.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::base::Base;
use super::certify::certify_segments;
use super::segment::NewSegment;
use super::summary::{ChangeSummary, Changed, PublishedChange};
use super::truth::{Known, nearest_in};
use super::{ChangeError, Workplace};
use crate::artifact::neighbors::{self, NEIGHBORS_KEPT};
use crate::artifact::queries::QUERIES_FILE;
use crate::artifact::tombstones::Tombstones;
use crate::artifact::{
    AttributeSummary, Backend, Change, Gate, Input, ManifestDraft, SearchDefaults, SegmentRef, safetensors,
};
use crate::error::Error;
use crate::job::{Ledger, StageCost, peak_memory_bytes};
use crate::loader::{Segments, effort_name};
use crate::report::{Certified, CertifyParams};
use crate::source::{Dataset, RowCounts};
use crate::store::{NextVersion, StagedSegment};
use crate::vectors::{Neighbors, VectorBuf};

/// A change that was overtaken this often gives up.
const MAX_ATTEMPTS: u32 = 1_000;

/// What is to be done with the latest version.
pub(super) struct Step {
    pub operation: &'static str,
    /// Rows of the base that go, among others perhaps that are gone already.
    pub dead: BTreeSet<u32>,
    pub new: Option<NewSegment>,
    /// In place of all segments of the base, where `new` has their rows.
    pub replaces_all: bool,
    /// Rows that `new` has and the base had not.
    pub added: u64,
    pub origin: Option<Origin>,
    pub drift: Option<f64>,
}

impl Step {
    fn added_since_training(&self, base: &Base) -> u64 {
        let is_trained = self.new.as_ref().is_some_and(|new| new.training.is_some());
        if self.replaces_all && is_trained {
            return 0;
        }
        let before = base.manifest().change.as_ref().map_or(0, |change| change.added_since_training);
        before + self.added
    }
}

/// What the manifest says of the new segment's rows.
#[derive(Clone)]
pub(super) struct Origin {
    counts: RowCounts,
    inputs: Vec<Input>,
    attributes: Vec<AttributeSummary>,
}

impl Origin {
    pub fn of(rows: &Dataset) -> Result<Self, Error> {
        let input = |input: &crate::source::InputFile| Input {
            uri: input.uri.clone(),
            size_bytes: input.size_bytes,
            e_tag: input.e_tag.clone(),
            rows: input.rows,
        };
        let summary = |summary: crate::source::AttributeSummary| AttributeSummary {
            name: summary.name,
            data_type: summary.data_type,
            nulls: summary.nulls,
            distinct: summary.distinct,
            min: summary.min,
            max: summary.max,
        };
        Ok(Self {
            counts: rows.counts.clone(),
            inputs: rows.inputs.iter().map(input).collect(),
            attributes: rows.attribute_summary()?.into_iter().map(summary).collect(),
        })
    }
}

impl Workplace<'_> {
    /// Makes a change over the latest version, and again over a later one until it is published. `step` says what is to be
    /// done, if there is anything; `again` is told what was certified, and may ask for another step.
    pub fn publish(
        &self,
        mut ledger: Ledger,
        mut step: impl FnMut(&Base, &mut Ledger) -> Result<Option<Step>, Error>,
        mut again: impl FnMut(&Certified) -> bool,
    ) -> Result<ChangeSummary, Error> {
        for _ in 0..MAX_ATTEMPTS {
            self.progress.check()?;
            let base = ledger.enter("open", |_| Base::open(self))?;
            self.check_version(base.manifest().version)?;
            let Some(mut step) = step(&base, &mut ledger)? else {
                let outcome = Changed::Unchanged { version: base.manifest().version };
                return Ok(self.summary(&ledger, outcome));
            };
            let layout = Layout::of(&base, &step)?;
            let mut params = self.certify_params(&base);
            if step.replaces_all {
                params.near = None;
            }
            let segments = layout.segments(&base, &step);
            let certified = ledger.enter("certify", |_| {
                let (queries, known) = self.known(&base, &mut step, &layout)?;
                certify_segments(self, &segments, (queries.view(), &known), &params)
            })?;
            if again(&certified) {
                continue;
            }
            self.check_gate(&certified)?;
            let next = self.next(&base, &mut step, layout, certified, &ledger)?;
            let published = ledger.enter("publish", |moved| {
                let published = self.store.publish_after(&next)?;
                moved.written = published.iter().map(|published| published.bytes_written).sum();
                Ok::<_, Error>(published)
            })?;
            if let Some(published) = published {
                let effort = effort_name(&published.manifest.build.kind);
                let change = PublishedChange::of(&published.manifest, published.bytes_written, effort);
                return Ok(self.summary(&ledger, Changed::Published(Box::new(change))));
            }
            if self.options.expect_version.is_some() {
                self.check_version(self.store.latest()?.unwrap_or_default())?;
            }
            self.progress.note("another version was published meanwhile: once more, over that one");
        }
        Err(ChangeError::Overtaken { index: self.store.name().into(), attempts: MAX_ATTEMPTS }.into())
    }

    /// That what is changed is what whoever asked for the change has seen.
    fn check_version(&self, got: u64) -> Result<(), ChangeError> {
        match self.options.expect_version {
            Some(expected) if expected != got => {
                Err(ChangeError::Version { index: self.store.name().into(), expected, got })
            }
            _ => Ok(()),
        }
    }

    /// The queries that a change is certified with, and what is known of their neighbours; those of the new segment are kept
    /// beside it.
    fn known(&self, base: &Base, step: &mut Step, layout: &Layout) -> Result<(VectorBuf, Known), Error> {
        let queries = base.queries.view();
        let mut known: Vec<Option<&Neighbors>> =
            layout.places.iter().map(|&place| base.known[place].as_ref()).collect();
        let mut own = None;
        if let Some(new) = &mut step.new {
            let depth = NEIGHBORS_KEPT.min(new.index.rows());
            let found = &*own.insert(nearest_in(self, &*new.index, None, queries, depth)?);
            let digest = neighbors::digest_of(queries.as_slice());
            let encoded = safetensors::encode(&neighbors::to_section(digest, found));
            new.files.push((encoded.file_name, encoded.bytes));
            known.push(Some(found));
        }
        let at_most = if step.replaces_all { usize::MAX } else { self.options.certify_queries };
        let chosen = base.some_queries(at_most);
        let of_chosen = |all: &Neighbors| {
            let mut some = Neighbors::new(chosen.len(), all.k());
            for (place, &query) in chosen.iter().enumerate() {
                some.row_mut(place).copy_from_slice(all.row(query as usize));
            }
            some
        };
        let known = known.into_iter().map(|known| known.map(of_chosen)).collect();
        Ok((queries.gather(&chosen), known))
    }

    /// What the version before was certified for; or what a job that was given asks for.
    fn certify_params(&self, base: &Base) -> CertifyParams {
        if self.options.job.is_some() {
            let gate = base.spec.gate;
            let gate = gate.map(|gate| Gate { k: gate.k as u32, min_recall: gate.min_recall });
            let (target_k, target_recall) =
                base.spec.target.map_or((10, 1.0), |target| (target.k, target.recall));
            return CertifyParams { target_k, target_recall, gate, near: None };
        }
        let before = base.manifest().build.certificate.as_ref();
        before.map_or(CertifyParams { target_k: 10, target_recall: 0.95, gate: None, near: None }, |before| {
            let target_k = before.target_k as usize;
            let farthest = before.points.iter().map(|point| point.effort).max();
            let near = farthest.map(|farthest| [before.chosen_effort, farthest]);
            CertifyParams { target_k, target_recall: before.target_recall, gate: before.gate, near }
        })
    }

    fn check_gate(&self, certified: &Certified) -> Result<(), Error> {
        match (certified.below_gate, certified.certificate.gate) {
            (Some(recall), Some(gate)) => Err(ChangeError::BelowGate {
                index: self.store.name().into(),
                k: gate.k,
                recall,
                min_recall: gate.min_recall,
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn summary(&self, ledger: &Ledger, outcome: Changed) -> ChangeSummary {
        ChangeSummary {
            index: self.options.index.clone(),
            outcome,
            unknown: 0,
            stages: ledger.stages().iter().map(StageCost::from).collect(),
            peak_memory_bytes: peak_memory_bytes(),
        }
    }

    fn next(
        &self,
        base: &Base,
        step: &mut Step,
        layout: Layout,
        certified: Certified,
        ledger: &Ledger,
    ) -> Result<NextVersion, Error> {
        let manifest = base.manifest();
        let new = match &mut step.new {
            Some(new) => {
                let rows = new.index.rows() as u64;
                vec![self.store.stage_segment(rows, std::mem::take(&mut new.files))?]
            }
            None => Vec::new(),
        };
        let change = Change {
            operation: step.operation.into(),
            from: manifest.version,
            added: step.added,
            removed: layout.removed,
            drift: step.drift,
            added_since_training: step.added_since_training(base),
        };
        let build = self.draft(base, step, &new, &layout, certified, ledger);
        Ok(NextVersion { kept: layout.kept, new, tombstones: Tombstones::of(layout.dead), change, build })
    }

    fn draft(
        &self,
        base: &Base,
        step: &Step,
        new: &[StagedSegment],
        layout: &Layout,
        certified: Certified,
        ledger: &Ledger,
    ) -> ManifestDraft {
        let before = &base.manifest().build;
        let info = self.compute.info();
        let certificate = certified.certificate;
        let rows = layout.kept.iter().map(|segment| segment.rows).sum::<u64>()
            + new.iter().map(StagedSegment::rows).sum::<u64>();
        let mut draft = ManifestDraft {
            annvil_version: env!("CARGO_PKG_VERSION").into(),
            git_commit: option_env!("ANNVIL_GIT_COMMIT").map(str::to_string),
            rows,
            backend: Backend { backend: info.backend, device: info.device },
            stages: ledger.stages().to_vec(),
            peak_memory_bytes: peak_memory_bytes(),
            search_defaults: Some(SearchDefaults {
                effort: certificate.chosen_effort,
                refine: certificate.chosen_refine,
            }),
            certificate: Some(certificate),
            ..before.clone()
        };
        if let Some(new) = &step.new
            && step.replaces_all
        {
            if let Some(training) = &new.training {
                draft.training = training.clone();
            }
            if !new.details.is_null() {
                draft.built = new.details.clone();
            }
        }
        if let Some(Origin { counts, inputs, attributes }) = &step.origin {
            draft.inputs.extend(inputs.iter().cloned());
            let all = &mut draft.row_counts;
            all.read += counts.read;
            all.filtered += counts.filtered_out;
            all.kept += step.added;
            for (reason, rows) in &counts.rejected {
                *all.rejected.entry(reason.clone()).or_default() += rows;
            }
            draft.attributes = match step.replaces_all {
                true => attributes.clone(),
                false => {
                    before.attributes.iter().zip(attributes).map(|(old, new)| joined(old, new)).collect()
                }
            };
        }
        draft
    }
}

/// Of two sets of rows. How many values both have is not known.
fn joined(a: &AttributeSummary, b: &AttributeSummary) -> AttributeSummary {
    let number = |text: &String| text.parse::<f64>().ok();
    let less = |a: &String, b: &String| match (number(a), number(b)) {
        (Some(a), Some(b)) => a < b,
        // Dates and timestamps, as they are written.
        _ => a < b,
    };
    let extreme = |a: &Option<String>, b: &Option<String>, least: bool| match (a, b) {
        (Some(a), Some(b)) => Some(if less(a, b) == least { a.clone() } else { b.clone() }),
        (one, other) => one.clone().or_else(|| other.clone()),
    };
    AttributeSummary {
        nulls: a.nulls + b.nulls,
        distinct: None,
        min: extreme(&a.min, &b.min, true),
        max: extreme(&a.max, &b.max, false),
        ..a.clone()
    }
}

/// Which segments the version has, and which of their rows are gone.
struct Layout {
    kept: Vec<SegmentRef>,
    /// The places of `kept` among the base's.
    places: Vec<usize>,
    /// Of `kept`, and of the new segment where there is one.
    dead: Vec<Vec<u32>>,
    /// Rows that were there and are no more.
    removed: u64,
}

impl Layout {
    fn of(base: &Base, step: &Step) -> Result<Self, Error> {
        let was_dead = base.dead();
        let removed = step.dead.difference(&was_dead).count() as u64;
        let mut layout = Self { kept: Vec::new(), places: Vec::new(), dead: Vec::new(), removed };
        if !step.replaces_all {
            let dead = step.dead.union(&was_dead).copied();
            let dead = Tombstones::of_ordinals(dead, &base.segment_rows);
            for (place, (segment, dead)) in
                base.manifest().segments.iter().zip(dead.of_segments()).enumerate()
            {
                // The queries are kept in a segment, and it with them.
                let is_empty = dead.len() as u64 == segment.rows && segment.file(QUERIES_FILE).is_none();
                if !is_empty {
                    layout.kept.push(segment.clone());
                    layout.places.push(place);
                    layout.dead.push(dead.clone());
                }
            }
        }
        let rows: u64 = layout.kept.iter().map(|segment| segment.rows).sum();
        let dead: u64 = layout.dead.iter().map(|dead| dead.len() as u64).sum();
        if step.new.is_none() && rows == dead {
            return Err(ChangeError::NothingLeft { index: base.name().into() }.into());
        }
        layout.dead.extend(step.new.iter().map(|_| Vec::new()));
        Ok(layout)
    }

    fn segments(&self, base: &Base, step: &Step) -> Arc<Segments> {
        let indexes = base.index.segment_indexes();
        let kept = self.places.iter().map(|&place| indexes[place].clone());
        let all = kept.chain(step.new.iter().map(|new| new.index.clone()));
        let parts = all.zip(&self.dead).map(|(index, dead)| (index, &dead[..]));
        Arc::new(Segments::new(parts.collect()))
    }
}
