//! The bytes of a row group's projected column chunks, fetched a window at a time.
//!
//! Row groups of a gigabyte are common (pyarrow's default is a million rows), so a chunk is never held whole: the
//! decoder walks each chunk forward, and each chunk has one window in use and the next one on its way. That bounds
//! memory by the number of projected columns, whatever the file's layout, with or without a page index.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::store::{LocationError, Object};

/// Large enough that one request's round trip (some 65 ms to S3) is small beside its transfer.
const WINDOW_BYTES: u64 = 4 << 20;

type Parquet<T> = Result<T, ParquetError>;

/// One row group's projected chunks, for the Parquet decoder. Any other part of the file is refused.
#[derive(Clone)]
pub(super) struct RowGroupBytes(Arc<Inner>);

struct Inner {
    object: Arc<Object>,
    chunks: Vec<Chunk>,
    runtime: Handle,
    bytes_read: Arc<AtomicU64>,
    /// What went wrong with the store, which the decoder would only pass on as text.
    failure: Mutex<Option<LocationError>>,
}

struct Chunk {
    range: Range<u64>,
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    current: Option<(u64, Bytes)>,
    next: Option<(u64, JoinHandle<Result<Bytes, LocationError>>)>,
}

impl Drop for Windows {
    fn drop(&mut self) {
        if let Some((_, fetch)) = &self.next {
            fetch.abort();
        }
    }
}

impl RowGroupBytes {
    /// Starts fetching the first window of each chunk. `chunks` are byte ranges inside the object.
    pub(super) fn begin(
        object: &Arc<Object>,
        chunks: &[Range<u64>],
        runtime: &Handle,
        bytes_read: &Arc<AtomicU64>,
    ) -> Self {
        let chunks = chunks
            .iter()
            .map(|range| Chunk { range: range.clone(), windows: Mutex::default() })
            .collect::<Vec<_>>();
        let inner = Inner {
            object: object.clone(),
            chunks,
            runtime: runtime.clone(),
            bytes_read: bytes_read.clone(),
            failure: Mutex::default(),
        };
        for chunk in &inner.chunks {
            chunk.lock().next = inner.fetch(chunk, 0);
        }
        Self(Arc::new(inner))
    }

    /// Why the store could not give what the decoder asked for, if that is what ended it.
    pub(super) fn take_failure(&self) -> Option<LocationError> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Chunk {
    fn lock(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file's bytes of window `index`; `None` past the end of the chunk.
    fn window_range(&self, index: u64) -> Option<Range<u64>> {
        let start = self.range.start + index * WINDOW_BYTES;
        (start < self.range.end).then(|| start..(start + WINDOW_BYTES).min(self.range.end))
    }
}

impl Inner {
    fn fetch(&self, chunk: &Chunk, index: u64) -> Option<(u64, JoinHandle<Result<Bytes, LocationError>>)> {
        let range = chunk.window_range(index)?;
        let object = self.object.clone();
        Some((index, self.runtime.spawn(async move { object.read(range).await })))
    }

    fn chunk_at(&self, offset: u64) -> Parquet<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.range.contains(&offset)).ok_or_else(|| {
            ParquetError::General(format!("byte {offset} lies outside the row group's column chunks"))
        })
    }

    /// What is left from `offset` on of the window that holds it.
    fn bytes_at(&self, chunk: &Chunk, offset: u64) -> Parquet<Bytes> {
        let index = (offset - chunk.range.start) / WINDOW_BYTES;
        let skipped = ((offset - chunk.range.start) % WINDOW_BYTES) as usize;
        let mut windows = chunk.lock();
        if let Some((held, bytes)) = &windows.current
            && *held == index
        {
            return Ok(bytes.slice(skipped..));
        }
        let fetch = match windows.next.take() {
            Some((coming, fetch)) if coming == index => fetch,
            other => {
                if let Some((_, fetch)) = other {
                    fetch.abort();
                }
                self.fetch(chunk, index).expect("the offset lies in the chunk").1
            }
        };
        // The window after it is asked for before this one is waited for: both are then under way.
        windows.current = None;
        windows.next = self.fetch(chunk, index + 1);
        let read = self.runtime.block_on(fetch).map_err(|error| ParquetError::External(Box::new(error)))?;
        let bytes = read.map_err(|error| {
            let text = ParquetError::General(error.to_string());
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            text
        })?;
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        windows.current = Some((index, bytes.clone()));
        Ok(bytes.slice(skipped..))
    }
}

impl Length for RowGroupBytes {
    fn len(&self) -> u64 {
        self.0.object.size_bytes
    }
}

impl ChunkReader for RowGroupBytes {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> Parquet<ChunkRead> {
        self.0.chunk_at(start)?;
        Ok(ChunkRead { bytes: self.clone(), offset: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Parquet<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let chunk = self.0.chunk_at(start)?;
        if chunk.range.end - start < length as u64 {
            let what =
                format!("{length} bytes at {start} reach past the column chunk's end, {}", chunk.range.end);
            return Err(ParquetError::EOF(what));
        }
        let first = self.0.bytes_at(chunk, start)?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut gathered = BytesMut::with_capacity(length);
        gathered.extend_from_slice(&first);
        while gathered.len() < length {
            let more = self.0.bytes_at(chunk, start + gathered.len() as u64)?;
            gathered.extend_from_slice(&more[..more.len().min(length - gathered.len())]);
        }
        Ok(gathered.freeze())
    }
}

/// Reads on from an offset to the end of its chunk: how the decoder reads page headers.
pub(super) struct ChunkRead {
    bytes: RowGroupBytes,
    offset: u64,
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Ok(chunk) = self.bytes.0.chunk_at(self.offset) else { return Ok(0) };
        let bytes = self.bytes.0.bytes_at(chunk, self.offset).map_err(std::io::Error::other)?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;

    #[test]
    fn windows_give_the_bytes_of_the_file_in_any_order_of_asking() {
        let contents: Vec<u8> = (0..3 * WINDOW_BYTES + 1234).map(|i| (i * 31 + i / 977) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bytes");
        std::fs::write(&file, &contents).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let location = Location::parse(file.to_str().unwrap()).unwrap();
        let object = Arc::new(runtime.block_on(location.head()).unwrap());

        let end = contents.len() as u64;
        let chunks = [10..100, 100..end - 5];
        let counted = Arc::default();
        let bytes = RowGroupBytes::begin(&object, &chunks, runtime.handle(), &counted);
        let window = WINDOW_BYTES;
        for (start, length) in [
            (10, 90),
            (100, 1),
            (99 + window, 3),
            (100, 2 * window as usize + 7),
            (end - 6, 1),
            (150, 50),
            (100 + window, 0),
        ] {
            let expected = &contents[start as usize..start as usize + length];
            assert_eq!(&bytes.get_bytes(start, length).unwrap()[..], expected, "{start}+{length}");
        }
        let mut read = Vec::new();
        bytes.get_read(100).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, &contents[100..contents.len() - 5]);
        for (start, length) in [(0, 1), (9, 2), (50, 51), (end - 6, 2), (end - 5, 1), (end + 9, 1)] {
            assert!(bytes.get_bytes(start, length).is_err(), "{start}+{length}");
        }
        assert!(counted.load(Ordering::Relaxed) >= end - 15);
    }
}
