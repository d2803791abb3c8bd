//! Rows as bytes: what a graph's build compares, where they can tell its rows apart.
//!
//! One step size for all dimensions, each taken from the middle of its values, so that the distance of two rows of bytes is
//! an integer: exact, the same on every instruction set, and four dimensions to an instruction's f32. What is lost is
//! told by [`ByteRows::resolution`]: nearer rows are for the vectors themselves to compare.

use std::sync::Arc;

use rayon::prelude::*;

use super::panels::Aligned;
use super::{Kernels, kernels, prefetch, row_stride};
use crate::compute::DeviceCopy;
use crate::vectors::{SharedValues, VectorView};

/// See [`ByteRows::encode`].
pub struct ByteRows {
    data: Data,
    rows: usize,
    dim: usize,
    /// Four bytes each, of one row.
    units: usize,
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "no device, no copies"))]
    pub(in crate::compute) copy: DeviceCopy,
}

enum Data {
    Own(Aligned),
    /// Where [`ByteRows::encode_in`] was told to put them.
    Elsewhere(SharedValues),
}

impl Data {
    fn as_slice(&self) -> &[f32] {
        match self {
            Data::Own(values) => values.as_slice(),
            Data::Elsewhere(values) => (**values).as_ref(),
        }
    }
}

/// Bytes of the integer behind a row's dimensions.
const NORM: usize = size_of::<i32>();

/// Rows of one task.
const BLOCK_ROWS: usize = 1024;

impl ByteRows {
    /// With more, a distance might not fit an i32.
    const MAX_DIM: usize = 32_000;

    /// Bytes b = 128 + (x − middle) / step, rounded. `None` where there are none to be had: too many dimensions.
    pub fn encode(rows: VectorView<'_>) -> Option<Self> {
        let len = Self::size_bytes(rows.rows(), rows.dim()) / 4;
        let mut data = Aligned::default();
        (len > 0).then(|| {
            Self::fill(rows, data.resized(len));
            Self::over(Data::Own(data), rows)
        })
    }

    /// [`encode`](Self::encode) into memory of the caller's, which `make` is asked for so many values of.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn encode_in<S, E>(
        rows: VectorView<'_>,
        make: impl FnOnce(usize) -> Result<S, E>,
    ) -> Result<Option<Self>, E>
    where
        S: AsMut<[f32]> + AsRef<[f32]> + Send + Sync + 'static,
    {
        let len = Self::size_bytes(rows.rows(), rows.dim()) / 4;
        if len == 0 {
            return Ok(None);
        }
        let mut data = make(len)?;
        Self::fill(rows, data.as_mut());
        Ok(Some(Self::over(Data::Elsewhere(Arc::new(data)), rows)))
    }

    fn over(data: Data, rows: VectorView<'_>) -> Self {
        let units = row_stride(rows.dim() + NORM) / 4;
        Self { data, rows: rows.rows(), dim: rows.dim(), units, copy: DeviceCopy::default() }
    }

    fn fill(rows: VectorView<'_>, data: &mut [f32]) {
        let dim = rows.dim();
        let (least, greatest) = ranges(rows);
        let middle: Vec<f32> =
            least.iter().zip(&greatest).map(|(low, high)| low / 2.0 + high / 2.0).collect();
        let widest =
            least.iter().zip(&greatest).fold(0f32, |widest, (low, high)| widest.max(high / 2.0 - low / 2.0));
        let per_step = if widest > 0.0 { (127.0 / widest).min(f32::MAX) } else { 0.0 };
        let stride = row_stride(dim + NORM);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(data);
        bytes.par_chunks_mut(stride * BLOCK_ROWS).zip(rows.as_slice().par_chunks(dim * BLOCK_ROWS)).for_each(
            |(bytes, rows)| {
                for (bytes, row) in bytes.chunks_exact_mut(stride).zip(rows.chunks_exact(dim)) {
                    let (values, behind) = bytes.split_at_mut(dim);
                    for ((byte, &x), &middle) in values.iter_mut().zip(row).zip(&middle) {
                        // Rounded to the nearest; `as` saturates.
                        *byte = ((x - middle) * per_step + 128.5) as u8;
                    }
                    let norm: i32 = values.iter().map(|&byte| (i32::from(byte) - 128).pow(2)).sum();
                    let (padding, own) = behind.split_at_mut(behind.len() - NORM);
                    padding.fill(128);
                    own.copy_from_slice(&norm.to_ne_bytes());
                }
            },
        );
    }

    /// Bytes of memory that so many rows of `dim` dimensions take.
    pub fn size_bytes(rows: usize, dim: usize) -> usize {
        if dim > Self::MAX_DIM { 0 } else { rows * row_stride(dim + NORM) }
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The squared distance, in steps, below which two rows' distance is not to be relied on. Rounding each value by up to
    /// half a step moves a squared distance of δ² by 0.8 · δ (one standard deviation), 2.5 % of it at 32 steps, and adds a
    /// sixth for every dimension.
    pub fn resolution(&self) -> f32 {
        (1024 + 4 * self.dim) as f32
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Four bytes to a unit.
    pub(in crate::compute) fn units(&self) -> usize {
        self.units
    }

    /// Units that hold dimensions.
    pub(in crate::compute) fn steps(&self) -> usize {
        self.dim.div_ceil(4)
    }

    /// `rows × units`, as [`Kernels::pack`] takes them: nothing is computed with these floats.
    pub(super) fn as_floats(&self) -> &[f32] {
        &self.data.as_slice()[..self.rows * self.units]
    }

    pub(in crate::compute) fn as_units(&self) -> &[i32] {
        bytemuck::cast_slice(self.as_floats())
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.as_floats())
    }
}

/// The least and greatest value of each dimension.
fn ranges(rows: VectorView<'_>) -> (Vec<f32>, Vec<f32>) {
    let dim = rows.dim();
    let start = || (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    let widen = |(mut least, mut greatest): (Vec<f32>, Vec<f32>), low: &[f32], high: &[f32]| {
        for ((least, greatest), (&low, &high)) in
            least.iter_mut().zip(&mut greatest).zip(low.iter().zip(high))
        {
            *least = least.min(low);
            *greatest = greatest.max(high);
        }
        (least, greatest)
    };
    // Minimum and maximum do not depend on the order in which parts are joined.
    rows.as_slice()
        .par_chunks(dim * BLOCK_ROWS)
        .map(|block| block.chunks_exact(dim).fold(start(), |range, row| widen(range, row, row)))
        .reduce(start, |range, (low, high)| widen(range, &low, &high))
}

/// One row, prepared for distances to others.
pub struct ByteQuery<'a> {
    dim: usize,
    stride: usize,
    /// Of all rows.
    bytes: &'a [u8],
    kernels: &'static Kernels,
    values: Vec<i8>,
    products: Vec<i32>,
}

impl<'a> ByteQuery<'a> {
    pub fn new(rows: &'a ByteRows) -> Self {
        let stride = rows.units * 4;
        let (values, products) = (vec![0; stride], Vec::new());
        Self { dim: rows.dim, stride, bytes: rows.bytes(), kernels: kernels(), values, products }
    }

    fn row(&self, ordinal: u32) -> &'a [u8] {
        &self.bytes[ordinal as usize * self.stride..][..self.stride]
    }

    fn norm(&self, ordinal: u32) -> i32 {
        let (_, own) = self.row(ordinal).split_last_chunk().expect("a row ends with its norm");
        i32::from_ne_bytes(*own)
    }

    /// `out[i]`, the squared distance of `row` and `others[i]` in steps.
    pub fn distances(&mut self, row: u32, others: &[u32], out: &mut [f32]) {
        let mut sum = 0;
        let own = self.row(row);
        for (value, &byte) in self.values[..self.dim].iter_mut().zip(own) {
            *value = (byte ^ 128) as i8;
            sum += i32::from(*value);
        }
        // |v − w|² = |v|² + |w|² − 2 Σ v (b − 128), where b is w's byte.
        let own = self.norm(row).wrapping_add(sum << 8);
        self.products.resize(others.len(), 0);
        others.iter().for_each(|&other| prefetch(self.row(other)));
        (self.kernels.packed_gather)(&self.values, self.bytes, self.stride, others, &mut self.products);
        for ((out, &product), &other) in out.iter_mut().zip(&self.products).zip(others) {
            *out = own.wrapping_add(self.norm(other)).wrapping_sub(product.wrapping_mul(2)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::ByteKernels;
    use super::super::kernels::ByteStrip;
    use super::super::{Cpu, available};
    use super::*;
    use crate::compute::reference::Reference;
    use crate::compute::{Compute, Leaves, Rows};
    use crate::vectors::{Metric, Random, VectorBuf};

    const DIMS: [usize; 14] = [1, 2, 3, 4, 5, 15, 16, 17, 59, 60, 61, 64, 100, 385];

    /// Integers that bytes hold exactly: every dimension reaches from −127 to 127.
    fn integers(rows: usize, dim: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        let mut data =
            VectorBuf::new((0..rows * dim).map(|_| random.below(255) as f32 - 127.0).collect(), dim);
        data.row_mut(0).fill(127.0);
        data.row_mut(rows - 1).fill(-127.0);
        data
    }

    /// Clusters much tighter than a step, far from each other.
    fn tight(rows: usize, dim: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        let value = |row: usize| (row % 3) as f32 * 10.0;
        VectorBuf::new((0..rows * dim).map(|i| value(i / dim) + 1e-4 * random.normal() as f32).collect(), dim)
    }

    #[test]
    fn bytes_are_the_nearest_to_their_values() {
        let mut random = Random::new(1);
        for (dim, shift, factor) in [(1, 0.0, 1.0), (7, 1000.0, 1.0), (64, 0.0, 1e-30), (100, -3e16, 1e17)] {
            let data = (0..300 * dim).map(|_| shift + factor * random.normal() as f32);
            let rows = VectorBuf::new(data.collect(), dim);
            let bytes = ByteRows::encode(rows.view()).unwrap();
            let (least, greatest) = ranges(rows.view());
            let widest = (0..dim).map(|d| (greatest[d] - least[d]) / 2.0).fold(0.0, f32::max);
            for (row, values) in rows.view().iter().enumerate() {
                for (d, &value) in values.iter().enumerate() {
                    let steps = f32::from(ByteQuery::new(&bytes).row(row as u32)[d]) - 128.0;
                    let decoded = (least[d] + greatest[d]) / 2.0 + steps * widest / 127.0;
                    let off = (decoded - value).abs() / (widest / 127.0);
                    assert!(off <= 0.52, "{dim}-d: {value} became {decoded}, {off} steps away");
                }
            }
        }
    }

    #[test]
    fn rows_without_extent_or_of_too_many_dimensions_have_no_use_for_bytes() {
        assert!(ByteRows::encode(VectorBuf::zeroed(0, 3).view()).is_none());
        assert!(ByteRows::encode(VectorBuf::zeroed(1, ByteRows::MAX_DIM + 1).view()).is_none());
        let equal = ByteRows::encode(VectorBuf::new(vec![7.0; 12], 4).view()).unwrap();
        let mut out = [f32::NAN; 2];
        ByteQuery::new(&equal).distances(0, &[1, 2], &mut out);
        assert_eq!(out, [0.0; 2]);
        // The longest distance that there is.
        let dim = ByteRows::MAX_DIM;
        let data = (0..2 * dim).map(|i| if i < dim { 1.0 } else { -1.0 }).collect();
        let bytes = ByteRows::encode(VectorBuf::new(data, dim).view()).unwrap();
        let mut out = [f32::NAN; 2];
        ByteQuery::new(&bytes).distances(0, &[0, 1], &mut out);
        assert_eq!(out, [0.0, (dim * 254 * 254) as f32]);
    }

    #[test]
    fn a_distance_is_the_integer_between_the_bytes() {
        for dim in DIMS {
            let rows = integers(40, dim, 3);
            let bytes = ByteRows::encode(rows.view()).unwrap();
            let mut query = ByteQuery::new(&bytes);
            let others: Vec<u32> = (0..40).rev().collect();
            let mut out = vec![f32::NAN; 40];
            for row in [0, 17, 39] {
                query.distances(row, &others, &mut out);
                for (&other, &distance) in others.iter().zip(&out) {
                    let expected = Metric::L2.distance(rows.row(row as usize), rows.row(other as usize));
                    assert_eq!(f64::from(distance), expected, "{dim}-d: {row} and {other}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_multiplies_bytes_exactly() {
        let mut tables: Vec<(&Kernels, &ByteKernels)> =
            available().into_iter().map(|kernels| (kernels, &kernels.bytes)).collect();
        #[cfg(target_arch = "x86_64")]
        if let Some(kernels) =
            available().into_iter().find(|kernels| kernels.isa == super::super::Isa::Avx512)
        {
            tables.push((kernels, &super::super::avx512::WITHOUT_VNNI));
        }
        for (kernels, table) in tables {
            for dim in DIMS {
                for (columns, strip) in [(1, 1), (kernels.panel, kernels.strip), (2 * kernels.panel - 1, 3)] {
                    let rows = integers(70, dim, 4);
                    let bytes = ByteRows::encode(rows.view()).unwrap();
                    let (units, steps) = (bytes.units(), bytes.steps());
                    let members: Vec<u32> = (0..columns as u32).map(|i| i * 7 % 70).collect();
                    let ordinals: Vec<u32> = (0..strip.min(kernels.strip) as u32).map(|i| 69 - i).collect();
                    let count = columns.next_multiple_of(kernels.panel);
                    let mut packed = Aligned::default();
                    let panels = packed.resized(count * units);
                    (kernels.pack)(bytes.as_floats(), units, &members, panels);
                    let panels: &mut [i32] = bytemuck::cast_slice_mut(panels);
                    let mut offsets = vec![0; count];
                    (table.columns)(panels, units, steps, &mut offsets);
                    let mut out = vec![f32::NAN; kernels.strip * count];
                    let base = bytes.as_units();
                    let of_rows = ByteStrip { base, units, steps, ordinals: &ordinals };
                    (table.product)(of_rows, panels, &offsets, &mut out, count);
                    for (row, &a) in ordinals.iter().enumerate() {
                        for (column, &b) in members.iter().enumerate() {
                            let expected = Metric::L2.distance(rows.row(a as usize), rows.row(b as usize));
                            let got = -f64::from(out[row * count + column]);
                            assert_eq!(got, expected, "{} {dim}-d: {a} and {b}", kernels.isa);
                        }
                    }
                }
            }
        }
    }

    fn leaves(rows: usize, sizes: &[usize]) -> Leaves {
        let mut random = Random::new(5);
        let mut leaves = Leaves::default();
        sizes.iter().for_each(|&size| leaves.push(&random.sample(rows, size)));
        leaves
    }

    #[test]
    fn candidates_by_exact_bytes_are_the_nearest() {
        for kernels in available() {
            for (dim, k) in [(1, 3), (5, 3), (16, 1), (33, 20), (100, 3)] {
                let rows = integers(700, dim, 6);
                let bytes = ByteRows::encode(rows.view()).unwrap();
                let uploaded = Rows::on_host(rows.view());
                let leaves = leaves(700, &[1, 2, 3, 31, 64, 400]);
                let cpu = Cpu::with_kernels(kernels);
                let got = cpu.leaf_candidates(&uploaded, Some(&bytes), &leaves, k).unwrap();
                let expected = Reference.leaf_top_k(&uploaded, &leaves, Metric::L2, k).unwrap();
                assert_eq!(got, expected, "{} {dim}-d, k {k}", kernels.isa);
            }
        }
    }

    #[test]
    fn rows_too_near_each_other_for_bytes_are_compared_by_their_vectors() {
        for kernels in available() {
            let rows = tight(600, 20, 7);
            let bytes = ByteRows::encode(rows.view()).unwrap();
            let uploaded = Rows::on_host(rows.view());
            let cpu = Cpu::with_kernels(kernels);
            let leaves = leaves(600, &[40, 300]);
            let got = cpu.leaf_candidates(&uploaded, Some(&bytes), &leaves, 3).unwrap();
            assert_eq!(got, cpu.leaf_top_k(&uploaded, &leaves, Metric::L2, 3).unwrap(), "{}", kernels.isa);
            let members: Vec<u32> = (0..600).collect();
            let leaders: Vec<u32> = (0..600).step_by(23).collect();
            let got = cpu.nearest_leaders(&uploaded, Some(&bytes), &members, &leaders, 4).unwrap();
            let expected = cpu.nearest_leaders(&uploaded, None, &members, &leaders, 4).unwrap();
            assert_eq!(got, expected, "{}", kernels.isa);
        }
    }

    #[test]
    fn the_nearest_leaders_are_those_of_the_definition() {
        for kernels in available() {
            let cpu = Cpu::with_kernels(kernels);
            for dim in DIMS {
                let rows = integers(300, dim, 8);
                let bytes = ByteRows::encode(rows.view()).unwrap();
                let uploaded = Rows::on_host(rows.view());
                for (members, leaders, k) in [(0, 5, 1), (1, 1, 1), (65, 33, 2), (300, 200, 8), (70, 100, 64)]
                {
                    let members: Vec<u32> = (0..members).rev().collect();
                    let leaders = Random::new(9).sample(300, leaders);
                    // What a backend without a way of its own does.
                    let expected = Reference.nearest_leaders(&uploaded, None, &members, &leaders, k).unwrap();
                    for bytes in [None, Some(&bytes)] {
                        let got = cpu.nearest_leaders(&uploaded, bytes, &members, &leaders, k).unwrap();
                        let by = if bytes.is_some() { "bytes" } else { "vectors" };
                        assert_eq!(got, expected, "{} {dim}-d, {k} of {leaders:?} by {by}", kernels.isa);
                    }
                }
            }
        }
    }
}
