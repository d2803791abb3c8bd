//! A plan says what a job will take; a memory budget is kept, or the job is refused before it begins.
#![cfg(all(feature = "cli", unix))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use annvil::store::IndexStore;
use annvil::vectors::Random;
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

/// 146 MiB of vectors, read by row groups of 24.
const ROWS: usize = 400_000;
const DIM: usize = 96;
/// Less than the vectors.
const BUDGET: u64 = 140 << 20;

struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    fn new(rows: usize, indexes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_rows(&folder.path().join("rows.parquet"), rows);
        let text = format!(
            "threads = 2\nbackend = \"cpu\"\nscratch = \"scratch\"\n\
             source = {{ uri = \"rows.parquet\", vector = \"embedding\", id = \"id\" }}\n\
             queries = {{ sample = 40 }}\noutput = {{ uri = \"out\" }}\n{indexes}"
        );
        fs::write(folder.path().join("job.toml"), text).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut built = Command::new(env!("CARGO_BIN_EXE_annvil"));
        built.arg(command).arg(self.path("job.toml")).args(more);
        built
    }

    fn ok(&self, command: &str, more: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(command, more).output().unwrap();
        assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn plan(&self, more: &[&str]) -> Value {
        serde_json::from_str(&self.ok("plan", &[&["--json"], more].concat())).unwrap()
    }

    fn manifest(&self, index: &str, version: u64) -> annvil::artifact::Manifest {
        let root = self.path("out");
        IndexStore::named(root.to_str().unwrap(), index).unwrap().read_manifest(version).unwrap()
    }
}

fn write_rows(path: &Path, rows: usize) {
    const GROUP: usize = 50_000;
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP))
        .set_dictionary_enabled(false)
        .build();
    let mut writer: Option<ArrowWriter<fs::File>> = None;
    let mut random = Random::new(3);
    for start in (0..rows).step_by(GROUP) {
        let count = GROUP.min(rows - start);
        let values: Vec<f32> = (0..count * DIM).map(|_| random.unit() as f32 - 0.5).collect();
        let vectors =
            FixedSizeListArray::new(item.clone(), DIM as i32, Arc::new(Float32Array::from(values)), None);
        let ids: Int64Array = (start as i64..(start + count) as i64).collect();
        let columns = [("id", Arc::new(ids) as ArrayRef), ("embedding", Arc::new(vectors))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let writer = writer.get_or_insert_with(|| {
            ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties.clone()))
                .unwrap()
        });
        writer.write(&batch).unwrap();
    }
    writer.unwrap().close().unwrap();
}

const LISTS: &str = "[[index]]\nname = \"lists\"\nkind = \"ivf_pq\"\nmetric = \"l2\"\nnlist = 128\nkmeans_iterations = 2\n\
     target = { recall = 0.2 }\n";
const FLAT: &str = "[[index]]\nname = \"flat\"\nkind = \"flat\"\nmetric = \"l2\"\n";
const GRAPH: &str = "[[index]]\nname = \"graph\"\nkind = \"hnsw\"\nmetric = \"l2\"\nm = 8\nef_construction = 40\ntarget = { recall = 0.2 }\n";

const NAMES: [&str; 3] = ["lists", "flat", "graph"];

/// The most that a running build has in memory of its own, in bytes: what no other process can have, and the system cannot take.
fn watch_anonymous(mut command: Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib =
            line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.trim().parse().ok());
        most = most.max(kib.unwrap_or(0u64) << 10);
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    most
}

/// A memory cgroup (version 1 or 2) whose limit the system enforces; where this process may make one.
struct Cgroup(PathBuf);

impl Cgroup {
    fn limited_to(bytes: u64) -> Option<Self> {
        let name = format!("annvil-test-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let folder = Path::new(root).join(&name);
            // Of a folder that is none of a cgroup's file system, the limit's file is not there.
            if fs::create_dir(&folder).is_ok() {
                if folder.join(limit).exists() && fs::write(folder.join(limit), bytes.to_string()).is_ok() {
                    return Some(Self(folder));
                }
                let _ = fs::remove_dir(&folder);
            }
        }
        None
    }

    /// The command, begun in the group.
    fn run(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        let procs = self.0.join("cgroup.procs");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs).arg(command.get_program());
        shell.args(command.get_args());
        shell
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The job's manifests with that budget, and the most that it had in memory of its own.
fn built_within(job: &Job, budget: u64, version: u64) -> (Vec<annvil::artifact::Manifest>, u64) {
    let plan = job.plan(&["--memory-budget", &budget.to_string()]);
    assert_eq!(plan["estimate"]["spills"], true);
    assert!(plan["estimate"]["peak_memory_bytes"].as_u64().unwrap() <= budget);
    let most = watch_anonymous(job.command("build", &["--quiet", "--memory-budget", &budget.to_string()]));
    assert!(fs::read_dir(job.path("scratch")).unwrap().next().is_none());
    let manifests: Vec<_> = NAMES.iter().map(|name| job.manifest(name, version)).collect();
    let peaks = manifests.iter().filter_map(|manifest| manifest.build.peak_memory_bytes);
    let planned = manifests[0].build.planned.as_ref().unwrap().peak_memory_bytes;
    println!(
        "of {} MiB: {} of the process's own, {} resident, {} planned to be",
        budget >> 20,
        most >> 20,
        peaks.max().unwrap() >> 20,
        planned >> 20
    );
    (manifests, most)
}

#[test]
fn a_budget_below_the_rows_themselves_is_kept_and_changes_no_byte() {
    let job = Job::new(ROWS, &format!("{LISTS}{FLAT}{GRAPH}"));
    assert!((ROWS * DIM * 4) as u64 > BUDGET);
    let (with, most) = built_within(&job, BUDGET, 1);
    assert!(most < BUDGET, "{most}");

    let without = watch_anonymous(job.command("build", &["--quiet"]));
    println!("{} MiB without a budget", without >> 20);
    assert!(without > (ROWS * DIM * 4) as u64, "the rows are in memory then");
    for (name, with) in NAMES.into_iter().zip(with) {
        assert_eq!(with.segments, job.manifest(name, 2).segments, "{name}");
    }
}

/// Rows that an earlier run has left are there once, as those that are read.
#[test]
fn a_job_that_goes_on_has_its_rows_in_memory_once() {
    // Eight bits a row find next to nothing.
    const GATE: &str = "gate = { min_recall = 0.2 }\n";
    let job = Job::new(ROWS, &format!("{LISTS}refine = \"none\"\npq_m = 2\npq_bits = 4\n{GATE}"));
    let below_its_gate = job.command("build", &["--quiet"]).output().unwrap();
    let said = String::from_utf8_lossy(&below_its_gate.stderr);
    assert_eq!(below_its_gate.status.code(), Some(3), "{said}");
    let text = fs::read_to_string(job.path("job.toml")).unwrap();
    fs::write(job.path("job.toml"), text.replace(GATE, "")).unwrap();
    let most = watch_anonymous(job.command("build", &["--quiet"]));
    let stages = job.manifest("lists", 1).build.stages;
    assert!(stages.iter().any(|stage| stage.name == "read" && stage.resumed));
    assert!(most < 2 * (ROWS * DIM * 4) as u64, "{} MiB", most >> 20);
}

/// A million rows, 366 MiB: the budget holds a process, and 60 bytes a row.
#[test]
#[ignore = "takes minutes: cargo test --test plan -- --ignored --nocapture"]
fn a_budget_of_a_third_of_the_rows_is_kept_and_changes_no_byte() {
    let rows = 1_000_000;
    let budget = (rows * DIM * 4 / 3) as u64;
    let job = Job::new(rows, &format!("{LISTS}{FLAT}{GRAPH}"));
    let (with, most) = built_within(&job, budget, 1);
    assert!(most < budget, "{most}");
    job.ok("build", &["--quiet"]);
    for (name, with) in NAMES.into_iter().zip(with) {
        assert_eq!(with.segments, job.manifest(name, 2).segments, "{name}");
    }
}

/// Rows are read from the disk again and again then, as often as pages are taken away: on a busy machine that takes minutes.
#[test]
#[ignore = "takes minutes: cargo test --test plan -- --ignored --nocapture"]
fn a_limit_that_the_system_enforces_is_enough() {
    let Some(group) = Cgroup::limited_to(BUDGET + BUDGET / 10) else {
        eprintln!("SKIPPED: no memory cgroup can be made here");
        return;
    };
    let job = Job::new(ROWS, &format!("{LISTS}{FLAT}{GRAPH}"));
    let build = job.command("build", &["--quiet", "--memory-budget", &BUDGET.to_string()]);
    let output = group.run(&build).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    // Resident may be more than the limit: the program's own pages are charged to whoever read them first.
    let peaks = NAMES.iter().filter_map(|name| job.manifest(name, 1).build.peak_memory_bytes);
    let peak = peaks.max().unwrap();
    println!("done under a limit of {} MiB; resident at most {}", (BUDGET + BUDGET / 10) >> 20, peak >> 20);
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let job = Job::new(60_000, &format!("{LISTS}{GRAPH}"));
    for command in ["plan", "build"] {
        let output = job.command(command, &["--memory-budget", "64MiB"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("memory_budget") && said.contains("with all rows in scratch"), "{said}");
        let fits = said.split("a budget of ").nth(1).and_then(|rest| rest.split_once(' ')).unwrap().0;
        job.plan(&["--memory-budget", fits]);
    }
    assert!(!job.path("out").exists());
}

#[test]
fn the_plan_is_within_a_quarter_of_what_a_job_takes() {
    for indexes in [LISTS.to_string(), GRAPH.to_string(), format!("{LISTS}{GRAPH}")] {
        let job = Job::new(100_000, &indexes);
        let plan = job.plan(&[]);
        job.ok("build", &["--quiet"]);
        let names = ["lists", "graph"].into_iter().filter(|name| indexes.contains(&format!("\"{name}\"")));
        for (place, name) in names.enumerate() {
            let manifest = job.manifest(name, 1);
            let planned = manifest.build.planned.unwrap();
            let files: u64 = manifest.segments[0].files.iter().map(|file| file.size_bytes).sum();
            let read: u64 = manifest.build.stages.iter().map(|stage| stage.bytes_read).sum();
            let peak = manifest.build.peak_memory_bytes.unwrap();
            for (what, expected, got) in [
                ("peak memory", planned.peak_memory_bytes, peak),
                ("bytes read", planned.read_bytes, read),
                ("the index", planned.index_bytes, files),
                ("the index as planned", plan["estimate"]["index_bytes"][place].as_u64().unwrap(), files),
            ] {
                let ratio = expected as f64 / got as f64;
                println!("{name}, {what}: {expected} planned, {got} found, {ratio:.2}");
                assert!((0.75..1.25).contains(&ratio), "{name}, {what}: {expected} planned, {got} found");
            }
        }
    }
}

#[test]
fn the_quickstart_is_planned_within_a_quarter() {
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/quickstart.toml");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let annvil = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
        let output = command.arg(arguments[0]).arg(&job).args(&arguments[1..]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = annvil(&["plan", "--backend", "cpu", "--threads", "2"]);
    for part in ["10,000 rows × 100", "peak memory", "scratch", "build glove10k-hnsw", "publish glove10k-ivf"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    annvil(&["build", "--backend", "cpu", "--threads", "2", "--quiet", "--output", root, "--no-resume"]);
    for name in ["glove10k-hnsw", "glove10k-ivf"] {
        let manifest = IndexStore::named(root, name).unwrap().read_manifest(1).unwrap();
        let planned = manifest.build.planned.unwrap();
        let files: u64 = manifest.segments[0].files.iter().map(|file| file.size_bytes).sum();
        for (expected, got) in [
            (planned.index_bytes, files),
            (planned.peak_memory_bytes, manifest.build.peak_memory_bytes.unwrap()),
        ] {
            let ratio = expected as f64 / got as f64;
            println!("{name}: {expected} planned, {got} found, {ratio:.2}");
            assert!((0.75..1.25).contains(&ratio), "{name}: {expected} planned, {got} found");
        }
    }
}
