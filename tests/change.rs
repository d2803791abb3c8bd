//! A changed index is the rows that a model says it is: whatever came and went, in whatever order, for every kind of index
//! and by whoever was faster. Every version that was published stays what it was.
#![cfg(feature = "build")]

mod rows;
mod workshop;

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};

use annvil::Error;
use annvil::change::{
    Append, ChangeError, ChangeOptions, ChangeSummary, Changed, Compact, Compare, Delete, Sync, append,
    compact, compare, delete, sync,
};
use annvil::job::Progress;
use annvil::loader::{Filter, Index, Shards};
use annvil::store::IndexStore;
use annvil::vectors::{Metric, Random, RowId, VectorBuf};
use proptest::prelude::*;
use rows::{clustered, normal};
use workshop::{Model, Workshop, expect_rows, model_of, options, recall_at_10};

const FLAT: &str = "kind = \"flat\"";
const HNSW: &str = "kind = \"hnsw\"\nm = 8\nef_construction = 100";
const IVF: &str = "kind = \"ivf_pq\"\nnlist = 16\nrefine = \"f32\"";
const DIM: usize = 8;

fn silent() -> Progress {
    Progress::silent()
}

/// The version that a change published.
fn version(summary: Result<ChangeSummary, Error>) -> u64 {
    match summary.unwrap().outcome {
        Changed::Published(change) => change.version,
        Changed::Unchanged { version } => panic!("nothing changed of version {version}"),
    }
}

fn append_rows(
    workshop: &Workshop,
    index: &str,
    rows: &Model,
    replace: bool,
) -> Result<ChangeSummary, Error> {
    append(&options(index), &Append { from: vec![workshop.parquet(rows)], replace }, &silent())
}

fn delete_ids(index: &str, ids: &[i64]) -> Result<ChangeSummary, Error> {
    let ids = ids.iter().copied().map(RowId::Int).collect();
    delete(&options(index), &Delete::Ids(ids), &silent())
}

fn cause(error: &Error) -> &ChangeError {
    error.cause().unwrap().downcast_ref().unwrap_or_else(|| panic!("{error:?}"))
}

/// An index of `rows` rows, its model, and queries.
fn started(workshop: &Workshop, rows: usize, metric: Metric, kind: &str) -> (String, Model, VectorBuf) {
    let model = model_of(&normal(rows, DIM, 1), 0..rows as i64);
    let queries = normal(20, DIM, 2);
    let asked = workshop.parquet(&model_of(&queries, 0..20));
    let index = workshop.build(&workshop.parquet(&model), &asked, metric, kind);
    (index, model, queries)
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    /// Of rows that are there, and some that are not.
    Replace(usize),
    Delete(usize),
    DeleteWhere(i32),
    Sync,
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1usize..40).prop_map(Step::Append),
        (1usize..40).prop_map(Step::Replace),
        (1usize..60).prop_map(Step::Delete),
        (1i32..30).prop_map(Step::DeleteWhere),
        Just(Step::Sync),
        Just(Step::Compact),
    ];
    proptest::collection::vec(step, 1..8)
}

/// Does a step to the index and to its model; whether there was anything to do.
fn take_step(workshop: &Workshop, index: &str, model: &mut Model, step: &Step, seed: u64) -> bool {
    let mut random = Random::new(seed);
    let next = model.keys().next_back().map_or(0, |last| last + 1);
    let some = |model: &Model, count: usize, random: &mut Random| -> Vec<i64> {
        let ids: Vec<i64> = model.keys().copied().collect();
        (0..count.min(ids.len() / 2)).map(|_| ids[random.below(ids.len())]).collect()
    };
    let summary = match step {
        Step::Append(count) => {
            let new = model_of(&normal(*count, DIM, seed), next..next + *count as i64);
            let summary = append_rows(workshop, index, &new, false);
            model.extend(new);
            summary
        }
        Step::Replace(count) => {
            let mut ids = some(model, *count, &mut random);
            ids.push(next + 7);
            ids.sort_unstable();
            ids.dedup();
            let new = model_of(&normal(ids.len(), DIM, seed), ids);
            let summary = append_rows(workshop, index, &new, true);
            model.extend(new);
            summary
        }
        Step::Delete(count) => {
            let mut ids = some(model, *count, &mut random);
            ids.push(next + 1000);
            ids.iter().for_each(|id| drop(model.remove(id)));
            delete_ids(index, &ids)
        }
        Step::DeleteWhere(n) => {
            model.retain(|_, (_, own)| *own != *n);
            delete(&options(index), &Delete::Where(Filter::parse(&format!("n = {n}")).unwrap()), &silent())
        }
        Step::Sync => {
            let ids = some(model, 10, &mut random);
            ids[..ids.len() / 2].iter().for_each(|id| drop(model.remove(id)));
            model.extend(model_of(
                &normal(ids.len() - ids.len() / 2, DIM, seed),
                ids[ids.len() / 2..].to_vec(),
            ));
            model.extend(model_of(&normal(5, DIM, seed + 1), next + 50..next + 55));
            sync(&options(index), &Sync { from: vec![workshop.parquet(&*model)] }, &silent())
        }
        Step::Compact => compact(&options(index), Compact::default(), &silent()),
    };
    matches!(summary.unwrap().outcome, Changed::Published(_))
}

fn follow(kind: &str, metric: Metric, rows: usize, steps: &[Step], seed: u64) {
    let workshop = Workshop::new();
    let (index, mut model, queries) = started(&workshop, rows, metric, kind);
    let mut history = BTreeMap::from([(1, model.clone())]);
    for (number, step) in steps.iter().enumerate() {
        let published = take_step(&workshop, &index, &mut model, step, seed + number as u64);
        let latest = history.len() as u64 + u64::from(published);
        history.insert(latest, model.clone());
        let open = Index::open(&index).unwrap();
        assert_eq!(open.version(), latest);
        expect_rows(&open, &model, queries.view(), &format!("{kind} after {:?}", &steps[..=number]));
    }
    for (version, model) in history {
        let open = Index::open_version(&index, Some(version)).unwrap();
        expect_rows(&open, &model, queries.view(), &format!("{kind}: version {version} of {steps:?}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_flat_index_is_what_a_model_says(steps in steps(), seed in 0u64..1 << 40, cosine: bool) {
        follow(FLAT, if cosine { Metric::Cosine } else { Metric::L2 }, 150, &steps, seed);
    }
}

#[test]
fn every_kind_goes_through_every_change() {
    let all = [
        Step::Append(30),
        Step::Delete(40),
        Step::Replace(20),
        Step::Compact,
        Step::Append(1),
        Step::DeleteWhere(3),
        Step::Sync,
        Step::Compact,
    ];
    for (kind, metric) in
        [(HNSW, Metric::Cosine), (IVF, Metric::L2), (HNSW, Metric::InnerProduct), (IVF, Metric::Cosine)]
    {
        follow(kind, metric, 1200, &all, 11);
    }
    // Eight bits a code, rotated residuals, and sixteen bits a value.
    follow(
        "kind = \"ivf_pq\"\nnlist = 9\npq_bits = 8\npq_m = 4\nrotation = \"opq\"\nrefine = \"f32\"",
        Metric::L2,
        1200,
        &all,
        12,
    );
    for code in ["code = \"rabitq\"\nrabitq_bits = 3", "code = \"sq8\"\nspill = \"soar\"", "code = \"flat\""]
    {
        let kind = format!("kind = \"ivf_pq\"\nnlist = 9\nrefine = \"f32\"\n{code}");
        follow(&kind, Metric::Cosine, 600, &all, 13);
    }
}

/// At the setting that a fresh build is certified for.
#[test]
fn ten_changes_of_ten_percent_cost_at_most_half_a_percent_of_recall() {
    let (all, asked) = rows::glove10k();
    for kind in ["kind = \"hnsw\"\nm = 12\nef_construction = 100", "kind = \"ivf_pq\""] {
        let workshop = Workshop::new();
        let whole = model_of(&all, 0..10_000);
        let part = |from: i64, to: i64| whole.range(from..to).map(|(id, row)| (*id, row.clone()));
        let mut model: Model = part(0, 5_000).collect();
        let asked_file = workshop.parquet(&model_of(&asked, 0..asked.rows() as i64));
        let index = workshop.build(&workshop.parquet(&model), &asked_file, Metric::Cosine, kind);
        let options = ChangeOptions { certify_queries: 50, ..options(&index) };
        // What goes asks for what stays: more queries than the set has.
        let mut queries = VectorBuf::new(Vec::new(), 100);
        for round in 0..10 {
            let come: Model = part(5_000 + 500 * round, 5_500 + 500 * round).collect();
            let rows = Append { from: vec![workshop.parquet(&come)], replace: false };
            version(append(&options, &rows, &silent()));
            model.extend(come);
            let ids: Vec<i64> = model.keys().copied().collect();
            let gone: Vec<i64> = ids.into_iter().skip(round as usize).step_by(11).take(500).collect();
            let rows = Delete::Ids(gone.iter().copied().map(RowId::Int).collect());
            version(delete(&options, &rows, &silent()));
            gone.iter().for_each(|id| queries.push(&model.remove(id).unwrap().0));
        }
        let fresh = workshop.build(&workshop.parquet(&model), &asked_file, Metric::Cosine, kind);
        let [changed, fresh] = [&index, &fresh].map(|uri| Index::open(uri).unwrap());
        assert_eq!((changed.version(), changed.live_rows()), (21, fresh.rows()));
        let effort = fresh.manifest().build.search_defaults.expect("it is certified").effort as usize;
        let of = |index: &Index| recall_at_10(index, queries.view(), effort);
        let (changed, fresh) = (of(&changed), of(&fresh));
        version(compact(&options, Compact::default(), &silent()));
        let folded = Index::open(&index).unwrap();
        assert_eq!((folded.rows(), folded.manifest().segments.len()), (model.len(), 1));
        let folded = of(&folded);
        println!(
            "{kind} at {effort}: {changed:.4} after twenty changes, {folded:.4} compacted, {fresh:.4} of a fresh build"
        );
        let least = fresh - 0.005;
        assert!(
            changed >= least && folded >= least,
            "{kind}: {changed}, {folded} compacted; {fresh} of a fresh build"
        );
    }
}

#[test]
fn of_publishers_at_once_none_loses_what_it_brought() {
    const PUBLISHERS: i64 = 4;
    let workshop = Workshop::new();
    let (index, mut model, queries) = started(&workshop, 200, Metric::L2, IVF);
    let files: Vec<String> = (0..PUBLISHERS)
        .map(|own| {
            let rows = model_of(&normal(10, DIM, 100 + own as u64), 1000 * (own + 1)..1000 * (own + 1) + 10);
            model.extend(rows.clone());
            workshop.parquet(&rows)
        })
        .collect();
    (0..10).for_each(|id| drop(model.remove(&id)));
    let together = Barrier::new(PUBLISHERS as usize + 1);
    let mut versions: Vec<u64> = std::thread::scope(|scope| {
        let appended = files.iter().map(|file| {
            let (index, together) = (&index, &together);
            scope.spawn(move || {
                together.wait();
                version(append(
                    &options(index),
                    &Append { from: vec![file.clone()], replace: false },
                    &silent(),
                ))
            })
        });
        let appended: Vec<_> = appended.collect();
        together.wait();
        let deleted = version(delete_ids(&index, &(0..10).collect::<Vec<i64>>()));
        appended.into_iter().map(|thread| thread.join().unwrap()).chain([deleted]).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5, 6]);
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "all of them");
}

#[test]
fn segments_that_versions_share_stay_until_no_version_names_them() {
    let workshop = Workshop::new();
    let (index, first, queries) = started(&workshop, 150, Metric::L2, FLAT);
    let mut model = first.clone();
    let new = model_of(&normal(20, DIM, 5), 500..520);
    version(append_rows(&workshop, &index, &new, false));
    model.extend(new);
    version(delete_ids(&index, &[0, 1, 510]));
    [0, 1, 510].iter().for_each(|id| drop(model.remove(id)));
    let store = IndexStore::open(&index).unwrap();
    let everything =
        annvil::store::GcPolicy { keep: 1, older_than: std::time::Duration::ZERO, dry_run: false };
    let report = store.collect_garbage(&everything).unwrap();
    assert_eq!((report.removed_versions, report.removed_segments.len()), (vec![1, 2], 0));
    let open = Arc::new(Index::open(&index).unwrap());
    expect_rows(&open, &model, queries.view(), "collected");
    let shards = Shards::new(vec![open.clone(), open]).unwrap();
    assert_eq!(
        (shards.live_rows(), shards.rows()),
        (2 * 167, 2 * 170),
        "the three deleted have their places"
    );

    let copy = workshop.uri("copy/words");
    store.copy_to(&IndexStore::open(&copy).unwrap(), None, &mut |_| ()).unwrap();
    version(compact(&options(&index), Compact::default(), &silent()));
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "compacted");
    assert_eq!(store.rollback(3).unwrap(), 5);
    let restored = store.read_manifest(5).unwrap();
    assert_eq!(
        (restored.format_version.as_str(), restored.segments.len(), restored.live_rows()),
        ("2.0", 2, 167)
    );
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "rolled back");

    // Two segments and the tombstones of version 3, named by 5 as well; one of version 4.
    let report = store.collect_garbage(&everything).unwrap();
    assert_eq!((report.removed_versions, report.removed_segments.len()), (vec![3, 4], 1));
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "collected again");
    expect_rows(&Index::open(&copy).unwrap(), &model, queries.view(), "the copy");

    // The tombstones are as much a part of a version as its segments are.
    let tombstones = store.read_manifest(5).unwrap().tombstones.unwrap();
    let file = workshop.path("copy/words/seg").join(tombstones.id.to_string()).join("tombstones.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let copied = IndexStore::open(&copy).unwrap();
    assert!(Index::open(&copy).is_err(), "tombstones that are damaged");
    assert_eq!(copied.artifact(None).unwrap().verify(&mut |_| ()).damage.len(), 1);
    // The other has them still, by way of version 5.
    assert_eq!(copied.repair_from(&store, None).unwrap().len(), 1);
    expect_rows(&Index::open(&copy).unwrap(), &model, queries.view(), "the copy, repaired");
}

#[test]
fn what_the_index_cannot_tell_apart_is_refused_by_its_gate() {
    let workshop = Workshop::new();
    let (rows, queries) = (clustered(2000, 32, Metric::L2, 1), clustered(30, 32, Metric::L2, 9));
    let asked = workshop.parquet(&model_of(&queries, 0..30));
    let index = workshop.build(
        &workshop.parquet(&model_of(&rows, 0..2000)),
        &asked,
        Metric::L2,
        "kind = \"ivf_pq\"\nnlist = 8\npq_m = 8\ngate = { k = 10, min_recall = 0.98 }",
    );
    // Around each query four hundred rows that are a thousandth apart: their codes are one, and a hundred of them are ranked again.
    let mut random = Random::new(3);
    let mut near = VectorBuf::new(Vec::new(), 32);
    for query in queries.view().iter() {
        for _ in 0..400 {
            near.push(&query.iter().map(|x| x + 1e-3 * random.normal() as f32).collect::<Vec<f32>>());
        }
    }
    let error =
        append_rows(&workshop, &index, &model_of(&near, 5000..5000 + near.rows() as i64), false).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(matches!(cause(&error), ChangeError::BelowGate { k: 10, .. }), "{error}");
    assert_eq!(IndexStore::open(&index).unwrap().versions().unwrap(), [1]);
}

#[test]
fn what_cannot_be_changed_is_refused_by_name() {
    let workshop = Workshop::new();
    let (index, model, _) = started(&workshop, 150, Metric::L2, FLAT);
    let error =
        append_rows(&workshop, &index, &model_of(&normal(3, DIM, 4), [5, 900, 7]), false).unwrap_err();
    assert!(matches!(cause(&error), ChangeError::Present { count: 2, .. }), "{error}");
    let error =
        append_rows(&workshop, &index, &model_of(&normal(3, DIM + 1, 4), 900..903), false).unwrap_err();
    assert_eq!(error.exit_code(), 2, "another dimension: {error}");
    let all: Vec<i64> = model.keys().copied().collect();
    let error = delete_ids(&index, &all).unwrap_err();
    assert!(matches!(cause(&error), ChangeError::NothingLeft { .. }), "{error}");
    let unknown = delete_ids(&index, &[7_000, 8_000]).unwrap();
    assert_eq!((unknown.unknown, unknown.outcome), (2, Changed::Unchanged { version: 1 }));
    let error =
        delete(&options(&index), &Delete::Where(Filter::parse("m = 3").unwrap()), &silent()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    let folded = compact(&options(&index), Compact::default(), &silent()).unwrap();
    assert_eq!(folded.outcome, Changed::Unchanged { version: 1 });

    let (bare, ..) = started(&workshop, 1200, Metric::L2, "kind = \"ivf_pq\"\nrefine = \"none\"");
    let error = delete_ids(&bare, &[1]).unwrap_err();
    assert!(matches!(cause(&error), ChangeError::NoVectors { .. }), "{error}");
    assert_eq!(IndexStore::open(&bare).unwrap().versions().unwrap(), [1]);

    // All rows may go where others come in the same version.
    let others = model_of(&normal(150, DIM, 8), 0..150);
    version(append_rows(&workshop, &index, &others, true));
    let queries = normal(5, DIM, 9);
    expect_rows(&Index::open(&index).unwrap(), &others, queries.view(), "all replaced");
}

#[test]
fn rows_without_ids_are_numbered_behind_the_highest() {
    let workshop = Workshop::new();
    let queries = workshop.parquet(&model_of(&normal(20, DIM, 2), 0..20));
    let rows =
        |count: usize, seed: u64| workshop.parquet(&model_of(&normal(count, DIM, seed), 0..count as i64));
    let mut job = workshop.job(&rows(100, 1), &format!("uri = {queries:?}"), Metric::L2, FLAT);
    job.source.id = None;
    annvil::job::run(&job, &silent()).unwrap();
    let index = format!("{}/words", job.output.uri.resolved());
    for round in 1..=2u32 {
        let come = Append { from: vec![rows(10, 3)], replace: false };
        version(append(&options(&index), &come, &silent()));
        let open = Index::open(&index).unwrap();
        assert_eq!(open.live_rows() as u32, 100 + 10 * round);
        assert_eq!(open.ids().find(&RowId::Int(i64::from(99 + 10 * round))), Some(99 + 10 * round));
    }
    let replace = Append { from: vec![rows(10, 3)], replace: true };
    let error = append(&options(&index), &replace, &silent()).unwrap_err();
    assert!(matches!(cause(&error), ChangeError::NoIds), "{error}");
}

#[test]
fn rows_that_have_moved_away_are_noticed_and_lists_are_learned_again() {
    let workshop = Workshop::new();
    let (index, mut model, queries) = started(&workshop, 1200, Metric::L2, IVF);
    let trained = |index: &str| {
        IndexStore::open(index).unwrap().artifact(None).unwrap().manifest().build.training.clone()
    };
    let before = trained(&index);
    let near = model_of(&normal(100, DIM, 21), 2000..2100);
    let drift = |summary: ChangeSummary| match summary.outcome {
        Changed::Published(change) => change.drift,
        Changed::Unchanged { .. } => None,
    };
    let same = drift(append_rows(&workshop, &index, &near, false).unwrap()).unwrap();
    assert!((0.8..1.25).contains(&same), "rows like those of the training have drifted by {same}");
    model.extend(near);
    drift(compact(&options(&index), Compact::default(), &silent()).unwrap());
    assert_eq!(trained(&index), before, "nothing was to be learned");

    let mut far = normal(600, DIM, 22);
    far.as_mut_slice().iter_mut().for_each(|value| *value += 4.0);
    let far = model_of(&far, 3000..3600);
    let away = drift(append_rows(&workshop, &index, &far, false).unwrap()).unwrap();
    assert!(away > 2.0, "{away}");
    model.extend(far);
    let later = drift(delete_ids(&index, &[2000]).unwrap());
    model.remove(&2000);
    assert_eq!(later, Some(away), "what is not put right stays");
    let folded = compact(&options(&index), Compact::default(), &silent()).unwrap();
    assert_eq!(drift(folded), None);
    assert_ne!(trained(&index), before);
    expect_rows(&Index::open(&index).unwrap(), &model, queries.view(), "trained again");
}

#[test]
fn a_source_and_its_index_are_compared_row_by_row_and_put_in_line() {
    let workshop = Workshop::new();
    for (kind, precision) in [(HNSW, "f32"), ("kind = \"ivf_pq\"\nnlist = 12", "f16")] {
        let mut model = model_of(&normal(1200, DIM, 1), 0..1200);
        let file = workshop.parquet(&model);
        // Fifty rows are held out as queries: the source has them, the index has not.
        let job = workshop.job(&file, "sample = 50", Metric::Cosine, kind);
        annvil::job::run(&job, &silent()).unwrap();
        let index = format!("{}/words", job.output.uri.resolved());
        let asked = |against: &str, sample| Compare {
            index: index.clone(),
            version: None,
            job: None,
            against: vec![against.into()],
            sample,
            seed: 1,
        };
        let found = compare(&asked(&file, None), &silent()).unwrap();
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((found.held_out, found.compared, found.precision), (50, 1150, Some(precision)));
        let unchanged = sync(&options(&index), &Sync { from: vec![file] }, &silent()).unwrap();
        assert_eq!(unchanged.outcome, Changed::Unchanged { version: 1 });

        let there = Index::open(&index).unwrap();
        let known: Vec<i64> = (0..1200).filter(|&id| there.ids().find(&RowId::Int(id)).is_some()).collect();
        model.remove(&known[0]);
        model.get_mut(&known[1]).unwrap().0[3] += 0.1;
        model.get_mut(&known[2]).unwrap().1 += 1;
        model.extend(model_of(&normal(2, DIM, 77), [5000, 5001]));
        let file = workshop.parquet(&model);
        let found = compare(&asked(&file, None), &silent()).unwrap();
        assert!(!found.is_clean());
        let ids = |ids: &[i64]| ids.iter().copied().map(RowId::Int).collect::<Vec<_>>();
        assert_eq!((found.missing.count, found.missing.some), (2, ids(&[5000, 5001])));
        assert_eq!((found.orphaned.count, found.orphaned.some), (1, ids(&known[..1])));
        assert_eq!((found.vectors.count, found.vectors.some), (1, ids(&known[1..2])));
        assert_eq!((found.attributes.count, found.attributes.some), (1, ids(&known[2..3])));
        let sampled = compare(&asked(&file, Some(100)), &silent()).unwrap();
        assert_eq!((sampled.compared, sampled.missing.count), (100, 2), "ids are always all compared");

        let synced = sync(&options(&index), &Sync { from: vec![file.clone()] }, &silent()).unwrap();
        let Changed::Published(change) = synced.outcome else { panic!("nothing changed") };
        assert_eq!((change.version, change.added, change.removed), (2, 4, 3));
        let found = compare(&asked(&file, None), &silent()).unwrap();
        assert!(found.is_clean(), "{found:?}");
        assert_eq!(found.held_out, 50);
    }
}

#[test]
fn rows_that_no_index_could_hold_are_told_by_reason() {
    let workshop = Workshop::new();
    let (index, model, _) = started(&workshop, 150, Metric::Cosine, FLAT);
    let mut rows: Vec<(i64, (Vec<f32>, i32))> = model.into_iter().collect();
    rows[3].1.0[2] = f32::NAN;
    rows[4].1.0 = vec![0.0; DIM];
    rows.push(rows[9].clone());
    let file = workshop.parquet(rows.iter().map(|(id, row)| (id, row)));
    let asked = Compare {
        index: index.clone(),
        version: None,
        job: None,
        against: vec![file.clone()],
        sample: None,
        seed: 1,
    };
    let found = compare(&asked, &silent()).unwrap();
    let reasons = BTreeMap::from([("duplicate_id".into(), 1), ("nan".into(), 1), ("zero_vector".into(), 1)]);
    assert_eq!((found.refused, found.orphaned.count), (reasons, 2));
    let error = sync(&options(&index), &Sync { from: vec![file] }, &silent()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "the job says that a bad row fails: {error}");
}
