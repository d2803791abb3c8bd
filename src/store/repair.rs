use std::collections::BTreeSet;

use super::artifact::Artifact;
use super::index::{manifest_object, segment_object};
use super::{IndexStore, StoreError};
use crate::artifact::{Digest, FileRef, Manifest};

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
        let version = match version {
            Some(version) => version,
            None => self.latest()?.ok_or_else(|| StoreError::NotFound {
                what: format!("a published version of index `{}`", self.name),
            })?,
        };
        let artifact = match self.artifact(Some(version)) {
            Ok(artifact) => artifact,
            Err(damage @ (StoreError::Malformed { .. } | StoreError::Damaged { .. })) => {
                self.restore_manifest(copy, version, damage)?;
                restored.push(manifest_object(version));
                self.artifact(Some(version))?
            }
            Err(error) => return Err(error),
        };
        let mut first_failure = None;
        for (segment, file) in damaged_files(&artifact)? {
            let object = segment_object(&segment, &file.name);
            let place = copy.place(Some(version), &object);
            match self.write_file_of(copy, &segment, file, place) {
                Ok(()) => restored.push(object),
                Err(error) => first_failure = first_failure.or(Some(error)),
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
        let manifest = match copy.read_manifest(version) {
            Ok(manifest) => Manifest { index_name: self.name.clone(), ..manifest },
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
        self.read_manifest(version).map(|_| ())
    }
}

/// The files of an artifact that are not as they were published; a store that fails to say so is an error.
fn damaged_files(artifact: &Artifact) -> Result<Vec<(Digest, &FileRef)>, StoreError> {
    let mut damaged = BTreeSet::new();
    for damage in artifact.verify(&mut |_| ()).damage {
        match damage {
            StoreError::Damaged { place, .. }
            | StoreError::Malformed { place, .. }
            | StoreError::Missing { place } => damaged.insert(place.file),
            error => return Err(error),
        };
    }
    let files =
        artifact.manifest().folders().flat_map(|segment| segment.files.iter().map(|file| (segment.id, file)));
    Ok(files.filter(|(segment, file)| damaged.contains(&segment_object(segment, &file.name))).collect())
}
