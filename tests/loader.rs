//! What a service sees: published versions of every family, opened and searched.

mod fixture;
mod published;
mod rows;

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::artifact::safetensors;
use annvil::compute::cpu::Cpu;
use annvil::flat::ground_truth;
use annvil::ivf::Refine;
use annvil::loader::{EXACT_ROWS, Effort, Hit, LoadError, QueryError, SearchOptions, assemble};
use annvil::vectors::{Metric, VectorView};
use published::{KINDS, Published, forge, open, text_ids};
use rows::{clustered, for_metric, normal};

fn options(k: usize, effort: Effort) -> SearchOptions {
    SearchOptions { k, effort, refine: None }
}

fn ids(hits: &[Hit]) -> Vec<String> {
    hits.iter().map(|hit| hit.id.to_string()).collect()
}

#[test]
fn every_family_answers_with_the_users_ids_and_distances() {
    for metric in Metric::ALL {
        let rows = clustered(1500, 10, metric, 1);
        let queries = clustered(40, 10, metric, 2);
        let truth = ground_truth(&Cpu::new(), queries.view(), rows.view(), metric, 10).unwrap();
        for kind in KINDS {
            let index = open(kind, &rows, metric);
            assert_eq!((index.rows(), index.dim(), index.metric()), (1500, 10, metric));
            assert_eq!((index.manifest().build.kind.as_str(), index.version()), (kind, 1));
            let exact = index.search(queries.view(), &options(10, Effort::Exact)).unwrap();
            let found = index.search(queries.view(), &options(10, Effort::Given(1500))).unwrap();
            for (query, (exact, found)) in exact.iter().zip(&found).enumerate() {
                let expected: Vec<String> =
                    truth.found(query).iter().map(|n| format!("row {}", n.ordinal)).collect();
                assert_eq!(ids(exact), expected, "{kind} {metric}");
                for hit in exact.iter().chain(found) {
                    let row = index.vector(hit.ordinal).unwrap();
                    let distance = metric.distance(queries.row(query), &row);
                    let error = (f64::from(hit.distance) - distance).abs();
                    assert!(error < 1e-3, "{kind} {metric}: {error}");
                    assert_eq!(hit.similarity, metric.similarity(hit.distance));
                    assert_eq!(hit.id, index.ids().get(hit.ordinal));
                }
                assert!(found.windows(2).all(|pair| pair[0].distance <= pair[1].distance));
            }
            let hits = found.iter().zip(&exact).flat_map(|(found, exact)| {
                let found = ids(found);
                ids(exact).into_iter().filter(move |id| found.contains(id))
            });
            assert!(hits.count() >= 380, "{kind} {metric}: all lists or a beam of all rows find nearly all");
        }
    }
}

#[test]
fn cosine_takes_queries_of_any_length() {
    let rows = clustered(1200, 10, Metric::Cosine, 1);
    for kind in KINDS {
        let index = open(kind, &rows, Metric::Cosine);
        let query = clustered(1, 10, Metric::Cosine, 2);
        let answer = |factor: f32| {
            let query: Vec<f32> = query.row(0).iter().map(|x| x * factor).collect();
            ids(&index.search(VectorView::new(&query, 10), &options(5, Effort::Exact)).unwrap()[0])
        };
        assert_eq!(answer(1.0), answer(1e-20));
        assert_eq!(answer(1.0), answer(1e30));
    }
}

#[test]
fn what_is_found_does_not_depend_on_threads_or_on_the_batch() {
    let rows = clustered(2000, 10, Metric::L2, 1);
    let queries = clustered(50, 10, Metric::L2, 2);
    for kind in KINDS {
        let index = open(kind, &rows, Metric::L2);
        for effort in [Effort::Default, Effort::Given(7), Effort::Recall(0.9), Effort::Exact] {
            let search = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| index.search(queries.view(), &options(10, effort)).unwrap())
            };
            let one = search(1);
            assert_eq!(one, search(3), "{kind} {effort:?}");
            for (query, found) in one.iter().enumerate() {
                let alone =
                    index.search(queries.view().slice(query, query + 1), &options(10, effort)).unwrap();
                assert_eq!(&alone[0], found, "{kind} {effort:?}");
            }
            assert!(index.search(VectorView::new(&[], 10), &options(10, effort)).unwrap().is_empty());
        }
    }
}

#[test]
fn few_rows_are_searched_exactly_unless_an_effort_is_asked_for() {
    for (count, exact) in [(1, true), (EXACT_ROWS, true), (EXACT_ROWS + 1, false)] {
        let rows = normal(count, 6, 1);
        for kind in KINDS {
            let index = open(kind, &rows, Metric::L2);
            let setting = |effort| index.setting(&options(10, effort)).unwrap();
            assert_eq!(setting(Effort::Default).is_none(), exact, "{kind} of {count}");
            assert!(setting(Effort::Exact).is_none());
            assert!(setting(Effort::Given(3)).is_some());
        }
        // Nothing to compare with exactly: then the family searches.
        if count > 1 {
            let index = Published::new("ivf_pq", &rows, Metric::L2, Refine::None).open().unwrap();
            assert!(index.setting(&options(10, Effort::Default)).unwrap().is_some());
            assert_eq!(index.setting(&options(10, Effort::Exact)), Err(QueryError::NoVectors));
            assert!(index.vector(0).is_none());
        }
    }
}

#[test]
fn more_than_all_rows_are_all_rows() {
    for count in [1, 5, 1500] {
        let rows = normal(count, 6, 1);
        for kind in KINDS {
            let index = open(kind, &rows, Metric::L2);
            for effort in [Effort::Default, Effort::Given(usize::MAX), Effort::Exact] {
                let hits =
                    index.search(VectorView::new(rows.row(0), 6), &options(usize::MAX, effort)).unwrap();
                let mut found = ids(&hits[0]);
                found.sort();
                found.dedup();
                assert_eq!(found.len(), count, "{kind} {effort:?}");
            }
        }
    }
}

#[test]
fn settings_come_from_the_certificate() {
    let index = open("hnsw", &normal(1200, 6, 1), Metric::L2);
    let setting = |k, effort, refine| {
        let setting = index.setting(&SearchOptions { k, effort, refine }).map(Option::unwrap);
        setting.map(|setting| (setting.k, setting.effort, setting.refine))
    };
    assert_eq!(setting(10, Effort::Default, None), Ok((10, 20, 2)), "the chosen one");
    assert_eq!(setting(10, Effort::Default, Some(7)), Ok((10, 20, 7)));
    assert_eq!(setting(10, Effort::Given(33), None), Ok((10, 33, 0)));
    // recall@10 decides for k from 2 to 10, and beyond, where none was measured.
    assert_eq!(setting(10, Effort::Recall(0.9), None), Ok((10, 20, 2)));
    assert_eq!(setting(2, Effort::Recall(0.91), None), Ok((2, 80, 8)));
    assert_eq!(setting(50, Effort::Recall(0.4), None), Ok((50, 5, 0)));
    assert_eq!(setting(1, Effort::Recall(0.6), None), Ok((1, 5, 0)), "recall@1");
    let missed = QueryError::Recall { k: 10, asked: 0.995, best: 0.99 };
    assert_eq!(setting(10, Effort::Recall(0.995), None), Err(missed));
    for recall in [0.0, -1.0, 1.01, f64::NAN] {
        let error = setting(10, Effort::Recall(recall), None).unwrap_err();
        assert!(matches!(error, QueryError::Option { name: "recall", .. }), "{error}");
    }

    let mut bare = Published::new("hnsw", &normal(1200, 6, 1), Metric::L2, Refine::F32);
    (bare.draft.certificate, bare.draft.search_defaults) = (None, None);
    let bare = bare.open().unwrap();
    assert_eq!(bare.setting(&options(10, Effort::Recall(0.5))), Err(QueryError::NoCertificate));
    assert_eq!(bare.setting(&options(10, Effort::Default)).unwrap().unwrap().effort, 10);
}

#[test]
fn what_cannot_be_asked_is_named() {
    for metric in Metric::ALL {
        let index = open("hnsw", &for_metric(normal(1200, 4, 1), metric), metric);
        let error = |query: &[f32], options: &SearchOptions| {
            index.search(VectorView::new(query, query.len()), options).unwrap_err()
        };
        let good = SearchOptions::default();
        assert_eq!(error(&[1.0; 5], &good), QueryError::Dim { expected: 4, got: 5 });
        for value in [f32::INFINITY, f32::NEG_INFINITY] {
            let expected = QueryError::NotFinite { query: 0, dimension: 2, value };
            assert_eq!(error(&[1.0, 1.0, value, 1.0], &good), expected);
        }
        assert!(matches!(error(&[f32::NAN; 4], &good), QueryError::NotFinite { dimension: 0, .. }));
        let zero_k = error(&[1.0; 4], &options(0, Effort::Default));
        assert!(matches!(zero_k, QueryError::Option { name: "k", .. }), "{zero_k}");
        let zero_effort = error(&[1.0; 4], &options(1, Effort::Given(0)));
        assert!(matches!(zero_effort, QueryError::Option { name: "effort", .. }), "{zero_effort}");
        let search = |query: &[f32]| index.search(VectorView::new(query, 4), &good);
        if metric == Metric::Cosine {
            assert_eq!(search(&[0.0; 4]), Err(QueryError::Zero { query: 0 }));
            assert!(search(&[1e38; 4]).is_ok(), "a direction as good as any");
        } else {
            assert!(search(&[0.0; 4]).is_ok());
            let long = search(&[1e38, -1e38, 1e38, 1e38]).unwrap_err();
            assert!(matches!(long, QueryError::Magnitude { query: 0, .. }), "{long}");
            let found = search(&[3e18, -1e18, 3e18, 0.0]).unwrap();
            assert!(found[0].len() == 10 && found[0].iter().all(|hit| hit.distance.is_finite()));
        }
        // The place of a bad query among good ones.
        let two = index.search(VectorView::new(&[1.0, 1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0], 4), &good);
        assert!(matches!(two, Err(QueryError::NotFinite { query: 1, dimension: 1, .. })));
    }
}

#[test]
fn sections_that_are_not_what_the_manifest_says_are_refused() {
    let rows = normal(1200, 6, 1);
    let error = |kind: &str, change: &dyn Fn(&mut Published)| {
        let mut published = Published::new(kind, &rows, Metric::L2, Refine::F16);
        change(&mut published);
        published.open().map(|_| ()).unwrap_err()
    };
    for kind in KINDS {
        let mismatch = |change: &dyn Fn(&mut Published)| match error(kind, change) {
            LoadError::Mismatch { what, expected, got } => (what, expected, got),
            other => panic!("{kind}: {other}"),
        };
        let dim = mismatch(&|published| published.draft.dim = 7);
        assert_eq!(dim, ("dim", "7".into(), "6".into()));
        let metric = mismatch(&|published| published.draft.metric = Metric::Cosine);
        assert_eq!(metric, ("metric", "cosine".into(), "l2".into()));
        let others = KINDS.iter().filter(|&&other| other != kind);
        for &other in others {
            // `flat` is what the vectors of an `hnsw` would be, but for the metric.
            let error = error(kind, &|published| published.draft.kind = other.into());
            assert!(matches!(error, LoadError::Tensor(_)), "{kind} as {other}: {error}");
        }
        let unknown = error(kind, &|published| published.draft.kind = "annoy".into());
        assert!(unknown.to_string().contains("`annoy`") && unknown.to_string().contains("hnsw"), "{unknown}");
        // One row more in the manifest and the ids than in the sections.
        let rows = error(kind, &|published| {
            let ids = text_ids((0..1201).map(|row| row.to_string()));
            published.draft.rows = 1201;
            let file = published.files.iter_mut().find(|(name, _)| name == IDS_FILE).unwrap();
            file.1 = columns::encode_ids(&ids).unwrap();
        });
        assert!(matches!(rows, LoadError::Mismatch { what: "rows", .. }), "{rows}");
        let ids = error(kind, &|published| {
            let ids = text_ids((0..1199).map(|row| row.to_string()));
            let file = published.files.iter_mut().find(|(name, _)| name == IDS_FILE).unwrap();
            file.1 = columns::encode_ids(&ids).unwrap();
        });
        assert!(matches!(ids, LoadError::Store(_)), "{ids}");
        let gone = error(kind, &|published| published.files.retain(|(name, _)| !name.starts_with("vectors")));
        assert!(matches!(gone, LoadError::Tensor(_)), "{kind}: {gone}");
    }
    assert!(matches!(assemble("", &[]), Err(LoadError::Kind { .. })));
}

#[test]
fn attributes_stand_beside_their_rows() {
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt32Type;
    use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
    let rows = normal(1100, 6, 1);
    let (sections, order) = forge("hnsw", &rows, Metric::L2, Refine::F32);
    let mut published = Published::new("hnsw", &rows, Metric::L2, Refine::F32);
    assert_eq!(published.files[0].1, safetensors::encode(&sections[0]).bytes, "the same build");
    let column: ArrayRef = std::sync::Arc::new(UInt32Array::from(order));
    let batch = RecordBatch::try_from_iter([("row", column)]).unwrap();
    published.files.push((ATTRIBUTES_FILE.into(), columns::encode(&batch).unwrap()));
    let index = published.open().unwrap();
    let column = index.attributes().unwrap().column(0).as_primitive::<UInt32Type>().clone();
    for hit in &index.search(VectorView::new(rows.row(5), 6), &SearchOptions::default()).unwrap()[0] {
        assert_eq!(hit.id.to_string(), format!("row {}", column.value(hit.ordinal as usize)));
    }
    assert!(open("flat", &rows, Metric::L2).attributes().is_none());
}
