//! How much memory a build takes beside its rows and the index that they become, and how it keeps to a budget: candidates for
//! fewer rows at a time, and what they are made of in a file.

use std::path::PathBuf;

use super::build::BuildError;
use super::candidates::Candidates;
use super::cover::BATCH_SLOTS;
use super::params::HnswParams;
use crate::compute::cpu::{ByteRows, leaf_bytes};

/// What a build may take, beside its rows and the finished index. The index is the same whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes; `None`: as much as it takes.
    pub budget: Option<u64>,
    /// The folder for a scratch file, where the budget asks for one; the system's folder for temporary files where it is not
    /// given.
    pub scratch: Option<PathBuf>,
    /// Whether what has a row's dimensions or links (rows, the rows as bytes, links, codes) lies in mapped files of that folder, which
    /// the system may take out of memory: a build then holds some 40 bytes a row, and what it has no room for it reads again.
    pub is_mapped: bool,
}

impl Memory {
    pub(super) fn scratch_folder(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Where arrays are to be; `None` is memory.
    pub(super) fn arrays(&self) -> Option<PathBuf> {
        self.is_mapped.then(|| self.scratch_folder())
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
    /// Whether arrays lie in mapped files.
    pub is_mapped: bool,
    /// Whether leaves and what is found in them go to a file.
    pub spill: bool,
    /// Ranges of rows whose candidates are gathered one after the other, on each thread.
    pub ranges: usize,
}

/// Ranges that each thread takes care of where memory is no matter: a sixteenth of all candidates are there at once.
const RANGES_PER_THREAD: usize = 16;

/// What a thread needs beside its leaf: products with leaders, and lists.
const THREAD_BYTES: usize = 2 << 20;

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
        let Memory { is_mapped, .. } = *memory;
        let per_thread = |ranges: usize| (ranges * load.threads).min(most);
        let steps = |spill, from: usize| {
            let ranges = std::iter::successors(Some(per_thread(from)), move |&ranges| {
                (ranges < most).then(|| (2 * ranges).min(most))
            });
            ranges.map(move |ranges| Plan { is_mapped, spill, ranges })
        };
        let Some(budget) = memory.budget else {
            return Ok(Plan { is_mapped, spill: is_mapped, ranges: per_thread(RANGES_PER_THREAD) });
        };
        // What is read at random is taken from the disk only where all else fails.
        let mapped = if is_mapped { ByteRows::size_bytes(load.rows, load.dim) } else { 0 };
        let fits = |plan: &Plan, beside: usize| (load.working_bytes(plan) + beside) as u64 <= budget;
        // More ranges cost time, a file costs more; of a file every range reads all.
        let in_memory = if is_mapped { 0 } else { 3 };
        let plans = steps(false, RANGES_PER_THREAD).take(in_memory).chain(steps(true, 1).take(10));
        let best = plans
            .clone()
            .find(|plan| fits(plan, mapped))
            .or_else(|| plans.clone().find(|plan| fits(plan, 0)));
        best.ok_or_else(|| {
            let least = plans.map(|plan| load.working_bytes(&plan)).min().unwrap_or(0);
            BuildError::Budget { rows: load.rows, dim: load.dim, expected: least as u64, got: budget }
        })
    }
}

impl Load<'_> {
    /// Ways back that may be there at once: they take what rows as bytes and candidates did, which are gone by then.
    pub fn linking_bytes(&self, plan: &Plan) -> usize {
        self.as_bytes(plan) + self.prune_bytes(plan)
    }

    /// At most, at once.
    fn working_bytes(&self, plan: &Plan) -> usize {
        let Self { rows, dim, params, threads } = *self;
        let slots = self.slots();
        let leaves = if plan.spill { 0 } else { 4 * slots };
        let batch = BATCH_SLOTS.min(slots);
        // Levels, the order and where rows stand in it.
        let numbers = 9 * rows;
        // Leaders of all rows, and a part of the cells being carved.
        let carve = 2 * rows * params.fanout.first().unwrap_or(&1) + 4 * rows + slots * 4 / 8 + leaves;
        let products = leaves + self.nearest_bytes(plan) + 8 * batch + 12 * batch * params.leaf_k;
        // Of the levels above the base each row has as many neighbours as links.
        let leaf = leaf_bytes(params.c_max.min(rows), dim, params.leaf_k.max(params.m));
        let of_threads = threads * (THREAD_BYTES + leaf);
        let with_bytes =
            self.as_bytes(plan) + numbers + of_threads + carve.max(products).max(self.prune_bytes(plan));
        // Hashes of rows, and later the walk over the links and the levels above: a sixteenth of the rows at m = 16.
        let upper = rows / params.m.max(2) * (if plan.is_mapped { 0 } else { 4 * dim } + 400);
        let without_bytes = numbers + 16 * rows + upper;
        // Rows that go to a file in their order are put in it part by part.
        let in_order = if plan.is_mapped { 14 * rows + (4 * rows * dim).min(32 << 20) } else { 0 };
        with_bytes.max(without_bytes).max(in_order)
    }

    /// Rows as bytes.
    fn as_bytes(&self, plan: &Plan) -> usize {
        if plan.is_mapped { 0 } else { ByteRows::size_bytes(self.rows, self.dim) }
    }

    /// Places of rows in leaves.
    fn slots(&self) -> usize {
        self.rows * self.params.fanout.iter().product::<usize>()
    }

    /// What was found in all leaves.
    fn nearest_bytes(&self, plan: &Plan) -> usize {
        // Of few slots each row takes more, but not more than this in all.
        let found = (self.slots() * self.params.leaf_k).max(self.rows * self.params.l_max / 2);
        if plan.spill { 0 } else { 2 * found }
    }

    /// Leaves, or what is read of them, and candidates.
    fn prune_bytes(&self, plan: &Plan) -> usize {
        let Self { rows, params, threads, .. } = *self;
        let batch = BATCH_SLOTS.min(self.slots());
        let cover = if plan.spill {
            threads * (4 * batch + 2 * batch * params.leaf_k)
        } else {
            4 * self.slots() + self.nearest_bytes(plan)
        };
        cover + threads.min(plan.ranges) * rows.div_ceil(plan.ranges) * Candidates::row_bytes(params.l_max)
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
        let plan = |budget| Plan::new(&Memory { budget, ..Memory::default() }, load);
        let roomy = plan(None).unwrap();
        assert_eq!(roomy, Plan { is_mapped: false, spill: false, ranges: 32 });
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
    fn mapped_a_build_holds_some_forty_bytes_a_row_and_takes_more_where_bytes_fit_too() {
        let params = HnswParams::new(16, 200);
        for (rows, dim) in [(10_000_000, 96), (1_000_000, 768), (1_000_000, 4096)] {
            let load = load(&params, rows, dim);
            let plan =
                |budget| Plan::new(&Memory { budget: Some(budget), scratch: None, is_mapped: true }, load);
            let BuildError::Budget { expected, .. } = plan(0).unwrap_err() else {
                panic!("no memory at all")
            };
            assert!(expected < 44 * rows as u64 + (60 << 20), "{expected} for {rows} × {dim}");
            let (least, roomy) = (plan(expected).unwrap(), plan(1 << 40).unwrap());
            assert!(least.spill && roomy.spill && roomy.ranges == 2 && least.ranges > 2);
            let bytes = ByteRows::size_bytes(rows, dim) as u64;
            let with_bytes = plan(expected + bytes).unwrap();
            assert!(load.working_bytes(&with_bytes) as u64 <= expected);
        }
    }

    #[test]
    fn larger_leaves_and_longer_rows_take_more_of_each_thread() {
        let working = |c_max: usize, dim: usize, threads: usize| {
            let params = HnswParams { c_max, ..HnswParams::new(16, 200) };
            let load = Load { rows: 1_000_000, dim, params: &params, threads };
            let plan = Plan { is_mapped: false, spill: true, ranges: 64 };
            load.working_bytes(&plan)
        };
        // Products of all members with each other; where there are too many, copies of their vectors on either side.
        for (c_max, dim, least) in [(512, 100, 1 << 20), (2048, 768, 22 << 20), (4096, 1536, 48 << 20)] {
            let of_a_thread = (working(c_max, dim, 10) - working(c_max, dim, 2)) / 8;
            assert!(of_a_thread >= least, "{c_max} members of {dim}-d: {of_a_thread}");
        }
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
