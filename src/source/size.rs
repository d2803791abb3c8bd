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
    /// What will be fetched: the column chunks of the columns that are asked for, as they lie there.
    pub fetched_bytes: u64,
    pub ids: IdWidth,
    /// Of a row, without its vector: ids and attributes in memory, about.
    pub columns_bytes_per_row: u64,
}

impl Source {
    pub fn size(&self) -> SourceSize {
        let rows = self.rows_upper_bound();
        let (mut fetched_bytes, mut columns_bytes) = (0, 0);
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
                if root != vector && kept(root) {
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
        SourceSize { rows, fetched_bytes, ids, columns_bytes_per_row: columns_bytes.div_ceil(rows.max(1)) }
    }
}
