//! Where an open index's bytes live, how it follows its versions, and what damage does to either.

mod fixture;
mod published;
mod rows;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use annvil::error::Error;
use annvil::ivf::Refine;
use annvil::loader::{Check, Index, LoadError, OpenOptions, Query, QueryError, Refresh, Residence, Watched};
use annvil::store::StoreError;
use annvil::vectors::{Metric, VectorBuf};
use fixture::Place;
use published::{KINDS, Published};
use rows::{clustered, normal};

const MAPPED: [Residence; 2] = [Residence::Mapped(Check::AtOpen), Residence::Mapped(Check::InBackground)];

fn data(seed: u64) -> VectorBuf {
    clustered(1500, 10, Metric::L2, seed)
}

fn queries() -> VectorBuf {
    clustered(20, 10, Metric::L2, 9)
}

/// An index in a folder of local files.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn uri(&self) -> String {
        self.folder.path().join("index").to_str().unwrap().into()
    }

    fn publish(&self, kind: &str, data: &VectorBuf) -> u64 {
        let published = Published::new(kind, data, Metric::L2, Refine::F32);
        let store = annvil::store::IndexStore::open(&self.uri()).unwrap();
        store.publish(published.files, published.draft).unwrap().version
    }

    /// The file called `name` of the newest segment.
    fn file(&self, version: u64, name: &str) -> PathBuf {
        let manifest = annvil::store::IndexStore::open(&self.uri()).unwrap().read_manifest(version).unwrap();
        Path::new(&self.uri()).join("seg").join(manifest.segments[0].id.to_string()).join(name)
    }
}

fn open(uri: &str, residence: Residence) -> Result<Index, LoadError> {
    OpenOptions::new().residence(residence).open(uri)
}

fn flip(file: &Path, at_from_end: usize) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.len() - at_from_end;
    bytes[at] ^= 1;
    // Another file in its place: the one that is mapped stays what it was.
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_mapped_index_answers_as_a_resident_one() {
    for kind in KINDS {
        let folder = Folder::new();
        folder.publish(kind, &data(1));
        let query = Query::new(10).all_attributes();
        let expected =
            open(&folder.uri(), Residence::Resident).unwrap().ask(queries().view(), &query).unwrap();
        for uri in [folder.uri(), format!("file://{}", folder.uri())] {
            for residence in MAPPED {
                let index = open(&uri, residence).unwrap();
                assert_eq!(index.ask(queries().view(), &query).unwrap(), expected, "{kind}");
                assert!(index.wait_for_check().is_empty());
                assert!(index.damage().is_some_and(<[StoreError]>::is_empty));
            }
        }
    }
}

#[test]
fn only_local_files_are_mapped() {
    for residence in MAPPED {
        let error = open("memory://somewhere/index", residence).err().unwrap();
        assert!(
            matches!(&error, LoadError::Store(StoreError::NotFound { .. }) | LoadError::NotLocal { .. }),
            "{error}"
        );
        let watched = Watched::of(Place::memory().index(), OpenOptions::new().residence(residence));
        assert!(matches!(watched, Err(LoadError::NotLocal { .. })));
    }
}

#[test]
fn damage_to_a_mapped_file_is_named_at_open_or_by_the_check_that_follows() {
    let folder = Folder::new();
    folder.publish("flat", &data(1));
    let file = folder.file(1, "vectors.safetensors");
    // The last byte but two of a row: still a number, and another.
    flip(&file, 3);
    let error = open(&folder.uri(), Residence::Mapped(Check::AtOpen)).err().unwrap();
    assert!(
        matches!(&error, LoadError::Store(StoreError::Damaged { place, .. }) if place.file.ends_with("vectors.safetensors")),
        "{error}"
    );
    let index = open(&folder.uri(), Residence::Mapped(Check::InBackground)).unwrap();
    assert_eq!(index.wait_for_check().len(), 1);
    let error = index.ask(queries().view(), &Query::new(5)).unwrap_err();
    assert!(matches!(&error, QueryError::Damaged(what) if what.contains("vectors.safetensors")), "{error}");
    assert_eq!(Error::from(error).exit_code(), 4);
}

#[test]
fn a_mapped_file_that_is_gone_or_of_another_length_is_named() {
    for residence in MAPPED {
        let folder = Folder::new();
        folder.publish("flat", &data(1));
        let file = folder.file(1, "vectors.safetensors");
        let bytes = fs::read(&file).unwrap();
        for cut in [0, 1, bytes.len() - 1] {
            fs::write(&file, &bytes[..cut]).unwrap();
            let error = open(&folder.uri(), residence).err().unwrap();
            assert!(matches!(error, LoadError::Store(StoreError::Damaged { .. })), "{error}");
        }
        fs::remove_file(&file).unwrap();
        let error = open(&folder.uri(), residence).err().unwrap();
        assert!(matches!(error, LoadError::Store(StoreError::Missing { .. })), "{error}");
    }
}

#[test]
fn deleting_files_under_a_map_changes_no_answer() {
    let folder = Folder::new();
    folder.publish("hnsw", &data(1));
    let index = open(&folder.uri(), Residence::Mapped(Check::AtOpen)).unwrap();
    let before = index.ask(queries().view(), &Query::new(10)).unwrap();
    fs::remove_dir_all(folder.uri()).unwrap();
    assert_eq!(index.ask(queries().view(), &Query::new(10)).unwrap(), before);
}

#[test]
fn an_index_that_does_not_fit_says_by_how_much_before_it_is_read() {
    for kind in KINDS {
        let folder = Folder::new();
        folder.publish(kind, &data(1));
        let options = OpenOptions::new().filter_cache_bytes(1000);
        let index = options.open(&folder.uri()).unwrap();
        let needed = options.needed_bytes(index.manifest());
        let files = &index.manifest().segments[0].files;
        let checksums = &index.manifest().segments[0].checksums;
        let least: u64 =
            files.iter().filter(|file| file.name != *checksums).map(|file| file.size_bytes).sum();
        assert!(needed >= least + 7000 && needed <= 2 * least + 7000, "{kind}: {needed} for {least}");
        assert!(options.clone().memory_limit_bytes(needed).open(&folder.uri()).is_ok());
        // Nothing of it is looked at: a file that is gone is not missed.
        fs::remove_file(folder.file(1, "ids.arrow")).unwrap();
        let error = options.clone().memory_limit_bytes(needed - 7).open(&folder.uri()).err().unwrap();
        let (limit, text) = (needed - 7, error.to_string());
        assert_eq!(
            text,
            format!("the index takes {needed} bytes of memory, 7 more than the limit of {limit}")
        );
        assert_eq!(Error::from(error).exit_code(), 2);
        let mapped = options.clone().residence(MAPPED[0]).memory_limit_bytes(7000).open(&folder.uri());
        assert!(
            matches!(mapped, Err(LoadError::Store(StoreError::Missing { .. }))),
            "a map takes none of it"
        );
    }
}

#[test]
fn a_new_version_is_taken_between_queries_and_the_old_is_let_go_with_its_last_reader() {
    for residence in [Residence::Resident, MAPPED[0]] {
        let folder = Folder::new();
        folder.publish("hnsw", &data(1));
        let watched = Watched::open(&folder.uri(), OpenOptions::new().residence(residence)).unwrap();
        assert!(matches!(watched.refresh(), Ok(Refresh::Unchanged)));
        let reader = watched.current();
        let of_old = reader.ask(queries().view(), &Query::new(10)).unwrap();
        folder.publish("flat", &data(2));
        assert!(matches!(watched.refresh(), Ok(Refresh::Taken { from: 1, to: 2 })));
        assert_eq!((watched.current().version(), reader.version()), (2, 1));
        assert_eq!(
            reader.ask(queries().view(), &Query::new(10)).unwrap(),
            of_old,
            "a reader's version is its own"
        );
        let new = watched.current();
        let fresh = Index::open(&folder.uri()).unwrap().ask(queries().view(), &Query::new(10)).unwrap();
        assert_eq!(new.ask(queries().view(), &Query::new(10)).unwrap(), fresh);
        let old: Weak<Index> = Arc::downgrade(&reader);
        drop(reader);
        assert!(old.upgrade().is_none(), "nobody holds it any more");
    }
}

#[test]
fn the_highest_of_several_new_versions_is_taken() {
    let place = Place::memory();
    let store = place.index();
    let publish = |seed| {
        let published = Published::new("flat", &data(seed), Metric::L2, Refine::F32);
        store.publish(published.files, published.draft).unwrap()
    };
    publish(1);
    let watched = Watched::of(store.clone(), OpenOptions::new()).unwrap();
    (2..5).for_each(|seed| drop(publish(seed)));
    assert!(matches!(watched.refresh(), Ok(Refresh::Taken { from: 1, to: 4 })));
}

#[test]
fn a_version_that_fails_its_checks_is_not_taken_and_the_next_good_one_is() {
    let folder = Folder::new();
    folder.publish("flat", &data(1));
    let watched = Watched::open(&folder.uri(), OpenOptions::new()).unwrap();
    let before = watched.current().ask(queries().view(), &Query::new(10)).unwrap();
    folder.publish("flat", &data(2));
    flip(&folder.file(2, "vectors.safetensors"), 3);
    let Ok(Refresh::Refused(refused)) = watched.refresh() else { panic!("damage is seen") };
    assert_eq!(refused.version, 2);
    assert!(matches!(&*refused.reason, LoadError::Store(StoreError::Damaged { .. })));
    assert_eq!(watched.refused().unwrap().version, 2);
    assert_eq!(watched.current().version(), 1);
    assert_eq!(watched.current().ask(queries().view(), &Query::new(10)).unwrap(), before);
    assert!(matches!(watched.refresh(), Ok(Refresh::Unchanged)), "what never changes is not read again");
    folder.publish("flat", &data(3));
    assert!(matches!(watched.refresh(), Ok(Refresh::Taken { from: 1, to: 3 })));
    assert!(watched.refused().is_none());
}

#[test]
fn a_version_that_answers_other_queries_is_not_taken() {
    let folder = Folder::new();
    folder.publish("flat", &data(1));
    let watched = Watched::open(&folder.uri(), OpenOptions::new()).unwrap();
    folder.publish("flat", &normal(50, 7, 1));
    let Ok(Refresh::Refused(refused)) = watched.refresh() else { panic!("7 dimensions for 10") };
    let reason = refused.reason.to_string();
    assert_eq!(reason, "dim of a new version: expected 10, got 7");
}

#[test]
fn a_new_version_over_the_memory_limit_is_not_taken() {
    let folder = Folder::new();
    folder.publish("flat", &data(1));
    let options = OpenOptions::new();
    let needed = options.needed_bytes(Index::open(&folder.uri()).unwrap().manifest());
    let watched = Watched::open(&folder.uri(), options.memory_limit_bytes(needed)).unwrap();
    folder.publish("flat", &clustered(4000, 10, Metric::L2, 1));
    let Ok(Refresh::Refused(refused)) = watched.refresh() else { panic!("it does not fit") };
    assert!(matches!(*refused.reason, LoadError::Memory { .. }));
}

#[test]
fn a_watching_thread_takes_versions_and_ends_when_it_is_dropped() {
    let folder = Folder::new();
    folder.publish("flat", &data(1));
    let watched = Arc::new(Watched::open(&folder.uri(), OpenOptions::new()).unwrap());
    let (sender, turns) = channel();
    let watch =
        watched.every(Duration::from_millis(1), move |turn| drop(sender.send(turn.unwrap()))).unwrap();
    folder.publish("flat", &data(2));
    let taken = turns.iter().find(|turn| matches!(turn, Refresh::Taken { .. })).unwrap();
    assert!(matches!(taken, Refresh::Taken { from: 1, to: 2 }));
    assert_eq!(watched.current().version(), 2);
    drop(watch);
    // The sender has gone with the thread.
    while turns.recv().is_ok() {}
    // A long interval does not hold up whoever is done with it.
    drop(watched.every(Duration::from_secs(3600), |_| ()).unwrap());
    assert_eq!(Arc::strong_count(&watched), 1);
}

#[test]
fn answers_during_swaps_are_those_of_one_version() {
    let folder = Folder::new();
    let asked = queries();
    let answer = |index: &Index| index.ask(asked.view(), &Query::new(10)).unwrap();
    folder.publish("flat", &data(1));
    let watched = Watched::open(&folder.uri(), OpenOptions::new()).unwrap();
    let mut expected = vec![answer(&watched.current())];
    for seed in 2..6 {
        folder.publish("flat", &data(seed));
        expected.push(answer(&Index::open(&folder.uri()).unwrap()));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                (0..50).all(|_| {
                    let index = watched.current();
                    answer(&index) == expected[index.version() as usize - 1]
                })
            });
            assert!(matches!(watched.refresh(), Ok(Refresh::Taken { .. })));
            assert!(reader.join().unwrap());
        });
    }
}
