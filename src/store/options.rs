use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Of a process that reads or publishes, where neither its job nor `ANNVIL_STORE_DEADLINE_S` says otherwise.
const DEFAULT_DEADLINE_S: u64 = 120;
const DEADLINE_VARIABLE: &str = "ANNVIL_STORE_DEADLINE_S";

/// How to reach a store, beyond what its URI and the environment say; what stands here goes before the environment.
/// An option that a scheme has not is passed over, so that one table serves a job's inputs and its output.
///
/// It holds no secret, only where one is to be found: it may stand in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreOptions {
    /// Address of a store that is not the provider's own, as `http://127.0.0.1:9000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// S3's region. Default: `AWS_REGION`, else `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether an endpoint without TLS is taken. Default: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_http: Option<bool>,
    /// Whether the bucket stands in S3's host name, not in its path. Default: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_hosted: Option<bool>,
    /// Server-side encryption of what is written (and, with `sse_c`, read).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// With `sse_kms`. Default: the bucket's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    /// With `sse_c`: 32 bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse_c_key: Option<Secret>,
    /// S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<Secret>,
    /// S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// Azure's storage account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Azure's shared key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_key: Option<Secret>,
    /// Google's service account: the key file's contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Secret>,
    /// How long a connection may stand still before the request is sent again. Default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// How long an operation is tried before its failure is an error. Default: `ANNVIL_STORE_DEADLINE_S`, else 120.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Publish even to a store whose put-if-absent overwrites: the user sees to it that no two publish at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub single_writer: bool,
}

impl StoreOptions {
    /// Whether nothing is said: the environment decides.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub fn deadline(&self) -> Duration {
        let from_environment = || std::env::var(DEADLINE_VARIABLE).ok()?.parse().ok();
        Duration::from_secs(self.deadline_s.or_else(from_environment).unwrap_or(DEFAULT_DEADLINE_S))
    }
}

/// Who encrypts objects at rest, with whose key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// S3 with its own keys.
    SseS3,
    /// S3 with a key of the key management service.
    SseKms,
    /// S3 or Azure with a key that comes with each request.
    SseC,
}

impl Encryption {
    pub const NAMES: &'static [&'static str] = &["sse_s3", "sse_kms", "sse_c"];

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "sse_s3" => Some(Encryption::SseS3),
            "sse_kms" => Some(Encryption::SseKms),
            "sse_c" => Some(Encryption::SseC),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Encryption::SseS3 => "sse_s3",
            Encryption::SseKms => "sse_kms",
            Encryption::SseC => "sse_c",
        }
    }
}

/// Where a secret is to be found: `env:NAME` or `file:/absolute/path`. Never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    Variable(String),
    File(PathBuf),
}

impl Secret {
    pub const ALLOWED: &'static str =
        "\"env:NAME\" or \"file:/absolute/path\": a job is published with its index";

    /// # Errors
    /// Why there is none, without any of it.
    pub(crate) fn resolve(&self) -> Result<String, String> {
        match self {
            Secret::Variable(name) => {
                std::env::var(name).map_err(|_| format!("the environment has no variable `{name}`"))
            }
            Secret::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim().into()),
                Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
            },
        }
    }
}

impl FromStr for Secret {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Secret::Variable(name.into()))
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Secret::File(path.into())),
            _ => Err(()),
        }
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Variable(name) => write!(f, "env:{name}"),
            Secret::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_reference_and_written_as_one() {
        for text in ["env:AWS_BACKUP_KEY", "file:/run/secrets/key"] {
            let secret: Secret = text.parse().unwrap();
            assert_eq!(secret.to_string(), text);
            assert_eq!(serde_json::to_value(&secret).unwrap(), text);
        }
        for text in ["", "env:", "file:", "file:key", "AKIAIOSFODNN7EXAMPLE", "env:A=B"] {
            assert!(text.parse::<Secret>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_that_is_not_there_is_named() {
        let error = Secret::Variable("ANNVIL_NO_SUCH_VARIABLE".into()).resolve().unwrap_err();
        assert!(error.contains("`ANNVIL_NO_SUCH_VARIABLE`"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "c2VjcmV0\n").unwrap();
        assert_eq!(Secret::File(file).resolve().unwrap(), "c2VjcmV0");
        let error = Secret::File(folder.path().join("none")).resolve().unwrap_err();
        assert!(error.contains("none"), "{error}");
    }

    #[test]
    fn what_is_not_said_is_not_written() {
        assert_eq!(serde_json::to_value(StoreOptions::default()).unwrap(), serde_json::json!({}));
        assert!(StoreOptions::default().is_default());
        let options = StoreOptions { single_writer: true, deadline_s: Some(7), ..Default::default() };
        assert_eq!(options.deadline(), Duration::from_secs(7));
        let json = serde_json::json!({ "single_writer": true, "deadline_s": 7 });
        assert_eq!(serde_json::to_value(options).unwrap(), json);
    }
}
