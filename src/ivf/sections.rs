//! An index as sections, and back with every invariant checked.
//!
//! | section | tensors | metadata |
//! |---|---|---|
//! | `ivf` | `centroids` f32 `nlist × dim`, `list_offsets` u64 `nlist + 1`, `codebooks` f32 `pq_m × ksub × dsub`; where residuals are rotated, `rotation` f32 `dim × dim` | `metric`, `pq_bits`, `refine` |
//! | `codes`, 8 bits | `codes` u8 `rows × code_size`; for L2 `terms` f32 `rows` | – |
//! | `codes`, 4 bits | `codes` u8 `blocks × code_size × 32` | – |
//! | `vectors` (unless `refine` is `none`) | `vectors` f16 or f32 `rows × dim` | – |
//!
//! `ivf` is what every search needs; of the others it reads the ranges of the lists it probes.
//!
//! With 4 bits a list of n rows is ⌈n / 32⌉ blocks, one behind the other and behind those of the list before: a block has
//! byte `b` of the codes of its 32 rows together, then byte `b + 1`. Places behind a list's last row are 0.

use rayon::prelude::*;

use super::codes::{Blocks, Codes, block_starts};
use super::fetched::RangedCodes;
use super::params::{IvfPqParams, Refine, Rotate, check_nibbles};
use super::{IvfPq, Parts};
use crate::artifact::{Array, RangedSection, Section, TensorError};
use crate::compute::cpu::BLOCK_ROWS;
use crate::index::KeptVectors;
use crate::index::SearchIndex;
use crate::train::{PqShape, ProductQuantizer, Rotation};
use crate::vectors::{Metric, OfProducts};

const IVF: &str = "ivf";
const CODES: &str = "codes";
const VECTORS: &str = "vectors";
/// A tensor, and the key that says that it is there: a rotation that is lost is noticed.
const ROTATION: &str = "rotation";

pub(super) fn write(index: &IvfPq) -> Vec<Section> {
    assert!(index.ranged.is_none(), "the codes lie elsewhere");
    let (nlist, rows, shape) = (index.nlist(), index.rows(), index.quantizer.shape());
    assert_eq!(index.centroids.len(), nlist * index.dim);
    let refine = index.kept.as_ref().map_or(Refine::None.name(), |kept| kept.precision().name());
    let codebooks: Array<f32> = index.quantizer.codebook().to_vec().into();
    let ivf = Section::new(IVF)
        .with("centroids", &index.centroids, &[nlist, index.dim])
        .with("list_offsets", &index.list_offsets, &[nlist + 1])
        .with("codebooks", &codebooks, &[shape.pq_m, shape.ksub(), shape.dsub])
        .with_metadata("metric", index.metric.name())
        .with_metadata("pq_bits", shape.pq_bits)
        .with_metadata("refine", refine);
    let ivf = match index.rotation() {
        Some(rotation) => {
            let matrix: Array<f32> = rotation.matrix().to_vec().into();
            ivf.with(ROTATION, &matrix, &[index.dim, index.dim]).with_metadata(ROTATION, Rotate::Opq.name())
        }
        None => ivf,
    };
    let code_size = shape.code_size();
    let codes = match &index.codes {
        Codes::Rows { bytes, terms } => {
            assert_eq!(terms.is_some(), index.metric == Metric::L2);
            let codes = Section::new(CODES).with("codes", bytes, &[rows, code_size]);
            terms.iter().fold(codes, |codes, terms| codes.with("terms", terms, &[rows]))
        }
        Codes::Blocks(blocks) => {
            let count = blocks.starts[nlist];
            Section::new(CODES).with("codes", &blocks.bytes, &[count, code_size, BLOCK_ROWS])
        }
    };
    let mut sections = vec![ivf, codes];
    if let Some(kept) = &index.kept {
        sections.push(kept.write(Section::new(VECTORS), VECTORS));
    }
    sections
}

impl IvfPq {
    /// The index that [`sections`](SearchIndex::sections) wrote. Whatever holds of a built index is checked here, so
    /// that search need not: shapes that agree, ascending offsets that end at the number of rows, codes within
    /// their codebooks, finite values.
    pub fn from_sections(sections: &[Section]) -> Result<Self, TensorError> {
        let head = read_head(section(sections, IVF, "centroids")?)?;
        let codes_section = section(sections, CODES, "codes")?;
        let Head { metric, dim, rows, .. } = head;
        let codes = match head.quantizer.shape().pq_bits {
            4 => Codes::Blocks(read_blocks(codes_section, &head.list_offsets, head.quantizer.shape())?),
            _ => read_rows(codes_section, rows, head.quantizer.shape().code_size(), metric)?,
        };
        let kept = match head.refine.precision() {
            Some(precision) => {
                let vectors = section(sections, VECTORS, VECTORS)?;
                Some(KeptVectors::read(vectors, VECTORS, rows, dim, precision)?)
            }
            None => None,
        };
        Ok(head.with(codes, None, kept).into())
    }

    /// As [`from_sections`](Self::from_sections), with codes and vectors left in their files: `ivf` is the section that
    /// every search needs, the others are read list by list and row by row. What is read is checked as it comes.
    ///
    /// # Errors
    /// As `from_sections`, but for what codes and vectors consist of.
    pub fn ranged(ivf: &Section, others: &[RangedSection]) -> Result<Self, TensorError> {
        let head = read_head(ivf)?;
        let other = |name: &str| {
            let missing = || TensorError::NoSection { section: name.into() };
            others.iter().find(|section| section.head.name == name).ok_or_else(missing)
        };
        let codes = other(CODES)?;
        let (shape, rows) = (head.quantizer.shape(), head.rows);
        let code_size = shape.code_size();
        let (layout, ranged) = match shape.pq_bits {
            4 => {
                let starts = block_starts(&head.list_offsets);
                let blocks = [starts[starts.len() - 1], code_size, BLOCK_ROWS];
                let ranged = RangedCodes { codes: codes.rows::<u8>("codes", &blocks)?, terms: None };
                (Codes::Blocks(Blocks { bytes: Vec::new().into(), code_size, starts }), ranged)
            }
            _ => {
                let terms = match head.metric {
                    Metric::L2 => Some(codes.rows::<f32>("terms", &[rows])?),
                    _ => None,
                };
                let ranged = RangedCodes { codes: codes.rows::<u8>("codes", &[rows, code_size])?, terms };
                (Codes::Rows { bytes: Vec::new().into(), terms: None }, ranged)
            }
        };
        let kept = match head.refine.precision() {
            Some(precision) => {
                Some(KeptVectors::ranged(other(VECTORS)?, VECTORS, rows, head.dim, precision)?)
            }
            None => None,
        };
        Ok(head.with(layout, Some(ranged), kept).into())
    }
}

/// The section that every search needs, read and checked.
struct Head {
    metric: Metric,
    refine: Refine,
    dim: usize,
    rows: usize,
    centroids: Array<f32>,
    list_offsets: Array<u64>,
    quantizer: ProductQuantizer,
    rotation: Option<Rotation>,
}

impl Head {
    fn with(self, codes: Codes, ranged: Option<RangedCodes>, kept: Option<KeptVectors>) -> Parts {
        let Head { metric, dim, centroids, list_offsets, quantizer, rotation, .. } = self;
        Parts { metric, dim, centroids, list_offsets, quantizer, codes, ranged, kept, rotation }
    }
}

fn read_head(ivf: &Section) -> Result<Head, TensorError> {
    let OfProducts(metric) = ivf.metadata("metric")?;
    let refine = read_refine(ivf)?;
    let (centroids, shape) = ivf.array_of_rank::<f32>("centroids", 2)?;
    let (nlist, dim) = (shape[0], shape[1]);
    if !(1..=IvfPqParams::MAX_NLIST).contains(&nlist) || dim == 0 {
        let expected = format!("1 to {} lists of 1 or more dimensions", IvfPqParams::MAX_NLIST);
        return Err(content("centroids", format!("expected {expected}, got {nlist} × {dim}")));
    }
    check_finite("centroids", &centroids)?;
    let quantizer = read_quantizer(ivf, dim)?;
    let rotation = read_rotation(ivf, dim)?;
    let list_offsets = ivf.array::<u64>("list_offsets", &[nlist + 1])?;
    let rows = check_offsets(&list_offsets)?;
    Ok(Head { metric, refine, dim, rows, centroids, list_offsets, quantizer, rotation })
}

fn content(tensor: &str, what: String) -> TensorError {
    TensorError::Content { tensor: tensor.into(), what }
}

fn section<'a>(sections: &'a [Section], name: &str, tensor: &str) -> Result<&'a Section, TensorError> {
    let missing = || TensorError::Missing { section: name.into(), tensor: tensor.into() };
    sections.iter().find(|section| section.name == name).ok_or_else(missing)
}

fn read_refine(ivf: &Section) -> Result<Refine, TensorError> {
    let name: String = ivf.metadata("refine")?;
    Refine::ALL.into_iter().find(|refine| refine.name() == name).ok_or_else(|| TensorError::Metadata {
        section: IVF.into(),
        key: "refine".into(),
        what: format!("expected none, f16 or f32, got `{name}`"),
    })
}

fn read_rows(codes: &Section, rows: usize, code_size: usize, metric: Metric) -> Result<Codes, TensorError> {
    let bytes = codes.array::<u8>("codes", &[rows, code_size])?;
    let terms = match metric {
        Metric::L2 => Some(codes.array::<f32>("terms", &[rows])?),
        _ => None,
    };
    check_finite("terms", terms.as_deref().unwrap_or(&[]))?;
    Ok(Codes::Rows { bytes, terms })
}

/// Any two halves are codes, but for the half that an odd `pq_m` leaves over and those behind a list's last row.
fn read_blocks(codes: &Section, list_offsets: &[u64], shape: &PqShape) -> Result<Blocks, TensorError> {
    let (starts, code_size) = (block_starts(list_offsets), shape.code_size());
    let bytes = codes.array::<u8>("codes", &[starts[starts.len() - 1], code_size, BLOCK_ROWS])?;
    let blocks = Blocks { bytes, code_size, starts };
    match blocks.find_stray(list_offsets, shape) {
        Some((list, place, byte)) => {
            let what = format!("list {list}, place {place}: expected 0 where there is no code, got {byte}");
            Err(content("codes", what))
        }
        None => Ok(blocks),
    }
}

fn read_quantizer(ivf: &Section, dim: usize) -> Result<ProductQuantizer, TensorError> {
    let (codebooks, got) = ivf.array_of_rank::<f32>("codebooks", 3)?;
    let refused = |what: String| content("codebooks", what);
    let shape =
        PqShape::new(dim, got[0], ivf.metadata("pq_bits")?).map_err(|error| refused(error.to_string()))?;
    check_nibbles(&shape).map_err(|error| refused(error.to_string()))?;
    let expected = [shape.pq_m, shape.ksub(), shape.dsub];
    if got != expected {
        return Err(refused(format!("expected shape {expected:?}, got {got:?}")));
    }
    ProductQuantizer::from_codebook(shape, codebooks.to_vec()).map_err(|error| refused(error.to_string()))
}

/// Codes are read as those of rotated residuals if and only if both the key and the tensor say so.
fn read_rotation(ivf: &Section, dim: usize) -> Result<Option<Rotation>, TensorError> {
    let has_tensor = ivf.tensors.iter().any(|(name, _)| name == ROTATION);
    if !has_tensor && !ivf.metadata.contains_key(ROTATION) {
        return Ok(None);
    }
    let name: String = ivf.metadata(ROTATION)?;
    if name != Rotate::Opq.name() {
        let what = format!("expected {}, got `{name}`", Rotate::Opq.name());
        return Err(TensorError::Metadata { section: IVF.into(), key: ROTATION.into(), what });
    }
    let matrix = ivf.array::<f32>(ROTATION, &[dim, dim])?;
    let rotation = Rotation::from_matrix(dim, matrix.to_vec());
    rotation.map(Some).map_err(|error| content(ROTATION, error.to_string()))
}

fn check_finite(tensor: &str, values: &[f32]) -> Result<(), TensorError> {
    match values.par_iter().position_first(|value| !value.is_finite()) {
        Some(at) => Err(content(tensor, format!("expected finite values, got {} at {at}", values[at]))),
        None => Ok(()),
    }
}

/// Returns the number of rows.
fn check_offsets(offsets: &[u64]) -> Result<usize, TensorError> {
    let refused = |what: String| Err(content("list_offsets", what));
    if offsets[0] != 0 {
        return refused(format!("expected 0 first, got {}", offsets[0]));
    }
    if let Some(list) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        return refused(format!(
            "expected ascending values, got {} after {} at {}",
            offsets[list + 1],
            offsets[list],
            list + 1
        ));
    }
    match offsets[offsets.len() - 1] {
        rows if rows > 0 && rows < u64::from(u32::MAX) => Ok(rows as usize),
        rows => refused(format!("expected 1 to {} rows, got {rows}", u32::MAX - 1)),
    }
}
