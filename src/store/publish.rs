use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::connection::Kind;
use super::index::{manifest_object, segment_object};
use super::objects::{ReadError, check_digest};
use super::retry::{Verdict, is_unimplemented, verdict};
use super::{IndexStore, StoreError};
use crate::artifact::checksums::{BlockChecksums, CHECKSUMS_FILE};
use crate::artifact::{
    Digest, FileRef, MANIFEST_FORMAT, MAX_MANIFEST_BYTES, Manifest, ManifestDraft, SegmentRef,
    check_file_name, safetensors,
};

/// A publisher that was overtaken this often gives up: no index has a thousand publishers at once.
const MAX_ATTEMPTS: u32 = 1_000;

/// Versions among which a killed publisher's own is looked for.
const LOOKED_BACK: usize = 64;

/// A file of the right contents that is there already is used if it is younger than this, and else written again: then
/// garbage collection, which looks at the age, does not take it away before the manifest names it.
const REUSED_WITHIN: Duration = Duration::from_secs(10 * 60);

/// What is put if absent twice to see whether the store refuses it the second time.
const PROBE_OBJECT: &str = "probe";
const PROBE: &[u8] = b"The second put-if-absent of this object must fail.\n";

/// What publishing did.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub version: u64,
    pub manifest: Manifest,
    /// Bytes of the files that were not there yet, the manifest's apart.
    pub bytes_written: u64,
}

/// A segment's files in memory, and what a manifest will say of them.
#[derive(Debug, Clone)]
pub struct StagedSegment {
    pub(super) reference: SegmentRef,
    /// Ascending by name, but for the checksums, which are the last.
    files: Vec<(String, Bytes)>,
}

impl StagedSegment {
    pub fn rows(&self) -> u64 {
        self.reference.rows
    }

    fn files(&self) -> impl Iterator<Item = (&FileRef, &Bytes)> {
        let of = |name: &str| self.reference.file(name).expect("made from these files");
        self.files.iter().map(move |(name, bytes)| (of(name), bytes))
    }
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
        self.publish_as(&random_id(), segment_files, draft)
    }

    /// [`publish`](Self::publish) under an id of the caller's, which is to be unlike all others: should the publisher be killed,
    /// [`published_as`](Self::published_as) tells whether the version is there.
    pub fn publish_as(
        &self,
        publish_id: &str,
        segment_files: Vec<(String, Bytes)>,
        draft: ManifestDraft,
    ) -> Result<Published, StoreError> {
        let staged = self.stage(draft.rows, segment_files)?;
        let manifest = Manifest {
            format_version: MANIFEST_FORMAT.into(),
            index_name: self.name.clone(),
            version: 1,
            created_unix_ms: 0,
            publish_id: publish_id.into(),
            rolled_back_from: None,
            restores: None,
            requires: Vec::new(),
            segments: vec![staged.reference.clone()],
            tombstones: None,
            change: None,
            build: draft,
        };
        // Before anything is written: a draft that cannot be a manifest.
        self.encode(&manifest)?;
        self.check_writable()?;
        let mut bytes_written = self.write(&staged)?;
        let manifest = self.commit(manifest)?;
        bytes_written += self.write_if_gone(&staged)?;
        Ok(Published { version: manifest.version, manifest, bytes_written })
    }

    /// The manifest among those of the newest versions, as many as a store has publishers at once, that was published under
    /// that id.
    pub fn published_as(&self, publish_id: &str) -> Result<Option<Manifest>, StoreError> {
        for version in self.versions()?.into_iter().rev().take(LOOKED_BACK) {
            match self.read_manifest(version) {
                Ok(manifest) if manifest.publish_id == publish_id => return Ok(Some(manifest)),
                // A damaged one is another's: ours was read back when it was written. Or it has just been collected.
                Ok(_)
                | Err(
                    StoreError::Malformed { .. } | StoreError::Damaged { .. } | StoreError::NotFound { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Publishes what version `to` has as a new version, after reading all of it. Its build and its certificate come
    /// along unchanged. Returns the new version.
    pub fn rollback(&self, to: u64) -> Result<u64, StoreError> {
        self.check_writable()?;
        let artifact = self.artifact(Some(to))?;
        if let Some(damage) = artifact.verify(&mut |_| ()).damage.into_iter().next() {
            return Err(damage);
        }
        let manifest = Manifest {
            publish_id: random_id(),
            rolled_back_from: self.latest()?,
            restores: Some(to),
            change: None,
            ..artifact.manifest().clone()
        };
        let manifest = manifest.with_its_format();
        let version = self.commit(manifest)?.version;
        // Garbage collection removes a version's manifest, and then looks once more which segments are named. So where
        // the old manifest is still there, it will see the new one; where it is not, it may not have.
        if self.objects.size(&manifest_object(to))?.is_none() {
            return Err(StoreError::Refused {
                index: self.name.clone(),
                what: format!(
                    "version {to} was removed while version {version} restored it: verify {version}"
                ),
            });
        }
        Ok(version)
    }

    /// Whether this place can be published to, found out by trying: on most stores at the price of one small object,
    /// `probe`, beside the versions. To be called before hours of work.
    ///
    /// # Errors
    /// A store that can only be read; one that overwrites where it was asked to put if absent, unless the index was
    /// opened for a single writer; one that does not let us write.
    pub fn probe(&self) -> Result<(), StoreError> {
        self.check_writable()?;
        match self.objects.kind() {
            // Whether one may write there, the first write says; that links and maps refuse a second is known.
            Kind::Files | Kind::Memory => Ok(()),
            _ if self.single_writer => self.objects.write(PROBE_OBJECT, &Bytes::from_static(PROBE)),
            _ => {
                let created = self.objects.create_surely(PROBE_OBJECT, Bytes::from_static(PROBE))?;
                match created {
                    Ok(()) => self.check_put_if_absent(PROBE_OBJECT, &Bytes::from_static(PROBE)),
                    Err(error) if is_taken(&error) => Ok(()),
                    Err(error) => Err(self.not_put_if_absent(PROBE_OBJECT, error)),
                }
            }
        }
    }

    /// Writes the probe's object again; when that was, by the store's clock.
    pub(super) fn touch_probe(&self) -> Result<SystemTime, StoreError> {
        self.objects.write(PROBE_OBJECT, &Bytes::from_static(PROBE))?;
        match self.objects.head(PROBE_OBJECT)? {
            Some(listed) => Ok(listed.modified),
            None => Err(StoreError::Missing { place: self.place(None, PROBE_OBJECT) }),
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match self.objects.kind() {
            Kind::ReadOnly => Err(StoreError::Unsupported {
                what: format!("writing index `{}` through http, which is for reading,", self.name),
            }),
            _ => Ok(()),
        }
    }

    /// The files as those of a segment, with their checksums; nothing is written yet.
    pub(super) fn stage(
        &self,
        rows: u64,
        segment_files: Vec<(String, Bytes)>,
    ) -> Result<StagedSegment, StoreError> {
        let files = self.with_checksums(segment_files)?;
        let reference = |(name, bytes): &(String, Bytes)| FileRef {
            name: name.clone(),
            size_bytes: bytes.len() as u64,
            blake3: Digest::of(bytes),
        };
        let references = files.iter().map(reference).collect();
        Ok(StagedSegment { reference: SegmentRef::new(rows, references), files })
    }

    /// Writes the files that are not there yet, reads them back, and asks the store with one of them whether it puts if
    /// absent. Returns the bytes written.
    pub(super) fn write(&self, staged: &StagedSegment) -> Result<u64, StoreError> {
        let mut bytes_written = 0;
        for (file, bytes) in staged.files() {
            bytes_written += self.write_and_read_back(&staged.reference, file, bytes)?;
        }
        let smallest = staged.files.iter().min_by_key(|(_, bytes)| bytes.len());
        let (smallest, bytes) = smallest.expect("at least the checksums");
        self.check_put_if_absent(&segment_object(&staged.reference.id, smallest), bytes)?;
        Ok(bytes_written)
    }

    /// Once a manifest names them: writes again what garbage collection took meanwhile.
    pub(super) fn write_if_gone(&self, staged: &StagedSegment) -> Result<u64, StoreError> {
        let mut bytes_written = 0;
        for (file, bytes) in staged.files() {
            bytes_written += self.write_if_missing(&staged.reference, file, bytes)?;
        }
        Ok(bytes_written)
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
        if let Some(there) = self.objects.head(&object)? {
            let age = SystemTime::now().duration_since(there.modified).unwrap_or_default();
            let is_reusable = there.size_bytes == file.size_bytes && age < REUSED_WITHIN;
            if is_reusable && self.read_back(&object, file).is_ok() {
                return Ok(0);
            }
        }
        // In place of what a killed publisher may have left: under this id there is only one right content.
        self.objects.write(&object, bytes)?;
        match self.read_back(&object, file) {
            // A collection that had listed the old one has removed the new one.
            Err(StoreError::Missing { .. }) => {
                self.objects.write(&object, bytes)?;
                self.read_back(&object, file)?;
            }
            read => read?,
        }
        Ok(file.size_bytes)
    }

    /// Of a file that was used as it was found: garbage collection may have had it in its hand already.
    fn write_if_missing(
        &self,
        segment: &SegmentRef,
        file: &FileRef,
        bytes: &Bytes,
    ) -> Result<u64, StoreError> {
        let object = segment_object(&segment.id, &file.name);
        if self.objects.size(&object)?.is_some() {
            return Ok(0);
        }
        self.write_and_read_back(segment, file, bytes)
    }

    pub(super) fn read_back(&self, object: &str, file: &FileRef) -> Result<(), StoreError> {
        let place = self.place(None, object);
        let mut hasher = blake3::Hasher::new();
        for chunk in self.objects.chunks(object, file.size_bytes) {
            hasher.update(&chunk.map_err(|error| error.of(place.clone(), file.size_bytes))?);
        }
        check_digest(&hasher, file, place)
    }

    /// The commit rests on put-if-absent, and some stores that speak S3 overwrite in silence. So ask: create an
    /// object that is there, with the bytes that it has.
    pub(super) fn check_put_if_absent(&self, object: &str, bytes: &Bytes) -> Result<(), StoreError> {
        if self.single_writer {
            return Ok(());
        }
        // Twice: the first time it may have been missing after all, removed by a collection.
        for _ in 0..2 {
            match self.objects.create_surely(object, bytes.clone())? {
                Ok(()) => (),
                Err(error) if is_taken(&error) => return Ok(()),
                Err(error) => return Err(self.not_put_if_absent(object, error)),
            }
        }
        Err(StoreError::Overwrites { index: self.name.clone() })
    }

    /// A store that has no put-if-absent at all, or fails.
    fn not_put_if_absent(&self, object: &str, error: object_store::Error) -> StoreError {
        match error {
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                StoreError::Overwrites { index: self.name.clone() }
            }
            error if is_unimplemented(&error) => StoreError::Overwrites { index: self.name.clone() },
            error => self.objects.io(object, error),
        }
    }

    /// Creates the manifest under the first number that is free: the one step that makes a version.
    fn commit(&self, mut manifest: Manifest) -> Result<Manifest, StoreError> {
        manifest.created_unix_ms = unix_ms();
        let mut highest = self.latest()?.unwrap_or(0);
        for _ in 0..MAX_ATTEMPTS {
            manifest.version = highest.checked_add(1).ok_or_else(|| StoreError::Refused {
                index: self.name.clone(),
                what: format!("there is no version after {highest}"),
            })?;
            if self.create_manifest(manifest.version, &self.encode(&manifest)?)? {
                return Ok(manifest);
            }
            highest = self.latest()?.unwrap_or(0).max(manifest.version);
        }
        Err(StoreError::Conflict {
            index: self.name.clone(),
            attempts: MAX_ATTEMPTS,
            version: manifest.version,
        })
    }

    /// Whether the manifest of that version is now this one; `false` where it is another.
    pub(super) fn create_manifest(&self, version: u64, bytes: &Bytes) -> Result<bool, StoreError> {
        let object = manifest_object(version);
        let place = || self.place(Some(version), &object);
        let mut patience = self.objects.retry().patience();
        loop {
            let created = if self.single_writer {
                self.create_alone(&object, bytes)?
            } else {
                self.objects.create(&object, bytes.clone())?
            };
            // Whatever the store answered, what it holds now decides: an answer may have been lost on its way after
            // the deed, and the object that "exists already" may then be this very one.
            match (self.read_manifest_file(version), created) {
                // Once more: a store whose check and whose write are two steps may let two publishers through, and the
                // later one's write falls between. (Seen of SeaweedFS on a loaded machine.)
                (Ok(found), _) if found == *bytes => {
                    let again = self.read_manifest_file(version);
                    let again = again.map_err(|error| error.of(place(), bytes.len() as u64))?;
                    return Ok(again == *bytes);
                }
                (Ok(_), Err(_)) => return Ok(false),
                (Ok(found), Ok(())) if Manifest::decode(&found, &self.name, version).is_ok() => {
                    return Ok(false);
                }
                (Ok(_), Ok(())) => {
                    let (expected, got) = ("the bytes that were written".into(), "others".into());
                    return Err(StoreError::Damaged { place: place(), expected, got });
                }
                (Err(ReadError::Missing), Err(source)) => {
                    // "Taken" and yet nothing there: somebody else's write is under way.
                    let verdict = if is_taken(&source) { Verdict::Transient } else { verdict(&source) };
                    let Some(wait) = patience.wait_after(verdict) else {
                        return Err(self.objects.io(&object, source));
                    };
                    std::thread::sleep(wait);
                }
                (Err(error), _) => return Err(error.of(place(), bytes.len() as u64)),
            }
        }
    }

    /// Creates an object on a store that cannot refuse: for the only writer there is.
    fn create_alone(
        &self,
        object: &str,
        bytes: &Bytes,
    ) -> Result<Result<(), object_store::Error>, StoreError> {
        if self.objects.size(object)?.is_some() {
            let (path, source) = (object.into(), "it is there".into());
            return Ok(Err(object_store::Error::AlreadyExists { path, source }));
        }
        match self.objects.write(object, bytes) {
            Err(StoreError::Io { source, .. }) => Ok(Err(source)),
            written => written.map(Ok),
        }
    }

    pub(super) fn encode(&self, manifest: &Manifest) -> Result<Bytes, StoreError> {
        let place = self.place(Some(manifest.version), &manifest_object(manifest.version));
        let bytes = manifest.encode().map_err(|error| StoreError::malformed(place.clone(), error))?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ReadError::Size { got: bytes.len() as u64 }.of(place, MAX_MANIFEST_BYTES));
        }
        Ok(bytes.into())
    }
}

/// The store says that there is such an object already.
fn is_taken(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
}

pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// 128 bits that no other publisher draws: the standard library seeds each `RandomState` from the system's randomness
/// and a counter.
pub(super) fn random_id() -> String {
    let draw = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(unix_ms());
        hasher.write_u32(std::process::id());
        hasher.finish()
    };
    format!("{:016x}{:016x}", draw(), draw())
}
