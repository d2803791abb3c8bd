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

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::Method;
use serde::Serialize;

use super::deadline::Deadline;
use super::hosted::Collection;
use super::points::{PointId, Points};
use super::reply::{Reply, Vocabulary, over};
use super::routes::{Call, gets, posts};
use super::shared::{Seen, Shared};
use super::{Fault, Limits};
use crate::loader::{Filter, Index, QueryError, RowMask};
use crate::vectors::{RowId, VectorBuf};

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
    /// Of all that is done for the request.
    deadline: Deadline,
    /// Values of vectors that the answer has room for: each is two bytes of JSON or more.
    room: Cell<usize>,
}

impl Asked {
    fn new(call: &Call) -> Result<Self, Fault> {
        let deadline = call.deadline();
        let hosted = call.hosted()?;
        let Collection { index, points } = hosted.collection();
        let tenant = match &call.tenant {
            Some(tenant) => Some((tenant.clone(), index.partition_ordinals(tenant)?)),
            None => None,
        };
        let room = Cell::new(call.shared.limits.answer_bytes / 2);
        Ok(Self { name: hosted.name.clone(), index, points, tenant, deadline, room })
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
        let mask = self.deadline.of(self.index.mask_until(filter, self.deadline.end()))?;
        let Some((_, rows)) = &self.tenant else { return Ok(mask) };
        let own = rows.iter().copied().filter(|&row| mask.contains(row));
        Ok(Arc::new(RowMask::from_ordinals(mask.rows(), own)))
    }

    /// The vectors of some rows, read at once where they are not here.
    fn vectors(&self, ordinals: &[u32]) -> Result<VectorBuf, Fault> {
        let Self { index, deadline, .. } = self;
        let kept = deadline.of(index.fetch_vectors(ordinals, Some(deadline.end())))?;
        Ok(kept.ok_or(QueryError::NoVectors)?)
    }

    /// The same, to be told.
    fn vectors_to_tell(&self, ordinals: &[u32], limits: &Limits) -> Result<VectorBuf, Fault> {
        let left = self.room.get().checked_sub(ordinals.len().saturating_mul(self.index.dim()));
        self.room.set(left.ok_or_else(|| over(limits))?);
        self.vectors(ordinals)
    }

    fn reply(&self, result: impl Serialize, limits: &Limits) -> Result<Reply, Fault> {
        enveloped(result, self.deadline.start(), Some(self.index.version()), limits)
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
