//! `annvil doctor`: what this machine has to build with, what a job would choose of it, and what that is worth.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::table::{Align, Table, cell};
use super::{answer, json_line};
use crate::artifact::MANIFEST_FORMAT;
use crate::compute::cpu::{self, Cpu};
use crate::compute::throughput::{self, Operation, Throughput};
use crate::compute::{AdapterSummary, BackendInfo, Compute};
use crate::error::Error;
use crate::job::quantity::{bytes, count};
use crate::job::{Chosen, Progress, automatic};

/// For each operation of each backend: some ten seconds for a machine with a GPU.
const BUDGET: Duration = Duration::from_millis(800);

/// Show GPUs and CPU, what `backend = "auto"` chooses here and why, and how fast each backend is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil doctor
  annvil doctor --no-speed --json | jq '.auto'")]
pub struct DoctorArgs {
    /// Measure nothing, but what `auto` goes by and has not measured before: about ten seconds less
    #[arg(long)]
    no_speed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs, out: &mut dyn Write) -> Result<(), Error> {
    let mut found = Diagnosis::of_this_machine();
    if !args.no_speed {
        found.speed = measured();
    }
    answer(out, &if args.json { json_line(&found)? } else { found.render() })
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Diagnosis {
    version: String,
    git_commit: Option<String>,
    manifest_format: String,
    /// As `linux x86_64`.
    platform: String,
    cpu: Processor,
    gpu: Gpus,
    auto: Automatic,
    /// Empty with `--no-speed`.
    speed: Vec<Speed>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Processor {
    model: Option<String>,
    /// The one that is used.
    instruction_set: String,
    /// All that this CPU and this build have, the best first.
    available: Vec<String>,
    threads: usize,
}

/// What `backend = "auto"` chooses.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Automatic {
    #[serde(flatten)]
    backend: BackendInfo,
    because: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Gpus {
    /// Whether this build has the GPU backend.
    supported: bool,
    adapters: Vec<AdapterSummary>,
}

/// A backend, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Speed {
    #[serde(flatten)]
    backend: BackendInfo,
    software: bool,
    /// What products are made of; none where that is the instruction set's business.
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    operations: Vec<Throughput>,
    /// Why the rest was not measured.
    error: Option<String>,
}

impl Speed {
    fn of(backend: &dyn Compute, software: bool) -> Self {
        let (operations, variant) = (Vec::new(), None);
        let mut speed = Self { backend: backend.info(), software, variant, operations, error: None };
        for operation in Operation::ALL {
            match throughput::measure(backend, operation, BUDGET) {
                Ok(measured) => speed.operations.push(measured),
                Err(error) => {
                    speed.error = Some(format!("{}: {error}", operation.name()));
                    break;
                }
            }
        }
        speed
    }
}

/// All that can compute here. What is measured of a hardware GPU is what `auto` goes by from now on.
#[cfg(feature = "gpu")]
fn measured() -> Vec<Speed> {
    use crate::compute::gpu::{Gpu, GpuOptions};
    use crate::job::{Worth, default_root, machine};
    let host = Speed::of(&Cpu::new(), false);
    let Ok(gpu) = Gpu::new(GpuOptions { allow_software: true, ..GpuOptions::default() }) else {
        return vec![host];
    };
    let software = gpu.adapter().software;
    let mut device = Speed::of(&gpu, software);
    device.variant = Some(gpu.variant().name().into());
    if !software && device.error.is_none() && host.error.is_none() {
        let (device, host) = (device.operations.clone(), host.operations.clone());
        Worth { machine: machine(&gpu), device, host }.keep(&default_root());
    }
    vec![host, device]
}

#[cfg(not(feature = "gpu"))]
fn measured() -> Vec<Speed> {
    vec![Speed::of(&Cpu::new(), false)]
}

#[cfg(feature = "gpu")]
fn gpus() -> Gpus {
    Gpus { supported: true, adapters: crate::compute::gpu::adapters() }
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Gpus {
    Gpus { supported: false, adapters: Vec::new() }
}

impl Diagnosis {
    /// All but the speed.
    fn of_this_machine() -> Self {
        let Chosen { compute, because } = automatic(&Progress::silent());
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git_commit: option_env!("ANNVIL_GIT_COMMIT").map(str::to_string),
            manifest_format: MANIFEST_FORMAT.into(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: Processor {
                model: cpu_model(),
                instruction_set: cpu::kernels().isa.to_string(),
                available: cpu::available().iter().map(|kernels| kernels.isa.to_string()).collect(),
                threads: rayon::current_num_threads(),
            },
            gpu: gpus(),
            auto: Automatic { backend: compute.info(), because },
            speed: Vec::new(),
        }
    }

    fn render(&self) -> String {
        let commit = self.git_commit.as_ref().map_or(String::new(), |commit| format!(" ({commit})"));
        let model = self.cpu.model.as_ref().map_or(String::new(), |model| format!("{model}, "));
        let Processor { instruction_set, threads, .. } = &self.cpu;
        let Automatic { backend, because } = &self.auto;
        let mut text = format!(
            "annvil   {}{commit}, artifact format {}, {}\n\
             cpu      {model}{instruction_set} of {}, {threads} threads\n\
             auto     {backend}: {because}\n",
            self.version,
            self.manifest_format,
            self.platform,
            self.cpu.available.join(", "),
        );
        text += &self.gpu.render();
        if !self.speed.is_empty() {
            text += &render_speed(&self.speed);
        }
        text
    }
}

impl Gpus {
    fn render(&self) -> String {
        if !self.supported {
            return "\nno GPUs: this build has no GPU backend (feature `gpu`)\n".into();
        }
        if self.adapters.is_empty() {
            return "\nno GPUs: no Vulkan, Metal or DX12 driver was found. A GPU needs its vendor's driver and, on \
                    Linux, libvulkan1.\n"
                .into();
        }
        let left = |name| (name, Align::Left);
        let right = |name| (name, Align::Right);
        let mut table = Table::new([
            left("gpu"),
            left("kind"),
            left("api"),
            left("driver"),
            right("binding"),
            right("workgroup"),
            left("offers"),
        ]);
        for adapter in &self.adapters {
            let offers = [
                (adapter.f16, "f16"),
                (adapter.subgroups, "subgroups"),
                (adapter.cooperative_matrix, "matrices"),
            ];
            let offers: Vec<&str> =
                offers.into_iter().filter_map(|(offered, name)| offered.then_some(name)).collect();
            table.row([
                cell(&adapter.name),
                adapter.kind.clone(),
                adapter.api.clone(),
                cell(&adapter.driver),
                bytes(adapter.binding_limit),
                bytes(adapter.workgroup_memory.into()),
                offers.join(" "),
            ]);
        }
        let software = if self.adapters.iter().any(|adapter| adapter.software) {
            "A software adapter is a CPU posing as a GPU. It is for correctness only: `auto` never chooses it, and \
             the cpu backend is faster.\n"
        } else {
            ""
        };
        format!("\n{}{software}", table.render(""))
    }
}

fn render_speed(speed: &[Speed]) -> String {
    let left = |name| (name, Align::Left);
    let right = |name| (name, Align::Right);
    let mut table = Table::new([
        left("speed"),
        left("operation"),
        left("products"),
        left("rows, and what beside"),
        right(""),
    ]);
    let mut errors = String::new();
    for measured in speed {
        let software = if measured.software { ", software" } else { "" };
        let name = format!("{}{software}", measured.backend.backend);
        for throughput in &measured.operations {
            table.row([
                name.clone(),
                throughput.operation.name().into(),
                products(throughput.operation, measured.variant.as_deref()),
                throughput.shape.clone(),
                rate(throughput),
            ]);
        }
        if let Some(error) = &measured.error {
            errors += &format!("{name} failed: {error}\n");
        }
    }
    format!("\n{}{errors}", table.render(""))
}

/// What an operation's products are made of on a device: halves only rank, and where they may not, it is f32.
fn products(operation: Operation, variant: Option<&str>) -> String {
    match (operation, variant) {
        (_, None) => "",
        (Operation::AssignCoarse | Operation::TopK, Some(variant)) => variant,
        (Operation::LeafCandidates, Some(_)) => "bytes",
        (Operation::Assign | Operation::LeafTopK | Operation::PqEncode, Some(_)) => "f32",
    }
    .into()
}

/// Products are compared by their arithmetic, codes by rows.
fn rate(measured: &Throughput) -> String {
    match measured.operation {
        Operation::PqEncode => {
            format!("{} rows/s", count(measured.rows_per_second.round() as u64))
        }
        _ => format!("{:.1} GFLOP/s", measured.gflops),
    }
}

/// As the system tells it; none where it has no file for it.
pub(super) fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, model) = text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(cell(model.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(adapters: Vec<AdapterSummary>) -> Diagnosis {
        let measured = |operation, rows_per_second, gflops| Throughput {
            operation,
            shape: "4096 × 128, x".into(),
            seconds: 0.5,
            rows_per_second,
            gflops,
        };
        let backend = BackendInfo { backend: "cpu".into(), device: "avx2".into() };
        Diagnosis {
            version: "1.2.3".into(),
            git_commit: Some("abc".into()),
            manifest_format: "1.0".into(),
            platform: "linux x86_64".into(),
            cpu: Processor {
                model: None,
                instruction_set: "avx2".into(),
                available: vec!["avx2".into(), "portable".into()],
                threads: 2,
            },
            gpu: Gpus { supported: true, adapters },
            auto: Automatic { backend: backend.clone(), because: "no GPU: lavapipe is a CPU".into() },
            speed: vec![Speed {
                backend,
                software: false,
                variant: Some("f16".into()),
                operations: vec![
                    measured(Operation::Assign, 1.0, 123.456),
                    measured(Operation::TopK, 1.0, 456.0),
                    measured(Operation::PqEncode, 1_234_567.0, 1.0),
                ],
                error: Some("top_k: lost".into()),
            }],
        }
    }

    fn lavapipe() -> AdapterSummary {
        AdapterSummary {
            name: "lavapipe".into(),
            api: "vulkan".into(),
            kind: "software".into(),
            driver: "Mesa".into(),
            software: true,
            binding_limit: 128 << 20,
            workgroup_memory: 32 << 10,
            f16: true,
            subgroups: true,
            cooperative_matrix: false,
        }
    }

    #[test]
    fn a_person_reads_what_there_is_what_is_chosen_and_what_it_is_worth() {
        let lines = [
            "annvil   1.2.3 (abc), artifact format 1.0, linux x86_64",
            "cpu      avx2 of avx2, portable, 2 threads",
            "auto     cpu (avx2): no GPU: lavapipe is a CPU",
            "",
            "gpu       kind      api     driver  binding  workgroup  offers",
            "lavapipe  software  vulkan  Mesa    128 MiB   32.0 KiB  f16 subgroups",
            "A software adapter is a CPU posing as a GPU. It is for correctness only: `auto` never chooses it, and \
             the cpu backend is faster.",
            "",
            "speed  operation  products  rows, and what beside",
            "cpu    assign     f32       4096 × 128, x             123.5 GFLOP/s",
            "cpu    top_k      f16       4096 × 128, x             456.0 GFLOP/s",
            "cpu    pq_encode  f32       4096 × 128, x          1,234,567 rows/s",
            "cpu failed: top_k: lost",
            "",
        ];
        assert_eq!(diagnosis(vec![lavapipe()]).render(), lines.join("\n"));
    }

    #[test]
    fn a_machine_without_gpus_is_told_what_they_need() {
        let text = diagnosis(vec![]).render();
        assert!(text.contains("no GPUs: no Vulkan, Metal or DX12 driver"), "{text}");
        assert!(!text.contains("software"), "{text}");
    }

    #[test]
    fn this_machine_can_be_diagnosed() {
        let found = Diagnosis::of_this_machine();
        assert!(found.cpu.available.contains(&found.cpu.instruction_set), "{found:?}");
        let hardware = found.gpu.adapters.iter().any(|adapter| !adapter.software);
        assert!(found.auto.backend.backend == "cpu" || hardware, "{found:?}");
    }
}
