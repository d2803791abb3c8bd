//! Clusters that lost their rows, or that are worth less than another split of the largest, get a new place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::seeding::draw;
use crate::vectors::{Random, VectorBuf, VectorView};

/// Rows closer to their centroid than this, relative to |row|² + |centroid|², lie on it: the rounding of a mean
/// in f32 over many equal rows is no reason to split them.
const COINCIDENT: f64 = 1e-8;

/// Which cluster each row belongs to, and how many rows each cluster has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clusters<'a> {
    pub rows: VectorView<'a>,
    pub labels: &'a [u32],
    pub counts: &'a [u32],
}

impl Clusters<'_> {
    /// Rows by cluster: cluster `c` owns `members[offsets[c]..offsets[c + 1]]`, ascending.
    fn members(&self) -> (Vec<usize>, Vec<u32>) {
        let mut offsets = vec![0usize; self.counts.len() + 1];
        for (cluster, &count) in self.counts.iter().enumerate() {
            offsets[cluster + 1] = offsets[cluster] + count as usize;
        }
        let mut next = offsets.clone();
        let mut members = vec![0u32; self.labels.len()];
        for (row, &label) in self.labels.iter().enumerate() {
            members[next[label as usize]] = row as u32;
            next[label as usize] += 1;
        }
        (offsets, members)
    }
}

/// The clusters to move, ascending: all empty ones and, as far as clusters exceed `longest` rows, the smallest
/// ones of at most an eighth of that, one for each piece that is to be cut off.
pub(super) fn vacancies(counts: &[u32], longest: usize) -> Vec<u32> {
    let mut vacant: Vec<u32> = (0..counts.len() as u32).filter(|&c| counts[c as usize] == 0).collect();
    let pieces: usize = counts.iter().map(|&count| (count as usize).saturating_sub(1) / longest.max(1)).sum();
    if pieces > vacant.len() {
        let mut small: Vec<u32> = (0..counts.len() as u32)
            .filter(|&c| counts[c as usize] > 0 && counts[c as usize] as usize <= longest / 8)
            .collect();
        small.sort_by_key(|&c| (counts[c as usize], c));
        small.truncate(pieces - vacant.len());
        vacant.extend(small);
        vacant.sort_unstable();
    }
    vacant
}

/// Puts each vacant centroid on a row of the cluster that is largest at that point (ties: the lowest), the row
/// drawn as k-means++ would draw it within the cluster. Returns how many found a place: a cluster whose rows are
/// all equal is not split, so none may be left.
pub(super) fn fill(
    clusters: Clusters<'_>,
    vacant: &[u32],
    centroids: &mut VectorBuf,
    random: &mut Random,
) -> usize {
    let (offsets, members) = clusters.members();
    let mut weights: Vec<Option<Vec<f32>>> = vec![None; clusters.counts.len()];
    // (rows per piece, lowest first among equals, pieces)
    let mut largest: BinaryHeap<(u32, Reverse<u32>, u32)> = (0..clusters.counts.len() as u32)
        .filter(|c| clusters.counts[*c as usize] > 1 && vacant.binary_search(c).is_err())
        .map(|c| (clusters.counts[c as usize], Reverse(c), 1))
        .collect();
    let mut filled = 0;
    while filled < vacant.len() {
        let Some((_, Reverse(donor), pieces)) = largest.pop() else { break };
        let members = &members[offsets[donor as usize]..offsets[donor as usize + 1]];
        let weights = weights[donor as usize].get_or_insert_with(|| {
            let mut fresh = vec![f32::INFINITY; members.len()];
            lower(clusters.rows, members, centroids.row(donor as usize), &mut fresh);
            fresh
        });
        let Some(drawn) = draw(weights, random) else { continue };
        let place = clusters.rows.row(members[drawn] as usize);
        lower(clusters.rows, members, place, weights);
        centroids.row_mut(vacant[filled] as usize).copy_from_slice(place);
        filled += 1;
        let per_piece = members.len() as u32 / (pieces + 1);
        if per_piece > 0 {
            largest.push((per_piece, Reverse(donor), pieces + 1));
        }
    }
    filled
}

fn lower(rows: VectorView<'_>, members: &[u32], point: &[f32], weights: &mut [f32]) {
    for (weight, &member) in weights.iter_mut().zip(members) {
        let (mut squared, mut scale) = (0.0f64, 0.0f64);
        for (&x, &y) in rows.row(member as usize).iter().zip(point) {
            let (x, y) = (f64::from(x), f64::from(y));
            squared += (x - y) * (x - y);
            scale += x * x + y * y;
        }
        let squared = if squared <= COINCIDENT * scale { 0.0 } else { squared as f32 };
        *weight = weight.min(squared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vacant_centroid_moves_into_the_largest_cluster_that_can_be_split() {
        // Cluster 0: 60 equal rows. Cluster 1: 20 rows in two places. Cluster 2: one row. Cluster 3: none.
        let mut data = vec![5.0f32; 60];
        data.extend((0..20).map(|i| if i % 2 == 0 { 100.0 } else { 102.0 }));
        data.push(-7.0);
        let labels: Vec<u32> = (0..81).map(|i| if i < 60 { 0 } else { 1 + u32::from(i == 80) }).collect();
        let clusters = Clusters { rows: VectorView::new(&data, 1), labels: &labels, counts: &[60, 20, 1, 0] };
        let mut centroids = VectorBuf::new(vec![5.000_001, 101.0, -7.0, 0.0], 1);
        assert_eq!(vacancies(clusters.counts, 1000), [3]);
        assert_eq!(fill(clusters, &[3], &mut centroids, &mut Random::new(1)), 1);
        assert!([100.0, 102.0].contains(&centroids.row(3)[0]));
        assert_eq!(centroids.row(0)[0], 5.000_001);
    }

    #[test]
    fn rows_that_are_all_equal_are_not_split() {
        let data = vec![2.5f32; 300];
        let labels = vec![0u32; 100];
        let clusters = Clusters { rows: VectorView::new(&data, 3), labels: &labels, counts: &[100, 0, 0] };
        let mut centroids = VectorBuf::new(vec![2.5; 9], 3);
        assert_eq!(fill(clusters, &[1, 2], &mut centroids, &mut Random::new(1)), 0);
    }

    #[test]
    fn one_cluster_fills_many_vacancies_with_distinct_rows() {
        let data: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let labels = vec![0u32; 64];
        let mut counts = vec![0u32; 16];
        counts[0] = 64;
        let clusters = Clusters { rows: VectorView::new(&data, 1), labels: &labels, counts: &counts };
        let vacant = vacancies(&counts, 10);
        let mut centroids = VectorBuf::zeroed(16, 1);
        centroids.row_mut(0)[0] = 31.5;
        assert_eq!(fill(clusters, &vacant, &mut centroids, &mut Random::new(2)), 15);
        let mut places = centroids.into_vec();
        places.sort_by(f32::total_cmp);
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
    }

    #[test]
    fn only_small_clusters_give_way_to_an_oversized_one() {
        assert_eq!(vacancies(&[100, 1, 40, 5, 2, 0], 50), [5], "one piece, and an empty cluster is there");
        assert_eq!(vacancies(&[200, 1, 40, 5, 2, 0], 50), [1, 4, 5], "three pieces");
        assert_eq!(vacancies(&[400, 40, 40, 40], 50), [0u32; 0], "no cluster is small enough to give way");
    }
}
