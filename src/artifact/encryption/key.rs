//! The arithmetic, which is ring's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Forged, KEY_BYTES, KeyError, SEALED_BLOCK_BYTES, TAG_BYTES, sealed_blocks, sealed_size};
use crate::artifact::checksums::BLOCK_BYTES;
use crate::artifact::{Digest, FileRef};

/// HKDF's salt.
const SALT: &[u8] = b"annvil key 1\n";
const FINGERPRINT: &[u8] = b"annvil fingerprint 1\n";
/// Begins the context of a file of a segment, …
const FILE: &[u8] = b"annvil file 1\n";
/// … that of a manifest's private part, …
const MANIFEST: &[u8] = b"annvil manifest 1\n";
/// … and that of the salt of one.
const MANIFEST_SALT: &[u8] = b"annvil manifest salt 1\n";
/// Enough that no two keys have one fingerprint.
const FINGERPRINT_BYTES: usize = 16;

/// The user's key. Files' keys are derived from it; it encrypts nothing itself.
#[derive(Clone)]
pub struct Key {
    derived: Prk,
    fingerprint: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {}", self.fingerprint)
    }
}

impl Key {
    pub fn from_bytes(key: &[u8; KEY_BYTES]) -> Self {
        let derived = Salt::new(HKDF_SHA256, SALT).extract(key);
        let digits = expand(&derived, FINGERPRINT);
        let fingerprint = digits[..FINGERPRINT_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { derived, fingerprint }
    }

    /// From base64 or hexadecimal digits; what stands around them as white space does not count.
    ///
    /// # Errors
    /// Another number of bytes; what is no text of bytes.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let is_hex = text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * KEY_BYTES));
        if is_hex {
            let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or_default() as u8;
            bytes.extend(text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
        } else if STANDARD.decode_vec(text, &mut bytes).is_err() {
            return Err(KeyError::Encoding { got: text.chars().count() });
        }
        match bytes.first_chunk() {
            Some(key) if bytes.len() == KEY_BYTES => Ok(Self::from_bytes(key)),
            _ => Err(KeyError::Length { got: bytes.len() }),
        }
    }

    /// A new key, in base64, drawn by the operating system.
    ///
    /// # Errors
    /// None in a build with the feature `encryption`.
    ///
    /// # Panics
    /// If the system has no randomness.
    pub fn random_text() -> Result<String, KeyError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *key).expect("the system has randomness");
        Ok(STANDARD.encode(*key))
    }

    /// Tells keys apart, and nothing of what they are: 32 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What encrypts and decrypts a file of a segment: `segment` and `file` are those of the plain file.
    pub fn of_file(&self, segment: &Digest, file: &FileRef) -> FileCipher {
        FileCipher::new(&self.derived, file_context(segment, file), file.size_bytes)
    }

    /// A private part encrypted: its salt, and base64.
    pub(in crate::artifact) fn seal_manifest(
        &self,
        index_name: &str,
        folders: &[Digest],
        private: &[u8],
    ) -> (Digest, String) {
        // Another for other contents: what is encrypted with a key of its own never shares a nonce.
        let contents = manifest_context(MANIFEST_SALT, index_name, folders, &Digest::of(private));
        let salt = Digest::from(blake3::Hash::from(*expand(&self.derived, &contents)));
        let context = manifest_context(MANIFEST, index_name, folders, &salt);
        let cipher = FileCipher::new(&self.derived, context, private.len() as u64);
        (salt, STANDARD.encode(cipher.seal(0, private)))
    }

    pub(in crate::artifact) fn open_manifest(
        &self,
        index_name: &str,
        folders: &[Digest],
        salt: &Digest,
        private: &str,
    ) -> Result<Vec<u8>, Forged> {
        let sealed = STANDARD.decode(private).map_err(|_| Forged { block: 0 })?;
        let blocks = (sealed.len() as u64).div_ceil(SEALED_BLOCK_BYTES);
        let size = (sealed.len() as u64).checked_sub(blocks * TAG_BYTES).ok_or(Forged { block: 0 })?;
        let context = manifest_context(MANIFEST, index_name, folders, salt);
        FileCipher::new(&self.derived, context, size).open(0, sealed)
    }
}

/// What a file's key is derived from, and each of its blocks is bound to.
fn file_context(segment: &Digest, file: &FileRef) -> Vec<u8> {
    let mut context = FILE.to_vec();
    context.extend_from_slice(segment.as_bytes());
    context.extend_from_slice(&(file.name.len() as u32).to_le_bytes());
    context.extend_from_slice(file.name.as_bytes());
    context.extend_from_slice(&file.size_bytes.to_le_bytes());
    context.extend_from_slice(file.blake3.as_bytes());
    context
}

/// What a manifest's private part is bound to: the index, and the files as they lie in the store.
fn manifest_context(label: &[u8], index_name: &str, folders: &[Digest], last: &Digest) -> Vec<u8> {
    let mut context = label.to_vec();
    context.extend_from_slice(&(index_name.len() as u32).to_le_bytes());
    context.extend_from_slice(index_name.as_bytes());
    context.extend_from_slice(&(folders.len() as u32).to_le_bytes());
    folders.iter().chain([last]).for_each(|digest| context.extend_from_slice(digest.as_bytes()));
    context
}

fn expand(key: &Prk, context: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let expanded = key.expand(&[context], HKDF_SHA256).and_then(|derived| derived.fill(&mut *bytes));
    expanded.expect("as many bytes as the hash has");
    bytes
}

/// Encrypts and decrypts one file, whole blocks at a time.
pub struct FileCipher {
    key: LessSafeKey,
    context: Vec<u8>,
    size_bytes: u64,
}

impl std::fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cipher of a file of {} bytes", self.size_bytes)
    }
}

impl FileCipher {
    fn new(derived: &Prk, context: Vec<u8>, size_bytes: u64) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &*expand(derived, &context)).expect("a key of 32 bytes");
        Self { key: LessSafeKey::new(key), context, size_bytes }
    }

    /// Seven bytes of zero, the block's number, and 1 for the last block.
    fn nonce(&self, block: u64) -> Nonce {
        let mut nonce = [0; 12];
        let number = u32::try_from(block).expect("a file has fewer than 2^32 blocks, 256 TiB");
        nonce[7..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = u8::from(block + 1 == sealed_blocks(self.size_bytes));
        Nonce::assume_unique_for_key(nonce)
    }

    /// Whole blocks of the file, from block `first` on, encrypted. Only the file's last block may be short, or empty.
    ///
    /// # Panics
    /// If the blocks are not within the file.
    pub fn seal(&self, first: u64, plain: &[u8]) -> Vec<u8> {
        let (block_bytes, start) = (BLOCK_BYTES as usize, first * BLOCK_BYTES);
        let end = start + plain.len() as u64;
        assert!(end <= self.size_bytes, "blocks of another file");
        assert!(end == self.size_bytes || plain.len().is_multiple_of(block_bytes), "whole blocks");
        let blocks = plain.len().div_ceil(block_bytes).max(1);
        let mut sealed = Vec::with_capacity(plain.len() + blocks * TAG_BYTES as usize);
        for (number, place) in (first..).zip(0..blocks) {
            let block = &plain[place * block_bytes..plain.len().min((place + 1) * block_bytes)];
            let from = sealed.len();
            sealed.extend_from_slice(block);
            let aad = Aad::from(&self.context);
            let tag = self.key.seal_in_place_separate_tag(self.nonce(number), aad, &mut sealed[from..]);
            sealed.extend_from_slice(tag.expect("a block is far below what GCM takes").as_ref());
        }
        sealed
    }

    /// What [`seal`](Self::seal) was given, from what it returned, in place: whole blocks, as many as there are, from block `first`
    /// on. Whether they are as many as were asked for, the caller sees.
    ///
    /// # Errors
    /// A block that is not the file's, or not where it was, or not whole.
    pub fn open(&self, first: u64, mut sealed: Vec<u8>) -> Result<Vec<u8>, Forged> {
        let (block_bytes, sealed_bytes) = (BLOCK_BYTES as usize, SEALED_BLOCK_BYTES as usize);
        let blocks = sealed.len().div_ceil(sealed_bytes);
        if blocks == 0 || first + blocks as u64 > sealed_blocks(self.size_bytes) {
            return Err(Forged { block: first });
        }
        let expected = sealed_size(self.size_bytes).min((first + blocks as u64) * SEALED_BLOCK_BYTES);
        if sealed.len() as u64 != expected - first * SEALED_BLOCK_BYTES {
            return Err(Forged { block: first + blocks as u64 - 1 });
        }
        let mut len = 0;
        for (number, place) in (first..).zip(0..blocks) {
            let from = place * sealed_bytes;
            let to = sealed.len().min(from + sealed_bytes);
            let aad = Aad::from(&self.context);
            let opened = self.key.open_in_place(self.nonce(number), aad, &mut sealed[from..to]);
            let opened = opened.map_err(|_| Forged { block: number })?.len();
            sealed.copy_within(from..from + opened, place * block_bytes);
            len += opened;
        }
        sealed.truncate(len);
        Ok(sealed)
    }
}
