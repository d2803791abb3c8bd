//! k-means by Lloyd's iteration on a seeded sample, in two levels where there are many centroids.
//!
//! Rows are clustered by squared Euclidean distance whatever the index's metric. For cosine, rows are unit
//! vectors, so the nearest centroid by L2 differs from the most similar one only through the centroids' lengths;
//! for inner product, what is quantized is the residual, and it is shortest with the nearest centroid by L2
//! (the centroid with the greatest inner product is the longest one, for most rows).

use super::{Observer, Progress, TrainError, Warning, check_magnitude, checked_labels, report};
use super::{hierarchy, seeding, vacancies};
use crate::compute::{Compute, Rows, Shortlists};
use crate::vectors::{Metric, Random, VectorBuf, VectorView};

/// How to train centroids.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct KmeansParams {
    /// Centroids, 1 or more and at most one per row.
    pub k: usize,
    /// Passes over the sample at most, 1 to 1,000. Default 10: ten more lower the inertia by 0.3 to 0.4 %
    /// (glove10k with k = 256, minilm100k with k = 1,024).
    pub iterations: usize,
    /// Stop once a pass lowers the inertia by less than this part of it. Default 1e-4.
    pub tolerance: f64,
    /// Rows of the sample per centroid. Default 256, as in faiss (`max_points_per_centroid`): a mean of more
    /// rows is no better by any measure that search shows.
    pub max_rows_per_centroid: usize,
    /// Fewer rows per centroid are warned of. Default 39, as in faiss.
    pub min_rows_per_centroid: usize,
    /// A cluster of more than this many times the mean is split, at the cost of clusters an eighth of its
    /// allowance or smaller, in the first two thirds of the passes. Default 8. Rows that are all equal stay
    /// together, so this bounds what clustering can bound, not every list.
    pub max_imbalance: usize,
    /// More centroids than this begin in two levels, and every other pass compares a row with
    /// 64 centroids only. Default 256.
    pub two_level_above: usize,
    /// Compare every row with every centroid in every pass, in f32 and from seeds of k-means++: Lloyd's iteration as
    /// written. Default false: that takes 2 to 3.5 times as long, for an inertia 0.1 to
    /// 0.4 % lower.
    pub exact: bool,
    pub seed: u64,
}

/// Centroids that a row is compared with in a pass over shortlists: those nearest to the one it belongs to. A row seldom
/// leaves them in one pass, and those that should leave do so in the next pass over all.
pub const SHORTLIST: usize = 64;

impl KmeansParams {
    pub fn new(k: usize, seed: u64) -> Self {
        Self {
            k,
            iterations: 10,
            tolerance: 1e-4,
            max_rows_per_centroid: 256,
            min_rows_per_centroid: 39,
            max_imbalance: 8,
            two_level_above: 256,
            exact: false,
            seed,
        }
    }

    fn check(&self, rows: usize) -> Result<(), TrainError> {
        let ranges: [(&'static str, usize, usize, usize); 4] = [
            ("k", self.k, 1, u32::MAX as usize),
            ("iterations", self.iterations, 1, 1000),
            ("max_rows_per_centroid", self.max_rows_per_centroid, 1, u32::MAX as usize),
            ("max_imbalance", self.max_imbalance, 1, u32::MAX as usize),
        ];
        for (name, value, lowest, highest) in ranges {
            if !(lowest..=highest).contains(&value) {
                let expected = format!("{lowest} to {highest}");
                return Err(TrainError::Parameter { name, expected, got: value.to_string() });
            }
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            let (expected, got) = ("0 up to, not including, 1".into(), self.tolerance.to_string());
            return Err(TrainError::Parameter { name: "tolerance", expected, got });
        }
        if rows < self.k {
            return Err(TrainError::TooFewRows { rows, k: self.k });
        }
        Ok(())
    }
}

/// Trained centroids, and how they came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Kmeans {
    /// `k × dim`, finite.
    pub centroids: VectorBuf,
    /// For each pass over the whole sample the sum of squared distances to the centroids that entered it, so the
    /// last pass improved on the last number. Falls from pass to pass, but for rounding and after moved centroids.
    pub inertia: Vec<f64>,
    /// Rows of the sample.
    pub rows: usize,
    /// Centroids that were moved because they had lost their rows, or to split an oversized cluster.
    pub moved: usize,
    pub warnings: Vec<Warning>,
}

/// The rows, ascending, that [`train`] learns from; `None` where it takes all. Whoever gathers them and trains on those alone has the
/// same centroids.
pub fn sample(rows: usize, params: &KmeansParams) -> Option<Vec<u32>> {
    let allowed = params.k.saturating_mul(params.max_rows_per_centroid);
    (rows > allowed).then(|| Random::of(params.seed, Draw::SAMPLE).sample(rows, allowed))
}

/// Trains `params.k` centroids on at most `k · max_rows_per_centroid` of `rows`.
pub fn train(
    compute: &dyn Compute,
    rows: VectorView<'_>,
    params: &KmeansParams,
    observer: Observer<'_>,
) -> Result<Kmeans, TrainError> {
    params.check(rows.rows())?;
    let gathered;
    let sample = match sample(rows.rows(), params) {
        Some(chosen) => {
            gathered = rows.gather(&chosen);
            gathered.view()
        }
        None => rows,
    };
    check_magnitude(sample)?;
    let uploaded = compute.upload(sample)?;
    let passes = params.iterations;
    let (seeds, start) = if params.k > params.two_level_above && !params.exact {
        let hierarchy::Start { centroids, near } = hierarchy::start(compute, &uploaded, params, observer)?;
        (centroids, Some(near))
    } else {
        (seeding::plus_plus(sample, params.k, &mut Random::of(params.seed, Draw::SEEDS)), None)
    };
    let lloyd = Lloyd {
        passes,
        comparing: match (params.exact, &start) {
            (true, _) => Comparing::All,
            (false, None) => Comparing::AllCoarsely,
            (false, Some(_)) => Comparing::Shortlists,
        },
        tolerance: params.tolerance,
        longest: params.max_imbalance.saturating_mul(sample.rows()).div_ceil(params.k),
        seed: params.seed,
    };
    let mut trained = lloyd.run(compute, &uploaded, seeds, start, |pass, inertia| {
        let (done, total) = (pass as u64 + 1, passes as u64);
        report(observer, Progress { stage: "k-means", done, total, inertia: Some(inertia) })
    })?;
    let recommended = params.k.saturating_mul(params.min_rows_per_centroid);
    if sample.rows() < recommended {
        let (what, rows, centroids) = ("k-means".into(), sample.rows(), params.k);
        trained.warnings.push(Warning::FewTrainingRows { what, rows, centroids, recommended });
    }
    Ok(trained)
}

/// What random numbers are drawn for: each use has its own stream under the seed.
pub(super) struct Draw;

impl Draw {
    pub const SAMPLE: u64 = 1;
    pub const SEEDS: u64 = 2;
    pub const TOP_SAMPLE: u64 = 3;
    pub const TOP_SEEDS: u64 = 4;
    /// Plus the pass.
    pub const MOVES: u64 = 1 << 16;
    /// Plus the top-level cluster.
    pub const WITHIN: u64 = 1 << 32;
}

/// Lloyd's iteration from given centroids.
pub(super) struct Lloyd {
    pub passes: usize,
    pub tolerance: f64,
    /// Clusters of more rows are split where small clusters can give way.
    pub longest: usize,
    pub seed: u64,
    pub comparing: Comparing,
}

/// Which centroids a pass compares a row with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparing {
    /// All, exactly.
    All,
    /// All, as [`Compute::assign_coarse`] does.
    AllCoarsely,
    /// So in the last pass and every other before it, and after centroids were moved. In the passes between the
    /// [`SHORTLIST`] nearest to the row's last one: the idea is that of cluster closures (Wang et al., CVPR 2012).
    Shortlists,
}

/// The group of each row, and the centroids that rows of a group are compared with.
pub(super) struct Near {
    pub groups: Vec<u32>,
    pub shortlists: Shortlists,
}

impl Lloyd {
    pub fn run(
        &self,
        compute: &dyn Compute,
        rows: &Rows<'_>,
        mut centroids: VectorBuf,
        start: Option<Near>,
        mut after_assign: impl FnMut(usize, f64) -> Result<(), TrainError>,
    ) -> Result<Kmeans, TrainError> {
        let k = centroids.rows();
        let mut inertia: Vec<f64> = Vec::with_capacity(self.passes);
        let (mut moved, mut moved_before) = (0, 0);
        let mut empty = 0;
        let mut near_next = start.filter(|_| self.passes > 1);
        for pass in 0..self.passes {
            let near = near_next.take();
            let nearest = match (&near, self.comparing) {
                (Some(Near { groups, shortlists }), _) => {
                    compute.assign_shortlisted(rows, centroids.view(), groups, shortlists)?
                }
                (None, Comparing::All) => compute.assign(rows, centroids.view(), Metric::L2)?,
                (None, _) => compute.assign_coarse(rows, centroids.view())?,
            };
            let labels = checked_labels(&nearest, k)?;
            // Summed in row order. A backend's |a|² − 2⟨a,b⟩ + |b|² may come out a little below 0.
            let now: f64 = nearest.iter().map(|found| f64::from(found.distance.max(0.0))).sum();
            after_assign(pass, now)?;
            // What shortlists can still gain says nothing of what a pass over all would.
            let converged = near.is_none()
                && moved_before == 0
                && inertia.last().is_some_and(|&last| last - now <= self.tolerance * last);
            inertia.push(now);

            let counts = self.move_to_means(compute, rows, &labels, &mut centroids)?;
            empty = counts.iter().filter(|&&count| count == 0).count();
            if converged {
                break;
            }
            let longest = if pass * 3 < self.passes * 2 { self.longest } else { usize::MAX };
            let vacant = vacancies::vacancies(&counts, longest);
            moved_before = 0;
            if !vacant.is_empty() {
                let clusters = vacancies::Clusters { rows: rows.host(), labels: &labels, counts: &counts };
                let mut random = Random::of(self.seed, Draw::MOVES + pass as u64);
                moved_before = vacancies::fill(clusters, &vacant, &mut centroids, &mut random);
                empty -= moved_before.min(empty);
            }
            moved += moved_before;
            // The last pass is over all, and so is every other before it.
            let shortlists_next = !(self.passes - pass).is_multiple_of(2);
            if self.comparing == Comparing::Shortlists && shortlists_next && moved_before == 0 {
                let shortlists =
                    hierarchy::nearest_centroids(compute, centroids.view(), centroids.view(), SHORTLIST)?;
                near_next = Some(Near { groups: labels, shortlists });
            }
        }
        let mut warnings = Vec::new();
        if empty > 0 {
            warnings.push(Warning::EmptyClusters { what: "k-means".into(), empty, centroids: k });
        }
        Ok(Kmeans { centroids, inertia, rows: rows.host().rows(), moved, warnings })
    }

    /// Each centroid becomes the mean of its rows; one without rows stays where it is. Returns the counts.
    fn move_to_means(
        &self,
        compute: &dyn Compute,
        rows: &Rows<'_>,
        labels: &[u32],
        centroids: &mut VectorBuf,
    ) -> Result<Vec<u32>, TrainError> {
        let dim = centroids.dim();
        let sums = compute.centroid_sums(rows, labels, centroids.rows())?;
        for (c, &count) in sums.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            for (value, &sum) in centroids.row_mut(c).iter_mut().zip(&sums.sums[c * dim..]) {
                *value = sum / count as f32;
            }
        }
        Ok(sums.counts)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::ControlFlow;

    use super::super::unobserved;
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::compute::reference::Reference;

    /// `n` rows around `places` random centres, the spread a tenth of the distances.
    fn clustered(n: usize, dim: usize, places: usize, seed: u64) -> VectorBuf {
        let mut random = Random::new(seed);
        let centres: Vec<f32> = (0..places * dim).map(|_| random.normal() as f32).collect();
        let mut rows = VectorBuf::new(Vec::new(), dim);
        for _ in 0..n {
            let place = random.below(places);
            let row: Vec<f32> = centres[place * dim..(place + 1) * dim]
                .iter()
                .map(|&centre| centre + 0.1 * random.normal() as f32)
                .collect();
            rows.push(&row);
        }
        rows
    }

    fn inertia_of(rows: VectorView<'_>, centroids: VectorView<'_>) -> f64 {
        let distance = |row, centroid| Metric::L2.distance(row, centroid);
        rows.iter().map(|row| centroids.iter().map(|c| distance(row, c)).fold(f64::INFINITY, f64::min)).sum()
    }

    #[test]
    fn inertia_falls_from_pass_to_pass_and_ends_where_it_says() {
        let rows = clustered(3000, 7, 40, 1);
        let mut params = KmeansParams::new(16, 5);
        params.max_imbalance = 1000;
        params.tolerance = 0.0;
        let trained = train(&Reference, rows.view(), &params, &unobserved).unwrap();
        assert_eq!((trained.rows, trained.moved), (3000, 0));
        assert!(trained.inertia.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)));
        assert!(
            inertia_of(rows.view(), trained.centroids.view())
                <= trained.inertia.last().unwrap() * (1.0 + 1e-6)
        );
    }

    /// Textbook Lloyd in f64, seeded by plain random rows and run to its end: the mean of ten runs.
    fn slow_reference(rows: VectorView<'_>, k: usize) -> f64 {
        let run = |seed: u64| {
            let mut centroids = rows.gather(&Random::new(seed).sample(rows.rows(), k));
            for _ in 0..50 {
                let mut sums = vec![0.0f64; k * rows.dim()];
                let mut counts = vec![0usize; k];
                for row in rows.iter() {
                    let by_distance = |&a: &usize, &b: &usize| {
                        let of = |c: usize| Metric::L2.distance(row, centroids.row(c));
                        of(a).total_cmp(&of(b))
                    };
                    let nearest = (0..k).min_by(by_distance).unwrap();
                    counts[nearest] += 1;
                    for (d, &value) in row.iter().enumerate() {
                        sums[nearest * rows.dim() + d] += f64::from(value);
                    }
                }
                for c in (0..k).filter(|&c| counts[c] > 0) {
                    for d in 0..rows.dim() {
                        centroids.row_mut(c)[d] = (sums[c * rows.dim() + d] / counts[c] as f64) as f32;
                    }
                }
            }
            inertia_of(rows, centroids.view())
        };
        (0..10).map(run).sum::<f64>() / 10.0
    }

    #[test]
    fn mean_inertia_is_within_half_a_percent_of_slow_runs_to_convergence() {
        // Overlapping clusters, as embeddings are: with well-separated ones k-means++ wins by far.
        let rows = clustered(1500, 4, 300, 3);
        let slow = slow_reference(rows.view(), 24);
        let run = |seed| {
            let params = KmeansParams { iterations: 25, ..KmeansParams::new(24, seed) };
            let trained = train(&Reference, rows.view(), &params, &unobserved).unwrap();
            inertia_of(rows.view(), trained.centroids.view())
        };
        let fast = (0..10).map(run).sum::<f64>() / 10.0;
        assert!(fast <= slow * 1.005, "{fast} against {slow}");
    }

    #[test]
    fn every_one_of_many_separate_groups_gets_its_centroid() {
        let mut random = Random::new(6);
        let mut rows = VectorBuf::new(Vec::new(), 2);
        for i in 0..2560 {
            let (x, y) = ((i % 16) as f32, (i / 16 % 8) as f32);
            rows.push(&[x + 0.01 * random.normal() as f32, y + 0.01 * random.normal() as f32]);
        }
        for seed in 0..5 {
            let trained = train(&Reference, rows.view(), &KmeansParams::new(128, seed), &unobserved).unwrap();
            let nearest = |row: &[f32]| {
                let distances = trained.centroids.view().iter().map(|c| Metric::L2.distance(row, c));
                distances.fold(f64::INFINITY, f64::min)
            };
            let lost = (0..128).filter(|&i| nearest(&[(i % 16) as f32, (i / 16) as f32]) > 0.01).count();
            assert!(
                lost <= 12,
                "seed {seed}: {lost} of 128 groups share a centroid; sampled rows lose about 47"
            );
        }
    }

    #[test]
    fn two_levels_cost_little_inertia_and_balance_the_lists() {
        let rows = clustered(4000, 6, 500, 9);
        let flat = train(&Reference, rows.view(), &KmeansParams::new(100, 1), &unobserved).unwrap();
        let mut params = KmeansParams::new(100, 1);
        params.two_level_above = 50;
        let two = train(&Reference, rows.view(), &params, &unobserved).unwrap();
        assert_eq!(two.centroids.rows(), 100);
        let [flat, two_level] =
            [&flat, &two].map(|trained| inertia_of(rows.view(), trained.centroids.view()));
        assert!(two_level <= flat * 1.05, "{two_level} against {flat}");
        let labels = Reference.assign(&Rows::on_host(rows.view()), two.centroids.view(), Metric::L2).unwrap();
        let mut counts = [0usize; 100];
        labels.iter().for_each(|found| counts[found.ordinal as usize] += 1);
        assert!(*counts.iter().max().unwrap() <= 8 * 40, "{counts:?}");
    }

    #[test]
    fn shortlists_end_within_half_a_percent_of_passes_over_all() {
        // More centroids than a shortlist holds, and overlapping clusters, as embeddings are.
        let rows = clustered(16_000, 12, 3000, 4);
        let run = |exact: bool| {
            let params = KmeansParams { exact, tolerance: 0.0, ..KmeansParams::new(400, 3) };
            let trained = train(&Cpu::new(), rows.view(), &params, &unobserved).unwrap();
            assert_eq!(trained.inertia.len(), 10);
            let inertia = |centroids| {
                let nearest = Cpu::new().assign(&Rows::on_host(rows.view()), centroids, Metric::L2).unwrap();
                nearest.iter().map(|found| f64::from(found.distance)).sum::<f64>()
            };
            assert!(
                trained.inertia.windows(2).all(|pair| pair[1] <= pair[0] * 1.001),
                "{:?}",
                trained.inertia
            );
            inertia(trained.centroids.view())
        };
        let (exact, fast) = (run(true), run(false));
        assert!(fast <= exact * 1.005, "{fast} against {exact}");
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_training() {
        let rows = clustered(9000, 8, 700, 6);
        let run = || train(&Cpu::new(), rows.view(), &KmeansParams::new(300, 3), &unobserved).unwrap();
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool(1).install(run), pool(3).install(run));
    }

    #[test]
    fn an_oversized_cluster_is_split_at_the_cost_of_the_smallest() {
        // 1,900 rows in one blob, 100 lone rows far away, seeded so that every lone row has its own centroid.
        let mut random = Random::new(2);
        let mut rows = VectorBuf::new(Vec::new(), 3);
        for i in 0..2000 {
            let offset = if i < 100 { 50.0 * (i + 1) as f32 } else { 0.0 };
            let row: Vec<f32> = (0..3).map(|_| offset + random.normal() as f32).collect();
            rows.push(&row);
        }
        let seeds = rows.view().gather(&(0..101).collect::<Vec<u32>>());
        let longest = 8 * 2000 / 101;
        let lloyd = Lloyd { passes: 12, tolerance: 0.0, longest, seed: 1, comparing: Comparing::All };
        let trained = lloyd.run(&Reference, &Rows::on_host(rows.view()), seeds, None, |_, _| Ok(())).unwrap();
        let found =
            Reference.assign(&Rows::on_host(rows.view()), trained.centroids.view(), Metric::L2).unwrap();
        let mut counts = vec![0usize; 101];
        found.iter().for_each(|found| counts[found.ordinal as usize] += 1);
        assert!(trained.moved >= 1900 / longest);
        assert!(*counts.iter().max().unwrap() <= 3 * longest, "{counts:?}, from 1,900");
    }

    #[test]
    fn duplicates_and_equal_rows_train_finite_centroids() {
        let three: Vec<f32> = (0..3000).flat_map(|i| [(i % 3) as f32, 1.0]).collect();
        let equal = vec![0.1f32; 2000];
        for (data, distinct) in [(three, 3), (equal, 1)] {
            let rows = VectorView::new(&data, 2);
            for (k, two_level_above) in [(1, 100), (2, 100), (10, 100), (64, 16)] {
                let params = KmeansParams { two_level_above, ..KmeansParams::new(k, 4) };
                let trained = train(&Reference, rows, &params, &unobserved).unwrap();
                assert_eq!(trained.centroids.rows(), k);
                assert!(trained.centroids.view().as_slice().iter().all(|value| value.is_finite()));
                if k >= distinct {
                    assert!(inertia_of(rows, trained.centroids.view()) < 1e-6, "k = {k}");
                }
                let is_empty = |warning: &Warning| matches!(warning, Warning::EmptyClusters { .. });
                assert_eq!(
                    trained.warnings.iter().any(is_empty),
                    k > distinct,
                    "k = {k}: {:?}",
                    trained.warnings
                );
            }
        }
    }

    #[test]
    fn the_sample_is_bounded_and_few_rows_are_warned_of() {
        let rows = clustered(1000, 3, 10, 1);
        let mut params = KmeansParams::new(4, 1);
        params.max_rows_per_centroid = 100;
        let trained = train(&Reference, rows.view(), &params, &unobserved).unwrap();
        assert_eq!((trained.rows, trained.warnings.len()), (400, 0));
        let few = train(&Reference, rows.view(), &KmeansParams::new(100, 1), &unobserved).unwrap();
        assert!(matches!(few.warnings[..], [Warning::FewTrainingRows { rows: 1000, recommended: 3900, .. }]));
    }

    #[test]
    fn impossible_input_is_a_named_error() {
        let rows = clustered(10, 3, 2, 1);
        let error = |params: KmeansParams| train(&Reference, rows.view(), &params, &unobserved).unwrap_err();
        assert!(matches!(error(KmeansParams::new(11, 0)), TrainError::TooFewRows { rows: 10, k: 11 }));
        assert!(matches!(error(KmeansParams::new(0, 0)), TrainError::Parameter { name: "k", .. }));
        let none = KmeansParams { iterations: 0, ..KmeansParams::new(2, 0) };
        assert!(matches!(error(none), TrainError::Parameter { name: "iterations", .. }));
        let unreachable = KmeansParams { tolerance: f64::NAN, ..KmeansParams::new(2, 0) };
        assert!(matches!(error(unreachable), TrainError::Parameter { name: "tolerance", .. }));
        for bad in [f32::NAN, f32::INFINITY, 1e19] {
            let mut rows = rows.clone();
            rows.row_mut(7)[1] = bad;
            let error = train(&Reference, rows.view(), &KmeansParams::new(2, 0), &unobserved).unwrap_err();
            assert!(matches!(error, TrainError::Magnitude { row: 7, .. }), "{error}");
        }
    }

    #[test]
    fn a_watcher_sees_every_pass_and_can_stop_it() {
        let rows = clustered(500, 3, 8, 1);
        let seen = Cell::new(0);
        let stop_at = |limit: u64| {
            let seen = &seen;
            move |progress: Progress| {
                seen.set(seen.get() + 1);
                if progress.done == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        };
        let params = KmeansParams { tolerance: 0.0, ..KmeansParams::new(8, 3) };
        let trained = train(&Reference, rows.view(), &params, &stop_at(1000)).unwrap();
        assert_eq!(seen.take(), trained.inertia.len());
        let error = train(&Reference, rows.view(), &params, &stop_at(2)).unwrap_err();
        assert!(matches!(error, TrainError::Cancelled));
        assert_eq!(seen.take(), 2);
    }
}
