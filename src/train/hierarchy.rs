//! First centroids and first labels in two levels: √k clusters of a part of the sample, then each one's share of the k
//! centroids, trained among its own rows. Costs a few hundredths of training k centroids at once, and keeps lists
//! balanced: dense regions get centroids in proportion. The idea is that of SuperKMeans' hierarchical form
//! (arXiv 2603.20009).

use super::kmeans::{Draw, KmeansParams, Lloyd};
use super::{Observer, Progress, TrainError, checked_labels, report, seeding};
use crate::compute::{Compute, Rows, Shortlists};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

pub(super) fn knob(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Where the hierarchy leaves the sample.
pub(super) struct Start {
    pub centroids: VectorBuf,
    /// The group of each row: its top-level cluster.
    pub groups: Vec<u32>,
    /// The centroids that a row of each group is likely to be nearest to.
    pub shortlists: Shortlists,
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
    let mut children = Vec::with_capacity(params.k);
    let mut centroids = VectorBuf::new(Vec::with_capacity(params.k * rows.dim()), rows.dim());
    for (cluster, (members, share)) in members.iter().zip(shares(&sizes, params.k)).enumerate() {
        if share > 0 {
            let seed = Random::of(params.seed, Draw::WITHIN + cluster as u64).next_u64();
            let wanted = (share * knob("WITHIN_ROWS", 32)).min(members.len());
            let chosen = Random::of(seed, Draw::SAMPLE).sample(members.len(), wanted);
            let chosen: Vec<u32> = chosen.into_iter().map(|index| members[index as usize]).collect();
            let own = rows.gather(&chosen);
            let seeds = seeding::plus_plus(own.view(), share, &mut Random::of(seed, Draw::SEEDS));
            let uploaded = compute.upload(own.view())?;
            let lloyd = Lloyd { passes: knob("WITHIN_PASSES", 5), tolerance: params.tolerance, longest: usize::MAX, seed, shortlist: 0, closing: 0 };
            let within = lloyd.run(compute, &uploaded, seeds, None, |_, _| Ok(()))?;
            for centroid in within.centroids.view().iter() { children.push((cluster as u32, centroids.rows() as u32)); centroids.push(centroid); }
        }
        let (done, total) = (cluster as u64 + 1, top.rows() as u64);
        report(observer, Progress { stage: "k-means, second level", done, total, inertia: None })?;
    }
    let width = (knob("TOP_SHARES", 4) * params.k.div_ceil(top.rows())).min(params.k);
    let shortlists = nearest_centroids(compute, top.view(), centroids.view(), width, &children)?;
    Ok(Start { centroids, groups, shortlists })
}

/// For each of `points` the `size` centroids nearest to it.
pub(super) fn nearest_centroids(
    compute: &dyn Compute,
    points: VectorView<'_>,
    centroids: VectorView<'_>,
    size: usize,
    extra: &[(u32, u32)],
) -> Result<Shortlists, TrainError> {
    let found = compute.top_k(points, &compute.upload(centroids)?, Metric::L2, size)?;
    let mut shortlists = Shortlists::default();
    let mut own = Vec::with_capacity(size);
    for point in 0..points.rows() {
        own.clear();
        own.extend(found.found(point).iter().map(|neighbor| neighbor.ordinal));
        let from = extra.partition_point(|&(group, _)| (group as usize) < point);
        own.extend(extra[from..].iter().take_while(|&&(group, _)| group as usize == point).map(|&(_, centroid)| centroid));
        own.sort_unstable();
        own.dedup();
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
    let lloyd = Lloyd { passes, tolerance: params.tolerance, longest, seed: params.seed, shortlist: 0, closing: 0 };
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
