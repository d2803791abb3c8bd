//! A partition is searched as if its rows were all there were, in every kind of index and after every change; and whoever
//! shows a key that is bound to a tenant learns nothing of another's rows, whichever way the question is put.
#![cfg(all(feature = "build", feature = "serve"))]

mod fixture;
mod published;
mod rows;
mod served;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use annvil::change::{Append, ChangeOptions, Compact, Delete, append, compact, delete};
use annvil::job::{self, Backend, JobSpec, Outcome, Progress};
use annvil::loader::{Filter, Index, Match, OpenOptions, Query, QueryError, Residence, Way};
use annvil::vectors::{Metric, Random, RowId, VectorBuf};
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use rows::normal;
use served::{Served, http, json, status};

const DIM: usize = 8;
const KINDS: [&str; 3] = [
    "kind = \"flat\"",
    "kind = \"hnsw\"\nm = 8\nef_construction = 100",
    "kind = \"ivf_pq\"\nnlist = 16\nrefine = \"f32\"",
];

/// Rows by id: vector, tenant, a number.
type Model = BTreeMap<i64, (Vec<f32>, String, i64)>;

fn parquet(path: &Path, rows: impl Iterator<Item = (i64, Vec<f32>, Option<String>, i64)>) -> String {
    let (mut ids, mut vectors, mut users, mut ns) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, vector, user, n) in rows {
        ids.push(id);
        vectors.push(Some(vector.into_iter().map(Some).collect::<Vec<_>>()));
        users.push(user);
        ns.push(n);
    }
    let dim = vectors[0].as_ref().unwrap().len() as i32;
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, dim);
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
        ("vector", Arc::new(vectors)),
        ("user", Arc::new(StringArray::from(users))),
        ("n", Arc::new(Int64Array::from(ns))),
    ])
    .unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path.to_str().unwrap().into()
}

fn of_model(folder: &Path, name: &str, rows: &Model) -> String {
    let rows = rows.iter().map(|(&id, (vector, user, n))| (id, vector.clone(), Some(user.clone()), *n));
    parquet(&folder.join(name), rows)
}

fn model(ids: std::ops::Range<i64>, tenant: impl Fn(i64) -> String, seed: u64) -> Model {
    let vectors = normal(ids.clone().count(), DIM, seed);
    ids.zip(vectors.view().iter()).map(|(id, row)| (id, (row.to_vec(), tenant(id), id % 10))).collect()
}

fn job(folder: &Path, rows: &str, index: &str) -> JobSpec {
    let text = format!(
        "threads = 2\nbackend = \"cpu\"\nresume = false\n[source]\nuri = {rows:?}\nvector = \"vector\"\nid = \"id\"\n\
         attributes = [\"user\", \"n\"]\n[queries]\nsample = 20\n[output]\nuri = {:?}\n[[index]]\nname = \"memories\"\n\
         metric = \"cosine\"\n{index}\n",
        folder.join("out").to_str().unwrap()
    );
    JobSpec::parse(&text, folder.join("job.toml")).unwrap()
}

fn built(folder: &Path, rows: &str, kind: &str) -> String {
    let spec = job(folder, rows, &format!("partition_by = \"user\"\n{kind}"));
    match &job::run(&spec, &Progress::silent()).unwrap().indexes[0].outcome {
        Outcome::Published { uri, .. } => uri.clone(),
        other => panic!("{other:?}"),
    }
}

/// What the definition finds: ids and distances of a tenant's rows.
fn expected(model: &Model, index: &Index, user: &str, query: &[f32], k: usize) -> Vec<RowId> {
    let mut all: Vec<(f32, u32)> = model
        .iter()
        .filter(|(_, row)| row.1 == user)
        .filter_map(|(&id, (vector, ..))| {
            // Queries were held out.
            let ordinal = index.ids().find(&RowId::Int(id))?;
            Some((Metric::Cosine.distance(&unit(query), &unit(vector)) as f32, ordinal))
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(k).map(|(_, ordinal)| index.ids().get(ordinal)).collect()
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / norm).collect()
}

fn check(index: &Index, model: &Model, what: &str) {
    let queries = normal(5, DIM, 99);
    let users: std::collections::BTreeSet<&String> = model.values().map(|row| &row.1).collect();
    for user in users {
        let prepared = index.prepare(&Query::new(7).partition(user.as_str())).unwrap();
        assert!(matches!(prepared.way(), Way::Exact { .. } | Way::Nothing), "{what} {user}");
        let own = index.partition_ordinals(&RowId::Text(user.clone())).unwrap();
        assert_eq!(prepared.allowed_rows(), own.len(), "{what} {user}");
        let mut answers = annvil::loader::Answers::new();
        prepared.search(queries.view(), &mut answers).unwrap();
        for (query, found) in queries.view().iter().zip(answers.iter()) {
            let found: Vec<RowId> = found.iter().map(|&found| index.hit(found).id).collect();
            assert_eq!(found, expected(model, index, user, query, 7), "{what} {user}");
        }
    }
    let nobody = index.ask(queries.view(), &Query::new(7).partition("nobody")).unwrap();
    assert!(nobody.iter().all(<[_]>::is_empty), "{what}");
    let all = index.ask(queries.view(), &Query::new(7).exact()).unwrap();
    assert!(all.iter().all(|found| found.len() == 7), "{what}: without a partition all rows are searched");
}

fn options(index: &str) -> ChangeOptions {
    ChangeOptions { backend: Backend::Cpu, threads: 2, ..ChangeOptions::new(index) }
}

#[test]
fn a_partition_is_searched_as_if_it_were_all_there_is_after_every_change() {
    let tenant = |id: i64| ["alice", "../x", "", "bob é"][(id % 4) as usize].to_string();
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model(0..1500, tenant, 1);
        let uri = built(folder.path(), &of_model(folder.path(), "a.parquet", &model), kind);
        check(&Index::open(&uri).unwrap(), &model, kind);
        let lazy = OpenOptions::new().residence(Residence::Lazy).open(&uri).unwrap();
        check(&lazy, &model, kind);

        let more = self::model(1400..1600, |id| if id % 3 == 0 { "carol".into() } else { tenant(id) }, 2);
        let from = vec![of_model(folder.path(), "b.parquet", &more)];
        append(&options(&uri), &Append { from, replace: true }, &Progress::silent()).unwrap();
        model.extend(more);
        check(&Index::open(&uri).unwrap(), &model, kind);

        let gone = Delete::Where(Filter::parse("\"user\" = 'alice' AND n < 8").unwrap());
        delete(&options(&uri), &gone, &Progress::silent()).unwrap();
        model.retain(|_, row| row.1 != "alice" || row.2 >= 8);
        check(&Index::open(&uri).unwrap(), &model, kind);

        compact(&options(&uri), Compact::default(), &Progress::silent()).unwrap();
        let index = Index::open(&uri).unwrap();
        assert_eq!(index.manifest().segments.len(), 1);
        check(&index, &model, kind);
        assert_eq!(index.partition_keys().unwrap().len(), 5);

        // A filter and an exclusion keep to the partition too.
        let query = normal(1, DIM, 5);
        let filtered = Query::new(500).partition("bob é").filter(Filter::parse("n = 3").unwrap());
        let all = index.ask(query.view(), &filtered).unwrap();
        let wanted = |row: &(Vec<f32>, String, i64)| row.1 == "bob é" && row.2 == 3;
        let ids: Vec<i64> = model.iter().filter(|(_, row)| wanted(row)).map(|(&id, _)| id).collect();
        let there = ids.iter().filter(|&&id| index.ids().find(&RowId::Int(id)).is_some()).count();
        assert!(there > 0 && all.of(0).len() == there, "{kind}");
        let first = index.hit(all.of(0)[0]).id;
        let rest = index.ask(query.view(), &filtered.clone().exclude([first])).unwrap();
        assert_eq!(rest.of(0), &all.of(0)[1..], "{kind}");
    }
}

#[test]
fn rows_of_a_partition_lie_one_behind_the_other() {
    for kind in &KINDS[..2] {
        let folder = tempfile::tempdir().unwrap();
        let model = model(0..800, |id| format!("user-{}", id % 7), 3);
        let uri = built(folder.path(), &of_model(folder.path(), "a.parquet", &model), kind);
        let index = Index::open(&uri).unwrap();
        for user in index.partition_keys().unwrap() {
            let rows = index.partition_ordinals(&user).unwrap();
            assert_eq!(rows.len() as u32, rows.last().unwrap() - rows[0] + 1, "{kind} {user}");
        }
    }
}

#[test]
fn a_partition_that_is_too_large_to_compare_is_searched_within() {
    for kind in &KINDS[1..] {
        let folder = tempfile::tempdir().unwrap();
        let large = annvil::loader::EXACT_PARTITION_ROWS as i64 * 3;
        let tenant = |id: i64| if id % 8 == 0 { "small" } else { "large" }.to_string();
        let model = model(0..large * 8 / 7, tenant, 4);
        let uri = built(folder.path(), &of_model(folder.path(), "a.parquet", &model), kind);
        let index = Index::open(&uri).unwrap();
        let queries = normal(50, DIM, 6);
        let query = Query::new(10).partition("large");
        let prepared = index.prepare(&query).unwrap();
        assert!(matches!(prepared.way(), Way::Masked { .. }), "{kind}: {:?}", prepared.way());
        let own = index.partition_ordinals(&RowId::Text("large".into())).unwrap();
        let hits = |query: &Query| {
            let found = index.ask(queries.view(), query).unwrap();
            let truth = index.ask(queries.view(), &query.clone().exact()).unwrap();
            if *query != Query::new(10) {
                assert!(found.iter().flatten().all(|found| own.binary_search(&found.ordinal).is_ok()));
            }
            let of =
                |(found, truth): (&[Match], &[Match])| found.iter().filter(|row| truth.contains(row)).count();
            found.iter().zip(truth.iter()).map(of).sum::<usize>()
        };
        // Looking past others' rows costs no recall, but for chance.
        let (within, of_all) = (hits(&query), hits(&Query::new(10)));
        assert!(
            within + 15 >= of_all && of_all > 400,
            "{kind}: {within} of 500, without a partition {of_all}"
        );
    }
}

#[test]
fn a_hundred_thousand_tenants_of_one_row_are_each_found() {
    let folder = tempfile::tempdir().unwrap();
    let count = 100_000;
    let vectors = normal(count, 2, 7);
    let path = folder.path().join("a.parquet");
    let long = "n".repeat(10 << 10);
    let user = |id: usize| if id == 5 { long.clone() } else { format!("user-{id}") };
    let rows =
        vectors.view().iter().enumerate().map(|(id, row)| (id as i64, row.to_vec(), Some(user(id)), 0));
    let uri = built(folder.path(), &parquet(&path, rows), KINDS[0]);
    let index = Index::open(&uri).unwrap();
    assert_eq!(index.partition_keys().unwrap().len(), index.rows());
    let mut random = Random::new(8);
    let query = VectorBuf::new(vec![1.0, 0.0], 2);
    for id in (0..200).map(|_| random.below(count)).chain([5]) {
        let answers = index.ask(query.view(), &Query::new(10).partition(user(id).as_str())).unwrap();
        let found: Vec<RowId> = answers.of(0).iter().map(|&found| index.hit(found).id).collect();
        let is_there = index.ids().find(&RowId::Int(id as i64)).is_some();
        assert_eq!(found, if is_there { vec![RowId::Int(id as i64)] } else { Vec::new() });
    }
}

#[test]
fn a_row_without_a_tenant_is_refused_or_rejected_and_a_job_that_cannot_partition_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = normal(100, DIM, 9);
    let rows = || {
        let of =
            |(id, row): (usize, &[f32])| (id as i64, row.to_vec(), (id != 17).then(|| "a".to_string()), 0);
        vectors.view().iter().enumerate().map(of)
    };
    let path = parquet(&folder.path().join("a.parquet"), rows());
    let mut spec = job(folder.path(), &path, "partition_by = \"user\"\nkind = \"flat\"");
    let error = job::run(&spec, &Progress::silent()).unwrap_err();
    let text = format!("{error:?} {}", error.cause().map_or(String::new(), ToString::to_string));
    assert!(text.contains("`user` is null"), "{text}");
    spec.source.on_bad_row = job::OnBadRow::Skip;
    let summary = job::run(&spec, &Progress::silent()).unwrap();
    assert_eq!(summary.rows.rejected.get("null_attribute"), Some(&1));

    let parse = |index: &str| {
        let text =
            job(folder.path(), &path, "kind = \"flat\"").to_toml() + &format!("partition_by = {index}\n");
        JobSpec::parse(&text, folder.path().join("job.toml")).map_err(|error| error.to_string())
    };
    assert!(parse("\"vector\"").unwrap_err().contains("allowed: one of the source's `attributes`"));
    assert!(parse("7").is_err());
    let flat = Index::open(&built(
        folder.path(),
        &of_model(folder.path(), "b.parquet", &model(0..50, |_| "a".into(), 1)),
        KINDS[0],
    ));
    assert_eq!(flat.unwrap().partition_by(), Some("user"));
}

#[test]
fn an_index_that_is_not_partitioned_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let rows = of_model(folder.path(), "a.parquet", &model(0..100, |_| "a".into(), 1));
    job::run(&job(folder.path(), &rows, "kind = \"flat\""), &Progress::silent()).unwrap();
    let index = Index::open(folder.path().join("out/memories").to_str().unwrap()).unwrap();
    let asked = index.ask(normal(1, DIM, 2).view(), &Query::new(1).partition("a"));
    assert_eq!(asked.unwrap_err(), QueryError::NoPartitions);
    assert_eq!(index.partition_keys(), None);
}

const ALICE: &str = "alice-0123456789";
const EVERYBODY: &str = "every-0123456789";

struct Asking<'a> {
    served: &'a Served,
    key: &'a str,
}

impl Asking<'_> {
    fn get(&self, path: &str) -> http::Message {
        http::ask(self.served.port, &http::request("GET", path).with("api-key", self.key)).unwrap()
    }

    fn post(&self, path: &str, body: serde_json::Value) -> http::Message {
        let request = http::request("POST", path).with("api-key", self.key).body(body.to_string());
        http::ask(self.served.port, &request).unwrap()
    }
}

/// Every route, with a question that would show what is not alice's: rows of others bear ids of 10,000 and more.
#[test]
fn a_tenants_key_sees_that_tenant_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let tenant = |id: i64| if id < 10_000 { "alice".into() } else { format!("other-{}", id % 3) };
    let mut rows = model(0..60, tenant, 1);
    rows.extend(model(10_000..10_400, tenant, 2));
    let uri = built(folder.path(), &of_model(folder.path(), "a.parquet", &rows), KINDS[1]);
    let plain = tempfile::tempdir().unwrap();
    let spec = job(plain.path(), &of_model(plain.path(), "a.parquet", &rows), "kind = \"flat\"");
    job::run(&spec, &Progress::silent()).unwrap();
    let plain = format!("plain={}", plain.path().join("out/memories").to_str().unwrap());
    let keys = folder.path().join("keys");
    std::fs::write(&keys, format!("{ALICE} tenant=alice\n{EVERYBODY}\n")).unwrap();
    let served =
        Served::start(&[uri.clone(), plain], &["--api-keys", keys.to_str().unwrap(), "--shadow-sample", "1"]);
    let (alice, all) = (Asking { served: &served, key: ALICE }, Asking { served: &served, key: EVERYBODY });
    let index = Index::open(&uri).unwrap();
    let own = index.partition_ordinals(&RowId::Text("alice".into())).unwrap().len();
    let is_own = |id: &serde_json::Value| id.as_u64().is_some_and(|id| id < 10_000);
    let other: Vec<f32> = rows[&10_001].0.clone();
    let other_id = (10_000..10_400).find(|&id| index.ids().find(&RowId::Int(id)).is_some()).unwrap();

    // Our own vocabulary.
    let search = "/v1/indexes/memories/search";
    let found =
        json(&alice.post(search, serde_json::json!({ "vectors": [other], "k": 400, "attributes": true })));
    let hits = found["results"][0]["hits"].as_array().unwrap();
    assert!(
        hits.len() == own
            && hits.iter().all(|hit| is_own(&hit["id"]) && hit["attributes"]["user"] == "alice")
    );
    let named = serde_json::json!({ "vectors": [other], "k": 400, "partition": "other-1" });
    assert_eq!(status(&alice.post(search, named.clone())), 403);
    assert!(json(&all.post(search, named))["results"][0]["hits"].as_array().unwrap().len() > 50);
    for filter in ["\"user\" <> 'alice'", "row_id >= 10000", "\"user\" = 'other-1' OR TRUE"] {
        let asked = serde_json::json!({ "vectors": [other], "k": 400, "filter": filter });
        let found = json(&alice.post(search, asked));
        let hits = found["results"][0]["hits"].as_array().unwrap();
        assert!(hits.iter().all(|hit| is_own(&hit["id"])), "{filter}");
    }
    let by_id = |id: i64| serde_json::json!({ "ids": [id], "k": 3 });
    assert_eq!(status(&alice.post(search, by_id(other_id))), 404);
    let unknown = alice.post(search, by_id(99_999_999));
    let foreign = alice.post(search, by_id(other_id));
    let without_id = |answer: &http::Message, id: i64| {
        String::from_utf8(answer.body.clone()).unwrap().replace(&id.to_string(), "")
    };
    assert_eq!(without_id(&unknown, 99_999_999), without_id(&foreign, other_id), "as if it were not there");
    let info = json(&alice.get("/v1/indexes/memories"));
    assert_eq!(info["rows"], own);
    assert!(info["sample_ids"].as_array().unwrap().iter().all(is_own));
    let names = json(&alice.get("/v1/indexes"));
    assert_eq!(names["indexes"].as_array().unwrap().len(), 1, "`plain` is nobody's in part");
    for path in ["/v1/indexes/plain", "/collections/plain"] {
        let answer = alice.get(path);
        assert_eq!(status(&answer), 404);
        assert!(!String::from_utf8(answer.body).unwrap().contains("`plain`, "));
    }
    assert_eq!(
        status(&alice.post("/v1/indexes/plain/search", serde_json::json!({ "vectors": [other] }))),
        404
    );
    assert_eq!(status(&alice.get("/metrics")), 403);

    // Qdrant's.
    let at = |path: &str| format!("/collections/memories{path}");
    let points = |answer: &http::Message, pointer: &str| {
        let answer = json(answer);
        let points = answer.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {answer}"));
        points.as_array().unwrap().clone()
    };
    let about = json(&alice.get(&at("")));
    assert_eq!(
        (&about["result"]["points_count"], &about["result"]["indexed_vectors_count"]),
        (&own.into(), &own.into())
    );
    assert_eq!(about["result"]["payload_schema"]["user"]["points"], own);
    assert_eq!(points(&alice.get("/collections"), "/result/collections").len(), 1);
    assert_eq!(json(&alice.get("/collections/plain/exists"))["result"]["exists"], false);
    let everything = serde_json::json!({ "limit": 400, "with_payload": true });
    let scrolled = points(&alice.post(&at("/points/scroll"), everything), "/result/points");
    assert!(scrolled.len() == own && scrolled.iter().all(|point| is_own(&point["id"])));
    let page = json(&alice.post(&at("/points/scroll"), serde_json::json!({ "limit": 10, "offset": 9_999 })));
    assert_eq!(
        (page["result"]["points"].as_array().unwrap().len(), &page["result"]["next_page_offset"]),
        (0, &serde_json::Value::Null)
    );
    let (mut paged, mut offset) = (Vec::new(), serde_json::Value::Null);
    loop {
        let asked = serde_json::json!({ "limit": 7, "offset": offset });
        let answer = json(&alice.post(&at("/points/scroll"), asked));
        let page = answer["result"]["points"].as_array().unwrap();
        paged.extend(page.iter().map(|point| point["id"].as_u64().unwrap()));
        offset = answer["result"]["next_page_offset"].clone();
        if offset.is_null() {
            break;
        }
        assert_eq!(page.len(), 7);
    }
    assert!(paged.len() == own && paged.is_sorted_by(|a, b| a < b), "each once, in order: {paged:?}");
    let last = json(&alice.post(&at("/points/scroll"), serde_json::json!({ "limit": own })));
    assert_eq!(last["result"]["next_page_offset"], serde_json::Value::Null, "no page of others follows");
    for filter in [
        serde_json::json!({ "must": [{ "has_id": [other_id] }] }),
        serde_json::json!({ "must_not": [{ "key": "user", "match": { "value": "alice" } }] }),
    ] {
        let asked = serde_json::json!({ "filter": filter, "limit": 400 });
        assert_eq!(json(&alice.post(&at("/points/count"), asked.clone()))["result"]["count"], 0);
        assert!(points(&alice.post(&at("/points/scroll"), asked.clone()), "/result/points").is_empty());
        let searched = serde_json::json!({ "query": other, "filter": filter, "limit": 400 });
        assert!(points(&alice.post(&at("/points/query"), searched), "/result/points").is_empty());
    }
    assert_eq!(json(&alice.post(&at("/points/count"), serde_json::json!({})))["result"]["count"], own);
    let ids = serde_json::json!({ "ids": [other_id, other_id + 1] });
    assert!(points(&alice.post(&at("/points"), ids), "/result").is_empty());
    assert_eq!(status(&alice.get(&at(&format!("/points/{other_id}")))), 404);
    assert_eq!(status(&all.get(&at(&format!("/points/{other_id}")))), 200);
    for query in
        [serde_json::json!(other), serde_json::json!({ "nearest": other, "mmr": { "diversity": 0.5 } })]
    {
        let asked = serde_json::json!({ "query": query, "limit": 60 });
        let found = points(&alice.post(&at("/points/query"), asked.clone()), "/result/points");
        assert!(!found.is_empty() && found.iter().all(|point| is_own(&point["id"])));
        let batch = serde_json::json!({ "searches": [asked] });
        let found = points(&alice.post(&at("/points/query/batch"), batch), "/result/0/points");
        assert!(!found.is_empty() && found.iter().all(|point| is_own(&point["id"])));
    }
    assert_eq!(
        status(&alice.post(&at("/points/query"), serde_json::json!({ "query": other_id, "limit": 3 }))),
        404
    );
    let listed =
        points(&alice.post(&at("/points/query"), serde_json::json!({ "limit": 400 })), "/result/points");
    assert!(listed.len() == own && listed.iter().all(|point| is_own(&point["id"])));
    let grouped = serde_json::json!({ "query": other, "group_by": "user", "limit": 10, "group_size": 5 });
    let groups = points(&alice.post(&at("/points/query/groups"), grouped), "/result/groups");
    assert_eq!(groups.iter().map(|group| &group["id"]).collect::<Vec<_>>(), ["alice"]);
    let facets = points(&alice.post(&at("/facet"), serde_json::json!({ "key": "user" })), "/result/hits");
    assert_eq!(facets, [serde_json::json!({ "value": "alice", "count": own })]);

    // What everybody may see names no tenant.
    let metrics = String::from_utf8(all.get("/metrics").body).unwrap();
    assert!(metrics.contains("annvil_queries") && !metrics.contains("alice") && !metrics.contains("other-"));
}
