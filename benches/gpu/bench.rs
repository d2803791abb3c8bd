//! What builds are made of, measured on a GPU: products, a pass of k-means, whole builds. One line of JSON for each, for
//! `table.py`; `benches/gpu/run` says how.
//!
//!     cargo run --release --example gpu -- products=1024x1000000x1536 kmeans=10000000x128x4096 ivf=5000000x1536 hnsw=5000000x1536
//!
//! Rows are drawn from `dataset::Law` on the host; drawing them is not measured, bringing them to the device is.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use annvil::compute::cpu::Cpu;
use annvil::compute::gpu::{Gpu, GpuOptions, Variant};
use annvil::compute::{Compute, DeviceWork};
use annvil::dataset::Law;
use annvil::hnsw::{self, HnswParams};
use annvil::index::{SearchIndex, SearchParams};
use annvil::ivf::{self, IvfPqParams, Loss, Refine};
use annvil::job::cpu_time;
use annvil::report::GroundTruth;
use annvil::train::unobserved;
use annvil::vectors::{Metric, VectorBuf, VectorView};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str =
    "usage: gpu [software] [products=QUERIESxROWSxDIM] [kmeans=ROWSxDIMxK] [ivf=ROWSxDIM] [hnsw=ROWSxDIM]...";
const SEED: u64 = 42;
/// Neighbours of `top_k`.
const K: usize = 100;
/// Runs of what is short, of which the fastest counts.
const RUNS: usize = 5;
/// Queries that an index's recall is measured with, and what it should reach.
const QUERIES: usize = 1000;
const RECALL: f64 = 0.95;
/// Where the law's rows that are asked for and not indexed begin.
const FIRST_QUERY: u64 = 1 << 48;

fn main() -> Result<()> {
    let mut options = GpuOptions::default();
    let mut asked = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            None if argument == "software" => options.allow_software = true,
            Some((what, shape)) => {
                let shape: std::result::Result<Vec<usize>, _> = shape.split('x').map(str::parse).collect();
                asked.push((what.to_owned(), shape.map_err(|_| USAGE)?));
            }
            None => return Err(USAGE.into()),
        }
    }
    let gpu = Gpu::new(options.clone())?;
    say(json!({
        "what": "device", "adapter": gpu.adapter(), "variant": gpu.variant(), "cpu": Cpu::new().info().to_string(),
        "threads": rayon::current_num_threads(), "version": env!("CARGO_PKG_VERSION"),
    }));
    for (what, shape) in &asked {
        match (what.as_str(), shape.as_slice()) {
            ("products", &[queries, rows, dim]) => products(&gpu, &options, queries, rows, dim)?,
            ("kmeans", &[rows, dim, k]) => kmeans(&gpu, rows, dim, k)?,
            ("ivf", &[rows, dim]) => build_ivf(&gpu, rows, dim)?,
            ("hnsw", &[rows, dim]) => build_hnsw(&gpu, rows, dim)?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(())
}

fn say(line: Value) {
    println!("{line}");
}

/// What one run took, by the wall, by the host's processors and by the device's clock.
struct Measured {
    wall_s: f64,
    cpu_s: f64,
    work: DeviceWork,
}

fn measure<T>(compute: &dyn Compute, run: impl FnOnce() -> Result<T>) -> Result<(T, Measured)> {
    drop(compute.take_device_work());
    let (wall, cpu) = (Instant::now(), cpu_time().unwrap_or_default());
    let value = run()?;
    let wall_s = wall.elapsed().as_secs_f64();
    let cpu_s = cpu_time().unwrap_or_default().saturating_sub(cpu).as_secs_f64();
    Ok((value, Measured { wall_s, cpu_s, work: compute.take_device_work() }))
}

impl Measured {
    fn kernels_s(&self) -> f64 {
        self.work.runs.iter().map(|run| run.took.as_secs_f64()).sum()
    }

    /// Wall time in which no kernel ran: transfers that were not hidden, and the host.
    fn line(&self, what: &str, shape: &str) -> Value {
        let mut kernels = std::collections::BTreeMap::<&str, (f64, f64)>::new();
        for run in &self.work.runs {
            let (seconds, flops) = kernels.entry(run.kernel).or_default();
            *seconds += run.took.as_secs_f64();
            *flops += run.flops;
        }
        json!({
            "what": what,
            "shape": shape,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "cpu_share": self.cpu_s / self.wall_s / rayon::current_num_threads() as f64,
            "kernels_s": self.kernels_s(),
            "kernels": kernels,
            "uploaded_bytes": self.work.uploaded_bytes,
            "downloaded_bytes": self.work.downloaded_bytes,
        })
    }
}

/// The fastest of a few runs, after one that compiles shaders and brings rows to the device.
fn fastest(compute: &dyn Compute, mut run: impl FnMut() -> Result<()>) -> Result<Measured> {
    run()?;
    let mut best: Option<Measured> = None;
    for _ in 0..RUNS {
        let (_, measured) = measure(compute, &mut run)?;
        if best.as_ref().is_none_or(|best| measured.wall_s < best.wall_s) {
            best = Some(measured);
        }
    }
    best.ok_or_else(|| "no runs".into())
}

/// Exact top-k by each kind of product that the adapter has; the first is the definition of the others.
fn products(gpu: &Gpu, options: &GpuOptions, queries: usize, rows: usize, dim: usize) -> Result<()> {
    let law = Law::new(dim, SEED);
    let (rows, queries) = (law.rows(0, rows), law.rows(FIRST_QUERY, queries));
    let mut expected = None;
    for variant in Variant::ALL.into_iter().filter(|&variant| variant <= gpu.variant()) {
        let gpu = Gpu::new(GpuOptions { variant: Some(variant), ..options.clone() })?;
        let held = gpu.upload(rows.view())?;
        let mut found = None;
        let measured = fastest(&gpu, || {
            found = Some(gpu.top_k(queries.view(), &held, Metric::L2, K)?);
            Ok(())
        })?;
        let is_same = expected.is_none() || expected == found;
        expected = expected.or(found);
        let shape = format!("{} × {} × {dim}, k {K}", queries.rows(), rows.rows());
        let mut line = measured.line("products", &shape);
        line["variant"] = json!(variant);
        line["flops"] = json!(2.0 * queries.rows() as f64 * rows.rows() as f64 * dim as f64);
        line["same_as_f32"] = json!(is_same);
        say(line);
    }
    Ok(())
}

/// One pass of Lloyd's algorithm as training runs it: the nearest centroid of each row, then the sums.
fn kmeans(gpu: &Gpu, rows: usize, dim: usize, k: usize) -> Result<()> {
    let rows = Law::new(dim, SEED).rows(0, rows);
    let centroids = rows.view().slice(0, k.min(rows.rows()));
    let held = gpu.upload(rows.view())?;
    let measured = fastest(gpu, || {
        let nearest = gpu.assign_coarse(&held, centroids)?;
        let labels: Vec<u32> = nearest.iter().map(|nearest| nearest.ordinal).collect();
        gpu.centroid_sums(&held, &labels, centroids.rows())?;
        Ok(())
    })?;
    let mut line = measured.line("kmeans", &format!("{} × {dim}, k {k}", rows.rows()));
    line["flops"] = json!(2.0 * (rows.rows() * k) as f64 * dim as f64);
    say(line);
    Ok(())
}

/// Training, assignment, codes.
fn build_ivf(gpu: &Gpu, rows: usize, dim: usize) -> Result<()> {
    let rows = Law::new(dim, SEED).rows(0, rows);
    // Codes by their distance: those by their score are chosen on the CPU.
    let defaults = IvfPqParams::defaults_for(rows.rows(), dim);
    let params = IvfPqParams { refine: Refine::None, loss: Loss::Squared, ..defaults };
    let (_, measured) =
        measure(gpu, || Ok(ivf::build(gpu, rows.view(), Metric::Cosine, &params, SEED, &unobserved)?))?;
    let shape = format!("{} × {dim}, nlist {}, pq_m {}", rows.rows(), params.nlist, params.pq_m);
    let mut line = measured.line("ivf", &shape);
    line["rows_per_s"] = json!(rows.rows() as f64 / measured.wall_s);
    say(line);
    Ok(())
}

fn build_hnsw(gpu: &Gpu, count: usize, dim: usize) -> Result<()> {
    let law = Law::new(dim, SEED);
    let (rows, queries) = (law.rows(0, count), law.rows(FIRST_QUERY, QUERIES));
    let truth = GroundTruth::compute(gpu, queries.view(), rows.view(), Metric::Cosine, 10)?;
    let params = HnswParams::new(16, 200);
    let (built, measured) =
        measure(gpu, || Ok(hnsw::build(gpu, rows, Metric::Cosine, &params, SEED, &unobserved)?))?;
    let index: Arc<dyn SearchIndex> = Arc::new(built.index);
    let (effort, recall) = first_at_recall(&index, &built.order, &queries, &truth);
    let mut line = measured.line("hnsw", &format!("{count} × {dim}, m 16, ef_construction 200"));
    line["rows_per_s"] = json!(count as f64 / measured.wall_s);
    line["recall_at_10"] = json!(recall);
    line["ef_search"] = json!(effort);
    say(line);
    Ok(())
}

/// The least effort of the index's ladder that reaches the recall, or its last, and what it reaches.
fn first_at_recall(
    index: &Arc<dyn SearchIndex>,
    order: &[u32],
    queries: &VectorBuf,
    truth: &GroundTruth,
) -> (usize, f64) {
    let mut reached = (0, 0.0);
    for params in index.ladder(10) {
        reached = (params.effort, recall(index, order, queries.view(), truth, &params));
        if reached.1 >= RECALL {
            break;
        }
    }
    reached
}

fn recall(
    index: &Arc<dyn SearchIndex>,
    order: &[u32],
    queries: VectorView<'_>,
    truth: &GroundTruth,
    params: &SearchParams,
) -> f64 {
    let mut total = 0.0;
    let kept = index.kept();
    index.clone().searcher().search_batch(queries, params, &mut |query, found| {
        let rows: Vec<u32> = found.iter().map(|found| order[found.ordinal as usize]).collect();
        let distance = |row: u32| {
            let ordinal = found.iter().find(|found| order[found.ordinal as usize] == row);
            let vector = ordinal.zip(kept).map(|(found, kept)| kept.vector(found.ordinal));
            vector.map_or(f32::INFINITY, |vector| Metric::Cosine.distance(queries.row(query), &vector) as f32)
        };
        total += truth.recall(query, &rows, 10, distance);
    });
    total / queries.rows() as f64
}
