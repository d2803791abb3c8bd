//! The OpenAPI document of `/v1`. Qdrant's part is Qdrant's own to document.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use super::{fault, v1};

/// A row's id: a number or a string, as the index has them.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "stands for `RowId` in the document")]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

#[derive(OpenApi)]
#[openapi(
    info(description = "Nearest rows of published indexes, read-only. `/collections` answers Qdrant's read API beside it."),
    paths(v1::list, v1::describe, v1::search),
    components(schemas(
        Id, fault::ErrorBody, fault::ErrorDetail, v1::IndexList, v1::IndexInfo, v1::AttributeInfo, v1::CertificateInfo, v1::PointInfo,
        v1::RefusedInfo, v1::SearchRequest, v1::SearchResponse, v1::QueryResult, v1::Hit,
    )),
    modifiers(&Keys),
    security((), ("api_key" = []), ("bearer" = []))
)]
struct Document;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(
            "api_key",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("api-key"))),
        );
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

pub(super) fn document() -> String {
    // Writing this document to a string does not fail.
    Document::openapi().to_pretty_json().unwrap_or_default()
}
