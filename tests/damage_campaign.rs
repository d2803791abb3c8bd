//! Seeded mutations of every file of artifacts of each kind, opened and searched as a service does: a named error, or the answers
//! that the whole artifact gives; no panic, no hang, no runaway memory.
//!
//! Ten thousand and more: `cargo test --test damage_campaign -- --ignored --nocapture`.
#![cfg(feature = "build")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annvil::job::{self, JobSpec, Progress};
use annvil::loader::{Check, Filter, Index, OpenOptions, Residence, SearchOptions};
use annvil::store::IndexStore;
use annvil::vectors::{Random, VectorBuf};
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;

const ROWS: usize = 500;
const DIM: usize = 12;
/// Checked before it answers.
const MAPPED: Residence = Residence::Mapped(Check::AtOpen);

const KINDS: [&str; 7] = ["flat", "lists4", "lists8", "signs", "bytes", "rows", "graph"];

struct Subject {
    name: &'static str,
    folder: PathBuf,
    /// Of both versions, relative to the folder: what may be found in another's place.
    files: Vec<PathBuf>,
    /// … of the second version, which is opened: what is mutated.
    opened: Vec<PathBuf>,
    answers: String,
}

struct Campaign {
    _folder: tempfile::TempDir,
    queries: VectorBuf,
    subjects: Vec<Subject>,
}

fn collect(folder: &Path, root: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, root, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().into());
        }
    }
}

impl Campaign {
    /// Two versions of an index of each kind, of different rows.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random::new(17);
        let mut draw = |count: usize| (0..count).map(|_| random.normal() as f32).collect::<Vec<_>>();
        let queries = VectorBuf::new(draw(5 * DIM), DIM);
        for _ in 0..2 {
            let item = Arc::new(Field::new("item", DataType::Float32, false));
            let values = Arc::new(Float32Array::from(draw(ROWS * DIM)));
            let vectors = FixedSizeListArray::new(item, DIM as i32, values, None);
            let ids: StringArray = (0..ROWS).map(|row| Some(format!("row {row}"))).collect();
            let words: StringArray =
                (0..ROWS).map(|row| (row % 5 > 0).then(|| format!("w{}", row % 9))).collect();
            let columns = [
                ("id", Arc::new(ids) as ArrayRef),
                ("word", Arc::new(words)),
                ("embedding", Arc::new(vectors)),
            ];
            let rows = RecordBatch::try_from_iter(columns).unwrap();
            let file = fs::File::create(folder.path().join("rows.parquet")).unwrap();
            let mut writer = ArrowWriter::try_new(file, rows.schema(), None).unwrap();
            writer.write(&rows).unwrap();
            writer.close().unwrap();
            job::run(&Self::job(folder.path()), &Progress::silent()).unwrap();
        }
        let mut campaign = Self { _folder: folder, queries, subjects: Vec::new() };
        for name in KINDS {
            let folder = campaign._folder.path().join("out").join(name);
            let mut files = Vec::new();
            collect(&folder, &folder, &mut files);
            let answers = campaign.answers(&folder, Residence::Resident).unwrap();
            assert_eq!(answers, campaign.answers(&folder, MAPPED).unwrap());
            let manifest = IndexStore::open(folder.to_str().unwrap()).unwrap().read_manifest(2).unwrap();
            let segment = Path::new("seg").join(manifest.segments[0].id.to_string());
            let is_opened =
                |file: &&PathBuf| file.starts_with(&segment) || file.ends_with("00000000000000000002.json");
            let opened = files.iter().filter(is_opened).cloned().collect();
            campaign.subjects.push(Subject { name, folder, files, opened, answers });
        }
        campaign
    }

    fn job(folder: &Path) -> JobSpec {
        let index =
            |name: &str, more: &str| format!("[[index]]\nname = \"{name}\"\nmetric = \"l2\"\n{more}\n");
        let text = format!(
            "threads = 1\nbackend = \"cpu\"\nresume = false\n\
             source = {{ uri = \"rows.parquet\", vector = \"embedding\", id = \"id\", attributes = [\"word\"] }}\n\
             queries = {{ sample = 20 }}\noutput = {{ uri = \"out\" }}\n{}{}{}{}{}{}{}",
            index("flat", "kind = \"flat\""),
            index("lists4", "kind = \"ivf_pq\"\nnlist = 8\nrotation = \"opq\""),
            index("lists8", "kind = \"ivf_pq\"\nnlist = 8\npq_bits = 8\nrefine = \"f32\""),
            index(
                "signs",
                "kind = \"ivf_pq\"\nnlist = 8\ncode = \"rabitq\"\nrabitq_bits = 3\nrefine = \"none\""
            ),
            index("bytes", "kind = \"ivf_pq\"\nnlist = 8\ncode = \"sq8\"\nspill = \"soar\""),
            index("rows", "kind = \"ivf_pq\"\nnlist = 8\ncode = \"flat\""),
            index("graph", "kind = \"hnsw\"\nm = 8"),
        );
        JobSpec::parse(&text, folder.join("job.toml")).unwrap()
    }

    /// Everything that a search says, or the error.
    fn answers(&self, folder: &Path, residence: Residence) -> Result<String, String> {
        let said = |error: &dyn std::error::Error| {
            let text = error.to_string();
            assert!(!text.is_empty());
            text
        };
        let artifact = IndexStore::open(folder.to_str().unwrap()).and_then(|store| store.artifact(Some(2)));
        // The manifest alone says whether it is a version; then the files.
        artifact.map_err(|error| said(&error))?;
        let options = OpenOptions::new().version(2).residence(residence);
        let index = options.open(folder.to_str().unwrap()).map_err(|error| said(&error))?;
        let search = SearchOptions { k: 7, ..SearchOptions::default() };
        let hits = index.search(self.queries.view(), &search).map_err(|error| said(&error))?;
        let filter: Filter = "word = 'w3'".parse().unwrap();
        let mask = index.mask(&filter).map_err(|error| said(&error))?;
        let text = format!("{hits:?} {mask:?}");
        Ok(text)
    }

    fn run(&self, mutations: usize, seed: u64) -> Tally {
        let mut tally = Tally::default();
        let mut random = Random::new(seed);
        for number in 0..mutations {
            let subject = &self.subjects[random.below(self.subjects.len())];
            let path = subject.folder.join(&subject.opened[random.below(subject.opened.len())]);
            let whole = fs::read(&path).unwrap();
            let (what, spoilt) = mutation(&whole, subject, &mut random);
            if spoilt == whole {
                continue;
            }
            // Not in place: what is mapped must not change, and nothing is mapped any more.
            fs::write(&path, &spoilt).unwrap();
            let residence = if random.below(2) == 0 { Residence::Resident } else { MAPPED };
            let started = Instant::now();
            let answered = self.answers(&subject.folder, residence);
            let took = started.elapsed();
            fs::write(&path, &whole).unwrap();
            let place = || format!("mutation {number} of seed {seed}: {what} of {}", path.display());
            assert!(took < Duration::from_secs(20), "{}: {took:?}", place());
            let outcome = match answered {
                Err(_) => "named error",
                Ok(answers) => {
                    assert!(answers == subject.answers, "{}: a wrong answer", place());
                    "right answer"
                }
            };
            *tally.0.entry((subject.name, what, outcome)).or_default() += 1;
        }
        tally
    }
}

/// By kind of index, of mutation, and outcome.
#[derive(Debug, Default)]
struct Tally(BTreeMap<(&'static str, &'static str, &'static str), usize>);

impl Tally {
    fn count(&self, outcome: &str) -> usize {
        self.0.iter().filter(|((.., of), _)| *of == outcome).map(|(_, count)| count).sum()
    }
}

fn mutation(whole: &[u8], subject: &Subject, random: &mut Random) -> (&'static str, Vec<u8>) {
    let mut bytes = whole.to_vec();
    let at = random.below(bytes.len());
    let what = match random.below(8) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            "a flipped bit"
        }
        2 => {
            let end = bytes.len().min(at + 4096);
            bytes[at..end].fill(0);
            "a zeroed page"
        }
        3 => {
            bytes.truncate(at);
            "a truncation"
        }
        4 => {
            bytes.extend(std::iter::repeat_n(random.below(256) as u8, 1 + random.below(5000)));
            "bytes behind the end"
        }
        5 => {
            // The other version's files are among them.
            let other = &subject.files[random.below(subject.files.len())];
            bytes = fs::read(subject.folder.join(other)).unwrap();
            "another file in its place"
        }
        6 => {
            // Where lengths and offsets stand.
            let at = random.below(bytes.len().min(64));
            let huge = [u64::MAX, 1 << 40, 1 << 31, u64::MAX / 2][random.below(4)].to_le_bytes();
            let end = bytes.len().min(at + 8);
            bytes[at..end].copy_from_slice(&huge[..end - at]);
            "a huge number"
        }
        _ => {
            let from = random.below(bytes.len());
            let length = random.below(300).min(bytes.len() - from.max(at));
            bytes.copy_within(from..from + length, at);
            "bytes from elsewhere in the file"
        }
    };
    (what, bytes)
}

#[test]
fn mutations_give_a_named_error_or_the_right_answer() {
    let tally = Campaign::new().run(400, 1);
    assert!(tally.count("named error") > 100, "{tally:#?}");
}

#[test]
#[ignore = "takes minutes: cargo test --test damage_campaign -- --ignored --nocapture ten_thousand"]
fn ten_thousand_mutations_give_a_named_error_or_the_right_answer() {
    let tally = Campaign::new().run(11_000, 2);
    println!("{tally:#?}");
    let (errors, right) = (tally.count("named error"), tally.count("right answer"));
    println!("{errors} named errors, {right} right answers, 0 wrong ones");
    assert!(errors + right >= 10_000);
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        println!("peak memory {}", peak.trim());
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 1 << 20, "{peak}");
    }
}

/// Files whose hashes are right, because whoever means harm has computed them: any answer, but no panic and no hang.
#[test]
fn mutated_sections_that_are_published_do_not_panic() {
    let campaign = Campaign::new();
    let mut random = Random::new(3);
    let mut refused = 0;
    for number in 0..300 {
        let subject = &campaign.subjects[number % campaign.subjects.len()];
        let store = IndexStore::open(subject.folder.to_str().unwrap()).unwrap();
        let artifact = store.artifact(Some(2)).unwrap();
        let segment = artifact.only_segment().unwrap();
        let names: Vec<String> = segment.reference().files.iter().map(|file| file.name.clone()).collect();
        let files = names.into_iter().filter(|name| *name != "checksums.safetensors");
        let mut files: Vec<(String, Bytes)> =
            files.map(|name| (name.clone(), segment.read(&name).unwrap())).collect();
        let place = random.below(files.len());
        let (_, spoilt) = mutation(&files[place].1, subject, &mut random);
        files[place].1 = spoilt.into();
        let root = format!("memory://hostile/{number}");
        let hostile = IndexStore::named(&root, subject.name).unwrap();
        hostile.publish(files, artifact.manifest().build.clone()).unwrap();
        let opened = Index::open(&format!("{root}/{}", subject.name));
        match opened {
            Err(_) => refused += 1,
            Ok(index) => {
                let _ = index
                    .search(campaign.queries.view(), &SearchOptions { k: 7, ..SearchOptions::default() });
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
