//! A reader of a damaged artifact gets a named error or the right answer: never a wrong one, never a panic.
//! Tried on each byte of each file of a small artifact.

mod fixture;

use annvil::artifact::SectionError;
use annvil::store::{FileError, StoreError};
use bytes::Bytes;
use fixture::{Place, contents, draft, read_contents, segment_files};

/// What reading all of version 1 says, by way of the readers and of `verify`.
fn read_all(place: &Place) -> Result<(), StoreError> {
    let artifact = place.index().artifact(Some(1))?;
    let read = read_contents(&artifact);
    if let Ok(read) = &read {
        assert_eq!(*read, contents(7), "{}: a wrong answer", place.what);
    }
    // The checksums' file is read by no reader of whole files.
    let verified = artifact.verify(&mut |_| ()).damage.into_iter().next();
    match (read, verified) {
        (Ok(_), Some(error)) => Err(error),
        (Ok(_), None) => Ok(()),
        (Err(error), Some(_)) => Err(error),
        (Err(error), None) => panic!("{}: not seen by verify: {error}", place.what),
    }
}

fn published(place: &Place) -> Vec<String> {
    place.index().publish(segment_files(7), draft(7)).unwrap();
    read_all(place).unwrap();
    place.objects(1)
}

/// Puts `bytes` in the object's place, and expects an error that names the object as damaged.
fn expect_damage(place: &Place, object: &str, bytes: impl Into<Bytes>, how: &dyn std::fmt::Display) {
    place.put(object, bytes);
    let error = read_all(place).expect_err(&format!("{}: {object}, {how}, was not noticed", place.what));
    let named = match &error {
        StoreError::Damaged { place, .. } | StoreError::Malformed { place, .. } => &place.file,
        other => panic!("{}: {object}, {how}: {other}", place.what),
    };
    assert_eq!(named, object, "{}: {how}: {error}", place.what);
    assert!(error.to_string().contains("version 1"), "{error}");
}

#[test]
fn every_flipped_bit_is_reported_with_its_file() {
    for place in Place::both() {
        for object in published(&place) {
            let original = place.get(&object);
            let mut bytes = original.to_vec();
            // Each byte in memory; of local files, which take longer, every seventh.
            let step = if place.is_local() { 7 } else { 1 };
            for at in (0..bytes.len()).step_by(step) {
                let flip = 1 << (at % 8);
                bytes[at] ^= flip;
                expect_damage(&place, &object, bytes.clone(), &format_args!("byte {at} flipped"));
                bytes[at] ^= flip;
            }
            place.put(&object, original);
        }
        read_all(&place).unwrap();
    }
}

#[test]
fn a_file_cut_short_or_grown_is_reported() {
    for place in Place::both() {
        for object in published(&place) {
            let original = place.get(&object);
            let lengths = (0..original.len()).step_by(37).chain([1, 7, 8, 63, 64, original.len() - 1]);
            for length in lengths {
                let cut = original.slice(..length);
                expect_damage(&place, &object, cut, &format_args!("cut to {length} bytes"));
            }
            let grown = [&original[..], &[0]].concat();
            expect_damage(&place, &object, grown, &"a byte longer");
            place.put(&object, original);
        }
    }
}

/// Its size is compared before anything is read or allocated.
#[test]
fn a_file_grown_to_a_terabyte_is_refused_at_once() {
    let place = Place::local();
    for object in published(&place) {
        let original = place.get(&object);
        let file = std::fs::OpenOptions::new().write(true).open(place.local_path(&object)).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = read_all(&place).unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { place, got, .. }
                if place.file == object && *got == format!("{} bytes", 1u64 << 40)),
            "{error}"
        );
        place.put(&object, original);
    }
}

#[test]
fn a_zeroed_page_is_reported() {
    const PAGE: usize = 256;
    for place in Place::both() {
        for object in published(&place) {
            let original = place.get(&object);
            for start in (0..original.len()).step_by(PAGE) {
                let mut bytes = original.to_vec();
                let end = bytes.len().min(start + PAGE);
                bytes[start..end].fill(0);
                // A page of padding has nothing to lose.
                if bytes != original {
                    expect_damage(&place, &object, bytes, &format_args!("page at {start} zeroed"));
                }
            }
            place.put(&object, original);
        }
    }
}

#[test]
fn a_missing_file_is_reported_by_name() {
    for place in Place::both() {
        for object in published(&place) {
            let original = place.get(&object);
            place.delete(&object);
            match read_all(&place) {
                Err(StoreError::Missing { place: missing }) => assert_eq!(missing.file, object),
                Err(StoreError::NotFound { what }) => {
                    assert!(object.starts_with("v/") && what.contains("version 1"), "{object}: {what}");
                }
                other => panic!("{}: {object}: {other:?}", place.what),
            }
            place.put(&object, original);
        }
    }
}

#[test]
fn two_files_in_each_others_place_are_reported() {
    for place in Place::both() {
        let objects = published(&place);
        for (number, one) in objects.iter().enumerate() {
            for other in &objects[..number] {
                let (a, b) = (place.get(one), place.get(other));
                place.put(one, b.clone());
                place.put(other, a.clone());
                assert!(
                    matches!(
                        read_all(&place),
                        Err(StoreError::Damaged { .. } | StoreError::Malformed { .. })
                    ),
                    "{}: {one} and {other}",
                    place.what
                );
                place.put(one, a);
                place.put(other, b);
            }
        }
        read_all(&place).unwrap();
    }
}

#[test]
fn a_manifest_of_another_version_or_index_is_reported() {
    for place in Place::both() {
        published(&place);
        place.index().publish(segment_files(8), draft(8)).unwrap();
        let second = place.get("v/00000000000000000002.json");
        expect_damage(&place, "v/00000000000000000001.json", second, &"the manifest of version 2");
    }
}

#[test]
fn of_a_damaged_file_ranges_give_the_right_bytes_or_an_error() {
    const BLOCK: usize = 64 * 1024;
    let big: Bytes = (0..4 * BLOCK + 100).map(|i| (i * 31 / 7) as u8).collect::<Vec<_>>().into();
    for place in Place::both() {
        let index = place.index();
        index.publish(vec![("big.bin".into(), big.clone())], draft(7)).unwrap();
        let object = place.objects(1).into_iter().find(|object| object.ends_with("big.bin")).unwrap();
        let ranges =
            [0..1, 10..10, BLOCK - 1..BLOCK + 1, 3 * BLOCK..4 * BLOCK, 4 * BLOCK + 90..4 * BLOCK + 100]
                .map(|range| range.start as u64..range.end as u64);
        let check = |sound: bool| {
            let artifact = index.artifact(Some(1)).unwrap();
            let segment = artifact.only_segment().unwrap();
            for range in &ranges {
                match segment.read_ranges("big.bin", std::slice::from_ref(range)) {
                    Ok(bytes) => assert_eq!(bytes[0], big[range.start as usize..range.end as usize]),
                    Err(error) => {
                        assert!(!sound, "{error}");
                        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                    }
                }
            }
            segment.read_ranges("big.bin", &ranges)
        };
        let whole = check(true).unwrap();
        for (range, bytes) in ranges.iter().zip(whole) {
            assert_eq!(bytes, big[range.start as usize..range.end as usize]);
        }
        for at in (0..big.len()).step_by(BLOCK / 3) {
            let mut damaged = big.to_vec();
            damaged[at] ^= 0x10;
            place.put(&object, damaged);
            let touched = ranges.iter().any(|range| {
                !range.is_empty()
                    && range.start as usize / BLOCK <= at / BLOCK
                    && at / BLOCK <= (range.end as usize - 1) / BLOCK
            });
            assert_eq!(check(false).is_err(), touched, "{}: byte {at}", place.what);
        }
        place.put(&object, big.slice(..3 * BLOCK + 5));
        assert!(check(false).is_err(), "{}: cut short", place.what);
        place.delete(&object);
        let artifact = index.artifact(Some(1)).unwrap();
        let error = artifact.only_segment().unwrap().read_ranges("big.bin", &ranges).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
}

#[test]
fn a_range_beyond_the_file_is_refused() {
    let place = Place::memory();
    published(&place);
    let artifact = place.index().artifact(None).unwrap();
    let segment = artifact.only_segment().unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
    for range in [0..u64::MAX, 9..8, u64::MAX - 1..u64::MAX] {
        let error = segment.read_ranges("ids.arrow", &[range]).unwrap_err();
        assert!(matches!(error, StoreError::Range { .. }), "{error}");
    }
    assert!(matches!(segment.read_ranges("nothing", &[]), Err(StoreError::NotFound { .. })));
}

/// Files whose hashes are right, because whoever means harm has computed them.
#[test]
fn hostile_files_with_the_right_hashes_are_named_errors() {
    let with_length = |length: u64, rest: &[u8]| [&length.to_le_bytes()[..], rest].concat();
    let header = |json: &str| {
        let length = (8 + json.len()).next_multiple_of(64) - 8;
        with_length(length as u64, format!("{json:length$}").as_bytes())
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("vectors.safetensors", vec![]),
        ("vectors.safetensors", with_length(u64::MAX, b"{}")),
        ("vectors.safetensors", with_length(1 << 20, b"{}")),
        ("vectors.safetensors", header("{}")),
        ("vectors.safetensors", header(&"[".repeat(10_000))),
        ("vectors.safetensors", safetensors_named("graph")),
        ("ids.arrow", vec![]),
        ("ids.arrow", b"ARROW1\0\0ARROW1".to_vec()),
        ("ids.arrow", [b"ARROW1\0\0", &i32::MAX.to_le_bytes()[..], b"ARROW1"].concat()),
        ("ids.arrow", [b"ARROW1\0\0", &(-1i32).to_le_bytes()[..], b"ARROW1"].concat()),
        ("attributes.arrow", vec![0xff; 500]),
    ];
    for (number, (name, bytes)) in hostile.into_iter().enumerate() {
        let place = Place::memory();
        let mut files = segment_files(7);
        files.iter_mut().find(|(file, _)| file == name).unwrap().1 = bytes.into();
        place.index().publish(files, draft(7)).unwrap();
        let artifact = place.index().artifact(None).unwrap();
        match read_contents(&artifact) {
            Err(StoreError::Malformed { place, .. }) => {
                assert!(place.file.ends_with(name), "{number}: {}", place.file);
            }
            other => panic!("case {number}: {other:?}"),
        }
    }
}

fn safetensors_named(name: &str) -> Vec<u8> {
    annvil::artifact::safetensors::encode(&annvil::artifact::Section::new(name)).bytes.to_vec()
}

#[test]
fn a_section_of_another_name_is_told_from_damage() {
    let place = Place::memory();
    let mut files = segment_files(7);
    files.iter_mut().find(|(file, _)| file == "vectors.safetensors").unwrap().1 =
        safetensors_named("graph").into();
    place.index().publish(files, draft(7)).unwrap();
    let error = place.index().artifact(None).unwrap().section("vectors").unwrap_err();
    let StoreError::Malformed { source, .. } = &error else { panic!("{error}") };
    assert!(
        matches!(&**source, FileError::Section(SectionError::Metadata { got, .. }) if got == "graph"),
        "{error}"
    );
}
