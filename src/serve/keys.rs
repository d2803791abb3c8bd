//! API keys. Only their hashes are kept, and all of them are compared, in a time that does not depend on the keys. A key may be
//! bound to a tenant: whoever shows it sees the rows of that partition and nothing else.

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
    #[error("{place}: expected `KEY` or `KEY tenant=NAME` with a name")]
    Tenant { place: String },
    #[error("{place}: the same key twice")]
    Twice { place: String },
    #[error("{place} is not UTF-8")]
    Encoding { place: String },
    #[error("{place} has no key")]
    None { place: String },
}

/// The keys that open the server; none at all: it is open.
#[derive(Debug, Clone, Default)]
pub struct ApiKeys(Vec<ApiKey>);

#[derive(Debug, Clone)]
struct ApiKey {
    hash: blake3::Hash,
    tenant: Option<String>,
}

impl ApiKeys {
    /// One key per line, with ` tenant=NAME` behind it where it is bound to a tenant; empty lines and those that begin with `#` are passed over.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.into(), source })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        Self::of(lines, &format!("`{}`", path.display()))
    }

    /// The keys of [`KEYS_VARIABLE`]; `None` where it is not set.
    pub fn from_environment() -> Result<Option<Self>, KeyError> {
        // Whatever is set asks for keys: what cannot be read must not open the server.
        let Some(text) = std::env::var_os(KEYS_VARIABLE) else { return Ok(None) };
        let text = text.into_string().map_err(|_| KeyError::Encoding { place: KEYS_VARIABLE.into() })?;
        Self::of(text.split([',', '\n']), KEYS_VARIABLE).map(Some)
    }

    /// # Errors
    /// No key, or a weak one.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>, place: &str) -> Result<Self, KeyError> {
        let mut hashes: Vec<ApiKey> = Vec::new();
        for line in keys.into_iter().map(str::trim).filter(|line| !line.is_empty()) {
            let (key, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let tenant = match rest.trim_start() {
                "" => None,
                rest => {
                    let name = rest.strip_prefix("tenant=").filter(|name| !name.is_empty());
                    Some(name.ok_or_else(|| KeyError::Tenant { place: place.into() })?.to_string())
                }
            };
            if key.len() < MIN_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(KeyError::Weak { place: place.into(), got: key.len() });
            }
            let hash = blake3::hash(key.as_bytes());
            if hashes.iter().any(|known| known.hash == hash) {
                return Err(KeyError::Twice { place: place.into() });
            }
            hashes.push(ApiKey { hash, tenant });
        }
        if hashes.is_empty() {
            return Err(KeyError::None { place: place.into() });
        }
        Ok(Self(hashes))
    }

    /// Both; what the first says of a key holds.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let is_new = |key: &ApiKey| self.0.iter().all(|known| known.hash != key.hash);
        let others: Vec<ApiKey> = other.0.into_iter().filter(is_new).collect();
        self.0.extend(others);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which key it is, if it is one.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = blake3::hash(key);
        // `Hash` compares in constant time; the last to match is kept, whichever it is.
        self.0.iter().enumerate().fold(None, |found, (place, known)| match known.hash == hash {
            true => Some(place),
            false => found,
        })
    }

    /// The tenant that a key is bound to.
    pub(super) fn tenant(&self, place: usize) -> Option<&str> {
        self.0[place].tenant.as_deref()
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
    fn a_key_is_bound_to_the_tenant_of_its_line() {
        let lines = ["0123456789abcdef tenant=../x y", "fedcba9876543210", "00000000000000000\ttenant=a=b"];
        let keys = ApiKeys::of(lines, "test").unwrap();
        let tenant = |key: &[u8]| keys.tenant(keys.find(key).unwrap());
        assert_eq!(tenant(b"0123456789abcdef"), Some("../x y"));
        assert_eq!(tenant(b"fedcba9876543210"), None);
        assert_eq!(tenant(b"00000000000000000"), Some("a=b"));
        for (lines, expected) in [
            (vec!["0123456789abcdef tenant="], "test: expected `KEY` or `KEY tenant=NAME` with a name"),
            (vec!["0123456789abcdef alice"], "test: expected `KEY` or `KEY tenant=NAME` with a name"),
            (vec!["0123456789abcdef", "0123456789abcdef tenant=a"], "test: the same key twice"),
        ] {
            assert_eq!(ApiKeys::of(lines, "test").unwrap_err().to_string(), expected);
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
