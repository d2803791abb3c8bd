//! The links of one layer: a fixed number of slots per row, filled from the front.

use std::io;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::artifact::Array;
use crate::artifact::spill::Buffer;

/// What a slot without a link holds.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Links {
    degree: usize,
    /// `rows × degree`.
    slots: Buffer<u32>,
}

impl Links {
    /// Without a link; in a file in `folder` where there is one.
    pub fn new(folder: Option<&Path>, rows: usize, degree: usize) -> io::Result<Self> {
        let mut links = Self::unset(folder, rows, degree)?;
        links.slots.par_chunks_mut(1 << 16).for_each(|slots| slots.fill(NONE));
        links.written();
        Ok(links)
    }

    /// As [`new`](Self::new), for whoever writes every slot.
    pub fn unset(folder: Option<&Path>, rows: usize, degree: usize) -> io::Result<Self> {
        assert!(degree > 0);
        Ok(Self { degree, slots: Buffer::zeroed(folder, rows * degree)? })
    }

    /// Says that every slot has been written.
    pub fn written(&self) {
        self.slots.written();
    }

    #[cfg(test)]
    pub fn of_slots(slots: Vec<u32>, degree: usize) -> Self {
        assert!(degree > 0 && slots.len().is_multiple_of(degree));
        Self { degree, slots: slots.into() }
    }

    /// Slots per row.
    pub fn degree(&self) -> usize {
        self.degree
    }

    pub fn rows(&self) -> usize {
        self.slots.len() / self.degree
    }

    /// Of all rows.
    #[cfg(test)]
    pub fn all_slots(&self) -> &[u32] {
        &self.slots
    }

    pub fn into_slots(self) -> Array<u32> {
        self.slots.into_array()
    }

    pub fn all_slots_mut(&mut self) -> &mut [u32] {
        &mut self.slots
    }

    pub fn slots(&self, row: u32) -> &[u32] {
        &self.slots[row as usize * self.degree..(row as usize + 1) * self.degree]
    }

    pub fn slots_mut(&mut self, row: u32) -> &mut [u32] {
        &mut self.slots[row as usize * self.degree..(row as usize + 1) * self.degree]
    }

    /// What `row` links to.
    pub fn of(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        self.slots(row).iter().copied().take_while(|&to| to != NONE)
    }

    pub fn has_room(&self, row: u32) -> bool {
        self.slots(row)[self.degree - 1] == NONE
    }

    /// Links of all rows together.
    pub fn count(&self) -> usize {
        self.slots.iter().filter(|&&to| to != NONE).count()
    }

    /// Links `from` with `to` where it has room, and does not already.
    pub fn add(&mut self, from: u32, to: u32) {
        if let Some(slot) = self.slots_mut(from).iter_mut().find(|slot| **slot == to || **slot == NONE) {
            *slot = to;
        }
    }

    /// Links `from` with `to`, which it does not yet; without room, in place of its last link.
    pub fn force(&mut self, from: u32, to: u32) {
        let last = self.degree - 1;
        let slots = self.slots_mut(from);
        let slot = slots.iter().position(|&other| other == NONE).unwrap_or(last);
        slots[slot] = to;
    }

    /// Gives every link its way back where the other end has room: rows that are nobody's nearest become reachable, at
    /// no distance computed. The ways back to one row arrive in the order of the rows that they lead to.
    ///
    /// They are gathered for so many rows at a time as `at_once_bytes` hold those of, by going through all links, and then written row
    /// by row: in file and cache what is written to is a stretch, where going along the links it would be anywhere.
    pub fn reciprocate(&mut self, at_once_bytes: usize) {
        // What a row has at the start stands before what it is given.
        let own: Vec<u16> =
            self.slots.par_chunks_exact(self.degree).map(|slots| filled(slots) as u16).collect();
        let count: usize = own.par_iter().map(|&own| usize::from(own)).sum();
        let rounds = (count * size_of::<WayBack>()).div_ceil(at_once_bytes.max(1)).max(1);
        let step = self.rows().div_ceil(rounds).max(BUCKET_ROWS).next_multiple_of(BUCKET_ROWS);
        for first in (0..self.rows()).step_by(step) {
            let range = first as u32..(first + step).min(self.rows()) as u32;
            let ways = self.ways_back(&own, range);
            let (degree, slots) = (self.degree, &mut self.slots[first * self.degree..]);
            slots
                .par_chunks_mut(BUCKET_ROWS * degree)
                .zip(own[first..].par_chunks(BUCKET_ROWS))
                .take(step / BUCKET_ROWS)
                .enumerate()
                .for_each(|(bucket, (slots, own))| {
                    let first = (first + bucket * BUCKET_ROWS) as u32;
                    let mut used = own.to_vec();
                    for &WayBack { from, to } in ways.iter().flat_map(|ways| ways.of_bucket(bucket)) {
                        let place = (from - first) as usize;
                        give(&mut slots[place * degree..][..degree], &mut used[place], to);
                    }
                });
        }
    }

    /// The ways back from the rows of `range`, in parts whose order is that of the rows that they lead to.
    fn ways_back(&self, own: &[u16], range: Range<u32>) -> Vec<WaysBack> {
        let part_rows = self.rows().div_ceil(4 * rayon::current_num_threads());
        let parts = self.slots.par_chunks(part_rows * self.degree).zip(own.par_chunks(part_rows)).enumerate();
        let ways = parts.map(|(part, (slots, own))| {
            let links = || {
                let rows = (part * part_rows) as u32..;
                rows.zip(slots.chunks_exact(self.degree)).zip(own).flat_map(|((row, slots), &own)| {
                    slots[..usize::from(own)].iter().map(move |&to| WayBack { from: to, to: row })
                })
            };
            WaysBack::sorted(&range, links)
        });
        ways.collect()
    }
}

/// Links that a row has.
fn filled(slots: &[u32]) -> usize {
    slots.iter().position(|&to| to == NONE).unwrap_or(slots.len())
}

/// Adds `to` to the `used` first of `slots` if there is room and it is not there yet.
fn give(slots: &mut [u32], used: &mut u16, to: u32) {
    // Without a branch for each, so that whole registers are compared.
    let is_linked = slots.iter().fold(false, |is_linked, &other| is_linked | (other == to));
    if usize::from(*used) < slots.len() && !is_linked {
        slots[usize::from(*used)] = to;
        *used += 1;
    }
}

/// Rows whose ways back are written together: their links are a share of L2.
const BUCKET_ROWS: usize = 1 << 12;

#[derive(Debug, Clone, Copy, Default)]
struct WayBack {
    from: u32,
    to: u32,
}

/// Ways back of a range of rows, bucket by bucket, in the order that they came in each.
struct WaysBack {
    ways: Vec<WayBack>,
    /// Where each bucket ends.
    ends: Vec<usize>,
}

impl WaysBack {
    /// Of those that `all` goes through, twice, those from rows of `range`.
    fn sorted<I: Iterator<Item = WayBack>>(range: &Range<u32>, all: impl Fn() -> I) -> Self {
        let bucket_of = |way: &WayBack| (way.from - range.start) as usize / BUCKET_ROWS;
        let own = || all().filter(|way| range.contains(&way.from));
        let mut next = vec![0; range.len().div_ceil(BUCKET_ROWS)];
        own().for_each(|way| next[bucket_of(&way)] += 1);
        let count = next.iter_mut().fold(0, |start, next| start + std::mem::replace(next, start));
        let mut ways = vec![WayBack::default(); count];
        for way in own() {
            let place = &mut next[bucket_of(&way)];
            ways[*place] = way;
            *place += 1;
        }
        Self { ways, ends: next }
    }

    fn of_bucket(&self, bucket: usize) -> &[WayBack] {
        let start = if bucket == 0 { 0 } else { self.ends[bucket - 1] };
        &self.ways[start..self.ends[bucket]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn a_link_is_given_back_where_there_is_room() {
        let mut links = Links::of_slots(vec![1, 2, 0, NONE, 1, NONE, 0, 1], 2);
        links.reciprocate(usize::MAX);
        assert_eq!(links.all_slots(), [1, 2, 0, 2, 1, 0, 0, 1]);
        assert_eq!((links.count(), links.has_room(2)), (8, false));
    }

    #[test]
    fn ways_back_are_those_of_going_along_the_links_however_many_are_gathered_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random::new(4);
        for (rows, degree, most) in [(1, 2, 0), (5, 4, 3), (3 * BUCKET_ROWS + 7, 6, 6), (9000, 3, 1)] {
            let mut links = Links::new(Some(folder.path()), rows, degree).unwrap();
            for row in 0..rows as u32 {
                for _ in 0..random.below(most + 1) {
                    // Some rows are linked to by very many.
                    let of = if random.below(4) == 0 { rows.min(9) } else { rows };
                    let to = random.below(of) as u32;
                    if to != row {
                        links.add(row, to);
                    }
                }
            }
            let mut expected = links.all_slots().to_vec();
            for (row, own) in links.all_slots().chunks_exact(degree).enumerate() {
                for &to in own.iter().take_while(|&&to| to != NONE) {
                    let slots = &mut expected[to as usize * degree..][..degree];
                    if !slots.contains(&(row as u32))
                        && let Some(slot) = slots.iter_mut().find(|slot| **slot == NONE)
                    {
                        *slot = row as u32;
                    }
                }
            }
            for at_once_bytes in [0, 4000, usize::MAX] {
                let mut links = Links::of_slots(links.all_slots().to_vec(), degree);
                links.reciprocate(at_once_bytes);
                assert!(links.all_slots() == expected, "{rows} rows, {at_once_bytes} bytes");
            }
        }
    }

    #[test]
    fn a_forced_link_takes_the_last_slot_only_without_room() {
        let mut links = Links::new(None, 3, 2).unwrap();
        links.force(0, 1);
        links.force(0, 2);
        assert_eq!(links.slots(0), [1, 2]);
        links.force(0, 7);
        assert_eq!(links.slots(0), [1, 7]);
        links.add(0, 9);
        links.add(1, 0);
        links.add(1, 0);
        assert_eq!(links.all_slots(), [1, 7, 0, NONE, NONE, NONE]);
    }
}
