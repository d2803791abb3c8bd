//! Maximal marginal relevance: of the nearest points, some that are near the query and unlike each other (J. Carbonell and
//! J. Goldstein, The use of MMR, 1998).

use serde::Deserialize;

use super::Asked;
use crate::loader::Match;
use crate::serve::{Fault, Limits};
use crate::vectors::Metric;

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mmr {
    /// 0: the nearest; 1: the least alike. Default 0.5.
    diversity: Option<f32>,
    /// How many of the nearest are chosen from. Default: `limit`, whatever the offset, as Qdrant has it; so that pages need it said.
    candidates_limit: Option<usize>,
}

impl Mmr {
    /// How many points to search for, to return `limit` of `wanted` that are chosen.
    pub fn candidates(&self, limit: usize, wanted: usize, limits: &Limits) -> Result<usize, Fault> {
        let candidates = self.candidates_limit.unwrap_or(limit);
        limits.check_size(1, candidates, 0)?;
        // Each that is chosen is compared with each candidate, those that an offset leaves out among them.
        limits.check_hits(candidates.saturating_mul(wanted.min(candidates)))?;
        Ok(candidates)
    }

    /// Up to `limit` of the points found, as they are chosen: each time the one for which (1 − diversity) · similarity to the query
    /// − diversity · greatest similarity to one that is chosen is greatest.
    pub fn choose(&self, asked: &Asked, found: &[Match], limit: usize) -> Result<Vec<Match>, Fault> {
        let diversity = self.diversity.unwrap_or(0.5);
        if !(0.0..=1.0).contains(&diversity) {
            let (got, allowed) = (diversity.to_string(), "0 to 1".into());
            return Err(Fault::Value { what: "the diversity", got, allowed });
        }
        let ordinals: Vec<u32> = found.iter().map(|found| found.ordinal).collect();
        let vectors = asked.vectors(&ordinals)?;
        let metric = asked.index.metric();
        let mut distances = vec![0.0; found.len()];
        let relevance = |place: usize| similarity(metric, found[place].distance);
        let mut pending: Vec<usize> = (0..found.len()).collect();
        let mut nearest_chosen = vec![f32::NEG_INFINITY; found.len()];
        let mut chosen: Vec<Match> = Vec::new();
        while chosen.len() < limit {
            let score = |&place: &usize| match chosen.is_empty() {
                true => relevance(place),
                false => (1.0 - diversity) * relevance(place) - diversity * nearest_chosen[place],
            };
            let best = (0..pending.len()).max_by(|&a, &b| score(&pending[a]).total_cmp(&score(&pending[b])));
            let Some(best) = best else { break };
            let best = pending.swap_remove(best);
            chosen.push(found[best]);
            asked.deadline.check()?;
            asked.index.distances(vectors.row(best), vectors.view(), &mut distances);
            for &place in &pending {
                nearest_chosen[place] = nearest_chosen[place].max(similarity(metric, distances[place]));
            }
        }
        Ok(chosen)
    }
}

fn similarity(metric: Metric, distance: f32) -> f32 {
    metric.similarity(distance).unwrap_or(-distance)
}
