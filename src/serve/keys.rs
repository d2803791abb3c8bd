//! API keys. Only their hashes are kept, and all of them are compared, in a time that does not depend on the keys.

use std::path::{Path, PathBuf};

/// The environment variable with keys, one per line or separated by commas.
pub const KEYS_VARIABLE: &str = "ANNVIL_API_KEYS";

/// A shorter one could be guessed.
const MIN_KEY_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("`{}` cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{place}: a key of {got} bytes, expected {MIN_KEY_BYTES} or more of visible ASCII")]
    Weak { place: String, got: usize },
    #[error("{place} has no key")]
    None { place: String },
}

/// The keys that open the server; none at all: it is open.
#[derive(Debug, Clone, Default)]
pub struct ApiKeys(Vec<blake3::Hash>);

impl ApiKeys {
    /// One key per line; empty lines and those that begin with `#` are passed over.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.into(), source })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        Self::of(lines, &format!("`{}`", path.display()))
    }

    /// The keys of [`KEYS_VARIABLE`]; `None` where it is not set.
    pub fn from_environment() -> Result<Option<Self>, KeyError> {
        let Ok(text) = std::env::var(KEYS_VARIABLE) else { return Ok(None) };
        Self::of(text.split([',', '\n']), KEYS_VARIABLE).map(Some)
    }

    /// # Errors
    /// No key, or a weak one.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>, place: &str) -> Result<Self, KeyError> {
        let mut hashes = Vec::new();
        for key in keys.into_iter().map(str::trim).filter(|key| !key.is_empty()) {
            if key.len() < MIN_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(KeyError::Weak { place: place.into(), got: key.len() });
            }
            hashes.push(blake3::hash(key.as_bytes()));
        }
        if hashes.is_empty() {
            return Err(KeyError::None { place: place.into() });
        }
        Ok(Self(hashes))
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which key it is, if it is one.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = blake3::hash(key);
        // `Hash` compares in constant time; the last to match is kept, whichever it is.
        self.0.iter().enumerate().fold(None, |found, (place, known)| match *known == hash {
            true => Some(place),
            false => found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_and_nothing_like_it_is() {
        let keys = ApiKeys::of(["0123456789abcdef", " fedcba9876543210 "], "test").unwrap();
        assert_eq!(keys.find(b"0123456789abcdef"), Some(0));
        assert_eq!(keys.find(b"fedcba9876543210"), Some(1));
        for wrong in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef "] {
            assert_eq!(keys.find(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn no_key_or_a_weak_one_is_refused() {
        for (keys, expected) in [
            ("", "test has no key"),
            ("short", "test: a key of 5 bytes, expected 16 or more of visible ASCII"),
            ("0123456789abcdé", "test: a key of 16 bytes, expected 16 or more of visible ASCII"),
        ] {
            assert_eq!(ApiKeys::of(keys.split(','), "test").unwrap_err().to_string(), expected);
        }
    }
}
