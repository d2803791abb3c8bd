//! A URI made into a place in an object store: where inputs are read from and artifacts are written to.
//!
//! Understands plain paths (relative or absolute) and the schemes of [`SCHEMES`]; refuses every other by name. Reads
//! whole ranges, tells when an object has changed since it was first seen, and lists. It writes single small objects:
//! publishing has its own rules.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::connection::Connection;
use super::options::StoreOptions;
use super::retry::{Verdict, verdict};

/// Schemes that this build understands, those that can only be read last.
#[cfg(feature = "cloud")]
pub const SCHEMES: &[&str] = &["file", "memory", "s3", "gs", "az", "http", "https"];
#[cfg(not(feature = "cloud"))]
pub const SCHEMES: &[&str] = &["file", "memory"];

/// Schemes that can be read and not written.
pub const READ_ONLY_SCHEMES: &[&str] = &["http", "https"];

/// As a message lists what is allowed.
fn supported() -> String {
    let schemes: Vec<String> = SCHEMES.iter().map(|scheme| format!("`{scheme}://`")).collect();
    let without = if cfg!(feature = "cloud") { "" } else { " (this build has no feature `cloud`)" };
    format!("a path, {}{without}", schemes.join(", "))
}

#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    #[error("`{uri}`: scheme `{scheme}` is not supported; use {}", supported())]
    Scheme { uri: String, scheme: String },
    #[error("`{uri}` is no usable location: {what}")]
    Path { uri: String, what: String },
    /// Options, the environment or a secret that make no sense together.
    #[error("`{uri}`: {what}")]
    Options { uri: String, what: String },
    #[error("`{uri}` does not exist")]
    NotFound { uri: String },
    #[error("`{uri}` was changed while it was being read")]
    Changed { uri: String },
    #[error("`{uri}`: {got} bytes came back for bytes {}..{} (expected {})",
        range.start, range.end, range.end - range.start)]
    ShortRead { uri: String, range: Range<u64>, got: u64 },
    #[error("`{uri}`: {source}")]
    Store { uri: String, source: object_store::Error },
}

/// A place in an object store: an object, or the prefix ("folder") of some.
#[derive(Debug, Clone)]
pub struct Location {
    pub(super) connection: Connection,
    path: Path,
    uri: String,
}

/// Equal where they name the same place of the same store, however their URIs are written.
impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.store(), other.store()) && self.path == other.path
    }
}

impl Eq for Location {}

impl Hash for Location {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(self.store()).cast::<()>().hash(state);
        self.path.hash(state);
    }
}

/// An object as a listing or a `head` showed it.
#[derive(Debug, Clone)]
pub struct Object {
    pub location: Location,
    pub size_bytes: u64,
    /// The store's version of the contents, where it keeps one.
    pub e_tag: Option<String>,
}

/// What lies directly below a location.
#[derive(Debug, Default)]
pub struct Level {
    pub folders: Vec<Location>,
    pub objects: Vec<Object>,
}

impl Location {
    /// `uri` is a path (relative to the working folder, or absolute), `file:///absolute/path` (percent-encoded),
    /// or `memory://name/path`: one store per name, shared by the whole process, gone when it ends. With the feature
    /// `cloud` also `s3://bucket/key`, `gs://bucket/name` and `az://container/name`, whose keys are taken as they
    /// stand, and `http(s)://host/path` (percent-encoded), which can only be read. How to reach those, the environment
    /// says.
    ///
    /// The place need not exist, and nobody is asked for it.
    pub fn parse(uri: &str) -> Result<Self, LocationError> {
        Self::parse_with(uri, &StoreOptions::default())
    }

    /// [`Location::parse`] with options that go before the environment's.
    pub fn parse_with(uri: &str, options: &StoreOptions) -> Result<Self, LocationError> {
        let Some((scheme, rest)) = uri.split_once("://") else { return Self::local_path(uri) };
        let wrong_path = |what: String| LocationError::Path { uri: uri.into(), what };
        match scheme {
            "file" if rest.starts_with('/') => {
                let path = Path::from_url_path(rest).map_err(|error| wrong_path(error.to_string()))?;
                Ok(Self { connection: Connection::to_files(), path, uri: uri.into() })
            }
            "file" => {
                Err(wrong_path("`file://` is followed by an absolute path, as in `file:///data`".into()))
            }
            "memory" => {
                let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
                let path = Path::parse(path).map_err(|error| wrong_path(error.to_string()))?;
                Ok(Self { connection: Connection::to_memory(name), path, uri: uri.into() })
            }
            _ if SCHEMES.contains(&scheme) => Self::remote(uri, scheme, rest, options),
            _ => Err(LocationError::Scheme { uri: uri.into(), scheme: scheme.into() }),
        }
    }

    #[cfg(not(feature = "cloud"))]
    fn remote(uri: &str, scheme: &str, _: &str, _: &StoreOptions) -> Result<Self, LocationError> {
        Err(LocationError::Scheme { uri: uri.into(), scheme: scheme.into() })
    }

    #[cfg(feature = "cloud")]
    fn remote(uri: &str, scheme: &str, rest: &str, options: &StoreOptions) -> Result<Self, LocationError> {
        let wrong_path = |what: String| LocationError::Path { uri: uri.into(), what };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            return Err(wrong_path(format!("`{scheme}://` is followed by a bucket, a container or a host")));
        }
        if authority.contains('@') {
            // URIs stand in messages and in manifests.
            let uri = format!("{scheme}://…@{}", rest.rsplit('@').next().unwrap_or_default());
            let what = "names and passwords are not taken from a URI, but from the environment".into();
            return Err(LocationError::Path { uri, what });
        }
        let path = if READ_ONLY_SCHEMES.contains(&scheme) {
            if path.contains(['?', '#']) {
                return Err(wrong_path("a query is not supported".into()));
            }
            Path::from_url_path(path)
        } else {
            Path::parse(path)
        };
        let path = path.map_err(|error| wrong_path(error.to_string()))?;
        let connection = super::connection::connect(scheme, authority, options)
            .map_err(|what| LocationError::Options { uri: uri.into(), what })?;
        Ok(Self { connection, path, uri: uri.into() })
    }

    fn local_path(uri: &str) -> Result<Self, LocationError> {
        let wrong_path = |what: String| LocationError::Path { uri: uri.into(), what };
        if uri.is_empty() {
            return Err(wrong_path("it is empty".into()));
        }
        let absolute = std::path::absolute(uri)
            .and_then(resolve_parents)
            .map_err(|error| wrong_path(error.to_string()))?;
        let path = Path::from_absolute_path(absolute).map_err(|error| wrong_path(error.to_string()))?;
        Ok(Self { connection: Connection::to_files(), path, uri: uri.into() })
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.connection.store
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As the user wrote it, extended by what was found below.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The last part of the path; empty for the root of a store.
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or("")
    }

    /// The place at `relative` (one or more names, separated by `/`) below this one.
    pub fn join(&self, relative: &str) -> Result<Self, LocationError> {
        let uri = self.uri_below(relative);
        match Path::parse(format!("{}/{relative}", self.path)) {
            Ok(path) => Ok(Self { connection: self.connection.clone(), path, uri }),
            Err(error) => Err(LocationError::Path { uri, what: error.to_string() }),
        }
    }

    /// Writes an object here, in place of what may be there.
    pub fn write(&self, bytes: bytes::Bytes) -> Result<(), super::StoreError> {
        let (Connection { store, retry, .. }, path) = (self.connection.clone(), self.path.clone());
        let written = super::runtime::wait_for(async move {
            retry.run(|| store.put(&path, bytes.clone().into()), verdict).await
        })?;
        written.map(|_| ()).map_err(|error| self.error(error).into())
    }

    pub async fn head(&self) -> Result<Object, LocationError> {
        let Connection { store, retry, .. } = &self.connection;
        let meta = retry.run(|| store.head(&self.path), verdict).await;
        let meta = meta.map_err(|error| self.error(error))?;
        Ok(Object { location: self.clone(), size_bytes: meta.size, e_tag: meta.e_tag })
    }

    /// Every object below this place, however deep, ordered by path.
    pub async fn list(&self) -> Result<Vec<Object>, LocationError> {
        use futures_util::TryStreamExt;
        let Connection { store, retry, .. } = &self.connection;
        let listed = retry.run(|| store.list(Some(&self.path)).try_collect(), verdict).await;
        let metas: Vec<ObjectMeta> = match listed {
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            metas => metas.map_err(|error| self.error(error))?,
        };
        let mut objects: Vec<Object> = metas.into_iter().filter_map(|meta| self.object_below(meta)).collect();
        objects.sort_by(|a, b| a.location.path.cmp(&b.location.path));
        Ok(objects)
    }

    /// What lies directly below this place, ordered by path. A place that does not exist has nothing below it.
    pub async fn level(&self) -> Result<Level, LocationError> {
        let Connection { store, retry, .. } = &self.connection;
        let listed = match retry.run(|| store.list_with_delimiter(Some(&self.path)), verdict).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(Level::default()),
            listed => listed.map_err(|error| self.error(error))?,
        };
        let mut folders: Vec<Location> =
            listed.common_prefixes.into_iter().filter_map(|path| self.below(path)).collect();
        let mut objects: Vec<Object> =
            listed.objects.into_iter().filter_map(|meta| self.object_below(meta)).collect();
        folders.sort_by(|a, b| a.path.cmp(&b.path));
        objects.sort_by(|a, b| a.location.path.cmp(&b.location.path));
        Ok(Level { folders, objects })
    }

    fn object_below(&self, meta: ObjectMeta) -> Option<Object> {
        Some(Object { location: self.below(meta.location)?, size_bytes: meta.size, e_tag: meta.e_tag })
    }

    fn below(&self, path: Path) -> Option<Location> {
        let relative = path.as_ref().strip_prefix(self.path.as_ref())?.trim_start_matches('/');
        if relative.is_empty() {
            return None;
        }
        let uri = self.uri_below(relative);
        Some(Self { connection: self.connection.clone(), path, uri })
    }

    fn uri_below(&self, relative: &str) -> String {
        match self.uri.as_str() {
            "." => relative.into(),
            uri if uri.ends_with('/') => format!("{uri}{relative}"),
            uri => format!("{uri}/{relative}"),
        }
    }

    fn error(&self, source: object_store::Error) -> LocationError {
        let uri = self.uri.clone();
        match source {
            object_store::Error::NotFound { .. } => LocationError::NotFound { uri },
            object_store::Error::Precondition { .. } => LocationError::Changed { uri },
            source => LocationError::Store { uri, source },
        }
    }
}

impl Object {
    /// Exactly the bytes `range` of the contents that were there when the object was first seen; an object that
    /// has been replaced since is an error, where the store keeps e-tags.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, LocationError> {
        let verdict = |error: &LocationError| match error {
            LocationError::Store { source, .. } => verdict(source),
            LocationError::ShortRead { .. } => Verdict::Transient,
            _ => Verdict::Final,
        };
        self.location.connection.retry.run(|| self.try_read(range.clone()), verdict).await
    }

    async fn try_read(&self, range: Range<u64>) -> Result<Bytes, LocationError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.e_tag.clone(),
            ..Default::default()
        };
        let location = &self.location;
        let read = async { location.store().get_opts(&location.path, options).await?.bytes().await };
        let bytes = read.await.map_err(|error| location.error(error))?;
        if bytes.len() as u64 != range.end - range.start {
            let (uri, got) = (location.uri.clone(), bytes.len() as u64);
            return Err(LocationError::ShortRead { uri, range, got });
        }
        Ok(bytes)
    }
}

/// Resolves `..` as the operating system does, symbolic links followed: everything up to the last `..` must
/// exist. What comes after it may not exist yet.
fn resolve_parents(path: PathBuf) -> std::io::Result<PathBuf> {
    let parts: Vec<Component<'_>> = path.components().collect();
    match parts.iter().rposition(|part| matches!(part, Component::ParentDir)) {
        None => Ok(path),
        Some(last) => {
            let existing: PathBuf = parts[..=last].iter().collect();
            Ok(std::fs::canonicalize(existing)?.join(parts[last + 1..].iter().collect::<PathBuf>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::PutPayload;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    #[test]
    fn an_unsupported_scheme_is_named_with_those_that_are() {
        let error = Location::parse("ftp://host/key").unwrap_err().to_string();
        assert!(error.contains("`ftp`") && error.contains(&supported()), "{error}");
    }

    #[cfg(feature = "cloud")]
    #[test]
    fn a_remote_place_is_a_store_and_a_key_and_asks_nobody() {
        for (uri, path) in [
            ("s3://bucket/a/b c%20d", "a/b c%20d"),
            ("s3://bucket", ""),
            ("s3://bucket/a/", "a"),
            ("http://host:1234/a%20b/c", "a b/c"),
            ("https://host/", ""),
        ] {
            let location = Location::parse(uri).unwrap();
            assert_eq!((location.path().as_ref(), location.uri()), (path, uri));
        }
        assert_eq!(Location::parse("s3://b/x/").unwrap(), Location::parse("s3://b/x").unwrap());
        assert_ne!(Location::parse("s3://b/x").unwrap(), Location::parse("s3://c/x").unwrap());
        for uri in ["s3://", "s3:///key", "s3://bucket/a//b", "s3://b/../c", "http://host/x?y=1"] {
            assert!(matches!(Location::parse(uri), Err(LocationError::Path { .. })), "{uri}");
        }
    }

    #[cfg(feature = "cloud")]
    #[test]
    fn a_password_in_a_uri_is_refused_and_not_repeated() {
        let error = Location::parse("https://user:hunter2@host/x").unwrap_err().to_string();
        assert!(error.contains("host/x") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn locations_that_cannot_be_are_errors() {
        for uri in
            ["", "file://host/path", "file://relative", "memory://m/a/../b", "a\u{7}b", "no/such/../place"]
        {
            assert!(matches!(Location::parse(uri), Err(LocationError::Path { .. })), "{uri:?}");
        }
    }

    #[test]
    fn a_path_and_its_file_uri_are_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("with space and 100% & #.bin");
        std::fs::write(&file, b"0123456789").unwrap();
        let encoded = file.to_str().unwrap().replace('%', "%25").replace(' ', "%20").replace('#', "%23");
        let runtime = runtime();
        let uris = [file.to_str().unwrap().to_string(), format!("file://{encoded}")];
        assert_eq!(Location::parse(&uris[0]).unwrap(), Location::parse(&uris[1]).unwrap());
        for uri in uris {
            let object = runtime.block_on(Location::parse(&uri).unwrap().head()).unwrap();
            assert_eq!(object.size_bytes, 10);
            assert_eq!(&runtime.block_on(object.read(3..6)).unwrap()[..], b"345");
        }
    }

    #[test]
    fn parent_folders_are_resolved_as_the_system_does() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let direct = Location::parse(folder.path().join("a/new.bin").to_str().unwrap()).unwrap();
        let around = Location::parse(folder.path().join("a/b/../new.bin").to_str().unwrap()).unwrap();
        let canonical = std::fs::canonicalize(folder.path()).unwrap().join("a/new.bin");
        assert_eq!(around.path(), &Path::from_absolute_path(canonical).unwrap());
        assert_eq!(direct.path().filename(), around.path().filename());
    }

    #[test]
    fn an_object_replaced_after_it_was_seen_is_not_read() {
        let runtime = runtime();
        let location = Location::parse("memory://replaced/object").unwrap();
        let put = |text: &'static str| {
            runtime.block_on(location.store().put(location.path(), PutPayload::from(text))).unwrap();
        };
        put("first");
        let seen = runtime.block_on(location.head()).unwrap();
        assert_eq!(&runtime.block_on(seen.read(0..5)).unwrap()[..], b"first");
        put("later");
        assert!(matches!(runtime.block_on(seen.read(0..5)), Err(LocationError::Changed { .. })));
    }

    #[test]
    fn memory_stores_are_shared_by_name_and_list_in_order() {
        let runtime = runtime();
        for name in ["b/2", "a", "b/1", "c/d/e"] {
            let location = Location::parse("memory://listed/root").unwrap().join(name).unwrap();
            runtime.block_on(location.store().put(location.path(), PutPayload::from("x"))).unwrap();
        }
        let root = Location::parse("memory://listed/root").unwrap();
        let listed = runtime.block_on(root.list()).unwrap();
        let uris: Vec<&str> = listed.iter().map(|object| object.location.uri()).collect();
        let expected = ["a", "b/1", "b/2", "c/d/e"].map(|name| format!("memory://listed/root/{name}"));
        assert_eq!(uris, expected);
        let level = runtime.block_on(root.level()).unwrap();
        assert_eq!(level.objects.len(), 1);
        assert_eq!(level.folders.iter().map(Location::name).collect::<Vec<_>>(), ["b", "c"]);
        let elsewhere = Location::parse("memory://other/root").unwrap();
        assert!(runtime.block_on(elsewhere.list()).unwrap().is_empty());
        assert!(matches!(runtime.block_on(elsewhere.head()), Err(LocationError::NotFound { .. })));
    }
}
