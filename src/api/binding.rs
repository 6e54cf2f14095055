//! attach, detach, reset, verify and reconcile.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AnyNumeric, JsonB, pg_sys};
use serde::Serialize;

use super::common::{binding_at, refuse_read_only, required, to_json};
use crate::attach::{self, Identity, Said};
use crate::binding::attach_arguments::{Argument, Kind, Value};
use crate::binding::{Spec, Which, bindings, relation_of};
use crate::error::{Error, Result};
use crate::postgres::call::{self, Given};
use crate::reports::usage_state::State;
use crate::reports::{reconcile, suggest, usage_state, verify};

/// `token_balance.attach(…) → void`; the arguments are described in `docs/binding.md`.
///
/// Errors: 22004, 22023 for arguments that make no sense; 42P01, 42809, 42703, 42804, 42830, 42611
/// for tables and columns that cannot be bound; 3F000 for a schema that does not exist; 42501 for a
/// caller that does not own them; 55000 if other tables are attached.
#[pg_extern(sql = false)]
fn attach_by_name(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    // SAFETY: the server's own fcinfo.
    let mut given = unsafe { call::arguments(fcinfo) };
    let create_index = match given.remove("create_index") {
        Some(Some(Given::Flag(create_index))) => create_index,
        _ => required("token_balance.attach", "create_index", None)?,
    };
    // Older declarations do not have it.
    let dry_run = match given.remove("dry_run") {
        Some(Some(Given::Flag(dry_run))) => dry_run,
        Some(_) => required("token_balance.attach", "dry_run", None)?,
        None => false,
    };
    let spec = Spec::of_arguments(|argument| match given.remove(argument.name) {
        Some(Some(given)) => value(argument, given).map(Some),
        Some(None) => Ok(Some(Value::Null)),
        None => Ok(None),
    })?;
    let mut identity = |argument| match given.remove(argument) {
        Some(Some(Given::Text(word))) => identity(argument, &word).map(Some),
        _ => Ok(None),
    };
    let said = Said {
        usage_ids: identity("usage_ids")?,
        accounts: identity("accounts")?,
        dry_run,
    };
    if !dry_run {
        refuse_read_only(c"token_balance.attach()");
    }
    spec.refuse_two_completions()?;
    attach::attach(spec.normalized(), create_index, said)?;
    Ok(())
}

/// `token_balance.attach_again() → void`: bind what is attached once more, with what is remembered. Errors: as of
/// `attach`; 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn attach_again(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    refuse_read_only(c"token_balance.attach_again()");
    Ok(attach::attach_again(binding_at(fcinfo, 0).as_deref())?)
}

/// Error 22023 for a word that it does not know.
fn identity(argument: &'static str, word: &str) -> Result<Identity> {
    match word {
        "same" => Ok(Identity::Same),
        "new" => Ok(Identity::New),
        _ => Err(Error::InvalidArgument {
            message: format!("{argument} is \"{word}\""),
            detail: None,
            hint: Some("Use 'same' or 'new'.".into()),
        }),
    }
}

/// Errors: 22004 for a null in an array, 42P01 for a relation that does not exist.
fn value(argument: &Argument, given: Given) -> Result<Value> {
    Ok(match given {
        Given::Oid(oid) if argument.kind == Kind::Type => Value::Type(oid),
        Given::Oid(oid) => Value::Relation(relation_of(oid)?),
        Given::Text(text) => Value::Text(text),
        Given::Texts(texts) => {
            let texts: Option<_> = texts.into_iter().collect();
            Value::Texts(texts.ok_or(Error::NullInside {
                function: "token_balance.attach",
                argument: argument.name,
            })?)
        }
        Given::Number(number) => Value::Number(number),
        Given::Flag(_) => Value::Null,
    })
}

/// `token_balance.attach` as 0.2.0 declares it, for databases that are not updated yet.
#[pg_extern(sql = false)]
fn attach_tables(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    attach_by_name(fcinfo)
}

/// `token_balance.attach` as 0.1.0 declares it, for databases that are not updated yet.
#[pg_extern(sql = false)]
fn attach(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    attach_by_name(fcinfo)
}

/// `token_balance.attach_by_convention(text) → void`: what CREATE EXTENSION calls. It never fails
/// for tables that are missing or unusual.
#[pg_extern(sql = false)]
fn attach_by_convention(schema: &str) -> Result<(), ErrorReport> {
    Ok(attach::attach_by_convention(schema)?)
}

/// `token_balance.upgrade_grants(regprocedure, regprocedure) → void`: what an update script calls
/// for a function that takes another one's place.
#[pg_extern(sql = false)]
fn upgrade_grants(before: pg_sys::Oid, after: pg_sys::Oid) -> Result<(), ErrorReport> {
    Ok(attach::upgrade_grants(before, after)?)
}

/// `token_balance.upgrade_binding() → void`: what an update script calls for the bound tables.
#[pg_extern(sql = false)]
fn upgrade_binding() -> Result<(), ErrorReport> {
    Ok(attach::upgrade()?)
}

/// `token_balance.detach(boolean) → void`. Errors: 22004 for null, 42501 for a caller that does not own the bound
/// tables, 55000 if nothing is attached, 55006 in a transaction that has deferred completions.
#[pg_extern(sql = false)]
fn detach(drop_column: Option<bool>, fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    let drop_column = required("token_balance.detach", "drop_column", drop_column)?;
    refuse_read_only(c"token_balance.detach()");
    Ok(attach::detach(
        binding_at(fcinfo, 1).as_deref(),
        drop_column,
    )?)
}

/// The answer of `reset`: how many rows are gone.
#[derive(Serialize)]
struct Reset {
    settlements: u64,
    ledger_entries: u64,
    queued_charges: u64,
    references: u64,
}

/// `token_balance.reset() → jsonb`: forget what is known of workflows and accounts that are gone, all of them.
///
/// Errors: 25006 in a read-only transaction, 55000 if nothing is attached, or if users or usage has a row.
#[pg_extern(sql = false)]
fn reset(fcinfo: pg_sys::FunctionCallInfo) -> Result<JsonB, ErrorReport> {
    refuse_read_only(c"token_balance.reset()");
    let reset = attach::reset(binding_at(fcinfo, 0).as_deref())?;
    Ok(to_json(&Reset {
        settlements: reset.settlements,
        ledger_entries: reset.of_accounts.entries,
        queued_charges: reset.of_accounts.queued,
        references: reset.of_accounts.references,
    })?)
}

/// `token_balance.verify() → rows`: one row per check.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn verify(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(name, String),
            name!(ok, bool),
            name!(detail, String),
            name!(hint, Option<String>),
            name!(binding, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let checks = verify::verify(binding_at(fcinfo, 0).as_deref())?;
    Ok(TableIterator::new(checks.into_iter().map(|check| {
        (
            check.name,
            check.ok,
            check.detail,
            check.hint,
            check.binding,
        )
    })))
}

/// `token_balance.suggestions() → rows`: calls of attach that fit this database, best first.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn suggestions() -> Result<
    TableIterator<
        'static,
        (
            name!(rank, i32),
            name!(call, Option<String>),
            name!(reasons, String),
            name!(remarks, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let proposals = (1..).zip(suggest::suggest()?);
    Ok(TableIterator::new(proposals.map(|(rank, proposal)| {
        let remarks = proposal.remarks.join("\n");
        (
            rank,
            proposal.call,
            proposal.reasons.join("\n"),
            (!remarks.is_empty()).then_some(remarks),
        )
    })))
}

/// `token_balance.suggest() → lines`: the same, to read and to paste.
#[pg_extern(sql = false)]
fn suggest_lines() -> Result<SetOfIterator<'static, String>, ErrorReport> {
    Ok(SetOfIterator::new(suggest::lines()?))
}

/// `token_balance.reconcile() → rows`: everything that does not add up; no row if all does.
/// Amounts are tokens.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn reconcile(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(problem, String),
            name!(user_id, Option<String>),
            name!(workflow_id, Option<String>),
            name!(expected, Option<AnyNumeric>),
            name!(found, Option<AnyNumeric>),
            name!(hint, String),
            name!(binding, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let name = binding_at(fcinfo, 0);
    let problems = reconcile::reconcile(name.as_deref())?.map(|problem| match problem {
        Ok(problem) => (
            problem.problem,
            problem.account,
            problem.workflow,
            problem.expected.map(AnyNumeric::from),
            problem.found.map(AnyNumeric::from),
            problem.hint,
            problem.binding,
        ),
        Err(error) => error.raise(),
    });
    Ok(TableIterator::new(problems))
}

/// `token_balance.usage_state() → rows`: what has become of the usage, by state and reason. Amounts are tokens,
/// null where they cannot be counted.
///
/// Errors: 55000 if nothing is attached.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn usage_state(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(binding, String),
            name!(state, String),
            name!(reason, Option<String>),
            name!(workflows, i64),
            name!(usage_rows, i64),
            name!(tokens, Option<AnyNumeric>),
            name!(oldest, Option<TimestampWithTimeZone>),
            name!(newest, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let name = binding_at(fcinfo, 0);
    let mut sums = Vec::new();
    for bound in bindings(Which::Named(name.as_deref()))?.or_warn()? {
        let of_binding = usage_state::usage_state(&bound)?.into_iter();
        sums.extend(of_binding.map(|(state, sum)| (bound.name().to_owned(), state, sum)));
    }
    Ok(TableIterator::new(sums.into_iter().map(
        |(name, state, sum)| {
            (
                name,
                state.name().to_owned(),
                state.reason().map(str::to_owned),
                sum.workflows,
                sum.rows,
                counted(state, sum.tokens),
                moment(sum.oldest),
                moment(sum.newest),
            )
        },
    )))
}

/// `token_balance.unsettled_usage() → rows`: what waits, and what nobody owns, by workflow and account. Amounts are
/// tokens.
///
/// Errors: 55000 if nothing is attached.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn unsettled_usage(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(binding, String),
            name!(workflow_id, Option<String>),
            name!(user_id, Option<String>),
            name!(state, String),
            name!(reason, Option<String>),
            name!(usage_rows, i64),
            name!(tokens, Option<AnyNumeric>),
            name!(oldest, Option<TimestampWithTimeZone>),
            name!(newest, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let name = binding_at(fcinfo, 0);
    let bounds = bindings(Which::Named(name.as_deref()))?.or_warn()?;
    let found = bounds.into_iter().flat_map(|bound| {
        let name = bound.name().to_owned();
        match usage_state::unsettled(bound) {
            Ok(found) => Box::new(found.map(move |one| one.map(|one| (name.clone(), one)))),
            Err(error) => Box::new(std::iter::once(Err(error))) as Box<dyn Iterator<Item = _>>,
        }
    });
    let found = found.map(|unsettled| match unsettled {
        Ok((name, unsettled)) => (
            name,
            unsettled.workflow,
            unsettled.account,
            unsettled.state.name().to_owned(),
            unsettled.state.reason().map(str::to_owned),
            unsettled.sum.rows,
            counted(unsettled.state, unsettled.sum.tokens),
            moment(unsettled.sum.oldest),
            moment(unsettled.sum.newest),
        ),
        Err(error) => error.raise(),
    });
    Ok(TableIterator::new(found))
}

/// Null for what cannot be counted.
fn counted(state: State, tokens: i128) -> Option<AnyNumeric> {
    state.is_counted().then(|| AnyNumeric::from(tokens))
}

fn moment(moment: Option<pg_sys::TimestampTz>) -> Option<TimestampWithTimeZone> {
    moment.and_then(|moment| moment.try_into().ok())
}
