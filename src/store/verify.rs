use super::artifact::{Artifact, Segment};
use super::contents::StoredFile;
use super::index::segment_object;
use super::{IndexStore, KeyFault, StoreError};
use crate::artifact::checksums::BlockChecksums;
use crate::artifact::{FetchStats, FileRef, Manifest, StoredManifest};

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

/// A version that was verified, with or without its key.
#[derive(Debug)]
pub struct Verified {
    pub stored: StoredManifest,
    /// `None` of an encrypted version without its key: then it was found out that each file is, byte by byte, what was
    /// published, and not that the key opens it.
    pub manifest: Option<Manifest>,
    pub report: VerifyReport,
}

impl IndexStore {
    /// Verifies a version, as [`Artifact::verify`] where it can be opened, else by its files' sizes and hashes.
    ///
    /// # Errors
    /// A manifest that cannot be read; a key that is another, or cannot be had where one was named.
    pub fn verify(
        &self,
        version: Option<u64>,
        progress: &mut dyn FnMut(&VerifyProgress<'_>),
    ) -> Result<Verified, StoreError> {
        let version = self.named_or_latest(version)?;
        let stored = self.read_stored(version)?;
        match self.open_manifest(&stored) {
            Ok((manifest, opened)) => {
                let artifact = Artifact::new(self.clone(), manifest.clone(), opened, FetchStats::default());
                let report = artifact.verify(progress);
                Ok(Verified { stored, manifest: Some(manifest), report })
            }
            Err(StoreError::Key { fault: KeyFault::Absent { .. }, .. }) => {
                self.verify_stored(version, progress)
            }
            Err(error) => Err(error),
        }
    }

    /// Verifies without asking for a key.
    pub(super) fn verify_stored(
        &self,
        version: u64,
        progress: &mut dyn FnMut(&VerifyProgress<'_>),
    ) -> Result<Verified, StoreError> {
        let stored = self.read_stored(version)?;
        if let StoredManifest::Clear(manifest) = &stored {
            let manifest = Manifest::clone(manifest);
            let artifact = Artifact::new(self.clone(), manifest.clone(), None, FetchStats::default());
            let report = artifact.verify(progress);
            return Ok(Verified { stored, manifest: Some(manifest), report });
        }
        let mut files = Vec::new();
        for folder in stored.folders() {
            for file in folder.files {
                let object = segment_object(folder.id, &file.name);
                let place = self.place(Some(version), &object);
                let size_bytes = file.size_bytes;
                files.push(StoredFile { object, place, stored: file.clone(), size_bytes, cipher: None });
            }
        }
        let mut tally = Tally::of(&files, progress);
        for file in &files {
            tally.verify(self, file, None);
        }
        Ok(Verified { manifest: None, report: tally.report, stored })
    }
}

impl Artifact {
    /// Reads every byte of every file again, a few megabytes at a time, and compares whole files and blocks with what
    /// the manifest says of them; decrypts them where they are encrypted. (The manifest was compared with its own digest when
    /// the artifact was opened.)
    pub fn verify(&self, progress: &mut dyn FnMut(&VerifyProgress<'_>)) -> VerifyReport {
        let stored = |segment: Segment<'_>| {
            let names = segment.reference().files.iter().map(|file| &file.name);
            names.map(|name| segment.stored(name).expect("a file of the segment")).collect::<Vec<_>>()
        };
        let all: Vec<Vec<StoredFile>> = self.folders().map(stored).collect();
        let mut tally = Tally::of(all.iter().flatten(), progress);
        for (segment, files) in self.folders().zip(&all) {
            let checksums = segment.checksums();
            for (file, reference) in files.iter().zip(&segment.reference().files) {
                // The checksums have none of themselves.
                let own = checksums.as_ref().ok().filter(|_| reference.name != segment.reference().checksums);
                tally.verify(self.store(), file, own.map(|checksums| (*checksums, reference)));
            }
            // Checksums that cannot be read because their file is damaged are in the report already.
            if let Err(error @ StoreError::Malformed { .. }) = checksums {
                tally.report.damage.push(error);
            }
        }
        tally.report
    }
}

/// What has been verified so far.
struct Tally<'p> {
    report: VerifyReport,
    bytes: u64,
    progress: &'p mut dyn FnMut(&VerifyProgress<'_>),
}

impl<'p> Tally<'p> {
    fn of<'a>(
        files: impl IntoIterator<Item = &'a StoredFile>,
        progress: &'p mut dyn FnMut(&VerifyProgress<'_>),
    ) -> Self {
        let bytes = files.into_iter().map(|file| file.stored.size_bytes).fold(0, u64::saturating_add);
        Self { report: VerifyReport { files: 0, bytes: 0, damage: Vec::new() }, bytes, progress }
    }

    fn verify(
        &mut self,
        store: &IndexStore,
        file: &StoredFile,
        checksums: Option<(&BlockChecksums, &FileRef)>,
    ) {
        let found = self.verify_file(store, file, checksums);
        self.report.files += 1;
        self.report.damage.extend(found.err());
    }

    fn verify_file(
        &mut self,
        store: &IndexStore,
        file: &StoredFile,
        checksums: Option<(&BlockChecksums, &FileRef)>,
    ) -> Result<(), StoreError> {
        let done = self.report.bytes;
        let check = |first: u64, blocks: &[u8]| match checksums {
            Some((checksums, reference)) => {
                let checked = checksums.check(&reference.name, first, blocks);
                checked.map_err(|error| StoreError::of_checksums(file.place.clone(), error))
            }
            None => Ok(()),
        };
        let mut chunks = file.chunks(&store.objects);
        while let Some(chunk) = chunks.next_checked(check) {
            chunk?;
            self.report.bytes = done + chunks.read();
            let (bytes_done, bytes) = (self.report.bytes, self.bytes);
            (self.progress)(&VerifyProgress { file: &file.stored.name, bytes_done, bytes });
        }
        Ok(())
    }
}
