//! attach, detach, verify and reconcile.

use std::ffi::CStr;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AnyNumeric, Array, pg_sys};

use super::arguments::{refuse_read_only, required};
use crate::attach;
use crate::binding::{self, Options, Spec};
use crate::error::{Error, Result};
use crate::reports::{reconcile, verify};

/// `token_balance.attach(…) → void`; the arguments are described in the README.
///
/// Errors: 22004, 22023 for arguments that make no sense; 42P01, 42809, 42703, 42804, 42830, 42611
/// for tables and columns that cannot be bound; 3F000 for a schema that does not exist; 42501 for a caller who does not own them; 55000 if
/// other tables are attached.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn attach_with_search_path(
    users: Option<pg_sys::Oid>,
    usage: Option<pg_sys::Oid>,
    workflows: Option<pg_sys::Oid>,
    user_key: Option<&CStr>,
    usage_user: Option<&CStr>,
    usage_workflow: Option<&CStr>,
    usage_tokens: Option<Array<&CStr>>,
    workflow_key: Option<&CStr>,
    workflow_user: Option<&CStr>,
    workflow_status: Option<&CStr>,
    workflow_completed_at: Option<&CStr>,
    completed_statuses: Option<Vec<Option<String>>>,
    initial_balance: Option<i64>,
    balance_type: Option<pg_sys::Oid>,
    existing_usage: Option<&str>,
    create_index: Option<bool>,
    usage_prompt_tokens: Option<&CStr>,
    usage_completion_tokens: Option<&CStr>,
    usage_model: Option<&CStr>,
    usage_stage: Option<&CStr>,
    usage_created_at: Option<&CStr>,
    busy_account: Option<&str>,
    late_usage: Option<&str>,
    search_path: Option<Array<&CStr>>,
) -> Result<(), ErrorReport> {
    fn required<T>(argument: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or(Error::NullArgument {
            function: "token_balance.attach",
            argument,
        })
    }
    fn null_inside(argument: &'static str) -> Error {
        Error::NullInside {
            function: "token_balance.attach",
            argument,
        }
    }
    fn name(value: &CStr) -> String {
        value.to_string_lossy().into_owned()
    }
    fn names(argument: &'static str, values: &Array<&CStr>) -> Result<Vec<String>> {
        let names: Option<_> = values.iter().map(|value| value.map(name)).collect();
        names.ok_or(null_inside(argument))
    }
    refuse_read_only(c"token_balance.attach()");
    let users = required("users", users)?;
    let usage = required("usage", usage)?;
    let tokens = required("usage_tokens", usage_tokens)?;
    let statuses = required("completed_statuses", completed_statuses)?;
    let spec = Spec {
        users,
        users_name: binding::name_of(users)?,
        user_key: name(required("user_key", user_key)?),
        usage,
        usage_name: binding::name_of(usage)?,
        usage_user: usage_user.map(name),
        usage_workflow: name(required("usage_workflow", usage_workflow)?),
        usage_tokens: names("usage_tokens", &tokens)?,
        usage_prompt_tokens: usage_prompt_tokens.map(name),
        usage_completion_tokens: usage_completion_tokens.map(name),
        usage_model: usage_model.map(name),
        usage_stage: usage_stage.map(name),
        usage_created_at: usage_created_at.map(name),
        workflows,
        workflows_name: workflows.map(binding::name_of).transpose()?,
        workflow_key: name(required("workflow_key", workflow_key)?),
        workflow_user: workflow_user.map(name),
        workflow_status: workflow_status.map(name),
        workflow_completed_at: workflow_completed_at.map(name),
        completed_statuses: statuses
            .into_iter()
            .collect::<Option<_>>()
            .ok_or(null_inside("completed_statuses"))?,
        initial_balance: required("initial_balance", initial_balance)?,
        balance_type: required("balance_type", balance_type)?,
        existing_usage: required("existing_usage", existing_usage)?.to_owned(),
        options: Options::parse(
            required("busy_account", busy_account)?,
            required("late_usage", late_usage)?,
        )?,
        search_path: search_path
            .map(|schemas| names("search_path", &schemas))
            .transpose()?,
        is_of_older_catalog: false,
    };
    attach::attach(spec.normalized(), required("create_index", create_index)?)?;
    Ok(())
}

/// `token_balance.attach` as 0.2.0 declares it, for databases that are not updated yet: without the
/// search_path.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn attach_tables(
    users: Option<pg_sys::Oid>,
    usage: Option<pg_sys::Oid>,
    workflows: Option<pg_sys::Oid>,
    user_key: Option<&CStr>,
    usage_user: Option<&CStr>,
    usage_workflow: Option<&CStr>,
    usage_tokens: Option<Array<&CStr>>,
    workflow_key: Option<&CStr>,
    workflow_user: Option<&CStr>,
    workflow_status: Option<&CStr>,
    workflow_completed_at: Option<&CStr>,
    completed_statuses: Option<Vec<Option<String>>>,
    initial_balance: Option<i64>,
    balance_type: Option<pg_sys::Oid>,
    existing_usage: Option<&str>,
    create_index: Option<bool>,
    usage_prompt_tokens: Option<&CStr>,
    usage_completion_tokens: Option<&CStr>,
    usage_model: Option<&CStr>,
    usage_stage: Option<&CStr>,
    usage_created_at: Option<&CStr>,
    busy_account: Option<&str>,
    late_usage: Option<&str>,
) -> Result<(), ErrorReport> {
    attach_with_search_path(
        users,
        usage,
        workflows,
        user_key,
        usage_user,
        usage_workflow,
        usage_tokens,
        workflow_key,
        workflow_user,
        workflow_status,
        workflow_completed_at,
        completed_statuses,
        initial_balance,
        balance_type,
        existing_usage,
        create_index,
        usage_prompt_tokens,
        usage_completion_tokens,
        usage_model,
        usage_stage,
        usage_created_at,
        busy_account,
        late_usage,
        None,
    )
}

/// `token_balance.attach` as 0.1.0 declares it, for databases that are not updated yet: without the
/// columns of `summary`.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn attach(
    users: Option<pg_sys::Oid>,
    usage: Option<pg_sys::Oid>,
    workflows: Option<pg_sys::Oid>,
    user_key: Option<&CStr>,
    usage_user: Option<&CStr>,
    usage_workflow: Option<&CStr>,
    usage_tokens: Option<Array<&CStr>>,
    workflow_key: Option<&CStr>,
    workflow_user: Option<&CStr>,
    workflow_status: Option<&CStr>,
    workflow_completed_at: Option<&CStr>,
    completed_statuses: Option<Vec<Option<String>>>,
    initial_balance: Option<i64>,
    balance_type: Option<pg_sys::Oid>,
    existing_usage: Option<&str>,
    create_index: Option<bool>,
) -> Result<(), ErrorReport> {
    attach_tables(
        users,
        usage,
        workflows,
        user_key,
        usage_user,
        usage_workflow,
        usage_tokens,
        workflow_key,
        workflow_user,
        workflow_status,
        workflow_completed_at,
        completed_statuses,
        initial_balance,
        balance_type,
        existing_usage,
        create_index,
        None,
        None,
        None,
        None,
        None,
        Some("wait"),
        Some("pending"),
    )
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

/// `token_balance.detach(boolean) → void`. Errors: 22004 for null, 42501 for a caller who does not own the bound
/// tables, 55000 if nothing is attached, 55006 in a transaction that has deferred completions.
#[pg_extern(sql = false)]
fn detach(drop_column: Option<bool>) -> Result<(), ErrorReport> {
    let drop_column = required("token_balance.detach", "drop_column", drop_column)?;
    refuse_read_only(c"token_balance.detach()");
    Ok(attach::detach(drop_column)?)
}

/// `token_balance.verify() → rows`: one row a check.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn verify() -> Result<
    TableIterator<
        'static,
        (
            name!(name, String),
            name!(ok, bool),
            name!(detail, String),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let checks = verify::verify()?;
    Ok(TableIterator::new(checks.into_iter().map(|check| {
        (check.name, check.ok, check.detail, check.hint)
    })))
}

/// `token_balance.reconcile() → rows`: everything that does not add up; no row if all does.
/// Amounts are tokens.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn reconcile() -> Result<
    TableIterator<
        'static,
        (
            name!(problem, String),
            name!(user_id, Option<String>),
            name!(workflow_id, Option<String>),
            name!(expected, Option<AnyNumeric>),
            name!(found, Option<AnyNumeric>),
            name!(hint, String),
        ),
    >,
    ErrorReport,
> {
    let problems = reconcile::reconcile()?.map(|problem| match problem {
        Ok(problem) => (
            problem.problem,
            problem.account,
            problem.workflow,
            problem.expected.map(AnyNumeric::from),
            problem.found.map(AnyNumeric::from),
            problem.hint,
        ),
        Err(error) => error.raise(),
    });
    Ok(TableIterator::new(problems))
}
