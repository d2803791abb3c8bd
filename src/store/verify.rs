use super::artifact::{Artifact, Segment};
use super::index::segment_object;
use super::objects::check_digest;
use super::{Place, StoreError};
use crate::artifact::FileRef;
use crate::artifact::checksums::{BLOCK_BYTES, BlockChecksums};

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress<'a> {
    /// The file being read.
    pub file: &'a str,
    pub bytes_done: u64,
    pub bytes: u64,
}

/// What a verification found.
#[derive(Debug)]
pub struct VerifyReport {
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The first thing wrong with each file that is not as it was published; empty for an artifact that is sound.
    pub damage: Vec<StoreError>,
}

impl VerifyReport {
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Artifact {
    /// Reads every byte of every file again, a few megabytes at a time, and compares whole files and blocks with what
    /// the manifest says of them. (The manifest was compared with its own digest when the artifact was opened.)
    pub fn verify(&self, progress: &mut dyn FnMut(&VerifyProgress<'_>)) -> VerifyReport {
        let all = || self.folders().flat_map(|segment| segment.reference().files.iter());
        let mut report = VerifyReport { files: 0, bytes: 0, damage: Vec::new() };
        let bytes = all().map(|file| file.size_bytes).fold(0, u64::saturating_add);
        for segment in self.folders() {
            let checksums = segment.checksums();
            for file in &segment.reference().files {
                let done = report.bytes;
                let mut on_read = |read: u64| {
                    report.bytes = done + read;
                    progress(&VerifyProgress { file: &file.name, bytes_done: report.bytes, bytes });
                };
                let found = self.verify_file(segment, file, checksums.as_ref().ok().copied(), &mut on_read);
                report.files += 1;
                report.damage.extend(found.err());
            }
            // Checksums that cannot be read because their file is damaged are in the report already.
            if let Err(error @ StoreError::Malformed { .. }) = checksums {
                report.damage.push(error);
            }
        }
        report
    }

    fn verify_file(
        &self,
        segment: Segment<'_>,
        file: &FileRef,
        checksums: Option<&BlockChecksums>,
        on_read: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let object = segment_object(&segment.reference().id, &file.name);
        let place: Place = self.place(&object);
        // The checksums have none of themselves.
        let checksums = checksums.filter(|_| file.name != segment.reference().checksums);
        let mut hasher = blake3::Hasher::new();
        let mut read = 0;
        for chunk in self.store().objects.chunks(&object, file.size_bytes) {
            let chunk = chunk.map_err(|error| error.of(place.clone(), file.size_bytes))?;
            // Chunks are whole blocks, but for the file's end.
            let first = read / BLOCK_BYTES;
            let blocks = || checksums.map_or(Ok(()), |checksums| checksums.check(&file.name, first, &chunk));
            let whole = || {
                hasher.update(&chunk);
            };
            let (of_blocks, ()) = rayon::join(blocks, whole);
            of_blocks.map_err(|error| StoreError::of_checksums(place.clone(), error))?;
            read += chunk.len() as u64;
            on_read(read);
        }
        check_digest(&hasher, file, place)
    }
}
