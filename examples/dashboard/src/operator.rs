//! The routes of operators: what they look at, and what cashiers give.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Json, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use crate::App;
use crate::api::json;
use crate::auth::Operator;
use crate::desk::{Desk, Gift, GiftKind, Report};
use crate::error::ApiError;

/// Of the extension.
const LONGEST_REFERENCE: usize = 255;
const LONGEST_NOTE: usize = 1000;
/// An id and a reference together fit into an entry of an index.
const LONGEST_ID: usize = 2000;
/// The digits of the largest bigint.
const MOST_DIGITS: usize = 19;
const LARGEST_BODY: usize = 16 * 1024;

pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/me", get(me))
        .route("/account", get(account))
        .route("/statement", get(statement))
        .route("/overdrawn", get(overdrawn))
        .route("/usage", get(usage))
        .route("/queue", get(queue))
        .route("/archived", get(archived))
        .route("/credit", post(credit))
        .route("/refund", post(refund))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

fn desk(app: &App) -> Result<&Desk, ApiError> {
    app.desk.as_ref().ok_or(ApiError::NotFound)
}

/// Who asks, and what the database lets one do.
async fn me(State(app): State<Arc<App>>, operator: Operator) -> Result<Response, ApiError> {
    let may = desk(&app)?.may(operator.duty).await?;
    let name = json!(operator.name);
    let duty = operator.duty.name();
    Ok(json(format!(
        r#"{{"name":{name},"role":"{duty}","may":{may}}}"#
    )))
}

#[derive(Deserialize)]
struct AccountQuery {
    id: String,
    before: Option<String>,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

/// The account's id, and an entry's where one is named.
fn account_of(query: Asked<AccountQuery>) -> Result<(String, Option<i64>), ApiError> {
    const WHAT: &str = "The parameters are id, and before where it is a statement, each once.";
    let Query(AccountQuery { id, before }) = query.map_err(|_| ApiError::Invalid(WHAT))?;
    let before = before.map(|text| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let entry = text.parse().ok().filter(|_| digits);
        entry.ok_or(ApiError::Invalid("before is the id of an entry."))
    });
    Ok((
        id_of(id, "id is 1 to 2000 bytes of text.")?,
        before.transpose()?,
    ))
}

async fn account(
    State(app): State<Arc<App>>,
    operator: Operator,
    query: Asked<AccountQuery>,
) -> Result<Response, ApiError> {
    let (id, _) = account_of(query)?;
    desk(&app)?.account(operator.duty, &id).await.map(json)
}

async fn statement(
    State(app): State<Arc<App>>,
    operator: Operator,
    query: Asked<AccountQuery>,
) -> Result<Response, ApiError> {
    let (id, before) = account_of(query)?;
    let statement = desk(&app)?.statement(operator.duty, &id, before);
    statement.await.map(json)
}

async fn overdrawn(app: State<Arc<App>>, operator: Operator) -> Result<Response, ApiError> {
    report(&app, operator, Report::Overdrawn).await
}

async fn usage(app: State<Arc<App>>, operator: Operator) -> Result<Response, ApiError> {
    report(&app, operator, Report::Usage).await
}

async fn queue(app: State<Arc<App>>, operator: Operator) -> Result<Response, ApiError> {
    report(&app, operator, Report::Queue).await
}

async fn archived(app: State<Arc<App>>, operator: Operator) -> Result<Response, ApiError> {
    report(&app, operator, Report::Archived).await
}

async fn report(app: &App, operator: Operator, report: Report) -> Result<Response, ApiError> {
    desk(app)?.report(operator.duty, report).await.map(json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreditBody {
    account: String,
    /// Text: a script's numbers lose digits.
    amount: String,
    reference: String,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefundBody {
    workflow: String,
    amount: Option<String>,
    reference: String,
    note: Option<String>,
}

type Sent<T> = Result<Json<T>, JsonRejection>;

async fn credit(
    State(app): State<Arc<App>>,
    operator: Operator,
    body: Sent<CreditBody>,
) -> Result<Response, ApiError> {
    const WHAT: &str = "A credit is JSON: account, amount, reference and note are text.";
    let Json(body) = body.map_err(|_| ApiError::Invalid(WHAT))?;
    let account = id_of(body.account, "account is 1 to 2000 bytes of text.")?;
    let gift = Gift {
        kind: GiftKind::Credit { account },
        amount: Some(amount_of(body.amount)?),
        reference: reference_of(body.reference)?,
        note: body.note.map(note_of).transpose()?,
    };
    give(&app, &operator, &gift).await
}

async fn refund(
    State(app): State<Arc<App>>,
    operator: Operator,
    body: Sent<RefundBody>,
) -> Result<Response, ApiError> {
    const WHAT: &str = "A refund is JSON: workflow, amount, reference and note are text.";
    let Json(body) = body.map_err(|_| ApiError::Invalid(WHAT))?;
    let workflow = id_of(body.workflow, "workflow is 1 to 2000 bytes of text.")?;
    let gift = Gift {
        kind: GiftKind::Refund { workflow },
        amount: body.amount.map(amount_of).transpose()?,
        reference: reference_of(body.reference)?,
        note: body.note.map(note_of).transpose()?,
    };
    give(&app, &operator, &gift).await
}

/// Gives, and says in the log who did: the ledger has the role, and not the person.
async fn give(app: &App, operator: &Operator, gift: &Gift) -> Result<Response, ApiError> {
    let given = desk(app)?.give(operator.duty, gift).await;
    let (what, to) = match &gift.kind {
        GiftKind::Credit { account } => ("credit to account", account),
        GiftKind::Refund { workflow } => ("refund of run", workflow),
    };
    let end = match &given {
        Ok(answer) => answer.clone(),
        Err(error) => format!("{error:?}"),
    };
    // With quotes and escapes: no name and no reference begins a line of its own.
    eprintln!(
        "{} {:?}: {what} {to:?}, reference {:?}: {end}",
        operator.duty.name(),
        operator.name,
        gift.reference,
    );
    given.map(json)
}

fn id_of(id: String, what: &'static str) -> Result<String, ApiError> {
    let fits = (1..=LONGEST_ID).contains(&id.len()) && !id.contains('\0');
    fits.then_some(id).ok_or(ApiError::Invalid(what))
}

/// Above zero. Whether it is too much the database says.
fn amount_of(amount: String) -> Result<String, ApiError> {
    let digits = amount.bytes().all(|byte| byte.is_ascii_digit());
    let is_some = amount.bytes().any(|byte| byte != b'0');
    let fits = (1..=MOST_DIGITS).contains(&amount.len());
    (digits && is_some && fits)
        .then_some(amount)
        .ok_or(ApiError::Invalid(
            "amount is a whole number above zero, of at most 19 digits.",
        ))
}

/// Without spaces around it: they cannot be seen, and another reference gives again.
fn reference_of(reference: String) -> Result<String, ApiError> {
    let characters = reference.chars().count();
    let fits = (1..=LONGEST_REFERENCE).contains(&characters);
    let plain = reference.trim() == reference && !reference.chars().any(char::is_control);
    (fits && plain)
        .then_some(reference)
        .ok_or(ApiError::Invalid(
            "reference is 1 to 255 characters of one line, without spaces around them.",
        ))
}

fn note_of(note: String) -> Result<String, ApiError> {
    let fits = note.chars().count() <= LONGEST_NOTE && !note.contains('\0');
    fits.then_some(note).ok_or(ApiError::Invalid(
        "note is at most 1000 characters of text.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_whole_number_above_zero() {
        for good in ["1", "250000", "9223372036854775807", "007"] {
            assert_eq!(amount_of(good.into()).unwrap(), good);
        }
        for bad in [
            "",
            "0",
            "000",
            "-1",
            "+1",
            "1.5",
            "1e3",
            "1,000",
            " 1",
            "NaN",
            "Infinity",
            "١",
            "10000000000000000000000",
        ] {
            assert!(amount_of(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_is_one_line_without_spaces_around_it() {
        for good in ["invoice-7", "发票 7", &"x".repeat(255)] {
            assert_eq!(reference_of(good.into()).unwrap(), good);
        }
        for bad in [
            "",
            " ",
            " a",
            "a ",
            "a\nb",
            "a\0b",
            "\u{3000}a",
            &"x".repeat(256),
        ] {
            assert!(reference_of(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_some_text() {
        assert!(id_of("a' OR '1'='1".into(), "").is_ok());
        for bad in ["", "a\0", &"x".repeat(2001)] {
            assert!(id_of(bad.into(), "").is_err());
        }
    }
}
