//! Rows drawn from a [`Law`], written a row group at a time: as many as the disk holds.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::law::{FIRST_QUERY, Law};
use super::rows::{FIRST_QUERY_ID, ParquetWriter, ROW_GROUP_ROWS};
use super::{Error, Result, Rows};

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateParams {
    pub rows: u64,
    /// Rows that are asked for and not indexed.
    pub queries: u64,
    /// 1 to 65,536.
    pub dim: usize,
    pub seed: u64,
    pub format: GeneratedFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeneratedFormat {
    /// `id` int64 and `embedding` FixedSizeList\<float\>.
    Parquet,
    /// Rows and dimensions as u32, then the rows as f32, all little-endian: what the big-ann benchmarks call `.fbin`.
    Fbin,
}

impl GeneratedFormat {
    fn extension(self) -> &'static str {
        match self {
            GeneratedFormat::Parquet => "parquet",
            GeneratedFormat::Fbin => "fbin",
        }
    }
}

/// Written files.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    pub base: PathBuf,
    pub queries: PathBuf,
}

/// Writes `base` and `queries` to `folder`, which is made where it is not there.
///
/// # Errors
/// [`Error::Shape`] for what no file can hold, [`Error::Io`] and [`Error::Parquet`] with the path.
pub fn generate(params: &GenerateParams, folder: &Path) -> Result<Generated> {
    let within = |what, got: u64, expected: std::ops::RangeInclusive<u64>| {
        if expected.contains(&got) { Ok(()) } else { Err(Error::Shape { what, expected, got }) }
    };
    within("dim", params.dim as u64, 1..=1 << 16)?;
    // As many as an index takes, so that ids of rows stay below those of queries.
    within("rows", params.rows, 1..=FIRST_QUERY_ID as u64)?;
    within("queries", params.queries, 0..=FIRST_QUERY_ID as u64)?;
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let law = Law::new(params.dim, params.seed);
    let path = |name: &str| folder.join(format!("{name}.{}", params.format.extension()));
    let generated = Generated { base: path("base"), queries: path("queries") };
    for (path, first, first_id, count) in [
        (&generated.base, 0, 0, params.rows),
        (&generated.queries, FIRST_QUERY, FIRST_QUERY_ID, params.queries),
    ] {
        let blocks = (0..count).step_by(ROW_GROUP_ROWS).map(|start| {
            let rows = ROW_GROUP_ROWS.min((count - start) as usize);
            let id = first_id + start as i64;
            Rows::new((id..id + rows as i64).collect(), law.rows(first + start, rows), Vec::new())
        });
        match params.format {
            GeneratedFormat::Parquet => write_parquet(path, params.dim, blocks)?,
            GeneratedFormat::Fbin => {
                write_fbin(path, [count as u32, params.dim as u32], blocks).map_err(Error::io(path))?;
            }
        }
    }
    Ok(generated)
}

fn write_parquet(path: &Path, dim: usize, blocks: impl Iterator<Item = Rows>) -> Result<()> {
    let packed = |source| Error::Parquet { path: path.to_path_buf(), source };
    let empty = Rows::new(Vec::new(), crate::vectors::VectorBuf::zeroed(0, dim), Vec::new());
    let file = File::create(path).map_err(Error::io(path))?;
    let mut writer = ParquetWriter::new(file, &empty, false).map_err(packed)?;
    for rows in blocks {
        writer.append(&rows).map_err(packed)?;
    }
    writer.close().map_err(packed)
}

fn write_fbin(path: &Path, shape: [u32; 2], blocks: impl Iterator<Item = Rows>) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    shape.iter().try_for_each(|count| file.write_all(&count.to_le_bytes()))?;
    for rows in blocks {
        for value in rows.embeddings.view().as_slice() {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(format: GeneratedFormat) -> GenerateParams {
        GenerateParams { rows: ROW_GROUP_ROWS as u64 + 9, queries: 11, dim: 3, seed: 4, format }
    }

    #[test]
    fn files_hold_the_law_s_rows_block_by_block() {
        let folder = tempfile::tempdir().unwrap();
        let written = generate(&params(GeneratedFormat::Fbin), folder.path()).unwrap();
        let law = Law::new(3, 4);
        for (path, first, count) in
            [(written.base, 0, ROW_GROUP_ROWS + 9), (written.queries, FIRST_QUERY, 11)]
        {
            let bytes = fs::read(path).unwrap();
            assert_eq!(bytes[..8], [(count as u32).to_le_bytes(), 3u32.to_le_bytes()].concat());
            let values: Vec<f32> =
                bytes[8..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!(values, law.rows(first, count).into_vec());
        }
        let written = generate(&params(GeneratedFormat::Parquet), folder.path()).unwrap();
        let read = crate::dataset::rows::tests::read_back_ids_and_embeddings(&written.base);
        assert_eq!(read.embeddings, law.rows(0, ROW_GROUP_ROWS + 9));
        assert!(read.ids.iter().copied().eq(0..ROW_GROUP_ROWS as i64 + 9));
        let read = crate::dataset::rows::tests::read_back_ids_and_embeddings(&written.queries);
        assert_eq!((read.ids[0], read.embeddings), (FIRST_QUERY_ID, law.rows(FIRST_QUERY, 11)));
    }

    #[test]
    fn shapes_that_no_file_holds_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let good = params(GeneratedFormat::Parquet);
        for (params, expected) in [
            (GenerateParams { dim: 0, ..good.clone() }, "dim: expected 1 to 65536, got 0"),
            (GenerateParams { rows: 0, ..good.clone() }, "rows: expected 1 to 1000000000, got 0"),
            (GenerateParams { rows: 1 << 40, ..good.clone() }, "rows: expected"),
            (GenerateParams { queries: 1 << 40, ..good.clone() }, "queries: expected"),
        ] {
            let error = generate(&params, folder.path()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
