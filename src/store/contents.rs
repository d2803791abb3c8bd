//! A file as it lies in the store: as it is, or encrypted.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::objects::{CHUNK_BYTES, Chunks, Objects, ReadError, check_digest};
use super::{Place, StoreError};
use crate::artifact::checksums::BLOCK_BYTES;
use crate::artifact::encryption::{FileCipher, SEALED_BLOCK_BYTES, sealed_range};
use crate::artifact::{Digest, FileRef};

/// One request's blocks of an encrypted file.
const SEALED_CHUNK_BYTES: u64 = CHUNK_BYTES / BLOCK_BYTES * SEALED_BLOCK_BYTES;

/// A file of a segment that can be read.
#[derive(Debug, Clone)]
pub(super) struct StoredFile {
    pub object: String,
    /// For messages.
    pub place: Place,
    /// As the store has it.
    pub stored: FileRef,
    pub size_bytes: u64,
    /// Where it is encrypted.
    pub cipher: Option<Arc<FileCipher>>,
}

impl StoredFile {
    /// Where a range of whole blocks lies in the object.
    pub fn stored_range(&self, range: &Range<u64>) -> Range<u64> {
        match self.cipher {
            Some(_) => sealed_range(range, self.size_bytes),
            None => range.clone(),
        }
    }

    /// What one block and its tag take.
    pub fn stored_block_bytes(&self) -> u64 {
        if self.cipher.is_some() { SEALED_BLOCK_BYTES } else { BLOCK_BYTES }
    }

    /// Whole blocks, the first of which is block `first`, from the bytes that lie there.
    pub fn opened(&self, first: u64, bytes: Bytes) -> Result<Bytes, StoreError> {
        let Some(cipher) = &self.cipher else { return Ok(bytes) };
        let opened = cipher.open(first, bytes.into());
        opened.map(Bytes::from).map_err(|error| StoreError::forged(self.place.clone(), &error))
    }

    /// The file's bytes in order, whole blocks at a time. The last chunk comes when the digest of all is right.
    pub fn chunks(&self, objects: &Objects) -> FileChunks<'_> {
        let chunk_bytes = if self.cipher.is_some() { SEALED_CHUNK_BYTES } else { CHUNK_BYTES };
        let chunks = objects.chunks_of(&self.object, self.stored.size_bytes, chunk_bytes);
        FileChunks { file: self, chunks, hasher: blake3::Hasher::new(), read: 0, block: 0 }
    }

    /// The whole file, if it is what it should be.
    pub fn read(&self, objects: &Objects) -> Result<Bytes, StoreError> {
        if self.cipher.is_none() {
            return objects.read_file(&self.object, &self.stored, self.place.clone());
        }
        let mut whole = Vec::new();
        for chunk in self.chunks(objects) {
            let chunk = chunk?;
            if chunk.len() as u64 == self.size_bytes {
                return Ok(chunk);
            }
            // The size is the object's own by now, not only the manifest's.
            whole.reserve_exact(self.size_bytes as usize - whole.len());
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    pub fn error(&self, error: ReadError) -> StoreError {
        error.of(self.place.clone(), self.stored.size_bytes)
    }
}

/// See [`StoredFile::chunks`]. Ends with the first error.
pub(super) struct FileChunks<'a> {
    file: &'a StoredFile,
    chunks: Chunks,
    hasher: blake3::Hasher,
    read: u64,
    block: u64,
}

impl FileChunks<'_> {
    /// Bytes read of the object.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// The next chunk, if it is what `check` and the digest say; `check` is told the number of its first block.
    pub fn next_checked(
        &mut self,
        check: impl Fn(u64, &[u8]) -> Result<(), StoreError> + Sync,
    ) -> Option<Result<Bytes, StoreError>> {
        let chunk = self.chunks.next()?.map_err(|error| self.file.error(error));
        let checked = chunk.and_then(|chunk| self.checked(chunk, check));
        if checked.is_err() {
            self.chunks.end();
        }
        Some(checked)
    }

    fn checked(
        &mut self,
        chunk: Bytes,
        check: impl Fn(u64, &[u8]) -> Result<(), StoreError> + Sync,
    ) -> Result<Bytes, StoreError> {
        let (file, first, hasher) = (self.file, self.block, &mut self.hasher);
        let stored = chunk.clone();
        self.read += chunk.len() as u64;
        // Chunks are whole blocks, but for the file's end.
        self.block += chunk.len() as u64 / file.stored_block_bytes();
        let blocks = || {
            let opened = file.opened(first, chunk)?;
            check(first, &opened).map(|()| opened)
        };
        let whole = || {
            hasher.update(&stored);
        };
        let (opened, ()) = rayon::join(blocks, whole);
        let opened = opened?;
        if self.read == file.stored.size_bytes {
            check_digest(&self.hasher, &file.stored, file.place.clone())?;
        }
        Ok(opened)
    }
}

impl Iterator for FileChunks<'_> {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_checked(|_, _| Ok(()))
    }
}

/// Bytes on their way into the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    pub plain: &'a Bytes,
    pub cipher: Option<&'a FileCipher>,
}

impl<'a> Contents<'a> {
    /// What is to lie there, in pieces, encrypted as they are asked for.
    pub fn chunks(self) -> impl Iterator<Item = Bytes> + 'a {
        let len = self.plain.len() as u64;
        // An encrypted file has a block where it has no bytes.
        let count = len.div_ceil(CHUNK_BYTES).max(u64::from(self.cipher.is_some()));
        (0..count).map(move |number| {
            let from = number * CHUNK_BYTES;
            let range = from as usize..len.min(from + CHUNK_BYTES) as usize;
            match self.cipher {
                Some(cipher) => cipher.seal(from / BLOCK_BYTES, &self.plain[range]).into(),
                None => self.plain.slice(range),
            }
        })
    }

    /// What a manifest says of it, as it will lie there.
    pub fn reference(self, name: &str) -> FileRef {
        let (mut hasher, mut size_bytes) = (blake3::Hasher::new(), 0);
        if self.cipher.is_none() {
            let (size_bytes, blake3) = (self.plain.len() as u64, Digest::of(self.plain));
            return FileRef { name: name.into(), size_bytes, blake3 };
        }
        for chunk in self.chunks() {
            size_bytes += chunk.len() as u64;
            hasher.update(&chunk);
        }
        FileRef { name: name.into(), size_bytes, blake3: hasher.finalize().into() }
    }

    pub fn whole(self) -> Bytes {
        match self.cipher {
            None => self.plain.clone(),
            Some(_) => self.chunks().flatten().collect(),
        }
    }
}
