//! In a build without the feature `encryption`: the names, of which there is no value.

use super::{Forged, KeyError};
use crate::artifact::{Digest, FileRef};

/// Hidden in what is made of it, so that code elsewhere is not told that it cannot be reached.
#[derive(Debug)]
enum Nothing {}

/// See the feature `encryption`.
#[derive(Debug)]
pub struct Key(Nothing);

/// See the feature `encryption`.
#[derive(Debug)]
pub struct FileCipher(Nothing);

impl Key {
    pub fn from_text(_: &str) -> Result<Self, KeyError> {
        Err(KeyError::Unsupported)
    }

    pub fn random_text() -> Result<String, KeyError> {
        Err(KeyError::Unsupported)
    }

    pub fn fingerprint(&self) -> &str {
        match self.0 {}
    }

    pub fn of_file(&self, _: &Digest, _: &FileRef) -> FileCipher {
        match self.0 {}
    }

    pub(in crate::artifact) fn seal_manifest(&self, _: &str, _: &[Digest], _: &[u8]) -> (Digest, String) {
        match self.0 {}
    }

    pub(in crate::artifact) fn open_manifest(
        &self,
        _: &str,
        _: &[Digest],
        _: &Digest,
        _: &str,
    ) -> Result<Vec<u8>, Forged> {
        match self.0 {}
    }
}

impl FileCipher {
    pub fn seal(&self, _: u64, _: &[u8]) -> Vec<u8> {
        match self.0 {}
    }

    pub fn open(&self, _: u64, _: Vec<u8>) -> Result<Vec<u8>, Forged> {
        match self.0 {}
    }
}
