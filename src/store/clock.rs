//! What a cache keeps, within a number of bytes: the clock, or second chance (Corbató 1968). A newcomer takes the place of
//! the oldest that was not asked for since the hand last came by.
//!
//! Not `quick_cache` or `moka`: blocks are of one size, they come and go by the batch under one lock, and who waits for whom
//! is told by `blocks`; what is left of a cache is this.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct Clock<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Each key once; the front is where the hand stands.
    hand: VecDeque<K>,
    size_bytes: u64,
    budget_bytes: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    size_bytes: u64,
    used: bool,
}

impl<K: Clone + Eq + Hash, V> Clock<K, V> {
    pub fn new(budget_bytes: u64) -> Self {
        Self { entries: HashMap::new(), hand: VecDeque::new(), size_bytes: 0, budget_bytes }
    }

    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let entry = self.entries.get_mut(key)?;
        entry.used = true;
        Some(&entry.value)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Keeps a value, and hands back what had to go for it: itself, where it is larger than the budget. One that is there
    /// already stays.
    pub fn insert(&mut self, key: K, value: V, size_bytes: u64) -> Vec<(K, V)> {
        if self.contains(&key) {
            return Vec::new();
        }
        if size_bytes > self.budget_bytes {
            return vec![(key, value)];
        }
        let gone = self.make_room(self.budget_bytes - size_bytes);
        self.size_bytes += size_bytes;
        self.hand.push_back(key.clone());
        self.entries.insert(key, Entry { value, size_bytes, used: false });
        gone
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let entry = self.entries.remove(key)?;
        // From the back: what goes again is mostly what has just come.
        let place = self.hand.iter().rposition(|other| other.borrow() == key);
        self.hand.remove(place.expect("each key is on the hand"));
        self.size_bytes -= entry.size_bytes;
        Some(entry.value)
    }

    /// Another budget; what had to go for it.
    pub fn limit(&mut self, budget_bytes: u64) -> Vec<(K, V)> {
        self.budget_bytes = budget_bytes;
        self.make_room(budget_bytes)
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn make_room(&mut self, left_bytes: u64) -> Vec<(K, V)> {
        let mut gone = Vec::new();
        while self.size_bytes > left_bytes
            && let Some(key) = self.hand.pop_front()
        {
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.hand.push_back(key);
                }
                _ => {
                    if let Some(entry) = self.entries.remove(&key) {
                        self.size_bytes -= entry.size_bytes;
                        gone.push((key, entry.value));
                    }
                }
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn what_was_asked_for_gets_a_second_chance() {
        let mut clock = Clock::new(30);
        for key in [1, 2, 3] {
            assert!(clock.insert(key, key, 10).is_empty());
        }
        assert_eq!(clock.get(&1), Some(&1));
        assert_eq!(clock.insert(4, 4, 10), [(2, 2)]);
        assert_eq!(clock.insert(5, 5, 20), [(3, 3), (1, 1)]);
        assert_eq!(clock.insert(6, 6, 31), [(6, 6)], "larger than the budget");
        assert_eq!(clock.remove(&4), Some(4));
        assert_eq!((clock.size_bytes(), clock.remove(&4)), (20, None));
        assert_eq!(clock.limit(19), [(5, 5)]);
    }

    #[test]
    fn the_budget_is_never_exceeded_and_every_byte_is_accounted_for() {
        let (mut clock, mut random) = (Clock::new(1000), Random::new(1));
        let mut held: HashMap<usize, u64> = HashMap::new();
        for _ in 0..20_000 {
            let (key, size) = (random.below(60), 1 + random.below(120) as u64);
            match random.below(4) {
                0 => assert_eq!(clock.remove(&key).is_some(), held.remove(&key).is_some()),
                1 => assert_eq!(clock.get(&key).copied(), held.get(&key).copied()),
                _ => {
                    held.entry(key).or_insert(size);
                    for (gone, _) in clock.insert(key, size, size) {
                        held.remove(&gone);
                    }
                }
            }
            assert!(clock.size_bytes() <= 1000);
            assert_eq!(clock.size_bytes(), held.values().sum::<u64>());
        }
    }
}
