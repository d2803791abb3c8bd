//! The matrix of vector-estate at any size, over generated rows.
//!
//! `cargo run --release --example vector-estate -- [ROWS] [DIM] [FOLDER]`; default 100,000 × 128. The table goes to stdout.

mod matrix;

use std::path::PathBuf;

use annvil::dataset::{GenerateParams, GeneratedFormat, generate};
use annvil::vectors::Metric;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let dim: usize = arguments.next().map_or(Ok(128), |text| text.parse())?;
    let folder: PathBuf =
        arguments.next().map_or_else(|| std::env::temp_dir().join("vector-estate"), PathBuf::from);
    let params = GenerateParams { rows, queries: 0, dim, seed: 1, format: GeneratedFormat::Parquet };
    let data = generate(&params, &folder.join("data"))?.base;
    let mut cells = Vec::new();
    for metric in Metric::ALL {
        cells.extend(matrix::run(&folder, &data, (rows, dim), metric)?);
    }
    print!("{}", matrix::table(&cells));
    Ok(())
}
