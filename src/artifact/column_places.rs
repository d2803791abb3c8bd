//! Where the columns of an Arrow IPC file lie, so that one can be read without the others.
//!
//! Two steps, for the caller reads the file: its last bytes give the [`ColumnFooter`], which says where the record batch's
//! metadata lies; that gives the [`ColumnPlaces`]. Checks all that `columns` checks.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, make_array};
use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_schema::{DataType, Schema, SchemaRef};
use bytes::Bytes;

use super::ColumnError;
use super::columns::{
    BatchPlace, check_start, footer_length, footer_of, nodes_of, read_footer, read_message,
};

/// A file's schema, and where its record batch lies.
#[derive(Debug, Clone)]
pub struct ColumnFooter {
    schema: Schema,
    place: BatchPlace,
}

impl ColumnFooter {
    /// Of a file of `size` bytes, from its first bytes and its last.
    ///
    /// # Errors
    /// What is wrong with it; `Ok(Err(bytes))` where so many of the last bytes are needed.
    pub fn read(size: u64, start: &[u8], tail: &[u8]) -> Result<Result<Self, u64>, ColumnError> {
        check_start(start)?;
        let length = footer_length(size, tail)?;
        if length > tail.len() as u64 {
            return Ok(Err(length));
        }
        let footer = read_footer(footer_of(size, tail)?)?;
        Ok(Ok(Self { place: BatchPlace::of(&footer.block, size)?, schema: footer.schema }))
    }

    /// Where the metadata lies that [`places`](Self::places) wants.
    pub fn metadata(&self) -> Range<u64> {
        self.place.metadata.clone()
    }

    /// Where the columns lie, of a segment of `rows` rows.
    pub fn places(self, metadata: &[u8], rows: u64) -> Result<ColumnPlaces, ColumnError> {
        let body = self.place.body.start;
        let batch = read_message(metadata, self.place.body_bytes(), &self.schema.fields, rows)?;
        let mut nodes = batch.nodes().into_iter().flatten();
        let mut buffers = batch.buffers().into_iter().flatten();
        let mut columns = Vec::with_capacity(self.schema.fields.len());
        for field in &self.schema.fields {
            let mut arrays = Vec::new();
            for sizes in nodes_of(field.data_type()).unwrap_or_default() {
                // As many of both as the types say: it was checked.
                let Some(node) = nodes.next() else { break };
                let ranges = buffers.by_ref().take(sizes.len()).map(|buffer| {
                    let start = body + buffer.offset() as u64;
                    start..start + buffer.length() as u64
                });
                let (len, has_nulls) = (node.length() as usize, node.null_count() > 0);
                arrays.push(ArrayPlace { len, has_nulls, buffers: ranges.collect() });
            }
            columns.push(arrays);
        }
        Ok(ColumnPlaces { schema: Arc::new(self.schema), columns })
    }
}

/// Where the columns of a file lie.
#[derive(Debug, Clone)]
pub struct ColumnPlaces {
    schema: SchemaRef,
    /// The arrays that each consists of, outermost first.
    columns: Vec<Vec<ArrayPlace>>,
}

#[derive(Debug, Clone)]
struct ArrayPlace {
    len: usize,
    has_nulls: bool,
    /// The first is the validity.
    buffers: Vec<Range<u64>>,
}

impl ColumnPlaces {
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The ranges of a column's buffers, in the order that [`array`](Self::array) takes them.
    pub fn ranges(&self, column: usize) -> impl Iterator<Item = Range<u64>> + '_ {
        self.columns[column].iter().flat_map(|array| array.buffers.iter().cloned())
    }

    /// A column from the bytes of its ranges.
    ///
    /// # Errors
    /// Strings that are not UTF-8, offsets that do not ascend.
    pub fn array(&self, column: usize, bytes: &[Bytes]) -> Result<ArrayRef, ColumnError> {
        let mut bytes = bytes.iter();
        let arrays = &self.columns[column];
        let buffers: Vec<Vec<Bytes>> =
            arrays.iter().map(|array| bytes.by_ref().take(array.buffers.len()).cloned().collect()).collect();
        let data = array_data(self.schema.field(column).data_type(), arrays, &buffers)?;
        Ok(make_array(data))
    }
}

fn array_data(
    data_type: &DataType,
    places: &[ArrayPlace],
    buffers: &[Vec<Bytes>],
) -> Result<ArrayData, ColumnError> {
    let mut own = buffers[0].iter().map(|bytes| Buffer::from(bytes.clone()));
    let validity = own.next().filter(|_| places[0].has_nulls);
    let mut builder = ArrayData::builder(data_type.clone())
        .len(places[0].len)
        .null_bit_buffer(validity)
        .add_buffers(own)
        .align_buffers(true);
    if let DataType::List(item) = data_type {
        builder = builder.add_child_data(array_data(item.data_type(), &places[1..], &buffers[1..])?);
    }
    // Checks lengths, offsets and UTF-8.
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{Array, BooleanArray, Float64Array, LargeStringArray, RecordBatch, StringArray};

    use super::*;
    use crate::artifact::columns::{decode, encode};

    fn file() -> Bytes {
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.append_value([Some("a"), None, Some("déjà")]);
        tags.append_null();
        tags.append_value::<[Option<&str>; 0], _>([]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("language", Arc::new(StringArray::from(vec![Some("de"), None, Some("")])) as ArrayRef, true),
            ("title", Arc::new(LargeStringArray::from(vec!["a", "ä", ""])), false),
            ("score", Arc::new(Float64Array::from(vec![0.5, -0.0, 3.0])), false),
            ("public", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])), true),
            ("tags", Arc::new(tags.finish()), true),
        ]);
        encode(&batch.unwrap()).unwrap()
    }

    fn places(file: &Bytes, rows: u64) -> Result<ColumnPlaces, ColumnError> {
        let size = file.len() as u64;
        let footer = ColumnFooter::read(size, file, file)?.expect("the whole file holds it");
        let metadata = footer.metadata();
        footer.places(&file[metadata.start as usize..metadata.end as usize], rows)
    }

    fn column(file: &Bytes, places: &ColumnPlaces, column: usize) -> Result<ArrayRef, ColumnError> {
        // Copied to odd places: what was fetched is not aligned.
        let part = |range: Range<u64>| {
            let odd = [&[0], &file[range.start as usize..range.end as usize]].concat();
            Bytes::from(odd).slice(1..)
        };
        places.array(column, &places.ranges(column).map(part).collect::<Vec<_>>())
    }

    #[test]
    fn each_column_by_itself_is_that_of_the_whole_file() {
        let file = file();
        let (whole, places) = (decode(file.clone(), 3).unwrap(), places(&file, 3).unwrap());
        assert_eq!(places.schema(), whole.schema_ref());
        for (number, expected) in whole.columns().iter().enumerate() {
            let array = column(&file, &places, number).unwrap();
            assert_eq!(array.to_data(), expected.to_data());
        }
    }

    #[test]
    fn a_footer_longer_than_the_tail_says_how_long_it_is() {
        let file = file();
        let size = file.len() as u64;
        let needed = ColumnFooter::read(size, &file, &file[file.len() - 20..]).unwrap().unwrap_err();
        let tail = &file[file.len() - needed as usize..];
        assert!(ColumnFooter::read(size, &file, tail).unwrap().is_ok());
        assert!(ColumnFooter::read(size, &file, &file[file.len() - 9..]).is_err());
    }

    #[test]
    fn no_flipped_bit_makes_reading_by_columns_panic() {
        let mut bytes = file().to_vec();
        for at in 0..bytes.len() {
            for mask in [1, 16, 128, 255] {
                bytes[at] ^= mask;
                let file = Bytes::copy_from_slice(&bytes);
                if let Ok(places) = places(&file, 3) {
                    for number in 0..places.schema().fields().len() {
                        let _ = column(&file, &places, number);
                    }
                }
                bytes[at] ^= mask;
            }
        }
    }
}
