//! Which list a row belongs to.
//!
//! Backends rank centroids by |c|² − 2⟨x, c⟩ in f32. Of rows that lie far from the origin, compared with how far they lie from each other,
//! rounding would decide; their mean is taken from them first, and from the centroids. Distances do not change by that.

use super::ranking::subtract;
use crate::compute::{Compute, Rows};
use crate::train::{TrainError, checked_labels};
use crate::vectors::{Metric, VectorBuf, VectorView};

/// The mean's squared length over the mean squared distance to it from which on it is taken from rows. Below, rounding makes an error of
/// 6e-5 of a typical distance at most.
const FAR: f64 = 1024.0;

/// Rows that the mean is judged by, at most.
const JUDGED: usize = 1024;

/// The rows' mean, where they lie far from the origin.
pub(super) fn far_mean(rows: VectorView<'_>) -> Option<Vec<f32>> {
    let (mean, remoteness) = remoteness(rows);
    (remoteness > FAR).then_some(mean)
}

/// The rows' mean, and its squared length over the mean squared distance to it.
pub(super) fn remoteness(rows: VectorView<'_>) -> (Vec<f32>, f64) {
    let judged = JUDGED.min(rows.rows());
    let judged: Vec<u32> = (0..judged).map(|i| (i * rows.rows() / judged) as u32).collect();
    let judged = rows.gather(&judged);
    let mean = judged.view().mean();
    let square = |value: f32| f64::from(value) * f64::from(value);
    let length: f64 = mean.iter().map(|&value| square(value)).sum();
    let distances = judged.view().iter().flat_map(|row| row.iter().zip(&mean)).map(|(x, m)| square(x - m));
    let spread = distances.sum::<f64>() / judged.rows() as f64;
    let remoteness = if length > 0.0 { length / spread } else { 0.0 };
    (mean, remoteness)
}

/// The rows less `mean`.
pub(super) fn taken_from(rows: VectorView<'_>, mean: &[f32]) -> VectorBuf {
    let mut shifted = VectorBuf::from(rows);
    shifted.as_mut_slice().chunks_exact_mut(mean.len()).for_each(|row| subtract(row, mean));
    shifted
}

/// Centroids that rows are assigned to.
pub(super) struct Assigner<'a> {
    compute: &'a dyn Compute,
    given: VectorView<'a>,
    /// Where they lie far from the origin: their mean, and what it leaves of them.
    centred: Option<(Vec<f32>, VectorBuf)>,
}

impl<'a> Assigner<'a> {
    pub fn new(compute: &'a dyn Compute, centroids: VectorView<'a>) -> Self {
        let centred = far_mean(centroids).map(|mean| {
            let left = taken_from(centroids, &mean);
            (mean, left)
        });
        Self { compute, given: centroids, centred }
    }

    /// The centroids as rows are compared with them.
    pub fn centroids(&self) -> VectorView<'_> {
        self.centred.as_ref().map_or(self.given, |(_, centroids)| centroids.view())
    }

    /// The rows as they are compared with the centroids, where that is not as they are.
    pub fn centred(&self, rows: VectorView<'_>) -> Option<VectorBuf> {
        self.centred.as_ref().map(|(mean, _)| taken_from(rows, mean))
    }

    /// The list of each row, and the sum of their squared distances to the centroids. `uploaded` shows the rows, as [`centred`](Self::centred)
    /// leaves them, to the backend.
    ///
    /// # Errors
    /// What the backend says.
    pub fn assign(&self, uploaded: &Rows<'_>) -> Result<(Vec<u32>, f64), TrainError> {
        let nearest = self.compute.assign(uploaded, self.centroids(), Metric::L2)?;
        let labels = checked_labels(&nearest, self.given.rows())?;
        Ok((labels, nearest.iter().map(|nearest| f64::from(nearest.distance)).sum()))
    }
}
