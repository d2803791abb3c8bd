//! Every kernel of this CPU's instruction set, one core, in GFLOP/s (criterion's Gelem/s: two for each multiply-add) or GiB/s of
//! what it reads; `peak/…` is what the machine does at best, measured in the same run.
//!
//! ```sh
//! cargo bench -p annvil-kernel-benches
//! cargo bench -p annvil-kernel-benches -- 'scan|peak'
//! ANNVIL_ISA=avx2 cargo bench -p annvil-kernel-benches
//! ```

mod peak;

use std::hint::black_box;
use std::time::Duration;

use annvil::compute::cpu::{
    Cpu, Kernels, NIBBLE_SLACK, NibbleBook, NibbleScan, ScoredRow, kernels, nibble_tables_len, row_stride,
};
use annvil::compute::{CodebookView, Compute, Leaves};
use annvil::vectors::{Metric, Random, VectorBuf};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;

const DIMS: [usize; 4] = [96, 128, 384, 1536];
/// 4-bit codes in a block.
const BLOCK_ROWS: usize = 32;

/// Values in −1..1, the same on each run.
fn values(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|item| (Random::of(seed, item).unit() * 2.0 - 1.0) as f32).collect()
}

fn rows(seed: u64, rows: usize, dim: usize) -> VectorBuf {
    VectorBuf::new(values(seed, rows * dim), dim)
}

/// Ordinals in an order that a prefetcher does not guess.
fn shuffled(rows: usize) -> Vec<u32> {
    let mut ordinals: Vec<u32> = (0..rows as u32).collect();
    ordinals.sort_by_key(|&ordinal| Random::of(7, u64::from(ordinal)).next_u64());
    ordinals
}

/// Multiply-adds of so many pairs, as criterion counts elements.
fn flops(pairs: usize, dim: usize) -> Throughput {
    Throughput::Elements(2 * (pairs * dim) as u64)
}

fn the_machine(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    group.throughput(Throughput::Elements(peak::FLOPS));
    group.bench_function("multiply-adds, f32", |b| b.iter(peak::multiply_adds));
    for (name, bytes) in
        [("read, in cache (256 KiB)", 256 << 10), ("read, from memory (512 MiB)", 512usize << 20)]
    {
        let words = vec![1u64; bytes / 8];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |b| b.iter(|| peak::read(black_box(&words))));
    }
}

/// Distances of one query to rows: consecutive in cache, and scattered over 256 MiB.
fn distances(c: &mut Criterion) {
    let k = kernels();
    let mut group = c.benchmark_group("distances");
    for dim in DIMS {
        let query = values(1, dim);
        let few = rows(2, (128 << 10) / (dim * 4), dim);
        let mut out = vec![0.0; few.rows()];
        group.throughput(flops(few.rows(), dim));
        group.bench_function(BenchmarkId::new("dot_rows", dim), |b| {
            b.iter(|| (k.dot_rows)(black_box(&query), few.view().as_slice(), &mut out));
        });
        group.bench_function(BenchmarkId::new("l2_rows", dim), |b| {
            b.iter(|| (k.l2_rows)(black_box(&query), few.view().as_slice(), &mut out));
        });
        let many = rows(3, (256 << 20) / (dim * 4), dim);
        let halves: Vec<f16> = many.view().as_slice().iter().map(|&value| f16::from_f32(value)).collect();
        let ordinals = &shuffled(many.rows())[..4096];
        let mut out = vec![0.0; ordinals.len()];
        group.throughput(Throughput::Bytes((ordinals.len() * dim * 4) as u64));
        group.bench_function(BenchmarkId::new("l2_gather", dim), |b| {
            b.iter(|| (k.l2_gather)(black_box(&query), many.view().as_slice(), ordinals, &mut out));
        });
        group.throughput(Throughput::Bytes((ordinals.len() * dim * 2) as u64));
        group.bench_function(BenchmarkId::new("l2_gather_f16", dim), |b| {
            b.iter(|| (k.l2_gather_f16)(black_box(&query), &halves, ordinals, &mut out));
        });
    }
}

/// One query against packed codes in cache, as a walk's expansion reads them.
fn packed_codes(c: &mut Criterion) {
    let k = kernels();
    let mut group = c.benchmark_group("packed_gather");
    for (dim, bits) in [(100, 4), (384, 4), (384, 8), (768, 1)] {
        let stride = row_stride((dim * bits as usize).div_ceil(8) + 4);
        let rows = (128 << 10) / stride;
        let base: Vec<u8> = (0..rows * stride).map(|at| (at * 31 % 251) as u8).collect();
        let query: Vec<i8> = (0..stride * 8 / bits as usize).map(|at| (at % 15) as i8 - 7).collect();
        let ordinals = shuffled(rows);
        let mut out = vec![0; rows];
        group.throughput(Throughput::Bytes((rows * stride) as u64));
        group.bench_function(format!("{dim} × {bits} bits"), |b| {
            b.iter(|| (k.packed_gather)(black_box(&query), &base, stride, &ordinals, &mut out));
        });
    }
}

/// Scans of inverted lists: 4-bit codes in blocks, and 8-bit codes through tables of floats.
fn scans(c: &mut Criterion) {
    let k = kernels();
    let mut group = c.benchmark_group("scan");
    for (pq_m, dsub) in [(50, 2), (96, 4)] {
        let rows = 4096;
        let entries = values(4, pq_m * dsub * 16);
        let book = NibbleBook { pq_m, dsub, entries: &entries, offsets: &[] };
        let query = values(5, pq_m * dsub);
        let (mut scratch, mut tables) = (vec![0.0; pq_m * 16], vec![0; nibble_tables_len(pq_m)]);
        group.throughput(Throughput::Elements((pq_m * 16) as u64));
        group.bench_function(format!("tables of {pq_m} × 4 bits"), |b| {
            b.iter(|| (k.nibble_tables)(book, black_box(&query), 1.0, &mut scratch, &mut tables));
        });
        let quantized = (k.nibble_tables)(book, &query, 1.0, &mut scratch, &mut tables);
        let blocks: Vec<u8> =
            (0..rows / BLOCK_ROWS * pq_m.div_ceil(2) * BLOCK_ROWS).map(|at| (at * 37 % 256) as u8).collect();
        let scan =
            NibbleScan { blocks: &blocks, rows, first: 0, pq_m, tables: &tables, quantized, allowed: &[] };
        let mut out = vec![0; rows + NIBBLE_SLACK];
        group.throughput(Throughput::Bytes(blocks.len() as u64));
        group.bench_function(format!("{pq_m} × 4 bits, nothing kept"), |b| {
            b.iter(|| (k.nibble_scan)(black_box(scan), f32::NEG_INFINITY, &mut out));
        });
    }
    let (pq_m, rows) = (48, 2048);
    let tables = values(6, pq_m * 256);
    let codes: Vec<u8> = (0..rows * pq_m).map(|at| (at * 37 % 256) as u8).collect();
    let mut out = vec![0.0; rows];
    group.throughput(Throughput::Bytes(codes.len() as u64));
    group.bench_function(format!("{pq_m} × 8 bits"), |b| {
        b.iter(|| (k.pq_scan)(black_box(&tables), 256, &codes, &mut out));
    });
}

/// What a build does with single rows: rounding to levels, the descent of the score-aware loss, and the beam's merge.
fn rows_and_beams(c: &mut Criterion) {
    let k = kernels();
    let mut group = c.benchmark_group("row");
    let row = values(8, 384);
    let mut levels = vec![0.0; row.len()];
    group.throughput(Throughput::Bytes((row.len() * 4) as u64));
    group.bench_function("round_to_levels, 384", |b| {
        b.iter(|| (k.round_to_levels)(black_box(&row), 7.5, 15.0, &mut levels));
    });
    descent(k, &mut group);
    let beam: Vec<u64> = (0..192u64).map(|at| at * 1000).collect();
    let incoming: Vec<u64> = (0..16u64).map(|at| at * 9973 % 190_000).collect();
    let (mut slots, mut offered) = (beam.clone(), incoming.clone());
    group.throughput(Throughput::Elements(incoming.len() as u64));
    group.bench_function("merge of 16 into a beam of 192", |b| {
        b.iter(|| {
            slots.copy_from_slice(&beam);
            offered.copy_from_slice(&incoming);
            (k.merge)(black_box(&mut slots), beam.len(), &mut offered)
        });
    });
}

fn descent(k: &Kernels, group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let (pq_m, dsub, ksub) = (50, 2, 16);
    let (row, target) = (values(9, pq_m * dsub), values(10, pq_m * dsub));
    let entries = values(11, pq_m * dsub * ksub);
    let scored = ScoredRow { row: &row, target: &target, entries: &entries, ksub, weight: 0.05, sweeps: 4 };
    let (mut along, mut error, mut loss) = (vec![0.0; pq_m * ksub], vec![0.0; pq_m * ksub], vec![0.0; ksub]);
    let mut code = vec![0; pq_m];
    group.throughput(Throughput::Elements(1));
    group.bench_function("descend, 50 × 4 bits", |b| {
        b.iter(|| {
            code.fill(0);
            (k.descend)(black_box(scored), &mut code, &mut along, &mut error, &mut loss);
        });
    });
}

/// The batch operations of the CPU backend, whose inner kernels are products with a fused reduction.
fn operations(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("operation");
    group.sample_size(10);
    for dim in DIMS {
        let count = (16 << 20) / (dim * 4);
        let base = rows(12, count, dim);
        let uploaded = cpu.upload(base.view()).expect("the CPU has the rows already");
        let centroids = rows(13, 1024, dim);
        group.throughput(flops(count * 1024, dim));
        group.bench_function(BenchmarkId::new("assign, 1,024 centroids", dim), |b| {
            b.iter(|| cpu.assign(&uploaded, centroids.view(), Metric::L2));
        });
        group.bench_function(BenchmarkId::new("assign_coarse, 1,024 centroids", dim), |b| {
            b.iter(|| cpu.assign_coarse(&uploaded, centroids.view()));
        });
        let queries = rows(14, 256, dim);
        group.throughput(flops(count * 256, dim));
        group.bench_function(BenchmarkId::new("top_k, 256 queries, k 10", dim), |b| {
            b.iter(|| cpu.top_k(queries.view(), &uploaded, Metric::L2, 10));
        });
        let mut leaves = Leaves::default();
        shuffled(count).chunks_exact(512).for_each(|leaf| leaves.push(leaf));
        group.throughput(flops(leaves.members.len() * 512, dim));
        group.bench_function(BenchmarkId::new("leaf_top_k, leaves of 512, k 3", dim), |b| {
            b.iter(|| cpu.leaf_top_k(&uploaded, &leaves, Metric::L2, 3));
        });
        let bytes = annvil::compute::cpu::ByteRows::encode(base.view());
        group.bench_function(BenchmarkId::new("leaf_candidates in bytes, leaves of 512, k 3", dim), |b| {
            b.iter(|| cpu.leaf_candidates(&uploaded, bytes.as_ref(), &leaves, 3));
        });
        let labels: Vec<u32> =
            (0..count as u64).map(|row| (Random::of(15, row).next_u64() % 1024) as u32).collect();
        group.throughput(Throughput::Bytes((count * dim * 4) as u64));
        group.bench_function(BenchmarkId::new("centroid_sums, 1,024 centroids", dim), |b| {
            b.iter(|| cpu.centroid_sums(&uploaded, &labels, 1024));
        });
        let (pq_m, dsub) = (dim / 4, 4);
        let entries = values(16, pq_m * 256 * dsub);
        let codebook = CodebookView { centroids: &entries, pq_m, ksub: 256, dsub };
        group.throughput(flops(count * 256, dim));
        group.bench_function(BenchmarkId::new("pq_encode, 8 bits, 4 dimensions a code", dim), |b| {
            b.iter(|| cpu.pq_encode(&uploaded, None, codebook));
        });
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = all;
    config = settings();
    targets = the_machine, distances, packed_codes, scans, rows_and_beams, operations
}
criterion_main!(all);
