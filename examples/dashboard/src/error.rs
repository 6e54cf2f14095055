//! What a request is refused with: a status, and a JSON body that says why.

use std::error::Error;

use axum::Json;
use axum::http::header::{HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use deadpool_postgres::PoolError;
use serde_json::json;
use tokio_postgres::error::SqlState;

#[derive(Debug)]
pub enum ApiError {
    NoToken,
    RefusedToken,
    /// A parameter of the request; the text says what it may be.
    Invalid(&'static str),
    UnknownTimeZone,
    NoAccount,
    NotFound,
    MethodNotAllowed,
    NotAnOperator,
    /// The database does not let the operator's role do it.
    MayNot,
    /// An account, or a run, that an operator names.
    Unknown,
    /// The database refuses what an operator asks for, and its message says why.
    Refused(String),
    /// The reference stands for another credit or refund.
    ReferenceUsed(String),
    /// Others hold the account.
    Busy,
    /// The database does not answer; it may again in a moment.
    Unavailable,
    /// The service or the database is set up wrong. The reason is in the log.
    Internal,
}

impl ApiError {
    fn parts(&self) -> (StatusCode, &'static str, &str) {
        use StatusCode as S;
        match self {
            ApiError::NoToken => (S::UNAUTHORIZED, "no_token", "This needs a bearer token."),
            ApiError::RefusedToken => (
                S::UNAUTHORIZED,
                "invalid_token",
                "The token is not valid, or no longer.",
            ),
            ApiError::Invalid(message) => (S::UNPROCESSABLE_ENTITY, "invalid_parameter", message),
            ApiError::UnknownTimeZone => (
                S::UNPROCESSABLE_ENTITY,
                "unknown_time_zone",
                "tz is no time zone that the database knows.",
            ),
            ApiError::NoAccount => (
                S::NOT_FOUND,
                "no_account",
                "The token's user has no account.",
            ),
            ApiError::NotFound => (S::NOT_FOUND, "not_found", "There is nothing here."),
            ApiError::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "There is no such method here.",
            ),
            ApiError::NotAnOperator => (
                S::FORBIDDEN,
                "not_an_operator",
                "The token is not an operator's.",
            ),
            ApiError::MayNot => (
                S::FORBIDDEN,
                "may_not",
                "The database does not let this operator's role do that.",
            ),
            ApiError::Unknown => (
                S::NOT_FOUND,
                "unknown_id",
                "No account and no run has this id.",
            ),
            ApiError::Refused(message) => (S::UNPROCESSABLE_ENTITY, "refused", message),
            ApiError::ReferenceUsed(message) => (S::CONFLICT, "reference_used", message),
            ApiError::Busy => (
                S::SERVICE_UNAVAILABLE,
                "account_busy",
                "Others hold this account. Nothing was changed. Try again in a moment.",
            ),
            ApiError::Unavailable => (
                S::SERVICE_UNAVAILABLE,
                "database_unavailable",
                "The database does not answer. Try again in a moment.",
            ),
            ApiError::Internal => (
                S::INTERNAL_SERVER_ERROR,
                "internal",
                "This cannot be answered. The service's log says why.",
            ),
        }
    }

    /// The header that the status asks for (RFC 9110, RFC 6750).
    fn header(&self) -> Option<(HeaderName, &'static str)> {
        match self {
            ApiError::NoToken => Some((WWW_AUTHENTICATE, r#"Bearer realm="token-usage""#)),
            ApiError::RefusedToken => Some((
                WWW_AUTHENTICATE,
                r#"Bearer realm="token-usage", error="invalid_token""#,
            )),
            ApiError::Unavailable | ApiError::Busy => Some((RETRY_AFTER, "5")),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, message) = self.parts();
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = self.header() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let body = json!({ "error": { "code": code, "message": message } });
        (status, headers, Json(body)).into_response()
    }
}

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            // No connection in time.
            error => {
                eprintln!("database: {error}");
                ApiError::Unavailable
            }
        }
    }
}

impl From<tokio_postgres::Error> for ApiError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // No account has an id that its type does not even read.
            Some(refusal) if is_no_account(refusal.code()) => return ApiError::NoAccount,
            // Of the parameters only the zone can be one that the database refuses.
            Some(refusal) if *refusal.code() == SqlState::INVALID_PARAMETER_VALUE => {
                return ApiError::UnknownTimeZone;
            }
            _ => eprintln!("database: {}", reason(&error)),
        }
        match error.code() {
            Some(state) if !passes(state) => ApiError::Internal,
            _ => ApiError::Unavailable,
        }
    }
}

/// The error with what it came from; by itself it is as short as "db error".
pub fn reason(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", reason(source)),
        None => error.to_string(),
    }
}

/// What the database's answer to an operator means: an operator names accounts and runs, and may be told more.
pub fn of_operator(error: tokio_postgres::Error) -> ApiError {
    let Some(refusal) = error.as_db_error() else {
        return error.into();
    };
    let message = refusal.message().to_owned();
    match refusal.code() {
        state if *state == SqlState::INSUFFICIENT_PRIVILEGE => {
            // It may be a grant that is missing.
            eprintln!("database: {}", reason(&error));
            ApiError::MayNot
        }
        state if *state == SqlState::UNIQUE_VIOLATION => ApiError::ReferenceUsed(message),
        state if *state == SqlState::LOCK_NOT_AVAILABLE => ApiError::Busy,
        state
            if [
                SqlState::INVALID_PARAMETER_VALUE,
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                SqlState::CHECK_VIOLATION,
            ]
            .contains(state) =>
        {
            ApiError::Refused(message)
        }
        state if is_no_account(state) => ApiError::Unknown,
        _ => error.into(),
    }
}

fn is_no_account(state: &SqlState) -> bool {
    [
        &SqlState::NO_DATA_FOUND,
        &SqlState::INVALID_TEXT_REPRESENTATION,
        &SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
    ]
    .contains(&state)
}

/// Faults that pass without anybody changing the set-up: the server starts, stops, is full or busy.
fn passes(state: &SqlState) -> bool {
    ["08", "40", "53", "57"].contains(&&state.code()[..2])
}
