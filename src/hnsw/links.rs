//! The links of one layer: a fixed number of slots per row, filled from the front.

/// What a slot without a link holds.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Links {
    degree: usize,
    /// `rows × degree`.
    slots: Vec<u32>,
}

impl Links {
    pub fn new(rows: usize, degree: usize) -> Self {
        Self::of_slots(vec![NONE; rows * degree], degree)
    }

    pub fn of_slots(slots: Vec<u32>, degree: usize) -> Self {
        assert!(degree > 0 && slots.len().is_multiple_of(degree));
        Self { degree, slots }
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

    pub fn into_slots(self) -> Vec<u32> {
        self.slots
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
    /// no distance computed.
    pub fn reciprocate(&mut self) {
        // What a row has at the start stands before what it is given.
        let own: Vec<usize> = (0..self.rows() as u32).map(|row| self.of(row).count()).collect();
        let mut used = own.clone();
        for (row, &own) in own.iter().enumerate() {
            for slot in row * self.degree..row * self.degree + own {
                let to = self.slots[slot] as usize;
                let slots = &mut self.slots[to * self.degree..][..self.degree];
                // Without a branch for each, so that whole registers are compared.
                let is_linked =
                    slots.iter().fold(false, |is_linked, &other| is_linked | (other == row as u32));
                if used[to] < slots.len() && !is_linked {
                    slots[used[to]] = row as u32;
                    used[to] += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_given_back_where_there_is_room() {
        let mut links = Links::of_slots(vec![1, 2, 0, NONE, 1, NONE, 0, 1], 2);
        links.reciprocate();
        assert_eq!(links.all_slots(), [1, 2, 0, 2, 1, 0, 0, 1]);
        assert_eq!((links.count(), links.has_room(2)), (8, false));
    }

    #[test]
    fn a_forced_link_takes_the_last_slot_only_without_room() {
        let mut links = Links::new(3, 2);
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
