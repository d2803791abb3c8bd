//! The rows of a job: read, checked, and without those that are held out as queries; in memory, or in a file of the scratch
//! folder where the memory budget has no room for them.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use serde_json::json;

use super::check::SourceFacts;
use super::ledger::Ledger;
use super::progress::Unit;
use super::run::{Job, resolved};
use super::scratch::{Draft, Key, Memory, ScratchError, Taken, vectors_of};
use super::spec::{OnBadRow, QueriesSpec};
use crate::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use crate::artifact::{self, Digest, Stage};
use crate::error::Error;
use crate::source::{self, Dataset, HoldOut, Source};
use crate::store::{Location, runtime};
use crate::vectors::{Metric, RowIds, VectorBuf};

/// The stream of the job's seed that held-out queries are drawn from.
const QUERY_STREAM: u64 = 0x0071_7565_7269_6573;

const STAGE: &str = "rows";
pub(super) const VECTORS: &str = "vectors.f32";
const QUERIES: &str = "queries.f32";

/// Rows to index.
pub(super) struct Read {
    pub rows: Dataset,
    /// Rows that were drawn as queries, where the job asks for that.
    pub held_out: Option<VectorBuf>,
    pub rejects_uri: Option<String>,
    pub attributes: Vec<artifact::AttributeSummary>,
    /// What the rows follow from.
    pub key: Key,
}

/// What an entry says of its rows, beside their files.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    dim: usize,
    counts: source::RowCounts,
    rejects_uri: Option<String>,
    attributes: Vec<artifact::AttributeSummary>,
    stages: Vec<Stage>,
}

impl Job<'_> {
    /// Reads footers and schemas, and checks the job against them.
    pub fn open(&self) -> Result<Source, Error> {
        let from = &self.spec.source;
        let spec = source::SourceSpec {
            uris: resolved(&from.uri),
            vector_column: from.vector.clone(),
            id_column: from.id.clone(),
            attribute_columns: from.attributes.clone(),
            required_columns: self.spec.required_columns(),
            predicate: from.predicate.clone(),
            shard: from.shard,
            on_bad_row: match from.on_bad_row {
                OnBadRow::Fail => source::OnBadRow::Fail,
                OnBadRow::Skip => source::OnBadRow::Skip,
            },
            dim: None,
            metric: self.spec.metric(),
            store: self.spec.store.clone(),
            foreign: source::ForeignOptions {
                folder: self.spec.scratch.as_ref().map(|folder| folder.resolved().into()),
                ..from.foreign.clone()
            },
        };
        let source = if spec.is_foreign() { self.fetch(spec)? } else { Source::open(spec, runtime()?)? };
        self.spec.check_partitions(source.attributes())?;
        self.check(source.dim(), source.rows_upper_bound(), true)?;
        Ok(source)
    }

    /// What is not Parquet is read to its end before it is opened.
    fn fetch(&self, spec: source::SourceSpec) -> Result<Source, Error> {
        let stage = self.progress.stage("fetch", Unit::ROWS, None);
        let told = AtomicU64::new(0);
        let source = Source::open_watched(spec, runtime()?, &|rows, _| {
            stage.inc(rows - told.swap(rows, Ordering::Relaxed));
            self.keep_going()
        })?;
        stage.finish();
        Ok(source)
    }

    fn check(&self, dim: Option<usize>, rows_upper_bound: u64, say: bool) -> Result<(), Error> {
        let warnings = self.spec.check_against(&SourceFacts { dim, rows_upper_bound })?;
        for warning in warnings.iter().filter(|_| say) {
            self.progress.warn(warning.to_string());
        }
        Ok(())
    }

    pub fn read(&self, source: Source, ledger: &mut Ledger) -> Result<Read, Error> {
        let key = self.rows_key(&source);
        // What may have changed without our noticing is read again.
        let is_known = is_known(&source);
        let kept = if is_known { self.scratch.take(STAGE, &key, self.memory) } else { None };
        if let Some(mut kept) = kept {
            let inputs = source.inputs().to_vec();
            match self.restored(&mut kept, key, inputs, ledger) {
                Ok(read) => {
                    self.check(Some(read.rows.vectors.dim()), read.rows.rows() as u64, false)?;
                    return Ok(read);
                }
                Err(why) => self.scratch.refuse(STAGE, &key, &why),
            }
        }
        let mark = ledger.stages().len();
        let mut read = match self.memory {
            Memory::Own => self.read_into_memory(source, key, ledger)?,
            Memory::Mapped => self.read_into_scratch(source, key, ledger)?,
        };
        if !is_known {
            read.key = read.key_of_contents();
        } else if self.memory == Memory::Own {
            self.scratch.keep(STAGE, &key, |draft| {
                draft.write(VECTORS, bytemuck::cast_slice(read.rows.vectors.view().as_slice()))?;
                read.keep_others(draft)?;
                Ok(read.record(&ledger.stages()[mark..]))
            });
        }
        Ok(read)
    }

    /// Rows follow from the inputs and from what the job makes of them.
    fn rows_key(&self, source: &Source) -> Key {
        let from = &self.spec.source;
        let sample = match self.spec.queries {
            QueriesSpec::Sample { sample } => Some((sample, self.spec.seed)),
            QueriesSpec::File { .. } => None,
        };
        let made = json!({
            "inputs": source.inputs_digest(),
            "vector": from.vector,
            "id": from.id,
            "attributes": from.attributes,
            "required": self.spec.required_columns(),
            "where": from.predicate,
            "shard": from.shard,
            "on_bad_row": from.on_bad_row,
            "is_normalised": self.spec.metric() == Metric::Cosine,
            "sample": sample,
            "foreign": from.foreign,
        });
        Key::of(STAGE, &made)
    }

    fn restored(
        &self,
        kept: &mut Taken,
        key: Key,
        inputs: Vec<source::InputFile>,
        ledger: &mut Ledger,
    ) -> Result<Read, Cause> {
        let record: Record = serde_json::from_value(kept.meta.clone())?;
        let vectors = kept.vectors(VECTORS, record.dim)?;
        let held_out = match self.spec.queries {
            QueriesSpec::Sample { .. } => Some(kept.vectors(QUERIES, record.dim)?),
            QueriesSpec::File { .. } => None,
        };
        let rows = vectors.rows();
        let ids = columns::decode_ids(kept.file(IDS_FILE)?, rows as u64)?.to_array();
        let attributes = if self.spec.source.attributes.is_empty() {
            let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(Arc::new(arrow_schema::Schema::empty()), Vec::new(), &options)?
        } else {
            columns::decode(kept.file(ATTRIBUTES_FILE)?, rows as u64)?
        };
        ledger.resume(record.stages);
        let rows = Dataset { vectors, ids, attributes, counts: record.counts, rejects: None, inputs };
        let (rejects_uri, attributes) = (record.rejects_uri, record.attributes);
        Ok(Read { rows, held_out, rejects_uri, attributes, key })
    }

    fn read_into_memory(&self, source: Source, key: Key, ledger: &mut Ledger) -> Result<Read, Error> {
        let rows = ledger.enter("read", |moved| self.watched(source, &mut moved.read, None))?;
        let mut read = self.describe(rows, key, ledger)?;
        if let QueriesSpec::Sample { sample } = self.spec.queries {
            let (rows, queries) = read.rows.hold_out(sample, self.spec.seed ^ QUERY_STREAM)?;
            (read.rows, read.held_out) = (rows, Some(queries.vectors));
        }
        Ok(read)
    }

    /// The vectors go to a file as they come, and are mapped; ids and attributes are in memory.
    fn read_into_scratch(&self, source: Source, key: Key, ledger: &mut Ledger) -> Result<Read, Error> {
        let mark = ledger.stages().len();
        let mut draft = self.scratch.draft_of_need(STAGE, &key)?;
        let (path, mut file) = draft.create(VECTORS)?;
        let io = ScratchError::of(&path);
        let rows = ledger.enter("read", |moved| {
            let rows = self.watched(source, &mut moved.read, Some(&mut file))?;
            moved.written = rows.ids.len() as u64 * rows.vectors.dim() as u64 * 4;
            Ok::<_, Error>(rows)
        })?;
        let mut file = file.into_inner().map_err(|error| io(error.into_error()))?;
        let dim = rows.vectors.dim();
        let mut read = self.describe(rows, key, ledger)?;
        if let QueriesSpec::Sample { sample } = self.spec.queries {
            let drawn = HoldOut::draw(read.rows.ids.len(), sample, self.spec.seed ^ QUERY_STREAM)
                .map_err(Error::from)?;
            let queries = take_out_of(&mut file, &drawn, dim).map_err(&io)?;
            read.rows.take_out(&drawn)?;
            read.held_out = Some(VectorBuf::new(queries, dim));
        }
        drop(file);
        let mapped = draft.adopt(VECTORS, Memory::Mapped)?;
        read.keep_others(&mut draft)?;
        read.rows.vectors = vectors_of(mapped, dim)
            .ok_or_else(|| Error::Internal("scratch has other rows than were written".into()))?;
        draft.seal(read.record(&ledger.stages()[mark..]))?;
        Ok(read)
    }

    fn watched(
        &self,
        source: Source,
        bytes_read: &mut u64,
        elsewhere: Option<&mut dyn Write>,
    ) -> Result<Dataset, Error> {
        let stage = self.progress.stage("read", Unit::ROWS, Some(source.rows_upper_bound()));
        let (rows_read, fetched) = (Cell::new(0), Cell::new(0));
        let progress = |rows, bytes| {
            stage.inc(rows - rows_read.replace(rows));
            fetched.set(bytes);
            self.keep_going()
        };
        let rows = match elsewhere {
            None => source.read_all(&progress)?,
            Some(elsewhere) => source.read_into(elsewhere, &progress)?,
        };
        *bytes_read = fetched.get();
        stage.finish();
        Ok(rows)
    }

    fn describe(&self, rows: Dataset, key: Key, ledger: &mut Ledger) -> Result<Read, Error> {
        // What a list column's length and `where` leave is only known now.
        self.check(Some(rows.vectors.dim()), rows.ids.len() as u64, false)?;
        let rejects = rows.rejects.as_ref().filter(|_| self.sealing.is_none());
        if rows.rejects.is_some() && rejects.is_none() {
            self.progress.warn(
                "the rejected rows are not written: they would lie beside the encrypted indexes in the clear",
            );
        }
        let rejects_uri = rejects.map(|rejects| self.keep_rejects(rejects, ledger)).transpose()?;
        let attributes = ledger.enter("summarise attributes", |_| rows.attribute_summary())?;
        let attributes = attributes
            .into_iter()
            .map(|summary| artifact::AttributeSummary {
                name: summary.name,
                data_type: summary.data_type,
                nulls: summary.nulls,
                distinct: summary.distinct,
                min: summary.min,
                max: summary.max,
            })
            .collect();
        Ok(Read { rows, held_out: None, rejects_uri, attributes, key })
    }

    /// Writes the rejected rows beside the indexes, under a name made of their contents: a job that runs twice leaves
    /// one file.
    fn keep_rejects(&self, rejects: &RecordBatch, ledger: &mut Ledger) -> Result<String, Error> {
        ledger.enter("write rejects", |moved| {
            let bytes = source::write_rejects(rejects)?;
            let digest = blake3::hash(&bytes).to_hex();
            let name = format!("rejects/{}-{}.parquet", self.spec.name, &digest[..16]);
            let place =
                Location::parse_with(self.spec.output.uri.resolved(), &self.spec.store)?.join(&name)?;
            moved.written = bytes.len() as u64;
            place.write(bytes.into())?;
            Ok(place.uri().to_string())
        })
    }
}

/// Why what was kept cannot be used, although its bytes are what was written.
type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Read {
    /// Of inputs that do not tell whether they have changed: what is made of their rows is made of these.
    fn key_of_contents(&self) -> Key {
        let queries = self.held_out.as_ref().map(digest_of);
        Key::of(
            STAGE,
            &json!({ "rows": self.rows.digest(), "queries": queries, "from": self.key.to_string() }),
        )
    }

    fn record(&self, stages: &[Stage]) -> serde_json::Value {
        let record = Record {
            dim: self.rows.vectors.dim(),
            counts: self.rows.counts.clone(),
            rejects_uri: self.rejects_uri.clone(),
            attributes: self.attributes.clone(),
            stages: stages.to_vec(),
        };
        serde_json::to_value(record).expect("strings and numbers")
    }

    /// What there is beside the vectors.
    fn keep_others(&self, draft: &mut Draft) -> Result<(), ScratchError> {
        let refused = |error: String| ScratchError::Encode { what: STAGE, error };
        let ids = RowIds::from_array(&self.rows.ids).map_err(|error| refused(error.to_string()))?;
        draft.write(IDS_FILE, &columns::encode_ids(&ids).map_err(|error| refused(error.to_string()))?)?;
        if self.rows.attributes.num_columns() > 0 {
            let attributes =
                columns::encode(&self.rows.attributes).map_err(|error| refused(error.to_string()))?;
            draft.write(ATTRIBUTES_FILE, &attributes)?;
        }
        if let Some(queries) = &self.held_out {
            draft.write(QUERIES, bytemuck::cast_slice(queries.view().as_slice()))?;
        }
        Ok(())
    }
}

/// Whether the same sizes and e-tags mean the same contents: a source that has no e-tag for an input may have others.
pub(super) fn is_known(source: &Source) -> bool {
    source.inputs().iter().all(|input| input.e_tag.is_some())
}

pub(super) fn digest_of(vectors: &VectorBuf) -> String {
    Digest::of(bytemuck::cast_slice(vectors.view().as_slice())).to_string()
}

/// Takes the chosen rows out of a file of rows and closes the gaps: one pass, in pieces.
fn take_out_of(file: &mut File, drawn: &HoldOut, dim: usize) -> io::Result<Vec<f32>> {
    const PIECE_BYTES: usize = 4 << 20;
    let row_bytes = 4 * dim;
    let rows = drawn.chosen.len() + drawn.remaining.len();
    let rows_of_piece = (PIECE_BYTES / row_bytes).max(1);
    let mut chosen = drawn.chosen.iter().map(|&row| row as usize).peekable();
    let mut taken = Vec::with_capacity(drawn.chosen.len() * dim);
    let mut piece = vec![0u8; rows_of_piece * row_bytes];
    let mut end = 0u64;
    for start in (0..rows).step_by(rows_of_piece) {
        let count = rows_of_piece.min(rows - start);
        let piece = &mut piece[..count * row_bytes];
        file.seek(SeekFrom::Start((start * row_bytes) as u64))?;
        file.read_exact(piece)?;
        let mut left = 0;
        for row in 0..count {
            let of_row = row * row_bytes..(row + 1) * row_bytes;
            if chosen.next_if_eq(&(start + row)).is_some() {
                taken.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&piece[of_row]));
            } else {
                piece.copy_within(of_row, left);
                left += row_bytes;
            }
        }
        file.seek(SeekFrom::Start(end))?;
        file.write_all(&piece[..left])?;
        end += left as u64;
    }
    file.set_len(end)?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_taken_out_of_a_file_are_those_taken_out_of_memory() {
        for (rows, dim, count) in [(2, 1, 1), (1000, 3, 999), (5000, 1000, 17)] {
            let values: Vec<f32> = (0..rows * dim).map(|i| i as f32).collect();
            let drawn = HoldOut::draw(rows, count, 7).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytemuck::cast_slice(&values)).unwrap();
            let taken = take_out_of(&mut file, &drawn, dim).unwrap();
            let whole = VectorBuf::new(values, dim);
            assert!(taken == whole.view().gather(&drawn.chosen).into_vec());
            let mut left = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut left).unwrap();
            let remaining = whole.view().gather(&drawn.remaining).into_vec();
            assert!(bytemuck::pod_collect_to_vec::<u8, f32>(&left) == remaining);
        }
    }
}
