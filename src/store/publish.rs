use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::index::{manifest_object, segment_object};
use super::objects::{ReadError, check_digest};
use super::{IndexStore, StoreError};
use crate::artifact::checksums::{BlockChecksums, CHECKSUMS_FILE};
use crate::artifact::{
    Digest, FileRef, MANIFEST_FORMAT, MAX_MANIFEST_BYTES, Manifest, ManifestDraft, SegmentRef,
    check_file_name, safetensors,
};

/// A publisher that was overtaken this often gives up: no index has a thousand publishers at once.
const MAX_ATTEMPTS: u32 = 1_000;

/// What publishing did.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub version: u64,
    pub manifest: Manifest,
    /// Bytes of the files that were not there yet, the manifest's apart.
    pub bytes_written: u64,
}

impl IndexStore {
    /// Publishes one segment, given as its files' names and bytes, as a new version.
    ///
    /// Until the last step, which creates the manifest, nothing is visible: a publisher killed before it leaves files
    /// that no version names, and that the next attempt at the same contents finds and uses. Of publishers at the same
    /// time each gets a version of its own. When this returns, every file has been read back and checked, and on a
    /// local file system opened by a URI has been flushed to the disk.
    ///
    /// # Errors
    /// Names that cannot be file names, no files, `checksums.safetensors` (which is made here), a draft that does not
    /// fit its segment, a store that does not honour put-if-absent, and whatever goes wrong while writing.
    pub fn publish(
        &self,
        segment_files: Vec<(String, Bytes)>,
        draft: ManifestDraft,
    ) -> Result<Published, StoreError> {
        let files = self.with_checksums(segment_files)?;
        let references = files
            .iter()
            .map(|(name, bytes)| FileRef {
                name: name.clone(),
                size_bytes: bytes.len() as u64,
                blake3: Digest::of(bytes),
            })
            .collect();
        let manifest = Manifest {
            format_version: MANIFEST_FORMAT.into(),
            index_name: self.name.clone(),
            version: 1,
            created_unix_ms: 0,
            publish_id: String::new(),
            rolled_back_from: None,
            restores: None,
            segments: vec![SegmentRef::new(draft.rows, references)],
            build: draft,
        };
        // Before anything is written: a draft that cannot be a manifest.
        self.encode(&manifest)?;

        let segment = &manifest.segments[0];
        let mut bytes_written = 0;
        for (name, bytes) in &files {
            let file = segment.file(name).expect("made from these files");
            bytes_written += self.write_and_read_back(segment, file, bytes)?;
        }
        self.check_put_if_absent(&segment.id, &files)?;
        let manifest = self.commit(manifest)?;
        Ok(Published { version: manifest.version, manifest, bytes_written })
    }

    /// Publishes what version `to` has as a new version, after reading all of it. Its build and its certificate come
    /// along unchanged. Returns the new version.
    pub fn rollback(&self, to: u64) -> Result<u64, StoreError> {
        let artifact = self.artifact(Some(to))?;
        if let Some(damage) = artifact.verify(&mut |_| ()).damage.into_iter().next() {
            return Err(damage);
        }
        let manifest = Manifest {
            format_version: MANIFEST_FORMAT.into(),
            rolled_back_from: self.latest()?,
            restores: Some(to),
            ..artifact.manifest().clone()
        };
        Ok(self.commit(manifest)?.version)
    }

    fn with_checksums(&self, mut files: Vec<(String, Bytes)>) -> Result<Vec<(String, Bytes)>, StoreError> {
        let refused = |what: String| StoreError::Refused { index: self.name.clone(), what };
        if files.is_empty() {
            return Err(refused("a segment has at least one file".into()));
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let mut checksums = BlockChecksums::default();
        for (name, bytes) in &files {
            check_file_name(name)?;
            if name == CHECKSUMS_FILE {
                return Err(refused(format!("the file name `{CHECKSUMS_FILE}` is reserved")));
            }
            checksums.insert(name, bytes);
        }
        if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(refused(format!("two files are called `{}`", pair[0].0)));
        }
        let checksums = safetensors::encode(&checksums.to_section());
        files.push((checksums.file_name, checksums.bytes));
        Ok(files)
    }

    /// Returns how much was written: nothing where the file was there already, and right.
    fn write_and_read_back(
        &self,
        segment: &SegmentRef,
        file: &FileRef,
        bytes: &Bytes,
    ) -> Result<u64, StoreError> {
        let object = segment_object(&segment.id, &file.name);
        if self.objects.size(&object)? == Some(file.size_bytes) && self.read_back(&object, file).is_ok() {
            return Ok(0);
        }
        // In place of what a killed publisher may have left: under this id there is only one right content.
        self.objects.write(&object, bytes.clone())?;
        self.read_back(&object, file)?;
        Ok(file.size_bytes)
    }

    fn read_back(&self, object: &str, file: &FileRef) -> Result<(), StoreError> {
        let place = self.place(None, object);
        let mut hasher = blake3::Hasher::new();
        for chunk in self.objects.chunks(object, file.size_bytes) {
            hasher.update(&chunk.map_err(|error| error.of(place.clone(), file.size_bytes))?);
        }
        check_digest(&hasher, file, place)
    }

    /// The commit rests on put-if-absent, and some stores that speak S3 overwrite in silence. So ask: create the
    /// smallest file of the segment a second time, with the bytes that it has.
    fn check_put_if_absent(&self, segment: &Digest, files: &[(String, Bytes)]) -> Result<(), StoreError> {
        let (name, bytes) =
            files.iter().min_by_key(|(_, bytes)| bytes.len()).expect("at least the checksums");
        let object = segment_object(segment, name);
        match self.objects.create(&object, bytes.clone())? {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(())
            }
            Err(source) => Err(StoreError::Io { object, source }),
            Ok(()) => Err(StoreError::Unsupported {
                what: format!(
                    "publishing index `{}` to a store that overwrites where it was asked to put if absent",
                    self.name
                ),
            }),
        }
    }

    /// Creates the manifest under the first number that is free: the one step that makes a version.
    fn commit(&self, mut manifest: Manifest) -> Result<Manifest, StoreError> {
        manifest.created_unix_ms = unix_ms();
        manifest.publish_id = random_id();
        let mut highest = self.latest()?.unwrap_or(0);
        for _ in 0..MAX_ATTEMPTS {
            manifest.version = highest.checked_add(1).ok_or_else(|| StoreError::Refused {
                index: self.name.clone(),
                what: format!("there is no version after {highest}"),
            })?;
            let bytes = self.encode(&manifest)?;
            let object = manifest_object(manifest.version);
            let created = self.objects.create(&object, bytes.clone())?;
            // Whatever the store answered, what it holds now decides: an answer may have been lost on its way after
            // the deed, and the object that "exists already" may then be this very one.
            match (self.objects.read_at_most(&object, MAX_MANIFEST_BYTES), created) {
                (Ok(found), _) if found == bytes => return Ok(manifest),
                (Ok(_), Err(_)) => highest = self.latest()?.unwrap_or(0).max(manifest.version),
                (Ok(_), Ok(())) => {
                    let place = self.place(Some(manifest.version), &object);
                    let (expected, got) = ("the bytes that were written".into(), "others".into());
                    return Err(StoreError::Damaged { place, expected, got });
                }
                (Err(_), Err(source)) => return Err(StoreError::Io { object, source }),
                (Err(error), Ok(())) => {
                    return Err(error.of(self.place(Some(manifest.version), &object), bytes.len() as u64));
                }
            }
        }
        Err(StoreError::Conflict {
            index: self.name.clone(),
            attempts: MAX_ATTEMPTS,
            version: manifest.version,
        })
    }

    fn encode(&self, manifest: &Manifest) -> Result<Bytes, StoreError> {
        let place = self.place(Some(manifest.version), &manifest_object(manifest.version));
        let bytes = manifest.encode().map_err(|error| StoreError::malformed(place.clone(), error))?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ReadError::Size { got: bytes.len() as u64 }.of(place, MAX_MANIFEST_BYTES));
        }
        Ok(bytes.into())
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// 128 bits that no other publisher draws: the standard library seeds each `RandomState` from the system's randomness
/// and a counter.
fn random_id() -> String {
    let draw = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(unix_ms());
        hasher.write_u32(std::process::id());
        hasher.finish()
    };
    format!("{:016x}{:016x}", draw(), draw())
}
