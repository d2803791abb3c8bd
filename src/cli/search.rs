//! `annvil search`: asks a published index.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, FieldRef};
use clap::{ArgGroup, Args};
use serde::Serialize;
use serde_json::Value;

use super::attributes::{Found, LookupError, find};
use super::residence::{Fetched, ResidenceArgs};
use super::table::{Align, Table, cell};
use super::{QueryFile, QueryFileError, answer, json_line};
use crate::artifact::Manifest;
use crate::change;
use crate::error::Error;
use crate::job::quantity::{count, duration};
use crate::loader::{Answers, Effort, Filter, Hit, Index, Prepared, Query, SearchOptions, Way, json_value};
use crate::source::embed::EmbedError;
use crate::source::{QuerySpec, read_queries};
use crate::store::runtime;
use crate::vectors::{Metric, RowId, RowIdError, VectorBuf};

/// Most rows that one search may return.
const MAX_K: u32 = 10_000;

/// Search a published index.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("query").required(true).args(["like", "vector", "text"]),
    group = ArgGroup::new("how_hard").args(["effort", "recall", "exact"]),
    after_help = "\
Examples:
  annvil search out/glove10k-hnsw --like river -k 5
  annvil search out/glove10k-hnsw --like 590 --column rank --recall 0.99
  annvil search out/glove10k-hnsw --like river --where \"rank < 2000 AND word_len > 4\"
  annvil search out/glove10k-hnsw --vector query.json --json
  annvil search out/knowledge --text \"capital of France\" --id-prefix mind:fact:
  annvil search out/memories --vector query.json --partition alice
  annvil search s3://bucket/indexes/news --vector query.json --residence lazy --cache 1GiB
  python embed.py | annvil search out/glove10k-hnsw --vector -"
)]
pub struct SearchArgs {
    /// The index's folder or URI, as `build` printed it
    #[arg(value_name = "INDEX")]
    index: String,
    /// Search with the kept vector of the first row whose --column reads VALUE; that row itself is left out
    #[arg(long, value_name = "VALUE")]
    like: Option<String>,
    /// Column that --like looks in; `row_id` is the ids [default: the first text attribute, then the ids]
    #[arg(long, value_name = "NAME", conflicts_with = "vector")]
    column: Option<String>,
    /// Search with the vectors of a file, `-` for stdin: JSON, numbers as text, .npy, Parquet
    #[arg(long, value_name = "FILE")]
    vector: Option<PathBuf>,
    /// Search with the vector that the index's job makes of a text: the job's source has an embedder
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The vector column of a Parquet file [default: the one that the index's queries or rows came from]
    #[arg(long, value_name = "NAME", conflicts_with = "like")]
    vector_column: Option<String>,
    /// Rows to return
    #[arg(short, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_K)))]
    k: u32,
    /// How hard to look: `nprobe` or `ef_search` [default: the index's certified setting]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    effort: Option<u32>,
    /// The cheapest setting certified for this recall, above 0 and at most 1
    #[arg(long, value_name = "R", value_parser = recall)]
    recall: Option<f64>,
    /// Compare with every row; needs kept vectors
    #[arg(long, conflicts_with = "refine")]
    exact: bool,
    /// Candidates to rank again by their kept vectors [default: the index's certified setting]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    refine: Option<u32>,
    /// Only rows of this partition, of an index that has `partition_by`; a value that no row has finds nothing
    #[arg(long, value_name = "VALUE")]
    partition: Option<String>,
    /// Only rows for which an SQL condition over attributes and `row_id` is true
    #[arg(long = "where", value_name = "SQL", value_parser = Filter::parse)]
    condition: Option<Filter>,
    /// Only rows whose ids, strings or UUIDs, begin so
    #[arg(long, value_name = "TEXT", value_parser = Filter::id_prefix)]
    id_prefix: Option<Filter>,
    /// Leave out the row with this id; may be given several times
    #[arg(long, value_name = "ID")]
    exclude: Vec<String>,
    /// Leave out the nearest N rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u32,
    /// Only rows at most this far
    #[arg(long, value_name = "D", conflicts_with = "min_similarity")]
    max_distance: Option<f32>,
    /// Only rows at least this similar, where the metric has similarities
    #[arg(long, value_name = "S")]
    min_similarity: Option<f32>,
    /// Attributes to show, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    attributes: Option<Vec<String>>,
    /// Version to search [default: the latest]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    residence: ResidenceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn recall(text: &str) -> Result<f64, String> {
    let recall: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if recall > 0.0 && recall <= 1.0 { Ok(recall) } else { Err("allowed: above 0, at most 1".into()) }
}

#[derive(Debug, thiserror::Error)]
enum SearchError {
    #[error(transparent)]
    File(#[from] QueryFileError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(
        "--like takes a row's vector, and the index keeps none (refine = \"none\"): use --vector instead"
    )]
    NoVectors,
    #[error("--text needs an embedder, and the index's job has none: its source has no `embed`")]
    NoEmbedder,
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error("--exclude: {0}")]
    Exclude(#[from] RowIdError),
    #[error(
        "`{file}` is Parquet, and the index does not say which column holds vectors: name it with --vector-column"
    )]
    VectorColumn { file: String },
}

impl From<SearchError> for Error {
    fn from(error: SearchError) -> Self {
        Error::BadInput(Box::new(error))
    }
}

/// What is asked, before it is known what an index makes of it.
struct Question {
    queries: VectorBuf,
    /// The row whose vector it is, which is no answer.
    like: Option<Found>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SearchAnswer {
    index: String,
    version: u64,
    kind: String,
    metric: Metric,
    /// `nprobe`, `ef_search`; none for exact search.
    effort_name: Option<String>,
    effort: Option<usize>,
    /// Candidates ranked again; none where it is the family's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    refine: Option<usize>,
    /// Rows that a condition let through, and whether they were compared one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<Allowed>,
    /// Of the search alone, without opening the index.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    elapsed: Duration,
    /// Of a lazy index.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched: Option<Fetched>,
    /// One for each query, in order.
    results: Vec<QueryResult>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Allowed {
    rows: usize,
    compared_one_by_one: bool,
}

fn seconds<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct QueryResult {
    /// As `like word = king`, or `vector 3`.
    query: String,
    /// Nearest first.
    hits: Vec<SearchHit>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SearchHit {
    id: RowId,
    distance: f32,
    /// Where the metric has one: larger is nearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<f32>,
    /// In the index's order; the same columns for every hit.
    #[serde(serialize_with = "as_map")]
    attributes: Vec<(String, Value)>,
}

fn as_map<S: serde::Serializer>(attributes: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(attributes.iter().map(|(name, value)| (name, value)))
}

/// # Errors
/// A query file or a value that is no query, what opening the index says, and what searching it does.
pub(super) fn run(args: &SearchArgs, out: &mut dyn Write) -> Result<(), Error> {
    // Before an index of any size is read.
    let file = args.vector.as_deref().map(QueryFile::read).transpose().map_err(SearchError::from)?;
    let options = args.residence.options()?;
    let options = args.version.map_or(options.clone(), |version| options.version(version));
    let index = args.residence.told(options.open(&args.index)?);
    let question = match file {
        Some(file) => Question { queries: args.vectors(file, &index)?, like: None },
        None if args.text.is_some() => {
            let queries = embedded(args.text.as_deref().unwrap_or_default(), index.manifest())?;
            Question { queries, like: None }
        }
        None => args.row_like(args.like.as_deref().unwrap_or_default(), &index)?,
    };
    let found = args.search(&index, &question)?;
    answer(out, &if args.json { json_line(&found)? } else { found.render() })
}

impl SearchArgs {
    fn options(&self) -> SearchOptions {
        let effort = match (self.exact, self.effort, self.recall) {
            (true, ..) => Effort::Exact,
            (_, Some(effort), _) => Effort::Given(effort as usize),
            (_, _, Some(recall)) => Effort::Recall(recall),
            _ => Effort::Default,
        };
        SearchOptions { k: self.k as usize, effort, refine: self.refine.map(|refine| refine as usize) }
    }

    fn vectors(&self, file: QueryFile, index: &Index) -> Result<VectorBuf, Error> {
        let file = match file {
            QueryFile::Parquet(file) => file,
            QueryFile::Vectors(vectors) => {
                let dim = vectors[0].len();
                return Ok(VectorBuf::new(vectors.concat(), dim));
            }
        };
        let uri = file.display().to_string();
        let of_job = || vector_column_of_job(index.manifest());
        let vector_column = self.vector_column.clone().or_else(of_job);
        let vector_column = vector_column.ok_or_else(|| SearchError::VectorColumn { file: uri.clone() })?;
        let (dim, metric) = (index.dim(), index.metric());
        Ok(read_queries(QuerySpec { uri, vector_column, id_column: None, dim, metric }, runtime()?)?.vectors)
    }

    fn row_like(&self, value: &str, index: &Index) -> Result<Question, Error> {
        let attributes = index.fetch_attributes()?;
        let is_live = |row| index.is_live(row);
        let row = find(attributes.as_ref(), index.ids(), &is_live, self.column.as_deref(), value)
            .map_err(SearchError::from)?;
        let vector = index.fetch_vector(row.ordinal)?.ok_or(SearchError::NoVectors)?;
        Ok(Question { queries: VectorBuf::new(vector, index.dim()), like: Some(row) })
    }

    fn query(&self, index: &Index, like: Option<&Found>) -> Result<Query, Error> {
        let kind = index.ids().kind();
        let excluded = self.exclude.iter().map(|id| kind.parse(id)).collect::<Result<Vec<_>, _>>();
        let mut query = Query::from(self.options())
            .offset(self.offset as usize)
            .exclude(excluded.map_err(SearchError::from)?)
            .exclude(like.map(|row| index.ids().get(row.ordinal)));
        if let Some(partition) = &self.partition {
            query = query.partition(partition.as_str());
        }
        query = match (&self.condition, &self.id_prefix) {
            (Some(condition), Some(prefix)) => query.filter(condition.and(prefix)),
            (Some(filter), None) | (None, Some(filter)) => query.filter(filter.clone()),
            (None, None) => query,
        };
        query = match (self.max_distance, self.min_similarity) {
            (Some(distance), _) => query.max_distance(distance),
            (None, Some(similarity)) => query.min_similarity(similarity),
            (None, None) => query,
        };
        Ok(match &self.attributes {
            Some(columns) => query.attributes(columns),
            None => query.all_attributes(),
        })
    }

    fn search(&self, index: &Index, question: &Question) -> Result<SearchAnswer, Error> {
        let query = self.query(index, question.like.as_ref())?;
        // The row whose vector was asked for.
        let looked_up = index.fetched();
        let start = Instant::now();
        let prepared = index.prepare(&query)?;
        let mut answers = Answers::new();
        prepared.search(question.queries.view(), &mut answers)?;
        let elapsed = start.elapsed();
        let name = |query: usize| match (&question.like, &self.like) {
            (Some(row), Some(value)) => format!("like {} = {value}", row.column),
            _ => format!("vector {query}"),
        };
        let attributes = prepared.attributes(&answers);
        let mut row = 0..;
        let results = answers.iter().enumerate().map(|(query, found)| {
            let hits = found.iter().zip(row.by_ref());
            let hits = hits.map(|(&found, row)| SearchHit::of(index.hit(found), &attributes, row));
            Ok(QueryResult { query: name(query), hits: hits.collect::<Result<_, _>>()? })
        });
        let results = results.collect::<Result<_, Error>>()?;
        let setting =
            index.setting(&self.options())?.filter(|_| !matches!(prepared.way(), Way::Exact { .. }));
        let effort_name = index.effort_name().filter(|_| setting.is_some());
        Ok(SearchAnswer {
            index: self.index.clone(),
            version: index.version(),
            kind: index.manifest().build.kind.clone(),
            metric: index.metric(),
            effort_name: effort_name.map(Into::into),
            effort: setting.filter(|_| effort_name.is_some()).map(|setting| setting.effort),
            refine: setting.map(|setting| setting.refine).filter(|&refine| refine > 0),
            allowed: self.allowed(&prepared),
            elapsed,
            fetched: Fetched::of(
                index,
                looked_up.then(prepared.fetched()).then(answers.fetched()),
                &self.residence,
            ),
            results,
        })
    }

    fn allowed(&self, prepared: &Prepared<'_>) -> Option<Allowed> {
        let is_filtered = self.condition.is_some() || self.id_prefix.is_some() || self.partition.is_some();
        let compared_one_by_one = matches!(prepared.way(), Way::Exact { .. });
        is_filtered.then(|| Allowed { rows: prepared.allowed_rows(), compared_one_by_one })
    }
}

/// The vector of a text, by the embedder that made the rows'.
fn embedded(text: &str, manifest: &Manifest) -> Result<VectorBuf, Error> {
    let embed = change::job_of(manifest)?.source.foreign.embed.ok_or(SearchError::NoEmbedder)?;
    let timeout = Duration::from_secs(embed.timeout_s);
    let mut embedder = embed.kind.start(timeout).map_err(SearchError::from)?;
    let vectors = embedder.embed(&[text]).map_err(SearchError::from)?;
    let [vector] = <[Vec<f32>; 1]>::try_from(vectors).map_err(|vectors| {
        let what = format!("expected 1 vector, got {}", vectors.len());
        SearchError::Embed(EmbedError::Answer { embedder: embedder.name(), what })
    })?;
    if vector.is_empty() {
        let what = "expected a vector, got one of no values".into();
        return Err(SearchError::Embed(EmbedError::Answer { embedder: embedder.name(), what }).into());
    }
    let dim = vector.len();
    Ok(VectorBuf::new(vector, dim))
}

/// The vector column of the queries that the index was certified with, else of its rows.
fn vector_column_of_job(manifest: &Manifest) -> Option<String> {
    let job = &manifest.build.job;
    let column = job.pointer("/queries/vector").or_else(|| job.pointer("/source/vector"))?;
    column.as_str().map(Into::into)
}

impl SearchHit {
    /// `row` is the hit's among the attributes.
    fn of(hit: Hit, attributes: &RecordBatch, row: usize) -> Result<Self, Error> {
        let columns = attributes.schema_ref().fields().iter().zip(attributes.columns());
        let value =
            |(field, column): (&FieldRef, &ArrayRef)| Ok((field.name().clone(), json_value(column, row)?));
        let attributes = columns.map(value).collect::<Result<_, ArrowError>>();
        let attributes = attributes.map_err(|error| Error::Internal(Box::new(error)))?;
        Ok(Self { id: hit.id, distance: hit.distance, similarity: hit.similarity, attributes })
    }
}

impl SearchAnswer {
    fn render(&self) -> String {
        let mut text = String::new();
        for result in &self.results {
            if self.results.len() > 1 {
                text += &format!("{}\n", cell(&result.query));
            }
            text += &render_hits(&result.hits);
            if self.results.len() > 1 {
                text.push('\n');
            }
        }
        let effort = match (&self.effort_name, self.effort) {
            (Some(name), Some(effort)) => format!("{name} {effort}"),
            _ => "exact".into(),
        };
        let queries = match &self.results[..] {
            [only] => cell(&only.query),
            many => format!("{} queries", count(many.len() as u64)),
        };
        let allowed = match self.allowed {
            Some(allowed) => format!(", {} rows allowed", count(allowed.rows as u64)),
            None => String::new(),
        };
        let (index, version, elapsed) = (&self.index, self.version, duration(self.elapsed));
        text + &format!(
            "{queries} in {index} (version {version}, {}, {effort}{allowed}): {elapsed}\n",
            self.metric
        ) + &self.fetched.map_or(String::new(), |fetched| fetched.render())
    }
}

/// Similarity where there is one, else distance: nobody wants both in a terminal.
fn render_hits(hits: &[SearchHit]) -> String {
    let Some(first) = hits.first() else { return "no rows\n".into() };
    let align = |is_number: bool| if is_number { Align::Right } else { Align::Left };
    let nearness = if first.similarity.is_some() { "similarity" } else { "distance" };
    let id_is_number = matches!(first.id, RowId::Int(_) | RowId::UInt(_));
    let mut columns = vec![("#", Align::Right), ("id", align(id_is_number)), (nearness, Align::Right)];
    for (column, (name, _)) in first.attributes.iter().enumerate() {
        let is_number =
            hits.iter().all(|hit| matches!(hit.attributes[column].1, Value::Number(_) | Value::Null));
        columns.push((name, align(is_number)));
    }
    let mut table = Table::new(columns);
    for (position, hit) in hits.iter().enumerate() {
        let nearness = hit.similarity.unwrap_or(hit.distance);
        let mut row = vec![(position + 1).to_string(), hit.id.to_string(), format!("{nearness:.4}")];
        row.extend(hit.attributes.iter().map(|(_, value)| plain(value)));
        table.row(row);
    }
    table.render("")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn parse(words: &[&str]) -> Result<SearchArgs, clap::Error> {
        let command = SearchArgs::augment_args(clap::Command::new("search"));
        let words = ["search", "out/words"].into_iter().chain(words.iter().copied());
        command.try_get_matches_from(words).and_then(|matches| SearchArgs::from_arg_matches(&matches))
    }

    fn found() -> SearchAnswer {
        let hit = |id: u64, similarity: f32, word: &str, rank: Value| SearchHit {
            id: RowId::UInt(id),
            distance: 1.0 - similarity,
            similarity: Some(similarity),
            attributes: vec![("word".into(), word.into()), ("rank".into(), rank)],
        };
        let hits = vec![hit(691, 0.750_8, "prince", 691.into()), hit(7, 0.7, "a\u{1b}[2J", Value::Null)];
        SearchAnswer {
            index: "out/words".into(),
            version: 3,
            kind: "hnsw".into(),
            metric: Metric::Cosine,
            effort_name: Some("ef_search".into()),
            effort: Some(64),
            refine: None,
            allowed: None,
            elapsed: Duration::from_micros(180),
            fetched: None,
            results: vec![QueryResult { query: "like word = king".into(), hits }],
        }
    }

    #[test]
    fn hits_are_a_table_and_how_they_were_found() {
        let expected = "\
#   id  similarity  word    rank
1  691      0.7508  prince   691
2    7      0.7000  a [2J      –
like word = king in out/words (version 3, cosine, ef_search 64): 180 µs
";
        assert_eq!(found().render(), expected);
    }

    #[test]
    fn a_metric_without_similarity_shows_distances_and_several_queries_their_names() {
        let mut answer = found();
        answer.results[0].hits[0].similarity = None;
        answer.results.push(QueryResult { query: "vector 1".into(), hits: vec![] });
        (answer.effort_name, answer.effort) = (None, None);
        answer.allowed = Some(Allowed { rows: 1200, compared_one_by_one: true });
        let text = answer.render();
        assert!(
            text.contains("distance") && text.contains("0.2492") && !text.contains("similarity"),
            "{text}"
        );
        assert!(text.contains("vector 1\nno rows\n"), "{text}");
        assert!(
            text.ends_with("2 queries in out/words (version 3, cosine, exact, 1,200 rows allowed): 180 µs\n"),
            "{text}"
        );
    }

    #[test]
    fn json_keeps_every_number() {
        let json = serde_json::to_value(found()).unwrap();
        assert_eq!(json["results"][0]["hits"][0]["id"], 691);
        assert_eq!(json["results"][0]["hits"][0]["attributes"]["word"], "prince");
        assert_eq!(json["results"][0]["hits"][1]["attributes"]["rank"], Value::Null);
        assert_eq!(
            (&json["metric"], &json["effort"], &json["version"]),
            (&"cosine".into(), &64.into(), &3.into())
        );
    }

    #[test]
    fn arguments_become_what_the_loader_is_asked() {
        let options = |words: &[&str]| parse(&[&["--like", "king"], words].concat()).unwrap().options();
        assert_eq!(options(&[]), SearchOptions::default());
        let expected = SearchOptions { k: 3, effort: Effort::Given(40), refine: Some(80) };
        assert_eq!(options(&["-k", "3", "--effort", "40", "--refine", "80"]), expected);
        assert_eq!(options(&["--recall", "0.9"]).effort, Effort::Recall(0.9));
        assert_eq!(options(&["--exact"]).effort, Effort::Exact);
        let both = parse(&["--like", "a", "--where", "rank < 5", "--id-prefix", "it's"]).unwrap();
        assert_eq!(both.condition.unwrap().text(), "rank < 5");
        assert_eq!(both.id_prefix.unwrap(), Filter::id_prefix("it's").unwrap());
        let columns = parse(&["--like", "a", "--attributes", "word,rank"]).unwrap().attributes;
        assert_eq!(columns, Some(vec!["word".into(), "rank".into()]));
    }

    #[test]
    fn impossible_arguments_are_refused() {
        for words in [
            &[][..],
            &["--like", "a", "--vector", "b"],
            &["--column", "word", "--vector", "b"],
            &["--like", "a", "-k", "0"],
            &["--like", "a", "-k", "10001"],
            &["--like", "a", "--effort", "0"],
            &["--like", "a", "--effort", "1", "--recall", "0.9"],
            &["--like", "a", "--effort", "1", "--exact"],
            &["--like", "a", "--exact", "--refine", "5"],
            &["--like", "a", "--refine", "0"],
            &["--like", "a", "--recall", "0"],
            &["--like", "a", "--recall", "95"],
            &["--like", "a", "--recall", "nan"],
            &["--like", "a", "--version", "0"],
            &["--like", "a", "--where", "rank <"],
            &["--like", "a", "--offset", "-1"],
            &["--like", "a", "--max-distance", "1", "--min-similarity", "0.5"],
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
