//! Customers' pipelines, end to end on their small data: `pipelines/<name>/` as it stands, the real binary, and real servers.
#![cfg(all(feature = "cli", feature = "postgres", feature = "polars", unix))]

mod postgres;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use annvil::loader::{Filter, Index, Query};
use annvil::source::{VectorFormat, read_vector_file};
use annvil::vectors::VectorBuf;
use postgres::Postgres;
use serde_json::Value;

/// A customer's folder, copied to where its data and indexes may lie.
struct Pipeline {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Pipeline {
    fn of(customer: &str, environment: Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(customer);
        for file in std::fs::read_dir(there).unwrap().flatten().filter(|file| file.path().is_file()) {
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        Self { folder, environment }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `annvil` there.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
        command.current_dir(self.folder.path()).args(arguments).envs(self.environment.iter().cloned());
        command.env("ANNVIL_SCRATCH", self.path("scratch")).output().unwrap()
    }

    /// What it says, if it exits so.
    fn exits(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let out = self.exits(code, &[arguments, &["--json"]].concat());
        serde_json::from_str(out.lines().last().unwrap()).unwrap()
    }

    fn index(&self, name: &str) -> Index {
        Index::open(self.path("out").join(name).to_str().unwrap()).unwrap()
    }
}

/// Conditions that PostgreSQL and we both understand, as kimera asks them.
const FILTERS: [Option<&str>; 5] = [
    None,
    Some("'orbital' = ANY(tags)"),
    Some("\"timestamp\" >= '2026-01-05T00:00:00Z' AND \"timestamp\" < '2026-01-09T00:00:00Z'"),
    Some("entropy < 0.6"),
    Some("entropy BETWEEN 0.4 AND 1.2 AND 'drift' = ANY(tags) AND energy_level > 5"),
];
const K: usize = 10;
const ASKED: usize = 60;

/// Ids and similarities that pgvector finds by comparing with every row, by query.
fn exact(server: &Postgres, filter: Option<&str>) -> BTreeMap<usize, Vec<(String, f64)>> {
    let condition = filter.map_or(String::new(), |filter| format!("WHERE {filter}"));
    let answer = server.sql(
        "kimera",
        &format!(
            "SELECT q.n, t.id, 1 - t.distance FROM queries q CROSS JOIN LATERAL (
               SELECT id, state_vector <=> q.v AS distance FROM geoid_states {condition} ORDER BY 2, 1 LIMIT {K}) t
             WHERE q.n < {ASKED} ORDER BY q.n, t.distance, t.id"
        ),
    );
    let mut found = BTreeMap::<usize, Vec<(String, f64)>>::new();
    for line in answer.lines() {
        let [query, id, similarity] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        found.entry(query.parse().unwrap()).or_default().push((id.into(), similarity.parse().unwrap()));
    }
    found
}

/// Recall@10 of the index beside pgvector's exact answers. Similarities of what both found must be the same.
fn recall(
    index: &Index,
    queries: &VectorBuf,
    filter: Option<&str>,
    exact: &BTreeMap<usize, Vec<(String, f64)>>,
) -> f64 {
    let queries = queries.view().gather(&(0..ASKED as u32).collect::<Vec<_>>());
    let query = filter.map_or(Query::new(K), |filter| Query::new(K).filter(Filter::parse(filter).unwrap()));
    let answers = index.ask(queries.view(), &query).unwrap();
    let (mut same, mut all) = (0, 0);
    for (query, matches) in answers.iter().enumerate() {
        let expected = exact.get(&query).map_or(&[][..], Vec::as_slice);
        assert!(expected.len() == K || filter.is_some());
        let by_id: BTreeMap<&str, f64> =
            expected.iter().map(|(id, similarity)| (id.as_str(), *similarity)).collect();
        for &found in matches {
            let hit = index.hit(found);
            if let Some(&similarity) = by_id.get(hit.id.to_string().as_str()) {
                same += 1;
                let ours = f64::from(hit.similarity.unwrap());
                assert!(
                    (ours - similarity).abs() < 2e-6,
                    "query {query}, {}: {ours} and {similarity}",
                    hit.id
                );
            }
        }
        all += expected.len();
    }
    f64::from(same) / all as f64
}

#[test]
fn kimera_finds_what_pgvector_finds_and_follows_its_tables() {
    let Some(server) = Postgres::start() else { return };
    let pipeline = Pipeline::of("kimera", server.environment().into());
    let mut generate = server.python();
    generate.arg(pipeline.path("generate.py")).args(["--size", "small", "--data"]).arg(pipeline.path("data"));
    let output = generate.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for job in ["geoid_states", "semantic_embeddings"] {
        pipeline.exits(0, &["build", &format!("{job}.toml"), "--backend", "cpu", "--quiet"]);
        let verified = ["verify", &format!("out/{job}"), "--against", "postgres:///kimera"];
        assert!(pipeline.exits(0, &verified).contains("\nconsistent: "));
    }
    let index = pipeline.index("geoid_states");
    assert_eq!(index.rows(), 3000);
    let manifest = serde_json::to_string(index.manifest()).unwrap();
    assert!(!manifest.contains(postgres::PASSWORD) && !manifest.contains("hunter"), "{manifest}");
    assert!(manifest.contains("postgres:///kimera"), "{manifest}");
    let queries = read_vector_file(&pipeline.path("data/queries.npy"), VectorFormat::Npy).unwrap().queries;
    for filter in FILTERS {
        let exact = exact(&server, filter);
        assert!(exact.len() > ASKED / 2, "{filter:?} lets too little through to tell");
        let recall = recall(&index, &queries, filter, &exact);
        assert!(recall >= 0.99, "{filter:?}: recall {recall}");
    }

    // What the table does is told, and followed.
    server.sql(
        "kimera",
        "DELETE FROM geoid_states WHERE id IN (SELECT id FROM geoid_states ORDER BY id LIMIT 5);
         UPDATE geoid_states SET entropy = entropy + 1 WHERE id IN (SELECT id FROM geoid_states ORDER BY id LIMIT 7);
         INSERT INTO geoid_states (id, \"timestamp\", state_vector, tags)
           SELECT gen_random_uuid(), now(), v, '{archive}' FROM queries WHERE n BETWEEN 100 AND 110;",
    );
    let verify = ["verify", "out/geoid_states", "--against", "postgres:///kimera"];
    let told = pipeline.json(7, &verify);
    let counts = ["missing", "orphaned", "attributes"].map(|what| told[what]["count"].as_u64().unwrap());
    assert_eq!(counts, [11, 5, 7]);
    pipeline.exits(0, &["sync", "out/geoid_states", "--from", "postgres:///kimera", "--backend", "cpu"]);
    pipeline.json(0, &verify);
    let recall = recall(&pipeline.index("geoid_states"), &queries, None, &exact(&server, None));
    assert!(recall >= 0.99, "after the change: recall {recall}");
}

/// `ANNVIL_KIMERA_SIZE=large cargo test --release --test pipelines -- --ignored --nocapture kimera_beside`
#[test]
#[ignore = "minutes: builds pgvector's own indexes and asks 1,000 queries of each"]
fn kimera_beside_pgvectors_own_indexes() {
    let Some(server) = Postgres::start() else { return };
    let pipeline = Pipeline::of("kimera", Vec::new());
    let size = std::env::var("ANNVIL_KIMERA_SIZE").unwrap_or_else(|_| "small".into());
    let mut bench = server.python();
    bench.arg(pipeline.path("bench.py")).args([
        "--annvil",
        env!("CARGO_BIN_EXE_annvil"),
        "--size",
        &size,
        "--data",
    ]);
    let status =
        bench.arg(pipeline.path("data")).env("ANNVIL_SCRATCH", pipeline.path("scratch")).status().unwrap();
    assert!(status.success());
}

#[test]
fn phoenix_finds_entries_by_text_and_lists_them_by_prefix_newest_first() {
    let new_key = || {
        let ran = Command::new(env!("CARGO_BIN_EXE_annvil")).args(["key", "new"]).output().unwrap();
        String::from_utf8(ran.stdout).unwrap()
    };
    let keys = vec![("KB_KEY", new_key()), ("NEW_KEY", new_key()), ("ANNVIL_KEY", "env:KB_KEY".into())];
    let mut pipeline = Pipeline::of("phoenix-kb", keys);
    let generated = Command::new("python3")
        .arg(pipeline.path("generate.py"))
        .args(["--size", "small", "--data"])
        .arg(pipeline.path("data"))
        .output()
        .unwrap();
    assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stderr));
    pipeline.exits(0, &["build", "knowledge.toml", "--backend", "cpu", "--quiet"]);
    assert!(
        pipeline
            .exits(0, &["verify", "out/knowledge", "--against", "data/entries.jsonl"])
            .contains("\nconsistent: ")
    );
    pipeline.exits(0, &["verify", "out/knowledge"]);

    let lines = |file: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(pipeline.path(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let entries = lines("data/entries.jsonl");
    // Each fact's words but the answer: it is the nearest of all.
    let questions = lines("data/queries.jsonl");
    assert_eq!(questions.len(), 320);
    for question in questions.iter().step_by(40) {
        let text = question["text"].as_str().unwrap();
        let found = pipeline.json(0, &["search", "out/knowledge", "--text", text, "-k", "3"]);
        assert_eq!(found["results"][0]["hits"][0]["id"], question["answer"], "{text}");
        let among = ["search", "out/knowledge", "--text", text, "--id-prefix", "epm:dad:"];
        for hit in pipeline.json(0, &among)["results"][0]["hits"].as_array().unwrap() {
            assert!(hit["id"].as_str().unwrap().starts_with("epm:dad:"));
        }
    }

    for prefix in ["epm:dad:", "mind:fact:capital_", "note:", "nobody:"] {
        let newest = [
            "list",
            "out/knowledge",
            "--id-prefix",
            prefix,
            "--order-by",
            "created_at",
            "--descending",
            "-k",
            "25",
        ];
        let listing = pipeline.json(0, &newest);
        let mut expected: Vec<&Value> =
            entries.iter().filter(|entry| entry["id"].as_str().unwrap().starts_with(prefix)).collect();
        expected.sort_by_key(|entry| std::cmp::Reverse(entry["created_at"].as_i64().unwrap()));
        assert_eq!(listing["total"], expected.len());
        let listed = listing["rows"].as_array().unwrap();
        assert_eq!(listed.len(), expected.len().min(25));
        for (row, entry) in listed.iter().zip(expected) {
            assert_eq!(row["id"], entry["id"]);
            assert_eq!(row["attributes"]["text"], entry["text"]);
            let metadata: Value =
                serde_json::from_str(row["attributes"]["metadata"].as_str().unwrap()).unwrap();
            assert_eq!(metadata, entry["metadata"]);
        }
    }

    // Entries change, one has no words, one comes twice: what can be followed is, and the rest is told.
    let mut changed = entries.clone();
    changed.truncate(2990);
    changed[0]["text"] = "The capital of France is Paris.".into();
    changed.push(serde_json::json!({ "id": "note:ada:none", "text": "…", "created_at": 1, "owner": "ada", "metadata": {} }));
    changed.push(changed[5].clone());
    let text: Vec<String> = changed.iter().map(Value::to_string).collect();
    std::fs::write(pipeline.path("data/entries.jsonl"), text.join("\n")).unwrap();
    let told = pipeline.json(7, &["verify", "out/knowledge", "--against", "data/entries.jsonl"]);
    assert_eq!((&told["orphaned"]["count"], &told["vectors"]["count"]), (&10.into(), &1.into()));
    assert_eq!(told["refused"], serde_json::json!({ "zero_vector": 1, "duplicate_id": 1 }));
    pipeline.exits(0, &["sync", "out/knowledge", "--from", "data/entries.jsonl", "--backend", "cpu"]);
    let found =
        pipeline.json(0, &["search", "out/knowledge", "--text", "Paris, capital of France", "-k", "1"]);
    assert_eq!(found["results"][0]["hits"][0]["id"], "mind:fact:capital_france");
    is_secret_and_kept_without_its_key(&mut pipeline);
}

fn is_secret_and_kept_without_its_key(pipeline: &mut Pipeline) {
    fn files_below(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
    }
    let search = ["search", "out/knowledge", "--text", "Paris, capital of France", "-k", "1"];
    pipeline.exits(0, &["compact", "out/knowledge", "--backend", "cpu"]);
    let before = pipeline.json(0, &search)["results"].clone();
    let keys = std::mem::take(&mut pipeline.environment);
    let told = pipeline.run(&search);
    let err = String::from_utf8_lossy(&told.stderr);
    assert!(
        told.status.code() == Some(2) && err.contains("`phoenix-1`") && err.contains("ANNVIL_KEY"),
        "{err}"
    );
    let wrong = [&search[..], &["--key", "command:printf %064d 7"]].concat();
    let err = String::from_utf8_lossy(&pipeline.run(&wrong).stderr).into_owned();
    assert!(err.contains("the wrong key was given"), "{err}");
    // What is given in place of a reference may be the key itself.
    let err =
        String::from_utf8_lossy(&pipeline.run(&["versions", "out/knowledge", "--key", "hunter2"]).stderr)
            .into_owned();
    assert!(err.contains("--key: no reference") && !err.contains("hunter2"), "{err}");

    // Whoever keeps it: lists, looks, copies, checks, restores, removes.
    let versions = pipeline.json(0, &["versions", "out/knowledge"]);
    assert_eq!(versions["versions"][0]["key_id"], "phoenix-1");
    assert!(pipeline.exits(0, &["inspect", "out/knowledge"]).contains("which was not given"));
    pipeline.exits(0, &["copy", "out/knowledge", "backup/knowledge", "--all"]);
    let store = annvil::store::IndexStore::open(pipeline.path("out/knowledge").to_str().unwrap()).unwrap();
    let stored = store.read_stored(store.latest().unwrap().unwrap()).unwrap();
    let folder = stored.folders()[0];
    let file = pipeline.path(&format!("out/knowledge/seg/{}/{}", folder.id, folder.files[0].name));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[1..]).unwrap();
    pipeline.exits(4, &["verify", "out/knowledge"]);
    let told = pipeline.exits(0, &["verify", "out/knowledge", "--repair-from", "backup/knowledge"]);
    assert!(told.contains("repaired") && told.contains("which was not given"), "{told}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    pipeline.exits(0, &["gc", "out/knowledge", "--keep", "1", "--older-than", "0s"]);

    // With a new key the old one opens nothing.
    pipeline.environment = keys;
    pipeline.exits(
        0,
        &["copy", "out/knowledge", "rotated/knowledge", "--rekey", "env:NEW_KEY", "--key-id", "phoenix-2"],
    );
    let search = ["search", "rotated/knowledge", "--text", "Paris, capital of France", "-k", "1"];
    pipeline.exits(2, &search);
    let again = pipeline.json(0, &[&search[..], &["--key", "env:NEW_KEY"]].concat());
    assert_eq!(again["results"], before);
    assert!(
        pipeline.exits(0, &["verify", "rotated/knowledge", "--key", "env:NEW_KEY"]).contains("every block")
    );

    for folder in ["out", "backup", "rotated"] {
        for file in files_below(&pipeline.path(folder)) {
            let bytes = std::fs::read(&file).unwrap();
            for secret in
                ["capital", "France", "mind:fact", "epm:dad", "created_at", "entries.jsonl", "embedding"]
            {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "`{secret}` is in {}", file.display());
            }
        }
    }
}
