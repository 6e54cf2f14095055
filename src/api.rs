//! The functions that people call from SQL, and the shape of their answers.
//!
//! Their SQL declarations, with names, defaults and grants, are in `sql/functions.sql`; COMMENTs
//! are in `sql/comments.sql`.

use std::ffi::CStr;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Array, JsonB, Uuid, pg_sys};
use serde::Serialize;

use crate::account;
use crate::binding::{self, Options, Spec};
use crate::cache::{self, Bound};
use crate::error::{Error, Result};
use crate::settle::{self, Asked, Charge};

/// How a settlement ended.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// Something was charged.
    Settled,
    /// All usage was accounted for before.
    AlreadySettled,
    /// The workflow is known and has no usage.
    NoUsage,
}

/// The answer of `settle_workflow`. Amounts are tokens.
#[derive(Serialize)]
struct Settlement {
    success: bool,
    /// Of the single account; null when there are several or none.
    previous_balance: Option<i64>,
    /// What this call charged, over all accounts.
    tokens_used: i128,
    new_balance: Option<i64>,
    /// Whether an account that this call charged, or the single one, is below zero.
    is_overdraft: bool,
    workflow_id: String,
    status: Status,
    charges: Vec<AccountCharge>,
}

#[derive(Serialize)]
struct AccountCharge {
    user_id: String,
    tokens_used: i64,
    previous_balance: i64,
    new_balance: i64,
    is_overdraft: bool,
}

impl From<Charge> for AccountCharge {
    fn from(charge: Charge) -> Self {
        AccountCharge {
            user_id: charge.account,
            tokens_used: charge.tokens,
            previous_balance: charge.previous_balance,
            new_balance: charge.new_balance,
            is_overdraft: charge.new_balance < 0,
        }
    }
}

/// The answer of `balance`. Amounts are tokens.
#[derive(Serialize)]
struct Balance {
    token_balance: i64,
    is_overdraft: bool,
}

/// `settle_workflow(text) → jsonb`: charge what the workflow has used and nobody was charged for.
///
/// Errors: 22004 for a null id, P0002 for an id that neither the workflow table nor the usage
/// knows, 23503 for usage of an account that does not exist, 22003 for a charge out of the balance's
/// range, 21000 if several accounts could pay, 40001 and 40P01 to be retried, 25006 in a read-only
/// transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn settle_workflow_text(workflow_id: Option<&str>) -> Result<JsonB, ErrorReport> {
    Ok(settle_one(workflow_id)?)
}

/// `settle_workflow(bigint) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn settle_workflow_bigint(workflow_id: Option<i64>) -> Result<JsonB, ErrorReport> {
    Ok(settle_one(workflow_id.map(|id| id.to_string()).as_deref())?)
}

/// `settle_workflow(uuid) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn settle_workflow_uuid(workflow_id: Option<Uuid>) -> Result<JsonB, ErrorReport> {
    Ok(settle_one(workflow_id.map(|id| id.to_string()).as_deref())?)
}

fn settle_one(id: Option<&str>) -> Result<JsonB> {
    let function = "settle_workflow";
    let id = id.ok_or(Error::NullArgument {
        function,
        argument: "workflow_id",
    })?;
    refuse_read_only(c"settle_workflow()");
    let bound = cache::bound_and_locked()?;
    let workflow = bound.binding.workflow_id(id);
    let (charges, settled) = settle::settle(&bound, &mut vec![workflow.clone()], &Asked::ByCall)?;
    let mut accounts = Vec::new();
    let mut has_usage = false;
    for one in settled {
        accounts = one.accounts;
        has_usage = one.has_usage;
    }
    if !has_usage && !settle::workflow_exists(&bound, &workflow)? {
        return Err(Error::UnknownWorkflow { workflow });
    }
    let answer = answer(&bound, workflow, has_usage, accounts, charges)?;
    to_json(&answer)
}

fn answer(
    bound: &Bound,
    workflow_id: String,
    has_usage: bool,
    accounts: Vec<String>,
    charges: Vec<Charge>,
) -> Result<Settlement> {
    let (previous_balance, new_balance) = match (&charges[..], &accounts[..]) {
        ([only], _) => (Some(only.previous_balance), Some(only.new_balance)),
        ([], [only]) => {
            let balance = account::balance_of(bound, only)?;
            (balance, balance)
        }
        _ => (None, None),
    };
    let is_overdraft = charges
        .iter()
        .map(|charge| charge.new_balance)
        .chain(new_balance)
        .any(|balance| balance < 0);
    Ok(Settlement {
        success: true,
        previous_balance,
        tokens_used: charges.iter().map(|charge| i128::from(charge.tokens)).sum(),
        new_balance,
        is_overdraft,
        workflow_id,
        status: match (charges.is_empty(), has_usage) {
            (false, _) => Status::Settled,
            (true, true) => Status::AlreadySettled,
            (true, false) => Status::NoUsage,
        },
        charges: charges.into_iter().map(AccountCharge::from).collect(),
    })
}

/// `token_balance.settle_workflows(text[]) → rows`: settle several workflows as one, one row a
/// charge. Repeated ids count once; errors as of `settle_workflow`.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn settle_workflows(
    workflow_ids: Option<Vec<Option<String>>>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(workflow_id, String),
            name!(user_id, String),
            name!(charged_tokens, i64),
            name!(previous_balance, i64),
            name!(new_balance, i64),
        ),
    >,
    ErrorReport,
> {
    let function = "token_balance.settle_workflows";
    let argument = "workflow_ids";
    let ids: Vec<String> = workflow_ids
        .ok_or(Error::NullArgument { function, argument })?
        .into_iter()
        .collect::<Option<_>>()
        .ok_or(Error::NullInside { function, argument })?;
    refuse_read_only(c"token_balance.settle_workflows()");
    let bound = cache::bound_and_locked()?;
    let mut workflows: Vec<_> = ids.iter().map(|id| bound.binding.workflow_id(id)).collect();
    let (charges, settled) = settle::settle(&bound, &mut workflows, &Asked::ByCall)?;
    for (workflow, settled) in workflows.iter().zip(settled) {
        if !settled.has_usage && !settle::workflow_exists(&bound, workflow)? {
            return Err(Error::UnknownWorkflow {
                workflow: workflow.clone(),
            }
            .into());
        }
    }
    Ok(TableIterator::new(charges.into_iter().map(|charge| {
        (
            charge.workflow,
            charge.account,
            charge.tokens,
            charge.previous_balance,
            charge.new_balance,
        )
    })))
}

/// `token_balance.balance(text) → jsonb`: the balance of an account.
///
/// Errors: 22004 for a null id, P0002 for an unknown account, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn balance(user_id: Option<&str>) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.balance";
    let id = user_id.ok_or(Error::NullArgument {
        function,
        argument: "user_id",
    })?;
    let bound = cache::bound()?;
    let account = bound.binding.user_key.key_type.canonical_or_raise(id);
    let balance =
        account::balance_of(&bound, &account)?.ok_or(Error::UnknownAccount { account })?;
    Ok(to_json(&Balance {
        token_balance: balance,
        is_overdraft: balance < 0,
    })?)
}

/// `token_balance.attach(…) → void`; the arguments are described in the README.
///
/// Errors: 22004, 22023 for arguments that make no sense; 42P01, 42809, 42703, 42804, 42830, 42611
/// for tables and columns that cannot be bound; 42501 for a caller who does not own them; 55000 if
/// other tables are attached.
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
        usage_tokens: tokens
            .iter()
            .map(|token| token.map(name))
            .collect::<Option<_>>()
            .ok_or(null_inside("usage_tokens"))?,
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
        existing_usage: required("existing_usage", existing_usage)?.to_owned(),
    };
    let options = Options {
        balance_type: required("balance_type", balance_type)?,
        create_index: required("create_index", create_index)?,
    };
    binding::attach(spec.normalized(), &options)?;
    Ok(())
}

/// `token_balance.attach_by_convention(text) → void`: what CREATE EXTENSION calls. It never fails
/// for tables that are missing or unusual.
#[pg_extern(sql = false)]
fn attach_by_convention(schema: &str) -> Result<(), ErrorReport> {
    Ok(binding::attach_by_convention(schema)?)
}

/// `token_balance.detach(boolean) → void`. Errors: 42501 for a caller who does not own the bound
/// tables, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn detach(drop_column: Option<bool>) -> Result<(), ErrorReport> {
    refuse_read_only(c"token_balance.detach()");
    Ok(binding::detach(drop_column.unwrap_or_default())?)
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
    let checks = binding::verify()?;
    Ok(TableIterator::new(checks.into_iter().map(|check| {
        (check.name, check.ok, check.detail, check.hint)
    })))
}

/// The server's own error (25006) in a read-only transaction or on a standby, before any lock.
fn refuse_read_only(command: &CStr) {
    // SAFETY: the string is static.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) }
}

fn to_json(answer: &impl Serialize) -> Result<JsonB> {
    serde_json::to_value(answer)
        .map(JsonB)
        .map_err(|error| Error::Spi {
            code: error.to_string(),
        })
}
