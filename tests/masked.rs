//! The contract of searching under a mask, for every family: see `index::Searcher::search_masked`.

mod fixture;
mod published;
mod rows;

use std::sync::Arc;

use annvil::index::{Allowed, RowMask, SearchIndex, SearchParams};
use annvil::ivf::Refine;
use annvil::loader::assemble;
use annvil::vectors::{Metric, Neighbor, Random, VectorBuf};
use published::{CODED, KINDS, family, forge};
use rows::clustered;

const ROWS: usize = 1500;
const DIM: usize = 10;
const K: usize = 10;

fn index(kind: &str, metric: Metric, refine: Refine) -> Arc<dyn SearchIndex> {
    assemble(family(kind), &forge(kind, &clustered(ROWS, DIM, metric, 1), metric, refine).0).unwrap()
}

fn queries(metric: Metric) -> VectorBuf {
    clustered(12, DIM, metric, 2)
}

/// Looks as hard as the family can.
fn hardest(k: usize) -> SearchParams {
    SearchParams { k, effort: usize::MAX, refine: ROWS }
}

/// Masks of every density, not spread evenly: `one in` rows of the first half, and ten times fewer of the second.
fn masks() -> Vec<RowMask> {
    let mut random = Random::new(7);
    let mut mask = |one_in: usize| {
        let chosen =
            (0..ROWS).filter(|row| random.below(if *row < ROWS / 2 { one_in } else { 10 * one_in }) == 0);
        RowMask::from_ordinals(ROWS, chosen.map(|row| row as u32).collect::<Vec<_>>())
    };
    [1, 2, 10, 40, 200].map(&mut mask).into()
}

/// By the definition: every allowed row, sorted.
fn nearest(index: &Arc<dyn SearchIndex>, query: &[f32], mask: &RowMask, k: usize) -> Vec<Neighbor> {
    let kept = index.kept().unwrap();
    let ordinals: Vec<u32> = (0..index.rows() as u32).filter(|&row| mask.contains(row)).collect();
    let mut distances = vec![0.0; ordinals.len()];
    kept.distances(index.metric(), query, &ordinals, &mut distances);
    let mut all: Vec<Neighbor> =
        ordinals.iter().zip(distances).map(|(&row, distance)| Neighbor::new(row, distance)).collect();
    all.sort();
    all.truncate(k);
    all
}

#[test]
fn at_the_highest_effort_the_nearest_allowed_rows_are_found() {
    for metric in Metric::ALL {
        for kind in KINDS.into_iter().chain(CODED) {
            let index = index(kind, metric, Refine::F32);
            let mut searcher = index.clone().searcher();
            let mut found = Vec::new();
            for mask in masks() {
                for query in queries(metric).view().iter() {
                    let allowed = Allowed::patiently(&mask);
                    assert!(searcher.search_masked(query, &hardest(K), &allowed, &mut found));
                    let expected = nearest(&index, query, &mask, K);
                    assert_eq!(found, expected, "{kind} {metric}, {} rows allowed", mask.count());
                }
            }
        }
    }
}

#[test]
fn at_any_effort_as_many_allowed_rows_as_asked_are_found_and_no_others() {
    for (kind, refine) in [
        ("flat", Refine::F32),
        ("ivf_pq", Refine::F16),
        ("ivf_pq", Refine::None),
        ("ivf_pq signs", Refine::None),
        ("ivf_pq rabitq", Refine::None),
        ("ivf_pq sq8", Refine::None),
        ("ivf_pq flat", Refine::F16),
        ("ivf_pq soar", Refine::None),
        ("ivf_pq rabitq soar", Refine::F16),
        ("hnsw", Refine::F32),
    ] {
        let index = index(kind, Metric::L2, refine);
        let mut searcher = index.clone().searcher();
        let mut found = vec![Neighbor::NONE];
        for mask in masks() {
            for effort in [1, 20] {
                let params = SearchParams { k: K, effort, refine: 0 };
                for query in queries(Metric::L2).view().iter() {
                    let allowed = Allowed::patiently(&mask);
                    assert!(searcher.search_masked(query, &params, &allowed, &mut found));
                    let context = format!("{kind}, effort {effort}, {} rows allowed", mask.count());
                    assert_eq!(found.len(), K.min(mask.count()), "{context}");
                    assert!(found.iter().all(|neighbor| mask.contains(neighbor.ordinal)), "{context}");
                    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{context}: in order, each once");
                }
            }
        }
    }
}

#[test]
fn recall_under_a_mask_is_that_without_one() {
    let metric = Metric::L2;
    for kind in KINDS.into_iter().chain(CODED) {
        let index = index(kind, metric, Refine::F32);
        let mut searcher = index.clone().searcher();
        let params = SearchParams { k: K, effort: if family(kind) == "ivf_pq" { 8 } else { 40 }, refine: 0 };
        let mut found = Vec::new();
        let hits = |mask: &RowMask, found: &mut dyn FnMut(&[f32], &RowMask) -> Vec<Neighbor>| -> usize {
            let of_query = |query: &[f32]| {
                let expected = nearest(&index, query, mask, K);
                found(query, mask).iter().filter(|neighbor| expected.contains(neighbor)).count()
            };
            queries(metric).view().iter().map(of_query).sum()
        };
        let all = RowMask::all(ROWS);
        let plain = hits(&all, &mut |query, _| {
            searcher.search(query, &params, &mut found);
            found.clone()
        });
        for mask in masks().iter().filter(|mask| mask.count() >= 100) {
            let masked = hits(mask, &mut |query, mask| {
                searcher.search_masked(query, &params, &Allowed::patiently(mask), &mut found);
                found.clone()
            });
            // 120 rows are looked for.
            assert!(
                masked + 3 >= plain,
                "{kind}: {masked} under a mask of {}, {plain} without",
                mask.count()
            );
        }
    }
}

#[test]
fn a_mask_of_all_rows_changes_nothing() {
    for kind in KINDS {
        let index = index(kind, Metric::Cosine, Refine::F32);
        let mut searcher = index.clone().searcher();
        let (mut plain, mut masked) = (Vec::new(), Vec::new());
        for (k, effort) in [(1, 1), (10, 5), (10, 50), (ROWS, 10)] {
            let params = SearchParams { k, effort, refine: 0 };
            for query in queries(Metric::Cosine).view().iter() {
                searcher.search(query, &params, &mut plain);
                let all = RowMask::all(ROWS);
                assert!(searcher.search_masked(query, &params, &Allowed::patiently(&all), &mut masked));
                assert_eq!(plain, masked, "{kind}, k = {k}, effort {effort}");
            }
        }
    }
}

#[test]
fn a_mask_of_no_rows_finds_none_and_more_than_all_allowed_rows_are_all_of_them() {
    for kind in KINDS {
        let index = index(kind, Metric::L2, Refine::F32);
        let mut searcher = index.clone().searcher();
        let query = queries(Metric::L2);
        let few = RowMask::from_ordinals(ROWS, [0, 700, 1499]);
        for (mask, k, count) in
            [(&RowMask::from_ordinals(ROWS, []), 10, 0), (&few, 10, 3), (&few, usize::MAX, 3), (&few, 0, 0)]
        {
            let mut found = vec![Neighbor::NONE];
            let params = SearchParams { k, effort: 4, refine: 0 };
            assert!(searcher.search_masked(query.row(0), &params, &Allowed::patiently(mask), &mut found));
            assert_eq!(found, nearest(&index, query.row(0), mask, k), "{kind}");
            assert_eq!(found.len(), count);
        }
    }
}

#[test]
fn whoever_gives_up_has_found_nothing_and_the_next_search_is_none_the_worse() {
    for kind in KINDS {
        let index = index(kind, Metric::L2, Refine::F32);
        let mut searcher = index.clone().searcher();
        let query = queries(Metric::L2);
        let params = SearchParams { k: K, effort: 20, refine: 0 };
        let mask = RowMask::from_ordinals(ROWS, (0..ROWS as u32).step_by(5));
        let search = |searcher: &mut dyn annvil::index::Searcher, patience| {
            let mut found = vec![Neighbor::NONE];
            let done =
                searcher.search_masked(query.row(0), &params, &Allowed { mask: &mask, patience }, &mut found);
            (done, found)
        };
        let patient = search(&mut *searcher, usize::MAX);
        for patience in [0, 1, 100, 1000, 10_000] {
            let (done, found) = search(&mut *searcher, patience);
            match done {
                true => assert_eq!(found, patient.1, "{kind}"),
                false => assert!(found.is_empty(), "{kind}"),
            }
        }
        assert_eq!(search(&mut *searcher, usize::MAX), patient, "{kind}");
    }
}
