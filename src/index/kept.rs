//! Vectors kept as f32 or f16, and exact distances to some of them.

use std::path::Path;

use half::f16;
use rayon::prelude::*;

use crate::artifact::spill::array_in_file;
use crate::artifact::{Array, Section, TensorError};
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
    File(#[from] std::io::Error),
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

    /// Keeps `rows` as they are, in the memory that they are in.
    pub fn whole(rows: VectorBuf) -> Self {
        let dim = rows.dim();
        Self { values: Values::F32(Array::on_lines(rows.into_vec())), dim }
    }

    /// Keeps `rows[order[0]], rows[order[1]], …`.
    pub fn gather(rows: VectorView<'_>, order: &[u32], precision: Precision) -> Result<Self, KeepError> {
        Self::check(rows, precision)?;
        let values = match precision {
            Precision::F32 => Values::F32(Array::on_lines(gathered(rows, order, |value| value))),
            Precision::F16 => Values::F16(Array::on_lines(gathered(rows, order, f16::from_f32))),
        };
        Ok(Self { values, dim: rows.dim() })
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
            Precision::F32 => Values::F32(array_in_file(folder, len, |values| {
                in_parts(rows, order, values, |value| value)
            })?),
            Precision::F16 => Values::F16(array_in_file(folder, len, |values| {
                in_parts(rows, order, values, f16::from_f32)
            })?),
        };
        Ok(Self { values, dim })
    }

    pub fn precision(&self) -> Precision {
        match self.values {
            Values::F32(_) => Precision::F32,
            Values::F16(_) => Precision::F16,
        }
    }

    pub fn rows(&self) -> usize {
        self.len() / self.dim
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All of them, where they are f32.
    pub fn view(&self) -> Option<VectorView<'_>> {
        match &self.values {
            Values::F32(values) => Some(VectorView::new(values, self.dim)),
            Values::F16(_) => None,
        }
    }

    fn len(&self) -> usize {
        match &self.values {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
        }
    }

    pub fn vector(&self, ordinal: u32) -> Vec<f32> {
        let range = ordinal as usize * self.dim..(ordinal as usize + 1) * self.dim;
        match &self.values {
            Values::F32(values) => values[range].to_vec(),
            Values::F16(values) => values[range].iter().map(|value| value.to_f32()).collect(),
        }
    }

    /// Asks for a row that will be read soon.
    #[inline]
    pub fn prefetch(&self, ordinal: u32) {
        let range = ordinal as usize * self.dim..(ordinal as usize + 1) * self.dim;
        match &self.values {
            Values::F32(values) => prefetch(&values[range]),
            Values::F16(values) => prefetch(&values[range]),
        }
    }

    /// `out[i]` becomes the distance from `query` to row `ordinals[i]`.
    pub fn distances(&self, metric: Metric, query: &[f32], ordinals: &[u32], out: &mut [f32]) {
        assert_eq!((query.len(), out.len()), (self.dim, ordinals.len()));
        let kernels = kernels();
        match (&self.values, metric) {
            (Values::F32(values), Metric::L2) => (kernels.l2_gather)(query, values, ordinals, out),
            (Values::F32(values), _) => (kernels.dot_gather)(query, values, ordinals, out),
            (Values::F16(values), Metric::L2) => (kernels.l2_gather_f16)(query, values, ordinals, out),
            (Values::F16(values), _) => (kernels.dot_gather_f16)(query, values, ordinals, out),
        }
        to_distances(metric, out);
    }

    /// `out[i]` becomes the distance from `query` to row `start + i`.
    pub fn distances_from(&self, metric: Metric, query: &[f32], start: usize, out: &mut [f32]) {
        const PIECE: usize = 64;
        match &self.values {
            Values::F32(values) => {
                let rows = &values[start * self.dim..(start + out.len()) * self.dim];
                match metric {
                    Metric::L2 => (kernels().l2_rows)(query, rows, out),
                    _ => (kernels().dot_rows)(query, rows, out),
                }
                to_distances(metric, out);
            }
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
    pub fn write(&self, section: Section, name: &str) -> Section {
        let shape = [self.rows(), self.dim];
        match &self.values {
            Values::F32(values) => section.with(name, values, &shape),
            Values::F16(values) => section.with(name, values, &shape),
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
        let bad = match &kept.values {
            Values::F32(values) => values.par_iter().position_first(|value| !value.is_finite()),
            Values::F16(values) => values.par_iter().position_first(|value| !value.is_finite()),
        };
        match bad {
            Some(at) => {
                let what = format!("row {}: expected finite values, got one that is not", at / dim);
                Err(TensorError::Content { tensor: name.into(), what })
            }
            None => Ok(kept),
        }
    }
}

/// What [`KeptVectors::gather_in`] holds of the result in memory, twice while it is put in order.
const PART_BYTES: usize = 16 << 20;

fn in_parts<T: Send + Sync + bytemuck::Pod>(
    rows: VectorView<'_>,
    order: &[u32],
    values: &mut [T],
    of: impl Fn(f32) -> T + Sync,
) -> Result<(), KeepError> {
    let dim = rows.dim();
    let part_rows = (PART_BYTES / (dim * size_of::<T>())).max(1);
    let mut ordinals = vec![0u32; order.len()];
    (0..).zip(order).for_each(|(ordinal, &row)| ordinals[row as usize] = ordinal);
    // By place: the ordinal of the row that arrived there.
    let mut arrived = vec![0u32; order.len()];
    let mut next: Vec<usize> = (0..order.len()).step_by(part_rows).collect();
    for (&ordinal, row) in ordinals.iter().zip(rows.iter()) {
        let place = &mut next[ordinal as usize / part_rows];
        arrived[*place] = ordinal;
        let to = &mut values[*place * dim..(*place + 1) * dim];
        to.iter_mut().zip(row).for_each(|(to, &value)| *to = of(value));
        *place += 1;
    }
    let parts = values.chunks_mut(part_rows * dim).zip(arrived.chunks(part_rows)).enumerate();
    for (part, (values, arrived)) in parts {
        let first = part * part_rows;
        let unordered = values.to_vec();
        for (row, &ordinal) in unordered.chunks_exact(dim).zip(arrived) {
            let place = ordinal as usize - first;
            values[place * dim..(place + 1) * dim].copy_from_slice(row);
        }
    }
    Ok(())
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

fn to_distances(metric: Metric, out: &mut [f32]) {
    if metric != Metric::L2 {
        out.iter_mut().for_each(|value| *value = metric.distance_of_dot(*value));
    }
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
