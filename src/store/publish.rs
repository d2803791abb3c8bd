use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::connection::Kind;
use super::contents::Contents;
use super::index::{manifest_object, segment_object};
use super::objects::{Listed, MADE_MULTIPART_ABOVE, MULTIPART_ABOVE, ReadError, check_digest};
use super::retry::{Verdict, is_unimplemented, verdict};
use super::{IndexStore, Sealing, StoreError, Verified};
use crate::artifact::checksums::{BlockChecksums, CHECKSUMS_FILE};
use crate::artifact::encryption::FileCipher;
use crate::artifact::{
    Digest, FileRef, Folder, Head, MANIFEST_FORMAT, MAX_MANIFEST_BYTES, Manifest, ManifestDraft,
    SealedManifest, SegmentRef, StoredManifest, check_file_name, safetensors, sealed_file_name, segment_id,
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

/// A version but for its manifest: its files are in the store, and no version names them yet.
#[derive(Debug)]
pub struct Upload {
    staged: StagedSegment,
    manifest: Manifest,
    stored: StoredManifest,
    /// Of the files that were not there yet.
    pub bytes_written: u64,
}

/// A segment's files in memory, and what a manifest will say of them.
#[derive(Debug, Clone)]
pub struct StagedSegment {
    pub(super) reference: SegmentRef,
    /// In the order of the reference's.
    files: Vec<Bytes>,
    /// Where they are to be encrypted.
    pub(super) sealed: Option<StagedFolder>,
}

/// A segment's folder as it will lie in the store.
#[derive(Debug, Clone)]
pub(super) struct StagedFolder {
    pub folder: Folder,
    pub fingerprint: String,
    ciphers: Vec<Arc<FileCipher>>,
}

/// A file as it will lie in the store.
#[derive(Debug, Clone, Copy)]
struct StagedFile<'a> {
    folder: &'a Digest,
    stored: &'a FileRef,
    contents: Contents<'a>,
}

impl StagedFile<'_> {
    fn object(&self) -> String {
        segment_object(self.folder, &self.stored.name)
    }
}

impl StagedSegment {
    pub fn rows(&self) -> u64 {
        self.reference.rows
    }

    /// The folder that it will be in the store.
    pub(super) fn folder(&self) -> Folder {
        match &self.sealed {
            Some(staged) => staged.folder.clone(),
            None => Folder { id: self.reference.id, files: self.reference.files.clone() },
        }
    }

    fn files(&self) -> impl Iterator<Item = StagedFile<'_>> {
        (0..self.files.len()).map(|place| match &self.sealed {
            None => StagedFile {
                folder: &self.reference.id,
                stored: &self.reference.files[place],
                contents: Contents { plain: &self.files[place], cipher: None },
            },
            Some(StagedFolder { folder, ciphers, .. }) => StagedFile {
                folder: &folder.id,
                stored: &folder.files[place],
                contents: Contents { plain: &self.files[place], cipher: Some(&ciphers[place]) },
            },
        })
    }
}

/// The files of a segment encrypted: the folder that they make, and what encrypts each.
pub(super) fn sealed_folder(
    segment: &SegmentRef,
    sealing: &Sealing,
    mut reference: impl FnMut(usize, &FileCipher, &str) -> Result<FileRef, StoreError>,
) -> Result<(Folder, Vec<Arc<FileCipher>>), StoreError> {
    let mut files = Vec::with_capacity(segment.files.len());
    let mut ciphers = Vec::with_capacity(segment.files.len());
    for (place, file) in segment.files.iter().enumerate() {
        let cipher = sealing.key.of_file(&segment.id, file);
        files.push(reference(place, &cipher, &sealed_file_name(place))?);
        ciphers.push(Arc::new(cipher));
    }
    Ok((Folder { id: segment_id(&files), files }, ciphers))
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
        self.publish_uploaded(self.upload(publish_id, segment_files, draft)?)
    }

    /// All of [`publish_as`](Self::publish_as) but its last step: for whoever wants several indexes to have new versions, or none.
    /// Garbage collection takes the files for a killed publisher's once they are old enough.
    pub fn upload(
        &self,
        publish_id: &str,
        segment_files: Vec<(String, Bytes)>,
        draft: ManifestDraft,
    ) -> Result<Upload, StoreError> {
        let staged = self.stage(draft.rows, segment_files, self.sealing.as_ref())?;
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
        let stored = self.stored(&manifest, vec![staged.folder()], self.sealing.as_ref())?;
        self.encode(&stored)?;
        self.check_writable()?;
        self.check_not_bared()?;
        let bytes_written = self.write(&staged)?;
        Ok(Upload { staged, manifest, stored, bytes_written })
    }

    /// The last step, which makes the version. Files that garbage collection took meanwhile are written again.
    pub fn publish_uploaded(&self, upload: Upload) -> Result<Published, StoreError> {
        let Upload { staged, mut manifest, stored, mut bytes_written } = upload;
        let head = self.commit(stored)?;
        (manifest.version, manifest.created_unix_ms) = (head.version, head.created_unix_ms);
        bytes_written += self.write_if_gone(&staged)?;
        Ok(Published { version: manifest.version, manifest, bytes_written })
    }

    /// A manifest as it is to lie in the store; `folders` are its own there.
    pub(super) fn stored(
        &self,
        manifest: &Manifest,
        folders: Vec<Folder>,
        sealing: Option<&Sealing>,
    ) -> Result<StoredManifest, StoreError> {
        let Some(Sealing { key, key_id }) = sealing else {
            return Ok(StoredManifest::Clear(Box::new(manifest.clone())));
        };
        let place = || self.place(Some(manifest.version), &manifest_object(manifest.version));
        let sealed = SealedManifest::seal(manifest, folders, key, key_id);
        let sealed = sealed.map_err(|error| StoreError::malformed(place(), error))?;
        Ok(StoredManifest::Sealed(Box::new(sealed)))
    }

    /// An index that is encrypted is not followed by a version that is not, unless somebody means it.
    fn check_not_bared(&self) -> Result<(), StoreError> {
        let Some(latest) = self.latest()?.filter(|_| self.sealing.is_none()) else { return Ok(()) };
        match self.read_stored(latest) {
            Ok(StoredManifest::Sealed(sealed)) => Err(StoreError::Refused {
                index: self.name.clone(),
                what: format!(
                    "version {latest} is encrypted with the key `{}`, and the one to follow it would not be: name the key, or \
                     publish elsewhere",
                    sealed.encryption.key_id
                ),
            }),
            // A damaged one says nothing, and is no reason not to publish.
            Ok(_)
            | Err(StoreError::Malformed { .. } | StoreError::Damaged { .. } | StoreError::NotFound { .. }) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The version among the newest, as many as a store has publishers at once, that was published under
    /// that id.
    pub fn published_as(&self, publish_id: &str) -> Result<Option<Head>, StoreError> {
        for version in self.versions()?.into_iter().rev().take(LOOKED_BACK) {
            match self.read_stored(version).map(|stored| stored.head()) {
                Ok(head) if head.publish_id == publish_id => return Ok(Some(head)),
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
    /// along unchanged. Returns the new version. Of an encrypted one no key is needed.
    pub fn rollback(&self, to: u64) -> Result<u64, StoreError> {
        self.check_writable()?;
        let Verified { mut stored, report, .. } = self.verify_stored(to, &mut |_| ())?;
        if let Some(damage) = report.damage.into_iter().next() {
            return Err(damage);
        }
        if let StoredManifest::Clear(manifest) = &mut stored {
            let restored = Manifest { change: None, ..Manifest::clone(manifest) };
            **manifest = restored.with_its_format();
        }
        stored.set_head(Head {
            publish_id: random_id(),
            rolled_back_from: self.latest()?,
            restores: Some(to),
            ..stored.head()
        });
        let version = self.commit(stored)?.version;
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
        sealing: Option<&Sealing>,
    ) -> Result<StagedSegment, StoreError> {
        let mut files = self.with_checksums(segment_files)?;
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let clear = |(name, plain): &(String, Bytes)| Contents { plain, cipher: None }.reference(name);
        let reference = SegmentRef::new(rows, files.iter().map(clear).collect());
        let files: Vec<Bytes> = files.into_iter().map(|(_, bytes)| bytes).collect();
        let sealed = sealing.map(|sealing| {
            let (folder, ciphers) = sealed_folder(&reference, sealing, |place, cipher, name| {
                Ok(Contents { plain: &files[place], cipher: Some(cipher) }.reference(name))
            })?;
            let fingerprint = sealing.key.fingerprint().into();
            Ok::<_, StoreError>(StagedFolder { folder, fingerprint, ciphers })
        });
        Ok(StagedSegment { sealed: sealed.transpose()?, reference, files })
    }

    /// Writes the files that are not there yet, reads them back, and asks the store with one of them whether it puts if
    /// absent. Returns the bytes written.
    pub(super) fn write(&self, staged: &StagedSegment) -> Result<u64, StoreError> {
        let mut bytes_written = 0;
        for file in staged.files() {
            bytes_written += self.write_and_read_back(&file)?;
        }
        let smallest = staged.files().min_by_key(|file| file.stored.size_bytes);
        let smallest = smallest.expect("at least the checksums");
        self.check_put_if_absent(&smallest.object(), &smallest.contents.whole())?;
        Ok(bytes_written)
    }

    /// Once a manifest names them: writes again what garbage collection took meanwhile.
    pub(super) fn write_if_gone(&self, staged: &StagedSegment) -> Result<u64, StoreError> {
        let mut bytes_written = 0;
        for file in staged.files() {
            bytes_written += self.write_if_missing(&file)?;
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
    fn write_and_read_back(&self, file: &StagedFile<'_>) -> Result<u64, StoreError> {
        let (object, stored) = (file.object(), file.stored);
        if let Some(there) = self.objects.head(&object)? {
            let is_reusable = there.size_bytes == stored.size_bytes && is_young(&there);
            if is_reusable && self.read_back(&object, stored).is_ok() {
                return Ok(0);
            }
        }
        let at_once = if file.contents.cipher.is_some() { MADE_MULTIPART_ABOVE } else { MULTIPART_ABOVE };
        let chunks = || file.contents.chunks().map(Ok);
        let write = || self.objects.write_chunks(&object, stored.size_bytes, at_once, &chunks);
        // In place of what a killed publisher may have left: under this id there is only one right content.
        write()?;
        match self.read_back(&object, stored) {
            // A collection that had listed the old one has removed the new one.
            Err(StoreError::Missing { .. }) => {
                write()?;
                self.read_back(&object, stored)?;
            }
            read => read?,
        }
        Ok(stored.size_bytes)
    }

    /// Of a file that was used as it was found: garbage collection may have had it in its hand already.
    fn write_if_missing(&self, file: &StagedFile<'_>) -> Result<u64, StoreError> {
        if self.objects.size(&file.object())?.is_some() {
            return Ok(0);
        }
        self.write_and_read_back(file)
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

    /// Creates the manifest under the first number that is free: the one step that makes a version. Returns where it stands now.
    fn commit(&self, mut stored: StoredManifest) -> Result<Head, StoreError> {
        let mut head = Head { created_unix_ms: unix_ms(), ..stored.head() };
        let mut highest = self.latest()?.unwrap_or(0);
        for _ in 0..MAX_ATTEMPTS {
            head.version = highest.checked_add(1).ok_or_else(|| StoreError::Refused {
                index: self.name.clone(),
                what: format!("there is no version after {highest}"),
            })?;
            stored.set_head(head.clone());
            if self.create_manifest(head.version, &self.encode(&stored)?)? {
                return Ok(head);
            }
            highest = self.latest()?.unwrap_or(0).max(head.version);
        }
        Err(StoreError::Conflict { index: self.name.clone(), attempts: MAX_ATTEMPTS, version: head.version })
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
                (Ok(found), Ok(())) if StoredManifest::decode(&found, &self.name, version).is_ok() => {
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

    pub(super) fn encode(&self, manifest: &StoredManifest) -> Result<Bytes, StoreError> {
        let place = self.place(Some(manifest.version()), &manifest_object(manifest.version()));
        let bytes = manifest.encode().map_err(|error| StoreError::malformed(place.clone(), error))?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ReadError::Size { got: bytes.len() as u64 }.of(place, MAX_MANIFEST_BYTES));
        }
        Ok(bytes.into())
    }
}

/// Whether a file may be used as it is found: see [`REUSED_WITHIN`].
pub(super) fn is_young(there: &Listed) -> bool {
    SystemTime::now().duration_since(there.modified).unwrap_or_default() < REUSED_WITHIN
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
pub(crate) fn random_id() -> String {
    let draw = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(unix_ms());
        hasher.write_u32(std::process::id());
        hasher.finish()
    };
    format!("{:016x}{:016x}", draw(), draw())
}
