//! The `ef` nearest rows that a walk has seen, and which of them it has yet to expand.

use crate::compute::cpu::Kernels;
use crate::vectors::Neighbor;

/// The `ef` nearest rows seen so far, ascending, each expanded or not: one sorted array serves as candidate queue and
/// result (NSG's pool, VLDB 2019). What an expansion finds is merged in one pass over the array.
#[derive(Default)]
pub(super) struct Beam {
    ef: usize,
    /// A [`Neighbor::key`] with its ordinal moved up one bit, and in the lowest whether the row was expanded.
    /// Ascending up to `len`, with room for what an expansion finds. (An index has at most 2³¹ rows.)
    slots: Vec<u64>,
    len: usize,
    /// A candidate that is not below this cannot enter.
    bound: u64,
    /// No row before this place is unexpanded.
    cursor: usize,
    incoming: Vec<u64>,
}

const EXPANDED: u64 = 1;

impl Beam {
    /// Empties the beam, for at most `ef` rows, at most `widest` of them offered at once.
    pub fn reset(&mut self, ef: usize, widest: usize) {
        self.ef = ef;
        self.len = 0;
        self.bound = u64::MAX;
        self.cursor = 0;
        if self.slots.len() < ef + widest {
            self.slots.resize(ef + widest, 0);
        }
        if self.incoming.len() < widest {
            self.incoming.resize(widest, 0);
        }
    }

    pub fn is_full(&self) -> bool {
        self.len == self.ef
    }

    /// Takes those of the rows that are near enough.
    #[inline]
    pub fn offer(&mut self, kernels: &Kernels, ordinals: &[u32], distances: &[f32]) {
        let incoming = &mut self.incoming[..ordinals.len()];
        let (mut count, bound) = (0, self.bound);
        for (&ordinal, &distance) in ordinals.iter().zip(distances) {
            let key = Neighbor::new(ordinal, distance).key();
            let slot = key & !u64::from(u32::MAX) | u64::from(ordinal) << 1;
            // Written in any case, and overwritten if it was too far: no branch to guess.
            incoming[count] = slot;
            count += usize::from(slot < bound);
        }
        if count == 0 {
            return;
        }
        let place = (kernels.merge)(&mut self.slots, self.len, &mut incoming[..count]);
        self.len = (self.len + count).min(self.ef);
        if self.is_full() {
            self.bound = self.slots[self.ef - 1];
        }
        self.cursor = self.cursor.min(place);
    }

    /// The nearest unexpanded row, which then counts as expanded.
    #[inline]
    pub fn expand_next(&mut self) -> Option<u32> {
        let slots = &mut self.slots[..self.len];
        while slots.get(self.cursor).is_some_and(|slot| slot & EXPANDED != 0) {
            self.cursor += 1;
        }
        let slot = slots.get_mut(self.cursor)?;
        *slot |= EXPANDED;
        self.cursor += 1;
        Some(row_of(*slot))
    }

    /// The rows with their distances as they were offered, ascending.
    pub fn nearest(&self) -> impl Iterator<Item = Neighbor> + '_ {
        let key = |&slot: &u64| slot & !u64::from(u32::MAX) | u64::from(row_of(slot));
        self.slots[..self.len].iter().map(move |slot| Neighbor::of_key(key(slot)))
    }
}

#[inline]
fn row_of(slot: u64) -> u32 {
    slot as u32 >> 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::available;
    use crate::vectors::Random;

    #[test]
    fn beam_keeps_the_nearest_and_expands_each_once() {
        for kernels in available() {
            let mut random = Random::new(5);
            for ef in [1, 2, 7, 64] {
                let ordinals: Vec<u32> = (0..500).collect();
                let distances: Vec<f32> = ordinals.iter().map(|_| random.below(40) as f32).collect();
                let mut beam = Beam::default();
                beam.reset(ef, 9);
                let mut expanded = Vec::new();
                for (ordinals, distances) in ordinals.chunks(9).zip(distances.chunks(9)) {
                    beam.offer(kernels, ordinals, distances);
                    expanded.extend(beam.expand_next());
                }
                let mut expected: Vec<Neighbor> =
                    ordinals.iter().zip(&distances).map(|(&o, &d)| Neighbor::new(o, d)).collect();
                expected.sort();
                assert!(beam.nearest().eq(expected.into_iter().take(ef)), "{} {ef}", kernels.isa);
                let distinct: std::collections::BTreeSet<_> = expanded.iter().collect();
                assert_eq!(distinct.len(), expanded.len());
            }
        }
    }
}
