//! `annvil tune`: what is chosen meets what was asked, as measured and not only as predicted; and what nothing meets builds
//! nothing.
#![cfg(all(feature = "cli", feature = "polars"))]

mod rows;

use std::path::Path;
use std::process::{Command, Output};

use annvil::job::{Backend, CancelToken, IndexParams, JobSpec, Overrides, Progress, Silent};
use annvil::loader::{Index, Query};
use annvil::tune::{Asked, Prefer, TuneError, TuneOptions, build, job_of, tune};
use annvil::vectors::RowId;
use serde_json::Value;

fn glove(folder: &Path, more: &str) -> JobSpec {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = root.join("datasets/glove10k");
    let text = format!(
        "name = \"words\"\nresume = false\nbackend = \"cpu\"\n[source]\nuri = {:?}\nvector = \"embedding\"\nid = \"id\"\n\
         attributes = [\"word\"]\n{more}[queries]\nuri = {:?}\n[output]\nuri = {:?}\n[[index]]\nkind = \"hnsw\"\nmetric = \
         \"cosine\"\nm = 10\n",
        data.join("base.parquet"),
        data.join("queries.parquet"),
        folder.join("out")
    );
    JobSpec::parse(&text, folder.join("words.toml")).unwrap()
}

fn options(asked: Asked) -> TuneOptions {
    TuneOptions { sample_rows: 3000, sample_queries: 80, ..TuneOptions::new(asked) }
}

/// A sample of a third of the rows is believed to tell recall within a few percent, and bytes within one.
#[test]
fn the_winner_meets_what_was_asked_and_was_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let job = glove(folder.path(), "");
    let tuning = tune(&job, &options(Asked::recall(0.9)), &Progress::silent()).unwrap();
    assert_eq!((tuning.rows, tuning.dim, &tuning.samples[..]), (10_000, 100, &[1000, 3000][..]));
    let won = tuning.won().unwrap();
    let prediction = won.prediction.as_ref().unwrap();
    assert!(prediction.recall >= 0.9 && won.misses.is_empty() && won.trials.len() == 2, "{won:?}");
    assert!(
        tuning.candidates.iter().any(|tried| tried.name == "hnsw m 10 ef_construction 200"),
        "the job's own"
    );
    // Half of them were given up after the first sample, and the whole was predicted of all.
    let tried_twice = tuning.candidates.iter().filter(|tried| tried.trials.len() == 2).count();
    assert!(tried_twice >= 4 && tried_twice <= tuning.candidates.len() / 2 + 3, "{tried_twice}");
    assert!(tuning.candidates.iter().all(|tried| tried.prediction.is_some()));
    let finalists =
        tuning.candidates.iter().filter(|tried| tried.trials.len() == 2 && tried.misses.is_empty());
    let fastest = finalists.map(|tried| tried.prediction.as_ref().unwrap().p50_ms).fold(f64::MAX, f64::min);
    assert_eq!(prediction.p50_ms, fastest);

    let built = build(&job, &tuning, "chosen", &Progress::silent()).unwrap();
    let of = |what: &str| built.compared.iter().find(|one| one.what == what).unwrap();
    assert!(of("recall").actual >= 0.9 && of("recall").error.abs() < 0.1, "{:?}", of("recall"));
    assert!(of("bytes_per_vector").error.abs() < 0.1, "{:?}", of("bytes_per_vector"));
    assert!(of("published_bytes").error.abs() < 0.25, "{:?}", of("published_bytes"));
    for what in ["p50_ms", "p95_ms", "qps", "build_seconds"] {
        assert!(of(what).actual > 0.0 && of(what).predicted > 0.0, "{what}");
    }
    built.check().unwrap();
    let index = Index::open(folder.path().join("out/chosen").to_str().unwrap()).unwrap();
    assert_eq!(index.rows(), 10_000);
    let certificate = index.manifest().build.certificate.as_ref().unwrap();
    assert_eq!(certificate.gate.unwrap().min_recall, 0.9, "what was asked is the gate");
    // Whichever kind won, and whether it keeps vectors or codes alone.
    let (rows, _) = rows::glove10k();
    let found = index.ask(rows.view().slice(5, 6), &Query::new(3)).unwrap();
    assert!(found.of(0).iter().any(|found| index.ids().get(found.ordinal) == RowId::Int(5)));
}

#[test]
fn what_is_preferred_decides_and_limits_bind() {
    let folder = tempfile::tempdir().unwrap();
    let job = glove(folder.path(), "where = \"rank < 4000\"\n");
    let chosen = |asked: Asked| tune(&job, &options(asked), &Progress::silent()).unwrap();
    let smallest = chosen(Asked { prefer: Prefer::Size, ..Asked::recall(0.8) });
    assert_eq!(smallest.rows, chosen(Asked::recall(0.5)).rows, "rows are counted after the filter");
    let bytes =
        |tuning: &annvil::tune::Tuning| tuning.won().unwrap().prediction.as_ref().unwrap().bytes_per_vector;
    let is_finalist = |tried: &&annvil::tune::Tried| {
        tried.misses.is_empty()
            && tried.trials.last().map(|trial| trial.rows) == smallest.samples.last().copied()
    };
    let meeting = smallest.candidates.iter().filter(is_finalist);
    let least =
        meeting.map(|tried| tried.prediction.as_ref().unwrap().bytes_per_vector).fold(f64::MAX, f64::min);
    assert_eq!(bytes(&smallest), least);
    // Less than the vectors take: a graph keeps them all.
    let tight = chosen(Asked { bytes_per_vector: Some(350.0), ..Asked::recall(0.8) });
    assert!(
        bytes(&tight) <= 350.0 && matches!(tight.won().unwrap().params, IndexParams::IvfPq(_)),
        "{tight:?}"
    );
    let graph = tight.candidates.iter().find(|tried| tried.name.starts_with("hnsw")).unwrap();
    assert!(graph.misses.iter().any(|miss| miss.what == "bytes_per_vector"), "{graph:?}");
}

#[test]
fn the_same_seed_tries_the_same_rows_and_codes() {
    let folder = tempfile::tempdir().unwrap();
    let job = glove(folder.path(), "");
    let small = TuneOptions { sample_rows: 1000, ..options(Asked::recall(0.9)) };
    // Recall and bytes do not depend on the clock, and a single sample gives nothing up.
    let told = |job: &JobSpec| {
        let mut told: Vec<(String, u64, u64)> = tune(job, &small, &Progress::silent())
            .unwrap()
            .candidates
            .iter()
            .map(|tried| (tried.name.clone(), tried.trials[0].recall.to_bits(), tried.trials[0].bytes))
            .collect();
        told.sort();
        told
    };
    let first = told(&job);
    assert_eq!(first, told(&job));
    let other = job.override_with(&Overrides { seed: Some(7), ..Overrides::default() }).unwrap();
    assert_ne!(first, told(&other), "another seed draws other rows");
}

#[test]
fn what_nothing_meets_is_named_with_the_nearest_and_builds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let job = glove(folder.path(), "");
    let asked = Asked { bytes_per_vector: Some(3.0), ..Asked::recall(0.99) };
    let tuning =
        tune(&job, &TuneOptions { sample_rows: 1000, ..options(asked) }, &Progress::silent()).unwrap();
    assert_eq!((&tuning.winner, tuning.nearest.len()), (&None, 3));
    let Err(TuneError::Unmet { nearest, .. }) = tuning.won() else { panic!("3 bytes hold no word") };
    assert!(nearest.contains("bytes_per_vector"), "{nearest}");
    assert!(job_of(&job, &tuning, "x").is_err() && build(&job, &tuning, "x", &Progress::silent()).is_err());
    assert!(!folder.path().join("out").exists());
}

#[test]
fn time_that_is_over_and_a_wish_to_stop_end_the_trials() {
    let folder = tempfile::tempdir().unwrap();
    let job = glove(folder.path(), "where = \"rank < 2000\"\n");
    let none = TuneOptions { time: Some(std::time::Duration::ZERO), ..options(Asked::recall(0.9)) };
    let error = tune(&job, &none, &Progress::silent()).unwrap_err();
    assert!(error.to_string().contains("time given was over"), "{error}");
    let cancel = CancelToken::new();
    cancel.cancel();
    let stopped = tune(&job, &options(Asked::recall(0.9)), &Progress::new(Silent { warn: false }, cancel));
    assert!(matches!(stopped, Err(annvil::Error::Cancelled)));
    let few = glove(folder.path(), "where = \"rank < 5\"\n");
    let error = tune(&few, &options(Asked::recall(0.9)), &Progress::silent()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

fn annvil(folder: &Path, arguments: &[&str]) -> (Output, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

#[test]
fn the_command_shows_the_frontier_builds_and_exits_by_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let job = glove(folder.path(), "where = \"rank < 3000\"\n");
    assert_eq!(job.backend, Backend::Cpu);
    std::fs::write(folder.path().join("words.toml"), job.to_toml()).unwrap();
    let small = ["tune", "words.toml", "--sample", "1000", "--queries", "50", "--recall"];
    let run = |more: &[&str]| annvil(folder.path(), &[&small[..], more].concat());

    let (output, out, err) = run(&["0.8", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(
        out.contains("asked: recall@10 0.8") && out.contains("chosen: ") && out.contains("\n> "),
        "{out}"
    );
    assert!(!folder.path().join("out").exists(), "nothing is built");

    let (output, out, err) = run(&["0.8", "--name", "best", "--json", "--report", "page"]);
    assert_eq!(output.status.code(), Some(0), "{err}{out}");
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let result = &last["result"];
    assert_eq!(last["event"], "finished");
    assert_eq!(result["built"]["summary"]["indexes"][0]["outcome"], "published");
    assert!(result["candidates"].as_array().unwrap().len() > 10 && result["winner"].is_string());
    let of_a_graph = |tried: &&Value| tried["name"].as_str().unwrap().starts_with("hnsw");
    let graph = result["candidates"].as_array().unwrap().iter().find(of_a_graph).unwrap();
    assert!(graph["trials"][0]["points"].as_array().unwrap().len() > 1, "{graph}");
    assert!(result["built"]["compared"].as_array().unwrap().len() >= 6, "{result}");
    assert!(folder.path().join("out/best/v").exists());
    let page = std::fs::read_to_string(folder.path().join("page/index.html")).unwrap();
    assert!(page.contains("hnsw m 10 ef_construction 200") && page.contains("<svg"), "{page}");

    let (output, out, err) = run(&["0.99", "--bytes-per-vector", "2", "--name", "none"]);
    assert_eq!(output.status.code(), Some(8), "{err}");
    assert!(
        out.contains("none meets what is asked; nearest: ") && err.contains("nothing was built"),
        "{out}{err}"
    );
    assert!(!folder.path().join("out/none").exists());

    for (wrong, told) in [("1.5", "recall: found 1.5"), ("0", "recall: found 0")] {
        let (output, _, err) = run(&[wrong]);
        assert_eq!(output.status.code(), Some(2));
        assert!(err.contains(told), "{err}");
    }
}
