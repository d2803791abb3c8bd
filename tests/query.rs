//! What can be asked of an index and of several as one, beside the definition: every row, compared and sorted.

mod fixture;
mod published;
mod rows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::ivf::Refine;
use annvil::loader::{
    Answers, Filter, FilterError, Index, LoadError, OpenOptions, Query, QueryError, Shards, Way,
};
use annvil::vectors::{Metric, Neighbor, RowId, RowIds, VectorBuf, VectorView};
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray};
use published::{KINDS, Published, forge};
use rows::{Counting, clustered, normal};

#[global_allocator]
static COUNTING: Counting = Counting;

const ROWS: usize = 3000;
const DIM: usize = 8;

/// Rows with ids `first..`, and of each its number and whether that is even.
fn published(kind: &str, metric: Metric, refine: Refine, seed: u64, first: i32) -> Published {
    let data = clustered(ROWS, DIM, metric, seed);
    let mut published = Published::new(kind, &data, metric, refine);
    let (_, order) = forge(kind, &data, metric, refine);
    let numbers: Vec<i32> = order.iter().map(|&row| first + row as i32).collect();
    published.files.retain(|(name, _)| name != IDS_FILE);
    let ids = RowIds::from(numbers.iter().map(|&number| i64::from(number)).collect::<Vec<_>>());
    published.files.push((IDS_FILE.into(), columns::encode_ids(&ids).unwrap()));
    let parity: StringArray = numbers
        .iter()
        .map(|number| (number % 3 > 0).then_some(if number % 2 == 0 { "even" } else { "odd" }))
        .collect();
    let attributes = RecordBatch::try_from_iter_with_nullable([
        ("number", Arc::new(Int32Array::from(numbers)) as ArrayRef, false),
        ("parity", Arc::new(parity), true),
    ]);
    published.files.push((ATTRIBUTES_FILE.into(), columns::encode(&attributes.unwrap()).unwrap()));
    published
}

fn open(kind: &str, metric: Metric) -> Index {
    published(kind, metric, Refine::F32, 1, 0).open().unwrap()
}

fn queries(count: usize, metric: Metric) -> VectorBuf {
    clustered(count, DIM, metric, 2)
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

/// All rows by distance, then place.
fn sorted(index: &Index, query: &[f32]) -> Vec<Neighbor> {
    let all = Query::new(ROWS).exact();
    let found = index.ask(VectorView::new(query, DIM), &all).unwrap();
    assert_eq!(found.of(0).len(), ROWS);
    found.of(0).iter().map(|found| Neighbor::new(found.ordinal, found.distance)).collect()
}

fn numbers(index: &Index, answers: &Answers, query: usize) -> Vec<i64> {
    let number = |found: &annvil::loader::Match| match index.hit(*found).id {
        RowId::Int(number) => number,
        other => panic!("{other}"),
    };
    answers.of(query).iter().map(number).collect()
}

#[test]
fn options_do_together_what_each_does_to_the_sorted_rows() {
    for metric in Metric::ALL {
        for kind in KINDS {
            let index = open(kind, metric);
            let query = queries(1, metric);
            let all = sorted(&index, query.row(0));
            let id = |neighbor: &Neighbor| match index.ids().get(neighbor.ordinal) {
                RowId::Int(number) => number,
                other => panic!("{other}"),
            };
            let excluded: Vec<i64> = all.iter().take(6).step_by(2).map(id).collect();
            let farthest = all[400].distance;
            for passes in [None, Some(7), Some(2)] {
                for (k, offset) in [(10, 0), (10, 7), (50, 390), (5, ROWS), (ROWS, 0)] {
                    let mut asked = Query::new(k).exact().offset(offset).max_distance(farthest).exclude(
                        excluded
                            .iter()
                            .map(|&id| RowId::Int(id))
                            .chain([RowId::Int(-5), RowId::Text("x".into())]),
                    );
                    if let Some(divisor) = passes {
                        let list: Vec<String> =
                            (0..ROWS).step_by(divisor).map(|number| number.to_string()).collect();
                        asked = asked.filter(filter(&format!("number IN ({})", list.join(","))));
                    }
                    let expected: Vec<i64> = all
                        .iter()
                        .filter(|neighbor| neighbor.distance <= farthest)
                        .map(id)
                        .filter(|id| {
                            !excluded.contains(id) && passes.is_none_or(|divisor| id % divisor as i64 == 0)
                        })
                        .skip(offset)
                        .take(k)
                        .collect();
                    let answers = index.ask(query.view(), &asked).unwrap();
                    assert_eq!(
                        numbers(&index, &answers, 0),
                        expected,
                        "{kind} {metric} {passes:?} {k} {offset}"
                    );
                }
            }
        }
    }
}

#[test]
fn many_exclusions_are_excluded_too() {
    let index = open("hnsw", Metric::L2);
    let query = queries(1, Metric::L2);
    let nearest = index.ask(query.view(), &Query::new(300).exact()).unwrap();
    let nearest = numbers(&index, &nearest, 0);
    let (gone, left) = nearest.split_at(200);
    let asked = Query::new(100).exact().exclude(gone.iter().map(|&id| RowId::Int(id)));
    assert_eq!(numbers(&index, &index.ask(query.view(), &asked).unwrap(), 0), left);
}

#[test]
fn similarities_are_a_threshold_where_the_metric_has_them() {
    for metric in Metric::ALL {
        let index = open("flat", metric);
        let query = queries(1, metric);
        let all = sorted(&index, query.row(0));
        let Some(similarity) = metric.similarity(all[30].distance) else {
            let error = index.prepare(&Query::new(5).min_similarity(0.5)).err().unwrap();
            assert!(matches!(error, QueryError::Option { name: "minimum similarity", .. }), "{error}");
            continue;
        };
        let found = index.ask(query.view(), &Query::new(100).exact().min_similarity(similarity)).unwrap();
        let expected =
            all.iter().filter(|neighbor| metric.similarity(neighbor.distance) >= Some(similarity)).count();
        assert!(found.of(0).len() == expected && expected >= 31, "{metric}: {expected}");
        assert!(index.hit(*found.of(0).last().unwrap()).similarity >= Some(similarity));
    }
    let index = open("flat", Metric::L2);
    assert!(matches!(index.prepare(&Query::new(5).max_distance(f32::NAN)), Err(QueryError::Option { .. })));
}

#[test]
fn the_way_is_chosen_by_what_it_costs() {
    let index = open("hnsw", Metric::L2);
    let way = |filter_text: &str| {
        index.prepare(&Query::new(10).effort(20).filter(filter(filter_text))).unwrap().way()
    };
    assert!(matches!(index.prepare(&Query::new(10)).unwrap().way(), Way::Index(_)));
    assert!(matches!(way("number >= 0"), Way::Index(_)), "a filter that all rows pass is none");
    assert!(matches!(way("number < 0"), Way::Nothing));
    assert!(matches!(way("number < 30"), Way::Exact { .. }));
    assert!(matches!(way("number <> 5"), Way::Masked { .. }));
    assert!(matches!(
        index.prepare(&Query::new(10).exact().filter(filter("number <> 5"))).unwrap().way(),
        Way::Exact { .. }
    ));
    let bare = published("ivf_pq", Metric::L2, Refine::None, 1, 0).open().unwrap();
    let way = bare.prepare(&Query::new(10).effort(2).filter(filter("number < 30"))).unwrap().way();
    assert!(
        matches!(way, Way::Masked { patience: usize::MAX, .. }),
        "nothing to compare exactly with: {way:?}"
    );
}

#[test]
fn filtered_answers_are_good_whichever_way_they_come() {
    for kind in KINDS {
        let index = open(kind, Metric::Cosine);
        let asked = queries(30, Metric::Cosine);
        for text in ["number < 2900", "number < 1500", "number < 200", "number < 20", "parity = 'odd'"] {
            let effort = if kind == "ivf_pq" { 10 } else { 60 };
            let fast = index.ask(asked.view(), &Query::new(10).effort(effort).filter(filter(text))).unwrap();
            let exact = index.ask(asked.view(), &Query::new(10).exact().filter(filter(text))).unwrap();
            let allowed = index.mask(&filter(text)).unwrap();
            let mut hits = 0;
            for (fast, exact) in fast.iter().zip(exact.iter()) {
                assert!(fast.iter().all(|found| allowed.contains(found.ordinal)));
                assert_eq!(fast.len(), 10);
                hits += fast.iter().filter(|found| exact.contains(found)).count();
            }
            assert!(hits >= 285, "{kind}, {text}: {hits} of 300");
        }
    }
}

#[test]
fn attributes_come_as_asked_a_row_for_each_match() {
    let index = open("hnsw", Metric::L2);
    let asked = queries(20, Metric::L2);
    let query = Query::new(5).filter(filter("parity IS NOT NULL")).attributes(["parity", "number"]);
    let prepared = index.prepare(&query).unwrap();
    let mut answers = Answers::new();
    prepared.search(asked.view(), &mut answers).unwrap();
    let batch = prepared.attributes(&answers);
    assert_eq!((batch.num_rows(), batch.num_columns()), (100, 2));
    let (parity, number) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int32Type>());
    for (row, found) in answers.iter().flatten().enumerate() {
        let id = number.value(row);
        assert_eq!(index.hit(*found).id, RowId::Int(id.into()));
        assert_eq!(parity.value(row), if id % 2 == 0 { "even" } else { "odd" });
    }
    let all = index.prepare(&Query::new(5).all_attributes()).unwrap().attributes(&answers);
    assert_eq!(
        all.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["number", "parity"]
    );
    let none = index.prepare(&Query::new(5)).unwrap().attributes(&answers);
    assert_eq!((none.num_rows(), none.num_columns()), (100, 0));
    let error = index.prepare(&Query::new(5).attributes(["colour"])).err().unwrap();
    assert_eq!(error.to_string(), "no attribute is called `colour`; there are: `number`, `parity`");
    let bare = published::open("flat", &normal(50, DIM, 1), Metric::L2);
    assert!(matches!(bare.prepare(&Query::new(5).attributes(["number"])), Err(QueryError::Attribute { .. })));
    assert_eq!(
        bare.prepare(&Query::new(5).all_attributes()).unwrap().attributes(&Answers::new()).num_columns(),
        0
    );
}

#[test]
fn what_cannot_be_asked_is_named() {
    let index = open("hnsw", Metric::L2);
    let refused = |query: Query| index.prepare(&query).err().unwrap();
    assert!(matches!(refused(Query::new(0)), QueryError::Option { name: "k", .. }));
    assert!(matches!(refused(Query::new(0).offset(5)), QueryError::Option { name: "k", .. }));
    assert!(matches!(refused(Query::new(1).effort(0)), QueryError::Option { name: "effort", .. }));
    assert!(matches!(refused(Query::new(10).recall(0.9999)), QueryError::Recall { .. }));
    assert!(matches!(
        refused(Query::new(1).filter(filter("x = 1"))),
        QueryError::Filter(FilterError::Column { .. })
    ));
    let zero = Query::new(usize::MAX).offset(usize::MAX).timeout(Duration::MAX);
    assert!(index.ask(queries(1, Metric::L2).view(), &zero).unwrap().of(0).is_empty());
}

#[test]
fn a_call_out_of_time_says_how_far_it_got() {
    let index = open("hnsw", Metric::L2);
    let asked = queries(40, Metric::L2);
    let timeout = Duration::ZERO;
    let late = index.ask(asked.view(), &Query::new(5).timeout(timeout));
    assert_eq!(late, Err(QueryError::TimeOut { timeout, answered: 0, queries: 40 }));
    assert!(index.ask(asked.view(), &Query::new(5).timeout(Duration::from_secs(3600))).is_ok());
}

#[test]
fn answers_do_not_depend_on_threads_or_on_the_batch() {
    let metric = Metric::Cosine;
    let asked = queries(100, metric);
    for kind in KINDS {
        let index = open(kind, metric);
        for text in ["number >= 0", "number < 2000", "number < 100"] {
            let query = Query::new(7).offset(2).exclude([RowId::Int(4)]).filter(filter(text));
            let prepared = index.prepare(&query).unwrap();
            let search = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut answers = Answers::new();
                pool.install(|| prepared.search(asked.view(), &mut answers)).unwrap();
                answers
            };
            let one = search(1);
            assert_eq!(one, search(3), "{kind} {text}");
            for query in 0..asked.rows() {
                let mut alone = Answers::new();
                prepared.search(asked.view().slice(query, query + 1), &mut alone).unwrap();
                assert_eq!(alone.of(0), one.of(query), "{kind} {text}");
            }
        }
    }
}

#[test]
fn nothing_is_allocated_for_a_query_after_the_first() {
    let metric = Metric::Cosine;
    let asked = queries(16, metric);
    for kind in KINDS {
        let index = Arc::new(open(kind, metric));
        let shards = Shards::new(vec![index.clone(), index.clone()]).unwrap();
        for query in [
            Query::new(10),
            Query::new(10).effort(30),
            Query::new(10).exact(),
            Query::new(10).effort(30).filter(filter("number < 2500")),
            Query::new(10)
                .filter(filter("parity = 'odd' AND number < 50"))
                .offset(3)
                .exclude([RowId::Int(1)]),
        ] {
            let prepared = index.prepare(&query).unwrap();
            let of_shards = shards.prepare(&query).unwrap();
            let mut answers = Answers::new();
            let mut ask = |size: usize| {
                let mut calls = 0;
                for start in (0..asked.rows()).step_by(size) {
                    let queries = asked.view().slice(start, (start + size).min(asked.rows()));
                    prepared.search(queries, &mut answers).unwrap();
                    of_shards.search(queries, &mut answers).unwrap();
                    calls += 3;
                }
                calls
            };
            ask(16);
            ask(1);
            let before = Counting::allocations();
            ask(1);
            assert_eq!(Counting::allocations() - before, 0, "{kind} {query:?}");
            let before = Counting::allocations();
            let calls = ask(8);
            // Families that share no work between queries make a list of neighbours for each batch, which grows twice.
            assert!(Counting::allocations() - before <= 3 * calls, "{kind} {query:?}");
        }
    }
}

#[test]
fn shards_answer_as_one_index_of_all_their_rows_would() {
    for metric in Metric::ALL {
        let parts: Vec<Arc<Index>> = ["hnsw", "flat", "ivf_pq"]
            .iter()
            .zip(0..)
            .map(|(kind, part)| {
                // The third holds the first one's rows once more: equal distances, in order of the shards.
                let seed = 1 + part as u64 % 2;
                Arc::new(published(kind, metric, Refine::F32, seed, part * 10_000).open().unwrap())
            })
            .collect();
        let shards = Shards::new(parts.clone()).unwrap();
        assert_eq!((shards.rows(), shards.dim()), (3 * ROWS, DIM));
        let asked = queries(5, metric);
        for (k, offset) in [(10, 0), (10, 15), (4, 3 * ROWS)] {
            let query =
                Query::new(k).exact().offset(offset).filter(filter("parity = 'odd'")).attributes(["number"]);
            let prepared = shards.prepare(&query).unwrap();
            let mut answers = Answers::new();
            prepared.search(asked.view(), &mut answers).unwrap();
            assert_eq!(answers, shards.ask(asked.view(), &query).unwrap());
            for query in 0..asked.rows() {
                let mut expected = Vec::new();
                for (shard, index) in parts.iter().enumerate() {
                    let allowed = index.mask(&filter("parity = 'odd'")).unwrap();
                    let rows = sorted(index, asked.row(query))
                        .into_iter()
                        .filter(|row| allowed.contains(row.ordinal));
                    expected.extend(rows.map(|row| (row.distance, shard as u32, row.ordinal)));
                }
                expected.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
                let expected: Vec<_> = expected.into_iter().skip(offset).take(k).collect();
                let found: Vec<_> = answers
                    .of(query)
                    .iter()
                    .map(|found| (found.distance, found.shard, found.ordinal))
                    .collect();
                assert_eq!(found, expected, "{metric}");
            }
            let batch = prepared.attributes(&answers);
            let numbers = batch.column(0).as_primitive::<Int32Type>();
            assert_eq!(numbers.null_count(), 0);
            for (found, &number) in answers.iter().flatten().zip(numbers.values()) {
                assert_eq!(shards.hit(*found).id, RowId::Int(number.into()));
            }
        }
    }
}

#[test]
fn a_filter_is_not_evaluated_beyond_the_end_and_all_calls_have_the_same() {
    let index = open("flat", Metric::L2);
    let over = Instant::now();
    let wanted = filter("number < 100 OR parity = 'even'");
    let is_time_out = |error: QueryError| assert!(matches!(error, QueryError::TimeOut { .. }), "{error}");
    is_time_out(index.prepare(&Query::new(3).filter(wanted.clone()).until(over)).err().unwrap());
    is_time_out(index.prepare(&Query::new(3).filter(wanted.clone()).timeout(Duration::ZERO)).err().unwrap());
    is_time_out(index.mask_until(&wanted, over).unwrap_err());
    // What was not finished is not kept either.
    let later = over + Duration::from_secs(600);
    assert_eq!(index.mask_until(&wanted, later).unwrap(), index.mask(&wanted).unwrap());
    // A mask that is known takes no time; the search that follows does.
    let prepared = index.prepare(&Query::new(3).filter(wanted).until(over)).unwrap();
    is_time_out(prepared.search(queries(2, Metric::L2).view(), &mut Answers::new()).unwrap_err());
    // The sooner of the two ends.
    let both = Query::new(3).until(later).timeout(Duration::ZERO);
    is_time_out(index.ask(queries(2, Metric::L2).view(), &both).unwrap_err());
}

#[test]
fn a_passing_filter_displaces_none_that_is_in_use() {
    let published = published("flat", Metric::L2, Refine::F32, 1, 0);
    published.place.index().publish(published.files, published.draft).unwrap();
    // Room for one mask.
    let options = OpenOptions::new().filter_cache_bytes(ROWS / 8 + 640);
    let index = options.open_artifact(published.place.index().artifact(None).unwrap()).unwrap();
    let (kept, other) = (filter("number < 1000"), filter("parity = 'even'"));
    let mask = index.mask(&kept).unwrap();
    let passing = index.mask(&other.clone().passing()).unwrap();
    let both = index.mask(&kept.and(&other.clone().passing())).unwrap();
    assert!(Arc::ptr_eq(&mask, &index.mask(&kept).unwrap()));
    assert_eq!((both, passing), (index.mask(&kept.and(&other)).unwrap(), index.mask(&other).unwrap()));
    assert!(!Arc::ptr_eq(&mask, &index.mask(&kept).unwrap()), "others do");
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let of = |data: &VectorBuf, metric| Arc::new(published::open("flat", data, metric));
    let refused = |indexes| Shards::new(indexes).err().unwrap();
    assert!(matches!(refused(vec![]), LoadError::NoShards));
    let first = of(&normal(50, 4, 1), Metric::L2);
    let dim = refused(vec![first.clone(), of(&normal(50, 5, 1), Metric::L2)]);
    assert!(matches!(dim, LoadError::Unlike { what: "dim of a shard", .. }), "{dim}");
    let metric = refused(vec![first.clone(), of(&normal(50, 4, 1), Metric::InnerProduct)]);
    assert!(matches!(metric, LoadError::Unlike { what: "metric of a shard", .. }), "{metric}");
    let numbered = Arc::new(open("flat", Metric::L2));
    let texts = of(&normal(50, DIM, 1), Metric::L2);
    assert!(matches!(
        refused(vec![numbered, texts]),
        LoadError::Unlike { what: "kind of ids of a shard", .. }
    ));

    let with = |name: &str, column: ArrayRef| {
        let mut published = Published::new("flat", &normal(3, 4, 1), Metric::L2, Refine::F32);
        let batch = RecordBatch::try_from_iter([(name, column)]).unwrap();
        published.files.push((ATTRIBUTES_FILE.into(), columns::encode(&batch).unwrap()));
        Arc::new(published.open().unwrap())
    };
    let number = || Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef;
    let text = || Arc::new(StringArray::from(vec!["1", "2", "3"])) as ArrayRef;
    let mixed = Shards::new(vec![with("x", number()), with("x", text())]).unwrap();
    assert!(mixed.prepare(&Query::new(1)).is_ok());
    let error = mixed.prepare(&Query::new(1).attributes(["x"])).err().unwrap();
    assert_eq!(
        error.to_string(),
        "attribute `x` is `x` (Utf8) in shard 1, expected `x` (Int32) as in the first"
    );
    let other = Shards::new(vec![with("x", number()), with("y", number())]).unwrap();
    assert!(other.prepare(&Query::new(1).all_attributes()).is_err());
}

#[test]
fn what_is_shared_between_threads_may_be() {
    fn shared<T: Send + Sync>() {}
    shared::<Index>();
    shared::<Shards>();
    shared::<annvil::loader::Watched>();
    shared::<annvil::loader::Prepared<'static>>();
    shared::<Answers>();
    shared::<Filter>();
}
