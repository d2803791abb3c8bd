//! `points/query`: the nearest points of a vector or of a point, alone or several at once.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Asked;
use super::mmr::Mmr;
use super::payload::{Listed, Selection, WithPayload, WithVector, refuse, score};
use super::{filter, scroll};
use crate::loader::{Filter, Match, Query, QueryError};
use crate::serve::points::PointId;
use crate::serve::reply::Reply;
use crate::serve::routes::Call;
use crate::serve::{Fault, Limits};
use crate::vectors::{Metric, VectorView};

/// What a search asks for, whatever becomes of its answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct QueryRequest {
    pub query: Option<Wanted>,
    pub filter: Option<Value>,
    pub params: Option<Params>,
    pub score_threshold: Option<f32>,
    pub limit: Option<usize>,
    pub offset: Option<usize>,
    pub using: Option<String>,
    pub with_payload: Option<WithPayload>,
    pub with_vector: Option<WithVector>,
    pub prefetch: Option<Value>,
    pub lookup_from: Option<IgnoredAny>,
}

/// `hnsw_ef` is `ef_search` of a graph; other families search as they are certified. What else Qdrant's have says how its own
/// storage is gone through.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Params {
    hnsw_ef: Option<usize>,
    exact: Option<bool>,
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub target: Target,
    pub mmr: Option<Mmr>,
}

#[derive(Debug)]
pub(super) enum Target {
    Vector(Vec<f32>),
    Point(PointId),
}

#[derive(Deserialize)]
struct Batch {
    searches: Vec<QueryRequest>,
}

#[derive(Serialize)]
struct Points<'a> {
    points: Listed<'a>,
}

pub(super) fn one(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let request: QueryRequest = call.json()?;
    let points = request.answer(call, &asked)?;
    asked.reply(Points { points }, &call.shared.limits)
}

pub(super) fn batch(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let Batch { searches } = call.json()?;
    let limits = &call.shared.limits;
    let rows = |request: &QueryRequest| request.limit();
    limits.check_size(searches.len().max(1), 1, 0)?;
    let hits = searches.iter().map(rows).fold(0, usize::saturating_add);
    limits.check_hits(hits)?;
    let answers = searches.iter().map(|request| Ok(Points { points: request.answer(call, &asked)? }));
    asked.reply(answers.collect::<Result<Vec<_>, Fault>>()?, limits)
}

impl QueryRequest {
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(10)
    }

    fn offset(&self) -> usize {
        self.offset.unwrap_or(0)
    }

    fn answer<'a>(&self, call: &Call, asked: &'a Asked) -> Result<Listed<'a>, Fault> {
        let limits = &call.shared.limits;
        limits.check_size(1, self.limit(), self.offset())?;
        self.check()?;
        let selection =
            Selection::new(&asked.index, self.with_payload.as_ref(), false, self.with_vector.as_ref())?;
        let filter = self.filter(asked, limits)?;
        let Some(Wanted { target, mmr }) = &self.query else {
            // By id, each with the score that Qdrant gives where nothing is compared.
            let rows = scroll::page(asked, filter.as_ref(), None, self.limit() + self.offset())?;
            let points = rows.ordinals.into_iter().skip(self.offset()).map(|ordinal| (ordinal, Some(1.0)));
            return Listed::new(asked, selection, points.collect(), limits);
        };
        let mut query = self.searching(asked);
        if let Some(filter) = filter {
            query = query.filter(filter);
        }
        let (vector, query) = target.resolved(asked, query)?;
        let found = match mmr {
            None => search(call, asked, query.offset(self.offset()), &vector)?,
            // The offset leaves out what is chosen, not what is chosen from.
            Some(mmr) => {
                let wanted = self.limit() + self.offset();
                let candidates = mmr.candidates(self.limit(), wanted, limits)?;
                let found = search(call, asked, query.k(candidates), &vector)?;
                mmr.choose(asked, &found, wanted)?.into_iter().skip(self.offset()).collect()
            }
        };
        let metric = asked.index.metric();
        let points = found.iter().map(|found| (found.ordinal, Some(score(metric, found.distance))));
        Listed::new(asked, selection, points.collect(), limits)
    }

    /// That nothing is asked for which would be passed over.
    pub fn check(&self) -> Result<(), Fault> {
        let is_empty = |prefetch: &Value| prefetch.as_array().is_some_and(Vec::is_empty);
        let prefetch = self.prefetch.as_ref().filter(|prefetch| !prefetch.is_null() && !is_empty(prefetch));
        refuse("prefetch", prefetch.map(|_| &IgnoredAny))?;
        refuse("lookup_from", self.lookup_from.as_ref())?;
        match self.using.as_deref() {
            None | Some("") => Ok(()),
            Some(name) => Err(Fault::Unsupported {
                what: format!("the vector `{name}` in `using`"),
                allowed: "the vector without a name",
            }),
        }
    }

    pub fn filter(&self, asked: &Asked, limits: &Limits) -> Result<Option<Filter>, Fault> {
        let given = self.filter.as_ref().filter(|filter| !filter.is_null());
        given.map(|filter| filter::parse(filter, asked, limits)).transpose()
    }

    /// The search without filter and offset.
    pub fn searching(&self, asked: &Asked) -> Query {
        let mut query = Query::new(self.limit());
        let Params { hnsw_ef, exact } = self.params.unwrap_or_default();
        if exact == Some(true) {
            query = query.exact();
        } else if let Some(ef) = hnsw_ef.filter(|_| asked.index.effort_name() == Some("ef_search")) {
            query = query.effort(ef);
        }
        match (self.score_threshold, asked.index.metric()) {
            (None, _) => query,
            // Farther than nothing: a distance below zero finds no row.
            (Some(distance), Metric::L2) => query.max_distance(distance * distance.abs()),
            (Some(distance), Metric::L1 | Metric::Hamming) => query.max_distance(distance),
            (Some(similarity), _) => query.min_similarity(similarity),
        }
    }
}

impl Target {
    /// The vector to search for; a point is not its own neighbour.
    pub fn resolved(&self, asked: &Asked, query: Query) -> Result<(Vec<f32>, Query), Fault> {
        let index = &asked.index;
        match self {
            Target::Vector(vector) if vector.len() == index.dim() => Ok((vector.clone(), query)),
            Target::Vector(vector) => {
                Err(QueryError::Dim { expected: index.dim(), got: vector.len() }.into())
            }
            Target::Point(id) => {
                let missing = || Fault::NoPoint { id: id.to_string() };
                let ordinal = asked.ordinal(id).ok_or_else(missing)?;
                let vector = asked.vectors(&[ordinal])?.row(0).to_vec();
                Ok((vector, query.exclude([index.ids().get(ordinal)])))
            }
        }
    }
}

pub(super) fn search(call: &Call, asked: &Asked, query: Query, vector: &[f32]) -> Result<Vec<Match>, Fault> {
    let view = VectorView::new(vector, asked.index.dim());
    let (_, answers) = call.shared.search(asked.seen(), query, view, asked.deadline)?;
    Ok(answers.of(0).to_vec())
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Given { is_nearest: false })
    }
}

/// A vector, a point's id, or an object with either as `nearest`.
struct Given {
    is_nearest: bool,
}

impl<'de> Visitor<'de> for Given {
    type Value = Wanted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vector, a point's id, or an object with one of them as `nearest`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Wanted, A::Error> {
        let mut vector = Vec::with_capacity(list.size_hint().unwrap_or(0).min(4096));
        while let Some(value) = list.next_element()? {
            vector.push(value);
        }
        Ok(Wanted { target: Target::Vector(vector), mmr: None })
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Wanted, E> {
        Ok(Wanted { target: Target::Point(PointId::Number(id)), mmr: None })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Wanted, E> {
        let wrong =
            || E::custom(format!("`{text}` is no point's id: expected an unsigned integer or a UUID"));
        let id = PointId::parse(text).filter(|id| matches!(id, PointId::Uuid(_))).ok_or_else(wrong)?;
        Ok(Wanted { target: Target::Point(id), mmr: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Wanted, A::Error> {
        let (mut nearest, mut mmr) = (None, None);
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "nearest" if !self.is_nearest => nearest = Some(fields.next_value_seed(Nearest)?),
                "mmr" if !self.is_nearest => mmr = fields.next_value()?,
                other => {
                    return Err(A::Error::custom(format!(
                        "`{other}` is no query that is answered: expected `nearest`"
                    )));
                }
            }
        }
        let Wanted { target, .. } = nearest.ok_or_else(|| A::Error::missing_field("nearest"))?;
        Ok(Wanted { target, mmr })
    }
}

struct Nearest;

impl<'de> serde::de::DeserializeSeed<'de> for Nearest {
    type Value = Wanted;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Wanted, D::Error> {
        deserializer.deserialize_any(Given { is_nearest: true })
    }
}
