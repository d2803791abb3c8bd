//! A copy of a version under another key, or under its first.
//!
//! Whoever changes a key does so because somebody may have the old one, and with it whatever it opened: so all of it is encrypted
//! anew, and nothing that the old key opens is of use in the copy. A copy moves every byte anyway.

use std::collections::HashMap;

use bytes::Bytes;

use super::contents::StoredFile;
use super::copy::Copied;
use super::index::segment_object;
use super::objects::{MADE_MULTIPART_ABOVE, Objects};
use super::publish::sealed_folder;
use super::{IndexStore, Sealing, StoreError};
use crate::artifact::checksums::BLOCK_BYTES;
use crate::artifact::encryption::FileCipher;
use crate::artifact::{Digest, FileRef, Manifest};

impl IndexStore {
    /// [`copy_to`](Self::copy_to), encrypted with `sealing` whatever it was encrypted with before. The version is read twice: what
    /// an encrypted file is called depends on all of it. Made again, the copy has the same bytes.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to), and that the version's own key is missing or another.
    pub fn copy_rekeyed(
        &self,
        destination: &IndexStore,
        version: Option<u64>,
        sealing: &Sealing,
        on_file: &mut dyn FnMut(&FileRef),
    ) -> Result<Copied, StoreError> {
        destination.check_writable()?;
        let artifact = self.artifact(version)?;
        let manifest = Manifest { index_name: destination.name.clone(), ..artifact.manifest().clone() };
        let (mut folders, mut files) = (Vec::new(), HashMap::new());
        for segment in artifact.folders() {
            let plain = segment.reference();
            let sources = plain.files.iter().map(|file| segment.stored(&file.name));
            let sources = sources.collect::<Result<Vec<_>, _>>()?;
            let (folder, ciphers) = sealed_folder(plain, sealing, |place, cipher, name| {
                let (mut hasher, mut size_bytes) = (blake3::Hasher::new(), 0);
                for chunk in sealed_chunks(&sources[place], &self.objects, cipher) {
                    let chunk = chunk?;
                    hasher.update(&chunk);
                    size_bytes += chunk.len() as u64;
                }
                Ok(FileRef { name: name.into(), size_bytes, blake3: hasher.finalize().into() })
            })?;
            let object = |file: &FileRef| segment_object(&folder.id, &file.name);
            files.extend(folder.files.iter().map(object).zip(sources.into_iter().zip(ciphers)));
            folders.push(folder);
        }
        let stored = destination.stored(&manifest, folders, Some(sealing))?;
        let write = |folder: &Digest, file: &FileRef| {
            let object = segment_object(folder, &file.name);
            let (source, cipher) = &files[&object];
            let chunks = || sealed_chunks(source, &self.objects, cipher);
            destination.objects.write_chunks(&object, file.size_bytes, MADE_MULTIPART_ABOVE, &chunks)?;
            destination.read_back(&object, file)
        };
        destination.receive(&stored, &write, on_file)
    }
}

/// A file's chunks, encrypted.
fn sealed_chunks<'a>(
    source: &'a StoredFile,
    objects: &Objects,
    cipher: &'a FileCipher,
) -> impl Iterator<Item = Result<Bytes, StoreError>> + 'a {
    let mut block = 0;
    source.chunks(objects).map(move |chunk| {
        let chunk = chunk?;
        let sealed = cipher.seal(block, &chunk);
        block += chunk.len() as u64 / BLOCK_BYTES;
        Ok(sealed.into())
    })
}
