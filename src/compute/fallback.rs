//! A device that may fail, and the host to go on with, which does at once what it is faster at: what `backend = "auto"`
//! means once it has chosen a GPU.

use std::sync::atomic::{AtomicBool, Ordering};

use super::cpu::ByteRows;
use super::throughput::Operation;
use super::{
    BackendInfo, CentroidSums, CodebookView, Compute, ComputeError, DeviceWork, Leaves, ResidualOf, Result,
    Rows, Shortlists,
};
use crate::vectors::{Metric, Neighbor, Neighbors, VectorView};

/// Computes on `first` until it fails, and from then on on `second`. Every operation is repeated whole, so a result
/// comes from one backend.
pub struct Fallback<A, B> {
    first: A,
    second: B,
    /// What is `second`'s from the beginning.
    of_second: Vec<Operation>,
    failed: AtomicBool,
    /// Told once, why.
    on_failure: Box<dyn Fn(&ComputeError) + Send + Sync>,
}

impl<A: Compute, B: Compute> Fallback<A, B> {
    pub fn new(first: A, second: B, on_failure: impl Fn(&ComputeError) + Send + Sync + 'static) -> Self {
        let (of_second, failed) = (Vec::new(), AtomicBool::new(false));
        Self { first, second, of_second, failed, on_failure: Box::new(on_failure) }
    }

    /// Leaves `operations` to the second backend: those that it is faster at. What is like one of them goes with it.
    pub fn leaving(self, operations: Vec<Operation>) -> Self {
        Self { of_second: operations, ..self }
    }

    /// `like` is the operation by whose speed this one is given to a backend.
    fn with<T>(&self, like: Operation, operation: impl Fn(&dyn Compute) -> Result<T>) -> Result<T> {
        if self.of_second.contains(&like) {
            return operation(&self.second);
        }
        self.first_or_second(operation)
    }

    fn first_or_second<T>(&self, operation: impl Fn(&dyn Compute) -> Result<T>) -> Result<T> {
        if !self.failed.load(Ordering::Acquire) {
            match operation(&self.first) {
                Ok(value) => return Ok(value),
                Err(error) => {
                    if !self.failed.swap(true, Ordering::AcqRel) {
                        (self.on_failure)(&error);
                    }
                }
            }
        }
        operation(&self.second)
    }
}

impl<A: Compute, B: Compute> Compute for Fallback<A, B> {
    fn info(&self) -> BackendInfo {
        let first = self.first.info();
        if self.failed.load(Ordering::Acquire) {
            let device = format!("{}, which failed; then {}", first.device, self.second.info());
            return BackendInfo { backend: first.backend, device };
        }
        if !self.of_second.is_empty() {
            let names: Vec<&str> = self.of_second.iter().map(|operation| operation.name()).collect();
            let device = format!("{}; {} on {}", first.device, names.join(", "), self.second.info());
            return BackendInfo { backend: first.backend, device };
        }
        first
    }

    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
        self.first_or_second(|backend| backend.upload(rows))
    }

    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>> {
        self.with(Operation::Assign, |backend| backend.assign(rows, centroids, metric))
    }

    fn assign_coarse(&self, rows: &Rows<'_>, centroids: VectorView<'_>) -> Result<Vec<Neighbor>> {
        self.with(Operation::AssignCoarse, |backend| backend.assign_coarse(rows, centroids))
    }

    fn assign_shortlisted(
        &self,
        rows: &Rows<'_>,
        centroids: VectorView<'_>,
        groups: &[u32],
        shortlists: &Shortlists,
    ) -> Result<Vec<Neighbor>> {
        self.with(Operation::AssignCoarse, |backend| {
            backend.assign_shortlisted(rows, centroids, groups, shortlists)
        })
    }

    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
        self.with(Operation::Assign, |backend| backend.centroid_sums(rows, labels, nlist))
    }

    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>> {
        self.with(Operation::PqEncode, |backend| backend.pq_encode(rows, residual_of, codebook))
    }

    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors> {
        self.with(Operation::TopK, |backend| backend.top_k(queries, rows, metric, k))
    }

    fn nearest_leaders(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&ByteRows>,
        members: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>> {
        self.with(Operation::LeafCandidates, |backend| {
            backend.nearest_leaders(rows, bytes, members, leaders, k)
        })
    }

    fn leaf_candidates(
        &self,
        rows: &Rows<'_>,
        bytes: Option<&ByteRows>,
        leaves: &Leaves,
        k: usize,
    ) -> Result<Neighbors> {
        self.with(Operation::LeafCandidates, |backend| backend.leaf_candidates(rows, bytes, leaves, k))
    }

    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors> {
        self.with(Operation::LeafTopK, |backend| backend.leaf_top_k(rows, leaves, metric, k))
    }

    fn take_device_work(&self) -> DeviceWork {
        self.first.take_device_work()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::compute::reference::Reference;
    use crate::vectors::VectorBuf;

    /// Does `healthy` operations, then none.
    struct Failing {
        healthy: usize,
        done: AtomicUsize,
    }

    impl Failing {
        fn attempt<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
            if self.done.fetch_add(1, Ordering::SeqCst) >= self.healthy {
                return Err(ComputeError::DeviceLost("unplugged".into()));
            }
            operation()
        }
    }

    impl Compute for Failing {
        fn info(&self) -> BackendInfo {
            BackendInfo { backend: "gpu".into(), device: "failing".into() }
        }
        fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
            self.attempt(|| Ok(Rows::with_device(rows, "its own copy")))
        }
        fn assign(
            &self,
            rows: &Rows<'_>,
            centroids: VectorView<'_>,
            metric: Metric,
        ) -> Result<Vec<Neighbor>> {
            self.attempt(|| Reference.assign(rows, centroids, metric))
        }
        fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
            self.attempt(|| Reference.centroid_sums(rows, labels, nlist))
        }
        fn pq_encode(
            &self,
            rows: &Rows<'_>,
            residual_of: Option<ResidualOf<'_>>,
            codebook: CodebookView<'_>,
        ) -> Result<Vec<u8>> {
            self.attempt(|| Reference.pq_encode(rows, residual_of, codebook))
        }
        fn top_k(
            &self,
            queries: VectorView<'_>,
            rows: &Rows<'_>,
            metric: Metric,
            k: usize,
        ) -> Result<Neighbors> {
            self.attempt(|| Reference.top_k(queries, rows, metric, k))
        }
        fn leaf_top_k(
            &self,
            rows: &Rows<'_>,
            leaves: &Leaves,
            metric: Metric,
            k: usize,
        ) -> Result<Neighbors> {
            self.attempt(|| Reference.leaf_top_k(rows, leaves, metric, k))
        }
    }

    #[test]
    fn wherever_the_first_backend_fails_the_results_are_the_same_and_it_is_told_once() {
        let rows = VectorBuf::new((0..60).map(|i| (i * 7 % 13) as f32).collect(), 3);
        let run = |backend: &dyn Compute| {
            let uploaded = backend.upload(rows.view()).unwrap();
            let labels = backend.assign(&uploaded, rows.view().slice(0, 4), Metric::L2).unwrap();
            let labels: Vec<u32> = labels.iter().map(|label| label.ordinal).collect();
            let sums = backend.centroid_sums(&uploaded, &labels, 4).unwrap();
            let found = backend.top_k(rows.view().slice(0, 2), &uploaded, Metric::Cosine, 5).unwrap();
            (labels, sums, found)
        };
        let expected = run(&Reference);
        for healthy in 0..5 {
            let told = Arc::new(AtomicUsize::new(0));
            let first = Failing { healthy, done: AtomicUsize::new(0) };
            let counter = told.clone();
            let fallback = Fallback::new(first, Reference, move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(run(&fallback), expected);
            assert_eq!(told.load(Ordering::SeqCst), usize::from(healthy < 4));
            assert_eq!(fallback.info().device.contains("which failed"), healthy < 4);
        }
    }

    #[test]
    fn operations_that_are_left_to_the_second_backend_never_reach_the_first() {
        let rows = VectorBuf::new((0..60).map(|i| (i * 7 % 13) as f32).collect(), 3);
        let first = Failing { healthy: 1, done: AtomicUsize::new(0) };
        let left = vec![Operation::Assign, Operation::TopK];
        let fallback = Fallback::new(first, Reference, |error| panic!("{error}")).leaving(left);
        let uploaded = fallback.upload(rows.view()).unwrap();
        let centroids = rows.view().slice(0, 4);
        let expected = Reference.assign(&uploaded, centroids, Metric::L2).unwrap();
        assert_eq!(fallback.assign(&uploaded, centroids, Metric::L2).unwrap(), expected);
        fallback.top_k(centroids, &uploaded, Metric::L2, 2).unwrap();
        fallback.centroid_sums(&uploaded, &[0; 20], 1).unwrap();
        assert_eq!(fallback.first.done.load(Ordering::SeqCst), 1, "the upload alone");
        assert_eq!(fallback.info().device, "failing; assign, top_k on reference (scalar f64)");
    }
}
