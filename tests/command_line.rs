//! The binary as a script sees it: exit codes, what goes to stdout and what to stderr.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::artifact::{
    Certificate, CertificatePoint, Digest, Gate, Latency, ManifestDraft, Recall, SearchDefaults, safetensors,
};
use annvil::compute::cpu::Cpu;
use annvil::hnsw::{self, HnswParams};
use annvil::index::SearchIndex;
use annvil::store::IndexStore;
use annvil::train::unobserved;
use annvil::vectors::{Metric, Random, RowIds, VectorBuf, normalize};
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, Int32Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

fn annvil(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new(env!("CARGO_BIN_EXE_annvil")).args(arguments).current_dir(root).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_good_job_is_printed_with_its_defaults() {
    let output = annvil(&["check", "pipelines/quickstart.toml"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains("kmeans_iterations = 10\n"), "{}", text(&output.stdout));

    let output = annvil(&["check", "--json", "pipelines/quickstart.toml"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["job"]["index"][0]["ef_construction"], 200);
}

#[test]
fn a_bad_job_exits_with_2_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("bad.toml");
    let good =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/quickstart.toml"))
            .unwrap();
    let line = good.lines().position(|line| line == "m = 16").unwrap() + 1;
    std::fs::write(&job, good.replace("\nm = 16\n", "\nm = 1\n")).unwrap();
    let path = job.to_str().unwrap();

    let output = annvil(&["check", path]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with(&format!("{path}:{line}:5: error: `index[0].m`: found 1; ")), "{stderr}");

    let output = annvil(&["check", "--json", path]);
    assert_eq!(output.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = &json["diagnostics"][0];
    assert_eq!(
        (&found["key"], &found["line"], &found["column"]),
        (&"index[0].m".into(), &line.into(), &5.into())
    );
}

#[test]
fn a_missing_job_is_named_with_its_cause() {
    let output = annvil(&["check", "no/such.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: cannot read job file `no/such.toml`\n  because: "), "{stderr}");
}

#[test]
fn wrong_usage_exits_with_2_and_help_and_version_with_0() {
    assert_eq!(annvil(&[]).status.code(), Some(2));
    assert_eq!(annvil(&["chekc"]).status.code(), Some(2));
    let version = annvil(&["-V"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(text(&version.stdout), concat!("annvil ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = annvil(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Exit codes:"));
}

/// A graph over 1,200 random rows of 8 dimensions, published as `<folder>/words`: row `i` has the id `1000 + i`, the
/// word `w<i>` and the rank `i`.
struct Words {
    _folder: tempfile::TempDir,
    uri: String,
    rows: VectorBuf,
}

const ROWS: u32 = 1200;
const DIM: usize = 8;

fn words() -> Words {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("words").to_str().unwrap().to_string();
    let mut random = Random::new(3);
    let mut rows = VectorBuf::new((0..ROWS as usize * DIM).map(|_| random.normal() as f32).collect(), DIM);
    for row in 0..rows.rows() {
        assert!(normalize(rows.row_mut(row)));
    }
    let words = Words { _folder: folder, uri, rows };
    words.publish();
    words
}

impl Words {
    fn publish(&self) {
        let params = HnswParams::new(8, 64);
        let built =
            hnsw::build(&Cpu::new(), self.rows.view(), Metric::Cosine, &params, 1, &unobserved).unwrap();
        let ids: Vec<u64> = built.order.iter().map(|&row| 1000 + u64::from(row)).collect();
        let words: StringArray = built.order.iter().map(|row| Some(format!("w{row}"))).collect();
        let ranks: Int32Array = built.order.iter().map(|&row| Some(row as i32)).collect();
        let attributes = RecordBatch::try_from_iter([
            ("rank", Arc::new(ranks) as ArrayRef),
            ("word", Arc::new(words) as ArrayRef),
        ]);
        let mut files: Vec<(String, Bytes)> = built
            .index
            .sections()
            .iter()
            .map(safetensors::encode)
            .map(|section| (section.file_name, section.bytes))
            .collect();
        files.push((IDS_FILE.into(), columns::encode_ids(&RowIds::from(ids)).unwrap()));
        files.push((ATTRIBUTES_FILE.into(), columns::encode(&attributes.unwrap()).unwrap()));
        let mut draft = ManifestDraft::new("hnsw", Metric::Cosine, DIM as u32, u64::from(ROWS));
        draft.search_defaults = Some(SearchDefaults { effort: 48, refine: 0 });
        draft.certificate = Some(certificate());
        draft.job = json!({ "source": { "vector": "embedding" } });
        IndexStore::open(&self.uri).unwrap().publish(files, draft).unwrap();
    }

    fn search(&self, arguments: &[&str]) -> Value {
        let output = annvil(&[&["search", &self.uri, "--json"], arguments].concat());
        assert_eq!(text(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The ids of the `k` nearest to a vector, by the definition.
    fn nearest(&self, query: &[f32], k: usize) -> Vec<u64> {
        let mut rows: Vec<u64> = (0..u64::from(ROWS)).collect();
        let distance = |row: &u64| Metric::Cosine.distance(query, self.rows.row(*row as usize));
        rows.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        rows.iter().take(k).map(|row| 1000 + row).collect()
    }

    /// A file of the published version.
    fn path(&self, file: &str) -> PathBuf {
        let manifest = IndexStore::open(&self.uri).unwrap().read_manifest(1).unwrap();
        Path::new(&self.uri).join("seg").join(manifest.segments[0].id.to_string()).join(file)
    }
}

fn certificate() -> Certificate {
    let point = |effort, mean| CertificatePoint {
        effort,
        refine: 0,
        recall: vec![
            Recall { k: 10, mean, low: mean - 0.01, high: mean + 0.01 },
            Recall { k: 100, mean: mean - 0.3, low: 0.0, high: 1.0 },
        ],
        latency_us: Latency { p50: 10.0, p95: 20.0, p99: 30.0 },
        qps: 9000.0,
    };
    Certificate {
        query_set_digest: Digest::of(b"queries"),
        queries: 200,
        ground_truth_digest: Digest::of(b"truth"),
        k: vec![10, 100],
        points: vec![point(16, 0.5), point(48, 0.9), point(1200, 0.98)],
        target_k: 10,
        target_recall: 0.9,
        gate: Some(Gate { k: 10, min_recall: 0.85 }),
        chosen_effort: 48,
        chosen_refine: 0,
    }
}

fn ids(result: &Value) -> Vec<u64> {
    result["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_u64().unwrap()).collect()
}

/// Exits with `code`, prints nothing to stdout, and says all of `parts`.
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = annvil(arguments);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), ""), "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: `{part}` is not in {stderr}");
    }
}

#[test]
fn a_row_is_searched_for_by_its_value_and_left_out() {
    let words = words();
    for like in [&["--like", "w7"][..], &["--like", "1007"], &["--like", "7", "--column", "rank"]] {
        let answer = words.search(&[like, &["-k", "5", "--exact"]].concat());
        let expected = &words.nearest(words.rows.row(7), 6)[1..];
        assert_eq!(ids(&answer["results"][0]), expected, "{like:?}");
        assert_eq!((&answer["effort"], &answer["effort_name"]), (&Value::Null, &Value::Null));
    }
    let first = &words.search(&["--like", "w7", "--effort", "1200"])["results"][0];
    assert_eq!(first["query"], "like word = w7");
    assert_eq!(ids(first), words.nearest(words.rows.row(7), 11)[1..]);
    let hit = &first["hits"][0];
    let row = hit["id"].as_u64().unwrap() - 1000;
    assert_eq!(hit["attributes"], json!({ "rank": row, "word": format!("w{row}") }));
    let distance = Metric::Cosine.distance(words.rows.row(7), words.rows.row(row as usize));
    assert!((hit["distance"].as_f64().unwrap() - distance).abs() < 1e-3, "{hit} {distance}");
    assert!((hit["similarity"].as_f64().unwrap() + distance - 1.0).abs() < 1e-3, "{hit} {distance}");

    let table = annvil(&["search", &words.uri, "--like", "w7", "-k", "3"]);
    let table = text(&table.stdout);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.contains("(version 1, cosine, ef_search 48)"), "{table}");
}

#[test]
fn the_setting_is_the_one_asked_for_and_not_changed_by_leaving_a_row_out() {
    let words = words();
    let effort =
        |arguments: &[&str]| words.search(&[&["--like", "w7"], arguments].concat())["effort"].clone();
    assert_eq!(effort(&[]), 48);
    assert_eq!(effort(&["--effort", "77"]), 77);
    assert_eq!(effort(&["--recall", "0.4"]), 16);
    // recall@10, though eleven rows are searched for; recall@100 would take more.
    assert_eq!(effort(&["--recall", "0.9"]), 48);
    assert_eq!(effort(&["--recall", "0.6", "-k", "11"]), 48);
    let parts = ["no setting that the certificate measured reaches recall@10 0.99; the best has 0.9800"];
    refused(&["search", &words.uri, "--like", "w7", "--recall", "0.99"], 2, &parts);
}

#[test]
fn vectors_of_a_file_are_searched_for() {
    let words = words();
    let folder = tempfile::tempdir().unwrap();
    let queries: Vec<&[f32]> = vec![words.rows.row(3), words.rows.row(4)];
    let json = folder.path().join("queries.json");
    std::fs::write(&json, json!(queries).to_string()).unwrap();
    let parquet = folder.path().join("queries.parquet");
    let lists: FixedSizeListArray = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        queries.iter().map(|query| Some(query.iter().map(|&value| Some(value)))),
        DIM as i32,
    );
    for (column, file) in [("embedding", &parquet), ("other", &folder.path().join("other.parquet"))] {
        let batch = RecordBatch::try_from_iter([(column, Arc::new(lists.clone()) as ArrayRef)]).unwrap();
        let file = std::fs::File::create(file).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    for file in [&json, &parquet] {
        let answer = words.search(&["--vector", file.to_str().unwrap(), "--exact", "-k", "4"]);
        for (number, query) in queries.iter().enumerate() {
            let result = &answer["results"][number];
            assert_eq!(result["query"], format!("vector {number}"));
            assert_eq!(ids(result), words.nearest(query, 4));
        }
    }
    let other = folder.path().join("other.parquet");
    let other = other.to_str().unwrap();
    words.search(&["--vector", other, "--vector-column", "other"]);
    refused(&["search", &words.uri, "--vector", other], 2, &["no column `embedding`", "other"]);
    std::fs::write(&json, "[1, 2, 3]").unwrap();
    let parts = ["queries have 3 dimensions, the index 8"];
    refused(&["search", &words.uri, "--vector", json.to_str().unwrap()], 2, &parts);
}

#[test]
fn what_cannot_be_searched_says_why() {
    let words = words();
    let uri = words.uri.as_str();
    let parts =
        ["no row has `queen` in column `word` or the row ids; --column takes `rank`, `word`, `row_id`"];
    refused(&["search", uri, "--like", "queen"], 2, &parts);
    refused(&["search", uri, "--like", "w1", "--column", "id"], 2, &["no column `id`"]);
    refused(&["search", uri, "--like", "w1", "--version", "9"], 2, &["version 9 of index `words`"]);
    refused(&["search", &format!("{uri}x"), "--like", "w1"], 2, &["index `wordsx` does not exist"]);
    refused(&["search", uri, "--vector", "no/such/file"], 2, &["cannot read `no/such/file`"]);
    refused(&["search", "ftp://host/words", "--like", "w1"], 2, &["scheme `ftp` is not supported"]);
}

#[test]
fn an_index_is_inspected_verified_listed_and_rolled_back() {
    let words = words();
    let uri = words.uri.as_str();
    words.publish();

    let inspected = annvil(&["inspect", uri]);
    assert_eq!(inspected.status.code(), Some(0));
    let shown = text(&inspected.stdout);
    assert!(shown.starts_with(&format!("{uri} version 2, the latest\n")), "{shown}");
    assert!(shown.contains("gate      recall@10 ≥ 0.85\n"), "{shown}");
    let json: Value = serde_json::from_slice(&annvil(&["inspect", uri, "--json"]).stdout).unwrap();
    assert_eq!((&json["version"], &json["certificate"]["chosen_effort"]), (&2.into(), &48.into()));

    let rolled = annvil(&["rollback", uri, "--to", "1", "--json"]);
    let rolled: Value = serde_json::from_slice(&rolled.stdout).unwrap();
    assert_eq!(rolled, json!({ "uri": uri, "version": 3, "restores": 1, "was": 2 }));
    refused(&["rollback", uri, "--to", "9"], 2, &["version 9 of index `words` does not exist"]);

    let listed: Value = serde_json::from_slice(&annvil(&["versions", uri, "--json"]).stdout).unwrap();
    let versions = listed["versions"].as_array().unwrap();
    assert_eq!(versions.iter().map(|v| &v["version"]).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(versions[0]["restores"], 1);
    assert_eq!(versions[0]["default_setting"], "ef_search 48");
    assert_eq!(versions[0]["recall"]["mean"], 0.9);
    refused(&["versions", &format!("{uri}x")], 2, &["does not exist"]);

    let verified = annvil(&["verify", uri]);
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stdout));
    assert!(text(&verified.stdout).contains("whole: "), "{}", text(&verified.stdout));
}

#[test]
fn damage_exits_with_4_and_a_damaged_version_does_not_hide_the_others() {
    let words = words();
    let uri = words.uri.as_str();
    words.publish();
    let manifest = Path::new(uri).join("v/00000000000000000002.json");
    let mut bytes = std::fs::read(&manifest).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    let named = "version 2, file `v/00000000000000000002.json`";
    refused(&["verify", uri], 4, &[named]);
    refused(&["search", uri, "--like", "w1"], 4, &[named]);
    refused(&["inspect", uri], 4, &[named]);
    let listed = annvil(&["versions", uri]);
    assert_eq!(listed.status.code(), Some(0));
    assert!(text(&listed.stdout).contains("DAMAGED manifest") && text(&listed.stdout).contains(named));
    assert_eq!(words.search(&["--like", "w1", "--version", "1"])["version"], 1);

    let ids = words.path(IDS_FILE);
    let whole = std::fs::read(&ids).unwrap();
    std::fs::write(&ids, &whole[..whole.len() - 1]).unwrap();
    let verified = annvil(&["verify", uri, "--version", "1"]);
    assert_eq!(verified.status.code(), Some(4));
    let shown = text(&verified.stdout);
    assert!(shown.contains("/ids.arrow`: damaged: expected") && shown.contains("NOT whole"), "{shown}");
    assert!(text(&verified.stderr).contains("is damaged: 1 of"), "{}", text(&verified.stderr));
    refused(&["rollback", uri, "--to", "1"], 4, &["/ids.arrow`: damaged"]);
}

#[test]
fn datasets_are_listed_and_an_unknown_one_is_refused() {
    let listed = annvil(&["dataset", "list"]);
    assert_eq!(listed.status.code(), Some(0));
    assert!(
        text(&listed.stdout).contains("glove100       336,479 × 100  cosine"),
        "{}",
        text(&listed.stdout)
    );
    refused(&["dataset", "fetch", "glove1000"], 2, &["no dataset \"glove1000\"", "glove100"]);
}
