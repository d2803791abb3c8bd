//! A build job: what a job file may say ([`JobSpec`]), what is wrong with one ([`SpecError`]), and how a running job
//! tells about itself ([`Progress`]) and is stopped ([`CancelToken`]).

mod backend;
mod capacity;
mod check;
mod diagnostics;
mod encryption;
mod estimate;
mod forecast;
mod foreign;
mod forge;
mod ledger;
mod origin;
mod parse;
mod plan;
mod progress;
mod publish;
pub mod quantity;
mod read;
mod residence;
mod rows;
mod run;
mod sample;
mod schema;
mod scratch;
mod spec;
mod summary;
mod truth;
mod uri;
mod workload;
mod worth;

pub(crate) use backend::choose;
#[cfg(feature = "gpu")]
pub(crate) use backend::machine;
pub use backend::{Chosen, automatic, or_cpu};
pub use capacity::IndexSize;
pub(crate) use capacity::{Shape, index_size};
pub use check::SourceFacts;
pub use diagnostics::{Diagnostic, Diagnostics, Place, Quote, Severity};
pub use encryption::EncryptionSpec;
pub use estimate::{Estimate, Load, StageMemory};
pub(crate) use forecast::Speeds;
pub use forecast::StageTime;
pub(crate) use forge::{Rows, Watch, column_files, forge};
pub use ledger::cpu_time;
pub(crate) use ledger::{Ledger, peak_memory_bytes};
pub use parse::{MAX_JOB_FILE_BYTES, SpecError, documented_keys};
pub use plan::{Plan, PlanError, ScratchPlace, Sizing, plan};
#[cfg(feature = "cli")]
pub use progress::Bars;
pub use progress::{CancelToken, Cancelled, Event, Level, Progress, Renderer, Stage, StageState, Unit};
pub use progress::{JsonLines, PlainLines, Silent, Trace, TraceError, Traced};
pub(crate) use run::on_threads;
pub use run::{run, run_on};
pub(crate) use sample::{Sample, SampleSize, sample};
pub use scratch::{SCRATCH_VARIABLE, ScratchError, default_root};
pub use spec::{
    Auto, Backend, CodeSpec, FlatSpec, Gate, HnswExpert, HnswSpec, IndexParams, IndexSpec, IvfPqSpec,
    JobSpec, OnBadRow, OutputSpec, Overrides, QueriesSpec, Refine, SourceSpec, Target,
};
pub use summary::{BuildSummary, BuiltIndex, Outcome, RowCounts, StageCost};
pub use uri::Uri;
pub use workload::{MachineSpec, Prices, Workload};
pub use worth::Worth;
