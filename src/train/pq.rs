//! Product quantizer (Jégou, Douze, Schmid 2011): a vector is cut into `pq_m` sub-vectors, each replaced by the
//! number of its nearest entry among `ksub` of that sub-space's codebook.
//!
//! All sub-spaces are trained at once: one Lloyd pass is one [`Compute::pq_encode`] of the sample, whose codes are
//! the labels of every sub-space, followed by sums per sub-space in parallel. So training runs on whatever runs
//! encoding, the GPU included, and speeds up with it.

use rayon::prelude::*;

use super::vacancies::{self, Clusters};
use super::{Observer, Progress, TrainError, Warning, check_magnitude, report, seeding};
use crate::compute::{CodebookView, Compute, ResidualOf, Rows};
use crate::vectors::{Random, VectorBuf, VectorView};

/// How vectors are cut and how many bits each piece gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PqShape {
    pub dim: usize,
    /// Sub-vectors.
    pub pq_m: usize,
    /// 8 or 4.
    pub pq_bits: usize,
    /// Dimensions of a sub-vector: `dim / pq_m`, of `dim` rounded up to a multiple of 4 where `pq_m` divides only
    /// that. The missing values are 0 in every row.
    pub dsub: usize,
}

impl PqShape {
    pub fn new(dim: usize, pq_m: usize, pq_bits: usize) -> Result<Self, TrainError> {
        let parameter =
            |name, expected, got: usize| TrainError::Parameter { name, expected, got: got.to_string() };
        if pq_bits != 8 && pq_bits != 4 {
            return Err(parameter("pq_bits", "8 or 4".into(), pq_bits));
        }
        if dim == 0 {
            return Err(parameter("dim", "1 or more".into(), dim));
        }
        let dsub =
            [dim, padded(dim)].into_iter().find(|dim| pq_m > 0 && dim % pq_m == 0).map(|dim| dim / pq_m);
        match dsub {
            Some(dsub) => Ok(Self { dim, pq_m, pq_bits, dsub }),
            None => {
                let allowed: Vec<String> = Self::allowed_pq_m(dim).iter().map(usize::to_string).collect();
                let expected = format!("one of {} for {dim}-d vectors", allowed.join(", "));
                Err(parameter("pq_m", expected, pq_m))
            }
        }
    }

    /// Every `pq_m` that vectors of `dim` dimensions can be cut into, ascending: the divisors of `dim` and of
    /// `dim` rounded up to a multiple of 4.
    pub fn allowed_pq_m(dim: usize) -> Vec<usize> {
        (1..=padded(dim))
            .filter(|&pq_m| dim.is_multiple_of(pq_m) || padded(dim).is_multiple_of(pq_m))
            .collect()
    }

    /// Codebook entries per sub-vector.
    pub fn ksub(&self) -> usize {
        1 << self.pq_bits
    }

    /// Bytes of a vector's code. With 4 bits, byte `b` holds sub-vectors `2b` (low half) and `2b + 1`; where
    /// `pq_m` is odd the last high half is 0.
    pub fn code_size(&self) -> usize {
        (self.pq_m * self.pq_bits).div_ceil(8)
    }
}

fn padded(dim: usize) -> usize {
    dim.next_multiple_of(4)
}

/// How to train codebooks.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PqParams {
    /// Lloyd passes at most, 1 to 1,000. Default 20: all but the last three over an eighth of the sample, where that is
    /// large enough. On 100-d and 384-d embeddings with 8 bits this costs a third of twenty passes over all, for a
    /// quantization error 1.2 % higher.
    pub iterations: usize,
    /// Stop once a pass lowers the inertia by less than this part of it. Default 1e-3.
    pub tolerance: f64,
    /// Training rows per codebook entry. Default 256, as in faiss: 65,536 rows for 8 bits.
    pub max_rows_per_centroid: usize,
    /// Fewer are warned of. Default 39, as in faiss.
    pub min_rows_per_centroid: usize,
    pub seed: u64,
}

impl PqParams {
    pub fn new(seed: u64) -> Self {
        Self { iterations: 20, tolerance: 1e-3, max_rows_per_centroid: 256, min_rows_per_centroid: 39, seed }
    }

    /// Rows that training uses at most.
    pub fn sample_rows(&self, shape: &PqShape) -> usize {
        shape.ksub().saturating_mul(self.max_rows_per_centroid)
    }
}

/// How codebooks came about.
#[derive(Debug, Clone, PartialEq)]
pub struct PqTraining {
    /// For each pass the sum of squared quantization errors of the codebooks that entered it; of passes over a part of
    /// the sample, scaled to all of it.
    pub inertia: Vec<f64>,
    pub rows: usize,
    /// Codebook entries that were moved because no sub-vector was nearest to them.
    pub moved: usize,
    pub warnings: Vec<Warning>,
}

/// Trained codebooks.
#[derive(Debug, Clone, PartialEq)]
pub struct ProductQuantizer {
    shape: PqShape,
    /// `pq_m × ksub × dsub`.
    codebook: Vec<f32>,
    /// The same as `pq_m × dsub × ksub`: a query's table is filled a whole row of entries at a time.
    by_dimension: Vec<f32>,
}

impl ProductQuantizer {
    /// From a codebook of shape `pq_m × ksub × dsub`, which must be finite.
    pub fn from_codebook(shape: PqShape, codebook: Vec<f32>) -> Result<Self, TrainError> {
        let shape = PqShape::new(shape.dim, shape.pq_m, shape.pq_bits)?;
        let (ksub, dsub) = (shape.ksub(), shape.dsub);
        let expected_values = shape.pq_m * ksub * dsub;
        if codebook.len() != expected_values {
            let expected = format!("{} × {ksub} × {dsub} = {expected_values} values", shape.pq_m);
            return Err(TrainError::Parameter {
                name: "codebook",
                expected,
                got: codebook.len().to_string(),
            });
        }
        if let Some(index) = codebook.iter().position(|value| !value.is_finite()) {
            let got = format!("{} at {index}", codebook[index]);
            return Err(TrainError::Parameter { name: "codebook", expected: "finite values".into(), got });
        }
        let mut by_dimension = vec![0.0; codebook.len()];
        for (entries, transposed) in
            codebook.chunks_exact(ksub * dsub).zip(by_dimension.chunks_exact_mut(ksub * dsub))
        {
            for (code, entry) in entries.chunks_exact(dsub).enumerate() {
                for (d, &value) in entry.iter().enumerate() {
                    transposed[d * ksub + code] = value;
                }
            }
        }
        Ok(Self { shape, codebook, by_dimension })
    }

    pub fn shape(&self) -> &PqShape {
        &self.shape
    }

    /// `pq_m × ksub × dsub`.
    pub fn codebook(&self) -> &[f32] {
        &self.codebook
    }

    pub fn view(&self) -> CodebookView<'_> {
        view(&self.shape, &self.codebook)
    }

    /// Codes of `rows`, of their residuals where `residual_of` is given: `rows × code_size` bytes.
    pub fn encode(
        &self,
        compute: &dyn Compute,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
    ) -> Result<Vec<u8>, TrainError> {
        Ok(self.pack(self.plain_codes(compute, rows, residual_of)?))
    }

    /// One byte per sub-vector, whatever `pq_bits`.
    pub(super) fn plain_codes(
        &self,
        compute: &dyn Compute,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
    ) -> Result<Vec<u8>, TrainError> {
        checked_codes(compute.pq_encode(rows, residual_of, self.view())?, self.shape.ksub())
    }

    /// Codes of one byte per sub-vector as they are kept.
    pub(super) fn pack(&self, codes: Vec<u8>) -> Vec<u8> {
        if self.shape.pq_bits == 8 {
            return codes;
        }
        let pack = |pair: &[u8]| pair[0] | pair.get(1).map_or(0, |high| high << 4);
        codes.chunks_exact(self.shape.pq_m).flat_map(|code| code.chunks(2).map(pack)).collect()
    }

    /// The entries of all sub-spaces, `pq_m × dsub × ksub`.
    pub(super) fn all_entries_by_dimension(&self) -> &[f32] {
        &self.by_dimension
    }

    /// The entries of sub-space `m`, `dsub × ksub`.
    fn entries_by_dimension(&self, m: usize) -> &[f32] {
        let size = self.shape.ksub() * self.shape.dsub;
        &self.by_dimension[m * size..(m + 1) * size]
    }

    /// The entry of sub-vector `m` that `code` (of `code_size` bytes) names.
    pub fn entry(&self, code: &[u8], m: usize) -> &[f32] {
        let number = match self.shape.pq_bits {
            8 => code[m],
            _ => (code[m / 2] >> (4 * (m % 2))) & 15,
        };
        let start = (m * self.shape.ksub() + usize::from(number)) * self.shape.dsub;
        &self.codebook[start..start + self.shape.dsub]
    }

    /// The vector that `code` stands for, `dim` values.
    pub fn decode(&self, code: &[u8], out: &mut [f32]) {
        assert_eq!((code.len(), out.len()), (self.shape.code_size(), self.shape.dim));
        for (m, values) in out.chunks_mut(self.shape.dsub).enumerate() {
            values.copy_from_slice(&self.entry(code, m)[..values.len()]);
        }
    }

    /// Values in [`tables`](Self::tables): 256 for each byte of a code, whatever `pq_bits`.
    pub fn table_len(&self) -> usize {
        self.shape.code_size() * 256
    }

    /// Fills `out` so that for any code Σ_b `out[256·b + code[b]]` = `scale` · ⟨query, decode(code)⟩. With 4 bits a
    /// byte names a pair of entries and its table holds their sums: half the look-ups, and one kernel for both.
    pub fn tables(&self, query: &[f32], scale: f32, out: &mut [f32]) {
        assert_eq!((query.len(), out.len()), (self.shape.dim, self.table_len()));
        if self.shape.pq_bits == 8 {
            for (m, table) in out.chunks_exact_mut(256).enumerate() {
                self.fill_products(query, m, scale, table);
            }
            return;
        }
        let (mut low, mut high) = ([0.0f32; 16], [0.0f32; 16]);
        for (byte, table) in out.chunks_exact_mut(256).enumerate() {
            self.fill_products(query, 2 * byte, scale, &mut low);
            if 2 * byte + 1 < self.shape.pq_m {
                self.fill_products(query, 2 * byte + 1, scale, &mut high);
            } else {
                high.fill(0.0);
            }
            for (row, &high) in table.chunks_exact_mut(16).zip(&high) {
                row.iter_mut().zip(&low).for_each(|(value, &low)| *value = low + high);
            }
        }
    }

    /// `table[j] = scale · ⟨query's sub-vector m, entry j⟩`.
    fn fill_products(&self, query: &[f32], m: usize, scale: f32, table: &mut [f32]) {
        let PqShape { dim, dsub, .. } = self.shape;
        let ksub = table.len();
        let entries = self.entries_by_dimension(m);
        table.fill(0.0);
        // Past `dim` a padded query is 0.
        let sub = query.get(m * dsub..((m + 1) * dsub).min(dim)).unwrap_or(&[]);
        for (&value, row) in sub.iter().zip(entries.chunks_exact(ksub)) {
            let factor = scale * value;
            table.iter_mut().zip(row).for_each(|(sum, &entry)| *sum += factor * entry);
        }
    }

    /// Trains codebooks on `rows` (residuals, where residuals will be encoded), of which it uses
    /// [`PqParams::sample_rows`] drawn ones at most.
    ///
    /// With fewer rows than codebook entries each row becomes an entry, and entries repeat: ties go to the lowest
    /// code, so repeated ones are never used.
    pub fn train(
        compute: &dyn Compute,
        rows: VectorView<'_>,
        shape: PqShape,
        params: &PqParams,
        observer: Observer<'_>,
    ) -> Result<(Self, PqTraining), TrainError> {
        check_params(params)?;
        assert_eq!(rows.dim(), shape.dim);
        if rows.is_empty() {
            return Err(TrainError::TooFewRows { rows: 0, k: 1 });
        }
        let gathered;
        let allowed = params.sample_rows(&shape);
        let sample = if rows.rows() > allowed {
            gathered = rows.gather(&Random::of(params.seed, 0).sample(rows.rows(), allowed));
            gathered.view()
        } else {
            rows
        };
        check_magnitude(sample)?;
        let mut training =
            PqTraining { inertia: Vec::new(), rows: sample.rows(), moved: 0, warnings: Vec::new() };
        let recommended = shape.ksub() * params.min_rows_per_centroid;
        if sample.rows() < recommended {
            let (what, rows, centroids) = ("product quantizer".into(), sample.rows(), shape.ksub());
            training.warnings.push(Warning::FewTrainingRows { what, rows, centroids, recommended });
        }
        let sample = Sample::of(sample, shape);
        let mut codebook = sample.seeds(params.seed);
        if sample.rows.rows() > shape.ksub() {
            sample.train(Run { compute, params, observer }, &mut codebook, &mut training)?;
        }
        Ok((Self::from_codebook(shape, codebook)?, training))
    }
}

fn view<'a>(shape: &PqShape, centroids: &'a [f32]) -> CodebookView<'a> {
    CodebookView { centroids, pq_m: shape.pq_m, ksub: shape.ksub(), dsub: shape.dsub }
}

fn check_params(params: &PqParams) -> Result<(), TrainError> {
    let refused = |name, expected: &str, got: usize| {
        Err(TrainError::Parameter { name, expected: expected.into(), got: got.to_string() })
    };
    if !(1..=1000).contains(&params.iterations) {
        return refused("iterations", "1 to 1000", params.iterations);
    }
    if params.max_rows_per_centroid == 0 {
        return refused("max_rows_per_centroid", "1 or more", 0);
    }
    Ok(())
}

/// A backend's codes are indices from outside.
fn checked_codes(codes: Vec<u8>, ksub: usize) -> Result<Vec<u8>, TrainError> {
    match codes.iter().find(|&&code| usize::from(code) >= ksub) {
        Some(&code) => Err(TrainError::Label { got: u32::from(code), k: ksub }),
        None => Ok(codes),
    }
}

/// The part of the sample that the first passes see: one row in so many.
const PART: usize = 8;

/// A smaller part is not worth it: passes over so few rows cost nothing, and 4-bit codebooks are better for them.
const MIN_PART_ROWS: usize = 4096;

/// Passes over the whole sample, after those over a part of it.
const CLOSING_PASSES: usize = 3;

/// What all passes have in common.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub compute: &'a dyn Compute,
    pub params: &'a PqParams,
    pub observer: Observer<'a>,
}

/// Training rows, whole and cut.
pub(super) struct Sample<'a> {
    rows: VectorView<'a>,
    /// For each sub-space the sub-vectors of all rows, dense, padded with 0 past `dim`.
    subs: Vec<VectorBuf>,
    shape: PqShape,
}

impl<'a> Sample<'a> {
    pub fn of(rows: VectorView<'a>, shape: PqShape) -> Self {
        let cut = |m: usize| {
            let (from, to) = ((m * shape.dsub).min(shape.dim), ((m + 1) * shape.dsub).min(shape.dim));
            let mut subs = VectorBuf::zeroed(rows.rows(), shape.dsub);
            for (sub, row) in subs.as_mut_slice().chunks_exact_mut(shape.dsub).zip(rows.iter()) {
                sub[..to - from].copy_from_slice(&row[from..to]);
            }
            subs
        };
        Self { rows, subs: (0..shape.pq_m).into_par_iter().map(cut).collect(), shape }
    }

    /// The first codebook, `pq_m × ksub × dsub`.
    pub fn seeds(&self, seed: u64) -> Vec<f32> {
        let ksub = self.shape.ksub();
        let entries = |(m, sub): (usize, &VectorBuf)| {
            let sub = sub.view();
            if sub.rows() <= ksub {
                let repeated: Vec<u32> = (0..ksub).map(|code| (code % sub.rows()) as u32).collect();
                return sub.gather(&repeated).into_vec();
            }
            seeding::plus_plus(sub, ksub, &mut Random::of(seed, (1 << 32) + m as u64)).into_vec()
        };
        self.subs.par_iter().enumerate().flat_map_iter(entries).collect()
    }

    /// Lloyd's iteration, at first on a part of the sample: how entries share out a sub-space is learned from few rows,
    /// their last digits from many.
    fn train(&self, run: Run<'_>, codebook: &mut [f32], training: &mut PqTraining) -> Result<(), TrainError> {
        let params = run.params;
        let rows = self.rows.rows();
        let opening = params.iterations.saturating_sub(CLOSING_PASSES);
        let part_rows = rows / PART;
        if opening > 0 && part_rows >= MIN_PART_ROWS {
            let every: Vec<u32> = (0..part_rows).map(|row| (row * PART) as u32).collect();
            let gathered = self.rows.gather(&every);
            let part = Sample::of(gathered.view(), self.shape);
            part.lloyd(run, opening, rows, codebook, training)?;
        }
        let left = params.iterations - training.inertia.len();
        let closing = if training.inertia.is_empty() { left } else { left.min(CLOSING_PASSES) };
        self.lloyd(run, closing, rows, codebook, training)
    }

    /// At most `passes` passes; their inertia is scaled to `of_rows` rows.
    pub fn lloyd(
        &self,
        run: Run<'_>,
        passes: usize,
        of_rows: usize,
        codebook: &mut [f32],
        training: &mut PqTraining,
    ) -> Result<(), TrainError> {
        let Run { compute, params, observer } = run;
        let uploaded = compute.upload(self.rows)?;
        let PqShape { pq_m, dsub, .. } = self.shape;
        let ksub = self.shape.ksub();
        let first = training.inertia.len();
        for pass in first..first + passes {
            let codes = compute.pq_encode(&uploaded, None, view(&self.shape, codebook))?;
            let codes = checked_codes(codes, ksub)?;
            let moves: Vec<SubPass> = codebook
                .par_chunks_exact_mut(ksub * dsub)
                .zip(&self.subs)
                .enumerate()
                .map(|(m, (entries, sub))| {
                    let labels: Vec<u32> = codes[m..].iter().step_by(pq_m).map(|&c| u32::from(c)).collect();
                    let mut random = Random::of(params.seed, ((pass as u64 + 2) << 32) + m as u64);
                    move_entries(sub.view(), &labels, entries, &mut random)
                })
                .collect();
            // In the order of the sub-spaces.
            let inertia: f64 = moves.iter().map(|pass| pass.inertia).sum();
            let inertia = inertia * (of_rows as f64 / self.rows.rows() as f64);
            let moved: usize = moves.iter().map(|pass| pass.moved).sum();
            let (done, total) = (pass as u64 + 1, params.iterations as u64);
            report(observer, Progress { stage: "product quantizer", done, total, inertia: Some(inertia) })?;
            let last = training.inertia[first..].last().copied();
            training.inertia.push(inertia);
            training.moved += moved;
            if moved == 0 && last.is_some_and(|last| last - inertia <= params.tolerance * last) {
                break;
            }
        }
        Ok(())
    }
}

struct SubPass {
    inertia: f64,
    moved: usize,
}

/// One sub-space's half of a Lloyd pass: entries become the means of their sub-vectors, unused ones move.
fn move_entries(sub: VectorView<'_>, labels: &[u32], entries: &mut [f32], random: &mut Random) -> SubPass {
    let dsub = sub.dim();
    let ksub = entries.len() / dsub;
    let mut sums = vec![0.0f64; entries.len()];
    let mut counts = vec![0u32; ksub];
    let mut inertia = 0.0;
    for (row, &label) in sub.iter().zip(labels) {
        let at = label as usize * dsub;
        counts[label as usize] += 1;
        for ((&value, &entry), sum) in row.iter().zip(&entries[at..at + dsub]).zip(&mut sums[at..at + dsub]) {
            let difference = f64::from(value) - f64::from(entry);
            inertia += difference * difference;
            *sum += f64::from(value);
        }
    }
    let mut means = VectorBuf::new(entries.to_vec(), dsub);
    for (code, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        for (value, &sum) in means.row_mut(code).iter_mut().zip(&sums[code * dsub..]) {
            *value = (sum / f64::from(count)) as f32;
        }
    }
    let mut moved = 0;
    let vacant = vacancies::vacancies(&counts, usize::MAX);
    if !vacant.is_empty() {
        moved = vacancies::fill(Clusters { rows: sub, labels, counts: &counts }, &vacant, &mut means, random);
    }
    entries.copy_from_slice(means.view().as_slice());
    SubPass { inertia, moved }
}

#[cfg(test)]
mod tests {
    use super::super::unobserved;
    use super::*;
    use crate::compute::reference::Reference;
    use crate::vectors::Metric;

    fn normal_rows(n: usize, dim: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        VectorBuf::new((0..n * dim).map(|_| random.normal() as f32).collect(), dim)
    }

    fn trained(rows: &VectorBuf, pq_m: usize, pq_bits: usize) -> (ProductQuantizer, PqTraining) {
        let shape = PqShape::new(rows.dim(), pq_m, pq_bits).unwrap();
        ProductQuantizer::train(&Reference, rows.view(), shape, &PqParams::new(3), &unobserved).unwrap()
    }

    fn error_of(quantizer: &ProductQuantizer, rows: &VectorBuf) -> f64 {
        let codes = quantizer.encode(&Reference, &Rows::on_host(rows.view()), None).unwrap();
        assert_eq!(codes.len(), rows.rows() * quantizer.shape().code_size());
        let mut decoded = vec![0.0; rows.dim()];
        let errors =
            rows.view().iter().zip(codes.chunks_exact(quantizer.shape().code_size())).map(|(row, code)| {
                quantizer.decode(code, &mut decoded);
                Metric::L2.distance(row, &decoded)
            });
        errors.sum::<f64>()
    }

    #[test]
    fn pq_m_divides_the_dimension_or_its_multiple_of_four_or_is_refused_with_what_is_allowed() {
        let dsub = |dim, pq_m| PqShape::new(dim, pq_m, 8).map(|shape| shape.dsub).ok();
        assert_eq!(dsub(100, 25), Some(4));
        assert_eq!(dsub(102, 26), Some(4), "104 / 26");
        assert_eq!(dsub(102, 34), Some(3));
        assert_eq!(dsub(1, 1), Some(1));
        assert_eq!(dsub(1, 4), Some(1));
        assert_eq!(dsub(100, 7), None);
        assert_eq!(dsub(100, 0), None);
        let error = PqShape::new(6, 5, 8).unwrap_err().to_string();
        assert!(error.contains("1, 2, 3, 4, 6, 8 for 6-d vectors") && error.contains("got 5"), "{error}");
        assert!(matches!(PqShape::new(8, 2, 5), Err(TrainError::Parameter { name: "pq_bits", .. })));
    }

    #[test]
    fn inertia_falls_and_ends_at_the_error_of_what_is_decoded() {
        for (pq_bits, rows) in [(4, normal_rows(900, 6, 1)), (8, normal_rows(1500, 5, 2))] {
            let (quantizer, training) = trained(&rows, 2, pq_bits);
            assert!(training.inertia.len() > 2);
            if training.moved == 0 {
                assert!(training.inertia.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)));
            }
            let error = error_of(&quantizer, &rows);
            let last = *training.inertia.last().unwrap();
            assert!(error <= last * (1.0 + 1e-6) && error > last * 0.95, "{error} against {last}");
        }
    }

    #[test]
    fn sixteen_one_dimensional_entries_reach_the_known_optimum_for_a_normal_source() {
        // Max 1960: the least mean squared error of a 16-level quantizer of a standard normal is 0.009497.
        let rows = normal_rows(16 * 256, 3, 7);
        let (quantizer, _) = trained(&rows, 3, 4);
        let mean = error_of(&quantizer, &rows) / (rows.rows() * 3) as f64;
        assert!((0.0090..0.0105).contains(&mean), "{mean}");
    }

    #[test]
    fn tables_sum_to_the_product_with_the_decoded_vector() {
        for (dim, pq_m, pq_bits) in
            [(8, 2, 8), (8, 8, 4), (9, 3, 4), (9, 9, 4), (10, 6, 8), (10, 3, 4), (1, 1, 4)]
        {
            let rows = normal_rows(300, dim, 5);
            let (quantizer, _) = trained(&rows, pq_m, pq_bits);
            let codes = quantizer.encode(&Reference, &Rows::on_host(rows.view()), None).unwrap();
            let query: Vec<f32> = normal_rows(1, dim, 99).into_vec();
            let mut tables = vec![f32::NAN; quantizer.table_len()];
            quantizer.tables(&query, -2.0, &mut tables);
            let mut decoded = vec![0.0; dim];
            for code in codes.chunks_exact(quantizer.shape().code_size()) {
                quantizer.decode(code, &mut decoded);
                let expected = 2.0 * Metric::InnerProduct.distance(&query, &decoded);
                let looked_up =
                    code.iter().zip(tables.chunks_exact(256)).map(|(&c, table)| table[usize::from(c)]);
                let got: f64 = looked_up.map(f64::from).sum();
                assert!((got - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{dim} {pq_m} {pq_bits}");
            }
        }
    }

    #[test]
    fn fewer_rows_than_entries_are_kept_exactly() {
        let rows = normal_rows(20, 4, 1);
        let (quantizer, training) = trained(&rows, 2, 8);
        assert_eq!(error_of(&quantizer, &rows), 0.0);
        assert!(matches!(training.warnings[..], [Warning::FewTrainingRows { rows: 20, .. }]));
        let codes = quantizer.encode(&Reference, &Rows::on_host(rows.view()), None).unwrap();
        assert!(codes.iter().all(|&code| code < 20), "of repeated entries the first is used");
    }

    #[test]
    fn duplicates_leave_entries_unused_and_everything_finite() {
        let rows = VectorBuf::new((0..4000).map(|i| (i / 4 % 5) as f32).collect(), 4);
        let (quantizer, _) = trained(&rows, 2, 8);
        assert!(error_of(&quantizer, &rows) < 1e-6);
    }

    #[test]
    fn codebooks_of_the_wrong_size_or_not_finite_are_refused() {
        let shape = PqShape::new(4, 2, 4).unwrap();
        assert!(ProductQuantizer::from_codebook(shape, vec![0.0; 64]).is_ok());
        assert!(ProductQuantizer::from_codebook(shape, vec![0.0; 63]).is_err());
        let mut codebook = vec![0.0; 64];
        codebook[9] = f32::NAN;
        let error = ProductQuantizer::from_codebook(shape, codebook).unwrap_err().to_string();
        assert!(error.contains("NaN at 9"), "{error}");
    }
}
