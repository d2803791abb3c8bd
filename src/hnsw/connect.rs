//! Every row must be reachable from the entry point: checked by a walk over the layer, and repaired.
//!
//! A row that the walk missed is given a link by a row that it reached, in a free slot if there is one, else in place
//! of the last link that nothing depends on: links of the walk's tree are never replaced, so that what was reached
//! stays reached. The host is the nearest reached row that the missed one links to itself. If that row's links are
//! all of the tree, one that hangs below it takes its place; that happens where many rows are equal and all link
//! to the same few. A set of rows that links to nothing outside itself, an *island*, is hung where there is room nearest
//! to the entry point.
//!
//! Takes time proportional to the links, whatever the graph.

use std::collections::VecDeque;

use super::links::{Links, NONE};
use crate::vectors::Random;

/// Makes every row reachable from `entry_point`; returns how many rows had to be linked.
pub(super) fn repair(links: &mut Links, entry_point: u32) -> usize {
    let rows = links.rows();
    let mut walk = Walk::new(links);
    walk.reach(entry_point, entry_point);
    if walk.order.len() == rows {
        return 0;
    }
    let missed: Vec<u32> = (0..rows as u32).filter(|&row| !walk.is_reached(row)).collect();
    let waiting = Waiting::new(&walk, &missed);
    let mut ready: VecDeque<u32> =
        missed.iter().copied().filter(|&row| walk.nearest_reached(row).is_some()).collect();
    let mut repaired = 0;
    let mut next = missed.iter();
    loop {
        let first_new = walk.order.len();
        if let Some(row) = ready.pop_front() {
            if walk.is_reached(row) {
                continue;
            }
            let host = walk.host_for(row);
            walk.attach(host, row);
        } else if let Some(&row) = next.find(|&&row| !walk.is_reached(row)) {
            let host = walk.room();
            walk.attach(host, row);
            // The way back, or a search that begins on the island ends there.
            walk.links.add(row, host);
        } else {
            return repaired;
        }
        repaired += 1;
        for &reached in &walk.order[first_new..] {
            ready.extend(waiting.on(reached).filter(|&row| !walk.is_reached(row)));
        }
    }
}

/// A walk over the links as they are at the time, breadth first, that can be taken up again.
struct Walk<'a> {
    links: &'a mut Links,
    /// The row that each row was reached from; the entry point's is itself.
    parent: Vec<u32>,
    /// Reached rows, in the order in which they were.
    order: Vec<u32>,
    /// No row of `order` before this place has a free slot; rows only ever lose slots.
    free: usize,
    /// Nor, before this place, one that could be given away.
    spare: usize,
}

impl<'a> Walk<'a> {
    fn new(links: &'a mut Links) -> Self {
        let rows = links.rows();
        Self { links, parent: vec![NONE; rows], order: Vec::with_capacity(rows), free: 0, spare: 0 }
    }

    fn is_reached(&self, row: u32) -> bool {
        self.parent[row as usize] != NONE
    }

    /// Reaches `start` from `from`, and all that its links lead to.
    fn reach(&mut self, start: u32, from: u32) {
        let mut next = self.order.len();
        self.parent[start as usize] = from;
        self.order.push(start);
        while let Some(&row) = self.order.get(next) {
            next += 1;
            for to in self.links.of(row) {
                if self.parent[to as usize] == NONE {
                    self.parent[to as usize] = row;
                    self.order.push(to);
                }
            }
        }
    }

    fn nearest_reached(&self, row: u32) -> Option<u32> {
        self.links.of(row).find(|&to| self.is_reached(to))
    }

    /// The slot of `host` for one more link: a free one, or else the last that is not of the walk's tree.
    fn slot_for(&self, host: u32) -> Option<usize> {
        let slots = self.links.slots(host);
        let free = slots.iter().position(|&to| to == NONE);
        free.or_else(|| slots.iter().rposition(|&to| self.parent[to as usize] != host))
    }

    /// Where to hang `row`, which links to a reached row.
    fn host_for(&self, row: u32) -> u32 {
        let has_slot = |&to: &u32| self.is_reached(to) && self.slot_for(to).is_some();
        if let Some(host) = self.links.of(row).find(has_slot) {
            return host;
        }
        let mut host = self.nearest_reached(row).expect("the row waits for a row that it links to");
        // All links of a full host are branches of the tree, which ends: a row that nothing hangs on has slots. A
        // branch drawn at random meets one after at most log(rows) steps on average, whatever the tree.
        let mut random = Random::of(u64::from(row), u64::from(host));
        while self.slot_for(host).is_none() {
            host = self.links.slots(host)[random.below(self.links.degree())];
        }
        host
    }

    /// The first row reached that has room, if possible without a link being given up.
    fn room(&mut self) -> u32 {
        while let Some(&host) = self.order.get(self.free) {
            if self.links.has_room(host) {
                return host;
            }
            self.free += 1;
        }
        // The row that was reached last has nothing hanging on it, so this ends.
        while self.slot_for(self.order[self.spare]).is_none() {
            self.spare += 1;
        }
        self.order[self.spare]
    }

    fn attach(&mut self, host: u32, row: u32) {
        let slot = self.slot_for(host).expect("the host was chosen for its slot");
        self.links.slots_mut(host)[slot] = row;
        self.reach(row, host);
    }
}

/// Which missed rows link to which.
struct Waiting {
    /// (to, from), ascending.
    links: Vec<(u32, u32)>,
}

impl Waiting {
    fn new(walk: &Walk<'_>, missed: &[u32]) -> Self {
        let outward = |&from: &u32| walk.links.of(from).map(move |to| (to, from));
        let mut links: Vec<(u32, u32)> =
            missed.iter().flat_map(outward).filter(|&(to, _)| !walk.is_reached(to)).collect();
        links.sort_unstable();
        Self { links }
    }

    fn on(&self, to: u32) -> impl Iterator<Item = u32> + '_ {
        let start = self.links.partition_point(|&(other, _)| other < to);
        self.links[start..].iter().take_while(move |&&(other, _)| other == to).map(|&(_, from)| from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reachable(links: &[u32], degree: usize, entry: u32) -> usize {
        let mut seen = vec![false; links.len() / degree];
        let mut stack = vec![entry];
        seen[entry as usize] = true;
        let mut count = 0;
        while let Some(row) = stack.pop() {
            count += 1;
            for &to in &links[row as usize * degree..(row as usize + 1) * degree] {
                if to != NONE && !std::mem::replace(&mut seen[to as usize], true) {
                    stack.push(to);
                }
            }
        }
        count
    }

    /// Repairs, and checks everything that must hold afterwards.
    fn check(mut links: Vec<u32>, degree: usize, entry: u32) -> Vec<u32> {
        let rows = links.len() / degree;
        let missing = rows - reachable(&links, degree, entry);
        let before = links.clone();
        let mut repairable = Links::of_slots(links, degree);
        let repaired = repair(&mut repairable, entry);
        links = repairable.all_slots().to_vec();
        assert_eq!(reachable(&links, degree, entry), rows, "every row is reached");
        assert!(repaired <= missing, "{repaired} links for {missing} rows");
        assert_eq!(repaired == 0, missing == 0);
        for (row, own) in links.chunks_exact(degree).enumerate() {
            let count = own.iter().position(|&to| to == NONE).unwrap_or(degree);
            assert!(own[count..].iter().all(|&to| to == NONE), "row {row}: padded at the end: {own:?}");
            let mut distinct = own[..count].to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), count, "row {row}: no link twice: {own:?}");
            assert!(distinct.iter().all(|&to| to as usize != row && (to as usize) < rows), "{own:?}");
            let given = before[row * degree..].iter().take(degree).filter(|&&to| to != NONE).count();
            assert!(count >= given, "row {row} lost links without another in its place");
        }
        assert_eq!(repair(&mut repairable, entry), 0, "nothing is left to do");
        assert_eq!(repairable.all_slots(), links);
        links
    }

    fn random_graph(rows: usize, degree: usize, most: usize, random: &mut Random) -> Vec<u32> {
        let mut links = vec![NONE; rows * degree];
        for (row, slots) in links.chunks_exact_mut(degree).enumerate() {
            let mut count = 0;
            for _ in 0..random.below(most.min(degree) + 1) {
                let to = random.below(rows) as u32;
                if to as usize != row && !slots[..count].contains(&to) {
                    slots[count] = to;
                    count += 1;
                }
            }
        }
        links
    }

    #[test]
    fn every_row_of_any_sparse_graph_becomes_reachable() {
        let mut random = Random::new(1);
        for rows in [1, 2, 3, 4, 7, 50, 300] {
            for degree in [1, 2, 3, 4, 8] {
                for most in [0, 1, 2, degree] {
                    for _ in 0..10 {
                        let links = random_graph(rows, degree, most, &mut random);
                        check(links, degree, random.below(rows) as u32);
                    }
                }
            }
        }
    }

    #[test]
    fn a_graph_that_is_whole_is_left_alone() {
        let (rows, degree) = (100u32, 3);
        let ring: Vec<u32> = (0..rows).flat_map(|row| [(row + 1) % rows, (row + 7) % rows, NONE]).collect();
        assert_eq!(check(ring.clone(), degree, 42), ring);
    }

    #[test]
    fn a_missed_row_hangs_on_the_nearest_reached_row_that_it_links_to() {
        // 0 and 1 reach each other; 2 links to 1, then to 0, and nothing leads to 2.
        let links = check(vec![1, NONE, 0, NONE, 1, 0], 2, 0);
        assert_eq!(links, [1, NONE, 0, 2, 1, 0]);
        // 1's second link is not of the tree: it gives way. 0's only link is.
        let links = check(vec![1, 3, 3, 0, 1, NONE, NONE, NONE], 2, 0);
        assert_eq!(links, [1, 3, 3, 2, 1, NONE, NONE, NONE]);
    }

    #[test]
    fn an_island_is_left_and_entered() {
        // {2, 3} know only each other.
        let links = check(vec![1, NONE, 0, NONE, 3, NONE, 2, NONE], 2, 0);
        assert_eq!(links, [1, 2, 0, NONE, 3, 0, 2, NONE]);
    }

    /// What a partition of equal rows looks like: in each leaf all link to the first, which has no slot for them. And
    /// rows in a chain against the walk, which earlier code went through once for each.
    #[test]
    fn a_hundred_thousand_missed_rows_take_no_time_to_speak_of() {
        let rows = 100_000;
        for degree in [2, 32] {
            let star = |leaf: usize| -> Vec<u32> {
                let first = |row: usize| if row.is_multiple_of(leaf) { row + 1 } else { row / leaf * leaf };
                let link = |row: usize| if first(row) < rows { first(row) as u32 } else { NONE };
                (0..rows)
                    .flat_map(|row| (0..degree).map(move |s| if s == 0 { link(row) } else { NONE }))
                    .collect()
            };
            let chain = |to: fn(usize) -> usize| -> Vec<u32> {
                let link = move |row: usize| if to(row) < 100_000 { to(row) as u32 } else { NONE };
                (0..rows)
                    .flat_map(|row| (0..degree).map(move |s| if s == 0 { link(row) } else { NONE }))
                    .collect()
            };
            let start = std::time::Instant::now();
            for (links, entry) in [
                (vec![NONE; rows * degree], 5),
                (star(500), 777),
                (star(rows), 0),
                (star(rows), 99_999),
                (chain(|row| row + 1), 99_999),
                (chain(|row| row.wrapping_sub(1)), 0),
                (chain(|row| row ^ 1), 3),
            ] {
                check(links, degree, entry);
            }
            // Quadratic, each of these cases was minutes.
            assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        }
    }

    #[test]
    fn equal_rows_hang_in_a_shallow_tree() {
        // All link to row 0: what is reached in few steps is what a search finds.
        let (rows, degree) = (20_000, 8);
        let links =
            (0..rows).flat_map(|row| (0..degree).map(move |s| if s == 0 && row > 0 { 0 } else { NONE }));
        let links = check(links.collect(), degree, 0);
        let mut depth = vec![0; rows];
        let mut links = Links::of_slots(links, degree);
        let mut walk = Walk::new(&mut links);
        walk.reach(0, 0);
        for &row in &walk.order[1..] {
            depth[row as usize] = depth[walk.parent[row as usize] as usize] + 1;
        }
        let deepest = depth.iter().max().unwrap();
        assert!(*deepest < 40, "{deepest} steps");
    }
}
