//! Files that nobody reads without a key: AES-256-GCM in blocks, so that a range can be read and believed by itself.
//!
//! A file is cut into blocks of [`BLOCK_BYTES`], each encrypted with a tag of its own behind it, so that block `b` lies at
//! `b · 65,552`. The nonce is the block's number and whether it is the last: the STREAM construction (Hoang, Reyhanitabar, Rogaway,
//! Vizár: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015), in which a block that was cut off,
//! repeated or moved does not pass.
//!
//! Each file has a key of its own, derived (HKDF-SHA256, RFC 5869) from the user's and from what the file is: its segment, name,
//! size and hash. So equal contents under one key are equal bytes, as everywhere here, and no nonce is ever used for two
//! contents; and a file in another's place is decrypted with the wrong key. Nothing is drawn at random that could be drawn
//! badly. What that gives away is that two segments are the same, which their folder's name says anyway.
//!
//! Knows nothing of where keys and files come from. Without the feature `encryption` there is no key, and so nothing to call.

#[cfg(feature = "encryption")]
mod key;
#[cfg(not(feature = "encryption"))]
#[path = "no_key.rs"]
mod key;

pub use key::{FileCipher, Key};

use std::ops::Range;

use super::checksums::{BLOCK_BYTES, block_count};

pub const KEY_BYTES: usize = 32;
/// Behind each block.
pub const TAG_BYTES: u64 = 16;
/// A whole block, encrypted.
pub const SEALED_BLOCK_BYTES: u64 = BLOCK_BYTES + TAG_BYTES;
/// What manifests call all of this.
pub const ALGORITHM: &str = "aes-256-gcm-stream";

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("expected a key of {KEY_BYTES} bytes, got {got}")]
    Length { got: usize },
    #[error(
        "expected {KEY_BYTES} bytes in base64 or in hexadecimal digits, got {got} characters that are neither"
    )]
    Encoding { got: usize },
    #[error("this build of annvil has no feature `encryption`")]
    Unsupported,
}

/// A block that was not encrypted with the file's key, as this block of this file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block {block} is not what was encrypted")]
pub struct Forged {
    pub block: u64,
}

/// Bytes of a file of so many, encrypted. An empty file has a block too: nothing is there that nothing vouches for.
pub fn sealed_size(size_bytes: u64) -> u64 {
    size_bytes.saturating_add(sealed_blocks(size_bytes).saturating_mul(TAG_BYTES))
}

fn sealed_blocks(size_bytes: u64) -> u64 {
    block_count(size_bytes).max(1)
}

/// Where the blocks that hold a range of a file of `size_bytes` lie in the encrypted one. `range` begins with a block.
pub fn sealed_range(range: &Range<u64>, size_bytes: u64) -> Range<u64> {
    let start = range.start / BLOCK_BYTES * SEALED_BLOCK_BYTES;
    let end = block_count(range.end).max(u64::from(size_bytes == 0)).saturating_mul(SEALED_BLOCK_BYTES);
    start..end.min(sealed_size(size_bytes))
}

#[cfg(all(test, feature = "encryption"))]
mod tests;
