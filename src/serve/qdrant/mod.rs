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

use super::points::{PointId, Points};
use super::reply::{Reply, Vocabulary};
use super::routes::{Call, gets, posts};
use super::shared::{Seen, Shared};
use super::{Fault, Limits};
use crate::loader::{Filter, Index, RowMask};
use crate::vectors::RowId;

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
    /// Whose rows alone are seen, and these, ascending.
    tenant: Option<(RowId, Vec<u32>)>,
    start: Instant,
}

impl Asked {
    fn new(call: &Call) -> Result<Self, Fault> {
        let start = Instant::now();
        let hosted = call.hosted()?;
        let index = hosted.current();
        let points = hosted.points(&index);
        let tenant = match &call.tenant {
            Some(tenant) => Some((tenant.clone(), index.partition_ordinals(tenant)?)),
            None => None,
        };
        Ok(Self { name: hosted.name.clone(), index, points, tenant, start })
    }

    fn seen(&self) -> Seen<'_> {
        let tenant = self.tenant.as_ref().map(|(tenant, _)| tenant);
        Seen { name: &self.name, index: &self.index, tenant }
    }

    /// Points that are seen.
    fn count(&self) -> usize {
        self.tenant.as_ref().map_or(self.index.live_rows(), |(_, rows)| rows.len())
    }

    /// The row of a point that is there and is seen.
    fn ordinal(&self, id: &PointId) -> Option<u32> {
        let ordinal = self.points.ordinal(&self.index, id)?;
        let is_seen = self.tenant.as_ref().is_none_or(|(_, rows)| rows.binary_search(&ordinal).is_ok());
        is_seen.then_some(ordinal)
    }

    /// The rows that are seen and pass a filter.
    fn mask(&self, filter: &Filter) -> Result<Arc<RowMask>, Fault> {
        let mask = self.index.mask(filter)?;
        let Some((_, rows)) = &self.tenant else { return Ok(mask) };
        let own = rows.iter().copied().filter(|&row| mask.contains(row));
        Ok(Arc::new(RowMask::from_ordinals(mask.rows(), own)))
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
