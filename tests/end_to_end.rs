//! The main job by way of the binary: Parquet in, certified and published indexes out, asked, checked, damaged,
//! rebuilt. What is compared with is computed here, by the definition.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use annvil::source::{Source, SourceSpec};
use annvil::store::{IndexStore, runtime};
use annvil::vectors::{Metric, Random};
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, Int64Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

const QUICKSTART: &str = "pipelines/quickstart.toml";
const INDEXES: [&str; 2] = ["glove10k-hnsw", "glove10k-ivf"];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn annvil(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// stdout of a command that succeeds.
fn ok(arguments: &[&str]) -> String {
    let output = annvil(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_string()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(&[arguments, &["--json"]].concat())).unwrap()
}

/// The result that a build's last event brings.
fn build(arguments: &[&str]) -> Value {
    let events = ok(&[&["build", "--json"], arguments].concat());
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "finished");
    last["result"].clone()
}

fn published_versions(index: &Path) -> Vec<u64> {
    IndexStore::open(index.to_str().unwrap()).unwrap().versions().unwrap()
}

fn segment_ids(index: &Path, version: u64) -> Vec<String> {
    let manifest = IndexStore::open(index.to_str().unwrap()).unwrap().read_manifest(version).unwrap();
    manifest.segments.iter().map(|segment| segment.id.to_string()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The quickstart's output, built once with two threads, and what the build said of it. Nothing changes it.
fn quickstart() -> &'static (PathBuf, Value) {
    static BUILT: OnceLock<(PathBuf, Value)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quickstart");
        if output.exists() {
            fs::remove_dir_all(&output).unwrap();
        }
        let result = build(&[QUICKSTART, "--threads", "2", "--output", output.to_str().unwrap()]);
        (output, result)
    })
}

fn quickstart_index(name: &str) -> String {
    quickstart().0.join(name).to_str().unwrap().to_string()
}

/// The words of the quickstart, and of each word the others from the nearest on.
struct Words {
    words: Vec<String>,
    rows: annvil::vectors::VectorBuf,
}

impl Words {
    fn read() -> Self {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/glove10k/base.parquet");
        let mut spec = SourceSpec::new(base.to_str().unwrap(), "embedding", Metric::Cosine);
        spec.attribute_columns = vec!["word".into()];
        let source = Source::open(spec, runtime().unwrap()).unwrap();
        let rows = source.read_all(&|_, _| std::ops::ControlFlow::Continue(())).unwrap();
        let column = arrow_cast::cast(rows.attributes.column(0), &DataType::Utf8).unwrap();
        let words = column.as_string::<i32>().iter().map(|word| word.unwrap().to_string()).collect();
        Self { words, rows: rows.vectors }
    }

    fn nearest(&self, word: &str, k: usize) -> Vec<&str> {
        let itself = self.words.iter().position(|other| other == word).unwrap();
        let distance = |row: &usize| Metric::Cosine.distance(self.rows.row(itself), self.rows.row(*row));
        let mut others: Vec<usize> = (0..self.words.len()).filter(|&row| row != itself).collect();
        others.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        others[..k].iter().map(|&row| self.words[row].as_str()).collect()
    }
}

#[test]
fn both_indexes_find_the_words_that_are_nearest() {
    let words = Words::read();
    for index in INDEXES {
        let mut found_of_50 = 0;
        for (word, nearest) in
            [("river", "lake"), ("piano", "saxophone"), ("tennis", ""), ("lawyer", ""), ("wine", "")]
        {
            let answer = json(&["search", &quickstart_index(index), "--like", word, "-k", "10"]);
            let hits = answer["results"][0]["hits"].as_array().unwrap();
            let found: Vec<&str> =
                hits.iter().map(|hit| hit["attributes"]["word"].as_str().unwrap()).collect();
            assert_eq!(found.len(), 10, "{index}: {word}");
            assert!(nearest.is_empty() || found[0] == nearest, "{index}: {word}: {found:?}");
            let expected = words.nearest(word, 10);
            let common = expected.iter().filter(|word| found.contains(word)).count();
            assert!(common > 5, "{index}: {word}: found {found:?}, nearest are {expected:?}");
            found_of_50 += common;

            let exact = json(&["search", &quickstart_index(index), "--like", word, "-k", "10", "--exact"]);
            let hits = exact["results"][0]["hits"].as_array().unwrap();
            let exact: Vec<&str> =
                hits.iter().map(|hit| hit["attributes"]["word"].as_str().unwrap()).collect();
            // Kept as f16, two that are almost equally near may change places.
            assert!(expected[..9].iter().all(|word| exact.contains(word)), "{exact:?} {expected:?}");
        }
        assert!(found_of_50 >= 43, "{index}: found {found_of_50} of 50");
    }
}

#[test]
fn a_build_tells_what_it_read_and_made() {
    let (_, result) = quickstart();
    let rows = &result["rows"];
    assert_eq!((&rows["read"], &rows["kept"]), (&10_000.into(), &10_000.into()));
    assert_eq!(
        (&result["queries"], &result["metric"], &result["dim"]),
        (&200.into(), &"cosine".into(), &100.into())
    );
    assert!(!result["stages"].as_array().unwrap().is_empty());
    for (index, name) in result["indexes"].as_array().unwrap().iter().zip(INDEXES) {
        assert_eq!((&index["name"], &index["outcome"]), (&name.into(), &"published".into()));
        assert_eq!(index["version"], 1);
    }
}

#[test]
fn the_certificate_says_that_the_default_reaches_its_gate() {
    for index in INDEXES {
        let uri = quickstart_index(index);
        let manifest = json(&["inspect", &uri]);
        let certificate = &manifest["certificate"];
        assert_eq!(certificate["queries"], 200);
        let effort = &manifest["search_defaults"]["effort"];
        assert_eq!(effort, &certificate["chosen_effort"]);
        let points = certificate["points"].as_array().unwrap();
        assert!(points.len() > 2, "{index}: {points:?}");
        let default = points.iter().find(|point| point["effort"] == *effort).unwrap();
        let recall = default["recall"].as_array().unwrap();
        let at_10 = recall.iter().find(|recall| recall["k"] == 10).unwrap();
        assert!(at_10["mean"].as_f64().unwrap() >= 0.95, "{index}: {at_10}");
        assert!(at_10["low"].as_f64() <= at_10["mean"].as_f64(), "{index}: {at_10}");

        let answer = json(&["search", &uri, "--like", "river"]);
        assert_eq!(&answer["effort"], effort);
        assert_eq!(answer["effort_name"], if index.ends_with("hnsw") { "ef_search" } else { "nprobe" });
        let shown = ok(&["inspect", &uri]);
        assert!(shown.contains(answer["effort_name"].as_str().unwrap()), "{shown}");
        assert!(ok(&["verify", &uri]).contains("\nwhole: "));
    }
}

#[test]
fn one_thread_makes_the_same_bytes_as_two_and_an_older_version_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&quickstart().0, folder.path());
    let result = build(&[QUICKSTART, "--threads", "1", "--output", folder.path().to_str().unwrap()]);
    for (built, name) in result["indexes"].as_array().unwrap().iter().zip(INDEXES) {
        assert_eq!(built["version"], 2);
        let index = folder.path().join(name);
        assert_eq!(segment_ids(&index, 2), segment_ids(&index, 1), "{name}");

        let uri = index.to_str().unwrap();
        let done = json(&["rollback", uri, "--to", "1"]);
        assert_eq!((&done["version"], &done["restores"], &done["was"]), (&3.into(), &1.into(), &2.into()));
        let versions = json(&["versions", uri]);
        assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
        let before = json(&["search", uri, "--like", "river", "--version", "1"]);
        let after = json(&["search", uri, "--like", "river"]);
        assert_eq!(after["version"], 3);
        assert_eq!(after["results"], before["results"]);
    }
}

/// A job over small random rows, in a folder of its own.
struct SmallJob {
    folder: tempfile::TempDir,
}

const SMALL_DIM: usize = 8;

/// What a row of the small job's Parquet is.
#[test]
fn nothing_of_a_job_is_published_when_a_store_does_not_take_all_of_its_indexes() {
    let indexes = "[[index]]\nkind = \"flat\"\nmetric = \"l2\"\n\
                   [[index]]\nkind = \"ivf_pq\"\nmetric = \"l2\"\nnlist = 12\npq_m = 4\n";
    let job = SmallJob::new(&[Row::Good; 1250], "", indexes);
    // A file, where the second index's segments are to lie.
    let in_the_way = job.index("ivf_pq").join("seg");
    fs::create_dir_all(job.index("ivf_pq")).unwrap();
    fs::write(&in_the_way, "").unwrap();
    let output = annvil(&["build", &job.job()]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("small-ivf_pq"), "{}", text(&output.stderr));
    assert_eq!(published_versions(&job.index("flat")), [0; 0]);

    fs::remove_file(&in_the_way).unwrap();
    build(&[&job.job()]);
    for kind in ["flat", "ivf_pq"] {
        assert_eq!(published_versions(&job.index(kind)), [1], "{kind}");
    }
}

#[derive(Clone, Copy)]
enum Row {
    Good,
    NullVector,
    NotANumber,
    /// Has the id of the row before.
    DuplicateId,
}

impl SmallJob {
    /// A row group is 100 rows.
    fn new(rows: &[Row], source: &str, indexes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random::new(11);
        let mut ids = Vec::new();
        let vectors: Vec<Option<Vec<Option<f32>>>> = rows
            .iter()
            .enumerate()
            .map(|(row, kind)| {
                ids.push(row as i64 - i64::from(matches!(kind, Row::DuplicateId)));
                let mut vector: Vec<Option<f32>> =
                    (0..SMALL_DIM).map(|_| Some(random.normal() as f32)).collect();
                if matches!(kind, Row::NotANumber) {
                    vector[3] = Some(f32::NAN);
                }
                (!matches!(kind, Row::NullVector)).then_some(vector)
            })
            .collect();
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, SMALL_DIM as i32);
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
            ("vector", Arc::new(vectors)),
        ])
        .unwrap();
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_max_row_group_row_count(Some(100))
            .build();
        let file = fs::File::create(folder.path().join("rows.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let job = format!(
            "[source]\nuri = \"rows.parquet\"\nvector = \"vector\"\nid = \"id\"\n{source}\n[queries]\nsample = 50\n\
             [output]\nuri = \"out\"\n{indexes}"
        );
        fs::write(folder.path().join("small.toml"), job).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn job(&self) -> String {
        self.path("small.toml").to_str().unwrap().to_string()
    }

    fn index(&self, kind: &str) -> PathBuf {
        self.path("out").join(format!("small-{kind}"))
    }
}

/// One index of each kind, each large enough to be searched as such.
fn one_of_each_kind() -> SmallJob {
    let index = |kind: &str, more: &str| format!("[[index]]\nkind = \"{kind}\"\nmetric = \"l2\"\n{more}\n");
    let indexes = [index("flat", ""), index("ivf_pq", "nlist = 12\npq_m = 4"), index("hnsw", "m = 8")];
    let job = SmallJob::new(&[Row::Good; 1250], "", &indexes.concat());
    build(&[&job.job()]);
    job
}

/// Spoilt contents of a file, and how; none that are what they were.
fn spoilt(whole: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.to_vec();
        change(&mut bytes);
        Some(bytes)
    };
    let middle = whole.len() / 2;
    let page_end = whole.len().min(middle + 4096);
    let mut all = vec![
        ("its first byte flipped", changed(&|bytes| bytes[0] ^= 0x20)),
        ("a byte of its head flipped", changed(&|bytes| bytes[whole.len().min(90) - 1] ^= 1)),
        ("its middle byte flipped", changed(&|bytes| bytes[middle] ^= 0x80)),
        ("its last byte flipped", changed(&|bytes| bytes[whole.len() - 1] ^= 1)),
        ("a page zeroed", changed(&|bytes| bytes[middle..page_end].fill(0))),
        ("cut by a byte", changed(&|bytes| bytes.truncate(whole.len() - 1))),
        ("cut to half", changed(&|bytes| bytes.truncate(middle))),
        ("a byte longer", changed(&|bytes| bytes.push(0))),
        ("empty", changed(&|bytes| bytes.clear())),
        ("missing", None),
    ];
    all.retain(|(_, bytes)| bytes.as_deref() != Some(whole));
    all
}

#[test]
fn damage_to_any_file_is_named_and_never_answered_from() {
    let job = one_of_each_kind();
    let queries = job.path("queries.json");
    fs::write(&queries, format!("{:?}", [[0.5; SMALL_DIM], [-1.0; SMALL_DIM]])).unwrap();
    let queries = queries.to_str().unwrap();
    std::thread::scope(|scope| {
        for kind in ["flat", "ivf_pq", "hnsw"] {
            let index = job.index(kind);
            scope.spawn(move || spoil_every_file(&index, queries));
        }
    });
}

fn spoil_every_file(index: &Path, queries: &str) {
    let uri = index.to_str().unwrap();
    let search = ["search", uri, "--vector", queries, "--json"];
    let right = json(&search[..4])["results"].clone();
    let store = IndexStore::open(uri).unwrap();
    let manifest = store.read_manifest(1).unwrap();
    let [segment] = &manifest.segments[..] else { panic!("one segment") };
    let mut files: Vec<String> =
        segment.files.iter().map(|file| format!("seg/{}/{}", segment.id, file.name)).collect();
    files.push("v/00000000000000000001.json".into());
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let path = index.join(&file);
        let whole = fs::read(&path).unwrap();
        for (how, bytes) in spoilt(&whole) {
            match &bytes {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            // Without its manifest, a version has not been published.
            let is_gone = bytes.is_none() && file.starts_with("v/");
            let code = Some(if is_gone { 2 } else { 4 });
            let verified = annvil(&["verify", uri]);
            let said = [&verified.stdout[..], &verified.stderr].concat();
            assert_eq!(verified.status.code(), code, "{uri}: {file}, {how}: {}", text(&said));
            assert!(is_gone || text(&said).contains(&file), "{uri}: {file}, {how}: {}", text(&said));

            let searched = annvil(&search);
            let stderr = text(&searched.stderr);
            if ["/checksums.safetensors", "/queries.safetensors", "/neighbors.safetensors"]
                .iter()
                .any(|name| file.ends_with(name))
            {
                // Those are of blocks, and of a certificate; a search that reads whole files has no need of them.
                let answer: Value = serde_json::from_slice(&searched.stdout).unwrap();
                assert_eq!(answer["results"], right, "{uri}: {file}, {how}");
            } else {
                assert_eq!(searched.status.code(), code, "{uri}: {file}, {how}: {stderr}");
                assert!(is_gone || stderr.contains(&file), "{uri}: {file}, {how}: {stderr}");
                assert_eq!(text(&searched.stdout), "", "{uri}: {file}, {how}");
            }
        }
        fs::write(&path, whole).unwrap();
    }
    ok(&["verify", uri]);
    assert_eq!(json(&search[..4])["results"], right);
}

#[test]
fn nothing_of_a_job_is_published_when_an_index_is_below_its_gate() {
    // Two bits of code per row, and nothing to rank candidates by: no setting comes near.
    let indexes = "[[index]]\nkind = \"flat\"\nmetric = \"l2\"\n\
                   [[index]]\nkind = \"ivf_pq\"\nmetric = \"l2\"\nnlist = 4\npq_m = 1\npq_bits = 4\nrefine = \"none\"\n\
                   gate = { min_recall = 0.99 }\n";
    let job = SmallJob::new(&[Row::Good; 1250], "", indexes);
    let output = annvil(&["build", &job.job()]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("`small-ivf_pq` is not published: recall@10 is 0."), "{stderr}");
    assert!(stdout.contains("small-ivf_pq (ivf_pq): NOT published"), "{stdout}");
    assert!(stdout.contains("nprobe  recall@1"), "no curve in {stdout}");
    assert!(stdout.contains("small-flat (flat): NOT published"), "{stdout}");
    for kind in ["flat", "ivf_pq"] {
        assert_eq!(published_versions(&job.index(kind)), [0; 0]);
        assert_eq!(
            annvil(&["search", job.index(kind).to_str().unwrap(), "--like", "1"]).status.code(),
            Some(2)
        );
    }

    let output = annvil(&["build", "--json", &job.job()]);
    let events: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., finished, failed] = &events[..] else { panic!("{events:?}") };
    assert_eq!(finished["result"]["indexes"][1]["outcome"], "below_gate");
    assert_eq!((&failed["event"], &failed["exit_code"]), (&"failed".into(), &3.into()));
}

/// Rows 102, 230 and 300 cannot be indexed.
fn with_bad_rows(source: &str) -> SmallJob {
    let mut rows = [Row::Good; 400];
    rows[102] = Row::NotANumber;
    rows[230] = Row::NullVector;
    rows[300] = Row::DuplicateId;
    SmallJob::new(&rows, source, "[[index]]\nkind = \"flat\"\nmetric = \"l2\"\n")
}

#[test]
fn a_bad_row_fails_the_build_and_is_named() {
    let job = with_bad_rows("");
    let output = annvil(&["build", &job.job()]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("rows.parquet`, row group 1, row 2"), "{stderr}");
    assert_eq!(text(&output.stdout), "");
    assert!(!job.path("out").exists(), "something was written");
}

#[test]
fn bad_rows_are_skipped_where_the_job_says_so_and_stand_in_the_rejects() {
    let job = with_bad_rows("on_bad_row = \"skip\"");
    let result = build(&[&job.job()]);
    let rows = &result["rows"];
    assert_eq!(rows["rejected"], json!({ "nan": 1, "null_vector": 1, "duplicate_id": 1 }));
    assert_eq!((&rows["read"], &rows["held_out"], &rows["kept"]), (&400.into(), &50.into(), &347.into()));

    let file = fs::File::open(rows["rejects_uri"].as_str().unwrap()).unwrap();
    let batches: Vec<RecordBatch> = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let rejects = arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap();
    let texts =
        |column: &str| arrow_cast::cast(rejects.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    let (groups, places, reasons) = (texts("row_group"), texts("row"), texts("reason"));
    let [groups, places, reasons] = [&groups, &places, &reasons].map(|column| column.as_string::<i32>());
    let rejected: Vec<[&str; 3]> = (0..rejects.num_rows())
        .map(|row| [groups.value(row), places.value(row), reasons.value(row)])
        .collect();
    assert_eq!(rejected, [["1", "2", "nan"], ["2", "30", "null_vector"], ["3", "0", "duplicate_id"]]);

    let manifest = json(&["inspect", job.index("flat").to_str().unwrap()]);
    assert_eq!(manifest["rows"], 347);
    assert_eq!(manifest["row_counts"]["rejected"]["nan"], 1);
    let like = annvil(&["search", job.index("flat").to_str().unwrap(), "--like", "102"]);
    assert_eq!(like.status.code(), Some(2), "a rejected row was indexed");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_build_with_130_and_nothing_published() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    let mut building = command(&["build", QUICKSTART, "--output", folder.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(building.stderr.take().unwrap());
    // Its handler stands before its first stage begins.
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    let killed = Command::new("kill").args(["-INT", &building.id().to_string()]).status().unwrap();
    assert!(killed.success());
    stderr.read_to_string(&mut said).unwrap();
    let mut summary = String::new();
    building.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
    assert_eq!(building.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("stopping") && said.ends_with("error: cancelled\n"), "{said}");
    assert_eq!(summary, "");
    for index in INDEXES {
        assert_eq!(published_versions(&folder.path().join(index)), [0; 0]);
    }
}
