//! Search: rank the lists, look their codes up in one table, rank the best again with kept vectors.
//!
//! With a query q, a centroid c and a decoded residual r̂, the estimate of a row's distance splits so that the only
//! table, of products with the codebook, is made once per query and serves every list (for L2 this is the
//! decomposition that faiss calls a precomputed table, here with its query-free part kept per row: 4 bytes a row
//! in place of `nlist × pq_m × ksub` values):
//!
//! | metric | estimate | once per list | per row | table |
//! |---|---|---|---|---|
//! | L2 | \|q − c − r̂\|² | \|q − c\|² | \|r̂\|² + 2⟨c, r̂⟩ | −2⟨q, ·⟩ |
//! | inner product | −⟨q, c + r̂⟩ | −⟨q, c⟩ | – | −⟨q, ·⟩ |
//! | cosine | 1 − ⟨q, c + r̂⟩ | 1 − ⟨q, c⟩ | – | −⟨q, ·⟩ |
//!
//! Lists are probed nearest centroid first for L2, and by greatest ⟨q, c⟩ for inner product: it is the mean of
//! ⟨q, x⟩ over the rows of the list. For cosine they are probed by ⟨q, c⟩ / |c|, the angle: the mean of unit vectors
//! is short where they are spread, and a wide list's best row lies further above its mean. Measured at equal
//! `nprobe` against ⟨q, c⟩: recall@10 .953 for .945 (glove10k, 32 of 256 lists) and .909 for .907 (minilm100k, 32
//! of 512); the nearest centroid by L2 gave .942 and .902.

use std::sync::Arc;

use super::IvfPq;
use crate::artifact::Section;
use crate::compute::cpu::kernels;
use crate::index::{KeptVectors, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor, TopK};

/// Candidates that are ranked again for each row to return, where the caller does not say, and at least
/// [`REFINE_FLOOR`]. Measured with the default codes against ranking all rows again, recall@10 at 32 probes: 10 per
/// row cost nothing on glove10k (25 bytes for 100-d) and .002 on minilm100k (48 bytes for 384-d), 5 cost .001 and
/// .011. Recall@1 is .999 there from 100 candidates, .971 from 10.
const REFINE_FACTOR: usize = 10;
const REFINE_FLOOR: usize = 100;

/// In a certificate's settings, scanned codes for each that is ranked again, beyond those. On glove100 at 88 probes
/// (12,800 codes of 25 bytes) 100 candidates stop recall@10 at .98; 200 cost a twentieth of the scan.
const SCANNED_PER_REFINED: usize = 64;

/// Codes scored at a time: their scores (4 KiB) stay in the first-level cache beside the table.
const SCAN_ROWS: usize = 1024;

/// Scores compared with the bound in one go.
const GROUP: usize = 16;

fn default_refine(k: usize) -> usize {
    k.saturating_mul(REFINE_FACTOR).max(REFINE_FLOOR)
}

impl SearchIndex for IvfPq {
    fn rows(&self) -> usize {
        self.list_offsets[self.nlist()] as usize
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn metric(&self) -> Metric {
        self.metric
    }

    fn effort_name(&self) -> Option<&'static str> {
        Some("nprobe")
    }

    /// 1, 2, 3, 4, 6, 8, 12, … up to `nlist`, from the number of lists that hold `k` rows on average. Fewer would
    /// find `k` rows as well: a search goes on to further lists until it has seen that many.
    fn ladder(&self, k: usize) -> Vec<SearchParams> {
        let nlist = self.nlist();
        let first = k.saturating_mul(nlist).div_ceil(self.rows().max(1)).clamp(1, nlist);
        let mut nprobes = vec![first];
        let mut power = 1usize;
        while power < nlist {
            nprobes.extend([power, power + power / 2].into_iter().filter(|&n| n > first && n < nlist));
            power *= 2;
        }
        nprobes.push(nlist);
        nprobes.dedup();
        // The more rows are scanned, the more of them the codes cannot tell from the nearest.
        let refine =
            |nprobe: usize| default_refine(k).max(nprobe * self.rows() / nlist / SCANNED_PER_REFINED);
        let setting =
            |effort| SearchParams { k, effort, refine: if self.kept.is_some() { refine(effort) } else { 0 } };
        nprobes.into_iter().map(setting).collect()
    }

    fn kept(&self) -> Option<&KeptVectors> {
        self.kept.as_ref()
    }

    fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
        Box::new(IvfPqSearcher {
            lists: Vec::with_capacity(self.nlist()),
            list_distances: vec![0.0; self.nlist()],
            table: vec![0.0; self.quantizer.table_len()],
            scores: vec![0.0; SCAN_ROWS],
            candidates: Best::new(),
            nearest: Best::new(),
            ordinals: Vec::new(),
            distances: Vec::new(),
            index: self,
        })
    }

    fn sections(&self) -> Vec<Section> {
        super::sections::write(self)
    }
}

/// A collector that is made anew only when another number of rows is asked for.
struct Best {
    k: usize,
    top: TopK,
}

impl Best {
    fn new() -> Self {
        Self { k: 1, top: TopK::new(1) }
    }

    fn empty(&mut self, k: usize) -> &mut TopK {
        if self.k == k {
            self.top.clear();
        } else {
            (self.k, self.top) = (k, TopK::new(k));
        }
        &mut self.top
    }
}

struct IvfPqSearcher {
    index: Arc<IvfPq>,
    /// Lists with rows, by how early they are probed: those to probe first and in order.
    lists: Vec<Neighbor>,
    /// For each list the part of an estimate that its rows share.
    list_distances: Vec<f32>,
    table: Vec<f32>,
    scores: Vec<f32>,
    candidates: Best,
    nearest: Best,
    ordinals: Vec<u32>,
    distances: Vec<f32>,
}

impl Searcher for IvfPqSearcher {
    /// At least `params.effort` lists are probed (empty ones do not count), and as many more as it takes to see `k`
    /// rows: so `min(k, rows)` rows are found, whatever the effort. `params.refine` is raised to `k`.
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        found.clear();
        let k = params.k.min(self.index.rows());
        if k == 0 {
            return;
        }
        self.rank_lists(query, params.effort.max(1));
        let scale = if self.index.metric == Metric::L2 { -2.0 } else { -1.0 };
        self.index.quantizer.tables(query, scale, &mut self.table);
        if self.index.kept.is_none() {
            self.scan_lists(k, k, params.effort.max(1));
            found.extend_from_slice(self.candidates.top.sorted());
            return;
        }
        let refine = if params.refine == 0 { default_refine(k) } else { params.refine };
        self.scan_lists(refine.max(k).min(self.index.rows()), k, params.effort.max(1));
        found.extend_from_slice(self.rank_again(query, k));
    }
}

impl IvfPqSearcher {
    /// Fills `lists`; the first `nprobe` are the nearest, in order.
    fn rank_lists(&mut self, query: &[f32], nprobe: usize) {
        let index = &*self.index;
        match index.metric {
            Metric::L2 => (kernels().l2_rows)(query, &index.centroids, &mut self.list_distances),
            _ => (kernels().dot_rows)(query, &index.centroids, &mut self.list_distances),
        }
        self.lists.clear();
        let ranges = index.list_offsets.windows(2);
        for (list, (shared, range)) in self.list_distances.iter_mut().zip(ranges).enumerate() {
            let rank = match index.metric {
                Metric::L2 => *shared,
                Metric::InnerProduct => -*shared,
                Metric::Cosine => -*shared * index.inverse_norms[list],
            };
            if index.metric != Metric::L2 {
                *shared = index.metric.distance_of_dot(*shared);
            }
            if range[0] < range[1] {
                self.lists.push(Neighbor::new(list as u32, rank));
            }
        }
        let head = nprobe.min(self.lists.len());
        if head < self.lists.len() {
            self.lists.select_nth_unstable(head);
        }
        self.lists[..head].sort_unstable();
    }

    /// Collects the `wanted` rows with the least estimates from `nprobe` lists, and from further ones until `k`
    /// rows have been seen.
    fn scan_lists(&mut self, wanted: usize, k: usize, nprobe: usize) {
        self.candidates.empty(wanted);
        let mut seen = 0;
        for probe in 0..self.lists.len() {
            if probe >= nprobe && seen >= k {
                break;
            }
            if probe == nprobe {
                self.lists[nprobe..].sort_unstable();
            }
            let list = self.lists[probe].ordinal as usize;
            seen += self.index.list(list).len();
            self.scan_list(list);
        }
    }

    fn scan_list(&mut self, list: usize) {
        let index = &*self.index;
        let code_size = index.quantizer.shape().code_size();
        let rows = index.list(list);
        let shared = self.list_distances[list];
        for start in rows.clone().step_by(SCAN_ROWS) {
            let end = (start + SCAN_ROWS).min(rows.end);
            let scores = &mut self.scores[..end - start];
            (kernels().pq_scan)(&self.table, 256, &index.codes[start * code_size..end * code_size], scores);
            match &index.terms {
                Some(terms) => scores
                    .iter_mut()
                    .zip(&terms[start..end])
                    .for_each(|(score, &term)| *score += shared + term),
                None => scores.iter_mut().for_each(|score| *score += shared),
            }
            collect(scores, start as u32, &mut self.candidates.top);
        }
    }

    /// The `k` nearest of the candidates by kept vectors.
    fn rank_again(&mut self, query: &[f32], k: usize) -> &[Neighbor] {
        let candidates = self.candidates.top.sorted();
        self.ordinals.clear();
        self.ordinals.extend(candidates.iter().map(|candidate| candidate.ordinal));
        // In the order of the rows: memory is read forwards.
        self.ordinals.sort_unstable();
        self.distances.resize(self.ordinals.len(), 0.0);
        let kept = self.index.kept.as_ref().expect("only indexes that keep vectors rank again");
        kept.distances(self.index.metric, query, &self.ordinals, &mut self.distances);
        let nearest = self.nearest.empty(k);
        for (&ordinal, &distance) in self.ordinals.iter().zip(&self.distances) {
            nearest.push(Neighbor::new(ordinal, distance));
        }
        nearest.sorted()
    }
}

/// Pushes rows `start..` by their scores. Once the collector is full hardly any passes its bound, so a group is
/// compared as a whole first.
fn collect(scores: &[f32], start: u32, candidates: &mut TopK) {
    for (group, scores) in scores.chunks(GROUP).enumerate() {
        let bound = candidates.bound();
        if scores.iter().fold(false, |any, &score| any | (score <= bound)) {
            let first = start + (group * GROUP) as u32;
            for (ordinal, &score) in (first..).zip(scores) {
                candidates.push(Neighbor::new(ordinal, score));
            }
        }
    }
}
