use bytes::Bytes;

use super::index::{Opened, manifest_object, segment_object};
use super::objects::{MULTIPART_ABOVE, check_digest};
use super::publish::is_young;
use super::{IndexStore, Place, StoreError};
use crate::artifact::{Digest, FileRef, Head, Manifest, StoredFolder, StoredManifest};

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub version: u64,
    pub files: u64,
    /// Bytes of the files that were not there yet, or were about to be collected; the manifest's apart.
    pub bytes_written: u64,
    /// Of all the version's files.
    pub bytes: u64,
}

impl IndexStore {
    /// Copies a version, the latest if none is named, to `destination` under the same number. Each file is compared with
    /// the manifest as it is read here and again as it lies there; the manifest is created last, if absent. So a copy is
    /// as good as what it was made of, and one that is broken off has not happened. `on_file` is told of each file that
    /// is done.
    ///
    /// # Errors
    /// Damage on either side, a version of that number there that is another, and what the stores say.
    pub fn copy_to(
        &self,
        destination: &IndexStore,
        version: Option<u64>,
        on_file: &mut dyn FnMut(&FileRef),
    ) -> Result<Copied, StoreError> {
        destination.check_writable()?;
        let stored = self.read_stored(self.named_or_latest(version)?)?;
        let manifest = self.under_name(&stored, &destination.name)?;
        let write = |folder: &Digest, file: &FileRef| {
            let place = self.place(Some(manifest.version()), &segment_object(folder, &file.name));
            destination.write_file_of(self, folder, file, place)
        };
        destination.receive(&manifest, &write, on_file)
    }

    /// Makes a version that lies elsewhere one of this index. `write` writes one of its files, and has read it back when it
    /// returns.
    pub(super) fn receive(
        &self,
        manifest: &StoredManifest,
        write: &dyn Fn(&Digest, &FileRef) -> Result<(), StoreError>,
        on_file: &mut dyn FnMut(&FileRef),
    ) -> Result<Copied, StoreError> {
        let encoded = self.encode(manifest)?;
        self.check_vacant(manifest.version(), &encoded)?;
        let mut copied = Copied { version: manifest.version(), files: 0, bytes_written: 0, bytes: 0 };
        let written = |folder: &Digest, file: &FileRef| write(folder, file).map(|()| file.size_bytes);
        let folders = manifest.folders();
        for StoredFolder { id, files } in &folders {
            if let Some(file) = self.to_renew(id, files)? {
                copied.bytes_written += written(id, file)?;
            }
            for file in *files {
                if !self.has_file(id, file) {
                    copied.bytes_written += written(id, file)?;
                }
                copied.files += 1;
                copied.bytes += file.size_bytes;
                on_file(file);
            }
        }
        self.commit_copy(manifest, &encoded)?;
        // Of files that were used as they were found: garbage collection may have had them in its hand already.
        for StoredFolder { id, files } in &folders {
            for file in *files {
                if self.objects.size(&segment_object(id, &file.name))?.is_none() {
                    copied.bytes_written += written(id, file)?;
                }
            }
        }
        Ok(copied)
    }

    /// The file of a folder to write again, the smallest, where all that are there are old: garbage collection leaves a folder
    /// alone as long as one of its files is young, and before the manifest names it, nothing else keeps it.
    fn to_renew<'f>(&self, folder: &Digest, files: &'f [FileRef]) -> Result<Option<&'f FileRef>, StoreError> {
        let mut is_there = false;
        for file in files {
            if let Some(there) = self.objects.head(&segment_object(folder, &file.name))? {
                if is_young(&there) {
                    return Ok(None);
                }
                is_there = true;
            }
        }
        Ok(files.iter().filter(|_| is_there).min_by_key(|file| file.size_bytes))
    }

    /// That there is no version of that number, or this very one.
    fn check_vacant(&self, version: u64, encoded: &[u8]) -> Result<(), StoreError> {
        match self.objects.size(&manifest_object(version))? {
            Some(_) => self.expect_manifest(version, encoded),
            None => Ok(()),
        }
    }

    /// The last step of a copy whose files are all there.
    fn commit_copy(&self, manifest: &StoredManifest, encoded: &Bytes) -> Result<(), StoreError> {
        let folders = manifest.folders();
        let all = folders.iter().flat_map(|folder| folder.files.iter().map(|file| (folder.id, file)));
        let (segment, smallest) = all.min_by_key(|(_, file)| file.size_bytes).expect("a folder has files");
        let object = segment_object(segment, &smallest.name);
        let bytes = self.objects.read_file(&object, smallest, self.place(None, &object))?;
        self.check_put_if_absent(&object, &bytes)?;
        if !self.create_manifest(manifest.version(), encoded)? {
            self.expect_manifest(manifest.version(), encoded)?;
        }
        Ok(())
    }

    /// The same version of an index of another name. An encrypted one is bound to its name, so that takes the key.
    pub(super) fn under_name(
        &self,
        stored: &StoredManifest,
        name: &str,
    ) -> Result<StoredManifest, StoreError> {
        let head = Head { index_name: name.into(), ..stored.head() };
        if stored.sealed().is_some() && stored.head().index_name != name {
            let (manifest, opened) = self.open_manifest(stored)?;
            let Opened { sealing, folders } = opened.expect("it is encrypted");
            let manifest = Manifest { index_name: name.into(), ..manifest };
            return self.stored(&manifest, folders, Some(&sealing));
        }
        let mut renamed = stored.clone();
        renamed.set_head(head);
        Ok(renamed)
    }

    /// Whether the file is there, whole.
    fn has_file(&self, folder: &Digest, file: &FileRef) -> bool {
        let object = segment_object(folder, &file.name);
        matches!(self.objects.size(&object), Ok(Some(size)) if size == file.size_bytes)
            && self.read_back(&object, file).is_ok()
    }

    /// Writes a segment's file from the one that `source` has, a few chunks at a time. It is compared with its digest as
    /// it passes, and a file that is not what it should be is not completed; then it is read back.
    pub(super) fn write_file_of(
        &self,
        source: &IndexStore,
        segment: &Digest,
        file: &FileRef,
        place: Place,
    ) -> Result<(), StoreError> {
        let object = segment_object(segment, &file.name);
        let chunks = || {
            let mut hasher = blake3::Hasher::new();
            let mut read = 0;
            let place = place.clone();
            source.objects.chunks(&object, file.size_bytes).map(move |chunk| {
                let chunk = chunk.map_err(|error| error.of(place.clone(), file.size_bytes))?;
                hasher.update(&chunk);
                read += chunk.len() as u64;
                if read == file.size_bytes {
                    // Before the last chunk is handed on, without which nothing is complete.
                    check_digest(&hasher, file, place.clone())?;
                }
                Ok(chunk)
            })
        };
        self.objects.write_chunks(&object, file.size_bytes, MULTIPART_ABOVE, &chunks)?;
        self.read_back(&object, file)
    }

    /// That the manifest there is this one.
    fn expect_manifest(&self, version: u64, encoded: &[u8]) -> Result<(), StoreError> {
        if self.encode(&self.read_stored(version)?)? == encoded {
            return Ok(());
        }
        Err(StoreError::Refused {
            index: self.name.clone(),
            what: format!("there is another version {version} already"),
        })
    }
}
