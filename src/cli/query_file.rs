//! `--vector FILE`: query vectors in whatever a user has them in. Refuses what is not finite, not rectangular or
//! empty; whether the dimension is the index's is for the index to say.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A query file is read whole.
const MAX_QUERY_FILE_BYTES: u64 = 256 << 20;

/// The content of a query file.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryFile {
    /// At least one vector; all of one length, at least 1, all finite.
    Vectors(Vec<Vec<f32>>),
    /// A Parquet file, told by its first bytes: reading it is `source`'s affair.
    Parquet(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum QueryFileError {
    #[error("cannot read `{file}`")]
    Read { file: String, source: std::io::Error },
    #[error("`{file}` is longer than {MAX_QUERY_FILE_BYTES} bytes")]
    TooLong { file: String },
    #[error(
        "`{file}`: {what}; expected a JSON list of numbers (or of such lists), numbers as text (one vector a line, or one number a line), .npy, or Parquet"
    )]
    Format { file: String, what: String },
}

impl QueryFile {
    /// Reads `path`, `-` for stdin. What it is, its content says, not its name:
    ///
    /// - Parquet and `.npy` (f2, f4, f8, one vector or one a row) by their first bytes;
    /// - `[…]`: JSON, one vector, or a list of them;
    /// - else text: numbers between blanks or commas, one vector per line; or, as `numpy.savetxt` writes a single
    ///   vector, one number per line.
    pub fn read(path: &Path) -> Result<Self, QueryFileError> {
        let file = path.display().to_string();
        let unreadable = |source| QueryFileError::Read { file: file.clone(), source };
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            std::io::stdin()
                .lock()
                .take(MAX_QUERY_FILE_BYTES + 1)
                .read_to_end(&mut bytes)
                .map_err(unreadable)?;
        } else {
            let mut opened = std::fs::File::open(path).map_err(unreadable)?;
            let mut magic = [0; 4];
            if opened.read(&mut magic).map_err(unreadable)? == 4 && &magic == b"PAR1" {
                return Ok(QueryFile::Parquet(path.into()));
            }
            let opened = std::fs::File::open(path).map_err(unreadable)?;
            opened.take(MAX_QUERY_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        }
        if bytes.len() as u64 > MAX_QUERY_FILE_BYTES {
            return Err(QueryFileError::TooLong { file });
        }
        let vectors = vectors(&bytes).map_err(|what| QueryFileError::Format { file, what })?;
        Ok(QueryFile::Vectors(vectors))
    }
}

/// What is wrong is said in words: the caller adds where.
fn vectors(bytes: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let vectors = if bytes.starts_with(b"\x93NUMPY") {
        npy(bytes)?
    } else {
        let text =
            std::str::from_utf8(bytes).map_err(|error| format!("byte {} is no text", error.valid_up_to()))?;
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.starts_with('[') { json(text)? } else { numbers(text)? }
    };
    let dim = vectors.first().map_or(0, Vec::len);
    if dim == 0 {
        return Err("no numbers found".into());
    }
    for (index, vector) in vectors.iter().enumerate() {
        if vector.len() != dim {
            let length = vector.len();
            return Err(format!("vector {index} has {length} numbers, those before it {dim}"));
        }
        if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
            return Err(format!("vector {index}, number {at} is not finite in f32"));
        }
    }
    Ok(vectors)
}

fn json(text: &str) -> Result<Vec<Vec<f32>>, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Json {
        One(Vec<f64>),
        Many(Vec<Vec<f64>>),
    }
    // Parsed twice where it fails, for serde's message of an untagged enum names no line.
    serde_json::from_str::<serde_json::Value>(text).map_err(|error| format!("not JSON: {error}"))?;
    let vectors =
        match serde_json::from_str(text).map_err(|_| "JSON that is no list of numbers".to_string())? {
            Json::One(vector) => vec![vector],
            Json::Many(vectors) => vectors,
        };
    Ok(vectors.into_iter().map(|vector| vector.into_iter().map(|value| value as f32).collect()).collect())
}

fn numbers(text: &str) -> Result<Vec<Vec<f32>>, String> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let parse = |word: &str| {
            let short: String = word.chars().take(20).filter(|c| !c.is_control()).collect();
            word.parse::<f32>().map_err(|_| format!("line {}: `{short}` is no number", index + 1))
        };
        let vector: Vec<f32> = words.map(parse).collect::<Result<_, _>>()?;
        if !vector.is_empty() {
            lines.push(vector);
        }
    }
    if lines.iter().all(|line| line.len() == 1) { Ok(vec![lines.concat()]) } else { Ok(lines) }
}

/// NumPy's format 1.0 to 3.0 (numpy.org/neps/nep-0001-npy-format.html): magic, version, header length, a Python
/// dictionary, values.
fn npy(bytes: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let cut_short = || "the .npy file is cut short".to_string();
    let major = *bytes.get(6).ok_or_else(cut_short)?;
    let (header_start, header_len) = match major {
        1 => (10, bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))),
        2 | 3 => (12, bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)),
        _ => return Err(format!(".npy of version {major}, expected 1, 2 or 3")),
    };
    let header_end = header_start + header_len.ok_or_else(cut_short)?;
    let header = bytes.get(header_start..header_end).ok_or_else(cut_short)?;
    let header = std::str::from_utf8(header).map_err(|_| "the .npy header is no text".to_string())?;
    let values = &bytes[header_end..];

    if npy_field(header, "fortran_order") != Some("False") {
        return Err("a .npy array in Fortran order; save it with numpy.ascontiguousarray".into());
    }
    let shape = npy_field(header, "shape").unwrap_or_default().trim_start_matches('(');
    let shape: Option<Vec<usize>> =
        shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect();
    let (rows, dim) = match shape.as_deref() {
        Some([dim]) => (1, *dim),
        Some([rows, dim]) => (*rows, *dim),
        _ => return Err("a .npy array that has neither one axis nor two".into()),
    };
    let decode: (usize, fn(&[u8]) -> f32) = match npy_field(header, "descr")
        .map(|d| d.trim_matches(['\'', '"']))
    {
        Some("<f2") => (2, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
        Some("<f4") => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Some("<f8") => (8, |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
        other => {
            return Err(format!(".npy values of type {}, expected <f2, <f4 or <f8", other.unwrap_or("?")));
        }
    };
    let (width, decode) = decode;
    if rows.checked_mul(dim).and_then(|n| n.checked_mul(width)) != Some(values.len()) || dim == 0 {
        return Err(format!("a .npy array of {rows} × {dim} with {} bytes of values", values.len()));
    }
    Ok(values.chunks_exact(dim * width).map(|row| row.chunks_exact(width).map(decode).collect()).collect())
}

/// The text of a value in the header's dictionary: up to the comma, for a tuple up to its end.
fn npy_field<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let (_, rest) = header.split_once(&format!("'{key}'"))?;
    let value = rest.trim_start().strip_prefix(':')?.trim_start();
    let end = if value.starts_with('(') { value.find(')')? } else { value.find([',', '}'])? };
    Some(value[..end].trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_vectors_in_every_format() {
        let two = vec![vec![1.0, -2.5, 3e-4], vec![0.0, 5.0, 6.0]];
        for text in [
            "[[1, -2.5, 3e-4], [0, 5, 6]]",
            "\u{feff} [[1,-2.5,0.0003],\n[0.0,5,6]]\n",
            "1 -2.5 3e-4\n\n0\t5  6\n",
            "1,-2.5,3e-4\r\n0, 5, 6",
        ] {
            assert_eq!(vectors(text.as_bytes()), Ok(two.clone()), "{text}");
        }
        for text in ["[1, -2.5, 3e-4]", "1 -2.5 3e-4", "1\n-2.5\n3e-4\n"] {
            assert_eq!(vectors(text.as_bytes()), Ok(two[..1].to_vec()), "{text}");
        }
    }

    fn npy_file(major: u8, header: &str, values: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY".to_vec();
        file.extend([major, 0]);
        match major {
            1 => file.extend((header.len() as u16).to_le_bytes()),
            _ => file.extend((header.len() as u32).to_le_bytes()),
        }
        file.extend(header.as_bytes());
        file.extend(values);
        file
    }

    #[test]
    fn npy_arrays_are_read_at_every_width() {
        let values = [1.0f32, -2.5, 0.5, 8.0];
        let f2: Vec<u8> = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
        let f4: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f8: Vec<u8> = values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
        for (major, descr, bytes) in [(1, "<f2", &f2), (2, "<f4", &f4), (3, "<f8", &f8)] {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 2), }}   \n");
            assert_eq!(vectors(&npy_file(major, &header, bytes)), Ok(vec![vec![1.0, -2.5], vec![0.5, 8.0]]));
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (4,), }}\n");
            assert_eq!(vectors(&npy_file(major, &header, bytes)), Ok(vec![values.to_vec()]));
        }
    }

    #[test]
    fn what_is_no_query_is_refused_with_a_reason() {
        let npy = |header: &str, bytes: usize| npy_file(1, header, &vec![0; bytes]);
        for (bytes, reason) in [
            (b"".to_vec(), "no numbers"),
            (b"[]".to_vec(), "no numbers"),
            (b"[[]]".to_vec(), "no numbers"),
            (b"[1, \"a\"]".to_vec(), "no list of numbers"),
            (b"[1, 2".to_vec(), "not JSON: EOF while parsing a list at line 1 column 5"),
            (b"[[1, 2], [3]]".to_vec(), "vector 1 has 1 numbers, those before it 2"),
            (b"1 2\n3 x".to_vec(), "line 2: `x` is no number"),
            (b"1 nan".to_vec(), "vector 0, number 1 is not finite"),
            (b"[1, 1e39]".to_vec(), "vector 0, number 1 is not finite"),
            (b"\xff\xfe".to_vec(), "byte 0 is no text"),
            (b"\x93NUMPY".to_vec(), "cut short"),
            (b"\x93NUMPY\x01\x00\xff\xff{}".to_vec(), "cut short"),
            (npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", 16), "Fortran order"),
            (npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", 8), "type <i4"),
            (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 9), "of 1 × 2 with 9 bytes"),
            (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4), "neither one axis nor two"),
            (
                npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999), }", 4),
                "with 4 bytes",
            ),
        ] {
            let error = vectors(&bytes).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn a_parquet_file_is_told_by_its_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queries.txt");
        std::fs::write(&path, b"PAR1....").unwrap();
        assert_eq!(QueryFile::read(&path).unwrap(), QueryFile::Parquet(path.clone()));
        std::fs::write(&path, b"1 2").unwrap();
        assert_eq!(QueryFile::read(&path).unwrap(), QueryFile::Vectors(vec![vec![1.0, 2.0]]));
        assert!(matches!(QueryFile::read(&folder.path().join("none")), Err(QueryFileError::Read { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), as_npy in any::<bool>()) {
            let mut file = if as_npy { b"\x93NUMPY\x01\x00".to_vec() } else { Vec::new() };
            file.extend(bytes);
            let _ = vectors(&file);
        }

        #[test]
        fn a_damaged_npy_file_never_panics(at in 0usize..100, byte in any::<u8>(), length in 0usize..120) {
            let mut file = npy_file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", &[0; 24]);
            let at = at.min(file.len() - 1);
            file[at] = byte;
            file.truncate(length);
            let _ = vectors(&file);
        }
    }
}
