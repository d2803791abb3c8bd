//! Blocks of 4-bit codes on every instruction set, against loops that one can check by eye.

use super::*;
use crate::vectors::Random;

const SHAPES: [(usize, usize); 12] =
    [(1, 1), (1, 7), (2, 3), (3, 1), (4, 4), (5, 2), (7, 1), (8, 3), (50, 2), (96, 4), (393, 2), (600, 1)];

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Entry `j` of table `m` by the definition: offset + scale · ⟨sub-vector, entry⟩.
fn entry(book: &NibbleBook<'_>, query: &[f32], scale: f32, m: usize, j: usize) -> f64 {
    let products = (0..book.dsub)
        .map(|d| f64::from(query[m * book.dsub + d]) * f64::from(book.entries[(m * book.dsub + d) * 16 + j]));
    let offset = book.offsets.get(m * 16 + j).copied().unwrap_or(0.0);
    f64::from(offset) + f64::from(scale) * products.sum::<f64>()
}

/// The byte at which table `m` has entry `j`, and where it has it again.
fn place(m: usize, j: usize) -> [usize; 2] {
    let at = m / 4 * 128 + m % 2 * 64 + m / 2 % 2 * 32 + j;
    [at, at + 16]
}

#[test]
fn tables_are_within_half_a_step_of_their_definition() {
    for kernels in available() {
        for (pq_m, dsub) in SHAPES {
            for scale in [-1.0, -2.0] {
                let (entries, offsets) = (normal(1, pq_m * dsub * 16), normal(2, pq_m * 16));
                let query = normal(3, pq_m * dsub);
                for offsets in [&offsets[..], &[]] {
                    let book = NibbleBook { pq_m, dsub, entries: &entries, offsets };
                    let mut tables = vec![0xff; nibble_tables_len(pq_m)];
                    let mut values = vec![f32::NAN; pq_m * 16];
                    let quantized = (kernels.nibble_tables)(book, &query, scale, &mut values, &mut tables);
                    let (step, mut least) = (f64::from(quantized.step), 0.0);
                    assert!(step > 0.0);
                    for m in 0..pq_m {
                        let of = |j| entry(&book, &query, scale, m, j);
                        let low = (0..16).map(of).fold(f64::INFINITY, f64::min);
                        least += low;
                        for j in 0..16 {
                            let [at, again] = place(m, j);
                            assert_eq!(tables[at], tables[again]);
                            assert!(tables[at] <= 127);
                            let error = (f64::from(tables[at]) * step + low - of(j)).abs();
                            assert!(error <= 0.501 * step, "{} {pq_m} × {dsub}: {error}", kernels.isa);
                        }
                    }
                    assert!((f64::from(quantized.offset) - least).abs() <= 1e-5 * pq_m as f64);
                    for m in pq_m..pq_m.next_multiple_of(4) {
                        assert!(
                            (0..16).all(|j| place(m, j).into_iter().all(|at| tables[at] == 0)),
                            "no table {m}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn tables_without_range_have_entries_of_zero() {
    for kernels in available() {
        let book = NibbleBook { pq_m: 3, dsub: 2, entries: &[0.5; 96], offsets: &[] };
        let mut tables = vec![1; nibble_tables_len(3)];
        let quantized = (kernels.nibble_tables)(book, &[1.0; 6], -1.0, &mut [0.0; 48], &mut tables);
        assert_eq!(quantized, Quantized { step: 0.0, offset: -3.0 });
        assert!(tables.iter().all(|&entry| entry == 0));
    }
}

/// Codes of `rows` rows, and as blocks. Places behind the last row hold what must not matter.
fn blocks(rows: usize, pq_m: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut random = Random::new(seed);
    let codes: Vec<u8> = (0..rows * pq_m).map(|_| (random.next_u64() % 16) as u8).collect();
    let columns = pq_m.div_ceil(2);
    let mut blocks: Vec<u8> =
        (0..rows.div_ceil(32) * columns * 32).map(|_| (random.next_u64() % 16) as u8 * 16).collect();
    for row in 0..rows {
        for column in 0..columns {
            let half = |m: usize| if m < pq_m { codes[row * pq_m + m] } else { 0 };
            blocks[(row / 32 * columns + column) * 32 + row % 32] =
                half(2 * column) | half(2 * column + 1) << 4;
        }
    }
    (codes, blocks)
}

/// An ordinal whose block straddles two words of a mask.
const FIRST: usize = 1003;

#[test]
fn scans_find_what_their_definition_finds_to_the_bit() {
    for (pq_m, _) in SHAPES {
        for rows in [1, 2, 15, 16, 17, 31, 32, 33, 64, 100] {
            let (codes, blocks) = blocks(rows, pq_m, rows as u64);
            let mut random = Random::new(7);
            let limit = 127.min(65_535 / pq_m) as u64;
            let mut tables = vec![0u8; nibble_tables_len(pq_m)];
            for m in 0..pq_m {
                for j in 0..16 {
                    // The greatest entries everywhere in the first tables: sums must not wrap.
                    let value = if rows % 2 == 0 { limit } else { random.next_u64() % (limit + 1) } as u8;
                    place(m, j).into_iter().for_each(|at| tables[at] = value);
                }
            }
            let quantized = Quantized { step: 0.01, offset: -1.5 };
            let score = |row: usize| {
                let entry = |m: usize| u32::from(tables[place(m, usize::from(codes[row * pq_m + m]))[0]]);
                quantized.step * (0..pq_m).map(entry).sum::<u32>() as f32 + quantized.offset
            };
            let mut sorted: Vec<f32> = (0..rows).map(score).collect();
            sorted.sort_by(f32::total_cmp);
            for bound in [f32::INFINITY, f32::NEG_INFINITY, sorted[0], sorted[rows / 2], sorted[rows - 1]] {
                let some: Vec<u64> =
                    (0..(FIRST + rows).div_ceil(64)).map(|_| random.next_u64() & random.next_u64()).collect();
                let none = vec![0; some.len()];
                for allowed in [&[], some.as_slice(), &none] {
                    let is_allowed =
                        |row: usize| allowed.is_empty() || allowed[row / 64] >> (row % 64) & 1 == 1;
                    let expected: Vec<u64> = (0..rows)
                        .filter(|&row| score(row) <= bound && is_allowed(FIRST + row))
                        .map(|row| Neighbor::new((FIRST + row) as u32, score(row)).key())
                        .collect();
                    let (blocks, tables, first) = (&blocks, &tables, FIRST as u32);
                    for kernels in available() {
                        let scan = NibbleScan { blocks, rows, first, pq_m, tables, quantized, allowed };
                        let mut keys = vec![u64::MAX; rows + NIBBLE_SLACK];
                        let found = (kernels.nibble_scan)(scan, bound, &mut keys);
                        assert_eq!(keys[..found], expected, "{} {pq_m} × {rows} to {bound}", kernels.isa);
                    }
                }
            }
        }
    }
}

/// Numbers of each row beside the sums: what is found is that of the formula, rounded after each operation.
#[test]
fn sign_scans_find_what_their_definition_finds_to_the_bit() {
    for pq_m in [2, 4, 26, 96, 194, 1024] {
        for rows in [1, 15, 31, 32, 33, 64, 100] {
            let (codes, plain) = blocks(rows, pq_m, rows as u64);
            let (adds, factors) = (normal(5, rows), normal(6, rows));
            let columns = pq_m.div_ceil(2);
            let mut blocks = Vec::new();
            for (block, codes) in plain.chunks_exact(columns * 32).enumerate() {
                blocks.extend_from_slice(codes);
                for numbers in [&adds, &factors] {
                    let own = |place: usize| numbers.get(block * 32 + place).copied().unwrap_or(f32::NAN);
                    blocks.extend((0..32).flat_map(|place| own(place).to_le_bytes()));
                }
            }
            let mut random = Random::new(7);
            let mut tables = vec![0u8; nibble_tables_len(pq_m)];
            for (m, j) in (0..pq_m).flat_map(|m| (0..16).map(move |j| (m, j))) {
                let value = (random.next_u64() % (127.min(65_535 / pq_m as u64) + 1)) as u8;
                place(m, j).into_iter().for_each(|at| tables[at] = value);
            }
            let quantized = Quantized { step: 0.01, offset: -1.5 };
            let shared = 3.25;
            let score = |row: usize| {
                let entry = |m: usize| u32::from(tables[place(m, usize::from(codes[row * pq_m + m]))[0]]);
                let sum = (0..pq_m).map(entry).sum::<u32>() as f32;
                factors[row] * (quantized.step * sum + quantized.offset) + (adds[row] + shared)
            };
            let mut sorted: Vec<f32> = (0..rows).map(score).collect();
            sorted.sort_by(f32::total_cmp);
            let some: Vec<u64> = (0..(FIRST + rows).div_ceil(64)).map(|_| random.next_u64()).collect();
            for bound in [f32::INFINITY, f32::NEG_INFINITY, sorted[0], sorted[rows / 2]] {
                for allowed in [&[], some.as_slice()] {
                    let is_allowed =
                        |row: usize| allowed.is_empty() || allowed[row / 64] >> (row % 64) & 1 == 1;
                    let expected: Vec<u64> = (0..rows)
                        .filter(|&row| score(row) <= bound && is_allowed(FIRST + row))
                        .map(|row| Neighbor::new((FIRST + row) as u32, score(row)).key())
                        .collect();
                    let (blocks, tables, first) = (&blocks, &tables, FIRST as u32);
                    for kernels in available() {
                        let nibbles = NibbleScan { blocks, rows, first, pq_m, tables, quantized, allowed };
                        let mut keys = vec![u64::MAX; rows + NIBBLE_SLACK];
                        let found = (kernels.sign_scan)(SignScan { nibbles, shared }, bound, &mut keys);
                        assert_eq!(keys[..found], expected, "{} {pq_m} × {rows} to {bound}", kernels.isa);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_levels_have_the_products_and_distances_of_their_definitions() {
    for dim in [1, 3, 7, 8, 15, 16, 17, 31, 33, 100, 128, 385] {
        for rows in [0, 1, 2, 3, 4, 5, 9] {
            let (query, steps) = (normal(1, dim), normal(2, dim));
            let mut random = Random::new(3);
            let levels: Vec<u8> = (0..rows * dim).map(|_| random.next_u64() as u8).collect();
            for kernels in available() {
                let (mut dots, mut distances) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
                (kernels.dot_levels)(&query, &levels, &mut dots);
                (kernels.l2_levels)(&query, &steps, &levels, &mut distances);
                for (row, levels) in levels.chunks_exact(dim).enumerate() {
                    let (mut dot, mut distance, mut scale) = (0.0, 0.0, 0.0f64);
                    for ((&q, &step), &level) in query.iter().zip(&steps).zip(levels) {
                        let (q, step, level) = (f64::from(q), f64::from(step), f64::from(level));
                        dot += q * level;
                        scale += (q * level).abs();
                        distance += (q - step * level) * (q - step * level);
                    }
                    let error = (f64::from(dots[row]) - dot).abs();
                    assert!(error <= 1e-6 * scale, "{} {dim}-d: {error}", kernels.isa);
                    let error = (f64::from(distances[row]) - distance).abs();
                    assert!(error <= 2e-6 * distance, "{} {dim}-d: {error}", kernels.isa);
                    // Alone a row has the bits that it has among others.
                    let mut alone = [f32::NAN; 2];
                    (kernels.dot_levels)(&query, levels, &mut alone[..1]);
                    (kernels.l2_levels)(&query, &steps, levels, &mut alone[1..]);
                    assert_eq!(alone, [dots[row], distances[row]], "{}", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn rows_get_the_same_scores_alone_and_in_a_batch() {
    for metric in Metric::ALL {
        for (rows, dim) in [(1, 1), (3, 5), (31, 16), (33, 7), (200, 100), (130, 33)] {
            let (base, queries) = (normal(1, rows * dim), normal(2, 19 * dim));
            let ranking = Ranking::of(VectorView::new(&base, dim), metric);
            let stride = ranking.stride();
            let queries = VectorView::new(&queries, dim);
            let mut together = vec![0.0; 19 * stride];
            ranking.scores(queries, &mut together);
            let mut alone = vec![0.0; stride];
            for (query, together) in queries.iter().zip(together.chunks_exact(stride)) {
                ranking.scores(VectorView::new(query, dim), &mut alone);
                assert_eq!(alone[..rows], together[..rows]);
                for (row, &score) in base.chunks_exact(dim).zip(together) {
                    let dot = |a: &[f32], b: &[f32]| {
                        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
                    };
                    let defined = match metric {
                        Metric::L2 => dot(row, row) - 2.0 * dot(row, query),
                        _ => -dot(row, query),
                    };
                    let error = (f64::from(score) - defined).abs();
                    assert!(error <= 1e-5 * (dot(row, row) + dot(query, query)), "{metric} {rows} × {dim}");
                }
            }
        }
    }
}
