//! Search: rank the lists, scan the first of them by their codes, rank the best rows again with kept vectors.

use std::sync::Arc;
use std::time::Instant;

use super::IvfPq;
use super::codes::{Codes, ListCodes};
use super::fetched::{FetchedLists, FetchedRows};
use super::quantizer::Quantizer;
use super::ranking::select;
use super::scan::{EntryMask, Probe, Scan, prefetch_list};
use crate::artifact::{FetchError, FetchStats, Fetching, Section};
use crate::compute::cpu::kernels;
use crate::index::{Allowed, BATCH, KeptVectors, RowMask, SearchIndex, SearchParams, Searcher};
use crate::vectors::{Metric, Neighbor, TopK, VectorView};

/// Candidates that are ranked again for each row to return, where the caller does not say, and at least
/// [`REFINE_FLOOR`]. Measured with 8-bit codes against ranking all rows again, recall@10 at 32 probes: 10 per row cost
/// nothing on glove10k (25 bytes for 100-d) and .002 on minilm100k (48 bytes for 384-d), 5 cost .001 and .011. With
/// 4-bit codes of the same size, at 128 of minilm100k's 1,265 lists: .954 from 100 candidates, .959 from 150.
const REFINE_FACTOR: usize = 10;
const REFINE_FLOOR: usize = 100;

/// In a certificate's settings, scanned codes for each that is ranked again, beyond those. On glove100 (25 bytes) at 96
/// of 2,320 lists, 13,900 codes, 100 candidates give recall@10 .950, and 150 .961 at seven eighths of the speed; at 256
/// lists 300 give .990. On minilm100k (48 bytes) 100 give .954 at 128 of 1,265 lists, 200 .989 at 384.
const SCANNED_PER_REFINED: usize = 128;

/// A batch of fewer shares too few lists for it to pay.
const SHARING: usize = 16;

/// Lists that each query of a batch scans first, the nearest: its bound is tight by then.
const NEAR: usize = 8;

/// Visits that a list is asked for ahead of.
const AHEAD: usize = 2;

/// What costs about as much as comparing one row that lies somewhere: centroids ranked, codes scanned.
/// On glove100 a row of f16 took 10 ns, a 4-bit code 1.6; on minilm100k 16 and 2.4. Rows as they are, list by list, are read as fast
/// as memory streams.
const CENTROIDS_PER_ROW: usize = 2;
const BLOCK_CODES_PER_ROW: usize = 6;
const BYTE_CODES_PER_ROW: usize = 2;
const KEPT_PER_ROW: usize = 2;

/// What decides among the candidates of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// The vectors that are kept.
    Kept,
    /// What codes stand for: the scan's estimates are rounded to the steps of its tables.
    Decoded,
    /// RaBitQ's estimates once more, without the tables and bounds of the scan.
    Estimated,
    /// The scan's estimates; of rows without codes these are their distances.
    Estimates,
}

impl IvfPq {
    /// Candidates of a search for `k` rows, all of which are ranked again.
    fn wanted(&self, k: usize, params: &SearchParams) -> usize {
        let wanted = match (self.answers(), params.refine) {
            (Answers::Estimates | Answers::Estimated, _) => k,
            (Answers::Decoded, _) | (Answers::Kept, 0) => self.default_refine(k),
            (Answers::Kept, refine) => refine,
        };
        let wanted = wanted.max(k).min(self.rows());
        // Of a row there may be two entries, and one of them counts.
        if self.spill.is_some() { 2 * wanted } else { wanted }
    }

    fn default_refine(&self, k: usize) -> usize {
        let factor = self.refine_factor();
        k.saturating_mul(factor).max(REFINE_FLOOR * factor / REFINE_FACTOR)
    }

    /// Candidates for each row to return: the more bits, the fewer rows lie between a near one and its place.
    fn refine_factor(&self) -> usize {
        match &self.quantizer {
            Quantizer::Scalar(_) => 2,
            Quantizer::Rabitq(rabitq) if rabitq.bits >= 6 => 2,
            Quantizer::Rabitq(rabitq) if rabitq.bits >= 3 => 4,
            _ => REFINE_FACTOR,
        }
    }

    /// What decides among the candidates of a scan.
    fn answers(&self) -> Answers {
        match (&self.quantizer, &self.kept) {
            (Quantizer::Flat, _) => Answers::Estimates,
            (_, Some(_)) => Answers::Kept,
            (Quantizer::Product(quantizer), None) if quantizer.shape().pq_bits == 4 => Answers::Decoded,
            (Quantizer::Rabitq(_), None) => Answers::Estimated,
            (_, None) => Answers::Estimates,
        }
    }

    /// Whether lists are read once for all queries of a batch that probe them: not with 8-bit codes of a product quantizer, whose tables
    /// are larger than most lists.
    fn shares_lists(&self) -> bool {
        !matches!(&self.quantizer, Quantizer::Product(quantizer) if quantizer.shape().pq_bits == 8)
    }

    /// Allowed rows that a search under a mask sees at least. The nearest of a share s of the rows lie further away and are
    /// spread over more lists, but over less than 1/s times as many: it probes 1.5/√s times as many where they are spread
    /// evenly. With 1/√s on glove100 at 96 lists recall@10 was .963 without a mask, and .967, .977, .990 and .994 with a half, a
    /// tenth, a twentieth and a hundredth of the rows allowed; on minilm100k at 128 lists .961, and .964, .982, .991 and .999; but
    /// .945 with the shortest third of its texts. With as many allowed rows as a search without a mask sees it was .978 to 1,
    /// for up to three times the time.
    fn needed(&self, nprobe: usize, allowed: usize) -> usize {
        let seen = nprobe.clamp(1, self.nlist()) as f64 * self.rows() as f64 / self.nlist() as f64;
        const MARGIN: f64 = 1.5;
        let share = allowed as f64 / self.rows() as f64;
        ((MARGIN * seen * share.sqrt()).ceil() as usize).min(allowed)
    }

    /// What a search that scans so many codes costs, in comparisons of whole rows.
    fn cost(&self, codes: usize, wanted: usize) -> usize {
        let codes_per_row = match &self.codes {
            Codes::Blocks(_) => BLOCK_CODES_PER_ROW,
            Codes::Rows { .. } => BYTE_CODES_PER_ROW,
            Codes::Kept => KEPT_PER_ROW,
        };
        let lists = if self.spill.is_some() { 2 } else { 1 };
        self.nlist() / CENTROIDS_PER_ROW + lists * codes / codes_per_row + wanted
    }
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
        let ranks_again = self.answers() == Answers::Kept;
        let scanned = SCANNED_PER_REFINED * REFINE_FACTOR / self.refine_factor();
        let refine = |nprobe: usize| self.default_refine(k).max(nprobe * self.rows() / nlist / scanned);
        let setting =
            |effort| SearchParams { k, effort, refine: if ranks_again { refine(effort) } else { 0 } };
        nprobes.into_iter().map(setting).collect()
    }

    fn rows_compared(&self, params: &SearchParams) -> usize {
        let nprobe = params.effort.clamp(1, self.nlist());
        let codes = (nprobe * self.rows() / self.nlist()).max(params.k).min(self.rows());
        self.cost(codes, self.wanted(params.k, params)).min(self.rows())
    }

    fn rows_compared_among(&self, params: &SearchParams, allowed: usize) -> usize {
        let allowed = allowed.max(1);
        let needed = self.needed(params.effort, allowed).max(params.k.min(allowed));
        let codes = (needed as f64 / allowed as f64 * self.rows() as f64) as usize;
        self.cost(codes, self.wanted(params.k, params))
    }

    fn kept(&self) -> Option<&KeptVectors> {
        self.kept.as_ref()
    }

    fn searcher(self: Arc<Self>) -> Box<dyn Searcher> {
        Box::new(IvfPqSearcher {
            lists: Vec::with_capacity(self.nlist()),
            ranks: Vec::new(),
            shifted: Vec::new(),
            scans: Vec::new(),
            visits: [Vec::new(), Vec::new()],
            starts: Vec::new(),
            nearest: Best::new(),
            candidates: Vec::new(),
            words: Vec::new(),
            ordinals: Vec::new(),
            distances: Vec::new(),
            decoding: Decoding::over(&self),
            fetching: Fetching::default(),
            failure: None,
            fetched_lists: FetchedLists::default(),
            fetched_rows: None,
            places: Vec::new(),
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
        Self { code: vec![0; index.code_bytes()], vector: vec![0.0; index.dim] }
    }
}

/// A list that a query of a batch has yet to see.
#[derive(Clone, Copy, Default)]
struct Visit {
    list: u32,
    query: u32,
    /// See [`ListRanking::shared`](super::ranking::ListRanking::shared).
    shared: f32,
}

struct IvfPqSearcher {
    index: Arc<IvfPq>,
    /// For each query of a strip the ranks of all lists.
    ranks: Vec<f32>,
    /// Room for the strip.
    shifted: Vec<f32>,
    /// Keys of the lists that one query probes, in order.
    lists: Vec<u64>,
    /// One for each query of a batch.
    scans: Vec<Scan>,
    /// By query, and list by list.
    visits: [Vec<Visit>; 2],
    /// Where each list's visits begin.
    starts: Vec<u32>,
    nearest: Best,
    /// What a scan has found, by row.
    candidates: Vec<Neighbor>,
    /// Allowed entries of a second list.
    words: Vec<u64>,
    ordinals: Vec<u32>,
    distances: Vec<f32>,
    decoding: Decoding,
    // Only where the codes and vectors lie elsewhere:
    fetching: Fetching,
    /// That nobody has asked for so far.
    failure: Option<FetchError>,
    fetched_lists: FetchedLists,
    fetched_rows: Option<FetchedRows>,
    /// Candidates by their place among the fetched rows.
    places: Vec<u32>,
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

    /// Scans lists until it has seen enough allowed rows ([`IvfPq::needed`]), and `k` of them at least. Only codes of
    /// allowed rows become candidates, so that no more of them are ranked again than without a mask.
    fn search_masked(
        &mut self,
        query: &[f32],
        params: &SearchParams,
        allowed: &Allowed<'_>,
        found: &mut Vec<Neighbor>,
    ) -> bool {
        let mask = allowed.mask;
        assert_eq!(mask.rows(), self.index.rows(), "rows of the mask");
        found.clear();
        let k = params.k.min(mask.count());
        if k == 0 {
            return true;
        }
        if mask.count() == mask.rows() {
            self.search(query, params, found);
            return true;
        }
        let index = self.index.clone();
        let wanted = index.wanted(k, params);
        if index.cost(0, wanted) > allowed.patience {
            return false;
        }
        self.rank_lists(VectorView::new(query, index.dim));
        let codes = reached(&index, &self.ranks[..index.nlist()], params.effort, k, mask, &mut self.lists);
        if index.cost(codes, wanted) > allowed.patience {
            return false;
        }
        if self.scans.is_empty() {
            self.scans.push(Scan::over(&index));
        }
        let probes = self.lists.iter().map(|&key| Neighbor::of_key(key).ordinal);
        if !bring_lists(&index, probes, &mut self.fetched_lists, &mut self.fetching, &mut self.failure) {
            return true;
        }
        let scan = &mut self.scans[0];
        scan.begin(&index, query, wanted);
        let mut mask = Masked { rows: mask, words: &mut self.words };
        for (probe, &key) in self.lists.iter().enumerate() {
            if let Some(&next) = self.lists.get(probe + 1) {
                prefetch_list(&index, Neighbor::of_key(next).ordinal as usize);
            }
            let Neighbor { ordinal: list, distance: rank } = Neighbor::of_key(key);
            let list = list as usize;
            let shared = index.ranking.shared(query, index.centroids().row(list), list, rank);
            scan_list(&index, &self.fetched_lists, scan, (list, shared), Some(&mut mask));
        }
        if self.bring_rows(1) {
            found.extend_from_slice(self.rank_again(query, 0, k));
        }
        self.let_go();
        true
    }

    fn fetched(&mut self) -> Result<FetchStats, FetchError> {
        let stats = std::mem::take(&mut self.fetching.stats);
        self.failure.take().map_or(Ok(stats), Err)
    }

    fn fetch_until(&mut self, end: Option<Instant>) {
        self.fetching.end = end;
    }

    /// Queries share the ranking of the lists, and the reading of lists that several of them probe.
    fn search_batch(
        &mut self,
        queries: VectorView<'_>,
        params: &SearchParams,
        found: &mut dyn FnMut(usize, &[Neighbor]),
    ) {
        let k = params.k.min(self.index.rows());
        if k == 0 {
            return (0..queries.rows()).for_each(|query| found(query, &[]));
        }
        for start in (0..queries.rows()).step_by(BATCH) {
            let batch = queries.slice(start, (start + BATCH).min(queries.rows()));
            self.scan_near_lists(batch, k, params);
            let probes = self.visits[0].iter().map(|visit| visit.list);
            let brought = bring_lists(
                &self.index,
                probes,
                &mut self.fetched_lists,
                &mut self.fetching,
                &mut self.failure,
            );
            if !brought {
                (start..start + batch.rows()).for_each(|query| found(query, &[]));
                continue;
            }
            self.scan_visits();
            let brought = self.bring_rows(batch.rows());
            for (number, query) in batch.iter().enumerate() {
                found(start + number, if brought { self.rank_again(query, number, k) } else { &[] });
            }
            self.let_go();
        }
    }
}

impl IvfPqSearcher {
    /// Fills `ranks` for a strip of queries.
    fn rank_lists(&mut self, queries: VectorView<'_>) {
        let ranking = &self.index.ranking;
        self.shifted.resize(queries.rows() * queries.dim(), 0.0);
        self.ranks.resize(queries.rows() * ranking.stride(), 0.0);
        ranking.ranks(queries, &mut self.shifted, &mut self.ranks);
    }

    /// Begins the scan of every query with its first lists. Where others may come by, the rest is left to
    /// [`scan_visits`](Self::scan_visits); all of them, where they must be fetched first.
    fn scan_near_lists(&mut self, batch: VectorView<'_>, k: usize, params: &SearchParams) {
        let index = self.index.clone();
        let (strip, stride) = (index.ranking.strip(), index.ranking.stride());
        let wanted = index.wanted(k, params);
        while self.scans.len() < batch.rows() {
            self.scans.push(Scan::over(&index));
        }
        let shares = batch.rows() >= SHARING && index.shares_lists();
        self.visits[0].clear();
        for start in (0..batch.rows()).step_by(strip) {
            let own = batch.slice(start, (start + strip).min(batch.rows()));
            self.rank_lists(own);
            for (number, query) in own.iter().enumerate() {
                let ranks = &self.ranks[number * stride..][..index.nlist()];
                probed(&index, ranks, params.effort.max(1), k, &mut self.lists);
                let scan = &mut self.scans[start + number];
                scan.begin(&index, query, wanted);
                let near = match (index.is_ranged(), shares) {
                    (true, _) => 0,
                    (false, true) => NEAR,
                    (false, false) => self.lists.len(),
                };
                for (probe, &key) in self.lists.iter().enumerate() {
                    let Neighbor { ordinal: list, distance: rank } = Neighbor::of_key(key);
                    let centroid = index.centroids().row(list as usize);
                    let shared = index.ranking.shared(query, centroid, list as usize, rank);
                    if probe < near {
                        if let Some(&next) = self.lists.get(probe + 1) {
                            prefetch_list(&index, Neighbor::of_key(next).ordinal as usize);
                        }
                        scan_list(&index, &self.fetched_lists, scan, (list as usize, shared), None);
                    } else {
                        self.visits[0].push(Visit { list, query: (start + number) as u32, shared });
                    }
                }
            }
        }
    }

    /// List by list, so that its codes are read once. What is found does not depend on the order: the best are the best
    /// in the total order of (estimate, ordinal).
    fn scan_visits(&mut self) {
        let index = &*self.index;
        let [by_query, by_list] = &mut self.visits;
        if by_query.is_empty() {
            return;
        }
        self.starts.clear();
        self.starts.resize(index.nlist() + 1, 0);
        by_query.iter().for_each(|visit| self.starts[visit.list as usize + 1] += 1);
        (0..index.nlist()).for_each(|list| self.starts[list + 1] += self.starts[list]);
        by_list.resize(by_query.len(), Visit::default());
        for visit in by_query.iter() {
            let at = &mut self.starts[visit.list as usize];
            by_list[*at as usize] = *visit;
            *at += 1;
        }
        for (at, visit) in by_list.iter().enumerate() {
            if let Some(later) = by_list.get(at + AHEAD).filter(|later| later.list != visit.list) {
                prefetch_list(index, later.list as usize);
            }
            let scan = &mut self.scans[visit.query as usize];
            scan_list(index, &self.fetched_lists, scan, (visit.list as usize, visit.shared), None);
        }
    }

    /// Fetches the vectors of what the first `queries` scans have found, where they lie elsewhere. Whether they are there.
    fn bring_rows(&mut self, queries: usize) -> bool {
        let index = &*self.index;
        let Some(kept) = index.kept.as_ref().filter(|kept| kept.is_ranged()) else { return true };
        if index.answers() != Answers::Kept {
            return true;
        }
        let mut ordinals = Vec::new();
        for scan in &mut self.scans[..queries] {
            best_rows(index, &self.fetched_lists, scan, (&mut self.decoding, &mut self.candidates));
            ordinals.extend(self.candidates.iter().map(|candidate| candidate.ordinal));
        }
        match FetchedRows::fetch(kept, ordinals, &mut self.fetching) {
            Ok(rows) => {
                self.fetched_rows = Some(rows);
                true
            }
            Err(error) => {
                self.failure = Some(error);
                false
            }
        }
    }

    /// What was fetched is the cache's to keep.
    fn let_go(&mut self) {
        if self.index.is_ranged() {
            (self.fetched_lists, self.fetched_rows) = (FetchedLists::default(), None);
        }
    }

    /// The `k` nearest of the candidates of the batch's query `number`: by kept vectors, else by what their codes stand
    /// for.
    fn rank_again(&mut self, query: &[f32], number: usize, k: usize) -> &[Neighbor] {
        let index = &*self.index;
        let nearest = self.nearest.empty(k);
        let scan = &mut self.scans[number];
        best_rows(index, &self.fetched_lists, scan, (&mut self.decoding, &mut self.candidates));
        match (index.answers(), &index.kept) {
            (Answers::Kept, Some(kept)) => {
                self.ordinals.clear();
                self.ordinals.extend(self.candidates.iter().map(|candidate| candidate.ordinal));
                self.distances.resize(self.ordinals.len(), 0.0);
                if let Some(rows) = &self.fetched_rows {
                    self.places.clone_from(&self.ordinals);
                    let vectors = rows.locate(&mut self.places);
                    vectors.distances(index.metric, query, &self.places, &mut self.distances);
                } else {
                    kept.distances(index.metric, query, &self.ordinals, &mut self.distances);
                }
                for (&ordinal, &distance) in self.ordinals.iter().zip(&self.distances) {
                    nearest.push(Neighbor::new(ordinal, distance));
                }
            }
            _ => self.candidates.iter().for_each(|&candidate| nearest.push(candidate)),
        }
        nearest.sorted()
    }
}

/// The rows that a scan may find, and room for those of the entries of a second list.
struct Masked<'a> {
    rows: &'a RowMask,
    words: &'a mut Vec<u64>,
}

/// Scans a list, (list, what its rows share): its rows, then what is spilled to it.
fn scan_list(
    index: &IvfPq,
    fetched: &FetchedLists,
    scan: &mut Scan,
    (list, shared): (usize, f32),
    mut mask: Option<&mut Masked<'_>>,
) {
    let codes = codes_of(index, fetched, list);
    let allowed = mask.as_ref().map(|mask| EntryMask { words: mask.rows.words(), first: 0 });
    scan.list(index, Probe { list, entries: index.list(list), codes, shared, allowed });
    let Some(spill) = &index.spill else { return };
    let own = spill.list(list);
    let entries = index.rows() + own.start..index.rows() + own.end;
    let (codes, rows) = match index.is_ranged() {
        true => fetched.spilled(list),
        false => spill.of_list(list, index.code_bytes()),
    };
    let allowed = mask.as_mut().map(|mask| {
        mask.words.clear();
        mask.words.resize(rows.len().div_ceil(64), 0);
        for (place, &row) in rows.iter().enumerate() {
            mask.words[place / 64] |= u64::from(mask.rows.contains(row)) << (place % 64);
        }
        EntryMask { words: &mask.words[..], first: entries.start }
    });
    scan.list(index, Probe { list, entries, codes, shared, allowed });
}

/// The best that a scan has found, each row once, in no order. Where codes decide, distances are what those say.
fn best_rows(
    index: &IvfPq,
    fetched: &FetchedLists,
    scan: &mut Scan,
    (decoding, best): (&mut Decoding, &mut Vec<Neighbor>),
) {
    best.clear();
    best.extend(scan.best());
    let Decoding { code, vector } = decoding;
    let answers = index.answers();
    for found in best.iter_mut().filter(|_| matches!(answers, Answers::Decoded | Answers::Estimated)) {
        let (list, place, codes) = entry_of(index, fetched, found.ordinal as usize);
        found.distance = if answers == Answers::Decoded {
            index.decode_into(list, (place, codes), code, vector);
            kernels().distance(index.metric, scan.query(), vector)
        } else {
            scan.estimate(index, list, (place, codes))
        };
    }
    let Some(spill) = &index.spill else { return };
    for found in best.iter_mut().filter(|found| found.ordinal as usize >= index.rows()) {
        let entry = found.ordinal as usize - index.rows();
        let row = match index.is_ranged() {
            false => spill.rows[entry],
            true => {
                let list = spill.list_of(entry);
                fetched.spilled(list).1[entry - spill.list(list).start]
            }
        };
        *found = Neighbor::new(row, found.distance);
    }
    best.sort_unstable_by_key(|found| (found.ordinal, found.key()));
    best.dedup_by_key(|found| found.ordinal);
}

/// Where an entry lies: its list, its place there, and the codes of the list's rows or of what is spilled to it.
fn entry_of<'a>(index: &'a IvfPq, fetched: &'a FetchedLists, entry: usize) -> (usize, usize, ListCodes<'a>) {
    match &index.spill {
        Some(spill) if entry >= index.rows() => {
            let entry = entry - index.rows();
            let list = spill.list_of(entry);
            let codes = match index.is_ranged() {
                true => fetched.spilled(list).0,
                false => spill.of_list(list, index.code_bytes()).0,
            };
            (list, entry - spill.list(list).start, codes)
        }
        _ => {
            let list = index.list_of(entry as u32);
            (list, entry - index.list(list).start, codes_of(index, fetched, list))
        }
    }
}

/// The codes of a list, which was fetched if it lies elsewhere.
fn codes_of<'a>(index: &'a IvfPq, fetched: &'a FetchedLists, list: usize) -> ListCodes<'a> {
    if index.is_ranged() { fetched.of(list) } else { index.list_codes(list) }
}

/// Fetches lists, where they lie elsewhere. Whether they are there; not after a failure that nobody has asked for.
fn bring_lists(
    index: &IvfPq,
    lists: impl Iterator<Item = u32>,
    fetched: &mut FetchedLists,
    fetching: &mut Fetching,
    failure: &mut Option<FetchError>,
) -> bool {
    if index.is_ranged() && failure.is_none() {
        *failure = fetched.fetch(index, lists, fetching).err();
    }
    failure.is_none()
}

/// Fills `lists` with the keys of the `nprobe` first lists, and of as many more as it takes to see `k` rows.
fn probed(index: &IvfPq, ranks: &[f32], nprobe: usize, k: usize, lists: &mut Vec<u64>) {
    let rows_of = |&key: &u64| index.list(Neighbor::of_key(key).ordinal as usize).len();
    select(ranks, &index.list_offsets, nprobe, lists);
    let mut seen: usize = lists.iter().map(rows_of).sum();
    if seen >= k {
        return;
    }
    // Rare. The first lists are the same again, and the others follow.
    let first = lists.len();
    select(ranks, &index.list_offsets, usize::MAX, lists);
    let further = lists[first..].iter().take_while(|key| {
        let needed = seen < k;
        seen += rows_of(key);
        needed
    });
    let needed = first + further.count();
    lists.truncate(needed);
}

/// Fills `lists` with the keys of the first lists that hold allowed rows, as many as it takes to see `k` of them and as many
/// as `nprobe` probes need. Returns how many codes they hold, allowed or not. Lists that hold allowed rows as their second alone are
/// left out: which these are, a lazy index does not know before it has fetched them, and it answers as others do.
fn reached(
    index: &IvfPq,
    ranks: &[f32],
    nprobe: usize,
    k: usize,
    mask: &RowMask,
    lists: &mut Vec<u64>,
) -> usize {
    let needed = index.needed(nprobe, mask.count()).max(k);
    // Somewhat more than it takes where allowed rows are spread evenly.
    let likely = (needed * index.nlist()).div_ceil(mask.count());
    for limit in [likely + likely / 4 + 8, usize::MAX] {
        select(ranks, &index.list_offsets, limit, lists);
        let (mut seen, mut codes) = (0, 0);
        lists.retain(|&key| {
            let rows = index.list(Neighbor::of_key(key).ordinal as usize);
            let own = if seen < needed { mask.count_in(rows.clone()) } else { 0 };
            seen += own;
            codes += if own > 0 { rows.len() } else { 0 };
            own > 0
        });
        if seen >= needed {
            return codes;
        }
    }
    unreachable!("all lists hold all allowed rows")
}
