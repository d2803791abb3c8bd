/// A name that was to become part of an object's path, and may not.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "`{got}` is no {what}: expected 1 to {MAX_NAME_BYTES} of the characters A-Z a-z 0-9 . _ -, the first a letter or digit"
)]
pub struct NameError {
    /// `index name` or `file name`.
    pub what: &'static str,
    pub got: String,
}

pub const MAX_NAME_BYTES: usize = 128;

/// Indexes and files are named by what every file system and object store takes as one path component, and no shell
/// or URL needs to quote: never a separator, never `..`, never hidden, never an
/// option, never one of the names that safetensors reserves.
fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(NameError { what, got: name.chars().take(2 * MAX_NAME_BYTES).collect() })
    }
}

pub fn check_index_name(name: &str) -> Result<(), NameError> {
    check("index name", name)
}

pub fn check_file_name(name: &str) -> Result<(), NameError> {
    check("file name", name)
}

/// The 20 digits (the longest `u64`) that make versions sort as text as they do as numbers.
pub fn version_file_name(version: u64) -> String {
    format!("{version:020}.json")
}

/// The version that a file of `v/` is named after; `None` for a file that is no version.
pub fn version_of_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let is_number = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_folder() {
        for name in ["glove100", "a", "A-1_b.c", "codes.safetensors", &"n".repeat(128)] {
            assert_eq!(check_index_name(name), Ok(()), "{name}");
        }
        let too_long = "n".repeat(129);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc",
            "a\\b",
            ".hidden",
            "-rf",
            "__metadata__",
            "a b",
            "é",
            "a\0",
            "a#1",
            &too_long,
        ] {
            assert!(check_index_name(name).is_err(), "{name}");
            assert!(check_file_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_version_is_read_from_its_own_file_name_only() {
        for version in [0, 1, 7, u64::MAX] {
            assert_eq!(version_of_file_name(&version_file_name(version)), Some(version));
        }
        assert_eq!(version_file_name(7), "00000000000000000007.json");
        for name in
            ["7.json", "00000000000000000007", "99999999999999999999.json", "+0000000000000000007.json", ""]
        {
            assert_eq!(version_of_file_name(name), None, "{name}");
        }
    }
}
