use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

use super::artifact::Artifact;
use super::connection::Connection;
use super::objects::{Objects, ReadError};
use super::{Location, Place, StoreError, StoreOptions};
use crate::artifact::{
    Digest, FetchStats, MAX_MANIFEST_BYTES, Manifest, check_index_name, version_file_name,
    version_of_file_name,
};

/// The versions of one index, at `<root>/<index>`.
#[derive(Debug, Clone)]
pub struct IndexStore {
    pub(super) name: String,
    pub(super) objects: Objects,
    /// The user sees to it that nobody else publishes: put-if-absent is not asked for.
    pub(super) single_writer: bool,
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
        Ok(Self { name, objects: Objects::new(connection, path), single_writer })
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

    pub fn read_manifest(&self, version: u64) -> Result<Manifest, StoreError> {
        Ok(self.read_manifest_sized(version)?.0)
    }

    /// A version's manifest, and how many bytes it has.
    fn read_manifest_sized(&self, version: u64) -> Result<(Manifest, u64), StoreError> {
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
        let manifest = Manifest::decode(&file, &self.name, version);
        Ok((manifest.map_err(|error| StoreError::malformed(place, error))?, file.len() as u64))
    }

    /// The bytes of a version's manifest, a manifest or not.
    pub(super) fn read_manifest_file(&self, version: u64) -> Result<Bytes, ReadError> {
        let name = self.name.clone();
        let is_manifest = move |bytes: &[u8]| Manifest::decode(bytes, &name, version).is_ok();
        self.objects.read_at_most(&manifest_object(version), MAX_MANIFEST_BYTES, is_manifest)
    }

    /// Opens a version, the latest if none is named. A damaged latest version is an error: the one before it is
    /// there for whoever asks for it by number.
    pub fn artifact(&self, version: Option<u64>) -> Result<Artifact, StoreError> {
        let requests = 1 + u64::from(version.is_none());
        let version = match version {
            Some(version) => version,
            None => self.latest()?.ok_or_else(|| StoreError::NotFound {
                what: format!("a published version of index `{}`", self.name),
            })?,
        };
        let (manifest, bytes) = self.read_manifest_sized(version)?;
        Ok(Artifact::new(self.clone(), manifest, FetchStats { round_trips: requests, requests, bytes }))
    }

    pub(super) fn place(&self, version: Option<u64>, object: &str) -> Place {
        Place { index: self.name.clone(), version, file: object.into() }
    }
}
