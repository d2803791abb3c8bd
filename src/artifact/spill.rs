//! Arrays in files, for what memory has no room for: mapped, so that the system may take pages away and bring them again. The
//! one place here that knows of files, and of those only as memory: they have no name, or belong to the caller alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::{Mmap, MmapMut, UncheckedAdvice};

use super::tensor::{Array, Element};

/// Maps that [`give_back`] may empty.
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// A map, kept as long as any bytes of it are.
struct Kept(Arc<Mmap>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn registered(map: Mmap) -> Bytes {
    let map = Arc::new(map);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|other| other.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Bytes::from_owner(Kept(map))
}

/// The bytes of a file that nobody writes to any more, and that nobody but the caller has to do with.
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the bytes must not change while they are borrowed: that is asked of the caller above.
    Ok(registered(unsafe { Mmap::map(&file) }?))
}

/// An array of `len` values in a file without a name in `folder`, as `fill` leaves it; zeros before.
pub fn array_in_file<T: Element, E: From<io::Error>>(
    folder: &Path,
    len: usize,
    fill: impl FnOnce(&mut [T]) -> Result<(), E>,
) -> Result<Array<T>, E> {
    if len == 0 {
        return Ok(Array::from_vec(Vec::new()));
    }
    let file = unnamed(folder)?;
    reserve(&file, (len * size_of::<T>()) as u64)?;
    // SAFETY: the file has just been made and has no name (or one that nobody else looks for): no one else writes to it.
    let mut map = unsafe { MmapMut::map_mut(&file) }?;
    fill(bytemuck::cast_slice_mut(&mut map))?;
    Ok(Array::from_bytes(registered(map.make_read_only()?)))
}

/// Makes room on the disk before it is mapped: where there is none that is an error now, and not a signal when a page is written.
fn reserve(file: &File, size_bytes: u64) -> io::Result<()> {
    file.set_len(size_bytes)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let size = libc::off_t::try_from(size_bytes).map_err(io::Error::other)?;
        // SAFETY: takes no pointer; the descriptor is the file's.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size) } {
            // A file system that cannot reserve.
            0 | libc::EOPNOTSUPP | libc::EINVAL => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
    Ok(())
}

fn unnamed(folder: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("array-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    // Without its name the file goes with the process. Where that cannot be, it goes with the folder.
    let _ = std::fs::remove_file(&path);
    Ok(file)
}

/// Takes the pages of all maps out of this process's resident memory. They stay in the system's, as long as it has room, and come
/// back when they are touched.
pub fn give_back() {
    let maps: Vec<Arc<Mmap>> = {
        let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        maps.iter().filter_map(Weak::upgrade).collect()
    };
    for map in maps {
        // SAFETY: the map is of a file and shared, so its pages are the file's, and are read again where they are touched; it is
        // not unmapped meanwhile, since it is held here.
        #[cfg(unix)]
        let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

/// Gives back what an allocator keeps of freed memory for later: after a stage whose pieces the next one has no use for.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let fill = |values: &mut [u32]| {
            values.iter_mut().zip(0..).for_each(|(value, number)| *value = number);
            Ok::<_, io::Error>(())
        };
        let array = array_in_file(folder.path(), 1 << 20, fill).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
        let path = folder.path().join("bytes");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let bytes = map_file(&path).unwrap();
        for _ in 0..3 {
            give_back();
            assert!(array.iter().copied().eq(0..1 << 20));
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn an_array_that_cannot_be_filled_is_an_error_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let refused = array_in_file(folder.path(), 10, |_: &mut [u8]| Err(io::Error::other("no")));
        assert_eq!(refused.unwrap_err().to_string(), "no");
        assert!(array_in_file::<u8, io::Error>(&folder.path().join("nowhere"), 10, |_| Ok(())).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
