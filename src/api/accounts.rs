//! balance, credit, adjust, refund_workflow, statement, balance_at, summary and overdrawn.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::TimestampTz;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AnyNumeric, JsonB, PgLogLevel, pg_sys};
use serde::Serialize;

use super::common::{
    binding_at, in_bindings, refuse_read_only, refuse_unknown, required, signed_tokens, to_json,
    tokens, warn_of_moved,
};
use crate::binding::{
    Book, Which, bindings, bindings_and_users_locked, book, book_and_users_locked,
    is_one_of_several,
};
use crate::error::{Error, Result};
use crate::ledger::account;
use crate::ledger::archive_table::ArchiveTable;
use crate::ledger::credit::{self, Remarks};
use crate::ledger::moved;
use crate::postgres::call;
use crate::reports::{overdrawn, statement, summary};
use crate::settle::refund;
use crate::settle::retention::returned;
use crate::settle::shares::OfBinding;

/// A summary reaches back a century at most.
const MOST_DAYS: i32 = 36_500;

/// The answer of `balance`. Amounts are tokens.
#[derive(Serialize)]
struct Balance {
    token_balance: i64,
    is_overdraft: bool,
}

/// The answer of `credit`. Amounts are tokens.
#[derive(Serialize)]
struct Credit {
    success: bool,
    user_id: String,
    amount: i64,
    previous_balance: i64,
    new_balance: i64,
    is_overdraft: bool,
    reference: Option<String>,
    /// Whether an earlier call with this reference did it.
    replayed: bool,
}

/// The answer of `adjust`. Amounts are tokens.
#[derive(Serialize)]
struct Adjustment {
    success: bool,
    user_id: String,
    amount: i64,
    previous_balance: i64,
    new_balance: i64,
    is_overdraft: bool,
}

/// The answer of `refund_workflow`. Amounts are tokens.
#[derive(Serialize)]
struct Refund {
    success: bool,
    workflow_id: String,
    amount: i128,
    reference: Option<String>,
    replayed: bool,
    refunds: Vec<AccountRefund>,
}

#[derive(Serialize)]
struct AccountRefund {
    user_id: String,
    amount: i64,
    previous_balance: i64,
    new_balance: i64,
    is_overdraft: bool,
    /// Left out where one binding alone is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<String>,
}

/// The canonical account that a caller named. A malformed id is its type's own error.
fn account_id(book: &Book, user_id: &str) -> String {
    book.accounts.user_key.key_type.canonical_or_raise(user_id)
}

/// `token_balance.balance(text) → jsonb`: the balance of an account.
///
/// Errors: 22004 for a null id, P0002 for an unknown account, 55000 if nothing is attached.
#[pg_extern(sql = false)]
pub(super) fn balance(
    user_id: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.balance";
    let id = required(function, "user_id", user_id)?;
    let book = book(binding_at(fcinfo, 1).as_deref())?;
    let account = account_id(&book, id);
    moved::refuse(&book, &account)?;
    let balance = account::balance_of(&book, &account)?.ok_or(Error::UnknownAccount { account })?;
    Ok(to_json(&Balance {
        token_balance: balance,
        is_overdraft: balance < 0,
    })?)
}

/// `token_balance.credit(text, numeric, text, text) → jsonb`: give tokens to an account. The same
/// reference again for the account answers as the first time and changes nothing.
///
/// Errors: 22004 for nulls, 22023 for an amount that is not a whole number above 0 or a reference of
/// more than 255 characters, 22003 for an amount past bigint or the balance's range, P0002 for an
/// unknown account, 23505 for a reference that belongs to something else, 25006 in a read-only
/// transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
pub(super) fn credit(
    user_id: Option<&str>,
    amount: Option<AnyNumeric>,
    reference: Option<&str>,
    note: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.credit";
    let user_id = required(function, "user_id", user_id)?;
    let amount = tokens("amount", &required(function, "amount", amount)?)?;
    let remarks = remarks(reference, note)?;
    refuse_read_only(c"token_balance.credit()");
    let book = book_and_users_locked(binding_at(fcinfo, 4).as_deref())?;
    let account = account_id(&book, user_id);
    let outcome = credit::credit(&book, &account, amount, &remarks)?;
    let given = outcome.given.into_iter().next();
    let given = given.ok_or(Error::UnknownAccount { account })?;
    Ok(to_json(&Credit {
        success: true,
        user_id: given.account,
        amount: given.amount,
        previous_balance: given.previous_balance,
        new_balance: given.new_balance,
        is_overdraft: given.new_balance < 0,
        reference: remarks.reference,
        replayed: outcome.replayed,
    })?)
}

/// `token_balance.adjust(text, numeric, text) → jsonb`: change a balance by hand, whatever `outside_changes`
/// says of statements.
///
/// Errors: 22004 for nulls, 22023 for an amount that is not a whole number above or below 0, 22003 for an
/// amount past bigint or the balance's range, P0002 for an unknown account, 25006 in a read-only transaction,
/// 55000 if nothing is attached.
#[pg_extern(sql = false)]
pub(super) fn adjust(
    user_id: Option<&str>,
    amount: Option<AnyNumeric>,
    note: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.adjust";
    let user_id = required(function, "user_id", user_id)?;
    let amount = signed_tokens("amount", &required(function, "amount", amount)?)?;
    refuse_read_only(c"token_balance.adjust()");
    let book = book_and_users_locked(binding_at(fcinfo, 3).as_deref())?;
    let account = account_id(&book, user_id);
    let given = credit::adjust(&book, &account, amount, note)?;
    Ok(to_json(&Adjustment {
        success: true,
        user_id: given.account,
        amount: given.amount,
        previous_balance: given.previous_balance,
        new_balance: given.new_balance,
        is_overdraft: given.new_balance < 0,
    })?)
}

fn remarks(reference: Option<&str>, note: Option<&str>) -> Result<Remarks> {
    let remarks = Remarks {
        reference: reference.map(str::to_owned),
        note: note.map(str::to_owned),
    };
    remarks.check()?;
    Ok(remarks)
}

/// `token_balance.refund_workflow(text, numeric, text, text, name, regclass) → jsonb`: give back what a workflow was
/// charged, all that is left or a part, to the accounts that paid, in proportion; in all bindings, unless one is named.
/// With an archive, settlements of it come back from there first.
///
/// Errors: as `credit`; 22023 for more than was charged less what was refunded, or for an amount where several bindings
/// have charged it and none is named, P0002 for an unknown workflow; of an archive as `archive_settlements`, and 22023 for
/// one where none of the binding were archived.
#[pg_extern(sql = false)]
pub(super) fn refund_workflow(
    workflow_id: Option<&str>,
    amount: Option<AnyNumeric>,
    reference: Option<&str>,
    note: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.refund_workflow";
    let id = required(function, "workflow_id", workflow_id)?;
    let amount = amount.map(|amount| tokens("amount", &amount)).transpose()?;
    let remarks = remarks(reference, note)?;
    refuse_read_only(c"token_balance.refund_workflow()");
    let name = binding_at(fcinfo, 4);
    let bounds = bindings_and_users_locked(Which::Named(name.as_deref()))?.or_warn()?;
    let of = in_bindings(bounds, id)?;
    let workflow = of[0].workflow.clone();
    // SAFETY: the server's own fcinfo, of a function that is declared with a regclass there, or with fewer arguments.
    let archive = unsafe { call::relation_at(fcinfo, 5) };
    let archive = archive
        .map(|archive| returned::archive_of(&of, archive))
        .transpose()?;
    let outcome = refund::refund(&of, amount, &remarks, archive.as_ref());
    let outcome = outcome.map_err(|error| match error {
        Error::RefundTooLarge {
            workflow,
            amount,
            left,
            ..
        } => Error::RefundTooLarge {
            workflow,
            amount,
            left,
            // It may have been settled again since it left.
            archives: other_archives(&of, archive.as_ref()).unwrap_or_default(),
        },
        error => error,
    })?;
    let (given, replayed) = match outcome {
        Some(outcome) => {
            if !outcome.replayed {
                warn_of_moved(&of)?;
            }
            (outcome.given, outcome.replayed)
        }
        None => {
            tell_of_archives(&of, amount, archive.as_ref())?;
            refuse_unknown(&of)?;
            (Vec::new(), false)
        }
    };
    let total = given.iter().map(|given| i128::from(given.amount)).sum();
    if let Some(amount) = amount.map(i128::from)
        && amount > total
    {
        return Err(Error::RefundTooLarge {
            workflow,
            amount,
            left: 0,
            archives: Vec::new(),
        }
        .into());
    }
    let is_one_of_several = is_one_of_several()?;
    let refunds = given.into_iter().map(|given| AccountRefund {
        user_id: given.account,
        amount: given.amount,
        previous_balance: given.previous_balance,
        new_balance: given.new_balance,
        is_overdraft: given.new_balance < 0,
        binding: given.binding.filter(|_| is_one_of_several),
    });
    Ok(to_json(&Refund {
        success: true,
        workflow_id: workflow,
        amount: total,
        reference: remarks.reference,
        replayed,
        refunds: refunds.collect(),
    })?)
}

/// Where settlements of these bindings went, but for the archive that was looked into.
fn other_archives(
    of: &[OfBinding],
    looked_into: Option<&ArchiveTable>,
) -> Result<Vec<String>, Error> {
    let mut archives = returned::archives(of)?;
    archives.retain(|archive| looked_into.is_none_or(|it| it.table.sql != *archive));
    Ok(archives)
}

/// A workflow without a settlement may have had one that is archived: a warning; or an error where an amount was asked for or
/// an archive named, or where nobody knows the workflow.
fn tell_of_archives(
    of: &[OfBinding],
    amount: Option<i64>,
    looked_into: Option<&ArchiveTable>,
) -> Result<(), Error> {
    let archives = other_archives(of, looked_into)?;
    let looked_into = looked_into.map(|archive| archive.table.sql.clone());
    if archives.is_empty() && looked_into.is_none() {
        return Ok(());
    }
    let is_known = match refuse_unknown(of) {
        Err(Error::UnknownWorkflow { .. }) => false,
        known => known.map(|()| true)?,
    };
    let is_error = !is_known || amount.is_some() || looked_into.is_some();
    let error = Error::SettlementArchived {
        workflow: of[0].workflow.clone(),
        is_known,
        looked_into,
        archives,
    };
    match is_error {
        true => Err(error),
        false => {
            error.report(PgLogLevel::WARNING);
            Ok(())
        }
    }
}

/// `token_balance.statement(text, timestamptz, timestamptz) → rows`: the ledger of an account, from
/// `since` on and before `until`, in order.
///
/// Errors: 22004 for a null id, 22023 for `until` before `since`, P0002 for an unknown account,
/// 55000 if nothing is attached.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
pub(super) fn statement(
    user_id: Option<&str>,
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
    let user_id = required("token_balance.statement", "user_id", user_id)?;
    let (since, until) = (since.map(TimestampTz::from), until.map(TimestampTz::from));
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(Error::InvalidArgument {
            message: "until is before since".into(),
            detail: None,
            hint: Some("The statement goes from since on to before until.".into()),
        }
        .into());
    }
    let book = book(binding_at(fcinfo, 3).as_deref())?;
    let account = account_id(&book, user_id);
    moved::refuse(&book, &account)?;
    let lines = statement::statement(&book, &account, since, until)?;
    Ok(TableIterator::new(lines.into_iter().map(|line| {
        (
            line.entry_id,
            timestamp(line.created_at),
            line.kind,
            line.amount,
            line.previous_balance,
            line.new_balance,
            line.workflow_id,
            line.reference,
            line.note,
            line.actor,
        )
    })))
}

fn timestamp(moment: TimestampTz) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(moment).ok()
}

/// `token_balance.balance_at(text, timestamptz) → bigint`: the balance of an account at a moment, by
/// the ledger. Tokens.
///
/// Errors: 22004 for nulls, P0002 for an unknown account, 55000 if nothing is attached.
#[pg_extern(sql = false)]
pub(super) fn balance_at(
    user_id: Option<&str>,
    at: Option<TimestampWithTimeZone>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<i64, ErrorReport> {
    let function = "token_balance.balance_at";
    let user_id = required(function, "user_id", user_id)?;
    let at = required(function, "at", at)?;
    let book = book(binding_at(fcinfo, 2).as_deref())?;
    let account = account_id(&book, user_id);
    moved::refuse(&book, &account)?;
    Ok(statement::balance_at(&book, &account, at.into())?)
}

/// `token_balance.summary(text, integer) → jsonb`: an account's usage of the last days, by stage and
/// by model, with its newest records and its balance.
///
/// Errors: 22004 for nulls, 22023 for days past a century, P0002 for an unknown account, 55000 if nothing is
/// attached.
#[pg_extern(sql = false)]
pub(super) fn summary(
    user_id: Option<&str>,
    days: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.summary";
    let user_id = required(function, "user_id", user_id)?;
    let days = required(function, "days", days)?;
    if days > MOST_DAYS {
        return Err(Error::InvalidArgument {
            message: format!("days is {days}"),
            detail: None,
            hint: Some(format!("Use at most {MOST_DAYS} days.")),
        }
        .into());
    }
    let name = binding_at(fcinfo, 2);
    let book = book(name.as_deref())?;
    let account = account_id(&book, user_id);
    moved::refuse(&book, &account)?;
    // Without a name there is one set of accounts, and each binding charges them.
    let bounds = bindings(Which::Named(name.as_deref()))?.all()?;
    Ok(to_json(&summary::summary(&bounds, &account, days)?)?)
}

/// `token_balance.overdrawn_accounts() → rows`: the accounts below zero, for the view `overdrawn`.
///
/// Errors: 55000 if nothing is attached.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn overdrawn_accounts(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(user_id, String),
            name!(token_balance, i64),
            name!(since, Option<TimestampWithTimeZone>),
            name!(binding, String),
        ),
    >,
    ErrorReport,
> {
    let accounts = overdrawn::overdrawn(binding_at(fcinfo, 0).as_deref())?;
    Ok(TableIterator::new(accounts.into_iter().map(|account| {
        (
            account.account,
            account.balance,
            account.since.and_then(timestamp),
            account.binding,
        )
    })))
}
