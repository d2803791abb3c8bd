//! Which path is whose, and the way of each request through the workers.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::admission::{Tenant, admit, refusal};
use super::deadline::Deadline;
use super::hosted::Hosted;
use super::reply::{Reply, response};
use super::shared::Shared;
use super::{Event, Fault, openapi, page, qdrant, v1};
use crate::loader::{Consistency, Index};
use crate::vectors::RowId;

/// A request that was admitted.
pub(super) struct Call {
    pub shared: Arc<Shared>,
    /// The parts of the path that are names, in order.
    names: Vec<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whose rows alone are to be seen, where the key says so.
    pub tenant: Option<RowId>,
}

/// Answers a call, on a worker's thread.
pub(super) type Work = fn(&Call) -> Result<Reply, Fault>;

/// What a worker's turn came to.
pub(super) enum Turn {
    Over(Reply),
    /// A version is to be waited for, by nobody's thread; then it is a worker's turn again.
    Awaits(Consistency, Deadline, Rest),
}

/// What is left to do, with the version that was waited for.
pub(super) type Rest = Box<dyn FnOnce(&Call, &Arc<Index>) -> Result<Reply, Fault> + Send>;

impl Call {
    /// The first name of the path.
    pub fn index(&self) -> &str {
        self.name(0)
    }

    pub fn name(&self, place: usize) -> &str {
        self.names.get(place).map_or("", String::as_str)
    }

    /// The index of the path, if whoever asks may see it.
    pub fn hosted(&self) -> Result<&Arc<Hosted>, Fault> {
        let name = self.index();
        let seen = self.shared.indexes.get(name).ok().filter(|hosted| self.sees(hosted));
        seen.ok_or_else(|| {
            let known = self.all_hosted().map(|hosted| format!("`{}`", hosted.name)).collect::<Vec<_>>();
            Fault::NoIndex { name: name.into(), known: known.join(", ") }
        })
    }

    /// All indexes that whoever asks may see.
    pub fn all_hosted(&self) -> impl Iterator<Item = &Arc<Hosted>> {
        self.shared.indexes.iter().filter(|hosted| self.sees(hosted))
    }

    /// A tenant's rows are some of an index that is partitioned; of another nothing is its own.
    fn sees(&self, hosted: &Hosted) -> bool {
        self.tenant.is_none() || hosted.current().partition_by().is_some()
    }

    /// From now on, as long as any request may take.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.shared.limits.request_time)
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body).map_err(|error| Fault::Body(error.to_string()))
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page::root))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route(
            "/openapi.json",
            get(async || response(StatusCode::OK, "application/json", openapi::document())),
        )
        .route("/healthz", get(async || response(StatusCode::OK, "text/plain", "healthy\n")))
        .route("/livez", get(async || response(StatusCode::OK, "text/plain", "healthy\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/indexes", gets(v1::list))
        .route("/v1/indexes/{name}", gets(v1::describe))
        .route(
            "/v1/indexes/{name}/search",
            post(|shared, names, request| answer(v1::search, shared, names, request)),
        )
        .merge(qdrant::router())
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), admit))
        .with_state(shared)
}

pub(super) fn gets(work: Work) -> MethodRouter<Arc<Shared>> {
    get(move |shared, names, request| answer(in_one_turn(work), shared, names, request))
}

pub(super) fn posts(work: Work) -> MethodRouter<Arc<Shared>> {
    post(move |shared, names, request| answer(in_one_turn(work), shared, names, request))
}

fn in_one_turn(work: Work) -> impl FnOnce(&Call) -> Result<Turn, Fault> + Send + 'static {
    move |call| work(call).map(Turn::Over)
}

async fn answer(
    work: impl FnOnce(&Call) -> Result<Turn, Fault> + Send + 'static,
    State(shared): State<Arc<Shared>>,
    names: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Response {
    let (Parts { uri, headers, extensions, .. }, body) = request.into_parts();
    let tenant = extensions.get().map(|Tenant(tenant)| tenant.clone());
    let Ok(names) = names else { return refusal(&Fault::Path, uri.path()) };
    let names = names.iter().map(|(_, name)| name.to_string()).collect();
    // In memory since the request was admitted.
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return refusal(&Fault::Body(error.to_string()), uri.path()),
    };
    let call = Arc::new(Call { shared: shared.clone(), names, headers, body, tenant });
    match worked(work, &call).await {
        Ok(reply) => reply.into_response(),
        Err(fault) => {
            if let Some(reason) = fault.reason() {
                let (index, reason) = (call.index().into(), reason.into());
                (shared.events)(Event::Failed { index, reason });
            }
            refusal(&fault, uri.path())
        }
    }
}

async fn worked(
    work: impl FnOnce(&Call) -> Result<Turn, Fault> + Send + 'static,
    call: &Arc<Call>,
) -> Result<Reply, Fault> {
    let workers = &call.shared.workers;
    let first = call.clone();
    match workers.run(move || work(&first)).await? {
        Turn::Over(reply) => Ok(reply),
        Turn::Awaits(consistency, deadline, rest) => {
            let index = call.hosted()?.read(consistency, deadline).await?;
            let second = call.clone();
            workers.run(move || rest(&second, &index)).await
        }
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.is_ready() {
        true => response(StatusCode::OK, "text/plain", "ready\n"),
        false => response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n"),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.extensions().get::<Tenant>().is_some() {
        return refusal(&Fault::OfOthers { what: "what is counted of all" }, request.uri().path());
    }
    shared.indexes.iter().for_each(|hosted| shared.metrics.fetched(&hosted.name, &hosted.current()));
    let text = shared.metrics.text(shared.workers.waiting());
    response(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
}

async fn nowhere(request: Request) -> Response {
    let path = request.uri().path().to_string();
    refusal(
        &qdrant::unanswered(request.method(), &path).unwrap_or(Fault::Nowhere { path: path.clone() }),
        &path,
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let path = uri.path();
    let fault = qdrant::unanswered(&method, path).unwrap_or_else(|| Fault::Method {
        method: method.to_string(),
        allowed: if path.ends_with("/search") { "POST" } else { "GET, HEAD" },
    });
    refusal(&fault, path)
}
