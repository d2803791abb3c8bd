//! The pipeline of `pipelines/memory-nexus` on small data: a month of daily changes by the real commands, some of them killed,
//! and every evening the index is what the records are.
#![cfg(feature = "cli")]

#[path = "../pipelines/memory-nexus/records.rs"]
mod records;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use annvil::loader::{Index, Query, Way};
use annvil::vectors::{Random, RowId, VectorView};
use records::{COLLECTIONS, Records};

const USERS: u64 = 12;
const RECORDS: u64 = 450;
const DAYS: u64 = 30;

fn annvil(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annvil"));
    command.args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn succeeds(folder: &Path, arguments: &[&str]) {
    let output = annvil(folder, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
}

/// The command, killed after a while that differs from day to day and then asked again.
fn succeeds_though_killed(folder: &Path, arguments: &[&str], day: u64) -> bool {
    let start = Instant::now();
    let mut child = annvil(folder, arguments).spawn().unwrap();
    let patience = 20 + 17 * (day * 7 % 13);
    let killed = loop {
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        if start.elapsed().as_millis() as u64 >= patience {
            child.kill().unwrap();
            child.wait().unwrap();
            break true;
        }
        std::thread::yield_now();
    };
    succeeds(folder, arguments);
    killed
}

fn set_up() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/memory-nexus");
    let first: Records = (0..RECORDS).map(|record| (record, 0)).collect();
    for (name, dim) in COLLECTIONS {
        records::write(&folder.path().join(format!("data/{name}.parquet")), dim, USERS, &first);
        std::fs::copy(pipeline.join(format!("{name}.toml")), folder.path().join(format!("{name}.toml")))
            .unwrap();
    }
    folder
}

#[test]
fn a_month_of_daily_changes_with_kills_in_between_ends_each_day_as_the_records_are() {
    let folder = set_up();
    let at = folder.path();
    for (name, _) in COLLECTIONS {
        succeeds(at, &["build", &format!("{name}.toml"), "--backend", "cpu", "--no-resume"]);
        let against = format!("data/{name}.parquet");
        succeeds(at, &["verify", &format!("out/{name}"), "--against", &against]);
    }
    let (name, dim) = COLLECTIONS[0];
    let index = format!("out/{name}");
    let mut all: Records = (0..RECORDS).map(|record| (record, 0)).collect();
    let mut random = Random::new(3);
    let mut killed = 0;
    for day in 1..=DAYS {
        // Twenty new ones, ten written again, eight forgotten.
        let mut come: Records =
            (RECORDS + day * 20..RECORDS + day * 20 + 20).map(|record| (record, 0)).collect();
        let known: Vec<u64> = all.keys().copied().collect();
        come.extend((0..10).map(|_| (known[random.below(known.len())], day)));
        let gone: Vec<u64> =
            known.into_iter().filter(|id| !come.contains_key(id)).step_by(83).take(8).collect();
        records::write(&at.join("come.parquet"), dim, USERS, &come);
        std::fs::write(at.join("gone"), gone.iter().map(|id| format!("{id}\n")).collect::<String>()).unwrap();
        all.extend(come);
        all.retain(|record, _| !gone.contains(record));

        let append = ["append", &index, "--from", "come.parquet", "--replace", "--backend", "cpu"];
        let delete = ["delete", &index, "--ids", "gone"];
        if day % 3 == 0 {
            killed += usize::from(succeeds_though_killed(at, &append, day));
            killed += usize::from(succeeds_though_killed(at, &delete, day + 1));
        } else {
            succeeds(at, &append);
            succeeds(at, &delete);
        }
        if day % 10 == 0 {
            succeeds_though_killed(at, &["compact", &index, "--backend", "cpu"], day + 5);
        }
        records::write(&at.join("today.parquet"), dim, USERS, &all);
        succeeds(at, &["verify", &index, "--against", "today.parquet"]);
    }
    assert!(killed >= 10, "{killed} commands were killed");
    let index_there = Index::open(at.join(&index).to_str().unwrap()).unwrap();
    every_user_finds_his_own(&index_there, &all);

    let like = index_there.ids().get(index_there.live_ordinals()[0]).to_string();
    let search = [
        "search",
        &index,
        "--like",
        &like,
        "--column",
        "row_id",
        "--partition",
        "user-3",
        "-k",
        "9",
        "--json",
    ];
    let output = annvil(at, &search).stdout(Stdio::piped()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let users: Vec<&str> =
        told.split("\"user-").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(users.len() >= 9 && users.iter().all(|user| *user == "3"), "{told}");
}

fn every_user_finds_his_own(index: &Index, all: &Records) {
    assert_eq!(index.partition_by(), Some("user_id"));
    for &record in all.keys().step_by(40) {
        let user = format!("user-{}", records::user(record, USERS));
        // Records that are asked with are not in the index.
        let Some(ordinal) = index.ids().find(&RowId::Int(record as i64)) else { continue };
        let vector = index.vector(ordinal).unwrap();
        let query = Query::new(5).partition(user.as_str()).attributes(["user_id"]);
        let prepared = index.prepare(&query).unwrap();
        assert!(matches!(prepared.way(), Way::Exact { .. }));
        let answers = index.ask(VectorView::new(&vector, index.dim()), &query).unwrap();
        assert_eq!(index.hit(answers.of(0)[0]).id, RowId::Int(record as i64));
        for &found in answers.of(0) {
            let RowId::Int(id) = index.hit(found).id else { unreachable!() };
            assert_eq!(format!("user-{}", records::user(id as u64, USERS)), user);
        }
    }
}
