//! What a workload takes that is described and not there: memory, disk, machines, build time and money, for each number of rows
//! and each index of it.
//!
//! | figure | from |
//! |---|---|
//! | bytes, memory | the job planner's formulas ([`IndexSize`]) |
//! | shards | the fewest, by a hash of the ids, of which each fits a machine: searched within the memory share, built within the memory |
//! | build time | this machine's kernels, measured for a second and counted up by what a build computes; reading at an assumed 200 MB/s |
//! | search | an index of a few thousand generated rows ([`Law`]), built and measured here at the workload's recall, grown as `tune` grows its trials |
//! | machines, money | arithmetic over those |
//!
//! Generated rows are like embeddings and are nobody's: a workload with data is planned by `annvil tune`.

use super::candidates::{Candidate, family, scaled};
use super::predict::{Formula, Prediction, predict};
use super::trial::Ground;
use super::{TuneError, sizes};
use crate::compute::Compute;
use crate::dataset::{FIRST_QUERY, Law};
use crate::error::Error;
use crate::job::{
    self, Backend, IndexSize, IndexSpec, Prices, Progress, Shape, Silent, Speeds, Unit, Workload, index_size,
    on_threads,
};
use crate::source::Shard;

/// Generated rows that searches are measured on, where nothing else is said.
pub const CALIBRATION_ROWS: usize = 8192;

const CALIBRATION_QUERIES: usize = 200;

/// Queries that a build is certified with.
const CERTIFIED_QUERIES: u64 = 1000;

/// Bytes a second that a source is assumed to be read at.
const READ_PER_SECOND: f64 = 200e6;

/// Ordinals are u32.
const MAX_SHARD_ROWS: u64 = u32::MAX as u64;

const HOURS_PER_MONTH: f64 = 730.5;
const GIB: f64 = (1u64 << 30) as f64;

/// A workload's figures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Capacity {
    pub workload: Workload,
    /// What build times and searches were measured on; `None` where nothing was.
    pub compute: Option<String>,
    pub calibration_rows: Option<u64>,
    pub prices: Option<Prices>,
    /// By rows, then by index.
    pub cases: Vec<Case>,
    pub basis: Basis,
}

/// How figures were come by, in words.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Basis {
    pub bytes: String,
    pub build: String,
    pub search: String,
    pub money: String,
}

/// One index over so many rows.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Case {
    pub rows: u64,
    /// The index's name.
    pub index: String,
    pub kind: &'static str,
    /// `None` where no number of shards makes one fit a machine.
    pub plan: Option<CasePlan>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct CasePlan {
    pub shards: u32,
    /// Rows of the largest shard to be expected.
    pub shard_rows: u64,
    pub shard: IndexSize,
    /// Of all shards, one version.
    pub published_bytes: u64,
    /// Of the machine's memory, what a shard takes while it is searched.
    pub memory_used: f64,
    /// Whether a shard is built with its rows in files of the scratch folder: in memory they do not fit.
    pub builds_from_scratch: bool,
    /// Of one shard on this machine.
    pub build_seconds: Option<f64>,
    /// Of a shard: what is expected of one thread at the workload's recall.
    pub search: Option<Prediction>,
    /// As many as are asked for, or as the queries need.
    pub replicas: u64,
    pub machines: u64,
    pub cost: Option<Cost>,
}

/// Money a month.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Cost {
    pub machines: f64,
    /// A version on each machine's disk.
    pub disk: f64,
    pub store: f64,
    pub builds: f64,
    pub total: f64,
}

/// How a workload is planned.
#[derive(Debug, Clone)]
pub struct CapacityOptions {
    /// 0: nothing is measured, and build times, searches and what follows from them are left out.
    pub calibration_rows: usize,
    pub backend: Backend,
    pub threads: usize,
}

/// # Errors
/// The backend's; [`Error::Cancelled`].
pub fn capacity(
    workload: &Workload,
    prices: Option<&Prices>,
    options: &CapacityOptions,
    progress: &Progress,
) -> Result<Capacity, Error> {
    on_threads(options.threads, || {
        let measured = match options.calibration_rows {
            0 => None,
            rows => Some(Calibration::measure(workload, (rows, options.backend), progress)?),
        };
        let mut cases = Vec::new();
        for &rows in &workload.rows {
            for (place, index) in workload.indexes.iter().enumerate() {
                let search = measured.as_ref().map(|measured| (measured, place));
                let plan = fewest_shards(workload, index, rows)
                    .map(|shards| plan(workload, (index, rows, shards), search, prices));
                cases.push(Case { rows, index: index.name.clone(), kind: index.params.kind(), plan });
            }
        }
        Ok(Capacity {
            workload: workload.clone(),
            compute: measured.as_ref().map(|measured| measured.compute.clone()),
            calibration_rows: measured.as_ref().map(|measured| measured.rows),
            prices: prices.cloned(),
            cases,
            basis: Basis::of(measured.as_ref()),
        })
    })
}

impl Basis {
    fn of(measured: Option<&Calibration>) -> Self {
        let not = || "not measured".to_string();
        Self {
            bytes: "computed: the job planner's formulas".into(),
            build: measured.map_or_else(not, |measured| {
                format!(
                    "extrapolated: kernels measured on this machine ({}), counted up by what a build computes; reading assumed at {} \
                     MB/s",
                    measured.compute,
                    READ_PER_SECOND / 1e6
                )
            }),
            search: measured.map_or_else(not, |measured| {
                format!(
                    "extrapolated: indexes of up to {} generated rows measured on this machine, one thread",
                    job::quantity::count(measured.rows)
                )
            }),
            money: "computed from the prices given; replicas from the extrapolated searches".into(),
        }
    }
}

/// What was measured here.
struct Calibration {
    compute: String,
    rows: u64,
    speeds: Speeds,
    /// Of each index of the workload.
    trials: Vec<Vec<super::Trial>>,
}

impl Calibration {
    fn measure(
        workload: &Workload,
        (rows, backend): (usize, Backend),
        progress: &Progress,
    ) -> Result<Self, Error> {
        let compute = job::choose(backend, None, progress)?;
        let compute: &dyn Compute = &*compute;
        let stage = progress.stage("measure this machine", Unit::STEPS, None);
        let speeds = Speeds::measure(compute)?;
        let (k, recall) = (workload.k, workload.recall);
        if rows < k {
            return Err(TuneError::Few { rows, queries: CALIBRATION_QUERIES, k }.into());
        }
        let law = Law::new(workload.dim, 1);
        let all = law.rows(0, rows);
        let queries = law.rows(FIRST_QUERY, CALIBRATION_QUERIES);
        let mut trials = vec![Vec::new(); workload.indexes.len()];
        let quiet = Progress::new(Silent { warn: false }, progress.cancel_token().clone());
        let metric = workload.indexes[0].metric;
        for size in sizes(rows, k) {
            let sample = all.view().slice(0, size);
            let ground = Ground::new(compute, (metric, 1), sample, queries.view(), k)?;
            for (index, trials) in workload.indexes.iter().zip(&mut trials) {
                progress.check()?;
                stage.set_message(format!("{} of {size} generated rows", index.name));
                let smallest = workload.rows.iter().copied().min().unwrap_or(1);
                let spec = IndexSpec { gate: None, ..scaled(index, size as u64, smallest.max(size as u64)) };
                let candidate = Candidate { name: index.name.clone(), spec };
                trials.push(ground.try_one(&candidate, (k, recall), &quiet)?);
                stage.inc(1);
            }
        }
        stage.finish();
        Ok(Self { compute: compute.info().to_string(), rows: rows as u64, speeds, trials })
    }
}

fn shape(workload: &Workload, rows: u64) -> Shape {
    Shape {
        rows,
        dim: workload.dim as u64,
        columns_bytes: workload.id_bytes + workload.attribute_bytes,
        queries: CERTIFIED_QUERIES,
        threads: workload.machine.cores,
    }
}

fn shard_rows(rows: u64, shards: u32) -> u64 {
    Shard::new(0, shards).map_or(rows, |shard| if shards == 1 { rows } else { shard.rows_of(rows) })
}

/// Rows in a shard, and whether it fits: searched, and built one way or the other.
fn fits(workload: &Workload, index: &IndexSpec, rows: u64) -> bool {
    let size = index_size(&workload.job(index), &shape(workload, rows));
    let machine = &workload.machine;
    let for_searching = (machine.memory as f64 * machine.memory_share) as u64;
    rows <= MAX_SHARD_ROWS
        && size.serving <= for_searching
        && size.building.min(size.building_from_scratch) <= machine.memory
}

/// `None` where even the most shards that there can be are too large. What a shard takes grows with its rows, so it is halved.
fn fewest_shards(workload: &Workload, index: &IndexSpec, rows: u64) -> Option<u32> {
    let most = Shard::MAX_COUNT.min(u32::try_from(rows).unwrap_or(u32::MAX));
    let is_enough = |shards: u32| fits(workload, index, shard_rows(rows, shards));
    let (mut low, mut high) = (1, most);
    if !is_enough(most) {
        return None;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if is_enough(middle) { high = middle } else { low = middle + 1 }
    }
    Some(low)
}

fn plan(
    workload: &Workload,
    (index, rows, shards): (&IndexSpec, u64, u32),
    measured: Option<(&Calibration, usize)>,
    prices: Option<&Prices>,
) -> CasePlan {
    let machine = &workload.machine;
    let of_shard = shard_rows(rows, shards);
    let size_of = |rows| index_size(&workload.job(index), &shape(workload, rows));
    let shard = size_of(of_shard);
    let published_bytes = size_of(rows.div_ceil(u64::from(shards))).published * u64::from(shards);
    let build_seconds =
        measured.map(|(measured, _)| build_seconds(workload, index, of_shard, &shard, measured));
    let search = measured.map(|(measured, place)| {
        let formula = |rows| {
            let size = size_of(rows);
            Formula { sections: size.sections as f64, published: size.published as f64 }
        };
        predict(&measured.trials[place], family(index.params.kind()), of_shard, formula)
    });
    // Every query is for every shard.
    let needed = search.as_ref().map_or(1, |search| {
        let of_machine = thread_qps(search) * machine.cores as f64 * machine.busy_share;
        (workload.qps / of_machine.max(1e-9)).ceil().max(1.0) as u64
    });
    let replicas = workload.replicas.max(needed);
    let machines = replicas.saturating_mul(u64::from(shards));
    let cost = prices.zip(build_seconds).map(|(prices, build_seconds)| {
        cost(workload, prices, (machines, u64::from(shards)), (&shard, published_bytes, build_seconds))
    });
    CasePlan {
        shards,
        shard_rows: of_shard,
        shard,
        published_bytes,
        memory_used: shard.serving as f64 / machine.memory as f64,
        builds_from_scratch: shard.building > machine.memory,
        build_seconds,
        search,
        replicas,
        machines,
        cost,
    }
}

/// Of one thread: by the median latency, which what else this machine does disturbs least.
pub fn thread_qps(search: &Prediction) -> f64 {
    1e3 / search.p50_ms.max(1e-6)
}

fn build_seconds(
    workload: &Workload,
    index: &IndexSpec,
    rows: u64,
    size: &IndexSize,
    measured: &Calibration,
) -> f64 {
    let (rows, dim, queries) = (rows as f64, workload.dim as f64, CERTIFIED_QUERIES as f64);
    let source =
        rows * (workload.value_bytes as f64 * dim + (workload.id_bytes + workload.attribute_bytes) as f64);
    let stages = measured.speeds.of_index(index, [rows, dim, queries, size.published as f64]);
    source / READ_PER_SECOND
        + measured.speeds.exact_neighbours(rows, dim, queries)
        + stages.iter().map(|(_, seconds)| seconds).sum::<f64>()
}

fn cost(
    workload: &Workload,
    prices: &Prices,
    (machines, shards): (u64, u64),
    (shard, published_bytes, build_seconds): (&IndexSize, u64, f64),
) -> Cost {
    let machine = &workload.machine;
    let machine_hour =
        machine.cores as f64 * prices.core_hour + machine.memory as f64 / GIB * prices.memory_gib_hour;
    let disk = machines as f64 * shard.published as f64 / GIB * prices.disk_gib_month;
    let store = workload.versions as f64 * published_bytes as f64 / GIB * prices.store_gib_month;
    let builds = workload.builds_per_month * shards as f64 * build_seconds / 3600.0 * machine_hour;
    let machines = machines as f64 * HOURS_PER_MONTH * machine_hour;
    Cost { machines, disk, store, builds, total: machines + disk + store + builds }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(rows: &str, indexes: &str) -> Workload {
        let text = format!(
            "rows = {rows}\ndim = 1536\nqps = 200\nreplicas = 2\n[machine]\nmemory = \"64GiB\"\ncores = 16\n{indexes}"
        );
        Workload::parse(&text, "estate.toml").unwrap()
    }

    const BOTH: &str = "[[index]]\nkind = \"hnsw\"\nmetric = \"cosine\"\n[[index]]\nkind = \"ivf_pq\"\nmetric = \"cosine\"\nrefine = \
                        \"none\"\n";

    fn without_measuring(workload: &Workload) -> Capacity {
        let options = CapacityOptions { calibration_rows: 0, backend: Backend::Cpu, threads: 1 };
        capacity(workload, None, &options, &Progress::silent()).unwrap()
    }

    #[test]
    fn shards_are_the_fewest_that_fit_a_machine() {
        let workload = workload("[100_000, 10_000_000, 1_000_000_000]", BOTH);
        let capacity = without_measuring(&workload);
        let limit = (workload.machine.memory as f64 * workload.machine.memory_share) as u64;
        assert_eq!(capacity.cases.len(), 6);
        for case in &capacity.cases {
            let plan = case.plan.as_ref().unwrap();
            let index = workload.indexes.iter().find(|index| index.name == case.index).unwrap();
            assert!(plan.shard.serving <= limit && plan.shard_rows * u64::from(plan.shards) >= case.rows);
            assert!(fits(&workload, index, plan.shard_rows), "{case:?}");
            if plan.shards > 1 {
                assert!(!fits(&workload, index, shard_rows(case.rows, plan.shards - 1)), "{case:?}");
            }
            // At least the vectors of a graph, whatever else.
            if case.kind == "hnsw" {
                assert!(plan.published_bytes >= case.rows * 4 * 1536);
            }
            assert_eq!(plan.machines, 2 * u64::from(plan.shards));
            assert!(plan.build_seconds.is_none() && plan.search.is_none() && plan.cost.is_none());
        }
        let shards: Vec<u32> = capacity.cases.iter().map(|case| case.plan.as_ref().unwrap().shards).collect();
        assert_eq!(&shards[..2], [1, 1]);
        assert!(shards[4] > shards[2] && shards[5] < shards[4], "codes take less than vectors: {shards:?}");
    }

    #[test]
    fn a_row_that_fits_no_machine_has_no_plan() {
        let mut small = workload("4_000_000_000_000", BOTH);
        small.machine.memory = 1 << 28;
        assert!(without_measuring(&small).cases.iter().all(|case| case.plan.is_none()));
    }

    #[test]
    fn money_is_the_sum_of_what_was_asked_for() {
        let workload = workload("1_000", BOTH);
        let prices = Prices {
            currency: "coins".into(),
            core_hour: 1.0,
            memory_gib_hour: 0.5,
            disk_gib_month: 2.0,
            store_gib_month: 3.0,
        };
        let size = index_size(&workload.job(&workload.indexes[0]), &shape(&workload, 1_000));
        let size = IndexSize { published: 1 << 30, ..size };
        let cost = cost(&workload, &prices, (6, 3), (&size, 3 << 30, 7200.0));
        // 16 cores and 64 GiB: 48 an hour.
        assert_eq!(cost.machines, 6.0 * 730.5 * 48.0);
        assert_eq!((cost.disk, cost.store), (12.0, 2.0 * 3.0 * 3.0));
        assert_eq!(cost.builds, 3.0 * 2.0 * 48.0);
        assert_eq!(cost.total, cost.machines + cost.disk + cost.store + cost.builds);
    }
}
