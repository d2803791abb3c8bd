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
use super::{CodebookView, Compute, Leaves, ResidualOf, Rows};
use crate::vectors::{Metric, Neighbor, Neighbors, Random, VectorBuf, VectorView};

/// How far a distance may be from its definition, relative to |a|² + |b|², and by how much two pairs' distances must
/// differ before their order is part of the contract.
///
/// An f32 chain of d terms errs by about √d · 2⁻²⁴ of |a|·|b|; the greatest error measured over 768 and 1,536
/// dimensions and all instruction sets was 1.3e-6.
pub const TOLERANCE: f32 = 1e-5;

/// Around the widths of registers, above and below; 96, 100 and 768 are those of common embeddings.
const DIMS: [usize; 10] = [1, 3, 4, 5, 15, 16, 17, 96, 100, 768];

/// Every operation's cases.
pub fn all(backend: &dyn Compute) {
    assign(backend);
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
    assign_case(backend, "assign: 3000 centroids", Data::Lattice, points.view(), centroids.view(), Metric::L2);
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
        universe.check(&format!("{case}, row {index}"), metric, points.row(index), std::slice::from_ref(nearest));
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
    let shapes = [(1, 1, 1), (3, 1, 4), (5, 5, 1), (16, 4, 4), (17, 3, 6), (100, 25, 4), (100, 15, 7), (96, 6, 16)];
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
                let case = format!("{case}, query {query}");
                universe.check(&case, metric, asked.row(query), got.row(query));
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
            for leaf in 0..leaves.len() {
                let members = leaves.leaf(leaf);
                let universe = Universe::of(points.view(), members.to_vec());
                for (index, &member) in members.iter().enumerate() {
                    let case = format!("{case}, leaf {leaf}, member {member}");
                    let found = got.row(leaves.offsets[leaf] as usize + index);
                    universe.without(member).check(&case, metric, points.row(member as usize), found);
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

/// The rows that may be found, and which of them are equal bit by bit.
struct Universe<'a> {
    rows: VectorView<'a>,
    candidates: Vec<u32>,
    equals: HashMap<Vec<u32>, Vec<u32>>,
    without: Option<u32>,
}

impl<'a> Universe<'a> {
    fn of(rows: VectorView<'a>, mut candidates: Vec<u32>) -> Self {
        candidates.sort_unstable();
        let mut equals: HashMap<Vec<u32>, Vec<u32>> = HashMap::new();
        for &ordinal in &candidates {
            equals.entry(bits(rows.row(ordinal as usize))).or_default().push(ordinal);
        }
        Self { rows, candidates, equals, without: None }
    }

    fn without(&self, ordinal: u32) -> Universe<'a> {
        Universe {
            rows: self.rows,
            candidates: self.candidates.clone(),
            equals: self.equals.clone(),
            without: Some(ordinal),
        }
    }

    /// Holds the found neighbours of one query to the definition, rank by rank.
    fn check(&self, case: &str, metric: Metric, query: &[f32], found: &[Neighbor]) {
        let is_candidate =
            |ordinal: u32| Some(ordinal) != self.without && self.candidates.binary_search(&ordinal).is_ok();
        let mut truth: Vec<(f64, u32)> = self
            .candidates
            .iter()
            .filter(|&&ordinal| is_candidate(ordinal))
            .map(|&ordinal| (metric.distance(query, self.rows.row(ordinal as usize)), ordinal))
            .collect();
        truth.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));

        let (found, padding) = found.split_at(truth.len().min(found.len()));
        assert!(padding.iter().all(|slot| *slot == Neighbor::NONE), "{case}: padding {padding:?}");
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{case}: not ascending: {found:?}");
        for (rank, neighbor) in found.iter().enumerate() {
            let Neighbor { distance, ordinal } = *neighbor;
            assert!(is_candidate(ordinal), "{case}, rank {rank}: {ordinal} is no candidate");
            let row = self.rows.row(ordinal as usize);
            let defined = metric.distance(query, row);
            let allowed = f64::from(TOLERANCE) * scale(query, row);
            let error = (f64::from(distance) - defined).abs();
            assert!(
                error <= allowed,
                "{case}, rank {rank}: {ordinal} at {distance}, defined {defined}, ± {allowed}"
            );

            let (due, due_ordinal) = truth[rank];
            let allowed = allowed + f64::from(TOLERANCE) * scale(query, self.rows.row(due_ordinal as usize));
            assert!(
                defined - due <= allowed,
                "{case}, rank {rank}: {ordinal} at {defined}, but {due_ordinal} is at {due}, ± {allowed}"
            );
            let before = |other: &Neighbor| other.ordinal == ordinal;
            let place = found.iter().position(before);
            for &equal in &self.equals[&bits(row)] {
                if equal < ordinal && is_candidate(equal) {
                    let earlier = found.iter().position(|other| other.ordinal == equal);
                    assert!(
                        earlier.is_some() && earlier < place,
                        "{case}: {equal} equals {ordinal} and comes first, found {found:?}"
                    );
                }
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
