//! A version's manifest as it lies in the store: in the clear, or with all but what a store's keeper needs encrypted.
//!
//! What anyone may read of an encrypted version: which index and version it is, when it was published, which key opens it, and
//! which files lie where, with sizes and hashes as they lie there. So copying, verifying, restoring and collecting need no key.
//! The rest (job, columns, inputs, measurements, what the files are called and were before) is one encrypted string.

use serde::{Deserialize, Serialize};

use super::encryption::{ALGORITHM, Key, sealed_size};
use super::manifest::{
    MANIFEST_FORMAT_WITH_REQUIREMENTS, Manifest, ManifestError, check_files, content, json_error, seal,
    unseal,
};
use super::names::check_index_name;
use super::{Digest, FileRef, SegmentRef, segment_id};

/// In [`SealedManifest::requires`].
pub const ENCRYPTION: &str = "encryption";
/// What an encrypted version may ask of this code. (What else it requires, its private part says.)
#[cfg(feature = "encryption")]
const KNOWN: &[&str] = &[ENCRYPTION];
#[cfg(not(feature = "encryption"))]
const KNOWN: &[&str] = &[];

/// Fields of [`Head`], which a manifest has among its own.
const HEAD: [&str; 6] =
    ["index_name", "version", "created_unix_ms", "publish_id", "rolled_back_from", "restores"];

/// Where a version stands: what changes where its contents do not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub index_name: String,
    pub version: u64,
    pub created_unix_ms: u64,
    pub publish_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
}

/// A folder under `seg/`, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// [`segment_id`] of the files.
    pub id: Digest,
    /// Ascending by name.
    pub files: Vec<FileRef>,
}

/// Which key, and what only it opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encrypted {
    /// [`ALGORITHM`].
    pub algorithm: String,
    /// What its owner calls the key.
    pub key_id: String,
    /// [`Key::fingerprint`].
    pub fingerprint: String,
    /// Of the private part.
    pub salt: Digest,
    /// In base64.
    pub private: String,
}

/// The manifest of an encrypted version, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedManifest {
    pub format_version: String,
    pub requires: Vec<String>,
    #[serde(flatten)]
    pub head: Head,
    pub encryption: Encrypted,
    /// Those of the segments, then that of the tombstones.
    pub folders: Vec<Folder>,
}

/// A version's manifest as it lies in the store.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredManifest {
    Clear(Box<Manifest>),
    Sealed(Box<SealedManifest>),
}

/// A folder as the store has it, of either kind of manifest.
#[derive(Debug, Clone, Copy)]
pub struct StoredFolder<'a> {
    pub id: &'a Digest,
    pub files: &'a [FileRef],
}

impl StoredManifest {
    /// The manifest of `index_name`'s version `version` from its file's bytes, checked against both.
    ///
    /// # Errors
    /// As [`Manifest::decode`].
    pub fn decode(file: &[u8], index_name: &str, version: u64) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Asks {
            format_version: String,
            #[serde(default)]
            requires: Vec<String>,
        }
        let json = unseal(file)?;
        // What says neither is for the other to complain of.
        let asks = serde_json::from_slice::<Asks>(json).ok();
        let asks = asks.filter(|asks| asks.requires.iter().any(|name| KNOWN.contains(&name.as_str())));
        let Some(Asks { format_version, requires }) = asks else {
            return Ok(Self::Clear(Box::new(Manifest::decode(file, index_name, version)?)));
        };
        check_format(&format_version, &requires)?;
        let sealed: SealedManifest = serde_json::from_slice(json).map_err(json_error)?;
        sealed.check(index_name, version)?;
        Ok(Self::Sealed(Box::new(sealed)))
    }

    /// The manifest's file.
    ///
    /// # Errors
    /// As [`Manifest::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        match self {
            Self::Clear(manifest) => manifest.encode(),
            Self::Sealed(sealed) => {
                sealed.check(&sealed.head.index_name, sealed.head.version)?;
                Ok(seal(&serde_json::to_vec_pretty(sealed).map_err(json_error)?))
            }
        }
    }

    pub fn head(&self) -> Head {
        match self {
            Self::Sealed(sealed) => sealed.head.clone(),
            Self::Clear(manifest) => Head {
                index_name: manifest.index_name.clone(),
                version: manifest.version,
                created_unix_ms: manifest.created_unix_ms,
                publish_id: manifest.publish_id.clone(),
                rolled_back_from: manifest.rolled_back_from,
                restores: manifest.restores,
            },
        }
    }

    /// The same contents elsewhere. An encrypted version's keep their index's name.
    pub fn set_head(&mut self, head: Head) {
        match self {
            Self::Sealed(sealed) => sealed.head = head,
            Self::Clear(manifest) => put_head(manifest, head),
        }
    }

    pub fn version(&self) -> u64 {
        match self {
            Self::Clear(manifest) => manifest.version,
            Self::Sealed(sealed) => sealed.head.version,
        }
    }

    /// Everything under `seg/` that the version names.
    pub fn folders(&self) -> Vec<StoredFolder<'_>> {
        match self {
            Self::Clear(manifest) => {
                manifest.folders().map(|SegmentRef { id, files, .. }| StoredFolder { id, files }).collect()
            }
            Self::Sealed(sealed) => {
                sealed.folders.iter().map(|Folder { id, files }| StoredFolder { id, files }).collect()
            }
        }
    }

    pub fn sealed(&self) -> Option<&SealedManifest> {
        match self {
            Self::Clear(_) => None,
            Self::Sealed(sealed) => Some(sealed),
        }
    }
}

fn put_head(manifest: &mut Manifest, head: Head) {
    let Head { index_name, version, created_unix_ms, publish_id, rolled_back_from, restores } = head;
    (manifest.index_name, manifest.version) = (index_name, version);
    (manifest.created_unix_ms, manifest.publish_id) = (created_unix_ms, publish_id);
    (manifest.rolled_back_from, manifest.restores) = (rolled_back_from, restores);
}

impl SealedManifest {
    /// `folders` are those of the manifest, as the store has them; `key_id` is what the key's owner calls it.
    ///
    /// # Errors
    /// A manifest that could not be read back.
    pub fn seal(
        manifest: &Manifest,
        folders: Vec<Folder>,
        key: &Key,
        key_id: &str,
    ) -> Result<Self, ManifestError> {
        // What cannot be read back is not written.
        manifest.encode()?;
        let head = StoredManifest::Clear(Box::new(manifest.clone())).head();
        let mut private = serde_json::to_value(manifest).map_err(json_error)?;
        let fields = private.as_object_mut().expect("a manifest is an object");
        fields.retain(|name, _| !HEAD.contains(&name.as_str()));
        let private = serde_json::to_vec(&private).map_err(json_error)?;
        let ids: Vec<Digest> = folders.iter().map(|folder| folder.id).collect();
        let (salt, private) = key.seal_manifest(&head.index_name, &ids, &private);
        let encryption = Encrypted {
            algorithm: ALGORITHM.into(),
            key_id: key_id.into(),
            fingerprint: key.fingerprint().into(),
            salt,
            private,
        };
        let format_version = MANIFEST_FORMAT_WITH_REQUIREMENTS.into();
        Ok(Self { format_version, requires: vec![ENCRYPTION.into()], head, encryption, folders })
    }

    /// The whole manifest. `key` is that of the fingerprint.
    ///
    /// # Errors
    /// A private part that was not encrypted with this key for this index and these files, or that does not fit them.
    pub fn open(&self, key: &Key) -> Result<Manifest, ManifestError> {
        let Encrypted { salt, private, .. } = &self.encryption;
        let ids: Vec<Digest> = self.folders.iter().map(|folder| folder.id).collect();
        let private = key
            .open_manifest(&self.head.index_name, &ids, salt, private)
            .map_err(|_| ManifestError::Private { index: self.head.index_name.clone() })?;
        let mut whole: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&private).map_err(json_error)?;
        match serde_json::to_value(&self.head).map_err(json_error)? {
            serde_json::Value::Object(head) => whole.extend(head),
            _ => unreachable!("a head is an object"),
        }
        let manifest = Manifest::decode_json(&serde_json::to_vec(&whole).map_err(json_error)?)?;
        self.check_folders(&manifest)?;
        Ok(manifest)
    }

    /// That each file has one that is its own, encrypted.
    fn check_folders(&self, manifest: &Manifest) -> Result<(), ManifestError> {
        let sizes = |files: &[FileRef]| files.iter().map(|file| file.size_bytes).collect::<Vec<_>>();
        let expected = manifest
            .folders()
            .map(|segment| segment.files.iter().map(|file| sealed_size(file.size_bytes)).collect::<Vec<_>>());
        let expected: Vec<_> = expected.collect();
        let got: Vec<_> = self.folders.iter().map(|folder| sizes(&folder.files)).collect();
        if expected == got {
            return Ok(());
        }
        let told = |sizes: &[Vec<u64>]| format!("{} with files of {sizes:?} bytes", sizes.len());
        Err(content("folders".into(), told(&expected), told(&got)))
    }

    fn check(&self, index_name: &str, version: u64) -> Result<(), ManifestError> {
        check_format(&self.format_version, &self.requires)?;
        if self.encryption.algorithm != ALGORITHM {
            let got = format!("`{}`", self.encryption.algorithm);
            return Err(content("encryption.algorithm".into(), format!("`{ALGORITHM}`"), got));
        }
        check_index_name(&self.head.index_name)?;
        if self.head.index_name != index_name {
            return Err(content("index_name".into(), index_name, &self.head.index_name));
        }
        if self.head.version != version || version == 0 {
            return Err(content("version".into(), version.max(1), self.head.version));
        }
        if self.folders.is_empty() {
            return Err(content("folders".into(), "at least one", "none"));
        }
        for Folder { id, files } in &self.folders {
            check_files(id, files)?;
            let expected = segment_id(files);
            if expected != *id {
                return Err(content("folder id".into(), expected, id));
            }
        }
        Ok(())
    }
}

/// First of all, since a format that is not known may have changed anything else.
fn check_format(format_version: &str, requires: &[String]) -> Result<(), ManifestError> {
    let major = |format: &str| format.split('.').next().map(str::to_string);
    if major(format_version) != major(MANIFEST_FORMAT_WITH_REQUIREMENTS) {
        let (supported, got) = (MANIFEST_FORMAT_WITH_REQUIREMENTS.into(), format_version.into());
        return Err(ManifestError::Format { supported, got });
    }
    match requires.iter().find(|name| !KNOWN.contains(&name.as_str())) {
        Some(got) => Err(ManifestError::Requires { known: KNOWN.join(", "), got: got.clone() }),
        None => Ok(()),
    }
}

/// What the file of that place among a segment's is called in the store: nothing of what it is.
pub fn sealed_file_name(place: usize) -> String {
    format!("{place:03}.sealed")
}
