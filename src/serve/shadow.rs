//! Answers compared with exact search, beside serving: what the recall is on the queries that really come.
//!
//! One thread compares one sample after the other; where it does not keep up samples are left out, not queued.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use super::metrics::Metrics;
use crate::loader::{Answers, Index, Match, Query, Way};
use crate::vectors::VectorView;

/// Samples that wait.
const WAITING: usize = 16;

pub(super) struct Shadow {
    /// Of all queries, this share.
    rate: f64,
    seen: AtomicU64,
    samples: Mutex<SyncSender<Sample>>,
    metrics: Arc<Metrics>,
}

struct Sample {
    name: String,
    index: Arc<Index>,
    query: Query,
    vector: Vec<f32>,
    found: Vec<Match>,
}

impl Shadow {
    /// The thread ends when this is dropped and what waits is compared.
    pub fn start(rate: f64, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (samples, arriving) = sync_channel(WAITING);
        let of_thread = metrics.clone();
        std::thread::Builder::new()
            .name("annvil-shadow".into())
            .spawn(move || compare_all(&arriving, &of_thread))?;
        Ok(Self { rate, seen: AtomicU64::new(0), samples: Mutex::new(samples), metrics })
    }

    /// Takes some of the queries as samples: every so many, whichever request they came with.
    pub fn see(
        &self,
        name: &str,
        index: &Arc<Index>,
        query: &Query,
        vectors: VectorView<'_>,
        (way, answers): (Way, &Answers),
    ) {
        if self.rate <= 0.0 || !matches!(way, Way::Index(_) | Way::Masked { .. }) {
            return;
        }
        let first = self.seen.fetch_add(answers.queries() as u64, Ordering::Relaxed);
        let due = |count: u64| (count as f64 * self.rate) as u64;
        for (place, found) in answers.iter().enumerate() {
            let count = first + place as u64;
            if due(count) == due(count + 1) {
                continue;
            }
            let sample = Sample {
                name: name.into(),
                index: index.clone(),
                query: query.clone().exact(),
                vector: vectors.row(place).to_vec(),
                found: found.to_vec(),
            };
            let samples = self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Err(TrySendError::Full(_)) = samples.try_send(sample) {
                self.metrics.left_out_a_shadow();
            }
        }
    }
}

fn compare_all(samples: &Receiver<Sample>, metrics: &Metrics) {
    for Sample { name, index, query, vector, found } in samples {
        // An index without vectors cannot say.
        let Ok(truth) = index.ask(VectorView::new(&vector, index.dim()), &query) else { continue };
        if let Some(recall) = recall(&found, truth.of(0)) {
            metrics.shadowed(&name, recall);
        }
    }
}

/// |found ∩ true| / |true|, rows as near as the farthest true one counted as found; none where nothing is to be found.
fn recall(found: &[Match], truth: &[Match]) -> Option<f64> {
    let farthest = truth.last()?.distance;
    let hits = found.iter().filter(|found| found.distance <= farthest).count();
    Some(hits.min(truth.len()) as f64 / truth.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(distances: &[f32]) -> Vec<Match> {
        let of = |(ordinal, &distance)| Match { distance, ordinal: ordinal as u32, shard: 0 };
        distances.iter().enumerate().map(of).collect()
    }

    #[test]
    fn recall_counts_ties_as_found_and_what_is_missing_as_missed() {
        let truth = matches(&[1.0, 2.0, 3.0, 3.0]);
        for (found, expected) in [
            (matches(&[1.0, 2.0, 3.0, 3.0]), Some(1.0)),
            (matches(&[1.0, 3.0, 3.0, 4.0]), Some(0.75)),
            (matches(&[1.0, 2.0]), Some(0.5)),
            (matches(&[]), Some(0.0)),
        ] {
            assert_eq!(recall(&found, &truth), expected);
        }
        assert_eq!(recall(&truth, &[]), None);
    }
}
