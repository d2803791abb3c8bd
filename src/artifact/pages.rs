//! Memory for arrays that a search jumps about in.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use memmap2::MmapMut;

/// Immutable bytes that start on a cache line, and from [`Pages::HUGE`] on lie in huge pages where the
/// system has them to give: a jump then seldom has to look up where its page is.
pub(super) enum Pages {
    /// With the bytes in use.
    Lines(Vec<Line>, usize),
    Mapped(MmapMut, usize),
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([u8; Pages::LINE]);

impl Pages {
    pub const LINE: usize = 64;
    const HUGE: usize = 2 << 20;

    pub fn copy_of(bytes: &[u8]) -> Self {
        let Ok(pages) = Self::filled(bytes.len(), |room| {
            room.copy_from_slice(bytes);
            Ok::<_, Infallible>(())
        });
        pages
    }

    /// So many bytes as `fill`, which is given zeros, leaves them.
    ///
    /// # Errors
    /// What `fill` says.
    pub fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        // A mapping that is refused, as where a process may have only so many, is no reason to fail.
        if len >= Self::HUGE
            && let Ok(mut map) = MmapMut::map_anon(len.next_multiple_of(Self::HUGE))
        {
            // Advice: where it is not taken, pages are small. The first asks for huge pages as they are touched, the second
            // to gather those that could not be had at once.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            fill(&mut map[..len])?;
            collapse(&mut map);
            return Ok(Self::Mapped(map, len));
        }
        let mut lines: Vec<Line> = bytemuck::zeroed_vec(len.div_ceil(Self::LINE));
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len])?;
        Ok(Self::Lines(lines, len))
    }
}

/// A file's bytes in this process's memory, starting on a cache line: what an index can be assembled from without copying them.
///
/// # Errors
/// What the file system says.
pub fn read_file(path: &Path) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    Ok(Bytes::from_owner(Pages::filled(len, |bytes| file.read_exact(bytes))?))
}

/// Best effort, as all advice: `memmap2` does not know this one.
fn collapse(map: &mut [u8]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is the caller's own, and moving its pages changes nothing that a program sees.
    unsafe {
        libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_COLLAPSE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Lines(lines, len) => &bytemuck::cast_slice(lines)[..*len],
            Self::Mapped(map, len) => &map[..*len],
        }
    }
}
