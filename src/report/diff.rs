//! Two versions of an index side by side: what was asked for, what is in them, what was measured. Compares vectors with
//! nothing: a row is its id.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::artifact::{Certificate, Manifest, Recall};
use crate::store::{Artifact, StoreError};
use crate::vectors::{RowId, RowIds};

/// How many of the ids on either side are told.
pub const IDS_TOLD: usize = 10;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionDiff {
    /// What the jobs and the builds say differently, by key path; `null` where one of them says nothing.
    pub parameters: Vec<Changed<Value>>,
    pub rows: RowsDiff,
    /// recall@k at the default setting, for every `k` that either certificate has.
    pub recall: Vec<Changed<Option<Recall>>>,
    /// Median latency of one query at the default setting, in microseconds.
    pub latency_p50_us: Changed<Option<f64>>,
    /// Bytes of each file, and `total`.
    pub sizes: Vec<Changed<Option<u64>>>,
    /// Wall-clock milliseconds of each stage, in the order of the stages, and `total`.
    pub stages_ms: Vec<Changed<Option<f64>>>,
    pub peak_memory_bytes: Changed<Option<u64>>,
    /// Whether both have the very same segments and tombstones: then they answer every query alike.
    pub same_segments: bool,
}

/// One thing, before and after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed<T> {
    pub what: String,
    pub a: T,
    pub b: T,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowsDiff {
    pub a: u64,
    pub b: u64,
    /// Ids that only `b` has.
    pub added: u64,
    /// Ids that only `a` has.
    pub removed: u64,
    /// The least of them, at most [`IDS_TOLD`].
    pub some_added: Vec<RowId>,
    pub some_removed: Vec<RowId>,
}

impl VersionDiff {
    /// Reads the ids of both, and nothing else beyond the manifests.
    pub fn between(a: &Artifact, b: &Artifact) -> Result<Self, StoreError> {
        let (before, after) = (a.manifest(), b.manifest());
        let same_segments = before.segments == after.segments && before.tombstones == after.tombstones;
        let rows = if same_segments {
            let rows = before.live_rows();
            RowsDiff { a: rows, b: rows, added: 0, removed: 0, some_added: vec![], some_removed: vec![] }
        } else {
            RowsDiff::between(&ids(a)?, &ids(b)?)
        };
        let recall = |manifest: &Manifest| default_recall(manifest.build.certificate.as_ref());
        let latency = |manifest: &Manifest| {
            let certificate = manifest.build.certificate.as_ref()?;
            Some(certificate.chosen_point()?.latency_us.p50)
        };
        Ok(Self {
            parameters: parameters(before, after),
            rows,
            recall: merged(recall(before), recall(after)),
            latency_p50_us: changed("latency p50", latency(before), latency(after)),
            sizes: merged(sizes(before), sizes(after)),
            stages_ms: merged(stages(before), stages(after)),
            peak_memory_bytes: changed(
                "peak memory",
                before.build.peak_memory_bytes,
                after.build.peak_memory_bytes,
            ),
            same_segments,
        })
    }
}

impl RowsDiff {
    /// Of ids in any order; each occurs once in an index.
    fn between(a: &[RowId], b: &[RowId]) -> Self {
        // Sorted in place of hashed: the ids that are told are the same whatever the order of the rows.
        let sorted = |ids: &[RowId]| {
            let mut order: Vec<u32> = (0..ids.len() as u32).collect();
            order.sort_unstable_by(|&x, &y| ids[x as usize].cmp(&ids[y as usize]));
            order
        };
        let (order_a, order_b) = (sorted(a), sorted(b));
        let (mut i, mut j) = (0, 0);
        let mut diff = RowsDiff {
            a: a.len() as u64,
            b: b.len() as u64,
            added: 0,
            removed: 0,
            some_added: Vec::new(),
            some_removed: Vec::new(),
        };
        loop {
            let (x, y) = (order_a.get(i).map(|&x| &a[x as usize]), order_b.get(j).map(|&y| &b[y as usize]));
            match (x, y) {
                (None, None) => return diff,
                (Some(x), Some(y)) if x == y => (i, j) = (i + 1, j + 1),
                (Some(x), y) if y.is_none_or(|y| x < y) => {
                    diff.removed += 1;
                    tell(&mut diff.some_removed, x);
                    i += 1;
                }
                (_, Some(y)) => {
                    diff.added += 1;
                    tell(&mut diff.some_added, y);
                    j += 1;
                }
                (Some(_), None) => unreachable!("nothing is less than what is not there"),
            }
        }
    }
}

fn tell(told: &mut Vec<RowId>, id: &RowId) {
    if told.len() < IDS_TOLD {
        told.push(id.clone());
    }
}

/// The ids of all segments' rows that are there.
fn ids(artifact: &Artifact) -> Result<Vec<RowId>, StoreError> {
    let tombstones = artifact.tombstones()?;
    let mut all = Vec::new();
    for (segment, dead) in artifact.segments().zip(tombstones.of_segments()) {
        let ids: RowIds = segment.ids()?;
        let there = (0..ids.len() as u32).filter(|row| dead.binary_search(row).is_err());
        all.extend(there.map(|row| ids.get(row)));
    }
    Ok(all)
}

/// What was asked for and how the builder resolved it. Where a job stood and when it ran is no parameter.
fn parameters(a: &Manifest, b: &Manifest) -> Vec<Changed<Value>> {
    let flat = |manifest: &Manifest| {
        let mut leaves = BTreeMap::new();
        let build = &manifest.build;
        let mut job = build.job.clone();
        // An index's own entry, wherever in the job it stands.
        let entries = job.as_object_mut().and_then(|job| job.remove("index")).unwrap_or_default();
        let own = entries.as_array().into_iter().flatten();
        let own = own.into_iter().find(|entry| entry["name"] == manifest.index_name.as_str());
        flatten("index", own.unwrap_or(&Value::Null), &mut leaves);
        flatten("", &job, &mut leaves);
        flatten("built", &build.built, &mut leaves);
        for (name, value) in [
            ("kind", Value::from(build.kind.clone())),
            ("metric", Value::from(build.metric.name())),
            ("dim", Value::from(build.dim)),
            ("annvil", Value::from(build.annvil_version.clone())),
            ("backend", Value::from(format!("{} ({})", build.backend.backend, build.backend.device))),
        ] {
            leaves.insert(name.into(), value);
        }
        leaves.into_iter().map(|(key, value)| (key, Some(value))).collect::<Vec<_>>()
    };
    merged(flat(a), flat(b))
        .into_iter()
        .filter(|changed| changed.a != changed.b)
        .map(|Changed { what, a, b }| Changed { what, a: a.unwrap_or_default(), b: b.unwrap_or_default() })
        .collect()
}

/// The leaves of a JSON value by their paths, as `source.uri[0]`.
fn flatten(path: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => (),
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, leaves);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (number, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{number}]"), item, leaves);
            }
        }
        leaf => {
            leaves.insert(path.into(), leaf.clone());
        }
    }
}

fn default_recall(certificate: Option<&Certificate>) -> Vec<(String, Option<Recall>)> {
    let point = certificate.and_then(Certificate::chosen_point);
    let recall = point.into_iter().flat_map(|point| &point.recall);
    recall.map(|recall| (format!("recall@{}", recall.k), Some(*recall))).collect()
}

fn sizes(manifest: &Manifest) -> Vec<(String, Option<u64>)> {
    let files = || manifest.folders().flat_map(|segment| &segment.files);
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for file in files() {
        let size = by_name.entry(&file.name).or_default();
        *size = size.saturating_add(file.size_bytes);
    }
    let total = by_name.values().copied().fold(0, u64::saturating_add);
    let named = by_name.into_iter().map(|(name, size)| (name.to_string(), Some(size)));
    named.chain([("total".to_string(), Some(total))]).collect()
}

fn stages(manifest: &Manifest) -> Vec<(String, Option<f64>)> {
    let stages = &manifest.build.stages;
    let total: f64 = stages.iter().map(|stage| stage.wall_ms).sum();
    let named = stages.iter().map(|stage| (stage.name.clone(), Some(stage.wall_ms)));
    named.chain((!stages.is_empty()).then(|| ("total".to_string(), Some(total)))).collect()
}

fn changed<T>(what: &str, a: T, b: T) -> Changed<T> {
    Changed { what: what.into(), a, b }
}

/// What either has, by name: in the order of the first, then what only the second has; a last `total` stays last.
fn merged<T: Clone>(a: Vec<(String, Option<T>)>, b: Vec<(String, Option<T>)>) -> Vec<Changed<Option<T>>> {
    let mut rows: Vec<Changed<Option<T>>> =
        a.into_iter().map(|(what, value)| Changed { what, a: value, b: None }).collect();
    for (what, value) in b {
        match rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.b = value,
            None => rows.push(Changed { what, a: None, b: value }),
        }
    }
    rows.sort_by_key(|row| row.what == "total");
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ids(ids: &[i64]) -> Vec<RowId> {
        ids.iter().map(|&id| RowId::Int(id)).collect()
    }

    #[test]
    fn rows_are_compared_by_id_in_whatever_order_they_lie() {
        let diff = RowsDiff::between(&ids(&[5, 1, 3, 9]), &ids(&[3, 7, 1, 2]));
        assert_eq!((diff.a, diff.b, diff.added, diff.removed), (4, 4, 2, 2));
        assert_eq!((diff.some_added, diff.some_removed), (ids(&[2, 7]), ids(&[5, 9])));
        let many: Vec<i64> = (0..50).collect();
        let diff = RowsDiff::between(&[], &ids(&many));
        assert_eq!((diff.added, diff.removed), (50, 0));
        assert_eq!(diff.some_added, ids(&many[..IDS_TOLD]));
        let other_type = RowsDiff::between(&ids(&[1]), &[RowId::Text("1".into())]);
        assert_eq!((other_type.added, other_type.removed), (1, 1));
    }

    #[test]
    fn leaves_are_named_by_their_path() {
        let mut leaves = BTreeMap::new();
        flatten("", &json!({ "a": { "b": [1, 2], "c": null }, "d": [{ "e": true }] }), &mut leaves);
        let expected = [("a.b", json!([1, 2])), ("d[0].e", json!(true))];
        assert_eq!(leaves, expected.map(|(path, value)| (path.to_string(), value)).into());
    }

    #[test]
    fn what_only_one_has_is_there_and_the_total_is_last() {
        let one = |name: &str, value| (name.to_string(), Some(value));
        let rows = merged(vec![one("read", 1), one("total", 3)], vec![one("build", 2), one("total", 4)]);
        let rows: Vec<_> = rows.iter().map(|row| (row.what.as_str(), row.a, row.b)).collect();
        assert_eq!(rows, [("read", Some(1), None), ("build", None, Some(2)), ("total", Some(3), Some(4))]);
    }
}
