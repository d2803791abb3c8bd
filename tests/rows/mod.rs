//! Rows to build indexes over, and an allocator that counts.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use annvil::vectors::{Metric, Random, VectorBuf, normalize};

/// Counts each thread's allocations: for a test to make its global allocator.
pub struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    /// Of this thread so far.
    pub fn allocations() -> usize {
        ALLOCATIONS.with(Cell::get)
    }
}

// SAFETY: passes every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

pub fn normal(rows: usize, dim: usize, seed: u64) -> VectorBuf {
    let mut random = Random::new(seed);
    VectorBuf::new((0..rows * dim).map(|_| random.normal() as f32).collect(), dim)
}

/// Rows in overlapping clusters; of unit length for cosine.
pub fn clustered(rows: usize, dim: usize, metric: Metric, seed: u64) -> VectorBuf {
    let centres = normal(40, dim, 17);
    let mut random = Random::new(seed);
    let mut data = VectorBuf::zeroed(rows, dim);
    for row in 0..rows {
        let centre = centres.row(random.below(centres.rows()));
        let values = data.row_mut(row).iter_mut().zip(centre);
        values.for_each(|(x, &c)| *x = c + 0.7 * random.normal() as f32);
    }
    for_metric(data, metric)
}

/// Clusters of `size` rows, with centres that are `apart` times as far from one another as normal rows are.
pub fn islands(count: usize, size: usize, dim: usize, apart: f32, seed: u64) -> VectorBuf {
    let centres = normal(count, dim, seed ^ 99);
    let mut random = Random::new(seed);
    let mut data = VectorBuf::zeroed(count * size, dim);
    for row in 0..count * size {
        // Dealt out in turn: rows of a cluster do not stand together.
        let centre = centres.row(row % count);
        let values = data.row_mut(row).iter_mut().zip(centre);
        values.for_each(|(x, &c)| *x = apart * c + 0.3 * random.normal() as f32);
    }
    data
}

/// As `source` hands them on.
pub fn for_metric(mut rows: VectorBuf, metric: Metric) -> VectorBuf {
    if metric == Metric::Cosine {
        let dim = rows.dim();
        rows.as_mut_slice().chunks_exact_mut(dim).for_each(|row| assert!(normalize(row)));
    }
    rows
}

/// 10,000 GloVe word vectors and 200 queries, not normalised.
#[cfg(feature = "build")]
pub fn glove10k() -> (VectorBuf, VectorBuf) {
    use arrow_array::Array as _;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float32Type;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/glove10k");
    let read = |name: &str| {
        let file =
            std::fs::File::open(folder.join(name)).expect("datasets/glove10k is part of the repository");
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let mut rows = VectorBuf::new(Vec::new(), 100);
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let vectors = batch.column_by_name("embedding").unwrap().as_fixed_size_list();
            for row in 0..vectors.len() {
                rows.push(vectors.value(row).as_primitive::<Float32Type>().values());
            }
        }
        rows
    };
    (read("base.parquet"), read("queries.parquet"))
}
