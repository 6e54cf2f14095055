//! settle_workflow, settle_workflows, settle_pending, settle_backlog and exempt_pending.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid, pg_sys};
use serde::Serialize;

use super::common::{at_least_one, before_now, refuse_read_only, required, to_json};
use crate::binding::{Bound, bound_and_locked};
use crate::error::{Error, Result};
use crate::ledger::account;
use crate::postgres::clock::now;
use crate::postgres::commit::MayCommit;
use crate::postgres::jsonb::{Jsonb, Value};
use crate::settle::charge::Charge;
use crate::settle::exempt;
use crate::settle::occasion::Occasion;
use crate::settle::sweep::{self, Moments};
use crate::settle::{Workflow, settle, usage};

/// The answer of `settle_workflow`. Amounts are tokens.
struct Settlement {
    /// Of the single account; null when there are several or none.
    previous_balance: Option<i64>,
    new_balance: Option<i64>,
    workflow_id: String,
    /// How it ended: `settled` if something was charged, `already_settled` if all usage was
    /// accounted for before, `no_usage` if the workflow is known and has none.
    status: &'static str,
    charges: Vec<Charge>,
}

impl Settlement {
    fn to_jsonb(&self) -> Jsonb {
        let charges = &self.charges;
        // What this call charged, over all accounts.
        let tokens_used: i128 = charges.iter().map(|charge| i128::from(charge.tokens)).sum();
        // Whether an account that this call charged, or the single one, is below zero.
        let is_overdraft = charges
            .iter()
            .map(|charge| charge.new_balance)
            .chain(self.new_balance)
            .any(|balance| balance < 0);
        let charges = charges.iter().map(|charge| {
            Value::Object(vec![
                ("user_id", Value::Text(&charge.account)),
                ("tokens_used", Value::Number(charge.tokens.into())),
                (
                    "previous_balance",
                    Value::Number(charge.previous_balance.into()),
                ),
                ("new_balance", Value::Number(charge.new_balance.into())),
                ("is_overdraft", Value::Boolean(charge.new_balance < 0)),
            ])
        });
        let answer = Value::Object(vec![
            ("success", Value::Boolean(true)),
            ("previous_balance", self.previous_balance.into()),
            ("tokens_used", Value::Number(tokens_used)),
            ("new_balance", self.new_balance.into()),
            ("is_overdraft", Value::Boolean(is_overdraft)),
            ("workflow_id", Value::Text(&self.workflow_id)),
            ("status", Value::Text(self.status)),
            ("charges", Value::Array(charges.collect())),
        ]);
        answer.to_jsonb()
    }
}

/// `settle_workflow(text) → jsonb`: charge what the workflow has used and nobody was charged for.
///
/// Errors: 22004 for a null id, P0002 for an id that neither the workflow table nor the usage
/// knows, 23503 for usage of an account that does not exist, 22003 for a charge out of the balance's
/// range, 21000 if several accounts could pay, 40001 and 40P01 to be retried, 25006 in a read-only
/// transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn settle_workflow_text(workflow_id: Option<&str>) -> Result<Jsonb, ErrorReport> {
    Ok(settle_one(workflow_id)?)
}

/// `settle_workflow(bigint) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn settle_workflow_bigint(workflow_id: Option<i64>) -> Result<Jsonb, ErrorReport> {
    Ok(settle_one(workflow_id.map(|id| id.to_string()).as_deref())?)
}

/// `settle_workflow(uuid) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn settle_workflow_uuid(workflow_id: Option<Uuid>) -> Result<Jsonb, ErrorReport> {
    Ok(settle_one(workflow_id.map(|id| id.to_string()).as_deref())?)
}

fn settle_one(id: Option<&str>) -> Result<Jsonb> {
    let function = "settle_workflow";
    let id = required(function, "workflow_id", id)?;
    refuse_read_only(c"settle_workflow()");
    let bound = bound_and_locked()?;
    let workflow = bound.binding.workflow_id(id);
    let settled = settle(&bound, vec![workflow], &Occasion::Caller)?;
    let mut workflows = settled.workflows;
    let Some(workflow) = workflows.pop() else {
        unreachable!("one workflow was settled");
    };
    if !workflow.has_usage && !usage::workflow_exists(&bound, &workflow.id)? {
        return Err(Error::UnknownWorkflow {
            workflow: workflow.id,
        });
    }
    Ok(answer(&bound, workflow, settled.charges)?.to_jsonb())
}

fn answer(bound: &Bound, workflow: Workflow, charges: Vec<Charge>) -> Result<Settlement> {
    let (previous_balance, new_balance) = match (&charges[..], &workflow.accounts[..]) {
        ([only], _) => (Some(only.previous_balance), Some(only.new_balance)),
        ([], [only]) => {
            let balance = account::balance_now(&bound.book, only)?;
            (balance, balance)
        }
        _ => (None, None),
    };
    Ok(Settlement {
        previous_balance,
        new_balance,
        workflow_id: workflow.id,
        status: match (charges.is_empty(), workflow.has_usage) {
            (false, _) => "settled",
            (true, true) => "already_settled",
            (true, false) => "no_usage",
        },
        charges,
    })
}

/// `token_balance.settle_workflows(text[]) → rows`: settle several workflows as one, one row per
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
            name!(binding, Option<String>),
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
    let bound = bound_and_locked()?;
    let workflows = ids.iter().map(|id| bound.binding.workflow_id(id)).collect();
    let settled = settle(&bound, workflows, &Occasion::Caller)?;
    for workflow in settled.workflows {
        if !workflow.has_usage && !usage::workflow_exists(&bound, &workflow.id)? {
            return Err(Error::UnknownWorkflow {
                workflow: workflow.id,
            }
            .into());
        }
    }
    Ok(TableIterator::new(settled.charges.into_iter().map(
        |charge| {
            (
                charge.workflow,
                charge.account,
                charge.tokens,
                charge.previous_balance,
                charge.new_balance,
                None,
            )
        },
    )))
}

/// `token_balance.settle_pending(timestamptz, integer, interval) → jsonb`: settle completed workflows that
/// have unsettled usage; with `idle` also those whose newest usage is older than that. Bad charges are warnings.
///
/// Errors: 22023 for max_workflows below 1, an interval below 0, or one where the usage has no time; 40001 and 40P01
/// to be retried, 25006 in a read-only transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn settle_pending_or_idle(
    since: Option<TimestampWithTimeZone>,
    max_workflows: Option<i32>,
    idle: Option<Interval>,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.settle_pending";
    let max_workflows = required(function, "max_workflows", max_workflows)?;
    let max_workflows = at_least_one("max_workflows", max_workflows)?;
    let idle_since = idle.map(|idle| before_now("idle", &idle)).transpose()?;
    refuse_read_only(c"token_balance.settle_pending()");
    let moments = Moments {
        since: since.map(Into::into),
        idle_since,
    };
    Ok(to_json(&sweep::settle_pending(moments, max_workflows)?)?)
}

/// `token_balance.settle_pending` as 0.2.0 declares it, for databases that are not updated yet.
#[pg_extern(sql = false)]
fn settle_pending(
    since: Option<TimestampWithTimeZone>,
    max_workflows: Option<i32>,
) -> Result<JsonB, ErrorReport> {
    settle_pending_or_idle(since, max_workflows, None)
}

/// `CALL token_balance.settle_backlog(integer, boolean)`: settle all that is pending, with a commit
/// a batch.
///
/// Errors: 22023 for batch_size below 1, 2D000 inside a transaction block, else as `settle_pending`.
#[pg_extern(sql = false)]
fn settle_backlog(
    batch_size: Option<i32>,
    existing: Option<bool>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<(), ErrorReport> {
    let function = "token_balance.settle_backlog";
    let batch_size = required(function, "batch_size", batch_size)?;
    let existing = required(function, "existing", existing)?;
    let batch_size = at_least_one("batch_size", batch_size)?;
    // SAFETY: the server's own fcinfo.
    let commits = unsafe { MayCommit::of(fcinfo) }.ok_or(Error::InTransaction { function })?;
    refuse_read_only(c"token_balance.settle_backlog()");
    Ok(sweep::settle_backlog(batch_size, existing, commits)?)
}

/// The answer of `exempt_pending`.
#[derive(Serialize)]
struct Exempted {
    workflows: usize,
    pairs: usize,
    tokens_exempt: i128,
}

/// `token_balance.exempt_pending(timestamptz) → jsonb`: forgive what waits, completed runs and open ones alike; with
/// `until`, what is older than that.
///
/// Errors: 22023 for a time that is to come, or where the usage has none; 40001 and 40P01 to be retried, 25006 in a
/// read-only transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn exempt_pending(until: Option<TimestampWithTimeZone>) -> Result<JsonB, ErrorReport> {
    let until = until.map(pg_sys::TimestampTz::from);
    if until.is_some_and(|until| until > now()) {
        return Err(Error::InvalidArgument {
            message: "until is in the future".into(),
            detail: None,
            hint: Some(
                "Usage is still to come that would be exempt: use a time that is past.".into(),
            ),
        }
        .into());
    }
    refuse_read_only(c"token_balance.exempt_pending()");
    let exempted = exempt::exempt_pending(until)?;
    Ok(to_json(&Exempted {
        workflows: exempted.workflows,
        pairs: exempted.pairs,
        tokens_exempt: exempted.tokens,
    })?)
}
