//! Encrypted indexes: they answer as others do, show nothing without their key, and never answer wrongly, whatever is done to them.
#![cfg(feature = "encryption")]

mod fixture;
mod published;
mod rows;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use annvil::artifact::columns::{self, ATTRIBUTES_FILE};
use annvil::artifact::encryption::{Key, SEALED_BLOCK_BYTES};
use annvil::artifact::tombstones::Tombstones;
use annvil::artifact::{Change, Digest, ManifestError, SealedManifest, StoredManifest, segment_id};
use annvil::error::Error;
use annvil::ivf::Refine;
use annvil::loader::{Answers, Check, Filter, Index, LoadError, OpenOptions, Query, Residence};
use annvil::store::{
    FileError, GcPolicy, IndexStore, KeyFault, KeyReference, NextVersion, Sealing, StoreError,
};
use annvil::vectors::{Metric, VectorBuf};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use fixture::{Place, contents, draft, read_contents, segment_files};
use published::{KINDS, Published};
use rows::clustered;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const ROWS: usize = 3000;
const DIM: usize = 40;

fn sealing(key: &str, key_id: &str) -> Sealing {
    Sealing { key: Arc::new(Key::from_text(key).unwrap()), key_id: key_id.into() }
}

fn sealed(place: &Place) -> IndexStore {
    place.index().sealed_with(sealing(KEY, "kb-2026"))
}

/// A file with a key, and the reference to it.
fn key_file(folder: &Path, key: &str) -> KeyReference {
    let path = folder.join(format!("{}.key", &Digest::of(key.as_bytes()).to_string()[..8]));
    std::fs::write(&path, format!("{key}\n")).unwrap();
    format!("file:{}", path.display()).parse().unwrap()
}

fn attributes() -> RecordBatch {
    let number: Int32Array = (0..ROWS as i32).map(|row| (row % 11 != 0).then_some(row % 10)).collect();
    let name: StringArray = (0..ROWS).map(|row| Some(format!("diagnosis of patient {}", row % 7))).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("severity_code", Arc::new(number) as ArrayRef, true),
        ("clinical_note", Arc::new(name), false),
    ])
    .unwrap()
}

fn publish(kind: &str, store: &IndexStore) {
    let data = clustered(ROWS, DIM, Metric::Cosine, 1);
    let mut published = Published::new(kind, &data, Metric::Cosine, Refine::F16);
    published.files.push((ATTRIBUTES_FILE.into(), columns::encode(&attributes()).unwrap()));
    published.draft.job = serde_json::json!({ "name": "oncology" });
    store.publish(published.files, published.draft).unwrap();
}

fn queries() -> VectorBuf {
    clustered(30, DIM, Metric::Cosine, 9)
}

fn stored(place: &Place, version: u64) -> SealedManifest {
    place.index().read_stored(version).unwrap().sealed().unwrap().clone()
}

/// The objects of an encrypted version.
fn objects(place: &Place, version: u64) -> Vec<String> {
    let folders = stored(place, version).folders;
    let files = folders
        .iter()
        .flat_map(|folder| folder.files.iter().map(|file| format!("seg/{}/{}", folder.id, file.name)));
    std::iter::once(format!("v/{version:020}.json")).chain(files).collect()
}

#[test]
fn an_encrypted_index_answers_as_the_plain_one_bit_by_bit_in_every_family_and_residence() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let [plain, secret] = ["plain", "secret"].map(|name| folder.path().join(name).display().to_string());
        publish(kind, &IndexStore::open(&plain).unwrap());
        publish(kind, &IndexStore::open(&secret).unwrap().sealed_with(sealing(KEY, "kb-2026")));
        let key = key_file(folder.path(), KEY);
        let cache = folder.path().join("cache");
        let asked = [
            Query::new(10).all_attributes(),
            Query::new(5).effort(40),
            Query::new(10).exact(),
            Query::new(10).filter(Filter::parse("severity_code < 3").unwrap()),
        ];
        for residence in [Residence::Resident, Residence::Lazy, Residence::Mapped(Check::AtOpen)] {
            let options = OpenOptions::new().residence(residence);
            let expected = options.open(&plain).unwrap();
            let options = match residence {
                // Twice: from the store, then from what lies on the disk.
                Residence::Lazy => options.disk_cache(&cache, 64 << 20).cache_bytes(1 << 20),
                _ => options,
            };
            for _ in 0..2 {
                let index = options.clone().key(key.clone()).open(&secret).unwrap();
                for query in &asked {
                    let what = format!("{kind}, {residence:?}, {query:?}");
                    let answer = |index: &Index| index.ask(queries().view(), query);
                    assert_eq!(answer(&index).unwrap(), answer(&expected).unwrap(), "{what}");
                }
                let found = index.ids().find(&index.ids().get(17));
                assert_eq!((found, index.manifest().build.kind.as_str()), (Some(17), kind));
                drop(index);
            }
        }
        // They are written when nobody waits any longer.
        let start = std::time::Instant::now();
        let blocks = loop {
            let blocks = files_below(&cache);
            if blocks.iter().any(|(name, _)| name.ends_with(".block")) {
                break blocks;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{kind}: nothing was kept on the disk");
            std::thread::yield_now();
        };
        for (name, bytes) in blocks {
            expect_unreadable(&name, &bytes);
        }
    }
}

fn files_below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            // One that is being written has another name by now.
            path => found.extend(std::fs::read(&path).ok().map(|bytes| (path.display().to_string(), bytes))),
        }
    }
    found
}

/// None of what an index of [`publish`] is made of: ids, attributes, names, hashes of what was encrypted.
fn expect_unreadable(name: &str, bytes: &[u8]) {
    let mut secrets: Vec<Vec<u8>> = [
        "row 1",
        "row 2",
        "diagnosis",
        "patient",
        "severity_code",
        "clinical_note",
        "oncology",
        "safetensors",
        "ARROW1",
        "centroids",
        "vectors",
        "cosine",
        "flat",
        "ivf_pq",
        "hnsw",
        "\"rows\"",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let data = clustered(ROWS, DIM, Metric::Cosine, 1);
    for row in [0, ROWS / 2, ROWS - 1] {
        let values = &data.view().as_slice()[row * DIM..row * DIM + 4];
        secrets.push(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        secrets.push(values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect());
    }
    for secret in secrets {
        let found = bytes.windows(secret.len()).position(|window| window == secret);
        assert_eq!(found, None, "{name}: {}", String::from_utf8_lossy(&secret));
    }
}

#[test]
fn nothing_of_an_index_is_readable_where_it_lies() {
    for kind in KINDS {
        let (place, plain) = (Place::memory(), Place::memory());
        publish(kind, &sealed(&place));
        publish(kind, &plain.index());
        let names = place.all_objects();
        assert_eq!(
            names,
            objects(&place, 1).into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
        let manifest = plain.index().read_manifest(1).unwrap();
        let digests =
            manifest.segments[0].files.iter().map(|file| file.blake3).chain([manifest.segments[0].id]);
        let digests: Vec<String> = digests.map(|digest| digest.to_string()).collect();
        for name in &names {
            let bytes = place.get(name);
            expect_unreadable(name, &bytes);
            expect_unreadable("a name", name.as_bytes());
            for digest in &digests {
                assert!(!name.contains(digest));
                assert!(!bytes.windows(64).any(|window| window == digest.as_bytes()), "{name}: {digest}");
            }
        }
        // Ciphertext looks like noise: of 256 values each is there about as often as any other.
        let largest = names.iter().map(|name| place.get(name)).max_by_key(|bytes| bytes.len()).unwrap();
        let mut counts = [0u32; 256];
        largest.iter().for_each(|&byte| counts[byte as usize] += 1);
        let expected = largest.len() as f64 / 256.0;
        let chi: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        // 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert!(chi < 255.0 + 6.0 * 22.6, "{kind}: {chi}");
    }
}

#[test]
fn equal_contents_give_equal_bytes_and_are_written_once() {
    let place = Place::memory();
    let first = sealed(&place).publish(segment_files(7), draft(7)).unwrap();
    let again = sealed(&place).publish(segment_files(7), draft(7)).unwrap();
    assert_eq!((again.version, again.bytes_written), (2, 0));
    assert_eq!(first.manifest.segments, again.manifest.segments);
    assert_eq!(stored(&place, 1).folders, stored(&place, 2).folders);
    // What a killed publisher left is found and used.
    let elsewhere = Place::memory();
    let objects = objects(&place, 1);
    for object in &objects[1..3] {
        elsewhere.put(object, place.get(object));
    }
    let published = sealed(&elsewhere).publish(segment_files(7), draft(7)).unwrap();
    let there: usize = objects[1..3].iter().map(|object| place.get(object).len()).sum();
    assert_eq!(published.bytes_written, first.bytes_written - there as u64);
    // Under another key nothing is the same.
    let other = Place::memory();
    other.index().sealed_with(sealing(OTHER_KEY, "other")).publish(segment_files(7), draft(7)).unwrap();
    let ids = |place: &Place| stored(place, 1).folders.iter().map(|folder| folder.id).collect::<Vec<_>>();
    assert_eq!(ids(&place), ids(&elsewhere));
    assert_ne!(ids(&place), ids(&other));
}

fn read_all(place: &Place) -> Result<(), StoreError> {
    let store = sealed(place);
    let artifact = store.artifact(Some(1))?;
    let read = read_contents(&artifact);
    if let Ok(read) = &read {
        assert_eq!(*read, contents(7), "a wrong answer");
    }
    let verified = artifact.verify(&mut |_| ()).damage.into_iter().next();
    let without_key = place.index().verify(Some(1), &mut |_| ())?;
    assert_eq!(without_key.report.is_sound(), verified.is_none(), "verify differs with the key");
    verified.map_or(read.map(|_| ()), Err)
}

fn expect_named(place: &Place, object: &str, how: &dyn std::fmt::Display) {
    let error = read_all(place).expect_err(&format!("{object}, {how}, was not noticed"));
    let (StoreError::Damaged { place: named, .. } | StoreError::Malformed { place: named, .. }) = &error
    else {
        panic!("{object}, {how}: {error}");
    };
    assert_eq!(named.file, object, "{how}: {error}");
}

#[test]
fn every_flipped_cut_and_swapped_byte_is_an_error_that_names_its_file() {
    let place = Place::memory();
    sealed(&place).publish(segment_files(7), draft(7)).unwrap();
    read_all(&place).unwrap();
    let objects = objects(&place, 1);
    for object in &objects {
        let original = place.get(object);
        let mut bytes = original.to_vec();
        for at in (0..bytes.len()).step_by(3).chain([bytes.len() - 1]) {
            let flip = 1 << (at % 8);
            bytes[at] ^= flip;
            place.put(object, bytes.clone());
            expect_named(&place, object, &format_args!("byte {at} flipped"));
            bytes[at] ^= flip;
        }
        for length in (0..original.len()).step_by(97).chain([original.len() - 1]) {
            place.put(object, original.slice(..length));
            expect_named(&place, object, &format_args!("cut to {length}"));
        }
        place.put(object, [&original[..], b"x"].concat());
        expect_named(&place, object, &"a byte longer");
        for other in objects.iter().filter(|other| *other != object) {
            place.put(object, place.get(other));
            expect_named(&place, object, &format_args!("{other} in its place"));
        }
        place.put(object, original);
    }
    read_all(&place).unwrap();
}

/// Somebody who can write to the store and compute every hash, and has no key.
#[test]
fn whoever_can_write_and_has_no_key_cannot_make_a_wrong_answer() {
    let place = Place::memory();
    publish("flat", &sealed(&place));
    let path = "v/00000000000000000001.json";
    let (original, manifest) = (place.get(path), stored(&place, 1));
    let vectors = |manifest: &SealedManifest| {
        let files = &manifest.folders[0].files;
        files
            .iter()
            .position(|file| file.size_bytes > 2 * SEALED_BLOCK_BYTES)
            .expect("vectors of several blocks")
    };
    // Blocks of the largest file change places, and every hash is made to fit.
    let number = vectors(&manifest);
    let forged = |change: &dyn Fn(&mut Vec<u8>)| {
        let (mut manifest, folder) = (manifest.clone(), &manifest.folders[0]);
        let mut bytes = place.get(&format!("seg/{}/{}", folder.id, folder.files[number].name)).to_vec();
        change(&mut bytes);
        let mut files = folder.files.clone();
        (files[number].size_bytes, files[number].blake3) = (bytes.len() as u64, Digest::of(&bytes));
        let id = segment_id(&files);
        for file in &files {
            let from = place.get(&format!("seg/{}/{}", folder.id, file.name));
            place.put(&format!("seg/{id}/{}", file.name), from);
        }
        place.put(&format!("seg/{id}/{}", files[number].name), bytes);
        (manifest.folders[0].id, manifest.folders[0].files) = (id, files);
        place.put(path, StoredManifest::Sealed(Box::new(manifest)).encode().unwrap());
        let refused = Index::of(sealed(&place).artifact(Some(1))?).map(|_| ());
        place.put(path, original.clone());
        refused
    };
    let block = SEALED_BLOCK_BYTES as usize;
    let refused = [
        forged(&|bytes| bytes.rotate_left(block)),
        forged(&|bytes| bytes.truncate(block)),
        forged(&|bytes| bytes[5] ^= 1),
    ];
    for refused in refused {
        let refused: LoadError = refused.unwrap_err();
        assert!(
            matches!(&refused, LoadError::Store(StoreError::Malformed { source, .. })
                if matches!(&**source, FileError::Manifest(ManifestError::Private { .. }))),
            "{refused}"
        );
    }
    // The manifest names the same files in another order, under another name, with another salt: nothing opens.
    for change in [
        |manifest: &mut SealedManifest| {
            let files = &mut manifest.folders[0].files;
            let [a, b] = [files[0].name.clone(), files[1].name.clone()];
            (files[0].name, files[1].name) = (b, a);
            files.sort_by(|a, b| a.name.cmp(&b.name));
            manifest.folders[0].id = segment_id(&manifest.folders[0].files);
        },
        |manifest: &mut SealedManifest| manifest.encryption.salt = Digest::of(b"x"),
        |manifest: &mut SealedManifest| {
            let flipped = manifest.encryption.private.replacen('A', "B", 1);
            manifest.encryption.private = flipped;
        },
    ] {
        let mut changed = manifest.clone();
        change(&mut changed);
        place.put(path, StoredManifest::Sealed(Box::new(changed)).encode().unwrap());
        let error = sealed(&place).artifact(Some(1)).err().unwrap();
        assert!(matches!(error, StoreError::Malformed { .. }), "{error}");
    }
    // An index that is not encrypted, in the place of one that is.
    let plain = Place::memory();
    publish("flat", &plain.index());
    plain.all_objects().iter().for_each(|object| place.put(object, plain.get(object)));
    let error = sealed(&place).artifact(Some(1)).err().unwrap();
    assert!(matches!(error, StoreError::Key { fault: KeyFault::NotEncrypted, .. }), "{error}");
}

/// Of a lazy index only what is asked for is read, and each block vouches for itself.
#[test]
fn a_changed_block_that_is_read_by_range_is_an_error_and_others_answer() {
    let place = Place::memory();
    publish("ivf_pq", &sealed(&place));
    let lazy = OpenOptions::new().residence(Residence::Lazy);
    let one = VectorBuf::new(queries().row(0).to_vec(), DIM);
    let answers = |expected: Option<&Answers>| -> Result<Option<Answers>, StoreError> {
        let index = lazy.open_artifact(sealed(&place).artifact(Some(1))?).map_err(|error| match error {
            LoadError::Store(error) => error,
            error => panic!("{error}"),
        })?;
        match index.ask(one.view(), &Query::new(10).effort(1)) {
            Ok(answers) => {
                assert!(expected.is_none_or(|expected| *expected == answers), "a wrong answer");
                Ok(Some(answers))
            }
            Err(error) => {
                assert_eq!(Error::from(error).exit_code(), 4);
                Ok(None)
            }
        }
    };
    let right = answers(None).unwrap().unwrap();
    let (mut named, mut refused, mut answered) = (0, 0, 0);
    for object in &objects(&place, 1)[1..] {
        let original = place.get(object);
        for at in (0..original.len()).step_by(20_011) {
            let mut bytes = original.to_vec();
            bytes[at] ^= 0x10;
            place.put(object, bytes);
            match answers(Some(&right)) {
                Ok(Some(_)) => answered += 1,
                Ok(None) => refused += 1,
                Err(StoreError::Damaged { place, .. }) => {
                    assert_eq!(place.file, *object);
                    named += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        place.put(object, original);
    }
    assert!(named > 0 && refused > 0 && answered > 0, "{named}, {refused}, {answered}");
}

#[test]
fn a_key_that_is_missing_wrong_or_of_no_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, secret] = ["plain", "secret"].map(|name| folder.path().join(name).display().to_string());
    IndexStore::open(&plain).unwrap().publish(segment_files(7), draft(7)).unwrap();
    let store = IndexStore::open(&secret).unwrap().sealed_with(sealing(KEY, "kb-2026"));
    store.publish(segment_files(7), draft(7)).unwrap();
    let open = |uri: &str, keys: &[&KeyReference]| {
        let options = keys.iter().fold(OpenOptions::new(), |options, key| options.key((*key).clone()));
        match options.open(uri) {
            Err(LoadError::Store(StoreError::Key { fault, version: 1, .. })) => fault,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it opened"),
        }
    };
    let [right, wrong] = [KEY, OTHER_KEY].map(|key| key_file(folder.path(), key));
    let fault = open(&secret, &[]);
    assert!(matches!(&fault, KeyFault::Absent { key_id, .. } if key_id == "kb-2026"), "{fault}");
    let fault = open(&secret, &[&wrong]);
    let fingerprint = Key::from_text(OTHER_KEY).unwrap().fingerprint().to_string();
    assert!(matches!(&fault, KeyFault::Wrong { got, .. } if *got == fingerprint), "{fault}");
    let short = key_file(folder.path(), "AAECAwQFBgcICQoLDA0ODw==");
    let fault = open(&secret, &[&short]);
    assert!(fault.to_string().contains("32 bytes, got 16"), "{fault}");
    assert_eq!(open(&plain, &[&right]), KeyFault::NotEncrypted);
    // One of several fits.
    let keys = [wrong, right];
    assert!(IndexStore::open(&secret).unwrap().with_keys(keys.to_vec()).artifact(None).is_ok());
    let error = IndexStore::open(&secret).unwrap().artifact(None).err().unwrap();
    assert_eq!(Error::from(error).exit_code(), 2);
}

#[test]
fn a_process_that_runs_on_follows_a_key_file_that_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("kb").display().to_string();
    let file = folder.path().join("key");
    std::fs::write(&file, KEY).unwrap();
    let reader =
        IndexStore::open(&uri).unwrap().with_keys(vec![format!("file:{}", file.display()).parse().unwrap()]);
    let publish = |key: &str| {
        let store = IndexStore::open(&uri).unwrap().sealed_with(sealing(key, "kb"));
        store.publish(segment_files(7), draft(7)).unwrap();
    };
    publish(KEY);
    reader.artifact(None).unwrap();
    publish(OTHER_KEY);
    assert!(matches!(reader.artifact(None), Err(StoreError::Key { fault: KeyFault::Wrong { .. }, .. })));
    std::fs::write(&file, OTHER_KEY).unwrap();
    assert_eq!(reader.artifact(None).unwrap().version(), 2);
}

#[test]
fn keeping_an_index_needs_no_key() {
    let place = Place::memory();
    let keyless = place.index();
    for seed in [7, 8] {
        sealed(&place).publish(segment_files(seed), draft(seed)).unwrap();
    }
    assert_eq!(keyless.versions().unwrap(), [1, 2]);
    let verified = keyless.verify(None, &mut |_| ()).unwrap();
    assert!(verified.report.is_sound() && verified.manifest.is_none());
    let verified = sealed(&place).verify(None, &mut |_| ()).unwrap();
    assert!(verified.report.is_sound() && verified.manifest.is_some());
    let (stored, manifest) = keyless.inspect(Some(1)).unwrap();
    assert_eq!((stored.sealed().unwrap().encryption.key_id.as_str(), manifest), ("kb-2026", None));

    assert_eq!(keyless.rollback(1).unwrap(), 3);
    let restored = sealed(&place).artifact(None).unwrap();
    assert_eq!((restored.manifest().restores, restored.manifest().rolled_back_from), (Some(1), Some(2)));
    assert_eq!(read_contents(&restored).unwrap(), contents(7));

    let copy = Place::memory();
    for version in 1..=3 {
        keyless.copy_to(&copy.index(), Some(version), &mut |_| ()).unwrap();
    }
    assert_eq!(read_contents(&sealed(&copy).artifact(Some(2)).unwrap()).unwrap(), contents(8));

    let [manifest, file, ..] = &objects(&place, 2)[..] else { panic!() };
    place.put(manifest, place.get(manifest).slice(..50));
    place.delete(file);
    let repaired = keyless.repair_from(&copy.index(), Some(2)).unwrap();
    assert_eq!(repaired, [manifest.clone(), file.clone()]);
    assert_eq!(read_contents(&sealed(&place).artifact(Some(2)).unwrap()).unwrap(), contents(8));

    let policy = GcPolicy { keep: 1, older_than: Duration::ZERO, dry_run: false };
    let report = keyless.collect_garbage(&policy).unwrap();
    assert_eq!((report.removed_versions, report.removed_segments.len()), (vec![1, 2], 1));
    assert_eq!(read_contents(&sealed(&place).artifact(None).unwrap()).unwrap(), contents(7));
}

#[test]
fn a_copy_under_another_name_takes_the_key() {
    let place = Place::memory();
    sealed(&place).publish(segment_files(7), draft(7)).unwrap();
    let other = IndexStore::at(place.store.clone(), "indexes/elsewhere".into()).unwrap();
    let refused = place.index().copy_to(&other, None, &mut |_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Key { fault: KeyFault::Absent { .. }, .. }), "{refused}");
    sealed(&place).copy_to(&other, None, &mut |_| ()).unwrap();
    // Again, and nothing is to be done.
    let again = sealed(&place).copy_to(&other, None, &mut |_| ()).unwrap();
    assert_eq!(again.bytes_written, 0);
    let copy = other.sealed_with(sealing(KEY, "any name")).artifact(None).unwrap();
    assert_eq!((read_contents(&copy).unwrap(), copy.key_id()), (contents(7), Some("kb-2026")));
}

#[test]
fn a_rekeyed_copy_has_nothing_of_the_old_key_and_answers_the_same() {
    let (plain, old, new) = (Place::memory(), Place::memory(), Place::memory());
    publish("hnsw", &plain.index());
    // What is not encrypted is encrypted so …
    plain.index().copy_rekeyed(&old.index(), None, &sealing(KEY, "kb-2026"), &mut |_| ()).unwrap();
    let direct = Place::memory();
    publish("hnsw", &sealed(&direct));
    assert_eq!(stored(&old, 1).folders, stored(&direct, 1).folders, "as if it had been published so");
    // … and what is, anew.
    let sealing_new = sealing(OTHER_KEY, "kb-2027");
    let refused = old.index().copy_rekeyed(&new.index(), None, &sealing_new, &mut |_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Key { fault: KeyFault::Absent { .. }, .. }), "{refused}");
    let copied = sealed(&old).copy_rekeyed(&new.index(), None, &sealing_new, &mut |_| ()).unwrap();
    assert_eq!(copied.bytes_written, copied.bytes);
    let again = sealed(&old).copy_rekeyed(&new.index(), None, &sealing_new, &mut |_| ()).unwrap();
    assert_eq!(again.bytes_written, 0);
    assert_eq!(stored(&new, 1).encryption.key_id, "kb-2027");
    let refused = sealed(&new).artifact(None).err().unwrap();
    assert!(matches!(refused, StoreError::Key { fault: KeyFault::Wrong { .. }, .. }), "{refused}");
    for (ours, theirs) in objects(&old, 1).iter().zip(&objects(&new, 1)).skip(1) {
        assert_ne!(ours, theirs);
        let (ours, theirs) = (old.get(ours), new.get(theirs));
        assert_eq!(ours.len(), theirs.len());
        let same = ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
        assert!(same * 20 < ours.len().max(400), "{same} of {} bytes are the same", ours.len());
    }
    let opened = Index::of(new.index().sealed_with(sealing_new).artifact(None).unwrap()).unwrap();
    let expected = Index::of(plain.index().artifact(None).unwrap()).unwrap();
    let query = Query::new(10).all_attributes();
    assert_eq!(
        opened.ask(queries().view(), &query).unwrap(),
        expected.ask(queries().view(), &query).unwrap()
    );
}

#[test]
fn a_changed_version_is_encrypted_as_the_one_before_and_none_is_laid_bare() {
    let place = Place::memory();
    let first = sealed(&place).publish(segment_files(7), draft(7)).unwrap();
    // Whoever changes it has the key, and says nothing of encryption.
    let folder = tempfile::tempdir().unwrap();
    let editor = place.index().with_keys(vec![key_file(folder.path(), KEY)]);
    let next = NextVersion {
        kept: first.manifest.segments.clone(),
        new: vec![editor.stage_segment(3, segment_files(8)).unwrap()],
        tombstones: Tombstones::of(vec![vec![1], vec![0, 2]]),
        change: Change {
            operation: "append".into(),
            from: 1,
            added: 3,
            removed: 3,
            drift: None,
            added_since_training: 3,
        },
        build: {
            let mut build = draft(7);
            build.rows = 6;
            build
        },
    };
    assert_eq!(editor.publish_after(&next).unwrap().unwrap().version, 2);
    let changed = stored(&place, 2);
    assert_eq!((changed.encryption.key_id.as_str(), changed.folders.len()), ("kb-2026", 3));
    assert_eq!(changed.folders[0], stored(&place, 1).folders[0], "what stays is not written again");
    let artifact = sealed(&place).artifact(None).unwrap();
    assert!(artifact.verify(&mut |_| ()).is_sound());
    assert_eq!(artifact.tombstones().unwrap(), next.tombstones);
    for name in place.all_objects() {
        assert!(!place.get(&name).windows(6).any(|window| window == b"drei \xe2"), "{name}");
    }
    // A publisher that says nothing does not put a plain version behind it.
    let refused = place.index().publish(segment_files(9), draft(9)).unwrap_err();
    assert!(refused.to_string().contains("`kb-2026`"), "{refused}");
    assert_eq!(place.index().latest().unwrap(), Some(2));
}

#[test]
fn files_at_the_edges_of_blocks_come_back() {
    const B: usize = 65_536;
    let place = Place::memory();
    // The last is written in parts.
    let sizes = [0, 1, B - 1, B, B + 1, 3 * B, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, (20 << 20) + 5];
    let bytes = |size: usize| -> bytes::Bytes { (0..size).map(|i| (i * 31 / 7) as u8).collect() };
    let mut files = segment_files(7);
    files.extend(sizes.map(|size| (format!("f{size}"), bytes(size))));
    sealed(&place).publish(files, draft(7)).unwrap();
    let artifact = sealed(&place).artifact(None).unwrap();
    let segment = artifact.only_segment().unwrap();
    for size in sizes {
        let (name, expected) = (format!("f{size}"), bytes(size));
        assert_eq!(segment.read(&name).unwrap(), expected, "{name}");
        let cuts = [0, 1, B - 1, B, B + 1, size / 2, size.saturating_sub(1), size];
        for from in cuts.into_iter().filter(|&from| from <= size) {
            for to in cuts.into_iter().filter(|&to| (from..=size).contains(&to)) {
                let range = from as u64..to as u64;
                let read = segment.read_ranges(&name, std::slice::from_ref(&range)).unwrap();
                assert_eq!(read[0], expected[from..to], "{name}: {from}..{to}");
            }
        }
    }
    assert!(artifact.verify(&mut |_| ()).is_sound());
}

/// One that has `cryptography`.
fn python() -> Option<PathBuf> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install.sh");
    let has_it = |python: &Path| {
        let ran = Command::new(python).args(["-c", "import cryptography"]).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let system = PathBuf::from("python3");
    if has_it(&system) {
        return Some(system);
    }
    let installed = Command::new("sh").arg(script).arg("checkers").output().ok()?;
    let python = PathBuf::from(String::from_utf8(installed.stdout).ok()?.trim()).join("python/bin/python");
    has_it(&python).then_some(python)
}

/// FORMAT.md, read by somebody else: Python's `cryptography` decrypts a published version to what was encrypted.
#[test]
fn another_implementation_decrypts_what_was_published() {
    let Some(python) = python() else {
        assert!(std::env::var_os("CI").is_none(), "CI has no Python with `cryptography`");
        eprintln!(
            "NOT RUN: there is no python3 with the package `cryptography`, and it could not be installed"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("tiny");
    let store = IndexStore::open(uri.to_str().unwrap()).unwrap().sealed_with(sealing(KEY, "kb-2026"));
    let mut files = segment_files(7);
    files.push(("long".into(), (0..200_000u32).map(|i| (i * 7) as u8).collect()));
    store.publish(files.clone(), draft(7)).unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/decrypt.py");
    let out = folder.path().join("decrypted");
    let ran = Command::new(&python).arg(script).arg(&uri).arg(&out).env("KEY", KEY).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for (name, bytes) in files {
        assert_eq!(std::fs::read(out.join(&name)).unwrap(), bytes, "{name}");
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, serde_json::to_value(store.read_manifest(1).unwrap()).unwrap());
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encrypted-2.0/tiny")
}

#[test]
fn what_an_earlier_version_encrypted_is_read_as_it_was() {
    let store = IndexStore::open(golden().to_str().unwrap()).unwrap().sealed_with(sealing(KEY, ""));
    let artifact = store.artifact(None).unwrap();
    assert_eq!((read_contents(&artifact).unwrap(), artifact.key_id()), (contents(7), Some("kb-2026")));
    assert!(artifact.verify(&mut |_| ()).is_sound());
}

#[test]
#[ignore = "makes the golden artifact, once for each format: cargo test --test secrecy golden -- --ignored"]
fn make_the_golden_artifact() {
    assert!(!golden().exists(), "a golden artifact is never made again");
    let store = IndexStore::open(golden().to_str().unwrap()).unwrap();
    store.sealed_with(sealing(KEY, "kb-2026")).publish(segment_files(7), draft(7)).unwrap();
}
