//! Whole jobs on the GPU backend beside the same jobs on the CPU: rows in Parquet, a published index out. A software
//! adapter will do: see `adapter`.
#![cfg(all(feature = "cli", feature = "gpu", feature = "polars"))]

mod adapter;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use adapter::{open, options};
use annvil::artifact::{CertificatePoint, Manifest};
use annvil::compute::cpu::Cpu;
use annvil::compute::gpu::{Gpu, adapters};
use annvil::compute::{BackendInfo, CentroidSums, CodebookView, Compute, Leaves, ResidualOf, Result, Rows};
use annvil::job::{
    self, BuildSummary, CancelToken, Event, JobSpec, Level, Outcome, Progress, Renderer, or_cpu,
};
use annvil::store::IndexStore;
use annvil::vectors::{Metric, Neighbor, Neighbors, VectorView};

/// Recall@10 of two builds of the same arithmetic at one setting: 4 of the 2,000 neighbours of 200 queries.
const RECALL_APART: f64 = 0.002;
/// Of two graphs as good as each other, one of them found by bytes in part: two standard errors of what differs by chance.
const GRAPHS_APART: f64 = 0.01;
/// Inertia of two trainings, of the larger.
const INERTIA_APART: f64 = 0.001;

/// The CPU without the short cuts that it takes in bytes and with shortlists: the arithmetic of the GPU.
struct PlainCpu(Cpu);

impl Compute for PlainCpu {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }

    fn upload<'a>(&self, rows: VectorView<'a>) -> Result<Rows<'a>> {
        self.0.upload(rows)
    }

    fn assign(&self, rows: &Rows<'_>, centroids: VectorView<'_>, metric: Metric) -> Result<Vec<Neighbor>> {
        self.0.assign(rows, centroids, metric)
    }

    fn centroid_sums(&self, rows: &Rows<'_>, labels: &[u32], nlist: usize) -> Result<CentroidSums> {
        self.0.centroid_sums(rows, labels, nlist)
    }

    fn pq_encode(
        &self,
        rows: &Rows<'_>,
        residual_of: Option<ResidualOf<'_>>,
        codebook: CodebookView<'_>,
    ) -> Result<Vec<u8>> {
        self.0.pq_encode(rows, residual_of, codebook)
    }

    fn top_k(&self, queries: VectorView<'_>, rows: &Rows<'_>, metric: Metric, k: usize) -> Result<Neighbors> {
        self.0.top_k(queries, rows, metric, k)
    }

    fn leaf_top_k(&self, rows: &Rows<'_>, leaves: &Leaves, metric: Metric, k: usize) -> Result<Neighbors> {
        self.0.leaf_top_k(rows, leaves, metric, k)
    }
}

/// Both families over the words of `datasets/glove10k` below a rank: of 25,000, a quarter of them.
struct Job {
    folder: tempfile::TempDir,
    metric: Metric,
    rank_below: usize,
    threads: usize,
}

impl Job {
    fn new(metric: Metric, rank_below: usize) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), metric, rank_below, threads: 2 }
    }

    fn text(&self, backend: &str) -> String {
        let Self { folder, metric, rank_below, threads } = self;
        let out = folder.path().display();
        format!(
            r#"
name = "words"
seed = 11
threads = {threads}
backend = "{backend}"
source = {{ uri = 'datasets/glove10k/base.parquet', vector = "embedding", id = "id", where = "rank < {rank_below}" }}
queries = {{ uri = 'datasets/glove10k/queries.parquet', vector = "embedding" }}
output = {{ uri = '{out}' }}

[[index]]
name = "hnsw"
kind = "hnsw"
metric = "{metric}"

[[index]]
name = "ivf"
kind = "ivf_pq"
metric = "{metric}"
pq_m = 50
"#
        )
    }

    fn spec(&self, backend: &str) -> JobSpec {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("words.toml");
        JobSpec::parse(&self.text(backend), path).unwrap_or_else(|error| panic!("{error}"))
    }

    fn run_on(self, compute: &dyn Compute, progress: &Progress) -> Finished {
        let summary = job::run_on(compute, &self.spec("reference"), progress).unwrap();
        Finished::of(summary, self.folder)
    }
}

/// A job that is done, and what it published.
struct Finished {
    summary: BuildSummary,
    hnsw: Manifest,
    ivf: Manifest,
    _folder: tempfile::TempDir,
}

impl Finished {
    fn of(summary: BuildSummary, folder: tempfile::TempDir) -> Self {
        let published = |name: &str| {
            let artifact =
                IndexStore::named(folder.path().to_str().unwrap(), name).unwrap().artifact(None).unwrap();
            let report = artifact.verify(&mut |_| ());
            assert!(report.is_sound(), "{name}: {:?}", report.damage);
            artifact.manifest().clone()
        };
        let (hnsw, ivf) = (published("hnsw"), published("ivf"));
        Self { summary, hnsw, ivf, _folder: folder }
    }

    /// The segments' ids are digests of their files' digests; these say which file differs.
    fn digests(&self) -> Vec<(String, String)> {
        let files = [&self.hnsw, &self.ivf].into_iter().flat_map(|manifest| &manifest.segments[0].files);
        files.map(|file| (file.name.clone(), file.blake3.to_string())).collect()
    }

    /// Every index finds what `other`'s finds, and is trained as well.
    #[track_caller]
    fn assert_as_good_as(&self, other: &Finished, graphs_apart: f64, case: &str) {
        for (ours, theirs) in [(&self.hnsw, &other.hnsw), (&self.ivf, &other.ivf)] {
            let name = format!("{case}, {}", ours.index_name);
            let allowed = if ours.index_name == "hnsw" { graphs_apart } else { RECALL_APART };
            let (ours, theirs) = (ours.build.certificate.as_ref(), theirs.build.certificate.as_ref());
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            let mut compared = 0;
            for point in &ours.points {
                let same =
                    |other: &&CertificatePoint| (other.effort, other.refine) == (point.effort, point.refine);
                let Some(other) = theirs.points.iter().find(same) else { continue };
                let apart = (recall_at_10(point) - recall_at_10(other)).abs();
                assert!(
                    apart <= allowed + 1e-9,
                    "{name}, effort {}: recall@10 {} and {}",
                    point.effort,
                    recall_at_10(point),
                    recall_at_10(other),
                );
                compared += 1;
            }
            assert!(compared >= 3, "{name}: {compared} settings in common");
            let best = ours.points.iter().map(recall_at_10).fold(0.0, f64::max);
            assert!(best >= 0.95, "{name}: recall@10 {best} at best");
        }
        for (ours, theirs) in self.ivf.build.training.iter().zip(&other.ivf.build.training) {
            let (ours_last, theirs_last) = (*ours.loss.last().unwrap(), *theirs.loss.last().unwrap());
            assert!(
                (ours_last - theirs_last).abs() <= INERTIA_APART * ours_last.max(theirs_last),
                "{case}, {}: inertia {ours_last} and {theirs_last}",
                ours.name
            );
        }
        assert_eq!(self.ivf.build.training.len(), 2, "centroids and codebooks");
    }
}

fn recall_at_10(point: &CertificatePoint) -> f64 {
    point.recall.iter().find(|recall| recall.k == 10).expect("recall@10 is always measured").mean
}

/// The words of rank below 25,000, on one device that the tests share.
fn words_on_the_gpu() -> Option<&'static Finished> {
    static FINISHED: LazyLock<Option<Finished>> = LazyLock::new(|| {
        let gpu = open(options())?;
        Some(Job::new(Metric::Cosine, 25_000).run_on(&gpu, &Progress::silent()))
    });
    FINISHED.as_ref()
}

fn words_on_the_cpu() -> &'static Finished {
    static FINISHED: LazyLock<Finished> =
        LazyLock::new(|| Job::new(Metric::Cosine, 25_000).run_on(&PlainCpu(Cpu::new()), &Progress::silent()));
    &FINISHED
}

#[test]
fn a_gpu_builds_what_the_cpu_builds() {
    let Some(on_gpu) = words_on_the_gpu() else { return };
    on_gpu.assert_as_good_as(words_on_the_cpu(), RECALL_APART, "cosine");
    assert_eq!((on_gpu.hnsw.build.backend.backend.as_str(), on_gpu.hnsw.build.rows), ("gpu", 2465));
}

#[test]
fn a_gpu_builds_what_the_cpu_builds_for_the_other_metrics() {
    let Some(gpu) = open(options()) else { return };
    for metric in [Metric::L2, Metric::InnerProduct] {
        let job = || Job::new(metric, 9_000);
        let on_gpu = job().run_on(&gpu, &Progress::silent());
        let on_cpu = job().run_on(&PlainCpu(Cpu::new()), &Progress::silent());
        on_gpu.assert_as_good_as(&on_cpu, RECALL_APART, metric.name());
    }
}

#[test]
fn two_builds_on_a_gpu_have_the_same_bytes_whatever_the_threads() {
    let (Some(first), Some(gpu)) = (words_on_the_gpu(), open(options())) else { return };
    let again = Job { threads: 1, ..Job::new(Metric::Cosine, 25_000) };
    let again = again.run_on(&gpu, &Progress::silent());
    assert_eq!(again.digests(), first.digests());
    assert_eq!(again.hnsw.segments[0].id, first.hnsw.segments[0].id);
    assert_eq!(again.ivf.segments[0].id, first.ivf.segments[0].id);
}

#[test]
fn auto_never_builds_on_a_cpu_that_poses_as_a_gpu() {
    let job = Job::new(Metric::Cosine, 4_000);
    let finished = Finished::of(job::run(&job.spec("auto"), &Progress::silent()).unwrap(), job.folder);
    let hardware = adapters().iter().any(|adapter| !adapter.software);
    let expected = if hardware { "gpu (" } else { "cpu (" };
    assert!(finished.summary.backend.starts_with(expected), "{}", finished.summary.backend);
    for adapter in adapters().iter().filter(|adapter| adapter.software) {
        assert!(!finished.summary.backend.contains(&adapter.name), "{}", finished.summary.backend);
    }
}

#[test]
fn doctor_tells_what_auto_chooses_and_why() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_annvil")).args(["doctor", "--no-speed", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<String> = adapters().into_iter().map(|adapter| adapter.name).collect();
    let told_names = told["gpu"]["adapters"].as_array().unwrap().iter().map(|adapter| &adapter["name"]);
    assert!(told_names.eq(&names), "{told}");
    let job::Chosen { compute, because } = job::automatic(&Progress::silent());
    assert_eq!(told["auto"]["backend"], compute.info().backend);
    assert_eq!(told["auto"]["device"], compute.info().device);
    assert_eq!(told["auto"]["because"], because);
}

/// Takes the device away when a stage begins, and hears what the job says of it.
struct Saboteur {
    gpu: Arc<Gpu>,
    stage: &'static str,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Renderer for Saboteur {
    fn interval(&self) -> Duration {
        Duration::MAX
    }

    fn render(&self, event: Event<'_>, _: Duration) {
        match event {
            Event::StageStarted(stage) if stage.name == self.stage => self.gpu.destroy(),
            Event::Note { level: Level::Warning, text } => self.heard.lock().unwrap().push(text.into()),
            _ => {}
        }
    }
}

#[test]
fn a_gpu_that_dies_between_stages_ends_in_a_finished_build_and_one_warning() {
    let on_cpu = Job::new(Metric::Cosine, 9_000).run_on(&Cpu::new(), &Progress::silent());
    // Before it has done anything, within the graph, within training, and before the last of its work.
    for stage in ["exact neighbours", "hnsw: leaves", "ivf: k-means", "ivf: product quantizer"] {
        let Some(gpu) = open(options()).map(Arc::new) else { return };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let saboteur = Saboteur { gpu: gpu.clone(), stage, heard: heard.clone() };
        let progress = Progress::new(saboteur, CancelToken::new());
        let job = Job::new(Metric::Cosine, 9_000);
        let finished = job.run_on(&or_cpu(gpu, &progress), &progress);

        // So few rows are warned of, too.
        let heard = heard.lock().unwrap();
        let of_the_gpu: Vec<_> = heard.iter().filter(|text| text.contains("GPU")).collect();
        assert!(
            matches!(&of_the_gpu[..], [one] if one.starts_with("the GPU failed (the GPU device was lost")),
            "{stage}: {heard:?}"
        );
        let all_published =
            finished.summary.indexes.iter().all(|index| matches!(index.outcome, Outcome::Published { .. }));
        assert!(all_published, "{stage}: {:?}", finished.summary.indexes);
        let device = &finished.ivf.build.backend.device;
        assert!(device.contains(", which failed; then cpu ("), "{stage}: {device}");
        finished.assert_as_good_as(&on_cpu, GRAPHS_APART, stage);
    }
}

#[test]
fn a_job_that_asks_for_a_gpu_where_there_is_none_exits_with_6_and_publishes_nothing() {
    let job = Job::new(Metric::Cosine, 4_000);
    // Paths of a job file start from its own folder.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = job.text("gpu").replace("'datasets", &format!("'{}/datasets", root.display()));
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("words.toml");
    std::fs::write(&path, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_annvil"))
        .args([Path::new("build"), &path])
        // Built without OpenGL, it has no API left to find an adapter with.
        .env("WGPU_BACKEND", "gl")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("no usable GPU adapter: no Vulkan, Metal or DX12 driver was found"), "{stderr}");
    assert_eq!(std::fs::read_dir(job.folder.path()).unwrap().count(), 0);
}
