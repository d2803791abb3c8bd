//! Rows → graph, in the order in which the stages run. Deterministic: what is drawn depends on seed and row, and
//! every merge has a total order.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::Hnsw;
use super::candidates::Candidates;
use super::components::Components;
use super::duplicates::Duplicates;
use super::layers::{Layer, Layers};
use super::links::{Links, NONE};
use super::params::HnswParams;
use super::partition::{Carving, Source, carve};
use super::prune::Prune;
use crate::compute::cpu::{ByteRows, kernels};
use crate::compute::{Compute, ComputeError, Leaves, Rows};
use crate::train::{Observer, Progress, TrainError, check_magnitude};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

/// Leaf slots whose neighbours are looked up in one call: 2¹⁹ slots of 3 neighbours are 12 MiB.
const LEAF_BATCH_SLOTS: usize = 1 << 19;

/// Rows pruned by one task.
const PRUNE_BLOCK: usize = 256;

/// Most levels: with m = 2, 2³¹ rows draw fewer.
const MAX_LEVEL: u8 = 31;

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
    /// Pieces that near rows' links left each level in.
    pub components: Vec<u64>,
    /// Rows that no walk from the entry point reached before they were linked, on all levels.
    pub repaired_rows: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{rows} rows: expected 1 to {max}", max = Hnsw::MAX_ROWS)]
    Rows { rows: usize },
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl From<ComputeError> for BuildError {
    fn from(error: ComputeError) -> Self {
        TrainError::from(error).into()
    }
}

type Result<T, E = BuildError> = std::result::Result<T, E>;

/// Builds a graph over `rows` (for cosine of unit length). The same rows, parameters, seed and backend give the same
/// bytes at any number of threads.
///
/// # Errors
/// No rows or more than [`Hnsw::MAX_ROWS`], parameters out of their ranges, rows whose distances f32 cannot hold, a
/// backend's failure, and `observer`'s wish to stop.
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
    params.check()?;
    check_magnitude(rows)?;
    let builder = Builder { compute, params, observer };
    let (layers, order) = match metric {
        Metric::InnerProduct => builder.graph(augment(rows).view(), seed)?,
        Metric::L2 | Metric::Cosine => builder.graph(rows, seed)?,
    };
    let stats = layers.stats();
    Ok(Built { index: layers.index(rows, &order, metric, params), order, stats })
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
    let draw =
        |row| (-Random::of(seed ^ LEVEL_STREAM, row).unit().ln() / scale).min(f64::from(MAX_LEVEL)) as u8;
    (0..rows as u64).map(draw).collect()
}

/// What distinguishes one layer's links from another's.
#[derive(Clone, Copy)]
struct Shape {
    level: u8,
    degree: usize,
    leaf_k: usize,
    seed: u64,
}

struct Builder<'a> {
    compute: &'a dyn Compute,
    params: &'a HnswParams,
    observer: Observer<'a>,
}

impl Builder<'_> {
    /// All layers, from the base up, over rows as `order` numbers them, and that: the rows in an order in which near ones are
    /// close together.
    fn graph(&self, rows: VectorView<'_>, seed: u64) -> Result<(Layers, Vec<u32>)> {
        let HnswParams { m, leaf_k, .. } = *self.params;
        self.report(0, "partition", 0, rows.rows())?;
        let mut levels = draw_levels(rows.rows(), m, seed);
        let duplicates = Duplicates::of(rows);
        duplicates.rows().for_each(|row| levels[row as usize] = 0);
        let base = Shape { level: 0, degree: 2 * m, leaf_k, seed };
        let bytes = ByteRows::encode(rows);
        let leaves = self.leaves(rows, bytes.as_ref(), duplicates.distinct(rows.rows()), base)?;
        let order = duplicates.following(order_of_first_appearance(&leaves, rows.rows()));
        let numbering = Numbering::new(order);
        let mut links = self.near(rows, bytes.as_ref(), leaves, &numbering, base)?;
        drop(bytes);
        duplicates.hang(&numbering, &mut links);
        let components = Components::new(&links);
        let mut levels: Vec<u8> = numbering.order.iter().map(|&row| levels[row as usize]).collect();
        let mut layers = vec![Layer { members: (0..rows.rows() as u32).collect(), links, components }];
        for level in 1..=MAX_LEVEL {
            layers[usize::from(level) - 1].represent(&mut levels, level);
            let members: Vec<u32> =
                (0..rows.rows() as u32).filter(|&row| levels[row as usize] >= level).collect();
            if members.is_empty() {
                break;
            }
            // A descent keeps one row, so it depends on every link more than a search of the base does: as many
            // candidates as there are links, of rows that are few.
            let shape = Shape { level, degree: m, leaf_k: leaf_k.max(m), seed: seed ^ u64::from(level) };
            let sources: Vec<u32> = members.iter().map(|&row| numbering.order[row as usize]).collect();
            let gathered = rows.gather(&sources);
            let all: Vec<u32> = (0..members.len() as u32).collect();
            let bytes = ByteRows::encode(gathered.view());
            let leaves = self.leaves(gathered.view(), bytes.as_ref(), all.clone(), shape)?;
            let links = self.near(gathered.view(), bytes.as_ref(), leaves, &Numbering::new(all), shape)?;
            let components = Components::new(&links);
            layers.push(Layer { members, links, components });
        }
        Ok((Layers::connected(levels, layers), numbering.order))
    }

    /// Small sets of those of `rows` that `distinct` names, overlapping, of rows near each other.
    fn leaves(
        &self,
        rows: VectorView<'_>,
        bytes: Option<&ByteRows>,
        distinct: Vec<u32>,
        shape: Shape,
    ) -> Result<Vec<Vec<u32>>> {
        let carving =
            Carving { c_max: self.params.c_max, fanout: self.params.fanout.clone(), seed: shape.seed };
        self.report(shape.level, "partition", 0, distinct.len())?;
        Ok(carve(self.compute, Source { vectors: &Rows::on_host(rows), bytes }, distinct, &carving)?)
    }

    /// Links between rows that share a leaf, near ones in different directions; of rows as `numbering` numbers them.
    fn near(
        &self,
        rows: VectorView<'_>,
        bytes: Option<&ByteRows>,
        leaves: Vec<Vec<u32>>,
        numbering: &Numbering,
        shape: Shape,
    ) -> Result<Links> {
        let total = rows.rows();
        // In few leaves, a row takes more from each: both ways, as many candidates as there is room for.
        let slots: usize = leaves.iter().map(Vec::len).sum();
        let leaf_k = shape.leaf_k.max(self.params.l_max * total / (2 * slots)).min(64);
        let candidates = self.candidates(rows, bytes, leaves, Shape { leaf_k, ..shape })?;
        self.report(shape.level, "prune", 0, total)?;
        let mut links = prune_all(rows, bytes, &candidates, numbering, self.params, shape.degree);
        drop(candidates);
        self.report(shape.level, "link", 0, total)?;
        links.reciprocate();
        self.report(shape.level, "link", total, total)?;
        Ok(links)
    }

    fn candidates<'r>(
        &self,
        rows: VectorView<'r>,
        bytes: Option<&'r ByteRows>,
        leaves: Vec<Vec<u32>>,
        shape: Shape,
    ) -> Result<Candidates<'r>> {
        let uploaded = self.compute.upload(rows)?;
        let mut candidates = Candidates::new(rows, bytes, kernels(), self.params.l_max);
        let total = leaves.len();
        let mut leaves = leaves.into_iter().peekable();
        while leaves.len() > 0 {
            self.report(shape.level, "leaves", total - leaves.len(), total)?;
            let mut batch = Leaves::default();
            while let Some(leaf) = leaves
                .next_if(|leaf| batch.is_empty() || batch.members.len() + leaf.len() <= LEAF_BATCH_SLOTS)
            {
                batch.push(&leaf);
            }
            let found = self.compute.leaf_candidates(&uploaded, bytes, &batch, shape.leaf_k)?;
            candidates.absorb(&batch, &found);
        }
        self.report(shape.level, "leaves", total, total)?;
        Ok(candidates)
    }

    /// The levels above the base, a sixteenth of its rows together, are one stage.
    fn report(&self, level: u8, stage: &'static str, done: usize, total: usize) -> Result<()> {
        let (stage, done, total) = match usize::from(level) {
            0 => (stage, done, total),
            level => ("upper levels", level, level),
        };
        match (self.observer)(Progress { stage, done: done as u64, total: total as u64, inertia: None }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(TrainError::Cancelled.into()),
        }
    }
}

fn order_of_first_appearance(leaves: &[Vec<u32>], rows: usize) -> Vec<u32> {
    let mut seen = vec![false; rows];
    let new = |&row: &u32| !std::mem::replace(&mut seen[row as usize], true);
    leaves.iter().flatten().copied().filter(new).collect()
}

/// Rows in an order, and the places of all in it.
pub(super) struct Numbering {
    /// The row at each place.
    pub order: Vec<u32>,
    /// The place of each row.
    pub places: Vec<u32>,
}

impl Numbering {
    /// Of `order`, in which each row stands once.
    pub fn new(order: Vec<u32>) -> Self {
        let mut places = vec![0; order.len()];
        for (place, &row) in order.iter().enumerate() {
            places[row as usize] = place as u32;
        }
        Self { order, places }
    }
}

/// The links of every row, at its place in the numbering: rows that follow each other there share candidates, which are then
/// in cache.
fn prune_all(
    rows: VectorView<'_>,
    bytes: Option<&ByteRows>,
    candidates: &Candidates<'_>,
    numbering: &Numbering,
    params: &HnswParams,
    degree: usize,
) -> Links {
    let mut links = Links::new(rows.rows(), degree);
    links
        .all_slots_mut()
        .par_chunks_mut(degree * PRUNE_BLOCK)
        .zip(numbering.order.par_chunks(PRUNE_BLOCK))
        .for_each_init(
            || Prune::new(rows, bytes, kernels(), params, degree),
            |prune, (links, rows)| {
                for (links, &row) in links.chunks_exact_mut(degree).zip(rows) {
                    prune.links(row, candidates.of(row), links);
                    for link in links.iter_mut().take_while(|link| **link != NONE) {
                        *link = numbering.places[*link as usize];
                    }
                }
            },
        );
    links
}
