//! In a build without the feature `encryption`: the names, of which there is no value.

use super::{Forged, KeyError};
use crate::artifact::{Digest, FileRef};

/// See the feature `encryption`.
#[derive(Debug)]
pub enum Key {}

/// See the feature `encryption`.
#[derive(Debug)]
pub enum FileCipher {}

impl Key {
    pub fn from_text(_: &str) -> Result<Self, KeyError> {
        Err(KeyError::Unsupported)
    }

    pub fn random_text() -> Result<String, KeyError> {
        Err(KeyError::Unsupported)
    }

    pub fn fingerprint(&self) -> &str {
        match *self {}
    }

    pub fn of_file(&self, _: &Digest, _: &FileRef) -> FileCipher {
        match *self {}
    }

    pub(in crate::artifact) fn seal_manifest(&self, _: &str, _: &[Digest], _: &[u8]) -> (Digest, String) {
        match *self {}
    }

    pub(in crate::artifact) fn open_manifest(
        &self,
        _: &str,
        _: &[Digest],
        _: &Digest,
        _: &str,
    ) -> Result<Vec<u8>, Forged> {
        match *self {}
    }
}

impl FileCipher {
    pub fn seal(&self, _: u64, _: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub fn open(&self, _: u64, _: Vec<u8>) -> Result<Vec<u8>, Forged> {
        match *self {}
    }
}
