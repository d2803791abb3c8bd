//! The exact nearest rows to the queries that a change is certified with, of what is known of each segment: rows that came are
//! compared, rows that went are left out, and only a query that has lost more neighbours of a segment than were kept for that
//! is compared with the segment's rows again.

use super::{ChangeError, Workplace};
use crate::error::Error;
use crate::flat::ground_truth;
use crate::index::{RowMask, SearchIndex};
use crate::job::Unit;
use crate::loader::Segments;
use crate::report::GroundTruth;
use crate::vectors::{Neighbor, Neighbors, TopK, VectorBuf, VectorView};

/// Rows whose vectors are gathered at a time to be compared.
const BLOCK_ROWS: usize = 1 << 15;

/// What is known of each segment, its rows that have gone among them; `None`: nothing.
pub(super) type Known = Vec<Option<Neighbors>>;

/// The `k` nearest of the rows that are there, fewer where there are not so many.
pub(super) fn truth(
    work: &Workplace<'_>,
    segments: &Segments,
    queries: VectorView<'_>,
    known: &Known,
    k: usize,
) -> Result<GroundTruth, Error> {
    let live: usize = (0..known.len()).map(|segment| live_rows(segments, segment)).sum();
    let k = k.min(live);
    let mut nearest: Vec<TopK> = (0..queries.rows()).map(|_| TopK::new(k)).collect();
    let mut first = 0;
    for (place, (index, known)) in segments.indexes().zip(known).enumerate() {
        let (mask, wanted) = (segments.live_of(place), k.min(live_rows(segments, place)));
        let mut unknown: Vec<u32> = Vec::new();
        for (query, nearest) in nearest.iter_mut().enumerate() {
            let found = known.as_ref().map_or(&[][..], |known| known.found(query));
            let is_there = |found: &&Neighbor| mask.is_none_or(|mask| mask.contains(found.ordinal));
            if found.iter().filter(is_there).count() < wanted {
                unknown.push(query as u32);
                continue;
            }
            let found = found.iter().filter(is_there);
            found.for_each(|found| nearest.push(Neighbor::new(first + found.ordinal, found.distance)));
        }
        if !unknown.is_empty() && wanted > 0 {
            let asked = queries.gather(&unknown);
            let own = nearest_in(work, &**index, mask, asked.view(), wanted)?;
            for (place, &query) in unknown.iter().enumerate() {
                let found = own.found(place).iter();
                let nearest = &mut nearest[query as usize];
                found.for_each(|found| nearest.push(Neighbor::new(first + found.ordinal, found.distance)));
            }
        }
        first += index.rows() as u32;
    }
    let mut all = Neighbors::new(queries.rows(), k);
    for (query, nearest) in nearest.iter_mut().enumerate() {
        all.row_mut(query).copy_from_slice(nearest.sorted());
    }
    Ok(GroundTruth::of(all))
}

fn live_rows(segments: &Segments, segment: usize) -> usize {
    let rows = || segments.indexes().nth(segment).map_or(0, |index| index.rows());
    segments.live_of(segment).map_or_else(rows, RowMask::count)
}

/// The `k` nearest rows of one segment that are there, `k` at most as many, by the vectors that it keeps; block by block, so that no
/// second copy of all vectors is needed.
pub(super) fn nearest_in(
    work: &Workplace<'_>,
    index: &dyn SearchIndex,
    live: Option<&RowMask>,
    queries: VectorView<'_>,
    k: usize,
) -> Result<Neighbors, Error> {
    let none = || ChangeError::NoVectors { index: work.store.name().into() };
    let kept = index.kept().ok_or_else(none)?;
    let ordinals: Vec<u32> = match live {
        Some(live) => live.iter().collect(),
        None => (0..index.rows() as u32).collect(),
    };
    let stage = work.progress.stage("exact neighbours", Unit::ROWS, Some(ordinals.len() as u64));
    let mut nearest: Vec<TopK> = (0..queries.rows()).map(|_| TopK::new(k)).collect();
    for block in ordinals.chunks(BLOCK_ROWS) {
        work.progress.check()?;
        let mut values = Vec::with_capacity(block.len() * index.dim());
        block.iter().for_each(|&ordinal| kept.push_to(ordinal, &mut values));
        let rows = VectorBuf::new(values, index.dim());
        let found = ground_truth(work.compute, queries, rows.view(), index.metric(), k)?;
        for (query, nearest) in nearest.iter_mut().enumerate() {
            let own = found.found(query).iter();
            own.for_each(|own| nearest.push(Neighbor::new(block[own.ordinal as usize], own.distance)));
        }
        stage.inc(block.len() as u64);
    }
    stage.finish();
    let mut all = Neighbors::new(queries.rows(), k);
    for (query, nearest) in nearest.iter_mut().enumerate() {
        all.row_mut(query).copy_from_slice(nearest.sorted());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::artifact::neighbors::NEIGHBORS_KEPT;
    use crate::change::ChangeOptions;
    use crate::compute::cpu::Cpu;
    use crate::flat::FlatIndex;
    use crate::index::Precision;
    use crate::job::Progress;
    use crate::store::IndexStore;
    use crate::vectors::{Metric, Random};

    #[test]
    fn what_is_known_and_what_is_compared_again_are_the_truth() {
        let folder = tempfile::tempdir().unwrap();
        let store = IndexStore::open(folder.path().join("index").to_str().unwrap()).unwrap();
        let (options, compute, progress) = (ChangeOptions::new("index"), Cpu::new(), Progress::silent());
        let work = Workplace { store, options: &options, compute: &compute, progress: &progress };
        let mut random = Random::new(1);
        // Few distinct values, so that ties are everywhere.
        let mut rows =
            |count: usize| VectorBuf::new((0..count * 3).map(|_| random.below(6) as f32).collect(), 3);
        let queries = rows(40);
        let indexes: Vec<Arc<dyn SearchIndex>> = [900, 40, 300]
            .map(|count| {
                let rows = rows(count);
                let index = FlatIndex::build(rows.view(), Metric::L2, Precision::F32).unwrap();
                Arc::new(index) as Arc<dyn SearchIndex>
            })
            .into();
        for depth in [20, NEIGHBORS_KEPT] {
            let known: Known = indexes
                .iter()
                .map(|index| {
                    let depth = depth.min(index.rows());
                    Some(nearest_in(&work, &**index, None, queries.view(), depth).unwrap())
                })
                .collect();
            for gone in [0, 1, 10, 50, 95, 100] {
                let dead: Vec<Vec<u32>> = indexes
                    .iter()
                    .enumerate()
                    .map(|(place, index)| {
                        let goes = |row: &u32| {
                            place != 0 && gone == 100
                                || Random::of(9, u64::from(*row)).below(100) < gone.min(99)
                        };
                        (0..index.rows() as u32).filter(goes).collect()
                    })
                    .collect();
                let parts = indexes.iter().cloned().zip(dead.iter().map(Vec::as_slice)).collect();
                let segments = Segments::new(parts);
                for k in [1, 10, 100] {
                    let quick = truth(&work, &segments, queries.view(), &known, k).unwrap();
                    let slow = truth(&work, &segments, queries.view(), &vec![None; 3], k).unwrap();
                    for query in 0..queries.rows() {
                        assert_eq!(
                            quick.row(query),
                            slow.row(query),
                            "{depth} known, {gone} % gone, k = {k}"
                        );
                    }
                }
            }
        }
    }
}
