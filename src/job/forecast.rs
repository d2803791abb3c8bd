//! How long the stages of a job will take on this machine, from short measurements of what they spend their time on. Rough: which
//! stage is long, and whether that is minutes or hours.

use std::time::{Duration, Instant};

use super::forge::{hnsw_params, ivf_params};
use super::plan::Sizing;
use super::run::Job;
use super::spec::{IndexParams, IndexSpec};
use crate::compute::Compute;
use crate::compute::throughput::{self, Operation};
use crate::error::Error;
use crate::ivf;
use crate::source::Source;
use crate::train::KmeansParams;

/// A stage and the wall time that it is expected to take.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StageTime {
    pub name: String,
    pub seconds: f64,
}

/// What one measurement may take.
const TRIAL: Duration = Duration::from_millis(200);

/// Bytes a second that are hashed, written and read back: of a local disk.
const PUBLISHED_PER_SECOND: f64 = 400e6;

/// Passes of k-means cost so much of a pass in f32 over all: half of them see shortlists, the others bytes.
const COARSE: f64 = 0.4;

/// A graph's build takes so many times as long as the products of its leaves.
const AROUND_LEAVES: f64 = 2.5;

/// Choosing a code by score costs so many times as much as by distance.
const SCORE_AWARE: f64 = 6.0;

/// Settings that a certificate's sweep measures, and the part of the rows that a query of them compares on average.
const SETTINGS: f64 = 20.0;
const COMPARED: f64 = 0.02;

/// Operations a second, measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speeds {
    assign: f64,
    top_k: f64,
    leaves: f64,
    encode: f64,
}

impl Speeds {
    /// Takes about a second.
    pub fn measure(compute: &dyn Compute) -> Result<Self, Error> {
        let speed = |operation| Ok::<_, Error>(throughput::measure(compute, operation, TRIAL)?.gflops * 1e9);
        Ok(Self {
            assign: speed(Operation::Assign)?,
            top_k: speed(Operation::TopK)?,
            leaves: speed(Operation::LeafTopK)?,
            encode: speed(Operation::PqEncode)?,
        })
    }

    pub fn exact_neighbours(&self, rows: f64, dim: f64, queries: f64) -> f64 {
        2.0 * rows * dim * queries / self.top_k
    }

    /// Building, certifying and publishing an index of so many bytes.
    pub fn of_index(
        &self,
        index: &IndexSpec,
        [rows, dim, queries, bytes]: [f64; 4],
    ) -> [(&'static str, f64); 3] {
        // Distances that are compared one by one come from memory, at a tenth of the speed of products.
        let compared = SETTINGS * queries * 2.0 * dim * (COMPARED * rows).clamp(1000.0, 200_000.0);
        [
            ("build", self.building(index, rows, dim)),
            ("certify", compared / (self.top_k / 10.0)),
            ("publish", bytes / PUBLISHED_PER_SECOND),
        ]
    }

    fn building(&self, index: &IndexSpec, rows: f64, dim: f64) -> f64 {
        match &index.params {
            IndexParams::Flat(_) => 4.0 * rows * dim / PUBLISHED_PER_SECOND,
            IndexParams::IvfPq(params) => {
                let params = ivf_params(params, rows as usize, dim as usize);
                let nlist = params.nlist as f64;
                let per_centroid = KmeansParams::new(1, 0).max_rows_per_centroid as f64;
                let sample = rows.min(nlist * per_centroid);
                let training = 2.0 * sample * nlist * dim * params.kmeans_iterations as f64 * COARSE;
                let assigning = 2.0 * rows * nlist * dim;
                // Other codes than a product quantizer's cost less than reading the rows.
                let entries =
                    if params.code == ivf::Code::Pq { f64::from(1u32 << params.pq_bits) } else { 0.0 };
                let encoding = SCORE_AWARE * 2.0 * rows * entries * dim;
                (training + assigning) / self.assign + encoding / self.encode
            }
            IndexParams::Hnsw(params) => {
                let params = hnsw_params(params);
                let places: usize = params.fanout.iter().product();
                // A leaf is about half full.
                let products = rows * places as f64 * params.c_max as f64 * dim;
                AROUND_LEAVES * products / self.leaves
            }
        }
    }
}

impl Job<'_> {
    pub fn forecast(&self, source: Source, sizing: &Sizing) -> Result<Vec<StageTime>, Error> {
        let speeds = Speeds::measure(self.compute)?;
        let load = sizing.load;
        let (rows, dim, queries) = (load.rows as f64, load.dim as f64, load.queries as f64);
        let truth = speeds.exact_neighbours(rows, dim, queries);
        let mut stages = vec![
            StageTime { name: "read".into(), seconds: self.reading(source)? },
            StageTime { name: "exact neighbours".into(), seconds: truth },
        ];
        for (index, &bytes) in self.spec.indexes.iter().zip(&sizing.estimate.index_bytes) {
            for (stage, seconds) in speeds.of_index(index, [rows, dim, queries, bytes as f64]) {
                stages.push(StageTime { name: format!("{stage} {}", index.name), seconds });
            }
        }
        Ok(stages)
    }

    /// By the first rows.
    fn reading(&self, source: Source) -> Result<f64, Error> {
        let all = source.rows_upper_bound() as f64;
        let started = Instant::now();
        let mut batches = source.batches()?;
        let mut read = 0;
        for batch in batches.by_ref() {
            batch?;
            read = read.max(1);
            if started.elapsed() > TRIAL {
                break;
            }
        }
        let read = batches.counts().read.max(read) as f64;
        Ok(started.elapsed().as_secs_f64() * (all / read).max(1.0))
    }
}
