//! Memory for arrays that a search jumps about in.

use memmap2::MmapMut;

/// An immutable copy of bytes that starts on a cache line, and from [`Pages::HUGE`] on lies in huge pages where the
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
        // A mapping that is refused, as where a process may have only so many, is no reason to fail.
        if bytes.len() >= Self::HUGE
            && let Ok(mut map) = MmapMut::map_anon(bytes.len().next_multiple_of(Self::HUGE))
        {
            // Advice: where it is not taken, pages are small. The first asks for huge pages as they are touched, the second
            // to gather those that could not be had at once.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            map[..bytes.len()].copy_from_slice(bytes);
            collapse(&mut map);
            return Self::Mapped(map, bytes.len());
        }
        let mut lines: Vec<Line> = bytemuck::zeroed_vec(bytes.len().div_ceil(Self::LINE));
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Self::Lines(lines, bytes.len())
    }

    /// Has the system gather what lies in whole huge pages, wherever the bytes were allocated.
    pub fn make_huge(bytes: &mut [u8]) {
        let first = bytes.as_ptr().align_offset(Self::HUGE);
        if let Some(rest) = bytes.get_mut(first..) {
            let whole = rest.len() / Self::HUGE * Self::HUGE;
            if whole > 0 {
                collapse(&mut rest[..whole]);
            }
        }
    }
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
