//! How much memory, scratch and output a job takes, before a row of it is read: counted from the shapes of what its stages hold.
//! `annvil plan` shows it, a budget is judged by it, and the manifest has it beside what was measured.

use super::forge::{hnsw_params, ivf_params};
use super::residence;
use super::scratch::Memory;
use super::spec::{HnswSpec, IndexParams, IndexSpec, IvfPqSpec, JobSpec, Refine};
use crate::flat;
use crate::hnsw;
use crate::ivf;
use crate::source::IdWidth;
use crate::train::{KmeansParams, PqParams, ScalarQuantizer};
use crate::vectors::{Metric, Neighbor};

/// Batches that are decoded ahead, and the row group's bytes behind them; …
const READING: u64 = 40 << 20;
/// … and what of that an allocator cannot give back, since some of each of its pages is in use.
const AFTER_READING: u64 = 24 << 20;
/// Of a file that is written to a store, and then read back.
const PUBLISHING: u64 = 40 << 20;
/// What each thread has beside: queries, tiles; …
const PER_THREAD: u64 = 4 << 20;
/// … and the tables of a batch of queries.
const SEARCHING: u64 = 6 << 20;

/// What a job is about, as far as its source's metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Load {
    /// At most: `where` and bad rows may leave fewer.
    pub rows: u64,
    pub dim: u64,
    pub queries: u64,
    /// Exact neighbours of each of them.
    #[serde(skip)]
    pub truth_k: u64,
    pub threads: u64,
    /// Bytes of ids and attributes of a row.
    pub columns_bytes: u64,
    /// What the process takes before there is a row: code, libraries, a GPU's driver.
    pub process_bytes: u64,
    #[serde(skip)]
    pub ids: IdWidth,
}

/// What a stage takes at most.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StageMemory {
    pub name: String,
    pub bytes: u64,
}

/// What a job takes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Estimate {
    /// Whether rows, and what is kept of them, lie in files of the scratch folder and are mapped.
    pub spills: bool,
    /// The most that any stage takes of memory of its own.
    pub peak_memory_bytes: u64,
    /// The most that is resident before the job publishes, which is when a manifest tells its peak: of maps as much as the budget has
    /// room for, see `residence.rs`.
    pub peak_resident_bytes: u64,
    /// The most that scratch takes at once.
    pub scratch_bytes: u64,
    /// What is published.
    pub output_bytes: u64,
    /// … of each index, in the job's order.
    pub index_bytes: Vec<u64>,
    pub stages: Vec<StageMemory>,
}

/// What an index takes while it is built, beside the rows and the ids, and when it is done.
#[derive(Debug, Clone, Copy)]
struct OfIndex {
    /// In memory, at most.
    building: u64,
    /// The encoded sections.
    sections: u64,
    /// In files without names, beside the sections.
    files: u64,
}

impl Load {
    fn raw(&self) -> u64 {
        4 * self.rows * self.dim
    }

    /// Before there is a row, with all threads at work, and what rows are measured with.
    fn base(&self) -> u64 {
        self.process_bytes + self.threads * PER_THREAD + self.queries_held()
    }

    /// Of a small source less is ahead.
    fn reading(&self) -> u64 {
        READING.min(3 * self.raw())
    }

    fn after_reading(&self) -> u64 {
        AFTER_READING.min(2 * self.raw())
    }

    fn columns(&self) -> u64 {
        self.rows * self.columns_bytes
    }

    /// Queries and their exact neighbours, which are there to the end.
    fn queries_held(&self) -> u64 {
        self.queries * (4 * self.dim + size_of::<Neighbor>() as u64 * self.truth_k)
    }

    /// The ids that were seen, to find those that come twice: a hash set at its growth, the old table beside the new one.
    fn seen(&self) -> u64 {
        let width = match self.ids {
            IdWidth::Numbered => return 0,
            IdWidth::Number => 9,
            IdWidth::Wide => 17,
        };
        let buckets = (self.rows * 8 / 7).max(1).next_power_of_two();
        buckets * width * 3 / 2
    }
}

/// With rows in memory or in files.
pub fn estimate(spec: &JobSpec, load: &Load, memory: Memory) -> Estimate {
    let spills = memory == Memory::Mapped;
    let raw = load.raw();
    let held = if spills { 0 } else { raw };
    // Columns are there in pieces, and then as a whole too.
    let read = load.base() + load.reading() + held + 2 * load.columns() + load.seen();
    let base = load.base() + load.after_reading();
    let finding = flat::truth_bytes(load.queries as usize, load.dim as usize, load.truth_k as usize) as u64;
    let truth = base + held + load.columns() + 4 * load.rows + finding;
    let mut stages = vec![
        StageMemory { name: "read".into(), bytes: read },
        StageMemory { name: "exact neighbours".into(), bytes: truth },
    ];
    let (mut done, mut files) = (0, 0);
    let mut index_bytes = Vec::with_capacity(spec.indexes.len());
    for (place, index) in spec.indexes.iter().enumerate() {
        let is_last = place + 1 == spec.indexes.len();
        let of = of_index(spec, index, load, memory, is_last);
        // Ids and attributes in the index's order, taken and then encoded.
        let columns = 3 * load.columns();
        stages.push(StageMemory {
            name: format!("build {}", index.name),
            bytes: base + held + done + load.columns() + of.building.max(columns),
        });
        let is_given = is_last && !spills && matches!(index.params, IndexParams::Hnsw(_));
        // Of a map the order, its inverse, and where a row's upper links are.
        let searched = if spills { 12 * load.rows } else { of.sections };
        stages.push(StageMemory {
            name: format!("certify {}", index.name),
            bytes: base
                + if is_given { 0 } else { held }
                + done
                + 2 * load.columns()
                + searched
                + load.threads * SEARCHING,
        });
        let published = of.sections + load.columns() + 4 * load.rows;
        // With block checksums.
        index_bytes.push((of.sections + load.columns()) / 4096 * 4097);
        done += if spills { load.columns() + 4 * load.rows } else { published };
        files = files.max(of.files);
    }
    let output: u64 = index_bytes.iter().sum();
    let publishing = base + done + PUBLISHING.min(output);
    let before_publishing = stages.iter().map(|stage| stage.bytes).max().unwrap_or(0);
    stages.push(StageMemory { name: "publish".into(), bytes: publishing });
    let kept = raw + load.columns() + output + 4 * load.rows * spec.indexes.len() as u64;
    let peak_memory_bytes = before_publishing.max(publishing);
    let of_maps = spec.memory_budget.filter(|_| spills).map_or(0, residence::limit);
    Estimate {
        spills,
        peak_memory_bytes,
        peak_resident_bytes: before_publishing.max(of_maps),
        scratch_bytes: match (spills, spec.resume) {
            (true, _) => kept + files,
            (false, true) => kept,
            (false, false) => 0,
        },
        output_bytes: output,
        index_bytes,
        stages,
    }
}

fn of_index(spec: &JobSpec, index: &IndexSpec, load: &Load, memory: Memory, is_last: bool) -> OfIndex {
    match &index.params {
        // Encoded from a copy of the rows, or by way of scratch; in files, that is put in order part by part.
        IndexParams::Flat(_) => OfIndex {
            building: match memory {
                Memory::Own if spec.resume => load.raw(),
                Memory::Own => 2 * load.raw(),
                Memory::Mapped => 12 * load.rows + load.raw().min(32 << 20),
            },
            sections: load.raw(),
            files: if memory == Memory::Own { 0 } else { load.raw() },
        },
        IndexParams::IvfPq(params) => ivf_pq(params, index.metric, load, memory, spec.resume),
        IndexParams::Hnsw(params) => hnsw(spec, params, index.metric, load, memory, is_last),
    }
}

fn ivf_pq(params: &IvfPqSpec, metric: Metric, load: &Load, memory: Memory, is_kept: bool) -> OfIndex {
    let (rows, dim) = (load.rows as usize, load.dim as usize);
    let resolved = ivf_params(params, rows, dim);
    let kept = match params.refine {
        Refine::None => 0,
        Refine::F16 => 2,
        Refine::F32 => 4,
    } * load.rows
        * load.dim;
    let shape = resolved.shape(dim).ok().filter(|_| resolved.code == ivf::Code::Pq);
    let code_size = resolved.code_bytes(dim, metric) as u64;
    // Blocks of 32 rows, the last of each list half empty.
    let in_blocks = match resolved.code {
        ivf::Code::Pq => resolved.pq_bits == 4,
        ivf::Code::Rabitq { .. } => true,
        ivf::Code::Sq8 | ivf::Code::Flat => false,
    };
    let padding = if in_blocks { 16 * resolved.nlist as u64 } else { 0 };
    let lists = if resolved.spill == ivf::Spilling::Soar { 2 } else { 1 };
    let spilled = (lists - 1) * 4 * load.rows;
    let codes = lists * code_size * (load.rows + padding) + spilled;
    let nlist = resolved.nlist as u64;
    let of_lists = 4 * nlist * load.dim + 8 * nlist;
    let codebooks = if shape.is_some() { (1 << resolved.pq_bits) * 4 * load.dim } else { 0 };
    let sections = kept + codes + of_lists + codebooks;
    let sample = load.rows.min(nlist * KmeansParams::new(1, 0).max_rows_per_centroid as u64);
    let is_gathered = sample < load.rows;
    let gathered = if is_gathered { 4 * sample * load.dim } else { 0 };
    // Of each row of the sample a list, a distance and an order.
    let training = sample * 20 + 4 * of_lists;
    // The quantizer's sample, and its residuals.
    let sample_rows = match resolved.code {
        ivf::Code::Sq8 => ScalarQuantizer::SAMPLE_ROWS,
        _ => shape.map_or(0, |shape| PqParams::new(0).sample_rows(&shape)),
    } as u64;
    let training_codes = sample_rows.min(load.rows) * load.dim * 4 * 3;
    let training = training.max(training_codes);
    let encoding = load.rows * lists * (8 + code_size) + codes;
    match memory {
        Memory::Own => OfIndex {
            building: (gathered + training)
                .max(encoding + kept)
                // Sections are encoded beside what they are made of, but for an entry in scratch.
                .max(8 * load.rows + sections + if is_kept { 0 } else { kept.max(codes) }),
            sections,
            files: 0,
        },
        // In files: the sample, or what is kept.
        Memory::Mapped => OfIndex {
            building: training.max(encoding + 8 * load.rows + (32 << 20)),
            sections,
            files: gathered.max(kept),
        },
    }
}

fn hnsw(
    spec: &JobSpec,
    params: &HnswSpec,
    metric: Metric,
    load: &Load,
    memory: Memory,
    is_last: bool,
) -> OfIndex {
    let graph = graph_bytes(params, metric, load);
    let augmented = if metric == Metric::InnerProduct { load.raw() + 4 * load.rows } else { 0 };
    let working = graph_working(spec, params, metric, load, memory);
    let sections = load.raw() + graph;
    match memory {
        Memory::Own => {
            // Of rows that are handed over there is no copy.
            let rows = if is_last { 0 } else { load.raw() };
            // Each section is encoded beside what it is made of, but for an entry in scratch.
            let encoding = if spec.resume { 0 } else { load.raw().max(graph) };
            let building = rows + graph + augmented.max(working).max(encoding);
            OfIndex { building, sections, files: load.rows * 64 }
        }
        Memory::Mapped => {
            let params = hnsw_params(params);
            // Rows in order, bytes, links, leaves and what was found in them; later the sections, which are counted, and what they are
            // written from.
            let leaves =
                load.rows * params.fanout.iter().product::<usize>() as u64 * (4 + 2 * params.leaf_k as u64);
            let bytes = load.raw() / 3 + 64 * load.rows;
            let linking = 2 * augmented + load.raw() + graph + bytes + leaves;
            let files = linking.saturating_sub(sections).max(sections + augmented);
            OfIndex { building: 4 * load.rows + working, sections, files }
        }
    }
}

/// What a job's budget leaves a graph's build: in memory beside its rows and the graph; in files, of what may be resident, so that
/// what is read at random need not be read from them twice.
pub(super) fn graph_budget(
    params: &HnswSpec,
    metric: Metric,
    budget: u64,
    load: &Load,
    is_mapped: bool,
) -> u64 {
    let beside = load.base() + load.after_reading() + load.columns();
    let left = if is_mapped {
        residence::limit(budget).saturating_sub(beside + 8 * load.rows)
    } else {
        budget.saturating_sub(beside + load.raw() + graph_bytes(params, metric, load))
    };
    left.max(1 << 20)
}

/// Links and codes.
fn graph_bytes(params: &HnswSpec, metric: Metric, load: &Load) -> u64 {
    let (m, rows) = (params.m as u64, load.rows);
    let upper = rows / (m - 1).max(1);
    let links = 4 * (2 * m * rows + m * upper) + rows;
    links + rows * hnsw::code_bytes(params.code, load.dim as usize, metric) as u64
}

/// At most; with a budget that is too small, the least.
fn graph_working(spec: &JobSpec, params: &HnswSpec, metric: Metric, load: &Load, memory: Memory) -> u64 {
    let given = params.expert.memory_budget.given().map(|bytes| bytes as u64);
    let (rows, dim) = (load.rows as usize, load.dim as usize);
    let is_mapped = memory == Memory::Mapped;
    let left = |budget| graph_budget(params, metric, budget, load, is_mapped);
    let budget = given.or_else(|| spec.memory_budget.map(left));
    let memory = hnsw::Memory { budget, scratch: None, is_mapped };
    match hnsw::working_bytes(&memory, rows, dim, &hnsw_params(params), load.threads as usize) {
        Ok(bytes) => bytes,
        Err(hnsw::BuildError::Budget { expected, .. }) => expected,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::vectors::{Random, VectorBuf};

    fn job(metric: Metric, index: &str) -> JobSpec {
        let text = format!(
            "source = {{ uri = \"rows.parquet\", vector = \"v\" }}\nqueries = {{ sample = 100 }}\n\
             output = {{ uri = \"out\" }}\n[[index]]\nname = \"graph\"\nmetric = \"{metric}\"\n{index}\n"
        );
        JobSpec::parse(&text, "job.toml").unwrap()
    }

    fn load(rows: usize, dim: usize) -> Load {
        Load {
            rows: rows as u64,
            dim: dim as u64,
            queries: 100,
            truth_k: 100,
            threads: 2,
            columns_bytes: 0,
            process_bytes: 0,
            ids: IdWidth::Numbered,
        }
    }

    /// However many there are: what is found for them stays to the end.
    #[test]
    fn queries_and_their_neighbours_are_counted_in_every_stage() {
        let spec = job(Metric::L2, "kind = \"hnsw\"");
        let IndexParams::Hnsw(params) = &spec.indexes[0].params else { panic!("a graph") };
        for memory in [Memory::Own, Memory::Mapped] {
            let of = |queries| Load { queries, truth_k: 1000, ..load(100_000, 96) };
            let held = 10_000 * (4 * 96 + 8 * 1000);
            let (few, many) = (estimate(&spec, &of(0), memory), estimate(&spec, &of(10_000), memory));
            for (few, many) in few.stages.iter().zip(&many.stages) {
                assert!(many.bytes >= few.bytes + held, "{} {memory:?}", many.name);
            }
            let left = |load| graph_budget(params, Metric::L2, 1 << 30, &load, memory == Memory::Mapped);
            assert_eq!(left(of(0)) - left(of(10_000)), held);
        }
    }

    #[test]
    fn a_graph_of_every_code_is_published_in_the_bytes_it_was_planned_at() {
        let mut random = Random::new(1);
        for (dim, metric) in [(20, Metric::Cosine), (65, Metric::L2), (130, Metric::InnerProduct)] {
            let rows = VectorBuf::new((0..1500 * dim).map(|_| random.normal() as f32).collect(), dim);
            for code in hnsw::Code::ALL {
                let spec = job(
                    metric,
                    &format!("kind = \"hnsw\"\nm = 8\nef_construction = 16\ncode = \"{}\"", code.name()),
                );
                let IndexParams::Hnsw(params) = &spec.indexes[0].params else { panic!("a graph") };
                let params = hnsw_params(params);
                let built = hnsw::build(&Cpu::new(), rows.view(), metric, &params, 1, &|_| {
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
                let sections = crate::index::SearchIndex::sections(&built.index);
                let bytes = |section: &crate::artifact::Section| {
                    crate::artifact::safetensors::encode(section).bytes.len()
                };
                let got = sections.iter().map(bytes).sum::<usize>() as f64;
                let planned = estimate(&spec, &load(1500, dim), Memory::Own).index_bytes[0] as f64;
                assert!((0.97..1.05).contains(&(planned / got)), "{dim} {code:?}: {planned} planned, {got}");
            }
        }
    }
}
