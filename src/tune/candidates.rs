//! What is tried. To have something else tried, add a line to a family of [`FAMILIES`], or a family.

use crate::job::{Auto, IndexParams, IndexSpec, JobSpec};
use crate::vectors::Metric;

/// By which power of the number of rows a cost grows: what is assumed where one sample alone has been measured, and the
/// bounds of what is believed of several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    pub least: f64,
    pub usual: f64,
    pub most: f64,
}

/// A kind of index.
pub(super) struct Family {
    pub kind: &'static str,
    /// Of a search that reaches a recall.
    pub search: Growth,
    pub build: Growth,
    /// Keys of `[[index]]` beside `name`, `kind` and `metric`, as a job file has them; `{dim/2}` and the like stand for the
    /// dimension, rounded up to a multiple of 4, divided.
    pub candidates: &'static [&'static str],
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        kind: "flat",
        search: Growth { least: 0.8, usual: 1.0, most: 1.2 },
        build: Growth { least: 0.8, usual: 1.0, most: 1.1 },
        candidates: &[""],
    },
    Family {
        kind: "hnsw",
        // A walk grows with the logarithm, and with what no longer fits a cache.
        search: Growth { least: 0.0, usual: 0.2, most: 0.6 },
        build: Growth { least: 0.8, usual: 1.1, most: 1.3 },
        candidates: &[
            "m = 8\nef_construction = 100",
            "m = 12\nef_construction = 150",
            "m = 16\nef_construction = 200",
            "m = 16\nef_construction = 200\ncode = \"sq8\"",
            "m = 24\nef_construction = 300",
            "m = 32\nef_construction = 400\ncode = \"sq8\"",
            "m = 48\nef_construction = 500",
        ],
    },
    Family {
        kind: "ivf_pq",
        // With 4·√rows lists, lists and the part of them that is looked through grow alike.
        search: Growth { least: 0.2, usual: 0.5, most: 1.0 },
        build: Growth { least: 0.8, usual: 1.25, most: 1.6 },
        candidates: &[
            "",
            "pq_m = \"{dim/4}\"",
            "pq_bits = 8",
            "pq_m = \"{dim/2}\"\nrefine = \"none\"",
            "pq_m = \"{dim/2}\"\npq_bits = 8\nrefine = \"none\"",
            "pq_m = \"{dim/4}\"\npq_bits = 8\nrefine = \"none\"",
            "pq_m = \"{dim/4}\"\npq_bits = 8\nrefine = \"none\"\nrotation = \"opq\"",
            "code = \"rabitq\"\nrabitq_bits = 1",
            "code = \"rabitq\"\nrabitq_bits = 4\nrefine = \"none\"",
            "code = \"sq8\"\nrefine = \"none\"",
            "code = \"flat\"",
        ],
    },
];

/// Of a kind that [`FAMILIES`] has not: somewhere between the others.
const UNKNOWN: Family = Family {
    kind: "",
    search: Growth { least: 0.0, usual: 0.5, most: 1.2 },
    build: Growth { least: 0.8, usual: 1.2, most: 1.6 },
    candidates: &[],
};

pub(super) fn family(kind: &str) -> &'static Family {
    FAMILIES.iter().find(|family| family.kind == kind).unwrap_or(&UNKNOWN)
}

/// An index that could be built.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// What tells it from the others, as `hnsw m 16 ef_construction 200`.
    pub name: String,
    pub spec: IndexSpec,
}

/// The job's own indexes, and whatever [`FAMILIES`] has beside them that fits `dim`. Gates, targets and partitions are
/// left out: what is tried is not published.
pub(super) fn candidates(job: &JobSpec, dim: usize) -> Vec<Candidate> {
    let metric = job.metric();
    let mut all: Vec<Candidate> = Vec::new();
    let tabled = FAMILIES.iter().flat_map(|family| {
        family.candidates.iter().filter_map(move |keys| parse(family.kind, keys, metric, dim))
    });
    for mut spec in job.indexes.iter().cloned().chain(tabled) {
        (spec.gate, spec.target, spec.partition_by) = (None, None, None);
        let name = describe(&spec.params);
        if !all.iter().any(|other| other.spec.params == spec.params) {
            spec.name.clone_from(&name);
            all.push(Candidate { name, spec });
        }
    }
    all
}

/// `None` where the keys are not allowed with this metric or dimension.
fn parse(kind: &str, keys: &str, metric: Metric, dim: usize) -> Option<IndexSpec> {
    let whole = dim.next_multiple_of(4);
    let mut keys = keys.to_string();
    for part in [2, 4, 8] {
        keys = keys.replace(&format!("\"{{dim/{part}}}\""), &(whole / part).max(1).to_string());
    }
    let text = format!(
        "[source]\nuri = \"none\"\nvector = \"none\"\n[queries]\nsample = 1\n[output]\nuri = \"none\"\n\
         [[index]]\nkind = \"{kind}\"\nmetric = \"{metric}\"\n{keys}\n"
    );
    let job = JobSpec::parse(&text, "candidates.toml").ok()?;
    let facts = crate::job::SourceFacts { dim: Some(dim), rows_upper_bound: 1 << 30 };
    job.check_against(&facts).ok()?;
    job.indexes.into_iter().next()
}

/// Told even where they are the defaults.
const KNOWN_BY: [&str; 2] = ["m", "ef_construction"];

/// The kind and what differs from its defaults.
fn describe(params: &IndexParams) -> String {
    let values = |params: &IndexParams| serde_json::to_value(params).unwrap_or_default();
    let (given, usual) =
        (values(params), default_of(params).map(|params| values(&params)).unwrap_or_default());
    let mut told: Vec<(&String, &serde_json::Value)> = given
        .as_object()
        .into_iter()
        .flatten()
        .filter(|&(key, value)| KNOWN_BY.contains(&key.as_str()) || usual.get(key) != Some(value))
        .filter(|&(key, _)| key != "kind")
        .collect();
    told.sort_by_key(|(key, _)| KNOWN_BY.iter().position(|known| known == key).unwrap_or(KNOWN_BY.len()));
    told.iter().fold(params.kind().to_string(), |text, (key, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        format!("{text} {key} {value}")
    })
}

fn default_of(params: &IndexParams) -> Option<IndexParams> {
    parse(params.kind(), "", Metric::Cosine, 8).map(|spec| spec.params)
}

/// The index that a sample of `rows` of `all_rows` stands for it with: a number of lists that was given shrinks with the square root
/// of the rows, as the default does.
pub(super) fn scaled(spec: &IndexSpec, rows: u64, all_rows: u64) -> IndexSpec {
    let mut spec = spec.clone();
    if let IndexParams::IvfPq(params) = &mut spec.params
        && let Auto::Given(nlist) = params.nlist
    {
        let share = (rows as f64 / all_rows.max(1) as f64).sqrt().min(1.0);
        let most = usize::try_from(rows).unwrap_or(usize::MAX).max(1);
        params.nlist = Auto::Given(((nlist as f64 * share).round() as usize).clamp(1, most));
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(metric: Metric, index: &str) -> JobSpec {
        let text = format!(
            "[source]\nuri = \"a\"\nvector = \"v\"\n[queries]\nsample = 10\n[output]\nuri = \"out\"\n\
             [[index]]\nmetric = \"{metric}\"\n{index}\n"
        );
        JobSpec::parse(&text, "words.toml").unwrap()
    }

    #[test]
    fn every_line_of_the_table_is_a_candidate_for_any_metric_and_dimension() {
        let lines: usize = FAMILIES.iter().map(|family| family.candidates.len()).sum();
        for metric in Metric::ALL {
            for dim in [64, 100, 101, 768, 1536] {
                let all = candidates(&job(metric, "kind = \"flat\""), dim);
                let names: std::collections::BTreeSet<&str> =
                    all.iter().map(|one| one.name.as_str()).collect();
                assert_eq!((all.len(), names.len()), (lines, lines), "{metric} {dim}: {names:?}");
            }
        }
    }

    #[test]
    fn what_the_job_asks_for_is_tried_first_and_once() {
        let job = job(Metric::Cosine, "kind = \"hnsw\"\nm = 16\ngate = { min_recall = 0.9 }");
        let all = candidates(&job, 100);
        assert_eq!(all[0].name, "hnsw m 16 ef_construction 200");
        assert_eq!(all.iter().filter(|one| one.name == all[0].name).count(), 1);
        assert!(all.iter().all(|one| one.spec.gate.is_none() && one.spec.target.is_none()));
    }

    #[test]
    fn given_lists_shrink_with_the_root_of_the_rows() {
        let spec = &job(Metric::L2, "kind = \"ivf_pq\"\nnlist = 4096").indexes[0];
        let nlist = |rows, all| match scaled(spec, rows, all).params {
            IndexParams::IvfPq(params) => params.nlist,
            _ => unreachable!(),
        };
        assert_eq!(nlist(1_000_000, 1_000_000), Auto::Given(4096));
        assert_eq!(nlist(10_000, 1_000_000), Auto::Given(410));
        assert_eq!(nlist(1, 1_000_000), Auto::Given(1));
    }
}
