//! Vectors kept as f32 or f16, and exact distances to some of them.
//!
//! They are in memory, or in a file that is read by range. Of the latter a search first fetches the rows that it will
//! compare: what it gets are vectors in memory again, and compared by the same kernels.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use half::f16;
use rayon::prelude::*;

use crate::artifact::spill::Buffer;
use crate::artifact::{
    Array, Element, FetchError, Fetching, RangedRows, RangedSection, Section, TensorError,
};
use crate::compute::cpu::{kernels, prefetch};
use crate::vectors::{Metric, VectorBuf, VectorView};

/// How vectors are kept. Distances are exact with respect to what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    /// Half the bytes. Each value keeps 11 bits: a relative error of 2⁻¹¹ at most (down to 6e-5; below that an
    /// absolute one of 3e-8), and values beyond ±65,504 are refused.
    F16,
}

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("a file for the vectors that are kept")]
    File(#[from] io::Error),
    #[error("row {row}: {got} does not fit f16, expected values within ±65504; keep vectors as f32 instead")]
    Overflow { row: usize, got: f32 },
}

/// Rows of `dim` values, immutable, shared on clone.
#[derive(Debug, Clone)]
pub struct KeptVectors {
    values: Values,
    dim: usize,
}

#[derive(Debug, Clone)]
enum Values {
    F32(Array<f32>),
    F16(Array<f16>),
    Ranged(RangedVectors),
}

/// Vectors in a file.
#[derive(Debug, Clone)]
struct RangedVectors {
    tensor: RangedRows,
    /// Of the tensor.
    name: String,
    rows: usize,
    precision: Precision,
}

impl KeptVectors {
    /// Whether every value of `rows` fits `precision`: for a build to ask before it trains.
    pub fn check(rows: VectorView<'_>, precision: Precision) -> Result<(), KeepError> {
        if precision == Precision::F32 {
            return Ok(());
        }
        match rows.as_slice().par_iter().position_first(|&value| !f16::from_f32(value).is_finite()) {
            Some(at) => Err(KeepError::Overflow { row: at / rows.dim(), got: rows.as_slice()[at] }),
            None => Ok(()),
        }
    }

    /// Keeps `rows` as they are, in the memory, or the file, that they are in.
    pub fn whole(rows: VectorBuf) -> Self {
        let dim = rows.dim();
        let values = match rows.into_shared() {
            Ok(shared) => Array::shared(shared),
            Err(own) => Array::from_vec(own.into_vec()),
        };
        Self { values: Values::F32(values), dim }
    }

    /// Keeps `rows[order[0]], rows[order[1]], …`.
    pub fn gather(rows: VectorView<'_>, order: &[u32], precision: Precision) -> Result<Self, KeepError> {
        Self::check(rows, precision)?;
        let values = match precision {
            Precision::F32 => Values::F32(Array::from_vec(gathered(rows, order, |value| value))),
            Precision::F16 => Values::F16(Array::from_vec(gathered(rows, order, f16::from_f32))),
        };
        Ok(Self { values, dim: rows.dim() })
    }

    /// Some rows of several, each given as the number of its part and its ordinal there.
    ///
    /// # Panics
    /// If the parts differ in dimension or precision, or there is none; if one is not in memory.
    pub fn gather_from(parts: &[&KeptVectors], rows: &[(u32, u32)]) -> Self {
        let (dim, precision) = (parts[0].dim, parts[0].precision());
        assert!(
            parts.iter().all(|part| (part.dim, part.precision()) == (dim, precision)),
            "parts of one kind"
        );
        let f32s = |part: u32| match &parts[part as usize].values {
            Values::F32(values) => &values[..],
            Values::F16(_) => unreachable!("checked above"),
            Values::Ranged(_) => panic!("{NOT_HERE}"),
        };
        let f16s = |part: u32| match &parts[part as usize].values {
            Values::F16(values) => &values[..],
            Values::F32(_) => unreachable!("checked above"),
            Values::Ranged(_) => panic!("{NOT_HERE}"),
        };
        let values = match precision {
            Precision::F32 => Values::F32(Array::from_vec(picked(rows, dim, f32s))),
            Precision::F16 => Values::F16(Array::from_vec(picked(rows, dim, f16s))),
        };
        Self { values, dim }
    }

    /// [`KeptVectors::gather`] for rows and a result that memory has no room for, in a file without a name in `folder`. Rows are read
    /// once, from the first to the last; they go in the order of their arrival to parts that memory holds one of, and each
    /// part is then put in order.
    pub fn gather_in(
        folder: &Path,
        rows: VectorView<'_>,
        order: &[u32],
        precision: Precision,
    ) -> Result<Self, KeepError> {
        Self::check(rows, precision)?;
        let (len, dim) = (order.len() * rows.dim(), rows.dim());
        let values = match precision {
            Precision::F32 => {
                let mut values = Buffer::zeroed(Some(folder), len)?;
                in_parts(rows, order, &mut values, |value| value);
                Values::F32(values.into_array())
            }
            Precision::F16 => {
                let mut values = Buffer::zeroed(Some(folder), len)?;
                in_parts(rows, order, &mut values, f16::from_f32);
                Values::F16(values.into_array())
            }
        };
        Ok(Self { values, dim })
    }

    /// The rows, to be shared, where they are f32 and in memory or a map.
    pub fn into_rows(self) -> Option<VectorBuf> {
        match self.values {
            Values::F32(values) => Some(VectorBuf::shared(Arc::new(values), self.dim)),
            Values::F16(_) | Values::Ranged(_) => None,
        }
    }

    pub fn precision(&self) -> Precision {
        match self.values {
            Values::F32(_) => Precision::F32,
            Values::F16(_) => Precision::F16,
            Values::Ranged(RangedVectors { precision, .. }) => precision,
        }
    }

    /// Whether rows must be [fetched](Self::fetch) before they are looked at.
    pub fn is_ranged(&self) -> bool {
        matches!(self.values, Values::Ranged(_))
    }

    pub fn rows(&self) -> usize {
        match &self.values {
            Values::F32(values) => values.len() / self.dim,
            Values::F16(values) => values.len() / self.dim,
            Values::Ranged(ranged) => ranged.rows,
        }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All of them, where they are f32.
    pub fn view(&self) -> Option<VectorView<'_>> {
        match &self.values {
            Values::F32(values) => Some(VectorView::new(values, self.dim)),
            Values::F16(_) | Values::Ranged(_) => None,
        }
    }

    /// # Panics
    /// If the rows are not in memory: see [`fetch`](Self::fetch).
    pub fn vector(&self, ordinal: u32) -> Vec<f32> {
        let mut vector = Vec::with_capacity(self.dim);
        self.push_to(ordinal, &mut vector);
        vector
    }

    /// Adds the values of a row to `out`.
    ///
    /// # Panics
    /// As [`vector`](Self::vector).
    pub fn push_to(&self, ordinal: u32, out: &mut Vec<f32>) {
        let range = ordinal as usize * self.dim..(ordinal as usize + 1) * self.dim;
        match &self.values {
            Values::F32(values) => out.extend_from_slice(&values[range]),
            Values::F16(values) => out.extend(values[range].iter().map(|value| value.to_f32())),
            Values::Ranged(_) => panic!("{NOT_HERE}"),
        }
    }

    /// The rows named, in that order, in memory.
    ///
    /// # Errors
    /// What fetching them says; values that are not finite.
    ///
    /// # Panics
    /// If they are in memory, all of them, or one is no row.
    pub fn fetch(&self, ordinals: &[u32], fetching: &mut Fetching) -> Result<Self, FetchError> {
        let Values::Ranged(ranged) = &self.values else {
            panic!("the vectors are in memory");
        };
        let one = |&row: &u32| ranged.tensor.range(row as usize..row as usize + 1);
        let ranges: Vec<_> = ordinals.iter().map(one).collect();
        self.of_bytes(ranged, &ranged.tensor.file.read(&ranges, fetching)?, |place| ordinals[place])
    }

    /// Consecutive rows, in memory.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn fetch_range(&self, rows: Range<usize>, fetching: &mut Fetching) -> Result<Self, FetchError> {
        let Values::Ranged(ranged) = &self.values else { panic!("the vectors are in memory") };
        let range = ranged.tensor.range(rows.clone());
        let bytes = ranged.tensor.file.read(&[range], fetching)?;
        self.of_bytes(ranged, &bytes, |place| (rows.start + place) as u32)
    }

    /// Several ranges of consecutive rows, each in memory; one round trip.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn fetch_ranges(
        &self,
        ranges: &[Range<usize>],
        fetching: &mut Fetching,
    ) -> Result<Vec<Self>, FetchError> {
        let Values::Ranged(ranged) = &self.values else { panic!("the vectors are in memory") };
        let wanted: Vec<_> = ranges.iter().map(|rows| ranged.tensor.range(rows.clone())).collect();
        let bytes = ranged.tensor.file.read(&wanted, fetching)?;
        let vectors = bytes.iter().zip(ranges).map(|(bytes, rows)| {
            self.of_bytes(ranged, std::slice::from_ref(bytes), |place| (rows.start + place) as u32)
        });
        vectors.collect()
    }

    /// Vectors from the bytes of whole rows; `ordinal` says which row of all one is, for the error.
    fn of_bytes(
        &self,
        ranged: &RangedVectors,
        bytes: &[Bytes],
        ordinal: impl Fn(usize) -> u32,
    ) -> Result<Self, FetchError> {
        let values = match ranged.precision {
            Precision::F32 => Values::F32(joined(bytes)),
            Precision::F16 => Values::F16(joined(bytes)),
        };
        let fetched = Self { values, dim: self.dim };
        match fetched.first_not_finite() {
            Some(row) => Err(not_finite(&ranged.name, ordinal(row) as usize).into()),
            None => Ok(fetched),
        }
    }

    /// Asks for a row that will be read soon.
    #[inline]
    pub fn prefetch(&self, ordinal: u32) {
        let range = ordinal as usize * self.dim..(ordinal as usize + 1) * self.dim;
        match &self.values {
            Values::F32(values) => prefetch(&values[range]),
            Values::F16(values) => prefetch(&values[range]),
            Values::Ranged(_) => {}
        }
    }

    /// `out[i]` becomes the distance from `query` to row `ordinals[i]`.
    ///
    /// # Panics
    /// If the rows are not in memory: see [`fetch`](Self::fetch).
    pub fn distances(&self, metric: Metric, query: &[f32], ordinals: &[u32], out: &mut [f32]) {
        assert_eq!((query.len(), out.len()), (self.dim, ordinals.len()));
        let kernels = kernels();
        match &self.values {
            Values::F32(values) => kernels.distance_gather(metric, query, values, ordinals, out),
            Values::F16(values) => kernels.distance_gather_f16(metric, query, values, ordinals, out),
            Values::Ranged(_) => panic!("{NOT_HERE}"),
        }
    }

    /// `out[i]` becomes the distance from `query` to row `start + i`.
    pub fn distances_from(&self, metric: Metric, query: &[f32], start: usize, out: &mut [f32]) {
        const PIECE: usize = 64;
        match &self.values {
            Values::F32(values) => {
                let rows = &values[start * self.dim..(start + out.len()) * self.dim];
                kernels().distance_rows(metric, query, rows, out);
            }
            Values::Ranged(_) => panic!("{NOT_HERE}"),
            Values::F16(_) => {
                let mut ordinals = [0u32; PIECE];
                for (piece, out) in out.chunks_mut(PIECE).enumerate() {
                    let ordinals = &mut ordinals[..out.len()];
                    let first = (start + piece * PIECE) as u32;
                    ordinals.iter_mut().zip(first..).for_each(|(slot, ordinal)| *slot = ordinal);
                    self.distances(metric, query, ordinals, out);
                }
            }
        }
    }

    /// Adds the tensor `name`, `rows × dim`, to a section.
    ///
    /// # Panics
    /// If the rows are not in memory.
    pub fn write(&self, section: Section, name: &str) -> Section {
        let shape = [self.rows(), self.dim];
        match &self.values {
            Values::F32(values) => section.with(name, values, &shape),
            Values::F16(values) => section.with(name, values, &shape),
            Values::Ranged(_) => panic!("{NOT_HERE}"),
        }
    }

    /// Reads the tensor `name`, which must be `rows × dim` finite values.
    pub fn read(
        section: &Section,
        name: &str,
        rows: usize,
        dim: usize,
        precision: Precision,
    ) -> Result<Self, TensorError> {
        let shape = [rows, dim];
        let values = match precision {
            Precision::F32 => Values::F32(section.array(name, &shape)?.aligned_to_lines()),
            Precision::F16 => Values::F16(section.array(name, &shape)?.aligned_to_lines()),
        };
        let kept = Self { values, dim };
        match kept.first_not_finite() {
            Some(row) => Err(not_finite(name, row)),
            None => Ok(kept),
        }
    }

    /// Leaves the tensor `name`, which must be `rows × dim` values, in its file. They are found to be finite as they are
    /// fetched.
    pub fn ranged(
        section: &RangedSection,
        name: &str,
        rows: usize,
        dim: usize,
        precision: Precision,
    ) -> Result<Self, TensorError> {
        let shape = [rows, dim];
        let tensor = match precision {
            Precision::F32 => section.rows::<f32>(name, &shape)?,
            Precision::F16 => section.rows::<f16>(name, &shape)?,
        };
        let ranged = RangedVectors { tensor, name: name.into(), rows, precision };
        Ok(Self { values: Values::Ranged(ranged), dim })
    }

    fn first_not_finite(&self) -> Option<usize> {
        let at = match &self.values {
            Values::F32(values) => values.par_iter().position_first(|value| !value.is_finite()),
            Values::F16(values) => values.par_iter().position_first(|value| !value.is_finite()),
            Values::Ranged(_) => None,
        };
        at.map(|at| at / self.dim)
    }
}

const NOT_HERE: &str = "the rows were not fetched";

fn not_finite(tensor: &str, row: usize) -> TensorError {
    let what = format!("row {row}: expected finite values, got one that is not");
    TensorError::Content { tensor: tensor.into(), what }
}

/// The values of pieces, one behind the other.
fn joined<T: Element>(pieces: &[Bytes]) -> Array<T> {
    let bytes = pieces.iter().map(Bytes::len).sum::<usize>();
    let mut values = vec![T::zeroed(); bytes / size_of::<T>()];
    let mut rest = bytemuck::cast_slice_mut::<T, u8>(&mut values);
    for piece in pieces {
        let (own, behind) = rest.split_at_mut(piece.len());
        own.copy_from_slice(piece);
        rest = behind;
    }
    Array::from_vec(values)
}

/// What [`KeptVectors::gather_in`] holds of the result in memory, twice while it is put in order.
const PART_BYTES: usize = 16 << 20;

fn in_parts<T: Element>(
    rows: VectorView<'_>,
    order: &[u32],
    values: &mut Buffer<T>,
    of: impl Fn(f32) -> T + Sync,
) {
    let dim = rows.dim();
    let part_rows = (PART_BYTES / (dim * size_of::<T>())).max(1);
    let mut ordinals = vec![0u32; order.len()];
    (0..).zip(order).for_each(|(ordinal, &row)| ordinals[row as usize] = ordinal);
    // By place: the ordinal of the row that arrived there.
    let mut arrived = vec![0u32; order.len()];
    let mut next: Vec<usize> = (0..order.len()).step_by(part_rows).collect();
    let arriving: &mut [T] = values;
    for (&ordinal, row) in ordinals.iter().zip(rows.iter()) {
        let place = &mut next[ordinal as usize / part_rows];
        arrived[*place] = ordinal;
        let to = &mut arriving[*place * dim..(*place + 1) * dim];
        to.iter_mut().zip(row).for_each(|(to, &value)| *to = of(value));
        *place += 1;
    }
    values.written();
    let parts = values.chunks_mut(part_rows * dim).zip(arrived.chunks(part_rows)).enumerate();
    for (part, (values, arrived)) in parts {
        let first = part * part_rows;
        let unordered = values.to_vec();
        for (row, &ordinal) in unordered.chunks_exact(dim).zip(arrived) {
            let place = ordinal as usize - first;
            values[place * dim..(place + 1) * dim].copy_from_slice(row);
        }
    }
}

fn gathered<T: Send + bytemuck::Pod>(
    rows: VectorView<'_>,
    order: &[u32],
    of: impl Fn(f32) -> T + Sync,
) -> Vec<T> {
    // Into its place at once: collected from parts, all values would be there twice.
    const BLOCK: usize = 1024;
    let dim = rows.dim();
    let mut values = vec![T::zeroed(); order.len() * dim];
    values.par_chunks_mut(BLOCK * dim).zip(order.par_chunks(BLOCK)).for_each(|(values, order)| {
        for (values, &row) in values.chunks_exact_mut(dim).zip(order) {
            values.iter_mut().zip(rows.row(row as usize)).for_each(|(to, &value)| *to = of(value));
        }
    });
    values
}

/// Rows of several parts, one after the other.
fn picked<'a, T: Copy + 'a>(rows: &[(u32, u32)], dim: usize, part: impl Fn(u32) -> &'a [T]) -> Vec<T> {
    let mut values = Vec::with_capacity(rows.len() * dim);
    for &(of, row) in rows {
        values.extend_from_slice(&part(of)[row as usize * dim..(row as usize + 1) * dim]);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Random;

    #[test]
    fn rows_gathered_by_way_of_parts_in_a_file_are_those_gathered_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        // The last is more than a part holds.
        for (rows, dim) in [(1, 1), (1000, 3), (9000, 1000)] {
            let values = (0..rows * dim).map(|i| (i % 2039) as f32 * 0.5).collect();
            let source = VectorBuf::new(values, dim);
            let mut order: Vec<u32> = (0..rows as u32).collect();
            order.sort_by_key(|&row| Random::of(7, u64::from(row)).next_u64());
            for precision in [Precision::F16, Precision::F32] {
                let expected = KeptVectors::gather(source.view(), &order, precision).unwrap();
                let got = KeptVectors::gather_in(folder.path(), source.view(), &order, precision).unwrap();
                assert_eq!(got.precision(), precision);
                assert!((0..rows as u32).all(|row| got.vector(row) == expected.vector(row)));
            }
        }
    }
}
