//! What a source holds, as far as its footers tell.

use arrow_schema::DataType;

use super::Source;

/// What it takes to know an id again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdWidth {
    /// Rows are numbered: no two are alike.
    Numbered,
    /// An integer.
    Number,
    /// A UUID, or a text's hash.
    Wide,
}

/// How large a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceSize {
    /// In all files, before filtering.
    pub rows: u64,
    /// Of the vectors: what the column's type says, or else what its chunks hold for each row, on average.
    pub dim: usize,
    /// What will be fetched: the column chunks of the columns that are asked for, as they lie there.
    pub fetched_bytes: u64,
    pub ids: IdWidth,
    /// Of a row, without its vector: ids and attributes in memory, about.
    pub columns_bytes_per_row: u64,
}

impl Source {
    pub fn size(&self) -> SourceSize {
        let rows = self.rows_upper_bound();
        let (mut fetched_bytes, mut columns_bytes, mut values) = (0, 0, 0u64);
        let vector = self.columns.vector.as_str();
        let kept = |name: &str| {
            self.columns.id.as_ref().is_some_and(|(id, _)| id == name)
                || self.columns.attributes.fields().iter().any(|field| field.name() == name)
        };
        let asked = |name: &str| {
            name == vector || kept(name) || self.columns.predicate.fields().iter().any(|f| f.name() == name)
        };
        for group in self.files.iter().flat_map(|file| file.metadata.metadata().row_groups()) {
            for column in group.columns() {
                let path = column.column_path().parts();
                let Some(root) = path.first().filter(|root| asked(root)) else { continue };
                fetched_bytes += column.compressed_size().max(0) as u64;
                if root == vector {
                    values += column.num_values().max(0) as u64;
                } else if kept(root) {
                    // A dictionary's numbers become values, and text has offsets.
                    columns_bytes += column.uncompressed_size().max(8 * group.num_rows()).max(0) as u64
                        + 4 * group.num_rows().max(0) as u64;
                }
            }
        }
        let ids = match &self.columns.id {
            None => IdWidth::Numbered,
            Some((_, DataType::Int64 | DataType::UInt64)) => IdWidth::Number,
            Some(_) => IdWidth::Wide,
        };
        if ids == IdWidth::Numbered {
            columns_bytes += 8 * rows;
        }
        let columns_bytes_per_row = columns_bytes.div_ceil(rows.max(1));
        // A vector that is null is one value, so that a few of them do not change what is rounded.
        let dim = self.dim().unwrap_or(((values + rows / 2) / rows.max(1)) as usize).max(1);
        SourceSize { rows, dim, fetched_bytes, ids, columns_bytes_per_row }
    }
}
