//! Indexes published into a folder, and the real program serving them.
#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../servers/http.rs"]
pub mod http;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::artifact::{ManifestDraft, SearchDefaults, safetensors};
use annvil::ivf::Refine;
use annvil::store::IndexStore;
use annvil::vectors::{Metric, Random, RowIds, VectorBuf};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt32Array,
};
use bytes::Bytes;
use serde_json::Value;

use crate::published::{certificate, forge};
use http::Message;

/// How long anything that is waited for may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A folder of published indexes.
pub struct Shelf {
    folder: tempfile::TempDir,
}

impl Shelf {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn uri(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    /// The next version of `name`: a row per id and per row of the attributes.
    pub fn publish(
        &self,
        name: &str,
        kind: &str,
        (rows, metric): (&VectorBuf, Metric),
        ids: &RowIds,
        attributes: Option<&RecordBatch>,
    ) -> u64 {
        let (sections, order) = forge(kind, rows, metric, Refine::F32);
        let mut files: Vec<(String, Bytes)> =
            sections.iter().map(safetensors::encode).map(|file| (file.file_name, file.bytes)).collect();
        files.push((IDS_FILE.into(), columns::encode_ids(&ids.gather(&order)).unwrap()));
        if let Some(batch) = attributes {
            let order = UInt32Array::from(order);
            let taken =
                batch.columns().iter().map(|column| arrow_select::take::take(column, &order, None).unwrap());
            let batch = RecordBatch::try_new(batch.schema(), taken.collect()).unwrap();
            files.push((ATTRIBUTES_FILE.into(), columns::encode(&batch).unwrap()));
        }
        let mut draft = ManifestDraft::new(kind, metric, rows.dim() as u32, rows.rows() as u64);
        // What was published before may have the same segments, and is another version all the same.
        draft.search_defaults = Some(SearchDefaults { effort: 60, refine: 60 });
        draft.certificate = Some(certificate(&[1, 10], &[(20, &[0.9, 0.8]), (60, &[0.99, 0.95])]));
        IndexStore::open(&self.uri(name)).unwrap().publish(files, draft).unwrap().version
    }

    /// Zeroes part of one file of the latest version's segment that is larger than that.
    pub fn damage(&self, name: &str) {
        let latest = IndexStore::open(&self.uri(name)).unwrap();
        let manifest = latest.read_manifest(latest.latest().unwrap().unwrap()).unwrap();
        let segment = self.folder.path().join(name).join("seg").join(manifest.segments[0].id.to_string());
        let largest =
            std::fs::read_dir(segment).unwrap().flatten().max_by_key(|file| file.metadata().unwrap().len());
        let path = largest.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(path, bytes).unwrap();
    }
}

/// Attributes of every type that clients filter by, nulls among them.
pub fn attributes(rows: usize, seed: u64) -> RecordBatch {
    let mut random = Random::new(seed);
    let mut some = |part: usize| random.below(10) < part;
    let valid: Vec<[bool; 6]> = (0..rows).map(|_| std::array::from_fn(|_| some(8))).collect();
    let mut random = Random::new(seed + 1);
    let mut draw = |of: usize| random.below(of);
    let words = ["anvil", "forge", "hammer", "Tongs and fire", "l'enclume d'or", "鉄"];
    let text: StringArray = (0..rows).map(|_| Some(words[draw(6)])).collect();
    let source: StringArray = valid.iter().map(|row| row[0].then(|| format!("doc-{}", draw(12)))).collect();
    let page: Int64Array = valid.iter().map(|row| row[1].then(|| draw(30) as i64 - 5)).collect();
    let score: Float64Array = valid.iter().map(|row| row[2].then(|| draw(100) as f64 / 8.0)).collect();
    let flag: BooleanArray = valid.iter().map(|row| row[3].then(|| draw(2) == 1)).collect();
    let time = valid.iter().map(|row| row[4].then(|| 1_700_000_000_000 + draw(1_000_000) as i64 * 86_400));
    let time = time.collect::<TimestampMillisecondArray>().with_timezone("UTC");
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in &valid {
        for _ in 0..draw(4) {
            tags.values().append_value(words[draw(3)]);
        }
        tags.append(row[5]);
    }
    RecordBatch::try_from_iter_with_nullable([
        ("page_content", Arc::new(text) as ArrayRef, true),
        ("metadata.source", Arc::new(source), true),
        ("metadata.page", Arc::new(page), true),
        ("score", Arc::new(score), true),
        ("flag", Arc::new(flag), true),
        ("time", Arc::new(time), true),
        ("tags", Arc::new(tags.finish()), true),
    ])
    .unwrap()
}

/// `annvil serve`, until dropped.
pub struct Served {
    pub port: u16,
    pub child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Served {
    pub fn start(indexes: &[String], arguments: &[&str]) -> Self {
        Self::with_environment(indexes, arguments, &[])
    }

    pub fn with_environment(indexes: &[String], arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_annvil"))
            .arg("serve")
            .args(indexes)
            .args(["--listen", "127.0.0.1:0", "--json"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("a line when it listens").unwrap();
        let listening: Value = serde_json::from_str(&line).unwrap();
        let port = listening["url"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        Self { port, child, lines }
    }

    /// The next event of its log.
    pub fn event(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("an event").unwrap()).unwrap()
    }

    pub fn get(&self, path: &str) -> Message {
        http::ask(self.port, &http::request("GET", path)).unwrap()
    }

    pub fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Message {
        http::ask(self.port, &http::request("POST", path).body(body)).unwrap()
    }

    #[cfg(unix)]
    pub fn terminate(&self) {
        // SAFETY: sends a signal to the child that this value holds.
        assert_eq!(unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) }, 0);
    }

    /// Asks until an answer is what is waited for.
    pub fn wait_for(&self, path: &str, is_there: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let text = String::from_utf8(self.get(path).body).unwrap();
            if is_there(&text) {
                return text;
            }
            assert!(start.elapsed() < DEADLINE, "{path} still says {text}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn status(answer: &Message) -> u16 {
    answer.first.split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn json(answer: &Message) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&answer.body)))
}

/// Where the clients of this kind are installed; `None` where they cannot be had.
pub fn clients(kind: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install.sh");
    let output = Command::new("sh").arg(script).arg(kind).stderr(Stdio::inherit()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    let there = output.status.success().then(|| PathBuf::from(folder.trim()));
    assert!(there.is_some() || std::env::var_os("CI").is_none(), "CI has no clients to test with");
    there
}
