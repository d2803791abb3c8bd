//! An index as sections, and back with every invariant checked.
//!
//! | section | tensors | metadata |
//! |---|---|---|
//! | `ivf` | `centroids` f32 `nlist × dim`, `list_offsets` u64 `nlist + 1`, and what its codes are made with (below) | `metric`, `refine`; `code`, but for product quantizers |
//! | `codes`, unless rows are kept as they are | see below | – |
//! | `vectors` (unless `refine` is `none`) | `vectors` f16 or f32 `rows × dim` | – |
//!
//! | codes | in `ivf` | in `codes` |
//! |---|---|---|
//! | product quantizer, 8 bits | `codebooks` f32 `pq_m × ksub × dsub`; `pq_bits`; where residuals are rotated, `rotation` f32 `dim × dim` | `codes` u8 `rows × code_size`; for L2 `terms` f32 `rows` |
//! | 4 bits | as with 8 | `codes` u8 `blocks × code_size × 32` |
//! | `rabitq` | `signs` u8 `4 × ⌈dim / 8⌉`; `bits` | `codes` u8 `blocks × (⌈dim / 8⌉ + 8) × 32`; with more bits than one `extra` u8 `rows × …` |
//! | `sq8` | `lows`, `steps` f32 `dim` | `codes` u8 `rows × dim` |
//! | `flat` | – | – |
//!
//! `ivf` is what every search needs; of the others it reads the ranges of the lists it probes.
//!
//! In blocks a list of n rows is ⌈n / 32⌉ blocks, one behind the other and behind those of the list before: a block has
//! byte `b` of the codes of its 32 rows together, then byte `b + 1`. Places behind a list's last row are 0.

use rayon::prelude::*;

use super::codes::{BlockShape, Blocks, Codes, block_starts};
use super::fetched::RangedCodes;
use super::params::{IvfPqParams, MAX_SPILLED, Refine, Rotate, Spilling, check_nibbles};
use super::quantizer::{Quantizer, Turn};
use super::rabitq::Rabitq;
use super::spill::{RangedSpill, Spill};
use super::{IvfPq, Parts};
use crate::artifact::{Array, RangedSection, Section, TensorError};
use crate::compute::cpu::BLOCK_ROWS;
use crate::index::{KeptVectors, RowMask, SearchIndex};
use crate::train::{FastRotation, PqShape, ProductQuantizer, Rotation, ScalarQuantizer};
use crate::vectors::{Metric, OfProducts};

const IVF: &str = "ivf";
const CODES: &str = "codes";
const VECTORS: &str = "vectors";
/// A tensor, and the key that says that it is there: a rotation that is lost is noticed.
const ROTATION: &str = "rotation";
/// What codes are made with, where it is no product quantizer.
const CODE: &str = "code";
const BITS: &str = "bits";
const SIGNS: &str = "signs";
/// A tensor, and the key that says that it is there.
const SPILL_OFFSETS: &str = "spill_offsets";
const SPILL: &str = "spill";
const SPILL_ROWS: &str = "spill_rows";

pub(super) fn write(index: &IvfPq) -> Vec<Section> {
    assert!(!index.is_ranged(), "the codes lie elsewhere");
    let (nlist, rows) = (index.nlist(), index.rows());
    assert_eq!(index.centroids.len(), nlist * index.dim);
    let refine = index.kept.as_ref().map_or(Refine::None.name(), |kept| kept.precision().name());
    let ivf = Section::new(IVF).with("centroids", &index.centroids, &[nlist, index.dim]).with(
        "list_offsets",
        &index.list_offsets,
        &[nlist + 1],
    );
    let ivf = write_quantizer(index, ivf)
        .with_metadata("metric", index.metric.name())
        .with_metadata("refine", refine);
    let ivf = match &index.spill {
        Some(spill) => {
            ivf.with(SPILL_OFFSETS, &spill.offsets, &[nlist + 1]).with_metadata(SPILL, Spilling::Soar.name())
        }
        None => ivf,
    };
    let mut sections = vec![ivf];
    if !matches!(index.codes, Codes::Kept) {
        let codes = write_codes(Section::new(CODES), &index.codes, (rows, index.code_bytes()), OWN);
        sections.push(match &index.spill {
            Some(spill) => {
                let entries = spill.rows.len();
                let codes = write_codes(codes, &spill.codes, (entries, index.code_bytes()), SPILLED);
                codes.with(SPILL_ROWS, &spill.rows, &[entries])
            }
            None => codes,
        });
    }
    if let Some(kept) = &index.kept {
        sections.push(kept.write(Section::new(VECTORS), VECTORS));
    }
    sections
}

/// What the tensors of codes are called, of rows and of what is spilled.
#[derive(Clone, Copy)]
struct Names {
    codes: &'static str,
    terms: &'static str,
    extra: &'static str,
}

const OWN: Names = Names { codes: "codes", terms: "terms", extra: "extra" };
const SPILLED: Names = Names { codes: "spill_codes", terms: "spill_terms", extra: "spill_extra" };

fn write_codes(section: Section, codes: &Codes, (rows, row_bytes): (usize, usize), names: Names) -> Section {
    match codes {
        Codes::Rows { bytes, terms } => {
            let section = section.with(names.codes, bytes, &[rows, row_bytes]);
            terms.iter().fold(section, |section, terms| section.with(names.terms, terms, &[rows]))
        }
        Codes::Blocks(Blocks { bytes, extra, shape, starts }) => {
            let blocks = [starts[starts.len() - 1], shape.block_columns(), BLOCK_ROWS];
            let section = section.with(names.codes, bytes, &blocks);
            match shape.extra {
                0 => section,
                size => section.with(names.extra, extra, &[rows, size]),
            }
        }
        Codes::Kept => section,
    }
}

fn write_quantizer(index: &IvfPq, ivf: Section) -> Section {
    match &index.quantizer {
        Quantizer::Product(quantizer) => {
            let shape = quantizer.shape();
            let codebooks: Array<f32> = quantizer.codebook().to_vec().into();
            let ivf = ivf
                .with("codebooks", &codebooks, &[shape.pq_m, shape.ksub(), shape.dsub])
                .with_metadata("pq_bits", shape.pq_bits);
            match index.rotation() {
                Some(rotation) => {
                    let matrix: Array<f32> = rotation.matrix().to_vec().into();
                    ivf.with(ROTATION, &matrix, &[index.dim, index.dim])
                        .with_metadata(ROTATION, Rotate::Opq.name())
                }
                None => ivf,
            }
        }
        Quantizer::Rabitq(rabitq) => {
            let Some(Turn::Drawn(rotation)) = index.turn() else {
                unreachable!("RaBitQ's codes are of turned rows")
            };
            let signs: Array<u8> = rotation.signs().to_vec().into();
            ivf.with(SIGNS, &signs, &[FastRotation::ROUNDS, index.dim.div_ceil(8)])
                .with_metadata(BITS, rabitq.bits)
                .with_metadata(CODE, index.code_kind().name())
        }
        Quantizer::Scalar(quantizer) => {
            let (lows, steps): (Array<f32>, Array<f32>) =
                (quantizer.lows().to_vec().into(), quantizer.steps().to_vec().into());
            ivf.with("lows", &lows, &[index.dim])
                .with("steps", &steps, &[index.dim])
                .with_metadata(CODE, index.code_kind().name())
        }
        Quantizer::Flat => ivf.with_metadata(CODE, index.code_kind().name()),
    }
}

impl IvfPq {
    /// The index that [`sections`](SearchIndex::sections) wrote. Whatever holds of a built index is checked here, so
    /// that search need not: shapes that agree, ascending offsets that end at the number of rows, codes within
    /// their codebooks, finite values.
    pub fn from_sections(sections: &[Section]) -> Result<Self, TensorError> {
        let head = read_head(section(sections, IVF, "centroids")?)?;
        let (dim, rows) = (head.dim, head.rows);
        let codes = match &head.quantizer {
            Quantizer::Flat => Codes::Kept,
            _ => read_codes(&head, section(sections, CODES, "codes")?, &head.list_offsets, OWN)?,
        };
        let spill = match &head.spill_offsets {
            Some(offsets) => Some(read_spill(&head, section(sections, CODES, "codes")?, offsets)?),
            None => None,
        };
        let kept = match head.refine.precision() {
            Some(precision) => {
                let vectors = section(sections, VECTORS, VECTORS)?;
                Some(KeptVectors::read(vectors, VECTORS, rows, dim, precision)?)
            }
            None => None,
        };
        Ok(head.with(codes, None, kept, spill).into())
    }

    /// As [`from_sections`](Self::from_sections), with codes and vectors left in their files: `ivf` is the section that
    /// every search needs, the others are read list by list and row by row. That rows lie within bounds is checked as they come; that numbers
    /// are finite is not, beyond their checksum: a row of which one is not is never found.
    ///
    /// # Errors
    /// As `from_sections`, but for what codes and vectors consist of.
    pub fn ranged(ivf: &Section, others: &[RangedSection]) -> Result<Self, TensorError> {
        let head = read_head(ivf)?;
        let other = |name: &str| {
            let missing = || TensorError::NoSection { section: name.into() };
            others.iter().find(|section| section.head.name == name).ok_or_else(missing)
        };
        let (layout, ranged) = match head.quantizer {
            Quantizer::Flat => (Codes::Kept, None),
            _ => {
                let (layout, ranged) = ranged_codes(&head, other(CODES)?, &head.list_offsets, OWN)?;
                (layout, Some(ranged))
            }
        };
        let spill = match &head.spill_offsets {
            Some(offsets) => {
                let section = other(CODES)?;
                let (codes, ranged) = ranged_codes(&head, section, offsets, SPILLED)?;
                let rows = section.rows::<u32>(SPILL_ROWS, &[entries(offsets)])?;
                let ranged = Some(RangedSpill { codes: ranged, rows });
                Some(Spill { offsets: offsets.clone(), rows: Vec::new().into(), codes, ranged })
            }
            None => None,
        };
        let kept = match head.refine.precision() {
            Some(precision) => {
                Some(KeptVectors::ranged(other(VECTORS)?, VECTORS, head.rows, head.dim, precision)?)
            }
            None => None,
        };
        Ok(head.with(layout, ranged, kept, spill).into())
    }
}

fn entries(offsets: &[u64]) -> usize {
    offsets[offsets.len() - 1] as usize
}

/// Codes that are left in their file: how they lie, and where.
fn ranged_codes(
    head: &Head,
    section: &RangedSection,
    offsets: &[u64],
    names: Names,
) -> Result<(Codes, RangedCodes), TensorError> {
    let rows = entries(offsets);
    let Some(shape) = head.quantizer.blocks(head.metric) else {
        let beside = match has_terms(&head.quantizer, head.metric) {
            true => Some(section.rows::<f32>(names.terms, &[rows])?),
            false => None,
        };
        let codes = section.rows::<u8>(names.codes, &[rows, head.quantizer.row_bytes(head.metric)])?;
        return Ok((Codes::Rows { bytes: Vec::new().into(), terms: None }, RangedCodes { codes, beside }));
    };
    let starts = block_starts(offsets);
    let blocks = [starts[starts.len() - 1], shape.block_columns(), BLOCK_ROWS];
    let beside = match shape.extra {
        0 => None,
        size => Some(section.rows::<u8>(names.extra, &[rows, size])?),
    };
    let ranged = RangedCodes { codes: section.rows::<u8>(names.codes, &blocks)?, beside };
    let (bytes, extra) = (Vec::new().into(), Vec::new().into());
    Ok((Codes::Blocks(Blocks { bytes, extra, shape, starts }), ranged))
}

/// The section that every search needs, read and checked.
struct Head {
    metric: Metric,
    refine: Refine,
    dim: usize,
    rows: usize,
    centroids: Array<f32>,
    list_offsets: Array<u64>,
    /// Where second lists begin.
    spill_offsets: Option<Array<u64>>,
    quantizer: Quantizer,
    turn: Option<Turn>,
}

impl Head {
    fn with(
        self,
        codes: Codes,
        ranged: Option<RangedCodes>,
        kept: Option<KeptVectors>,
        spill: Option<Spill>,
    ) -> Parts {
        let Head { metric, dim, centroids, list_offsets, quantizer, turn, .. } = self;
        Parts { metric, dim, centroids, list_offsets, quantizer, codes, ranged, kept, turn, spill }
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
    let (quantizer, turn) = read_quantizer(ivf, dim)?;
    if quantizer == Quantizer::Flat && refine == Refine::None {
        return Err(metadata(
            "refine",
            "expected f16 or f32 where rows are kept as they are, got `none`".into(),
        ));
    }
    let list_offsets = ivf.array::<u64>("list_offsets", &[nlist + 1])?;
    let rows = check_offsets("list_offsets", &list_offsets)?;
    let spill_offsets = read_spill_offsets(ivf, nlist, rows)?;
    if spill_offsets.is_some() && quantizer == Quantizer::Flat {
        return Err(metadata(SPILL, "expected none where rows are kept as they are".into()));
    }
    Ok(Head { metric, refine, dim, rows, centroids, list_offsets, spill_offsets, quantizer, turn })
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

fn metadata(key: &str, what: String) -> TensorError {
    TensorError::Metadata { section: IVF.into(), key: key.into(), what }
}

/// Whether each row has a number that belongs to its code.
fn has_terms(quantizer: &Quantizer, metric: Metric) -> bool {
    matches!(quantizer, Quantizer::Product(_)) && metric == Metric::L2
}

/// Second lists are there if and only if both the key and the tensor say so; there are as many entries as rows.
fn read_spill_offsets(ivf: &Section, nlist: usize, rows: usize) -> Result<Option<Array<u64>>, TensorError> {
    let has_tensor = ivf.tensors.iter().any(|(name, _)| name == SPILL_OFFSETS);
    if !has_tensor && !ivf.metadata.contains_key(SPILL) {
        return Ok(None);
    }
    let name: String = ivf.metadata(SPILL)?;
    if name != Spilling::Soar.name() {
        return Err(metadata(SPILL, format!("expected {}, got `{name}`", Spilling::Soar.name())));
    }
    let offsets = ivf.array::<u64>(SPILL_OFFSETS, &[nlist + 1])?;
    let got = check_offsets(SPILL_OFFSETS, &offsets)?;
    if got != rows || rows > MAX_SPILLED {
        let what = format!("expected an entry of each of {rows} rows, {MAX_SPILLED} at most, got {got}");
        return Err(content(SPILL_OFFSETS, what));
    }
    Ok(Some(offsets))
}

fn read_spill(head: &Head, section: &Section, offsets: &Array<u64>) -> Result<Spill, TensorError> {
    let rows = section.array::<u32>(SPILL_ROWS, &[entries(offsets)])?;
    check_spilled(rows.iter(), head.rows)?;
    let different = RowMask::from_ordinals(head.rows, rows.iter().copied()).count();
    if different != rows.len() {
        return Err(content(
            SPILL_ROWS,
            format!("expected each of {} rows once, got {different}", rows.len()),
        ));
    }
    let codes = read_codes(head, section, offsets, SPILLED)?;
    Ok(Spill { offsets: offsets.clone(), rows, codes, ranged: None })
}

/// That what is spilled are rows.
pub(super) fn check_spilled<'a>(
    mut spilled: impl Iterator<Item = &'a u32>,
    rows: usize,
) -> Result<(), TensorError> {
    match spilled.find(|&&row| row as usize >= rows) {
        Some(row) => Err(content(SPILL_ROWS, format!("expected rows below {rows}, got {row}"))),
        None => Ok(()),
    }
}

fn read_codes(head: &Head, codes: &Section, offsets: &[u64], names: Names) -> Result<Codes, TensorError> {
    let (rows, metric) = (entries(offsets), head.metric);
    if let Some(shape) = head.quantizer.blocks(metric) {
        return Ok(Codes::Blocks(read_blocks(head, (codes, names), offsets, shape)?));
    }
    let bytes = codes.array::<u8>(names.codes, &[rows, head.quantizer.row_bytes(metric)])?;
    let terms = match has_terms(&head.quantizer, metric) {
        true => Some(codes.array::<f32>(names.terms, &[rows])?),
        false => None,
    };
    check_finite(names.terms, terms.as_deref().unwrap_or(&[]))?;
    Ok(Codes::Rows { bytes, terms })
}

/// Any bits are codes, but for those that the last column may not have and those behind a list's last row.
fn read_blocks(
    head: &Head,
    (codes, names): (&Section, Names),
    offsets: &[u64],
    shape: BlockShape,
) -> Result<Blocks, TensorError> {
    let starts = block_starts(offsets);
    let blocks = [starts[starts.len() - 1], shape.block_columns(), BLOCK_ROWS];
    let bytes = codes.array::<u8>(names.codes, &blocks)?;
    let extra = match shape.extra {
        0 => Vec::new().into(),
        size => codes.array::<u8>(names.extra, &[entries(offsets), size])?,
    };
    let blocks = Blocks { bytes, extra, shape, starts };
    if let Some((list, place, byte)) = blocks.find_stray(offsets) {
        let what = format!("list {list}, place {place}: expected 0 where there is no code, got {byte}");
        return Err(content(names.codes, what));
    }
    if let Quantizer::Rabitq(rabitq) = &head.quantizer {
        let beside = |extra: &[u8]| {
            let (factor, add) = rabitq.numbers_beside(head.metric, extra);
            factor.is_finite() && add.is_none_or(f32::is_finite)
        };
        let beside = |extra: &[u8]| rabitq.bits == 1 || beside(extra);
        if let Some(row) = blocks.find_not_finite(offsets, beside) {
            return Err(content(names.codes, format!("row {row}: expected finite numbers")));
        }
    }
    Ok(blocks)
}

/// What codes are made with; of product quantizers nothing says that they are those.
fn read_quantizer(ivf: &Section, dim: usize) -> Result<(Quantizer, Option<Turn>), TensorError> {
    if !ivf.metadata.contains_key(CODE) {
        let rotation = read_rotation(ivf, dim)?.map(Turn::Learned);
        return Ok((Quantizer::Product(read_codebooks(ivf, dim)?), rotation));
    }
    let code: String = ivf.metadata(CODE)?;
    match code.as_str() {
        "rabitq" => {
            let bits: usize = ivf.metadata(BITS)?;
            Rabitq::check(dim, bits).map_err(|error| metadata(BITS, error.to_string()))?;
            let signs = ivf.array::<u8>(SIGNS, &[FastRotation::ROUNDS, dim.div_ceil(8)])?;
            let rotation = FastRotation::from_signs(dim, signs.to_vec());
            let rotation = rotation.map_err(|error| content(SIGNS, error.to_string()))?;
            Ok((Quantizer::Rabitq(Rabitq { dim, bits }), Some(Turn::Drawn(rotation))))
        }
        "sq8" => {
            let (lows, steps) = (ivf.array::<f32>("lows", &[dim])?, ivf.array::<f32>("steps", &[dim])?);
            let quantizer = ScalarQuantizer::from_ranges(lows.to_vec(), steps.to_vec());
            let quantizer = quantizer.map_err(|error| content("steps", error.to_string()))?;
            Ok((Quantizer::Scalar(quantizer), None))
        }
        "flat" => Ok((Quantizer::Flat, None)),
        other => Err(metadata(CODE, format!("expected rabitq, sq8 or flat, got `{other}`"))),
    }
}

fn read_codebooks(ivf: &Section, dim: usize) -> Result<ProductQuantizer, TensorError> {
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
        return Err(metadata(ROTATION, format!("expected {}, got `{name}`", Rotate::Opq.name())));
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
fn check_offsets(name: &str, offsets: &[u64]) -> Result<usize, TensorError> {
    let refused = |what: String| Err(content(name, what));
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
