//! What an entry is named after.

use crate::artifact::Digest;

/// Raised whenever a stage makes something else of the same inputs, or an entry is written otherwise.
const FORMAT: u32 = 1;

/// A hash of what went into a stage: the parts of the job that matter to it, the keys of the stages before it, inputs with their
/// sizes and e-tags, the backend, and this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct Key(Digest);

impl Key {
    pub fn of(stage: &str, from: &serde_json::Value) -> Self {
        let text =
            serde_json::json!({ "format": FORMAT, "program": program(), "stage": stage, "from": from });
        Self(Digest::of(text.to_string().as_bytes()))
    }

    /// For a folder's name; the whole key stands in the entry.
    pub fn short(&self) -> String {
        self.to_string()[..16].into()
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Version and architecture; of a build that does not know its commit, the program's file too: while it is being developed one
/// version has many programs.
fn program() -> String {
    let version = concat!(env!("CARGO_PKG_VERSION"), " ");
    let commit = option_env!("ANNVIL_GIT_COMMIT").map(str::to_string);
    let file = || {
        let metadata = std::fs::metadata(std::env::current_exe().ok()?).ok()?;
        let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(format!("{} {}", metadata.len(), modified.as_nanos()))
    };
    format!("{version}{} {}", std::env::consts::ARCH, commit.or_else(file).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_went_in_changes_the_key() {
        let key = Key::of("rows", &json!({ "a": 1 }));
        assert_eq!(key, Key::of("rows", &json!({ "a": 1 })));
        for other in [Key::of("row", &json!({ "a": 1 })), Key::of("rows", &json!({ "a": 2 }))] {
            assert_ne!(key, other);
        }
        assert!(key.to_string().starts_with(&key.short()));
    }
}
