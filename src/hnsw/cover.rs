//! The leaves of a layer, and what each row found in each: everything that candidates are made of, a few numbers for a row and
//! a leaf that it is in. In memory, or in a scratch file where the build's budget is lower.
//!
//! Rows get their places here: in the order in which leaves name them first, near rows are close together. Within a leaf
//! places ascend, so that those of any range of rows are next to each other.

use std::borrow::Cow;
use std::io;

use bytemuck::Pod;
use rayon::prelude::*;

use super::duplicates::Duplicates;
use super::links::NONE;
use super::scratch::{Extent, ScratchFile};
use crate::compute::Leaves;
use crate::vectors::Neighbors;

/// Slots of leaves that are handled together: their neighbours, three each, are 3 MiB until they are packed.
pub(super) const BATCH_SLOTS: usize = 1 << 17;

/// Leaves, batch by batch.
pub(super) struct Cover<'s> {
    batches: Vec<Batch>,
    scratch: Option<&'s ScratchFile>,
}

struct Batch {
    /// Rows in each leaf.
    sizes: Vec<u32>,
    /// The places of rows, leaf by leaf, ascending in each.
    members: Part<u32>,
    /// `slots × k`, empty until it is known: see [`LeafBatch::nearest`].
    nearest: Part<u16>,
    k: usize,
}

/// Some leaves, as candidates take them.
#[derive(Debug, Clone)]
pub(super) struct LeafBatch<'a> {
    pub sizes: &'a [u32],
    pub members: Cow<'a, [u32]>,
    /// For each of `members`, the slots within its leaf of the `k` nearest others; its own slot stands for none.
    pub nearest: Cow<'a, [u16]>,
    pub k: usize,
}

impl<'s> Cover<'s> {
    /// Without leaves; they are kept in `scratch` where there is one.
    pub fn new(scratch: Option<&'s ScratchFile>) -> Self {
        Self { batches: Vec::new(), scratch }
    }

    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Of all leaves.
    pub fn slots(&self) -> usize {
        self.batches.iter().map(|batch| batch.members.len()).sum()
    }

    fn add(&mut self, sizes: Vec<u32>, members: Vec<u32>) -> io::Result<()> {
        let members = Part::keep(members, self.scratch)?;
        self.batches.push(Batch { sizes, members, nearest: Part::Memory(Vec::new()), k: 0 });
        Ok(())
    }

    /// The leaves of a batch, for a backend.
    pub fn leaves(&self, batch: usize) -> io::Result<Leaves> {
        let batch = &self.batches[batch];
        let mut offsets = vec![0];
        offsets.extend(batch.sizes.iter().scan(0, |end, size| {
            *end += size;
            Some(*end)
        }));
        Ok(Leaves { members: batch.members.read(self.scratch)?.into_owned(), offsets })
    }

    /// Keeps what the rows of a batch found in their leaves.
    pub fn set_nearest(&mut self, batch: usize, leaves: &Leaves, found: &Neighbors) -> io::Result<()> {
        let k = found.k();
        let mut nearest = vec![0; leaves.members.len() * k];
        let mut rest = &mut nearest[..];
        let mut tasks = Vec::with_capacity(leaves.len());
        for leaf in 0..leaves.len() {
            let (own, behind) = rest.split_at_mut(leaves.leaf(leaf).len() * k);
            tasks.push((leaves.leaf(leaf), leaves.offsets[leaf] as usize, own));
            rest = behind;
        }
        tasks.into_par_iter().for_each(|(members, first, nearest)| {
            for (slot, nearest) in nearest.chunks_exact_mut(k).enumerate() {
                for (to, neighbor) in nearest.iter_mut().zip(found.row(first + slot)) {
                    // A leaf has 2¹⁶ rows at most.
                    *to = members.binary_search(&neighbor.ordinal).unwrap_or(slot) as u16;
                }
            }
        });
        let batch = &mut self.batches[batch];
        batch.nearest = Part::keep(nearest, self.scratch)?;
        batch.k = k;
        Ok(())
    }

    pub fn batch(&self, batch: usize) -> io::Result<LeafBatch<'_>> {
        let Batch { sizes, members, nearest, k } = &self.batches[batch];
        let (members, nearest) = (members.read(self.scratch)?, nearest.read(self.scratch)?);
        Ok(LeafBatch { sizes, members, nearest, k: *k })
    }
}

enum Part<T> {
    Memory(Vec<T>),
    Spilled(Extent),
}

impl<T: Pod> Part<T> {
    fn keep(values: Vec<T>, scratch: Option<&ScratchFile>) -> io::Result<Self> {
        Ok(match scratch {
            Some(scratch) => Part::Spilled(scratch.append(&values)?),
            None => Part::Memory(values),
        })
    }

    fn len(&self) -> usize {
        match self {
            Part::Memory(values) => values.len(),
            Part::Spilled(extent) => extent.len(),
        }
    }

    fn read(&self, scratch: Option<&ScratchFile>) -> io::Result<Cow<'_, [T]>> {
        match self {
            Part::Memory(values) => Ok(Cow::Borrowed(values)),
            Part::Spilled(extent) => {
                let scratch = scratch.expect("what is spilled has a file");
                Ok(Cow::Owned(scratch.read(*extent)?))
            }
        }
    }
}

/// Takes leaves of rows one by one and gives the rows their places.
pub(super) struct CoverBuilder<'a, 's> {
    cover: Cover<'s>,
    /// That follow the row they repeat.
    duplicates: &'a Duplicates,
    /// The place of each row that has one.
    places: Vec<u32>,
    /// The row at each place.
    order: Vec<u32>,
    sizes: Vec<u32>,
    members: Vec<u32>,
}

impl<'a, 's> CoverBuilder<'a, 's> {
    /// For so many rows, of which `duplicates` are not in leaves.
    pub fn new(rows: usize, duplicates: &'a Duplicates, scratch: Option<&'s ScratchFile>) -> Self {
        Self {
            cover: Cover::new(scratch),
            duplicates,
            places: vec![NONE; rows],
            order: Vec::with_capacity(rows),
            sizes: Vec::new(),
            members: Vec::new(),
        }
    }

    /// For rows whose places are what they are called.
    pub fn in_place(rows: usize, duplicates: &'a Duplicates, scratch: Option<&'s ScratchFile>) -> Self {
        let all: Vec<u32> = (0..rows as u32).collect();
        Self { places: all.clone(), order: all, ..Self::new(0, duplicates, scratch) }
    }

    pub fn push(&mut self, leaf: &[u32]) -> io::Result<()> {
        if !self.members.is_empty() && self.members.len() + leaf.len() > BATCH_SLOTS {
            self.seal()?;
        }
        let start = self.members.len();
        for &row in leaf {
            if self.places[row as usize] == NONE {
                for row in std::iter::once(row).chain(self.duplicates.copies_of(row)) {
                    self.places[row as usize] = self.order.len() as u32;
                    self.order.push(row);
                }
            }
            self.members.push(self.places[row as usize]);
        }
        self.members[start..].sort_unstable();
        self.sizes.push(leaf.len() as u32);
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        // Copied, so that neither has more room than it needs.
        self.cover.add(self.sizes.to_vec(), self.members.to_vec())?;
        self.sizes.clear();
        self.members.clear();
        Ok(())
    }

    /// The leaves, and the row at each place.
    pub fn finish(mut self) -> io::Result<(Cover<'s>, Vec<u32>)> {
        if !self.sizes.is_empty() {
            self.seal()?;
        }
        assert_eq!(self.order.len(), self.places.len(), "every row is in a leaf or follows one that is");
        Ok((self.cover, self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Compute;
    use crate::compute::cpu::Cpu;
    use crate::vectors::{Metric, Random, VectorBuf};

    #[test]
    fn leaves_and_what_was_found_are_read_back_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = ScratchFile::create(folder.path()).unwrap();
        let mut random = Random::new(1);
        let rows = VectorBuf::new((0..3000).map(|_| random.normal() as f32).collect(), 3);
        // More than a batch, and leaves of one row.
        let mut leaves: Vec<Vec<u32>> =
            (0..BATCH_SLOTS / 400 + 9).map(|_| random.sample(1000, 500)).collect();
        leaves.push(vec![7]);
        leaves.push((0..1000).collect());
        let none = Duplicates::default();
        let read = |scratch| {
            let mut builder = CoverBuilder::new(1000, &none, scratch);
            leaves.iter().for_each(|leaf| builder.push(leaf).unwrap());
            let (mut cover, order) = builder.finish().unwrap();
            assert!(cover.batches() > 1);
            let rows = rows.view().gather(&order);
            let uploaded = Cpu::new().upload(rows.view()).unwrap();
            let (mut seen, mut expected) = (Vec::new(), leaves.iter());
            for batch in 0..cover.batches() {
                let leaves = cover.leaves(batch).unwrap();
                let found = Cpu::new().leaf_top_k(&uploaded, &leaves, Metric::L2, 3).unwrap();
                cover.set_nearest(batch, &leaves, &found).unwrap();
                let packed = cover.batch(batch).unwrap();
                let mut slot = 0;
                for &size in packed.sizes {
                    let members = &packed.members[slot..][..size as usize];
                    let mut back: Vec<u32> = members.iter().map(|&place| order[place as usize]).collect();
                    back.sort_unstable();
                    let mut leaf = expected.next().unwrap().clone();
                    leaf.sort_unstable();
                    assert_eq!(back, leaf);
                    for own in 0..size as usize {
                        let nearest = &packed.nearest[(slot + own) * 3..][..3];
                        let there = nearest.iter().filter(|&&at| usize::from(at) != own);
                        let there: Vec<u32> = there.map(|&at| members[usize::from(at)]).collect();
                        let found: Vec<u32> = found.found(slot + own).iter().map(|n| n.ordinal).collect();
                        assert_eq!(there, found);
                    }
                    slot += size as usize;
                }
                seen.push((packed.members.to_vec(), packed.nearest.to_vec()));
            }
            assert!(expected.next().is_none());
            (seen, order)
        };
        assert_eq!(read(None), read(Some(&scratch)));
        assert!(scratch.len() > 0);
    }

    #[test]
    fn places_follow_the_leaves_and_copies_their_first() {
        let rows = VectorBuf::new([0.0, 5.0, 0.0, 6.0, 0.0, 7.0].to_vec(), 1);
        let duplicates = Duplicates::of(rows.view());
        let mut builder = CoverBuilder::new(6, &duplicates, None);
        [&[3u32, 0][..], &[0, 5], &[1, 5]].iter().for_each(|leaf| builder.push(leaf).unwrap());
        let (cover, order) = builder.finish().unwrap();
        assert_eq!(order, [3, 0, 2, 4, 5, 1]);
        assert_eq!(cover.leaves(0).unwrap().members, [0, 1, 1, 4, 4, 5]);
        assert_eq!(cover.slots(), 6);
    }
}
