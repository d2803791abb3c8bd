//! Checksums of a segment's files by block, so that a range can be checked without reading the rest of its file.
//!
//! A block is 64 KiB: small against what a range request costs anyway (one round trip to an object store takes as long as
//! a megabyte of transfer), and large enough that the checksums are 1/4096 of the data. A checksum is BLAKE3 cut to
//! 16 bytes. Not CRC-32: its 32 bits miss one damaged block in four billion, and it is no barrier to anyone who means
//! harm, where 128 bits of BLAKE3 leave no chance of either and cost no more than reading from memory does.
//!
//! They are a section of their own, `checksums`: one tensor `u8[blocks, 16]` for each file. The manifest has its
//! BLAKE3, so they are as trustworthy as the manifest is.

use std::collections::BTreeMap;

use super::tensor::{Array, Section, TensorError};

pub const BLOCK_BYTES: u64 = 64 * 1024;
pub const CHECKSUM_BYTES: usize = 16;
pub const CHECKSUMS_SECTION: &str = "checksums";
pub const CHECKSUMS_FILE: &str = "checksums.safetensors";

const ALGORITHM: &str = "blake3-128";

pub type Checksum = [u8; CHECKSUM_BYTES];

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ChecksumError {
    #[error("no checksums for `{file}`")]
    Missing { file: String },
    #[error("`{file}`: expected checksums of {expected} blocks, got {got}")]
    Blocks { file: String, expected: u64, got: u64 },
    #[error("`{file}`, block {block}: expected checksum {expected}, got {got}")]
    Block { file: String, block: u64, expected: String, got: String },
    #[error("checksums: {key}: expected {expected}, got {got}")]
    Scheme { key: &'static str, expected: String, got: String },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

pub fn block_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES)
}

pub fn block_checksum(block: &[u8]) -> Checksum {
    let mut checksum = Checksum::default();
    checksum.copy_from_slice(&blake3::hash(block).as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

/// The block checksums of one segment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockChecksums {
    files: BTreeMap<String, Vec<Checksum>>,
}

impl BlockChecksums {
    /// Adds a file's.
    pub fn insert(&mut self, file: &str, bytes: &[u8]) {
        let checksums = bytes.chunks(BLOCK_BYTES as usize).map(block_checksum).collect();
        self.files.insert(file.into(), checksums);
    }

    pub fn to_section(&self) -> Section {
        let mut section = Section::new(CHECKSUMS_SECTION)
            .with_metadata("block_bytes", BLOCK_BYTES)
            .with_metadata("algorithm", ALGORITHM);
        for (file, checksums) in &self.files {
            let bytes = Array::from_vec(checksums.concat());
            section = section.with(file, &bytes, &[checksums.len(), CHECKSUM_BYTES]);
        }
        section
    }

    /// The section's checksums, which must be those of exactly these files, given with their sizes.
    pub fn from_section<'a>(
        section: &Section,
        files: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Result<Self, ChecksumError> {
        for (key, expected) in [("block_bytes", BLOCK_BYTES.to_string()), ("algorithm", ALGORITHM.into())] {
            let got: String = section.metadata(key)?;
            if got != expected {
                return Err(ChecksumError::Scheme { key, expected, got });
            }
        }
        let mut checksums = Self::default();
        for (file, size_bytes) in files {
            if section.tensor(file).is_err() {
                return Err(ChecksumError::Missing { file: file.into() });
            }
            let (_, shape) = section.array_of_rank::<u8>(file, 2)?;
            let (expected, got) = (block_count(size_bytes), shape[0] as u64);
            if got != expected {
                return Err(ChecksumError::Blocks { file: file.into(), expected, got });
            }
            let bytes = section.array::<u8>(file, &[shape[0], CHECKSUM_BYTES])?;
            let (blocks, _) = bytes.as_chunks::<CHECKSUM_BYTES>();
            let blocks = blocks.to_vec();
            checksums.files.insert(file.into(), blocks);
        }
        Ok(checksums)
    }

    /// Checks whole blocks of a file, the first of which is block `first`. Only a file's last block is short.
    pub fn check(&self, file: &str, first: u64, blocks: &[u8]) -> Result<(), ChecksumError> {
        let checksums = self.files.get(file).ok_or_else(|| ChecksumError::Missing { file: file.into() })?;
        for (block, bytes) in (first..).zip(blocks.chunks(BLOCK_BYTES as usize)) {
            let got = block_checksum(bytes);
            let Some(expected) = usize::try_from(block).ok().and_then(|block| checksums.get(block)) else {
                let (expected, got) = (checksums.len() as u64, block + 1);
                return Err(ChecksumError::Blocks { file: file.into(), expected, got });
            };
            if got != *expected {
                let hex = |checksum: &Checksum| checksum.iter().map(|b| format!("{b:02x}")).collect();
                let (expected, got) = (hex(expected), hex(&got));
                return Err(ChecksumError::Block { file: file.into(), block, expected, got });
            }
        }
        Ok(())
    }
}
