//! Batches → a Parquet file, by row groups of some 64 MiB.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::error::ForeignError;

const ROW_GROUP_BYTES: usize = 64 << 20;

/// Written as batches come, of the schema of the first.
pub(in crate::source) struct ParquetRows {
    path: PathBuf,
    properties: WriterProperties,
    writer: Option<ArrowWriter<BufWriter<File>>>,
}

impl ParquetRows {
    /// To be read once: nothing is compressed.
    pub fn staged(path: &Path) -> Self {
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        Self { path: path.into(), properties, writer: None }
    }

    /// To be kept: everything but the vectors, which hardly get smaller, is compressed.
    pub fn kept(path: &Path, vector: &str) -> Self {
        let vectors = ColumnPath::new(vec![vector.into(), "list".into(), "element".into()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_column_compression(vectors.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(vectors.clone(), false)
            .set_column_statistics_enabled(vectors, EnabledStatistics::None)
            .build();
        Self { path: path.into(), properties, writer: None }
    }

    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), ForeignError> {
        let wrong = |what: String| ForeignError::Write { file: self.path.display().to_string(), what };
        if self.writer.is_none() {
            let file = File::create(&self.path).map_err(|error| wrong(error.to_string()))?;
            let writer =
                ArrowWriter::try_new(BufWriter::new(file), batch.schema(), Some(self.properties.clone()));
            self.writer = Some(writer.map_err(|error| wrong(error.to_string()))?);
        }
        let writer = self.writer.as_mut().expect("made above");
        let mut write = || {
            writer.write(batch)?;
            if writer.in_progress_size() > ROW_GROUP_BYTES { writer.flush() } else { Ok(()) }
        };
        write().map_err(|error| wrong(error.to_string()))
    }

    /// Whether there is a file: there is none where nothing came.
    pub fn finish(self) -> Result<bool, ForeignError> {
        let wrong = |what: String| ForeignError::Write { file: self.path.display().to_string(), what };
        let Some(writer) = self.writer else { return Ok(false) };
        let file = writer.into_inner().map_err(|error| wrong(error.to_string()))?;
        let file = file.into_inner().map_err(|error| wrong(error.to_string()))?;
        file.sync_all().map_err(|error| wrong(error.to_string()))?;
        Ok(true)
    }
}
