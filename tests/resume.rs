//! A job that is killed, run again: it goes on where it was, and ends with the bytes of one that was never disturbed. By way
//! of the binary, with `kill -9`.
//!
//! The campaigns take minutes: `cargo test --test resume -- --ignored --nocapture`.
#![cfg(all(feature = "cli", feature = "cloud", unix))]

#[allow(unused_imports, reason = "each test uses a part of it")]
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annvil::store::{GcPolicy, IndexStore, KeyReference, StoreOptions};
use annvil::vectors::Random;
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use servers::{Kind, Server};

const ROWS: usize = 4000;
const DIM: usize = 24;
const INDEXES: [&str; 2] = ["graph", "lists"];

/// A job in a folder of its own.
struct Job {
    folder: tempfile::TempDir,
    /// Where it publishes: a folder, or a URI.
    output: String,
    environment: Vec<(&'static str, String)>,
    options: StoreOptions,
    /// What it encrypts its indexes with.
    key: Option<KeyReference>,
}

fn write_rows(path: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let values: Vec<f32> = (0..ROWS * DIM).map(|_| random.normal() as f32).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::new(item, DIM as i32, Arc::new(Float32Array::from(values)), None);
    let ids: StringArray = (0..ROWS).map(|row| Some(format!("row {row}"))).collect();
    let numbers: Int64Array = (0..ROWS as i64).map(|row| (row % 7 != 0).then_some(row * row)).collect();
    let columns =
        [("id", Arc::new(ids) as ArrayRef), ("square", Arc::new(numbers)), ("embedding", Arc::new(vectors))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

impl Job {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_rows(&folder.path().join("rows.parquet"), 5);
        let output = folder.path().join("out").to_str().unwrap().to_string();
        let options = StoreOptions::default();
        let job = Self { folder, output, environment: Vec::new(), options, key: None };
        job.write("m = 12");
        job
    }

    /// The same, encrypted.
    #[cfg(feature = "encryption")]
    fn encrypted() -> Self {
        let mut job = Self::new();
        fs::write(job.path("key"), "07".repeat(32)).unwrap();
        job.key = Some(format!("file:{}", job.path("key").display()).parse().unwrap());
        job.write("m = 12");
        job
    }

    fn on(server: &Server, name: &str) -> Self {
        let (output, environment) = (server.root(name), server.environment());
        Self { output, environment, options: server.options(), ..Self::new() }
    }

    /// The job file, with `more` for its graph.
    fn write(&self, more: &str) {
        let key =
            self.key.as_ref().map_or(String::new(), |key| format!("encryption = {{ key = \"{key}\" }}"));
        let text = format!(
            r#"
threads = 2
backend = "cpu"
source = {{ uri = "rows.parquet", vector = "embedding", id = "id", attributes = ["square"] }}
queries = {{ sample = 60 }}
output = {{ uri = "out" }}
scratch = "scratch"
{key}

[[index]]
name = "graph"
kind = "hnsw"
metric = "cosine"
{more}

[[index]]
name = "lists"
kind = "ivf_pq"
metric = "cosine"
nlist = 40
"#
        );
        fs::write(self.path("job.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
        command.arg("build").arg(self.path("job.toml")).args(["--json", "--output", &self.output]).args(more);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    fn finish(&self, more: &[&str]) -> Finished {
        self.end(more, 0)
    }

    fn end(&self, more: &[&str], code: i32) -> Finished {
        let started = Instant::now();
        let Output { status, stdout, stderr } = self.command(more).output().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(code), "{said}");
        let events: Vec<Value> =
            stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        Finished { events, wall: started.elapsed() }
    }

    fn index(&self, name: &str) -> IndexStore {
        let store = IndexStore::named_with(&self.output, name, &self.options).unwrap();
        self.key.iter().fold(store, |store, key| store.with_keys(vec![key.clone()]))
    }

    /// Name, size and hash of each section of each index's version `version`.
    fn sections(&self, version: u64) -> Vec<String> {
        let mut sections = Vec::new();
        for name in INDEXES {
            let manifest = self.index(name).read_manifest(version).unwrap();
            assert_eq!(manifest.segments.len(), 1);
            sections.extend(manifest.segments[0].files.iter().map(|file| format!("{name} {file:?}")));
        }
        sections
    }

    /// Whether a run has published everything and given its scratch up.
    fn has_ended(&self) -> bool {
        let is_published = |name: &&str| self.index(name).latest().unwrap().is_some();
        let mut left = fs::read_dir(self.path("scratch")).into_iter().flatten();
        INDEXES.iter().all(is_published) && left.all(|entry| is_given_up(&entry.unwrap().path()))
    }

    /// What the next run of any job does.
    fn sweep(&self) {
        for entry in fs::read_dir(self.path("scratch")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// One version of each index, sound; and after a collection nothing but what it names.
    fn check_nothing_is_left(&self) {
        assert!(is_empty(&self.path("scratch")), "scratch: {:?}", names(&self.path("scratch")));
        for name in INDEXES {
            let index = self.index(name);
            assert_eq!(index.versions().unwrap(), [1], "{name}");
            let policy = GcPolicy { keep: 1, older_than: Duration::ZERO, dry_run: false };
            index.collect_garbage(&policy).unwrap();
            assert!(index.artifact(None).unwrap().verify(&mut |_| ()).is_sound());
            if self.output.contains("://") {
                continue;
            }
            let stored = index.read_stored(1).unwrap();
            let files = stored.folders().into_iter().flat_map(|folder| {
                folder.files.iter().map(move |file| format!("seg/{}/{}", folder.id, file.name))
            });
            let mut expected: BTreeSet<String> = files.collect();
            expected.insert(format!("v/{:020}.json", 1));
            assert_eq!(names(&Path::new(&self.output).join(name)), expected, "{name}");
        }
    }
}

struct Finished {
    events: Vec<Value>,
    wall: Duration,
}

impl Finished {
    /// Stages that an earlier run had done.
    fn resumed(&self) -> BTreeSet<String> {
        let finished = self.events.iter().find(|event| event["event"] == "finished").unwrap();
        let stages = finished["result"]["stages"].as_array().unwrap().iter();
        let resumed = stages.filter(|stage| stage["resumed"] == true);
        resumed.map(|stage| stage["name"].as_str().unwrap().to_string()).collect()
    }

    fn notes(&self) -> String {
        let texts = self.events.iter().filter_map(|event| event["text"].as_str());
        texts.collect::<Vec<_>>().join("\n")
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().into());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(folder, folder, &mut found);
    found
}

fn is_given_up(folder: &Path) -> bool {
    folder.to_str().unwrap().ends_with(".annvil-removed")
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// When a run is killed.
#[derive(Debug, Clone)]
enum Moment {
    /// So long after it has been started.
    After(Duration),
    /// As soon as it has told so many events.
    AtEvent(usize),
    /// As soon as an event has this in it.
    AtText(&'static str),
}

/// Starts the job and kills it; whether it was still running.
fn kill(job: &Job, moment: &Moment) -> bool {
    let mut child: Child = job.command(&[]).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    match moment {
        Moment::After(delay) => std::thread::sleep(*delay),
        Moment::AtEvent(count) => drop(lines.by_ref().take(*count).collect::<Vec<_>>()),
        Moment::AtText(text) => {
            lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        }
    }
    let was_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    was_running
}

/// What a campaign came to.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    too_late: usize,
    jobs: usize,
    /// Jobs that had published everything, and taken their scratch away, when they were killed.
    ended: usize,
    /// How often a stage was taken from scratch by the run that ended well.
    resumed: BTreeMap<String, usize>,
    published_before: usize,
}

/// Kills jobs, at moments drawn from the whole of an undisturbed run and at its events, until `kills` have met a running process;
/// each job is killed one to three times and then runs to the end.
fn campaign(kills: usize, seed: u64, job_of: &dyn Fn(usize) -> Job) -> Tally {
    let undisturbed = job_of(0);
    let reference = undisturbed.finish(&[]);
    assert_eq!(reference.resumed(), BTreeSet::new());
    let expected = undisturbed.sections(1);
    undisturbed.check_nothing_is_left();
    let events = reference.events.len();

    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    while tally.kills < kills {
        tally.jobs += 1;
        let job = job_of(tally.jobs);
        let mut moments = Vec::new();
        for _ in 0..=random.below(3) {
            let moment = if random.below(2) == 0 {
                Moment::After(reference.wall.mul_f64(random.unit()))
            } else {
                Moment::AtEvent(1 + random.below(events))
            };
            let met = kill(&job, &moment);
            *(if met { &mut tally.kills } else { &mut tally.too_late }) += 1;
            moments.push((moment, met));
            // A job that has ended is not begun again: it would make another version, as it should.
            if job.has_ended() {
                break;
            }
        }
        if job.has_ended() {
            tally.ended += 1;
            job.sweep();
        } else {
            let finished = job.finish(&[]);
            for stage in finished.resumed() {
                *tally.resumed.entry(stage).or_default() += 1;
            }
            tally.published_before += usize::from(finished.notes().contains("published already"));
        }
        assert_eq!(job.sections(1), expected, "{moments:?}");
        job.check_nothing_is_left();
    }
    tally
}

#[test]
fn a_job_killed_at_any_moment_ends_with_the_same_bytes() {
    let tally = campaign(12, 1, &|_| Job::new());
    println!("{tally:?}");
    assert!(tally.resumed.contains_key("read"), "{tally:?}");
}

/// What it publishes is, when it is decrypted, what it would publish in the clear.
#[cfg(feature = "encryption")]
#[test]
fn an_encrypted_job_killed_at_any_moment_ends_with_the_same_bytes() {
    let tally = campaign(4, 6, &|_| Job::encrypted());
    println!("{tally:?}");
    let (plain, encrypted) = (Job::new(), Job::encrypted());
    plain.finish(&[]);
    encrypted.finish(&[]);
    assert_eq!(plain.sections(1), encrypted.sections(1));
    let folders = || {
        let job = Job::encrypted();
        job.finish(&[]);
        INDEXES.map(|name| job.index(name).read_stored(1).unwrap().folders()[0].id.to_string())
    };
    assert_eq!(
        folders(),
        INDEXES.map(|name| encrypted.index(name).read_stored(1).unwrap().folders()[0].id.to_string())
    );
}

#[test]
fn a_job_killed_on_s3_ends_with_the_same_bytes() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let tally = campaign(4, 2, &|number| Job::on(&server, &format!("killed-{number}")));
    println!("{tally:?}");
}

#[test]
#[ignore = "takes minutes: cargo test --test resume -- --ignored --nocapture campaign_of_local_files"]
fn campaign_of_local_files() {
    let tally = campaign(200, 3, &|_| Job::new());
    println!("local files: {tally:#?}");
    for stage in ["read", "exact neighbours", "build graph", "certify graph", "build lists", "certify lists"]
    {
        assert!(tally.resumed.contains_key(stage), "`{stage}` was never taken from scratch");
    }
}

#[test]
#[ignore = "takes minutes: cargo test --test resume -- --ignored --nocapture campaign_of_seaweedfs"]
fn campaign_of_seaweedfs() {
    let Some(server) = Server::start(Kind::SeaweedFs) else { return };
    println!("SeaweedFS: {:#?}", campaign(200, 4, &|number| Job::on(&server, &format!("killed-{number}"))));
}

#[test]
#[ignore = "takes minutes: cargo test --test resume -- --ignored --nocapture campaign_of_moto"]
fn campaign_of_moto() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    println!("moto: {:#?}", campaign(200, 5, &|number| Job::on(&server, &format!("killed-{number}"))));
}

/// All stages but the last certificate and the publication have been done when this is told.
const LATE: Moment = Moment::AtText("lists: certify");

#[test]
fn what_was_done_is_not_done_again() {
    let job = Job::new();
    assert!(kill(&job, &LATE));
    assert!(!is_empty(&job.path("scratch")));
    let finished = job.finish(&[]);
    let expected =
        ["build graph", "build lists", "certify graph", "exact neighbours", "read", "summarise attributes"];
    assert_eq!(finished.resumed(), expected.map(String::from).into());
    let stages = job.index("lists").read_manifest(1).unwrap().build.stages;
    let resumed = stages.iter().filter(|stage| stage.resumed).map(|stage| stage.name.as_str());
    assert_eq!(
        resumed.collect::<Vec<_>>(),
        ["read", "summarise attributes", "exact neighbours", "build lists"]
    );
    job.check_nothing_is_left();
}

#[test]
fn a_damaged_scratch_file_is_done_again() {
    let undisturbed = Job::new();
    undisturbed.finish(&[]);
    let expected = undisturbed.sections(1);
    let mut random = Random::new(9);
    for round in 0..3 {
        let job = Job::new();
        assert!(kill(&job, &LATE));
        let mut spoilt = 0;
        for name in names(&job.path("scratch")) {
            let path = job.path("scratch").join(&name);
            let mut bytes = fs::read(&path).unwrap();
            let is_entry = name.split('/').count() == 3;
            // In the second round only some.
            if !is_entry || bytes.is_empty() || round == 1 && random.below(2) == 0 {
                continue;
            }
            match round {
                2 => bytes.truncate(bytes.len() / 2),
                _ => {
                    let at = random.below(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
            }
            fs::write(&path, bytes).unwrap();
            spoilt += 1;
        }
        assert!(spoilt > 0);
        let finished = job.finish(&[]);
        assert!(finished.notes().contains("damaged"), "{}", finished.notes());
        assert_eq!(job.sections(1), expected, "round {round}");
        job.check_nothing_is_left();
    }
}

#[test]
fn an_edited_job_takes_what_still_holds() {
    let edited = Job::new();
    edited.write("m = 8");
    edited.finish(&[]);
    let expected = edited.sections(1);

    let job = Job::new();
    assert!(kill(&job, &LATE));
    job.write("m = 8");
    let finished = job.finish(&[]);
    let expected_resumed = ["build lists", "exact neighbours", "read", "summarise attributes"];
    assert_eq!(finished.resumed(), expected_resumed.map(String::from).into());
    assert_eq!(job.sections(1), expected);
    job.check_nothing_is_left();
}

#[test]
fn other_rows_of_the_same_name_are_read() {
    let other = Job::new();
    write_rows(&other.path("rows.parquet"), 6);
    other.finish(&[]);

    let job = Job::new();
    assert!(kill(&job, &LATE));
    write_rows(&job.path("rows.parquet"), 6);
    let finished = job.finish(&[]);
    assert_eq!(finished.resumed(), BTreeSet::new());
    assert_eq!(job.sections(1), other.sections(1));
    job.check_nothing_is_left();
}

/// Embeds a text by what the file `model` says at the time.
const EMBEDDER: &str = "
import json, pathlib, random, sys
for line in sys.stdin:
    model = pathlib.Path(sys.argv[1]).read_text()
    texts = json.loads(line)['texts']
    draws = [random.Random(model + text) for text in texts]
    print(json.dumps({'vectors': [[draw.gauss(0, 1) for _ in range(8)] for draw in draws]}), flush=True)
";

/// An embedder may answer otherwise tomorrow, with vectors of the same size, and has no e-tag to tell so. What an index below its gate
/// has left in scratch is good for the same vectors only.
#[test]
fn what_follows_from_inputs_without_e_tags_follows_from_their_contents() {
    let of_index = ["build lists", "certify lists", "exact neighbours"];
    let of_rows = ["read", "summarise attributes", "build lists"];
    let cases: [(&str, &str, Vec<&str>, Vec<&str>); 2] = [
        ("texts.jsonl", "sample = 40", of_index.to_vec(), Vec::new()),
        // Rows that are known, and queries that are not.
        (
            "rows.fvecs",
            "uri = \"texts.jsonl\", vector = \"embedding\"",
            [of_index.as_slice(), &of_rows].concat(),
            of_rows.to_vec(),
        ),
    ];
    for (source, queries, of_the_same, of_others) in cases {
        let job = Job::new();
        let program = job.path("embed.py");
        fs::write(&program, EMBEDDER).unwrap();
        let texts: Vec<String> =
            (0..600).map(|n| format!("{{\"id\": {n}, \"text\": \"entry {n}\"}}")).collect();
        fs::write(job.path("texts.jsonl"), texts.join("\n")).unwrap();
        let mut random = Random::new(2);
        let row = |_| {
            [8i32.to_le_bytes()]
                .into_iter()
                .chain(std::array::from_fn::<_, 8, _>(|_| (random.normal() as f32).to_le_bytes()))
        };
        let rows: Vec<u8> = (0..600).flat_map(row).flatten().collect();
        fs::write(job.path("rows.fvecs"), rows).unwrap();
        let text = format!(
            "threads = 2\nbackend = \"cpu\"\nqueries = {{ {queries} }}\noutput = {{ uri = \"out\" }}\nscratch = \"scratch\"\n\
             [source]\nuri = {source:?}\nvector = \"embedding\"\n\
             [source.embed]\ntext = \"text\"\nkind = \"command\"\ncommand = [\"python3\", {program:?}, {:?}]\n\
             [[index]]\nname = \"lists\"\nkind = \"ivf_pq\"\nmetric = \"l2\"\nnlist = 4\npq_m = 2\nrefine = \"none\"\n\
             gate = {{ k = 10, min_recall = 1.0 }}\n",
            job.path("model"),
        );
        fs::write(job.path("job.toml"), text).unwrap();
        for (model, expected) in [("a", &Vec::new()), ("a", &of_the_same), ("b", &of_others)] {
            fs::write(job.path("model"), model).unwrap();
            let resumed = job.end(&[], 3).resumed();
            assert_eq!(resumed, expected.iter().map(|stage| stage.to_string()).collect(), "{source} {model}");
        }
    }
}

#[test]
fn whoever_wants_to_begin_anew_can() {
    let job = Job::new();
    assert!(kill(&job, &LATE));
    let left = names(&job.path("scratch"));
    let finished = job.finish(&["--no-resume"]);
    assert_eq!(finished.resumed(), BTreeSet::new());
    assert_eq!(names(&job.path("scratch")), left, "what another run may want is left alone");
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn two_runs_of_one_job_do_not_share_a_scratch() {
    let job = Job::new();
    let mut first = job.command(&[]).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains("graph: ")));
    signal(&first, "-STOP");
    let second = job.command(&[]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("process {}", first.id())) && said.contains("--no-resume"), "{said}");
    // Beside it, as it says.
    assert_eq!(job.finish(&["--no-resume"]).resumed(), BTreeSet::new());
    signal(&first, "-CONT");
    drop(lines.collect::<Vec<_>>());
    assert!(first.wait().unwrap().success());
    assert_eq!(job.index("graph").versions().unwrap(), [1, 2]);
    assert_eq!(job.sections(1), job.sections(2));
    assert!(is_empty(&job.path("scratch")));
}
