//! A law that embeddings could follow, for benches of more rows than there is real data for: any row of any number of them,
//! made alone.
//!
//! ```text
//! row = mean + Σ over levels of a tree (centre of the node it falls in) + a point of the leaf's own flat + noise,
//! scaled to unit length
//! ```
//!
//! - The tree has [`BRANCHES`] on its levels, and a row takes branch i with a chance that falls as 1 / (i + 2): a few clusters
//!   hold many rows and most hold few.
//! - The flat of a leaf has 12 to 35 directions of its own: rows spread out in few dimensions, other ones everywhere.
//! - Rows lie at heavy-tailed distances from their leaf's centre.
//! - The variance of the dimensions falls from the first to the last, which a permutation hides.
//! - One row of [`COPY_EVERY`] is an earlier row but for a little noise.
//!
//! A row depends on the seed and its number, by operations that IEEE 754 defines to the bit: the same bytes on every machine
//! and at any number of threads. How far the law is from two real datasets is measured in `datasets/README.md`.

use rayon::prelude::*;

use crate::vectors::{Random, VectorBuf};

/// Children of a node of the tree, from its root down.
const BRANCHES: [usize; 3] = [64, 64, 16];

/// Length of what a level's centre adds, and of a leaf's own part, before the row is scaled to length 1.
const LEVEL_LENGTHS: [f32; 3] = [0.40, 0.34, 0.26];
const MEAN_LENGTH: f32 = 0.40;
const FLAT_LENGTH: f32 = 0.62;
const NOISE_LENGTH: f32 = 0.40;

/// Fewest directions of a leaf's flat, and how many counts of them there are.
const FLAT_DIMS: (usize, usize) = (12, 24);

/// One row of so many repeats another, but for noise of this length.
pub const COPY_EVERY: usize = 32;
const COPY_NOISE_LENGTH: f32 = 0.04;

/// Distinct streams of the seed.
const MEAN_STREAM: u64 = 0x6d65_616e;
const TREE_STREAM: u64 = 0x7472_6565;
const ROW_STREAM: u64 = 0x726f_7773;
const COPY_STREAM: u64 = 0x636f_7079;

/// Rows that are asked for and not indexed are numbered from here.
pub const FIRST_QUERY: u64 = 1 << 48;

/// The law of one seed, in one number of dimensions.
#[derive(Debug, Clone)]
pub struct Law {
    seed: u64,
    mean: Vec<f32>,
    /// Standard deviation of each dimension; their squares have a sum of 1.
    spread: Vec<f32>,
    /// For each level, the chance of the branches up to each, in 2⁻³² parts.
    chances: Vec<Vec<u64>>,
}

impl Law {
    /// # Panics
    /// If `dim` is 0.
    pub fn new(dim: usize, seed: u64) -> Self {
        assert!(dim > 0, "vectors have at least one dimension");
        let mut random = Random::of(seed, MEAN_STREAM);
        let mut spread: Vec<f32> =
            (0..dim).map(|d| 1.0 / (1.0 + 15.0 * d as f32 / dim as f32).sqrt()).collect();
        for last in (1..dim).rev() {
            spread.swap(last, random.below(last + 1));
        }
        let length = spread.iter().map(|&x| x * x).sum::<f32>().sqrt();
        spread.iter_mut().for_each(|x| *x /= length);
        let mut law = Self { seed, mean: vec![0.0; dim], spread, chances: BRANCHES.map(chances).to_vec() };
        let mut mean = vec![0.0; dim];
        law.add(&mut random, MEAN_LENGTH, &mut mean);
        law.mean = mean;
        law
    }

    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Rows `start`, `start + 1`, …, of unit length.
    pub fn rows(&self, start: u64, count: usize) -> VectorBuf {
        let mut rows = VectorBuf::zeroed(count, self.dim());
        rows.as_mut_slice()
            .par_chunks_mut(self.dim())
            .enumerate()
            .for_each(|(row, out)| self.row(start + row as u64, out));
        rows
    }

    /// Row `number`, of unit length, to `out`.
    fn row(&self, number: u64, out: &mut [f32]) {
        let mut copy = Random::of(self.seed ^ COPY_STREAM, number);
        let is_copy = copy.below(COPY_EVERY) == 0 && number > 0 && number < FIRST_QUERY;
        // What is repeated is as it would be if it repeated nothing itself.
        let original = if is_copy { copy.below(number as usize) as u64 } else { number };
        self.original(original, out);
        if is_copy {
            self.add(&mut copy, COPY_NOISE_LENGTH, out);
            to_unit_length(out);
        }
    }

    fn original(&self, number: u64, out: &mut [f32]) {
        let mut random = Random::of(self.seed ^ ROW_STREAM, number);
        let mut node = self.seed ^ TREE_STREAM;
        out.copy_from_slice(&self.mean);
        for (chances, length) in self.chances.iter().zip(LEVEL_LENGTHS) {
            let drawn = random.next_u64() >> 32;
            let branch = chances.partition_point(|&up_to| up_to <= drawn);
            node = Random::of(node, branch as u64).next_u64();
            self.add(&mut Random::of(node, MEAN_STREAM), length, out);
        }
        let mut leaf = Random::of(node, TREE_STREAM);
        let flat_dims = FLAT_DIMS.0 + leaf.below(FLAT_DIMS.1);
        // Most rows at about 0.8, one of a hundred beyond 2.5.
        let distance = (0.55 + 0.2 / (random.unit() as f32).sqrt()).min(4.0);
        let length = FLAT_LENGTH * distance / (flat_dims as f32).sqrt();
        for _ in 0..flat_dims {
            let along = length * normal(&mut random);
            self.add(&mut leaf, along, out);
        }
        self.add(&mut random, NOISE_LENGTH, out);
        to_unit_length(out);
    }

    /// Adds a draw from the dimensions' spread, of about this length.
    fn add(&self, random: &mut Random, length: f32, out: &mut [f32]) {
        for (out, &spread) in out.iter_mut().zip(&self.spread) {
            *out += length * spread * normal(random);
        }
    }
}

/// The chance of branches 0 to each, in 2⁻³² parts; 1 at the last.
fn chances(branches: usize) -> Vec<u64> {
    let weight = |branch: usize| 1.0 / (branch as f64 + 2.0);
    let total: f64 = (0..branches).map(weight).sum();
    let mut sum = 0.0;
    let mut up_to: Vec<u64> = (0..branches)
        .map(|branch| {
            sum += weight(branch);
            (sum / total * (1u64 << 32) as f64) as u64
        })
        .collect();
    up_to[branches - 1] = 1 << 32;
    up_to
}

/// Nearly standard normal: the sum of four uniform numbers, from the four quarters of one draw. A logarithm or a cosine would
/// differ in its last bit from one system's library to another's.
fn normal(random: &mut Random) -> f32 {
    let bits = random.next_u64();
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    // The mean is 2 · 65,535, the variance 4 · (2³² − 1) / 12.
    (sum as f32 - 131_070.0) * (1.0 / 37_837.226)
}

fn to_unit_length(row: &mut [f32]) {
    let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = squares.sqrt() as f32;
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x /= length);
    } else {
        row[0] = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_block_alone_is_the_same_as_within_all() {
        for dim in [1, 2, 17, 96] {
            let law = Law::new(dim, 5);
            let all = law.rows(0, 300);
            for (start, count) in [(0, 1), (7, 100), (299, 1), (300, 0)] {
                let block = law.rows(start as u64, count);
                assert_eq!(block.view().as_slice(), all.view().slice(start, start + count).as_slice());
            }
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(one.install(|| law.rows(0, 300)), all);
        }
    }

    /// Held so that a figure measured on generated rows stays comparable with one measured later.
    #[test]
    fn the_rows_of_a_seed_never_change() {
        let rows = Law::new(24, 1).rows(1_000, 200);
        let queries = Law::new(24, 1).rows(FIRST_QUERY, 10);
        // FNV-1a of the values' bits.
        let digest = |rows: &VectorBuf| {
            let bits = rows.view().as_slice().iter().map(|x| u64::from(x.to_bits()));
            bits.fold(0xcbf2_9ce4_8422_2325, |hash: u64, bits| (hash ^ bits).wrapping_mul(0x100_0000_01b3))
        };
        assert_eq!((digest(&rows), digest(&queries)), DIGESTS);
    }

    const DIGESTS: (u64, u64) = (0x93e4_942e_f23b_091a, 0x0384_3ec3_a489_217a);

    #[test]
    fn rows_are_finite_of_unit_length_and_seldom_near_copies() {
        let rows = Law::new(48, 2).rows(0, 2_000);
        for row in rows.view().iter() {
            let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((squares - 1.0).abs() < 1e-5);
        }
        let squared = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>();
        let copies = (1..2_000)
            .filter(|&row| (0..row).any(|other| squared(rows.row(row), rows.row(other)) < 0.01))
            .count();
        // One of 32 is 62.
        assert!((40..90).contains(&copies), "{copies} copies");
    }

    #[test]
    fn another_seed_is_another_law() {
        assert_ne!(Law::new(8, 1).rows(0, 10), Law::new(8, 2).rows(0, 10));
    }

    #[test]
    fn a_draw_has_mean_0_and_variance_1() {
        let mut random = Random::new(3);
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(normal(&mut random))).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
