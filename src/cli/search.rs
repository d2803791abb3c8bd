//! `annvil search`: asks a published index.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;
use serde_json::Value;

use super::table::{Align, Table, cell};
use super::{QueryFile, answer, json_line};
use crate::error::Error;
use crate::job::quantity::{count, duration};
use crate::vectors::Metric;

/// Most rows that one search may return.
const MAX_K: u32 = 10_000;

/// Search a published index.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("query").required(true).args(["like", "vector"]),
    group = ArgGroup::new("how_hard").args(["effort", "recall"]),
    after_help = "\
Examples:
  annvil search out/glove10k-hnsw --like king -k 5
  annvil search out/glove10k-hnsw --like 4711 --column rank --recall 0.99
  annvil search out/glove10k-hnsw --vector query.json --json
  python embed.py | annvil search out/glove10k-hnsw --vector -"
)]
pub struct SearchArgs {
    /// The index's folder or URI, as `build` printed it
    #[arg(value_name = "INDEX")]
    index: String,
    /// Search with the vector of the first row whose --column has this value; that row itself is left out
    #[arg(long, value_name = "VALUE")]
    like: Option<String>,
    /// Attribute column that --like looks in [default: the index's first text attribute, else its row ids]
    #[arg(long, value_name = "NAME", conflicts_with = "vector")]
    column: Option<String>,
    /// Search with the vectors of a file, `-` for stdin: JSON, numbers as text, .npy, Parquet
    #[arg(long, value_name = "FILE")]
    vector: Option<PathBuf>,
    /// The vector column of a Parquet file [default: its only list column]
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
    /// Version to search [default: the latest]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn recall(text: &str) -> Result<f64, String> {
    let recall: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if recall > 0.0 && recall <= 1.0 { Ok(recall) } else { Err("allowed: above 0, at most 1".into()) }
}

/// What the loader is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    pub index: String,
    pub version: Option<u64>,
    pub query: Query,
    pub k: usize,
    pub effort: Effort,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// The row whose `column` reads `value`.
    Like { column: Option<String>, value: String },
    /// Not empty, rectangular and finite.
    Vectors(Vec<Vec<f32>>),
    /// `column` of a Parquet file.
    Parquet { file: PathBuf, column: Option<String> },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effort {
    /// The index's certified default.
    Default,
    Given(u32),
    /// The cheapest certified for this recall.
    Recall(f64),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchAnswer {
    pub index: String,
    pub version: u64,
    pub kind: String,
    pub metric: Metric,
    /// `nprobe`, `ef_search`; none for exact search.
    pub effort_name: Option<String>,
    pub effort: Option<u32>,
    /// Of the search alone, without opening the index.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// One for each query, in order.
    pub results: Vec<QueryResult>,
}

fn seconds<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryResult {
    /// As `like word = king`, or `vector 3`.
    pub query: String,
    /// Nearest first.
    pub hits: Vec<SearchHit>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchHit {
    /// The user's row id: a number or a string.
    pub id: Value,
    pub distance: f32,
    /// Where the metric has one: larger is nearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f32>,
    /// In the index's order; the same columns for every hit.
    #[serde(serialize_with = "as_map")]
    pub attributes: Vec<(String, Value)>,
}

fn as_map<S: serde::Serializer>(attributes: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(attributes.iter().map(|(name, value)| (name, value)))
}

/// Asks `index` and prints what it answers.
///
/// # Errors
/// A query file that cannot be read, or what `search` says.
pub fn run(
    args: &SearchArgs,
    out: &mut dyn Write,
    search: impl FnOnce(&SearchRequest) -> Result<SearchAnswer, Error>,
) -> Result<(), Error> {
    let found = search(&args.request()?)?;
    answer(out, &if args.json { json_line(&found)? } else { found.render() })
}

impl SearchArgs {
    fn request(&self) -> Result<SearchRequest, Error> {
        let query = match (&self.like, &self.vector) {
            (Some(value), _) => Query::Like { column: self.column.clone(), value: value.clone() },
            (None, file) => self.vectors(file.as_deref().unwrap_or(Path::new("-")))?,
        };
        let effort = match (self.effort, self.recall) {
            (Some(effort), _) => Effort::Given(effort),
            (None, Some(recall)) => Effort::Recall(recall),
            (None, None) => Effort::Default,
        };
        let index = self.index.clone();
        Ok(SearchRequest { index, version: self.version, query, k: self.k as usize, effort })
    }

    fn vectors(&self, file: &Path) -> Result<Query, Error> {
        match QueryFile::read(file).map_err(|error| Error::BadInput(Box::new(error)))? {
            QueryFile::Parquet(file) => Ok(Query::Parquet { file, column: self.vector_column.clone() }),
            QueryFile::Vectors(vectors) => Ok(Query::Vectors(vectors)),
        }
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
        let (index, version, elapsed) = (&self.index, self.version, duration(self.elapsed));
        text + &format!("{queries} in {index} (version {version}, {}, {effort}): {elapsed}\n", self.metric)
    }
}

/// Similarity where there is one, else distance: nobody wants both in a terminal.
fn render_hits(hits: &[SearchHit]) -> String {
    let Some(first) = hits.first() else { return "no rows\n".into() };
    let is_number = |value: &Value| value.is_number();
    let align = |value: &Value| if is_number(value) { Align::Right } else { Align::Left };
    let nearness = if first.similarity.is_some() { "similarity" } else { "distance" };
    let mut columns = vec![("#", Align::Right), ("id", align(&first.id)), (nearness, Align::Right)];
    columns.extend(first.attributes.iter().map(|(name, value)| (name.as_str(), align(value))));
    let mut table = Table::new(columns);
    for (position, hit) in hits.iter().enumerate() {
        let nearness = hit.similarity.unwrap_or(hit.distance);
        let mut row = vec![(position + 1).to_string(), plain(&hit.id), format!("{nearness:.4}")];
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
            id: id.into(),
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
            elapsed: Duration::from_micros(180),
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
        let text = answer.render();
        assert!(
            text.contains("distance") && text.contains("0.2492") && !text.contains("similarity"),
            "{text}"
        );
        assert!(text.contains("vector 1\nno rows\n"), "{text}");
        assert!(text.ends_with("2 queries in out/words (version 3, cosine, exact): 180 µs\n"), "{text}");
    }

    #[test]
    fn json_keeps_every_number() {
        let args = parse(&["--like", "king", "--json"]).unwrap();
        let mut out = Vec::new();
        run(&args, &mut out, |_| Ok(found())).unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["results"][0]["hits"][0]["id"], 691);
        assert_eq!(json["results"][0]["hits"][0]["attributes"]["word"], "prince");
        assert_eq!(json["results"][0]["hits"][1]["attributes"]["rank"], Value::Null);
        assert_eq!(
            (&json["metric"], &json["effort"], &json["version"]),
            (&"cosine".into(), &64.into(), &3.into())
        );
    }

    #[test]
    fn arguments_become_a_request() {
        let request =
            parse(&["--like", "king", "--column", "word", "-k", "3", "--effort", "40"]).unwrap().request();
        let query = Query::Like { column: Some("word".into()), value: "king".into() };
        let index = "out/words".to_string();
        let expected = SearchRequest { index, version: None, query, k: 3, effort: Effort::Given(40) };
        assert_eq!(request.unwrap(), expected);

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("q.json");
        std::fs::write(&file, "[1, 2]").unwrap();
        let args = parse(&["--vector", file.to_str().unwrap(), "--recall", "0.9", "--version", "2"]).unwrap();
        let request = args.request().unwrap();
        assert_eq!((request.k, request.effort, request.version), (10, Effort::Recall(0.9), Some(2)));
        assert_eq!(request.query, Query::Vectors(vec![vec![1.0, 2.0]]));
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
            &["--like", "a", "--recall", "0"],
            &["--like", "a", "--recall", "95"],
            &["--like", "a", "--recall", "nan"],
            &["--like", "a", "--version", "0"],
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
