//! First centroids and first labels in two levels: √k clusters of a part of the sample, then each one's share of the k
//! centroids, trained among its own rows. Costs a few hundredths of training k centroids at once, and keeps lists
//! balanced: dense regions get centroids in proportion. The idea is that of SuperKMeans' hierarchical form
//! (arXiv 2603.20009).

use super::kmeans::{Comparing, Draw, KmeansParams, Lloyd, Near};
use super::{Observer, Progress, TrainError, checked_labels, report, seeding};
use crate::compute::{Compute, Rows, Shortlists};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

/// Rows of a top-level cluster per centroid trained within it: all rows come with the passes that follow.
const WITHIN_ROWS_PER_CENTROID: usize = 32;
const WITHIN_PASSES: usize = 5;

/// A top-level cluster's shortlist holds its own centroids and the nearest to its own centre, this many times its share.
const SHARES: usize = 4;

/// Where the hierarchy leaves the sample.
pub(super) struct Start {
    pub centroids: VectorBuf,
    /// A row's group is its top-level cluster.
    pub near: Near,
}

pub(super) fn start(
    compute: &dyn Compute,
    sample: &Rows<'_>,
    params: &KmeansParams,
    observer: Observer<'_>,
) -> Result<Start, TrainError> {
    let rows = sample.host();
    let top = train_top(compute, rows, params, observer)?;
    let nearest = compute.assign(sample, top.view(), Metric::L2)?;
    let groups = checked_labels(&nearest, top.rows())?;
    let mut members = vec![Vec::new(); top.rows()];
    for (row, &label) in groups.iter().enumerate() {
        members[label as usize].push(row as u32);
    }
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    let mut centroids = VectorBuf::new(Vec::with_capacity(params.k * rows.dim()), rows.dim());
    let mut own = Vec::with_capacity(top.rows());
    for (cluster, (members, share)) in members.iter().zip(shares(&sizes, params.k)).enumerate() {
        let first = centroids.rows() as u32;
        if share > 0 {
            let seed = Random::of(params.seed, Draw::WITHIN + cluster as u64).next_u64();
            let within = train_within(compute, rows, members, share, seed)?;
            within.view().iter().for_each(|centroid| centroids.push(centroid));
        }
        own.push(first..centroids.rows() as u32);
        let (done, total) = (cluster as u64 + 1, top.rows() as u64);
        report(observer, Progress { stage: "k-means, second level", done, total, inertia: None })?;
    }
    let size = SHARES * params.k.div_ceil(top.rows());
    let around = nearest_centroids(compute, top.view(), centroids.view(), size)?;
    let mut shortlists = Shortlists::default();
    for (cluster, own) in own.into_iter().enumerate() {
        let mut both: Vec<u32> = own.chain(around.of(cluster).iter().copied()).collect();
        both.sort_unstable();
        both.dedup();
        shortlists.push(&both);
    }
    Ok(Start { centroids, near: Near { groups, shortlists } })
}

/// `share` centroids of some of the rows `members`.
fn train_within(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    members: &[u32],
    share: usize,
    seed: u64,
) -> Result<VectorBuf, TrainError> {
    let wanted = share.saturating_mul(WITHIN_ROWS_PER_CENTROID).min(members.len());
    let mut chosen = Random::of(seed, Draw::SAMPLE).sample(members.len(), wanted);
    chosen.iter_mut().for_each(|row| *row = members[*row as usize]);
    let some = rows.gather(&chosen);
    let seeds = seeding::plus_plus(some.view(), share, &mut Random::of(seed, Draw::SEEDS));
    let lloyd = Lloyd {
        passes: WITHIN_PASSES,
        tolerance: 0.0,
        longest: usize::MAX,
        seed,
        comparing: Comparing::AllCoarsely,
    };
    Ok(lloyd.run(compute, &compute.upload(some.view())?, seeds, None, |_, _| Ok(()))?.centroids)
}

/// For each of `points` the `size` centroids nearest to it, or all if there are fewer.
pub(super) fn nearest_centroids(
    compute: &dyn Compute,
    points: VectorView<'_>,
    centroids: VectorView<'_>,
    size: usize,
) -> Result<Shortlists, TrainError> {
    let found = compute.top_k(points, &compute.upload(centroids)?, Metric::L2, size.min(centroids.rows()))?;
    let mut shortlists = Shortlists::default();
    let mut own = Vec::with_capacity(size);
    for point in 0..points.rows() {
        own.clear();
        own.extend(found.found(point).iter().map(|neighbor| neighbor.ordinal));
        own.sort_unstable();
        shortlists.push(&own);
    }
    Ok(shortlists)
}

fn train_top(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    params: &KmeansParams,
    observer: Observer<'_>,
) -> Result<VectorBuf, TrainError> {
    let k = (params.k as f64).sqrt().round().max(1.0) as usize;
    let allowed = k.saturating_mul(params.max_rows_per_centroid).clamp(k, rows.rows());
    let sample = rows.gather(&Random::of(params.seed, Draw::TOP_SAMPLE).sample(rows.rows(), allowed));
    let seeds = seeding::plus_plus(sample.view(), k, &mut Random::of(params.seed, Draw::TOP_SEEDS));
    let uploaded = compute.upload(sample.view())?;
    let passes = params.iterations;
    let longest = params.max_imbalance.saturating_mul(allowed).div_ceil(k);
    let comparing = Comparing::AllCoarsely;
    let lloyd = Lloyd { passes, tolerance: params.tolerance, longest, seed: params.seed, comparing };
    let trained = lloyd.run(compute, &uploaded, seeds, None, |pass, inertia| {
        let (done, total) = (pass as u64 + 1, passes as u64);
        report(observer, Progress { stage: "k-means, first level", done, total, inertia: Some(inertia) })
    })?;
    Ok(trained.centroids)
}

/// Divides `k` among clusters in proportion to their sizes: at least one for each that has rows, at most one per
/// row, the rest by highest averages (D'Hondt), ties to the lowest.
///
/// # Panics
/// If there are more clusters with rows than `k`, or fewer rows than `k`.
fn shares(sizes: &[usize], k: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = sizes.iter().map(|&size| usize::from(size > 0)).collect();
    let given: usize = shares.iter().sum();
    assert!(given <= k && k <= sizes.iter().sum());
    // Averages as fixed-point numbers: an order that is total and the same everywhere.
    let average = |size: usize, share: usize| ((size as u128) << 64) / (share as u128 + 1);
    let mut heap: std::collections::BinaryHeap<_> = sizes
        .iter()
        .enumerate()
        .filter(|&(_, &size)| size > 1)
        .map(|(c, &size)| (average(size, 1), std::cmp::Reverse(c)))
        .collect();
    for _ in given..k {
        let (_, std::cmp::Reverse(c)) = heap.pop().expect("k is at most the number of rows");
        shares[c] += 1;
        if shares[c] < sizes[c] {
            heap.push((average(sizes[c], shares[c]), std::cmp::Reverse(c)));
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_proportional_and_within_their_bounds() {
        assert_eq!(shares(&[100, 300, 0, 600], 10), [1, 3, 0, 6]);
        assert_eq!(shares(&[1, 1000, 2], 20), [1, 18, 1]);
        assert_eq!(shares(&[3, 1, 2], 6), [3, 1, 2], "one per row");
        assert_eq!(shares(&[5, 5], 2), [1, 1]);
        assert_eq!(shares(&[7, 7], 3), [2, 1], "ties go to the lowest");
    }
}
