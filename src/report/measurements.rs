//! Every number that a report rests on, one per row, as Parquet: what is plotted can be computed again from it, by
//! anyone. Knows nothing of what the numbers are worth.

use std::sync::Arc;

use arrow_array::builder::{StringDictionaryBuilder, UInt32Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, UInt32Type};
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::header::Header;

/// The file's name in a report's folder.
pub const MEASUREMENTS_FILE: &str = "measurements.parquet";

/// Key of the [`Header`] in the Parquet file's metadata.
const HEADER_KEY: &str = "annvil.report";

/// A file is read whole.
const MAX_FILE_BYTES: u64 = 2 << 30;

#[derive(Debug, thiserror::Error)]
pub enum MeasurementsError {
    #[error("cannot read `{file}`")]
    Read { file: String, source: std::io::Error },
    #[error("`{file}` is longer than {MAX_FILE_BYTES} bytes")]
    TooLong { file: String },
    #[error("`{file}` holds no measurements of a report: {what}")]
    Format { file: String, what: String },
    #[error("the measurements cannot be written: {0}")]
    Write(String),
}

/// What a number is. The names are those of the column `measure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measure {
    /// recall@`k` of the query `item`, in 0..=1; of a peer, of all queries together, with an empty `item`.
    Recall,
    /// One search of the query `item` alone, in microseconds.
    LatencyUs,
    /// Queries per second of one call with all queries, on `threads`.
    Qps,
    /// … and per second of processor time.
    CpuQps,
    /// Of the build's stage `item`.
    BuildWallS,
    BuildCpuS,
    /// Of the file `item`.
    Bytes,
    /// From nothing to ready to answer.
    OpenMs,
    /// What the process grew by when the index was opened.
    MemoryBytes,
    /// What opening was known to take, see [`OpenOptions::needed_bytes`](crate::loader::OpenOptions::needed_bytes).
    NeededBytes,
    /// Rows that a filter lets through, as a share of all.
    Selectivity,
    /// Queries that returned the row `item` among `k`.
    Occurrences,
    /// Queries whose exact answers have the row `item` among `k`.
    TrueOccurrences,
}

impl Measure {
    pub fn name(self) -> &'static str {
        match self {
            Measure::Recall => "recall",
            Measure::LatencyUs => "latency_us",
            Measure::Qps => "qps",
            Measure::CpuQps => "cpu_qps",
            Measure::BuildWallS => "build_wall_s",
            Measure::BuildCpuS => "build_cpu_s",
            Measure::Bytes => "bytes",
            Measure::OpenMs => "open_ms",
            Measure::MemoryBytes => "memory_bytes",
            Measure::NeededBytes => "needed_bytes",
            Measure::Selectivity => "selectivity",
            Measure::Occurrences => "occurrences",
            Measure::TrueOccurrences => "true_occurrences",
        }
    }
}

/// One number and what it is of. What does not apply is empty or 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement<'a> {
    pub subject: &'a str,
    pub measure: Measure,
    /// A search setting, as `ef_search 48`.
    pub setting: &'a str,
    /// The setting's place in the sweep, cheapest first.
    pub place: u32,
    pub k: u32,
    pub filter: &'a str,
    pub threads: u32,
    pub round: u32,
    pub item: &'a str,
    pub value: f64,
}

impl<'a> Measurement<'a> {
    pub fn of(subject: &'a str, measure: Measure, value: f64) -> Self {
        Self {
            subject,
            measure,
            setting: "",
            place: 0,
            k: 0,
            filter: "",
            threads: 0,
            round: 0,
            item: "",
            value,
        }
    }
}

const TEXTS: [&str; 5] = ["subject", "measure", "setting", "filter", "item"];
const NUMBERS: [&str; 4] = ["place", "k", "threads", "round"];
const VALUE: &str = "value";

/// Gathers measurements.
pub struct Gathered {
    texts: [StringDictionaryBuilder<Int32Type>; 5],
    numbers: [UInt32Builder; 4],
    values: Vec<f64>,
}

impl Default for Gathered {
    fn default() -> Self {
        Self {
            texts: std::array::from_fn(|_| StringDictionaryBuilder::new()),
            numbers: std::array::from_fn(|_| UInt32Builder::new()),
            values: Vec::new(),
        }
    }
}

impl Gathered {
    pub fn push(&mut self, one: Measurement<'_>) {
        let texts = [one.subject, one.measure.name(), one.setting, one.filter, one.item];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.append_value(text);
        }
        let numbers = [one.place, one.k, one.threads, one.round];
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            column.append_value(number);
        }
        self.values.push(one.value);
    }

    /// The table: text columns as Utf8.
    pub fn finish(mut self) -> Result<RecordBatch, MeasurementsError> {
        let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
        for (name, column) in TEXTS.iter().zip(&mut self.texts) {
            columns.push((name, plain(&column.finish())?));
        }
        for (name, column) in NUMBERS.iter().zip(&mut self.numbers) {
            columns.push((name, Arc::new(column.finish())));
        }
        columns.push((VALUE, Arc::new(Float64Array::from(self.values))));
        RecordBatch::try_from_iter(columns).map_err(|error| MeasurementsError::Write(error.to_string()))
    }
}

fn plain(column: &dyn Array) -> Result<ArrayRef, MeasurementsError> {
    arrow_cast::cast(column, &DataType::Utf8).map_err(|error| MeasurementsError::Write(error.to_string()))
}

/// Measurements and what they are of.
#[derive(Debug, Clone)]
pub struct Measurements {
    pub header: Header,
    /// Columns `subject`, `measure`, `setting`, `filter`, `item` (Utf8), `place`, `k`, `threads`, `round` (UInt32),
    /// `value` (Float64).
    pub table: RecordBatch,
}

impl Measurements {
    /// A Parquet file, zstd, with the header as JSON in its metadata.
    pub fn encode(&self) -> Result<Vec<u8>, MeasurementsError> {
        let wrong = |error: String| MeasurementsError::Write(error);
        let header = serde_json::to_string(&self.header).map_err(|error| wrong(error.to_string()))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(vec![KeyValue::new(HEADER_KEY.into(), header)]))
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, self.table.schema(), Some(properties))
            .map_err(|error| wrong(error.to_string()))?;
        writer.write(&self.table).map_err(|error| wrong(error.to_string()))?;
        writer.close().map_err(|error| wrong(error.to_string()))?;
        Ok(bytes)
    }

    /// Reads `path`, or the measurements of a report in the folder `path`.
    pub fn read(path: &std::path::Path) -> Result<Self, MeasurementsError> {
        let path = if path.is_dir() { path.join(MEASUREMENTS_FILE) } else { path.to_path_buf() };
        let file = path.display().to_string();
        let unreadable = |source| MeasurementsError::Read { file: file.clone(), source };
        if std::fs::metadata(&path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
            return Err(MeasurementsError::TooLong { file });
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        Self::decode(bytes.into()).map_err(|what| MeasurementsError::Format { file, what })
    }

    /// What is wrong is said in words: the caller adds where.
    fn decode(bytes: Bytes) -> Result<Self, String> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let header = metadata.into_iter().flatten().find(|entry| entry.key == HEADER_KEY);
        let header = header.and_then(|entry| entry.value.as_deref());
        let header = header.ok_or_else(|| format!("its metadata has no `{HEADER_KEY}`"))?;
        let header: Header = serde_json::from_str(header).map_err(|error| format!("its header: {error}"))?;
        let schema = reader.schema().clone();
        let batches = reader.build().map_err(|error| error.to_string())?;
        let batches = batches.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let read =
            arrow_select::concat::concat_batches(&schema, &batches).map_err(|error| error.to_string())?;
        // In the order and of the types that are written, whatever a peer's writer made of them.
        let types = TEXTS.map(|name| (name, DataType::Utf8)).into_iter();
        let types = types.chain(NUMBERS.map(|name| (name, DataType::UInt32)));
        let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
        for (name, data_type) in types.chain([(VALUE, DataType::Float64)]) {
            let column = read.column_by_name(name).ok_or_else(|| format!("no column `{name}`"))?;
            if column.null_count() > 0 {
                return Err(format!("column `{name}` has nulls"));
            }
            columns.push((
                name,
                arrow_cast::cast(column, &data_type).map_err(|error| format!("`{name}`: {error}"))?,
            ));
        }
        let table = RecordBatch::try_from_iter(columns).map_err(|error| error.to_string())?;
        if table.column(9).as_primitive::<Float64Type>().values().iter().any(|value| !value.is_finite()) {
            return Err("a value is not finite".into());
        }
        Ok(Self { header, table })
    }

    /// The measurements of several files as one; a subject that occurs twice is told apart by a number.
    ///
    /// # Errors
    /// Tables that do not fit in memory together.
    pub fn join(all: Vec<Measurements>) -> Result<Self, MeasurementsError> {
        let mut joined = Gathered::default();
        let mut header: Option<Header> = None;
        for Measurements { header: mut own, table } in all {
            let taken: Vec<String> =
                header.iter().flat_map(|h| h.subjects.iter().map(|subject| subject.name.clone())).collect();
            let mut renamed = std::collections::HashMap::new();
            for subject in &mut own.subjects {
                let mut name = subject.name.clone();
                let mut number = 2;
                while taken.contains(&name) {
                    name = format!("{} #{number}", subject.name);
                    number += 1;
                }
                renamed.insert(std::mem::replace(&mut subject.name, name.clone()), name);
            }
            let rows = Rows::of(&table);
            for row in 0..rows.len() {
                let mut one = rows.get(row);
                one.subject = renamed.get(one.subject).map_or(one.subject, String::as_str);
                joined.push_raw(one);
            }
            match &mut header {
                None => header = Some(own),
                Some(header) => header.absorb(own),
            }
        }
        let header = header.ok_or_else(|| MeasurementsError::Write("no measurements were given".into()))?;
        Ok(Self { header, table: joined.finish()? })
    }
}

/// A row of a table, with its measure by name.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub subject: &'a str,
    pub measure: &'a str,
    pub setting: &'a str,
    pub filter: &'a str,
    pub item: &'a str,
    pub place: u32,
    pub k: u32,
    pub threads: u32,
    pub round: u32,
    pub value: f64,
}

/// The rows of [`Measurements::table`].
pub struct Rows<'a> {
    table: &'a RecordBatch,
}

impl<'a> Rows<'a> {
    pub fn of(table: &'a RecordBatch) -> Self {
        Self { table }
    }

    fn len(&self) -> usize {
        self.table.num_rows()
    }

    pub fn get(&self, row: usize) -> Row<'a> {
        let text = |column: usize| self.table.column(column).as_string::<i32>().value(row);
        let number = |column: usize| self.table.column(column).as_primitive::<UInt32Type>().value(row);
        Row {
            subject: text(0),
            measure: text(1),
            setting: text(2),
            filter: text(3),
            item: text(4),
            place: number(5),
            k: number(6),
            threads: number(7),
            round: number(8),
            value: self.table.column(9).as_primitive::<Float64Type>().value(row),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'a>> {
        (0..self.len()).map(|row| self.get(row))
    }
}

impl Gathered {
    fn push_raw(&mut self, one: Row<'_>) {
        let texts = [one.subject, one.measure, one.setting, one.filter, one.item];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.append_value(text);
        }
        for (column, number) in self.numbers.iter_mut().zip([one.place, one.k, one.threads, one.round]) {
            column.append_value(number);
        }
        self.values.push(one.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurements(subject: &str) -> Measurements {
        let mut gathered = Gathered::default();
        for query in 0..5 {
            let item = format!("query {query}");
            let one = Measurement::of(subject, Measure::Recall, f64::from(query) / 5.0);
            gathered.push(Measurement { k: 10, place: 1, setting: "nprobe 8", item: &item, ..one });
        }
        Measurements { header: Header::named(&[subject]), table: gathered.finish().unwrap() }
    }

    #[test]
    fn what_is_written_reads_back() {
        let written = measurements("glove");
        let read = Measurements::decode(written.encode().unwrap().into()).unwrap();
        assert_eq!((read.header, read.table), (written.header, written.table));
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_refused_with_a_reason() {
        let error = Measurements::decode(Bytes::from_static(b"PAR1....")).unwrap_err();
        assert!(!error.is_empty());
        let mut cut = measurements("glove").encode().unwrap();
        cut.truncate(cut.len() / 2);
        Measurements::decode(cut.into()).unwrap_err();
    }

    #[test]
    fn subjects_of_one_name_stay_apart_when_joined() {
        let joined =
            Measurements::join(vec![measurements("a"), measurements("b"), measurements("a")]).unwrap();
        let names: Vec<&str> = joined.header.subjects.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "a #2"]);
        let rows = Rows::of(&joined.table);
        assert_eq!(rows.iter().filter(|row| row.subject == "a #2").count(), 5);
        assert_eq!(rows.len(), 15);
    }
}
