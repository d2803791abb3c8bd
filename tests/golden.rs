//! Artifacts that earlier versions of annvil have published are read as they were. `tests/golden/` has one folder for
//! each format version; what lies there is never made again, only added to. FORMAT.md says how.

use std::path::PathBuf;
use std::sync::Arc;

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::artifact::neighbors;
use annvil::artifact::partitions::{self, Partitions};
use annvil::artifact::tombstones::Tombstones;
use annvil::artifact::{
    Array, AttributeSummary, Backend, Certificate, CertificatePoint, Change, Digest, Gate, Input, Latency,
    MANIFEST_FORMAT, MANIFEST_FORMAT_WITH_REQUIREMENTS, ManifestDraft, Recall, RowCounts, SearchDefaults,
    Section, Stage, Training, queries, safetensors,
};
use annvil::store::{IndexStore, NextVersion};
use annvil::vectors::{Metric, Neighbor, Neighbors, RowIds};
use arrow_array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use bytes::Bytes;
use half::f16;

const ROWS: u64 = 4;

fn folder(format: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("format-{format}"))
}

/// One tensor of each type, with its extreme values, a scalar, and a tensor without elements.
fn types() -> Section {
    let halves = [0.0, -0.0, 1.5, 65_504.0].map(f16::from_f32).to_vec();
    Section::new("types")
        .with("u8", &Array::from_vec(vec![0u8, 1, 255]), &[3])
        .with("i8", &Array::from_vec(vec![0i8, -128, 127]), &[3, 1])
        .with("u16", &Array::from_vec(vec![0u16, u16::MAX]), &[2])
        .with("f16", &Array::from_vec(halves), &[2, 2])
        .with("u32", &Array::from_vec(vec![0u32, u32::MAX, 7]), &[3])
        .with("i32", &Array::from_vec(vec![i32::MIN, i32::MAX]), &[2])
        .with("f32", &Array::from_vec(vec![f32::MIN_POSITIVE, -1.5, f32::INFINITY]), &[1, 3])
        .with("u64", &Array::from_vec(vec![u64::MAX]), &[1])
        .with("i64", &Array::from_vec(vec![i64::MIN, 42]), &[2])
        .with("scalar", &Array::from_vec(vec![3.25f32]), &[])
        .with("none", &Array::from_vec(Vec::<f32>::new()), &[0, 4])
        .with_metadata("entry_point", 3)
        .with_metadata("note", "a \"quoted\" é")
}

/// More than one block of checksums.
fn long() -> Section {
    let numbers: Vec<u32> = (0..17_500u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    Section::new("long").with("numbers", &Array::from_vec(numbers), &[175, 100])
}

fn ids() -> RowIds {
    let uuid = |last: u8| std::array::from_fn(|i| if i == 15 { last } else { i as u8 * 16 });
    RowIds::from(vec![uuid(3), uuid(1), [0; 16], [255; 16]])
}

fn attributes() -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        (
            "word",
            Arc::new(StringArray::from(vec![Some("anvil"), None, Some(""), Some("é")])) as ArrayRef,
            true,
        ),
        ("year", Arc::new(Int32Array::from(vec![1999, -1, 0, i32::MAX])), false),
        ("public", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])), true),
    ])
    .unwrap()
}

fn draft() -> ManifestDraft {
    let recall = |k, mean| Recall { k, mean, low: mean - 0.125, high: 1.0 };
    let point = |effort, mean| CertificatePoint {
        effort,
        refine: 0,
        recall: vec![recall(1, mean), recall(10, mean)],
        latency_us: Latency { p50: 10.5, p95: 20.25, p99: 30.0 },
        qps: 50_000.0,
    };
    ManifestDraft {
        annvil_version: "0.1.0".into(),
        git_commit: Some("0123456789abcdef".into()),
        kind: "golden".into(),
        metric: Metric::Cosine,
        dim: 4,
        rows: ROWS,
        job: serde_json::json!({ "name": "golden", "index": [{ "kind": "golden", "nlist": 2 }] }),
        seed: u64::MAX,
        inputs: vec![Input {
            uri: "file:///base.parquet".into(),
            size_bytes: 99,
            e_tag: Some("a".into()),
            rows: 9,
        }],
        row_counts: RowCounts {
            read: 9,
            filtered: 2,
            kept: 4,
            held_out: 1,
            rejected: [("not_finite".into(), 2)].into(),
        },
        backend: Backend { backend: "cpu".into(), device: "portable".into() },
        built: serde_json::json!({ "params": { "nlist": 2 } }),
        training: vec![Training { name: "coarse".into(), loss: vec![4.0, 2.5] }],
        stages: vec![Stage {
            name: "train".into(),
            wall_ms: 1.5,
            cpu_ms: 2.5,
            bytes_read: 9,
            bytes_written: 0,
            resumed: false,
            device: None,
        }],
        peak_memory_bytes: Some(1 << 20),
        planned: None,
        attributes: vec![AttributeSummary {
            name: "word".into(),
            data_type: "Utf8".into(),
            nulls: 1,
            distinct: Some(3),
            min: None,
            max: Some("2".into()),
        }],
        certificate: Some(Certificate {
            query_set_digest: Digest::of(b"queries"),
            queries: 100,
            ground_truth_digest: Digest::of(b"ground truth"),
            k: vec![1, 10],
            points: vec![point(1, 0.75), point(2, 0.875)],
            target_k: 10,
            target_recall: 0.875,
            gate: Some(Gate { k: 10, min_recall: 0.5 }),
            chosen_effort: 2,
            chosen_refine: 0,
        }),
        search_defaults: Some(SearchDefaults { effort: 2, refine: 0 }),
    }
}

fn files() -> Vec<(String, Bytes)> {
    let mut files: Vec<(String, Bytes)> = [types(), long()]
        .iter()
        .map(safetensors::encode)
        .map(|section| (section.file_name, section.bytes))
        .collect();
    files.push((IDS_FILE.into(), columns::encode_ids(&ids()).unwrap()));
    files.push((ATTRIBUTES_FILE.into(), columns::encode(&attributes()).unwrap()));
    files
}

/// Since format 1.1 the queries are kept.
fn files_with_queries() -> Vec<(String, Bytes)> {
    let section = safetensors::encode(&queries::to_section(&QUERIES, 4));
    let mut files = files();
    files.push((section.file_name, section.bytes));
    files
}

/// Since format 1.2 rows may be partitioned, and the queries' neighbours are kept.
fn files_with_partitions() -> Vec<(String, Bytes)> {
    let sections =
        [partitions().to_section(), neighbors::to_section(neighbors::digest_of(&QUERIES), &near())];
    let sections = sections.iter().map(safetensors::encode).map(|section| (section.file_name, section.bytes));
    files_with_queries().into_iter().chain(sections).collect()
}

/// By `year`, whose values are in another order.
fn partitions() -> Partitions {
    Partitions::of("year", &partitions::keys_of(attributes().column_by_name("year").unwrap()).unwrap())
}

fn near() -> Neighbors {
    let mut near = Neighbors::new(2, 3);
    let pairs = [(3, -1.0), (0, 0.5), (2, 0.5), (1, 0.0), (0, f32::MIN_POSITIVE), (3, 2.0)];
    near.as_mut_slice().copy_from_slice(&pairs.map(|(row, distance)| Neighbor::new(row, distance)));
    near
}

const QUERIES: [f32; 8] = [0.5, -1.0, 2.0, 0.0, 1e-30, -0.0, 0.25, 1.0];

/// A second segment.
fn more_files() -> Vec<(String, Bytes)> {
    files().into_iter().filter(|(name, _)| name != "types.safetensors").collect()
}

#[test]
fn format_1_0_is_read_as_it_was_written() {
    expect_format_1("1.0", None);
}

#[test]
fn format_1_1_is_read_as_it_was_written() {
    expect_format_1("1.1", Some(QUERIES.to_vec()));
}

#[test]
fn format_1_2_is_read_as_it_was_written() {
    expect_format_1("1.2", Some(QUERIES.to_vec()));
    let index = IndexStore::open(folder("1.2").join("golden").to_str().unwrap()).unwrap();
    let artifact = index.artifact(None).unwrap();
    let segment = artifact.only_segment().unwrap();
    assert_eq!(segment.partitions().unwrap(), Some(partitions()));
    assert_eq!(segment.neighbors(neighbors::digest_of(&QUERIES), 2).unwrap(), Some(near()));
    assert_eq!(segment.section_names().collect::<Vec<_>>(), ["long", "types"]);
}

#[test]
fn format_2_0_is_read_as_it_was_written() {
    let index = IndexStore::open(folder("2.0").join("golden").to_str().unwrap()).unwrap();
    assert_eq!(index.versions().unwrap(), [1, 2]);
    let artifact = index.artifact(None).unwrap();
    let manifest = artifact.manifest();
    assert_eq!(
        (manifest.format_version.as_str(), &manifest.requires[..]),
        ("2.0", &["tombstones".to_string()][..])
    );
    assert_eq!((manifest.build.rows, manifest.live_rows(), &manifest.change), (8, 5, &Some(change())));
    assert_eq!(artifact.tombstones().unwrap().of_segments(), [vec![1, 2], vec![3]]);
    assert_eq!(artifact.queries().unwrap(), Some(QUERIES.to_vec()));
    for segment in artifact.segments() {
        assert_eq!(segment.section("long").unwrap(), long());
        assert_eq!(segment.ids().unwrap(), ids());
    }
    let report = artifact.verify(&mut |_| ());
    assert!(report.is_sound() && report.files == 12, "{report:?}");
}

fn change() -> Change {
    Change {
        operation: "sync".into(),
        from: 1,
        added: 4,
        removed: 2,
        drift: Some(1.25),
        added_since_training: 0,
    }
}

fn expect_format_1(format: &str, queries: Option<Vec<f32>>) {
    let index = IndexStore::open(folder(format).join("golden").to_str().unwrap()).unwrap();
    assert_eq!(index.versions().unwrap(), [1, 2]);
    for version in [1, 2] {
        let artifact = index.artifact(Some(version)).unwrap();
        assert_eq!(artifact.manifest().build, draft());
        assert_eq!(artifact.section("types").unwrap(), types());
        assert_eq!(artifact.section("long").unwrap(), long());
        assert_eq!(artifact.ids().unwrap(), ids());
        assert_eq!(artifact.queries().unwrap(), queries);
        assert_eq!(artifact.attributes().unwrap(), Some(attributes()));
        let report = artifact.verify(&mut |_| ());
        assert!(report.is_sound(), "{:?}", report.damage);
        let segment = artifact.only_segment().unwrap();
        let ranges = segment.read_ranges("long.safetensors", &[69_000..69_016, 0..8]).unwrap();
        assert_eq!(ranges[0], segment.read("long.safetensors").unwrap()[69_000..69_016]);
    }
    assert_eq!(index.read_manifest(2).unwrap().restores, Some(1));
}

/// Not a promise to users, but what "same input, same bytes" rests on: an encoder that writes other bytes than it
/// used to does so on purpose, with another format version.
#[test]
fn the_same_segment_still_has_the_same_bytes() {
    let segments = folder(MANIFEST_FORMAT).join("golden/seg");
    let segment = std::fs::read_dir(segments).unwrap().next().unwrap().unwrap().path();
    for (name, bytes) in files_with_partitions() {
        assert!(std::fs::read(segment.join(&name)).unwrap() == bytes, "{name}");
    }
}

#[test]
#[ignore = "adds the golden artifact of a new format version"]
fn write_the_golden_artifact_of_this_format() {
    let folder = folder(MANIFEST_FORMAT);
    assert!(!folder.exists(), "golden artifacts are never made again");
    let index = IndexStore::open(folder.join("golden").to_str().unwrap()).unwrap();
    assert_eq!(index.publish(files_with_partitions(), draft()).unwrap().version, 1);
    assert_eq!(index.rollback(1).unwrap(), 2);
}

#[test]
#[ignore = "adds the golden artifact of a new format version"]
fn write_the_golden_artifact_with_requirements() {
    let folder = folder(MANIFEST_FORMAT_WITH_REQUIREMENTS);
    assert!(!folder.exists(), "golden artifacts are never made again");
    let index = IndexStore::open(folder.join("golden").to_str().unwrap()).unwrap();
    let first = index.publish(files_with_queries(), draft()).unwrap();
    let next = NextVersion {
        kept: first.manifest.segments,
        new: vec![index.stage_segment(ROWS, more_files()).unwrap()],
        tombstones: Tombstones::of(vec![vec![1, 2], vec![3]]),
        change: change(),
        build: ManifestDraft { rows: 2 * ROWS, ..draft() },
    };
    assert_eq!(index.publish_after(&next).unwrap().unwrap().version, 2);
}
