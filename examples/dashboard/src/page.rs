//! The pages: files that are part of the program, and the headers that keep them to themselves.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::header::{HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::App;
use crate::error::ApiError;

const HTML: &str = include_str!("../page/index.html");
const STYLE: &str = include_str!("../page/dashboard.css");
const COMMON: &str = include_str!("../page/common.js");
const SCRIPT: &str = include_str!("../page/dashboard.js");
const OPERATOR_HTML: &str = include_str!("../page/operator.html");
const OPERATOR_STYLE: &str = include_str!("../page/operator.css");
const OPERATOR_SCRIPT: &str = include_str!("../page/operator.js");

/// Nothing but the page's own files and its own API; nothing inline; in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", HTML)))
        .route("/dashboard.css", get(async || file("text/css", STYLE)))
        .route("/common.js", get(async || file("text/javascript", COMMON)))
        .route(
            "/dashboard.js",
            get(async || file("text/javascript", SCRIPT)),
        )
        .route("/operator", get(operator))
        .route(
            "/operator.css",
            get(async || file("text/css", OPERATOR_STYLE)),
        )
        .route(
            "/operator.js",
            get(async || file("text/javascript", OPERATOR_SCRIPT)),
        )
}

/// Where operators have no login there is no page for them.
async fn operator(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    match app.desk {
        Some(_) => Ok(file("text/html; charset=utf-8", OPERATOR_HTML)),
        None => Err(ApiError::NotFound),
    }
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    // A new version of the service is a new version of the page.
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}

/// Headers of every answer.
pub async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
