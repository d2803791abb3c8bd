//! What a request passes before anyone works on it: its key, its client's share, its body, each within limits. And what
//! is counted of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::reply::{self, Vocabulary};
use super::shared::{Client, Shared};
use super::{Fault, Limits};
use crate::vectors::RowId;

/// The address a connection came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub IpAddr);

/// Of a request whose key is bound to one: the partition that it may see, and no other.
#[derive(Debug, Clone)]
pub(super) struct Tenant(pub RowId);

/// A fault on its way out, for the count.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultCode(pub &'static str);

pub(super) fn refusal(fault: &Fault, path: &str) -> Response {
    let mut response = reply::fault(fault, Vocabulary::of(path));
    response.extensions_mut().insert(FaultCode(fault.code()));
    response
}

/// Answered to anyone: what tells nothing of the indexes.
fn is_open(method: &Method, path: &str) -> bool {
    let open = ["/", "/page.css", "/page.js", "/healthz", "/livez", "/readyz", "/openapi.json"];
    matches!(*method, Method::GET | Method::HEAD) && open.contains(&path)
}

pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let _under_way = shared.metrics.under_way();
    let path = request.uri().path().to_string();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match prepare(&shared, request, &path).await {
        Ok((request, _share)) => next.run(request).await,
        Err(fault) => refusal(&fault, &path),
    };
    if let Some(FaultCode(code)) = response.extensions().get() {
        shared.metrics.failed(code);
    }
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let index = index_of(&path).filter(|name| shared.indexes.contains(name)).unwrap_or("none");
    shared.metrics.answered(index, route, response.status().as_u16(), start.elapsed());
    response
}

/// The third part of `/v1/indexes/{name}/…`, the second of `/collections/{name}/…`.
fn index_of(path: &str) -> Option<&str> {
    let mut parts = path.split('/').skip(1);
    match parts.next()? {
        "v1" => parts.nth(1),
        "collections" => parts.next(),
        _ => None,
    }
}

/// The request with its body read, and its client's share of the server.
async fn prepare(
    shared: &Arc<Shared>,
    request: Request,
    path: &str,
) -> Result<(Request, Option<super::shared::Share>), Fault> {
    if is_open(request.method(), path) {
        return Ok((request, None));
    }
    let key = key(request.headers());
    let client = match (shared.keys.is_empty(), key) {
        (true, _) => {
            let peer = request.extensions().get::<Peer>();
            Client::Address(peer.map_or(IpAddr::from([0; 4]), |peer| peer.0))
        }
        (false, None) => return Err(Fault::NoKey),
        (false, Some(key)) => Client::Key(shared.keys.find(key).ok_or(Fault::WrongKey)?),
    };
    let share = shared.share(client)?;
    let (mut parts, body) = request.into_parts();
    if let Client::Key(place) = client
        && let Some(tenant) = shared.keys.tenant(place)
    {
        parts.extensions.insert(Tenant(RowId::Text(tenant.into())));
    }
    let body = read(body, &parts.headers, &shared.limits).await?;
    Ok((Request::from_parts(parts, Body::from(body)), Some(share)))
}

/// As Qdrant's clients send it, or anyone else's.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    };
    headers.get("api-key").map(|key| key.as_bytes()).or_else(bearer)
}

async fn read(body: Body, headers: &HeaderMap, limits: &Limits) -> Result<Bytes, Fault> {
    let allowed = limits.body_bytes;
    let large = |got: String| Fault::LargeBody { got, allowed };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if let Some(length) =
        announced.filter(|length| length.parse().is_ok_and(|length: u64| length > allowed as u64))
    {
        return Err(large(length.into()));
    }
    let read = Limited::new(body, allowed).collect();
    match tokio::time::timeout(limits.body_time, read).await {
        Err(_) => Err(Fault::SlowBody { allowed_seconds: limits.body_time.as_secs_f64() }),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(large(format!("more than {allowed}"))),
        Ok(Err(error)) => Err(Fault::Body(error.to_string())),
    }
}
