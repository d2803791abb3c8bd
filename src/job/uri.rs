//! Where something is, as a job file writes it.

use std::path::{Component, Path, PathBuf};

use serde::{Serialize, Serializer};

/// A path or a URI with a scheme.
///
/// A relative path in a job file starts from the *job file's* folder, so that a job means the same wherever it is
/// run from; one given on the command line starts from the current folder, as every path there.
///
/// Serialises as written: a manifest must not depend on where a job was started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    written: String,
    resolved: String,
}

impl Uri {
    /// `folder` is where a relative path starts from; empty for the current folder.
    pub fn new(written: &str, folder: &Path) -> Self {
        let resolved = match scheme(written) {
            Some(_) => written.into(),
            None => without_dots(&folder.join(written)).to_string_lossy().into_owned(),
        };
        Self { written: written.into(), resolved }
    }

    /// As the user wrote it.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// What to open: a URI with a scheme, or a path that is absolute or relative to the current folder, with `.` and
    /// `..` taken out. May hold glob characters where a glob is allowed.
    pub fn resolved(&self) -> &str {
        &self.resolved
    }
}

impl Serialize for Uri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.resolved)
    }
}

/// The scheme of `uri`, if it has one. A single letter is a Windows drive.
pub(super) fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once("://")?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (scheme.len() > 1 && scheme.chars().all(legal)).then_some(scheme)
}

/// `a/./b/../c` is `a/c`, by its text: as Cargo does, and without asking the file system, since an output need not
/// exist yet. Leading `..` of a relative path stay.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match clean.components().next_back() {
                Some(Component::Normal(_)) => {
                    clean.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => {}
                _ => clean.push(component),
            },
            _ => clean.push(component),
        }
    }
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_relative_path_starts_from_the_folder() {
        for (folder, written, resolved) in [
            ("pipelines", "../datasets/base.parquet", "datasets/base.parquet"),
            ("", "datasets/base.parquet", "datasets/base.parquet"),
            ("", "../x", "../x"),
            ("a", "../../x", "../x"),
            ("a", "..", "."),
            ("/jobs", "x/./y/../*.parquet", "/jobs/x/*.parquet"),
            ("/jobs", "../../../x", "/x"),
            ("/jobs", "/data/x", "/data/x"),
            ("jobs", "file:///data/x", "file:///data/x"),
            ("jobs", "s3://bucket/x", "s3://bucket/x"),
        ] {
            assert_eq!(Uri::new(written, Path::new(folder)).resolved(), resolved, "{folder} {written}");
        }
    }

    #[test]
    fn a_drive_letter_is_no_scheme() {
        assert_eq!(scheme("c://x"), None);
        assert_eq!(scheme("out"), None);
        assert_eq!(scheme("a b://x"), None);
        assert_eq!(scheme("s3://x"), Some("s3"));
    }
}
