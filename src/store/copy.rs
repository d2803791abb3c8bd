use super::index::{manifest_object, segment_object};
use super::objects::check_digest;
use super::{IndexStore, Place, StoreError};
use crate::artifact::{Digest, FileRef, Manifest};

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub version: u64,
    pub files: u64,
    /// Bytes of the files that were not there yet, the manifest's apart.
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
        let artifact = self.artifact(version)?;
        let manifest = Manifest { index_name: destination.name.clone(), ..artifact.manifest().clone() };
        let encoded = destination.encode(&manifest)?;
        let version = manifest.version;
        if destination.objects.size(&manifest_object(version))?.is_some() {
            destination.expect_manifest(version, &encoded)?;
        }
        let mut copied = Copied { version, files: 0, bytes_written: 0, bytes: 0 };
        for segment in manifest.folders() {
            for file in &segment.files {
                if !destination.has_file(&segment.id, file) {
                    destination.write_file_of(
                        self,
                        &segment.id,
                        file,
                        artifact.place(&segment_object(&segment.id, &file.name)),
                    )?;
                    copied.bytes_written += file.size_bytes;
                }
                copied.files += 1;
                copied.bytes += file.size_bytes;
                on_file(file);
            }
        }
        // The smallest object that is surely there.
        let segment = &manifest.segments[0];
        let checksums = segment.file(&segment.checksums).expect("a manifest that was decoded has them");
        let object = segment_object(&segment.id, &checksums.name);
        let bytes = destination.objects.read_file(&object, checksums, destination.place(None, &object))?;
        destination.check_put_if_absent(&object, &bytes)?;
        if !destination.create_manifest(version, &encoded)? {
            destination.expect_manifest(version, &encoded)?;
        }
        Ok(copied)
    }

    /// Whether the file is there, whole.
    pub(super) fn has_file(&self, segment: &Digest, file: &FileRef) -> bool {
        let object = segment_object(segment, &file.name);
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
        self.objects.write_chunks(&object, file.size_bytes, &chunks)?;
        self.read_back(&object, file)
    }

    /// That the manifest there is this one.
    fn expect_manifest(&self, version: u64, encoded: &[u8]) -> Result<(), StoreError> {
        if self.encode(&self.read_manifest(version)?)? == encoded {
            return Ok(());
        }
        Err(StoreError::Refused {
            index: self.name.clone(),
            what: format!("there is another version {version} already"),
        })
    }
}
