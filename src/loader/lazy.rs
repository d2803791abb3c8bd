//! Opening an index that stays where it is: what every search needs is read, the rest as it is asked for.
//!
//! | round trip | |
//! |---|---|
//! | versions | only where no version is named |
//! | manifest | |
//! | at once | the sections that every search needs and the ids, whole; the checksums; the first block of the other files, where their headers are, and the last of the attributes, where their footer is |
//!
//! The ids are read whole, and not by range: a block has 8,192 of 8 bytes, so those of a query's candidates, which lie in
//! dozens of lists, would come to half of all ids of a million rows or to a round trip of their own; and an id can be
//! looked up in any order, which needs all of them. They are a hundredth of what codes and vectors take.

use std::sync::{Arc, OnceLock};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;

use super::attributes::AttributeColumns;
use super::families::{assemble_ranged, needed_whole};
use super::partitions::Partitioned;
use super::rows::{Rows, check_family};
use super::{Index, LoadError, OpenOptions};
use crate::artifact::columns::{ATTRIBUTES_FILE, IDS_FILE};
use crate::artifact::encryption::sealed_size;
use crate::artifact::neighbors::NEIGHBORS_FILE;
use crate::artifact::partitions::{PARTITIONS_FILE, Partitions};
use crate::artifact::queries::QUERIES_FILE;
use crate::artifact::safetensors::{self, section_file_name};
use crate::artifact::{
    ColumnFooter, ColumnPlaces, FetchError, FetchStats, Fetching, RangedSection, Ranges, Section, SegmentRef,
    checksums,
};
use crate::store::{Artifact, BlockReader, CacheOptions, RangedFile, Segment, StoreError};
use crate::vectors::RowIds;

/// Chunks of 8 MiB that a whole file is read in, and those under way at once.
const CHUNK_BYTES: u64 = 8 << 20;
const CHUNKS_TOGETHER: u64 = 4;

/// A last block of fewer bytes may end in the middle of the footer's length.
const SHORT_TAIL: usize = 64;

/// What a lazy index has of its own.
pub(super) struct Lazy {
    pub reader: Arc<BlockReader>,
    /// By opening it.
    pub opened: FetchStats,
}

/// The attributes of a lazy index: a column is read whole when it is first asked for, and kept.
pub(super) struct RangedColumns {
    file: RangedFile,
    places: ColumnPlaces,
    columns: Vec<OnceLock<ArrayRef>>,
    rows: usize,
}

/// The files of a segment that are read whole when an index is opened so.
pub(super) fn whole_files(kind: &str, segment: &SegmentRef) -> Result<Vec<String>, LoadError> {
    let names: Vec<&str> = segment
        .files
        .iter()
        .filter(|file| {
            ![&segment.checksums, PARTITIONS_FILE, NEIGHBORS_FILE, QUERIES_FILE].contains(&&*file.name)
        })
        .filter_map(|file| file.name.strip_suffix(safetensors::SECTION_EXTENSION)?.strip_suffix('.'))
        .collect();
    let mut files: Vec<String> = needed_whole(kind, &names)?.into_iter().map(section_file_name).collect();
    files.extend([IDS_FILE.to_string(), segment.checksums.clone()]);
    files.extend(segment.file(PARTITIONS_FILE).map(|file| file.name.clone()));
    Ok(files)
}

/// Everything that the one round trip after the manifest's brings.
struct Read {
    whole: Vec<Section>,
    ids: RowIds,
    partitions: Option<Partitions>,
    reader: Arc<BlockReader>,
    ranged: Vec<RangedSection>,
    attributes: Option<RangedColumns>,
}

/// Opens what an artifact holds.
pub(super) fn open(artifact: Artifact, options: &OpenOptions) -> Result<Index, LoadError> {
    let manifest = artifact.manifest();
    if manifest.segments.len() > 1 || manifest.tombstones.is_some() {
        let (version, segments) = (manifest.version, manifest.segments.len());
        let what = format!(
            "opening version {version} lazily before `annvil compact`: it has {segments} segments or tombstones"
        );
        return Err(StoreError::Unsupported { what }.into());
    }
    let cache = CacheOptions { memory_bytes: options.cache_bytes, disk: options.disk_cache.clone() };
    let Read { whole, ids, partitions, reader, ranged, attributes } = read(&artifact, &cache)?;
    let family = assemble_ranged(&manifest.build.kind, &whole, &ranged)?;
    let opened = artifact.asked().then(stats_of_open(&artifact, &ranged, attributes.is_some())?);
    check_family(manifest, artifact.only_segment()?, &*family)?;
    let attributes = match attributes {
        Some(_) if options.whole_attributes => artifact.attributes()?.into(),
        Some(columns) => AttributeColumns::Ranged(columns),
        None => AttributeColumns::None,
    };
    let partitions = Partitioned::of_parts(vec![partitions], &artifact.segment_rows())?;
    let rows = Rows { partitions, ..Rows::of_one(family, ids, attributes) };
    let mut index = Index::of_rows(artifact, rows, options.filter_cache_bytes)?;
    index.lazy = Some(Lazy { reader, opened });
    Ok(index)
}

fn read(artifact: &Artifact, cache: &CacheOptions) -> Result<Read, LoadError> {
    let segment = artifact.only_segment()?;
    let kind = &artifact.manifest().build.kind;
    let names: Vec<&str> = segment.section_names().collect();
    let needed = needed_whole(kind, &names)?;
    let others: Vec<&str> = names.iter().copied().filter(|name| !needed.contains(name)).collect();
    let files: Vec<String> = others.iter().map(|name| section_file_name(name)).collect();
    let mut first: Vec<(&str, u64)> = files.iter().map(|file| (file.as_str(), 0)).collect();
    let attributes = segment.reference().file(ATTRIBUTES_FILE);
    if let Some(file) = attributes {
        let last = checksums::block_count(file.size_bytes).saturating_sub(1);
        first.extend([(ATTRIBUTES_FILE, 0), (ATTRIBUTES_FILE, last)]);
    }
    // All that is known to be needed, at once.
    let (whole, ids, partitions, blocks) = std::thread::scope(|scope| {
        let sections: Vec<_> = needed.iter().map(|name| scope.spawn(move || segment.section(name))).collect();
        let ids = scope.spawn(move || segment.ids());
        let partitions = scope.spawn(move || segment.partitions());
        let blocks = BlockReader::open(segment, cache, &first);
        let joined = sections.into_iter().map(|thread| thread.join().expect("a read does not panic"));
        let ids = ids.join().expect("a read does not panic");
        let partitions = partitions.join().expect("a read does not panic");
        (joined.collect::<Result<Vec<_>, _>>(), ids, partitions, blocks)
    });
    let (reader, blocks) = blocks?;
    let mut ranged = Vec::with_capacity(others.len());
    for (name, start) in others.iter().zip(&blocks) {
        ranged.push(ranged_section(segment, &reader, name, start)?);
    }
    let attributes = match (attributes, &blocks[others.len()..]) {
        (Some(_), [start, tail]) => Some(RangedColumns::open(segment, &reader, start, tail)?),
        _ => None,
    };
    Ok(Read { whole: whole?, ids: ids?, partitions: partitions?, reader, ranged, attributes })
}

fn ranged_section(
    segment: Segment<'_>,
    reader: &Arc<BlockReader>,
    name: &str,
    start: &[u8],
) -> Result<RangedSection, LoadError> {
    let file_name = section_file_name(name);
    let file = named(reader, &file_name)?;
    let size = file.size_bytes();
    let malformed = |error: safetensors::SectionError| file.malformed(error);
    let length = safetensors::head_length(start, size).map_err(malformed)?;
    let head = if length > start.len() as u64 {
        let longer = segment.read_ranges(&file_name, std::slice::from_ref(&(0..length)))?.concat();
        safetensors::decode_head(name, &longer, size)
    } else {
        safetensors::decode_head(name, start, size)
    };
    let head = head.map_err(malformed)?;
    Ok(RangedSection { head, file: Arc::new(file) })
}

fn named(reader: &Arc<BlockReader>, file: &str) -> Result<RangedFile, StoreError> {
    reader.file(file).ok_or_else(|| StoreError::NotFound { what: format!("file `{file}`") })
}

/// What [`read`] asks for.
fn stats_of_open(
    artifact: &Artifact,
    ranged: &[RangedSection],
    has_attributes: bool,
) -> Result<FetchStats, LoadError> {
    let (manifest, is_encrypted) = (artifact.manifest(), artifact.key_id().is_some());
    let stored = |size: u64| if is_encrypted { sealed_size(size) } else { size };
    let mut stats = FetchStats { round_trips: 1, ..FetchStats::default() };
    for segment in &manifest.segments {
        for name in whole_files(&manifest.build.kind, segment)? {
            let size = segment.file(&name).map_or(0, |file| file.size_bytes);
            let chunks = size.div_ceil(CHUNK_BYTES).max(1);
            let (round_trips, bytes) = (chunks.div_ceil(CHUNKS_TOGETHER), stored(size));
            let whole = FetchStats { round_trips, requests: chunks, bytes };
            stats = stats.beside(whole);
        }
        let block = |name: &str, number: u64| {
            let size = segment.file(name).map_or(0, |file| file.size_bytes);
            let from = number * checksums::BLOCK_BYTES;
            let bytes = size.min(from + checksums::BLOCK_BYTES).saturating_sub(from);
            FetchStats { round_trips: 1, requests: 1, bytes: stored(bytes) }
        };
        for section in ranged {
            stats = stats.beside(block(&section_file_name(&section.head.name), 0));
        }
        if has_attributes {
            let size = segment.file(ATTRIBUTES_FILE).map_or(0, |file| file.size_bytes);
            let last = checksums::block_count(size).saturating_sub(1);
            stats = stats.beside(block(ATTRIBUTES_FILE, 0)).beside(block(ATTRIBUTES_FILE, last));
        }
    }
    Ok(stats)
}

impl RangedColumns {
    /// From the file's first block and its last.
    fn open(
        segment: Segment<'_>,
        reader: &Arc<BlockReader>,
        start: &[u8],
        tail: &[u8],
    ) -> Result<Self, LoadError> {
        let file = named(reader, ATTRIBUTES_FILE)?;
        let size = file.size_bytes();
        let read = |range| segment.read_ranges(ATTRIBUTES_FILE, &[range]).map(|bytes| bytes.concat());
        let malformed = |error| file.malformed(error);
        let joined;
        let tail = if tail.len() < SHORT_TAIL && size > tail.len() as u64 {
            joined = read(size.saturating_sub(checksums::BLOCK_BYTES)..size)?;
            &joined[..]
        } else {
            tail
        };
        let footer = match ColumnFooter::read(size, start, tail).map_err(malformed)? {
            Ok(footer) => footer,
            Err(length) => {
                let longer = read(size - length..size)?;
                let again = ColumnFooter::read(size, start, &longer).map_err(malformed)?;
                again.unwrap_or_else(|_| unreachable!("as many bytes as were asked for"))
            }
        };
        let metadata = footer.metadata();
        let places = if metadata.end <= start.len() as u64 {
            footer.places(&start[metadata.start as usize..metadata.end as usize], segment.rows())
        } else {
            let metadata = read(metadata)?;
            footer.places(&metadata, segment.rows())
        };
        let places = places.map_err(malformed)?;
        let columns = places.schema().fields().iter().map(|_| OnceLock::new()).collect();
        Ok(Self { places, columns, rows: segment.rows() as usize, file })
    }

    pub fn schema(&self) -> &SchemaRef {
        self.places.schema()
    }

    pub fn are_here(&self, columns: &[usize]) -> bool {
        columns.iter().all(|&column| self.columns[column].get().is_some())
    }

    /// Some columns, in this order. Those that are not here are read in one round trip.
    pub fn fetch(&self, columns: &[usize], fetching: &mut Fetching) -> Result<RecordBatch, FetchError> {
        let mut missing: Vec<usize> =
            columns.iter().copied().filter(|&column| self.columns[column].get().is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        let ranges: Vec<_> = missing.iter().flat_map(|&column| self.places.ranges(column)).collect();
        let read = self.file.read(&ranges, fetching)?;
        let mut bytes = &read[..];
        for column in missing {
            let (own, others) = bytes.split_at(self.places.ranges(column).count());
            bytes = others;
            let array = self.places.array(column, own);
            let array = array.map_err(|error| self.file.malformed(error))?;
            // Another thread may have been first, with the same.
            let _ = self.columns[column].set(array);
        }
        let here = columns.iter().filter_map(|&column| self.columns[column].get().cloned()).collect();
        let schema = self.schema().project(columns).expect("columns of the schema");
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(schema), here, &options);
        Ok(batch.expect("columns of their types, of as many rows"))
    }
}
