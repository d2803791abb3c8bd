//! The read side of Qdrant's REST API, as its clients for Python use it: an index is a collection, its attributes are the
//! payload, its version is every point's version.
//!
//! | read by | of it |
//! |---|---|
//! | `GET /collections`, `/collections/{c}`, `/collections/{c}/exists`, `/aliases` | what there is |
//! | `POST …/points/query`, `…/query/batch`, `…/query/groups` | nearest to a vector or a point, with or without MMR; or by id |
//! | `POST …/points`, `GET …/points/{id}`, `POST …/points/scroll`, `…/points/count`, `…/facet` | points themselves |
//!
//! Everything that would write is refused with 403. Attributes with dots in their names become nested objects.

mod collection;
mod filter;
mod groups;
mod mmr;
mod payload;
mod query;
mod scroll;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::Method;
use serde::Serialize;

use super::points::Points;
use super::reply::{Reply, Vocabulary};
use super::routes::{Call, gets, posts};
use super::shared::Shared;
use super::{Fault, Limits};
use crate::loader::Index;

/// What Qdrant's clients compare their own version with: one minor apart is near enough for them.
pub(super) const SPOKEN_VERSION: &str = "1.20.0";

pub(super) fn router() -> Router<Arc<Shared>> {
    let of = |path: &str| format!("/collections/{{collection}}{path}");
    Router::new()
        .route("/collections", gets(collection::list))
        .route("/aliases", gets(collection::aliases))
        .route(&of(""), gets(collection::describe))
        .route(&of("/exists"), gets(collection::exists))
        .route(&of("/aliases"), gets(collection::aliases))
        .route(&of("/facet"), posts(scroll::facet))
        .route(&of("/points"), posts(scroll::retrieve))
        .route(&of("/points/{id}"), gets(scroll::point))
        .route(&of("/points/scroll"), posts(scroll::scroll))
        .route(&of("/points/count"), posts(scroll::count))
        .route(&of("/points/query"), posts(query::one))
        .route(&of("/points/query/batch"), posts(query::batch))
        .route(&of("/points/query/groups"), posts(groups::groups))
}

/// Ways to read that current clients no longer use: `points/query` has taken their place.
const FORMER: [&str; 3] = ["/points/search", "/points/recommend", "/points/discover"];

/// What is said of a path of Qdrant's that nothing answers; none if it is not Qdrant's.
pub(super) fn unanswered(method: &Method, path: &str) -> Option<Fault> {
    if Vocabulary::of(path) != Vocabulary::Qdrant {
        return None;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
        || (*method == Method::POST && FORMER.iter().any(|former| path.contains(former)));
    Some(match reads {
        true => Fault::Nowhere { path: path.into() },
        false => Fault::ReadOnly { method: method.to_string(), path: path.into() },
    })
}

/// What every success is wrapped in.
#[derive(Serialize)]
struct Envelope<T> {
    result: T,
    status: &'static str,
    time: f64,
}

/// A collection that is being asked.
struct Asked {
    name: String,
    index: Arc<Index>,
    points: Arc<Points>,
    start: Instant,
}

impl Asked {
    fn new(call: &Call) -> Result<Self, Fault> {
        let start = Instant::now();
        let hosted = call.shared.indexes.get(call.index())?;
        let index = hosted.current();
        let points = hosted.points(&index);
        Ok(Self { name: hosted.name.clone(), index, points, start })
    }

    fn reply(&self, result: impl Serialize, limits: &Limits) -> Result<Reply, Fault> {
        enveloped(result, self.start, Some(self.index.version()), limits)
    }
}

fn enveloped(
    result: impl Serialize,
    start: Instant,
    version: Option<u64>,
    limits: &Limits,
) -> Result<Reply, Fault> {
    let envelope = Envelope { result, status: "ok", time: start.elapsed().as_secs_f64() };
    Reply::json(&envelope, version, limits)
}
