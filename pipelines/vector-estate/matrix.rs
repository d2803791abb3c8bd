//! The matrix that vector-estate chooses from: kinds of index × precision × metric, each built by a job like any other and told by
//! what its certificate measured.

use std::path::Path;

use annvil::job::{self, BuildSummary, BuiltIndex, JobSpec, Outcome, Progress};
use annvil::vectors::Metric;

/// A line of the matrix.
pub struct Line {
    /// As vector-estate calls it, …
    pub name: &'static str,
    /// … what a search compares, …
    pub precision: &'static str,
    /// … and the keys of `[[index]]` beside name and metric. `{dim/4}` and the like stand for the dimension divided; `{nlist}` for what
    /// vector-estate asks of so many rows.
    keys: &'static str,
}

const fn line(name: &'static str, precision: &'static str, keys: &'static str) -> Line {
    Line { name, precision, keys }
}

/// What is tried. A new code of an index is a line here.
pub const LINES: &[Line] = &[
    line("flat", "f32", "kind = \"flat\""),
    line("hnsw-f32", "f32", "kind = \"hnsw\"\nm = 48\nef_construction = 500\ncode = \"f32\""),
    line("hnsw-int8", "int8", "kind = \"hnsw\"\nm = 48\nef_construction = 500\ncode = \"sq8\""),
    line("hnsw-4bit", "4 bit", "kind = \"hnsw\"\nm = 48\nef_construction = 500\ncode = \"q4\""),
    line("hnsw-1bit", "1 bit", "kind = \"hnsw\"\nm = 48\nef_construction = 500\ncode = \"q1\""),
    line("ivf-flat-f32", "f32", "kind = \"ivf_pq\"\nnlist = {nlist}\ncode = \"flat\"\nrefine = \"f32\""),
    line("ivf-flat-f16", "f16", "kind = \"ivf_pq\"\nnlist = {nlist}\ncode = \"flat\"\nrefine = \"f16\""),
    line("ivf-sq8", "int8", "kind = \"ivf_pq\"\nnlist = {nlist}\ncode = \"sq8\"\nrefine = \"none\""),
    line(
        "ivf-1bit",
        "1 bit, ranked by f16",
        "kind = \"ivf_pq\"\nnlist = {nlist}\ncode = \"rabitq\"\nrabitq_bits = 1\nrefine = \"f16\"",
    ),
    line("ivf-pq-f32", "4 bit, ranked by f32", "kind = \"ivf_pq\"\nnlist = {nlist}\nrefine = \"f32\""),
    line("ivf-pq-f16", "4 bit, ranked by f16", "kind = \"ivf_pq\"\nnlist = {nlist}\nrefine = \"f16\""),
    line(
        "ivf-pq-half",
        "8 bit codes, a byte for 2 dims",
        "kind = \"ivf_pq\"\nnlist = {nlist}\npq_bits = 8\npq_m = {dim/2}\nrefine = \"none\"",
    ),
    line(
        "ivf-pq-quarter",
        "8 bit codes, a byte for 4 dims",
        "kind = \"ivf_pq\"\nnlist = {nlist}\npq_bits = 8\npq_m = {dim/4}\nrefine = \"none\"",
    ),
];

/// Thresholds that vector-estate is alerted by; `../deploy/alerts.yaml` has them for Prometheus.
pub const MOST_P95_MS: f64 = 100.0;
pub const LEAST_RECALL: f64 = 0.85;

/// What was measured of a line under a metric.
pub struct Cell {
    pub metric: Metric,
    pub name: &'static str,
    pub precision: &'static str,
    pub recall: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub qps: f64,
    pub bytes_per_row: f64,
    pub build_seconds: f64,
}

impl Cell {
    pub fn alerts(&self) -> String {
        let slow = (self.p95_ms > MOST_P95_MS).then_some("p95");
        let poor = (self.recall < LEAST_RECALL).then_some("recall");
        slow.into_iter().chain(poor).collect::<Vec<_>>().join(" ")
    }
}

/// 16,384 lists, as asked for, from a million rows on, and before as many as suit the rows.
fn nlist(rows: u64) -> u64 {
    if rows >= 1_000_000 { 16_384 } else { (4.0 * (rows as f64).sqrt()) as u64 }
}

/// The job of one metric over `data` (columns `id` and `embedding`), published in `folder/out`.
pub fn job(folder: &Path, data: &Path, (rows, dim): (u64, usize), metric: Metric) -> String {
    let mut text = format!(
        "name = \"estate-{metric}\"\nresume = false\n[source]\nuri = {data:?}\nvector = \"embedding\"\nid = \"id\"\n[queries]\n\
         sample = {}\n[output]\nuri = {:?}\n",
        (rows / 10).min(1000),
        folder.join("out")
    );
    for line in LINES {
        let mut keys = line.keys.replace("{nlist}", &nlist(rows).to_string());
        for part in [2, 4] {
            keys = keys.replace(&format!("{{dim/{part}}}"), &(dim.next_multiple_of(4) / part).to_string());
        }
        text += &format!("[[index]]\nname = \"{}-{metric}\"\nmetric = \"{metric}\"\n{keys}\n", line.name);
    }
    text
}

/// Builds and measures all lines under one metric.
pub fn run(
    folder: &Path,
    data: &Path,
    shape: (u64, usize),
    metric: Metric,
) -> Result<Vec<Cell>, Box<dyn std::error::Error>> {
    let spec = JobSpec::parse(&job(folder, data, shape, metric), folder.join("estate.toml"))?;
    let summary = job::run(&spec, &Progress::silent())?;
    let rows = summary.rows.kept as f64;
    let cell = |(line, index): (&Line, &BuiltIndex)| cell(line, index, &summary, (metric, rows));
    LINES.iter().zip(&summary.indexes).map(cell).collect()
}

fn cell(
    line: &Line,
    index: &BuiltIndex,
    summary: &BuildSummary,
    (metric, rows): (Metric, f64),
) -> Result<Cell, Box<dyn std::error::Error>> {
    let Outcome::Published { size_bytes, .. } = index.outcome else {
        return Err(format!("{} was not published", index.name).into());
    };
    let point = index.certificate.chosen_point().ok_or("a certificate has its setting")?;
    let recall = point.recall.iter().find(|recall| recall.k == 10).ok_or("recall@10 is measured")?;
    let stage = format!("build {}", index.name);
    let built = summary.stages.iter().find(|one| one.name == stage).map_or(0.0, |one| one.wall_ms);
    Ok(Cell {
        metric,
        name: line.name,
        precision: line.precision,
        recall: recall.mean,
        p50_ms: point.latency_us.p50 * 1e-3,
        p95_ms: point.latency_us.p95 * 1e-3,
        qps: point.qps,
        bytes_per_row: size_bytes as f64 / rows,
        build_seconds: built * 1e-3,
    })
}

/// As Markdown.
pub fn table(cells: &[Cell]) -> String {
    let mut text = String::from(
        "| metric | index | compares | recall@10 | p50 ms | p95 ms | queries/s | bytes/row | build s | alerts |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for cell in cells {
        text += &format!(
            "| {} | {} | {} | {:.4} | {:.3} | {:.3} | {:.0} | {:.0} | {:.2} | {} |\n",
            cell.metric,
            cell.name,
            cell.precision,
            cell.recall,
            cell.p50_ms,
            cell.p95_ms,
            cell.qps,
            cell.bytes_per_row,
            cell.build_seconds,
            cell.alerts()
        );
    }
    text
}
