//! Ranges of a segment's files, read by way of a cache of blocks.
//!
//! A block is one of FORMAT.md's, 65,536 bytes with a checksum of its own, and nothing leaves here that was not compared with
//! it: neither what a store answers nor what lies on the disk. Whatever a call lacks is asked for at once, a request for
//! each run of blocks that lie together. A block that is on its way is waited for and not asked for again, whoever wants it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::artifact::Segment;
use super::clock::Clock;
use super::contents::StoredFile;
use super::disk_cache::DiskCache;
use super::objects::{CHUNK_BYTES, Objects, ReadError};
use super::runtime::{Pending, runtime};
use super::{FileError, StoreError};
use crate::artifact::checksums::{BLOCK_BYTES, BlockChecksums};
use crate::artifact::{FetchError, FetchStats, Fetching, FileRef, Ranges};

/// Blocks that are read along where that saves a request: 128 KiB take a millisecond at 100 MB/s, a request costs its price and
/// one of [`REQUESTS`].
const GAP_BLOCKS: u64 = 2;

/// Requests under way at once for a segment: at 65 ms each 2,000 a second, 125 MB/s of single blocks.
const REQUESTS: usize = 128;

/// How much of what was fetched is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// Most bytes of blocks in memory.
    pub memory_bytes: u64,
    /// A folder for blocks, and most bytes of them there.
    pub disk: Option<(PathBuf, u64)>,
}

/// The files of one segment, read by range.
#[derive(Debug)]
pub struct BlockReader {
    objects: Objects,
    files: Vec<BlockFile>,
    checksums: BlockChecksums,
    state: Mutex<State>,
    disk: Option<Arc<DiskCache>>,
    requests: Arc<Semaphore>,
}

/// A file of the segment: what it is, and how it lies in the store.
#[derive(Debug)]
struct BlockFile {
    reference: FileRef,
    stored: StoredFile,
}

impl BlockFile {
    /// A block from the bytes that lie there.
    fn opened(&self, block: u64, bytes: Bytes) -> Result<Bytes, StoreError> {
        self.stored.opened(block, bytes)
    }
}

/// Which file of the segment, and which block of the file.
type BlockId = (usize, u64);

#[derive(Debug)]
struct State {
    kept: Clock<BlockId, Bytes>,
    /// Blocks that somebody has asked for.
    on_their_way: HashMap<BlockId, Arc<Flight>>,
    /// Since the segment was opened.
    stats: FetchStats,
}

/// A block on its way.
#[derive(Debug, Default)]
struct Flight {
    landed: Mutex<Option<Result<Bytes, Arc<StoreError>>>>,
    change: Condvar,
}

impl Flight {
    fn land(&self, result: Result<Bytes, Arc<StoreError>>) {
        *self.landed.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.change.notify_all();
    }

    fn wait(&self, end: Option<Instant>) -> Result<Bytes, FetchError> {
        let mut landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = &*landed {
                return result.clone().map_err(|error| FetchError::Store(Arc::new(Shared(error))));
            }
            landed = match end {
                None => self.change.wait(landed).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(FetchError::TimeOut);
                    }
                    self.change.wait_timeout(landed, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// What the failure of a request that another reader made means to one who waits for it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joined {
    MayBeAskedAgain,
    Counts,
}

/// A store's error that several readers were told.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Shared(Arc<StoreError>);

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        FetchError::Store(Arc::new(Shared(Arc::new(error))))
    }
}

impl StoreError {
    /// What a store said to a reader of ranges; `None` where it was not a store.
    pub fn of_fetch(error: &FetchError) -> Option<Arc<StoreError>> {
        let FetchError::Store(error) = error else { return None };
        error.downcast_ref::<Shared>().map(|shared| shared.0.clone())
    }
}

impl BlockReader {
    /// The files of a segment, and the blocks `first` of them: files by name, all of them the segment's, and numbers of
    /// blocks. Those and the segment's checksums are read at once.
    ///
    /// # Errors
    /// What reading says; a folder that cannot be used.
    pub fn open(
        segment: Segment<'_>,
        cache: &CacheOptions,
        first: &[(&str, u64)],
    ) -> Result<(Arc<Self>, Vec<Bytes>), StoreError> {
        let disk = cache.disk.as_ref().map(|(folder, bytes)| {
            DiskCache::open(folder, *bytes)
                .map_err(|source| StoreError::Cache { folder: folder.clone(), source })
        });
        let disk = disk.transpose()?;
        let reference = segment.reference();
        let file = |reference: &FileRef| {
            Ok::<_, StoreError>(BlockFile {
                stored: segment.stored(&reference.name)?,
                reference: reference.clone(),
            })
        };
        let state = State {
            kept: Clock::new(cache.memory_bytes),
            on_their_way: HashMap::new(),
            stats: FetchStats::default(),
        };
        let mut reader = Self {
            objects: segment.objects().clone(),
            files: reference.files.iter().map(file).collect::<Result<_, _>>()?,
            checksums: BlockChecksums::default(),
            state: Mutex::new(state),
            disk,
            requests: Arc::new(Semaphore::new(REQUESTS)),
        };
        let pending: Vec<_> =
            first.iter().map(|&(file, block)| reader.ask(file, block)).collect::<Result<_, _>>()?;
        reader.checksums = segment.checksums()?.clone();
        let mut blocks = Vec::with_capacity(first.len());
        for (id, answer) in pending {
            let file = &reader.files[id.0];
            let bytes = answer.wait().map_err(|error| file.stored.error(error))?;
            let bytes = file.opened(id.1, bytes)?;
            reader.check(id, &bytes)?;
            reader.land(id, Ok(bytes.clone()));
            blocks.push(bytes);
        }
        Ok((Arc::new(reader), blocks))
    }

    /// Asks for one block, which nobody has checked when it is there.
    fn ask(
        &self,
        file: &str,
        block: u64,
    ) -> Result<(BlockId, Pending<Result<Bytes, ReadError>>), StoreError> {
        let number =
            self.number(file).ok_or_else(|| StoreError::NotFound { what: format!("file `{file}`") })?;
        let stored = &self.files[number].stored;
        let (objects, object) = (self.objects.clone(), stored.object.clone());
        let (size, range) = (stored.stored.size_bytes, self.bytes_of(&[(number, block)]));
        let read = async move { objects.read_range(&object, size, range).await };
        Ok(((number, block), Pending::start(read)?))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.files.iter().position(|file| file.reference.name == name)
    }

    /// One of the segment's files.
    pub fn file(self: &Arc<Self>, name: &str) -> Option<RangedFile> {
        let number = self.number(name)?;
        Some(RangedFile { reader: self.clone(), number })
    }

    /// What was fetched since the segment was opened. Of round trips of several threads each counts.
    pub fn stats(&self) -> FetchStats {
        self.lock().stats
    }

    /// Bytes of the blocks in memory.
    pub fn kept_bytes(&self) -> u64 {
        self.lock().kept.size_bytes()
    }

    /// Ranges of several files, in order.
    ///
    /// # Errors
    /// As [`Ranges::read`].
    pub fn read(
        self: &Arc<Self>,
        ranges: &[(usize, Range<u64>)],
        fetching: &mut Fetching,
    ) -> Result<Vec<Bytes>, FetchError> {
        let mut wanted = Vec::new();
        for (file, range) in ranges {
            self.check_range(*file, range)?;
            wanted.extend(blocks_of(range).map(|block| (*file, block)));
        }
        wanted.sort_unstable();
        wanted.dedup();
        let blocks = self.blocks(&wanted, fetching, Joined::MayBeAskedAgain)?;
        let block = |id: BlockId| &blocks[wanted.binary_search(&id).expect("every block was asked for")];
        let part = |(file, range): &(usize, Range<u64>)| {
            let mut numbers = blocks_of(range);
            let within = |number: u64, bytes: &Bytes| {
                let start = number * BLOCK_BYTES;
                let from = range.start.saturating_sub(start) as usize;
                from..bytes.len().min((range.end - start) as usize)
            };
            match (numbers.next(), numbers.next()) {
                (None, _) => Bytes::new(),
                (Some(only), None) => {
                    let bytes = block((*file, only));
                    bytes.slice(within(only, bytes))
                }
                _ => {
                    let mut whole = Vec::with_capacity((range.end - range.start) as usize);
                    for number in blocks_of(range) {
                        let bytes = block((*file, number));
                        whole.extend_from_slice(&bytes[within(number, bytes)]);
                    }
                    whole.into()
                }
            }
        };
        Ok(ranges.iter().map(part).collect())
    }

    fn check_range(&self, file: usize, range: &Range<u64>) -> Result<(), FetchError> {
        let BlockFile { reference, stored: StoredFile { place, .. } } = &self.files[file];
        if range.start <= range.end && range.end <= reference.size_bytes {
            return Ok(());
        }
        let (start, end, size_bytes) = (range.start, range.end, reference.size_bytes);
        Err(StoreError::Range { place: place.clone(), start, end, size_bytes }.into())
    }

    /// The blocks, ascending and each once, in order.
    fn blocks(
        self: &Arc<Self>,
        wanted: &[BlockId],
        fetching: &mut Fetching,
        joined: Joined,
    ) -> Result<Vec<Bytes>, FetchError> {
        let mut blocks: Vec<Option<Bytes>> = vec![None; wanted.len()];
        let mut flights: Vec<(usize, Arc<Flight>)> = Vec::new();
        let mut own = Vec::new();
        let mut state = self.lock();
        for (place, id) in wanted.iter().enumerate() {
            if let Some(bytes) = state.kept.get(id) {
                blocks[place] = Some(bytes.clone());
                continue;
            }
            let flight = state.on_their_way.entry(*id).or_insert_with(|| {
                own.push(*id);
                Arc::default()
            });
            flights.push((place, flight.clone()));
        }
        drop(state);
        let is_own = |id: &BlockId| own.binary_search(id).is_ok();
        let others: Vec<usize> =
            flights.iter().map(|&(place, _)| place).filter(|&place| !is_own(&wanted[place])).collect();
        let landing = Landing { reader: self.clone(), left: own };
        let landing = landing.land_kept_on_disk();
        // For another's blocks, or the store's.
        let waits = !others.is_empty() || !landing.left.is_empty();
        let asked = landing.ask_store();
        fetching.stats = fetching.stats.then(asked);
        fetching.stats.round_trips += u64::from(waits);
        let mut state = self.lock();
        state.stats = state.stats.then(FetchStats { round_trips: u64::from(waits), ..asked });
        drop(state);
        let mut failed = Vec::new();
        for (place, flight) in flights {
            match flight.wait(fetching.end) {
                Ok(bytes) => blocks[place] = Some(bytes),
                // Another's request, which may have failed before this one was made.
                Err(FetchError::Store(_))
                    if joined == Joined::MayBeAskedAgain && others.binary_search(&place).is_ok() =>
                {
                    failed.push(place);
                }
                Err(error) => return Err(error),
            }
        }
        if !failed.is_empty() {
            let ids: Vec<BlockId> = failed.iter().map(|&place| wanted[place]).collect();
            let again = self.blocks(&ids, fetching, Joined::Counts)?;
            failed.into_iter().zip(again).for_each(|(place, bytes)| blocks[place] = Some(bytes));
        }
        Ok(blocks.into_iter().flatten().collect())
    }

    fn check(&self, (file, block): BlockId, bytes: &[u8]) -> Result<(), StoreError> {
        let BlockFile { reference, stored: StoredFile { place, .. } } = &self.files[file];
        let expected = BLOCK_BYTES.min(reference.size_bytes - block * BLOCK_BYTES);
        if bytes.len() as u64 != expected {
            let (expected, got) =
                (format!("{expected} bytes of block {block}"), format!("{} bytes", bytes.len()));
            return Err(StoreError::Damaged { place: place.clone(), expected, got });
        }
        let checked = self.checksums.check(&reference.name, block, bytes);
        checked.map_err(|error| StoreError::of_checksums(place.clone(), error))
    }

    /// Hands a block to whoever waits for it, and keeps it.
    fn land(&self, id: BlockId, result: Result<Bytes, Arc<StoreError>>) {
        let mut state = self.lock();
        if let Ok(bytes) = &result {
            state.kept.insert(id, bytes.clone(), bytes.len() as u64);
        }
        let flight = state.on_their_way.remove(&id);
        drop(state);
        if let Some(flight) = flight {
            flight.land(result);
        }
    }

    /// From the first byte of a run to its last, as they lie in the store.
    fn bytes_of(&self, run: &[BlockId]) -> Range<u64> {
        let (Some((file, first)), Some((_, last))) = (run.first(), run.last()) else { return 0..0 };
        let BlockFile { reference, stored } = &self.files[*file];
        stored.stored_range(&(first * BLOCK_BYTES..reference.size_bytes.min((last + 1) * BLOCK_BYTES)))
    }

    /// What a block is called on the disk.
    fn disk_name(&self, (file, block): BlockId) -> String {
        let object = self.files[file].stored.object.trim_start_matches("seg/");
        format!("{}-{block}", object.replace('/', "-"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks that one call has to bring, ascending. Those left when it goes are told to whoever waits as not to be had: a
/// reader that ends early leaves nobody waiting.
struct Landing {
    reader: Arc<BlockReader>,
    left: Vec<BlockId>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.left) {
            let error = StoreError::Runtime("a reader of blocks was stopped".into());
            self.reader.land(id, Err(Arc::new(error)));
        }
    }
}

impl Landing {
    /// Lands what the disk has; what is damaged there is removed, and left.
    fn land_kept_on_disk(mut self) -> Self {
        let reader = self.reader.clone();
        let Some(disk) = &reader.disk else { return self };
        self.left.retain(|&id| {
            let name = reader.disk_name(id);
            let Some(bytes) = disk.read(&name) else { return true };
            let block = reader.files[id.0].opened(id.1, bytes.into());
            match block.and_then(|block| reader.check(id, &block).map(|()| block)) {
                Ok(block) => {
                    reader.land(id, Ok(block));
                    false
                }
                Err(_) => {
                    disk.remove(&name);
                    true
                }
            }
        });
        self
    }

    /// Asks the store for the rest, and returns what was asked for. The blocks land by themselves.
    fn ask_store(mut self) -> FetchStats {
        let mut stats = FetchStats::default();
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(_) => return stats,
        };
        for run in runs(&std::mem::take(&mut self.left)) {
            let range = self.reader.bytes_of(&run);
            stats.requests += 1;
            stats.bytes += range.end - range.start;
            let landing = Landing { reader: self.reader.clone(), left: run };
            runtime.spawn(landing.fetch(range));
        }
        stats
    }

    async fn fetch(mut self, range: Range<u64>) {
        let reader = self.reader.clone();
        let _permit = reader.requests.clone().acquire_owned().await;
        let Some(&(file, first)) = self.left.first() else { return };
        let stored = &reader.files[file].stored;
        let block_bytes = stored.stored_block_bytes() as usize;
        let read = reader.objects.read_range(&stored.object, stored.stored.size_bytes, range).await;
        let read = read.map_err(|error| Arc::new(stored.error(error)));
        let mut to_disk = Vec::new();
        while let Some(&id) = self.left.last() {
            let block = read.clone().and_then(|bytes| {
                let from = (id.1 - first) as usize * block_bytes;
                // Of its own: a slice would keep all of the answer.
                let there = Bytes::copy_from_slice(&bytes[from..bytes.len().min(from + block_bytes)]);
                // On the disk blocks are kept as they came: encrypted ones stay so.
                let on_disk = reader.disk.is_some().then(|| there.clone());
                let block = reader.files[file].opened(id.1, there).map_err(Arc::new)?;
                reader.check(id, &block).map_err(Arc::new)?;
                Ok((block, on_disk))
            });
            if let Ok((_, Some(bytes))) = &block {
                to_disk.push((reader.disk_name(id), bytes.clone()));
            }
            reader.land(id, block.map(|(block, _)| block));
            self.left.pop();
        }
        if let Some(disk) = reader.disk.clone() {
            let write = move || to_disk.iter().for_each(|(name, bytes)| disk.write(name, bytes));
            // Nobody waits for it.
            drop(tokio::task::spawn_blocking(write));
        }
    }
}

fn blocks_of(range: &Range<u64>) -> Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES),
    }
}

/// Blocks, ascending, by the request that brings them: of one file, near together, at most as many as one request reads.
fn runs(blocks: &[BlockId]) -> Vec<Vec<BlockId>> {
    let mut runs: Vec<Vec<BlockId>> = Vec::new();
    for &(file, block) in blocks {
        let together = |run: &&mut Vec<BlockId>| {
            let ((of, first), (_, last)) = (run[0], run[run.len() - 1]);
            of == file && block - last <= 1 + GAP_BLOCKS && (block - first) < CHUNK_BYTES / BLOCK_BYTES
        };
        match runs.last_mut().filter(together) {
            Some(run) => run.push((file, block)),
            None => runs.push(vec![(file, block)]),
        }
    }
    runs
}

/// A file of a segment, read by way of the segment's cache.
#[derive(Debug, Clone)]
pub struct RangedFile {
    reader: Arc<BlockReader>,
    number: usize,
}

impl RangedFile {
    pub fn size_bytes(&self) -> u64 {
        self.reader.files[self.number].reference.size_bytes
    }

    /// What is wrong with the file's contents, as an error that names it.
    pub fn malformed(&self, error: impl Into<FileError>) -> StoreError {
        StoreError::malformed(self.reader.files[self.number].stored.place.clone(), error)
    }
}

impl Ranges for RangedFile {
    fn read(&self, ranges: &[Range<u64>], fetching: &mut Fetching) -> Result<Vec<Bytes>, FetchError> {
        let ranges: Vec<_> = ranges.iter().map(|range| (self.number, range.clone())).collect();
        self.reader.read(&ranges, fetching)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_of_one_file_near_together_and_no_longer_than_a_request() {
        let blocks = [(0, 0), (0, 1), (0, 4), (0, 8), (1, 9), (1, 11)];
        assert_eq!(runs(&blocks), [vec![(0, 0), (0, 1), (0, 4)], vec![(0, 8)], vec![(1, 9), (1, 11)]]);
        let many: Vec<BlockId> = (0..1000).map(|block| (0, block)).collect();
        let runs = runs(&many);
        assert!(runs.iter().all(|run| run.len() <= (CHUNK_BYTES / BLOCK_BYTES) as usize), "{runs:?}");
        assert_eq!(runs.concat(), many);
    }

    #[test]
    fn blocks_of_a_range_are_those_that_it_touches() {
        const B: u64 = BLOCK_BYTES;
        for (range, expected) in
            [(5..5, 0..0), (0..1, 0..1), (B - 1..B, 0..1), (B - 1..B + 1, 0..2), (B..2 * B, 1..2)]
        {
            assert_eq!(blocks_of(&range), expected, "{range:?}");
        }
    }
}
