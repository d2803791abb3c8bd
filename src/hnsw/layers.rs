//! All layers of a graph together: where each row stands, how one layer helps the other, and what an index is made of.

use std::io;
use std::path::Path;

use super::codes::Codes;
use super::components::Components;
use super::links::{Links, NONE};
use super::params::HnswParams;
use super::{BuildStats, Hnsw, connect, upper_offsets};
use crate::index::KeptVectors;
use crate::vectors::{Metric, VectorBuf};

/// One level of the graph.
pub(super) struct Layer {
    /// The rows that are on it, ascending. The layer's own rows are places in here.
    pub members: Vec<u32>,
    pub links: Links,
    /// As near rows' links leave them.
    pub components: Components,
}

impl Layer {
    /// Puts a row of each component on `level`, the one above, where none is on it yet: a search comes down to where the
    /// levels above lead it, and nothing but chance would lead it to the others.
    pub fn represent(&self, levels: &mut [u8], level: u8) {
        // Where no row has a link, as among fewer rows than a leaf takes, all would go up, for ever.
        if self.components.count() == 1 || self.components.count() == self.members.len() {
            return;
        }
        let places = || (0..self.members.len() as u32).zip(&self.members);
        let mut is_represented = vec![false; self.members.len()];
        for (place, &row) in places() {
            is_represented[self.components.of(place) as usize] |= levels[row as usize] >= level;
        }
        // Rather a row that has room for the links that come with it.
        for (place, &row) in places().filter(|&(place, _)| self.links.has_room(place)).chain(places()) {
            if !std::mem::replace(&mut is_represented[self.components.of(place) as usize], true) {
                levels[row as usize] = level;
            }
        }
    }

    /// Takes from the layer above the links that lead from one component to another.
    fn bridge(&mut self, above: &Layer) {
        if self.components.count() == 1 {
            return;
        }
        let places: Vec<u32> = above.members.iter().map(|&row| self.place_of(row)).collect();
        for (above_place, &from) in places.iter().enumerate() {
            for to in above.links.of(above_place as u32).map(|to| places[to as usize]) {
                if self.components.of(from) != self.components.of(to) {
                    self.links.add(from, to);
                    self.links.add(to, from);
                }
            }
        }
    }

    fn place_of(&self, row: u32) -> u32 {
        self.members.binary_search(&row).expect("a row is a member of its levels") as u32
    }
}

/// All layers, over rows as the index numbers them.
pub(super) struct Layers {
    /// The highest level of each row.
    levels: Vec<u8>,
    /// From the base up.
    layers: Vec<Layer>,
    /// Where a search begins.
    entry_point: u32,
    /// Rows that had to be linked, on all layers.
    repaired: usize,
}

impl Layers {
    /// Connects the layers, each with help of the one above it, so that every row is reached from the entry point.
    pub fn connected(levels: Vec<u8>, mut layers: Vec<Layer>) -> Self {
        // The first row of the highest level.
        let entry_point = layers.last().expect("the base layer").members[0];
        let (mut rest, mut above, mut repaired) = (&mut layers[..], None::<&Layer>, 0);
        while let Some((layer, below)) = rest.split_last_mut() {
            if let Some(above) = above {
                layer.bridge(above);
            }
            let entry = layer.place_of(entry_point);
            repaired += connect::repair(&mut layer.links, entry);
            (above, rest) = (Some(&*layer), below);
        }
        Self { levels, layers, entry_point, repaired }
    }

    /// The same graph where what is row `order[p]` here is row `p`; every row stands once in `order`.
    pub fn renumbered(mut self, folder: Option<&Path>, order: &[u32]) -> io::Result<Self> {
        let mut places = vec![0; order.len()];
        (0..).zip(order).for_each(|(place, &row)| places[row as usize] = place);
        self.levels = order.iter().map(|&row| self.levels[row as usize]).collect();
        self.entry_point = places[self.entry_point as usize];
        for layer in &mut self.layers {
            // Members ascend, so that their order follows from the rows'.
            let mut own: Vec<(u32, u32)> =
                layer.members.iter().map(|&row| places[row as usize]).zip(0..).collect();
            own.sort_unstable();
            let mut place_of = vec![0; own.len()];
            (0..).zip(&own).for_each(|(place, &(_, was))| place_of[was as usize] = place);
            let mut links = Links::new(folder, own.len(), layer.links.degree())?;
            for (place, &(_, was)) in (0..).zip(&own) {
                let slots = links.slots_mut(place).iter_mut();
                slots.zip(layer.links.of(was)).for_each(|(slot, to)| *slot = place_of[to as usize]);
            }
            layer.members = own.into_iter().map(|(row, _)| row).collect();
            layer.links = links;
        }
        Ok(self)
    }

    pub fn stats(&self) -> BuildStats {
        BuildStats {
            level_rows: self.layers.iter().map(|layer| layer.members.len() as u64).collect(),
            mean_degree: self.layers[0].links.count() as f64 / self.levels.len() as f64,
            components: self.layers.iter().map(|layer| layer.components.count() as u64).collect(),
            repaired_rows: self.repaired as u64,
        }
    }

    /// The graph over `rows`, whose ordinals are their places.
    pub fn index(
        self,
        folder: Option<&Path>,
        rows: VectorBuf,
        metric: Metric,
        params: &HnswParams,
    ) -> io::Result<Hnsw> {
        let Self { levels, mut layers, entry_point, .. } = self;
        let upper = layers.split_off(1);
        let base = layers.pop().expect("the base layer").links;
        let mut next = vec![0; upper.len()];
        let mut upper_links = Vec::new();
        for (row, &level) in (0..).zip(&levels) {
            for (layer, next) in upper[..usize::from(level)].iter().zip(&mut next) {
                // Members are ascending, as rows are.
                assert_eq!(layer.members[*next as usize], row);
                upper_links.extend(layer.links.slots(*next).iter().map(|&to| match to {
                    NONE => NONE,
                    place => layer.members[place as usize],
                }));
                *next += 1;
            }
        }
        drop(upper);
        let degree = base.degree();
        Ok(Hnsw {
            metric,
            codes: Codes::encode(folder, rows.view(), metric, params.code)?,
            vectors: KeptVectors::whole(rows),
            links: base.into_slots(),
            degree,
            upper_offsets: upper_offsets(&levels),
            levels: levels.into(),
            upper_links: upper_links.into(),
            m: params.m,
            entry_point,
            growth: None,
        })
    }
}
