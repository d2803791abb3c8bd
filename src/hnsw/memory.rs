//! How much memory a build takes beside its rows and the index that they become, and how it keeps to a budget: candidates for
//! fewer rows at a time, and what they are made of in a file.

use std::path::PathBuf;

use super::build::BuildError;
use super::candidates::Candidates;
use super::cover::BATCH_SLOTS;
use super::params::HnswParams;
use crate::compute::cpu::ByteRows;

/// What a build may take, beside its rows and the finished index. The index is the same whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes; `None`: as much as it takes.
    pub budget: Option<u64>,
    /// The folder for a scratch file, where the budget asks for one; the system's folder for temporary files where it is not
    /// given.
    pub scratch: Option<PathBuf>,
}

impl Memory {
    pub(super) fn scratch_folder(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// What building so many rows takes, beside them and the finished index, at most.
///
/// # Errors
/// [`BuildError::Budget`] where that is more than the budget, however it is built.
pub fn working_bytes(
    memory: &Memory,
    rows: usize,
    dim: usize,
    params: &HnswParams,
    threads: usize,
) -> Result<u64, BuildError> {
    let load = Load { rows, dim, params, threads };
    Ok(load.working_bytes(&Plan::new(memory, load)?) as u64)
}

/// How a layer is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whether leaves and what is found in them go to a file.
    pub spill: bool,
    /// Ranges of rows whose candidates are gathered one after the other, on each thread.
    pub ranges: usize,
}

/// Ranges that each thread takes care of where memory is no matter: a sixteenth of all candidates are there at once.
const RANGES_PER_THREAD: usize = 16;

/// What a thread needs for its leaf: products of 512 × 512, a packed copy, and lists.
const THREAD_BYTES: usize = 4 << 20;

/// What a layer's build is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load<'a> {
    pub rows: usize,
    pub dim: usize,
    pub params: &'a HnswParams,
    pub threads: usize,
}

impl Plan {
    /// The plan that takes the least time within `memory`.
    ///
    /// # Errors
    /// [`BuildError::Budget`], with what would fit.
    pub fn new(memory: &Memory, load: Load<'_>) -> Result<Self, BuildError> {
        let most = load.rows.div_ceil(64).max(1);
        let roomy = Plan { spill: false, ranges: (RANGES_PER_THREAD * load.threads).min(most) };
        let Some(budget) = memory.budget else {
            return Ok(roomy);
        };
        let fits = |plan: &Plan| load.working_bytes(plan) as u64 <= budget;
        let steps = |spill| {
            let from = std::iter::successors(Some(roomy.ranges), move |&ranges| {
                (ranges < most).then(|| (2 * ranges).min(most))
            });
            from.take(6).map(move |ranges| Plan { spill, ranges })
        };
        // More ranges cost time, a file costs more.
        let plans = steps(false).take(3).chain(steps(true));
        plans.clone().find(fits).ok_or_else(|| {
            let least = plans.map(|plan| load.working_bytes(&plan)).min().unwrap_or(0);
            BuildError::Budget { rows: load.rows, dim: load.dim, expected: least as u64, got: budget }
        })
    }
}

impl Load<'_> {
    /// At most, at once.
    fn working_bytes(&self, plan: &Plan) -> usize {
        let Self { rows, dim, params, threads } = *self;
        let bytes = ByteRows::size_bytes(rows, dim);
        let places: usize = params.fanout.iter().product();
        let slots = rows * places;
        // Of few slots each row takes more, but not more than this in all.
        let found = (slots * params.leaf_k).max(rows * params.l_max / 2);
        let (leaves, nearest) = if plan.spill { (0, 0) } else { (4 * slots, 2 * found) };
        let batch = BATCH_SLOTS.min(slots);
        let batch_found = batch * params.leaf_k;
        let of_threads = threads * THREAD_BYTES;
        // Levels, the order and where rows stand in it.
        let numbers = 9 * rows;
        // Leaders of all rows, and a part of the cells being carved.
        let carve = 2 * rows * params.fanout.first().unwrap_or(&1) + 4 * rows + slots * 4 / 8 + leaves;
        let products = leaves + nearest + 8 * batch + 12 * batch_found;
        let read = if plan.spill { threads * (4 * batch + 2 * batch_found) } else { 0 };
        let at_once =
            threads.min(plan.ranges) * rows.div_ceil(plan.ranges) * Candidates::row_bytes(params.l_max);
        let prune = leaves + nearest + read + at_once;
        let with_bytes = bytes + numbers + of_threads + carve.max(products).max(prune);
        // Hashes of rows, and later the walk over the links and the levels above: a sixteenth of the rows at m = 16.
        let without_bytes = numbers + 16 * rows + rows / params.m.max(2) * (4 * dim + 400);
        with_bytes.max(without_bytes)
    }
}

/// Gives back what an allocator keeps of freed memory for later: after a stage whose pieces the next one has no use for. glibc
/// keeps up to 64 MiB for each thread otherwise, half of a dataset of 300,000 rows.
pub(super) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(params: &HnswParams, rows: usize, dim: usize) -> Load<'_> {
        Load { rows, dim, params, threads: 2 }
    }

    #[test]
    fn a_lower_budget_means_smaller_ranges_then_a_file_then_an_error_that_says_what_would_fit() {
        let params = HnswParams::new(16, 200);
        let load = load(&params, 1_000_000, 100);
        let plan = |budget| Plan::new(&Memory { budget, scratch: None }, load);
        let roomy = plan(None).unwrap();
        assert_eq!(roomy, Plan { spill: false, ranges: 32 });
        let full = load.working_bytes(&roomy) as u64;
        assert_eq!(plan(Some(full)).unwrap(), roomy);
        let (mut budget, mut last) = (full, roomy);
        let error = loop {
            budget -= 4 << 20;
            match plan(Some(budget)) {
                Ok(plan) => {
                    assert!(load.working_bytes(&plan) as u64 <= budget);
                    assert!(plan.spill >= last.spill);
                    last = plan;
                }
                Err(error) => break error,
            }
        };
        assert!(last.spill);
        let BuildError::Budget { expected, got, .. } = error else { panic!("{error}") };
        assert_eq!(got, budget);
        assert!(plan(Some(expected)).is_ok() && plan(Some(expected - 1)).is_err());
        // Bytes alone are 128 MB here.
        assert!((128_000_000..200_000_000).contains(&expected), "{expected}");
    }

    #[test]
    fn small_layers_have_small_ranges() {
        let params = HnswParams::new(2, 64);
        for rows in [1, 63, 64, 65, 5000] {
            let plan = Plan::new(&Memory::default(), load(&params, rows, 3)).unwrap();
            assert!((1..=rows).contains(&plan.ranges));
        }
    }
}
