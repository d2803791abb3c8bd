//! A copy of a version under another key, or under its first.
//!
//! Whoever changes a key does so because somebody may have the old one, and with it whatever it opened: so all of it is encrypted
//! anew, and nothing that the old key opens is of use in the copy. A copy moves every byte anyway.

use bytes::Bytes;

use super::contents::StoredFile;
use super::copy::Copied;
use super::index::segment_object;
use super::objects::{MADE_MULTIPART_ABOVE, Objects};
use super::publish::sealed_folder;
use super::{IndexStore, Sealing, StoreError};
use crate::artifact::checksums::BLOCK_BYTES;
use crate::artifact::encryption::FileCipher;
use crate::artifact::{FileRef, Manifest};

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
        let (mut folders, mut files) = (Vec::new(), Vec::new());
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
            let stored = folder.files.iter().map(|file| (object(file), file.clone()));
            files.extend(stored.zip(sources).zip(ciphers));
            folders.push(folder);
        }
        let stored = destination.stored(&manifest, folders, Some(sealing))?;
        let encoded = destination.encode(&stored)?;
        destination.check_vacant(manifest.version, &encoded)?;
        let mut copied = Copied { version: manifest.version, files: 0, bytes_written: 0, bytes: 0 };
        for (((object, file), source), cipher) in &files {
            let size_bytes = file.size_bytes;
            if destination.read_back(object, file).is_err() {
                let chunks = || sealed_chunks(source, &self.objects, cipher);
                destination.objects.write_chunks(object, size_bytes, MADE_MULTIPART_ABOVE, &chunks)?;
                destination.read_back(object, file)?;
                copied.bytes_written += size_bytes;
            }
            copied.files += 1;
            copied.bytes += size_bytes;
            on_file(file);
        }
        destination.commit_copy(&stored, &encoded)?;
        Ok(copied)
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
