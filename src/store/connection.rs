use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use super::retry::Retry;

/// A store and how to deal with it. Connections to one place with the same options share one store.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub store: Arc<dyn ObjectStore>,
    pub retry: Retry,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The whole file system: an object's path is its absolute path.
    Files,
    Memory,
    /// Put-if-absent is a promise that one had better try.
    Other,
    #[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "only what is reached by HTTP is"))]
    ReadOnly,
}

impl Connection {
    pub fn of(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, retry: Retry::NEVER, kind: Kind::Other }
    }

    pub fn to_files() -> Self {
        // What publishing returns from has to be on the disk, not on its way there. Folders that garbage collection
        // leaves empty go with their last file.
        static STORE: LazyLock<Arc<LocalFileSystem>> =
            LazyLock::new(|| Arc::new(LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true)));
        Self { kind: Kind::Files, ..Self::of(STORE.clone()) }
    }

    /// The store of that name, shared by the whole process.
    pub fn to_memory(name: &str) -> Self {
        static STORES: Shared<String> = LazyLock::new(Mutex::default);
        let made = shared(&STORES, name.into(), || Ok::<_, ()>(Arc::new(InMemory::new())));
        Self { kind: Kind::Memory, ..Self::of(made.expect("making it cannot fail")) }
    }
}

type Shared<K> = LazyLock<Mutex<HashMap<K, Arc<dyn ObjectStore>>>>;

fn shared<K: Eq + Hash, S: ObjectStore, E>(
    stores: &Shared<K>,
    key: K,
    make: impl FnOnce() -> Result<Arc<S>, E>,
) -> Result<Arc<dyn ObjectStore>, E> {
    let mut stores = stores.lock().unwrap_or_else(PoisonError::into_inner);
    match stores.get(&key) {
        Some(store) => Ok(store.clone()),
        None => {
            let store: Arc<dyn ObjectStore> = make()?;
            stores.insert(key, store.clone());
            Ok(store)
        }
    }
}

#[cfg(feature = "cloud")]
pub(super) use cloud::{connect, use_ring};

/// Stores that are reached by HTTP. Each is told what the environment says first (the provider's own variables: `AWS_*`,
/// `AZURE_*`, `GOOGLE_*`), then what the options say.
#[cfg(feature = "cloud")]
mod cloud {
    use std::str::FromStr;
    use std::sync::Once;
    use std::time::Duration;

    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as S3Key};
    use object_store::azure::{AzureConfigKey as AzureKey, MicrosoftAzureBuilder};
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as GoogleKey};
    use object_store::http::HttpBuilder;
    use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, RetryConfig};

    use super::super::options::{Encryption, Secret, StoreOptions};
    use super::super::retry::LONGEST_WAIT;
    use super::*;

    /// A connection that stands still for so long is given up, and the request sent again.
    const STALL: Duration = Duration::from_secs(20);
    /// The longest request: a part of 8 MiB at 70 kB/s.
    const REQUEST: Duration = Duration::from_secs(120);

    const REQUEST_RETRIES: usize = 8;

    /// Settings by the names that object_store's configuration has for them, later ones over earlier ones.
    type Settings<K> = Vec<(K, String)>;

    /// The store that `scheme` and `authority` (a bucket, a container, a host) name.
    ///
    /// # Errors
    /// What keeps the options from making sense.
    pub fn connect(scheme: &str, authority: &str, options: &StoreOptions) -> Result<Connection, String> {
        use_ring();
        let deadline = options.deadline();
        let connection = |store, kind| Connection { store, retry: Retry::until(deadline), kind };
        match scheme {
            "s3" => Ok(connection(s3(authority, options)?, Kind::Other)),
            "gs" => Ok(connection(google(authority, options)?, Kind::Other)),
            "az" => Ok(connection(azure(authority, options)?, Kind::Other)),
            _ => Ok(connection(http(scheme, authority, options)?, Kind::ReadOnly)),
        }
    }

    fn s3(bucket: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, String> {
        static STORES: Shared<blake3::Hash> = LazyLock::new(Mutex::default);
        let mut settings = environment::<S3Key>("AWS_");
        set(&mut settings, "endpoint", options.endpoint.clone());
        if options.endpoint.is_some() {
            // It would go before the other.
            settings.retain(|(key, _)| *key != S3Key::S3Endpoint);
        }
        set(&mut settings, "region", options.region.clone());
        set(&mut settings, "aws_allow_http", options.allow_http);
        set(&mut settings, "virtual_hosted_style_request", options.virtual_hosted);
        set_secret(&mut settings, "access_key_id", &options.access_key_id)?;
        set_secret(&mut settings, "secret_access_key", &options.secret_access_key)?;
        set_secret(&mut settings, "session_token", &options.session_token)?;
        let encryption = options.encryption.map(|encryption| match encryption {
            Encryption::SseS3 => "AES256",
            Encryption::SseKms => "aws:kms",
            Encryption::SseC => "sse-c",
        });
        set(&mut settings, "aws_server_side_encryption", encryption);
        set(&mut settings, "aws_sse_kms_key_id", options.kms_key_id.clone());
        set_secret(&mut settings, "aws_sse_customer_key_base64", &options.sse_c_key)?;
        check_endpoint(&settings, &[S3Key::Endpoint, S3Key::S3Endpoint])?;
        shared(&STORES, identity(bucket, &settings, options), || {
            let builder =
                AmazonS3Builder::new().with_client_options(client(options)).with_retry(retry(options));
            let builder = settings.into_iter().fold(builder, |b, (key, value)| b.with_config(key, value));
            built(builder.with_bucket_name(bucket).build())
        })
    }

    fn google(bucket: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, String> {
        static STORES: Shared<blake3::Hash> = LazyLock::new(Mutex::default);
        if options.encryption.is_some() {
            return Err("`encryption` is for `s3://` and `az://`: Google's is set on the bucket".into());
        }
        let mut settings = environment::<GoogleKey>("GOOGLE_");
        set(&mut settings, "base_url", options.endpoint.clone());
        set(&mut settings, "allow_http", options.allow_http);
        set_secret(&mut settings, "service_account_key", &options.service_account)?;
        check_endpoint(&settings, &[GoogleKey::BaseUrl])?;
        shared(&STORES, identity(bucket, &settings, options), || {
            let builder = GoogleCloudStorageBuilder::new()
                .with_client_options(client(options))
                .with_retry(retry(options));
            let builder = settings.into_iter().fold(builder, |b, (key, value)| b.with_config(key, value));
            built(builder.with_bucket_name(bucket).build())
        })
    }

    fn azure(container: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, String> {
        static STORES: Shared<blake3::Hash> = LazyLock::new(Mutex::default);
        if matches!(options.encryption, Some(Encryption::SseS3 | Encryption::SseKms)) {
            return Err("`encryption` of `az://` is `sse_c`: the others are set on the account".into());
        }
        let mut settings = environment::<AzureKey>("AZURE_");
        set(&mut settings, "endpoint", options.endpoint.clone());
        set(&mut settings, "azure_allow_http", options.allow_http);
        set(&mut settings, "account_name", options.account.clone());
        set_secret(&mut settings, "account_key", &options.account_key)?;
        set_secret(&mut settings, "encryption_key", &options.sse_c_key)?;
        check_endpoint(&settings, &[AzureKey::Endpoint])?;
        shared(&STORES, identity(container, &settings, options), || {
            let builder =
                MicrosoftAzureBuilder::new().with_client_options(client(options)).with_retry(retry(options));
            let builder = settings.into_iter().fold(builder, |b, (key, value)| b.with_config(key, value));
            built(builder.with_container_name(container).build())
        })
    }

    fn http(scheme: &str, host: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, String> {
        static STORES: Shared<blake3::Hash> = LazyLock::new(Mutex::default);
        let url = format!("{scheme}://{host}");
        shared(&STORES, identity::<ClientConfigKey>(&url, &[], options), || {
            // Who writes `http://` has said so.
            let client = client(options).with_allow_http(true);
            built(
                HttpBuilder::new()
                    .with_url(url)
                    .with_client_options(client)
                    .with_retry(retry(options))
                    .build(),
            )
        })
    }

    fn built<S>(built: object_store::Result<S>) -> Result<Arc<S>, String> {
        built.map(Arc::new).map_err(|error| error.to_string())
    }

    /// What the variables that begin with `prefix` say to the provider.
    fn environment<K: FromStr>(prefix: &str) -> Settings<K> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let key = name.starts_with(prefix).then(|| name.to_ascii_lowercase().parse().ok())??;
            Some((key, value))
        });
        variables.collect()
    }

    /// # Panics
    /// If object_store does not know the key.
    fn set<K: FromStr>(settings: &mut Settings<K>, key: &str, value: Option<impl ToString>) {
        let Some(value) = value else { return };
        let Ok(known) = key.parse() else { panic!("object_store has no setting `{key}`") };
        settings.push((known, value.to_string()));
    }

    fn set_secret<K: FromStr>(
        settings: &mut Settings<K>,
        key: &str,
        secret: &Option<Secret>,
    ) -> Result<(), String> {
        let value = secret.as_ref().map(Secret::resolve).transpose()?;
        set(settings, key, value);
        Ok(())
    }

    /// An endpoint without TLS is taken only from who says that he means it; the HTTP client would say it less well.
    fn check_endpoint<K>(settings: &Settings<K>, endpoints: &[K]) -> Result<(), String>
    where
        K: PartialEq + AsRef<str>,
    {
        let last = |wanted: &dyn Fn(&K) -> bool| {
            settings.iter().rev().find(|(key, _)| wanted(key)).map(|(_, value)| value.as_str())
        };
        let endpoint = last(&|key| endpoints.contains(key)).unwrap_or_default();
        let allowed = last(&|key| key.as_ref().ends_with("allow_http"));
        if endpoint.starts_with("http://") && !allowed.is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return Err(format!(
                "the endpoint `{endpoint}` has no TLS; to use it, set `allow_http = true` in `[store]`, or the \
                 environment's `AWS_ALLOW_HTTP`, `AZURE_ALLOW_HTTP` or `GOOGLE_ALLOW_HTTP` to `true`"
            ));
        }
        Ok(())
    }

    /// What tells one store from another; of secrets nothing is kept but this.
    fn identity<K: AsRef<str>>(
        authority: &str,
        settings: &[(K, String)],
        options: &StoreOptions,
    ) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let mut field = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(authority);
        field(&format!("{:?} {:?}", options.deadline(), options.timeout_s));
        for (key, value) in settings {
            field(key.as_ref());
            field(value);
        }
        hasher.finalize()
    }

    fn client(options: &StoreOptions) -> ClientOptions {
        let stall = options.timeout_s.map_or(STALL, Duration::from_secs);
        ClientOptions::new().with_timeout(REQUEST).with_read_timeout(stall)
    }

    fn retry(options: &StoreOptions) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: LONGEST_WAIT, base: 2.0 };
        // Beyond these the operation as a whole is tried again.
        RetryConfig { backoff, max_retries: REQUEST_RETRIES, retry_timeout: options.deadline() }
    }

    /// TLS by ring: aws-lc, the other choice, is built with cmake.
    pub fn use_ring() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // An error is another provider, which the process has chosen before.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_setting_is_one_that_object_store_knows() {
            let secret = || Some(Secret::Variable("PATH".into()));
            let all = StoreOptions {
                endpoint: Some("https://127.0.0.1:1".into()),
                region: Some("r".into()),
                allow_http: Some(true),
                virtual_hosted: Some(false),
                encryption: None,
                kms_key_id: Some("k".into()),
                sse_c_key: secret(),
                access_key_id: secret(),
                secret_access_key: secret(),
                session_token: secret(),
                account: Some("a".into()),
                account_key: secret(),
                service_account: None,
                timeout_s: Some(1),
                deadline_s: Some(1),
                single_writer: true,
            };
            connect("s3", "bucket", &all).unwrap();
            // A key that is none is refused by the provider's own check.
            let error = connect("az", "container", &all).unwrap_err();
            assert!(error.contains("Key"), "{error}");
            let error = connect("gs", "bucket", &StoreOptions { service_account: secret(), ..all });
            assert!(error.is_err());
        }

        #[test]
        fn an_endpoint_without_tls_is_taken_only_when_it_is_meant() {
            let endpoint = Some("http://127.0.0.1:1".into());
            let options = StoreOptions { endpoint, ..Default::default() };
            let error = connect("s3", "bucket", &options).unwrap_err();
            assert!(error.contains("allow_http"), "{error}");
            connect("s3", "bucket", &StoreOptions { allow_http: Some(true), ..options }).unwrap();
        }

        #[test]
        fn the_same_options_share_a_store_and_others_do_not() {
            let endpoint = |port: u16| StoreOptions {
                endpoint: Some(format!("http://127.0.0.1:{port}")),
                allow_http: Some(true),
                ..Default::default()
            };
            let store = |port| connect("s3", "bucket", &endpoint(port)).unwrap().store;
            assert!(Arc::ptr_eq(&store(1), &store(1)));
            assert!(!Arc::ptr_eq(&store(1), &store(2)));
        }

        #[test]
        fn encryption_that_a_provider_has_not_is_refused() {
            for (scheme, encryption) in [("gs", Encryption::SseC), ("az", Encryption::SseKms)] {
                let options = StoreOptions { encryption: Some(encryption), ..Default::default() };
                assert!(connect(scheme, "x", &options).unwrap_err().contains("encryption"));
            }
        }
    }
}
