//! Rows → graph, in the order in which the stages run. Deterministic: what is drawn depends on seed and row, and
//! every merge has a total order.

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use rayon::prelude::*;

use super::Hnsw;
use super::candidates::Candidates;
use super::components::Components;
use super::cover::{Cover, CoverBuilder};
use super::duplicates::Duplicates;
use super::layers::{Layer, Layers};
use super::links::Links;
use super::memory::{Load, Memory, Plan};
use super::numbering::{in_order, permute};
use super::params::HnswParams;
use super::partition::{Carving, Source, carve};
use super::prune::Prune;
use super::reach::growth;
use super::scratch::ScratchFile;
use crate::artifact::Element;
use crate::artifact::spill::{self, Access, Buffer, trim};
use crate::compute::cpu::{ByteRows, kernels};
use crate::compute::{Compute, ComputeError, Rows};
use crate::train::{Observer, Progress, TrainError, check_magnitude};
use crate::vectors::{Metric, Random, VectorBuf, VectorView, squared_norm};

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

/// The rows of a graph.
#[derive(Debug)]
pub struct GraphRows {
    vectors: VectorBuf,
    groups: Option<Vec<u32>>,
}

impl GraphRows {
    /// Rows that are numbered group by group, `groups` having each row's. Links do not depend on it.
    ///
    /// # Panics
    /// If there are not as many of them as rows.
    pub fn grouped(vectors: VectorBuf, groups: Vec<u32>) -> Self {
        assert_eq!(vectors.rows(), groups.len(), "a group for each row");
        Self { vectors, groups: Some(groups) }
    }
}

impl From<VectorBuf> for GraphRows {
    fn from(vectors: VectorBuf) -> Self {
        Self { vectors, groups: None }
    }
}

impl From<VectorView<'_>> for GraphRows {
    fn from(rows: VectorView<'_>) -> Self {
        VectorBuf::from(rows).into()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{rows} rows: expected 1 to {max}", max = Hnsw::MAX_ROWS)]
    Rows { rows: usize },
    #[error("metric {metric}: expected l2, inner_product or cosine; a flat index takes it")]
    Metric { metric: Metric },
    #[error(
        "memory for the build of {rows} rows of {dim} dimensions, beside these and the index: expected a budget of at least \
         {expected} bytes, got {got}"
    )]
    Budget { rows: usize, dim: usize, expected: u64, got: u64 },
    #[error("scratch file {}: {source}", path.display())]
    Scratch { path: PathBuf, source: io::Error },
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
/// bytes at any number of threads. Rows that are handed over, as a [`VectorBuf`], become the index's own in the memory that
/// they are in; of a view, a copy does.
///
/// # Errors
/// No rows or more than [`Hnsw::MAX_ROWS`], parameters out of their ranges, rows whose distances f32 cannot hold, a
/// backend's failure, and `observer`'s wish to stop.
pub fn build(
    compute: &dyn Compute,
    rows: impl Into<GraphRows>,
    metric: Metric,
    params: &HnswParams,
    seed: u64,
    observer: Observer<'_>,
) -> Result<Built> {
    build_within(&Memory::default(), compute, rows, metric, params, seed, observer)
}

/// [`build`] with a budget for its memory. The index is the same.
///
/// # Errors
/// As [`build`]; [`BuildError::Budget`] where the budget is less than the build takes at least, and [`BuildError::Scratch`].
pub fn build_within(
    memory: &Memory,
    compute: &dyn Compute,
    rows: impl Into<GraphRows>,
    metric: Metric,
    params: &HnswParams,
    seed: u64,
    observer: Observer<'_>,
) -> Result<Built> {
    let GraphRows { vectors: rows, groups } = rows.into();
    if rows.rows() == 0 || rows.rows() > Hnsw::MAX_ROWS {
        return Err(BuildError::Rows { rows: rows.rows() });
    }
    params.check()?;
    check_magnitude(rows.view())?;
    let builder = Builder { compute, params, memory, arrays: memory.arrays(), observer };
    let (mut layers, mut order, mut rows) = match metric {
        Metric::InnerProduct => {
            let dim = rows.dim();
            // Mapped, the rows themselves are put in order once more; in memory they must not be there twice.
            let source = builder.arrays.as_ref().map(|_| rows.clone());
            let mut augmented = builder.augment(rows)?;
            let (layers, order) = builder.graph(&mut augmented, seed)?;
            let rows = match source {
                None => first_dimensions(augmented, dim),
                Some(mut rows) => {
                    builder.put_in_order(&mut rows, &order)?;
                    rows
                }
            };
            (layers, order, rows)
        }
        Metric::L1 | Metric::Hamming => return Err(BuildError::Metric { metric }),
        Metric::L2 | Metric::Cosine => {
            let mut rows = rows;
            let (layers, order) = builder.graph(&mut rows, seed)?;
            (layers, order, rows)
        }
    };
    if let Some(groups) = groups {
        // Within a group rows stay as they are: near ones close together.
        let mut by_group: Vec<u32> = (0..order.len() as u32).collect();
        by_group.sort_by_key(|&place| groups[order[place as usize] as usize]);
        layers = layers.renumbered(builder.arrays.as_deref(), &by_group).map_err(|e| builder.spilling(e))?;
        builder.put_in_order(&mut rows, &by_group)?;
        order = by_group.iter().map(|&place| order[place as usize]).collect();
    }
    let stats = layers.stats();
    let mut index =
        layers.index(builder.arrays.as_deref(), rows, metric, params).map_err(|e| builder.spilling(e))?;
    index.growth = growth(&index, seed);
    trim();
    Ok(Built { index, order, stats })
}

/// The rows without what [`Builder::augment`] added, in the memory that they are in.
fn first_dimensions(rows: VectorBuf, dim: usize) -> VectorBuf {
    let (count, stride) = (rows.rows(), rows.dim());
    let mut values = rows.into_vec();
    for row in 1..count {
        values.copy_within(row * stride..row * stride + dim, row * dim);
    }
    values.truncate(count * dim);
    VectorBuf::new(values, dim)
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
    memory: &'a Memory,
    /// The folder for arrays; `None` is memory.
    arrays: Option<PathBuf>,
    observer: Observer<'a>,
}

impl Builder<'_> {
    /// Maximum inner product as nearest neighbours: with a coordinate √(M² − |x|²) added, all rows have length M and
    /// ‖x − y‖² orders as −⟨x, y⟩ does for a query whose added coordinate is 0 (Bachrach et al., RecSys 2014,
    /// doi:10.1145/2645710.2645741). The graph is built in that space; searching it needs only the inner product.
    fn augment(&self, rows: VectorBuf) -> Result<VectorBuf> {
        let values = rows.view().as_slice().par_chunks_exact(rows.dim());
        let squares: Vec<f64> = values.clone().map(squared_norm).collect();
        let longest = squares.par_iter().copied().reduce(|| 0.0, f64::max);
        let dim = rows.dim() + 1;
        let mut data = self.buffer(rows.rows() * dim)?;
        data.par_chunks_exact_mut(dim).zip(values).zip(&squares).for_each(|((augmented, row), square)| {
            let (values, added) = augmented.split_at_mut(dim - 1);
            values.copy_from_slice(row);
            added[0] = (longest - square).max(0.0).sqrt() as f32;
        });
        Ok(data.into_rows(dim))
    }

    fn buffer<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        Buffer::zeroed(self.arrays.as_deref(), len).map_err(|source| self.spilling(source))
    }

    fn bytes(&self, rows: VectorView<'_>) -> Result<Option<ByteRows>> {
        match &self.arrays {
            None => Ok(ByteRows::encode(rows)),
            Some(folder) => {
                let make = |len| Buffer::<f32>::accessed(Access::Anywhere, Some(folder), len);
                ByteRows::encode_in(rows, make).map_err(|source| self.spilling(source))
            }
        }
    }

    /// Has place `p` of `rows` hold what was row `order[p]`.
    fn put_in_order(&self, rows: &mut VectorBuf, order: &[u32]) -> Result<()> {
        match &self.arrays {
            None => permute(rows, order),
            Some(folder) => {
                *rows = in_order(folder, rows.view(), order).map_err(|source| self.spilling(source))?;
            }
        }
        Ok(())
    }

    /// The rows named.
    fn gather(&self, rows: VectorView<'_>, ordinals: &[u32]) -> Result<VectorBuf> {
        let dim = rows.dim();
        let mut data = self.buffer(ordinals.len() * dim)?;
        data.par_chunks_exact_mut(dim).zip(ordinals).for_each(|(values, &row)| {
            values.copy_from_slice(rows.row(row as usize));
        });
        Ok(data.into_rows(dim))
    }

    /// All layers, from the base up, over rows in an order in which near ones are close together, which `rows` are put in; and
    /// that order.
    fn graph(&self, rows: &mut VectorBuf, seed: u64) -> Result<(Layers, Vec<u32>)> {
        let HnswParams { m, leaf_k, .. } = *self.params;
        let total = rows.rows();
        self.report(0, "partition", 0, total)?;
        let mut levels = draw_levels(total, m, seed);
        let duplicates = Duplicates::of(rows.view());
        duplicates.rows().for_each(|row| levels[row as usize] = 0);
        let base = Shape { level: 0, degree: 2 * m, leaf_k, seed };
        let plan = self.plan(rows.view())?;
        let scratch = self.scratch(plan)?;
        let bytes = self.bytes(rows.view())?;
        let builder = CoverBuilder::new(total, &duplicates, scratch.as_ref());
        let distinct = duplicates.distinct(total);
        let (cover, order) = self.cover(rows.view(), bytes.as_ref(), distinct, builder, base)?;
        // From here on a row is called by its place: what is near is near in memory, and links need no translation.
        drop(bytes);
        trim();
        self.put_in_order(rows, &order)?;
        let duplicates = duplicates.renumbered(&order);
        let mut levels: Vec<u8> = order.iter().map(|&row| levels[row as usize]).collect();
        let mut links = self.near(rows.view(), cover, plan, base)?;
        duplicates.hang(&mut links);
        drop((duplicates, scratch));
        trim();
        let components = Components::new(&links);
        let mut layers = vec![Layer { members: (0..total as u32).collect(), links, components }];
        for level in 1..=MAX_LEVEL {
            layers[usize::from(level) - 1].represent(&mut levels, level);
            let members: Vec<u32> = (0..total as u32).filter(|&row| levels[row as usize] >= level).collect();
            if members.is_empty() {
                break;
            }
            // A descent keeps one row, so it depends on every link more than a search of the base does: as many
            // candidates as there are links, of rows that are few.
            let shape = Shape { level, degree: m, leaf_k: leaf_k.max(m), seed: seed ^ u64::from(level) };
            let links = self.upper_links(self.gather(rows.view(), &members)?.view(), shape)?;
            let components = Components::new(&links);
            layers.push(Layer { members, links, components });
        }
        Ok((Layers::connected(levels, layers), order))
    }

    /// The links of a layer above the base between its rows, which stay in their order.
    fn upper_links(&self, rows: VectorView<'_>, shape: Shape) -> Result<Links> {
        let plan = self.plan(rows)?;
        let scratch = self.scratch(plan)?;
        // Copies of another row are not on levels above the base.
        let none = Duplicates::default();
        let builder = CoverBuilder::in_place(rows.rows(), &none, scratch.as_ref());
        let all = (0..rows.rows() as u32).collect();
        let bytes = self.bytes(rows)?;
        let (cover, _) = self.cover(rows, bytes.as_ref(), all, builder, shape)?;
        drop(bytes);
        self.near(rows, cover, plan, shape)
    }

    fn plan(&self, rows: VectorView<'_>) -> Result<Plan> {
        Plan::new(self.memory, self.load(rows))
    }

    fn load(&self, rows: VectorView<'_>) -> Load<'_> {
        let threads = rayon::current_num_threads();
        Load { rows: rows.rows(), dim: rows.dim(), params: self.params, threads }
    }

    fn scratch(&self, plan: Plan) -> Result<Option<ScratchFile>> {
        let create = || {
            ScratchFile::create(&self.memory.scratch_folder())
                .map_err(|(path, source)| BuildError::Scratch { path, source })
        };
        plan.spill.then(create).transpose()
    }

    /// Small sets of those of `rows` that `distinct` names, overlapping, of rows near each other; and the rows' order.
    fn cover<'s>(
        &self,
        rows: VectorView<'_>,
        bytes: Option<&ByteRows>,
        distinct: Vec<u32>,
        mut builder: CoverBuilder<'_, 's>,
        shape: Shape,
    ) -> Result<(Cover<'s>, Vec<u32>)> {
        let carving =
            Carving { c_max: self.params.c_max, fanout: self.params.fanout.clone(), seed: shape.seed };
        self.report(shape.level, "partition", 0, distinct.len())?;
        let source = Source { vectors: &Rows::on_host(rows), bytes };
        let mut push = |leaf: &[u32]| builder.push(leaf).map_err(|source| self.spilling(source));
        carve(self.compute, source, distinct, &carving, &mut push)?;
        builder.finish().map_err(|source| self.spilling(source))
    }

    /// Links between rows that share a leaf, near ones in different directions.
    fn near(&self, rows: VectorView<'_>, mut cover: Cover<'_>, plan: Plan, shape: Shape) -> Result<Links> {
        let bytes = self.bytes(rows)?;
        let total = rows.rows();
        // In few leaves, a row takes more from each: both ways, as many candidates as there is room for.
        let leaf_k = shape.leaf_k.max(self.params.l_max * total / (2 * cover.slots())).min(64);
        let uploaded = self.compute.upload(rows)?;
        // From here to the links, rows are asked for one here and one there.
        let jumping = spill::Jumping::begin();
        let batches = cover.batches();
        for batch in 0..batches {
            self.report(shape.level, "leaves", batch, batches)?;
            let leaves = cover.leaves(batch).map_err(|source| self.spilling(source))?;
            let found = self.compute.leaf_candidates(&uploaded, bytes.as_ref(), &leaves, leaf_k)?;
            cover.set_nearest(batch, &leaves, &found).map_err(|source| self.spilling(source))?;
        }
        self.report(shape.level, "leaves", batches, batches)?;
        self.report(shape.level, "prune", 0, total)?;
        let mut links = Links::unset(self.arrays.as_deref(), total, shape.degree)
            .map_err(|source| self.spilling(source))?;
        let step = total.div_ceil(plan.ranges);
        let params = self.params;
        links
            .all_slots_mut()
            .par_chunks_mut(step * shape.degree)
            .enumerate()
            .try_for_each(|(range, links)| {
                let first = range * step;
                let range = first as u32..(first + links.len() / shape.degree) as u32;
                prune_range((rows, bytes.as_ref()), &cover, params, range, links)
            })
            .map_err(|source| self.spilling(source))?;
        drop((cover, bytes, uploaded, jumping));
        links.written();
        self.report(shape.level, "link", 0, total)?;
        links.reciprocate(self.load(rows).linking_bytes(&plan));
        self.report(shape.level, "link", total, total)?;
        Ok(links)
    }

    fn spilling(&self, source: io::Error) -> BuildError {
        BuildError::Scratch { path: self.memory.scratch_folder(), source }
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

/// The links of the rows of `range`, `degree` slots each, to `links`.
fn prune_range(
    (rows, bytes): (VectorView<'_>, Option<&ByteRows>),
    cover: &Cover<'_>,
    params: &HnswParams,
    range: Range<u32>,
    links: &mut [u32],
) -> io::Result<()> {
    let mut candidates = Candidates::new(rows, bytes, kernels(), params.l_max, range.clone());
    for batch in 0..cover.batches() {
        candidates.absorb(&cover.batch(batch)?);
    }
    let degree = links.len() / range.len();
    let mut prune = Prune::new(rows, bytes, kernels(), params, degree);
    for (row, links) in range.zip(links.chunks_exact_mut(degree)) {
        prune.links(row, candidates.of(row), links);
    }
    Ok(())
}
