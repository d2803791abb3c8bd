//! Some of a job's rows and queries, for whoever wants to try something on them before the job runs: read as the job reads them,
//! in one pass, holding no more than what is kept.

use std::collections::BinaryHeap;

use super::progress::{Progress, Unit};
use super::run::{Job, resolved};
use super::scratch::Scratch;
use super::spec::{JobSpec, QueriesSpec};
use crate::compute::Compute;
use crate::error::Error;
use crate::source::{self, Source};
use crate::store::runtime;
use crate::vectors::{Random, VectorBuf};

/// The stream of the job's seed that decides which rows are drawn.
const SAMPLE_STREAM: u64 = 0x0073_616d_706c_6573;

/// Rows and queries drawn by a job's seed.
pub(crate) struct Sample {
    /// In an order that is random by the seed: its first n rows are a sample of n rows, whatever n is.
    pub rows: VectorBuf,
    /// None of them is among `rows`.
    pub queries: VectorBuf,
    /// That the job would index.
    pub all_rows: u64,
    /// Bytes of ids and attributes of a row, about.
    pub columns_bytes: u64,
}

/// How much to draw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SampleSize {
    pub rows: usize,
    pub queries: usize,
}

/// Reads all of a job's rows once and keeps a sample of them.
pub(crate) fn sample(
    spec: &JobSpec,
    compute: &dyn Compute,
    size: SampleSize,
    progress: &Progress,
) -> Result<Sample, Error> {
    let job = Job::with(Scratch::none(progress), compute, spec, progress);
    let source = job.open()?;
    let columns_bytes = source.size().columns_bytes_per_row;
    let stage = progress.stage("draw a sample", Unit::ROWS, Some(source.rows_upper_bound()));
    let (held_out, queries_drawn) = match spec.queries {
        QueriesSpec::Sample { sample } => (sample as u64, size.queries.min(sample)),
        QueriesSpec::File { .. } => (0, 0),
    };
    let mut drawing = Drawing::new(spec.seed, size.rows + queries_drawn);
    let mut batches = source.batches()?;
    for batch in batches.by_ref() {
        let batch = batch?;
        batch.vectors.view().iter().for_each(|row| drawing.offer(row));
        stage.inc(batch.vectors.rows() as u64);
        progress.check()?;
    }
    stage.finish();
    let (seen, drawn) = drawing.finish();
    if drawn.rows() == 0 {
        // As the job itself says it.
        return Err(job.open()?.read_all(&|_, _| job.keep_going()).map_or_else(Error::from, |_| {
            Error::Internal("rows came and went between two readings".into())
        }));
    }
    let (queries, rows) = match &spec.queries {
        QueriesSpec::Sample { .. } => {
            // Of few rows half are left to be found.
            let queries = queries_drawn.min(drawn.rows() / 2);
            let (first, rest) = (drawn.view().slice(0, queries), drawn.view().slice(queries, drawn.rows()));
            (VectorBuf::from(first), VectorBuf::from(rest))
        }
        QueriesSpec::File { uri, vector } => {
            let from = source::SourceSpec {
                uris: resolved(uri),
                dim: Some(drawn.dim()),
                store: spec.store.clone(),
                foreign: spec.source.foreign.of_queries(),
                ..source::SourceSpec::new("", vector, spec.metric())
            };
            let all = Source::open(from, runtime()?)?.read_all(&|_, _| job.keep_going())?.vectors;
            (evenly(&all, size.queries), drawn)
        }
    };
    Ok(Sample { rows, queries, all_rows: seen.saturating_sub(held_out).max(1), columns_bytes })
}

/// At most `count` rows, evenly spread.
fn evenly(all: &VectorBuf, count: usize) -> VectorBuf {
    let count = count.min(all.rows());
    let chosen: Vec<u32> = (0..count).map(|place| (place * all.rows() / count) as u32).collect();
    all.view().gather(&chosen)
}

/// The rows whose random numbers are the smallest: no matter in which pieces they come, or how many there will be.
struct Drawing {
    seed: u64,
    count: usize,
    seen: u64,
    /// The random number and the place in `data` of those that are kept, the largest first.
    kept: BinaryHeap<(u64, u64, usize)>,
    data: Vec<f32>,
    dim: usize,
}

impl Drawing {
    fn new(seed: u64, count: usize) -> Self {
        Self { seed: seed ^ SAMPLE_STREAM, count, seen: 0, kept: BinaryHeap::new(), data: Vec::new(), dim: 1 }
    }

    fn offer(&mut self, row: &[f32]) {
        let number = self.seen;
        self.seen += 1;
        let drawn = Random::of(self.seed, number).next_u64();
        if self.kept.len() < self.count {
            self.dim = row.len();
            self.kept.push((drawn, number, self.kept.len()));
            self.data.extend_from_slice(row);
        } else if let Some(mut largest) = self.kept.peek_mut()
            && (drawn, number) < (largest.0, largest.1)
        {
            let place = largest.2;
            *largest = (drawn, number, place);
            self.data[place * self.dim..][..self.dim].copy_from_slice(row);
        }
    }

    /// How many rows came, and those that were drawn, in the order of their random numbers.
    fn finish(self) -> (u64, VectorBuf) {
        let rows = VectorBuf::new(self.data, self.dim);
        let order: Vec<u32> = self.kept.into_sorted_vec().iter().map(|&(.., place)| place as u32).collect();
        (self.seen, rows.view().gather(&order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, rows: usize, count: usize) -> Vec<f32> {
        let mut drawing = Drawing::new(seed, count);
        (0..rows).for_each(|row| drawing.offer(&[row as f32, -(row as f32)]));
        let (seen, drawn) = drawing.finish();
        assert_eq!(seen, rows as u64);
        drawn.view().iter().map(|row| row[0]).collect()
    }

    #[test]
    fn a_smaller_sample_is_the_beginning_of_a_larger_one() {
        let all = draw(1, 1000, 1000);
        for count in [1, 10, 500, 999] {
            assert_eq!(draw(1, 1000, count), all[..count]);
        }
        let mut sorted = all.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        assert_eq!(sorted, (0..1000).map(|row| row as f32).collect::<Vec<_>>(), "each row once");
        assert_ne!(draw(2, 1000, 10), all[..10]);
    }

    #[test]
    fn a_row_is_drawn_as_likely_wherever_it_stands() {
        let drawn: Vec<f32> = (0..200).flat_map(|seed| draw(seed, 100, 10)).collect();
        let late = drawn.iter().filter(|&&row| row >= 50.0).count() as f64;
        // 2,000 draws: five standard deviations of 22 each.
        assert!((late - 1000.0).abs() < 112.0, "{late} of 2,000 from the second half");
    }

    #[test]
    fn queries_are_spread_over_their_file() {
        let all = VectorBuf::new((0..10).map(|row| row as f32).collect(), 1);
        let chosen = |count| evenly(&all, count).view().as_slice().to_vec();
        assert_eq!(chosen(3), [0.0, 3.0, 6.0]);
        assert_eq!(chosen(99).len(), 10);
    }
}
