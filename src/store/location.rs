use std::sync::{Arc, LazyLock};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

/// Where a URI points: a store, and a path in it.
#[derive(Debug, Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    path: Path,
    uri: String,
}

#[derive(Debug, thiserror::Error)]
#[error("`{uri}`: {what}")]
pub struct LocationError {
    pub uri: String,
    pub what: String,
}

static MEMORY: LazyLock<Arc<InMemory>> = LazyLock::new(|| Arc::new(InMemory::new()));

impl Location {
    pub fn parse(uri: &str) -> Result<Self, LocationError> {
        let error = |what: String| LocationError { uri: uri.into(), what };
        let (store, path): (Arc<dyn ObjectStore>, _) = if let Some(path) = uri.strip_prefix("memory://") {
            (MEMORY.clone(), Path::parse(path).map_err(|e| error(e.to_string()))?)
        } else {
            let path = std::path::absolute(uri.strip_prefix("file://").unwrap_or(uri));
            let path = path.map_err(|e| error(e.to_string()))?;
            let path = Path::from_absolute_path(path).map_err(|e| error(e.to_string()))?;
            (Arc::new(LocalFileSystem::new().with_fsync(true)), path)
        };
        Ok(Self { store, path, uri: uri.into() })
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }
}
