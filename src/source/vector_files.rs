//! Query sets in the files that benchmarks hand around: texmex' `.fvecs`, `.bvecs` and `.ivecs`, big-ann's `.fbin`,
//! `.u8bin`, `.i8bin` and `.ibin`, NumPy's `.npy`, and ann-benchmarks' HDF5. Refuses what is cut short, ragged, empty,
//! not finite, or larger than this reads.

use std::path::Path;

use hdf5_pure::{DType, Dataset, File};

use super::MAX_DIM;
use crate::vectors::VectorBuf;

/// A file is read whole.
const MAX_VECTOR_FILE_BYTES: u64 = 16 << 30;

/// Values of one dataset of an HDF5 file, whose compressed form may be far smaller.
const MAX_VALUES: u64 = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub enum VectorFileError {
    #[error("cannot read `{file}`")]
    Read { file: String, source: std::io::Error },
    #[error("`{file}` is longer than {MAX_VECTOR_FILE_BYTES} bytes")]
    TooLong { file: String },
    #[error("`{file}`: {what}")]
    Format { file: String, what: String },
}

/// Which of the formats a file is in: HDF5 and NumPy by their first bytes, the others, which have none, by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorFormat {
    /// Each row with its dimension before it.
    Fvecs,
    Bvecs,
    Ivecs,
    /// Rows and dimension, then values.
    Fbin,
    U8bin,
    I8bin,
    Ibin,
    Npy,
    Hdf5,
}

/// Rows of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Table<T> {
    pub values: Vec<T>,
    pub width: usize,
}

impl<T> Table<T> {
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }
}

/// What ann-benchmarks puts into a file; queries and one thing more, or queries alone.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorFile {
    pub queries: VectorBuf,
    /// For each query the row numbers of its nearest, nearest first.
    pub neighbors: Option<Table<i64>>,
}

impl VectorFormat {
    /// `None` for Parquet, JSON, text and whatever else.
    pub fn of(path: &Path) -> std::io::Result<Option<Self>> {
        use std::io::Read;
        let mut magic = Vec::new();
        std::fs::File::open(path)?.take(8).read_to_end(&mut magic)?;
        if magic == b"\x89HDF\r\n\x1a\n" {
            return Ok(Some(VectorFormat::Hdf5));
        }
        if magic.starts_with(b"\x93NUMPY") {
            return Ok(Some(VectorFormat::Npy));
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        Ok(match extension.to_ascii_lowercase().as_str() {
            "fvecs" => Some(VectorFormat::Fvecs),
            "bvecs" => Some(VectorFormat::Bvecs),
            "ivecs" => Some(VectorFormat::Ivecs),
            "fbin" => Some(VectorFormat::Fbin),
            "u8bin" => Some(VectorFormat::U8bin),
            "i8bin" => Some(VectorFormat::I8bin),
            "ibin" => Some(VectorFormat::Ibin),
            _ => None,
        })
    }
}

/// Queries, and in HDF5 (`test`) the ground truth that stands beside them (`neighbors`).
pub fn read_vector_file(path: &Path, format: VectorFormat) -> Result<VectorFile, VectorFileError> {
    let wrong = |what| VectorFileError::Format { file: path.display().to_string(), what };
    let alone = |queries| VectorFile { queries, neighbors: None };
    match format {
        VectorFormat::Hdf5 => guarded(|| hdf5(path)).map_err(wrong),
        VectorFormat::Ivecs | VectorFormat::Ibin => Err(wrong("row numbers, expected vectors".into())),
        _ => floats(&bytes_of(path)?, format).and_then(vectors).map(alone).map_err(wrong),
    }
}

/// Vectors as they stand, finite or not: what is to be judged row by row.
pub(super) fn read_raw_vectors(path: &Path, format: VectorFormat) -> Result<Table<f32>, VectorFileError> {
    let wrong = |what| VectorFileError::Format { file: path.display().to_string(), what };
    floats(&bytes_of(path)?, format).map_err(wrong)
}

/// The rows of an HDF5 file (`train`), which its `neighbors` number.
pub fn read_hdf5_base(path: &Path) -> Result<VectorBuf, VectorFileError> {
    let wrong = |what| VectorFileError::Format { file: path.display().to_string(), what };
    guarded(|| {
        let file = File::open_streaming(path).map_err(|error| error.to_string())?;
        vectors(table_of(&file, "train", floats_of)?)
    })
    .map_err(wrong)
}

/// Row numbers of exact neighbours, a row per query: `.ivecs`, `.ibin` (big-ann's, whose distances follow, too), `.npy`
/// of integers, or an HDF5 file's `neighbors`.
pub fn read_neighbor_file(path: &Path, format: VectorFormat) -> Result<Table<i64>, VectorFileError> {
    let wrong = |what| VectorFileError::Format { file: path.display().to_string(), what };
    match format {
        VectorFormat::Hdf5 => guarded(|| {
            let file = File::open_streaming(path).map_err(|error| error.to_string())?;
            table_of(&file, "neighbors", integers_of)
        })
        .map_err(wrong),
        _ => integers(&bytes_of(path)?, format).map_err(wrong),
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, VectorFileError> {
    let file = path.display().to_string();
    let unreadable = |source| VectorFileError::Read { file: file.clone(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_VECTOR_FILE_BYTES {
        return Err(VectorFileError::TooLong { file });
    }
    std::fs::read(path).map_err(unreadable)
}

fn vectors(table: Table<f32>) -> Result<VectorBuf, String> {
    if let Some(at) = table.values.iter().position(|value| !value.is_finite()) {
        let (row, dimension) = (at / table.width, at % table.width);
        return Err(format!("vector {row}, dimension {dimension} is not finite in f32"));
    }
    Ok(VectorBuf::new(table.values, table.width))
}

fn table<T>(values: Vec<T>, width: usize) -> Result<Table<T>, String> {
    if width == 0 || width > MAX_DIM {
        return Err(format!("rows of {width} values, expected 1 to {MAX_DIM}"));
    }
    if values.is_empty() || !values.len().is_multiple_of(width) {
        return Err(format!(
            "{} values, expected a whole number of rows of {width}, at least one",
            values.len()
        ));
    }
    Ok(Table { values, width })
}

fn floats(bytes: &[u8], format: VectorFormat) -> Result<Table<f32>, String> {
    let f32_of = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    match format {
        VectorFormat::Fvecs => prefixed(bytes, 4, f32_of),
        VectorFormat::Bvecs => prefixed(bytes, 1, |b| f32::from(b[0])),
        VectorFormat::Fbin => headed(bytes, 4, false, f32_of),
        VectorFormat::U8bin => headed(bytes, 1, false, |b| f32::from(b[0])),
        VectorFormat::I8bin => headed(bytes, 1, false, |b| f32::from(b[0] as i8)),
        VectorFormat::Npy => npy(
            bytes,
            &[
                ("<f4", 4, &f32_of),
                ("<f8", 8, &|b| f64::from_le_bytes(b.try_into().expect("eight bytes")) as f32),
                ("<f2", 2, &|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
                ("|u1", 1, &|b| f32::from(b[0])),
                ("|i1", 1, &|b| f32::from(b[0] as i8)),
            ],
        ),
        VectorFormat::Ivecs | VectorFormat::Ibin | VectorFormat::Hdf5 => Err("not a file of vectors".into()),
    }
}

fn integers(bytes: &[u8], format: VectorFormat) -> Result<Table<i64>, String> {
    let i32_of = |b: &[u8]| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let i64_of = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
    match format {
        VectorFormat::Ivecs => prefixed(bytes, 4, i32_of),
        VectorFormat::Ibin => headed(bytes, 4, true, i32_of),
        VectorFormat::Npy => npy(
            bytes,
            &[
                ("<i4", 4, &i32_of),
                ("<u4", 4, &|b| i64::from(i32_of(b) as u32)),
                ("<i8", 8, &i64_of),
                ("<u8", 8, &i64_of),
            ],
        ),
        _ => Err("vectors, expected row numbers: .ivecs, .ibin, .npy of integers, HDF5 or Parquet".into()),
    }
}

/// texmex: a row is its width (i32) and its values.
fn prefixed<T>(bytes: &[u8], size: usize, value: impl Fn(&[u8]) -> T) -> Result<Table<T>, String> {
    let width_at = |at: usize| -> Result<usize, String> {
        let head = bytes.get(at..at + 4).ok_or_else(|| format!("cut short at byte {}", bytes.len()))?;
        usize::try_from(i32::from_le_bytes([head[0], head[1], head[2], head[3]]))
            .map_err(|_| format!("a width below 0 at byte {at}"))
    };
    let width = width_at(0)?;
    if width == 0 || width > MAX_DIM {
        return Err(format!("rows of {width} values, expected 1 to {MAX_DIM}"));
    }
    let stride = 4 + width * size;
    let mut values = Vec::with_capacity(bytes.len() / stride * width);
    for at in (0..bytes.len()).step_by(stride) {
        let got = width_at(at)?;
        if got != width {
            return Err(format!("row {} has {got} values, those before it {width}", at / stride));
        }
        let row =
            bytes.get(at + 4..at + stride).ok_or_else(|| format!("row {} is cut short", at / stride))?;
        values.extend(row.chunks_exact(size).map(&value));
    }
    table(values, width)
}

/// big-ann: rows and width (u32 each), then values; after those of a ground truth as many distances of 4 bytes.
fn headed<T>(
    bytes: &[u8],
    size: usize,
    may_go_on: bool,
    value: impl Fn(&[u8]) -> T,
) -> Result<Table<T>, String> {
    let number = |at: usize| {
        let head = bytes.get(at..at + 4).ok_or("cut short in its header")?;
        Ok::<usize, String>(u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize)
    };
    let (rows, width) = (number(0)?, number(4)?);
    let expected = rows.checked_mul(width).and_then(|values| values.checked_mul(size));
    let got = bytes.len() - 8;
    match expected {
        Some(expected) if got == expected || may_go_on && got == 2 * expected => {
            table(bytes[8..8 + expected].chunks_exact(size).map(value).collect(), width)
        }
        _ => Err(format!("{got} bytes of values, expected those of {rows} × {width} at {size} bytes")),
    }
}

type Decode<'a, T> = &'a dyn Fn(&[u8]) -> T;

/// NumPy's format 1.0 to 3.0 (numpy.org/neps/nep-0001-npy-format.html), two axes, C order.
fn npy<T>(bytes: &[u8], types: &[(&str, usize, Decode<'_, T>)]) -> Result<Table<T>, String> {
    let cut_short = || "the .npy file is cut short".to_string();
    let version = *bytes.get(6).ok_or_else(cut_short)?;
    let (start, len) = match version {
        1 => (10, bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))),
        2 | 3 => (12, bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)),
        _ => return Err(format!(".npy of version {version}, expected 1, 2 or 3")),
    };
    let end = start + len.ok_or_else(cut_short)?;
    let header = std::str::from_utf8(bytes.get(start..end).ok_or_else(cut_short)?);
    let header = header.map_err(|_| "the .npy header is no text".to_string())?;
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([' ', ':']));
    if after("'fortran_order'").is_some_and(|rest| rest.starts_with("True")) {
        return Err("an array in Fortran order, expected C order".into());
    }
    let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
    let Some((_, size, decode)) = types.iter().find(|(name, ..)| *name == descr) else {
        let known: Vec<&str> = types.iter().map(|(name, ..)| *name).collect();
        return Err(format!("an array of type `{descr}`, expected {}", known.join(", ")));
    };
    let shape = after("'shape'").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let shape = shape.map(|(axes, _)| axes.split(',').filter_map(|axis| axis.trim().parse().ok()).collect());
    let shape: Vec<usize> = shape.unwrap_or_default();
    let &[rows, width] = &shape[..] else {
        return Err(format!("an array of {} axes, expected 2", shape.len()));
    };
    let expected = rows.checked_mul(width).and_then(|values| values.checked_mul(*size));
    if expected != Some(bytes.len() - end) {
        return Err(format!("{rows} × {width} values of {size} bytes, got {} bytes", bytes.len() - end));
    }
    table(bytes[end..].chunks_exact(*size).map(decode).collect(), width)
}

/// The reader's faults on a file that was damaged are the file's.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    caught.unwrap_or_else(|_| Err("the HDF5 file is damaged".into()))
}

fn hdf5(path: &Path) -> Result<VectorFile, String> {
    let file = File::open_streaming(path).map_err(|error| error.to_string())?;
    let root = file.root();
    let names = root.datasets().map_err(|error| error.to_string())?;
    if !names.iter().any(|name| name == "test") {
        return Err(format!(
            "no dataset `test`, expected one as ann-benchmarks has it; there are: {}",
            names.join(", ")
        ));
    }
    let queries = vectors(table_of(&file, "test", floats_of)?)?;
    let neighbors = names.iter().any(|name| name == "neighbors");
    let neighbors = neighbors.then(|| table_of(&file, "neighbors", integers_of)).transpose()?;
    if let Some(neighbors) = &neighbors
        && neighbors.rows() != queries.rows()
    {
        return Err(format!("{} queries and {} rows of neighbors", queries.rows(), neighbors.rows()));
    }
    Ok(VectorFile { queries, neighbors })
}

fn table_of<T>(
    file: &File,
    name: &str,
    values: impl Fn(&Dataset, &DType) -> Result<Vec<T>, String>,
) -> Result<Table<T>, String> {
    let text = |error: hdf5_pure::Error| format!("dataset `{name}`: {error}");
    let dataset = file.dataset(name).map_err(text)?;
    let shape = dataset.shape().map_err(text)?;
    let &[rows, width] = &shape[..] else {
        return Err(format!("dataset `{name}` has {} axes, expected 2", shape.len()));
    };
    if rows.saturating_mul(width) > MAX_VALUES {
        return Err(format!("dataset `{name}` is {rows} × {width}, expected at most {MAX_VALUES} values"));
    }
    let dtype = dataset.dtype().map_err(text)?;
    let values = values(&dataset, &dtype).map_err(|what| format!("dataset `{name}`: {what}"))?;
    table(values, width as usize).map_err(|what| format!("dataset `{name}`: {what}"))
}

fn floats_of(dataset: &Dataset, dtype: &DType) -> Result<Vec<f32>, String> {
    let text = |error: hdf5_pure::Error| error.to_string();
    match dtype {
        DType::F32 => dataset.read_f32().map_err(text),
        DType::F64 => Ok(dataset.read_f64().map_err(text)?.into_iter().map(|value| value as f32).collect()),
        other => Err(format!("values of type {other}, expected f32 or f64")),
    }
}

fn integers_of(dataset: &Dataset, dtype: &DType) -> Result<Vec<i64>, String> {
    let text = |error: hdf5_pure::Error| error.to_string();
    match dtype {
        DType::I32 => Ok(dataset.read_i32().map_err(text)?.into_iter().map(i64::from).collect()),
        DType::I64 => dataset.read_i64().map_err(text),
        other => Err(format!("values of type {other}, expected i32 or i64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texmex<const N: usize>(rows: &[Vec<[u8; N]>]) -> Vec<u8> {
        rows.iter()
            .flat_map(|row| {
                let width = (row.len() as i32).to_le_bytes();
                width.into_iter().chain(row.concat())
            })
            .collect()
    }

    fn big_ann(rows: u32, width: u32, values: &[u8]) -> Vec<u8> {
        [&rows.to_le_bytes()[..], &width.to_le_bytes(), values].concat()
    }

    fn npy_file(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(values);
        file
    }

    #[test]
    fn every_format_gives_the_same_vectors() {
        let values = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let f4: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let u1: Vec<u8> = values.iter().map(|&value| value as u8).collect();
        let rows4: Vec<Vec<[u8; 4]>> =
            values.chunks(3).map(|row| row.iter().map(|v| v.to_le_bytes()).collect()).collect();
        let rows1: Vec<Vec<[u8; 1]>> =
            values.chunks(3).map(|row| row.iter().map(|&v| [v as u8]).collect()).collect();
        let expected = Ok(Table { values: values.to_vec(), width: 3 });
        for (format, bytes) in [
            (VectorFormat::Fvecs, texmex(&rows4)),
            (VectorFormat::Bvecs, texmex(&rows1)),
            (VectorFormat::Fbin, big_ann(2, 3, &f4)),
            (VectorFormat::U8bin, big_ann(2, 3, &u1)),
            (VectorFormat::I8bin, big_ann(2, 3, &u1)),
            (VectorFormat::Npy, npy_file("<f4", "(2, 3)", &f4)),
            (VectorFormat::Npy, npy_file("|u1", "(2, 3)", &u1)),
        ] {
            assert_eq!(floats(&bytes, format), expected, "{format:?}");
        }
        let i4: Vec<u8> = [7i32, 8, 9, 1].iter().flat_map(|value| value.to_le_bytes()).collect();
        let rows: Vec<Vec<[u8; 4]>> =
            [[7i32, 8], [9, 1]].iter().map(|r| r.iter().map(|v| v.to_le_bytes()).collect()).collect();
        let with_distances = [big_ann(2, 2, &i4), i4.clone()].concat();
        for (format, bytes) in [
            (VectorFormat::Ivecs, texmex(&rows)),
            (VectorFormat::Ibin, big_ann(2, 2, &i4)),
            (VectorFormat::Ibin, with_distances),
            (VectorFormat::Npy, npy_file("<i4", "(2, 2)", &i4)),
        ] {
            assert_eq!(
                integers(&bytes, format),
                Ok(Table { values: vec![7, 8, 9, 1], width: 2 }),
                "{format:?}"
            );
        }
    }

    #[test]
    fn what_is_no_table_is_refused_with_a_reason() {
        let row = |width: i32, values: usize| [&width.to_le_bytes()[..], &vec![0; 4 * values]].concat();
        for (format, bytes, reason) in [
            (VectorFormat::Fvecs, vec![], "cut short"),
            (VectorFormat::Fvecs, row(-1, 0), "below 0"),
            (VectorFormat::Fvecs, row(0, 0), "rows of 0 values"),
            (VectorFormat::Fvecs, row(2, 1), "row 0 is cut short"),
            (VectorFormat::Fvecs, [row(2, 2), row(3, 3)].concat(), "row 1 has 3 values, those before it 2"),
            (VectorFormat::Fbin, big_ann(2, 3, &[0; 20]), "20 bytes of values, expected those of 2 × 3"),
            (VectorFormat::Fbin, big_ann(u32::MAX, u32::MAX, &[0; 20]), "20 bytes"),
            (VectorFormat::Fbin, big_ann(0, 3, &[]), "at least one"),
            (VectorFormat::Npy, npy_file("<i4", "(1, 1)", &[0; 4]), "type `<i4`"),
            (VectorFormat::Npy, npy_file("<f4", "(1,)", &[0; 4]), "1 axes"),
            (VectorFormat::Npy, npy_file("<f4", "(9, 9)", &[0; 4]), "got 4 bytes"),
        ] {
            let error = floats(&bytes, format).unwrap_err();
            assert!(error.contains(reason), "{format:?}: {error}");
        }
        assert!(
            vectors(Table { values: vec![0.0, f32::NAN], width: 2 })
                .unwrap_err()
                .contains("vector 0, dimension 1")
        );
    }

    /// Made by h5py: 60 rows of 8, 5 queries, 10 neighbours; `train` contiguous, `test` in chunks with shuffle and gzip.
    const ANN_BENCHMARKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ann-benchmarks.hdf5");

    #[test]
    fn a_file_of_ann_benchmarks_is_read_and_its_truth_is_true() {
        let path = Path::new(ANN_BENCHMARKS);
        assert_eq!(VectorFormat::of(path).unwrap(), Some(VectorFormat::Hdf5));
        let file = read_vector_file(path, VectorFormat::Hdf5).unwrap();
        let base = read_hdf5_base(path).unwrap();
        assert_eq!((base.rows(), base.dim(), file.queries.rows()), (60, 8, 5));
        let neighbors = file.neighbors.unwrap();
        assert_eq!(neighbors, read_neighbor_file(path, VectorFormat::Hdf5).unwrap());
        for query in 0..5 {
            let distance =
                |row: usize| crate::vectors::Metric::L2.distance(file.queries.row(query), base.row(row));
            let mut rows: Vec<usize> = (0..60).collect();
            rows.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
            let expected: Vec<i64> = rows[..10].iter().map(|&row| row as i64).collect();
            assert_eq!(neighbors.values[query * 10..][..10], expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), npy in any::<bool>()) {
            let bytes = if npy { npy_file("<f4", "(2, 3)", &bytes) } else { bytes };
            for format in [VectorFormat::Fvecs, VectorFormat::Bvecs, VectorFormat::Fbin, VectorFormat::Npy] {
                let _ = floats(&bytes, format);
                let _ = integers(&bytes, format);
            }
        }

        #[test]
        fn a_damaged_hdf5_file_is_refused_or_read(at in 0usize..6000, byte in any::<u8>()) {
            let mut bytes = std::fs::read(ANN_BENCHMARKS).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("damaged.hdf5");
            std::fs::write(&path, bytes).unwrap();
            let _ = read_vector_file(&path, VectorFormat::Hdf5);
        }
    }
}
