//! Rows on their way from a package to Parquet, their digest, and the Parquet writer.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::{Error, Result};
use crate::vectors::{VectorBuf, VectorView};

/// Ids of queries start here, so that they are never those of indexed rows.
pub const FIRST_QUERY_ID: i64 = 1_000_000_000;

/// Rows per row group: 26 MB of 100-d vectors, small enough to be read in bounded memory, large enough for few seeks.
pub(super) const ROW_GROUP_ROWS: usize = 65_536;

/// `rows × dim` vectors with an id and attributes each.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub ids: Vec<i64>,
    pub embeddings: VectorBuf,
    pub attributes: Vec<Attribute>,
}

/// One attribute of every row.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    pub name: &'static str,
    pub column: Column,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    Text(Vec<String>),
    Int(Vec<i32>),
}

impl Column {
    fn gather(&self, rows: &[u32]) -> Column {
        match self {
            Column::Text(values) => {
                Column::Text(rows.iter().map(|&row| values[row as usize].clone()).collect())
            }
            Column::Int(values) => Column::Int(rows.iter().map(|&row| values[row as usize]).collect()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Column::Text(values) => values.len(),
            Column::Int(values) => values.len(),
        }
    }
}

impl Rows {
    /// # Panics
    /// If ids, embeddings and attributes are not equally many.
    pub fn new(ids: Vec<i64>, embeddings: VectorBuf, attributes: Vec<Attribute>) -> Rows {
        assert_eq!(ids.len(), embeddings.rows());
        assert!(attributes.iter().all(|attribute| attribute.column.len() == ids.len()));
        Rows { ids, embeddings, attributes }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The rows at `positions`, in that order, with `id_offset` added to their ids.
    pub fn gather(&self, positions: &[u32], id_offset: i64) -> Rows {
        Rows {
            ids: positions.iter().map(|&position| self.ids[position as usize] + id_offset).collect(),
            embeddings: self.embeddings.view().gather(positions),
            attributes: self
                .attributes
                .iter()
                .map(|Attribute { name, column }| Attribute { name, column: column.gather(positions) })
                .collect(),
        }
    }

    /// blake3, in hex, of what the rows say and not of how a Parquet writer of some version packs them: per row the id (i64),
    /// the values (f32), then each attribute (i32, or a u32 length and UTF-8 bytes); all little-endian.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut row_bytes = Vec::new();
        for (row, id) in self.ids.iter().enumerate() {
            row_bytes.clear();
            row_bytes.extend_from_slice(&id.to_le_bytes());
            for value in self.embeddings.row(row) {
                row_bytes.extend_from_slice(&value.to_le_bytes());
            }
            for attribute in &self.attributes {
                match &attribute.column {
                    Column::Int(values) => row_bytes.extend_from_slice(&values[row].to_le_bytes()),
                    Column::Text(values) => {
                        row_bytes.extend_from_slice(&(values[row].len() as u32).to_le_bytes());
                        row_bytes.extend_from_slice(values[row].as_bytes());
                    }
                }
            }
            hasher.update(&row_bytes);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Writes `id`, `embedding` (FixedSizeList of f32) and the attributes. The same rows give the same bytes with the same
    /// versions of the Parquet and zstd crates.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Parquet`], with the path.
    pub fn write_parquet(&self, path: &Path) -> Result<()> {
        let file = File::create(path).map_err(Error::io(path))?;
        let packed = |source| Error::Parquet { path: path.to_path_buf(), source };
        self.write(file).map_err(packed)
    }

    fn write(&self, file: File) -> std::result::Result<(), ParquetError> {
        let mut writer = ParquetWriter::new(file, self, takes_few_values(self.embeddings.view()))?;
        writer.append(self)?;
        writer.close()
    }

    fn schema(&self) -> Schema {
        let dim = self.embeddings.dim() as i32;
        let mut fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("embedding", DataType::FixedSizeList(Arc::new(element()), dim), false),
        ];
        fields.extend(self.attributes.iter().map(|attribute| match attribute.column {
            Column::Text(_) => Field::new(attribute.name, DataType::Utf8, false),
            Column::Int(_) => Field::new(attribute.name, DataType::Int32, false),
        }));
        Schema::new(fields)
    }

    fn arrays(&self, start: usize, end: usize) -> std::result::Result<Vec<ArrayRef>, ParquetError> {
        let vectors = self.embeddings.view().slice(start, end);
        let values = Arc::new(Float32Array::from(vectors.as_slice().to_vec()));
        let dim = vectors.dim() as i32;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(self.ids[start..end].to_vec())),
            Arc::new(FixedSizeListArray::try_new(Arc::new(element()), dim, values, None)?),
        ];
        for attribute in &self.attributes {
            arrays.push(match &attribute.column {
                Column::Text(values) => Arc::new(StringArray::from_iter_values(&values[start..end])),
                Column::Int(values) => Arc::new(Int32Array::from(values[start..end].to_vec())),
            });
        }
        Ok(arrays)
    }
}

/// Rows on their way to a Parquet file, a row group at a time.
pub(super) struct ParquetWriter(ArrowWriter<File>);

impl ParquetWriter {
    /// For rows that have the columns of `like`, and whole numbers below 256 as values or not.
    pub fn new(file: File, like: &Rows, few_values: bool) -> std::result::Result<Self, ParquetError> {
        Ok(Self(ArrowWriter::try_new(file, Arc::new(like.schema()), Some(properties(few_values)))?))
    }

    pub fn append(&mut self, rows: &Rows) -> std::result::Result<(), ParquetError> {
        let schema = Arc::new(rows.schema());
        for start in (0..rows.len()).step_by(ROW_GROUP_ROWS) {
            let end = (start + ROW_GROUP_ROWS).min(rows.len());
            self.0.write(&RecordBatch::try_new(schema.clone(), rows.arrays(start, end)?)?)?;
            self.0.flush()?;
        }
        Ok(())
    }

    pub fn close(self) -> std::result::Result<(), ParquetError> {
        self.0.close().map(|_| ())
    }
}

fn properties(few_values: bool) -> WriterProperties {
    let embedding = ColumnPath::new(vec!["embedding".into(), "list".into(), "element".into()]);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    // Pixels take few values: a dictionary and zstd make a tenth of them. Words' vectors barely shrink (4 %), and
    // reading them unpacked is faster.
    WriterProperties::builder()
        // The writer's default is its version, which would change the bytes.
        .set_created_by("annvil dataset".to_string())
        .set_compression(zstd)
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled(embedding.clone(), few_values)
        .set_column_compression(embedding, if few_values { zstd } else { Compression::UNCOMPRESSED })
        .build()
}

/// The element field as Arrow's own writers name it.
fn element() -> Field {
    Field::new("element", DataType::Float32, false)
}

/// Whether all values are whole numbers that fit a byte.
fn takes_few_values(vectors: VectorView<'_>) -> bool {
    vectors.as_slice().iter().all(|&value| (0.0..256.0).contains(&value) && value.fract() == 0.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, Int32Type, Int64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    pub(crate) fn some_rows(count: usize, dim: usize) -> Rows {
        let mut random = crate::vectors::Random::new(5);
        Rows::new(
            (0..count as i64).collect(),
            VectorBuf::new((0..count * dim).map(|_| random.normal() as f32).collect(), dim),
            vec![
                Attribute {
                    name: "word",
                    column: Column::Text((0..count).map(|i| format!("wörd{i}")).collect()),
                },
                Attribute { name: "rank", column: Column::Int((0..count as i32).collect()) },
            ],
        )
    }

    pub(crate) fn read_back_ids_and_embeddings(path: &Path) -> Rows {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let (mut ids, mut values, mut dim) = (vec![], vec![], 0);
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            ids.extend_from_slice(batch["id"].as_primitive::<Int64Type>().values());
            let embedding = batch["embedding"].as_fixed_size_list();
            dim = embedding.value_length() as usize;
            values.extend_from_slice(embedding.values().as_primitive::<Float32Type>().values());
        }
        Rows::new(ids, VectorBuf::new(values, dim), Vec::new())
    }

    fn read_back(path: &Path) -> Rows {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let (mut ids, mut values, mut words, mut ranks, mut dim) = (vec![], vec![], vec![], vec![], 0);
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            ids.extend_from_slice(batch["id"].as_primitive::<Int64Type>().values());
            let embedding = batch["embedding"].as_fixed_size_list();
            dim = embedding.value_length() as usize;
            values.extend_from_slice(embedding.values().as_primitive::<Float32Type>().values());
            words.extend(batch["word"].as_string::<i32>().iter().map(|word| word.unwrap().to_string()));
            ranks.extend_from_slice(batch["rank"].as_primitive::<Int32Type>().values());
        }
        let attributes = vec![
            Attribute { name: "word", column: Column::Text(words) },
            Attribute { name: "rank", column: Column::Int(ranks) },
        ];
        Rows::new(ids, VectorBuf::new(values, dim), attributes)
    }

    #[test]
    fn parquet_gives_back_the_rows_over_several_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        for (count, dim) in [(1, 1), (3, 5), (ROW_GROUP_ROWS + 7, 2)] {
            let path = folder.path().join("rows.parquet");
            let rows = some_rows(count, dim);
            rows.write_parquet(&path).unwrap();
            assert!(read_back(&path) == rows, "{count} × {dim}");
        }
    }

    #[test]
    fn same_rows_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| {
            let path = folder.path().join(name);
            some_rows(1000, 8).write_parquet(&path).unwrap();
            std::fs::read(path).unwrap()
        });
        assert_eq!(first, second);
    }

    #[test]
    fn the_digest_changes_with_every_part_of_a_row() {
        let rows = some_rows(4, 3);
        let mut digests = vec![rows.digest()];
        let mut changed = rows.clone();
        changed.ids[3] += 1;
        digests.push(changed.digest());
        let mut changed = rows.clone();
        changed.embeddings.as_mut_slice()[11] += 1.0;
        digests.push(changed.digest());
        let mut changed = rows.clone();
        changed.attributes[0].column = Column::Text(vec!["".into(); 4]);
        digests.push(changed.digest());
        digests.push(rows.gather(&[1, 0, 2, 3], 0).digest());
        digests.push(rows.gather(&[0, 1, 2, 3], FIRST_QUERY_ID).digest());
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
        assert_eq!(rows.gather(&[0, 1, 2, 3], 0).digest(), digests[0]);
    }
}
