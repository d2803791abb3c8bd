//! An index that stays where it is: what it answers, what it asks of its store for that, and what damage does.

mod fixture;
mod published;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annvil::artifact::columns::{self, ATTRIBUTES_FILE};
use annvil::error::Error;
use annvil::index::SearchParams;
use annvil::ivf::Refine;
use annvil::loader::{
    Answers, Consistency, Filter, Index, LoadError, OpenOptions, Query, QueryError, Refresh, Residence,
    Watched,
};
use annvil::store::{IndexStore, StoreError};
use annvil::vectors::{Metric, VectorBuf, VectorView};
use arrow_array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use async_trait::async_trait;
use fixture::Place;
use futures_core::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use published::{CODED, KINDS, Published};
use rows::{Counting, clustered};

#[global_allocator]
static COUNTING: Counting = Counting;

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

/// Without looking for the latest version.
fn open(store: &IndexStore, options: &OpenOptions) -> Result<Index, LoadError> {
    open_version(store, options, 1)
}

fn open_version(store: &IndexStore, options: &OpenOptions, version: u64) -> Result<Index, LoadError> {
    options.open_artifact(store.artifact(Some(version))?)
}

/// A store that takes its time, and counts; that fails, or does not answer, for a while.
#[derive(Debug)]
struct Remote {
    inner: Arc<dyn ObjectStore>,
    latency: Duration,
    requests: AtomicU64,
    bytes: AtomicU64,
    /// How many requests, each begun after the one before had ended, went before the last that ended.
    depth: AtomicU64,
    fails: AtomicBool,
    hangs: AtomicBool,
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store far away")
    }
}

impl Remote {
    fn before(place: &Place, latency: Duration) -> (Arc<Self>, IndexStore) {
        let remote = Arc::new(Self {
            inner: place.store.clone(),
            latency,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            depth: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
        });
        (remote.clone(), place.index_over(remote))
    }

    /// Requests, bytes and depth since the last call.
    fn take(&self) -> (u64, u64, u64) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::SeqCst);
        (take(&self.requests), take(&self.bytes), take(&self.depth))
    }
}

#[async_trait]
impl ObjectStore for Remote {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let depth = self.depth.load(Ordering::SeqCst) + 1;
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.fails.load(Ordering::SeqCst) {
            let source = "the line is cut".into();
            return Err(object_store::Error::Generic { store: "remote", source });
        }
        let answer = self.inner.get_opts(location, options).await?;
        let bytes = answer.range.end - answer.range.start;
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        // 100 MB/s a stream.
        let transfer = Duration::from_nanos(if self.latency.is_zero() { 0 } else { 10 * bytes });
        tokio::time::sleep(self.latency + transfer).await;
        self.depth.fetch_max(depth, Ordering::SeqCst);
        Ok(answer)
    }

    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
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
    for kind in KINDS.into_iter().chain(CODED) {
        for metric in Metric::ALL {
            let refines = match kind {
                "ivf_pq sq8" => &[Refine::None][..],
                "ivf_pq flat" => &[Refine::F16],
                "ivf_pq" => &[Refine::F32, Refine::F16, Refine::None],
                "flat" | "hnsw" => &[Refine::F32],
                _ => &[Refine::F16, Refine::None],
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

#[test]
fn what_is_said_to_be_fetched_is_what_the_store_was_asked_for() {
    for kind in KINDS {
        let place = publish(kind, Metric::L2, Refine::F16);
        let (remote, store) = Remote::before(&place, Duration::ZERO);
        let index = open(&store, &options()).unwrap();
        let told = index.fetched_at_open();
        let (requests, bytes, _) = remote.take();
        assert_eq!((told.requests, told.bytes), (requests, bytes), "{kind}: open");
        assert_eq!(told.round_trips, 2, "{kind}: manifest, everything else");
        let queries = queries(Metric::L2);
        let mut answers = Answers::new();
        let mut total = 0;
        for query in 0..3 {
            let prepared = index.prepare(&Query::new(10)).unwrap();
            prepared.search(queries.view().slice(query, query + 1), &mut answers).unwrap();
            let told = answers.fetched();
            let (requests, bytes, _) = remote.take();
            assert_eq!((told.requests, told.bytes), (requests, bytes), "{kind}: query {query}");
            assert!(told.round_trips <= if kind == "ivf_pq" { 2 } else { 1 }, "{kind}: {told:?}");
            total += told.requests;
        }
        assert!(total > 0 && index.fetched().requests == total, "{kind}");
        // What is here by now is not asked for again.
        index.prepare(&Query::new(10)).unwrap().search(queries.view().slice(0, 1), &mut answers).unwrap();
        assert_eq!((answers.fetched().round_trips, remote.take().0), (0, 0), "{kind}");
        drop(options().open_artifact(store.artifact(None).unwrap()).unwrap());
        assert_eq!(remote.take().0, told_requests(&place, &options()) + 1, "{kind}: and a listing");
    }
}

fn told_requests(place: &Place, options: &OpenOptions) -> u64 {
    open(&place.index(), options).unwrap().fetched_at_open().requests
}

#[test]
fn requests_of_one_round_trip_are_under_way_together() {
    // Ten blocks of codes and eighty of vectors.
    let data = clustered(20_000, 64, Metric::L2, 1);
    let Published { place, files, draft } = Published::new("ivf_pq", &data, Metric::L2, Refine::F32);
    place.index().publish(files, draft).unwrap();
    let queries = clustered(4, 64, Metric::L2, 9);
    // Another process may keep this one from asking in time: the best of a few attempts.
    let attempts = (0..5).map(|_| {
        let (remote, store) = Remote::before(&place, Duration::from_millis(40));
        let index = open(&store, &options()).unwrap();
        let open = remote.take();
        index.ask(queries.view(), &Query::new(10).effort(30)).unwrap();
        let ask = remote.take();
        assert!(open.0 > 3 && ask.0 > 3, "{open:?} {ask:?}");
        (open.2, ask.2)
    });
    assert!(attempts.into_iter().any(|depths| depths == (2, 2)), "a request waited for another");
}

#[test]
fn threads_that_want_the_same_blocks_share_their_requests() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let queries = queries(Metric::L2);
    let (remote, store) = Remote::before(&place, Duration::from_millis(20));
    let ask = |index: &Index| index.ask(queries.view(), &Query::new(10)).unwrap();
    let alone = open(&store, &options()).unwrap();
    remote.take();
    let expected = ask(&alone);
    let requests = remote.take().0;
    let index = open(&store, &options()).unwrap();
    remote.take();
    let all_there = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                all_there.wait();
                assert_eq!(ask(&index), expected);
            });
        }
    });
    assert_eq!(remote.take().0, requests);
}

/// A file of the only segment, below the index's folder.
fn object(place: &Place, file: &str) -> String {
    let manifest = place.index().read_manifest(1).unwrap();
    format!("seg/{}/{file}", manifest.segments[0].id)
}

#[test]
fn damage_is_named_where_it_is_read_and_never_gives_a_wrong_answer() {
    let query = Query::new(10).effort(8).filter(Filter::parse("number < 8").unwrap());
    for (kind, file) in [
        ("flat", "vectors.safetensors"),
        ("ivf_pq", "codes.safetensors"),
        ("ivf_pq", "vectors.safetensors"),
        ("hnsw", "vectors.safetensors"),
        ("ivf_pq", ATTRIBUTES_FILE),
    ] {
        let place = publish(kind, Metric::L2, Refine::F32);
        let queries = clustered(3, DIM, Metric::L2, 9);
        let expected = pair(&place)[0].ask(queries.view(), &query).unwrap();
        let object = object(&place, file);
        let sound = place.get(&object);
        let mut named = 0;
        for part in 0..8 {
            let mut bytes = sound.to_vec();
            let at = (bytes.len() - 1) * part / 7;
            bytes[at] ^= 4;
            place.put(&object, bytes);
            let answer = open(&place.index(), &options()).map_err(Error::from).and_then(|index| {
                let found = index.ask(queries.view(), &query)?;
                Ok(found)
            });
            match answer {
                Ok(found) => assert_eq!(found, expected, "{kind} {file} at {at}"),
                Err(error) => {
                    named += 1;
                    assert_eq!(error.exit_code(), 4, "{error}");
                    assert!(error.to_string().contains(file), "{error}");
                }
            }
        }
        assert!(named > 0, "{kind} {file}: nothing was read of it");
        // Cut short, and gone.
        place.put(&object, sound.slice(..sound.len() / 2));
        let ask = || {
            open(&place.index(), &options())
                .map_err(Error::from)?
                .ask(queries.view(), &query)
                .map_err(Error::from)
        };
        assert_eq!(ask().unwrap_err().exit_code(), 4, "{kind} {file} cut short");
        place.delete(&object);
        assert_eq!(ask().unwrap_err().exit_code(), 4, "{kind} {file} gone");
    }
}

#[test]
fn a_damaged_cache_is_not_believed_and_a_sound_one_saves_requests() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let queries = queries(Metric::L2);
    let folder = tempfile::tempdir().unwrap();
    let options = || options().cache_bytes(0).disk_cache(folder.path(), 64 << 20);
    let ask = || {
        let index = open(&place.index(), &options()).unwrap();
        index.ask(queries.view(), &Query::new(10)).unwrap()
    };
    let blocks = || -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "block")).collect()
    };
    let first = ask();
    let asked = first.fetched().requests;
    assert!(asked > 0);
    // Blocks are written while nobody waits for them.
    let end = Instant::now() + Duration::from_secs(20);
    while ask().fetched().requests > 0 {
        assert!(Instant::now() < end, "{} blocks are kept", blocks().len());
    }
    assert_eq!(ask(), first);
    for block in blocks() {
        let mut bytes = std::fs::read(&block).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&block, bytes).unwrap();
    }
    let again = ask();
    assert_eq!(again, first);
    assert_eq!(again.fetched().requests, asked, "every block was damaged");
    for block in blocks() {
        std::fs::write(&block, b"short").unwrap();
    }
    assert_eq!(ask(), first);
}

#[test]
fn what_is_kept_stays_within_its_budget() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let queries = queries(Metric::L2);
    for budget in [0, 65_536, 200_000] {
        let index = open(&place.index(), &options().cache_bytes(budget)).unwrap();
        for query in 0..queries.rows() {
            index.ask(queries.view().slice(query, query + 1), &Query::new(10)).unwrap();
            assert!(index.cached_bytes() <= budget, "{} of {budget}", index.cached_bytes());
        }
        assert!(budget == 0 || index.cached_bytes() > 0);
    }
}

#[test]
fn a_store_that_fails_is_named_and_asked_again_by_the_next_query() {
    for kind in KINDS {
        let place = publish(kind, Metric::Cosine, Refine::F32);
        let (remote, store) = Remote::before(&place, Duration::ZERO);
        let (queries, query) = (queries(Metric::Cosine), Query::new(10));
        let expected = pair(&place)[0].ask(queries.view(), &query).unwrap();
        let index = open(&store, &options()).unwrap();
        remote.fails.store(true, Ordering::SeqCst);
        for query in [&query, &query.clone().filter(Filter::parse("number < 5").unwrap())] {
            let error = index.ask(queries.view(), query).unwrap_err();
            let QueryError::Store(failure) = &error else { panic!("{kind}: {error}") };
            assert!(matches!(*failure.0, StoreError::Io { .. }), "{kind}: {error}");
            assert_eq!(Error::from(error).exit_code(), 5, "{kind}");
        }
        remote.fails.store(false, Ordering::SeqCst);
        assert_eq!(index.ask(queries.view(), &query).unwrap(), expected, "{kind}");
    }
}

#[test]
fn a_call_ends_at_its_deadline_though_the_store_does_not_answer() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let (remote, store) = Remote::before(&place, Duration::ZERO);
    let queries = queries(Metric::L2);
    let query = Query::new(10).timeout(Duration::from_millis(30));
    let filtered = query.clone().filter(Filter::parse("number < 5").unwrap());
    let index = open(&store, &options()).unwrap();
    remote.hangs.store(true, Ordering::SeqCst);
    for query in [&query, &filtered] {
        let error = index.ask(queries.view(), query).unwrap_err();
        assert!(matches!(error, QueryError::TimeOut { answered: 0, .. }), "{error}");
    }
    remote.hangs.store(false, Ordering::SeqCst);
    let patient = Query::new(10);
    assert_eq!(
        index.ask(queries.view(), &patient).unwrap(),
        pair(&place)[0].ask(queries.view(), &patient).unwrap()
    );
}

#[test]
fn what_does_not_fit_says_by_how_much() {
    for kind in KINDS {
        let place = publish(kind, Metric::L2, Refine::F32);
        let manifest = place.index().read_manifest(1).unwrap();
        let needed = options().needed_bytes(&manifest);
        let more = options().cache_bytes((256 << 20) + 1000).needed_bytes(&manifest);
        assert_eq!(more, needed + 1000, "{kind}");
        let small = options().cache_bytes(0).needed_bytes(&manifest);
        assert!(small < OpenOptions::new().needed_bytes(&manifest), "{kind}");
        assert!(open(&place.index(), &options().memory_limit_bytes(needed)).is_ok());
        let error = open(&place.index(), &options().memory_limit_bytes(needed - 7)).err().unwrap();
        assert!(matches!(error, LoadError::Memory { over: 7, .. }), "{kind}: {error}");
    }
}

#[test]
fn a_filter_reads_the_columns_that_it_names_and_none_where_it_is_wrong() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let (remote, store) = Remote::before(&place, Duration::ZERO);
    let index = open(&store, &options().cache_bytes(0)).unwrap();
    remote.take();
    for wrong in ["nobody = 1", "name = 5", "number LIKE 'a%'"] {
        let query = Query::new(3).filter(Filter::parse(wrong).unwrap());
        assert!(matches!(index.prepare(&query), Err(QueryError::Filter(_))), "{wrong}");
    }
    assert!(index.prepare(&Query::new(3).attributes(["nobody"])).is_err());
    assert_eq!(remote.take().0, 0);
    let flag = Query::new(3).filter(Filter::parse("flag").unwrap());
    index.prepare(&flag).unwrap();
    let (_, first, _) = remote.take();
    index.prepare(&flag.clone().attributes(["flag"])).unwrap();
    let (_, again, _) = remote.take();
    assert!(first > 0 && again == 0, "{first} and {again} bytes");
    let schema = index.attribute_schema().unwrap();
    assert_eq!(
        schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["number", "name", "flag"]
    );
}

#[test]
fn columns_that_were_read_are_there_for_the_next_query_before_it_searches() {
    let place = publish("hnsw", Metric::L2, Refine::F32);
    let index = open(&place.index(), &options()).unwrap();
    let query = Query::new(10).attributes(["name", "flag"]);
    let first = index.prepare(&query).unwrap();
    let mut answers = Answers::new();
    first.search(queries(Metric::L2).view(), &mut answers).unwrap();
    let expected = first.attributes(&answers);
    assert_eq!(expected.num_rows(), 400);
    assert_eq!(index.prepare(&query).unwrap().attributes(&answers), expected);
}

#[test]
fn a_batch_over_a_lazy_graph_allocates_by_the_batch_not_by_the_query() {
    let place = publish("hnsw", Metric::L2, Refine::F32);
    let index = open(&place.index(), &options()).unwrap();
    let (queries, params) =
        (clustered(120, DIM, Metric::L2, 9), SearchParams { k: 10, effort: 20, refine: 0 });
    let mut searcher = index.searcher();
    let mut allocations_of = |queries: VectorView<'_>| {
        let before = Counting::allocations();
        searcher.search_batch(queries, &params, &mut |_, found| assert_eq!(found.len(), 10));
        searcher.fetched().unwrap();
        Counting::allocations() - before
    };
    allocations_of(queries.view());
    let (many, few) = (allocations_of(queries.view()), allocations_of(queries.view().slice(0, 20)));
    assert!(many < few + 50, "{many} for 120 queries, {few} for 20");
}

#[test]
fn a_lazy_index_follows_its_versions() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let watched = Watched::of(place.index(), options()).unwrap();
    let published = Published::new("flat", &clustered(500, DIM, Metric::L2, 5), Metric::L2, Refine::F32);
    place.index().publish(published.files, published.draft).unwrap();
    assert!(matches!(watched.refresh(), Ok(Refresh::Taken { from: 1, to: 2 })));
    assert_eq!(watched.current().rows(), 500);
    let queries = clustered(1, DIM, Metric::L2, 5);
    assert_eq!(watched.current().ask(queries.view(), &Query::new(1)).unwrap().of(0).len(), 1);
}

#[test]
fn a_look_that_is_recent_enough_is_not_waited_for_again() {
    let place = publish("ivf_pq", Metric::L2, Refine::F32);
    let (remote, store) = Remote::before(&place, Duration::ZERO);
    let watched = Watched::of(store, options()).unwrap();
    let published = Published::new("flat", &clustered(500, DIM, Metric::L2, 5), Metric::L2, Refine::F32);
    place.index().publish(published.files, published.draft).unwrap();
    remote.take();
    remote.hangs.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let refresh = scope.spawn(|| watched.refresh());
        // The versions are listed, and the new one's manifest is on its way.
        while remote.requests.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        let asked = Instant::now();
        let (told, answer) = std::sync::mpsc::channel();
        let watched = &watched;
        scope.spawn(move || {
            let hour = Consistency::Eventual(Duration::from_secs(3600));
            let _ = told.send(watched.read(hour).map(|index| index.version()));
        });
        let version = answer.recv_timeout(Duration::from_secs(30));
        let is_known = watched.seen(Consistency::Strong, asked).is_some();
        remote.hangs.store(false, Ordering::SeqCst);
        assert_eq!(version.expect("nothing to wait for").unwrap(), 1);
        assert!(!is_known, "the store has not answered yet");
        assert!(matches!(refresh.join().unwrap(), Ok(Refresh::Taken { from: 1, to: 2 })));
        assert!(watched.seen(Consistency::Strong, asked).is_none(), "that look had begun before");
        assert_eq!(watched.read(Consistency::Strong).unwrap().version(), 2);
        assert!(watched.seen(Consistency::Strong, asked).is_some());
    });
}

#[test]
fn the_vectors_of_many_rows_take_one_round_trip_and_end_in_time() {
    for kind in KINDS {
        let place = publish(kind, Metric::Cosine, Refine::F32);
        let (remote, store) = Remote::before(&place, Duration::ZERO);
        let [resident, _] = pair(&place);
        let lazy = open(&store, &options()).unwrap();
        assert_eq!((lazy.keeps_vectors(), resident.keeps_vectors()), (true, true), "{kind}");
        let rows: Vec<u32> = [3999, 0, 17, 2000, 17].into_iter().chain(1000..1200).collect();
        remote.hangs.store(true, Ordering::SeqCst);
        let soon = Instant::now() + Duration::from_millis(30);
        let error = lazy.fetch_vectors(&rows, Some(soon)).unwrap_err();
        assert!(matches!(error, QueryError::TimeOut { .. }), "{kind}: {error}");
        remote.hangs.store(false, Ordering::SeqCst);
        let expected = resident.fetch_vectors(&rows, None).unwrap().unwrap();
        let before = lazy.fetched().round_trips;
        assert_eq!(lazy.fetch_vectors(&rows, None).unwrap().unwrap(), expected, "{kind}");
        assert!(lazy.fetched().round_trips <= before + 1, "{kind}: one after the other");
        for (place, &row) in rows.iter().enumerate().take(5) {
            assert_eq!(resident.fetch_vector(row).unwrap().as_deref(), Some(expected.row(place)), "{kind}");
        }
        assert_eq!(lazy.fetch_vectors(&[], None).unwrap().unwrap().rows(), 0);
    }
}

/// Measures cold queries of an index in a folder, over a store 65 ms away with 100 MB/s a stream.
#[cfg(feature = "build")]
#[test]
#[ignore = "measures an index that must be built first: ANNVIL_INDEX=<folder> ANNVIL_QUERIES=<Parquet> \
            cargo test --release --test lazy -- --ignored --nocapture"]
fn cold_queries_take_two_round_trips() {
    use annvil::source::{QuerySpec, read_queries};
    use object_store::local::LocalFileSystem;

    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let folder = std::fs::canonicalize(variable("ANNVIL_INDEX")).unwrap();
    let place = Place::of(Arc::new(LocalFileSystem::new()));
    let resident = Index::open(folder.to_str().unwrap()).unwrap();
    let spec = QuerySpec {
        uri: variable("ANNVIL_QUERIES"),
        vector_column: "embedding".into(),
        id_column: None,
        dim: resident.dim(),
        metric: resident.metric(),
    };
    let queries = read_queries(spec, annvil::store::runtime().unwrap()).unwrap().vectors;
    let (remote, _) = Remote::before(&place, Duration::from_millis(65));
    let path = Path::from_absolute_path(&folder).unwrap();
    let store = IndexStore::at(remote.clone(), path).unwrap();
    let query = match std::env::var("ANNVIL_EFFORT") {
        Ok(effort) => Query::new(10).effort(effort.parse().unwrap()),
        Err(_) => Query::new(10).recall(0.95),
    };
    let count = queries.rows().min(50);
    let truth = resident.ask(queries.view().slice(0, count), &Query::new(10).exact()).unwrap();
    let ordinals = |answers: &Answers, query: usize| -> Vec<u32> {
        answers.of(query).iter().map(|found| found.ordinal).collect()
    };
    let mut firsts = Vec::new();
    for number in 0..5 {
        remote.take();
        let start = Instant::now();
        let index = open_version(&store, &options(), resident.version()).unwrap();
        let opened = start.elapsed();
        index.ask(queries.view().slice(number, number + 1), &query).unwrap();
        let (requests, bytes, depth) = remote.take();
        println!(
            "first query: open {opened:.0?}, with it {:.0?}; {requests} requests, {bytes} bytes, depth {depth}",
            start.elapsed()
        );
        firsts.push(index.fetched_at_open().then(index.fetched()));
    }
    assert!(firsts.iter().all(|fetched| fetched.round_trips <= 4), "{firsts:?}");
    for cache in [0, 256 << 20] {
        let index = open_version(&store, &options().cache_bytes(cache), resident.version()).unwrap();
        let (mut times, mut hits) = (Vec::new(), 0);
        let before = index.fetched();
        remote.take();
        let mut deepest = 0;
        for number in 0..count {
            let start = Instant::now();
            let answers = index.ask(queries.view().slice(number, number + 1), &query).unwrap();
            times.push(start.elapsed());
            assert!(answers.fetched().round_trips <= 2, "{:?}", answers.fetched());
            deepest = deepest.max(answers.fetched().round_trips);
            let found = ordinals(&answers, 0);
            hits += ordinals(&truth, number).iter().filter(|row| found.contains(row)).count();
        }
        times.sort();
        let after = index.fetched();
        let mean = |now: u64, then: u64| (now - then) as f64 / count as f64;
        println!(
            "cache {} MiB: {count} queries one after the other: p50 {:.0?}, p99 {:.0?}; at most {deepest} round trips, {:.1} \
             requests and {:.2} MB each; recall@10 {:.3}",
            cache >> 20,
            times[count / 2],
            times[count - 1],
            mean(after.requests, before.requests),
            mean(after.bytes, before.bytes) / 1e6,
            hits as f64 / (10 * count) as f64
        );
    }
    remote.take();
    let index = open_version(&store, &options(), resident.version()).unwrap();
    let start = Instant::now();
    let answers = index.ask(queries.view().slice(0, count), &query).unwrap();
    println!("{count} queries as one batch: {:.0?}, {:?}", start.elapsed(), answers.fetched());
}
