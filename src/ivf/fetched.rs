//! Lists and vectors that lie elsewhere, fetched for a batch of queries: the codes of all the lists that it probes in one
//! round trip, the vectors of all candidates in another.

use bytes::Bytes;

use super::IvfPq;
use super::codes::{Codes, ListCodes};
use crate::artifact::{Array, FetchError, Fetching, RangedRows};
use crate::index::KeptVectors;

/// Where the codes lie that an index does not hold.
#[derive(Debug, Clone)]
pub(super) struct RangedCodes {
    /// With 8 bits a row each, with 4 a block.
    pub codes: RangedRows,
    /// With 8 bits for L2. In the same file.
    pub terms: Option<RangedRows>,
}

/// The codes of some lists.
#[derive(Debug, Default)]
pub(super) struct FetchedLists {
    /// Ascending.
    lists: Vec<u32>,
    /// Of each list.
    codes: Vec<Bytes>,
    /// Of each list, where there are any.
    terms: Vec<Array<f32>>,
}

impl FetchedLists {
    /// Fetches lists, named in any order and as often as one likes, in place of those that were here.
    pub fn fetch(
        &mut self,
        index: &IvfPq,
        from: &RangedCodes,
        lists: impl Iterator<Item = u32>,
        fetching: &mut Fetching,
    ) -> Result<(), FetchError> {
        self.lists.clear();
        self.lists.extend(lists);
        self.lists.sort_unstable();
        self.lists.dedup();
        let rows = |&list: &u32| index.list(list as usize);
        let codes = |list: &u32| match &index.codes {
            Codes::Rows { .. } => from.codes.range(rows(list)),
            Codes::Blocks(blocks) => {
                from.codes.range(blocks.starts[*list as usize]..blocks.starts[*list as usize + 1])
            }
        };
        let terms =
            self.lists.iter().flat_map(|list| from.terms.as_ref().map(|terms| terms.range(rows(list))));
        let ranges: Vec<_> = self.lists.iter().map(codes).chain(terms).collect();
        self.codes = from.codes.file.read(&ranges, fetching)?;
        self.terms = self.codes.split_off(self.lists.len()).into_iter().map(Array::from_bytes).collect();
        Ok(())
    }

    /// # Panics
    /// If the list was not fetched.
    pub fn of(&self, list: usize) -> ListCodes<'_> {
        let place = self.lists.binary_search(&(list as u32)).expect("a list that was fetched");
        ListCodes { bytes: &self.codes[place], terms: self.terms.get(place).map(|terms| &terms[..]) }
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
