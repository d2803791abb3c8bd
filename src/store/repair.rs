use std::collections::BTreeSet;

use super::index::{manifest_object, segment_object};
use super::{IndexStore, StoreError};
use crate::artifact::StoredFolder;

impl IndexStore {
    /// Restores what is damaged or missing of a version, the latest if none is named, from a second copy of the index.
    /// Nothing is taken from there but bytes whose digest is what this version's manifest says. Returns the files that
    /// were restored, below the index's folder.
    ///
    /// A damaged manifest is itself restored first, if the copy has one of the same number that is sound and whose
    /// segments are those that lie here.
    ///
    /// # Errors
    /// A file that is damaged in the copy as well (the others are restored before), and what the stores say.
    pub fn repair_from(&self, copy: &IndexStore, version: Option<u64>) -> Result<Vec<String>, StoreError> {
        self.check_writable()?;
        let mut restored = Vec::new();
        let version = self.named_or_latest(version)?;
        let stored = match self.read_stored(version) {
            Ok(stored) => stored,
            Err(damage @ (StoreError::Malformed { .. } | StoreError::Damaged { .. })) => {
                self.restore_manifest(copy, version, damage)?;
                restored.push(manifest_object(version));
                self.read_stored(version)?
            }
            Err(error) => return Err(error),
        };
        let damaged = self.damaged_objects(version)?;
        let mut first_failure = None;
        for StoredFolder { id, files } in stored.folders() {
            for file in files {
                let object = segment_object(id, &file.name);
                if !damaged.contains(&object) {
                    continue;
                }
                let place = copy.place(Some(version), &object);
                match self.write_file_of(copy, id, file, place) {
                    Ok(()) => restored.push(object),
                    Err(error) => first_failure = first_failure.or(Some(error)),
                }
            }
        }
        first_failure.map_or(Ok(restored), Err)
    }

    fn restore_manifest(
        &self,
        copy: &IndexStore,
        version: u64,
        damage: StoreError,
    ) -> Result<(), StoreError> {
        let manifest = match copy.read_stored(version) {
            Ok(manifest) => copy.under_name(&manifest, &self.name)?,
            // Nothing to restore it from: what is wrong here is the news.
            Err(StoreError::NotFound { .. }) => return Err(damage),
            Err(error) => return Err(error),
        };
        for segment in manifest.folders() {
            if self.objects.list_below(&format!("seg/{}", segment.id))?.is_empty() {
                return Err(StoreError::Refused {
                    index: self.name.clone(),
                    what: format!(
                        "the copy's version {version} is of segment {}, of which nothing is here: is it a copy of this index?",
                        segment.id
                    ),
                });
            }
        }
        let object = manifest_object(version);
        let encoded = self.encode(&manifest)?;
        self.objects.write(&object, &encoded)?;
        self.read_stored(version).map(|_| ())
    }

    /// The objects of a version that are not as they were published; a store that fails to say so is an error. Needs no key.
    fn damaged_objects(&self, version: u64) -> Result<BTreeSet<String>, StoreError> {
        let mut damaged = BTreeSet::new();
        for damage in self.verify_stored(version, &mut |_| ())?.report.damage {
            match damage {
                StoreError::Damaged { place, .. }
                | StoreError::Malformed { place, .. }
                | StoreError::Missing { place } => damaged.insert(place.file),
                error => return Err(error),
            };
        }
        Ok(damaged)
    }
}
