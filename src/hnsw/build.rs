//! Rows → graph, in the order in which the stages run. Deterministic: what is drawn depends on seed and row, and
//! every merge has a total order.

use rayon::prelude::*;

use super::candidates::Candidates;
use super::codes::{Code, ScalarCodes};
use super::params::HnswParams;
use super::partition::{Carving, carve};
use super::prune::Prune;
use super::{Hnsw, connect, upper_offsets};
use crate::compute::cpu::kernels;
use crate::compute::{Compute, ComputeError, Leaves};
use crate::index::{KeptVectors, Precision};
use crate::train::{Observer, Progress};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

/// Leaf slots whose neighbours are looked up in one call: 2¹⁹ slots of 3 neighbours are 12 MiB.
const LEAF_BATCH_SLOTS: usize = 1 << 19;

/// Rows pruned by one task.
const PRUNE_BLOCK: usize = 256;

/// Most levels: with m = 2, 2³¹ rows draw fewer.
const MAX_LEVEL: f64 = 31.0;

/// Distinct streams of the job's seed.
const LEVEL_STREAM: u64 = 0x6c65_7665_6c73;

/// A graph and how its rows relate to those it was built from.
#[derive(Debug)]
pub struct Built {
    pub index: Hnsw,
    /// `order[ordinal]` is the source row that became `ordinal`.
    pub order: Vec<u32>,
    pub stats: BuildStats,
}

/// What the manifest says of a graph.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BuildStats {
    /// Rows on each level, from the base up.
    pub level_rows: Vec<u64>,
    /// Mean links per row on the base layer.
    pub mean_degree: f64,
    /// Rows that no walk from the entry point reached before they were linked, on all levels.
    pub repaired_rows: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{rows} rows: expected 1 to {max}", max = Hnsw::MAX_ROWS)]
    Rows { rows: usize },
    #[error("stopped on request")]
    Cancelled,
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

type Result<T, E = BuildError> = std::result::Result<T, E>;

/// Builds a graph over `rows` (for cosine of unit length). The same rows, parameters, seed and backend give the same
/// bytes at any number of threads.
pub fn build(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    metric: Metric,
    params: &HnswParams,
    seed: u64,
    observer: Observer<'_>,
) -> Result<Built> {
    if rows.is_empty() || rows.rows() > Hnsw::MAX_ROWS {
        return Err(BuildError::Rows { rows: rows.rows() });
    }
    let builder = Builder { compute, params, observer };
    let augmented = (metric == Metric::InnerProduct).then(|| augment(rows));
    let near = augmented.as_ref().map_or(rows, VectorBuf::view);

    let levels = draw_levels(rows.rows(), params.m, seed);
    let top = levels.iter().copied().max().unwrap_or(0);
    let entry_row = levels.iter().position(|&level| level == top).expect("at least one row") as u32;
    let degree = 2 * params.m;

    let base = builder.layer(near, degree, entry_row, seed)?;
    let mut repaired = base.repaired;
    let mut level_rows = vec![rows.rows() as u64];
    let mut upper = Vec::new();
    for level in 1..=top {
        let members: Vec<u32> =
            (0..rows.rows() as u32).filter(|&row| levels[row as usize] >= level).collect();
        let entry = members.binary_search(&entry_row).expect("the entry row is on every level") as u32;
        let gathered = near.gather(&members);
        let layer = builder.layer(gathered.view(), params.m, entry, seed ^ u64::from(level))?;
        repaired += layer.repaired;
        level_rows.push(members.len() as u64);
        upper.push((members, layer.links));
    }

    let linked = base.links.iter().filter(|&&to| to != u32::MAX).count();
    let stats = BuildStats {
        level_rows,
        mean_degree: linked as f64 / rows.rows() as f64,
        repaired_rows: repaired as u64,
    };
    let order = base.order;
    let index = Renumbered::new(&order).assemble(
        rows,
        metric,
        base.links,
        degree,
        &levels,
        &upper,
        params.m,
        entry_row,
        params.code,
    );
    Ok(Built { index, order, stats })
}

/// Maximum inner product as nearest neighbours: with a coordinate √(M² − |x|²) added, all rows have length M and
/// ‖x − y‖² orders as −⟨x, y⟩ does for a query whose added coordinate is 0 (Bachrach et al., RecSys 2014,
/// doi:10.1145/2645710.2645741). The graph is built in that space; searching it needs only the inner product.
fn augment(rows: VectorView<'_>) -> VectorBuf {
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    let longest = rows.iter().map(norm).fold(0.0, f64::max);
    let mut data = Vec::with_capacity(rows.rows() * (rows.dim() + 1));
    for row in rows.iter() {
        data.extend_from_slice(row);
        data.push((longest - norm(row)).max(0.0).sqrt() as f32);
    }
    VectorBuf::new(data, rows.dim() + 1)
}

/// The geometric draw of HNSW: ⌊−ln(u) / ln(m)⌋.
fn draw_levels(rows: usize, m: usize, seed: u64) -> Vec<u8> {
    let scale = (m.max(2) as f64).ln();
    let draw = |row| (-Random::of(seed ^ LEVEL_STREAM, row).unit().ln() / scale).min(MAX_LEVEL) as u8;
    (0..rows as u64).map(draw).collect()
}

struct Layer {
    /// `rows × degree`.
    links: Vec<u32>,
    /// Rows in an order in which near ones are close together.
    order: Vec<u32>,
    repaired: usize,
}

struct Builder<'a> {
    compute: &'a dyn Compute,
    params: &'a HnswParams,
    observer: Observer<'a>,
}

impl Builder<'_> {
    /// One level over its own rows.
    fn layer(&self, rows: VectorView<'_>, degree: usize, entry: u32, seed: u64) -> Result<Layer> {
        let carving = Carving { c_max: self.params.c_max, fanout: self.params.fanout.clone(), seed };
        self.report("partition", 0, rows.rows())?;
        let leaves = carve(self.compute, rows, &carving)?;
        let order = order_of_first_appearance(&leaves, rows.rows());
        let candidates = self.candidates(rows, leaves)?;
        self.report("prune", 0, rows.rows())?;
        let mut links = prune_all(rows, &candidates, degree, self.params.alpha);
        drop(candidates);
        self.report("link", 0, rows.rows())?;
        reciprocate(&mut links, degree);
        let repaired = connect::repair(&mut links, degree, entry);
        self.report("link", rows.rows(), rows.rows())?;
        Ok(Layer { links, order, repaired })
    }

    fn candidates<'r>(&self, rows: VectorView<'r>, leaves: Leaves) -> Result<Candidates<'r>> {
        let uploaded = self.compute.upload(rows)?;
        let mut candidates = Candidates::new(rows, kernels(), self.params.l_max);
        let mut start = 0;
        while start < leaves.len() {
            self.report("leaves", start, leaves.len())?;
            let fits =
                |end: usize| (leaves.offsets[end] - leaves.offsets[start]) as usize <= LEAF_BATCH_SLOTS;
            let end = (start + 2..=leaves.len()).take_while(|&end| fits(end)).last().unwrap_or(start + 1);
            let batch = leaves.range(start, end);
            let found = self.compute.leaf_top_k(&uploaded, &batch, Metric::L2, self.params.leaf_k)?;
            candidates.absorb(&batch, &found);
            start = end;
        }
        self.report("leaves", leaves.len(), leaves.len())?;
        Ok(candidates)
    }

    fn report(&self, stage: &'static str, done: usize, total: usize) -> Result<()> {
        match (self.observer)(Progress { stage, done: done as u64, total: total as u64, inertia: None }) {
            std::ops::ControlFlow::Continue(()) => Ok(()),
            std::ops::ControlFlow::Break(()) => Err(BuildError::Cancelled),
        }
    }
}

fn order_of_first_appearance(leaves: &Leaves, rows: usize) -> Vec<u32> {
    let mut seen = vec![false; rows];
    leaves.members.iter().copied().filter(|&row| !std::mem::replace(&mut seen[row as usize], true)).collect()
}

fn prune_all(rows: VectorView<'_>, candidates: &Candidates<'_>, degree: usize, alpha: f32) -> Vec<u32> {
    let mut links = vec![u32::MAX; rows.rows() * degree];
    links.par_chunks_mut(degree * PRUNE_BLOCK).enumerate().for_each(|(block, links)| {
        let mut prune = Prune::new(rows, kernels(), alpha, degree);
        for (index, links) in links.chunks_mut(degree).enumerate() {
            let row = (block * PRUNE_BLOCK + index) as u32;
            prune.links(row, candidates.of(row), links);
        }
    });
    links
}

/// Gives every link its way back where the other end has a slot to spare: rows that are nobody's nearest become
/// reachable, at no distance computed.
fn reciprocate(links: &mut [u32], degree: usize) {
    let given = links.to_vec();
    for (row, own) in given.chunks_exact(degree).enumerate() {
        for &to in own.iter().take_while(|&&to| to != u32::MAX) {
            let back = &mut links[to as usize * degree..(to as usize + 1) * degree];
            for slot in back {
                if *slot == row as u32 {
                    break;
                }
                if *slot == u32::MAX {
                    *slot = row as u32;
                    break;
                }
            }
        }
    }
}

/// Rows under their final ordinals.
struct Renumbered<'a> {
    order: &'a [u32],
    ordinals: Vec<u32>,
}

impl<'a> Renumbered<'a> {
    fn new(order: &'a [u32]) -> Self {
        let mut ordinals = vec![0; order.len()];
        for (ordinal, &row) in order.iter().enumerate() {
            ordinals[row as usize] = ordinal as u32;
        }
        Self { order, ordinals }
    }

    fn links(&self, links: &[u32], out: &mut Vec<u32>) {
        out.extend(links.iter().map(|&to| if to == u32::MAX { to } else { self.ordinals[to as usize] }));
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one graph, all of them")]
    fn assemble(
        &self,
        rows: VectorView<'_>,
        metric: Metric,
        base: Vec<u32>,
        degree: usize,
        levels: &[u8],
        upper: &[(Vec<u32>, Vec<u32>)],
        m: usize,
        entry_row: u32,
        code: Code,
    ) -> Hnsw {
        let mut links = Vec::with_capacity(base.len());
        let mut upper_links = Vec::new();
        for &row in self.order {
            self.links(&base[row as usize * degree..(row as usize + 1) * degree], &mut links);
            for (members, level_links) in &upper[..usize::from(levels[row as usize])] {
                let place = members.binary_search(&row).expect("a row is a member of its levels");
                let own = &level_links[place * m..(place + 1) * m];
                upper_links.extend(own.iter().map(|&to| match to {
                    u32::MAX => to,
                    place => self.ordinals[members[place as usize] as usize],
                }));
            }
        }
        let vectors = KeptVectors::gather(rows, self.order, Precision::F32).expect("every f32 fits f32");
        let levels: Vec<u8> = self.order.iter().map(|&row| levels[row as usize]).collect();
        Hnsw {
            metric,
            codes: match code {
                Code::F32 => None,
                Code::Sq8 => Some(ScalarCodes::encode(rows, self.order, metric)),
            },
            vectors,
            links: links.into(),
            degree,
            upper_offsets: upper_offsets(&levels),
            levels: levels.into(),
            upper_links: upper_links.into(),
            m,
            entry_point: self.ordinals[entry_row as usize],
        }
    }
}
