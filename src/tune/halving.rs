//! Which candidates are worth a larger sample.

use super::{Asked, Miss, Prefer};
use crate::tune::Prediction;

/// As many go on to the next sample at least, where there are so many.
const FINALISTS: usize = 4;

/// What a candidate is judged by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    /// How far it is from what is asked: 0 where it meets everything.
    pub shortfall: f64,
    /// Median latency, which another program's load disturbs least, bytes, build time: less is better.
    pub costs: [f64; 3],
    /// What is preferred among those that meet everything.
    pub key: f64,
}

impl Standing {
    pub fn of(prediction: &Prediction, asked: &Asked) -> Self {
        Self {
            shortfall: misses(prediction, asked).iter().map(Miss::shortfall).sum(),
            costs: [prediction.p50_ms, prediction.bytes_per_vector, prediction.build_seconds],
            key: match asked.prefer {
                Prefer::Speed => prediction.p50_ms,
                Prefer::Size => prediction.bytes_per_vector,
                Prefer::Build => prediction.build_seconds,
            },
        }
    }

    /// Whether `self` is no worse in anything, what is asked included, and better in something.
    fn dominates(&self, other: &Standing) -> bool {
        let all = |standing: &Standing| [&standing.costs[..], &[standing.shortfall]].concat();
        let (own, theirs) = (all(self), all(other));
        let pairs = || own.iter().zip(&theirs);
        pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
    }
}

/// What is asked and not met.
pub(super) fn misses(prediction: &Prediction, asked: &Asked) -> Vec<Miss> {
    let mut misses = Vec::new();
    if prediction.recall < asked.recall {
        misses.push(Miss { what: "recall", asked: asked.recall, predicted: prediction.recall });
    }
    for (what, limit, predicted) in [
        ("p95_ms", asked.p95_ms, prediction.p95_ms),
        ("bytes_per_vector", asked.bytes_per_vector, prediction.bytes_per_vector),
    ] {
        if let Some(asked) = limit.filter(|&limit| predicted > limit) {
            misses.push(Miss { what, asked, predicted });
        }
    }
    misses
}

/// For each candidate, whether no other of those that meet as much dominates it.
pub(super) fn frontier(standings: &[Standing]) -> Vec<bool> {
    standings.iter().map(|one| !standings.iter().any(|other| other.dominates(one))).collect()
}

/// The candidates, best first: those that meet what is asked, of them those on the frontier, of them by what is preferred; then the
/// others, nearest first.
pub(super) fn ranked(standings: &[Standing]) -> Vec<usize> {
    let frontier = frontier(standings);
    let mut order: Vec<usize> = (0..standings.len()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (&standings[a], &standings[b]);
        let meets = |standing: &Standing| standing.shortfall > 0.0;
        let by_shortfall = x.shortfall.total_cmp(&y.shortfall);
        meets(x)
            .cmp(&meets(y))
            .then(by_shortfall)
            .then(frontier[b].cmp(&frontier[a]))
            .then(x.key.total_cmp(&y.key))
            .then(a.cmp(&b))
    });
    order
}

/// The better half, best first; the cheapest in each cost of those that meet what is asked stay in any case, so that the frontier is
/// not cut to one end.
pub(super) fn survivors(standings: &[Standing]) -> Vec<usize> {
    let order = ranked(standings);
    let stay = order.len().div_ceil(2).max(FINALISTS).min(order.len());
    let cheapest = |cost: usize| {
        let meeting = order.iter().copied().filter(|&one| standings[one].shortfall == 0.0);
        meeting.min_by(|&a, &b| standings[a].costs[cost].total_cmp(&standings[b].costs[cost]))
    };
    let kept: Vec<usize> = (0..3).filter_map(cheapest).collect();
    let goes_on = |&(place, one): &(usize, usize)| place < stay || kept.contains(&one);
    order.iter().copied().enumerate().filter(goes_on).map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(shortfall: f64, costs: [f64; 3]) -> Standing {
        Standing { shortfall, costs, key: costs[0] }
    }

    fn prediction(recall: f64, p95_ms: f64, bytes_per_vector: f64) -> Prediction {
        Prediction {
            rows: 1,
            from: vec![1],
            recall,
            best_recall: recall,
            p50_ms: p95_ms / 2.0,
            p95_ms,
            qps: 1e3 / p95_ms,
            bytes_per_vector,
            published_bytes: 1,
            build_seconds: 1.0,
        }
    }

    #[test]
    fn what_is_asked_and_not_met_is_named() {
        let asked = Asked { p95_ms: Some(5.0), bytes_per_vector: Some(64.0), ..Asked::recall(0.95) };
        let names = |prediction: &Prediction| -> Vec<&str> {
            misses(prediction, &asked).iter().map(|miss| miss.what).collect()
        };
        assert_eq!(names(&prediction(0.95, 5.0, 64.0)), [""; 0], "as much as is asked is enough");
        assert_eq!(names(&prediction(0.94, 5.1, 65.0)), ["recall", "p95_ms", "bytes_per_vector"]);
        let near = Standing::of(&prediction(0.94, 5.0, 64.0), &asked).shortfall;
        let far = Standing::of(&prediction(0.90, 5.0, 64.0), &asked).shortfall;
        let large = Standing::of(&prediction(0.99, 5.0, 128.0), &asked).shortfall;
        assert!(0.0 < near && near < far && (large - 1.0).abs() < 1e-9, "{near} {far} {large}");
    }

    #[test]
    fn those_that_meet_what_is_asked_come_first_and_the_others_by_how_far_they_are() {
        let all = [
            standing(0.5, [0.1, 1.0, 1.0]),
            standing(0.0, [9.0, 9.0, 9.0]),
            standing(0.1, [0.1, 1.0, 1.0]),
            standing(0.0, [3.0, 3.0, 3.0]),
            standing(0.0, [8.0, 2.0, 9.0]),
        ];
        assert_eq!(frontier(&all), [false, false, true, true, true]);
        assert_eq!(ranked(&all), [3, 4, 1, 2, 0]);
    }

    #[test]
    fn half_go_on_and_the_cheapest_of_each_kind_stay() {
        // A hundred that are ever slower, and one among the slowest that is the smallest.
        let mut all: Vec<Standing> =
            (0..100).map(|one| standing(0.0, [f64::from(one), 50.0, 50.0 + f64::from(one)])).collect();
        all[90].costs[1] = 1.0;
        let first = survivors(&all);
        assert!((50..=51).contains(&first.len()) && first.contains(&90) && first.contains(&0), "{first:?}");
        let few: Vec<Standing> = all[..3].to_vec();
        assert_eq!(survivors(&few).len(), 3, "finalists are not cut");
        assert!(survivors(&[]).is_empty());
    }
}
