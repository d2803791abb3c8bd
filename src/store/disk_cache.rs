//! Blocks kept in a folder of this machine, within a number of bytes.
//!
//! A file for each block, called by its segment, its file and its number: another version that has the same segment finds
//! it. Nothing here is believed: who takes a block checks it, and gives back what is damaged. What cannot be written is
//! not kept, and no error. The folder belongs to one process at a time; what another process adds meanwhile counts from the
//! next start.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::clock::Clock;

const EXTENSION: &str = ".block";
const UNFINISHED: &str = ".unfinished";

#[derive(Debug)]
pub(super) struct DiskCache {
    folder: PathBuf,
    /// What is there; the files are its values.
    names: Mutex<Clock<String, ()>>,
}

impl DiskCache {
    /// The cache in a folder, which is made where it is not there. All indexes of a process that name a folder share it; the
    /// budget is that of the last.
    ///
    /// # Errors
    /// The folder cannot be made or listed.
    pub fn open(folder: &Path, budget_bytes: u64) -> std::io::Result<Arc<Self>> {
        static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<DiskCache>>>> = LazyLock::new(Mutex::default);
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = open.get(&folder).and_then(Weak::upgrade) {
            let gone = cache.lock().limit(budget_bytes);
            cache.delete(gone);
            return Ok(cache);
        }
        let cache = Arc::new(Self { names: Mutex::new(Clock::new(budget_bytes)), folder: folder.clone() });
        cache.take_stock()?;
        open.retain(|_, cache| cache.strong_count() > 0);
        open.insert(folder, Arc::downgrade(&cache));
        Ok(cache)
    }

    /// Counts the blocks that are there, the oldest first, and removes what a process that was killed left unfinished.
    fn take_stock(&self) -> std::io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.ends_with(UNFINISHED) {
                let _ = fs::remove_file(entry.path());
            } else if name.ends_with(EXTENSION)
                && let Ok(meta) = entry.metadata()
            {
                found.push((meta.modified().ok(), name, meta.len()));
            }
        }
        found.sort();
        let mut names = self.lock();
        let gone: Vec<_> =
            found.into_iter().flat_map(|(_, name, size)| names.insert(name, (), size)).collect();
        drop(names);
        self.delete(gone);
        Ok(())
    }

    pub fn read(&self, block: &str) -> Option<Vec<u8>> {
        let name = format!("{block}{EXTENSION}");
        self.lock().get(&name)?;
        match fs::read(self.folder.join(&name)) {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                self.lock().remove(&name);
                None
            }
        }
    }

    /// Forgets a block that is not what it should be.
    pub fn remove(&self, block: &str) {
        let name = format!("{block}{EXTENSION}");
        self.lock().remove(&name);
        self.delete(vec![(name, ())]);
    }

    pub fn write(&self, block: &str, bytes: &[u8]) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("{block}{EXTENSION}");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{}-{number}{UNFINISHED}", std::process::id()));
        // Room is made before the file is there, so that the folder never holds more than the budget but for what is
        // being written.
        let gone = self.lock().insert(name.clone(), (), bytes.len() as u64);
        let refused = gone.iter().any(|(other, ())| *other == name);
        self.delete(gone);
        if refused {
            return;
        }
        let written =
            fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, self.folder.join(&name)));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
            self.lock().remove(&name);
        } else if !self.lock().contains(&name) {
            // It had to go before it was there.
            self.delete(vec![(name, ())]);
        }
    }

    fn delete(&self, gone: Vec<(String, ())>) {
        for (name, ()) in gone {
            // Where it is gone already, so much the better.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clock<String, ()>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(folder: &Path) -> Vec<String> {
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_holds_no_more_than_its_budget_also_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path(), 100).unwrap();
        for block in ["a", "b", "c"] {
            cache.write(block, &[1; 40]);
        }
        cache.write("large", &[1; 101]);
        assert_eq!(held(folder.path()), ["b.block", "c.block"]);
        assert_eq!((cache.read("a"), cache.read("b")), (None, Some(vec![1; 40])));
        drop(cache);
        fs::write(folder.path().join("1-2.unfinished"), [1]).unwrap();
        fs::write(folder.path().join("somebody's"), [1]).unwrap();
        let cache = DiskCache::open(folder.path(), 40).unwrap();
        assert_eq!(held(folder.path()).len(), 2, "{:?}", held(folder.path()));
        assert!(cache.read("b").is_some() != cache.read("c").is_some());
        // The same cache, not another that knows nothing of this one's files.
        let again = DiskCache::open(folder.path(), 80).unwrap();
        assert!(Arc::ptr_eq(&cache, &again));
        again.write("d", &[1; 40]);
        assert!(cache.read("d").is_some());
        cache.remove("d");
        assert_eq!(cache.read("d"), None);
    }

    #[test]
    fn a_block_whose_file_is_gone_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path(), 100).unwrap();
        cache.write("a", &[1; 40]);
        fs::remove_file(folder.path().join("a.block")).unwrap();
        assert_eq!(cache.read("a"), None);
        cache.write("a", &[2; 40]);
        assert_eq!(cache.read("a"), Some(vec![2; 40]));
    }
}
