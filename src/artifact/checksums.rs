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

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 6] = [0, 1, 65_535, 65_536, 65_537, 200_000];

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 7 / 3) as u8).collect()
    }

    fn checksums() -> (BlockChecksums, Vec<(String, u64)>) {
        let mut checksums = BlockChecksums::default();
        let files: Vec<_> = SIZES.map(|size| (format!("f{size}"), size as u64)).into();
        files.iter().for_each(|(name, size)| checksums.insert(name, &bytes(*size as usize)));
        (checksums, files)
    }

    fn sizes(files: &[(String, u64)]) -> impl Iterator<Item = (&str, u64)> {
        files.iter().map(|(name, size)| (name.as_str(), *size))
    }

    #[test]
    fn checksums_survive_their_section_and_accept_the_blocks_they_were_made_of() {
        let (checksums, files) = checksums();
        let read = BlockChecksums::from_section(&checksums.to_section(), sizes(&files)).unwrap();
        assert_eq!(read, checksums);
        for (name, size) in &files {
            let bytes = bytes(*size as usize);
            read.check(name, 0, &bytes).unwrap();
            for (block, chunk) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
                read.check(name, block as u64, chunk).unwrap();
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_reported_with_its_file_and_block() {
        let (checksums, _) = checksums();
        let mut damaged = bytes(200_000);
        damaged[140_000] ^= 4;
        let error = checksums.check("f200000", 0, &damaged).unwrap_err();
        assert!(
            matches!(&error, ChecksumError::Block { file, block: 2, .. } if file == "f200000"),
            "{error}"
        );
        assert!(checksums.check("f200000", 1, &bytes(200_000)[..65_536]).is_err(), "another block's bytes");
        assert!(checksums.check("f1", 1, &[0]).is_err(), "a block beyond the file");
        assert!(checksums.check("f2", 0, &[0]).is_err(), "an unknown file");
    }

    #[test]
    fn checksums_of_another_set_of_files_are_refused() {
        let section = checksums().0.to_section();
        let read = |file, size| BlockChecksums::from_section(&section, [(file, size)]).unwrap_err();
        assert!(matches!(read("f2", 1), ChecksumError::Missing { .. }));
        assert!(matches!(read("f1", 65_537), ChecksumError::Blocks { expected: 2, got: 1, .. }));
        assert!(matches!(read("f1", u64::MAX), ChecksumError::Blocks { .. }));
        let other = Section { metadata: section.metadata.clone(), ..Section::new("checksums") }
            .with_metadata("block_bytes", 4096);
        assert!(matches!(BlockChecksums::from_section(&other, []), Err(ChecksumError::Scheme { .. })));
    }
}
