//! Maximal marginal relevance: of the nearest points, some that are near the query and unlike each other (J. Carbonell and
//! J. Goldstein, The use of MMR, 1998).

use serde::Deserialize;

use crate::loader::{Index, Match, QueryError};
use crate::serve::{Fault, Limits};
use crate::vectors::Metric;

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mmr {
    /// 0: the nearest; 1: the least alike. Default 0.5.
    diversity: Option<f32>,
    /// How many of the nearest are chosen from. Default: as many as are returned.
    candidates_limit: Option<usize>,
}

impl Mmr {
    /// How many points to search for, to return `limit`.
    pub fn candidates(&self, limit: usize, limits: &Limits) -> Result<usize, Fault> {
        let candidates = self.candidates_limit.unwrap_or(limit);
        limits.check_size(1, candidates, 0)?;
        // Each that is returned is compared with each candidate.
        limits.check_hits(candidates.saturating_mul(limit))?;
        Ok(candidates)
    }

    /// Up to `limit` of the points found, as they are chosen: each time the one for which (1 − diversity) · similarity to the query
    /// − diversity · greatest similarity to one that is chosen is greatest.
    pub fn choose(&self, index: &Index, found: &[Match], limit: usize) -> Result<Vec<Match>, Fault> {
        let diversity = self.diversity.unwrap_or(0.5);
        if !(0.0..=1.0).contains(&diversity) {
            let (got, allowed) = (diversity.to_string(), "0 to 1".into());
            return Err(Fault::Value { what: "the diversity", got, allowed });
        }
        let vector = |found: &Match| index.fetch_vector(found.ordinal)?.ok_or(QueryError::NoVectors);
        let vectors = found.iter().map(vector).collect::<Result<Vec<_>, _>>()?;
        let metric = index.metric();
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
            for &place in &pending {
                let distance = metric.distance(&vectors[best], &vectors[place]) as f32;
                nearest_chosen[place] = nearest_chosen[place].max(similarity(metric, distance));
            }
        }
        Ok(chosen)
    }
}

fn similarity(metric: Metric, distance: f32) -> f32 {
    metric.similarity(distance).unwrap_or(-distance)
}
