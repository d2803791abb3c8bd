//! Which list a row belongs to.
//!
//! Backends rank centroids by |c|² − 2⟨x, c⟩. Where centroids lie far from the origin, their mean is taken from them and from the rows first.

use crate::compute::{Compute, Rows};
use crate::train::{TrainError, checked_labels};
use crate::vectors::{Metric, VectorBuf, VectorView, far_mean, taken_from};

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
