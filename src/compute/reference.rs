//! The definition of every operation: single-threaded loops in f64, to be read, not to be fast.

use super::{BackendInfo, CentroidSums, CodebookView, Compute, Leaves, ResidualOf, Result, Rows, Shortlists};
use crate::vectors::{Metric, Neighbor, Neighbors, TopK, VectorView};

/// The backend that defines the others.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reference;

impl Compute for Reference {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "reference".into(), device: "scalar f64".into() }
    }

    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
        Ok(Rows::on_host(rows))
    }

    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>> {
        Ok(rows.host().iter().map(|row| nearest(row, centroids, metric)).collect())
    }

    fn assign_shortlisted(
        &self,
        rows: &Rows<'_>,
        centroids: VectorView<'_>,
        groups: &[u32],
        shortlists: &Shortlists,
    ) -> Result<Vec<Neighbor>> {
        let rows = rows.host();
        assert_eq!(groups.len(), rows.rows());
        let nearest_of = |(row, &group): (&[f32], &u32)| {
            let near = |&centroid: &u32| {
                let distance = Metric::L2.distance(row, centroids.row(centroid as usize));
                Neighbor::new(centroid, distance as f32)
            };
            shortlists.of(group as usize).iter().map(near).fold(Neighbor::NONE, Neighbor::min)
        };
        Ok(rows.iter().zip(groups).map(nearest_of).collect())
    }

    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
        let rows = rows.host();
        assert_eq!(labels.len(), rows.rows());
        let mut sums = vec![0.0f64; nlist * rows.dim()];
        let mut counts = vec![0u32; nlist];
        for (row, &label) in rows.iter().zip(labels) {
            let list = label as usize;
            counts[list] += 1;
            for (sum, &value) in sums[list * rows.dim()..].iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
        Ok(CentroidSums { sums: sums.into_iter().map(|sum| sum as f32).collect(), counts })
    }

    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>> {
        let rows = rows.host();
        let mut codes = Vec::with_capacity(rows.rows() * codebook.pq_m);
        for (index, row) in rows.iter().enumerate() {
            let mut padded = vec![0.0f32; codebook.pq_m * codebook.dsub];
            padded[..row.len()].copy_from_slice(row);
            if let Some(ResidualOf { centroids, labels }) = residual_of {
                for (value, &centre) in padded.iter_mut().zip(centroids.row(labels[index] as usize)) {
                    *value -= centre;
                }
            }
            for (m, sub) in padded.chunks_exact(codebook.dsub).enumerate() {
                let entries = VectorView::new(codebook.sub(m), codebook.dsub);
                codes.push(nearest(sub, entries, Metric::L2).ordinal as u8);
            }
        }
        Ok(codes)
    }

    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors> {
        let mut found = Neighbors::new(queries.rows(), k);
        let mut top = TopK::new(k);
        for (index, query) in queries.iter().enumerate() {
            for (ordinal, row) in rows.host().iter().enumerate() {
                top.push(Neighbor::new(ordinal as u32, metric.distance(query, row) as f32));
            }
            top.drain_into(found.row_mut(index));
        }
        Ok(found)
    }

    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors> {
        let rows = rows.host();
        let mut found = Neighbors::new(leaves.members.len(), k);
        let mut top = TopK::new(k);
        let mut slot = 0;
        for leaf in 0..leaves.len() {
            for &member in leaves.leaf(leaf) {
                for &other in leaves.leaf(leaf) {
                    if other != member {
                        let distance = metric.distance(rows.row(member as usize), rows.row(other as usize));
                        top.push(Neighbor::new(other, distance as f32));
                    }
                }
                top.drain_into(found.row_mut(slot));
                slot += 1;
            }
        }
        Ok(found)
    }
}

fn nearest(row: &[f32], centroids: VectorView<'_>, metric: Metric) -> Neighbor {
    let mut best = Neighbor::NONE;
    for (ordinal, centroid) in centroids.iter().enumerate() {
        best = best.min(Neighbor::new(ordinal as u32, metric.distance(row, centroid) as f32));
    }
    best
}
