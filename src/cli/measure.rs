//! `annvil measure`: how fast a published index answers a query set, setting by setting.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use rayon::prelude::*;
use serde::Serialize;

use super::residence::ResidenceArgs;
use super::table::{Align, Table};
use super::{answer, json_line};
use crate::artifact::FetchStats;
use crate::error::Error;
use crate::index::{SearchParams, Searcher};
use crate::job::cpu_time;
use crate::job::quantity::bytes;
use crate::loader::{Index, QueryError};
use crate::report::{percentiles, single_queries, warm_up};
use crate::source::{QuerySpec, read_queries};
use crate::store::runtime;
use crate::vectors::{RowId, VectorView};

/// Time searches of a published index, on one thread or several
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  annvil measure out/glove100-hnsw --queries datasets/cache/glove100/queries.parquet
  annvil measure out/glove100-ivf --queries q.parquet --effort 8,16,32 --json --ids
  annvil measure s3://bucket/indexes/news --queries q.parquet --residence lazy --cache 0

For each setting all queries are searched in one batched call, and then one at a time for the latencies. Recall stands in
the index's certificate (`annvil inspect`). With `--residence lazy --cache 0` nothing is kept, so that each of the single
queries is a cold one; what it asked of the store is told beside its time. With --ids the found row ids are printed, to be judged by whoever likes.")]
pub struct MeasureArgs {
    /// The index's folder or URI
    #[arg(value_name = "INDEX")]
    index: String,
    /// Parquet file of queries
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// The queries' vector column
    #[arg(long, value_name = "NAME", default_value = "embedding")]
    vector_column: String,
    /// Rows to find
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Settings of `nprobe` or `ef_search` [default: those that the index would be certified with]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    effort: Vec<u32>,
    /// Candidates ranked again by kept vectors [default: what a certificate would take beside that effort]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    refine: Option<u32>,
    /// Threads that share the batched call; latencies are of one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    #[command(flatten)]
    residence: ResidenceArgs,
    /// Print one JSON object per setting
    #[arg(long)]
    json: bool,
    /// With --json: add the ids found, query by query
    #[arg(long, requires = "json")]
    ids: bool,
    /// With --json: add what each single query took, in microseconds
    #[arg(long, requires = "json")]
    latencies: bool,
}

/// One setting.
#[derive(Debug, Serialize)]
struct Measured {
    effort: usize,
    queries: usize,
    threads: u16,
    /// Of one batched call with all queries.
    wall_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_s: Option<f64>,
    /// Of queries one at a time, in microseconds.
    p50_us: f64,
    p99_us: f64,
    /// Of queries one at a time, where the index is lazy: on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_per_query: Option<PerQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<Vec<RowId>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latencies_us: Option<Vec<f64>>,
}

/// What a query asks of the store.
#[derive(Debug, Serialize)]
struct PerQuery {
    round_trips: f64,
    requests: f64,
    bytes: f64,
}

impl PerQuery {
    fn of(stats: FetchStats, queries: usize) -> Self {
        let mean = |value: u64| value as f64 / queries as f64;
        Self {
            round_trips: mean(stats.round_trips),
            requests: mean(stats.requests),
            bytes: mean(stats.bytes),
        }
    }
}

pub fn run(args: &MeasureArgs, out: &mut dyn Write) -> Result<(), Error> {
    let index = args.residence.told(args.residence.options()?.open(&args.index)?);
    let queries = read_queries(
        QuerySpec {
            uri: args.queries.to_string_lossy().into_owned(),
            vector_column: args.vector_column.clone(),
            id_column: None,
            dim: index.dim(),
            metric: index.metric(),
        },
        runtime()?,
    )?;
    let k = (args.k as usize).min(index.rows());
    let settings = args.settings(&index, k);
    let mut columns = vec![
        (index.effort_name().unwrap_or("setting"), Align::Right),
        ("queries/s", Align::Right),
        ("queries/CPU-s", Align::Right),
        ("p50", Align::Right),
        ("p99", Align::Right),
    ];
    if args.residence.is_lazy() {
        columns.extend([("requests", Align::Right), ("bytes", Align::Right)]);
    }
    let mut table = Table::new(columns);
    for params in settings {
        let measured = args.measure(&index, queries.vectors.view(), &params)?;
        if args.json {
            answer(out, &json_line(&measured)?)?;
            continue;
        }
        let count = measured.queries as f64;
        let mut row = vec![
            measured.effort.to_string(),
            format!("{:.0}", count / measured.wall_s),
            measured.cpu_s.map_or("–".into(), |cpu| format!("{:.0}", count / cpu)),
            format!("{:.0} µs", measured.p50_us),
            format!("{:.0} µs", measured.p99_us),
        ];
        if let Some(fetched) = &measured.fetched_per_query {
            row.extend([format!("{:.1}", fetched.requests), bytes(fetched.bytes as u64)]);
        }
        table.row(row);
    }
    if args.json { Ok(()) } else { answer(out, &table.render("")) }
}

impl MeasureArgs {
    fn settings(&self, index: &Index, k: usize) -> Vec<SearchParams> {
        let ladder = index.ladder(k);
        let mut settings: Vec<SearchParams> = match &self.effort[..] {
            [] => ladder,
            given => {
                let of_ladder =
                    |effort: usize| ladder.iter().copied().find(|setting| setting.effort >= effort);
                let beside = |effort| of_ladder(effort).map_or(0, |setting| setting.refine);
                given
                    .iter()
                    .map(|&effort| effort as usize)
                    .map(|effort| SearchParams { k, effort, refine: beside(effort) })
                    .collect()
            }
        };
        if let Some(refine) = self.refine {
            settings.iter_mut().for_each(|setting| setting.refine = refine as usize);
        }
        settings
    }

    fn measure(
        &self,
        index: &Index,
        queries: VectorView<'_>,
        params: &SearchParams,
    ) -> Result<Measured, Error> {
        let mut searcher = index.searcher();
        warm_up(&mut *searcher, queries, params);
        searcher.fetched().map_err(QueryError::from)?;
        let (wall, cpu) = (Instant::now(), cpu_time());
        let found = if self.threads == 1 {
            vec![Found::by(&mut *searcher, queries, params)?]
        } else {
            self.shared(index, queries, params)?
        };
        let wall_s = wall.elapsed().as_secs_f64();
        let cpu_s = cpu_time().zip(cpu).map(|(end, start)| (end - start).as_secs_f64());
        let micros = single_queries(&mut *searcher, queries, params);
        let latency = percentiles(&micros);
        let fetched = searcher.fetched().map_err(QueryError::from)?;
        let ids = self.ids.then(|| found.iter().flat_map(|part| part.ids(index)).collect());
        Ok(Measured {
            effort: params.effort,
            queries: queries.rows(),
            threads: self.threads,
            wall_s,
            cpu_s,
            p50_us: latency.p50,
            p99_us: latency.p99,
            fetched_per_query: self.residence.is_lazy().then(|| PerQuery::of(fetched, queries.rows())),
            ids,
            latencies_us: self.latencies.then_some(micros),
        })
    }

    /// All queries by the threads asked for, an equal stretch each: a batch shares work between its queries.
    fn shared(
        &self,
        index: &Index,
        queries: VectorView<'_>,
        params: &SearchParams,
    ) -> Result<Vec<Found>, Error> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.into()).build();
        let pool = pool.map_err(|error| Error::Internal(Box::new(error)))?;
        let stretch = queries.rows().div_ceil(self.threads.into()).max(1);
        let starts: Vec<usize> = (0..queries.rows()).step_by(stretch).collect();
        pool.install(|| {
            let by_one = |&start: &usize| {
                let end = (start + stretch).min(queries.rows());
                Found::by(&mut *index.searcher(), queries.slice(start, end), params)
            };
            starts.par_iter().map(by_one).collect()
        })
    }
}

/// What consecutive queries found.
struct Found {
    ordinals: Vec<u32>,
    counts: Vec<usize>,
}

impl Found {
    fn by(
        searcher: &mut dyn Searcher,
        queries: VectorView<'_>,
        params: &SearchParams,
    ) -> Result<Self, Error> {
        let mut found = Self {
            ordinals: Vec::with_capacity(queries.rows() * params.k),
            counts: Vec::with_capacity(queries.rows()),
        };
        searcher.search_batch(queries, params, &mut |_, neighbors| {
            found.ordinals.extend(neighbors.iter().map(|neighbor| neighbor.ordinal));
            found.counts.push(neighbors.len());
        });
        searcher.fetched().map_err(QueryError::from)?;
        Ok(found)
    }

    /// Query by query.
    fn ids(&self, index: &Index) -> Vec<Vec<RowId>> {
        let mut rest = &self.ordinals[..];
        let mut of_next = |&count: &usize| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.iter().map(|&ordinal| index.ids().get(ordinal)).collect()
        };
        self.counts.iter().map(&mut of_next).collect()
    }
}
