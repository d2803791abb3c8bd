//! What a command line may say in place of what a job file says.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::job::quantity::parse_bytes;
use crate::job::{Backend, Overrides};

/// How a job is computed, which is nothing of its result.
#[derive(Debug, Args)]
pub(super) struct ComputeArgs {
    /// Where to compute, instead of the job's `backend`
    #[arg(long, value_name = "WHERE", value_parser = backend())]
    pub backend: Option<Backend>,
    /// CPU threads, instead of the job's `threads`; 0 is all cores. The result does not depend on it
    #[arg(long, value_name = "N")]
    pub threads: Option<u64>,
    /// What the whole job may take, as 2GiB, instead of the job's `memory_budget`
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    pub memory_budget: Option<u64>,
}

/// What is built, and where it goes.
#[derive(Debug, Args)]
pub(super) struct ResultArgs {
    /// Seed of every random choice, instead of the job's `seed`
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder (from here) or URI to publish in, instead of the job's `output.uri`
    #[arg(long, value_name = "URI")]
    pub output: Option<String>,
}

impl ComputeArgs {
    pub fn overrides(&self) -> Overrides {
        let &Self { backend, threads, memory_budget } = self;
        Overrides { backend, threads, memory_budget, ..Overrides::default() }
    }
}

/// One of the backends' names.
pub(super) fn backend() -> impl TypedValueParser<Value = Backend> {
    PossibleValuesParser::new(Backend::NAMES).map(|name| Backend::from_name(&name).expect("one of the names"))
}

/// As the job file writes it.
pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "expected a size, as 2GiB, 512MiB or a number of bytes".into())
}
