//! Lists and vectors that lie elsewhere, fetched for a batch of queries: the codes of all the lists that it probes in one
//! round trip, the vectors of all candidates in another; without codes the vectors of the lists in one.

use std::ops::Range;

use bytes::Bytes;

use super::IvfPq;
use super::codes::{Codes, ListCodes};
use crate::artifact::{Array, FetchError, Fetching, RangedRows};
use crate::index::{KeptVectors, SearchIndex};

/// Where the codes lie that an index does not hold.
#[derive(Debug, Clone)]
pub(super) struct RangedCodes {
    /// A row each, or a block.
    pub codes: RangedRows,
    /// What each row has beside, terms or what lies beside the blocks. In the same file.
    pub beside: Option<RangedRows>,
}

/// The codes of some lists.
#[derive(Debug, Default)]
pub(super) struct FetchedLists {
    /// Ascending.
    lists: Vec<u32>,
    rows: Fetched,
    /// What second lists hold, where there are any, and of which rows it is.
    spilled: Fetched,
    spilled_rows: Vec<Array<u32>>,
    /// Of each list, where there are no codes.
    vectors: Vec<KeptVectors>,
}

/// Of each list.
#[derive(Debug, Default)]
struct Fetched {
    codes: Vec<Bytes>,
    /// Where there are any.
    terms: Vec<Array<f32>>,
    extra: Vec<Bytes>,
}

impl FetchedLists {
    /// Fetches lists, named in any order and as often as one likes, in place of those that were here.
    pub fn fetch(
        &mut self,
        index: &IvfPq,
        lists: impl Iterator<Item = u32>,
        fetching: &mut Fetching,
    ) -> Result<(), FetchError> {
        self.lists.clear();
        self.lists.extend(lists);
        self.lists.sort_unstable();
        self.lists.dedup();
        let Some(from) = &index.ranged else {
            let ranges: Vec<_> = self.lists.iter().map(|&list| index.list(list as usize)).collect();
            if let Some(kept) = index.kept.as_ref().filter(|kept| kept.is_ranged()) {
                self.vectors = kept.fetch_ranges(&ranges, fetching)?;
            }
            return Ok(());
        };
        let mut ranges = from.ranges(&index.codes, &self.lists, |list| index.list(list));
        let own = ranges.len();
        let spill = index.spill.as_ref().and_then(|spill| Some((spill, spill.ranged.as_ref()?)));
        if let Some((spill, from)) = spill {
            ranges.extend(from.codes.ranges(&spill.codes, &self.lists, |list| spill.list(list)));
            ranges.extend(self.lists.iter().map(|&list| from.rows.range(spill.list(list as usize))));
        }
        let mut bytes = from.codes.file.read(&ranges, fetching)?;
        let mut spilled = bytes.split_off(own);
        self.rows = Fetched::split(&index.codes, bytes, self.lists.len());
        if let Some((spill, _)) = spill {
            let rows = spilled.split_off(spilled.len() - self.lists.len());
            self.spilled_rows = rows.into_iter().map(Array::from_bytes).collect();
            super::sections::check_spilled(
                self.spilled_rows.iter().flat_map(|rows| &rows[..]),
                index.rows(),
            )?;
            self.spilled = Fetched::split(&spill.codes, spilled, self.lists.len());
        }
        Ok(())
    }

    /// # Panics
    /// If the list was not fetched.
    fn place(&self, list: usize) -> usize {
        self.lists.binary_search(&(list as u32)).expect("a list that was fetched")
    }

    /// # Panics
    /// If the list was not fetched.
    pub fn of(&self, list: usize) -> ListCodes<'_> {
        let place = self.place(list);
        let vectors = self.vectors.get(place).map(|vectors| (vectors, 0));
        ListCodes { vectors, ..self.rows.of(place) }
    }

    /// What was spilled to a list, and of which rows it is.
    ///
    /// # Panics
    /// If the list was not fetched, or nothing is spilled.
    pub fn spilled(&self, list: usize) -> (ListCodes<'_>, &[u32]) {
        let place = self.place(list);
        (self.spilled.of(place), &self.spilled_rows[place])
    }
}

impl Fetched {
    /// Codes of so many lists, then what lies beside them.
    fn split(layout: &Codes, mut codes: Vec<Bytes>, lists: usize) -> Self {
        let beside = codes.split_off(lists);
        match layout {
            Codes::Blocks(_) => Self { codes, terms: Vec::new(), extra: beside },
            Codes::Rows { .. } | Codes::Kept => {
                Self { codes, terms: beside.into_iter().map(Array::from_bytes).collect(), extra: Vec::new() }
            }
        }
    }

    fn of(&self, place: usize) -> ListCodes<'_> {
        ListCodes {
            bytes: self.codes.get(place).map_or(&[], |codes| codes),
            terms: self.terms.get(place).map(|terms| &terms[..]),
            extra: self.extra.get(place).map_or(&[], |extra| extra),
            vectors: None,
        }
    }
}

impl RangedCodes {
    /// Of each list its codes, then of each what lies beside them.
    fn ranges(
        &self,
        layout: &Codes,
        lists: &[u32],
        entries: impl Fn(usize) -> Range<usize>,
    ) -> Vec<Range<u64>> {
        let codes = |&list: &u32| match layout {
            Codes::Blocks(blocks) => {
                self.codes.range(blocks.starts[list as usize]..blocks.starts[list as usize + 1])
            }
            Codes::Rows { .. } | Codes::Kept => self.codes.range(entries(list as usize)),
        };
        let beside = |&list: &u32| self.beside.as_ref().map(|beside| beside.range(entries(list as usize)));
        lists.iter().map(codes).chain(lists.iter().filter_map(beside)).collect()
    }
}

/// The vectors of some rows.
#[derive(Debug)]
pub(super) struct FetchedRows {
    /// Ascending.
    ordinals: Vec<u32>,
    vectors: KeptVectors,
}

impl FetchedRows {
    /// Fetches rows, named in any order and as often as one likes.
    pub fn fetch(
        kept: &KeptVectors,
        mut ordinals: Vec<u32>,
        fetching: &mut Fetching,
    ) -> Result<Self, FetchError> {
        ordinals.sort_unstable();
        ordinals.dedup();
        Ok(Self { vectors: kept.fetch(&ordinals, fetching)?, ordinals })
    }

    /// The vectors, and in place of `ordinals` their rows among them.
    ///
    /// # Panics
    /// If one of them was not fetched.
    pub fn locate(&self, ordinals: &mut [u32]) -> &KeptVectors {
        for ordinal in ordinals {
            *ordinal = self.ordinals.binary_search(ordinal).expect("a row that was fetched") as u32;
        }
        &self.vectors
    }
}
