//! Inverted lists of product-quantizer codes (IVFADC: Jégou, Douze, Schmid 2011).
//!
//! Rows belong to the list of their nearest centroid and are kept as the code of their residual. Rows are numbered
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

mod build;
mod codes;
mod fetched;
mod merge;
mod params;
mod ranking;
mod scan;
mod search;
mod sections;

use std::ops::Range;
use std::sync::Arc;

pub use build::{BuildError, BuildReport, Built, Like, build, build_like, build_spilling};
pub use merge::{MergeError, merge};
pub use params::{IvfPqParams, Loss, Refine, Rotate};

use codes::{Codes, ListCodes};
use fetched::RangedCodes;
use ranking::ListRanking;
use scan::Book;

use crate::artifact::Array;
use crate::index::KeptVectors;
use crate::train::{ProductQuantizer, Rotation};
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
    quantizer: ProductQuantizer,
    /// Empty where they lie elsewhere.
    codes: Codes,
    ranged: Option<RangedCodes>,
    /// What candidates are ranked again with.
    kept: Option<KeptVectors>,
    /// Where codes are those of rotated residuals.
    turned: Option<Arc<Turned>>,
    /// Derived, not stored.
    ranking: Arc<ListRanking>,
    /// Derived, not stored; empty with 8 bits.
    book: Arc<Book>,
}

/// The rotation that residuals went through before they were encoded.
#[derive(Debug)]
struct Turned {
    rotation: Rotation,
    /// Derived, not stored: the centroids, rotated.
    centroids: VectorBuf,
}

/// What an index is made of: the rest is derived.
struct Parts {
    metric: Metric,
    dim: usize,
    centroids: Array<f32>,
    list_offsets: Array<u64>,
    quantizer: ProductQuantizer,
    codes: Codes,
    ranged: Option<RangedCodes>,
    kept: Option<KeptVectors>,
    rotation: Option<Rotation>,
}

impl From<Parts> for IvfPq {
    fn from(parts: Parts) -> Self {
        let Parts { metric, dim, centroids, list_offsets, quantizer, codes, ranged, kept, rotation } = parts;
        let view = VectorView::new(&centroids, dim);
        let ranking = Arc::new(ListRanking::of(view, metric));
        let turned =
            rotation.map(|rotation| Arc::new(Turned { centroids: rotation.rotate_rows(view), rotation }));
        let book = match codes {
            Codes::Blocks(_) => Book::of(&quantizer, metric),
            Codes::Rows { .. } => Book::default(),
        };
        let book = Arc::new(book);
        Self { metric, dim, centroids, list_offsets, quantizer, codes, ranged, kept, turned, ranking, book }
    }
}

impl IvfPq {
    /// The same centroids, codebooks and rotation over other rows.
    fn with_rows(&self, list_offsets: Array<u64>, codes: Codes, kept: Option<KeptVectors>) -> Self {
        Self { list_offsets, codes, kept, ..self.clone() }
    }

    /// Whether both have learned the same, so that a row has the same list and code in either.
    pub fn is_trained_as(&self, other: &IvfPq) -> bool {
        self.metric == other.metric
            && self.dim == other.dim
            && self.centroids[..] == other.centroids[..]
            && self.quantizer == other.quantizer
            && self.rotation() == other.rotation()
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

    pub fn quantizer(&self) -> &ProductQuantizer {
        &self.quantizer
    }

    /// The rotation that residuals went through before they were encoded.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.turned.as_ref().map(|turned| &turned.rotation)
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

    /// The code of a row, `code_size` bytes.
    ///
    /// # Panics
    /// If the codes lie elsewhere.
    pub fn code(&self, ordinal: u32) -> Vec<u8> {
        let (list, mut code) = (self.list_of(ordinal), vec![0; self.quantizer.shape().code_size()]);
        let place = ordinal as usize - self.list(list).start;
        self.codes.code_in(self.list_codes(list), place, code.len()).copy_to(&mut code);
        code
    }

    /// The codes of a list, where they are in memory.
    #[inline]
    fn list_codes(&self, list: usize) -> ListCodes<'_> {
        self.codes.of_list(list, self.list(list), self.quantizer.shape().code_size())
    }

    /// The list that holds a row.
    pub fn list_of(&self, ordinal: u32) -> usize {
        self.list_offsets.partition_point(|&offset| offset <= u64::from(ordinal)) - 1
    }

    /// The vector that a row's code stands for: its centroid plus its decoded residual. What distances are
    /// estimated to where no vectors are kept.
    ///
    /// # Panics
    /// If the codes lie elsewhere.
    pub fn decode(&self, ordinal: u32) -> Vec<f32> {
        let (codes, mut decoded) = (self.list_codes(self.list_of(ordinal)), vec![0.0; self.dim]);
        let code = &mut vec![0; self.quantizer.shape().code_size()];
        self.decode_into(ordinal, codes, code, &mut decoded);
        match self.rotation() {
            Some(rotation) => {
                let mut back = vec![0.0; self.dim];
                rotation.rotate_back(&decoded, &mut back);
                back
            }
            None => decoded,
        }
    }

    /// As [`decode`](Self::decode), in the space of the codes. `codes` are those of the row's list.
    fn decode_into(&self, ordinal: u32, codes: ListCodes<'_>, code: &mut [u8], decoded: &mut [f32]) {
        let list = self.list_of(ordinal);
        let place = ordinal as usize - self.list(list).start;
        self.codes.code_in(codes, place, code.len()).copy_to(code);
        self.quantizer.decode(code, decoded);
        let centroid = self.code_centroid(list);
        decoded.iter_mut().zip(centroid).for_each(|(value, &centre)| *value += centre);
    }
}
