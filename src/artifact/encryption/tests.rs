use super::*;
use crate::artifact::{
    Digest, FileRef, Folder, Manifest, ManifestDraft, ManifestError, SealedManifest, SegmentRef,
    StoredManifest, segment_id,
};
use crate::vectors::Metric;

const B: u64 = BLOCK_BYTES;

fn key() -> Key {
    Key::from_bytes(&std::array::from_fn(|i| i as u8))
}

fn file(size_bytes: u64) -> FileRef {
    FileRef { name: "ids.arrow".into(), size_bytes, blake3: digest(0x22) }
}

fn digest(byte: u8) -> Digest {
    blake3::Hash::from([byte; 32]).into()
}

fn bytes(size: u64) -> Vec<u8> {
    (0..size).map(|i| (i * 7 / 3) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// By Python's `cryptography` (HKDF, AESGCM): tests/clients/decrypt.py is how FORMAT.md says it, in its words.
#[test]
fn another_implementation_gives_the_same_bytes() {
    assert_eq!(key().fingerprint(), "c19607900d845b213d74d25fce55bb7e");
    let sealed = |data: &[u8]| key().of_file(&digest(0x11), &file(data.len() as u64)).seal(0, data);
    assert_eq!(hex(&sealed(b"")), "26f4b89f37c7e77bee8e95b1ef1732f5");
    assert_eq!(hex(&sealed(b"hello")), "195d7cc56fac61213ba64a46297bc05dda1b88b15d");
    let two = sealed(&bytes(B + 3));
    assert_eq!(two.len() as u64, SEALED_BLOCK_BYTES + 3 + TAG_BYTES);
    assert_eq!(hex(&two[SEALED_BLOCK_BYTES as usize..]), "f305b22ff7bb049f1ec03d5fac36f2fa27b4a9");
}

#[test]
fn what_was_encrypted_comes_back_whole_and_block_by_block() {
    for size in [0, 1, B - 1, B, B + 1, 2 * B, 3 * B + 100] {
        let (plain, cipher) = (bytes(size), key().of_file(&digest(1), &file(size)));
        let sealed = cipher.seal(0, &plain);
        assert_eq!(sealed.len() as u64, sealed_size(size), "{size}");
        assert_eq!(cipher.open(0, sealed.clone()).unwrap(), plain, "{size}");
        for block in 0..block_count(size).max(1) {
            let range = block * B..size.min((block + 1) * B);
            let there = sealed_range(&range, size);
            let own = sealed[there.start as usize..there.end as usize].to_vec();
            let own_plain = &plain[range.start as usize..range.end as usize];
            assert_eq!(cipher.open(block, own.clone()).unwrap(), own_plain, "{size}, {block}");
            assert_eq!(cipher.seal(block, own_plain), own, "{size}, {block}");
        }
    }
}

#[test]
fn no_changed_bit_cut_or_moved_block_passes() {
    let size = 2 * B + 50;
    let cipher = key().of_file(&digest(1), &file(size));
    let sealed = cipher.seal(0, &bytes(size));
    let refused = |changed: Vec<u8>, what: &str| {
        assert!(cipher.open(0, changed).is_err(), "{what}");
    };
    let step = 997;
    for at in (0..sealed.len()).step_by(step).chain([sealed.len() - 1]) {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << (at % 8);
        let forged = cipher.open(0, changed).unwrap_err();
        assert_eq!(forged.block, at as u64 / SEALED_BLOCK_BYTES);
    }
    let block = SEALED_BLOCK_BYTES as usize;
    for length in [0, 1, 15, 16, block - 1, block + 1, block + 16, 2 * block + 16, sealed.len() - 1] {
        refused(sealed[..length].to_vec(), &format!("cut to {length}"));
    }
    refused([&sealed[..], &[0]].concat(), "grown");
    refused([&sealed[block..2 * block], &sealed[..block], &sealed[2 * block..]].concat(), "swapped");
    // Whole blocks are those blocks, and no more.
    assert_eq!(cipher.open(0, sealed[..2 * block].to_vec()).unwrap().len() as u64, 2 * B);
    // A block in another's place, which is asked for by itself.
    assert!(cipher.open(1, sealed[..block].to_vec()).is_err());
    assert!(cipher.open(7, sealed[..block].to_vec()).is_err());
    // The first two blocks are not a file of two blocks.
    let shorter = key().of_file(&digest(1), &file(2 * B));
    assert!(shorter.open(0, sealed[..2 * block].to_vec()).is_err());
}

#[test]
fn a_file_opens_as_itself_only() {
    let (plain, own) = (bytes(100), file(100));
    let sealed = key().of_file(&digest(1), &own).seal(0, &plain);
    let other_name = FileRef { name: "codes.safetensors".into(), ..own.clone() };
    let other_contents = FileRef { blake3: digest(0x23), ..own.clone() };
    let other_key = Key::from_bytes(&[9; 32]);
    for cipher in [
        key().of_file(&digest(2), &own),
        key().of_file(&digest(1), &other_name),
        key().of_file(&digest(1), &other_contents),
        other_key.of_file(&digest(1), &own),
    ] {
        assert_eq!(cipher.open(0, sealed.clone()), Err(Forged { block: 0 }));
        assert_ne!(cipher.seal(0, &plain), sealed);
    }
}

#[test]
fn a_key_is_text_of_32_bytes() {
    let hex_key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let base64_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for text in [hex_key.into(), hex_key.to_uppercase(), format!(" {base64_key}\n")] {
        assert_eq!(Key::from_text(&text).unwrap().fingerprint(), key().fingerprint(), "{text}");
    }
    assert_eq!(Key::from_text("").unwrap_err(), KeyError::Length { got: 0 });
    assert_eq!(Key::from_text("AAECAwQFBgcICQoLDA0ODw==").unwrap_err(), KeyError::Length { got: 16 });
    assert_eq!(Key::from_text(&hex_key[2..]).unwrap_err(), KeyError::Encoding { got: 62 });
    assert_eq!(Key::from_text("correct horse").unwrap_err(), KeyError::Encoding { got: 13 });
    let drawn = [Key::random_text().unwrap(), Key::random_text().unwrap()];
    assert_ne!(drawn[0], drawn[1]);
    Key::from_text(&drawn[0]).unwrap();
    assert_eq!(format!("{:?}", key()), "key c19607900d845b213d74d25fce55bb7e");
}

fn manifest() -> Manifest {
    let file = |name: &str| FileRef { name: name.into(), size_bytes: 9, blake3: Digest::of(name.as_bytes()) };
    let mut build = ManifestDraft::new("flat", Metric::Cosine, 3, 5);
    build.job = serde_json::json!({ "source": { "uri": "diagnoses.parquet" } });
    Manifest {
        format_version: "1.2".into(),
        index_name: "kb".into(),
        version: 7,
        created_unix_ms: 1_700_000_000_000,
        publish_id: "00ff".into(),
        rolled_back_from: None,
        restores: None,
        requires: Vec::new(),
        segments: vec![SegmentRef::new(5, vec![file("vectors.safetensors"), file("checksums.safetensors")])],
        tombstones: None,
        change: None,
        build,
    }
}

fn sealed() -> SealedManifest {
    let stored = |place: u8| FileRef {
        name: format!("{place:03}.sealed"),
        size_bytes: sealed_size(9),
        blake3: digest(place),
    };
    let files = vec![stored(0), stored(1)];
    let folders = vec![Folder { id: segment_id(&files), files }];
    SealedManifest::seal(&manifest(), folders, &key(), "kb-2026").unwrap()
}

#[test]
fn a_sealed_manifest_says_nothing_of_its_contents_and_comes_back() {
    let stored = StoredManifest::Sealed(Box::new(sealed()));
    let text = String::from_utf8(stored.encode().unwrap()).unwrap();
    for secret in
        ["diagnoses", "flat", "cosine", "vectors", "rows", &Digest::of(b"vectors.safetensors").to_string()]
    {
        assert!(!text.contains(secret), "`{secret}` is in\n{text}");
    }
    assert!(text.contains("\"kb-2026\"") && text.contains(key().fingerprint()));
    let read = StoredManifest::decode(text.as_bytes(), "kb", 7).unwrap();
    assert_eq!(read, stored);
    assert_eq!(read.sealed().unwrap().open(&key()).unwrap(), manifest());
    assert_eq!(read.encode().unwrap(), text.as_bytes(), "the same contents give the same bytes");
    // A reader from before refuses it by name.
    let refused = Manifest::decode(text.as_bytes(), "kb", 7).unwrap_err();
    assert!(matches!(&refused, ManifestError::Requires { got, .. } if got == "encryption"), "{refused}");
}

#[test]
fn a_sealed_manifest_stands_where_it_is_put_and_belongs_to_its_index_and_files() {
    let mut elsewhere = sealed();
    (elsewhere.head.version, elsewhere.head.restores) = (9, Some(7));
    let opened = elsewhere.open(&key()).unwrap();
    assert_eq!((opened.version, opened.restores), (9, Some(7)));
    let refused = |change: &dyn Fn(&mut SealedManifest)| {
        let mut changed = sealed();
        change(&mut changed);
        changed.open(&key()).unwrap_err()
    };
    let is_private =
        |error: ManifestError| assert!(matches!(error, ManifestError::Private { .. }), "{error}");
    is_private(refused(&|sealed| sealed.head.index_name = "other".into()));
    is_private(refused(&|sealed| sealed.folders[0].id = digest(5)));
    is_private(refused(&|sealed| sealed.folders.push(sealed.folders[0].clone())));
    is_private(refused(&|sealed| sealed.encryption.salt = digest(5)));
    is_private(refused(&|sealed| sealed.encryption.private.truncate(8)));
    is_private(refused(&|sealed| sealed.encryption.private = "not base64".into()));
    is_private(sealed().open(&Key::from_bytes(&[9; 32])).unwrap_err());
}

#[test]
fn what_a_sealed_manifest_asks_for_and_is_not_known_is_named() {
    let refused = |change: &dyn Fn(&mut SealedManifest)| {
        let mut changed = sealed();
        change(&mut changed);
        let json = serde_json::to_vec(&changed).unwrap();
        let file = crate::artifact::manifest::seal(&json);
        StoredManifest::decode(&file, "kb", 7).unwrap_err()
    };
    let error = refused(&|sealed| sealed.requires.push("telepathy".into()));
    assert!(matches!(&error, ManifestError::Requires { got, .. } if got == "telepathy"), "{error}");
    let error = refused(&|sealed| sealed.format_version = "3.0".into());
    assert!(matches!(&error, ManifestError::Format { got, .. } if got == "3.0"), "{error}");
    let error = refused(&|sealed| sealed.encryption.algorithm = "rot13".into());
    assert!(error.to_string().contains("`aes-256-gcm-stream`, got `rot13`"), "{error}");
    let error = refused(&|sealed| sealed.folders[0].files[0].name = "../x".into());
    assert!(matches!(error, ManifestError::Name(_)), "{error}");
    let error = refused(&|sealed| sealed.folders[0].files[0].size_bytes += 1);
    assert!(error.to_string().contains("folder id"), "{error}");
    let error = refused(&|sealed| sealed.head.version = 8);
    assert!(error.to_string().contains("version"), "{error}");
    let error = refused(&|sealed| sealed.folders.clear());
    assert!(error.to_string().contains("at least one"), "{error}");
}
