//! How fast a backend is on this machine, on shapes like those of a build: for people who ask what it is worth here, and for
//! `backend = "auto"`, which gives each operation to the backend that is faster at it. It is no benchmark: random rows, the
//! fastest call within about a second, whatever else the machine is doing.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::cpu::ByteRows;
use super::{CodebookView, Compute, Leaves, Result, Rows};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

/// Dimensions of all rows.
const DIM: usize = 128;
/// Centroids that rows are assigned to.
const NLIST: usize = 4096;
/// Queries of `top_k`, and neighbours for each: those of a job's ground truth.
const QUERIES: usize = 1024;
const K: usize = 100;
/// Members of a leaf, and neighbours for each: the HNSW build's defaults.
const LEAF_ROWS: usize = 512;
const LEAF_K: usize = 3;
/// Sub-vectors of a code of 8 bits.
const PQ_M: usize = 32;
const KSUB: usize = 256;

/// Rows of the first shape, so few that a software adapter is done in about a second, …
const FEWEST_ROWS: usize = 1024;
/// … and of the largest: 128 MiB.
const MOST_ROWS: usize = 1 << 18;
/// By how much a shape grows.
const GROWTH: usize = 4;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Assign,
    AssignCoarse,
    TopK,
    LeafTopK,
    LeafCandidates,
    PqEncode,
}

impl Operation {
    pub const ALL: [Operation; 6] = [
        Operation::Assign,
        Operation::AssignCoarse,
        Operation::TopK,
        Operation::LeafTopK,
        Operation::LeafCandidates,
        Operation::PqEncode,
    ];

    /// As the method of [`Compute`].
    pub fn name(self) -> &'static str {
        match self {
            Operation::Assign => "assign",
            Operation::AssignCoarse => "assign_coarse",
            Operation::TopK => "top_k",
            Operation::LeafTopK => "leaf_top_k",
            Operation::LeafCandidates => "leaf_candidates",
            Operation::PqEncode => "pq_encode",
        }
    }

    /// Two for each multiply-add of the products behind the distances.
    fn flops(self, rows: usize) -> f64 {
        let pairs = match self {
            Operation::Assign | Operation::AssignCoarse => rows * NLIST,
            Operation::TopK => rows * QUERIES,
            Operation::LeafTopK | Operation::LeafCandidates => rows * LEAF_ROWS,
            Operation::PqEncode => rows * KSUB,
        };
        2.0 * pairs as f64 * DIM as f64
    }

    fn shape(self, rows: usize) -> String {
        let beside = match self {
            Operation::Assign | Operation::AssignCoarse => format!("{NLIST} centroids"),
            Operation::TopK => format!("{QUERIES} queries, k {K}"),
            Operation::LeafTopK => format!("leaves of {LEAF_ROWS}, k {LEAF_K}"),
            Operation::LeafCandidates => format!("leaves of {LEAF_ROWS}, k {LEAF_K}, bytes"),
            Operation::PqEncode => format!("{PQ_M} × 8 bits"),
        };
        format!("{rows} × {DIM}, {beside}")
    }
}

/// An operation's speed, rows already shown to the backend, results on the host.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Throughput {
    pub operation: Operation,
    /// As `16384 × 128, 4096 centroids`.
    pub shape: String,
    /// Of the fastest call of that shape.
    pub seconds: f64,
    pub rows_per_second: f64,
    /// By the operation's definition: two for each multiply-add of its products.
    pub gflops: f64,
}

/// Measures one operation in about `budget`, or in one call of the smallest shape where that takes longer: rows are
/// quadrupled as long as time and memory allow, and what is left of the time repeats the last shape.
///
/// # Errors
/// The backend's.
pub fn measure(backend: &dyn Compute, operation: Operation, budget: Duration) -> Result<Throughput> {
    let other = random_rows(1, NLIST.max(QUERIES));
    let mut count = FEWEST_ROWS;
    let mut buf = random_rows(2, count);
    let mut trial = Trial::new(backend, operation, buf.view(), other.view())?;
    // Compiles shaders, starts threads.
    trial.run()?;
    let started = Instant::now();
    let mut seconds = trial.run()?;
    loop {
        let left = budget.saturating_sub(started.elapsed()).as_secs_f64();
        if count < MOST_ROWS && seconds * (GROWTH as f64) < left {
            count *= GROWTH;
            drop(trial);
            buf = random_rows(2, count);
            trial = Trial::new(backend, operation, buf.view(), other.view())?;
            seconds = trial.run()?;
        } else if seconds < left {
            seconds = seconds.min(trial.run()?);
        } else {
            break;
        }
    }
    let flops = operation.flops(count);
    Ok(Throughput {
        operation,
        shape: operation.shape(count),
        seconds,
        rows_per_second: count as f64 / seconds,
        gflops: flops / seconds * 1e-9,
    })
}

/// One shape, ready to run.
struct Trial<'a> {
    backend: &'a dyn Compute,
    operation: Operation,
    rows: Rows<'a>,
    /// Centroids, queries, or what codebooks are made of.
    other: VectorView<'a>,
    leaves: Leaves,
    /// The rows as bytes, where those are what is compared.
    bytes: Option<ByteRows>,
}

impl<'a> Trial<'a> {
    fn new(
        backend: &'a dyn Compute,
        operation: Operation,
        rows: VectorView<'a>,
        other: VectorView<'a>,
    ) -> Result<Self> {
        let count = rows.rows() as u32;
        let leaves =
            Leaves { members: (0..count).collect(), offsets: (0..=count).step_by(LEAF_ROWS).collect() };
        let bytes = (operation == Operation::LeafCandidates).then(|| ByteRows::encode(rows)).flatten();
        Ok(Self { backend, operation, rows: backend.upload(rows)?, other, leaves, bytes })
    }

    /// Seconds of one call.
    fn run(&self) -> Result<f64> {
        let started = Instant::now();
        match self.operation {
            Operation::Assign => drop(self.backend.assign(&self.rows, self.other, Metric::L2)?),
            Operation::AssignCoarse => drop(self.backend.assign_coarse(&self.rows, self.other)?),
            Operation::TopK => {
                drop(self.backend.top_k(self.other.slice(0, QUERIES), &self.rows, Metric::L2, K)?);
            }
            Operation::LeafTopK => {
                drop(self.backend.leaf_top_k(&self.rows, &self.leaves, Metric::L2, LEAF_K)?);
            }
            Operation::LeafCandidates => {
                let bytes = self.bytes.as_ref();
                drop(self.backend.leaf_candidates(&self.rows, bytes, &self.leaves, LEAF_K)?);
            }
            Operation::PqEncode => {
                let centroids = &self.other.as_slice()[..KSUB * DIM];
                let codebook = CodebookView { centroids, pq_m: PQ_M, ksub: KSUB, dsub: DIM / PQ_M };
                drop(self.backend.pq_encode(&self.rows, None, codebook)?);
            }
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Uniform in −1..1.
fn random_rows(seed: u64, rows: usize) -> VectorBuf {
    let mut data = vec![0.0; rows * DIM];
    data.par_chunks_mut(DIM).enumerate().for_each(|(row, values)| {
        let mut random = Random::of(seed, row as u64);
        values.iter_mut().for_each(|value| *value = (random.next_u64() as i32) as f32 * 2f32.powi(-31));
    });
    VectorBuf::new(data, DIM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;

    #[test]
    fn every_operation_is_measured_even_in_no_time() {
        for operation in Operation::ALL {
            let measured = measure(&Cpu::new(), operation, Duration::ZERO).unwrap();
            assert_eq!(measured.operation, operation);
            assert!(measured.shape.starts_with("1024 × 128, "), "{}", measured.shape);
            assert!(measured.seconds > 0.0 && measured.rows_per_second.is_finite() && measured.gflops > 0.0);
        }
    }

    #[test]
    fn time_that_is_left_goes_into_more_rows() {
        let measured = measure(&Cpu::new(), Operation::PqEncode, Duration::from_secs(2)).unwrap();
        assert!(!measured.shape.starts_with("1024 "), "{}", measured.shape);
        let per_row = Operation::PqEncode.flops(1);
        assert_eq!(per_row, (2 * 256 * 128) as f64, "32 sub-vectors of 4, 256 entries each");
        assert!((measured.gflops * 1e9 / measured.rows_per_second / per_row - 1.0).abs() < 1e-9);
    }
}
