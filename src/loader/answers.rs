//! What a search found: places in an index, in memory that is used again.

use crate::artifact::FetchStats;
use crate::vectors::Neighbor;

/// A found row: of which shard, and where in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// As [`Metric`](crate::vectors::Metric) defines it; smaller is nearer.
    pub distance: f32,
    /// The row's place in its index.
    pub ordinal: u32,
    /// The index's place among the [`Shards`](super::Shards); 0 where there is one.
    pub shard: u32,
}

impl Match {
    pub(super) fn of(neighbor: Neighbor) -> Self {
        Self { distance: neighbor.distance, ordinal: neighbor.ordinal, shard: 0 }
    }

    /// Orders matches of all shards: by distance, then shard, then ordinal.
    pub(super) fn key(&self) -> (u64, u32) {
        // The upper half of a neighbour's key is its distance; the lower, its ordinal, gives way to the shard.
        let key = Neighbor::new(0, self.distance).key() | u64::from(self.shard);
        (key, self.ordinal)
    }
}

/// The matches of some queries, nearest first. Keep it and pass it to the next search: then none allocates.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Places for each query.
    k: usize,
    matches: Vec<Match>,
    counts: Vec<u32>,
    pub(super) fetched: FetchStats,
}

/// What was found; not what it took to find it.
impl PartialEq for Answers {
    fn eq(&self, other: &Self) -> bool {
        (self.k, &self.matches, &self.counts) == (other.k, &other.matches, &other.counts)
    }
}

/// The places of one query.
pub(super) struct Slots<'a> {
    pub matches: &'a mut [Match],
    pub count: &'a mut u32,
}

impl Answers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Queries that were asked.
    pub fn queries(&self) -> usize {
        self.counts.len()
    }

    /// What finding them has fetched, of a lazy index.
    pub fn fetched(&self) -> FetchStats {
        self.fetched
    }

    /// The matches of a query, by its number.
    ///
    /// # Panics
    /// If there is no such query.
    pub fn of(&self, query: usize) -> &[Match] {
        let start = query * self.k;
        &self.matches[start..start + self.counts[query] as usize]
    }

    /// The matches of each query, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[Match]> {
        (0..self.queries()).map(|query| self.of(query))
    }

    /// Makes room for other queries; nothing is found yet.
    pub(super) fn reset(&mut self, queries: usize, k: usize) {
        let none = Match::of(Neighbor::NONE);
        self.k = k;
        self.fetched = FetchStats::default();
        self.counts.clear();
        self.counts.resize(queries, 0);
        self.matches.resize(queries * k, none);
    }

    /// The places of all queries, as many for each as were made room for, and how many of them are taken.
    pub(super) fn places(&mut self) -> (&mut [Match], &mut [u32]) {
        (&mut self.matches, &mut self.counts)
    }

    pub(super) fn slots(&mut self, query: usize) -> Slots<'_> {
        let start = query * self.k;
        Slots { matches: &mut self.matches[start..start + self.k], count: &mut self.counts[query] }
    }
}

impl Slots<'_> {
    /// Takes the first that fit.
    pub fn fill(self, matches: impl Iterator<Item = Match>) {
        let mut count = 0;
        for (slot, found) in self.matches.iter_mut().zip(matches) {
            *slot = found;
            count += 1;
        }
        *self.count = count;
    }
}
