//! The version that is changed, opened, and what its manifest says of how to go on.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::truth::Known;
use super::{ChangeError, Workplace};
use crate::artifact::Manifest;
use crate::artifact::neighbors::digest_of;
use crate::error::Error;
use crate::job::{IndexSpec, JobSpec, QueriesSpec};
use crate::loader::Index;
use crate::source::{Source, SourceSpec};
use crate::store::{IndexStore, runtime};
use crate::vectors::{Random, VectorBuf};

pub(super) struct Base {
    pub index: Index,
    pub job: JobSpec,
    /// The index's entry in the job.
    pub spec: IndexSpec,
    /// What it was certified with, as far as it was kept.
    pub queries: VectorBuf,
    /// The nearest rows of each segment to each of the queries, where they are known.
    pub known: Known,
    /// Rows of each segment, gone or not.
    pub segment_rows: Vec<u64>,
}

impl Base {
    /// The latest version.
    pub fn open(work: &Workplace<'_>) -> Result<Self, Error> {
        let artifact = work.store.artifact(None)?;
        let manifest = artifact.manifest();
        let job = match &work.options.job {
            Some(path) => JobSpec::from_path(path)?,
            None => job_of(manifest)?,
        };
        let spec = index_of(&job, manifest)?;
        let (queries, segment_rows) = (artifact.queries()?, artifact.segment_rows());
        let dim = manifest.build.dim as usize;
        let queries = match queries {
            Some(queries) => VectorBuf::new(queries, dim),
            None => read_queries(&job, manifest)?,
        };
        let digest = digest_of(queries.view().as_slice());
        let known = artifact.segments().map(|segment| segment.neighbors(digest, queries.rows()));
        let known = known.collect::<Result<_, _>>()?;
        let index = Index::of(artifact)?;
        if spec.partition_by.as_deref() != index.partition_by() {
            let told =
                |column: Option<&str>| column.map_or("none".to_string(), |column| format!("`{column}`"));
            let (expected, got) = (told(index.partition_by()), told(spec.partition_by.as_deref()));
            let (index, what) = (work.store.name().into(), "partition_by");
            return Err(ChangeError::Unlike { index, what, expected, got }.into());
        }
        if index.live_rows() > 0 && index.vector(index.live_ordinals()[0]).is_none() {
            return Err(ChangeError::NoVectors { index: work.store.name().into() }.into());
        }
        Ok(Self { index, job, spec, queries, known, segment_rows })
    }

    pub fn manifest(&self) -> &Manifest {
        self.index.manifest()
    }

    pub fn name(&self) -> &str {
        &self.manifest().index_name
    }

    /// The rows that are gone already, ascending.
    pub fn dead(&self) -> BTreeSet<u32> {
        match self.index.live() {
            Some(live) => (0..self.index.rows() as u32).filter(|&row| !live.contains(row)).collect(),
            None => BTreeSet::new(),
        }
    }

    /// As many of the queries as the change is to be certified with, drawn by the seed: they may lie in an order.
    pub fn some_queries(&self, at_most: usize) -> Vec<u32> {
        let all = self.queries.rows();
        Random::new(self.manifest().build.seed).sample(all, all.min(at_most.max(1)))
    }
}

/// The job that a manifest tells.
pub(crate) fn job_of(manifest: &Manifest) -> Result<JobSpec, Error> {
    let (index, version) = (manifest.index_name.clone(), manifest.version);
    if !manifest.build.job.is_object() {
        return Err(ChangeError::NoJob { index, version }.into());
    }
    // JSON and TOML say a job alike: see `JobSpec::to_json`.
    let toml = toml::to_string(&manifest.build.job).map_err(|error| Error::BadArtifact(Box::new(error)))?;
    Ok(JobSpec::parse(&toml, format!("the job of version {version} of {index}"))?)
}

/// The entry by the index's name; for one that was copied to another name, the only one of its kind.
fn index_of(job: &JobSpec, manifest: &Manifest) -> Result<IndexSpec, Error> {
    let kind = |spec: &&IndexSpec| spec.params.kind() == manifest.build.kind;
    let named = job.indexes.iter().find(|spec| spec.name == manifest.index_name);
    let mut of_kind = job.indexes.iter().filter(kind);
    let only = of_kind.next().filter(|_| of_kind.next().is_none());
    let Some(spec) = named.or(only) else {
        let known: Vec<String> = job.indexes.iter().map(|spec| format!("`{}`", spec.name)).collect();
        let (index, known) = (manifest.index_name.clone(), known.join(", "));
        return Err(ChangeError::NotInJob { index, known }.into());
    };
    let unlike = |what, expected: &str, got: &str| {
        let (expected, got) = (expected.to_string(), got.to_string());
        ChangeError::Unlike { index: manifest.index_name.clone(), what, expected, got }
    };
    if !kind(&spec) {
        return Err(unlike("kind", &manifest.build.kind, spec.params.kind()).into());
    }
    if spec.metric != manifest.build.metric {
        return Err(unlike("metric", manifest.build.metric.name(), spec.metric.name()).into());
    }
    Ok(spec.clone())
}

/// Before format 1.1 no queries were kept: those of a file can be read again.
fn read_queries(job: &JobSpec, manifest: &Manifest) -> Result<VectorBuf, Error> {
    let QueriesSpec::File { uri, vector } = &job.queries else {
        return Err(ChangeError::NoQueries { index: manifest.index_name.clone() }.into());
    };
    let from = SourceSpec {
        uris: uri.iter().map(|uri| uri.resolved().to_string()).collect(),
        dim: Some(manifest.build.dim as usize),
        store: job.store.clone(),
        foreign: job.source.foreign.of_queries(),
        ..SourceSpec::new("", vector, manifest.build.metric)
    };
    Ok(Source::open(from, runtime()?)?.read_all(&|_, _| ControlFlow::Continue(()))?.vectors)
}

/// The job and dimension of the latest version, without opening it: for whoever reads rows first.
pub(super) fn job_of_latest(work: &Workplace<'_>) -> Result<(JobSpec, Manifest), Error> {
    let manifest = latest_manifest(&work.store)?;
    let job = match &work.options.job {
        Some(path) => JobSpec::from_path(path)?,
        None => job_of(&manifest)?,
    };
    index_of(&job, &manifest)?;
    Ok((job, manifest))
}

pub(super) fn latest_manifest(store: &IndexStore) -> Result<Manifest, Error> {
    Ok(store.artifact(None)?.manifest().clone())
}
