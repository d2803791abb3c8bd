//! Properties of the IVF-PQ family, from rows to answers.

mod rows;

use std::ops::ControlFlow;
use std::sync::Arc;

use annvil::artifact::{Array, Section, TensorError};
use annvil::compute::cpu::Cpu;
use annvil::compute::reference::Reference;
use annvil::compute::{Compute, Rows};
use annvil::flat::ground_truth;
use annvil::index::{KeepError, SearchIndex, SearchParams, Searcher};
use annvil::ivf::{BuildError, Built, IvfPq, IvfPqParams, Loss, Refine, Rotate, build};
use annvil::train::{TrainError, Warning, unobserved};
use annvil::vectors::{Metric, Neighbor, VectorBuf, VectorView};
use rows::{Counting, clustered, for_metric, normal};

fn efforts(index: &IvfPq, k: usize) -> Vec<usize> {
    index.ladder(k).iter().map(|setting| setting.effort).collect()
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn params(nlist: usize, pq_m: usize, pq_bits: usize, refine: Refine) -> IvfPqParams {
    IvfPqParams { nlist, pq_m, pq_bits, refine, kmeans_iterations: 5, ..IvfPqParams::defaults_for(1, 1) }
}

fn built(rows: VectorView<'_>, metric: Metric, params: &IvfPqParams) -> Built {
    build(&Cpu::new(), rows, metric, params, 42, &unobserved).unwrap()
}

fn searcher(index: &IvfPq) -> Box<dyn Searcher> {
    Arc::new(index.clone()).searcher()
}

fn search(index: &IvfPq, query: &[f32], k: usize, nprobe: usize, refine: usize) -> Vec<Neighbor> {
    let mut found = Vec::new();
    searcher(index).search(query, &SearchParams { k, effort: nprobe, refine }, &mut found);
    found
}

fn batch(
    index: &IvfPq,
    queries: VectorView<'_>,
    k: usize,
    nprobe: usize,
    refine: usize,
) -> Vec<Vec<Neighbor>> {
    let mut batch = Vec::new();
    let params = SearchParams { k, effort: nprobe, refine };
    searcher(index).search_batch(queries, &params, &mut |_, found| batch.push(found.to_vec()));
    batch
}

/// |a|² + |b|² bounds the rounding of a distance in f32.
fn assert_close(got: f32, expected: f64, scale: f64, what: &str) {
    assert!((f64::from(got) - expected).abs() <= 1e-5 * (scale + 1.0), "{what}: {got} against {expected}");
}

fn squared_norm(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

#[test]
fn ordinals_number_the_rows_list_by_list_in_source_order() {
    let rows = clustered(1000, 6, Metric::L2, 1);
    let Built { index, order, report } = built(rows.view(), Metric::L2, &params(20, 3, 8, Refine::F32));
    assert_eq!(order.len(), 1000);
    let mut seen = order.clone();
    seen.sort_unstable();
    assert!(seen.iter().enumerate().all(|(i, &row)| i as u32 == row), "a permutation");
    let nearest = Reference.assign(&Rows::on_host(rows.view()), index.centroids(), Metric::L2).unwrap();
    for list in 0..index.nlist() {
        let own = &order[index.list(list)];
        assert!(own.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(own.iter().all(|&row| nearest[row as usize].ordinal as usize == list));
        assert!(index.list(list).all(|ordinal| index.list_of(ordinal as u32) == list));
    }
    assert_eq!(index.kept().unwrap().vector(7), rows.row(order[7] as usize));
    assert_eq!(report.longest_list, (0..20).map(|list| index.list(list).len()).max().unwrap());
}

#[test]
fn estimates_are_distances_to_what_the_code_stands_for() {
    for (dim, pq_m, pq_bits) in [(16, 4, 8), (10, 3, 8), (10, 10, 4), (9, 9, 4), (1, 1, 8), (5, 8, 4)] {
        for metric in Metric::ALL {
            let rows = clustered(600, dim, metric, 3);
            let Built { index, .. } = built(rows.view(), metric, &params(12, pq_m, pq_bits, Refine::None));
            assert!(index.kept().is_none());
            for query in clustered(5, dim, metric, 4).view().iter() {
                let found = search(&index, query, 600, 12, 0);
                assert_eq!(found.len(), 600);
                for neighbor in found {
                    let decoded = index.decode(neighbor.ordinal);
                    let scale = squared_norm(query) + squared_norm(&decoded);
                    let what = format!("{metric} {dim}-d {pq_m} × {pq_bits} bits");
                    assert_close(neighbor.distance, metric.distance(query, &decoded), scale, &what);
                }
            }
        }
    }
}

/// Every way to code rows that a metric allows.
fn coded(metric: Metric) -> Vec<(Rotate, Loss)> {
    let all = [Rotate::None, Rotate::Opq]
        .into_iter()
        .flat_map(|rotation| [Loss::Squared, Loss::ScoreAware].map(|loss| (rotation, loss)));
    all.filter(|&(_, loss)| loss == Loss::Squared || metric != Metric::L2).collect()
}

#[test]
fn rotated_and_score_aware_codes_are_estimated_round_tripped_and_searched_like_the_others() {
    for metric in Metric::ALL {
        for ((rotation, loss), pq_bits) in
            coded(metric).into_iter().flat_map(|coded| [(coded, 4), (coded, 8)])
        {
            let rows = clustered(600, 9, metric, 3);
            let of = |refine| {
                let params = IvfPqParams { rotation, loss, ..params(12, 6, pq_bits, refine) };
                built(rows.view(), metric, &params).index
            };
            let (bare, exact) = (of(Refine::None), of(Refine::F32));
            assert_eq!(bare.rotation().is_some(), rotation == Rotate::Opq);
            let read = IvfPq::from_sections(&bare.sections()).unwrap();
            let queries = clustered(5, 9, metric, 4);
            let together = batch(&bare, queries.view(), 20, 4, 0);
            for (query, together) in queries.view().iter().zip(together) {
                let what = format!("{metric} {pq_bits} bits {rotation:?} {loss:?}");
                let found = search(&bare, query, 600, 12, 0);
                assert_eq!(found.len(), 600);
                for neighbor in &found {
                    let decoded = bare.decode(neighbor.ordinal);
                    let scale = squared_norm(query) + squared_norm(&decoded);
                    assert_close(neighbor.distance, metric.distance(query, &decoded), scale, &what);
                }
                assert_eq!(found, search(&read, query, 600, 12, 0), "{what}");
                assert_eq!(together, search(&bare, query, 20, 4, 0), "{what}");
                // All rows ranked again: the codes do not matter.
                let nearest = search(&exact, query, 10, 12, 600);
                let mut all: Vec<f64> = rows.view().iter().map(|row| metric.distance(query, row)).collect();
                all.sort_by(f64::total_cmp);
                for (neighbor, distance) in nearest.iter().zip(all) {
                    assert_close(neighbor.distance, distance, squared_norm(query) + distance.abs(), &what);
                }
            }
        }
    }
}

/// What codes miss of their rows: (all of it, along the rows).
fn missed(rows: &VectorBuf, metric: Metric, params: &IvfPqParams) -> (f64, f64) {
    let Built { index, order, .. } = built(rows.view(), metric, params);
    let (mut all, mut along) = (0.0, 0.0);
    for (ordinal, &row) in order.iter().enumerate() {
        let (row, decoded) = (rows.row(row as usize), index.decode(ordinal as u32));
        let missed: Vec<f32> = row.iter().zip(decoded).map(|(&row, code)| row - code).collect();
        let dot: f64 = missed.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        all += squared_norm(&missed);
        along += dot * dot / squared_norm(row);
    }
    (all, along)
}

#[test]
fn score_aware_codes_miss_less_along_the_rows_and_rotated_ones_miss_less() {
    let mut rows = clustered(3000, 32, Metric::Cosine, 3);
    // Neighbouring dimensions alike: sub-vectors that a rotation can make independent of each other.
    rows.as_mut_slice()
        .chunks_exact_mut(32)
        .for_each(|row| (0..16).for_each(|d| row[d] += 0.8 * row[16 + d]));
    let rows = for_metric(rows, Metric::Cosine);
    let plain = IvfPqParams { loss: Loss::Squared, ..params(8, 8, 4, Refine::None) };
    let (all, along) = missed(&rows, Metric::Cosine, &plain);
    let score_aware = IvfPqParams { loss: Loss::ScoreAware, ..plain.clone() };
    let (_, score_aware) = missed(&rows, Metric::Cosine, &score_aware);
    assert!(score_aware < 0.8 * along, "{score_aware} against {along}");
    let (rotated, _) = missed(&rows, Metric::Cosine, &IvfPqParams { rotation: Rotate::Opq, ..plain });
    assert!(rotated < 0.97 * all, "{rotated} against {all}");
}

#[test]
fn a_rotation_that_is_none_or_that_only_one_place_knows_of_is_refused() {
    let rows = clustered(300, 6, Metric::L2, 1);
    let params = IvfPqParams { rotation: Rotate::Opq, ..params(8, 3, 4, Refine::F16) };
    let good = built(rows.view(), Metric::L2, &params).index.sections();
    assert!(IvfPq::from_sections(&good).is_ok());
    let changed = |change: fn(&mut Vec<f32>)| with_tensor::<f32>(&good, "rotation", &[6, 6], change);
    refused(&changed(|matrix| matrix[7] += 0.01), "orthogonal");
    refused(&changed(|matrix| matrix[35] = f32::NAN), "orthogonal");
    refused(&changed(|matrix| matrix[6..12].fill(0.0)), "orthogonal");
    refused(&with_tensor::<f32>(&good, "rotation", &[5, 6], |matrix| matrix.truncate(30)), "expected shape");
    let mut unsaid = good.clone();
    unsaid[0].metadata.remove("rotation");
    refused(&unsaid, "is missing");
    let mut other = good.clone();
    other[0].metadata.insert("rotation".into(), "none".into());
    refused(&other, "expected opq, got `none`");
    let mut lost = good.clone();
    lost[0].tensors.retain(|(name, _)| name != "rotation");
    assert!(matches!(IvfPq::from_sections(&lost), Err(TensorError::Missing { .. })));
}

#[test]
fn codes_lie_near_their_rows() {
    // Of the variance within lists, 8-bit codes of 2-d sub-vectors must explain all but a few hundredths.
    let rows = clustered(3000, 8, Metric::L2, 3);
    let Built { index, order, .. } = built(rows.view(), Metric::L2, &params(10, 4, 8, Refine::None));
    let (mut error, mut spread) = (0.0, 0.0);
    for (ordinal, &row) in order.iter().enumerate() {
        let row = rows.row(row as usize);
        error += Metric::L2.distance(row, &index.decode(ordinal as u32));
        spread += Metric::L2.distance(row, index.centroids().row(index.list_of(ordinal as u32)));
    }
    assert!(error < 0.03 * spread, "{error} of {spread}");
}

#[test]
fn all_lists_and_all_rows_ranked_again_is_exact_search() {
    for metric in Metric::ALL {
        let rows = clustered(700, 12, metric, 5);
        let queries = clustered(20, 12, metric, 6);
        for pq_bits in [4, 8] {
            let Built { index, order, .. } = built(rows.view(), metric, &params(16, 6, pq_bits, Refine::F32));
            let renumbered = rows.view().gather(&order);
            let truth = ground_truth(&Reference, queries.view(), renumbered.view(), metric, 10).unwrap();
            for (query, row) in queries.view().iter().enumerate() {
                let found = search(&index, row, 10, 16, 700);
                // Different kernels round differently; in these rows no two distances are that close.
                let ordinals =
                    |neighbors: &[Neighbor]| neighbors.iter().map(|n| n.ordinal).collect::<Vec<_>>();
                assert_eq!(ordinals(&found), ordinals(truth.found(query)), "{metric}");
                for (found, exact) in found.iter().zip(truth.found(query)) {
                    assert_close(found.distance, f64::from(exact.distance), squared_norm(row), metric.name());
                }
            }
        }
    }
}

#[test]
fn distances_after_refine_are_those_to_the_kept_vectors() {
    for metric in Metric::ALL {
        let rows = clustered(800, 20, metric, 5);
        for refine in [Refine::F16, Refine::F32] {
            let Built { index, .. } = built(rows.view(), metric, &params(16, 5, 8, refine));
            for query in clustered(10, 20, metric, 8).view().iter() {
                let found = search(&index, query, 10, 4, 40);
                assert_eq!(found.len(), 10);
                assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "ascending by (distance, ordinal)");
                for neighbor in found {
                    let kept = index.kept().unwrap().vector(neighbor.ordinal);
                    let scale = squared_norm(query) + squared_norm(&kept);
                    assert_close(neighbor.distance, metric.distance(query, &kept), scale, refine.name());
                }
            }
        }
    }
}

#[test]
fn more_lists_and_more_candidates_never_find_less() {
    for metric in Metric::ALL {
        let rows = clustered(2000, 16, metric, 1);
        let queries = clustered(40, 16, metric, 2);
        let Built { index, order, .. } = built(rows.view(), metric, &params(40, 4, 8, Refine::F32));
        let truth =
            ground_truth(&Cpu::new(), queries.view(), rows.view().gather(&order).view(), metric, 10).unwrap();
        let recall = |nprobe, refine| {
            let hits = queries.view().iter().enumerate().map(|(query, row)| {
                let found = search(&index, row, 10, nprobe, refine);
                truth.found(query).iter().filter(|n| found.iter().any(|f| f.ordinal == n.ordinal)).count()
            });
            hits.sum::<usize>()
        };
        let by_effort: Vec<usize> = efforts(&index, 10).iter().map(|&n| recall(n, 2000)).collect();
        assert!(by_effort.windows(2).all(|pair| pair[0] <= pair[1]), "{metric} {by_effort:?}");
        assert_eq!(by_effort.last(), Some(&400));
        let by_refine: Vec<usize> = [10, 20, 40, 100, 2000].iter().map(|&n| recall(40, n)).collect();
        assert!(by_refine.windows(2).all(|pair| pair[0] <= pair[1]), "{metric} {by_refine:?}");
        assert!(by_refine[0] < 400, "codes alone are not exact");
    }
}

#[test]
fn a_batch_finds_what_single_queries_find() {
    for (metric, pq_bits) in Metric::ALL.into_iter().flat_map(|metric| [(metric, 4), (metric, 8)]) {
        let rows = clustered(900, 10, metric, 1);
        let queries = clustered(43, 10, metric, 2);
        let refine = if pq_bits == 4 { Refine::F16 } else { Refine::None };
        let Built { index, .. } = built(rows.view(), metric, &params(30, 5, pq_bits, refine));
        let mut searcher = searcher(&index);
        for (k, effort, refine) in [(10, 3, 0), (1, 1, 5), (100, 30, 300), (0, 1, 0)] {
            let params = SearchParams { k, effort, refine };
            let mut batch = Vec::new();
            searcher.search_batch(queries.view(), &params, &mut |query, found| {
                assert_eq!(query, batch.len());
                batch.push(found.to_vec());
            });
            assert_eq!(batch.len(), queries.rows());
            for (query, batch) in queries.view().iter().zip(&batch) {
                assert_eq!(batch, &search(&index, query, k, effort, refine), "{metric} {pq_bits} bits");
            }
        }
    }
}

/// Clusters a thousand times as far apart as they are wide, and all of them as far from the origin again: products with
/// the query are then far larger than what tells the rows of a list apart.
#[test]
fn rows_of_a_list_are_told_apart_however_far_lists_lie() {
    let (clusters, dim) = (8, 16);
    let centres = normal(clusters, dim, 1);
    let place = |offsets: VectorBuf| {
        let mut rows = offsets.into_vec();
        for (number, row) in rows.chunks_exact_mut(dim).enumerate() {
            for (value, &centre) in row.iter_mut().zip(centres.row(number % clusters)) {
                *value += 1000.0 * (centre + 1.0);
            }
        }
        VectorBuf::new(rows, dim)
    };
    let (rows, queries) = (place(normal(4000, dim, 2)), place(normal(40, dim, 3)));
    let Built { index, .. } = built(rows.view(), Metric::L2, &params(8, 8, 4, Refine::None));
    let decoded: Vec<Vec<f32>> = (0..4000).map(|ordinal| index.decode(ordinal)).collect();
    let hits: usize = (queries.view().iter())
        .map(|query| {
            let mut nearest: Vec<Neighbor> = (0..4000)
                .map(|row| Neighbor::new(row, Metric::L2.distance(query, &decoded[row as usize]) as f32))
                .collect();
            nearest.sort();
            let found = search(&index, query, 10, 8, 0);
            nearest[..10].iter().filter(|n| found.iter().any(|f| f.ordinal == n.ordinal)).count()
        })
        .sum();
    // 100 candidates among a cluster's 500 rows: chance would find 80.
    assert!(hits >= 396, "{hits} of 400");
}

#[test]
fn search_allocates_nothing_after_warm_up() {
    for (metric, pq_bits, refine) in [
        (Metric::L2, 8, Refine::F16),
        (Metric::L2, 4, Refine::F16),
        (Metric::Cosine, 4, Refine::F32),
        (Metric::L2, 4, Refine::None),
        (Metric::Cosine, 8, Refine::None),
    ] {
        let rows = clustered(3000, 16, metric, 1);
        let queries = clustered(50, 16, metric, 2);
        let Built { index, .. } = built(rows.view(), metric, &params(30, 4, pq_bits, refine));
        let mut searcher = searcher(&index);
        let params = SearchParams { k: 10, effort: 8, refine: 100 };
        let mut found = Vec::new();
        searcher.search(queries.row(0), &params, &mut found);
        let before = Counting::allocations();
        for query in queries.view().iter() {
            searcher.search(query, &params, &mut found);
        }
        assert_eq!(Counting::allocations() - before, 0, "{metric} {pq_bits} bits, {refine:?}");
    }
}

#[test]
fn k_rows_are_found_whatever_the_effort() {
    let rows = clustered(500, 6, Metric::L2, 1);
    for (pq_bits, refine) in [(8, Refine::None), (8, Refine::F32), (4, Refine::None), (4, Refine::F32)] {
        let Built { index, .. } = built(rows.view(), Metric::L2, &params(100, 3, pq_bits, refine));
        for (k, nprobe, refine) in [(1, 0, 0), (50, 1, 0), (499, 1, 1), (500, 100, 0), (10, 1, 0)] {
            assert_eq!(search(&index, rows.row(3), k, nprobe, refine).len(), k, "k = {k}, nprobe = {nprobe}");
        }
        let huge = search(&index, rows.row(3), usize::MAX, usize::MAX, usize::MAX);
        assert_eq!(huge.len(), 500, "more than there is");
        assert!(search(&index, rows.row(3), 0, 1, 0).is_empty());
    }
}

#[test]
fn the_ladder_ascends_to_nlist_and_no_further() {
    let rows = clustered(400, 4, Metric::L2, 1);
    for nlist in [1, 2, 3, 5, 17, 100] {
        let Built { index, .. } = built(rows.view(), Metric::L2, &params(nlist, 2, 4, Refine::None));
        for k in [1, 10, 399, 400, 100_000] {
            let ladder = efforts(&index, k);
            assert!(ladder.windows(2).all(|pair| pair[0] < pair[1]), "{ladder:?}");
            assert!(ladder[0] >= 1 && *ladder.last().unwrap() == nlist, "{ladder:?}");
        }
    }
    let Built { index, .. } = built(rows.view(), Metric::L2, &params(17, 2, 4, Refine::None));
    assert_eq!(efforts(&index, 10), [1, 2, 3, 4, 6, 8, 12, 16, 17]);
    assert_eq!(efforts(&index, 100)[0], 5, "400 rows in 17 lists: 5 hold 100");
}

#[test]
fn same_seed_same_bytes_at_any_number_of_threads() {
    let kinds = [
        (Metric::L2, 8, Rotate::None, Loss::Squared),
        (Metric::L2, 4, Rotate::Opq, Loss::Squared),
        (Metric::Cosine, 4, Rotate::None, Loss::Auto),
        (Metric::Cosine, 4, Rotate::Opq, Loss::ScoreAware),
    ];
    for (metric, pq_bits, rotation, loss) in kinds {
        let rows = clustered(5000, 10, metric, 1);
        let bytes = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let params = IvfPqParams { rotation, loss, ..params(64, 5, pq_bits, Refine::F16) };
            let built = pool.install(|| build(&Cpu::new(), rows.view(), metric, &params, seed, &unobserved));
            let Built { index, order, report } = built.unwrap();
            let tensors = index.sections().into_iter().flat_map(|section| section.tensors);
            let bytes: Vec<Vec<u8>> = tensors.map(|(_, tensor)| tensor.bytes.to_vec()).collect();
            (bytes, order, report)
        };
        let one = bytes(1, 42);
        assert_eq!(one, bytes(2, 42));
        assert_eq!(one, bytes(5, 42));
        assert_ne!(one.0, bytes(2, 43).0, "the seed matters");
    }
}

#[test]
fn rows_that_are_few_equal_or_one_dimensional_are_indexed() {
    let equal = VectorBuf::new(vec![0.5; 300 * 4], 4);
    let two_values = VectorBuf::new((0..2000).map(|i| (i / 4 % 2) as f32).collect(), 4);
    let line = normal(200, 1, 1);
    let one = VectorBuf::new(vec![1.0, 2.0, 3.0], 3);
    for (rows, nlist) in [(&equal, 7), (&equal, 300), (&two_values, 50), (&line, 10), (&line, 1), (&one, 1)] {
        for metric in [Metric::L2, Metric::InnerProduct] {
            for pq_bits in [4, 8] {
                let params = params(nlist, 1, pq_bits, Refine::F32);
                let Built { index, .. } = built(rows.view(), metric, &params);
                let k = rows.rows().min(10);
                for query in [rows.row(0), rows.row(rows.rows() - 1)] {
                    let found = search(&index, query, k, nlist, rows.rows());
                    let truth =
                        |n: &Neighbor| metric.distance(query, &index.kept().unwrap().vector(n.ordinal));
                    assert_eq!(found.len(), k);
                    assert!(found.iter().all(|n| (f64::from(n.distance) - truth(n)).abs() < 1e-4));
                    if metric == Metric::L2 {
                        assert!(found[0].distance < 1e-6, "the query is one of the rows");
                    }
                }
            }
        }
    }
    let Built { report, .. } = built(equal.view(), Metric::L2, &params(7, 1, 8, Refine::None));
    assert_eq!((report.longest_list, report.empty_lists), (300, 6), "one list takes everything");
    assert!(report.warnings.iter().any(|warning| matches!(warning, Warning::EmptyClusters { empty: 6, .. })));
}

#[test]
fn one_dense_spot_that_takes_nearly_all_rows_is_warned_of_and_searched() {
    let mut rows = clustered(4000, 5, Metric::L2, 1);
    for i in 100..4000 {
        rows.row_mut(i).fill(3.0);
    }
    let Built { index, report, .. } = built(rows.view(), Metric::L2, &params(40, 5, 8, Refine::F32));
    assert!(report.longest_list >= 3900);
    assert!(
        report.warnings.iter().any(|warning| matches!(warning, Warning::LongestList { .. })),
        "{report:?}"
    );
    let found = search(&index, &[3.0; 5], 10, 1, 0);
    assert!(found.iter().all(|neighbor| neighbor.distance == 0.0));
}

#[test]
fn impossible_input_is_a_named_error() {
    let rows = clustered(100, 6, Metric::L2, 1);
    let error = |rows: VectorView<'_>, params: &IvfPqParams| {
        let too_late = |_| panic!("reported before any training");
        build(&Cpu::new(), rows, Metric::L2, params, 1, &too_late).unwrap_err()
    };
    let good = params(10, 3, 8, Refine::F16);
    let message = error(rows.view(), &IvfPqParams { nlist: 101, ..good.clone() }).to_string();
    assert!(message.contains("`nlist`: expected 1 to 100 for 100 rows, got 101"), "{message}");
    let message = error(rows.view(), &IvfPqParams { pq_m: 5, ..good.clone() }).to_string();
    assert!(message.contains("`pq_m`: expected one of 1, 2, 3, 4, 6, 8 for 6-d vectors, got 5"), "{message}");
    let message = error(rows.view(), &IvfPqParams { loss: Loss::ScoreAware, ..good.clone() }).to_string();
    assert!(message.contains("`loss`: expected auto or squared for l2, got score_aware"), "{message}");
    assert!(matches!(error(VectorView::new(&[], 6), &good), BuildError::Rows { rows: 0 }));
    for (value, refine) in [(f32::NAN, Refine::None), (f32::INFINITY, Refine::F32), (3e18, Refine::F16)] {
        let mut rows = rows.clone();
        rows.row_mut(63)[2] = value;
        let error = error(rows.view(), &IvfPqParams { refine, ..good.clone() });
        match error {
            BuildError::Train(TrainError::Magnitude { row: 63, .. }) if value != 3e18 => {}
            BuildError::Keep(KeepError::Overflow { row: 63, got }) if got == value => {}
            other => panic!("{value}: {other}"),
        }
    }
}

#[test]
fn a_watcher_can_stop_every_stage() {
    let rows = clustered(1000, 6, Metric::L2, 1);
    let params = params(10, 3, 8, Refine::F16);
    for stage in ["k-means", "product quantizer", "encode"] {
        let stop = |progress: annvil::train::Progress| {
            if progress.stage == stage { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = build(&Cpu::new(), rows.view(), Metric::L2, &params, 1, &stop).unwrap_err();
        assert!(matches!(error, BuildError::Train(TrainError::Cancelled)), "{stage}");
    }
}

#[test]
fn sections_round_trip() {
    for metric in Metric::ALL {
        for (pq_m, pq_bits, refine) in [(3, 8, Refine::F16), (9, 4, Refine::F32), (4, 8, Refine::None)] {
            let rows = clustered(400, 9, metric, 1);
            let Built { index, .. } = built(rows.view(), metric, &params(12, pq_m, pq_bits, refine));
            let sections = index.sections();
            let read = IvfPq::from_sections(&sections).unwrap();
            assert_eq!((read.rows(), read.dim(), read.metric(), read.nlist()), (400, 9, metric, 12));
            for (written, again) in sections.iter().zip(&read.sections()) {
                assert_eq!((&written.name, &written.metadata), (&again.name, &again.metadata));
                for ((name, tensor), (name_again, tensor_again)) in written.tensors.iter().zip(&again.tensors)
                {
                    assert_eq!((name, &tensor.shape), (name_again, &tensor_again.shape));
                    assert_eq!(tensor.bytes, tensor_again.bytes);
                }
            }
            for query in clustered(5, 9, metric, 2).view().iter() {
                assert_eq!(search(&index, query, 10, 4, 30), search(&read, query, 10, 4, 30));
            }
        }
    }
}

/// The sections of an index with one tensor replaced.
fn with_tensor<T: annvil::artifact::Element>(
    sections: &[Section],
    name: &str,
    shape: &[usize],
    change: impl Fn(&mut Vec<T>),
) -> Vec<Section> {
    let mut sections = sections.to_vec();
    let tensor =
        sections.iter_mut().flat_map(|section| &mut section.tensors).find(|(n, _)| n == name).unwrap();
    let mut values = Array::<T>::from_bytes(tensor.1.bytes.clone()).to_vec();
    change(&mut values);
    let array: Array<T> = values.into();
    tensor.1 = annvil::artifact::Tensor::new(&array, shape);
    sections
}

fn refused(sections: &[Section], expected: &str) {
    let error = IvfPq::from_sections(sections).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(expected), "expected `{expected}` in `{error}`");
}

#[test]
fn broken_8_bit_codes_are_refused() {
    let rows = clustered(300, 6, Metric::L2, 1);
    let good = built(rows.view(), Metric::L2, &params(8, 3, 8, Refine::None)).index.sections();
    assert!(IvfPq::from_sections(&good).is_ok());
    refused(&with_tensor::<u8>(&good, "codes", &[225, 4], |_| ()), "expected shape [300, 3], got [225, 4]");
    refused(&with_tensor::<u8>(&good, "codes", &[0, 3], |c| c.clear()), "expected shape [300, 3]");
    refused(&with_tensor::<u8>(&good, "codes", &[900], |_| ()), "expected shape [300, 3]");
    refused(&with_tensor::<f32>(&good, "terms", &[300], |t| t[9] = f32::NAN), "got NaN at 9");
    let short = with_tensor::<f32>(&good, "terms", &[299], |t| t.truncate(299));
    refused(&short, "expected shape [300], got [299]");
    let mut none = good.clone();
    none[1].tensors.remove(1);
    assert!(matches!(IvfPq::from_sections(&none), Err(TensorError::Missing { .. })));
    let mut other_bits = good.clone();
    other_bits[0].metadata.insert("pq_bits".into(), "4".into());
    refused(&other_bits, "expected shape [3, 16, 2]");
}

#[test]
fn every_broken_invariant_is_refused() {
    let rows = clustered(300, 6, Metric::L2, 1);
    // pq_m = 3 with 4 bits: 2 bytes a code, of which the last half is 0.
    let Built { index, .. } = built(rows.view(), Metric::L2, &params(8, 3, 4, Refine::F16));
    let good = index.sections();
    assert!(IvfPq::from_sections(&good).is_ok());
    let refused = |sections: Vec<Section>, expected: &str| refused(&sections, expected);
    let offsets = |change: fn(&mut Vec<u64>)| with_tensor::<u64>(&good, "list_offsets", &[9], change);
    refused(offsets(|o| o[0] = 1), "expected 0 first, got 1");
    refused(offsets(|o| o[3] = 301), "expected ascending values");
    refused(offsets(|o| o[8] = u64::MAX), "rows, got 18446744073709551615");
    refused(offsets(|o| o.fill(0)), "expected 1 to 4294967294 rows, got 0");
    refused(offsets(|o| o[8] += 100), "tensor `codes`: expected shape");
    refused(
        with_tensor::<u64>(&good, "list_offsets", &[8], |o| o.truncate(8)),
        "expected shape [9], got [8]",
    );

    refused(with_tensor::<f32>(&good, "centroids", &[8, 6], |c| c[13] = f32::NAN), "got NaN at 13");
    refused(with_tensor::<f32>(&good, "centroids", &[0, 6], |c| c.clear()), "expected 1 to 65536 lists");
    refused(with_tensor::<f32>(&good, "centroids", &[48, 0], |c| c.clear()), "or more dimensions");
    refused(with_tensor::<f32>(&good, "centroids", &[48], |_| ()), "expected 2 axes");
    refused(with_tensor::<f32>(&good, "centroids", &[6, 8], |_| ()), "`codebooks`");
    refused(with_tensor::<f32>(&good, "codebooks", &[3, 16, 2], |c| c[5] = f32::INFINITY), "got inf at 5");
    refused(with_tensor::<f32>(&good, "codebooks", &[3, 2, 16], |_| ()), "expected shape [3, 16, 2]");
    refused(with_tensor::<f32>(&good, "codebooks", &[16, 3, 2], |_| ()), "`pq_m`: expected one of");

    let blocks: usize = (0..8).map(|list| index.list(list).len().div_ceil(32)).sum();
    let shape = [blocks, 2, 32];
    // Byte 1 of the first row: the last half of its code.
    refused(
        with_tensor::<u8>(&good, "codes", &shape, |c| c[32] |= 16),
        "list 0, place 0: expected 0 where there is no code, got",
    );
    // The last place of the last list, which 300 rows do not fill to the end.
    assert_ne!(index.list(7).len() % 32, 0);
    let behind = with_tensor::<u8>(&good, "codes", &shape, |c| *c.last_mut().unwrap() = 3);
    refused(behind, "expected 0 where there is no code, got 3");
    refused(with_tensor::<u8>(&good, "codes", &[2, blocks, 32], |_| ()), "expected shape [");
    refused(with_tensor::<u8>(&good, "codes", &[0, 2, 32], |c| c.clear()), "expected shape [");
    refused(with_tensor::<u8>(&good, "codes", &[blocks * 64], |_| ()), "expected shape [");
    refused(with_tensor::<u16>(&good, "vectors", &[300, 6], |_| ()), "expected F16, got U16");
    let infinite = with_tensor::<half::f16>(&good, "vectors", &[300, 6], |v| v[61] = half::f16::NAN);
    refused(infinite, "row 10: expected finite values");
    let short = with_tensor::<half::f16>(&good, "vectors", &[299, 6], |v| v.truncate(299 * 6));
    refused(short, "expected shape [300, 6], got [299, 6]");

    for (section, tensor) in [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)] {
        let mut sections = good.clone();
        let (name, _) = sections[section].tensors.remove(tensor);
        let error = IvfPq::from_sections(&sections).map(|_| ()).unwrap_err();
        assert!(matches!(&error, TensorError::Missing { tensor, .. } if *tensor == name), "{error}");
    }
    for section in 0..3 {
        let mut sections = good.clone();
        sections.remove(section);
        assert!(matches!(IvfPq::from_sections(&sections), Err(TensorError::Missing { .. })));
    }
    for (key, value) in [("metric", "euclid"), ("pq_bits", "eight"), ("refine", "f64")] {
        let mut sections = good.clone();
        sections[0].metadata.insert(key.into(), value.into());
        refused(sections, value);
        let mut sections = good.clone();
        sections[0].metadata.remove(key);
        refused(sections, "is missing");
    }
    let mut other_bits = good.clone();
    other_bits[0].metadata.insert("pq_bits".into(), "8".into());
    refused(other_bits, "expected shape [3, 256, 2]");
}

/// With the defaults for 10,000 rows (256 lists, 25 × 8 bits, f16) 32 probes gave .954, .936 and .896 when the
/// floors were set; the floors are two standard errors of 200 queries' mean recall (.01 each) lower.
#[cfg(feature = "build")]
#[test]
fn recall_at_10_on_glove_stays_above_its_floors() {
    let (base, queries) = rows::glove10k();
    for (metric, nprobe, floor) in
        [(Metric::Cosine, 32, 0.93), (Metric::L2, 32, 0.91), (Metric::InnerProduct, 32, 0.87)]
    {
        let (base, queries) = (for_metric(base.clone(), metric), for_metric(queries.clone(), metric));
        let params = IvfPqParams::defaults_for(base.rows(), base.dim());
        let Built { index, order, report } =
            build(&Cpu::new(), base.view(), metric, &params, 1, &unobserved).unwrap();
        let truth =
            ground_truth(&Cpu::new(), queries.view(), base.view().gather(&order).view(), metric, 10).unwrap();
        let mut hits = 0;
        for (query, row) in queries.view().iter().enumerate() {
            let found = search(&index, row, 10, nprobe, 0);
            hits +=
                truth.found(query).iter().filter(|n| found.iter().any(|f| f.ordinal == n.ordinal)).count();
        }
        let recall = hits as f64 / (10 * queries.rows()) as f64;
        assert!(recall >= floor, "{metric}: {recall}");
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    }
}
