//! Readers see the versions that were published, whole, and nothing else: whoever publishes at the same time, and
//! wherever a publisher dies.

mod fixture;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use annvil::artifact::{Certificate, CertificatePoint, Digest, Gate, Latency, ManifestError, Recall};
use annvil::store::{FileError, IndexStore, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use fixture::{Place, contents, draft, read_contents, segment_files};
use futures_core::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What goes wrong with a put.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The `n`-th put and all after it do nothing and fail: the publisher was killed.
    Killed(usize),
    /// The `n`-th put is done, and its answer lost.
    AnswerLost(usize),
    /// The `n`-th put writes a flipped bit.
    BitFlipped(usize),
    /// Put-if-absent overwrites, as some stores that speak S3 do.
    AlwaysOverwrites,
    /// Another publisher's manifest falls on the one that was just created, and both are told that they were first.
    Overtaken,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    puts: AtomicUsize,
}

impl Faulty {
    fn new(inner: Arc<dyn ObjectStore>, fault: Fault) -> Arc<Self> {
        Arc::new(Self { inner, fault, puts: AtomicUsize::new(0) })
    }

    fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "Faulty", source: "connection lost".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let number = self.puts.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Killed(n) if number >= n => return Err(lost()),
            Fault::AnswerLost(n) if number == n => {
                self.inner.put_opts(path, payload, options).await?;
                return Err(lost());
            }
            Fault::BitFlipped(n) if number == n => {
                let mut bytes = Bytes::from(payload).to_vec();
                bytes[0] ^= 1;
                return self.inner.put_opts(path, bytes.into(), options).await;
            }
            Fault::AlwaysOverwrites => options.mode = PutMode::Overwrite,
            Fault::Overtaken if path.as_ref().ends_with("00000000000000000001.json") => {
                let other = Place::memory();
                let index = other.index();
                let published =
                    std::thread::spawn(move || index.publish(segment_files(2), draft(2)).unwrap().version);
                let object = Path::from(format!("indexes/tiny/v/{:020}.json", published.join().unwrap()));
                let theirs = other.store.get_opts(&object, GetOptions::default()).await?.bytes().await?;
                return self.inner.put_opts(path, theirs.into(), PutMode::Overwrite.into()).await;
            }
            _ => (),
        }
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn expect_contents(index: &IndexStore, version: u64, seed: u64) {
    assert_eq!(read_contents(&index.artifact(Some(version)).unwrap()).unwrap(), contents(seed));
}

/// Puts that publishing a new segment takes: its files with their checksums, the probe, the manifest.
fn puts_of_a_publish() -> usize {
    segment_files(0).len() + 3
}

#[test]
fn what_is_published_is_what_is_read_and_versions_count_from_one() {
    for place in Place::both() {
        let index = place.index();
        assert_eq!(index.latest().unwrap(), None);
        assert!(matches!(index.artifact(None), Err(StoreError::NotFound { .. })));
        for seed in 1..=3 {
            let published = index.publish(segment_files(seed), draft(seed)).unwrap();
            assert_eq!(published.version, seed);
            assert_eq!(index.read_manifest(seed).unwrap(), published.manifest);
        }
        assert_eq!(index.versions().unwrap(), [1, 2, 3]);
        (1..=3).for_each(|seed| expect_contents(&index, seed, seed));
        assert_eq!(index.artifact(None).unwrap().version(), 3);
        assert!(matches!(index.artifact(Some(4)), Err(StoreError::NotFound { .. })));
    }
}

#[test]
fn the_same_contents_are_stored_once() {
    for place in Place::both() {
        let index = place.index();
        let first = index.publish(segment_files(1), draft(1)).unwrap();
        let again = index.publish(segment_files(1), draft(1)).unwrap();
        assert_eq!((again.version, again.bytes_written), (2, 0));
        assert_eq!(again.manifest.segments, first.manifest.segments);
        let bytes: u64 = first.manifest.segments[0].files.iter().map(|file| file.size_bytes).sum();
        assert_eq!(first.bytes_written, bytes);
    }
}

#[test]
fn publishers_at_the_same_time_each_get_a_version_of_their_own() {
    const THREADS: u64 = 16;
    const ROUNDS: u64 = 4;
    for place in Place::both() {
        let barrier = Barrier::new(THREADS as usize);
        let index = place.index();
        let mut published: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (barrier, index) = (&barrier, &index);
                    scope.spawn(move || {
                        let publish = |round| {
                            barrier.wait();
                            // Half of them bring the same contents, and so the same files.
                            let contents = if thread % 2 == 0 { 0 } else { thread };
                            let seed = round * THREADS + thread;
                            let published = index.publish(segment_files(contents), draft(seed)).unwrap();
                            (published.version, seed)
                        };
                        (0..ROUNDS).map(publish).collect::<Vec<_>>()
                    })
                })
                .collect();
            publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
        });
        published.sort_unstable();
        let versions: Vec<u64> = published.iter().map(|&(version, _)| version).collect();
        assert_eq!(versions, (1..=THREADS * ROUNDS).collect::<Vec<_>>(), "{}", place.what);
        assert_eq!(index.versions().unwrap(), versions);
        for (version, seed) in published {
            assert_eq!(index.read_manifest(version).unwrap().build.seed, seed, "an update was lost");
            assert!(index.artifact(Some(version)).unwrap().verify(&mut |_| ()).is_sound());
        }
    }
}

#[test]
fn a_publisher_killed_at_any_put_leaves_the_versions_as_they_were_and_the_next_one_succeeds() {
    for place_of in [Place::memory as fn() -> Place, Place::local] {
        for n in 0..puts_of_a_publish() {
            let place = place_of();
            let index = place.index();
            index.publish(segment_files(1), draft(1)).unwrap();
            let dying = place.index_over(Faulty::new(place.store.clone(), Fault::Killed(n)));
            let error = dying.publish(segment_files(2), draft(2)).unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "put {n}: {error}");
            assert_eq!(index.versions().unwrap(), [1], "put {n}");
            expect_contents(&index, 1, 1);
            assert_eq!(index.publish(segment_files(2), draft(2)).unwrap().version, 2);
            expect_contents(&index, 2, 2);
        }
        let place = place_of();
        let last = Faulty::new(place.store.clone(), Fault::Killed(puts_of_a_publish()));
        place.index_over(last.clone()).publish(segment_files(2), draft(2)).unwrap();
        assert_eq!(last.puts(), puts_of_a_publish(), "every put has been tried");
    }
}

#[test]
fn a_lost_answer_makes_no_second_version_and_no_half_of_one() {
    for n in 0..puts_of_a_publish() {
        let place = Place::memory();
        let index = place.index_over(Faulty::new(place.store.clone(), Fault::AnswerLost(n)));
        let published = index.publish(segment_files(1), draft(1));
        if n == puts_of_a_publish() - 1 {
            assert_eq!(published.unwrap().version, 1, "the manifest is there, whatever the answer was");
            assert_eq!(place.index().versions().unwrap(), [1]);
            expect_contents(&place.index(), 1, 1);
        } else if n == puts_of_a_publish() - 2 {
            // The probe, which must be answered: here the store did refuse, so the refusal is the answer.
            published.unwrap();
        } else {
            assert!(published.is_err(), "put {n}");
            assert_eq!(place.index().versions().unwrap(), [0; 0]);
        }
    }
}

#[test]
fn a_publisher_that_was_overtaken_unawares_takes_the_next_number() {
    let place = Place::memory();
    let index = place.index_over(Faulty::new(place.store.clone(), Fault::Overtaken));
    assert_eq!(index.publish(segment_files(1), draft(1)).unwrap().version, 2);
    expect_contents(&place.index(), 2, 1);
    assert_eq!(place.index().read_manifest(1).unwrap().build.seed, 2);
}

#[test]
fn what_the_store_writes_wrongly_is_noticed_when_it_is_read_back() {
    for n in (0..puts_of_a_publish()).filter(|&n| n != puts_of_a_publish() - 2) {
        let place = Place::memory();
        let index = place.index_over(Faulty::new(place.store.clone(), Fault::BitFlipped(n)));
        let error = index.publish(segment_files(1), draft(1)).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "put {n}: {error}");
        let artifact = place.index().artifact(None);
        assert!(artifact.is_err(), "put {n}: a damaged version can be opened");
    }
}

#[test]
fn a_store_that_overwrites_where_asked_not_to_is_refused() {
    let place = Place::memory();
    let index = place.index_over(Faulty::new(place.store.clone(), Fault::AlwaysOverwrites));
    let error = index.publish(segment_files(1), draft(1)).unwrap_err();
    assert!(matches!(error, StoreError::Overwrites { .. }), "{error}");
    assert!(matches!(index.probe(), Err(StoreError::Overwrites { .. })));
    assert_eq!(index.versions().unwrap(), [0; 0]);
    place.index_over(Faulty::new(place.store.clone(), Fault::Killed(usize::MAX))).probe().unwrap();
}

#[test]
fn what_a_killed_publisher_left_half_written_is_put_right() {
    for place in Place::both() {
        let index = place.index();
        index.publish(segment_files(1), draft(1)).unwrap();
        let objects = place.objects(1);
        place.delete(&objects[0]);
        for (number, object) in objects[1..].iter().enumerate() {
            let bytes = place.get(object);
            match number % 3 {
                0 => place.delete(object),
                1 => place.put(object, bytes.slice(..bytes.len() / 2)),
                _ => place.put(object, vec![0; bytes.len()]),
            }
        }
        assert_eq!(index.publish(segment_files(1), draft(1)).unwrap().version, 1);
        expect_contents(&index, 1, 1);
    }
}

fn certificate() -> Certificate {
    let recall = Recall { k: 10, mean: 0.962_5, low: 0.951_25, high: 0.971 };
    let latency_us = Latency { p50: 41.5, p95: 77.125, p99: 103.0 };
    let point = CertificatePoint { effort: 32, refine: 64, recall: vec![recall], latency_us, qps: 21_000.5 };
    Certificate {
        query_set_digest: Digest::of(b"queries"),
        queries: 1000,
        ground_truth_digest: Digest::of(b"truth"),
        k: vec![10],
        points: vec![point],
        target_k: 10,
        target_recall: 0.95,
        gate: Some(Gate { k: 10, min_recall: 0.9 }),
        chosen_effort: 32,
        chosen_refine: 64,
    }
}

#[test]
fn a_rollback_is_a_new_version_with_the_old_segments_and_certificate() {
    for place in Place::both() {
        let index = place.index();
        let mut certified = draft(1);
        certified.certificate = Some(certificate());
        let first = index.publish(segment_files(1), certified).unwrap();
        index.publish(segment_files(2), draft(2)).unwrap();
        index.publish(segment_files(3), draft(3)).unwrap();
        assert_eq!(index.rollback(1).unwrap(), 4);
        let manifest = index.read_manifest(4).unwrap();
        assert_eq!((manifest.rolled_back_from, manifest.restores), (Some(3), Some(1)));
        assert_eq!(manifest.segments, first.manifest.segments);
        assert_eq!(manifest.build, first.manifest.build);
        assert_eq!(manifest.build.certificate, Some(certificate()));
        expect_contents(&index, 4, 1);
        assert_eq!(index.versions().unwrap(), [1, 2, 3, 4]);
        assert!(matches!(index.rollback(9), Err(StoreError::NotFound { .. })));
    }
}

#[test]
fn a_damaged_version_is_not_rolled_back_to() {
    let place = Place::memory();
    let index = place.index();
    index.publish(segment_files(1), draft(1)).unwrap();
    index.publish(segment_files(2), draft(2)).unwrap();
    place.put(&place.objects(1)[2], "damage");
    assert!(matches!(index.rollback(1), Err(StoreError::Damaged { .. })));
    assert_eq!(index.versions().unwrap(), [1, 2]);
}

#[test]
fn files_among_the_versions_that_are_none_are_passed_over() {
    for place in Place::both() {
        let index = place.index();
        index.publish(segment_files(1), draft(1)).unwrap();
        for stray in
            ["v/README.md", "v/2.json", "v/99999999999999999999.json", "v/sub/00000000000000000009.json"]
        {
            place.put(stray, "stray");
        }
        assert_eq!(index.versions().unwrap(), [1], "{}", place.what);
        assert_eq!(index.publish(segment_files(2), draft(2)).unwrap().version, 2);
    }
}

#[test]
fn after_the_last_number_there_is_no_version() {
    let place = Place::memory();
    place.put(&format!("v/{}.json", u64::MAX), "{}");
    let error = place.index().publish(segment_files(1), draft(1)).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
}

#[test]
fn names_that_would_leave_the_folder_are_refused_before_anything_is_written() {
    for root in ["memory://names", "/tmp"] {
        for name in ["", "..", "../x", "/etc", "a/b", ".hidden"] {
            assert!(matches!(IndexStore::named(root, name), Err(StoreError::Name(_))), "{root} {name}");
        }
        assert_eq!(IndexStore::named(root, "glove").unwrap().name(), "glove");
    }
    let place = Place::memory();
    let publish = |files| place.index().publish(files, draft(1)).unwrap_err();
    for name in ["", "..", "../x", "/x", "a/b", "checksums.safetensors"] {
        let error = publish(vec![(name.into(), Bytes::from_static(b"x"))]);
        assert!(matches!(error, StoreError::Name(_) | StoreError::Refused { .. }), "{name}: {error}");
    }
    let twice = vec![("a".to_string(), Bytes::new()), ("a".to_string(), Bytes::new())];
    assert!(matches!(publish(twice), StoreError::Refused { .. }));
    assert!(matches!(publish(vec![]), StoreError::Refused { .. }));
    assert_eq!(place.index().versions().unwrap(), [0; 0]);
}

#[test]
fn a_draft_that_cannot_be_written_leaves_nothing_behind() {
    let place = Place::memory();
    let mut nonsense = draft(1);
    nonsense.certificate = Some(Certificate { target_recall: f64::NAN, ..certificate() });
    let counting = Faulty::new(place.store.clone(), Fault::Killed(usize::MAX));
    let error = place.index_over(counting.clone()).publish(segment_files(1), nonsense).unwrap_err();
    let StoreError::Malformed { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(&**source, FileError::Manifest(ManifestError::Json { .. })), "{error}");
    assert_eq!(counting.puts(), 0);
}

#[test]
fn a_file_of_several_chunks_and_parts_comes_back_as_it_was() {
    for place in Place::both() {
        // Above the size from which objects are written in parts; not a multiple of anything.
        let big: Bytes =
            (0..(64 << 20) + 12_345u32).map(|i| (i ^ (i >> 13)) as u8).collect::<Vec<_>>().into();
        place.index().publish(vec![("big.bin".into(), big.clone())], draft(1)).unwrap();
        let artifact = place.index().artifact(None).unwrap();
        assert!(artifact.only_segment().unwrap().read("big.bin").unwrap() == big);
        let mut reported = Vec::new();
        let report = artifact.verify(&mut |progress| reported.push((progress.bytes_done, progress.bytes)));
        assert!(report.is_sound());
        assert_eq!(reported.last(), Some(&(report.bytes, report.bytes)));
        assert!(reported.len() > 8 && reported.is_sorted());
    }
}
