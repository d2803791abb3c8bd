//! The commands that change an index, by way of the binary: what they print, how they exit, and that one killed at any
//! moment leaves the version before it or the one after.
#![cfg(feature = "cli")]

mod rows;
mod workshop;

use std::process::{Child, Command, Output, Stdio};

use annvil::loader::Index;
use annvil::store::{GcPolicy, IndexStore};
use annvil::vectors::{Metric, RowId};
use rows::normal;
use serde_json::Value;
use workshop::{Workshop, expect_rows, model_of, objects};

const DIM: usize = 8;
const IVF: &str = "kind = \"ivf_pq\"\nnlist = 16\nrefine = \"f32\"\ngate = { min_recall = 0.5 }";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    command.args(arguments);
    command
}

fn annvil(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn exits(code: i32, arguments: &[&str]) -> String {
    let output = annvil(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).into()
}

#[test]
fn rows_come_and_go_by_command_and_the_source_is_the_judge() {
    let workshop = Workshop::new();
    let mut model = model_of(&normal(1200, DIM, 1), 0..1200);
    let queries = normal(30, DIM, 2);
    let asked = workshop.parquet(&model_of(&queries, 0..30));
    let first = workshop.parquet(&model);
    let index = workshop.build(&first, &asked, Metric::Cosine, IVF);
    assert!(exits(0, &["verify", &index, "--against", &first]).contains("\nconsistent: "));

    let new = model_of(&normal(20, DIM, 3), 1190..1210);
    let come = workshop.parquet(&new);
    let refused = annvil(&["append", &index, "--from", &come, "--backend", "cpu"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("10 of the rows are in index `words` already"),
        "{}",
        text(&refused.stderr)
    );
    let told = exits(0, &["append", &index, "--from", &come, "--replace", "--backend", "cpu"]);
    assert!(
        told.contains("replace of version 1 published as version 2: 20 rows added, 10 removed\n"),
        "{told}"
    );
    assert!(told.contains("1,210 rows in 2 segments beside 10 tombstones"), "{told}");
    model.extend(new);

    let list = workshop.path("gone.txt");
    std::fs::write(&list, "3\n4\n\n9999\n").unwrap();
    let told = exits(0, &["delete", &index, "--ids", list.to_str().unwrap(), "--json"]);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "finished");
    let result = &last["result"];
    assert_eq!(
        (&result["outcome"], &result["removed"], &result["unknown"]),
        (&"published".into(), &2.into(), &1.into())
    );
    exits(0, &["delete", &index, "--where", "n = 50", "--quiet"]);
    model.retain(|id, (_, n)| ![3, 4].contains(id) && *n != 50);
    let like = annvil(&["search", &index, "--like", "50", "--column", "n"]);
    assert!(text(&like.stderr).contains("no row has `50` in column `n`"), "{}", text(&like.stderr));
    assert_eq!(like.status.code(), Some(2));
    std::fs::write(&list, "3\nthree\n").unwrap();
    let wrong = annvil(&["delete", &index, "--ids", list.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("line 2: `three` is no"), "{}", text(&wrong.stderr));
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "version 4");

    let told = exits(7, &["verify", &index, "--against", &first]);
    assert!(told.contains("NOT consistent: "), "{told}");
    let told: Value =
        serde_json::from_str(&exits(7, &["verify", &index, "--against", &first, "--json"])).unwrap();
    assert_eq!((&told["missing"]["count"], &told["orphaned"]["count"]), (&14.into(), &10.into()));
    exits(0, &["sync", &index, "--from", &first, "--backend", "cpu"]);
    exits(0, &["verify", &index, "--against", &first]);
    let told = exits(0, &["sync", &index, "--from", &first]);
    assert!(told.contains("nothing to change, version 5 stays the latest"), "{told}");
    let told = exits(0, &["compact", &index]);
    assert!(told.contains("1,200 rows in 1 segment beside 0 tombstones"), "{told}");
    exits(0, &["verify", &index, "--against", &first]);
    exits(0, &["verify", &index]);

    let versions = exits(0, &["versions", &index]);
    assert!(versions.contains("latest, compact\n") && versions.contains("sync\n"), "{versions}");
    let inspected = exits(0, &["inspect", &index, "--version", "4"]);
    assert!(inspected.contains("2, with 24 tombstones"), "{inspected}");
    let diff = exits(0, &["diff", &index, "--from", "1", "--to", "6"]);
    assert!(diff.contains("1,200"), "{diff}");
}

/// Kills the child once the index has more than `count` objects, or lets it end.
fn kill_beyond(mut child: Child, index: &str, count: usize) -> bool {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return false;
        }
        if objects(index).len() > count {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        std::thread::yield_now();
    }
}

#[test]
fn an_append_that_is_killed_has_happened_or_has_not() {
    let workshop = Workshop::new();
    let mut model = model_of(&normal(1200, DIM, 1), 0..1200);
    let queries = normal(30, DIM, 2);
    let asked = workshop.parquet(&model_of(&queries, 0..30));
    let index = workshop.build(&workshop.parquet(&model), &asked, Metric::L2, IVF);
    let store = IndexStore::open(&index).unwrap();
    let mut killed = 0;
    for round in 0..8i64 {
        let new = model_of(&normal(10, DIM, 30 + round as u64), 2000 + 10 * round..2010 + 10 * round);
        let come = workshop.parquet(&new);
        let before = objects(&index).len();
        let arguments = ["append", &index, "--from", &come, "--backend", "cpu", "--quiet"];
        let child = command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        killed += usize::from(kill_beyond(child, &index, before + round as usize));
        let there = Index::open(&index).unwrap();
        let has_happened = there.ids().find(&RowId::Int(2000 + 10 * round)).is_some();
        if has_happened {
            model.extend(new.clone());
        }
        expect_rows(&there, &model, queries.view(), &format!("round {round}"));
        assert!(store.artifact(None).unwrap().verify(&mut |_| ()).is_sound());
        if !has_happened {
            exits(0, &arguments);
            model.extend(new);
        }
        expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), &format!("round {round}, again"));
    }
    assert!(killed > 0, "no append was killed");
    let everything = GcPolicy { keep: 1, older_than: std::time::Duration::ZERO, dry_run: false };
    store.collect_garbage(&everything).unwrap();
    let named = store
        .artifact(None)
        .unwrap()
        .manifest()
        .segments
        .iter()
        .map(|segment| segment.files.len())
        .sum::<usize>();
    assert_eq!(objects(&index).len(), named + 1, "garbage is left");
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "collected");
}
