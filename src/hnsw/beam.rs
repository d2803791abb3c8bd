//! The nearest rows that a walk has seen, as many as it may hold, and which of them it has yet to expand.

use super::reach::Reach;
use crate::compute::cpu::Kernels;
use crate::vectors::Neighbor;

/// The nearest rows seen so far, ascending, each expanded or not: one sorted array serves as candidate queue and
/// result (NSG's pool, VLDB 2019). What an expansion finds is merged in one pass over the array.
#[derive(Default)]
pub(super) struct Beam {
    reach: Reach,
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
    /// Empties the beam, for as many rows as `reach` says, at most `widest` of them offered at once.
    pub fn reset(&mut self, reach: Reach, widest: usize) {
        self.reach = reach;
        self.len = 0;
        self.bound = u64::MAX;
        self.cursor = 0;
        if self.slots.len() < reach.most + widest {
            self.slots.resize(reach.most + widest, 0);
        }
        if self.incoming.len() < widest {
            self.incoming.resize(widest, 0);
        }
    }

    /// Whether there was more than the beam may hold.
    pub fn is_full(&self) -> bool {
        self.bound != u64::MAX
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
        let Reach { least, most, .. } = self.reach;
        self.len = (self.len + count).min(most);
        if self.len == most {
            self.bound = self.slots[most - 1];
        }
        // Only what comes among the first of the beam moves its bound.
        if least < self.len && place <= least {
            self.narrow();
        }
        self.cursor = self.cursor.min(place);
    }

    /// Lets go of what lies beyond the distance that the beam reaches.
    fn narrow(&mut self) {
        let Reach { least, k, stretch, .. } = self.reach;
        let limit = Neighbor::new(u32::MAX, stretch * distance_of(self.slots[k - 1])).key();
        // Distances that are about 0, or estimated below, have no multiples: `least` rows are held however far.
        let limit = limit.max(self.slots[least - 1] | u64::from(u32::MAX));
        if limit < self.bound {
            self.bound = limit;
            self.len = least + self.slots[least..self.len].partition_point(|&slot| slot <= limit);
        }
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
fn distance_of(slot: u64) -> f32 {
    Neighbor::of_key(slot & !u64::from(u32::MAX)).distance
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
                beam.reset(Reach::fixed(ef), 9);
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

    /// Beside the definition: what is among the `least` nearest, or at most `stretch` times as far as the k-th.
    #[test]
    fn beam_keeps_what_is_within_reach() {
        for kernels in available() {
            let mut random = Random::new(6);
            for (least, most, k, stretch) in
                [(4, 100, 2, 1.5), (2, 8, 1, 3.0), (5, 300, 5, 1.0), (3, 50, 1, 0.5)]
            {
                let ordinals: Vec<u32> = (0..600).collect();
                let distances: Vec<f32> = ordinals.iter().map(|_| random.below(400) as f32 - 2.0).collect();
                let mut beam = Beam::default();
                beam.reset(Reach { least, most, k, stretch }, 9);
                let mut seen = Vec::new();
                for (ordinals, distances) in ordinals.chunks(9).zip(distances.chunks(9)) {
                    beam.offer(kernels, ordinals, distances);
                    seen.extend(ordinals.iter().zip(distances).map(|(&o, &d)| Neighbor::new(o, d)));
                    seen.sort();
                    let limit =
                        (stretch * seen[k - 1].distance).max(seen[least.min(seen.len()) - 1].distance);
                    let expected = seen.iter().copied().take_while(|row| row.distance <= limit).take(most);
                    assert!(beam.nearest().eq(expected), "{} {least} {most}", kernels.isa);
                }
                assert!(beam.is_full());
            }
        }
    }
}
