use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

use super::artifact::Artifact;
use super::connection::Connection;
use super::key::Keys;
use super::objects::{Objects, ReadError};
use super::{KeyFault, KeyReference, Location, Place, Sealing, StoreError, StoreOptions};
use crate::artifact::{
    Digest, FetchStats, Folder, MAX_MANIFEST_BYTES, Manifest, StoredManifest, check_index_name,
    version_file_name, version_of_file_name,
};

/// The versions of one index, at `<root>/<index>`.
#[derive(Debug, Clone)]
pub struct IndexStore {
    pub(super) name: String,
    pub(super) objects: Objects,
    /// The user sees to it that nobody else publishes: put-if-absent is not asked for.
    pub(super) single_writer: bool,
    pub(super) keys: Keys,
    /// What versions are encrypted with that are made of no other.
    pub(super) sealing: Option<Sealing>,
}

/// What an encrypted version was opened with.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub sealing: Sealing,
    /// The manifest's, as they lie in the store.
    pub folders: Vec<Folder>,
}

/// The object that a version's manifest is, below the index's folder.
pub(super) fn manifest_object(version: u64) -> String {
    format!("v/{}", version_file_name(version))
}

/// The object that a segment's file is.
pub(super) fn segment_object(segment: &Digest, file: &str) -> String {
    format!("seg/{segment}/{file}")
}

impl IndexStore {
    /// The index at `<root>/<index>`: the URI's last part is its name. It need not exist yet.
    pub fn open(uri: &str) -> Result<Self, StoreError> {
        Self::open_with(uri, &StoreOptions::default())
    }

    pub fn open_with(uri: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let location = Location::parse_with(uri, options)?;
        Self::new(location.connection.clone(), location.path().clone(), options.single_writer)
    }

    /// The index called `name` below `root`.
    pub fn named(root: &str, name: &str) -> Result<Self, StoreError> {
        Self::named_with(root, name, &StoreOptions::default())
    }

    pub fn named_with(root: &str, name: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        check_index_name(name)?;
        let location = Location::parse_with(root, options)?;
        Self::new(location.connection.clone(), location.path().clone().join(name), options.single_writer)
    }

    /// The index at a path of a store of the caller's, whose requests are not tried again.
    pub fn at(store: Arc<dyn ObjectStore>, path: Path) -> Result<Self, StoreError> {
        Self::new(Connection::of(store), path, false)
    }

    fn new(connection: Connection, path: Path, single_writer: bool) -> Result<Self, StoreError> {
        let name = path.filename().unwrap_or_default().to_string();
        check_index_name(&name)?;
        let objects = Objects::new(connection, path);
        Ok(Self { name, objects, single_writer, keys: Keys::of_process()?, sealing: None })
    }

    /// Opens versions with these keys and no others: one that is not encrypted is refused.
    #[must_use]
    pub fn with_keys(mut self, references: Vec<KeyReference>) -> Self {
        self.keys = Keys::given(references);
        self
    }

    /// Encrypts what is published, and opens it.
    #[must_use]
    pub fn sealed_with(mut self, sealing: Sealing) -> Self {
        self.keys = Keys::of(sealing.key.clone());
        self.sealing = Some(sealing);
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// All versions, ascending. Files that are not called as a version is are passed over.
    pub fn versions(&self) -> Result<Vec<u64>, StoreError> {
        let names = self.objects.list("v")?;
        let mut versions: Vec<u64> = names.iter().filter_map(|name| version_of_file_name(name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The highest version, if anything has been published.
    pub fn latest(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.versions()?.pop())
    }

    /// # Errors
    /// Of an encrypted version also that there is no key, or another.
    pub fn read_manifest(&self, version: u64) -> Result<Manifest, StoreError> {
        Ok(self.open_manifest(&self.read_stored(version)?)?.0)
    }

    /// A version's manifest, the latest's if none is named, as it lies there, and opened unless it is encrypted and no key was
    /// given.
    ///
    /// # Errors
    /// As [`read_manifest`](Self::read_manifest), but for the key's absence.
    pub fn inspect(&self, version: Option<u64>) -> Result<(StoredManifest, Option<Manifest>), StoreError> {
        let stored = self.read_stored(self.named_or_latest(version)?)?;
        match self.open_manifest(&stored) {
            Ok((manifest, _)) => Ok((stored, Some(manifest))),
            Err(StoreError::Key { fault: KeyFault::Absent { .. }, .. }) => Ok((stored, None)),
            Err(error) => Err(error),
        }
    }

    /// A version's manifest as it lies there: of an encrypted one what can be read without its key.
    pub fn read_stored(&self, version: u64) -> Result<StoredManifest, StoreError> {
        Ok(self.read_stored_sized(version)?.0)
    }

    /// A version's manifest, and how many bytes it has.
    fn read_stored_sized(&self, version: u64) -> Result<(StoredManifest, u64), StoreError> {
        let object = manifest_object(version);
        let place = self.place(Some(version), &object);
        let file = match self.read_manifest_file(version) {
            Ok(file) => file,
            Err(ReadError::Missing) => {
                return Err(StoreError::NotFound {
                    what: format!("version {version} of index `{}`", self.name),
                });
            }
            Err(ReadError::Size { got }) => {
                let (expected, got) = (format!("at most {MAX_MANIFEST_BYTES} bytes"), format!("{got} bytes"));
                return Err(StoreError::Damaged { place, expected, got });
            }
            Err(error) => return Err(error.of(place, 0)),
        };
        let manifest = StoredManifest::decode(&file, &self.name, version);
        Ok((manifest.map_err(|error| StoreError::malformed(place, error))?, file.len() as u64))
    }

    /// A manifest, and what it was opened with if it is an encrypted version's.
    pub(super) fn open_manifest(
        &self,
        stored: &StoredManifest,
    ) -> Result<(Manifest, Option<Opened>), StoreError> {
        let version = stored.version();
        let fault = |fault| StoreError::Key { index: self.name.clone(), version, fault };
        match stored {
            StoredManifest::Clear(_) if self.keys.are_demanded() => Err(fault(KeyFault::NotEncrypted)),
            StoredManifest::Clear(manifest) => Ok((Manifest::clone(manifest), None)),
            StoredManifest::Sealed(sealed) => {
                let key = self.keys.find(sealed).map_err(fault)?;
                let place = self.place(Some(version), &manifest_object(version));
                let manifest = sealed.open(&key).map_err(|error| StoreError::malformed(place, error))?;
                let sealing = Sealing { key, key_id: sealed.encryption.key_id.clone() };
                Ok((manifest, Some(Opened { sealing, folders: sealed.folders.clone() })))
            }
        }
    }

    /// The bytes of a version's manifest, a manifest or not.
    pub(super) fn read_manifest_file(&self, version: u64) -> Result<Bytes, ReadError> {
        let name = self.name.clone();
        let is_manifest = move |bytes: &[u8]| StoredManifest::decode(bytes, &name, version).is_ok();
        self.objects.read_at_most(&manifest_object(version), MAX_MANIFEST_BYTES, is_manifest)
    }

    /// Opens a version, the latest if none is named. A damaged latest version is an error: the one before it is
    /// there for whoever asks for it by number.
    pub fn artifact(&self, version: Option<u64>) -> Result<Artifact, StoreError> {
        let requests = 1 + u64::from(version.is_none());
        let (stored, bytes) = self.read_stored_sized(self.named_or_latest(version)?)?;
        let (manifest, opened) = self.open_manifest(&stored)?;
        let asked = FetchStats { round_trips: requests, requests, bytes };
        Ok(Artifact::new(self.clone(), manifest, opened, asked))
    }

    pub(super) fn named_or_latest(&self, version: Option<u64>) -> Result<u64, StoreError> {
        match version {
            Some(version) => Ok(version),
            None => self.latest()?.ok_or_else(|| StoreError::NotFound {
                what: format!("a published version of index `{}`", self.name),
            }),
        }
    }

    pub(super) fn place(&self, version: Option<u64>, object: &str) -> Place {
        Place { index: self.name.clone(), version, file: object.into() }
    }
}
