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
use annvil::compute::Compute;
use annvil::compute::cpu::Cpu;
use annvil::compute::gpu::{Gpu, GpuOptions, adapters};
use annvil::job::{
    self, BuildSummary, CancelToken, Event, JobSpec, Level, Outcome, Progress, Renderer, or_cpu,
};
use annvil::store::IndexStore;
use annvil::vectors::Metric;

/// Recall@10 of two builds of the same arithmetic at one setting: 4 of the 2,000 neighbours of 200 queries.
const RECALL_APART: f64 = 0.002;
/// Inertia of two trainings, of the larger.
const INERTIA_APART: f64 = 0.001;

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

    /// The graph is `other`'s, bit by bit, and so is all that was read; the lists find what `other`'s find, and are trained
    /// as well.
    #[track_caller]
    fn assert_builds_what(&self, other: &Finished, case: &str) {
        let files = |manifest: &Manifest| -> Vec<(String, String)> {
            let files = manifest.segments[0].files.iter();
            files.map(|file| (file.name.clone(), file.blake3.to_string())).collect()
        };
        assert_eq!(files(&self.hnsw), files(&other.hnsw), "{case}");
        assert!(!files(&self.hnsw).is_empty());
        for (ours, theirs) in [(&self.hnsw, &other.hnsw), (&self.ivf, &other.ivf)] {
            let name = format!("{case}, {}", ours.index_name);
            let allowed = if ours.index_name == "hnsw" { 0.0 } else { RECALL_APART };
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
        LazyLock::new(|| Job::new(Metric::Cosine, 25_000).run_on(&Cpu::new(), &Progress::silent()));
    &FINISHED
}

#[test]
fn a_gpu_builds_what_the_cpu_builds() {
    let Some(on_gpu) = words_on_the_gpu() else { return };
    on_gpu.assert_builds_what(words_on_the_cpu(), "cosine");
    assert_eq!((on_gpu.hnsw.build.backend.backend.as_str(), on_gpu.hnsw.build.rows), ("gpu", 2465));
}

#[test]
fn a_gpu_builds_what_the_cpu_builds_for_the_other_metrics() {
    let Some(gpu) = open(options()) else { return };
    for metric in [Metric::L2, Metric::InnerProduct] {
        let job = || Job::new(metric, 9_000);
        let on_gpu = job().run_on(&gpu, &Progress::silent());
        let on_cpu = job().run_on(&Cpu::new(), &Progress::silent());
        on_gpu.assert_builds_what(&on_cpu, metric.name());
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
fn a_budget_that_rows_do_not_fit_is_kept_and_changes_no_byte() {
    let budget = 300 << 10;
    let Some(gpu) = open(GpuOptions { memory_budget: Some(budget), ..options() }) else { return };
    let on_cpu = Job::new(Metric::L2, 9_000).run_on(&Cpu::new(), &Progress::silent());
    let in_little = Job::new(Metric::L2, 9_000).run_on(&gpu, &Progress::silent());
    in_little.assert_builds_what(&on_cpu, "in 300 KiB");
    let transfers = gpu.transfers();
    assert!(transfers.peak_memory_bytes <= budget, "{transfers:?}");
    let roomy = open(options()).unwrap();
    let in_plenty = Job::new(Metric::L2, 9_000).run_on(&roomy, &Progress::silent());
    assert_eq!(in_little.digests(), in_plenty.digests());
    assert!(transfers.uploaded_bytes > roomy.transfers().uploaded_bytes, "nothing was streamed");
}

#[test]
fn a_budget_far_too_small_is_an_error_that_names_it_or_a_warning_and_the_cpu() {
    let Some(gpu) = open(GpuOptions { memory_budget: Some(64 << 10), ..options() }) else { return };
    let job = Job::new(Metric::Cosine, 4_000);
    let text = job.text("gpu").replace("seed = 11", "seed = 11\ngpu_memory_budget = \"64KiB\"");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("words.toml");
    let spec = JobSpec::parse(&text, path).unwrap();
    assert_eq!(spec.gpu_memory_budget, Some(64 << 10));
    let error = job::run(&spec, &Progress::silent()).unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(error.to_string().contains("GPU memory: "), "{error}");
    assert!(error.to_string().contains("65536 are allowed"), "{error}");

    let listener = Listener::default();
    let progress = Progress::new(listener.clone(), CancelToken::new());
    let finished = Job::new(Metric::Cosine, 4_000).run_on(&or_cpu(gpu, &progress), &progress);
    let heard = listener.0.lock().unwrap();
    let of_the_gpu: Vec<_> = heard.iter().filter(|text| text.contains("GPU")).collect();
    assert!(matches!(&of_the_gpu[..], [one] if one.starts_with("the GPU failed (GPU memory: ")), "{heard:?}");
    assert!(finished.ivf.build.backend.device.contains(", which failed; then cpu ("));
}

/// Hears warnings.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<String>>>);

impl Renderer for Listener {
    fn interval(&self) -> Duration {
        Duration::MAX
    }

    fn render(&self, event: Event<'_>, _: Duration) {
        if let Event::Note { level: Level::Warning, text } = event {
            self.0.lock().unwrap().push(text.into());
        }
    }
}

#[test]
fn what_the_device_did_stands_in_the_manifest_and_in_the_trace() {
    if open(options()).is_none() {
        return;
    }
    let job = Job::new(Metric::Cosine, 4_000);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = job.text("gpu").replace("'datasets", &format!("'{}/datasets", root.display()));
    let folder = tempfile::tempdir().unwrap();
    let (path, trace) = (folder.path().join("words.toml"), folder.path().join("words.trace.json"));
    std::fs::write(&path, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_annvil"))
        .args([Path::new("build"), &path, Path::new("--trace"), &trace])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("on the device") && shown.contains("byte_neighbors"), "{shown}");

    let artifact = IndexStore::named(job.folder.path().to_str().unwrap(), "hnsw").unwrap();
    let artifact = artifact.artifact(None).unwrap();
    let stage = artifact.manifest().build.stages.iter().find(|stage| stage.name == "build hnsw").unwrap();
    let device = stage.device.as_ref().unwrap();
    assert!(device.uploaded_bytes > 0 && device.downloaded_bytes > 0, "{device:?}");

    let events: serde_json::Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    let named = |name: &str| events.as_array().unwrap().iter().filter(|event| event["name"] == name).count();
    assert!(named("hnsw: leaves") > 0, "{events}");
    for kernel in &device.kernels {
        assert!(kernel.gflops.is_finite() && kernel.gb_per_s > 0.0, "{kernel:?}");
        assert!(named(&kernel.name) as u64 >= kernel.runs, "{kernel:?}");
    }
}

#[test]
fn auto_never_builds_on_a_cpu_that_poses_as_a_gpu() {
    let job = Job::new(Metric::Cosine, 4_000);
    let finished = Finished::of(job::run(&job.spec("auto"), &Progress::silent()).unwrap(), job.folder);
    let hardware = adapters().iter().any(|adapter| !adapter.software);
    let backend = &finished.summary.backend;
    assert!(backend.starts_with("cpu (") || (hardware && backend.starts_with("gpu (")), "{backend}");
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
        finished.assert_builds_what(&on_cpu, stage);
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
