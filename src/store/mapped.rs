//! Files of a local store as memory maps, in place of reads.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::{Advice, Mmap};
use object_store::local::LocalFileSystem;

use super::objects::{ReadError, check_digest};
use super::{Artifact, Location, Place, StoreError};
use crate::artifact::FileRef;

/// Where a version's files are mapped from.
#[derive(Debug)]
pub(super) struct Maps {
    folder: PathBuf,
    /// Whether a file's hash is compared as it is mapped, which reads all of it.
    check: bool,
}

/// The folder that a URI of local files means; `None` for any other store.
pub fn local_folder(uri: &str) -> Result<Option<PathBuf>, StoreError> {
    if uri.split_once("://").is_some_and(|(scheme, _)| scheme != "file") {
        return Ok(None);
    }
    let path = Location::parse(uri)?.path().clone();
    let folder = LocalFileSystem::new().path_to_filesystem(&path);
    folder.map(Some).map_err(|source| StoreError::Io { object: path.to_string(), source })
}

impl Artifact {
    /// Maps files from now on where they would be read: `folder` is the index's. With `check` each is compared with
    /// its hash as it is mapped; without, only its length is.
    ///
    /// A map shows what is on the disk at each moment. Published files never change, and publishing never writes to
    /// one again; but nothing keeps another program from it. If one shortens a file that is mapped, touching what
    /// is gone ends this process with SIGBUS; if one writes into it, what was checked no longer holds. Index folders
    /// belong to Annvil alone: where that cannot be had, do not map. Deleting a file is harmless: the map keeps it.
    ///
    /// Files of an encrypted version are not what is searched: they are read and decrypted into memory as before.
    #[must_use]
    pub fn mapped(mut self, folder: PathBuf, check: bool) -> Self {
        self.maps = self.opened().is_none().then_some(Maps { folder, check });
        self
    }
}

impl Maps {
    pub fn read(&self, object: &str, file: &FileRef, place: Place) -> Result<Bytes, StoreError> {
        let path = object.split('/').fold(self.folder.clone(), |path, part| path.join(part));
        let bytes = match map(&path, file.size_bytes) {
            Ok(bytes) => bytes,
            Err(error) => return Err(error.of(place, file.size_bytes)),
        };
        if self.check {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&bytes);
            check_digest(&hasher, file, place)?;
        }
        Ok(bytes)
    }
}

fn map(path: &Path, size_bytes: u64) -> Result<Bytes, ReadError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Io(object_store::Error::Generic { store: "map", source: Box::new(source) }),
    };
    let file = File::open(path).map_err(io)?;
    let got = file.metadata().map_err(io)?.len();
    if got != size_bytes {
        return Err(ReadError::Size { got });
    }
    if got == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the bytes must not change while they are borrowed. They are a published file's, which nothing in this
    // crate writes to again; that no other program does is asked of whoever chooses to map, see `Artifact::mapped`.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    // Rows are read here and there; what the system reads ahead would push out pages in use. A system that knows no
    // such advice does without.
    let _ = map.advise(Advice::Random);
    Ok(Bytes::from_owner(map))
}
