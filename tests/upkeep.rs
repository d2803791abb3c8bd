//! Garbage collection takes nothing that a version names, whenever it is killed and whoever publishes meanwhile; a copy is
//! as good as what it was made of, and restores it.

mod fixture;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use annvil::artifact::encryption::Key;
use annvil::store::{Copied, GcPolicy, GcReport, IndexStore, RemovedSegment, Sealing, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use fixture::{Place, contents, draft, read_contents, segment_files};
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

const ALL_AGES: Duration = Duration::ZERO;
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn policy(keep: usize, older_than: Duration) -> GcPolicy {
    GcPolicy { keep, older_than, dry_run: false }
}

fn expect_contents(index: &IndexStore, version: u64, seed: u64) {
    assert_eq!(read_contents(&index.artifact(Some(version)).unwrap()).unwrap(), contents(seed));
}

/// A store that removes `left` objects and then fails for good, and before a manifest is put lets something else happen.
struct Watched {
    inner: Arc<dyn ObjectStore>,
    left: AtomicUsize,
    before_manifest: Box<dyn Fn() + Send + Sync>,
}

impl Watched {
    fn removing(inner: &Arc<dyn ObjectStore>, left: usize) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), left: left.into(), before_manifest: Box::new(|| ()) })
    }

    fn interrupted(
        inner: &Arc<dyn ObjectStore>,
        before_manifest: impl Fn() + Send + Sync + Clone + 'static,
    ) -> Arc<Self> {
        // On a thread of its own: this one drives requests, those of the interruption among them.
        let before_manifest = Box::new(move || std::thread::spawn(before_manifest.clone()).join().unwrap());
        Arc::new(Self { inner: inner.clone(), left: usize::MAX.into(), before_manifest })
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if path.as_ref().ends_with(".json") {
            (self.before_manifest)();
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
        // As many as are left, one after the other, as a process that is killed would have.
        let left = self.left.load(Ordering::SeqCst);
        let inner = self.inner.clone();
        let counted = paths.enumerate().then(move |(number, path)| {
            let inner = inner.clone();
            async move {
                if number >= left {
                    return Err(object_store::Error::Generic { store: "Watched", source: "killed".into() });
                }
                let one = futures_util::stream::once(async { path }).boxed();
                inner.delete_stream(one).next().await.unwrap()
            }
        });
        self.left.store(left.saturating_sub(1), Ordering::SeqCst);
        counted.boxed()
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

#[test]
fn old_versions_go_and_what_the_kept_ones_name_stays() {
    for place in Place::both() {
        let index = place.index();
        for seed in [1, 2, 1, 3] {
            index.publish(segment_files(seed), draft(seed)).unwrap();
        }
        let would = index.collect_garbage(&GcPolicy { dry_run: true, ..policy(2, ALL_AGES) }).unwrap();
        assert_eq!(index.versions().unwrap(), [1, 2, 3, 4], "a dry run removed something");
        let report = index.collect_garbage(&policy(2, ALL_AGES)).unwrap();
        assert_eq!(report, would, "{}: a dry run says what happens", place.what);
        assert_eq!((report.kept_versions, report.removed_versions), (vec![4, 3], vec![1, 2]));
        // Version 1's segment is version 3's as well.
        assert_eq!(report.removed_segments.len(), 1);
        assert_eq!(index.versions().unwrap(), [3, 4]);
        expect_contents(&index, 3, 1);
        expect_contents(&index, 4, 3);
        assert_eq!(index.publish(segment_files(2), draft(2)).unwrap().version, 5);
        expect_contents(&index, 5, 2);
        let nothing = index.collect_garbage(&policy(3, ALL_AGES)).unwrap();
        assert_eq!((nothing.removed_bytes, nothing.kept_versions.len()), (0, 3));
    }
}

#[test]
fn what_is_young_stays_and_so_does_the_latest() {
    for place in Place::both() {
        let index = place.index();
        for seed in 1..=3 {
            index.publish(segment_files(seed), draft(seed)).unwrap();
        }
        // A build under way: files that no version names yet.
        index.publish(segment_files(9), draft(9)).unwrap();
        place.delete("v/00000000000000000004.json");
        let report = index.collect_garbage(&policy(1, A_DAY)).unwrap();
        assert_eq!((report.removed_bytes, report.young_segments.len()), (0, 1));
        assert_eq!(report.kept_versions, [3, 2, 1]);
        let report = index.collect_garbage(&policy(0, ALL_AGES)).unwrap();
        assert_eq!(report.kept_versions, [3], "one version stays, whatever is asked for");
        assert_eq!(report.removed_segments.len(), 3);
        expect_contents(&index, 3, 3);
    }
}

#[test]
fn a_collection_killed_at_any_removal_leaves_whole_versions_and_the_next_one_finishes() {
    for place_of in [Place::memory as fn() -> Place, Place::local] {
        let expected = {
            let place = place_of();
            three_versions(&place);
            place.index().collect_garbage(&policy(1, ALL_AGES)).unwrap();
            place.all_objects()
        };
        for n in 0.. {
            let place = place_of();
            three_versions(&place);
            let dying = place.index_over(Watched::removing(&place.store, n));
            let outcome = dying.collect_garbage(&policy(1, ALL_AGES));
            let index = place.index();
            for version in index.versions().unwrap() {
                let artifact = index.artifact(Some(version)).unwrap();
                assert!(
                    artifact.verify(&mut |_| ()).is_sound(),
                    "killed at {n}: version {version} is not whole"
                );
            }
            index.collect_garbage(&policy(1, ALL_AGES)).unwrap();
            assert_eq!(place.all_objects(), expected, "killed at {n}");
            expect_contents(&index, 3, 3);
            if outcome.is_ok() {
                assert!(n > 3, "the collection was killed at every removal");
                break;
            }
        }
    }
}

fn three_versions(place: &Place) {
    for seed in 1..=3 {
        place.index().publish(segment_files(seed), draft(seed)).unwrap();
    }
}

#[test]
fn a_kept_version_that_cannot_be_read_stops_the_collection() {
    for place in Place::both() {
        three_versions(&place);
        let before = place.all_objects();
        place.put("v/00000000000000000003.json", "damage");
        let error = place.index().collect_garbage(&policy(2, ALL_AGES)).unwrap_err();
        assert!(matches!(error, StoreError::Malformed { .. }), "{error}");
        let mut after = place.all_objects();
        // By which it asked the store for the time.
        after.retain(|object| object != "probe");
        assert_eq!(after, before);
        // One that goes may be as damaged as it likes.
        place.delete("v/00000000000000000003.json");
        place.put("v/00000000000000000001.json", "damage");
        let report = place.index().collect_garbage(&policy(1, ALL_AGES)).unwrap();
        assert_eq!((report.removed_versions, report.removed_segments.len()), (vec![1], 2));
        expect_contents(&place.index(), 2, 2);
    }
}

#[test]
fn what_is_not_an_index_s_own_is_left_alone() {
    for place in Place::both() {
        three_versions(&place);
        let strays = ["seg/notes/readme.txt", "seg/README", "v/readme.txt", "other.txt"];
        strays.iter().for_each(|stray| place.put(stray, "mine"));
        place.index().collect_garbage(&policy(1, ALL_AGES)).unwrap();
        strays.iter().for_each(|stray| assert_eq!(place.get(stray), "mine", "{stray}"));
    }
}

#[test]
fn files_that_a_killed_writer_left_half_written_are_collected() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("index");
    let index = IndexStore::open(root.to_str().unwrap()).unwrap();
    for seed in 1..=2 {
        index.publish(segment_files(seed), draft(seed)).unwrap();
    }
    let segment = index.read_manifest(2).unwrap().segments[0].id;
    let halves = [
        format!("seg/{segment}/graph.safetensors#1"),
        format!("seg/{}/graph.safetensors#2", "0".repeat(64)),
        "v/00000000000000000003.json#1".into(),
    ];
    for half in &halves {
        std::fs::create_dir_all(root.join(half).parent().unwrap()).unwrap();
        std::fs::write(root.join(half), "half").unwrap();
    }
    let young = index.collect_garbage(&policy(2, A_DAY)).unwrap();
    assert_eq!(young.removed_leftovers, 0);
    let would = index.collect_garbage(&GcPolicy { dry_run: true, ..policy(1, ALL_AGES) }).unwrap();
    let report: GcReport = index.collect_garbage(&policy(1, ALL_AGES)).unwrap();
    assert_eq!(report, would);
    assert_eq!((report.removed_leftovers, report.removed_segments.len()), (3, 1));
    let segments: Vec<_> =
        std::fs::read_dir(root.join("seg")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(segments, [segment.to_string().as_str()], "no empty folders stay");
    expect_contents(&index, 2, 2);
}

/// Makes every file of the segments two days old.
fn age(place: &Place) {
    let then = SystemTime::now() - 2 * A_DAY;
    for object in place.all_objects().iter().filter(|object| object.starts_with("seg/")) {
        let file = std::fs::File::options().write(true).open(place.local_path(object)).unwrap();
        file.set_modified(then).unwrap();
    }
}

#[test]
fn a_publisher_does_not_rest_on_files_that_are_about_to_be_collected() {
    let place = Place::local();
    three_versions(&place);
    (1..=2).for_each(|version| place.delete(&format!("v/{version:020}.json")));
    age(&place);
    // Version 1's segment lies there, old and unnamed; it is collected when the publisher has done all but the last.
    let (collecting, collected) = (place.index(), Arc::new(AtomicUsize::new(0)));
    let count = collected.clone();
    let interrupted = Watched::interrupted(&place.store, move || {
        let report = collecting.collect_garbage(&policy(1, A_DAY)).unwrap();
        count.fetch_add(report.removed_segments.len(), Ordering::SeqCst);
    });
    let published = place.index_over(interrupted).publish(segment_files(1), draft(1)).unwrap();
    assert_eq!(collected.load(Ordering::SeqCst), 1, "version 2's was collected, and nothing else");
    expect_contents(&place.index(), published.version, 1);
}

#[test]
fn publishing_while_garbage_is_collected_loses_nothing() {
    for _ in 0..5 {
        let place = Place::local();
        three_versions(&place);
        (1..=3).for_each(|version| place.delete(&format!("v/{version:020}.json")));
        age(&place);
        std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..3)
                .map(|seed| {
                    let index = place.index();
                    scope.spawn(move || index.publish(segment_files(1 + seed), draft(seed)).unwrap().version)
                })
                .collect();
            let index = place.index();
            while !publishers.iter().all(|publisher| publisher.is_finished()) {
                index.collect_garbage(&policy(1, A_DAY)).unwrap();
            }
        });
        let index = place.index();
        assert_eq!(index.versions().unwrap(), [1, 2, 3]);
        for version in 1..=3 {
            assert!(index.artifact(Some(version)).unwrap().verify(&mut |_| ()).is_sound());
        }
    }
}

#[test]
fn a_rollback_to_a_version_that_is_collected_meanwhile_is_told_so() {
    let place = Place::memory();
    three_versions(&place);
    let collecting = place.index();
    let interrupted = Watched::interrupted(&place.store, move || {
        collecting.collect_garbage(&policy(1, ALL_AGES)).unwrap();
    });
    let error = place.index_over(interrupted).rollback(1).unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused { what, .. } if what.contains("version 1 was removed")),
        "{error}"
    );
    expect_contents(&place.index(), 3, 3);
}

#[test]
fn a_copy_is_the_same_version_byte_for_byte() {
    for place in Place::both() {
        three_versions(&place);
        for other in Place::both() {
            let copied = place.index().copy_to(&other.index(), Some(2), &mut |_| ()).unwrap();
            assert_eq!((copied.version, copied.bytes), (2, copied.bytes_written));
            assert_eq!(other.index().versions().unwrap(), [2]);
            expect_contents(&other.index(), 2, 2);
            for object in place.objects(2) {
                assert_eq!(place.get(&object), other.get(&object), "{object}");
            }
            let again = place.index().copy_to(&other.index(), Some(2), &mut |_| ()).unwrap();
            assert_eq!(again.bytes_written, 0);
            assert_eq!(place.index().copy_to(&other.index(), None, &mut |_| ()).unwrap().version, 3);
        }
    }
}

/// Version 1 of `source` goes to a place where a killed copy has left its segment whole, days ago, by way of `copy`; when all but
/// the last of it is done, garbage of `older_than` is collected there. Returns the segments collected.
fn collected_inside_a_copy(
    older_than: Duration,
    copy: &dyn Fn(&IndexStore) -> Copied,
) -> (Copied, Vec<RemovedSegment>, Place) {
    let place = Place::local();
    copy(&place.index());
    place.delete("v/00000000000000000001.json");
    age(&place);
    let (collecting, collected) = (place.index(), Arc::new(Mutex::new(Vec::new())));
    let removed = collected.clone();
    let interrupted = Watched::interrupted(&place.store, move || {
        let report = collecting.collect_garbage(&policy(1, older_than)).unwrap();
        removed.lock().unwrap().extend(report.removed_segments);
    });
    let copied = copy(&place.index_over(interrupted));
    let removed = collected.lock().unwrap().clone();
    (copied, removed, place)
}

#[test]
fn a_copy_does_not_rest_on_files_that_are_about_to_be_collected() {
    let source = Place::memory();
    source.index().publish(segment_files(1), draft(1)).unwrap();
    let key = Key::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    assert_eq!(key.is_ok(), cfg!(feature = "encryption"));
    let sealing = key.ok().map(|key| Sealing { key: Arc::new(key), key_id: "kb".into() });
    for sealing in [None].into_iter().chain(sealing.map(Some)) {
        let copy = |to: &IndexStore| match &sealing {
            None => source.index().copy_to(to, None, &mut |_| ()).unwrap(),
            Some(sealing) => source.index().copy_rekeyed(to, None, sealing, &mut |_| ()).unwrap(),
        };
        let expect_whole = |place: &Place| {
            let index = place.index();
            let index = sealing.iter().fold(index, |index, sealing| index.sealed_with(sealing.clone()));
            expect_contents(&index, 1, 1);
        };
        // The collection finds the segment young, for the price of its smallest file …
        let (copied, removed, place) = collected_inside_a_copy(A_DAY, &copy);
        assert_eq!(removed, []);
        assert!(0 < copied.bytes_written && copied.bytes_written < copied.bytes / 4, "{copied:?}");
        expect_whole(&place);
        // … and what it takes all the same, as one does that had found it old, is written again.
        let (copied, removed, place) = collected_inside_a_copy(ALL_AGES, &copy);
        assert_eq!(removed.len(), 1);
        assert!(copied.bytes_written > copied.bytes, "{copied:?}");
        expect_whole(&place);
    }
}

#[test]
fn damage_is_not_copied() {
    for place in Place::both() {
        for number in 1..=place_with_one_version(&place) {
            place_with_one_version(&place);
            let object = &place.objects(1)[number];
            let mut bytes = place.get(object).to_vec();
            bytes[0] ^= 1;
            place.put(object, bytes);
            let other = Place::memory();
            let error = place.index().copy_to(&other.index(), None, &mut |_| ()).unwrap_err();
            let StoreError::Damaged { place: told, .. } = &error else { panic!("{object}: {error}") };
            assert_eq!((&told.file, told.version), (object, Some(1)));
            assert_eq!(other.index().versions().unwrap(), [0; 0]);
            place.delete("v/00000000000000000001.json");
        }
    }
}

/// Publishes one version; how many files its segment has.
fn place_with_one_version(place: &Place) -> usize {
    let index = place.index();
    if index.versions().unwrap().is_empty() {
        index.publish(segment_files(1), draft(1)).unwrap();
    }
    place.objects(1).len() - 1
}

#[test]
fn another_version_of_the_number_is_not_replaced_by_a_copy() {
    let (place, other) = (Place::memory(), Place::memory());
    place.index().publish(segment_files(1), draft(1)).unwrap();
    other.index().publish(segment_files(2), draft(2)).unwrap();
    let error = place.index().copy_to(&other.index(), None, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused { what, .. } if what.contains("another version 1")),
        "{error}"
    );
    expect_contents(&other.index(), 1, 2);
}

#[test]
fn whatever_is_damaged_is_restored_from_a_copy_to_the_byte() {
    for place in Place::both() {
        three_versions(&place);
        let backup = Place::memory();
        place.index().copy_to(&backup.index(), Some(2), &mut |_| ()).unwrap();
        let objects = place.objects(2);
        let right: Vec<Bytes> = objects.iter().map(|object| place.get(object)).collect();
        // Each by itself, each way; then everything at once.
        for (number, object) in objects.iter().enumerate() {
            for damage in 0..4 {
                let bytes = &right[number];
                match damage {
                    0 if number > 0 => place.delete(object),
                    1 => place.put(object, bytes.slice(..bytes.len() / 2)),
                    2 => place.put(object, vec![0; bytes.len()]),
                    _ => place.put(object, [&bytes[..], b"x"].concat()),
                }
                let restored = place.index().repair_from(&backup.index(), Some(2)).unwrap();
                assert_eq!(restored, [object.as_str()], "damage {damage}");
                assert_eq!(&place.get(object), bytes);
            }
        }
        objects.iter().for_each(|object| place.put(object, "damage"));
        let restored = place.index().repair_from(&backup.index(), Some(2)).unwrap();
        assert_eq!(restored.len(), objects.len());
        objects.iter().zip(&right).for_each(|(object, bytes)| assert_eq!(&place.get(object), bytes));
        assert_eq!(place.index().repair_from(&backup.index(), Some(2)).unwrap(), [""; 0]);
    }
}

#[test]
fn nothing_wrong_is_taken_from_a_copy() {
    let (place, backup) = (Place::memory(), Place::memory());
    place.index().publish(segment_files(1), draft(1)).unwrap();
    place.index().copy_to(&backup.index(), None, &mut |_| ()).unwrap();
    let objects = place.objects(1);
    // Damaged on both sides: what can be restored is, and the other is named.
    for object in &objects[1..3] {
        place.put(object, "damage");
    }
    backup.put(&objects[1], "other damage");
    let error = place.index().repair_from(&backup.index(), None).unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { place, .. } if place.file == objects[1]), "{error}");
    assert_eq!(
        (&place.get(&objects[1])[..], &place.get(&objects[2])),
        (&b"damage"[..], &backup.get(&objects[2]))
    );

    // A manifest of another index of the same name.
    let other = Place::memory();
    other.index().publish(segment_files(5), draft(5)).unwrap();
    place.put(&objects[0], "damage");
    let error = place.index().repair_from(&other.index(), None).unwrap_err();
    assert!(matches!(&error, StoreError::Refused { .. }), "{error}");
    assert_eq!(place.get(&objects[0]), "damage");
    // And one that the copy has not, or not whole.
    for manifest in [None, Some("damage")] {
        other.delete("v/00000000000000000001.json");
        manifest.into_iter().for_each(|text| other.put("v/00000000000000000001.json", text));
        let error = place.index().repair_from(&other.index(), Some(1)).unwrap_err();
        assert!(matches!(&error, StoreError::Malformed { .. }), "{error}");
    }
}
