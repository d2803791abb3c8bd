//! All kept rows of a source in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{Field, Schema};

use crate::vectors::{Random, VectorBuf};

use super::columns::{record_batch, text_bytes, with_large_offsets};
use super::error::{Result, SourceError};
use super::summary::{AttributeSummary, summarise};
use super::{InputFile, RowBatch, digest};

/// What became of every row: `read` = `filtered_out` + the sum of `rejected` + `kept` + `held_out`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RowCounts {
    pub read: u64,
    /// By the `where` predicate.
    pub filtered_out: u64,
    /// By reason ([`super::BadRow::name`]).
    pub rejected: BTreeMap<String, u64>,
    pub kept: u64,
    /// Taken out as queries.
    pub held_out: u64,
}

impl RowCounts {
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }
}

/// The kept rows of a source. Row `i` of `vectors`, `ids` and `attributes` is one row: its ordinal is `i`.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// For cosine, normalised.
    pub vectors: VectorBuf,
    /// Int64, UInt64, Utf8 (LargeUtf8 beyond 2 GiB of text) or FixedSizeBinary(16). No nulls, no duplicates.
    pub ids: ArrayRef,
    /// The attribute columns in the order asked for; possibly none. Text beyond 2 GiB has 64-bit offsets.
    pub attributes: RecordBatch,
    pub counts: RowCounts,
    /// The rejected rows, see [`super::write_rejects`]; `None` where there are none.
    pub rejects: Option<RecordBatch>,
    pub inputs: Vec<InputFile>,
}

impl Dataset {
    pub fn rows(&self) -> usize {
        self.vectors.rows()
    }

    /// A blake3 of the rows' contents (vectors, ids, attributes), as 64 hexadecimal digits. The same rows in the
    /// same order have the same digest, however they are spread over files.
    pub fn digest(&self) -> String {
        digest::of_rows(self.vectors.view(), self.ids.as_ref(), &self.attributes)
    }

    /// Nulls, distinct values and range of each attribute column.
    pub fn attribute_summary(&self) -> Result<Vec<AttributeSummary>> {
        summarise(&self.attributes)
    }

    /// Takes exactly `count` rows out, drawn by `seed`, all subsets being equally likely: (the others, those).
    /// Both keep their order.
    pub fn hold_out(mut self, count: usize, seed: u64) -> Result<(Dataset, Dataset)> {
        let drawn = HoldOut::draw(self.rows(), count, seed)?;
        let queries = Dataset {
            vectors: self.vectors.view().gather(&drawn.chosen),
            ids: take(&self.ids, &drawn.chosen)?,
            attributes: take_batch(&self.attributes, &drawn.chosen)?,
            counts: RowCounts { read: count as u64, kept: count as u64, ..RowCounts::default() },
            rejects: None,
            inputs: self.inputs.clone(),
        };
        self.vectors = compacted(self.vectors, &drawn.remaining);
        self.take_out(&drawn)?;
        Ok((self, queries))
    }

    /// [`Dataset::hold_out`] of everything but the vectors, which are elsewhere.
    pub fn take_out(&mut self, drawn: &HoldOut) -> Result<()> {
        self.ids = take(&self.ids, &drawn.remaining)?;
        self.attributes = take_batch(&self.attributes, &drawn.remaining)?;
        self.counts.kept -= drawn.chosen.len() as u64;
        self.counts.held_out += drawn.chosen.len() as u64;
        Ok(())
    }
}

/// Which rows are held out, and which are not; both ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldOut {
    pub chosen: Vec<u32>,
    pub remaining: Vec<u32>,
}

impl HoldOut {
    /// Exactly `count` of `rows`, all subsets being equally likely.
    ///
    /// # Errors
    /// None of them, or all.
    pub fn draw(rows: usize, count: usize, seed: u64) -> Result<Self> {
        if count == 0 || count >= rows {
            return Err(SourceError::HoldOut { count, rows });
        }
        let chosen = Random::new(seed).sample(rows, count);
        let mut remaining = Vec::with_capacity(rows - count);
        let mut next_chosen = chosen.iter().copied().peekable();
        for ordinal in 0..rows as u32 {
            if next_chosen.next_if_eq(&ordinal).is_none() {
                remaining.push(ordinal);
            }
        }
        Ok(Self { chosen, remaining })
    }
}

/// Moves the rows named by `ordinals` (ascending) to the front, in place: no second copy of the vectors.
fn compacted(vectors: VectorBuf, ordinals: &[u32]) -> VectorBuf {
    let dim = vectors.dim();
    let mut data = vectors.into_vec();
    for (to, &from) in ordinals.iter().enumerate() {
        let from = from as usize;
        data.copy_within(from * dim..(from + 1) * dim, to * dim);
    }
    data.truncate(ordinals.len() * dim);
    VectorBuf::new(data, dim)
}

fn take(column: &ArrayRef, ordinals: &[u32]) -> Result<ArrayRef> {
    Ok(arrow_select::take::take(column, &UInt32Array::from(ordinals.to_vec()), None)?)
}

fn take_batch(rows: &RecordBatch, ordinals: &[u32]) -> Result<RecordBatch> {
    let columns = rows.columns().iter().map(|column| take(column, ordinals)).collect::<Result<_>>()?;
    record_batch(&rows.schema(), columns, ordinals.len())
}

/// Batches on their way to become one dataset.
pub(super) struct Gathering {
    vectors: Vec<f32>,
    ids: Vec<ArrayRef>,
    /// By column.
    attributes: Vec<Vec<ArrayRef>>,
}

impl Gathering {
    pub fn new(attributes: &Schema) -> Self {
        Self { vectors: Vec::new(), ids: Vec::new(), attributes: vec![Vec::new(); attributes.fields().len()] }
    }

    /// `rows` is an upper bound, reserved if it can be: pages that are never written cost nothing.
    pub fn reserve(&mut self, rows: u64, dim: Option<usize>) {
        let values = usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(dim.unwrap_or(0)));
        if let Some(values) = values {
            // A footer that lies about its rows may ask for too much: then the vector grows as it is filled.
            _ = self.vectors.try_reserve_exact(values);
        }
    }

    /// Takes a batch; its vectors go to `elsewhere`, where there is such a place.
    pub fn push(&mut self, batch: RowBatch, elsewhere: Option<&mut (dyn io::Write + '_)>) -> Result<()> {
        if batch.vectors.rows() == 0 {
            return Ok(());
        }
        let values = batch.vectors.view().as_slice();
        match elsewhere {
            Some(place) => place.write_all(bytemuck::cast_slice(values)).map_err(SourceError::Elsewhere)?,
            None => self.vectors.extend_from_slice(values),
        }
        self.ids.push(batch.ids);
        for (chunks, column) in self.attributes.iter_mut().zip(batch.attributes.columns()) {
            chunks.push(column.clone());
        }
        Ok(())
    }

    /// The vectors, ids and attributes of all batches. At least one row was pushed.
    pub fn finish(self, attributes: &Schema, dim: usize) -> Result<(VectorBuf, ArrayRef, RecordBatch)> {
        let mut vectors = self.vectors;
        vectors.shrink_to_fit();
        let vectors = VectorBuf::new(vectors, dim);
        let ids = concat(self.ids, OFFSET_LIMIT)?;
        let mut columns = Vec::with_capacity(self.attributes.len());
        for chunks in self.attributes {
            columns.push(concat(chunks, OFFSET_LIMIT)?);
        }
        let fields = attributes.fields().iter().zip(&columns);
        let fields = fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let rows = ids.len();
        Ok((vectors, ids, record_batch(&schema, columns, rows)?))
    }
}

/// Text that 32-bit offsets can reach.
const OFFSET_LIMIT: usize = i32::MAX as usize;

/// One array of all chunks, with 64-bit offsets if 32 bits cannot number its text.
fn concat(mut chunks: Vec<ArrayRef>, offset_limit: usize) -> Result<ArrayRef> {
    let text: usize = chunks.iter().map(|chunk| text_bytes(chunk.as_ref())).sum();
    if text > offset_limit
        && let Some(large) = chunks.first().and_then(|chunk| with_large_offsets(chunk.data_type()))
    {
        for chunk in &mut chunks {
            *chunk = arrow_cast::cast(chunk, &large)?;
        }
    }
    let chunks: Vec<&dyn Array> = chunks.iter().map(AsRef::as_ref).collect();
    Ok(arrow_select::concat::concat(&chunks)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::DataType;

    fn dataset(rows: usize) -> Dataset {
        let vectors = (0..rows * 3).map(|i| i as f32).collect();
        let words: ArrayRef = Arc::new((0..rows).map(|i| Some(format!("w{i}"))).collect::<StringArray>());
        Dataset {
            vectors: VectorBuf::new(vectors, 3),
            ids: Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|i| i * 10))),
            attributes: RecordBatch::try_from_iter([("word", words)]).unwrap(),
            counts: RowCounts { read: rows as u64, kept: rows as u64, ..RowCounts::default() },
            rejects: None,
            inputs: Vec::new(),
        }
    }

    fn check_rows(dataset: &Dataset) -> Vec<i64> {
        let ids = dataset.ids.as_primitive::<arrow_array::types::Int64Type>().values().to_vec();
        let words = dataset.attributes.column(0).as_string::<i32>();
        assert_eq!((ids.len(), words.len()), (dataset.rows(), dataset.rows()));
        for (row, &id) in ids.iter().enumerate() {
            let first = (id / 10 * 3) as f32;
            assert_eq!(dataset.vectors.row(row), [first, first + 1.0, first + 2.0]);
            assert_eq!(words.value(row), format!("w{}", id / 10));
        }
        assert!(ids.is_sorted());
        ids
    }

    #[test]
    fn holding_out_splits_the_rows_exactly_and_keeps_each_whole() {
        for (rows, count) in [(2, 1), (10, 9), (100, 7), (1000, 500)] {
            let (base, queries) = dataset(rows).hold_out(count, 42).unwrap();
            assert_eq!((base.rows(), queries.rows()), (rows - count, count));
            assert_eq!((base.counts.kept, base.counts.held_out), ((rows - count) as u64, count as u64));
            let mut all = check_rows(&base);
            all.extend(check_rows(&queries));
            all.sort_unstable();
            assert_eq!(all, (0..rows as i64).map(|i| i * 10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_seed_decides_which_rows_are_held_out() {
        let held = |seed| dataset(1000).hold_out(20, seed).unwrap().1.digest();
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
    }

    #[test]
    fn holding_out_nothing_or_everything_is_refused() {
        for count in [0, 10, 11, usize::MAX] {
            assert!(matches!(dataset(10).hold_out(count, 1), Err(SourceError::HoldOut { .. })), "{count}");
        }
    }

    #[test]
    fn text_beyond_32_bit_offsets_gets_64_bit_ones() {
        let chunks = || -> Vec<ArrayRef> {
            vec![
                Arc::new(StringArray::from(vec![Some("abc"), None])),
                Arc::new(StringArray::from(vec!["defgh"])),
            ]
        };
        let small = concat(chunks(), 8).unwrap();
        let large = concat(chunks(), 7).unwrap();
        assert_eq!((small.data_type(), large.data_type()), (&DataType::Utf8, &DataType::LargeUtf8));
        let values: Vec<_> = large.as_string::<i64>().iter().collect();
        assert_eq!(values, [Some("abc"), None, Some("defgh")]);
    }
}
