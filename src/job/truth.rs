//! What an index's answers are compared with: queries, and their exact neighbours.

use bytes::Bytes;
use serde_json::json;

use super::ledger::Ledger;
use super::progress::Unit;
use super::rows::{Read, VECTORS, digest_of, is_known};
use super::run::{Job, resolved};
use super::scratch::{Key, Memory};
use super::spec::{JobSpec, QueriesSpec};
use crate::artifact::Stage;
use crate::artifact::neighbors::NEIGHBORS_KEPT;
use crate::error::Error;
use crate::report::GroundTruth;
use crate::source::{self, Source};
use crate::store::runtime;
use crate::vectors::{Neighbor, Neighbors, VectorBuf};

/// Neighbours that every ground truth has: recall@100 can stand in the certificate, and rows may go before a change has to look
/// for neighbours again.
const TRUTH_K: usize = NEIGHBORS_KEPT;

const QUERIES: &str = "queries";
const TRUTH: &str = "neighbours";

/// Rows and what they are to be measured with.
pub(super) struct Queried {
    pub read: Read,
    pub queries: VectorBuf,
    /// What both follow from.
    pub key: Key,
}

/// … and what is true of it.
pub(super) struct Measured {
    /// Without the vectors, once the last index has become their owner.
    pub read: Read,
    pub rows: usize,
    pub queries: VectorBuf,
    pub truth: GroundTruth,
    /// What all of it follows from.
    pub key: Key,
}

impl Job<'_> {
    pub fn take_queries(&self, mut read: Read, ledger: &mut Ledger) -> Result<Queried, Error> {
        let QueriesSpec::File { uri, vector } = &self.spec.queries else {
            let queries = read.held_out.take().expect("rows were held out when they were read");
            let key = read.key;
            return Ok(Queried { read, queries, key });
        };
        let dim = read.rows.vectors.dim();
        let from = source::SourceSpec {
            uris: resolved(uri),
            dim: Some(dim),
            store: self.spec.store.clone(),
            foreign: self.spec.source.foreign.of_queries(),
            ..source::SourceSpec::new("", vector, self.spec.metric())
        };
        let source = Source::open(from, runtime()?)?;
        let from = json!({
            "inputs": source.inputs_digest(), "vector": vector, "dim": dim, "rows": read.key.to_string(),
        });
        let mut key = Key::of(QUERIES, &from);
        let is_known = is_known(&source);
        if let Some(mut kept) = self.scratch.take(QUERIES, &key, Memory::Own) {
            let stages: Vec<Stage> = kept.meta("stages").unwrap_or_default();
            match kept.vectors(VECTORS, dim) {
                Ok(queries) => {
                    ledger.resume(stages);
                    return Ok(Queried { read, queries, key });
                }
                Err(why) => self.scratch.refuse(QUERIES, &key, &why),
            }
        }
        let mark = ledger.stages().len();
        let queries = ledger.enter("queries", |_| source.read_all(&|_, _| self.keep_going()))?.vectors;
        if is_known {
            self.scratch.keep(QUERIES, &key, |draft| {
                draft.write(VECTORS, bytemuck::cast_slice(queries.view().as_slice()))?;
                Ok(json!({ "stages": ledger.stages()[mark..] }))
            });
        } else {
            key = Key::of(QUERIES, &json!({ "queries": digest_of(&queries), "from": key.to_string() }));
        }
        Ok(Queried { read, queries, key })
    }

    pub fn find_true_neighbours(&self, queried: Queried, ledger: &mut Ledger) -> Result<Measured, Error> {
        let Queried { read, queries, key } = queried;
        let k = truth_k(self.spec);
        let rows = read.rows.rows();
        let from = json!({
            "queries": key.to_string(), "k": k, "metric": self.spec.metric(), "compute": self.compute.info().to_string(),
        });
        let key = Key::of(TRUTH, &from);
        if let Some(mut kept) = self.scratch.take(TRUTH, &key, Memory::Own) {
            let stages: Vec<Stage> = kept.meta("stages").unwrap_or_default();
            let neighbors = kept.file("neighbours").ok();
            match neighbors.and_then(|bytes| neighbors_of(&bytes, queries.rows(), k.min(rows))) {
                Some(neighbors) => {
                    ledger.resume(stages);
                    return Ok(Measured { read, rows, queries, truth: GroundTruth::of(neighbors), key });
                }
                None => self.scratch.refuse(TRUTH, &key, &"another number of neighbours"),
            }
        }
        let mark = ledger.stages().len();
        let truth = ledger.enter_on(self.compute, self.progress, "exact neighbours", || {
            let stage = self.progress.stage("exact neighbours", Unit::QUERIES, Some(queries.rows() as u64));
            let rows = read.rows.vectors.view();
            let truth = GroundTruth::compute(self.compute, queries.view(), rows, self.spec.metric(), k)?;
            stage.inc(queries.rows() as u64);
            stage.finish();
            Ok::<_, Error>(truth)
        })?;
        self.scratch.keep(TRUTH, &key, |draft| {
            let neighbors: Vec<Neighbor> =
                (0..truth.queries()).flat_map(|query| truth.row(query)).copied().collect();
            draft.write("neighbours", bytemuck::cast_slice(&neighbors))?;
            Ok(json!({ "stages": ledger.stages()[mark..] }))
        });
        Ok(Measured { rows, read, queries, truth, key })
    }
}

/// Exact neighbours that a job finds for each query, where there are so many rows.
pub(super) fn truth_k(spec: &JobSpec) -> usize {
    let asked = spec.indexes.iter().flat_map(|index| {
        [index.gate.map(|gate| gate.k), index.target.map(|target| target.k)].into_iter().flatten()
    });
    asked.fold(TRUTH_K, usize::max)
}

fn neighbors_of(bytes: &Bytes, queries: usize, k: usize) -> Option<Neighbors> {
    let mut neighbors = Neighbors::new(queries, k);
    let place: &mut [u8] = bytemuck::cast_slice_mut(neighbors.as_mut_slice());
    if place.len() != bytes.len() {
        return None;
    }
    place.copy_from_slice(bytes);
    Some(neighbors)
}
