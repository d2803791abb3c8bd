//! A file for what a build has no memory for: written from the front, read by its parts, gone with the build.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;

/// An unnamed file, where the system knows such; else one that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct ScratchFile {
    /// And the bytes written.
    file: Mutex<(File, u64)>,
    #[cfg(not(unix))]
    path: PathBuf,
}

/// Values in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    start: u64,
    len: usize,
}

impl ScratchFile {
    /// In `folder`.
    ///
    /// # Errors
    /// With the path that could not be made.
    pub fn create(folder: &Path) -> Result<Self, (PathBuf, io::Error)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("annvil-scratch-{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // Without its name the file goes with the process, however that ends.
                    #[cfg(unix)]
                    let _ = std::fs::remove_file(&path);
                    return Ok(Self {
                        file: Mutex::new((file, 0)),
                        #[cfg(not(unix))]
                        path,
                    });
                }
                // Of a process that had this one's number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err((path, error)),
            }
        }
    }

    /// Bytes written.
    #[cfg(test)]
    pub fn len(&self) -> u64 {
        self.file.lock().unwrap().1
    }

    pub fn append<T: Pod>(&self, values: &[T]) -> io::Result<Extent> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = file.1;
        file.0.seek(SeekFrom::Start(start))?;
        file.0.write_all(bytemuck::cast_slice(values))?;
        file.1 += size_of_val(values) as u64;
        Ok(Extent { start, len: values.len() })
    }

    /// Values of the type that was written.
    pub fn read<T: Pod>(&self, extent: Extent) -> io::Result<Vec<T>> {
        let mut values = vec![T::zeroed(); extent.len];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.0.seek(SeekFrom::Start(extent.start))?;
        file.0.read_exact(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

impl Extent {
    /// Values.
    pub fn len(self) -> usize {
        self.len
    }
}

#[cfg(not(unix))]
impl Drop for ScratchFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_back_in_any_order_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = ScratchFile::create(folder.path()).unwrap();
        let a: Vec<u32> = (0..1000).collect();
        let b: Vec<u16> = (0..77).rev().collect();
        let extents = (scratch.append(&a).unwrap(), scratch.append(&b).unwrap(), scratch.append::<u32>(&[]));
        assert_eq!(scratch.len(), 4 * 1000 + 2 * 77);
        assert_eq!(scratch.read::<u16>(extents.1).unwrap(), b);
        assert_eq!(scratch.read::<u32>(extents.0).unwrap(), a);
        assert!(scratch.read::<u32>(extents.2.unwrap()).unwrap().is_empty());
        drop(scratch);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let (path, _) = ScratchFile::create(&folder.path().join("missing")).unwrap_err();
        assert!(path.starts_with(folder.path()));
    }
}
