use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::connection::Kind;
use super::index::{manifest_object, segment_object};
use super::objects::Listed;
use super::{IndexStore, StoreError};
use crate::artifact::{Digest, version_of_file_name};

/// What garbage collection leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// So many versions stay, the latest ones; at least one does.
    pub keep: usize,
    /// What is younger than this stays: versions, and segments that no version names, which a build under way may be about
    /// to. Longer than the longest build takes to publish.
    pub older_than: Duration,
    /// Say what would be removed, and remove nothing.
    pub dry_run: bool,
}

/// What garbage collection removed, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    pub kept_versions: Vec<u64>,
    pub removed_versions: Vec<u64>,
    pub removed_segments: Vec<RemovedSegment>,
    /// Segments that no version names and that are too young to be taken for garbage.
    pub young_segments: Vec<Digest>,
    /// Files that a killed writer left half written beside those of an index on local files.
    pub removed_leftovers: u64,
    /// Of manifests, segments and leftovers together.
    pub removed_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedSegment {
    pub id: Digest,
    pub files: u64,
    pub size_bytes: u64,
}

impl IndexStore {
    /// Removes versions that the policy does not keep, and segments that no version names any more, or never did.
    ///
    /// What a version names is there as long as its manifest is: manifests go first, and then it is looked once more
    /// which segments are named, by whoever has published meanwhile. Killed at any moment, it leaves garbage for the next
    /// time and nothing worse. Publishing may go on meanwhile.
    ///
    /// # Errors
    /// A version that is kept and cannot be read: what it names is not known, and nothing is removed.
    pub fn collect_garbage(&self, policy: &GcPolicy) -> Result<GcReport, StoreError> {
        self.check_writable()?;
        let now = self.now(policy.dry_run)?;
        let is_young = |listed: &Listed| match now.duration_since(listed.modified) {
            Ok(age) => age < policy.older_than,
            Err(_) => true,
        };
        let mut report = GcReport::default();
        let mut manifests = self.manifests()?;
        let dead = manifests.split_off(policy.keep.max(1).min(manifests.len()));
        let (kept, dead): (Vec<_>, Vec<_>) = dead.into_iter().partition(|(_, listed)| is_young(listed));
        report.kept_versions = manifests.iter().chain(&kept).map(|(version, _)| *version).collect();
        let mut named = self.named_by(&report.kept_versions)?;

        // The oldest first: what a killed collection leaves is a gapless row of the latest.
        for (version, listed) in dead.iter().rev() {
            if !policy.dry_run {
                self.objects.remove(&[manifest_object(*version)])?;
            }
            report.removed_versions.push(*version);
            report.removed_bytes += listed.size_bytes;
        }
        if !policy.dry_run {
            let now_there: Vec<u64> = self.manifests()?.into_iter().map(|(version, _)| version).collect();
            named.extend(self.named_by(&now_there)?);
        }
        self.collect_segments(&named, &is_young, policy, &mut report)?;
        if !policy.dry_run {
            self.check_removed(&report)?;
        }
        if let Some(folder) = self.objects.local_folder() {
            collect_leftovers(&folder, now, policy, &mut report);
        }
        Ok(report)
    }

    fn collect_segments(
        &self,
        named: &HashSet<Digest>,
        is_young: &dyn Fn(&Listed) -> bool,
        policy: &GcPolicy,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let mut segments: BTreeMap<String, Digest> = BTreeMap::new();
        for listed in self.objects.list_below("seg")? {
            // What is not called as a segment is none of ours.
            let folder = listed.name.split('/').next().unwrap_or_default();
            if let Some(id) = Digest::from_hex(folder) {
                segments.insert(folder.into(), id);
            }
        }
        segments.retain(|_, id| !named.contains(id));
        for (folder, id) in segments {
            // Once more, and at once: a publisher that found the segment's files old has just written them again.
            let folder = format!("seg/{folder}");
            let files = self.objects.list_below(&folder)?;
            if files.iter().any(is_young) {
                report.young_segments.push(id);
                continue;
            }
            let size_bytes = files.iter().map(|file| file.size_bytes).sum();
            if !policy.dry_run {
                let objects: Vec<String> =
                    files.iter().map(|file| format!("{folder}/{}", file.name)).collect();
                self.objects.remove(&objects)?;
            }
            report.removed_bytes += size_bytes;
            report.removed_segments.push(RemovedSegment { id, files: files.len() as u64, size_bytes });
        }
        Ok(())
    }

    /// A segment is listed and then removed, and a publisher may begin and end in between, if this process stood still. It
    /// looks for its files when it has published; this is the other side's look.
    fn check_removed(&self, report: &GcReport) -> Result<(), StoreError> {
        let removed: HashSet<Digest> = report.removed_segments.iter().map(|segment| segment.id).collect();
        if removed.is_empty() {
            return Ok(());
        }
        for (version, _) in self.manifests()? {
            for segment in self.read_stored(version)?.folders() {
                let files = segment.files.iter().filter(|_| removed.contains(segment.id));
                for file in files {
                    if self.objects.size(&segment_object(segment.id, &file.name))?.is_none() {
                        let what = format!(
                            "version {version} was published while segment {} was being removed: publish it again",
                            segment.id
                        );
                        return Err(StoreError::Refused { index: self.name.clone(), what });
                    }
                }
            }
        }
        Ok(())
    }

    /// The versions' manifests as the store lists them, the latest first.
    fn manifests(&self) -> Result<Vec<(u64, Listed)>, StoreError> {
        let listed = self.objects.list_below("v")?.into_iter();
        let mut manifests: Vec<(u64, Listed)> =
            listed.filter_map(|listed| Some((version_of_file_name(&listed.name)?, listed))).collect();
        manifests.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
        Ok(manifests)
    }

    /// The segments, and folders of tombstones, that versions name.
    fn named_by(&self, versions: &[u64]) -> Result<HashSet<Digest>, StoreError> {
        let mut named = HashSet::new();
        for version in versions {
            named.extend(self.read_stored(*version)?.folders().iter().map(|segment| *segment.id));
        }
        Ok(named)
    }

    /// The time by the clock that the objects' ages are measured with: the store's, found by writing the probe's object.
    fn now(&self, dry_run: bool) -> Result<SystemTime, StoreError> {
        let here = SystemTime::now();
        if dry_run || matches!(self.objects.kind(), Kind::Files | Kind::Memory) {
            return Ok(here);
        }
        // Its time is cut to seconds by some stores: things look younger by that, not older.
        Ok(self.touch_probe()?.min(here))
    }
}

/// Local files are written under another name, which no listing shows, and renamed or linked when they are whole: below
/// an index's folder, removes what was killed before that, and segments' folders that are empty.
fn collect_leftovers(index: &Path, now: SystemTime, policy: &GcPolicy, report: &mut GcReport) {
    let is_old = |metadata: &Metadata| {
        let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        age.is_some_and(|age| age >= policy.older_than)
    };
    let is_segment = |folder: &PathBuf| {
        folder.is_dir() && folder.file_name().and_then(|name| Digest::from_hex(name.to_str()?)).is_some()
    };
    // A folder that is not there, or not ours to read, has nothing in it.
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let segments: Vec<PathBuf> =
        entries(&index.join("seg")).map(|entry| entry.path()).filter(is_segment).collect();
    for folder in [index.join("v")].iter().chain(&segments) {
        for entry in entries(folder) {
            let Ok(metadata) = entry.metadata() else { continue };
            let is_garbage = metadata.is_file()
                && entry.file_name().to_str().is_some_and(is_leftover)
                && is_old(&metadata);
            // One that is gone by now, its writer has finished, or another collection was faster.
            if is_garbage && (policy.dry_run || std::fs::remove_file(entry.path()).is_ok()) {
                report.removed_leftovers += 1;
                report.removed_bytes += metadata.len();
            }
        }
    }
    if !policy.dry_run {
        for folder in segments {
            // Refuses where there is a file.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Whether a file's name is one that object_store gives to a file until it is whole: its name, `#` and a number.
fn is_leftover(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(stem, number)| {
        !stem.is_empty() && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_writer_leaves_is_a_leftover() {
        assert!(is_leftover("graph.safetensors#1") && is_leftover("0001.json#12"));
        for name in ["graph.safetensors", "#1", "a#", "a#1x", "a#1.json"] {
            assert!(!is_leftover(name), "{name}");
        }
    }
}
