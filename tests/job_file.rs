//! The job file's contract: what is refused, where the message points, and what is filled in.
#![cfg(feature = "build")]

use std::path::{Path, PathBuf};

use annvil::job::{
    Auto, Backend, Diagnostic, IndexParams, JobSpec, OnBadRow, Overrides, Place, QueriesSpec, Refine,
    SourceFacts, SpecError, Target,
};
use annvil::store::{Encryption, Secret};
use proptest::prelude::*;

/// A job that is right; cases replace a line of it.
const GOOD: &str = r#"name = "words"
seed = 7
threads = 2
backend = "cpu"

[source]
uri = "../data/*.parquet"
vector = "embedding"
id = "id"
attributes = ["word", "rank"]
where = "rank < 50000"
on_bad_row = "skip"

[queries]
uri = "queries.parquet"

[output]
uri = "out"

[[index]]
name = "words-hnsw"
kind = "hnsw"
metric = "cosine"
m = 16
ef_construction = 200
expert = { leaf_k = 3, fanout = [10, 3], alpha = 1.2, c_max = 512, l_max = 64 }
gate = { k = 10, min_recall = 0.95 }

[[index]]
name = "words-ivf"
kind = "ivf_pq"
metric = "cosine"
nlist = 100
pq_m = 25
pq_bits = 8
refine = "f32"
kmeans_iterations = 12
target = { k = 20, recall = 0.97 }

[[index]]
name = "words-flat"
kind = "flat"
metric = "cosine"

[store]
endpoint = "http://127.0.0.1:9000"
allow_http = true
secret_access_key = "env:BACKUP_SECRET"
encryption = "sse_c"
sse_c_key = "file:/run/secrets/sse"
single_writer = false
"#;

fn parse(text: &str) -> Result<JobSpec, SpecError> {
    JobSpec::parse(text, "jobs/words.toml")
}

fn with(line: &str, replacement: &str) -> String {
    assert_eq!(GOOD.matches(&format!("{line}\n")).count(), 1, "`{line}` is not one line of the good job");
    GOOD.replace(&format!("{line}\n"), &format!("{replacement}\n"))
}

fn refused(text: &str) -> Vec<Diagnostic> {
    match parse(text) {
        Ok(job) => panic!("accepted: {text}\n{job:?}"),
        Err(error) => error.diagnostics().to_vec(),
    }
}

fn line_and_column(diagnostic: &Diagnostic) -> (usize, usize) {
    match &diagnostic.place {
        Place::File { file, line, column, .. } => {
            assert_eq!(file, "jobs/words.toml");
            (*line, *column)
        }
        Place::Flag { flag } => panic!("no place in the file: {flag}"),
    }
}

/// A line of the good job, what stands there instead, where the message points, the key it names, and parts of it.
type Case = (&'static str, &'static str, (usize, usize), &'static str, &'static [&'static str]);

#[rustfmt::skip]
const REFUSED: &[Case] = &[
    // Values beyond their range.
    ("seed = 7", "seed = -1", (2, 8), "seed", &["found -1", "an integer from 0 to 9223372036854775807"]),
    ("threads = 2", "threads = 1025", (3, 11), "threads", &["found 1025", "0 to 1024"]),
    ("m = 16", "m = 1", (24, 5), "index[0].m", &["found 1;", "2 to 256"]),
    ("m = 16", "m = 257", (24, 5), "index[0].m", &["found 257"]),
    ("ef_construction = 200", "ef_construction = 0", (25, 19), "index[0].ef_construction", &["8 to 4096"]),
    ("nlist = 100", "nlist = 0", (33, 9), "index[1].nlist", &["found 0", "1 to 65536", "or \"auto\""]),
    ("nlist = 100", "nlist = 99999999999999999999", (33, 9), "index[1].nlist", &["found 99999999999999999999"]),
    ("pq_m = 25", "pq_m = 0", (34, 8), "index[1].pq_m", &["found 0", "1 to 4096"]),
    ("pq_bits = 8", "pq_bits = 6", (35, 11), "index[1].pq_bits", &["found 6", "allowed: 4, 8"]),
    ("kmeans_iterations = 12", "rotation = \"random\"", (37, 12), "index[1].rotation", &["found the string \"random\"", "\"none\"", "\"opq\""]),
    ("kmeans_iterations = 12", "loss = \"l1\"", (37, 8), "index[1].loss", &["found the string \"l1\"", "\"score_aware\""]),
    ("kmeans_iterations = 12", "kmeans_iterations = 0", (37, 21), "index[1].kmeans_iterations", &["1 to 1000"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 0, min_recall = 0.95 }", (27, 14), "index[0].gate.k", &["found 0", "1 to 1000"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 10, min_recall = 95 }", (27, 31), "index[0].gate.min_recall", &["found 95", "95 % is 0.95"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 10, min_recall = 0.0 }", (27, 31), "index[0].gate.min_recall", &["above 0 and at most 1"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 10, min_recall = nan }", (27, 31), "index[0].gate.min_recall", &["found nan"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 10 }", (27, 8), "index[0].gate.min_recall", &["is missing"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 10, min_recall = 0.95 }\ntarget = { recall = 0.9 }", (28, 10), "index[0].target", &["below the gate's `min_recall` 0.95"]),
    ("expert = { leaf_k = 3, fanout = [10, 3], alpha = 1.2, c_max = 512, l_max = 64 }", "expert = { leaf_k = 40, fanout = [10, 0], alpha = 0.9, c_max = 8, l_max = 31 }", (26, 21), "index[0].expert.leaf_k", &["found 40", "1 to 31"]),
    ("expert = { leaf_k = 3, fanout = [10, 3], alpha = 1.2, c_max = 512, l_max = 64 }", "expert = { fanout = [10, 0] }", (26, 21), "index[0].expert.fanout", &["found [10, 0]", "1 to 8 numbers", "1 to 64"]),
    ("expert = { leaf_k = 3, fanout = [10, 3], alpha = 1.2, c_max = 512, l_max = 64 }", "expert = { fanout = [] }", (26, 21), "index[0].expert.fanout", &["found an empty list"]),
    ("expert = { leaf_k = 3, fanout = [10, 3], alpha = 1.2, c_max = 512, l_max = 64 }", "expert = { l_max = 31 }", (26, 20), "index[0].expert.l_max", &["32 to 1024"]),
    ("expert = { leaf_k = 3, fanout = [10, 3], alpha = 1.2, c_max = 512, l_max = 64 }", "expert = { alpha = 0.9 }", (26, 20), "index[0].expert.alpha", &["found 0.9", "1.0 to 2.0"]),
    // Wrong types.
    ("name = \"words\"", "name = 3", (1, 8), "name", &["found 3"]),
    ("seed = 7", "seed = \"7\"", (2, 8), "seed", &["found the string \"7\"", "an integer"]),
    ("threads = 2", "threads = 2.0", (3, 11), "threads", &["found 2.0"]),
    ("backend = \"cpu\"", "backend = true", (4, 11), "backend", &["found true", "\"auto\", \"gpu\", \"cpu\", \"reference\""]),
    ("id = \"id\"", "id = 2026-11-20", (9, 6), "source.id", &["found the date 2026-11-20", "a column's name"]),
    ("attributes = [\"word\", \"rank\"]", "attributes = \"word\"", (10, 14), "source.attributes", &["found the string \"word\"", "a list"]),
    ("attributes = [\"word\", \"rank\"]", "attributes = [\"word\", 3]", (10, 23), "source.attributes[1]", &["found 3"]),
    ("where = \"rank < 50000\"", "where = [1, 2]", (11, 9), "source.where", &["found [1, 2]", "SQL"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = 0.95", (27, 8), "index[0].gate", &["found 0.95", "`k`, `min_recall`"]),
    ("[output]", "[[output]]", (17, 1), "output", &["found a list of 1", "a table of `uri`"]),
    // Words that are none of the allowed.
    ("backend = \"cpu\"", "backend = \"cuda\"", (4, 11), "backend", &["found the string \"cuda\"", "did you mean \"gpu\"?"]),
    ("on_bad_row = \"skip\"", "on_bad_row = \"ignore\"", (12, 14), "source.on_bad_row", &["\"fail\", \"skip\"", "did you mean \"skip\"?"]),
    ("kind = \"flat\"", "kind = \"brute\"", (42, 8), "index[2].kind", &["found the string \"brute\"", "\"flat\", \"ivf_pq\", \"hnsw\""]),
    ("refine = \"f32\"", "refine = \"fp16\"", (36, 10), "index[1].refine", &["did you mean \"f16\"?"]),
    ("nlist = 100", "nlist = \"many\"", (33, 9), "index[1].nlist", &["found the string \"many\"", "\"auto\""]),
    // Keys that are not, or not here.
    ("pq_m = 25", "rabitq_bits = 4", (34, 15), "index[1].rabitq_bits", &["of no use with `code = \"pq\"`", "`code = \"rabitq\"`"]),
    ("seed = 7", "sead = 7", (2, 1), "sead", &["unknown key in the top level", "did you mean `seed`?"]),
    ("vector = \"embedding\"", "vectr = \"embedding\"", (8, 1), "source.vectr", &["did you mean `vector`?"]),
    ("uri = \"queries.parquet\"", "path = \"queries.parquet\"", (15, 1), "queries.path", &["did you mean `uri`?"]),
    ("where = \"rank < 50000\"", "filter = \"rank < 50000\"", (11, 1), "source.filter", &["did you mean `where`?"]),
    ("on_bad_row = \"skip\"", "threads = 4", (12, 1), "source.threads", &["belongs to the top level"]),
    ("ef_construction = 200", "efConstruction = 200", (25, 1), "index[0].efConstruction", &["did you mean `ef_construction`?"]),
    ("ef_construction = 200", "nlist = 200", (25, 1), "index[0].nlist", &["`nlist` belongs to an index of kind `ivf_pq`"]),
    ("ef_construction = 200", "ef_search = 200", (25, 1), "index[0].ef_search", &["is a search setting"]),
    ("nlist = 100", "lists = 100", (33, 1), "index[1].lists", &["did you mean `nlist`?"]),
    ("pq_m = 25", "m = 25", (34, 1), "index[1].m", &["did you mean `pq_m`?"]),
    ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 10, recall = 0.95 }", (27, 18), "index[0].gate.recall", &["did you mean `min_recall`?"]),
    ("uri = \"out\"", "uri = \"out\"\nversion = 3", (19, 1), "output.version", &["unknown key in `[output]`", "allowed: `uri`"]),
    ("uri = \"out\"", "uri = \"out\"\n\"a\\u001Bb\" = 3", (19, 1), "output.a\u{fffd}b", &["unknown key"]),
    // Missing.
    ("vector = \"embedding\"", "", (6, 1), "source.vector", &["is missing", "a column's name"]),
    ("uri = \"../data/*.parquet\"", "", (6, 1), "source.uri", &["is missing", "a path"]),
    ("uri = \"queries.parquet\"", "", (14, 1), "queries", &["neither `uri` nor `sample`"]),
    ("uri = \"out\"", "", (17, 1), "output.uri", &["is missing"]),
    ("kind = \"flat\"", "", (40, 1), "index[2].kind", &["is missing", "\"hnsw\""]),
    // Impossible or dangerous values.
    ("name = \"words\"", "name = \"../words\"", (1, 8), "name", &["found \"../words\"", "1 to 128 characters"]),
    ("name = \"words-flat\"", "name = \"..\"", (41, 8), "index[2].name", &["found \"..\""]),
    ("name = \"words-flat\"", "name = \"a/b\"", (41, 8), "index[2].name", &["found \"a/b\""]),
    ("name = \"words-flat\"", "name = \"-rf\"", (41, 8), "index[2].name", &["found \"-rf\""]),
    ("name = \"words-flat\"", "name = \"_x\"", (41, 8), "index[2].name", &["found \"_x\""]),
    ("name = \"words-flat\"", "name = \"wörter\"", (41, 8), "index[2].name", &["found \"wörter\""]),
    ("name = \"words-flat\"", "name = \"\"", (41, 8), "index[2].name", &["found an empty string"]),
    ("name = \"words-flat\"", "name = \"Words-HNSW\"", (41, 8), "index[2].name", &["the index of line 21", "case"]),
    ("uri = \"../data/*.parquet\"", "uri = []", (7, 7), "source.uri", &["found an empty list"]),
    ("uri = \"../data/*.parquet\"", "uri = [\"a\", \"\"]", (7, 13), "source.uri[1]", &["found an empty string"]),
    ("uri = \"../data/*.parquet\"", "uri = [\"a\", \"a\"]", (7, 13), "source.uri", &["found \"a\" twice"]),
    ("uri = \"../data/*.parquet\"", "uri = \"a\\u0000b\"", (7, 7), "source.uri", &["NUL"]),
    ("uri = \"../data/*.parquet\"", "uri = \"ftp://host/x\"", (7, 7), "source.uri", &["found the scheme `ftp://`", "`file://`"]),
    ("uri = \"out\"", "uri = \"out/*\"", (18, 7), "output.uri", &["found the glob"]),
    ("attributes = [\"word\", \"rank\"]", "attributes = [\"word\", \"word\"]", (10, 23), "source.attributes", &["found \"word\" twice"]),
    ("attributes = [\"word\", \"rank\"]", "attributes = [\"id\"]", (10, 15), "source.attributes", &["which is the id column"]),
    ("id = \"id\"", "id = \"embedding\"", (9, 6), "source.id", &["is the vector column"]),
    ("where = \"rank < 50000\"", "where = \"  \"", (11, 9), "source.where", &["found an empty string"]),
    ("uri = \"queries.parquet\"", "uri = \"q\"\nsample = 10", (16, 10), "queries.sample", &["found both"]),
    ("uri = \"queries.parquet\"", "sample = 0", (15, 10), "queries.sample", &["found 0", "1 to 1000000"]),
    ("uri = \"queries.parquet\"", "sample = 10\nvector = \"v\"", (16, 10), "queries.vector", &["of no use with `sample`"]),
    ("kind = \"flat\"", "kind = \"flat\"\ntarget = { recall = 0.9 }", (43, 1), "index[2].target", &["unknown key in an index of kind `flat`"]),
    // How to reach the stores.
    ("uri = \"out\"", "uri = \"https://host/out\"", (18, 7), "output.uri", &["found the scheme `https://`", "`memory://`"]),
    ("allow_http = true", "allow_http = 1", (47, 14), "store.allow_http", &["found 1", "true or false"]),
    ("secret_access_key = \"env:BACKUP_SECRET\"", "secret_access_key = \"file:key\"", (48, 21), "store.secret_access_key", &["reference to a secret", "env:NAME"]),
    ("encryption = \"sse_c\"", "encryption = \"AES256\"", (49, 14), "store.encryption", &["found the string \"AES256\"", "\"sse_s3\""]),
    ("encryption = \"sse_c\"", "encryption = \"sse_s3\"", (50, 13), "store.sse_c_key", &["of no use without `encryption = \"sse_c\"`"]),
    ("sse_c_key = \"file:/run/secrets/sse\"", "", (49, 14), "store.encryption", &["needs `sse_c_key`"]),
    ("single_writer = false", "deadline_s = -1", (51, 14), "store.deadline_s", &["found -1", "0 to 86400"]),
    ("single_writer = false", "bucket = \"b\"", (51, 1), "store.bucket", &["unknown key in `[store]`"]),
    // Not TOML at all.
    ("seed = 7", "seed = ", (2, 8), "", &["not TOML"]),
    ("seed = 7", "seed = 7\nseed = 8", (3, 1), "", &["not TOML", "duplicate key"]),
    ("[output]", "[output", (17, 8), "", &["not TOML"]),
];

#[test]
fn what_is_refused_is_refused_with_its_line_and_key() {
    for (line, replacement, place, key, parts) in REFUSED {
        let diagnostics = refused(&with(line, replacement));
        let first = &diagnostics[0];
        let message = first.to_string();
        assert_eq!((line_and_column(first), first.key.as_str()), (*place, *key), "{replacement}\n{message}");
        for part in *parts {
            assert!(message.contains(part), "{replacement}: `{part}` is not in\n{message}");
        }
        assert!(
            message.starts_with(&format!("jobs/words.toml:{}:{}: error: ", place.0, place.1)),
            "{message}"
        );
    }
}

/// One mistake is told once: but for syntax errors, which lead to others, and the case with five mistakes.
#[test]
fn a_single_mistake_gives_a_single_message() {
    for (line, replacement, _, key, _) in REFUSED {
        let diagnostics = refused(&with(line, replacement));
        let mistakes = if replacement.contains("leaf_k = 40") { 5 } else { 1 };
        if !key.is_empty() {
            assert_eq!(diagnostics.len(), mistakes, "{replacement}\n{diagnostics:#?}");
        }
    }
}

#[test]
fn a_message_reads_as_documented() {
    let error = parse(&with("nlist = 100", "nlist = 0   # none")).unwrap_err();
    let expected = "\
jobs/words.toml:33:9: error: `index[1].nlist`: found 0; allowed: an integer from 1 to 65536, or \"auto\"
   |
33 | nlist = 0   # none
   |         ^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn all_problems_are_told_at_once_and_in_file_order() {
    let text = "sed = 1\n[source]\nuri = 3\n[[index]]\nkind = \"hnsw\"\nmetric = \"l3\"\nm = 0\n";
    let diagnostics = refused(text);
    let mut lines: Vec<usize> = diagnostics.iter().map(|d| line_and_column(d).0).collect();
    let keys: Vec<&str> = diagnostics.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys.len(), 7, "{keys:?}");
    for key in ["sed", "queries", "output", "source.vector", "source.uri", "index[0].metric", "index[0].m"] {
        assert!(keys.contains(&key), "{key} is not among {keys:?}");
    }
    assert!(lines.is_sorted());
    lines.dedup();
    assert!(parse(text).unwrap_err().to_string().ends_with("\n\n7 problems"));
}

#[test]
fn indexes_of_different_metrics_name_both_lines() {
    let text = with("kind = \"flat\"\nmetric = \"cosine\"", "kind = \"flat\"\nmetric = \"l2\"");
    let diagnostics = refused(&text);
    assert_eq!(
        (line_and_column(&diagnostics[0]), diagnostics[0].key.as_str()),
        ((43, 10), "index[2].metric")
    );
    assert!(diagnostics[0].message.contains("\"cosine\" in line 23"), "{}", diagnostics[0]);
}

#[test]
fn a_metric_from_another_library_is_translated() {
    for (written, meant) in
        [("euclidean", "l2"), ("IP", "inner_product"), ("angular", "cosine"), ("L2", "l2")]
    {
        let text =
            with("kind = \"flat\"\nmetric = \"cosine\"", &format!("kind = \"flat\"\nmetric = \"{written}\""));
        let diagnostics = refused(&text);
        assert_eq!(diagnostics[0].help.as_deref(), Some(&*format!("did you mean \"{meant}\"?")), "{written}");
    }
}

#[test]
fn a_single_index_table_is_answered_with_how_to_write_it() {
    let text =
        GOOD.split("[[index]]").next().unwrap().to_string() + "[index]\nkind = \"flat\"\nmetric = \"l2\"\n";
    let diagnostics = refused(&text);
    assert_eq!(diagnostics.len(), 1);
    assert!(diagnostics[0].to_string().contains("write `[[index]]` for `[index]`"), "{}", diagnostics[0]);
}

#[test]
fn an_empty_file_is_told_every_table_it_needs() {
    let keys: Vec<String> = refused("").into_iter().map(|d| d.key).collect();
    assert_eq!(keys, ["source", "queries", "output", "index"]);
}

#[test]
fn what_the_file_says_is_what_the_job_has() {
    let job = parse(GOOD).unwrap();
    assert_eq!((job.name.as_str(), job.seed, job.threads, job.backend), ("words", 7, 2, Backend::Cpu));
    assert_eq!(job.source.uri[0].resolved(), Path::new("data/*.parquet").to_str().unwrap());
    assert_eq!(job.source.uri[0].written(), "../data/*.parquet");
    assert_eq!(job.source.on_bad_row, OnBadRow::Skip);
    assert_eq!(job.source.predicate.as_deref(), Some("rank < 50000"));
    let QueriesSpec::File { uri, vector } = &job.queries else { panic!() };
    assert_eq!(
        (Path::new(uri[0].resolved()), vector.as_str()),
        (Path::new("jobs/queries.parquet"), "embedding")
    );
    let secret = job.store.secret_access_key.clone().unwrap();
    assert_eq!(secret, Secret::Variable("BACKUP_SECRET".into()));
    assert_eq!((job.store.allow_http, job.store.encryption), (Some(true), Some(Encryption::SseC)));
    let [hnsw, ivf, flat] = &job.indexes[..] else { panic!() };
    let IndexParams::Hnsw(params) = &hnsw.params else { panic!() };
    assert_eq!((params.m, params.ef_construction), (16, 200));
    assert_eq!(params.expert.fanout, Auto::Given(vec![10, 3]));
    assert_eq!(params.expert.alpha, Auto::Given(1.2));
    // A target that the file leaves out follows from the gate.
    assert_eq!(hnsw.target, Some(Target { k: 10, recall: 0.95 }));
    let IndexParams::IvfPq(params) = &ivf.params else { panic!() };
    assert_eq!((params.nlist, params.refine), (Auto::Given(100), Refine::F32));
    assert_eq!(params.code.pq().map(|pq| pq.pq_m), Some(Auto::Given(25)));
    assert_eq!((ivf.gate, ivf.target), (None, Some(Target { k: 20, recall: 0.97 })));
    assert_eq!((flat.params.kind(), flat.target), ("flat", None));
}

const SMALLEST: &str = "[source]\nuri = \"a.parquet\"\nvector = \"v\"\n[queries]\nsample = 10\n[output]\nuri = \"out\"\n\
                        [[index]]\nkind = \"hnsw\"\nmetric = \"l2\"\n[[index]]\nkind = \"ivf_pq\"\nmetric = \"l2\"\n";

#[test]
fn what_is_left_out_has_the_documented_default() {
    let job = JobSpec::parse(SMALLEST, "jobs/my words.toml").unwrap();
    let expected = serde_json::json!({
        "name": "my-words", "seed": 42, "threads": 0, "backend": "auto",
        "source": { "uri": ["a.parquet"], "vector": "v", "attributes": [], "on_bad_row": "fail" },
        "queries": { "sample": 10 },
        "output": { "uri": "out" },
        "index": [
            { "name": "my-words-hnsw", "kind": "hnsw", "metric": "l2", "m": 16, "ef_construction": 200, "code": "q4",
              "expert": { "c_max": "auto", "fanout": "auto", "leaf_k": "auto", "l_max": "auto", "alpha": "auto" },
              "target": { "k": 10, "recall": 0.95 } },
            { "name": "my-words-ivf_pq", "kind": "ivf_pq", "metric": "l2", "nlist": "auto", "code": "pq", "pq_m": "auto",
              "pq_bits": 4, "refine": "f16", "spill": "none", "kmeans_iterations": 10, "rotation": "none", "loss": "auto",
              "target": { "k": 10, "recall": 0.95 } },
        ],
    });
    assert_eq!(job.to_json(), expected);
}

/// Line 14 on of the smallest job.
#[test]
fn keys_of_another_code_are_refused() {
    for (text, place, key, parts) in [
        ("code = \"pq8\"", (14, 8), "code", &["found the string \"pq8\"", "\"rabitq\", \"sq8\", \"flat\""]),
        ("code = \"rabitq\"\nrabitq_bits = 9", (15, 15), "rabitq_bits", &["found 9", "1 to 8"]),
        (
            "code = \"sq8\"\npq_m = 25",
            (15, 8),
            "pq_m",
            &["of no use with `code = \"sq8\"`", "`code = \"pq\"`"],
        ),
        (
            "loss = \"auto\"\ncode = \"flat\"",
            (14, 8),
            "loss",
            &["of no use with `code = \"flat\"`", "`code = \"pq\"`"],
        ),
        ("refine = \"none\"\ncode = \"flat\"", (14, 10), "refine", &["found \"none\"", "\"f16\", \"f32\""]),
        ("code = \"flat\"\nspill = \"soar\"", (15, 9), "spill", &["found \"soar\"", "\"none\""]),
    ] {
        let diagnostics = refused(&format!("{SMALLEST}{text}\n"));
        let [diagnostic] = &diagnostics[..] else { panic!("{diagnostics:#?}") };
        assert_eq!(
            (line_and_column(diagnostic), &diagnostic.key[..]),
            (place, &format!("index[1].{key}")[..])
        );
        let message = diagnostic.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

/// A change reads the job that its index was built by from the manifest.
#[test]
fn a_job_of_every_code_reads_as_it_is_written() {
    let codes = [
        "pq_bits = 8\nrotation = \"opq\"",
        "code = \"rabitq\"",
        "code = \"rabitq\"\nrabitq_bits = 7\nrefine = \"none\"",
        "code = \"sq8\"\nspill = \"soar\"",
        "code = \"flat\"\nrefine = \"f32\"",
    ];
    for code in codes {
        let job = JobSpec::parse(&format!("{SMALLEST}{code}\n"), "jobs/words.toml").unwrap();
        let written = toml::to_string(&job.to_json()).unwrap();
        let again = JobSpec::parse(&written, "jobs/words.toml").unwrap();
        assert_eq!(again.to_json(), job.to_json(), "{written}");
    }
    let job = JobSpec::parse(&format!("{SMALLEST}code = \"rabitq\"\n"), "jobs/words.toml").unwrap().to_json();
    assert_eq!((&job["index"][1]["code"], &job["index"][1]["rabitq_bits"]), (&"rabitq".into(), &4.into()));
}

#[test]
fn two_indexes_without_names_of_one_kind_are_told_apart_by_the_user() {
    let text = SMALLEST.replace("ivf_pq", "hnsw");
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("\"words-hnsw\" is the name of the index of line 8 too"), "{error}");
}

/// A job stands in the manifest of what it published, and a message on a screen.
#[test]
fn a_secret_written_into_the_job_is_refused_and_not_repeated() {
    let diagnostics =
        refused(&with("secret_access_key = \"env:BACKUP_SECRET\"", "secret_access_key = \"wJalrXUtnFEMI\""));
    assert_eq!(diagnostics[0].key, "store.secret_access_key");
    assert!(!diagnostics[0].message.contains("wJalrXUtnFEMI"), "{}", diagnostics[0].message);
}

#[test]
fn a_normalised_job_parses_to_itself() {
    for text in [GOOD, SMALLEST] {
        let job = parse(text).unwrap();
        let again = parse(&job.to_toml()).unwrap_or_else(|error| panic!("{error}\n{}", job.to_toml()));
        assert_eq!(again.to_json(), job.to_json());
        assert_eq!(again.source.uri, job.source.uri);
    }
}

#[test]
fn overrides_win_and_are_held_to_the_same_rules() {
    let job = parse(GOOD).unwrap();
    let overrides = Overrides {
        backend: Some(Backend::Reference),
        threads: Some(1),
        seed: Some(9),
        output: Some("elsewhere".into()),
        memory_budget: Some(1 << 30),
        scratch: Some("fast/disk".into()),
        shard: Some("1/3".parse().unwrap()),
        no_resume: true,
    };
    let job = job.override_with(&overrides).unwrap();
    assert!(job.indexes.iter().all(|index| index.name.ends_with("-1-of-3")));
    assert_eq!(job.source.shard, overrides.shard);
    assert_eq!((job.memory_budget, job.resume), (Some(1 << 30), false));
    assert_eq!(job.scratch.as_ref().map(|uri| uri.resolved()), Some("fast/disk"));
    assert_eq!((job.backend, job.threads, job.seed), (Backend::Reference, 1, 9));
    // The file's folder has no part in a path of the command line.
    assert_eq!(job.output.uri.resolved(), "elsewhere");

    for (overrides, message) in [
        (
            Overrides { threads: Some(5000), ..Overrides::default() },
            "--threads: error: `threads`: found 5000",
        ),
        (
            Overrides { seed: Some(u64::MAX), ..Overrides::default() },
            "--seed: error: `seed`: found 18446744073709551615",
        ),
        (
            Overrides { output: Some(" ".into()), ..Overrides::default() },
            "--output: error: `output.uri`: found an empty",
        ),
        (Overrides { output: Some("ftp://x".into()), ..Overrides::default() }, "found the scheme `ftp://`"),
        (Overrides { memory_budget: Some(1 << 20), ..Overrides::default() }, "allowed: 64.0 MiB to"),
        (Overrides { scratch: Some("s3://x".into()), ..Overrides::default() }, "found the scheme `s3://`"),
    ] {
        let error = job.clone().override_with(&overrides).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn no_overrides_change_nothing() {
    let job = parse(GOOD).unwrap();
    let same = job.clone().override_with(&Overrides::default()).unwrap();
    assert_eq!(same.to_json(), job.to_json());
}

fn facts(dim: usize, rows: u64) -> SourceFacts {
    SourceFacts { dim: Some(dim), rows_upper_bound: rows }
}

#[test]
fn data_that_fits_is_accepted() {
    let job = parse(GOOD).unwrap();
    assert_eq!(job.check_against(&facts(100, 10_000)).unwrap(), []);
    assert_eq!(job.check_against(&SourceFacts { dim: None, rows_upper_bound: 10_000 }).unwrap(), []);
    // 25 sub-vectors of 4: 97 to 100 dimensions are all 100 when padded.
    for dim in 97..=100 {
        job.check_against(&facts(dim, 10_000)).unwrap();
    }
}

#[test]
fn what_the_data_cannot_give_is_refused_with_its_line_and_key() {
    type Case = (&'static str, &'static str, SourceFacts, usize, &'static str, &'static [&'static str]);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("nlist = 100", "nlist = 5000", facts(100, 4999), 33, "index[1].nlist", &["found 5000", "the 4999 rows"]),
        ("pq_m = 25", "pq_m = 25", facts(96, 10_000), 34, "index[1].pq_m", &["found 25", "the dimension 96", "16, 24, 32, 48"]),
        ("pq_m = 25", "pq_m = 128", facts(100, 10_000), 34, "index[1].pq_m", &["more than the dimension", "allowed: 1, 2, 4, 5, 10, 20, 25, 50, 100"]),
        ("pq_m = 25", "pq_m = 7", facts(1, 10_000), 34, "index[1].pq_m", &["allowed: 1"]),
        ("gate = { k = 10, min_recall = 0.95 }", "gate = { k = 500, min_recall = 0.95 }\ntarget = { k = 10 }", facts(100, 400), 27, "index[0].gate.k", &["found 500", "the 400 rows"]),
        ("target = { k = 20, recall = 0.97 }", "target = { k = 500 }", facts(100, 400), 38, "index[1].target.k", &["found 500"]),
        ("uri = \"queries.parquet\"", "sample = 400", facts(100, 400), 15, "queries.sample", &["found 400", "at most 399"]),
        ("uri = \"queries.parquet\"", "sample = 350", facts(100, 400), 33, "index[1].nlist", &["found 100", "the 50 rows"]),
    ];
    for (line, replacement, facts, at, key, parts) in cases {
        let job = parse(&with(line, replacement)).unwrap();
        let error = job.check_against(facts).unwrap_err();
        let first = error.diagnostics().first().unwrap();
        let message = first.to_string();
        assert_eq!((line_and_column(first).0, first.key.as_str()), (*at, *key), "{message}");
        for part in *parts {
            assert!(message.contains(part), "`{part}` is not in\n{message}");
        }
    }
}

/// A default that does not fit points at the table, since there is no line of its own.
#[test]
fn a_default_that_the_data_cannot_give_points_at_its_index() {
    let job = parse(SMALLEST).unwrap();
    let error = job.check_against(&facts(4, 15)).unwrap_err();
    let first = error.diagnostics().first().unwrap();
    assert_eq!((line_and_column(first), first.key.as_str()), ((8, 1), "index[0].target.k"), "{first}");
}

#[test]
fn what_is_unwise_is_a_warning() {
    let job = parse(&with("nlist = 100", "nlist = 4")).unwrap();
    let warnings = job.check_against(&facts(100, 200)).unwrap();
    assert_eq!(warnings.len(), 1);
    let message = warnings[0].to_string();
    assert!(
        message.starts_with("jobs/words.toml:35:11: warning: `index[1].pq_bits`: 256 codes"),
        "{message}"
    );
}

#[test]
fn a_file_that_is_no_job_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    assert!(matches!(JobSpec::from_path(&missing), Err(SpecError::Read { .. })));
    assert!(matches!(JobSpec::from_path(folder.path()), Err(SpecError::Read { .. })));
    let parquet = folder.path().join("base.parquet");
    std::fs::write(&parquet, b"PAR1\xff\xfe").unwrap();
    let Err(SpecError::NotText { offset, .. }) = JobSpec::from_path(&parquet) else { panic!() };
    assert_eq!(offset, 4);
    std::fs::write(&parquet, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(JobSpec::from_path(&parquet), Err(SpecError::TooLong { .. })));
    std::fs::write(&parquet, GOOD).unwrap();
    JobSpec::from_path(&parquet).unwrap();
}

fn pipelines() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn every_pipeline_of_the_repository_parses() {
    let pipelines = pipelines();
    assert!(pipelines.len() >= 2);
    for path in pipelines {
        JobSpec::from_path(&path).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The part of the reference under a table's heading names each of its keys, and its example is a job.
#[test]
fn the_reference_covers_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/README.md");
    let reference = std::fs::read_to_string(path).unwrap();
    for (table, keys) in annvil::job::documented_keys() {
        for key in keys {
            assert!(
                reference.contains(&format!("| `{key}` |")),
                "`{key}` of {table} is not in the reference"
            );
        }
    }
    let example = reference.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    parse(example).unwrap_or_else(|error| panic!("{error}"));
}

/// A key that is allowed but never read would be ignored in silence.
#[test]
fn every_allowed_key_is_read() {
    for (table, keys) in annvil::job::documented_keys() {
        for key in keys {
            // A date is no key's value: whoever reads the key complains.
            let (text, path) = match table {
                "the top level" => (format!("{key} = 2026-01-01\n"), (*key).to_string()),
                "`[source]`" => (format!("[source]\n{key} = 2026-01-01\n"), format!("source.{key}")),
                "`[source.embed]`" => {
                    let kind = match *key {
                        "kind" => "",
                        "command" => "kind = \"command\"",
                        "url" | "credential" => "kind = \"http\"",
                        _ => "kind = \"hashed\"",
                    };
                    (format!("[source.embed]\n{kind}\n{key} = 2026-01-01\n"), format!("source.embed.{key}"))
                }
                "`[queries]`" if *key == "vector" => {
                    ("[queries]\nuri = \"q\"\nvector = 2026-01-01\n".into(), "queries.vector".into())
                }
                "`[queries]`" => (format!("[queries]\n{key} = 2026-01-01\n"), format!("queries.{key}")),
                "`[output]`" => (format!("[output]\n{key} = 2026-01-01\n"), format!("output.{key}")),
                "`[store]`" => (format!("[store]\n{key} = 2026-01-01\n"), format!("store.{key}")),
                "`[encryption]`" => {
                    (format!("[encryption]\n{key} = 2026-01-01\n"), format!("encryption.{key}"))
                }
                "`gate`" | "`target`" | "`expert`" => {
                    let name = table.trim_matches('`');
                    let text = format!("[[index]]\nkind = \"hnsw\"\n{name} = {{ {key} = 2026-01-01 }}\n");
                    (text, format!("index[0].{name}.{key}"))
                }
                "an index of kind `flat`" | "an index of kind `ivf_pq`" | "an index of kind `hnsw`"
                    if *key == "kind" =>
                {
                    ("[[index]]\nkind = 2026-01-01\n".into(), "index[0].kind".into())
                }
                _ => {
                    let kind = table.trim_end_matches('`').rsplit('`').next().unwrap();
                    let text = format!("[[index]]\nkind = \"{kind}\"\n{key} = 2026-01-01\n");
                    (text, format!("index[0].{key}"))
                }
            };
            let diagnostics = refused(&text);
            let complaint = diagnostics.iter().find(|d| d.key == path);
            let complaint = complaint.unwrap_or_else(|| panic!("`{path}` is not read: {diagnostics:#?}"));
            assert!(!complaint.message.contains("unknown key"), "{complaint}");
        }
    }
}

/// Pieces that meet in surprising ways more often than random characters do.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "[",
            "]",
            "[[index]]",
            "[source]",
            "[queries]",
            "\n",
            "=",
            " = ",
            "\"",
            "'''",
            "{",
            "}",
            ",",
            ".",
            "#",
            "kind",
            "hnsw",
            "\"ivf_pq\"",
            "metric",
            "\"l2\"",
            "uri",
            "nlist",
            "0x",
            "1e999",
            "-",
            "nan",
            "inf",
            "_",
            "1979-05-27",
            "true",
            "\\u",
            "ä",
            "\u{feff}",
            "\r",
            "\0",
            "index",
            "gate",
            "expert",
            "\"auto\"",
        ])
        .prop_map(str::to_string),
        "\\PC{0,4}",
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics(text in fragments()) {
        if let Err(error) = parse(&text) {
            let _ = error.to_string();
        }
    }

    /// The good job with a stretch of it replaced: deeper than arbitrary text gets.
    #[test]
    fn a_damaged_job_never_panics(start in 0..GOOD.len(), length in 0usize..40, patch in fragments()) {
        let end = (start + length).min(GOOD.len());
        let text = format!("{}{patch}{}", &GOOD[..start], &GOOD[end..]);
        match parse(&text) {
            Ok(job) => {
                let _ = job.check_against(&facts(100, 1000));
                let again = parse(&job.to_toml()).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(again.to_json(), job.to_json());
            }
            Err(error) => {
                let _ = error.to_string();
            }
        }
    }

    #[test]
    fn checking_never_panics(dim in prop::option::of(0usize..5000), rows in any::<u64>(), nlist in 1usize..=65_536) {
        let job = parse(&with("nlist = 100", &format!("nlist = {nlist}"))).unwrap();
        let refused = job.check_against(&SourceFacts { dim, rows_upper_bound: rows }).is_err();
        prop_assert!(refused || rows == 0 || nlist as u64 <= rows);
    }
}
