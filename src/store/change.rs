//! A version made of the one before it: its segments, some of them new, and tombstones.

use bytes::Bytes;

use super::index::Opened;
use super::publish::{Published, StagedSegment, random_id, unix_ms};
use super::{IndexStore, StoreError};
use crate::artifact::tombstones::Tombstones;
use crate::artifact::{Change, Folder, Manifest, ManifestDraft, SegmentRef, safetensors};

/// What a changed version consists of.
#[derive(Debug, Clone)]
pub struct NextVersion {
    /// Those of the version before that stay, …
    pub kept: Vec<SegmentRef>,
    /// … and, behind them, new ones.
    pub new: Vec<StagedSegment>,
    /// Of all these segments.
    pub tombstones: Tombstones,
    pub change: Change,
    pub build: ManifestDraft,
}

impl IndexStore {
    /// A segment of `rows` rows, given as its files' names and bytes, for [`publish_after`](Self::publish_after). Writes nothing.
    /// It will be encrypted as the latest version is.
    pub fn stage_segment(&self, rows: u64, files: Vec<(String, Bytes)>) -> Result<StagedSegment, StoreError> {
        let opened = self.latest()?.map(|latest| self.open_manifest(&self.read_stored(latest)?));
        let opened = opened.transpose()?.and_then(|(_, opened)| opened);
        self.stage(rows, files, opened.as_ref().map(|opened| &opened.sealing))
    }

    /// Publishes a version as the one after `next.change.from`; `None` where another publisher had that number first: then
    /// nothing was published, what was written is found again by the next attempt, and what the version was made of must be
    /// looked at again. Otherwise as [`publish`](Self::publish).
    pub fn publish_after(&self, next: &NextVersion) -> Result<Option<Published>, StoreError> {
        self.check_writable()?;
        let from = next.change.from;
        let version = from.checked_add(1).ok_or_else(|| StoreError::Refused {
            index: self.name.clone(),
            what: format!("there is no version after {from}"),
        })?;
        let (before, opened) = self.open_manifest(&self.read_stored(from)?)?;
        let sealing = opened.as_ref().map(|opened| &opened.sealing);
        let fingerprint = sealing.map(|sealing| sealing.key.fingerprint());
        let is_sealed_so = |staged: &StagedSegment| {
            staged.sealed.as_ref().map(|sealed| sealed.fingerprint.as_str()) == fingerprint
        };
        if !next.new.iter().all(is_sealed_so) {
            // They were staged beside a version that was encrypted otherwise.
            return Ok(None);
        }
        let tombstones = match next.tombstones.count() {
            0 => None,
            count => {
                let section = safetensors::encode(&next.tombstones.to_section());
                Some(self.stage(count, vec![(section.file_name, section.bytes)], sealing)?)
            }
        };
        let segments = next.kept.iter().cloned().chain(next.new.iter().map(|new| new.reference.clone()));
        let manifest = Manifest {
            format_version: String::new(),
            index_name: self.name.clone(),
            version,
            created_unix_ms: unix_ms(),
            publish_id: random_id(),
            rolled_back_from: None,
            restores: None,
            requires: Vec::new(),
            segments: segments.collect(),
            tombstones: tombstones.as_ref().map(|staged| staged.reference.clone()),
            change: Some(next.change.clone()),
            build: next.build.clone(),
        }
        .with_its_format();
        let staged = || next.new.iter().chain(&tombstones);
        let mut folders = self.kept_folders(next, &before, opened.as_ref())?;
        folders.extend(staged().map(StagedSegment::folder));
        let encoded = self.encode(&self.stored(&manifest, folders, sealing)?)?;
        if self.latest()? != Some(from) {
            return Ok(None);
        }
        let mut bytes_written = 0;
        for staged in staged() {
            bytes_written += self.write(staged)?;
        }
        if !self.create_manifest(version, &encoded)? {
            return Ok(None);
        }
        for staged in staged() {
            bytes_written += self.write_if_gone(staged)?;
        }
        Ok(Some(Published { version, manifest, bytes_written }))
    }

    /// The segments that stay, as they lie in the store.
    fn kept_folders(
        &self,
        next: &NextVersion,
        before: &Manifest,
        opened: Option<&Opened>,
    ) -> Result<Vec<Folder>, StoreError> {
        let folder = |kept: &SegmentRef| {
            let Some(opened) = opened else { return Ok(Folder { id: kept.id, files: kept.files.clone() }) };
            let place = before.segments.iter().position(|segment| segment.id == kept.id);
            place.map(|place| opened.folders[place].clone()).ok_or_else(|| StoreError::Refused {
                index: self.name.clone(),
                what: format!("version {} has no segment {}", before.version, kept.id),
            })
        };
        next.kept.iter().map(folder).collect()
    }
}
