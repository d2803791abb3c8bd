use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A BLAKE3 hash of 32 bytes. Written as 64 lower-case hexadecimal digits, and read as nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of many bytes, by all threads.
    pub fn of(bytes: &[u8]) -> Self {
        hash(bytes).into()
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !text.bytes().all(lower_hex) {
            return None;
        }
        blake3::Hash::from_hex(text).ok().map(Self::from)
    }
}

/// Bytes that one thread hashes at a time.
const PIECE_BYTES: usize = 1 << 20;

/// BLAKE3 is a tree: its halves can be hashed side by side.
fn hash(bytes: &[u8]) -> blake3::Hash {
    if bytes.len() <= PIECE_BYTES {
        return blake3::hash(bytes);
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let (of_left, of_right) = rayon::join(|| subtree(left, 0), || subtree(right, left.len() as u64));
    merge_subtrees_root(&of_left, &of_right, Mode::Hash)
}

/// Of a part of the input that starts at `offset`, where a subtree does.
fn subtree(bytes: &[u8], offset: u64) -> ChainingValue {
    if bytes.len() <= PIECE_BYTES {
        return blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root();
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let middle = offset + left.len() as u64;
    let (of_left, of_right) = rayon::join(|| subtree(left, offset), || subtree(right, middle));
    merge_subtrees_non_root(&of_left, &of_right, Mode::Hash)
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blake3:{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("expected 64 lower-case hexadecimal digits, got `{text}`"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_hash_as_one_does() {
        for len in
            [0, 1, 1023, 1024, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 5_000_001]
        {
            let bytes: Vec<u8> = (0..len).map(|i| (i ^ (i >> 9)) as u8).collect();
            assert_eq!(Digest::of(&bytes), blake3::hash(&bytes).into(), "{len} bytes");
        }
    }
}
