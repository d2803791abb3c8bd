//! `[encryption]`: with which key the job's indexes are published.

use serde::Serialize;
use toml::de::DeValue;

use super::read::{Reader, Table};
use crate::store::{KeyReference, Sealing, StoreError};

/// Shown to whoever has no key.
const KEY_ID_ALLOWED: &str =
    "what you call the key, 1 to 128 characters, none of which is a control character";
const MAX_KEY_ID_CHARS: usize = 128;

/// What the job's indexes are encrypted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EncryptionSpec {
    /// Where the key is to be found. Required: a key of 32 bytes, in base64 or hexadecimal digits.
    pub key: KeyReference,
    /// What the manifest calls the key. Default: its fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

impl EncryptionSpec {
    /// Looks the key up.
    ///
    /// # Errors
    /// That there is none, or that it is no key.
    pub fn resolve(&self) -> Result<Sealing, StoreError> {
        Sealing::resolve(&self.key, self.key_id.as_deref())
    }
}

pub(super) fn encryption(reader: &mut Reader, mut table: Table<'_>) -> Option<EncryptionSpec> {
    let entry = reader.require(&mut table, "key", KeyReference::ALLOWED);
    let key = entry.and_then(|entry| {
        let key: Option<KeyReference> = match &entry.value {
            DeValue::String(text) => text.parse().ok(),
            _ => None,
        };
        if key.is_none() {
            // Not what stands there: it may be the key.
            let message = format!("is no reference to a key; allowed: {}", KeyReference::ALLOWED);
            reader.problem(&entry.path, &entry.span, message);
        }
        key
    });
    let entry = reader.take(&mut table, "key_id");
    let place = entry.as_ref().map(|entry| (entry.path.clone(), entry.span.clone()));
    let key_id = reader.string(entry, KEY_ID_ALLOWED);
    if let (Some(id), Some((path, span))) = (&key_id, place)
        && (id.is_empty() || id.chars().count() > MAX_KEY_ID_CHARS || id.chars().any(char::is_control))
    {
        reader.problem(&path, &span, format!("allowed: {KEY_ID_ALLOWED}"));
    }
    reader.finish(table);
    Some(EncryptionSpec { key: key?, key_id })
}
