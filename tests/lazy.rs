//! An index that stays where it is: what it answers, what it asks of its store for that, and what damage does.

mod fixture;
mod published;
mod rows;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annvil::artifact::columns::{self, ATTRIBUTES_FILE};
use annvil::error::Error;
use annvil::ivf::Refine;
use annvil::loader::{
    Answers, Filter, Index, LoadError, OpenOptions, Query, QueryError, Refresh, Residence, Watched,
};
use annvil::store::{IndexStore, StoreError};
use annvil::vectors::{Metric, VectorBuf, VectorView};
use arrow_array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use async_trait::async_trait;
use bytes::Bytes;
use fixture::Place;
use futures_core::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use published::{KINDS, Published};
use rows::clustered;

const DIM: usize = 40;
const ROWS: usize = 4000;

fn options() -> OpenOptions {
    OpenOptions::new().residence(Residence::Lazy)
}

fn attributes() -> RecordBatch {
    let number: Int32Array = (0..ROWS as i32).map(|row| (row % 11 != 0).then_some(row % 10)).collect();
    let name: StringArray = (0..ROWS).map(|row| Some(format!("name {}", row % 7))).collect();
    let flag: BooleanArray = (0..ROWS).map(|row| Some(row % 3 == 0)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("number", Arc::new(number) as ArrayRef, true),
        ("name", Arc::new(name), false),
        ("flag", Arc::new(flag), true),
    ])
    .unwrap()
}

/// An index of every kind of file, in memory.
fn publish(kind: &str, metric: Metric, refine: Refine) -> Place {
    let data = clustered(ROWS, DIM, metric, 1);
    let mut published = Published::new(kind, &data, metric, refine);
    published.files.push((ATTRIBUTES_FILE.into(), columns::encode(&attributes()).unwrap()));
    published.place.index().publish(published.files, published.draft).unwrap();
    published.place
}

fn queries(metric: Metric) -> VectorBuf {
    clustered(40, DIM, metric, 9)
}

fn open(store: &IndexStore, options: &OpenOptions) -> Result<Index, LoadError> {
    options.open_artifact(store.artifact(options_version(options))?)
}

fn options_version(_: &OpenOptions) -> Option<u64> {
    None
}

fn pair(place: &Place) -> [Index; 2] {
    [OpenOptions::new(), options()].map(|options| open(&place.index(), &options).unwrap())
}

/// What is asked in all ways that searches differ in.
fn questions() -> Vec<Query> {
    let filter = |text| Filter::parse(text).unwrap();
    vec![
        Query::new(10),
        Query::new(1).effort(1),
        Query::new(10).effort(3).refine(50),
        Query::new(300).effort(2),
        Query::new(10).exact(),
        Query::new(10).filter(filter("number = 3 AND name <> 'name 2'")).attributes(["name", "flag"]),
        Query::new(10).filter(filter("flag AND number IS NOT NULL")),
        Query::new(10).effort(4).filter(filter("number < 9 OR number IS NULL")),
        Query::new(10).exact().filter(filter("number = 3")),
        Query::new(5).offset(3).all_attributes(),
    ]
}

#[test]
fn a_lazy_index_answers_as_a_resident_one() {
    for kind in KINDS {
        for metric in Metric::ALL {
            let refines = match kind {
                "ivf_pq" => &[Refine::F32, Refine::F16, Refine::None][..],
                _ => &[Refine::F32],
            };
            for &refine in refines {
                let [resident, lazy] = pair(&publish(kind, metric, refine));
                let queries = queries(metric);
                for query in questions() {
                    let what = format!("{kind} {metric} {refine:?} {query:?}");
                    let Ok(expected) = resident.prepare(&query) else {
                        assert!(lazy.prepare(&query).is_err(), "{what}");
                        continue;
                    };
                    let prepared = lazy.prepare(&query).unwrap();
                    assert_eq!(prepared.way(), expected.way(), "{what}");
                    for queries in [queries.view(), queries.view().slice(0, 1)] {
                        let (mut here, mut there) = (Answers::new(), Answers::new());
                        expected.search(queries, &mut here).unwrap();
                        prepared.search(queries, &mut there).unwrap();
                        assert_eq!(there, here, "{what}");
                        assert_eq!(prepared.attributes(&there), expected.attributes(&here), "{what}");
                    }
                }
                let ids = |index: &Index| [0, 77].map(|row| index.ids().get(row));
                assert_eq!(ids(&lazy), ids(&resident));
                assert_eq!(lazy.fetch_vector(77), resident.fetch_vector(77));
                assert_eq!(lazy.fetch_attributes(), resident.fetch_attributes());
            }
        }
    }
}

#[test]
fn what_is_found_does_not_depend_on_threads_or_cache() {
    let place = publish("ivf_pq", Metric::L2, Refine::F16);
    let queries = clustered(300, DIM, Metric::L2, 9);
    let folder = tempfile::tempdir().unwrap();
    let expected = pair(&place)[0].ask(queries.view(), &Query::new(10)).unwrap();
    for options in [
        options(),
        options().cache_bytes(0),
        options().cache_bytes(200_000),
        options().cache_bytes(0).disk_cache(folder.path(), 10 << 20),
        options().cache_bytes(0).disk_cache(folder.path(), 100_000),
    ] {
        let index = open(&place.index(), &options).unwrap();
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| index.ask(queries.view(), &Query::new(10)).unwrap());
            assert_eq!(found, expected, "{threads} threads, {options:?}");
        }
        assert!(index.cached_bytes() <= 256 << 20);
    }
}
