//! The functions of `accounts.rs` for ids of the other types that a key may have, as an application's driver sends them:
//! bigint, which integer and smallint become, and uuid. One function here serves both, by what it is declared with. Those
//! for text have their own, which older releases declared.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AnyNumeric, JsonB, pg_sys};

use super::accounts;
use crate::postgres::call::{self, Id};

/// The text of the first argument.
fn text(id: Option<Id>, fcinfo: pg_sys::FunctionCallInfo) -> Option<String> {
    // SAFETY: the server's own fcinfo, and the first argument of the function that it calls.
    id.and_then(|id| unsafe { call::id(fcinfo, 0, id) })
}

/// `token_balance.balance(bigint | uuid, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn balance_by_key(
    user_id: Option<Id>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    accounts::balance(text(user_id, fcinfo).as_deref(), fcinfo)
}

/// `token_balance.credit(bigint | uuid, numeric, text, text, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn credit_by_key(
    user_id: Option<Id>,
    amount: Option<AnyNumeric>,
    reference: Option<&str>,
    note: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let user_id = text(user_id, fcinfo);
    accounts::credit(user_id.as_deref(), amount, reference, note, fcinfo)
}

/// `token_balance.adjust(bigint | uuid, numeric, text, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn adjust_by_key(
    user_id: Option<Id>,
    amount: Option<AnyNumeric>,
    note: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    accounts::adjust(text(user_id, fcinfo).as_deref(), amount, note, fcinfo)
}

/// `token_balance.refund_workflow(bigint | uuid, numeric, text, text, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn refund_workflow_by_key(
    workflow_id: Option<Id>,
    amount: Option<AnyNumeric>,
    reference: Option<&str>,
    note: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let workflow_id = text(workflow_id, fcinfo);
    accounts::refund_workflow(workflow_id.as_deref(), amount, reference, note, fcinfo)
}

/// `token_balance.statement(bigint | uuid, timestamptz, timestamptz, name) → rows`, as the one for text.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn statement_by_key(
    user_id: Option<Id>,
    since: Option<TimestampWithTimeZone>,
    until: Option<TimestampWithTimeZone>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(entry_id, Option<i64>),
            name!(created_at, Option<TimestampWithTimeZone>),
            name!(kind, String),
            name!(amount, i64),
            name!(previous_balance, i64),
            name!(new_balance, i64),
            name!(workflow_id, Option<String>),
            name!(reference, Option<String>),
            name!(note, Option<String>),
            name!(actor, String),
        ),
    >,
    ErrorReport,
> {
    accounts::statement(text(user_id, fcinfo).as_deref(), since, until, fcinfo)
}

/// `token_balance.balance_at(bigint | uuid, timestamptz, name) → bigint`, as the one for text.
#[pg_extern(sql = false)]
fn balance_at_by_key(
    user_id: Option<Id>,
    at: Option<TimestampWithTimeZone>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<i64, ErrorReport> {
    accounts::balance_at(text(user_id, fcinfo).as_deref(), at, fcinfo)
}

/// `token_balance.summary(bigint | uuid, integer, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn summary_by_key(
    user_id: Option<Id>,
    days: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    accounts::summary(text(user_id, fcinfo).as_deref(), days, fcinfo)
}
