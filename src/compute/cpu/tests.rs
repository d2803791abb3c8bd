use half::f16;

use super::panels::Aligned;
use super::*;
use crate::compute::contract;
use crate::vectors::{Random, VectorBuf};

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.normal() as f32).collect()
}

fn dims() -> impl Iterator<Item = usize> {
    (0..=70).chain([100, 128, 131, 768, 1536])
}

#[track_caller]
fn assert_close(got: f32, defined: f64, magnitude: f64) {
    let error = (f64::from(got) - defined).abs();
    assert!(error <= 2e-6 * magnitude, "got {got}, defined {defined}, error {}", error / magnitude);
}

#[test]
fn every_instruction_set_keeps_the_contract() {
    for kernels in available() {
        println!("{}", kernels.isa);
        contract::all(&Cpu::with_kernels(kernels));
    }
}

#[test]
fn dot_and_l2_match_their_definition() {
    for kernels in available() {
        for dim in dims() {
            let (a, b) = (normal(dim as u64, dim), normal(99 + dim as u64, dim));
            let terms = || a.iter().zip(&b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
            let magnitude = terms().map(|(a, b)| a * a + b * b).sum();
            assert_close((kernels.dot)(&a, &b), terms().map(|(a, b)| a * b).sum(), magnitude);
            assert_close((kernels.l2)(&a, &b), terms().map(|(a, b)| (a - b) * (a - b)).sum(), magnitude);
        }
    }
}

#[test]
fn a_pair_has_the_same_bits_whichever_kernel_computes_it() {
    for kernels in available() {
        for dim in dims().skip(1) {
            // Row counts around the groups that are computed together.
            for rows in [0, 1, 2, 3, 4, 5, 9, 23] {
                let (query, mut base) = (normal(1, dim), normal(2, rows * dim));
                let halves: Vec<f16> = base.iter().map(|&value| f16::from_f32(value)).collect();
                base = halves.iter().map(|half| half.to_f32()).collect();
                let mut ordinals: Vec<u32> = (0..rows as u32).rev().collect();
                ordinals.extend(0..rows as u32 / 2);
                let row = |ordinal: u32| &base[ordinal as usize * dim..][..dim];
                type Pair = fn(&[f32], &[f32]) -> f32;
                type Scan = fn(&[f32], &[f32], &mut [f32]);
                type Gather<T> = fn(&[f32], &[T], &[u32], &mut [f32]);
                let families: [(Pair, Scan, Gather<f32>, Gather<f16>); 2] = [
                    (kernels.dot, kernels.dot_rows, kernels.dot_gather, kernels.dot_gather_f16),
                    (kernels.l2, kernels.l2_rows, kernels.l2_gather, kernels.l2_gather_f16),
                ];
                for (pair, scan, gather, gather_f16) in families {
                    let mut out = vec![f32::NAN; rows];
                    scan(&query, &base, &mut out);
                    let expected: Vec<f32> = (0..rows as u32).map(|i| pair(&query, row(i))).collect();
                    assert_eq!(out, expected, "{} {dim}-d, {rows} rows", kernels.isa);
                    let expected: Vec<f32> = ordinals.iter().map(|&i| pair(&query, row(i))).collect();
                    let mut out = vec![f32::NAN; ordinals.len()];
                    gather(&query, &base, &ordinals, &mut out);
                    assert_eq!(out, expected, "{} {dim}-d, gather of {rows}", kernels.isa);
                    out.fill(f32::NAN);
                    gather_f16(&query, &halves, &ordinals, &mut out);
                    assert_eq!(out, expected, "{} {dim}-d, f16 gather of {rows}", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn half_precision_rows_are_widened_exactly() {
    // All exponents and signs, subnormal numbers and zeros: every finite f16, in rows of 8 and 5.
    let finite: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()).collect();
    for kernels in available() {
        for dim in [8, 5] {
            let rows = finite.len() / dim;
            let ordinals: Vec<u32> = (0..rows as u32).collect();
            for axis in 0..dim {
                let mut query = vec![0.0; dim];
                query[axis] = 1.0;
                let mut out = vec![0.0; rows];
                (kernels.dot_gather_f16)(&query, &finite[..rows * dim], &ordinals, &mut out);
                assert!(
                    (0..rows).all(|row| out[row] == finite[row * dim + axis].to_f32()),
                    "{}",
                    kernels.isa
                );
            }
        }
    }
}

#[test]
fn distances_follow_the_metric() {
    let (a, base) = (normal(3, 20), normal(4, 60));
    let halves: Vec<f16> = base.iter().map(|&value| f16::from_f32(value)).collect();
    for kernels in available() {
        for metric in Metric::ALL {
            let mut out = [0.0; 3];
            kernels.distance_rows(metric, &a, &base, &mut out);
            for (row, got) in base.chunks_exact(20).zip(out) {
                assert_close(got, metric.distance(&a, row), 60.0);
                assert_eq!(got, kernels.distance(metric, &a, row));
            }
            kernels.distance_gather(metric, &a, &base, &[2], &mut out[..1]);
            assert_eq!(out[0], out[2]);
            kernels.distance_gather_f16(metric, &a, &halves, &[2], &mut out[..1]);
            let row: Vec<f32> = halves[40..].iter().map(|half| half.to_f32()).collect();
            assert_eq!(out[0], kernels.distance(metric, &a, &row));
        }
    }
}

#[test]
fn pq_scan_sums_the_tables() {
    let mut random = Random::new(5);
    for ksub in [1, 5, 16, 256] {
        for pq_m in [1, 2, 3, 25, 96] {
            for rows in [0, 1, 3, 4, 5, 103] {
                let tables = normal(6, pq_m * ksub);
                let codes: Vec<u8> = (0..rows * pq_m).map(|_| random.below(ksub) as u8).collect();
                let mut out = vec![f32::NAN; rows];
                (kernels().pq_scan)(&tables, ksub, &codes, &mut out);
                for (codes, got) in codes.chunks_exact(pq_m).zip(out) {
                    let terms = || codes.iter().enumerate().map(|(m, &c)| tables[m * ksub + usize::from(c)]);
                    let defined = terms().map(f64::from).sum();
                    assert_close(got, defined, terms().map(|term| f64::from(term.abs())).sum());
                }
            }
        }
    }
}

#[test]
fn products_have_the_same_bits_in_any_place_and_match_their_definition() {
    for kernels in available() {
        for dim in dims().skip(1) {
            let base = normal(7, 70 * dim);
            let members: Vec<u32> = (0..70).map(|i| i * 37 % 70).collect();
            let columns = members.len().next_multiple_of(kernels.panel);
            let mut panels = Aligned::default();
            let panels = panels.resized(columns * dim);
            (kernels.pack)(&base, dim, &members, panels);
            let mut norms = vec![0.0; columns];
            (kernels.panel_norms)(panels, dim, &mut norms);
            let mut products = vec![0.0; members.len().next_multiple_of(kernels.strip) * columns];
            for (index, strip) in members.chunks(kernels.strip).enumerate() {
                let out = &mut products[index * kernels.strip * columns..];
                (kernels.product)(&base, dim, strip, panels, out, columns);
            }
            let row = |member: u32| &base[member as usize * dim..][..dim];
            for (i, &a) in members.iter().enumerate() {
                for (j, &b) in members.iter().enumerate() {
                    let got = products[i * columns + j];
                    assert_eq!(got, products[j * columns + i], "{} {dim}-d is symmetric", kernels.isa);
                    let magnitude = -Metric::InnerProduct.distance(row(a), row(a))
                        - Metric::InnerProduct.distance(row(b), row(b));
                    assert_close(got, -Metric::InnerProduct.distance(row(a), row(b)), magnitude);
                }
                assert_eq!(products[i * columns + i], norms[i], "{} {dim}-d", kernels.isa);
            }
        }
    }
}

#[test]
fn equal_rows_of_a_leaf_are_at_distance_zero_and_a_pair_is_at_one_distance_in_every_leaf() {
    for kernels in available() {
        let dim = 100;
        let mut rows = VectorBuf::new(normal(8, 200 * dim), dim);
        let copy = rows.row(3).to_vec();
        rows.row_mut(150).copy_from_slice(&copy);
        let mut leaves = Leaves { members: (0..200).collect(), offsets: vec![0, 200] };
        leaves.members.extend((0..200).rev().filter(|i| i % 3 == 0));
        leaves.offsets.push(leaves.members.len() as u32);
        let cpu = Cpu::with_kernels(kernels);
        let uploaded = cpu.upload(rows.view()).unwrap();
        let all = cpu.leaf_top_k(&uploaded, &leaves, Metric::L2, 199).unwrap();
        assert_eq!(all.row(3)[0], Neighbor::new(150, 0.0));
        for (slot, &member) in leaves.members.iter().enumerate().skip(200) {
            for neighbor in all.found(slot) {
                assert!(all.row(member as usize).contains(neighbor), "{} {member} {neighbor:?}", kernels.isa);
            }
        }
        // Few and many are chosen by different paths from the same distances.
        let few = cpu.leaf_top_k(&uploaded, &leaves, Metric::L2, 4).unwrap();
        for slot in 0..leaves.members.len() {
            assert_eq!(few.row(slot), &all.row(slot)[..4]);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let dim = 20;
    let rows = VectorBuf::new(normal(9, 20_000 * dim), dim);
    let queries = VectorBuf::new(normal(10, 60 * dim), dim);
    let few_queries = queries.view().slice(0, 3);
    let centroids = queries.view().slice(0, 50);
    let book = normal(11, 5 * 256 * 4);
    let codebook = CodebookView { centroids: &book, pq_m: 5, ksub: 256, dsub: 4 };
    let leaves = Leaves {
        members: (0..20_000).map(|i| i * 7919 % 20_000).collect(),
        offsets: (0..=80).map(|leaf| leaf * 250).collect(),
    };
    let coarse = rows.view().slice(0, 100);
    let mut shortlists = Shortlists::default();
    (0..50).for_each(|group| shortlists.push(&[group / 2, 30 + group / 3]));
    for kernels in available() {
        let run = || {
            let cpu = Cpu::with_kernels(kernels);
            let rows = cpu.upload(rows.view()).unwrap();
            let assigned = cpu.assign(&rows, centroids, Metric::L2).unwrap();
            // Nearly everything in one list, so that it is summed in parts.
            let labels: Vec<u32> =
                assigned.iter().map(|n| if n.ordinal % 2 == 0 { 0 } else { n.ordinal }).collect();
            let sums = cpu.centroid_sums(&rows, &labels, 50).unwrap();
            let residual_of = Some(ResidualOf { centroids, labels: &labels });
            (
                cpu.pq_encode(&rows, residual_of, codebook).unwrap(),
                cpu.top_k(queries.view(), &rows, Metric::L2, 10).unwrap(),
                cpu.top_k(few_queries, &rows, Metric::Cosine, 10).unwrap(),
                cpu.leaf_top_k(&rows, &leaves, Metric::L2, 3).unwrap(),
                (assigned, sums),
                cpu.assign_coarse(&rows, coarse).unwrap(),
                cpu.assign_shortlisted(&rows, centroids, &labels, &shortlists).unwrap(),
            )
        };
        let (one, two, five) = (pool(1).install(run), pool(2).install(run), pool(5).install(run));
        assert!(one == two && one == five, "{}", kernels.isa);
    }
}

#[test]
fn few_queries_and_many_get_the_same_bits() {
    let (rows, queries) =
        (VectorBuf::new(normal(12, 3000 * 33), 33), VectorBuf::new(normal(13, 40 * 33), 33));
    for kernels in available() {
        let cpu = Cpu::with_kernels(kernels);
        let rows = cpu.upload(rows.view()).unwrap();
        for metric in Metric::ALL {
            let many = cpu.top_k(queries.view(), &rows, metric, 7).unwrap();
            for query in 0..40 {
                let one = cpu.top_k(queries.view().slice(query, query + 1), &rows, metric, 7).unwrap();
                assert_eq!(one.row(0), many.row(query));
            }
        }
    }
}

#[test]
fn an_ordinal_outside_the_rows_is_caught() {
    let base = normal(14, 30);
    for kernels in available() {
        for ordinal in [3, u32::MAX] {
            let gather = || (kernels.dot_gather)(&[0.0; 10], &base, &[0, ordinal], &mut [0.0; 2]);
            assert!(std::panic::catch_unwind(gather).is_err());
        }
    }
}

#[test]
fn values_that_overflow_answer_something_and_do_not_panic() {
    let huge = VectorBuf::new([3e38, -3e38, 1.0, 0.0].repeat(40), 4);
    for kernels in available() {
        let cpu = Cpu::with_kernels(kernels);
        let rows = cpu.upload(huge.view()).unwrap();
        let leaves = Leaves { members: (0..40).collect(), offsets: vec![0, 40] };
        for metric in Metric::ALL {
            for nearest in cpu.assign(&rows, huge.view(), metric).unwrap() {
                assert!(nearest.ordinal < 40);
            }
            cpu.top_k(huge.view(), &rows, metric, 3).unwrap();
            cpu.leaf_top_k(&rows, &leaves, metric, 3).unwrap();
            cpu.leaf_top_k(&rows, &leaves, metric, 30).unwrap();
        }
        let codebook = CodebookView { centroids: huge.view().as_slice(), pq_m: 1, ksub: 40, dsub: 4 };
        assert!(cpu.pq_encode(&rows, None, codebook).unwrap().iter().all(|&code| code < 40));
    }
}

#[test]
fn packed_products_are_exact_on_every_instruction_set() {
    for kernels in available() {
        for stride in (1..=70).chain([96, 100, 127, 128, 129, 384, 832, 4096, 65_536, 65_792]) {
            for planes in [1, 2, 4, 8] {
                let mut random = Random::new(stride as u64);
                let mut query: Vec<i8> = (0..planes * stride).map(|_| random.next_u64() as i8).collect();
                let mut base: Vec<u8> = (0..7 * stride).map(|_| random.next_u64() as u8).collect();
                // The extremes, where a saturating instruction would show.
                query.iter_mut().step_by(2).for_each(|value| *value = -128);
                base[..stride].fill(255);
                let ordinals = [6, 0, 3, 3, 5, 0];
                let mut products = [0; 6];
                (kernels.packed_gather)(&query, &base, stride, &ordinals, &mut products);
                for (&ordinal, &product) in ordinals.iter().zip(&products) {
                    let row = &base[ordinal as usize * stride..][..stride];
                    let (bits, mask) = (8 / planes, u8::MAX >> (8 - 8 / planes));
                    let value = |at: usize| i64::from(row[at % stride] >> (at / stride * bits) & mask);
                    let defined: i64 =
                        query.iter().enumerate().map(|(at, &q)| i64::from(q) * value(at)).sum();
                    assert_eq!(i64::from(product), defined, "{} {stride} × {planes}", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn merging_is_sorting_with_the_older_of_equals_first() {
    for kernels in available() {
        let mut random = Random::new(3);
        for len in [0, 1, 5, 7, 8, 9, 16, 100, 700] {
            for count in [1, 2, 3, 32, 60] {
                for range in [4, 1000] {
                    let mut kept: Vec<u64> = (0..len).map(|_| random.below(range) as u64).collect();
                    kept.sort_unstable();
                    let mut incoming: Vec<u64> = (0..count).map(|_| random.below(range) as u64).collect();
                    let mut slots = kept.clone();
                    slots.resize(len + count + 3, u64::MAX);
                    let least = *incoming.iter().min().unwrap();
                    let place = (kernels.merge)(&mut slots, len, &mut incoming);
                    assert_eq!(place, kept.iter().filter(|&&key| key <= least).count());
                    kept.extend_from_slice(&incoming);
                    kept.sort_unstable();
                    assert_eq!(slots[..len + count], kept, "{} {len} + {count}", kernels.isa);
                    assert_eq!(slots[len + count..], [u64::MAX; 3], "{} {len} + {count}", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn values_are_rounded_to_the_nearest_level() {
    for kernels in available() {
        let mut random = Random::new(9);
        for len in [1, 3, 15, 16, 17, 64, 100] {
            for top in [1.0, 3.0, 15.0, 255.0] {
                let values: Vec<f32> = (0..len).map(|_| random.normal() as f32).collect();
                let per_unit = top / 4.0;
                let mut levels = vec![-1.0; len];
                let (product, square) = (kernels.round_to_levels)(&values, per_unit, top, &mut levels);
                let (mut products, mut squares) = (0.0, 0.0);
                for (&value, &level) in values.iter().zip(&levels) {
                    assert!((0.0..=top).contains(&level) && level.fract() == 0.0, "{level} of {top}");
                    let place = (value * per_unit + top / 2.0).clamp(0.0, top);
                    assert!((place - level).abs() <= 0.5001, "{place} became {level}");
                    products += f64::from(level - top / 2.0) * f64::from(value);
                    squares += f64::from(level - top / 2.0).powi(2);
                }
                assert!((f64::from(product) - products).abs() <= 1e-4 * squares, "{} {len}", kernels.isa);
                assert!((f64::from(square) - squares).abs() <= 1e-4 * squares, "{} {len}", kernels.isa);
            }
        }
    }
}

#[test]
fn quad_products_are_exact_on_every_instruction_set() {
    for kernels in available() {
        for (quads, columns, rows) in [(1, 1, 1), (3, 2, 2), (25, 1, kernels.strip), (96, 3, 3), (2048, 1, 1)]
        {
            let columns = columns * kernels.panel;
            let mut random = Random::new(quads as u64);
            let mut bytes: Vec<i8> = (0..rows * 4 * quads).map(|_| random.next_u64() as i8).collect();
            let mut panels: Vec<u8> = (0..columns * 4 * quads).map(|_| random.next_u64() as u8).collect();
            // The extremes, where a saturating instruction would show.
            bytes[..4 * quads].fill(-128);
            panels.iter_mut().step_by(3).for_each(|value| *value = 255);
            let starts: Vec<i32> = (0..rows as i32).map(|row| 1000 * row - 77).collect();
            let stride = columns + 5;
            let mut out = vec![f32::NAN; kernels.strip * stride];
            (kernels.quad_product)(&bytes, &starts, &panels, &mut out, stride);
            for row in 0..rows {
                for column in 0..columns {
                    let (panel, lane) = (column / kernels.panel, column % kernels.panel);
                    let terms = (0..4 * quads).map(|d| {
                        let at = ((panel * quads + d / 4) * kernels.panel + lane) * 4 + d % 4;
                        i32::from(bytes[row * 4 * quads + d]) * i32::from(panels[at])
                    });
                    let defined = starts[row] + terms.sum::<i32>();
                    assert_eq!(out[row * stride + column], defined as f32, "{} {quads} quads", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn a_quantized_row_is_within_half_a_step_of_the_row() {
    for kernels in available() {
        for dim in dims().skip(1) {
            let (row, centre) = (normal(dim as u64, dim), normal(7777, dim));
            let mut bytes = vec![99i8; dim.next_multiple_of(4)];
            let (step, sum) = (kernels.quantize)(&row, &centre, &mut bytes);
            for ((&byte, row), centre) in bytes.iter().zip(&row).zip(&centre) {
                assert!((f32::from(byte) * step - (row - centre)).abs() <= 0.5001 * step);
            }
            assert!(bytes[dim..].iter().all(|&byte| byte == 0));
            assert_eq!(sum, bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>());
            assert!(
                bytes.iter().any(|&byte| byte.unsigned_abs() == 127),
                "the greatest value fills the range"
            );
        }
        let mut bytes = [1i8; 4];
        assert_eq!((kernels.quantize)(&[2.5; 3], &[2.5; 3], &mut bytes), (0.0, 0), "{}", kernels.isa);
    }
}

#[test]
fn assignment_for_training_is_coarse_only_where_bytes_can_tell() {
    // 5,000 rows around 40 places 1,000 times their spread apart: bytes see the places only.
    let mut random = Random::new(3);
    let places = normal(4, 40 * 12);
    let rows: Vec<f32> = (0..5000 * 12)
        .map(|at| 1000.0 * places[at / 12 % 40 * 12 + at % 12] + random.normal() as f32)
        .collect();
    let rows = VectorBuf::new(rows, 12);
    for kernels in available() {
        let cpu = Cpu::with_kernels(kernels);
        let uploaded = cpu.upload(rows.view()).unwrap();
        let centroids = rows.view().slice(0, 400);
        let exact = cpu.assign(&uploaded, centroids, Metric::L2).unwrap();
        assert_eq!(cpu.assign_coarse(&uploaded, centroids).unwrap(), exact, "{}", kernels.isa);
    }
}
