//! Our own vocabulary: what [`Query`] offers, as JSON in and JSON or Arrow out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::ArrayRef;
use axum::http::header;
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::deadline::Deadline;
use super::hosted::Hosted;
use super::openapi::Id;
use super::reply::Reply;
use super::routes::{Call, Turn};
use super::shared::Seen;
use super::{Fault, Limits, arrow};
use crate::artifact::Certificate;
use crate::loader::{Answers, Consistency, Filter, Index, Match, Query, QueryError, json_value};
use crate::vectors::{Metric, RowId, RowIdKind, VectorView};

/// Ids that a description shows, for whoever has none at hand.
const SAMPLE_IDS: usize = 20;

/// The indexes that are served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IndexList {
    indexes: Vec<IndexInfo>,
}

/// An index, and the version that answers now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IndexInfo {
    name: String,
    version: u64,
    /// `hnsw`, `ivf_pq`, `flat`.
    kind: String,
    #[schema(value_type = String)]
    metric: Metric,
    dim: usize,
    rows: usize,
    /// The attribute that `partition` of a search is a value of, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_by: Option<String>,
    /// Type of the row ids.
    #[schema(value_type = String)]
    id_type: RowIdKind,
    /// Some of them.
    #[schema(value_type = Vec<Id>)]
    sample_ids: Vec<RowId>,
    /// What the effort of a search is called: `ef_search`, `nprobe`; none for exact search.
    effort_name: Option<&'static str>,
    /// Whether rows can be searched for by id, and exactly.
    keeps_vectors: bool,
    attributes: Vec<AttributeInfo>,
    /// What was measured before the version was published.
    certificate: Option<CertificateInfo>,
    /// A newer version that failed its checks, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedInfo>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttributeInfo {
    name: String,
    /// As Arrow calls it.
    r#type: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RefusedInfo {
    version: u64,
    reason: String,
}

/// The settings measured, cheapest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificateInfo {
    queries: u64,
    points: Vec<PointInfo>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PointInfo {
    effort: u32,
    refine: u32,
    /// Recall by k.
    recall: std::collections::BTreeMap<u32, f64>,
}

/// One or more queries, all of them asked alike.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchRequest {
    /// Vectors to search for. Either these or `ids`.
    #[schema(value_type = Option<Vec<Vec<f32>>>, example = json!([[0.1, 0.2, 0.3]]))]
    vectors: Option<Rows>,
    /// Rows whose vectors to search for; each of them is its own nearest row, unless excluded.
    #[schema(value_type = Option<Vec<Id>>)]
    ids: Option<Vec<RowId>>,
    /// Rows to return for each query.
    #[serde(default = "ten")]
    #[schema(minimum = 1, default = 10)]
    k: usize,
    /// How many of a graph's rows to keep in view (`ef_search`). Of `ef`, `nprobe`, `recall` and `exact` at most one; by default the setting
    /// that the index's certificate chose.
    #[schema(minimum = 1)]
    ef: Option<usize>,
    /// How many lists to look through.
    #[schema(minimum = 1)]
    nprobe: Option<usize>,
    /// The cheapest setting certified for this recall, above 0 and at most 1.
    recall: Option<f64>,
    /// Compare with every row.
    #[serde(default)]
    exact: bool,
    /// Candidates to rank again by their kept vectors.
    refine: Option<usize>,
    /// Only rows of this partition; for an index that has `partition_by`.
    #[schema(value_type = Option<Id>)]
    partition: Option<RowId>,
    /// An SQL condition over attributes and `row_id`.
    #[schema(example = "lang = 'en' AND year BETWEEN 2020 AND 2024")]
    filter: Option<String>,
    /// Only rows at most this far. Either this or `min_similarity`.
    max_distance: Option<f32>,
    /// Only rows at least this similar, where the metric has similarities.
    min_similarity: Option<f32>,
    /// Attributes to return: `true` for all of them, or their names.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    attributes: Wanted,
    /// Rows to leave out.
    #[serde(default)]
    #[schema(value_type = Vec<Id>)]
    exclude: Vec<RowId>,
    /// Leave out so many of the nearest rows.
    #[serde(default)]
    offset: usize,
    /// How new the version must be that answers: `local`, the default, is the one in memory; `eventual` one that was seen to be the
    /// latest at most `max_age_ms` ago; `strong` the latest that there is when the request comes.
    #[serde(default)]
    consistency: AskedConsistency,
    /// For `eventual`: how long ago.
    #[serde(default = "five_seconds")]
    #[schema(default = 5000)]
    max_age_ms: u64,
    /// How long the answer may take, at most as long as the server allows.
    #[schema(minimum = 1)]
    deadline_ms: Option<u64>,
}

fn ten() -> usize {
    10
}

fn five_seconds() -> u64 {
    5000
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AskedConsistency {
    #[default]
    Local,
    Eventual,
    Strong,
}

/// Vectors of one dimension, row by row.
#[derive(Debug, Default)]
pub(super) struct Rows {
    values: Vec<f32>,
    rows: usize,
    dim: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "expected true, false or a list of names")]
enum Wanted {
    #[default]
    Nothing,
    All(bool),
    Named(Vec<String>),
}

/// The nearest rows of each query.
#[derive(Serialize, ToSchema)]
pub(super) struct SearchResponse<'a> {
    index: &'a str,
    /// The version that all of these answers came from.
    version: u64,
    #[schema(value_type = String)]
    metric: Metric,
    /// The search alone.
    seconds: f64,
    /// One for each query, in order.
    #[schema(value_type = Vec<QueryResult>)]
    results: Results<'a>,
}

/// Nearest first.
#[derive(Serialize, ToSchema)]
pub(super) struct QueryResult<'a> {
    #[schema(value_type = Vec<Hit>)]
    hits: Hits<'a>,
}

/// A row that was found.
#[derive(Serialize, ToSchema)]
pub(super) struct Hit<'a> {
    #[schema(value_type = Id)]
    id: RowId,
    /// Smaller is nearer: squared for `l2`, 1 − similarity for `cosine`, −similarity for `inner_product`.
    distance: f32,
    /// Larger is nearer; not for `l2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<f32>,
    #[serde(skip_serializing_if = "Fields::is_empty")]
    #[schema(value_type = Object)]
    attributes: Fields<'a>,
}

type Columns = Vec<(String, ArrayRef)>;

/// Written one hit after the other: an answer is in memory once, as text.
struct Results<'a> {
    index: &'a Index,
    answers: &'a Answers,
    columns: &'a Columns,
}

struct Hits<'a> {
    index: &'a Index,
    found: &'a [Match],
    columns: &'a Columns,
}

/// A row's attributes.
struct Fields<'a> {
    columns: &'a Columns,
    row: usize,
}

#[utoipa::path(get, path = "/v1/indexes", responses((status = 200, body = IndexList), (status = 401, body = super::ErrorBody)))]
pub(super) fn list(call: &Call) -> Result<Reply, Fault> {
    let indexes =
        call.all_hosted().map(|hosted| info(call, hosted, &hosted.current())).collect::<Result<_, _>>()?;
    Reply::json(&IndexList { indexes }, None, &call.shared.limits)
}

#[utoipa::path(
    get,
    path = "/v1/indexes/{name}",
    params(("name" = String, Path, description = "An index's name")),
    responses(
        (status = 200, body = IndexInfo),
        (status = 401, body = super::ErrorBody),
        (status = 404, body = super::ErrorBody),
    )
)]
pub(super) fn describe(call: &Call) -> Result<Reply, Fault> {
    let hosted = call.hosted()?;
    let index = hosted.current();
    Reply::json(&info(call, hosted, &index)?, Some(index.version()), &call.shared.limits)
}

fn info(call: &Call, hosted: &Hosted, index: &Index) -> Result<IndexInfo, Fault> {
    let (rows, ordinals): (usize, Box<dyn Iterator<Item = u32> + '_>) = match (&call.tenant, index.live()) {
        (Some(tenant), _) => {
            let own = index.partition_ordinals(tenant)?;
            (own.len(), Box::new(own.into_iter()))
        }
        (None, Some(live)) => (live.count(), Box::new(live.iter())),
        (None, None) => (index.rows(), Box::new(0..index.rows() as u32)),
    };
    let step = rows.div_ceil(SAMPLE_IDS).max(1);
    let fields = index.attributes().into_iter().flat_map(|batch| batch.schema_ref().fields());
    let build = &index.manifest().build;
    Ok(IndexInfo {
        name: hosted.name.clone(),
        version: index.version(),
        kind: build.kind.clone(),
        metric: index.metric(),
        dim: index.dim(),
        rows,
        partition_by: index.partition_by().map(str::to_string),
        id_type: index.ids().kind(),
        sample_ids: ordinals.step_by(step).map(|row| index.ids().get(row)).collect(),
        effort_name: index.effort_name(),
        keeps_vectors: index.rows() > 0 && index.keeps_vectors(),
        attributes: fields
            .map(|field| AttributeInfo { name: field.name().clone(), r#type: field.data_type().to_string() })
            .collect(),
        certificate: build.certificate.as_ref().map(certificate),
        // The reason may tell where the index lies.
        refused: hosted
            .refused()
            .filter(|_| call.tenant.is_none())
            .map(|(version, reason)| RefusedInfo { version, reason }),
    })
}

fn certificate(certificate: &Certificate) -> CertificateInfo {
    let points = certificate.points.iter().map(|point| PointInfo {
        effort: point.effort,
        refine: point.refine,
        recall: point.recall.iter().map(|recall| (recall.k, recall.mean)).collect(),
    });
    CertificateInfo { queries: certificate.queries, points: points.collect() }
}

#[utoipa::path(
    post,
    path = "/v1/indexes/{name}/search",
    params(("name" = String, Path, description = "An index's name")),
    request_body = SearchRequest,
    responses(
        (
            status = 200,
            description = "With `Accept: application/vnd.apache.arrow.stream`, an Arrow stream with a row per hit: `_query`, `_rank`, \
                `row_id`, `_similarity` where the metric has one, `_distance`, and the attributes. Those keep their names: where one is \
                called as a column of these, that one gets another `_` in front.",
            headers(("annvil-version" = u64, description = "The version that answered")),
            content(
                (SearchResponse = "application/json"),
                (Vec<u8> = "application/vnd.apache.arrow.stream"),
            )
        ),
        (status = 400, description = "The body is no JSON that is understood", body = super::ErrorBody),
        (status = 401, description = "No API key, or a wrong one", body = super::ErrorBody),
        (status = 404, description = "No such index", body = super::ErrorBody),
        (status = 408, description = "The body, the version waited for or the search took too long", body = super::ErrorBody),
        (status = 413, description = "The body is too large", body = super::ErrorBody),
        (status = 422, description = "A value that is not allowed, or not for this index", body = super::ErrorBody),
        (status = 429, description = "Too many requests of this client are under way", body = super::ErrorBody),
        (
            status = 503,
            description = "Too many requests wait, the index's store failed, or the index is damaged",
            body = super::ErrorBody
        ),
    )
)]
pub(super) fn search(call: &Call) -> Result<Turn, Fault> {
    let deadline = call.deadline();
    let hosted = call.hosted()?;
    let request: SearchRequest = call.json()?;
    let deadline = request.deadline_ms.map_or(deadline, |ms| deadline.within(Duration::from_millis(ms)));
    let consistency = request.consistency();
    match hosted.seen(consistency, deadline.start()) {
        Some(index) => request.answer(call, &index?, deadline).map(Turn::Over),
        None => {
            let rest = move |call: &Call, index: &Arc<Index>| request.answer(call, index, deadline);
            Ok(Turn::Awaits(consistency, deadline, Box::new(rest)))
        }
    }
}

impl SearchRequest {
    fn answer(&self, call: &Call, index: &Arc<Index>, deadline: Deadline) -> Result<Reply, Fault> {
        let (shared, name) = (&call.shared, call.index());
        let seen = Seen { name, index, tenant: call.tenant.as_ref() };
        let vectors = self.vectors(seen, &shared.limits, deadline)?;
        let query = self.query(index, &shared.limits)?;
        let start = Instant::now();
        let view = VectorView::new(&vectors.values, vectors.dim);
        let (prepared, answers) = shared.search(seen, query, view, deadline)?;
        let seconds = start.elapsed().as_secs_f64();
        let accept = call.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        if accept.unwrap_or_default().contains(arrow::STREAM) {
            let bytes = arrow::stream(name, index, &answers, prepared.attributes(&answers))?;
            return Reply::bytes(arrow::STREAM, bytes, index.version(), &shared.limits);
        }
        let columns = self.columns(index);
        let response = SearchResponse {
            index: name,
            version: index.version(),
            metric: index.metric(),
            seconds,
            results: Results { index, answers: &answers, columns: &columns },
        };
        Reply::json(&response, Some(index.version()), &shared.limits)
    }

    fn consistency(&self) -> Consistency {
        match self.consistency {
            AskedConsistency::Local => Consistency::Local,
            AskedConsistency::Eventual => Consistency::Eventual(Duration::from_millis(self.max_age_ms)),
            AskedConsistency::Strong => Consistency::Strong,
        }
    }

    fn vectors(&self, seen: Seen<'_>, limits: &Limits, deadline: Deadline) -> Result<Rows, Fault> {
        let index = seen.index;
        if let (Some(tenant), Some(partition)) = (seen.tenant, &self.partition)
            && tenant.to_string() != partition.to_string()
        {
            return Err(Fault::OfOthers { what: "a partition other than the tenant's" });
        }
        let one_of = |got: &str| Fault::Value {
            what: "the query",
            got: got.into(),
            allowed: "either `vectors` or `ids`".into(),
        };
        let rows = match (&self.vectors, &self.ids) {
            (Some(rows), None) => {
                let Rows { values, rows, dim } = rows;
                Rows { values: values.clone(), rows: *rows, dim: *dim }
            }
            (None, Some(ids)) => {
                limits.check_size(ids.len(), self.k, self.offset)?;
                rows_of(seen, ids, deadline)?
            }
            (Some(_), Some(_)) => return Err(one_of("both")),
            (None, None) => return Err(one_of("missing")),
        };
        limits.check_size(rows.rows, self.k, self.offset)?;
        if rows.dim != index.dim() {
            return Err(QueryError::Dim { expected: index.dim(), got: rows.dim }.into());
        }
        Ok(rows)
    }

    fn query(&self, index: &Index, limits: &Limits) -> Result<Query, Fault> {
        limits.check_ids("ids to exclude", self.exclude.len())?;
        let mut query =
            Query::new(self.k).offset(self.offset).exclude(self.exclude.iter().map(|id| typed(index, id)));
        query = match self.effort(index)? {
            Some(effort) => query.effort(effort),
            None if self.exact => query.exact(),
            None => self.recall.map_or(query.clone(), |recall| query.recall(recall)),
        };
        if let Some(refine) = self.refine {
            query = query.refine(refine);
        }
        if let Some(partition) = &self.partition {
            query = query.partition(partition.clone());
        }
        if let Some(filter) = &self.filter {
            limits.check_filter(filter.len())?;
            query = query.filter(Filter::parse(filter)?);
        }
        query = match (self.max_distance, self.min_similarity) {
            (Some(_), Some(_)) => {
                let (got, allowed) = ("both".into(), "`max_distance` or `min_similarity`".into());
                return Err(Fault::Value { what: "the threshold", got, allowed });
            }
            (Some(distance), None) => query.max_distance(distance),
            (None, Some(similarity)) => query.min_similarity(similarity),
            (None, None) => query,
        };
        Ok(match &self.attributes {
            Wanted::Nothing | Wanted::All(false) => query,
            Wanted::All(true) => query.all_attributes(),
            Wanted::Named(names) => query.attributes(names),
        })
    }

    /// `ef` or `nprobe`, whichever the index has.
    fn effort(&self, index: &Index) -> Result<Option<usize>, Fault> {
        let given = [self.ef.is_some(), self.nprobe.is_some(), self.recall.is_some(), self.exact];
        if given.iter().filter(|&&given| given).count() > 1 {
            let allowed = "one of `ef`, `nprobe`, `recall`, `exact`".into();
            return Err(Fault::Value { what: "the effort", got: "more than one".into(), allowed });
        }
        let name = index.effort_name();
        let wrong = |got: &str| Fault::Value {
            what: "the effort",
            got: format!("`{got}`"),
            allowed: match name {
                Some("ef_search") => "`ef`, as the index is a graph".into(),
                Some(name) => format!("`{name}`"),
                None => "none, as the index is searched exactly".into(),
            },
        };
        match (self.ef, self.nprobe) {
            (Some(_), _) if name != Some("ef_search") => Err(wrong("ef")),
            (_, Some(_)) if name != Some("nprobe") => Err(wrong("nprobe")),
            (ef, nprobe) => Ok(ef.or(nprobe)),
        }
    }

    /// The attributes asked for; that they are there has been checked.
    fn columns(&self, index: &Index) -> Columns {
        let Some(batch) = index.attributes() else { return Columns::new() };
        let named = |name: &String| Some((name.clone(), batch.column_by_name(name)?.clone()));
        match &self.attributes {
            Wanted::Nothing | Wanted::All(false) => Columns::new(),
            Wanted::Named(names) => names.iter().filter_map(named).collect(),
            Wanted::All(true) => {
                batch.schema_ref().fields().iter().filter_map(|field| named(field.name())).collect()
            }
        }
    }
}

/// An id as the index has it: a number may stand as a string, for those whose JSON would round it.
fn typed(index: &Index, id: &RowId) -> RowId {
    match id {
        RowId::Text(text) => index.ids().kind().parse(text).unwrap_or_else(|_| id.clone()),
        id => id.clone(),
    }
}

fn rows_of(seen: Seen<'_>, ids: &[RowId], deadline: Deadline) -> Result<Rows, Fault> {
    let index = seen.index;
    let own = seen.tenant.map(|tenant| index.partition_ordinals(tenant)).transpose()?;
    let ordinal = |id: &RowId| {
        let found = index.ids().find(&typed(index, id));
        found
            .filter(|row| own.as_ref().is_none_or(|own| own.binary_search(row).is_ok()))
            .ok_or_else(|| Fault::NoPoint { id: id.to_string() })
    };
    let ordinals = ids.iter().map(ordinal).collect::<Result<Vec<u32>, Fault>>()?;
    let kept = deadline.of(index.fetch_vectors(&ordinals, Some(deadline.end())))?;
    let kept = kept.ok_or(QueryError::NoVectors)?;
    Ok(Rows { values: kept.view().as_slice().to_vec(), rows: ids.len(), dim: index.dim() })
}

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { index, columns, .. } = self;
        serializer.collect_seq(
            self.answers.iter().map(|found| QueryResult { hits: Hits { index, found, columns } }),
        )
    }
}

impl Serialize for Hits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.found.iter().map(|&found| {
            let hit = self.index.hit(found);
            let attributes = Fields { columns: self.columns, row: found.ordinal as usize };
            Hit { id: hit.id, distance: hit.distance, similarity: hit.similarity, attributes }
        }))
    }
}

impl Fields<'_> {
    fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for (name, column) in self.columns {
            let value = json_value(column, self.row).map_err(serde::ser::Error::custom)?;
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lists;
        impl<'de> Visitor<'de> for Lists {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of vectors, each a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut lists: A) -> Result<Rows, A::Error> {
                let mut all = Rows::default();
                while let Some(values) = lists.next_element::<Vec<f32>>()? {
                    if all.rows == 0 {
                        all.dim = values.len();
                    }
                    if values.is_empty() || values.len() != all.dim {
                        let expected = if all.rows == 0 { "1 or more".into() } else { all.dim.to_string() };
                        return Err(serde::de::Error::custom(format!(
                            "vector {} has {} values, expected {expected}",
                            all.rows,
                            values.len()
                        )));
                    }
                    all.rows += 1;
                    all.values.extend(values);
                }
                match all.rows {
                    0 => Err(serde::de::Error::custom("no vector, expected 1 or more")),
                    _ => Ok(all),
                }
            }
        }
        deserializer.deserialize_seq(Lists)
    }
}
