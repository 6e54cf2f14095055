//! What the functions of this room check, and how their answers become jsonb.
//!
//! All of them answer in this order: arguments that are null or make no sense; a read-only transaction; that
//! nothing is attached; what is wrong with the tables and rows.

use std::ffi::CStr;
use std::rc::Rc;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::TimestampTz;
use pgrx::{AnyNumeric, JsonB, PgLogLevel, pg_sys};
use serde::Serialize;

use crate::binding::Bound;
use crate::error::{Error, Result};
use crate::postgres::call;
use crate::postgres::clock::now;
use crate::postgres::datum::whole_part;
use crate::postgres::spi;
use crate::postgres::value::{Arg, moment_sql};
use crate::settle::shares::OfBinding;
use crate::settle::usage;

/// The server's own error (25006) in a read-only transaction or on a standby, before any lock.
pub(super) fn refuse_read_only(command: &CStr) {
    // SAFETY: the string is static.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) }
}

pub(super) fn to_json(answer: &impl Serialize) -> Result<JsonB> {
    serde_json::to_value(answer)
        .map(JsonB)
        .map_err(|error| Error::Spi {
            code: error.to_string(),
        })
}

/// The canonical id of a workflow in a binding; None if it can have none by that id. Where the binding is the only one, a
/// malformed id is its type's own error.
pub(super) fn canonical_workflow(bound: &Bound, id: &str, is_only: bool) -> Option<String> {
    match is_only {
        true => Some(bound.binding.workflow_id(id)),
        false => bound.binding.workflow_id_if_possible(id),
    }
}

/// The workflow that a caller named, in each of the bindings in which it can have that id. Error P0002 if it can in none.
pub(super) fn in_bindings(bounds: Vec<Rc<Bound>>, id: &str) -> Result<Vec<OfBinding>> {
    let is_only = bounds.len() == 1;
    let of = bounds.into_iter().filter_map(|bound| {
        let workflow = canonical_workflow(&bound, id, is_only)?;
        Some(OfBinding { bound, workflow })
    });
    let of: Vec<_> = of.collect();
    match of.is_empty() {
        true => Err(Error::UnknownWorkflow {
            workflow: id.to_owned(),
        }),
        false => Ok(of),
    }
}

/// An error (55000) for each account of a workflow that has moved.
fn moved_accounts(of: &[OfBinding]) -> Result<Vec<Error>> {
    let mut errors = Vec::new();
    for one in of {
        let elsewhere = usage::accounts_elsewhere(&one.bound, &one.workflow)?;
        let error = |(account, database)| Error::AccountMoved { account, database };
        errors.extend(elsewhere.into_iter().map(error));
    }
    Ok(errors)
}

/// A warning for each account of a workflow that has moved: what it has paid is given back elsewhere.
pub(super) fn warn_of_moved(of: &[OfBinding]) -> Result<()> {
    for error in moved_accounts(of)? {
        error.report(PgLogLevel::WARNING);
    }
    Ok(())
}

/// Error P0002 for a workflow that neither a workflow table nor usage knows, 55000 for one whose account has moved: what is
/// settled of it is elsewhere.
pub(super) fn refuse_unknown(of: &[OfBinding]) -> Result<()> {
    if let Some(error) = moved_accounts(of)?.into_iter().next() {
        return Err(error);
    }
    for one in of {
        if usage::is_known(&one.bound, &one.workflow)? {
            return Ok(());
        }
    }
    Err(Error::UnknownWorkflow {
        workflow: of[0].workflow.clone(),
    })
}

/// The argument `binding`, at its place among the arguments of a function; None where none is given.
pub(super) fn binding_at(fcinfo: pg_sys::FunctionCallInfo, place: usize) -> Option<String> {
    // SAFETY: the server's own fcinfo, of a function whose last argument is declared as a name, or not at all.
    unsafe { call::name_at(fcinfo, place) }
}

/// Error 22004 for an argument that must not be null.
pub(super) fn required<T>(
    function: &'static str,
    argument: &'static str,
    value: Option<T>,
) -> Result<T> {
    value.ok_or(Error::NullArgument { function, argument })
}

/// Error 22023 for a count below 1.
pub(super) fn at_least_one(argument: &'static str, count: i32) -> Result<usize> {
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::InvalidArgument {
            message: format!("{argument} is {count}"),
            detail: None,
            hint: Some("Use a number above 0.".into()),
        }),
    }
}

/// A number of tokens above 0. SQL declares it numeric, so that one past bigint gets this error
/// (22003) and not the one for a function that does not exist; 22023 for zero, negative or a
/// fraction.
pub(super) fn tokens(argument: &'static str, amount: &AnyNumeric) -> Result<i64> {
    let wanted = "It must be a whole number of tokens above 0.";
    whole_tokens(argument, amount, wanted, |whole| !whole.starts_with('-'))
}

/// The same, above or below 0.
pub(super) fn signed_tokens(argument: &'static str, amount: &AnyNumeric) -> Result<i64> {
    let wanted = "It must be a whole number of tokens, above or below 0.";
    whole_tokens(argument, amount, wanted, |_| true)
}

fn whole_tokens(
    argument: &'static str,
    amount: &AnyNumeric,
    wanted: &str,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<i64> {
    let text = amount.to_string();
    let whole = whole_part(&text);
    let digits = whole.trim_start_matches('-');
    let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_whole || digits.bytes().all(|digit| digit == b'0') || !is_wanted(whole) {
        return Err(Error::InvalidArgument {
            message: format!("{argument} is {text}"),
            detail: Some(wanted.into()),
            hint: None,
        });
    }
    whole.parse().map_err(|_| Error::TokensOutOfRange {
        argument,
        amount: text.clone(),
    })
}

/// Error 22023 for a time that is to come: `rows` are still to be written that would be older.
pub(super) fn past(
    argument: &'static str,
    time: TimestampWithTimeZone,
    rows: &str,
) -> Result<TimestampTz> {
    let time = TimestampTz::from(time);
    if time <= now() {
        return Ok(time);
    }
    Err(Error::InvalidArgument {
        message: format!("{argument} is in the future"),
        detail: None,
        hint: Some(format!(
            "{rows} are still to come that would be older: use a time that is past."
        )),
    })
}

/// The moment that lies an interval before the transaction's own. Error 22023 for an interval below 0.
pub(super) fn before_now(argument: &'static str, interval: &Interval) -> Result<TimestampTz> {
    moment_before(argument, interval, "<", "Use an interval of 0 or above.")
}

/// The same. Error 22023 for an interval that is not above 0.
pub(super) fn some_time_before_now(
    argument: &'static str,
    interval: &Interval,
) -> Result<TimestampTz> {
    moment_before(argument, interval, "<=", "Use an interval above 0.")
}

fn moment_before(
    argument: &'static str,
    interval: &Interval,
    is_wrong: &str,
    hint: &str,
) -> Result<TimestampTz> {
    let text = interval.to_string();
    let outcome = spi::query(
        &format!(
            "SELECT {}, $1::pg_catalog.interval OPERATOR(pg_catalog.{is_wrong}) '0'::pg_catalog.interval",
            // Times begin in 4713 BC.
            moment_sql(
                "(CASE WHEN $1::pg_catalog.interval OPERATOR(pg_catalog.>) '6000 years'::pg_catalog.interval \
                 THEN '-infinity'::timestamp with time zone \
                 ELSE pg_catalog.now() OPERATOR(pg_catalog.-) $1::pg_catalog.interval END)"
            )
        ),
        &[Arg::Text(&text)],
    )?;
    match outcome.rows.first() {
        Some(row) if !row.is_true(1) => row.amount(0),
        _ => Err(Error::InvalidArgument {
            message: format!("{argument} is {text}"),
            detail: None,
            hint: Some(hint.into()),
        }),
    }
}
