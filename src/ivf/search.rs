//! Search: rank the lists, scan the first of them by their codes, rank the best rows again with kept vectors.

use std::sync::Arc;

use super::IvfPq;
use super::codes::Codes;
use super::ranking::select;
use super::scan::{Scan, prefetch_list};
use crate::artifact::Section;
use crate::compute::cpu::kernels;
use crate::index::{KeptVectors, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor, TopK, VectorView};

/// Candidates that are ranked again for each row to return, where the caller does not say, and at least
/// [`REFINE_FLOOR`]. Measured with the default codes against ranking all rows again, recall@10 at 32 probes: 10 per
/// row cost nothing on glove10k (25 bytes for 100-d) and .002 on minilm100k (48 bytes for 384-d), 5 cost .001 and
/// .011. Recall@1 is .999 there from 100 candidates, .971 from 10.
const REFINE_FACTOR: usize = 10;
const REFINE_FLOOR: usize = 100;

/// In a certificate's settings, scanned codes for each that is ranked again, beyond those. On glove100 at 88 probes
/// (12,800 codes of 25 bytes) 100 candidates stop recall@10 at .98; 200 cost a twentieth of the scan.
const SCANNED_PER_REFINED: usize = 64;

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
            ranks: Vec::new(),
            shifted: Vec::new(),
            scan: Scan::over(&self),
            nearest: Best::new(),
            ordinals: Vec::new(),
            distances: Vec::new(),
            decoding: Decoding::over(&self),
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

/// Room for one code and the vector that it stands for.
struct Decoding {
    code: Vec<u8>,
    vector: Vec<f32>,
}

impl Decoding {
    fn over(index: &IvfPq) -> Self {
        Self { code: vec![0; index.quantizer.shape().code_size()], vector: vec![0.0; index.dim] }
    }
}

struct IvfPqSearcher {
    index: Arc<IvfPq>,
    /// For each query of a strip the ranks of all lists.
    ranks: Vec<f32>,
    /// Room for the strip.
    shifted: Vec<f32>,
    /// Keys of the lists to probe, in order.
    lists: Vec<u64>,
    scan: Scan,
    nearest: Best,
    ordinals: Vec<u32>,
    distances: Vec<f32>,
    decoding: Decoding,
}

impl Searcher for IvfPqSearcher {
    /// At least `params.effort` lists are probed (empty ones do not count), and as many more as it takes to see `k`
    /// rows: so `min(k, rows)` rows are found, whatever the effort. `params.refine` is raised to `k`.
    fn search(&mut self, query: &[f32], params: &SearchParams, found: &mut Vec<Neighbor>) {
        let queries = VectorView::new(query, self.index.dim);
        self.search_batch(queries, params, &mut |_, neighbors| {
            found.clear();
            found.extend_from_slice(neighbors);
        });
    }

    /// Queries share the ranking of the lists.
    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let index = self.index.clone();
        let k = params.k.min(index.rows());
        let (strip, stride) = (index.ranking.strip(), index.ranking.stride());
        for start in (0..queries.rows()).step_by(strip) {
            let own = queries.slice(start, (start + strip).min(queries.rows()));
            if k == 0 {
                (start..start + own.rows()).for_each(|query| found(query, &[]));
                continue;
            }
            self.shifted.resize(own.rows() * index.dim, 0.0);
            self.ranks.resize(own.rows() * stride, 0.0);
            index.ranking.ranks(own, &mut self.shifted, &mut self.ranks);
            for (number, query) in own.iter().enumerate() {
                self.scan_lists(query, number, k, params);
                found(start + number, self.rank_again(query, k));
            }
        }
    }
}

impl IvfPqSearcher {
    /// Collects the rows with the least estimates from `params.effort` lists, and from further ones until `k` rows
    /// have been seen. `number` is the query's in its strip.
    fn scan_lists(&mut self, query: &[f32], number: usize, k: usize, params: &SearchParams) {
        let index = &*self.index;
        let stride = index.ranking.stride();
        let ranks = &self.ranks[number * stride..][..index.nlist()];
        let nprobe = params.effort.max(1);
        select(ranks, &index.list_offsets, nprobe, &mut self.lists);
        let wanted = match (params.refine, &index.kept, &index.codes) {
            // Estimates are what is returned.
            (_, None, Codes::Rows { .. }) => k,
            (0, ..) | (_, None, _) => default_refine(k),
            (refine, ..) => refine,
        };
        self.scan.begin(index, query, wanted.max(k).min(index.rows()));
        let (mut seen, mut probe) = (0, 0);
        loop {
            if probe == self.lists.len() && seen < k {
                // Rare: the first lists are the same again, and the others follow.
                select(ranks, &index.list_offsets, usize::MAX, &mut self.lists);
            }
            if probe == self.lists.len() || probe >= nprobe && seen >= k {
                break;
            }
            if let Some(&next) = self.lists.get(probe + 1) {
                prefetch_list(index, Neighbor::of_key(next).ordinal as usize);
            }
            let Neighbor { ordinal, distance: rank } = Neighbor::of_key(self.lists[probe]);
            let list = ordinal as usize;
            seen += index.list(list).len();
            let shared = index.ranking.shared(query, index.centroids().row(list), list, rank);
            self.scan.list(index, query, list, shared);
            probe += 1;
        }
    }

    /// The `k` nearest of the candidates: by kept vectors, else by what their codes stand for.
    fn rank_again(&mut self, query: &[f32], k: usize) -> &[Neighbor] {
        let index = &*self.index;
        let nearest = self.nearest.empty(k);
        match (&index.kept, &index.codes) {
            (Some(kept), _) => {
                self.ordinals.clear();
                self.ordinals.extend(self.scan.best().map(|candidate| candidate.ordinal));
                self.distances.resize(self.ordinals.len(), 0.0);
                kept.distances(index.metric, query, &self.ordinals, &mut self.distances);
                for (&ordinal, &distance) in self.ordinals.iter().zip(&self.distances) {
                    nearest.push(Neighbor::new(ordinal, distance));
                }
            }
            (None, Codes::Rows { .. }) => self.scan.best().for_each(|candidate| nearest.push(candidate)),
            (None, Codes::Blocks(_)) => {
                // The scan's estimates are rounded to the steps of its tables.
                let Decoding { code, vector } = &mut self.decoding;
                for Neighbor { ordinal, .. } in self.scan.best() {
                    index.decode_into(ordinal, code, vector);
                    nearest.push(Neighbor::new(ordinal, kernels().distance(index.metric, query, vector)));
                }
            }
        }
        nearest.sorted()
    }
}
