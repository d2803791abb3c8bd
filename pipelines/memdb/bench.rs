//! memdb's articles at any size: what a read costs by the consistency that it asks for, a filter, and a compare-and-swap.
//!
//! `cargo run --release --example memdb -- [ROWS] [FOLDER]`; default 100,000 articles.

mod documents;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annvil::change::{Append, ChangeOptions, append};
use annvil::job::{self, JobSpec, Progress};
use annvil::loader::{Consistency, Filter, OpenOptions, Query, Watched};
use annvil::vectors::VectorView;
use documents::Documents;

const READS: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let folder: PathBuf = arguments.next().map_or_else(|| std::env::temp_dir().join("memdb"), PathBuf::from);
    std::fs::create_dir_all(folder.join("data"))?;
    let all: Documents = (0..rows).map(|number| (number, 0)).collect();
    took("generate", || documents::write(&folder.join("data/articles.parquet"), "articles", &all));
    let job = folder.join("articles.toml");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/memdb/articles.toml"), &job)?;
    let spec = JobSpec::from_path(&job)?;
    took("build", || job::run(&spec, &Progress::silent()))?;

    let uri = folder.join("out/articles").to_str().ok_or("a path in UTF-8")?.to_string();
    let watched = Arc::new(took("open", || Watched::open(&uri, OpenOptions::new()))?);
    for (name, consistency) in [
        ("local", Consistency::Local),
        ("eventual, 1 s", Consistency::Eventual(Duration::from_secs(1))),
        ("strong", Consistency::Strong),
    ] {
        read(&watched, name, consistency, None)?;
    }
    read(&watched, "local, a filter", Consistency::Local, Some("kind = 'map' AND price < 50 AND in_stock"))?;

    let come: Documents = (0..rows / 100).map(|number| (number, 1)).collect();
    let from = folder.join("come.parquet");
    documents::write(&from, "articles", &come);
    let from = vec![from.to_str().ok_or("a path in UTF-8")?.to_string()];
    let version = watched.current().version();
    let swap = |version| {
        let options = ChangeOptions { expect_version: Some(version), ..ChangeOptions::new(&uri) };
        append(&options, &Append { from: from.clone(), replace: true }, &Progress::silent())
    };
    took("compare-and-swap of 1 %", || swap(version))?;
    let refused = took("… over a version that is not the latest", || swap(version));
    println!("  {}", refused.err().map_or("published?".into(), |error| error.to_string()));
    read(&watched, "strong, the first of a new version", Consistency::Strong, None)
}

fn took<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = work();
    println!("{what}: {:.3} s", start.elapsed().as_secs_f64());
    made
}

/// Searches with vectors that are there, one at a time.
fn read(
    watched: &Watched,
    name: &str,
    consistency: Consistency,
    filter: Option<&str>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut query = Query::new(10);
    if let Some(filter) = filter {
        query = query.filter(Filter::parse(filter)?);
    }
    let mut times = Vec::with_capacity(READS);
    for number in 0..READS {
        let current = watched.current();
        let row = (number * current.rows() / READS) as u32;
        let vector = current.vector(row).ok_or("vectors are kept")?;
        let start = Instant::now();
        let index = watched.read(consistency)?;
        index.ask(VectorView::new(&vector, index.dim()), &query)?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let ms = |part: usize| 1e3 * times[READS * part / 100];
    println!("read, {name}: p50 {:.3} ms, p99 {:.3} ms", ms(50), ms(99));
    Ok(())
}
