//! Keys of encrypted indexes: where they are to be found, and which of those that were given a version asks for.
//!
//! A key is never given itself, only a reference to it, which may stand in a job, in a manifest and in a message. It is looked up
//! when a version asks for it first, and again when one asks for another, so that a process that runs for weeks follows a
//! file whose key was changed.

use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Serialize, Serializer};

use super::{Secret, StoreError};
use crate::artifact::SealedManifest;
use crate::artifact::encryption::{self, Key};

/// References to keys, one a line, where nothing else names any.
pub const KEY_VARIABLE: &str = "ANNVIL_KEY";

/// Those of the process, set once by whoever started it.
static GIVEN: OnceLock<Vec<KeyReference>> = OnceLock::new();

/// Where a key is to be found: `env:NAME`, `file:/absolute/path`, or `command:` and what a shell is to run, whose output it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyReference {
    Secret(Secret),
    Command(String),
}

impl KeyReference {
    pub const ALLOWED: &'static str =
        "\"env:NAME\", \"file:/absolute/path\" or \"command:what a shell is to run\", and never a key itself";

    /// Looks the key up.
    ///
    /// # Errors
    /// That there is none, or that it is no key: without any of it.
    pub fn resolve(&self) -> Result<Key, KeyFault> {
        let no_key = |what: String| KeyFault::Reference { reference: self.to_string(), what };
        let text = match self {
            Self::Secret(secret) => secret.resolve().map_err(no_key)?,
            Self::Command(command) => output_of(command).map_err(no_key)?,
        };
        Key::from_text(&text).map_err(|source| KeyFault::Bytes { reference: self.to_string(), source })
    }
}

/// What it says on stderr is for the user.
fn output_of(command: &str) -> Result<String, String> {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("/bin/sh", "-c") };
    let ran =
        Command::new(shell).args([flag, command]).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = ran.map_err(|error| format!("cannot run it: {error}"))?;
    if !output.status.success() {
        return Err(format!("it failed: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| "what it wrote is no text".into())
}

impl FromStr for KeyReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("command", command)) if !command.trim().is_empty() => Ok(Self::Command(command.into())),
            _ => text.parse().map(Self::Secret).map_err(|()| format!("allowed: {}", Self::ALLOWED)),
        }
    }
}

impl std::fmt::Display for KeyReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(secret) => secret.fmt(f),
            Self::Command(command) => write!(f, "command:{command}"),
        }
    }
}

impl Serialize for KeyReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why an index could not be opened with a key, or without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error(
        "it is encrypted with the key `{key_id}` (fingerprint {fingerprint}), and no key was given: name one by `--key`, \
         `{KEY_VARIABLE}` or `OpenOptions::key`"
    )]
    Absent { key_id: String, fingerprint: String },
    #[error(
        "it is encrypted with the key `{key_id}`, whose fingerprint is {expected}: the wrong key was given, with fingerprint {got}"
    )]
    Wrong { key_id: String, expected: String, got: String },
    /// It may be another in the place of the one that was meant.
    #[error("a key was given, and it is not encrypted")]
    NotEncrypted,
    #[error("no key from `{reference}`: {what}")]
    Reference { reference: String, what: String },
    #[error("no key from `{reference}`: {source}")]
    Bytes { reference: String, source: encryption::KeyError },
}

/// The keys that versions of an index are opened with.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    references: Arc<[KeyReference]>,
    /// Whether they were given for this index, which then has to be encrypted.
    demanded: bool,
    found: Arc<Mutex<Vec<Arc<Key>>>>,
}

impl Keys {
    pub fn given(references: Vec<KeyReference>) -> Self {
        Self { references: references.into(), demanded: true, found: Arc::default() }
    }

    /// A key that was looked up already.
    pub fn of(key: Arc<Key>) -> Self {
        Self { references: Arc::new([]), demanded: true, found: Arc::new(Mutex::new(vec![key])) }
    }

    /// Those given to the process, else those that the environment names: that they are of use is not asked.
    pub fn of_process() -> Result<Self, StoreError> {
        if let Some(references) = GIVEN.get() {
            return Ok(Self::given(references.clone()));
        }
        let lines = std::env::var(KEY_VARIABLE).unwrap_or_default();
        let references = lines.lines().filter(|line| !line.trim().is_empty()).map(|line| {
            line.trim().parse().map_err(|what| {
                let reference = KEY_VARIABLE.into();
                StoreError::NoKey(KeyFault::Reference { reference, what })
            })
        });
        let references = references.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { demanded: false, ..Self::given(references) })
    }

    pub fn are_demanded(&self) -> bool {
        self.demanded
    }

    /// The key that an encrypted version asks for.
    pub fn find(&self, manifest: &SealedManifest) -> Result<Arc<Key>, KeyFault> {
        let asked = &manifest.encryption;
        let fits = |key: &&Arc<Key>| key.fingerprint() == asked.fingerprint;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = found.iter().find(fits) {
            return Ok(key.clone());
        }
        if !self.references.is_empty() {
            let resolved = self.references.iter().map(|reference| reference.resolve().map(Arc::new));
            *found = resolved.collect::<Result<_, _>>()?;
        }
        if let Some(key) = found.iter().find(fits) {
            return Ok(key.clone());
        }
        let (key_id, expected) = (asked.key_id.clone(), asked.fingerprint.clone());
        if found.is_empty() {
            return Err(KeyFault::Absent { key_id, fingerprint: expected });
        }
        let got: Vec<&str> = found.iter().map(|key| key.fingerprint()).collect();
        Err(KeyFault::Wrong { key_id, expected, got: got.join(", ") })
    }
}

/// What the versions that are published are encrypted with.
#[derive(Debug, Clone)]
pub struct Sealing {
    pub key: Arc<Key>,
    /// What its owner calls it; stands in the manifest for all to read.
    pub key_id: String,
}

impl Sealing {
    /// `key_id`: by default the key's fingerprint.
    ///
    /// # Errors
    /// That there is no such key.
    pub fn resolve(reference: &KeyReference, key_id: Option<&str>) -> Result<Self, StoreError> {
        let key = reference.resolve().map_err(StoreError::NoKey)?;
        let key_id = key_id.unwrap_or(key.fingerprint()).to_string();
        Ok(Self { key: Arc::new(key), key_id })
    }
}

/// Gives the process keys for all indexes that it opens without naming others: each has to be encrypted then. To be called once,
/// before anything is opened.
pub fn give_keys(references: Vec<KeyReference>) {
    let _ = GIVEN.set(references);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_written_as_it_was_read_and_nothing_else_is_one() {
        for text in ["env:KB_KEY", "file:/run/secrets/kb.key", "command:vault kv get -field=key kv/kb"] {
            assert_eq!(text.parse::<KeyReference>().unwrap().to_string(), text);
        }
        for text in
            ["", "command:", "command: ", "file:key", "env:", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="]
        {
            let refused = text.parse::<KeyReference>().unwrap_err();
            assert!(refused.contains("env:NAME") && !refused.contains("c2Vj"), "{refused}");
        }
    }

    #[cfg(all(feature = "encryption", unix))]
    #[test]
    fn a_key_is_read_from_wherever_it_is_and_its_absence_is_named() {
        let hex = "00".repeat(31) + "01";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, format!("{hex}\n")).unwrap();
        let resolve = |text: &str| text.parse::<KeyReference>().unwrap().resolve();
        let of_file = resolve(&format!("file:{}", file.display())).unwrap();
        let of_command = resolve(&format!("command:cat {}", file.display())).unwrap();
        assert_eq!(of_file.fingerprint(), of_command.fingerprint());
        for (reference, said) in [
            ("env:ANNVIL_NO_SUCH_VARIABLE", "`ANNVIL_NO_SUCH_VARIABLE`"),
            ("file:/nowhere/key", "/nowhere/key"),
            ("command:exit 3", "exit status: 3"),
            ("command:printf AAAA", "32 bytes, got 3"),
            ("command:echo hunter2-hunter2", "15 characters"),
        ] {
            let error = resolve(reference).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(reference), "{error}");
            assert!(!error.replace(reference, "").contains("hunter2"), "{error}");
        }
    }
}
