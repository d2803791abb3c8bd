//! Columns of a segment as Arrow IPC files (<https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format>): row
//! ids and attributes, by ordinal, one record batch, not compressed, so that pyarrow, polars or DuckDB open them.
//!
//! Takes booleans, integers, f32 and f64, strings, dates, timestamps, 16-byte binary, and lists of strings.
//! `arrow-ipc` validates arrays but trusts the lengths and offsets that lead to them (it slices by assertion), so
//! [`decode`] checks those first: no file makes it panic, nor take more memory than the file has.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::FileDecoder;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{Block, FieldNode, MetadataVersion, root_as_footer, root_as_message};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use bytes::Bytes;

use crate::vectors::{RowIdError, RowIds};

pub const IDS_FILE: &str = "ids.arrow";
pub const IDS_COLUMN: &str = "row_id";
pub const ATTRIBUTES_FILE: &str = "attributes.arrow";

const START_MAGIC: &[u8] = b"ARROW1\0\0";
const END_MAGIC: &[u8] = b"ARROW1";
/// The footer's length, and the magic.
const FOOTER_SUFFIX: usize = 4 + END_MAGIC.len();
/// Continuation marker and length, before a message's flatbuffer.
const MESSAGE_PREFIX: usize = 8;
const BUFFER_ALIGNMENT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    #[error("not an Arrow IPC file: expected {expected} at the {place}, got {got}")]
    Magic { place: &'static str, expected: String, got: String },
    #[error("{what}: expected at most {max} bytes, got {got}")]
    OutOfBounds { what: String, max: u64, got: i64 },
    #[error("{what}: expected {expected}, got {got}")]
    Content { what: String, expected: String, got: String },
    #[error(
        "column `{column}`: expected a boolean, number, string, date, timestamp, UUID or list of strings, got {got}"
    )]
    Type { column: String, got: String },
    #[error("expected {expected} rows, got {got}")]
    Rows { expected: u64, got: u64 },
    #[error("two columns are called `{column}`")]
    Duplicate { column: String },
    #[error("Arrow: {0}")]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    RowId(#[from] RowIdError),
}

/// Row ids as the file `ids.arrow`.
pub fn encode_ids(ids: &RowIds) -> Result<Bytes, ColumnError> {
    let array = ids.to_array();
    let mut field = Field::new(IDS_COLUMN, array.data_type().clone(), false);
    if matches!(array.data_type(), DataType::FixedSizeBinary(_)) {
        // Arrow's canonical extension type: other tools then show a UUID and not 16 bytes.
        field = field.with_metadata([("ARROW:extension:name", "arrow.uuid")]);
    }
    write_file(Schema::new(vec![field]), vec![array])
}

/// The row ids of a segment of `rows` rows.
pub fn decode_ids(file: Bytes, rows: u64) -> Result<RowIds, ColumnError> {
    let batch = decode(file, rows)?;
    let names: Vec<_> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    if names != [IDS_COLUMN] {
        let (expected, got) = (format!("only `{IDS_COLUMN}`"), format!("{names:?}"));
        return Err(ColumnError::Content { what: "columns".into(), expected, got });
    }
    Ok(RowIds::from_array(batch.column(0))?)
}

/// Attribute columns as a file. Names and types go in; metadata, which tells of the file that they
/// came from, does not.
pub fn encode(attributes: &RecordBatch) -> Result<Bytes, ColumnError> {
    let fields: Vec<Field> = attributes
        .schema_ref()
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), field.is_nullable()))
        .collect();
    write_file(Schema::new(fields), attributes.columns().to_vec())
}

fn write_file(schema: Schema, columns: Vec<ArrayRef>) -> Result<Bytes, ColumnError> {
    check_fields(&schema.fields)?;
    let options = IpcWriteOptions::try_new(BUFFER_ALIGNMENT, false, MetadataVersion::V5)?;
    let batch = RecordBatch::try_new(Arc::new(schema), columns)?;
    let mut writer = FileWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.into())
}

fn check_fields(fields: &Fields) -> Result<(), ColumnError> {
    let mut names = HashSet::new();
    for field in fields {
        if nodes_of(field.data_type()).is_none() {
            let (column, got) = (field.name().clone(), field.data_type().to_string());
            return Err(ColumnError::Type { column, got });
        }
        if !names.insert(field.name()) {
            return Err(ColumnError::Duplicate { column: field.name().clone() });
        }
    }
    Ok(())
}

/// The arrays that a column of this type consists of, outermost first, and the buffers of each by the size of their
/// elements in bytes: validity and booleans (bits, so 1), offsets, values. `None` for a type that is not taken.
pub(super) fn nodes_of(data_type: &DataType) -> Option<&'static [&'static [i64]]> {
    use DataType::*;
    Some(match data_type {
        Boolean | Int8 | UInt8 => &[&[1, 1]],
        Int16 | UInt16 => &[&[1, 2]],
        Int32 | UInt32 | Float32 | Date32 => &[&[1, 4]],
        Int64 | UInt64 | Float64 | Date64 | Timestamp(..) => &[&[1, 8]],
        FixedSizeBinary(16) => &[&[1, 16]],
        Utf8 => &[&[1, 4, 1]],
        LargeUtf8 => &[&[1, 8, 1]],
        List(item) if *item.data_type() == Utf8 => &[&[1, 4], &[1, 4, 1]],
        _ => return None,
    })
}

/// The columns of a segment of `rows` rows from their file's bytes, which the arrays share.
pub fn decode(file: Bytes, rows: u64) -> Result<RecordBatch, ColumnError> {
    check_start(&file)?;
    let footer = footer_of(file.len() as u64, &file)?;
    let Footer { schema, version, block } = read_footer(footer)?;
    let place = BatchPlace::of(&block, file.len() as u64)?;
    let bytes = Buffer::from(file.slice(place.metadata.start as usize..place.body.end as usize));
    let metadata = &bytes[..(place.metadata.end - place.metadata.start) as usize];
    read_message(metadata, place.body_bytes(), &schema.fields, rows)?;
    let decoder = FileDecoder::new(Arc::new(schema), version);
    let batch = decoder.read_record_batch(&block, &bytes)?;
    batch.ok_or_else(|| content("record batches", 1, 0))
}

/// What a file's footer says.
pub(super) struct Footer {
    pub schema: Schema,
    pub version: MetadataVersion,
    pub block: Block,
}

pub(super) fn read_footer(footer: &[u8]) -> Result<Footer, ColumnError> {
    let footer = root_as_footer(footer).map_err(|error| flatbuffer("footer", error))?;
    let fb_schema = footer.schema().ok_or_else(|| content("footer", "a schema", "none"))?;
    if !fb_schema.endianness().equals_to_target_endianness() {
        return Err(content("byte order", "little-endian", "big-endian"));
    }
    let schema = try_fb_to_schema(fb_schema)?;
    check_fields(&schema.fields)?;
    if let Some(dictionaries) = footer.dictionaries().filter(|blocks| !blocks.is_empty()) {
        return Err(content("dictionaries", 0, dictionaries.len()));
    }
    let batches = footer.recordBatches().map_or(0, |blocks| blocks.len());
    match (footer.recordBatches(), batches) {
        (Some(blocks), 1) => Ok(Footer { schema, version: footer.version(), block: *blocks.get(0) }),
        _ => Err(content("record batches", 1, batches)),
    }
}

pub(super) fn content(what: &str, expected: impl ToString, got: impl ToString) -> ColumnError {
    ColumnError::Content { what: what.into(), expected: expected.to_string(), got: got.to_string() }
}

fn flatbuffer(what: &str, error: impl std::fmt::Display) -> ColumnError {
    content(what, "a flatbuffer", error)
}

fn wrong_magic(place: &'static str, expected: &[u8], got: &[u8]) -> ColumnError {
    let text = |bytes: &[u8]| format!("`{}`", bytes.escape_ascii());
    ColumnError::Magic { place, expected: text(expected), got: text(got) }
}

/// `ARROW1\0\0` … footer, its length (i32), `ARROW1`.
pub(super) fn check_start(file: &[u8]) -> Result<(), ColumnError> {
    match &file[..file.len().min(START_MAGIC.len())] {
        head if head == START_MAGIC => Ok(()),
        head => Err(wrong_magic("start", START_MAGIC, head)),
    }
}

/// How many of the last bytes of a file of `size` are its footer and what follows that, from `tail`, the last ones.
pub(super) fn footer_length(size: u64, tail: &[u8]) -> Result<u64, ColumnError> {
    let length = tail.strip_suffix(END_MAGIC).and_then(|body| body.last_chunk::<4>());
    let Some(length) = length else {
        return Err(wrong_magic("end", END_MAGIC, &tail[tail.len().saturating_sub(END_MAGIC.len())..]));
    };
    let got = i32::from_le_bytes(*length);
    let max = size.saturating_sub((START_MAGIC.len() + FOOTER_SUFFIX) as u64);
    match u64::try_from(got) {
        Ok(length) if length <= max => Ok(length + FOOTER_SUFFIX as u64),
        _ => Err(ColumnError::OutOfBounds { what: "footer".into(), max, got: got.into() }),
    }
}

/// The footer's flatbuffer in `tail`, which holds it.
pub(super) fn footer_of(size: u64, tail: &[u8]) -> Result<&[u8], ColumnError> {
    let length = footer_length(size, tail)? as usize;
    Ok(&tail[tail.len() - length..tail.len() - FOOTER_SUFFIX])
}

/// Where the record batch lies in the file: its metadata, and behind it the body.
#[derive(Debug, Clone)]
pub(super) struct BatchPlace {
    pub metadata: Range<u64>,
    pub body: Range<u64>,
}

impl BatchPlace {
    pub fn of(block: &Block, size: u64) -> Result<Self, ColumnError> {
        let bounded = |what: &str, value: i64, least: u64| match u64::try_from(value) {
            Ok(value) if (least..=size).contains(&value) => Ok(value),
            _ => Err(ColumnError::OutOfBounds { what: what.into(), max: size, got: value }),
        };
        // Each is at most the file's length, so they add up without overflow.
        let offset = bounded("record batch offset", block.offset(), START_MAGIC.len() as u64)?;
        let metadata =
            bounded("record batch metadata", block.metaDataLength().into(), MESSAGE_PREFIX as u64)?;
        let body = bounded("record batch body", block.bodyLength(), 0)?;
        let (start, end) = (offset + metadata, offset + metadata + body);
        if end > size {
            return Err(ColumnError::OutOfBounds { what: "record batch".into(), max: size, got: end as i64 });
        }
        Ok(Self { metadata: offset..start, body: start..end })
    }

    pub fn body_bytes(&self) -> u64 {
        self.body.end - self.body.start
    }
}

/// The record batch's message, with everything checked that a decoder takes on trust.
pub(super) fn read_message<'a>(
    metadata: &'a [u8],
    body_bytes: u64,
    fields: &Fields,
    rows: u64,
) -> Result<arrow_ipc::RecordBatch<'a>, ColumnError> {
    if metadata[..4] != [0xff; 4] {
        return Err(content("message prefix", "ffffffff", format!("{:02x?}", &metadata[..4])));
    }
    let message =
        root_as_message(&metadata[MESSAGE_PREFIX..]).map_err(|error| flatbuffer("message", error))?;
    let batch = message
        .header_as_record_batch()
        .ok_or_else(|| content("message", "a record batch", format!("{:?}", message.header_type())))?;
    if batch.compression().is_some() {
        return Err(content("compression", "none", "some"));
    }
    if u64::try_from(batch.length()) != Ok(rows) {
        return Err(ColumnError::Rows { expected: rows, got: batch.length().max(0) as u64 });
    }
    // A row takes at least one bit of each column.
    if !fields.is_empty() && rows.div_ceil(8) > body_bytes {
        let (max, got) = (body_bytes, rows.div_ceil(8) as i64);
        return Err(ColumnError::OutOfBounds { what: format!("{rows} rows"), max, got });
    }
    let expected: usize = fields.iter().filter_map(|field| nodes_of(field.data_type())).map(<[_]>::len).sum();
    let nodes = batch.nodes().map_or(0, |nodes| nodes.len());
    if nodes != expected {
        return Err(content("arrays in the record batch", expected, nodes));
    }
    let mut nodes = batch.nodes().into_iter().flatten();
    for field in fields {
        check_nodes(field, rows, body_bytes, &mut nodes)?;
    }
    let elements =
        || fields.iter().filter_map(|field| nodes_of(field.data_type())).flatten().copied().flatten();
    let buffers = batch.buffers().map_or(0, |buffers| buffers.len());
    if buffers != elements().count() {
        return Err(content("buffers in the record batch", elements().count(), buffers));
    }
    for (buffer, &size) in batch.buffers().iter().flatten().zip(elements()) {
        let what = || format!("buffer at {}", buffer.offset());
        let end = buffer.offset().checked_add(buffer.length()).unwrap_or(i64::MAX);
        if buffer.offset() < 0 || buffer.length() < 0 || end as u64 > body_bytes {
            return Err(ColumnError::OutOfBounds { what: what(), max: body_bytes, got: end });
        }
        if buffer.length() % size != 0 {
            return Err(content(&what(), format!("a multiple of {size} bytes"), buffer.length()));
        }
    }
    Ok(batch)
}

/// The lengths and null counts of a column's arrays: as many rows as the segment, and of a list's values no more than
/// the body has bits for.
fn check_nodes<'a>(
    field: &Field,
    rows: u64,
    body_bytes: u64,
    nodes: &mut impl Iterator<Item = &'a FieldNode>,
) -> Result<(), ColumnError> {
    let count = nodes_of(field.data_type()).map_or(0, <[_]>::len);
    for (depth, node) in nodes.take(count).enumerate() {
        let length = u64::try_from(node.length()).ok();
        let fits = match depth {
            0 => length == Some(rows),
            _ => length.is_some_and(|length| length.div_ceil(8) <= body_bytes),
        };
        if !fits || !(0..=node.length()).contains(&node.null_count()) {
            let got = format!("{} values and {} nulls", node.length(), node.null_count());
            let expected = match depth {
                0 => format!("{rows} values and at most as many nulls"),
                _ => format!("as many values as {body_bytes} bytes hold and at most as many nulls"),
            };
            return Err(content(&format!("column `{}`", field.name()), expected, got));
        }
        if depth == 0 && node.null_count() > 0 && !field.is_nullable() {
            return Err(content(&format!("nulls of column `{}`", field.name()), 0, node.null_count()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::types::TimestampMicrosecondType;
    use arrow_array::{BooleanArray, Float64Array, Int32Array, ListArray, PrimitiveArray, StringArray};

    use super::*;

    fn id_columns() -> Vec<RowIds> {
        vec![
            RowIds::from(vec![5i64, -3, i64::MIN]),
            RowIds::from(vec![5u64, 0, u64::MAX]),
            ["one", "", "drei €"].into_iter().collect(),
            RowIds::from(vec![[1; 16], [0; 16], [255; 16]]),
        ]
    }

    fn attributes() -> RecordBatch {
        let stamps: PrimitiveArray<TimestampMicrosecondType> = vec![Some(1), None, Some(-1)].into();
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.append_value([Some("a"), None, Some("déjà")]);
        tags.append_null();
        tags.append_value::<[Option<&str>; 0], _>([]);
        RecordBatch::try_from_iter_with_nullable([
            ("language", Arc::new(StringArray::from(vec![Some("de"), None, Some("")])) as ArrayRef, true),
            ("year", Arc::new(Int32Array::from(vec![Some(1999), Some(2026), None])), true),
            ("score", Arc::new(Float64Array::from(vec![0.5, -0.0, f64::NAN])), false),
            ("public", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])), true),
            ("seen", Arc::new(stamps), true),
            ("tags", Arc::new(tags.finish()), true),
        ])
        .unwrap()
    }

    #[test]
    fn ids_round_trip_and_have_the_same_bytes_each_time() {
        for ids in id_columns() {
            let file = encode_ids(&ids).unwrap();
            assert_eq!(decode_ids(file.clone(), 3).unwrap(), ids);
            assert_eq!(encode_ids(&ids).unwrap(), file);
        }
        let none = RowIds::from(Vec::<u64>::new());
        assert_eq!(decode_ids(encode_ids(&none).unwrap(), 0).unwrap(), none);
    }

    #[test]
    fn attributes_round_trip_without_their_metadata() {
        let batch = attributes();
        let schema = batch.schema().as_ref().clone();
        let tagged = schema.with_metadata([("pandas", "{}")]);
        let tagged = RecordBatch::try_new(Arc::new(tagged), batch.columns().to_vec()).unwrap();
        let file = encode(&tagged).unwrap();
        assert_eq!(file, encode(&batch).unwrap());
        // Compared as text: a NaN is not equal to itself.
        assert_eq!(format!("{:?}", decode(file, 3).unwrap()), format!("{batch:?}"));
    }

    #[test]
    fn a_column_type_that_is_not_taken_is_named() {
        let lists = ListArray::from_iter_primitive::<arrow_array::types::Int32Type, _, _>([Some([Some(1)])]);
        let batch = RecordBatch::try_from_iter([("tags", Arc::new(lists) as ArrayRef)]).unwrap();
        let error = encode(&batch).unwrap_err();
        assert!(matches!(&error, ColumnError::Type { column, .. } if column == "tags"), "{error}");
    }

    #[test]
    fn another_number_of_rows_is_named() {
        let file = encode_ids(&id_columns()[0]).unwrap();
        let error = decode_ids(file, 4).unwrap_err();
        assert!(matches!(error, ColumnError::Rows { expected: 4, got: 3 }), "{error}");
    }

    #[test]
    fn attributes_in_place_of_ids_are_named() {
        let error = decode_ids(encode(&attributes()).unwrap(), 3).unwrap_err();
        assert!(matches!(error, ColumnError::Content { .. }), "{error}");
    }

    /// The hash that the manifest has of a file is checked before this is called; here it must hold on its own.
    #[test]
    fn no_flipped_bit_and_no_truncation_makes_decoding_panic() {
        let mut files: Vec<Bytes> = id_columns().iter().map(|ids| encode_ids(ids).unwrap()).collect();
        files.push(encode(&attributes()).unwrap());
        for file in files {
            let mut bytes = file.to_vec();
            for at in 0..bytes.len() {
                for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                    bytes[at] ^= mask;
                    let _ = decode(Bytes::copy_from_slice(&bytes), 3);
                    bytes[at] ^= mask;
                }
                assert!(decode(file.slice(..at), 3).is_err(), "cut at {at}");
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

        /// Several fields at once, with the values that lengths and offsets go wrong at.
        #[test]
        fn no_several_changed_words_make_decoding_panic(
            which in 0usize..5,
            changes in proptest::collection::vec((0usize..400, 0usize..6), 1..5),
        ) {
            let ids = id_columns();
            let file = ids.get(which).map_or_else(|| encode(&attributes()), encode_ids).unwrap();
            let mut bytes = file.to_vec();
            for (word, value) in changes {
                // The metadata lies at the start and the end; the body, where all is well, between.
                let words = bytes.len() / 4;
                let at = 4 * if word % 2 == 0 { (word / 2) % words } else { words - 1 - (word / 2) % words };
                let value = [0, 1, 4096, i32::MAX, i32::MIN, -1][value];
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            let _ = decode(bytes.into(), 3);
        }
    }
}
