use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use bytes::Bytes;

use super::contents::StoredFile;
use super::index::{Opened, segment_object};
use super::mapped::Maps;
use super::objects::{Objects, ReadError};
use super::{IndexStore, Place, StoreError};
use crate::artifact::checksums::{BLOCK_BYTES, BlockChecksums, CHECKSUMS_SECTION};
use crate::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use crate::artifact::neighbors::{self, NEIGHBORS_FILE, NEIGHBORS_SECTION};
use crate::artifact::partitions::{PARTITIONS_FILE, PARTITIONS_SECTION, Partitions};
use crate::artifact::queries::{self, QUERIES_FILE, QUERIES_SECTION};
use crate::artifact::safetensors::{self, section_file_name};
use crate::artifact::tombstones::{TOMBSTONES_SECTION, Tombstones};
use crate::artifact::{Digest, FetchStats, FileRef, Manifest, Section, SegmentRef};
use crate::vectors::{Neighbors, RowIds};

/// One version of an index, open for reading. It never changes, so it can be shared and kept as long as one likes;
/// every byte that comes out of it has been checked against the manifest.
#[derive(Debug)]
pub struct Artifact {
    store: IndexStore,
    manifest: Manifest,
    /// One for each folder, read by the first range that is asked for.
    checksums: Vec<OnceLock<BlockChecksums>>,
    /// Where the version is encrypted.
    opened: Option<Opened>,
    /// Where whole files are mapped and not read.
    pub(super) maps: Option<Maps>,
    /// To find the version and to read its manifest.
    pub(super) asked: FetchStats,
}

/// One segment of an artifact.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    artifact: &'a Artifact,
    number: usize,
}

impl Artifact {
    pub(super) fn new(
        store: IndexStore,
        manifest: Manifest,
        opened: Option<Opened>,
        asked: FetchStats,
    ) -> Self {
        let checksums = manifest.folders().map(|_| OnceLock::new()).collect();
        Self { store, manifest, checksums, opened, maps: None, asked }
    }

    /// What the owner of its key calls that; `None` where the version is not encrypted.
    pub fn key_id(&self) -> Option<&str> {
        self.opened.as_ref().map(|opened| opened.sealing.key_id.as_str())
    }

    pub(super) fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What finding the version and reading its manifest has asked of the store. A listing counts as one request, and as no
    /// bytes.
    pub fn asked(&self) -> FetchStats {
        self.asked
    }

    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    pub fn index_name(&self) -> &str {
        &self.manifest.index_name
    }

    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        (0..self.manifest.segments.len()).map(|number| Segment { artifact: self, number })
    }

    /// The segments, then the tombstones' folder: whatever has files.
    pub(super) fn folders(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        (0..self.checksums.len()).map(|number| Segment { artifact: self, number })
    }

    /// Rows of each segment, tombstones or not.
    pub fn segment_rows(&self) -> Vec<u64> {
        self.manifest.segments.iter().map(|segment| segment.rows).collect()
    }

    /// The rows of each segment that are no longer there.
    pub fn tombstones(&self) -> Result<Tombstones, StoreError> {
        let segments = self.manifest.segments.len();
        let Some(reference) = &self.manifest.tombstones else { return Ok(Tombstones::none(segments)) };
        let folder = Segment { artifact: self, number: segments };
        let section = folder.section(TOMBSTONES_SECTION)?;
        let place = || folder.place(&section_file_name(TOMBSTONES_SECTION));
        Tombstones::from_section(&section, reference.rows, &self.segment_rows())
            .map_err(|error| StoreError::malformed(place(), error))
    }

    /// The queries that the index was certified with, as far as they were kept, row by row; `None` where a version from
    /// before format 1.1 has none.
    pub fn queries(&self) -> Result<Option<Vec<f32>>, StoreError> {
        let has_them = |segment: &Segment<'_>| segment.reference().file(QUERIES_FILE).is_some();
        let Some(segment) = self.segments().find(has_them) else { return Ok(None) };
        let queries =
            queries::from_section(&segment.section(QUERIES_SECTION)?, self.manifest.build.dim as usize);
        queries.map(Some).map_err(|error| StoreError::malformed(segment.place(QUERIES_FILE), error))
    }

    /// The section `name` of a version that has one segment: see [`Segment::section`].
    pub fn section(&self, name: &str) -> Result<Section, StoreError> {
        self.only_segment()?.section(name)
    }

    /// The row ids of a version that has one segment, by ordinal.
    pub fn ids(&self) -> Result<RowIds, StoreError> {
        self.only_segment()?.ids()
    }

    /// The attributes of a version that has one segment, by ordinal; `None` where the index keeps none.
    pub fn attributes(&self) -> Result<Option<RecordBatch>, StoreError> {
        self.only_segment()?.attributes()
    }

    /// The segment of a version that has one.
    pub fn only_segment(&self) -> Result<Segment<'_>, StoreError> {
        match self.manifest.segments.len() {
            1 => Ok(Segment { artifact: self, number: 0 }),
            segments => Err(StoreError::Unsupported {
                what: format!(
                    "reading version {} of index `{}` as one segment: it has {segments}",
                    self.version(),
                    self.index_name()
                ),
            }),
        }
    }

    pub(super) fn store(&self) -> &IndexStore {
        &self.store
    }

    pub(super) fn place(&self, object: &str) -> Place {
        self.store.place(Some(self.version()), object)
    }
}

impl<'a> Segment<'a> {
    pub fn reference(&self) -> &'a SegmentRef {
        let manifest = &self.artifact.manifest;
        manifest.folders().nth(self.number).expect("a folder of the manifest")
    }

    pub fn rows(&self) -> u64 {
        self.reference().rows
    }

    /// The names of the sections that the index is made of: without the checksums, the queries and their
    /// neighbours, and the partitions.
    pub fn section_names(&self) -> impl Iterator<Item = &'a str> {
        let stem =
            |file: &'a FileRef| file.name.strip_suffix(safetensors::SECTION_EXTENSION)?.strip_suffix('.');
        self.reference().files.iter().filter_map(stem).filter(|name| {
            ![CHECKSUMS_SECTION, QUERIES_SECTION, NEIGHBORS_SECTION, PARTITIONS_SECTION].contains(name)
        })
    }

    /// Reads the section's file whole, checks it, and takes it apart. Its tensors share the file's bytes.
    pub fn section(&self, name: &str) -> Result<Section, StoreError> {
        let file = section_file_name(name);
        let bytes = self.read(&file)?;
        safetensors::decode(name, bytes).map_err(|error| StoreError::malformed(self.place(&file), error))
    }

    pub fn ids(&self) -> Result<RowIds, StoreError> {
        let bytes = self.read(IDS_FILE)?;
        columns::decode_ids(bytes, self.rows())
            .map_err(|error| StoreError::malformed(self.place(IDS_FILE), error))
    }

    pub fn attributes(&self) -> Result<Option<RecordBatch>, StoreError> {
        if self.reference().file(ATTRIBUTES_FILE).is_none() {
            return Ok(None);
        }
        let bytes = self.read(ATTRIBUTES_FILE)?;
        let batch = columns::decode(bytes, self.rows());
        batch.map(Some).map_err(|error| StoreError::malformed(self.place(ATTRIBUTES_FILE), error))
    }

    /// Whose rows are whose; `None` where the index is not partitioned.
    pub fn partitions(&self) -> Result<Option<Partitions>, StoreError> {
        if self.reference().file(PARTITIONS_FILE).is_none() {
            return Ok(None);
        }
        let partitions = Partitions::from_section(&self.section(PARTITIONS_SECTION)?, self.rows());
        partitions.map(Some).map_err(|error| StoreError::malformed(self.place(PARTITIONS_FILE), error))
    }

    /// The nearest rows of the segment to the queries, `count` of them, that the index keeps; `None` where they are not known.
    pub fn neighbors(&self, queries: Digest, count: usize) -> Result<Option<Neighbors>, StoreError> {
        if self.reference().file(NEIGHBORS_FILE).is_none() {
            return Ok(None);
        }
        let section = self.section(NEIGHBORS_SECTION)?;
        neighbors::from_section(&section, queries, count, self.rows())
            .map_err(|error| StoreError::malformed(self.place(NEIGHBORS_FILE), error))
    }

    /// A whole file, checked.
    pub fn read(&self, file: &str) -> Result<Bytes, StoreError> {
        let stored = self.stored(file)?;
        match &self.artifact.maps {
            Some(maps) => maps.read(&stored.object, &stored.stored, stored.place),
            None => stored.read(self.objects()),
        }
    }

    /// How a file lies in the store.
    pub(super) fn stored(&self, name: &str) -> Result<StoredFile, StoreError> {
        let (reference, file) = (self.reference(), self.file(name)?);
        let Some(Opened { sealing, folders }) = self.artifact.opened() else {
            let object = segment_object(&reference.id, name);
            let (stored, size_bytes) = (file.clone(), file.size_bytes);
            let place = self.artifact.place(&object);
            return Ok(StoredFile { object, place, stored, size_bytes, cipher: None });
        };
        let folder = &folders[self.number];
        let place = reference.files.iter().position(|other| other.name == name);
        let stored = folder.files[place.expect("one of its files")].clone();
        let object = segment_object(&folder.id, &stored.name);
        let cipher = Some(Arc::new(sealing.key.of_file(&reference.id, file)));
        let place = self.artifact.place(&object);
        Ok(StoredFile { object, place, stored, size_bytes: file.size_bytes, cipher })
    }

    /// Ranges of a file, read at once and checked by the blocks that they lie in. Costs the read of the segment's
    /// checksums the first time.
    pub fn read_ranges(&self, file: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let size_bytes = self.file(file)?.size_bytes;
        let place = || self.place(file);
        for range in ranges {
            if range.start > range.end || range.end > size_bytes {
                let (start, end) = (range.start, range.end);
                return Err(StoreError::Range { place: place(), start, end, size_bytes });
            }
        }
        let checksums = self.checksums()?;
        let stored = self.stored(file)?;
        let runs = block_runs(ranges, size_bytes);
        let there: Vec<_> = runs.iter().map(|run| stored.stored_range(run)).collect();
        let read = self.objects().read_ranges(&stored.object, there.clone());
        let mut read = read.map_err(|error| self.range_error(error, &stored))?;
        for ((run, there), bytes) in runs.iter().zip(there).zip(&mut read) {
            if bytes.len() as u64 != there.end - there.start {
                return Err(stored.error(ReadError::Size { got: there.start + bytes.len() as u64 }));
            }
            let first = run.start / BLOCK_BYTES;
            *bytes = stored.opened(first, std::mem::take(bytes))?;
            checksums.check(file, first, bytes).map_err(|error| StoreError::of_checksums(place(), error))?;
        }
        let slice = |range: &Range<u64>| {
            if range.is_empty() {
                return Bytes::new();
            }
            let at = runs.partition_point(|run| run.end <= range.start);
            let offset = |position: u64| (position - runs[at].start) as usize;
            read[at].slice(offset(range.start)..offset(range.end))
        };
        Ok(ranges.iter().map(slice).collect())
    }

    /// The segment's checksums, read once.
    pub(super) fn checksums(&self) -> Result<&'a BlockChecksums, StoreError> {
        let kept = &self.artifact.checksums[self.number];
        if let Some(checksums) = kept.get() {
            return Ok(checksums);
        }
        let name = &self.reference().checksums;
        let section = safetensors::decode(CHECKSUMS_SECTION, self.read(name)?)
            .map_err(|error| StoreError::malformed(self.place(name), error))?;
        let others = self.reference().files.iter().filter(|file| file.name != *name);
        let checksums =
            BlockChecksums::from_section(&section, others.map(|file| (file.name.as_str(), file.size_bytes)))
                .map_err(|error| StoreError::malformed(self.place(name), error))?;
        Ok(kept.get_or_init(|| checksums))
    }

    fn file(&self, name: &str) -> Result<&'a FileRef, StoreError> {
        let what = || {
            format!(
                "file `{name}` of version {} of index `{}`",
                self.artifact.version(),
                self.artifact.index_name()
            )
        };
        self.reference().file(name).ok_or_else(|| StoreError::NotFound { what: what() })
    }

    /// A range that could not be read says little; the file's size says whether it was cut short.
    fn range_error(&self, error: ReadError, file: &StoredFile) -> StoreError {
        let error = match (&error, self.objects().size(&file.object)) {
            (ReadError::Io(_), Ok(Some(got))) if got != file.stored.size_bytes => ReadError::Size { got },
            _ => error,
        };
        file.error(error)
    }

    pub(super) fn objects(&self) -> &'a Objects {
        &self.artifact.store.objects
    }

    /// Of a file of the segment, or of one that it should have.
    pub(super) fn place(&self, file: &str) -> Place {
        match self.stored(file) {
            Ok(stored) => stored.place,
            Err(_) => self.artifact.place(&segment_object(&self.reference().id, file)),
        }
    }
}

/// The runs of whole blocks that the ranges lie in: ascending, apart from one another, the last one cut at the file's
/// end.
fn block_runs(ranges: &[Range<u64>], size_bytes: u64) -> Vec<Range<u64>> {
    let mut blocks: Vec<Range<u64>> = ranges
        .iter()
        .filter(|range| !range.is_empty())
        .map(|range| range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES))
        .collect();
    blocks.sort_unstable_by_key(|run| (run.start, run.end));
    let mut runs: Vec<Range<u64>> = Vec::with_capacity(blocks.len());
    for run in blocks {
        match runs.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => runs.push(run),
        }
    }
    runs.into_iter()
        .map(|run| run.start * BLOCK_BYTES..size_bytes.min(run.end.saturating_mul(BLOCK_BYTES)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = BLOCK_BYTES;

    #[test]
    fn ranges_become_ascending_runs_of_whole_blocks() {
        let cases = [
            (vec![], 10, vec![]),
            (vec![(3, 3)], 10, vec![]),
            (vec![(3, 4)], 10, vec![(0, 10)]),
            (vec![(B, B + 1), (0, 1)], 3 * B, vec![(0, 2 * B)]),
            (vec![(2 * B, 2 * B + 9), (1, 2), (5, 9)], 2 * B + 9, vec![(0, B), (2 * B, 2 * B + 9)]),
            (vec![(B - 1, B + 1)], 5 * B, vec![(0, 2 * B)]),
            (vec![(u64::MAX - 1, u64::MAX)], u64::MAX, vec![(u64::MAX - B + 1, u64::MAX)]),
        ];
        for (ranges, size_bytes, expected) in cases {
            let ranges: Vec<Range<u64>> = ranges.into_iter().map(|(start, end)| start..end).collect();
            let runs = block_runs(&ranges, size_bytes);
            let runs: Vec<(u64, u64)> = runs.into_iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(runs, expected);
        }
    }
}
