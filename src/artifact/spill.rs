//! Arrays in files, for what memory has no room for: mapped, so that the system may take pages away and bring them again. The
//! one place here that knows of files, and of those only as memory: they have no name, or belong to the caller alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

use super::tensor::{Array, Element};
use crate::vectors::VectorBuf;

/// Maps that [`give_back`] may empty. It never looks at what they hold.
static MAPS: Mutex<Vec<Listed>> = Mutex::new(Vec::new());

struct Listed {
    map: Weak<MmapRaw>,
    access: Access,
}

/// How the values of a map are read and written while they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Mostly one after the other: a page that has been used is not missed soon.
    InOrder,
    /// Anywhere: every page is missed.
    Anywhere,
}

fn registered(map: MmapRaw, access: Access) -> Arc<MmapRaw> {
    let map = Arc::new(map);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|other| other.map.strong_count() > 0);
    maps.push(Listed { map: Arc::downgrade(&map), access });
    map
}

/// What the system reads beside a page that is missed: for values in order some MiB, as its disk is set; for others nothing, since where
/// memory is short that would take the place of pages that are in use (25,000 rows here and there of a file of 3 GB were 180 GB read).
fn advise(map: &MmapRaw, access: Access) {
    #[cfg(unix)]
    let _ = map.advise(match access {
        Access::InOrder => memmap2::Advice::Normal,
        Access::Anywhere => memmap2::Advice::Random,
    });
    #[cfg(not(unix))]
    let _ = (map, access);
}

/// As long as it is there, maps that were there before it are accessed anywhere.
#[must_use]
pub struct Jumping(Vec<Arc<MmapRaw>>);

impl Jumping {
    pub fn begin() -> Self {
        let maps = held(Access::InOrder);
        maps.iter().for_each(|map| advise(map, Access::Anywhere));
        Self(maps)
    }
}

impl Drop for Jumping {
    fn drop(&mut self) {
        self.0.iter().for_each(|map| advise(map, Access::InOrder));
    }
}

fn held(access: Access) -> Vec<Arc<MmapRaw>> {
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.iter().filter(|listed| listed.access == access).filter_map(|listed| listed.map.upgrade()).collect()
}

/// A map that nobody writes to, kept as long as any bytes of it are.
struct Kept(Arc<MmapRaw>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the map is that long and there as long as `self` is; who makes a `Kept` has given up writing to it.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

/// The bytes of a file that nobody writes to any more, and that nobody but the caller has to do with.
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    let map = registered(MmapOptions::new().map_raw_read_only(&file)?, Access::InOrder);
    Ok(Bytes::from_owner(Kept(map)))
}

/// Values while they are made: in memory, or in a file without a name.
pub struct Buffer<T>(Place<T>);

enum Place<T> {
    Memory(Vec<T>),
    /// Of a shared map of a file of its own: pages that are taken away come back as they were written.
    File(Arc<MmapRaw>, PhantomData<T>),
}

impl<T: Element> Buffer<T> {
    /// `len` zeros, in a file in `folder` where there is one.
    ///
    /// # Errors
    /// What the folder's file system says, a full disk included.
    pub fn zeroed(folder: Option<&Path>, len: usize) -> io::Result<Self> {
        Self::accessed(Access::InOrder, folder, len)
    }

    /// As [`zeroed`](Self::zeroed), for values that are accessed in that way.
    ///
    /// # Errors
    /// As `zeroed`.
    pub fn accessed(access: Access, folder: Option<&Path>, len: usize) -> io::Result<Self> {
        let Some(folder) = folder.filter(|_| len > 0) else {
            return Ok(Self(Place::Memory(bytemuck::zeroed_vec(len))));
        };
        let file = unnamed(folder)?;
        reserve(&file, (len * size_of::<T>()) as u64)?;
        let map = registered(MmapRaw::map_raw(&file)?, access);
        // There is nothing to read yet, least of all ahead.
        advise(&map, Access::Anywhere);
        Ok(Self(Place::File(map, PhantomData)))
    }

    /// Says that all has been written once, and will be read as it was said to be accessed.
    pub fn written(&self) {
        if let Place::File(map, _) = &self.0 {
            let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(listed) = maps.iter().find(|listed| listed.map.as_ptr() == Arc::as_ptr(map)) {
                advise(map, listed.access);
            }
        }
    }

    /// The values, to be shared.
    pub fn into_array(self) -> Array<T> {
        self.written();
        match self.0 {
            Place::Memory(values) => Array::from_vec(values),
            Place::File(map, _) => Array::from_bytes(Bytes::from_owner(Kept(map))),
        }
    }
}

impl Buffer<f32> {
    /// The values as rows of so many dimensions, where they are.
    pub fn into_rows(self, dim: usize) -> VectorBuf {
        self.written();
        match self.0 {
            Place::Memory(values) => VectorBuf::new(values, dim),
            Place::File(..) => VectorBuf::shared(Arc::new(self), dim),
        }
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Place::Memory(values))
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Memory(values) => values,
            Place::File(map, _) => {
                // SAFETY: the map is that long, begins on a page, holds any bits that a `T` may have, and is there as long as
                // `self` is, through which alone it is read and written.
                unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<T>()) }
            }
        }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Place::Memory(values) => values,
            Place::File(map, _) => {
                // SAFETY: as above, and `self` is borrowed alone: the registry's weak reference is never read through.
                unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<T>()) }
            }
        }
    }
}

impl<T: Element> AsRef<[T]> for Buffer<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Element> AsMut<[T]> for Buffer<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer<{:?}>[{}]", T::DTYPE, self.len())
    }
}

/// An array of `len` values in a file without a name in `folder`, as `fill` leaves it; zeros before.
pub fn array_in_file<T: Element, E: From<io::Error>>(
    folder: &Path,
    len: usize,
    fill: impl FnOnce(&mut [T]) -> Result<(), E>,
) -> Result<Array<T>, E> {
    let mut values = Buffer::zeroed(Some(folder), len)?;
    fill(&mut values)?;
    Ok(values.into_array())
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

/// Parts of a map that is accessed anywhere which are given back one after the other: all of it would be missed at once.
const PARTS: usize = 8;

/// Takes pages of maps out of this process's resident memory: of those that are accessed in order all, of the others one part after the
/// other until `is_enough`. They stay in the system's, as long as it has room, and come back when they are touched.
pub fn give_back(is_enough: &dyn Fn() -> bool) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    held(Access::InOrder).iter().for_each(|map| take_out(map, 0, map.len()));
    let anywhere = held(Access::Anywhere);
    for _ in 0..PARTS {
        if is_enough() {
            return;
        }
        let part = NEXT.fetch_add(1, Ordering::Relaxed) % PARTS;
        for map in &anywhere {
            // The system takes whole pages.
            let step = map.len().div_ceil(PARTS).next_multiple_of(1 << 16);
            let start = (part * step).min(map.len());
            take_out(map, start, step.min(map.len() - start));
        }
    }
}

fn take_out(map: &MmapRaw, start: usize, len: usize) {
    // SAFETY: the map is of a file and shared, so its pages are the file's, written ones too, and are read again where they
    // are touched; it is not unmapped meanwhile, since the caller holds it.
    #[cfg(unix)]
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
    #[cfg(not(unix))]
    let _ = (map, start, len);
}

/// Gives back what an allocator keeps of freed memory for later: after a stage whose pieces the next one has no use for. glibc
/// keeps up to 64 MiB for each thread otherwise, half of a dataset of 300,000 rows.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the allocator give back every block of a megabyte or more as soon as it is freed. Of its own accord glibc keeps freed blocks of
/// up to 32 MiB, for each thread that has had one: parts of files that are written and read again, a dozen at a time.
pub fn keep_no_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number of the allocator's.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
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
            give_back(&|| false);
            assert!(array.iter().copied().eq(0..1 << 20));
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn pages_are_taken_away_while_they_are_written_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut values = Buffer::<u32>::accessed(Access::Anywhere, Some(folder.path()), 1 << 20).unwrap();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    give_back(&|| false);
                }
            });
            for round in 1..=4 {
                values.iter_mut().zip(0..).for_each(|(value, number)| *value += round * number);
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let expected = |number: u32| number.wrapping_mul(10);
        assert!(values.iter().copied().eq((0..1 << 20).map(expected)));
        let memory = Buffer::from(values.to_vec());
        assert_eq!(memory.into_array()[..], values.into_array()[..]);
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
