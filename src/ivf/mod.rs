//! Inverted lists of codes (IVFADC: Jégou, Douze, Schmid 2011).
//!
//! Rows belong to the list of their nearest centroid and are kept as the code of their residual: that of a product quantizer of 4 or 8
//! bits, RaBitQ's of 1 to 8 bits a dimension, or a scalar quantizer's bytes (`quantizer`); or as they are. Rows are numbered
//! list by list, within a list in the order they were given: a probe reads one contiguous range of every array.
//! Where vectors are kept as well (`refine`), the best candidates by code are ranked again with those.
//!
//! Codes and vectors may lie elsewhere: then a search fetches the lists that it probes, and the vectors of its candidates
//! (`fetched`), and works on those.
//!
//! `ranking` orders the lists for a query, `scan` estimates the rows of one (`codes` says how they lie), `search` puts
//! the two together and ranks the best again.
//!
//! Knows nothing of files: `sections.rs` turns an index into named tensors and back. Refuses parameters that its
//! rows cannot fill, and sections whose invariants do not hold.

mod assignment;
mod build;
mod coder;
mod codes;
mod fetched;
mod merge;
mod params;
mod quantizer;
mod rabitq;
mod ranking;
mod scan;
mod search;
mod sections;
mod spill;

use std::ops::Range;
use std::sync::Arc;

pub use build::{BuildError, BuildReport, Built, Like, build, build_like, build_spilling};
pub use merge::{MergeError, merge};
pub use params::{Code, IvfPqParams, Loss, Refine, Rotate, Spilling};

use codes::{Codes, ListCodes};
use fetched::RangedCodes;
use quantizer::{Quantizer, Turn};
use ranking::ListRanking;
use scan::Book;
use spill::Spill;

use crate::artifact::Array;
use crate::index::KeptVectors;
use crate::train::Rotation;
use crate::vectors::{Metric, VectorBuf, VectorView};

/// The index: centroids, and for each list the codes of its rows.
#[derive(Debug, Clone)]
pub struct IvfPq {
    metric: Metric,
    dim: usize,
    /// `nlist × dim`.
    centroids: Array<f32>,
    /// `nlist + 1`: list `l` holds the rows `list_offsets[l]..list_offsets[l + 1]`.
    list_offsets: Array<u64>,
    quantizer: Quantizer,
    /// Empty where they lie elsewhere.
    codes: Codes,
    ranged: Option<RangedCodes>,
    /// What candidates are ranked again with; without codes, what they are found by.
    kept: Option<KeptVectors>,
    /// Where codes are those of turned residuals.
    turned: Option<Arc<Turned>>,
    /// Where rows are in second lists.
    spill: Option<Spill>,
    /// Derived, not stored.
    ranking: Arc<ListRanking>,
    /// Derived, not stored; empty but for codes in blocks.
    book: Arc<Book>,
}

/// What residuals went through before they were encoded.
#[derive(Debug)]
struct Turned {
    turn: Turn,
    /// Derived, not stored: the centroids, turned.
    centroids: VectorBuf,
}

/// What an index is made of: the rest is derived.
struct Parts {
    metric: Metric,
    dim: usize,
    centroids: Array<f32>,
    list_offsets: Array<u64>,
    quantizer: Quantizer,
    codes: Codes,
    ranged: Option<RangedCodes>,
    kept: Option<KeptVectors>,
    turn: Option<Turn>,
    spill: Option<Spill>,
}

impl From<Parts> for IvfPq {
    fn from(parts: Parts) -> Self {
        let Parts { metric, dim, centroids, list_offsets, quantizer, codes, ranged, kept, turn, spill } =
            parts;
        let view = VectorView::new(&centroids, dim);
        let ranking = Arc::new(ListRanking::of(view, metric));
        let turned = turn.map(|turn| Arc::new(Turned { centroids: turn.rotate_rows(view), turn }));
        let book = Arc::new(Book::of(&quantizer, metric));
        Self {
            metric,
            dim,
            centroids,
            list_offsets,
            quantizer,
            codes,
            ranged,
            kept,
            turned,
            spill,
            ranking,
            book,
        }
    }
}

impl IvfPq {
    /// The same centroids, codebooks and rotation over other rows.
    fn with_rows(
        &self,
        list_offsets: Array<u64>,
        codes: Codes,
        kept: Option<KeptVectors>,
        spill: Option<Spill>,
    ) -> Self {
        Self { list_offsets, codes, kept, spill, ..self.clone() }
    }

    /// Whether both have learned the same, so that a row has the same list and code in either.
    pub fn is_trained_as(&self, other: &IvfPq) -> bool {
        self.metric == other.metric
            && self.dim == other.dim
            && self.centroids[..] == other.centroids[..]
            && self.quantizer == other.quantizer
            && self.turn() == other.turn()
            && self.spill.is_some() == other.spill.is_some()
    }

    pub fn nlist(&self) -> usize {
        self.list_offsets.len() - 1
    }

    /// Rows that a centroid stands for.
    pub fn list(&self, list: usize) -> Range<usize> {
        self.list_offsets[list] as usize..self.list_offsets[list + 1] as usize
    }

    pub fn centroids(&self) -> VectorView<'_> {
        VectorView::new(&self.centroids, self.dim)
    }

    /// What rows are kept as.
    pub fn code_kind(&self) -> Code {
        self.quantizer.code()
    }

    /// Bytes that a row's code has, without what rounds lists up to whole blocks.
    pub fn code_bytes(&self) -> usize {
        self.quantizer.row_bytes(self.metric)
    }

    /// The rotation that was learned for residuals before they were encoded.
    pub fn rotation(&self) -> Option<&Rotation> {
        match self.turn()? {
            Turn::Learned(rotation) => Some(rotation),
            Turn::Drawn(_) => None,
        }
    }

    /// What residuals went through before they were encoded.
    fn turn(&self) -> Option<&Turn> {
        self.turned.as_ref().map(|turned| &turned.turn)
    }

    /// The centroids in the space of the codes.
    fn code_centroids(&self) -> VectorView<'_> {
        match &self.turned {
            Some(turned) => turned.centroids.view(),
            None => self.centroids(),
        }
    }

    /// A list's centroid in the space of the codes.
    fn code_centroid(&self, list: usize) -> &[f32] {
        match &self.turned {
            Some(turned) => turned.centroids.row(list),
            None => self.centroids().row(list),
        }
    }

    pub fn kept(&self) -> Option<&KeptVectors> {
        self.kept.as_ref()
    }

    /// The code of a row, [`code_bytes`](Self::code_bytes).
    ///
    /// # Panics
    /// If the codes lie elsewhere.
    pub fn code(&self, ordinal: u32) -> Vec<u8> {
        let (list, mut code) = (self.list_of(ordinal), vec![0; self.code_bytes()]);
        let place = ordinal as usize - self.list(list).start;
        self.codes.copy_code(self.list_codes(list), place, &mut code);
        code
    }

    /// The codes of a list, or its vectors where there are none, if they are in memory.
    #[inline]
    fn list_codes(&self, list: usize) -> ListCodes<'_> {
        let rows = self.list(list);
        let vectors = self.kept.as_ref().map(|kept| (kept, rows.start));
        ListCodes { vectors, ..self.codes.of_list(list, rows, self.code_bytes()) }
    }

    /// Whether lists must be fetched before they are scanned.
    fn is_ranged(&self) -> bool {
        self.ranged.is_some() || matches!(self.codes, Codes::Kept) && self.kept_is_ranged()
    }

    fn kept_is_ranged(&self) -> bool {
        self.kept.as_ref().is_some_and(KeptVectors::is_ranged)
    }

    /// The list that holds a row.
    pub fn list_of(&self, ordinal: u32) -> usize {
        self.list_offsets.partition_point(|&offset| offset <= u64::from(ordinal)) - 1
    }

    /// The vector that a row's code stands for: its centroid plus its decoded residual. What distances are
    /// estimated to where no vectors are kept, but for RaBitQ's, whose estimates of a distance are nearer to it than that.
    ///
    /// # Panics
    /// If codes, or the rows without codes, lie elsewhere.
    pub fn decode(&self, ordinal: u32) -> Vec<f32> {
        if let (Codes::Kept, Some(kept)) = (&self.codes, &self.kept) {
            return kept.vector(ordinal);
        }
        let (list, mut decoded) = (self.list_of(ordinal), vec![0.0; self.dim]);
        let place = ordinal as usize - self.list(list).start;
        let code = &mut vec![0; self.code_bytes()];
        self.decode_into(list, (place, self.list_codes(list)), code, &mut decoded);
        match self.turn() {
            Some(turn) => {
                let mut back = vec![0.0; self.dim];
                turn.rotate_back(&decoded, &mut back);
                back
            }
            None => decoded,
        }
    }

    /// What the code at a place of a list's codes stands for, in the space of the codes.
    fn decode_into(
        &self,
        list: usize,
        (place, codes): (usize, ListCodes<'_>),
        code: &mut [u8],
        decoded: &mut [f32],
    ) {
        self.codes.copy_code(codes, place, code);
        self.quantizer.decode(self.metric, code, decoded);
        let centroid = self.code_centroid(list);
        decoded.iter_mut().zip(centroid).for_each(|(value, &centre)| *value += centre);
    }
}
