//! The best rows of a scan.

use super::{EntryMask, SCAN_ROWS};
use crate::compute::cpu::{NIBBLE_SLACK, NibbleScan, SignScan, kernels};
use crate::vectors::Neighbor;

/// Scores compared with the bound in one go.
const GROUP: usize = 16;

/// The best of a scan, by a bound: a row beyond the running `wanted`-th best is never looked at again, the others are
/// appended and cut back by selection once twice as many have gathered.
#[derive(Debug)]
pub struct Shortlist {
    wanted: usize,
    bound: f32,
    /// [`Neighbor::key`]s, the first `len`; room for a scan's behind them.
    keys: Vec<u64>,
    len: usize,
}

impl Shortlist {
    pub fn new() -> Self {
        Self { wanted: 1, bound: f32::INFINITY, keys: Vec::new(), len: 0 }
    }

    pub fn empty(&mut self, wanted: usize) {
        (self.wanted, self.bound, self.len) = (wanted, f32::INFINITY, 0);
        let room = 2 * wanted + SCAN_ROWS + NIBBLE_SLACK;
        if self.keys.len() < room {
            self.keys.resize(room, 0);
        }
    }

    /// Drops what is not among the best, where that pays.
    #[inline]
    fn settle(&mut self) {
        if self.len >= 2 * self.wanted {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.len > self.wanted {
            let (_, last, _) = self.keys[..self.len].select_nth_unstable(self.wanted - 1);
            self.bound = Neighbor::of_key(*last).distance;
            self.len = self.wanted;
        }
    }

    /// The best, in no order.
    pub fn best(&mut self) -> impl Iterator<Item = Neighbor> {
        self.cut();
        self.keys[..self.len].iter().map(|&key| Neighbor::of_key(key))
    }

    /// Entries by their codes; `shift` is added to the numbers of what is found.
    pub fn scan(&mut self, scan: NibbleScan<'_>, shift: u32) {
        self.settle();
        let found = (kernels().nibble_scan)(scan, self.bound, &mut self.keys[self.len..]);
        self.take(found, shift);
    }

    fn take(&mut self, found: usize, shift: u32) {
        if shift > 0 {
            // A key ends with its ordinal.
            self.keys[self.len..self.len + found].iter_mut().for_each(|key| *key += u64::from(shift));
        }
        self.len += found;
    }

    pub fn sign_scan(&mut self, scan: SignScan<'_>, shift: u32) {
        self.settle();
        let found = (kernels().sign_scan)(scan, self.bound, &mut self.keys[self.len..]);
        self.take(found, shift);
    }

    /// Beyond this no row is wanted.
    #[inline]
    pub fn bound(&self) -> f32 {
        self.bound
    }

    /// One row.
    #[inline]
    pub fn push(&mut self, row: Neighbor) {
        if row.distance <= self.bound {
            self.keys[self.len] = row.key();
            self.len += 1;
            self.settle();
        }
    }

    /// Rows from `first` on, by their scores. Once full hardly any passes the bound, so a group is compared as a whole
    /// first.
    pub fn offer(&mut self, scores: &[f32], first: u32, mask: Option<EntryMask<'_>>) {
        for (group, scores) in scores.chunks(GROUP).enumerate() {
            let bound = self.bound;
            if scores.iter().fold(false, |any, &score| any | (score <= bound)) {
                for (ordinal, &score) in (first + (group * GROUP) as u32..).zip(scores) {
                    if score <= bound && mask.is_none_or(|mask| mask.contains(ordinal)) {
                        self.keys[self.len] = Neighbor::new(ordinal, score).key();
                        self.len += 1;
                    }
                }
                self.settle();
            }
        }
    }
}
