//! Reading and writing one object at a time, in pieces of bounded size.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};

use super::connection::{Connection, Kind};
use super::retry::{Retry, Verdict, verdict, verdict_of_upload};
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
pub(super) const MULTIPART_ABOVE: u64 = 64 << 20;
/// The same of what is made as it is written, and would all be held.
pub(super) const MADE_MULTIPART_ABOVE: u64 = 16 << 20;
/// S3 takes 10,000 parts of one upload.
const MAX_PARTS: u64 = 10_000;

/// The objects of one index.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    connection: Connection,
    root: Path,
}

/// An object as a listing or a `head` showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Below the folder that was listed.
    pub name: String,
    pub size_bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// Why an object could not be read as it should be.
#[derive(Debug)]
pub(super) enum ReadError {
    Missing,
    /// The object has another size.
    Size {
        got: u64,
    },
    /// The object does not look as it should.
    NotWhole(Bytes),
    /// The answer has another length than it says.
    Short {
        expected: u64,
        got: u64,
    },
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
            ReadError::Short { expected, got } => {
                let source = format!("the answer ended after {got} of {expected} bytes").into();
                let source = object_store::Error::Generic { store: "the store", source };
                StoreError::Io { object: place.to_string(), source }
            }
            ReadError::NotWhole(bytes) => {
                let (expected, got) = ("a whole file".into(), format!("{} bytes of one", bytes.len()));
                StoreError::Damaged { place, expected, got }
            }
            ReadError::Io(source) => StoreError::Io { object: place.to_string(), source },
            ReadError::Store(error) => error,
        }
    }

    fn verdict(&self) -> Verdict {
        match self {
            ReadError::Missing | ReadError::Store(_) => Verdict::Final,
            ReadError::Size { .. } | ReadError::NotWhole(_) => Verdict::Doubtful,
            ReadError::Short { .. } => Verdict::Transient,
            ReadError::Io(error) => verdict(error),
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
    pub(super) fn new(connection: Connection, root: Path) -> Self {
        Self { connection, root }
    }

    /// `parts` are names that have been checked.
    pub(super) fn path(&self, object: &str) -> Path {
        object.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    pub(super) fn io(&self, object: &str, source: object_store::Error) -> StoreError {
        StoreError::Io { object: self.path(object).to_string(), source }
    }

    /// What a request needs, on its way to the runtime.
    fn request(&self, object: &str) -> (Arc<dyn ObjectStore>, Retry, Path) {
        (self.connection.store.clone(), self.connection.retry, self.path(object))
    }

    /// The names of the objects directly below a folder.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let (store, retry, path) = self.request(folder);
        let listed =
            wait_for(async move { retry.run(|| store.list_with_delimiter(Some(&path)), verdict).await })?;
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

    /// All objects below a folder, however deep: their paths below it, in no order.
    pub(super) fn list_below(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let (store, retry, path) = self.request(folder);
        let prefix = path.clone();
        let listed =
            wait_for(
                async move { retry.run(|| store.list(Some(&path)).try_collect::<Vec<_>>(), verdict).await },
            )?;
        let metas = match listed {
            Ok(metas) => metas,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(source) => return Err(self.io(folder, source)),
        };
        let below = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&prefix)?.collect();
            let name = parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>().join("/");
            Some(Listed { name, size_bytes: meta.size, modified: meta.last_modified.into() })
        };
        Ok(metas.into_iter().filter_map(below).collect())
    }

    /// A whole object of at most `max` bytes, whose size nobody knows beforehand. Asks again a few times where it does not
    /// look whole: an answer that was cut short and says so little is told by nothing else.
    pub(super) fn read_at_most(
        &self,
        object: &str,
        max: u64,
        looks_whole: impl Fn(&[u8]) -> bool + Clone + Send + Sync + 'static,
    ) -> Result<Bytes, ReadError> {
        let (store, retry, path) = self.request(object);
        let attempt = move || {
            let (store, path, looks_whole) = (store.clone(), path.clone(), looks_whole.clone());
            async move {
                let answer = store.get(&path).await?;
                let size = answer.meta.size;
                if size > max {
                    return Err(ReadError::Size { got: size });
                }
                let bytes = answer.bytes().await?;
                if bytes.len() as u64 != size {
                    return Err(ReadError::Short { expected: size, got: bytes.len() as u64 });
                }
                if looks_whole(&bytes) { Ok(bytes) } else { Err(ReadError::NotWhole(bytes)) }
            }
        };
        match wait_for(async move { retry.run(attempt, ReadError::verdict).await })
            .map_err(ReadError::Store)?
        {
            Err(ReadError::NotWhole(bytes)) => Ok(bytes),
            read => read,
        }
    }

    /// The object's bytes in order, in chunks of [`CHUNK_BYTES`], a few of which are read ahead. It must have exactly
    /// `size` bytes: nothing is read, let alone allocated, of one that has not.
    pub(super) fn chunks(&self, object: &str, size: u64) -> Chunks {
        self.chunks_of(object, size, CHUNK_BYTES)
    }

    /// [`chunks`](Self::chunks) of another size.
    pub(super) fn chunks_of(&self, object: &str, size: u64, chunk_bytes: u64) -> Chunks {
        let (store, retry, path) = self.request(object);
        let reader = ChunkReader { store, retry, path, size };
        Chunks { reader, chunk_bytes, next: 0, pending: VecDeque::new(), started: false }
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
        let (store, retry, path) = self.request(object);
        let attempt = move || {
            let (store, path, ranges) = (store.clone(), path.clone(), ranges.clone());
            async move { Ok(store.get_ranges(&path, &ranges).await?) }
        };
        wait_for(async move { retry.run(attempt, ReadError::verdict).await }).map_err(ReadError::Store)?
    }

    /// A range of an object of `size` bytes, tried again as [`chunks`](Self::chunks) are.
    pub(super) async fn read_range(
        &self,
        object: &str,
        size: u64,
        range: Range<u64>,
    ) -> Result<Bytes, ReadError> {
        let (store, retry, path) = self.request(object);
        ChunkReader { store, retry, path, size }.read(range).await
    }

    /// The object's size, if there is such an object.
    pub(super) fn size(&self, object: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.head(object)?.map(|listed| listed.size_bytes))
    }

    /// What the store knows of the object, if there is one.
    pub(super) fn head(&self, object: &str) -> Result<Option<Listed>, StoreError> {
        let (store, retry, path) = self.request(object);
        match wait_for(async move { retry.run(|| store.head(&path), verdict).await })? {
            Ok(meta) => Ok(Some(Listed {
                name: object.into(),
                size_bytes: meta.size,
                modified: meta.last_modified.into(),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.io(object, source)),
        }
    }

    /// Writes the object, in place of what may be there.
    pub(super) fn write(&self, object: &str, bytes: &Bytes) -> Result<(), StoreError> {
        let slices = |from: usize| bytes.slice(from..bytes.len().min(from + CHUNK_BYTES as usize));
        self.write_chunks(object, bytes.len() as u64, MULTIPART_ABOVE, &|| {
            (0..bytes.len()).step_by(CHUNK_BYTES as usize).map(|from| Ok(slices(from)))
        })
    }

    /// Writes an object of `size` bytes that come in pieces, in place of what may be there. `chunks` begins again from the
    /// front where the writing has to. One request writes at most `at_once` bytes, which are held; else it holds a few parts of [`CHUNK_BYTES`] at a time, larger ones where the object
    /// has very many.
    pub(super) fn write_chunks<I: Iterator<Item = Result<Bytes, StoreError>>>(
        &self,
        object: &str,
        size: u64,
        at_once: u64,
        chunks: &dyn Fn() -> I,
    ) -> Result<(), StoreError> {
        let mut patience = self.connection.retry.patience();
        loop {
            let error = match self.try_write_chunks(object, size, at_once, chunks()) {
                Err(StoreError::Io { source, .. }) => source,
                written => return written,
            };
            match patience.wait_after(verdict_of_upload(&error)) {
                Some(wait) => std::thread::sleep(wait),
                None => return Err(self.io(object, error)),
            }
        }
    }

    fn try_write_chunks(
        &self,
        object: &str,
        size: u64,
        at_once: u64,
        chunks: impl Iterator<Item = Result<Bytes, StoreError>>,
    ) -> Result<(), StoreError> {
        let (store, _, path) = self.request(object);
        if size <= at_once {
            let payload: PutPayload =
                chunks.collect::<Result<Vec<Bytes>, StoreError>>()?.into_iter().collect();
            assert_eq!(payload.content_length() as u64, size, "the size is known beforehand");
            let put = wait_for(async move { store.put(&path, payload).await })?;
            return put.map(|_| ()).map_err(|error| self.io(object, error));
        }
        let upload = wait_for(async move { store.put_multipart(&path).await })?;
        let mut upload = upload.map_err(|error| self.io(object, error))?;
        let written = self.write_parts(object, size, &mut *upload, chunks);
        let ended = wait_for(async move {
            match written {
                Ok(()) => Ok(upload.complete().await.map(|_| ())),
                Err(error) => {
                    // The store forgets unfinished uploads by its own rules if this fails too.
                    let _ = upload.abort().await;
                    Err(error)
                }
            }
        })?;
        ended?.map_err(|error| self.io(object, error))
    }

    fn write_parts(
        &self,
        object: &str,
        size: u64,
        upload: &mut dyn MultipartUpload,
        chunks: impl Iterator<Item = Result<Bytes, StoreError>>,
    ) -> Result<(), StoreError> {
        let part_bytes = size.div_ceil(MAX_PARTS).max(CHUNK_BYTES);
        let mut under_way: VecDeque<Pending<object_store::Result<()>>> = VecDeque::new();
        let mut part: Vec<Bytes> = Vec::new();
        let (mut part_len, mut sent) = (0, 0);
        for chunk in chunks {
            let chunk = chunk?;
            part_len += chunk.len() as u64;
            part.push(chunk);
            if part_len < part_bytes && sent + part_len < size {
                continue;
            }
            if under_way.len() == CHUNKS_AHEAD {
                let oldest = under_way.pop_front().expect("there are some");
                oldest.wait().map_err(|error| self.io(object, error))?;
            }
            under_way.push_back(Pending::start(upload.put_part(part.drain(..).collect()))?);
            sent += std::mem::take(&mut part_len);
        }
        assert_eq!(sent, size, "the size is known beforehand");
        under_way.into_iter().try_for_each(|part| part.wait().map_err(|error| self.io(object, error)))
    }

    /// Writes the object if there is none of its name, in one atomic step. The inner error is the store's: that
    /// there is one, or that its answer got lost.
    pub(super) fn create(
        &self,
        object: &str,
        bytes: Bytes,
    ) -> Result<Result<(), object_store::Error>, StoreError> {
        let (store, _, path) = self.request(object);
        let put = async move { store.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await };
        Ok(wait_for(put)?.map(|_| ()))
    }

    /// [`Objects::create`] until there is an answer. An attempt whose answer got lost may be the reason why there is one.
    pub(super) fn create_surely(
        &self,
        object: &str,
        bytes: Bytes,
    ) -> Result<Result<(), object_store::Error>, StoreError> {
        let (store, retry, path) = self.request(object);
        let attempt = move || {
            let (store, path, bytes) = (store.clone(), path.clone(), bytes.clone());
            async move { store.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await }
        };
        Ok(wait_for(async move { retry.run(attempt, verdict).await })?.map(|_| ()))
    }

    /// Removes objects; those that are not there are removed already.
    pub(super) fn remove(&self, objects: &[String]) -> Result<(), StoreError> {
        let (store, retry, _) = self.request("");
        let paths: Vec<Path> = objects.iter().map(|object| self.path(object)).collect();
        let attempt = move || {
            let paths = futures_util::stream::iter(paths.clone()).map(Ok).boxed();
            let removed = store.delete_stream(paths);
            async move {
                removed
                    .filter_map(async |removed| match removed {
                        Ok(_) | Err(object_store::Error::NotFound { .. }) => None,
                        Err(error) => Some(error),
                    })
                    .boxed()
                    .next()
                    .await
                    .map_or(Ok(()), Err)
            }
        };
        let removed = wait_for(async move { retry.run(attempt, verdict).await })?;
        removed.map_err(|error| self.io(objects.first().map_or("", String::as_str), error))
    }

    /// Where the objects lie as files, if they do.
    pub(super) fn local_folder(&self) -> Option<PathBuf> {
        let is_local = self.connection.kind == Kind::Files;
        is_local.then(|| LocalFileSystem::new().path_to_filesystem(&self.root).ok())?
    }

    pub(super) fn kind(&self) -> Kind {
        self.connection.kind
    }

    pub(super) fn retry(&self) -> Retry {
        self.connection.retry
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

#[derive(Clone)]
struct ChunkReader {
    store: Arc<dyn ObjectStore>,
    retry: Retry,
    path: Path,
    size: u64,
}

impl ChunkReader {
    async fn read(self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let retry = self.retry;
        retry.run(|| self.try_read(range.clone()), ReadError::verdict).await
    }

    async fn try_read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let whole = range == (0..self.size);
        let options =
            GetOptions { range: (!whole).then(|| GetRange::Bounded(range.clone())), ..Default::default() };
        let answer = match self.store.get_opts(&self.path, options).await {
            Ok(answer) => answer,
            // A range that begins after the end of a file cut short is an error without a name in most stores.
            Err(error @ object_store::Error::NotFound { .. }) => return Err(error.into()),
            Err(error) => {
                return Err(match self.store.head(&self.path).await {
                    Ok(meta) if meta.size != self.size => ReadError::Size { got: meta.size },
                    _ => ReadError::Io(error),
                });
            }
        };
        if answer.meta.size != self.size {
            return Err(ReadError::Size { got: answer.meta.size });
        }
        let bytes = answer.bytes().await?;
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            return Err(ReadError::Short { expected, got: bytes.len() as u64 });
        }
        Ok(bytes)
    }
}

/// See [`Objects::chunks`]. Ends with the first error.
pub(super) struct Chunks {
    reader: ChunkReader,
    chunk_bytes: u64,
    /// Where the next request starts.
    next: u64,
    pending: VecDeque<Pending<Result<Bytes, ReadError>>>,
    started: bool,
}

impl Chunks {
    fn request(&mut self) -> Result<(), StoreError> {
        let end = self.reader.size.min(self.next.saturating_add(self.chunk_bytes));
        self.pending.push_back(Pending::start(self.reader.clone().read(self.next..end))?);
        self.next = end;
        Ok(())
    }

    /// Nothing more is read.
    pub(super) fn end(&mut self) {
        self.next = self.reader.size;
        self.pending.clear();
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
            self.end();
        }
        Some(chunk)
    }
}
