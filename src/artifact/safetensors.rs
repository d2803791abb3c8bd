//! A section as a file: the safetensors container (<https://github.com/huggingface/safetensors>, its README is the
//! specification), so that Python opens it with `safetensors.numpy.load_file`. FORMAT.md has it byte by byte.
//!
//! Two things beyond the specification. Each tensor starts on 64 bytes, a cache line and the widest SIMD load, so that
//! a mapped file is used in place; the specification forbids holes between tensors, so the gaps are tensors too, of
//! zeroes, called `__pad_0__`, `__pad_1__`, …. And the metadata names the section and the container's version, so that
//! one file in another's place is noticed.
//!
//! Refuses whatever the encoder does not write: tensors out of order, overlapping, with gaps, unaligned; pads that are
//! not zero; bytes after the last tensor. Reads no more memory than the file has.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;

use bytes::Bytes;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::pages::Pages;
use super::tensor::{Dtype, Element, Section, Tensor, TensorError, parse_metadata};

/// Each tensor starts at a multiple of this, counted from the start of the file.
pub const TENSOR_ALIGNMENT: u64 = 64;
/// Sections have a handful of tensors: a longer header is none of ours.
pub const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Version of the container's conventions, `major.minor`.
pub const SECTION_FORMAT: &str = "1.0";
pub const SECTION_EXTENSION: &str = "safetensors";

const METADATA: &str = "__metadata__";
const NAME_KEY: &str = "annvil.section";
const FORMAT_KEY: &str = "annvil.format";
const PAD_PREFIX: &str = "__pad_";

/// A section file: its name and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct SectionBytes {
    /// `graph.safetensors`
    pub file_name: String,
    pub bytes: Bytes,
}

/// What is wrong with the bytes of a section file.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SectionError {
    #[error("file is cut short: expected at least {expected} bytes, got {got}")]
    TooShort { expected: u64, got: u64 },
    #[error("header length: expected at most {max} bytes, got {got}")]
    HeaderLength { max: u64, got: u64 },
    #[error("header is not the JSON that was expected: {what}")]
    Header { what: String },
    #[error("tensors start at byte {got}: expected a multiple of {TENSOR_ALIGNMENT}")]
    DataStart { got: u64 },
    #[error("tensor `{tensor}`: shape {shape:?} has more elements than can be counted")]
    ShapeOverflow { tensor: String, shape: Vec<u64> },
    #[error("tensor `{tensor}`: expected to start at {expected}, where the one before it ends, got {got}")]
    Start { tensor: String, expected: u64, got: u64 },
    #[error("tensor `{tensor}`: expected {expected} bytes, as its shape and type say, got {got}")]
    Length { tensor: String, expected: u64, got: u64 },
    #[error("tensor `{tensor}` starts at {got}: expected a multiple of {TENSOR_ALIGNMENT}")]
    Alignment { tensor: String, got: u64 },
    #[error("tensor `{tensor}`: expected to end within the file's {expected} bytes of data, got {got}")]
    OutOfBounds { tensor: String, expected: u64, got: u64 },
    #[error("padding `{tensor}`: expected fewer than {TENSOR_ALIGNMENT} zero bytes, got {got}")]
    Padding { tensor: String, got: String },
    #[error("expected the last tensor to end at byte {expected} of the data, where the file ends, got {got}")]
    Trailing { expected: u64, got: u64 },
    #[error("metadata `{key}`: expected {expected}, got {got}")]
    Metadata { key: &'static str, expected: String, got: String },
}

/// One tensor in the header's JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    /// From the first byte after the header.
    data_offsets: [u64; 2],
}

/// The header in the order of the file: a plain map would lose it, and would let the second of two entries with one
/// name replace the first.
#[derive(Debug, Default)]
struct Header {
    metadata: BTreeMap<String, String>,
    entries: Vec<(String, Entry)>,
}

/// The section's bytes. The same section always gives the same bytes.
///
/// # Panics
/// If two tensors share a name, or a tensor or a metadata key has one that is reserved for the container.
pub fn encode(section: &Section) -> SectionBytes {
    let header = header_of(section);
    let tensors = section.tensors.iter().map(|(_, tensor)| tensor.bytes.len());
    let data = tensors.fold(0, |end: usize, bytes| end.next_multiple_of(TENSOR_ALIGNMENT as usize) + bytes);
    // On a cache line, so that an index can be assembled from these bytes without copying them.
    let file = Pages::filled(8 + header.len() + data, |mut file| write_after(&header, section, &mut file));
    let file = file.expect("memory takes what is written");
    SectionBytes { file_name: section_file_name(&section.name), bytes: Bytes::from_owner(file) }
}

/// Writes what [`encode`] returns, with no copy of it in memory.
///
/// # Panics
/// As [`encode`].
pub fn write(section: &Section, out: &mut dyn io::Write) -> io::Result<()> {
    write_after(&header_of(section), section, out)
}

fn write_after(header: &[u8], section: &Section, out: &mut dyn io::Write) -> io::Result<()> {
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    let mut written = 0;
    for (_, tensor) in &section.tensors {
        // The data starts on a multiple of the alignment, so file positions align as data offsets do.
        let gap = u64::next_multiple_of(written, TENSOR_ALIGNMENT) - written;
        out.write_all(&[0; TENSOR_ALIGNMENT as usize][..gap as usize])?;
        out.write_all(&tensor.bytes)?;
        written += gap + tensor.bytes.len() as u64;
    }
    Ok(())
}

/// The header, filled up with spaces, without its length.
fn header_of(section: &Section) -> Vec<u8> {
    let mut names = HashSet::new();
    let mut entries = Vec::with_capacity(2 * section.tensors.len());
    let mut end = 0u64;
    for (name, tensor) in &section.tensors {
        assert!(names.insert(name.as_str()), "two tensors are called `{name}`");
        assert!(name != METADATA && !name.starts_with(PAD_PREFIX), "tensor name `{name}` is reserved");
        assert_eq!(
            tensor.bytes.len() as u64,
            byte_length(tensor.dtype, &tensor.shape).expect("it is in memory")
        );
        let gap = end.next_multiple_of(TENSOR_ALIGNMENT) - end;
        if gap > 0 {
            let pad = format!("{PAD_PREFIX}{}__", entries.len() + 1 - names.len());
            entries.push((pad, Entry { dtype: Dtype::U8, shape: vec![gap], data_offsets: [end, end + gap] }));
            end += gap;
        }
        let data_offsets = [end, end + tensor.bytes.len() as u64];
        entries
            .push((name.clone(), Entry { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets }));
        end = data_offsets[1];
    }
    let mut metadata = section.metadata.clone();
    for (key, value) in [(NAME_KEY, section.name.as_str()), (FORMAT_KEY, SECTION_FORMAT)] {
        assert!(metadata.insert(key.into(), value.into()).is_none(), "metadata key `{key}` is reserved");
    }

    let mut header = serde_json::to_vec(&Header { metadata, entries }).expect("strings and integers");
    header.resize((8 + header.len()).next_multiple_of(TENSOR_ALIGNMENT as usize) - 8, b' ');
    assert!(header.len() as u64 <= MAX_HEADER_BYTES, "section `{}` has too many tensors", section.name);
    header
}

pub fn section_file_name(section: &str) -> String {
    format!("{section}.{SECTION_EXTENSION}")
}

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Counted from the file's first byte.
    pub bytes: Range<u64>,
}

/// A section without its tensors' bytes: what the header says of them, for whoever reads them by range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionHead {
    /// File stem, as [`Section::name`].
    pub name: String,
    /// In file order.
    pub tensors: Vec<(String, TensorPlace)>,
    pub metadata: BTreeMap<String, String>,
}

/// The section called `name` from its file's bytes, which its tensors share.
pub fn decode(name: &str, file: Bytes) -> Result<Section, SectionError> {
    let head = decode_head(name, &file, file.len() as u64)?;
    let mut tensors = Vec::with_capacity(head.tensors.len());
    for (tensor, TensorPlace { dtype, shape, bytes }) in head.tensors {
        let bytes = file.slice(bytes.start as usize..bytes.end as usize);
        if tensor.starts_with(PAD_PREFIX) {
            check_zeroes(tensor, &bytes)?;
        } else {
            tensors.push((tensor, Tensor { dtype, shape, bytes }));
        }
    }
    Ok(Section { name: head.name, tensors, metadata: head.metadata })
}

/// Where the tensors lie in the file of the section called `name`, from its first bytes; `file_size` is the whole file's.
/// What pads between tensors is among them.
///
/// # Errors
/// As [`decode`], but for what padding consists of. [`SectionError::TooShort`] says how many bytes hold the header.
pub fn decode_head(name: &str, start: &[u8], file_size: u64) -> Result<SectionHead, SectionError> {
    let data_start = head_length(start, file_size)?;
    if (start.len() as u64) < data_start {
        return Err(SectionError::TooShort { expected: data_start, got: start.len() as u64 });
    }
    let Header { mut metadata, entries } = serde_json::from_slice(&start[8..data_start as usize])
        .map_err(|error| SectionError::Header { what: error.to_string() })?;
    check_metadata(&mut metadata, name)?;
    let tensors = place_tensors(entries, data_start, file_size)?;
    Ok(SectionHead { name: name.into(), tensors, metadata })
}

/// How many bytes from the start of a section's file hold its header.
pub fn head_length(start: &[u8], file_size: u64) -> Result<u64, SectionError> {
    let Some(length) = start.first_chunk().copied().map(u64::from_le_bytes) else {
        return Err(SectionError::TooShort { expected: 8, got: start.len() as u64 });
    };
    if length > MAX_HEADER_BYTES {
        return Err(SectionError::HeaderLength { max: MAX_HEADER_BYTES, got: length });
    }
    let data_start = 8 + length;
    if file_size < data_start {
        return Err(SectionError::TooShort { expected: data_start, got: file_size });
    }
    if !data_start.is_multiple_of(TENSOR_ALIGNMENT) {
        return Err(SectionError::DataStart { got: data_start });
    }
    Ok(data_start)
}

/// Takes out what the container added, and checks it.
fn check_metadata(metadata: &mut BTreeMap<String, String>, name: &str) -> Result<(), SectionError> {
    let mut take = |key| metadata.remove(key).unwrap_or_else(|| "nothing".into());
    let format = take(FORMAT_KEY);
    if format.split('.').next() != SECTION_FORMAT.split('.').next() {
        let expected = format!("a version compatible with {SECTION_FORMAT}");
        return Err(SectionError::Metadata { key: FORMAT_KEY, expected, got: format });
    }
    let got = take(NAME_KEY);
    if got != name {
        return Err(SectionError::Metadata { key: NAME_KEY, expected: name.into(), got });
    }
    Ok(())
}

/// The entries of a file of `file_size` bytes whose data start at `data_start`.
fn place_tensors(
    entries: Vec<(String, Entry)>,
    data_start: u64,
    file_size: u64,
) -> Result<Vec<(String, TensorPlace)>, SectionError> {
    let size = file_size - data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut end = 0;
    for (name, Entry { dtype, shape, data_offsets: [from, to] }) in entries {
        if from != end {
            return Err(SectionError::Start { tensor: name, expected: end, got: from });
        }
        let Some(expected) = byte_length(dtype, &shape) else {
            return Err(SectionError::ShapeOverflow { tensor: name, shape });
        };
        if to.checked_sub(from) != Some(expected) {
            let got = to.saturating_sub(from);
            return Err(SectionError::Length { tensor: name, expected, got });
        }
        if to > size {
            return Err(SectionError::OutOfBounds { tensor: name, expected: size, got: to });
        }
        end = to;
        if name.starts_with(PAD_PREFIX) {
            if dtype != Dtype::U8 || expected >= TENSOR_ALIGNMENT {
                let got = format!("{expected} bytes of {dtype:?}");
                return Err(SectionError::Padding { tensor: name, got });
            }
        } else if !from.is_multiple_of(TENSOR_ALIGNMENT) {
            return Err(SectionError::Alignment { tensor: name, got: from });
        }
        tensors.push((name, TensorPlace { dtype, shape, bytes: data_start + from..data_start + to }));
    }
    if end != size {
        return Err(SectionError::Trailing { expected: size, got: end });
    }
    Ok(tensors)
}

fn check_zeroes(tensor: String, padding: &[u8]) -> Result<(), SectionError> {
    match padding.iter().find(|&&byte| byte != 0) {
        Some(byte) => Err(SectionError::Padding { tensor, got: format!("the byte {byte:#04x}") }),
        None => Ok(()),
    }
}

fn byte_length(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(dtype.size_bytes() as u64, |bytes, &axis| bytes.checked_mul(axis))
}

impl SectionHead {
    /// The tensor `name`, which must have type `T` and exactly this shape.
    ///
    /// # Errors
    /// As [`Section::array`].
    pub fn place<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Range<u64>, TensorError> {
        let place = self.tensor(name)?;
        if place.dtype != T::DTYPE {
            return Err(TensorError::Dtype { tensor: name.into(), expected: T::DTYPE, got: place.dtype });
        }
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        if place.shape != expected {
            return Err(TensorError::Shape { tensor: name.into(), expected, got: place.shape.clone() });
        }
        Ok(place.bytes.clone())
    }

    pub fn tensor(&self, name: &str) -> Result<&TensorPlace, TensorError> {
        let found = self.tensors.iter().find_map(|(other, place)| (other == name).then_some(place));
        found.ok_or_else(|| TensorError::Missing { section: self.name.clone(), tensor: name.into() })
    }

    /// The metadata value `key`, parsed.
    pub fn metadata<V>(&self, key: &str) -> Result<V, TensorError>
    where
        V: FromStr,
        V::Err: fmt::Display,
    {
        parse_metadata(&self.name, &self.metadata, key)
    }
}

impl Serialize for Header {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(1 + self.entries.len()))?;
        map.serialize_entry(METADATA, &self.metadata)?;
        for (name, entry) in &self.entries {
            map.serialize_entry(name, entry)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` appears twice")));
                    }
                    if name == METADATA {
                        header.metadata = map.next_value()?;
                    } else {
                        let entry = map
                            .next_value()
                            .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                        header.entries.push((name, entry));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::artifact::{Array, TensorError};

    fn section() -> Section {
        Section::new("graph")
            .with("links", &Array::from_vec((0..6u32).collect()), &[2, 3])
            .with("levels", &Array::from_vec(vec![1u8, 0, 3]), &[3])
            .with("empty", &Array::from_vec(Vec::<f32>::new()), &[0, 7])
            .with("vectors", &Array::from_vec(vec![0.5f32, -1.0, f32::NAN, 3.0]), &[2, 2])
            .with_metadata("entry_point", 1)
    }

    /// A file with this header, as JSON, and this many zero bytes of data.
    fn file(header: &str, data: usize) -> Bytes {
        let length = (8 + header.len()).next_multiple_of(64) - 8;
        let mut file = (length as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(8 + length, b' ');
        file.resize(8 + length + data, 0);
        file.into()
    }

    /// A file whose header has the right metadata and these tensors.
    fn tensors(entries: &str, data: usize) -> Bytes {
        let metadata = r#""__metadata__":{"annvil.section":"s","annvil.format":"1.0"}"#;
        file(&format!("{{{metadata}{}{entries}}}", if entries.is_empty() { "" } else { "," }), data)
    }

    fn refused(file: Bytes) -> SectionError {
        decode("s", file).expect_err("a hostile file")
    }

    #[test]
    fn a_section_reads_back_as_it_was_with_every_tensor_on_64_bytes() {
        let encoded = encode(&section());
        assert_eq!(encoded.file_name, "graph.safetensors");
        let decoded = decode("graph", encoded.bytes.clone()).unwrap();
        let start = encoded.bytes.as_ptr() as usize;
        for ((name, tensor), (written, original)) in decoded.tensors.iter().zip(&section().tensors) {
            assert_eq!((name, tensor), (written, original));
            assert_eq!((tensor.bytes.as_ptr() as usize - start) % 64, 0, "{name}");
        }
        assert_eq!(decoded.metadata, section().metadata);
        assert_eq!(encode(&section()), encoded);
    }

    #[test]
    fn the_safetensors_library_reads_what_we_write() {
        let encoded = encode(&section());
        let theirs = ::safetensors::SafeTensors::deserialize(&encoded.bytes).unwrap();
        let links = theirs.tensor("links").unwrap();
        assert_eq!((links.dtype(), links.shape()), (::safetensors::Dtype::U32, &[2, 3][..]));
        assert_eq!(links.data(), bytemuck::cast_slice::<u32, u8>(&[0, 1, 2, 3, 4, 5]));
        let (_, header) = ::safetensors::SafeTensors::read_metadata(&encoded.bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["entry_point"], "1");
    }

    #[test]
    fn another_section_in_its_place_is_named() {
        let error = decode("vectors", encode(&section()).bytes).unwrap_err();
        let expected =
            SectionError::Metadata { key: NAME_KEY, expected: "vectors".into(), got: "graph".into() };
        assert_eq!(error, expected);
    }

    #[test]
    fn a_newer_major_is_refused_and_a_newer_minor_is_read() {
        let with_format =
            |format: &str| file(&tensors_header("").replace("\"1.0\"", &format!("\"{format}\"")), 0);
        fn tensors_header(entries: &str) -> String {
            format!(r#"{{"__metadata__":{{"annvil.section":"s","annvil.format":"1.0"}}{entries}}}"#)
        }
        assert!(decode("s", with_format("1.9")).is_ok());
        for format in ["2.0", "", "10.0", "x"] {
            assert!(matches!(refused(with_format(format)), SectionError::Metadata { key: FORMAT_KEY, .. }));
        }
        assert!(matches!(refused(file("{}", 0)), SectionError::Metadata { got, .. } if got == "nothing"));
    }

    #[test]
    fn hostile_lengths_are_named() {
        let of = |bytes: &[u8]| refused(Bytes::copy_from_slice(bytes));
        assert_eq!(of(b""), SectionError::TooShort { expected: 8, got: 0 });
        assert_eq!(of(&[0; 7]), SectionError::TooShort { expected: 8, got: 7 });
        assert_eq!(
            of(&u64::MAX.to_le_bytes()),
            SectionError::HeaderLength { max: MAX_HEADER_BYTES, got: u64::MAX }
        );
        assert_eq!(
            of(&MAX_HEADER_BYTES.to_le_bytes()),
            SectionError::TooShort { expected: MAX_HEADER_BYTES + 8, got: 8 }
        );
        assert_eq!(of(&[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']), SectionError::DataStart { got: 10 });
    }

    #[test]
    fn hostile_headers_are_named() {
        for header in [
            "",
            "nonsense",
            "[]",
            "{} {}",
            "{\"t\":3}",
            "{\"\u{0}\":3}",
            r#"{"__metadata__":{"a":1}}"#,
            r#"{"__metadata__":{},"__metadata__":{}}"#,
            r#"{"t":{"dtype":"F65","shape":[],"data_offsets":[0,0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[1e300],"data_offsets":[0,0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":1}}"#,
            r#"{"t":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            r#"{"t":{"dtype":"U8","data_offsets":[0,0]}}"#,
            r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            &format!("{{\"t\":{}", "[".repeat(500_000)),
            &format!("{{\"t\":{}", "{\"t\":".repeat(100_000)),
        ] {
            let error = refused(file(header, 0));
            let shown: String = header.chars().take(80).collect();
            assert!(matches!(error, SectionError::Header { .. }), "{shown}: {error}");
        }
        let mut not_utf8 = file(r#"{"tt":3}"#, 0).to_vec();
        not_utf8[10] = 0xff;
        assert!(matches!(refused(not_utf8.into()), SectionError::Header { .. }));
    }

    #[test]
    fn hostile_offsets_are_named() {
        let tensor = |name: &str, length: u64, from: u64, to: u64| {
            format!(r#""{name}":{{"dtype":"U8","shape":[{length}],"data_offsets":[{from},{to}]}}"#)
        };
        let two = |a: String, b: String| format!("{a},{b}");
        assert!(matches!(refused(tensors(&tensor("t", 4, 1, 5), 5)), SectionError::Start { .. }));
        assert!(matches!(refused(tensors(&tensor("t", 4, 0, 3), 4)), SectionError::Length { .. }));
        assert!(matches!(refused(tensors(&tensor("t", 4, 0, 4), 3)), SectionError::OutOfBounds { .. }));
        assert!(matches!(refused(tensors(&tensor("t", 4, 0, 4), 5)), SectionError::Trailing { .. }));
        assert!(matches!(refused(tensors("", 1)), SectionError::Trailing { .. }));
        let huge = tensor("t", u64::MAX, 0, u64::MAX);
        assert!(matches!(refused(tensors(&huge, 5)), SectionError::OutOfBounds { .. }));
        let backwards = two(tensor("a", 64, 0, 64), tensor("b", 0, 64, 0));
        assert!(matches!(refused(tensors(&backwards, 64)), SectionError::Length { .. }));
        let overlapping = two(tensor("a", 64, 0, 64), tensor("b", 64, 0, 64));
        assert!(matches!(refused(tensors(&overlapping, 64)), SectionError::Start { .. }));
        let unaligned = two(tensor("a", 4, 0, 4), tensor("b", 4, 4, 8));
        assert!(matches!(refused(tensors(&unaligned, 8)), SectionError::Alignment { .. }));
        let long_pad = two(tensor("__pad_0__", 64, 0, 64), tensor("b", 4, 64, 68));
        assert!(matches!(refused(tensors(&long_pad, 68)), SectionError::Padding { .. }));
        let overflowing = r#""t":{"dtype":"U64","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#;
        assert!(matches!(refused(tensors(overflowing, 0)), SectionError::ShapeOverflow { .. }));
        let mut pad_not_zero = tensors(&tensor("__pad_0__", 3, 0, 3), 3).to_vec();
        *pad_not_zero.last_mut().unwrap() = 1;
        assert!(matches!(refused(pad_not_zero.into()), SectionError::Padding { .. }));
    }

    fn any_section() -> impl Strategy<Value = Section> {
        let name = "[a-z\"\\\\é]{1,8}";
        let tensor = (name, prop::collection::vec(0usize..5, 0..4), 0..5u8);
        let tensors = prop::collection::vec(tensor, 0..8);
        (tensors, prop::collection::btree_map(name, ".{0,8}", 0..4)).prop_map(|(tensors, metadata)| {
            let mut section = Section::new("s");
            section.metadata = metadata;
            for (name, shape, dtype) in tensors {
                if section.tensor(&name).is_ok() {
                    continue;
                }
                let count = shape.iter().product::<usize>();
                let numbers = 0..count as u32;
                section = match dtype {
                    0 => section.with(&name, &Array::from_vec(numbers.map(|n| n as u8).collect()), &shape),
                    1 => section.with(
                        &name,
                        &Array::from_vec(numbers.map(|n| half::f16::from_f32(n as f32)).collect()),
                        &shape,
                    ),
                    2 => section.with(&name, &Array::from_vec(numbers.map(|n| n as f32).collect()), &shape),
                    3 => section.with(&name, &Array::from_vec(numbers.map(u64::from).collect()), &shape),
                    _ => section.with(&name, &Array::from_vec(numbers.collect()), &shape),
                };
            }
            section
        })
    }

    proptest! {
        #[test]
        fn any_section_round_trips_and_the_safetensors_library_agrees(section in any_section()) {
            let encoded = encode(&section);
            prop_assert_eq!(&decode("s", encoded.bytes.clone()).unwrap(), &section);
            let theirs = ::safetensors::SafeTensors::deserialize(&encoded.bytes).unwrap();
            for (name, tensor) in &section.tensors {
                prop_assert_eq!(theirs.tensor(name).unwrap().data(), &tensor.bytes[..]);
            }
        }

        #[test]
        fn any_header_is_read_or_refused_without_panic(
            header in r#"(\{|\}|\[|\]|:|,|"t"|"__metadata__"|"dtype"|"U8"|"shape"|"data_offsets"|[0-9]{1,20}| ){0,40}"#,
            data in 0usize..100,
        ) {
            let _ = decode("s", file(&header, data));
        }
    }

    #[test]
    fn a_tensor_asked_for_by_another_type_is_named_after_decoding_too() {
        let decoded = decode("graph", encode(&section()).bytes).unwrap();
        assert!(matches!(decoded.array::<f32>("links", &[2, 3]), Err(TensorError::Dtype { .. })));
    }
}
