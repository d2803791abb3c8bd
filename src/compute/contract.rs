//! What every backend must do, as a list of cases: a backend's test runs [`all`], or the operations one by one.
//!
//! Each operation is held to its definition on awkward shapes, in two kinds of data. On a *lattice* of small integers
//! every sum is exact in f32 whatever its order, rows repeat and distances tie everywhere: there a backend must return
//! exactly what [`Reference`] returns. On normally distributed rows, near the origin and far from it, [`TOLERANCE`]
//! applies, and ties only between rows that are equal bit by bit.
//!
//! Panics with the case and the pair at fault: this is test code that other crates' tests may call, too.

use std::collections::HashMap;

use super::reference::Reference;
use super::{CodebookView, Compute, Leaves, ResidualOf, Rows, Shortlists};
use crate::vectors::{Metric, Neighbor, Neighbors, Random, VectorBuf, VectorView};

/// How far a distance may be from its definition, relative to |a|² + |b|², and by how much two pairs' distances must
/// differ before their order is part of the contract.
///
/// One f32 chain of d terms errs by some √d · 2⁻²⁴ of |a|·|b|. The greatest error measured was 3.1e-6: an L2 distance
/// from products, between rows of 1,536 dimensions that lie 20 standard deviations from the origin.
pub const TOLERANCE: f32 = 1e-5;

/// By how much the distances of [`Compute::assign_coarse`] may exceed the least ones, of their sum.
pub const COARSE_EXCESS: f64 = 0.01;

/// Around the widths of registers, above and below; 96, 100 and 768 are those of common embeddings.
const DIMS: [usize; 10] = [1, 3, 4, 5, 15, 16, 17, 96, 100, 768];

/// Every operation's cases.
pub fn all(backend: &dyn Compute) {
    assign(backend);
    assign_coarse(backend);
    assign_shortlisted(backend);
    centroid_sums(backend);
    pq_encode(backend);
    top_k(backend);
    leaf_top_k(backend);
}

pub fn assign(backend: &dyn Compute) {
    for dim in DIMS {
        for (rows, nlist) in [(0, 1), (1, 1), (5, 1), (37, 2), (130, 33), (300, 100)] {
            for data in Data::ALL {
                let (points, centroids) = (data.rows(1, rows, dim), data.rows(2, nlist, dim));
                for metric in Metric::ALL {
                    let case = format!("assign: {rows} rows, {nlist} centroids, {dim}-d, {metric}, {data:?}");
                    assign_case(backend, &case, data, points.view(), centroids.view(), metric);
                }
            }
        }
    }
    // More centroids than any tile has columns.
    let (points, centroids) = (Data::Lattice.rows(3, 40, 5), Data::Lattice.rows(4, 3000, 5));
    assign_case(
        backend,
        "assign: 3000 centroids",
        Data::Lattice,
        points.view(),
        centroids.view(),
        Metric::L2,
    );
}

fn assign_case(
    backend: &dyn Compute,
    case: &str,
    data: Data,
    points: VectorView<'_>,
    centroids: VectorView<'_>,
    metric: Metric,
) {
    let rows = upload(backend, points);
    let got = backend.assign(&rows, centroids, metric).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(got.len(), points.rows(), "{case}: one centroid per row");
    if data == Data::Lattice {
        let expected = Reference.assign(&rows, centroids, metric).unwrap();
        assert_eq!(got, expected, "{case}: exact arithmetic");
    }
    let universe = Universe::of(centroids, (0..centroids.rows() as u32).collect());
    for (index, nearest) in got.iter().enumerate() {
        let question = Question { metric, query: points.row(index), without: None };
        universe.check(&|| format!("{case}, row {index}"), question, std::slice::from_ref(nearest));
    }
}

pub fn assign_coarse(backend: &dyn Compute) {
    for (rows, nlist, dim) in [(0, 3, 4), (40, 7, 16), (4200, 65, 1), (4200, 130, 17), (4200, 70, 100)] {
        for data in Data::ALL {
            let (points, centroids) = (data.rows(15, rows, dim), data.rows(16, nlist, dim));
            let case = format!("assign_coarse: {rows} rows, {nlist} centroids, {dim}-d, {data:?}");
            assign_coarse_case(backend, &case, points.view(), centroids.view());
        }
    }
    // Groups of rows far tighter than they lie apart: what is small beside the rows still decides.
    let mut random = Random::new(17);
    let places = Data::Normal.rows(18, 10, 24);
    let mut points = VectorBuf::new(vec![], 24);
    for _ in 0..5000 {
        let place = places.row(random.below(10)).to_vec();
        points.push(&place.iter().map(|value| value + 1e-3 * random.normal() as f32).collect::<Vec<f32>>());
    }
    let centroids = points.view().slice(0, 100);
    assign_coarse_case(backend, "assign_coarse: tight groups", points.view(), centroids);
}

fn assign_coarse_case(backend: &dyn Compute, case: &str, points: VectorView<'_>, centroids: VectorView<'_>) {
    let rows = upload(backend, points);
    let got = backend.assign_coarse(&rows, centroids).unwrap_or_else(|error| panic!("{case}: {error}"));
    let nearest = Reference.assign(&rows, centroids, Metric::L2).unwrap();
    assert_eq!(got.len(), points.rows(), "{case}: one centroid per row");
    let (mut sum, mut least, mut rounding) = (0.0, 0.0, 0.0);
    for (row, (got, nearest)) in got.iter().zip(&nearest).enumerate() {
        assert_distance(case, points.row(row), centroids, *got);
        sum += Metric::L2.distance(points.row(row), centroids.row(got.ordinal as usize));
        least += f64::from(nearest.distance);
        rounding += f64::from(TOLERANCE) * scale(points.row(row), centroids.row(nearest.ordinal as usize));
    }
    assert!(sum <= least * (1.0 + COARSE_EXCESS) + rounding, "{case}: {sum} in all, at least {least}");
}

/// The distance of a found centroid is that of its definition.
fn assert_distance(case: &str, row: &[f32], centroids: VectorView<'_>, found: Neighbor) {
    assert!((found.ordinal as usize) < centroids.rows(), "{case}: centroid {}", found.ordinal);
    let centroid = centroids.row(found.ordinal as usize);
    let defined = Metric::L2.distance(row, centroid);
    let error = (f64::from(found.distance) - defined).abs();
    assert!(
        error <= f64::from(TOLERANCE) * scale(row, centroid),
        "{case}: {} at {}, defined {defined}",
        found.ordinal,
        found.distance
    );
}

pub fn assign_shortlisted(backend: &dyn Compute) {
    for dim in DIMS {
        for (rows, nlist, groups) in [(0, 3, 2), (1, 1, 1), (40, 7, 3), (1300, 40, 2), (150, 90, 60)] {
            if rows > 1000 && dim > 17 {
                continue;
            }
            for data in Data::ALL {
                let (points, centroids) = (data.rows(19, rows, dim), data.rows(20, nlist, dim));
                let mut random = Random::new(21);
                let mut shortlists = Shortlists::default();
                for _ in 0..groups {
                    let size = 1 + random.below(nlist);
                    shortlists.push(&random.sample(nlist, size));
                }
                let group_of: Vec<u32> = (0..rows).map(|_| random.below(groups) as u32).collect();
                let case = format!("assign_shortlisted: {rows} rows, {nlist} centroids, {dim}-d, {data:?}");
                let uploaded = upload(backend, points.view());
                let got = backend
                    .assign_shortlisted(&uploaded, centroids.view(), &group_of, &shortlists)
                    .unwrap_or_else(|error| panic!("{case}: {error}"));
                let due = Reference
                    .assign_shortlisted(&uploaded, centroids.view(), &group_of, &shortlists)
                    .unwrap();
                assert_eq!(got.len(), rows, "{case}: one centroid per row");
                for (row, (got, due)) in got.iter().zip(due).enumerate() {
                    let row = points.row(row);
                    assert_distance(&case, row, centroids.view(), *got);
                    let of = |found: Neighbor| centroids.row(found.ordinal as usize);
                    let allowed = f64::from(TOLERANCE) * (scale(row, of(*got)) + scale(row, of(due)));
                    let excess = f64::from(got.distance) - f64::from(due.distance);
                    assert!(excess <= allowed, "{case}: {got:?}, but {due:?} is on the shortlist");
                }
            }
        }
    }
}

pub fn centroid_sums(backend: &dyn Compute) {
    for dim in DIMS {
        for (rows, nlist) in [(0, 1), (0, 3), (1, 1), (40, 7), (700, 1), (1500, 50)] {
            for data in Data::ALL {
                let points = data.rows(5, rows, dim);
                // Half of all rows in one list, every third list empty.
                let mut random = Random::new(6);
                let labels: Vec<u32> = (0..rows)
                    .map(|_| if random.below(2) == 0 { 0 } else { random.below(nlist) / 3 * 3 } as u32)
                    .collect();
                let case = format!("centroid_sums: {rows} rows, {nlist} lists, {dim}-d, {data:?}");
                let uploaded = upload(backend, points.view());
                let got = backend
                    .centroid_sums(&uploaded, &labels, nlist)
                    .unwrap_or_else(|error| panic!("{case}: {error}"));
                let expected = Reference.centroid_sums(&uploaded, &labels, nlist).unwrap();
                assert_eq!(got.counts, expected.counts, "{case}: counts");
                assert_eq!(got.sums.len(), expected.sums.len(), "{case}: nlist × dim sums");
                if data == Data::Lattice {
                    assert_eq!(got.sums, expected.sums, "{case}: exact arithmetic");
                }
                let magnitudes = magnitudes(points.view(), &labels, nlist);
                for (cell, magnitude) in magnitudes.into_iter().enumerate() {
                    let (got, expected) = (got.sums[cell], expected.sums[cell]);
                    let error = f64::from((got - expected).abs());
                    assert!(
                        error <= f64::from(TOLERANCE) * magnitude,
                        "{case}: list {}, dimension {}: got {got}, expected {expected}",
                        cell / dim,
                        cell % dim,
                    );
                }
            }
        }
    }
}

/// Σ |x| of each sum: what its rounding is relative to.
fn magnitudes(rows: VectorView<'_>, labels: &[u32], nlist: usize) -> Vec<f64> {
    let mut magnitudes = vec![0.0; nlist * rows.dim()];
    for (row, &label) in rows.iter().zip(labels) {
        for (magnitude, &value) in magnitudes[label as usize * rows.dim()..].iter_mut().zip(row) {
            *magnitude += f64::from(value.abs());
        }
    }
    magnitudes
}

pub fn pq_encode(backend: &dyn Compute) {
    // (dim, pq_m, dsub): whole, overhanging (16 × 7 > 100, 1 × 4 > 3), one dimension each, one sub-vector.
    let shapes =
        [(1, 1, 1), (3, 1, 4), (5, 5, 1), (16, 4, 4), (17, 3, 6), (100, 25, 4), (100, 15, 7), (96, 6, 16)];
    for (dim, pq_m, dsub) in shapes {
        for ksub in [1, 5, 16, 256] {
            for rows in [0, 1, 6, 150] {
                for data in Data::ALL {
                    let case = format!(
                        "pq_encode: {rows} rows, {dim}-d, pq_m {pq_m}, dsub {dsub}, ksub {ksub}, {data:?}"
                    );
                    let entries = data.rows(7, pq_m * ksub, dsub).into_vec();
                    let codebook = CodebookView { centroids: &entries, pq_m, ksub, dsub };
                    let points = data.rows(8, rows, dim);
                    let centroids = data.rows(9, 4, dim);
                    let labels: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 4).collect();
                    let residual_of = ResidualOf { centroids: centroids.view(), labels: &labels };
                    let rows = upload(backend, points.view());
                    for residual_of in [None, Some(residual_of)] {
                        pq_encode_case(backend, &case, data, &rows, residual_of, codebook);
                    }
                }
            }
        }
    }
}

fn pq_encode_case(
    backend: &dyn Compute,
    case: &str,
    data: Data,
    rows: &Rows<'_>,
    residual_of: Option<ResidualOf<'_>>,
    codebook: CodebookView<'_>,
) {
    let CodebookView { pq_m, ksub, dsub, .. } = codebook;
    let codes =
        backend.pq_encode(rows, residual_of, codebook).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(codes.len(), rows.host().rows() * pq_m, "{case}: rows × pq_m codes");
    if data == Data::Lattice {
        let expected = Reference.pq_encode(rows, residual_of, codebook).unwrap();
        assert_eq!(codes, expected, "{case}, residual: {}: exact arithmetic", residual_of.is_some());
    }
    for (index, (row, codes)) in rows.host().iter().zip(codes.chunks_exact(pq_m)).enumerate() {
        let mut padded = row.to_vec();
        if let Some(ResidualOf { centroids, labels }) = residual_of {
            let centroid = centroids.row(labels[index] as usize);
            padded.iter_mut().zip(centroid).for_each(|(value, &centre)| *value -= centre);
        }
        padded.resize(pq_m * dsub, 0.0);
        for (m, (sub, &code)) in padded.chunks_exact(dsub).zip(codes).enumerate() {
            let case = format!("{case}, row {index}, sub-vector {m}");
            assert!(usize::from(code) < ksub, "{case}: code {code}");
            let entries = VectorView::new(codebook.sub(m), dsub);
            let chosen = entries.row(usize::from(code));
            let distance = Metric::L2.distance(sub, chosen);
            for (other, entry) in entries.iter().enumerate() {
                let excess = distance - Metric::L2.distance(sub, entry);
                let allowed = f64::from(TOLERANCE) * (scale(sub, chosen) + scale(sub, entry));
                assert!(excess <= allowed, "{case}: code {code} is {excess} farther than {other}");
                assert!(other >= usize::from(code) || entry != chosen, "{case}: {other} equals {code}");
            }
        }
    }
}

pub fn top_k(backend: &dyn Compute) {
    for dim in DIMS {
        for (queries, rows, k) in
            [(0, 3, 1), (2, 0, 3), (1, 1, 1), (3, 2, 10), (1, 150, 100), (9, 33, 10), (40, 200, 10)]
        {
            top_k_shape(backend, queries, rows, dim, k);
        }
    }
    // More queries than a tile; rows in several parts, for many queries and for few.
    top_k_shape(backend, 300, 90, 17, 100);
    top_k_shape(backend, 33, 20_000, 3, 10);
    top_k_shape(backend, 2, 20_000, 3, 100);
}

fn top_k_shape(backend: &dyn Compute, queries: usize, rows: usize, dim: usize, k: usize) {
    for data in Data::ALL {
        let (asked, points) = (data.rows(10, queries, dim), data.rows(11, rows, dim));
        let uploaded = upload(backend, points.view());
        let universe = Universe::of(points.view(), (0..rows as u32).collect());
        for metric in Metric::ALL {
            let case = format!("top_k: {queries} queries, {rows} rows, {dim}-d, k {k}, {metric}, {data:?}");
            let got = backend
                .top_k(asked.view(), &uploaded, metric, k)
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!((got.queries(), got.k()), (queries, k), "{case}: queries × k");
            if data == Data::Lattice {
                let expected = Reference.top_k(asked.view(), &uploaded, metric, k).unwrap();
                assert_same(&case, &got, &expected);
            }
            for query in 0..queries {
                let question = Question { metric, query: asked.row(query), without: None };
                universe.check(&|| format!("{case}, query {query}"), question, got.row(query));
            }
        }
    }
}

pub fn leaf_top_k(backend: &dyn Compute) {
    let no_leaves = Leaves::default();
    let only_empty = Leaves { members: vec![], offsets: vec![0, 0, 0] };
    let points = Data::Lattice.rows(12, 3, 4);
    for leaves in [no_leaves, only_empty] {
        let found = backend.leaf_top_k(&upload(backend, points.view()), &leaves, Metric::L2, 3);
        assert_eq!(found.expect("no leaves").queries(), 0);
    }
    for dim in DIMS {
        leaf_top_k_shape(backend, 60, dim, &[1, 2, 0, 33, 16, 3], 3);
    }
    for (dim, k) in [(3, 1), (4, 2), (17, 4), (100, 3), (5, 8), (16, 10), (15, 100)] {
        leaf_top_k_shape(backend, 600, dim, &[1, 2, 33, 512, 64, 100], k);
    }
    // A leaf larger than any tile.
    leaf_top_k_shape(backend, 2_300, 3, &[2_100, 5], 3);
}

/// Leaves of the given sizes over one set of rows, so that they overlap; members in no order.
fn leaf_top_k_shape(backend: &dyn Compute, rows: usize, dim: usize, sizes: &[usize], k: usize) {
    let mut random = Random::new(13);
    let mut leaves = Leaves { members: vec![], offsets: vec![0] };
    for &size in sizes {
        let mut members = random.sample(rows, size);
        for i in (1..size).rev() {
            members.swap(i, random.below(i + 1));
        }
        leaves.members.extend(members);
        leaves.offsets.push(leaves.members.len() as u32);
    }
    for data in Data::ALL {
        let points = data.rows(14, rows, dim);
        let uploaded = upload(backend, points.view());
        let universes: Vec<Universe> =
            (0..leaves.len()).map(|leaf| Universe::of(points.view(), leaves.leaf(leaf).to_vec())).collect();
        for metric in Metric::ALL {
            let case = format!("leaf_top_k: leaves of {sizes:?}, {dim}-d, k {k}, {metric}, {data:?}");
            let got = backend
                .leaf_top_k(&uploaded, &leaves, metric, k)
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!((got.queries(), got.k()), (leaves.members.len(), k), "{case}: members × k");
            if data == Data::Lattice {
                let expected = Reference.leaf_top_k(&uploaded, &leaves, metric, k).unwrap();
                assert_same(&case, &got, &expected);
            }
            for (leaf, universe) in universes.iter().enumerate() {
                for (index, &member) in leaves.leaf(leaf).iter().enumerate() {
                    let query = points.row(member as usize);
                    let question = Question { metric, query, without: Some(member) };
                    let found = got.row(leaves.offsets[leaf] as usize + index);
                    universe.check(&|| format!("{case}, leaf {leaf}, member {member}"), question, found);
                }
            }
        }
    }
}

/// The kinds of rows that every operation is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Integers from −2 to 2: exact in f32 (and f16) in any order of summation, full of equal rows and equal
    /// distances.
    Lattice,
    /// Standard normal, with some rows repeated.
    Normal,
    /// The same, far from the origin: |a|² + |b|² − 2⟨a, b⟩ loses most of its digits.
    Far,
}

impl Data {
    const ALL: [Data; 3] = [Data::Lattice, Data::Normal, Data::Far];

    fn rows(self, seed: u64, rows: usize, dim: usize) -> VectorBuf {
        let mut random = Random::of(seed, (rows * 1000 + dim) as u64);
        let mut data: Vec<f32> = (0..rows * dim)
            .map(|_| match self {
                Data::Lattice => random.below(5) as f32 - 2.0,
                Data::Normal => random.normal() as f32,
                Data::Far => 20.0 + random.normal() as f32,
            })
            .collect();
        // About every fourth row repeats another one.
        for row in 0..rows {
            if random.below(4) == 0 {
                let other = random.below(rows);
                data.copy_within(other * dim..(other + 1) * dim, row * dim);
            }
        }
        VectorBuf::new(data, dim)
    }
}

#[derive(Clone, Copy)]
struct Question<'a> {
    metric: Metric,
    query: &'a [f32],
    /// Not to be found: the query itself.
    without: Option<u32>,
}

/// The rows that may be found, and which of them are equal bit by bit.
struct Universe<'a> {
    rows: VectorView<'a>,
    /// Ascending.
    candidates: Vec<u32>,
    equals: HashMap<Vec<u32>, Vec<u32>>,
}

impl<'a> Universe<'a> {
    fn of(rows: VectorView<'a>, mut candidates: Vec<u32>) -> Self {
        candidates.sort_unstable();
        let mut equals: HashMap<Vec<u32>, Vec<u32>> = HashMap::new();
        for &ordinal in &candidates {
            equals.entry(bits(rows.row(ordinal as usize))).or_default().push(ordinal);
        }
        Self { rows, candidates, equals }
    }

    /// Holds the found neighbours of one query to the definition, rank by rank.
    fn check(&self, case: &dyn Fn() -> String, question: Question<'_>, found: &[Neighbor]) {
        let Question { metric, query, without } = question;
        let wanted = |ordinal: u32| Some(ordinal) != without;
        let row = |ordinal: u32| self.rows.row(ordinal as usize);
        let mut truth: Vec<(f64, u32)> = self
            .candidates
            .iter()
            .filter(|&&ordinal| wanted(ordinal))
            .map(|&ordinal| (metric.distance(query, row(ordinal)), ordinal))
            .collect();
        let ranks = truth.len().min(found.len());
        let by_distance = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if ranks > 0 {
            truth.select_nth_unstable_by(ranks - 1, by_distance);
            truth[..ranks].sort_unstable_by(by_distance);
        }

        let (found, padding) = found.split_at(ranks);
        assert!(padding.iter().all(|slot| *slot == Neighbor::NONE), "{}: padding {padding:?}", case());
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{}: not ascending: {found:?}", case());
        for (rank, (&Neighbor { distance, ordinal }, &(due, due_ordinal))) in
            found.iter().zip(&truth).enumerate()
        {
            let known = wanted(ordinal) && self.candidates.binary_search(&ordinal).is_ok();
            assert!(known, "{}, rank {rank}: {ordinal} is no candidate", case());

            let defined = metric.distance(query, row(ordinal));
            let allowed = f64::from(TOLERANCE) * scale(query, row(ordinal));
            assert!(
                (f64::from(distance) - defined).abs() <= allowed,
                "{}, rank {rank}: {ordinal} at {distance}, defined {defined}, ± {allowed}",
                case()
            );
            let allowed = allowed + f64::from(TOLERANCE) * scale(query, row(due_ordinal));
            assert!(
                defined - due <= allowed,
                "{}, rank {rank}: {ordinal} at {defined}, but {due_ordinal} is at {due}, ± {allowed}",
                case()
            );

            let equals = &self.equals[&bits(row(ordinal))];
            for &lower in equals.iter().filter(|&&equal| equal < ordinal && wanted(equal)) {
                assert!(
                    found[..rank].iter().any(|earlier| earlier.ordinal == lower),
                    "{}: {lower} equals {ordinal} and comes first, found {found:?}",
                    case()
                );
            }
        }
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|value| (value + 0.0).to_bits()).collect()
}

/// What distances of a pair are rounded relative to.
fn scale(a: &[f32], b: &[f32]) -> f64 {
    a.iter().chain(b).map(|&value| f64::from(value) * f64::from(value)).sum()
}

fn upload<'a>(backend: &dyn Compute, rows: VectorView<'a>) -> Rows<'a> {
    backend.upload(rows).unwrap_or_else(|error| panic!("upload of {} rows: {error}", rows.rows()))
}

fn assert_same(case: &str, got: &Neighbors, expected: &Neighbors) {
    for query in 0..expected.queries() {
        let (got, expected) = (got.row(query), expected.row(query));
        if let Some(rank) = (0..expected.len()).find(|&rank| got[rank] != expected[rank]) {
            panic!(
                "{case}, row {query}, rank {rank}: exact arithmetic gives {:?}, not {:?}",
                expected[rank], got[rank]
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{BackendInfo, CentroidSums, Result};

    #[test]
    fn the_reference_keeps_the_contract() {
        all(&Reference);
    }

    /// A backend that is wrong in one way.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Faulty {
        /// Distances are off by 0.01 %.
        Distance,
        /// Of two rows at one distance the higher ordinal comes first.
        Tie,
        /// The nearest row is lost, the others move up.
        LostNearest,
        /// Every slot behind the first repeats it.
        Repeats,
        /// Nothing pads what was not found.
        Padding,
        /// The last row is not summed.
        LostRow,
        /// A row counts for the next list.
        Count,
        /// Residuals are taken of the wrong centroid.
        Residual,
        /// Of equal entries the last is taken.
        LastEntry,
    }

    impl Faulty {
        fn spoil(self, rows: &mut [Neighbor]) {
            match self {
                Faulty::Distance => rows.iter_mut().for_each(|n| n.distance *= 1.0001),
                Faulty::Tie => {
                    for i in 1..rows.len() {
                        if rows[i - 1].distance == rows[i].distance {
                            rows.swap(i - 1, i);
                        }
                    }
                }
                Faulty::LostNearest => rows.rotate_left(1),
                Faulty::Repeats => rows.fill(rows[0]),
                Faulty::Padding => {
                    rows.iter_mut().filter(|n| n.is_none()).for_each(|n| *n = Neighbor::new(0, 1.0))
                }
                _ => {}
            }
        }

        fn spoiled(self, mut found: Neighbors) -> Neighbors {
            for query in 0..found.queries() {
                self.spoil(found.row_mut(query));
            }
            found
        }
    }

    impl Compute for Faulty {
        fn info(&self) -> BackendInfo {
            Reference.info()
        }

        fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
            Reference.upload(rows)
        }

        fn assign(
            &self,
            rows: &Rows<'_>,
            centroids: VectorView<'_>,
            metric: Metric,
        ) -> Result<Vec<Neighbor>> {
            let mut found = Reference.assign(rows, centroids, metric)?;
            for (row, nearest) in rows.host().iter().zip(&mut found) {
                match self {
                    Faulty::Tie => {
                        let distance = |c: u32| metric.distance(row, centroids.row(c as usize)) as f32;
                        nearest.ordinal = (0..centroids.rows() as u32)
                            .rfind(|&c| distance(c) == nearest.distance)
                            .unwrap_or(nearest.ordinal);
                    }
                    Faulty::LostNearest => {
                        nearest.ordinal = (nearest.ordinal + 1) % centroids.rows() as u32;
                        nearest.distance =
                            metric.distance(row, centroids.row(nearest.ordinal as usize)) as f32;
                    }
                    _ => self.spoil(std::slice::from_mut(nearest)),
                }
            }
            Ok(found)
        }

        fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
            let mut sums = Reference.centroid_sums(rows, labels, nlist)?;
            match (self, labels.last()) {
                (Faulty::LostRow, Some(&last)) => {
                    let dim = rows.host().dim();
                    let row = rows.host().row(labels.len() - 1);
                    for (sum, value) in sums.sums[last as usize * dim..].iter_mut().zip(row) {
                        *sum -= value;
                    }
                }
                (Faulty::Count, Some(_)) if nlist > 1 => {
                    sums.counts[0] -= 1;
                    sums.counts[1] += 1;
                }
                _ => {}
            }
            Ok(sums)
        }

        fn pq_encode(
            &self,
            rows: &Rows<'_>,
            residual_of: Option<ResidualOf<'_>>,
            codebook: CodebookView<'_>,
        ) -> Result<Vec<u8>> {
            let labels: Vec<u32> = residual_of.map_or(vec![], |r| r.labels.iter().map(|l| 3 - l).collect());
            let spoiled = residual_of.map(|of| match self {
                Faulty::Residual => ResidualOf { labels: &labels, ..of },
                _ => of,
            });
            let mut codes = Reference.pq_encode(rows, spoiled, codebook)?;
            if *self == Faulty::LastEntry {
                for (slot, code) in codes.iter_mut().enumerate() {
                    let entries = VectorView::new(codebook.sub(slot % codebook.pq_m), codebook.dsub);
                    let chosen = entries.row(usize::from(*code));
                    *code = (0..codebook.ksub).rfind(|&entry| entries.row(entry) == chosen).unwrap() as u8;
                }
            }
            Ok(codes)
        }

        fn top_k(
            &self,
            queries: VectorView<'_>,
            rows: &Rows<'_>,
            metric: Metric,
            k: usize,
        ) -> Result<Neighbors> {
            Reference.top_k(queries, rows, metric, k).map(|found| self.spoiled(found))
        }

        fn leaf_top_k(
            &self,
            rows: &Rows<'_>,
            leaves: &Leaves,
            metric: Metric,
            k: usize,
        ) -> Result<Neighbors> {
            Reference.leaf_top_k(rows, leaves, metric, k).map(|found| self.spoiled(found))
        }
    }

    #[test]
    fn a_backend_that_errs_in_any_way_is_caught() {
        type Operation = fn(&dyn Compute);
        use Faulty::*;
        let faults: [(Operation, &[Faulty]); 7] = [
            (assign, &[Distance, Tie, LostNearest]),
            (assign_coarse, &[Distance, LostNearest]),
            (assign_shortlisted, &[Distance, LostNearest]),
            (centroid_sums, &[LostRow, Count]),
            (pq_encode, &[Residual, LastEntry]),
            (top_k, &[Distance, Tie, LostNearest, Repeats, Padding]),
            (leaf_top_k, &[Distance, Tie, LostNearest, Repeats, Padding]),
        ];
        for (operation, faults) in faults {
            for fault in faults {
                let caught = std::panic::catch_unwind(|| operation(fault)).is_err();
                assert!(caught, "{fault:?} passes");
            }
        }
    }
}
