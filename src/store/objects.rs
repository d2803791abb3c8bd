//! Reading and writing one object at a time, in pieces of bounded size.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::task::JoinSet;

use super::runtime::{Pending, wait_for};
use super::{Place, StoreError};
use crate::artifact::checksums::BLOCK_BYTES;
use crate::artifact::{Digest, FileRef};

/// What one request reads or, of large objects, writes. At 65 ms a round trip, 8 MiB four at a time is 500 MB/s.
pub(super) const CHUNK_BYTES: u64 = 8 << 20;
// So that a verification can check each chunk's blocks by themselves.
const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
const CHUNKS_AHEAD: usize = 4;
/// Below this one request writes the object. The largest that S3 takes in one is 5 GB.
const MULTIPART_ABOVE: usize = 64 << 20;
/// S3 takes 10,000 parts of one upload.
const MAX_PARTS: usize = 10_000;

/// The objects of one index.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

/// Why an object could not be read as it should be.
#[derive(Debug)]
pub(super) enum ReadError {
    Missing,
    Size { got: u64 },
    Io(object_store::Error),
    Store(StoreError),
}

impl ReadError {
    /// As what a reader of a published file says.
    pub(super) fn of(self, place: Place, expected: u64) -> StoreError {
        match self {
            ReadError::Missing => StoreError::Missing { place },
            ReadError::Size { got } => {
                let (expected, got) = (format!("{expected} bytes"), format!("{got} bytes"));
                StoreError::Damaged { place, expected, got }
            }
            ReadError::Io(source) => StoreError::Io { object: place.to_string(), source },
            ReadError::Store(error) => error,
        }
    }
}

impl From<object_store::Error> for ReadError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => ReadError::Missing,
            error => ReadError::Io(error),
        }
    }
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self { store, root }
    }

    /// `parts` are names that have been checked.
    fn path(&self, object: &str) -> Path {
        object.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    fn io(&self, object: &str, source: object_store::Error) -> StoreError {
        StoreError::Io { object: self.path(object).to_string(), source }
    }

    /// The names of the objects directly below a folder.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let (store, path) = (self.store.clone(), self.path(folder));
        let listed = wait_for(async move { store.list_with_delimiter(Some(&path)).await })?;
        match listed {
            Ok(listed) => Ok(listed
                .objects
                .iter()
                .filter_map(|object| object.location.filename().map(str::to_string))
                .collect()),
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(source) => Err(self.io(folder, source)),
        }
    }

    /// A whole object of at most `max` bytes, whose size nobody knows beforehand.
    pub(super) fn read_at_most(&self, object: &str, max: u64) -> Result<Bytes, ReadError> {
        let (store, path) = (self.store.clone(), self.path(object));
        let read = async move {
            let answer = store.get(&path).await?;
            if answer.meta.size > max {
                return Err(ReadError::Size { got: answer.meta.size });
            }
            Ok(answer.bytes().await?)
        };
        wait_for(read).map_err(ReadError::Store)?
    }

    /// The object's bytes in order, in chunks of [`CHUNK_BYTES`], a few of which are read ahead. It must have exactly
    /// `size` bytes: nothing is read, let alone allocated, of one that has not.
    pub(super) fn chunks(&self, object: &str, size: u64) -> Chunks {
        let reader = ChunkReader { store: self.store.clone(), path: self.path(object), size };
        Chunks { reader, next: 0, pending: VecDeque::new(), started: false }
    }

    /// The whole object, if it is the file that it should be.
    pub(super) fn read_file(&self, object: &str, file: &FileRef, place: Place) -> Result<Bytes, StoreError> {
        let mut hasher = blake3::Hasher::new();
        let mut whole = Vec::new();
        for chunk in self.chunks(object, file.size_bytes) {
            let chunk = chunk.map_err(|error| error.of(place.clone(), file.size_bytes))?;
            hasher.update(&chunk);
            if chunk.len() as u64 == file.size_bytes {
                check_digest(&hasher, file, place)?;
                return Ok(chunk);
            }
            // The size is the object's own by now, not only the manifest's.
            whole.reserve_exact(file.size_bytes as usize - whole.len());
            whole.extend_from_slice(&chunk);
        }
        check_digest(&hasher, file, place)?;
        Ok(whole.into())
    }

    /// Several ranges at once; what lies between near ones may be read along.
    pub(super) fn read_ranges(&self, object: &str, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ReadError> {
        let (store, path) = (self.store.clone(), self.path(object));
        let read = wait_for(async move { store.get_ranges(&path, &ranges).await });
        Ok(read.map_err(ReadError::Store)??)
    }

    /// The object's size, if there is such an object.
    pub(super) fn size(&self, object: &str) -> Result<Option<u64>, StoreError> {
        let (store, path) = (self.store.clone(), self.path(object));
        match wait_for(async move { store.head(&path).await })? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.io(object, source)),
        }
    }

    /// Writes the object, in place of what may be there.
    pub(super) fn write(&self, object: &str, bytes: Bytes) -> Result<(), StoreError> {
        let (store, path) = (self.store.clone(), self.path(object));
        let written = wait_for(async move {
            if bytes.len() <= MULTIPART_ABOVE {
                store.put(&path, bytes.into()).await.map(|_| ())
            } else {
                write_in_parts(&*store, &path, &bytes).await
            }
        });
        written?.map_err(|source| self.io(object, source))
    }

    /// Writes the object if there is none of its name, in one atomic step. The inner error is the store's: that
    /// there is one, or that its answer got lost.
    pub(super) fn create(
        &self,
        object: &str,
        bytes: Bytes,
    ) -> Result<Result<(), object_store::Error>, StoreError> {
        let (store, path) = (self.store.clone(), self.path(object));
        let put = async move { store.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await };
        Ok(wait_for(put)?.map(|_| ()))
    }
}

pub(super) fn check_digest(hasher: &blake3::Hasher, file: &FileRef, place: Place) -> Result<(), StoreError> {
    let got = Digest::from(hasher.finalize());
    if got == file.blake3 {
        return Ok(());
    }
    let (expected, got) = (format!("blake3 {}", file.blake3), format!("blake3 {got}"));
    Err(StoreError::Damaged { place, expected, got })
}

async fn write_in_parts(store: &dyn ObjectStore, path: &Path, bytes: &Bytes) -> object_store::Result<()> {
    let part_bytes = bytes.len().div_ceil(MAX_PARTS).max(CHUNK_BYTES as usize);
    let mut upload = store.put_multipart(path).await?;
    let mut parts = JoinSet::new();
    let mut written = Ok(());
    for start in (0..bytes.len()).step_by(part_bytes) {
        if parts.len() == CHUNKS_AHEAD {
            written = joined(parts.join_next().await);
        }
        if written.is_err() {
            break;
        }
        let part = bytes.slice(start..bytes.len().min(start + part_bytes));
        parts.spawn(upload.put_part(part.into()));
    }
    while !parts.is_empty() && written.is_ok() {
        written = joined(parts.join_next().await);
    }
    match written {
        Ok(()) => upload.complete().await.map(|_| ()),
        Err(error) => {
            parts.shutdown().await;
            // The store forgets unfinished uploads by its own rules if this fails too.
            let _ = upload.abort().await;
            Err(error)
        }
    }
}

fn joined(
    part: Option<Result<object_store::Result<()>, tokio::task::JoinError>>,
) -> object_store::Result<()> {
    match part {
        None => Ok(()),
        Some(Ok(written)) => written,
        Some(Err(error)) => Err(error.into()),
    }
}

#[derive(Clone)]
struct ChunkReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl ChunkReader {
    async fn read(self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let error = match self.try_read(range).await {
            Err(ReadError::Io(error)) => error,
            read => return read,
        };
        // A range that begins after the end of a file cut short is an error without a name in most stores.
        match self.store.head(&self.path).await {
            Ok(meta) if meta.size != self.size => Err(ReadError::Size { got: meta.size }),
            _ => Err(ReadError::Io(error)),
        }
    }

    async fn try_read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let whole = range == (0..self.size);
        let options =
            GetOptions { range: (!whole).then(|| GetRange::Bounded(range.clone())), ..Default::default() };
        let answer = self.store.get_opts(&self.path, options).await?;
        if answer.meta.size != self.size {
            return Err(ReadError::Size { got: answer.meta.size });
        }
        let bytes = answer.bytes().await?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(ReadError::Size { got: range.start + bytes.len() as u64 });
        }
        Ok(bytes)
    }
}

/// See [`Objects::chunks`]. Ends with the first error.
pub(super) struct Chunks {
    reader: ChunkReader,
    /// Where the next request starts.
    next: u64,
    pending: VecDeque<Pending<Result<Bytes, ReadError>>>,
    started: bool,
}

impl Chunks {
    fn request(&mut self) -> Result<(), StoreError> {
        let end = self.reader.size.min(self.next.saturating_add(CHUNK_BYTES));
        self.pending.push_back(Pending::start(self.reader.clone().read(self.next..end))?);
        self.next = end;
        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        // One request even where there are no bytes to read: the object must be there, and be empty.
        while !self.started || (self.next < self.reader.size && self.pending.len() < CHUNKS_AHEAD) {
            self.started = true;
            if let Err(error) = self.request() {
                self.next = self.reader.size;
                return Some(Err(ReadError::Store(error)));
            }
        }
        let chunk = self.pending.pop_front()?.wait();
        if chunk.is_err() {
            self.next = self.reader.size;
            self.pending.clear();
        }
        Some(chunk)
    }
}
