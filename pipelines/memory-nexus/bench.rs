//! The memories of memory-nexus at any size: what a build, a day's changes and the searches of single users cost.
//!
//! `cargo run --release --example memory-nexus -- [ROWS] [USERS] [FOLDER]`; default 100,000 records of 500 users.

mod records;

use std::path::{Path, PathBuf};
use std::time::Instant;

use annvil::change::{Append, ChangeOptions, Compare, append, compare};
use annvil::job::{self, JobSpec, Progress};
use annvil::loader::{Answers, Index, Query};
use annvil::vectors::{Random, RowId, VectorView};
use records::Records;

const QUERIES: usize = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let users: u64 = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let folder: PathBuf =
        arguments.next().map_or_else(|| std::env::temp_dir().join("memory-nexus"), PathBuf::from);
    std::fs::create_dir_all(folder.join("data"))?;
    let (name, dim) = records::COLLECTIONS[0];
    let data = folder.join("data/memories.parquet");
    let all: Records = (0..rows).map(|record| (record, 0)).collect();
    took("generate", || records::write(&data, dim, users, &all));

    let job = folder.join("memories.toml");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/memory-nexus/memories.toml"), &job)?;
    let spec = JobSpec::from_path(&job)?;
    let summary = took("build", || job::run(&spec, &Progress::silent()))?;
    for stage in &summary.stages {
        println!("  {stage:?}");
    }
    let uri = folder.join("out").join(name).to_str().ok_or("a path in UTF-8")?.to_string();
    search(&uri, users)?;

    let come: Records = (rows..rows + rows / 100).map(|record| (record, 0)).collect();
    let from = folder.join("come.parquet");
    records::write(&from, dim, users, &come);
    let from = vec![from.to_str().ok_or("a path in UTF-8")?.to_string()];
    let rows_come = Append { from: from.clone(), replace: true };
    let changed =
        took("append of 1 %", || append(&ChangeOptions::new(&uri), &rows_come, &Progress::silent()))?;
    for stage in &changed.stages {
        println!("  {stage:?}");
    }
    let mut against = vec![data.to_str().ok_or("a path in UTF-8")?.to_string()];
    against.extend(from);
    let asked = Compare { index: uri.clone(), version: None, job: None, against, sample: None, seed: 1 };
    let consistency = took("verify --against", || compare(&asked, &Progress::silent()))?;
    println!(
        "  {} rows, {} missing, {} orphaned",
        consistency.rows, consistency.missing.count, consistency.orphaned.count
    );
    search(&uri, users)
}

fn took<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = work();
    println!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    made
}

/// Each query is a stored record's vector with a little noise, asked of its own user.
fn search(uri: &str, users: u64) -> Result<(), Box<dyn std::error::Error>> {
    let index = took("open", || Index::open(uri))?;
    let mut random = Random::new(5);
    let (mut times, mut hits, mut wanted) = (Vec::with_capacity(QUERIES), 0, 0);
    let mut answers = Answers::new();
    for number in 0..QUERIES {
        let row = random.below(index.rows()) as u32;
        let RowId::Int(record) = index.ids().get(row) else { return Err("ids are numbers".into()) };
        let user = format!("user-{}", records::user(record as u64, users));
        let mut vector = index.vector(row).ok_or("vectors are kept")?;
        vector.iter_mut().for_each(|value| *value += 0.01 * random.normal() as f32);
        let vector = VectorView::new(&vector, index.dim());
        let query = Query::new(100).partition(user.as_str());
        let start = Instant::now();
        index.prepare(&query)?.search(vector, &mut answers)?;
        times.push(start.elapsed().as_secs_f64());
        if number < 200 {
            let truth = index.ask(vector, &query.exact())?;
            wanted += truth.of(0).len();
            hits += answers.of(0).iter().filter(|found| truth.of(0).contains(found)).count();
        }
    }
    let mean = times.iter().sum::<f64>() / QUERIES as f64;
    times.sort_by(f64::total_cmp);
    println!(
        "search of one user's records, k = 100, one thread: mean {:.3} ms, p50 {:.3}, p99 {:.3}, {:.0} queries/s, recall@100 {:.4}",
        1e3 * mean,
        1e3 * times[QUERIES / 2],
        1e3 * times[QUERIES * 99 / 100],
        1.0 / mean,
        hits as f64 / wanted.max(1) as f64
    );
    Ok(())
}
