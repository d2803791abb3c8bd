//! The page for people, and what programs are told in its place.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::qdrant::SPOKEN_VERSION;
use super::reply::{JSON, response};

/// Nothing but what this server itself sends is loaded or run, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// A browser gets the page; everyone else, Qdrant's clients among them, is told who answers.
pub(super) async fn root(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut answer = match accept.contains("text/html") {
        true => response(StatusCode::OK, "text/html; charset=utf-8", include_str!("page/page.html")),
        false => {
            let title = "annvil: read-only vector search, with the read side of Qdrant's REST API";
            let answer =
                json!({ "title": title, "version": SPOKEN_VERSION, "annvil": env!("CARGO_PKG_VERSION") });
            response(StatusCode::OK, JSON, answer.to_string())
        }
    };
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    answer
}

pub(super) async fn style() -> Response {
    response(StatusCode::OK, "text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> Response {
    response(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page/page.js"))
}
