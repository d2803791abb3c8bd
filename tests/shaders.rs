//! The GPU backend: shaders that naga reads without a GPU, and operations held against their definition.
#![cfg(feature = "gpu")]

mod adapter;

use annvil::compute::gpu::Variant;
use annvil::compute::gpu::kernels::{self, Kernel};

fn parsed(kernel: &Kernel) -> naga::Module {
    naga::front::wgsl::parse_str(&kernel.source())
        .unwrap_or_else(|error| panic!("{}: {}", kernel.name, error.emit_to_string(&kernel.source())))
}

#[test]
fn every_shader_is_valid_and_its_entry_point_bears_its_name() {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    for kernel in kernels::ALL {
        let module = parsed(kernel);
        // A kernel asks of an adapter what its variant says, and no more.
        let capabilities = match kernel.variant {
            Variant::Plain => Capabilities::empty(),
            Variant::Half => Capabilities::SHADER_FLOAT16,
            Variant::Matrix => Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX,
        };
        Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{}: {}", kernel.name, error.emit_to_string(&kernel.source())));
        let entry_points: Vec<&str> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(entry_points, [kernel.name]);
    }
}

#[test]
fn structs_of_rust_and_wgsl_have_the_same_layout() {
    for kernel in kernels::ALL {
        let module = parsed(kernel);
        for layout in kernel.layouts {
            let (_, found) = module
                .types
                .iter()
                .find(|(_, candidate)| candidate.name.as_deref() == Some(layout.name))
                .unwrap_or_else(|| panic!("{} has no struct {}", kernel.name, layout.name));
            let naga::TypeInner::Struct { members, span } = &found.inner else {
                panic!("{} of {} is no struct", layout.name, kernel.name);
            };
            let fields: Vec<(&str, usize)> =
                members.iter().map(|m| (m.name.as_deref().unwrap_or(""), m.offset as usize)).collect();
            assert_eq!(fields, layout.fields, "{} of {}", layout.name, kernel.name);
            assert_eq!(*span as usize, layout.size, "{} of {}", layout.name, kernel.name);
        }
    }
}

#[test]
fn pipelines_set_every_override_that_has_no_formula() {
    for kernel in kernels::ALL {
        let module = parsed(kernel);
        let mut open: Vec<&str> = module
            .overrides
            .iter()
            .filter(|(_, constant)| match constant.init {
                None => true,
                Some(init) => matches!(module.global_expressions[init], naga::Expression::Literal(_)),
            })
            .filter_map(|(_, constant)| constant.name.as_deref())
            .collect();
        open.sort_unstable();
        let mut given = kernel.overrides.to_vec();
        given.sort_unstable();
        assert_eq!(open, given, "{}", kernel.name);
    }
}

/// Tests of shaders must not pass in CI by not running.
#[test]
fn without_an_adapter_the_tests_on_a_device_fail_where_they_are_required() {
    for (variable, passes) in [(adapter::REQUIRED, false), ("CI", false), ("HOME", true)] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "on_a_device::held_rows_cross_the_bus_once", "--nocapture"])
            // This crate is built without wgpu's OpenGL: then there is no API to find an adapter with.
            .env("WGPU_BACKEND", "gl")
            .env_remove(adapter::REQUIRED)
            .env_remove("CI")
            .env(variable, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("running 1 test"), "{text}");
        assert_eq!(output.status.success(), passes, "{variable}: {text}");
        assert_eq!(text.matches("shaders not run, ").count(), usize::from(passes), "{text}");
    }
}

mod on_a_device {
    //! These need an adapter: see `adapter`.

    use std::sync::LazyLock;

    use annvil::compute::cpu::{ByteRows, Cpu};
    use annvil::compute::gpu::{Gpu, GpuOptions, Variant};
    use annvil::compute::reference::Reference;
    use annvil::compute::{CodebookView, Compute, ComputeError, Leaves, ResidualOf, Rows, contract};
    use annvil::vectors::{Metric, Neighbor, Random, VectorBuf, VectorView};

    use crate::adapter::{open, options};

    /// Relative to |a|² + |b|²: what f32 products of up to 768 dimensions may be off by.
    const TOLERANCE: f64 = 1e-5;
    const DIMS: [usize; 10] = [1, 3, 4, 5, 15, 16, 17, 96, 100, 768];
    /// Around one tile's 64 rows (of 8 lanes), and none.
    const ROWS: [usize; 5] = [0, 1, 63, 64, 70];

    /// One device for all tests: they share its compiled pipelines, and use it from several threads.
    fn shared() -> Option<&'static Gpu> {
        static SHARED: LazyLock<Option<Gpu>> = LazyLock::new(|| open(options()));
        SHARED.as_ref()
    }

    /// Small whole numbers: every product and sum is exact in f32, ties are everywhere, and the only right answer is
    /// the reference's.
    fn whole(seed: u64, rows: usize, dim: usize) -> VectorBuf {
        let mut random = Random::new(seed);
        VectorBuf::new((0..rows * dim).map(|_| random.below(5) as f32 - 2.0).collect(), dim)
    }

    /// Unit vectors, every fifth a copy of the first.
    fn unit(seed: u64, rows: usize, dim: usize) -> VectorBuf {
        let mut random = Random::new(seed);
        let mut buf = VectorBuf::zeroed(rows, dim);
        for index in 0..rows {
            if index % 5 == 4 {
                let first = buf.row(0).to_vec();
                buf.row_mut(index).copy_from_slice(&first);
                continue;
            }
            let row = buf.row_mut(index);
            row.iter_mut().for_each(|value| *value = random.normal() as f32);
            let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter_mut().for_each(|value| *value /= norm);
        }
        buf
    }

    #[test]
    fn assign_keeps_the_contract() {
        let Some(gpu) = shared() else { return };
        contract::assign(gpu);
    }

    #[test]
    fn centroid_sums_keep_the_contract() {
        let Some(gpu) = shared() else { return };
        contract::centroid_sums(gpu);
    }

    #[test]
    fn pq_encode_keeps_the_contract() {
        let Some(gpu) = shared() else { return };
        contract::pq_encode(gpu);
    }

    #[test]
    fn top_k_keeps_the_contract() {
        let Some(gpu) = shared() else { return };
        contract::top_k(gpu);
    }

    #[test]
    fn leaf_top_k_keeps_the_contract() {
        let Some(gpu) = shared() else { return };
        contract::leaf_top_k(gpu);
    }

    /// `got` is a row whose distance, as told, is the definition's, and no farther than `want`'s, within rounding.
    #[track_caller]
    fn assert_as_near(got: Neighbor, want: Neighbor, query: &[f32], rows: VectorView<'_>, metric: Metric) {
        assert_eq!(got.is_none(), want.is_none(), "got {got:?}, want {want:?}");
        if got.is_none() {
            return;
        }
        let square = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let row = rows.row(got.ordinal as usize);
        let slack = TOLERANCE * (square(query) + square(row));
        let told = (f64::from(got.distance) - metric.distance(query, row)).abs();
        assert!(told <= slack, "{metric}: distance off by {told}: got {got:?}, want {want:?}");
        let behind = f64::from(got.distance) - f64::from(want.distance);
        assert!(behind <= 2.0 * slack, "{metric}: {behind} farther: got {got:?}, want {want:?}");
    }

    #[test]
    fn kmeans_assign_matches_reference() {
        let Some(gpu) = shared() else { return };
        for dim in DIMS {
            for rows in ROWS {
                let (rows_buf, near) = (whole(1, rows, dim), unit(2, rows, dim));
                for nlist in [1, 31, 40] {
                    let (centroids, near_centroids) = (whole(3, nlist, dim), unit(4, nlist, dim));
                    for metric in Metric::ALL {
                        let held = gpu.upload(rows_buf.view()).unwrap();
                        let got = gpu.assign(&held, centroids.view(), metric).unwrap();
                        let want = Reference.assign(&held, centroids.view(), metric).unwrap();
                        assert_eq!(got, want, "{metric}, {rows} × {dim}, {nlist} centroids");

                        let held = gpu.upload(near.view()).unwrap();
                        let got = gpu.assign(&held, near_centroids.view(), metric).unwrap();
                        let want = Reference.assign(&held, near_centroids.view(), metric).unwrap();
                        for ((got, want), row) in got.into_iter().zip(want).zip(near.view().iter()) {
                            assert_as_near(got, want, row, near_centroids.view(), metric);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn centroid_sums_match_reference() {
        let Some(gpu) = shared() else { return };
        let mut random = Random::new(5);
        // 700 rows of one label are three pieces; label 2 has none.
        for (rows, nlist) in [(0, 3), (1, 1), (70, 3), (700, 1), (1500, 4)] {
            for dim in [1, 3, 16, 17, 100] {
                let buf = whole(6, rows, dim);
                let labels: Vec<u32> =
                    (0..rows).map(|_| [0, 0, 1, 3][random.below(nlist.min(4))] as u32).collect();
                let labels: Vec<u32> = labels.into_iter().map(|label| label.min(nlist as u32 - 1)).collect();
                let held = gpu.upload(buf.view()).unwrap();
                let got = gpu.centroid_sums(&held, &labels, nlist).unwrap();
                let want = Reference.centroid_sums(&held, &labels, nlist).unwrap();
                assert_eq!(got, want, "{rows} × {dim}, {nlist} labels");
            }
        }
    }

    #[test]
    fn pq_encode_matches_reference() {
        let Some(gpu) = shared() else { return };
        // (dim, pq_m, dsub): codebooks that cover more dimensions than there are, and numbers of codes that fill
        // words and do not.
        for (dim, pq_m, dsub) in
            [(1, 1, 1), (3, 1, 4), (5, 5, 1), (15, 4, 4), (17, 9, 2), (96, 12, 8), (100, 5, 20)]
        {
            for (rows, ksub) in [(0, 16), (1, 1), (70, 16), (65, 256)] {
                let buf = whole(7, rows, dim);
                let centroids = whole(8, 6, dim);
                let labels: Vec<u32> = (0..rows as u32).map(|row| row % 6).collect();
                let entries = whole(9, pq_m * ksub, dsub);
                let codebook = CodebookView { centroids: entries.view().as_slice(), pq_m, ksub, dsub };
                let residual_of = ResidualOf { centroids: centroids.view(), labels: &labels };
                let held = gpu.upload(buf.view()).unwrap();
                for residual_of in [None, Some(residual_of)] {
                    let got = gpu.pq_encode(&held, residual_of, codebook).unwrap();
                    let want = Reference.pq_encode(&held, residual_of, codebook).unwrap();
                    let residual = residual_of.is_some();
                    assert_eq!(got, want, "{rows} × {dim}, {pq_m} × {dsub}, residual {residual}");
                }
            }
        }
    }

    #[test]
    fn top_k_matches_reference() {
        let Some(gpu) = shared() else { return };
        for dim in DIMS {
            // More rows than a list holds without a cut, and fewer than k.
            for (queries, rows, k) in [(0, 5, 1), (3, 0, 2), (1, 1, 3), (65, 300, 10), (2, 700, 100)] {
                let (exact_rows, exact_queries) = (whole(10, rows, dim), whole(11, queries, dim));
                let (near_rows, near_queries) = (unit(12, rows, dim), unit(13, queries, dim));
                for metric in Metric::ALL {
                    let held = gpu.upload(exact_rows.view()).unwrap();
                    let got = gpu.top_k(exact_queries.view(), &held, metric, k).unwrap();
                    let want = Reference.top_k(exact_queries.view(), &held, metric, k).unwrap();
                    assert_eq!(got, want, "{metric}, {queries} queries, {rows} × {dim}, k {k}");

                    let held = gpu.upload(near_rows.view()).unwrap();
                    let got = gpu.top_k(near_queries.view(), &held, metric, k).unwrap();
                    let want = Reference.top_k(near_queries.view(), &held, metric, k).unwrap();
                    for (index, query) in near_queries.view().iter().enumerate() {
                        for (&got, &want) in got.row(index).iter().zip(want.row(index)) {
                            assert_as_near(got, want, query, near_rows.view(), metric);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn top_k_beyond_the_longest_list_still_finds_every_row() {
        let Some(gpu) = shared() else { return };
        let (rows, queries) = (whole(14, 5000, 2), whole(15, 2, 2));
        let held = gpu.upload(rows.view()).unwrap();
        for k in [1000, 4999, 6000] {
            let got = gpu.top_k(queries.view(), &held, Metric::L2, k).unwrap();
            let want = Reference.top_k(queries.view(), &held, Metric::L2, k).unwrap();
            let differs = got.as_slice().iter().zip(want.as_slice()).position(|(got, want)| got != want);
            assert_eq!(differs, None, "k {k}: first slot that differs, of {}", 2 * k);
        }
    }

    /// Overlapping leaves of the given sizes, some of a single row or none.
    fn leaves(sizes: &[usize], rows: usize) -> Leaves {
        let mut leaves = Leaves { members: Vec::new(), offsets: vec![0] };
        for (index, &size) in sizes.iter().enumerate() {
            leaves.members.extend(Random::new(index as u64).sample(rows, size));
            leaves.offsets.push(leaves.members.len() as u32);
        }
        leaves
    }

    #[test]
    fn leaf_top_k_matches_reference() {
        let Some(gpu) = shared() else { return };
        let rows = 150;
        let shapes = [leaves(&[], rows), leaves(&[0, 1, 2, 0, 64, 65, 33, 150], rows)];
        for dim in DIMS {
            let (exact, near) = (whole(16, rows, dim), unit(17, rows, dim));
            for metric in Metric::ALL {
                for (leaves, k) in shapes.iter().flat_map(|leaves| [(leaves, 1), (leaves, 4), (leaves, 40)]) {
                    let held = gpu.upload(exact.view()).unwrap();
                    let got = gpu.leaf_top_k(&held, leaves, metric, k).unwrap();
                    let want = Reference.leaf_top_k(&held, leaves, metric, k).unwrap();
                    assert_eq!(got, want, "{metric}, dim {dim}, k {k}");

                    let held = gpu.upload(near.view()).unwrap();
                    let got = gpu.leaf_top_k(&held, leaves, metric, k).unwrap();
                    let want = Reference.leaf_top_k(&held, leaves, metric, k).unwrap();
                    for (slot, &member) in leaves.members.iter().enumerate() {
                        for (&got, &want) in got.row(slot).iter().zip(want.row(slot)) {
                            assert_ne!(got.ordinal, member, "a row is no neighbour of its own");
                            assert_as_near(got, want, near.row(member as usize), near.view(), metric);
                        }
                    }
                }
            }
        }
    }

    /// Whole numbers that bytes hold exactly: every dimension reaches from −127 to 127.
    fn wide(seed: u64, rows: usize, dim: usize) -> VectorBuf {
        let mut random = Random::new(seed);
        let values = (0..rows * dim).map(|_| random.below(255) as f32 - 127.0).collect();
        let mut buf = VectorBuf::new(values, dim);
        buf.row_mut(0).fill(127.0);
        buf.row_mut(rows - 1).fill(-127.0);
        buf
    }

    /// Standard normal: no two rows near each other beyond some tens of dimensions.
    fn normal(seed: u64, rows: usize, dim: usize) -> VectorBuf {
        let mut random = Random::new(seed);
        VectorBuf::new((0..rows * dim).map(|_| random.normal() as f32).collect(), dim)
    }

    /// Distances of 2,000 dimensions pass 2²⁴, where an f32 no longer holds every whole number.
    const BYTE_DIMS: [usize; 9] = [1, 3, 4, 5, 17, 61, 96, 100, 2000];

    #[test]
    fn byte_neighbors_matches_reference_and_is_the_cpus_bit_by_bit() {
        let Some(gpu) = shared() else { return };
        let leaves = leaves(&[0, 1, 2, 64, 65, 33, 150], 150);
        let members: Vec<u32> = (0..150).rev().collect();
        let leaders = Random::new(1).sample(150, 70);
        for dim in BYTE_DIMS {
            // Exact in bytes, or rounded to them: then the CPU's answer is the definition. Of few dimensions bytes cannot
            // tell rows apart that are not whole, and these are compared in f32.
            let rounded = (dim > 60).then(|| normal(61, 150, dim));
            for rows in std::iter::once(wide(60, 150, dim)).chain(rounded) {
                let bytes = ByteRows::encode(rows.view());
                let held = Rows::on_host(rows.view());
                for k in [1, 4, 40] {
                    let got = gpu.leaf_candidates(&held, bytes.as_ref(), &leaves, k).unwrap();
                    let want = Cpu::new().leaf_candidates(&held, bytes.as_ref(), &leaves, k).unwrap();
                    assert_eq!(got, want, "{dim}-d, k {k}");
                    let got = gpu.nearest_leaders(&held, bytes.as_ref(), &members, &leaders, k).unwrap();
                    let want = Cpu::new().nearest_leaders(&held, bytes.as_ref(), &members, &leaders, k);
                    assert_eq!(got, want.unwrap(), "{dim}-d, {k} leaders");
                }
            }
            let rows = wide(62, 150, dim);
            if dim <= 100 {
                let (bytes, held) = (ByteRows::encode(rows.view()), Rows::on_host(rows.view()));
                let got = gpu.leaf_candidates(&held, bytes.as_ref(), &leaves, 3).unwrap();
                assert_eq!(got, Reference.leaf_top_k(&held, &leaves, Metric::L2, 3).unwrap(), "{dim}-d");
                let got = gpu.nearest_leaders(&held, bytes.as_ref(), &members, &leaders, 3).unwrap();
                let want = Reference.nearest_leaders(&held, None, &members, &leaders, 3).unwrap();
                assert_eq!(got, want, "{dim}-d, leaders");
            }
        }
    }

    #[test]
    fn rows_too_near_each_other_for_bytes_are_compared_by_their_vectors() {
        let Some(gpu) = shared() else { return };
        let mut random = Random::new(63);
        let value = |i: usize| (i / 20 % 3) as f32 * 10.0;
        let values = (0..300 * 20).map(|i| value(i) + 1e-4 * random.normal() as f32).collect();
        let rows = VectorBuf::new(values, 20);
        let bytes = ByteRows::encode(rows.view());
        let held = gpu.upload(rows.view()).unwrap();
        let leaves = leaves(&[40, 120], 300);
        let got = gpu.leaf_candidates(&held, bytes.as_ref(), &leaves, 3).unwrap();
        assert_eq!(got, gpu.leaf_top_k(&held, &leaves, Metric::L2, 3).unwrap());
        let (members, leaders): (Vec<u32>, Vec<u32>) = ((0..300).collect(), (0..300).step_by(23).collect());
        let got = gpu.nearest_leaders(&held, bytes.as_ref(), &members, &leaders, 4).unwrap();
        assert_eq!(got, gpu.nearest_leaders(&held, None, &members, &leaders, 4).unwrap());
    }

    /// One device that ranks by halves, where there is one.
    fn by_halves() -> Option<&'static Gpu> {
        static HALVES: LazyLock<Option<Gpu>> = LazyLock::new(|| {
            let options = GpuOptions { variant: Some(Variant::Half), ..options() };
            match Gpu::new(options) {
                Ok(gpu) => Some(gpu),
                Err(ComputeError::NoAdapter(_)) => None,
                Err(error) => panic!("{error}"),
            }
        });
        HALVES.as_ref()
    }

    #[test]
    fn halves_keep_the_contract() {
        let Some(gpu) = by_halves() else { return };
        assert_eq!(gpu.variant(), Variant::Half);
        contract::assign_coarse(gpu);
        for dim in [1, 3, 17, 100] {
            let (rows, queries) = (whole(68, 300, dim), whole(69, 65, dim));
            let held = gpu.upload(rows.view()).unwrap();
            for metric in Metric::ALL {
                let got = gpu.top_k(queries.view(), &held, metric, 10).unwrap();
                assert_eq!(
                    got,
                    Reference.top_k(queries.view(), &held, metric, 10).unwrap(),
                    "{metric}, {dim}-d"
                );
            }
        }
    }

    #[test]
    fn halves_change_no_neighbour_where_they_could_have_hidden_some() {
        let (Some(halves), Some(plain)) = (by_halves(), shared()) else { return };
        // Far from the origin and close to each other halves cannot tell rows apart; and among unit vectors some.
        let mut far = unit(70, 900, 48);
        far.as_mut_slice().iter_mut().for_each(|value| *value += 100.0);
        for rows in [unit(71, 900, 48), far] {
            let held = halves.upload(rows.view()).unwrap();
            let queries = rows.view().slice(0, 40);
            for metric in Metric::ALL {
                let got = halves.top_k(queries, &held, metric, 10).unwrap();
                let want = plain.top_k(queries, &Rows::on_host(rows.view()), metric, 10).unwrap();
                for query in 0..40 {
                    let distances = |found: &[Neighbor]| -> Vec<u32> {
                        found.iter().map(|neighbor| neighbor.distance.to_bits()).collect()
                    };
                    assert_eq!(
                        distances(got.row(query)),
                        distances(want.row(query)),
                        "{metric}, query {query}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_variant_that_the_adapter_has_not_is_a_named_error() {
        let Some(gpu) = shared() else { return };
        for (variant, offered) in [
            (Variant::Plain, true),
            (Variant::Half, gpu.adapter().f16),
            (Variant::Matrix, gpu.adapter().cooperative_matrix),
        ] {
            let opened = Gpu::new(GpuOptions { variant: Some(variant), ..options() });
            match opened {
                Ok(gpu) => assert_eq!((gpu.variant(), offered), (variant, true)),
                Err(ComputeError::NoAdapter(why)) => {
                    assert!(why.contains(variant.name()) && !offered, "{why}")
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn what_the_device_did_is_told_once_kernel_by_kernel() {
        let Some(gpu) = open(options()) else { return };
        let (rows, centroids) = (whole(80, 500, 16), whole(81, 9, 16));
        let held = gpu.upload(rows.view()).unwrap();
        let before = std::time::Instant::now();
        gpu.assign(&held, centroids.view(), Metric::L2).unwrap();
        let elapsed = before.elapsed();
        let work = gpu.take_device_work();
        assert_eq!(work.uploaded_bytes, (500 + 9) * 16 * 4);
        assert_eq!(work.downloaded_bytes, 500 * 8);
        if work.runs.is_empty() {
            return; // An adapter without a clock.
        }
        let names: Vec<&str> = work.runs.iter().map(|run| run.kernel).collect();
        assert_eq!(names, ["squared_norms", "kmeans_assign"]);
        let run = &work.runs[1];
        assert_eq!(run.flops, (2 * 500 * (9 + 1) * 16) as f64);
        assert_eq!(run.bytes, (4 * 16 * (500 + 9) + 500 * 8) as f64);
        assert!(work.runs.iter().all(|run| run.took <= elapsed), "{:?} in {elapsed:?}", work.runs);
        assert!(work.runs.windows(2).all(|pair| pair[0].started <= pair[1].started));
        assert_eq!(gpu.take_device_work(), annvil::compute::DeviceWork::default());
    }

    #[test]
    fn no_rows_no_leaves_and_no_labels_are_no_error() {
        let Some(gpu) = shared() else { return };
        let (none, one) = (VectorView::new(&[], 3), whole(18, 1, 3));
        let held = gpu.upload(none).unwrap();
        assert_eq!(gpu.assign(&held, one.view(), Metric::L2).unwrap(), []);
        let sums = gpu.centroid_sums(&held, &[], 2).unwrap();
        assert_eq!((sums.sums, sums.counts), (vec![0.0; 6], vec![0, 0]));
        assert!(gpu.centroid_sums(&held, &[], 0).unwrap().sums.is_empty());
        assert_eq!(gpu.leaf_top_k(&held, &Leaves::default(), Metric::L2, 2).unwrap().queries(), 0);
        assert!(gpu.top_k(one.view(), &held, Metric::L2, 2).unwrap().found(0).is_empty());
    }

    /// What every operation finds on the same 700 rows of 100 dimensions, as bits.
    fn everything(gpu: &Gpu, kind: fn(u64, usize, usize) -> VectorBuf, hold: bool) -> Vec<Vec<u32>> {
        let (rows, centroids, queries) = (kind(19, 700, 100), kind(20, 90, 100), kind(21, 70, 100));
        let entries = kind(22, 5 * 16, 20);
        let codebook = CodebookView { centroids: entries.view().as_slice(), pq_m: 5, ksub: 16, dsub: 20 };
        let leaves = leaves(&[60, 64, 1, 90], 700);
        let rows = if hold { gpu.upload(rows.view()).unwrap() } else { Rows::on_host(rows.view()) };
        let bits = |neighbors: &[Neighbor]| -> Vec<u32> { bytemuck::cast_slice(neighbors).to_vec() };

        let assigned = gpu.assign(&rows, centroids.view(), Metric::L2).unwrap();
        // Three labels in six: runs longer than a piece, and labels with no rows.
        let labels: Vec<u32> = assigned.iter().map(|found| found.ordinal % 3 * 2).collect();
        let sums = gpu.centroid_sums(&rows, &labels, 6).unwrap();
        let residual_of = ResidualOf { centroids: centroids.view(), labels: &labels };
        let codes = gpu.pq_encode(&rows, Some(residual_of), codebook).unwrap();
        let near = gpu.top_k(queries.view(), &rows, Metric::L2, 12).unwrap();
        let leaf = gpu.leaf_top_k(&rows, &leaves, Metric::L2, 3).unwrap();
        let bytes = ByteRows::encode(rows.host());
        let by_bytes = gpu.leaf_candidates(&rows, bytes.as_ref(), &leaves, 3).unwrap();
        let (members, leaders): (Vec<u32>, Vec<u32>) = ((0..700).collect(), (0..700).step_by(9).collect());
        let cells = gpu.nearest_leaders(&rows, bytes.as_ref(), &members, &leaders, 3).unwrap();
        vec![
            bits(&assigned),
            sums.sums.iter().map(|sum| sum.to_bits()).collect(),
            codes.into_iter().map(u32::from).collect(),
            bits(near.as_slice()),
            bits(leaf.as_slice()),
            bits(by_bytes.as_slice()),
            cells,
        ]
    }

    /// Each operation's result, compared without printing all of it.
    #[track_caller]
    fn assert_same(got: &[Vec<u32>], want: &[Vec<u32>], case: &str) {
        let operations = [
            "assign",
            "centroid_sums",
            "pq_encode",
            "top_k",
            "leaf_top_k",
            "leaf_candidates",
            "nearest_leaders",
        ];
        for ((got, want), operation) in got.iter().zip(want).zip(operations) {
            let differs = got.iter().zip(want).position(|(got, want)| got != want);
            assert_eq!((differs, got.len()), (None, want.len()), "{case}: {operation} differs at this place");
        }
    }

    #[test]
    fn neither_runs_nor_tiling_nor_streaming_changes_a_byte() {
        let Some(gpu) = shared() else { return };
        let once = everything(gpu, unit, true);
        assert!(once.iter().all(|result| !result.is_empty()));
        assert_same(&everything(gpu, unit, true), &once, "the same again");
        assert_same(&everything(gpu, unit, false), &once, "streamed");
        // 400 bytes a row: seven tiles of 102 rows, where no label's run of pieces ends.
        let tiled = open(GpuOptions { binding_limit: Some(102 * 400), ..options() }).unwrap();
        assert_same(&everything(&tiled, unit, true), &once, "in tiles");
        assert_same(&everything(&tiled, unit, false), &once, "streamed in tiles");
        // The rows alone are 280,000 bytes.
        let budget = 300 << 10;
        let frugal = open(GpuOptions { memory_budget: Some(budget), ..options() }).unwrap();
        assert_same(&everything(&frugal, unit, true), &once, "within 300 KiB");
        assert!(frugal.transfers().peak_memory_bytes <= budget);
        assert!(frugal.transfers().uploaded_bytes > 5 * 280_000, "every operation streamed the rows");
    }

    #[test]
    fn tiles_of_16_lanes_find_what_tiles_of_8_find() {
        let Some(gpu) = shared() else { return };
        let wide = open(GpuOptions { lanes: Some(16), ..options() }).unwrap();
        assert_same(&everything(&wide, whole, true), &everything(gpu, whole, true), "16 lanes");
    }

    #[test]
    fn work_too_long_for_a_software_adapter_is_cut_or_refused_but_never_wrong() {
        let Some(gpu) = shared() else { return };
        // llvmpipe ends loops silently after 65,535 iterations; 768 dimensions are 1,250 a tile.
        let (rows, centroids) = (whole(50, 2, 768), whole(51, 3000, 768));
        let held = gpu.upload(rows.view()).unwrap();
        let got = gpu.assign(&held, centroids.view(), Metric::L2).unwrap();
        assert_eq!(got, Reference.assign(&held, centroids.view(), Metric::L2).unwrap());
        let held = gpu.upload(centroids.view()).unwrap();
        let got = gpu.top_k(rows.view(), &held, Metric::Cosine, 20).unwrap();
        assert_eq!(got, Reference.top_k(rows.view(), &held, Metric::Cosine, 20).unwrap());

        let leaves = leaves(&[3000], 3000);
        match gpu.leaf_top_k(&held, &leaves, Metric::L2, 2) {
            Ok(got) => assert_eq!(got, Reference.leaf_top_k(&held, &leaves, Metric::L2, 2).unwrap()),
            Err(error) => assert!(matches!(error, ComputeError::Validation(_)), "{error}"),
        }
    }

    #[test]
    fn held_rows_cross_the_bus_once() {
        let Some(gpu) = open(options()) else { return };
        let (rows, centroids) = (unit(23, 2000, 32), unit(24, 4, 32));
        let held = gpu.upload(rows.view()).unwrap();
        assert_eq!(gpu.transfers().uploaded_bytes, 0, "nothing has read them");
        for _ in 0..3 {
            gpu.assign(&held, centroids.view(), Metric::L2).unwrap();
        }
        let stats = gpu.transfers();
        let centroid_bytes = 3 * 4 * 32 * 4;
        assert_eq!(
            stats.uploaded_bytes - centroid_bytes,
            2000 * 32 * 4,
            "the rows once, the centroids three times"
        );
        assert_eq!(stats.downloaded_bytes, 3 * 2000 * 8, "one neighbour per row, three times");
    }

    #[test]
    fn a_budget_too_small_for_anything_is_a_named_error() {
        let Some(gpu) = open(GpuOptions { memory_budget: Some(10_000), ..options() }) else { return };
        let (rows, centroids) = (unit(25, 200, 100), unit(26, 4, 100));
        let held = gpu.upload(rows.view()).unwrap();
        let error = gpu.assign(&held, centroids.view(), Metric::L2).unwrap_err();
        assert!(matches!(error, ComputeError::OutOfMemory { allowed: 10_000, .. }), "{error}");
    }

    #[test]
    fn a_row_wider_than_a_binding_is_a_named_error() {
        let Some(gpu) = open(GpuOptions { binding_limit: Some(64), ..options() }) else { return };
        let rows = unit(27, 2, 17);
        let Err(error) = gpu.upload(rows.view()) else { panic!("68 bytes do not fit 64") };
        assert!(matches!(error, ComputeError::OutOfMemory { needed: 68, allowed: 64, .. }), "{error}");
    }

    #[test]
    fn a_lost_device_is_an_error_of_every_operation_and_no_hang() {
        let Some(gpu) = open(options()) else { return };
        let (rows, one) = (unit(28, 100, 8), unit(29, 1, 8));
        let held = gpu.upload(rows.view()).unwrap();
        gpu.assign(&held, one.view(), Metric::L2).unwrap();
        gpu.destroy();
        let codebook = CodebookView { centroids: one.view().as_slice(), pq_m: 1, ksub: 1, dsub: 8 };
        let leaves = leaves(&[10], 100);
        let errors = [
            gpu.upload(rows.view()).err(),
            gpu.assign(&held, one.view(), Metric::L2).err(),
            gpu.centroid_sums(&held, &[0; 100], 1).err(),
            gpu.pq_encode(&held, None, codebook).err(),
            gpu.top_k(one.view(), &held, Metric::L2, 1).err(),
            gpu.leaf_top_k(&held, &leaves, Metric::L2, 1).err(),
        ];
        for error in errors {
            assert!(matches!(error, Some(ComputeError::DeviceLost(_))), "{error:?}");
        }
    }

    #[test]
    fn a_device_that_does_not_finish_in_time_is_given_up() {
        let Some(gpu) = open(GpuOptions { timeout: std::time::Duration::ZERO, ..options() }) else { return };
        let (rows, centroids) = (unit(30, 5000, 64), unit(31, 200, 64));
        let error = gpu
            .upload(rows.view())
            .and_then(|held| gpu.assign(&held, centroids.view(), Metric::L2))
            .unwrap_err();
        assert!(matches!(error, ComputeError::TimedOut { .. }), "{error}");
        let after = gpu.assign(&Rows::on_host(rows.view()), centroids.view(), Metric::L2).unwrap_err();
        assert!(matches!(after, ComputeError::DeviceLost(_)), "{after}");
    }

    #[test]
    fn rows_of_another_device_are_streamed() {
        let (Some(gpu), Some(other)) = (shared(), open(options())) else { return };
        let (rows, centroids) = (whole(32, 70, 5), whole(33, 9, 5));
        let held_elsewhere = other.upload(rows.view()).unwrap();
        let got = gpu.assign(&held_elsewhere, centroids.view(), Metric::L2).unwrap();
        assert_eq!(got, Reference.assign(&held_elsewhere, centroids.view(), Metric::L2).unwrap());
    }

    #[test]
    fn threads_that_share_a_device_get_their_own_results() {
        let Some(gpu) = shared() else { return };
        std::thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || {
                    let (rows, centroids) = (whole(seed, 200, 7), whole(seed + 40, 9, 7));
                    let held = gpu.upload(rows.view()).unwrap();
                    for _ in 0..5 {
                        let got = gpu.assign(&held, centroids.view(), Metric::L2).unwrap();
                        assert_eq!(got, Reference.assign(&held, centroids.view(), Metric::L2).unwrap());
                    }
                });
            }
        });
    }
}
