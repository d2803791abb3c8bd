//! The pipeline of `pipelines/memdb` on small data: filters beside the documents themselves, a memory limit, snapshots,
//! compaction, writers that race for one version, and reads of every consistency from replicas of one store.
#![cfg(all(feature = "cli", feature = "serve"))]

#[path = "../pipelines/memdb/documents.rs"]
mod documents;
mod fixture;
mod published;
mod rows;
mod served;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use annvil::loader::{Consistency, Filter, Index, LoadError, OpenOptions, Query, Refresh, Watched};
use annvil::store::IndexStore;
use annvil::vectors::VectorView;
use documents::{Article, COLLECTIONS, Documents};
use serde_json::{Value, json};
use served::{Served, json as json_of, status};

const ARTICLES: u64 = 600;

struct Database {
    folder: tempfile::TempDir,
}

impl Database {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/memdb");
        let database = Self { folder };
        for ((name, _), count) in COLLECTIONS.iter().zip([ARTICLES, 300]) {
            let all: Documents = (0..count).map(|number| (number, 0)).collect();
            documents::write(&database.at(&format!("data/{name}.parquet")), name, &all);
            let job = format!("{name}.toml");
            std::fs::copy(pipeline.join(&job), database.at(&job)).unwrap();
            database.exits(0, &["build", &job, "--backend", "cpu", "--no-resume", "--quiet"]);
        }
        database
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn uri(&self, name: &str) -> String {
        self.at("out").join(name).to_str().unwrap().into()
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What it says on stdout and stderr, if it exits so.
    fn exits(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.spawn(arguments).wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        (out, err)
    }

    fn index(&self, name: &str) -> Index {
        Index::open(&self.uri(name)).unwrap()
    }

    fn latest(&self, name: &str) -> u64 {
        IndexStore::open(&self.uri(name)).unwrap().latest().unwrap().unwrap()
    }

    /// Writes articles anew, over a version or whatever is the latest.
    fn write(&self, name: &str, written: &Documents, expect: Option<u64>) -> Vec<String> {
        documents::write(&self.at(name), "articles", written);
        let mut arguments: Vec<String> =
            ["append", "out/articles", "--from", name, "--replace", "--backend", "cpu", "--quiet"]
                .map(str::to_string)
                .to_vec();
        arguments.extend(expect.iter().flat_map(|version| ["--expect-version".into(), version.to_string()]));
        arguments
    }
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Those of the index, by number: queries were held out.
fn there(index: &Index, documents: &Documents) -> Vec<Article> {
    let live: BTreeSet<String> =
        index.live_ordinals().into_iter().map(|row| index.ids().get(row).to_string()).collect();
    let all = documents.iter().map(|(&number, &written)| Article::of(number, written));
    all.filter(|article| live.contains(&article.id)).collect()
}

type Test = fn(&Article) -> bool;

const FILTERS: [(&str, Test); 8] = [
    ("kind = 'map'", |a| a.kind == "map"),
    ("rank >= 250 AND rank < 750", |a| (250..750).contains(&a.rank)),
    ("price BETWEEN 10 AND 50.5", |a| (10.0..=50.5).contains(&a.price)),
    ("NOT in_stock", |a| !a.in_stock),
    ("made < '2024-05-01T00:00:00Z'", |a| a.made_ms < 1_714_521_600_000),
    ("'rare' = ANY(tags)", |a| a.tags.contains(&"rare")),
    (
        "kind IN ('map', 'toy') AND (price > 100 OR 'new' = ANY(tags)) AND NOT (rank < 100 AND in_stock)",
        |a| {
            ["map", "toy"].contains(&a.kind)
                && (a.price > 100.0 || a.tags.contains(&"new"))
                && !(a.rank < 100 && a.in_stock)
        },
    ),
    ("row_id LIKE 'article:00001%'", |a| a.id.starts_with("article:00001")),
];

fn every_filter_lets_through_what_the_documents_say(index: &Index, documents: &Documents) {
    let all = there(index, documents);
    assert_eq!(all.len(), index.live_rows(), "every row is a document");
    let vector = index.vector(index.live_ordinals()[0]).unwrap();
    for (filter, test) in FILTERS {
        let expected: BTreeSet<&str> =
            all.iter().filter(|article| test(article)).map(|article| article.id.as_str()).collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{filter} tells nothing apart");
        let query = Query::new(all.len()).exact().filter(Filter::parse(filter).unwrap());
        let answers = index.ask(VectorView::new(&vector, index.dim()), &query).unwrap();
        let found: Vec<String> = answers.of(0).iter().map(|&found| index.hit(found).id.to_string()).collect();
        let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, expected, "{filter}");
    }
}

#[test]
fn documents_are_filtered_limited_kept_as_snapshots_compacted_and_swapped() {
    let database = Database::new();
    let mut all: Documents = (0..ARTICLES).map(|number| (number, 0)).collect();
    every_filter_lets_through_what_the_documents_say(&database.index("articles"), &all);
    let sensors = database.index("sensors");
    let north =
        sensors.prepare(&Query::new(1).filter(Filter::parse("site = 'north' AND volts < 12").unwrap()));
    assert!((1..250).contains(&north.unwrap().allowed_rows()));
    let mistyped = Filter::parse("volts = 'high'").unwrap();
    assert!(sensors.prepare(&Query::new(1).filter(mistyped)).is_err(), "a column has a type");

    a_memory_limit_says_by_how_much(&database);

    // Two writers have read version 1. Both replace some documents; one is the first.
    let some = |written: u64| (0..40).map(|number| (number, written)).collect::<Documents>();
    let writers =
        [database.write("a.parquet", &some(1), Some(1)), database.write("b.parquet", &some(2), Some(1))];
    let children = writers.each_ref().map(|arguments| database.spawn(&strings(arguments)));
    let codes = children.map(|child| {
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    });
    let won = codes.iter().position(|(code, _)| *code == 0).expect("one of them wins");
    let (code, said) = &codes[1 - won];
    assert_eq!(*code, 9, "{said}");
    assert!(said.contains("expected version 1 to be the latest, got 2"), "{said}");
    assert_eq!(database.latest("articles"), 2);
    all.extend(some(won as u64 + 1));
    every_filter_lets_through_what_the_documents_say(&database.index("articles"), &all);

    // Whoever is refused reads again, and decides again.
    database.exits(0, &strings(&database.write("c.parquet", &some(3), Some(2))));
    all.extend(some(3));
    let cheap = "price < 20";
    let stale = ["delete", "out/articles", "--where", cheap, "--expect-version", "2"];
    let (_, said) = database.exits(9, &stale);
    assert!(said.contains("expected version 2 to be the latest, got 3"), "{said}");
    let (events, _) = database.exits(9, &["compact", "out/articles", "--expect-version", "1", "--json"]);
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert!(last["event"] == "failed" && last.to_string().contains("conflict"), "{last}");
    database.exits(0, &["delete", "out/articles", "--where", cheap, "--expect-version", "3", "--quiet"]);
    all.retain(|&number, &mut written| Article::of(number, written).price >= 20.0);
    let before = there(&database.index("articles"), &all).len();
    database.exits(0, &["compact", "out/articles", "--expect-version", "4", "--backend", "cpu", "--quiet"]);
    let index = database.index("articles");
    assert_eq!((index.version(), index.live_rows(), index.rows()), (5, before, before));
    every_filter_lets_through_what_the_documents_say(&index, &all);

    // Every snapshot is what it was.
    let first: Documents = (0..ARTICLES).map(|number| (number, 0)).collect();
    let snapshot = OpenOptions::new().version(1).open(&database.uri("articles")).unwrap();
    every_filter_lets_through_what_the_documents_say(&snapshot, &first);
}

fn a_memory_limit_says_by_how_much(database: &Database) {
    let uri = database.uri("articles");
    let manifest = IndexStore::open(&uri).unwrap().read_manifest(1).unwrap();
    let needed = OpenOptions::new().needed_bytes(&manifest);
    let limited = |limit| OpenOptions::new().memory_limit_bytes(limit).open(&uri);
    assert!(limited(needed).is_ok());
    match limited(needed - 1) {
        Err(LoadError::Memory { needed: told, limit, over }) => {
            assert_eq!((told, limit, over), (needed, needed - 1, 1));
        }
        other => panic!("{:?}", other.map(|index| index.rows())),
    }
    let limit = (needed - 4321).to_string();
    let (_, said) =
        database.exits(2, &["serve", "out/articles", "--listen", "127.0.0.1:0", "--memory-limit", &limit]);
    assert!(said.contains("4321 more than the limit"), "{said}");
}

#[test]
fn a_read_is_as_new_as_it_asks_to_be() {
    let database = Database::new();
    let uri = database.uri("articles");
    let watched = Watched::open(&uri, OpenOptions::new()).unwrap();
    let hour = Consistency::Eventual(Duration::from_secs(3600));
    let version = |consistency| watched.read(consistency).unwrap().version();
    assert_eq!(version(Consistency::Strong), 1);
    let write = |count: u64, written: u64| {
        let some = (0..count).map(|number| (number, written)).collect();
        database.exits(0, &strings(&database.write("some.parquet", &some, None)));
    };
    let change = |written| write(5, written);
    change(1);
    assert_eq!((version(Consistency::Local), version(hour)), (1, 1), "it was looked a moment ago");
    assert_eq!(version(Consistency::Eventual(Duration::ZERO)), 2);
    change(2);
    assert_eq!((version(Consistency::Local), version(Consistency::Strong)), (2, 3));
    assert_eq!(version(Consistency::Local), 3);

    // A version that was asked for by number is not known to be the latest.
    let pinned = Watched::open(&uri, OpenOptions::new().version(1)).unwrap();
    assert_eq!(pinned.current().version(), 1);
    assert_eq!(pinned.read(hour).unwrap().version(), 3);

    // Many strong reads at once, while versions come: none is older than what was there when it was asked for.
    let told = std::sync::atomic::AtomicU64::new(3);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        use std::sync::atomic::Ordering::SeqCst;
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let there = told.load(SeqCst);
                    let read = watched.read(Consistency::Strong).unwrap().version();
                    assert!(read >= there, "{read} was read where {there} had been published");
                }
            });
        }
        for written in 3..6 {
            change(written);
            told.store(database.latest("articles"), SeqCst);
        }
        done.store(true, SeqCst);
    });

    // A version that is not taken is no answer to whoever asked for the latest.
    let manifest = IndexStore::open(&uri).unwrap().read_manifest(6).unwrap();
    let tight = OpenOptions::new().memory_limit_bytes(OpenOptions::new().needed_bytes(&manifest));
    let tight = Watched::open(&uri, tight).unwrap();
    write(200, 7);
    let Err(LoadError::Refused { version: 7, current: 6, reason }) = tight.read(Consistency::Strong) else {
        panic!("version 7 does not fit");
    };
    assert!(matches!(*reason, LoadError::Memory { .. }), "{reason}");
    assert_eq!(tight.read(Consistency::Local).unwrap().version(), 6);

    // Nor is anything where the store is gone.
    std::fs::rename(&uri, database.at("elsewhere")).unwrap();
    assert!(watched.read(Consistency::Strong).is_err());
    assert!(watched.read(Consistency::Local).is_ok());
    std::fs::rename(database.at("elsewhere"), &uri).unwrap();
    assert_eq!(watched.read(Consistency::Strong).unwrap().version(), 7);
    assert!(matches!(watched.refresh(), Ok(Refresh::Unchanged)));
}

/// Version and ids that a server answers with.
fn ask(server: &Served, consistency: Option<&str>) -> (u64, Vec<Value>) {
    let mut body = json!({ "ids": ["article:0000001"], "k": 5 });
    if let Some(consistency) = consistency {
        body["consistency"] = consistency.into();
    }
    let answer = server.post("/v1/indexes/articles/search", body.to_string());
    assert_eq!(status(&answer), 200, "{}", String::from_utf8_lossy(&answer.body));
    let answer = json_of(&answer);
    let hits = answer["results"][0]["hits"].as_array().unwrap();
    (answer["version"].as_u64().unwrap(), hits.iter().map(|hit| hit["id"].clone()).collect())
}

#[test]
fn replicas_of_one_store_converge_and_a_strong_read_does_not_wait_for_it() {
    let database = Database::new();
    let indexes = [database.uri("articles")];
    let replicas = [Served::start(&indexes, &[]), Served::start(&indexes, &[])];
    let follower = Served::start(&indexes, &["--watch", "0.05"]);
    assert_eq!(replicas.each_ref().map(|server| ask(server, None)), [(); 2].map(|()| ask(&follower, None)));

    let some = (1..2).map(|number| (number, 1)).collect();
    database.exits(0, &strings(&database.write("some.parquet", &some, None)));
    assert_eq!(ask(&replicas[0], Some("local")).0, 1);
    assert_eq!(ask(&replicas[0], Some("strong")).0, 2);
    assert_eq!(ask(&replicas[0], None).0, 2, "whoever asks after it has it too");
    assert_eq!(ask(&replicas[1], None).0, 1, "the other has not been asked");
    assert_eq!(ask(&replicas[1], Some("strong")), ask(&replicas[0], Some("local")));
    follower.wait_for("/v1/indexes/articles", |text| text.contains("\"version\":2"));
    assert_eq!(ask(&follower, None), ask(&replicas[1], None));

    // Without the store there is an answer, and none that claims to be the latest.
    std::fs::rename(database.uri("articles"), database.at("elsewhere")).unwrap();
    assert_eq!(ask(&replicas[0], Some("local")).0, 2);
    let body = json!({ "ids": ["article:0000001"], "consistency": "strong" }).to_string();
    let answer = replicas[0].post("/v1/indexes/articles/search", body);
    assert_eq!((status(&answer), &json_of(&answer)["error"]["code"]), (503, &json!("stale")));
    assert!(!String::from_utf8_lossy(&answer.body).contains("elsewhere"));
    let answer =
        replicas[0].post("/v1/indexes/articles/search", r#"{"ids": [1], "consistency": "sometimes"}"#);
    assert_eq!(status(&answer), 400);
}
