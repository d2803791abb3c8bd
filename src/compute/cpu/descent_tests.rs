//! Score-aware codes of every instruction set against their definition.

use super::ScoredRow;
use super::dispatch::available;
use crate::vectors::Random;

/// Small integers: sums are exact in any order, and ties are many.
fn lattice(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.below(7) as f32 - 3.0).collect()
}

/// Loss by loss, with the code as it would be.
fn by_definition(scored: ScoredRow<'_>, code: &mut [u8]) {
    let ScoredRow { row, target, entries, ksub, weight, sweeps } = scored;
    let dsub = row.len() / code.len();
    let loss = |code: &[u8]| {
        let (mut error, mut along) = (0.0f64, 0.0f64);
        for d in 0..row.len() {
            let missing = f64::from(target[d] - entries[d * ksub + usize::from(code[d / dsub])]);
            error += missing * missing;
            along += missing * f64::from(row[d]);
        }
        error + f64::from(weight) * along * along
    };
    for _ in 0..sweeps {
        for m in 0..code.len() {
            let mut best = code.to_vec();
            for entry in 0..ksub {
                let mut other = code.to_vec();
                other[m] = entry as u8;
                if loss(&other) < loss(&best) {
                    best = other;
                }
            }
            code.copy_from_slice(&best);
        }
    }
}

#[test]
fn codes_descend_as_their_definition_does() {
    for (seed, (pq_m, dsub, ksub)) in
        [(1, 1, 16), (5, 2, 16), (3, 7, 16), (12, 3, 16), (4, 2, 256)].into_iter().enumerate()
    {
        let entries = lattice(seed as u64, pq_m * dsub * ksub);
        for (index, weight) in [0.0, 0.25, 0.5, 4.0].into_iter().enumerate() {
            for sweeps in [0, 1, 2, 5] {
                let seed = (10 * seed + index) as u64;
                let (row, target) = (lattice(seed + 100, pq_m * dsub), lattice(seed + 200, pq_m * dsub));
                let scored =
                    ScoredRow { row: &row, target: &target, entries: &entries, ksub, weight, sweeps };
                let mut random = Random::new(seed);
                let start: Vec<u8> = (0..pq_m).map(|_| random.below(ksub) as u8).collect();
                let mut expected = start.clone();
                by_definition(scored, &mut expected);
                for kernels in available() {
                    let mut code = start.clone();
                    let mut tables = [vec![0.0; pq_m * ksub], vec![0.0; pq_m * ksub], vec![0.0; ksub]];
                    let [along, error, loss] = &mut tables;
                    (kernels.descend)(scored, &mut code, along, error, loss);
                    assert_eq!(code, expected, "{} {pq_m} × {dsub}, {ksub} entries, {weight}", kernels.isa);
                }
            }
        }
    }
}
