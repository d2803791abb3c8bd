//! How an index is opened: where its bytes live, how they are checked, how much memory they may take.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::lazy::{self, whole_files};
use super::{Index, LoadError};
use crate::artifact::Manifest;
use crate::artifact::columns::{ATTRIBUTES_FILE, IDS_FILE};
use crate::artifact::neighbors::NEIGHBORS_FILE;
use crate::artifact::queries::QUERIES_FILE;
use crate::store::{Artifact, IndexStore, KeyReference, StoreError, local_folder};

/// Memory for the masks of filters, where no other size is asked for: those of 50 filters over ten million rows.
const FILTER_CACHE_BYTES: usize = 64 << 20;

/// Memory for blocks, where no other size is asked for: those of the lists of some hundred queries over a million rows of 384
/// dimensions, and of their candidates.
const CACHE_BYTES: u64 = 256 << 20;

/// How to open an index. The default: the latest version, all of it in memory and checked, without a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    pub(super) version: Option<u64>,
    pub(super) residence: Residence,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) filter_cache_bytes: usize,
    pub(super) cache_bytes: u64,
    pub(super) disk_cache: Option<(PathBuf, u64)>,
    pub(super) whole_attributes: bool,
    pub(super) keys: Vec<KeyReference>,
}

/// Where an open index's bytes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residence {
    /// In memory, read and checked when the index is opened.
    #[default]
    Resident,
    /// In files on this machine, mapped into memory: the system loads what is touched and lets go what is not.
    /// [`Artifact::mapped`] says what that asks of whoever else can write to the files. An encrypted index is
    /// [`Resident`](Self::Resident) instead.
    Mapped(Check),
    /// Where it is published: parts are read as they are needed, checked block by block, and kept within
    /// [`OpenOptions::cache_bytes`]. Of an IVF index the centroids are read when it is opened, of a graph all but the
    /// vectors (without codes, those too); the ids always.
    Lazy,
}

/// When the hashes of mapped files are compared. Shapes, bounds and values that searching relies on are checked when
/// the index is opened, whichever is chosen: damage may give wrong answers before it is found, and nothing worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// When the index is opened, before it answers.
    #[default]
    AtOpen,
    /// On a thread of its own while the index answers already. Once damage is found every query is answered with
    /// [`QueryError::Damaged`](super::QueryError::Damaged).
    InBackground,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            version: None,
            residence: Residence::default(),
            memory_limit_bytes: None,
            filter_cache_bytes: FILTER_CACHE_BYTES,
            cache_bytes: CACHE_BYTES,
            disk_cache: None,
            whole_attributes: false,
            keys: Vec::new(),
        }
    }
}

impl OpenOptions {
    pub fn new() -> Self {
        Self::default()
    }

    /// This version, not the latest.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    #[must_use]
    pub fn residence(mut self, residence: Residence) -> Self {
        self.residence = residence;
        self
    }

    /// An index that takes more is not opened, see [`OpenOptions::needed_bytes`].
    #[must_use]
    pub fn memory_limit_bytes(mut self, bytes: u64) -> Self {
        self.memory_limit_bytes = Some(bytes);
        self
    }

    /// Most bytes of masks kept for filters that come again.
    #[must_use]
    pub fn filter_cache_bytes(mut self, bytes: usize) -> Self {
        self.filter_cache_bytes = bytes;
        self
    }

    /// For [`Residence::Lazy`]: most bytes of blocks kept in memory, by default 256 MiB. Beside them a search holds what it
    /// has just fetched.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// For [`Residence::Lazy`]: keeps blocks in a folder too, at most so many bytes of them. It is made where it is not
    /// there, and belongs to this process alone; the indexes of one process may share it. Blocks are checked when they
    /// are read back, so damage there costs a request and nothing else.
    #[must_use]
    pub fn disk_cache(mut self, folder: impl Into<PathBuf>, bytes: u64) -> Self {
        self.disk_cache = Some((folder.into(), bytes));
        self
    }

    /// For [`Residence::Lazy`]: reads all attribute columns when the index is opened, so that [`Index::attributes`] has them.
    #[must_use]
    pub fn whole_attributes(mut self) -> Self {
        self.whole_attributes = true;
        self
    }

    /// The key of an encrypted index, or another one that it may have; without, those that the process was given, or that
    /// `ANNVIL_KEY` names. An index that is not encrypted is then refused.
    #[must_use]
    pub fn key(mut self, reference: KeyReference) -> Self {
        self.keys.push(reference);
        self
    }

    pub(super) fn store(&self, uri: &str) -> Result<IndexStore, StoreError> {
        let store = IndexStore::open(uri)?;
        Ok(if self.keys.is_empty() { store } else { store.with_keys(self.keys.clone()) })
    }

    /// What an index takes while it is open, known before any of it is read: its files where they are resident, those
    /// of a graph twice over but for the vectors (they are copied to begin on a cache line), the order of the ids (4
    /// bytes a row, made when the first id is looked up) and the masks of filters. Not counted: what each searching thread uses, 2 bytes a row of a graph and some kilobytes. Mapped
    /// files take what the system gives them and can take back. Of a lazy index: what is read when it is
    /// opened, all attributes (a column is kept from its first use on) and the cache.
    pub fn needed_bytes(&self, manifest: &Manifest) -> u64 {
        let is_read = |name: &str| name != QUERIES_FILE && name != NEIGHBORS_FILE;
        let files = manifest.folders().flat_map(|segment| {
            segment.files.iter().filter(|file| file.name != segment.checksums && is_read(&file.name))
        });
        let resident = match self.residence {
            Residence::Resident => files
                .map(|file| {
                    file.size_bytes.saturating_mul(1 + u64::from(is_copied(&manifest.build.kind, &file.name)))
                })
                .sum(),
            Residence::Mapped(_) => 0u64,
            Residence::Lazy => self.lazy_bytes(manifest),
        };
        // Joined, the columns of several segments are copies, wherever those lie.
        let is_column = |name: &str| name == IDS_FILE || name == ATTRIBUTES_FILE;
        let columns = manifest.segments.iter().flat_map(|segment| &segment.files);
        let joined = match manifest.folders().count() {
            1 => 0,
            _ => columns.filter(|file| is_column(&file.name)).map(|file| file.size_bytes).sum(),
        };
        resident
            .saturating_add(joined)
            .saturating_add(manifest.build.rows.saturating_mul(4))
            .saturating_add(self.filter_cache_bytes as u64)
    }

    fn lazy_bytes(&self, manifest: &Manifest) -> u64 {
        let kind = &manifest.build.kind;
        let held = manifest.segments.iter().flat_map(|segment| {
            // A kind that is not known is refused when it is opened.
            let whole = whole_files(kind, segment).unwrap_or_default();
            segment.files.iter().map(move |file| match whole.contains(&file.name) {
                true => file.size_bytes.saturating_mul(1 + u64::from(is_copied(kind, &file.name))),
                false if file.name == ATTRIBUTES_FILE => file.size_bytes,
                false => 0,
            })
        });
        self.cache_bytes.saturating_add(held.sum())
    }

    fn check_memory(&self, manifest: &Manifest) -> Result<(), LoadError> {
        let needed = self.needed_bytes(manifest);
        match self.memory_limit_bytes {
            Some(limit) if needed > limit => Err(LoadError::Memory { needed, limit, over: needed - limit }),
            _ => Ok(()),
        }
    }

    /// Opens the index at `<root>/<index>`.
    ///
    /// # Errors
    /// Whatever is missing, damaged or not understood, with its place; an index that does not fit the memory limit; one
    /// to map that is not made of local files.
    pub fn open(&self, uri: &str) -> Result<Index, LoadError> {
        let store = self.store(uri)?;
        let Residence::Mapped(check) = self.residence else {
            return self.open_artifact(store.artifact(self.version)?);
        };
        let folder = local_folder(uri)?.ok_or_else(|| LoadError::NotLocal { uri: uri.into() })?;
        let artifact = store.artifact(self.version)?.mapped(folder, check == Check::AtOpen);
        self.open_artifact(artifact)
    }

    /// Opens what an artifact holds, which is mapped if the artifact is. An encrypted one cannot be: where it was to be
    /// mapped it is resident.
    pub fn open_artifact(&self, artifact: Artifact) -> Result<Index, LoadError> {
        if artifact.key_id().is_some() && matches!(self.residence, Residence::Mapped(_)) {
            return self.clone().residence(Residence::Resident).open_artifact(artifact);
        }
        self.check_memory(artifact.manifest())?;
        if self.residence == Residence::Lazy {
            return lazy::open(artifact, self);
        }
        let mut index = Index::assembled(artifact, self.filter_cache_bytes)?;
        if self.residence == Residence::Mapped(Check::InBackground) {
            index.checking = Some(Checking::start(index.artifact.clone())?);
        }
        Ok(index)
    }
}

/// Whether a file is held twice while an index is open: as it was read, and on a cache line.
fn is_copied(kind: &str, file: &str) -> bool {
    kind == "hnsw" && !file.starts_with("vectors")
}

/// A check that goes on while the index is searched.
pub(super) struct Checking(Arc<OnceLock<Vec<StoreError>>>);

impl Checking {
    /// The thread reads all files once and ends, also if the index is closed before.
    fn start(artifact: Arc<Artifact>) -> Result<Self, LoadError> {
        let damage = Arc::new(OnceLock::new());
        let found = damage.clone();
        let check = move || {
            let _ = found.set(artifact.verify(&mut |_| {}).damage);
        };
        let thread = std::thread::Builder::new().name("annvil-check".into()).spawn(check);
        thread.map_err(|error| StoreError::Runtime(error.to_string()))?;
        Ok(Self(damage))
    }

    /// What was found, once all has been read.
    pub fn damage(&self) -> Option<&[StoreError]> {
        self.0.get().map(Vec::as_slice)
    }

    pub fn wait(&self) -> &[StoreError] {
        self.0.wait()
    }
}
