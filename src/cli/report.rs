//! `annvil report`: what an index finds and what it costs, as a page; what changed from one to another; and how it
//! stands beside its peers.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::Array;
use clap::Args;

use super::answer;
use crate::artifact::Certificate;
use crate::compute::Compute;
use crate::compute::cpu;
use crate::error::Error;
use crate::job::{Chosen, Progress, automatic, cpu_time};
use crate::report::{
    Base, Bounds, Comparison, GivenTruth, HTML_FILE, Header, MARKDOWN_FILE, MEASUREMENTS_FILE, Machine,
    Measurements, OpenSubject, Queries, QuerySetFacts, ReportError, ReportSpec, SweepParams,
    below_certificate, compare, html, markdown, measure,
};
use crate::source::{
    QuerySpec, Source, SourceSpec, VectorFormat, read_ground_truth, read_hdf5_base, read_neighbor_file,
    read_queries, read_vector_file,
};
use crate::store::runtime;
use crate::vectors::{Metric, RowId, RowIds, VectorBuf, normalize};

/// Measure published indexes on a query set: recall, latency, throughput, memory, as one HTML page
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil report out/words --queries queries.parquet --out report
  annvil report out/words@6 out/words@7 --queries q.parquet --compare --out r --max-slowdown 1.1 --max-recall-loss 0.005
  annvil report out/glove --queries glove-100-angular.hdf5 --out report      (its `neighbors` are the ground truth)
  annvil report --compare monday/ tuesday/ --out changed
  annvil report --measurements peers.parquet report/measurements.parquet --out together

Writes index.html, summary.md and measurements.parquet (every number measured) into the folder. Exits with 4 where an
index's recall is below its certificate, with 3 where --compare finds a regression past its bounds.")]
pub struct ReportArgs {
    /// Indexes' folders or URIs, `INDEX@VERSION` for a version; with --compare two of them, or two saved reports
    #[arg(value_name = "INDEX", required_unless_present = "measurements")]
    indexes: Vec<String>,
    /// The queries: Parquet, .fvecs, .bvecs, .fbin, .u8bin, .i8bin, .npy, or ann-benchmarks' HDF5
    #[arg(long, value_name = "FILE", conflicts_with = "measurements")]
    queries: Option<PathBuf>,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The vector column of Parquet files
    #[arg(long, value_name = "NAME", default_value = "embedding")]
    vector_column: String,
    /// The queries' id column [default: row numbers]
    #[arg(long, value_name = "NAME")]
    query_id_column: Option<String>,
    /// Exact neighbours: Parquet (`query_id`, `neighbors`), .ivecs, .ibin, .npy or HDF5 [default: an HDF5 file's own;
    /// else computed]
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// The indexed rows (Parquet, or `train` of an HDF5 file), where the index keeps no vectors or rounds them
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// The id column of a Parquet --base
    #[arg(long, value_name = "NAME", default_value = "id")]
    id_column: String,
    /// Rows to find
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    k: u32,
    /// Settings of `nprobe` or `ef_search` [default: those of the certificate]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    effort: Vec<u32>,
    /// Measure under this condition; may be repeated [default: made of a numeric attribute]
    #[arg(long = "where", value_name = "SQL")]
    filters: Vec<String>,
    /// Rounds of timing, the indexes by turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Queries that latency is measured with
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    latency_queries: u32,
    /// Threads of the throughput of many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Of samples and bootstraps
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Say what changed from the first to the second
    #[arg(long)]
    compare: bool,
    /// With --compare: fail where the second is more than so many times slower, beyond noise
    #[arg(long, value_name = "RATIO", requires = "compare", value_parser = at_least_one)]
    max_slowdown: Option<f64>,
    /// With --compare: fail where the second has so much less recall, beyond noise
    #[arg(long, value_name = "LOSS", requires = "compare", value_parser = share)]
    max_recall_loss: Option<f64>,
    /// Draw saved measurements, those of benches/peers too, on one page
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["indexes", "compare"])]
    measurements: Vec<PathBuf>,
    /// Do not fail where recall is below the certificate: for queries that are unlike the certificate's
    #[arg(long)]
    allow_below_certificate: bool,
}

fn at_least_one(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|ratio: &f64| *ratio >= 1.0 && ratio.is_finite())
        .ok_or("expected 1 or more".into())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|loss| (0.0..=1.0).contains(loss)).ok_or("expected 0 to 1".into())
}

pub(super) fn run(args: &ReportArgs, out: &mut dyn Write) -> Result<(), Error> {
    let bounds = Bounds { max_slowdown: args.max_slowdown, max_recall_loss: args.max_recall_loss };
    let (measured, comparison) = if !args.measurements.is_empty() {
        let all =
            args.measurements.iter().map(|path| Measurements::read(path)).collect::<Result<Vec<_>, _>>();
        (Measurements::join(all.map_err(ReportError::from)?).map_err(ReportError::from)?, None)
    } else if args.is_of_saved_reports() {
        args.saved(&bounds)?
    } else {
        args.measured(&bounds)?
    };
    let below = if args.allow_below_certificate { Vec::new() } else { args.below(&measured)? };
    let mut faults: Vec<String> = below.iter().map(ToString::to_string).collect();
    faults.extend(comparison.iter().flat_map(|comparison| comparison.regressions.clone()));

    let page = html(&measured, args.k, comparison.as_ref(), &faults)?;
    let summary = markdown(&measured, args.k, comparison.as_ref(), &faults)?;
    write_to(&args.out, HTML_FILE, page.as_bytes())?;
    write_to(&args.out, MARKDOWN_FILE, summary.as_bytes())?;
    write_to(&args.out, MEASUREMENTS_FILE, &measured.encode().map_err(ReportError::from)?)?;
    answer(out, &format!("{summary}\n{}\n", args.out.join(HTML_FILE).display()))?;

    if let Some(error) = below.into_iter().next() {
        return Err(error.into());
    }
    match comparison.filter(|comparison| !comparison.regressions.is_empty()) {
        Some(comparison) => Err(ReportError::Regression(comparison.regressions.join("; ")).into()),
        None => Ok(()),
    }
}

pub(super) fn write_to(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = folder.join(name);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, bytes));
    written.map_err(|error| Error::BadInput(format!("cannot write `{}`: {error}", path.display()).into()))
}

/// The queries as a report takes them.
struct ReadQueries {
    vectors: VectorBuf,
    ids: Vec<String>,
    /// In ids' Arrow type, for a Parquet ground truth.
    id_array: Option<arrow_array::ArrayRef>,
    given: Option<GivenTruth>,
}

impl ReportArgs {
    /// Two folders or files with measurements in them.
    fn is_of_saved_reports(&self) -> bool {
        let is_saved = |path: &String| {
            let path = Path::new(path);
            path.is_file() || path.join(MEASUREMENTS_FILE).is_file()
        };
        self.compare && self.indexes.len() == 2 && self.indexes.iter().all(is_saved)
    }

    fn saved(&self, bounds: &Bounds) -> Result<(Measurements, Option<Comparison>), Error> {
        let read = |at: usize| Measurements::read(Path::new(&self.indexes[at])).map_err(ReportError::from);
        let (a, b) = (read(0)?, read(1)?);
        let only = |measured: &Measurements, path: &str| match &measured.header.subjects[..] {
            [one] => Ok(one.name.clone()),
            subjects => Err(ReportError::Incomparable(format!(
                "`{path}` measured {} indexes, expected 1",
                subjects.len()
            ))),
        };
        let (name_a, name_b) = (only(&a, &self.indexes[0])?, only(&b, &self.indexes[1])?);
        let mut comparison = compare((&a, &name_a), (&b, &name_b), self.k, bounds, self.seed)?;
        let joined = Measurements::join(vec![a, b]).map_err(ReportError::from)?;
        if let [first, second] = &joined.header.subjects[..] {
            (comparison.a, comparison.b) = (first.name.clone(), second.name.clone());
        }
        Ok((joined, Some(comparison)))
    }

    fn measured(&self, bounds: &Bounds) -> Result<(Measurements, Option<Comparison>), Error> {
        if self.compare && self.indexes.len() != 2 {
            let what =
                format!("--compare takes two indexes or two saved reports, got {}", self.indexes.len());
            return Err(Error::BadInput(what.into()));
        }
        let Some(path) = &self.queries else {
            return Err(Error::BadInput("--queries FILE is needed to measure with".into()));
        };
        let subjects = self.open()?;
        let Some(first) = subjects.first() else { return Err(Error::BadInput("no index was named".into())) };
        let (dim, metric) = (first.index.dim(), first.index.metric());
        for other in &subjects {
            let got = (other.index.dim(), other.index.metric());
            if got != (dim, metric) {
                let what = format!(
                    "`{}` has {} dimensions and {}, `{}` {dim} and {metric}",
                    other.name, got.0, got.1, first.name
                );
                return Err(Error::BadInput(what.into()));
            }
        }
        let mut queries = self.read_queries(path, dim, metric)?;
        if let Some(truth) = &self.truth {
            queries.given = Some(read_truth(truth, &queries)?);
        }
        let base = self.base.as_deref().map(|path| self.read_base(path, dim, metric)).transpose()?;
        let Chosen { compute, .. } = automatic(&Progress::silent());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let spec = ReportSpec {
            queries: Queries { vectors: queries.vectors.view(), ids: &queries.ids },
            given: queries.given.as_ref(),
            base: base.as_ref(),
            filters: self.filters.clone(),
            sweep: SweepParams {
                k: self.k as usize,
                efforts: self.effort.iter().map(|&effort| effort as usize).collect(),
                rounds: self.rounds,
                latency_queries: self.latency_queries as usize,
                threads: self.threads.map_or(threads, |threads| threads as usize),
                cpu_time,
            },
            seed: self.seed,
            header: self.header(path, &queries, &*compute, metric),
            told: &|what| eprintln!("{what}"),
        };
        let measured = measure(&subjects, spec, &*compute)?;
        let comparison = match &measured.header.subjects[..] {
            [a, b] if self.compare => {
                Some(compare((&measured, &a.name), (&measured, &b.name), self.k, bounds, self.seed)?)
            }
            _ => None,
        };
        Ok((measured, comparison))
    }

    /// Each index, `INDEX@VERSION` at that version, under a name that is its own.
    fn open(&self) -> Result<Vec<OpenSubject>, Error> {
        let mut subjects: Vec<OpenSubject> = Vec::new();
        for asked in &self.indexes {
            let (uri, version) =
                match asked.rsplit_once('@').map(|(uri, version)| (uri, version.parse::<u64>())) {
                    Some((uri, Ok(version))) => (uri, Some(version)),
                    _ => (asked.as_str(), None),
                };
            let mut name = uri.trim_end_matches('/').rsplit('/').next().unwrap_or(uri).to_string();
            if let Some(version) = version {
                name += &format!(" v{version}");
            }
            let same = subjects
                .iter()
                .filter(|s| s.name == name || s.name.starts_with(&format!("{name} #")))
                .count();
            if same > 0 {
                name += &format!(" #{}", same + 1);
            }
            subjects.push(OpenSubject::open(&name, uri, version, 3)?);
        }
        Ok(subjects)
    }

    fn read_queries(&self, path: &Path, dim: usize, metric: Metric) -> Result<ReadQueries, Error> {
        let bad = |error: Box<dyn std::error::Error + Send + Sync>| Error::BadInput(error);
        // What cannot be opened may still be a URI.
        let format = VectorFormat::of(path).unwrap_or(None);
        let Some(format) = format else {
            let spec = QuerySpec {
                uri: path.to_string_lossy().into_owned(),
                vector_column: self.vector_column.clone(),
                id_column: self.query_id_column.clone(),
                dim,
                metric,
            };
            let read = read_queries(spec, runtime()?)?;
            let ids = texts(&read.ids)?;
            return Ok(ReadQueries { vectors: read.vectors, ids, id_array: Some(read.ids), given: None });
        };
        let read = read_vector_file(path, format).map_err(|error| bad(error.into()))?;
        let mut vectors = read.queries;
        if vectors.dim() != dim {
            let what = format!("`{}` has {} dimensions, the index {dim}", path.display(), vectors.dim());
            return Err(Error::BadInput(what.into()));
        }
        if metric == Metric::Cosine {
            for (row, query) in vectors.as_mut_slice().chunks_exact_mut(dim).enumerate() {
                if !normalize(query) {
                    let what = format!(
                        "`{}`: query {row} has length 0, and cosine compares directions",
                        path.display()
                    );
                    return Err(Error::BadInput(what.into()));
                }
            }
        }
        let ids = (0..vectors.rows()).map(|row| row.to_string()).collect();
        let given = read.neighbors.map(|table| by_row_number(path, table));
        Ok(ReadQueries { vectors, ids, id_array: None, given })
    }

    fn read_base(&self, path: &Path, dim: usize, metric: Metric) -> Result<Base, Error> {
        let file = path.display().to_string();
        if VectorFormat::of(path).unwrap_or(None) == Some(VectorFormat::Hdf5) {
            let vectors = read_hdf5_base(path).map_err(|error| Error::BadInput(error.into()))?;
            if vectors.dim() != dim {
                return Err(Error::BadInput(
                    format!("`{file}` has {} dimensions, the index {dim}", vectors.dim()).into(),
                ));
            }
            let ids = (0..vectors.rows()).map(|row| RowId::Int(row as i64));
            return Ok(Base::new(file, vectors, ids, metric));
        }
        let spec = SourceSpec {
            id_column: Some(self.id_column.clone()),
            dim: Some(dim),
            ..SourceSpec::new(&file, &self.vector_column, metric)
        };
        let rows = Source::open(spec, runtime()?)?.read_all(&|_, _| std::ops::ControlFlow::Continue(()))?;
        let ids = RowIds::from_array(&rows.ids).map_err(|error| Error::BadInput(error.into()))?;
        let ids: Vec<RowId> = (0..ids.len() as u32).map(|row| ids.get(row)).collect();
        Ok(Base::new(file, rows.vectors, ids.into_iter(), metric))
    }

    fn header(&self, path: &Path, queries: &ReadQueries, compute: &dyn Compute, metric: Metric) -> Header {
        let truth = match (&queries.given, &self.base) {
            (Some(given), _) => format!("{}, checked on a sample", given.file),
            (None, Some(base)) => format!("computed from {}", base.display()),
            (None, None) => "computed from the vectors that the index keeps".into(),
        };
        Header {
            annvil_version: env!("CARGO_PKG_VERSION").into(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            machine: machine(compute),
            dataset: QuerySetFacts {
                queries_uri: path.display().to_string(),
                metric: metric.to_string(),
                truth,
                ..QuerySetFacts::default()
            },
            ..Header::default()
        }
    }

    /// What was measured against what was certified.
    fn below(&self, measured: &Measurements) -> Result<Vec<ReportError>, Error> {
        if !self.measurements.is_empty() || self.is_of_saved_reports() {
            return Ok(Vec::new());
        }
        let mut below = Vec::new();
        for subject in &measured.header.subjects {
            let store = crate::store::IndexStore::open(&subject.uri)?;
            let Some(version) = subject.version else { continue };
            let certificate: Option<Certificate> = store.read_manifest(version)?.build.certificate;
            below.extend(
                certificate.and_then(|certificate| below_certificate(measured, subject, &certificate)),
            );
        }
        Ok(below)
    }
}

fn by_row_number(path: &Path, table: crate::source::Table<i64>) -> GivenTruth {
    let k = table.width;
    let neighbors = table.values.into_iter().map(RowId::Int).collect();
    GivenTruth { file: path.display().to_string(), k, neighbors }
}

fn read_truth(path: &Path, queries: &ReadQueries) -> Result<GivenTruth, Error> {
    let file = path.display().to_string();
    let expected = queries.vectors.rows();
    let given = match VectorFormat::of(path).unwrap_or(None) {
        Some(format) => {
            let table = read_neighbor_file(path, format).map_err(|error| Error::BadInput(error.into()))?;
            by_row_number(path, table)
        }
        None => {
            let read = read_ground_truth(&file, runtime()?)?;
            let read = match &queries.id_array {
                Some(ids) => read.for_queries(ids)?,
                None => read,
            };
            let ids = RowIds::from_array(&read.neighbors).map_err(|error| Error::BadInput(error.into()))?;
            let neighbors = (0..ids.len() as u32).map(|at| ids.get(at)).collect();
            GivenTruth { file: file.clone(), k: read.k, neighbors }
        }
    };
    let got = given.neighbors.len() / given.k;
    if got < expected {
        return Err(ReportError::TruthQueries { file, expected, got }.into());
    }
    Ok(given)
}

fn texts(ids: &dyn Array) -> Result<Vec<String>, Error> {
    let ids = RowIds::from_array(ids).map_err(|error| Error::BadInput(error.into()))?;
    Ok((0..ids.len() as u32).map(|row| ids.get(row).to_string()).collect())
}

pub(super) fn machine(compute: &dyn Compute) -> Machine {
    let load = fs::read_to_string("/proc/loadavg").ok();
    Machine {
        cpu: super::doctor::cpu_model().unwrap_or_else(|| "unknown".into()),
        threads: std::thread::available_parallelism().map_or(1, |threads| threads.get() as u32),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        instruction_set: cpu::Cpu::new().info().device,
        backend: compute.info().to_string(),
        load: load.and_then(|load| load.split_whitespace().next()?.parse().ok()),
    }
}
