//! The routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use crate::App;
use crate::auth::User;
use crate::error::ApiError;
use crate::{events, operator, page};

const DEFAULT_DAYS: i32 = 30;
/// A year: what the page can show, and what a request may cost.
const MOST_DAYS: i32 = 366;

pub fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/balance", get(balance))
        .route("/summary", get(summary))
        .route("/statement", get(statement))
        .route("/events", get(events::stream));
    Router::new()
        .nest("/api/v1/token-usage", api)
        .nest("/api/v1/operator", operator::router())
        .route("/healthz", get(health))
        .merge(page::router())
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::map_response(page::harden))
        .with_state(app)
}

/// JSON text that the database made. It is one user's: nobody keeps it.
pub fn json(text: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}

async fn balance(State(app): State<Arc<App>>, user: User) -> Result<Response, ApiError> {
    app.database.balance(&user.id).await.map(json)
}

async fn summary(
    State(app): State<Arc<App>>,
    user: User,
    period: Period,
) -> Result<Response, ApiError> {
    app.database.summary(&user.id, &period).await.map(json)
}

async fn statement(
    State(app): State<Arc<App>>,
    user: User,
    period: Period,
) -> Result<Response, ApiError> {
    app.database.statement(&user.id, &period).await.map(json)
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.database.check().await?;
    Ok(json(r#"{"status":"ok"}"#.into()))
}

/// The days that an answer is about, counted in a time zone, and today is the last of them.
pub struct Period {
    pub days: i32,
    pub time_zone: String,
}

#[derive(Deserialize)]
struct PeriodQuery {
    days: Option<String>,
    tz: Option<String>,
}

impl FromRequestParts<Arc<App>> for Period {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let query: Result<Query<PeriodQuery>, QueryRejection> =
            Query::from_request_parts(parts, app).await;
        let Query(query) =
            query.map_err(|_| ApiError::Invalid("The parameters are days and tz, each once."))?;
        Ok(Period {
            days: query.days.as_deref().map_or(Ok(DEFAULT_DAYS), days)?,
            time_zone: query.tz.map_or(Ok("UTC".into()), time_zone)?,
        })
    }
}

fn days(text: &str) -> Result<i32, ApiError> {
    // The parser would take a plus sign, which in a query stands for a space.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(days) if digits && (1..=MOST_DAYS).contains(&days) => Ok(days),
        _ => Err(ApiError::Invalid("days is a whole number from 1 to 366.")),
    }
}

/// A name like Asia/Shanghai. Whether there is such a zone the database knows.
fn time_zone(name: String) -> Result<String, ApiError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        Ok(name)
    } else {
        Err(ApiError::UnknownTimeZone)
    }
}
