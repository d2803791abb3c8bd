//! Parquet files become a stream of decoded batches: footers first, then row group by row group, in order, decoded
//! by a thread of its own that runs ahead of the consumer by a bounded number of bounded batches.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use tokio::runtime::Handle;

use crate::store::{LocationError, Object};

use super::error::{Result, SourceError};
use super::windows::RowGroupBytes;

/// A decoded batch is about this large. With the two that may wait in the channel and one on each side of it,
/// read-ahead holds some four of them.
const BATCH_BYTES: u64 = 4 << 20;
const MAX_BATCH_ROWS: u64 = 65_536;
const BATCHES_AHEAD: usize = 2;

/// Footers fetched at a time, where a source has many files.
const FOOTERS_AT_A_TIME: usize = 16;
/// One request brings most footers whole.
const FOOTER_PREFETCH_BYTES: usize = 64 << 10;

/// A Parquet file whose footer was read and found sane.
pub(super) struct ParquetFile {
    pub object: Arc<Object>,
    pub metadata: ArrowReaderMetadata,
    /// Of what was staged in this file, where it was.
    pub name: Option<String>,
}

impl ParquetFile {
    pub fn uri(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.object.location.uri())
    }

    pub fn rows(&self) -> u64 {
        self.metadata.metadata().row_groups().iter().map(|group| group.num_rows() as u64).sum()
    }

    async fn open(object: Object) -> Result<Self> {
        let unreadable = |what: String| SourceError::Footer { file: object.location.uri().into(), what };
        let read = ParquetMetaDataReader::new()
            .with_prefetch_hint(Some(FOOTER_PREFETCH_BYTES))
            .load_and_finish(Footer(&object), object.size_bytes);
        // The decoder asserts some of what it expects; from outside, that is an error like any other.
        let footer = AssertUnwindSafe(read).catch_unwind().await;
        let footer = footer.map_err(|panic| unreadable(panic_text(&*panic)))?;
        let footer = match footer {
            Err(ParquetError::External(error)) => match error.downcast::<LocationError>() {
                Ok(error) => return Err((*error).into()),
                Err(error) => return Err(unreadable(error.to_string())),
            },
            footer => Arc::new(footer.map_err(|error| unreadable(error.to_string()))?),
        };
        let arrow = AssertUnwindSafe(|| ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new()));
        let metadata = std::panic::catch_unwind(arrow)
            .map_err(|panic| unreadable(panic_text(&*panic)))?
            .map_err(|error| unreadable(error.to_string()))?;
        for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
            check_row_group(group, object.size_bytes)
                .map_err(|what| unreadable(format!("row group {index}: {what}")))?;
        }
        Ok(Self { object: Arc::new(object), metadata, name: None })
    }
}

/// Opens all of `objects`, in order.
pub(super) async fn open(objects: Vec<Object>) -> Result<Vec<ParquetFile>> {
    futures_util::stream::iter(objects).map(ParquetFile::open).buffered(FOOTERS_AT_A_TIME).try_collect().await
}

struct Footer<'a>(&'a Object);

impl MetadataFetch for Footer<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.0.read(range).map(|read| read.map_err(|error| ParquetError::External(Box::new(error)))).boxed()
    }
}

/// That the numbers of a row group can be computed with: the decoder takes them as they are.
fn check_row_group(group: &RowGroupMetaData, size_bytes: u64) -> Result<(), String> {
    // The sum over a million row groups then still fits.
    if !(0..1 << 40).contains(&group.num_rows()) {
        return Err(format!("it declares {} rows", group.num_rows()));
    }
    for (index, column) in group.columns().iter().enumerate() {
        let dictionary = column.dictionary_page_offset().filter(|&offset| offset > 0);
        let start = dictionary.unwrap_or(column.data_page_offset());
        let length = column.compressed_size();
        let inside = start >= 0
            && length >= 0
            && (0..1 << 48).contains(&column.num_values())
            && column.uncompressed_size() < 1 << 48
            && start.checked_add(length).is_some_and(|end| end as u64 <= size_bytes);
        if !inside {
            return Err(format!(
                "column chunk {index} at byte {start} with {length} bytes lies outside the file of {size_bytes}"
            ));
        }
    }
    Ok(())
}

/// Consecutive rows of one row group, decoded.
pub(super) struct ScannedBatch {
    /// Index into the scan's files.
    pub file: usize,
    pub row_group: usize,
    /// Position of the first row within its row group.
    pub first_row: u64,
    pub rows: RecordBatch,
}

/// The batches of all files in order. Ends after the first error. Dropping it stops the reading.
pub(super) struct Scan {
    batches: Receiver<Result<ScannedBatch>>,
    bytes_read: Arc<AtomicU64>,
}

impl Scan {
    /// Starts reading the root columns `roots[f]` of each file `f`.
    pub fn start(files: Arc<Vec<ParquetFile>>, roots: Vec<Vec<usize>>, runtime: &Handle) -> Result<Self> {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let bytes_read = Arc::<AtomicU64>::default();
        let decoder = Decoder { files, roots, runtime: runtime.clone(), bytes_read: bytes_read.clone() };
        std::thread::Builder::new()
            .name("annvil-source".into())
            .spawn(move || decoder.run(&sender))
            .map_err(SourceError::Thread)?;
        Ok(Self { batches, bytes_read })
    }

    /// Bytes fetched from the store so far, as they lie there.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

impl Iterator for Scan {
    type Item = Result<ScannedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.recv().ok()
    }
}

struct Decoder {
    files: Arc<Vec<ParquetFile>>,
    roots: Vec<Vec<usize>>,
    runtime: Handle,
    bytes_read: Arc<AtomicU64>,
}

/// The consumer is gone, or has been told of an error.
struct Stop;

impl Decoder {
    fn run(&self, sender: &SyncSender<Result<ScannedBatch>>) {
        let groups: Vec<(usize, usize)> = self
            .files
            .iter()
            .enumerate()
            .flat_map(|(file, parquet)| {
                (0..parquet.metadata.metadata().num_row_groups()).map(move |row_group| (file, row_group))
            })
            .collect();
        // The next row group's first windows are on their way while this one is decoded.
        let mut coming = groups.first().map(|&group| self.begin(group));
        for (position, &group) in groups.iter().enumerate() {
            let bytes = coming.take().expect("begun one ahead");
            coming = groups.get(position + 1).map(|&next| self.begin(next));
            let decode = AssertUnwindSafe(|| self.decode(group, &bytes, sender));
            let done = std::panic::catch_unwind(decode)
                .unwrap_or_else(|panic| Err(self.damaged(group, panic_text(&*panic))))
                .map_err(|error| sender.send(Err(error)));
            if !matches!(done, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn begin(&self, group: (usize, usize)) -> RowGroupBytes {
        let file = &self.files[group.0];
        let mask = self.mask(group.0);
        let chunks: Vec<Range<u64>> = file
            .metadata
            .metadata()
            .row_group(group.1)
            .columns()
            .iter()
            .enumerate()
            .filter(|(leaf, _)| mask.leaf_included(*leaf))
            .map(|(_, column)| column.byte_range())
            .map(|(start, length)| start..start + length)
            .collect();
        RowGroupBytes::begin(&file.object, &chunks, &self.runtime, &self.bytes_read)
    }

    fn mask(&self, file: usize) -> ProjectionMask {
        ProjectionMask::roots(self.files[file].metadata.parquet_schema(), self.roots[file].iter().copied())
    }

    fn decode(
        &self,
        group: (usize, usize),
        bytes: &RowGroupBytes,
        sender: &SyncSender<Result<ScannedBatch>>,
    ) -> Result<Result<(), Stop>> {
        let (file, row_group) = group;
        let metadata = &self.files[file].metadata;
        let group_metadata = metadata.metadata().row_group(row_group);
        let rows = group_metadata.num_rows() as u64;
        if rows == 0 {
            return Ok(Ok(()));
        }
        let failed = |what: String| match bytes.take_failure() {
            Some(error) => error.into(),
            None => self.damaged(group, what),
        };
        let mask = self.mask(file);
        let batch_rows = batch_rows(group_metadata, &mask);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata.clone())
            .with_row_groups(vec![row_group])
            .with_projection(mask)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let mut first_row = 0;
        for batch in reader {
            let rows = batch.map_err(|error| failed(error.to_string()))?;
            let count = rows.num_rows() as u64;
            if sender.send(Ok(ScannedBatch { file, row_group, first_row, rows })).is_err() {
                return Ok(Err(Stop));
            }
            first_row += count;
        }
        if first_row != rows {
            return Err(failed(format!("expected {rows} rows as the footer says, got {first_row}")));
        }
        Ok(Ok(()))
    }

    fn damaged(&self, (file, row_group): (usize, usize), what: String) -> SourceError {
        SourceError::Damaged { file: self.files[file].uri().into(), row_group, what }
    }
}

/// Rows that decode to about [`BATCH_BYTES`]. Nested columns are counted by their values: dictionaries and
/// run lengths can make an encoded size far too small an estimate.
fn batch_rows(group: &RowGroupMetaData, mask: &ProjectionMask) -> usize {
    let bytes: u64 = group
        .columns()
        .iter()
        .enumerate()
        .filter(|(leaf, _)| mask.leaf_included(*leaf))
        .map(|(_, column)| {
            let values = 8 * column.num_values() as u64; // below 2⁴⁸: checked
            values.max(column.uncompressed_size().max(0) as u64)
        })
        .sum();
    let rows = group.num_rows() as u64;
    let row_bytes = bytes.div_ceil(rows).max(1);
    (BATCH_BYTES / row_bytes).clamp(1, MAX_BATCH_ROWS) as usize
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("the decoder gave up: {}", text.unwrap_or("no reason given"))
}
