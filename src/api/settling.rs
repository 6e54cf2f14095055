//! settle_workflow, settle_workflows, settle_pending, settle_backlog and exempt_pending.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, PgLogLevel, Uuid, pg_sys};
use serde::Serialize;

use super::common::{
    at_least_one, before_now, binding_at, canonical_workflow, refuse_read_only, required, to_json,
};
use crate::binding::{Which, bindings_locked, is_one_of_several};
use crate::counters::Counter;
use crate::error::{Error, Result};
use crate::ledger::account;
use crate::postgres::clock::now;
use crate::postgres::commit::MayCommit;
use crate::postgres::jsonb::{Jsonb, Value};
use crate::settle::charge::Charge;
use crate::settle::exempt;
use crate::settle::occasion::Occasion;
use crate::settle::sweep::{self, Moments};
use crate::settle::work::Work;
use crate::settle::{Settled, settle, usage};

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
    /// The names of the bindings that they are of; empty where one alone is attached.
    bindings: Vec<String>,
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
        // In the order in which jsonb has its keys: by length, then by bytes.
        let charges = charges.iter().map(|charge| {
            let binding = self.bindings.get(charge.place);
            let binding = binding.map(|name| ("binding", Value::Text(name)));
            let rest = [
                ("user_id", Value::Text(&charge.account)),
                ("new_balance", Value::Number(charge.new_balance.into())),
                ("tokens_used", Value::Number(charge.tokens.into())),
                ("is_overdraft", Value::Boolean(charge.new_balance < 0)),
                (
                    "previous_balance",
                    Value::Number(charge.previous_balance.into()),
                ),
            ];
            Value::Object(binding.into_iter().chain(rest).collect())
        });
        let answer = Value::Object(vec![
            ("status", Value::Text(self.status)),
            ("charges", Value::Array(charges.collect())),
            ("success", Value::Boolean(true)),
            ("new_balance", self.new_balance.into()),
            ("tokens_used", Value::Number(tokens_used)),
            ("workflow_id", Value::Text(&self.workflow_id)),
            ("is_overdraft", Value::Boolean(is_overdraft)),
            ("previous_balance", self.previous_balance.into()),
        ]);
        answer.to_jsonb()
    }
}

/// `settle_workflow(text, name) → jsonb`: charge what the workflow has used and nobody was charged for, in all bindings
/// that know it, unless one is named.
///
/// Errors: 22004 for a null id, P0002 for an id that neither the workflow table nor the usage
/// knows, 23503 for usage of an account that does not exist, 22003 for a charge out of the balance's
/// range, 21000 if several accounts could pay, 40001 and 40P01 to be retried, 25006 in a read-only
/// transaction, 55000 if nothing is attached, 42704 if none is attached by the name.
#[pg_extern(sql = false)]
fn settle_workflow_text(
    workflow_id: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Jsonb, ErrorReport> {
    Ok(settle_one(workflow_id, fcinfo)?)
}

/// `settle_workflow(bigint, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn settle_workflow_bigint(
    workflow_id: Option<i64>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Jsonb, ErrorReport> {
    let id = workflow_id.map(|id| id.to_string());
    Ok(settle_one(id.as_deref(), fcinfo)?)
}

/// `settle_workflow(uuid, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn settle_workflow_uuid(
    workflow_id: Option<Uuid>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Jsonb, ErrorReport> {
    let id = workflow_id.map(|id| id.to_string());
    Ok(settle_one(id.as_deref(), fcinfo)?)
}

fn settle_one(id: Option<&str>, fcinfo: pg_sys::FunctionCallInfo) -> Result<Jsonb> {
    let function = "settle_workflow";
    let id = required(function, "workflow_id", id)?;
    refuse_read_only(c"settle_workflow()");
    let name = binding_at(fcinfo, 1);
    let done = settle_ids(&[id.to_owned()], name.as_deref(), Counter::ByFunction)?;
    Ok(answer(id, done)?.to_jsonb())
}

/// Settle workflows in the binding of this name, or in all that know them. One that is broken is left out with a WARNING
/// where another knows them all. Error P0002 for an id that nobody knows.
fn settle_ids(ids: &[String], name: Option<&str>, by: Counter) -> Result<Vec<Settled>> {
    let found = bindings_locked(Which::Named(name))?;
    if found.whole.is_empty() {
        found.all()?;
        return Ok(Vec::new());
    }
    let is_only = found.whole.len() == 1;
    let works = found.whole.into_iter().map(|bound| Work {
        workflows: ids
            .iter()
            .filter_map(|id| canonical_workflow(&bound, id, is_only))
            .collect(),
        bound,
        occasion: Occasion::Caller,
    });
    let settled = settle(works.collect(), by)?;
    let mut broken = found.broken.into_iter();
    if let Some(workflow) = unknown(ids, &settled, is_only)? {
        // It may be of one that is broken.
        let unknown = Error::UnknownWorkflow { workflow };
        return Err(broken.next().map_or(unknown, |(_, error)| error));
    }
    for (_, error) in broken {
        error.report(PgLogLevel::WARNING);
    }
    Ok(settled)
}

/// The first of the ids that no binding knows.
fn unknown(ids: &[String], settled: &[Settled], is_only: bool) -> Result<Option<String>> {
    if let [only] = settled
        && is_only
    {
        for workflow in &only.workflows {
            if !workflow.has_usage && !usage::workflow_exists(&only.bound, &workflow.id)? {
                return Ok(Some(workflow.id.clone()));
            }
        }
        return Ok(None);
    }
    'ids: for id in ids {
        for Settled {
            bound, workflows, ..
        } in settled
        {
            let Some(id) = canonical_workflow(bound, id, is_only) else {
                continue;
            };
            let place = workflows.binary_search_by(|workflow| workflow.id.cmp(&id));
            let has_usage = place.is_ok_and(|place| workflows[place].has_usage);
            if has_usage || usage::workflow_exists(bound, &id)? {
                continue 'ids;
            }
        }
        return Ok(Some(id.clone()));
    }
    Ok(None)
}

fn answer(id: &str, done: Vec<Settled>) -> Result<Settlement> {
    let bindings = match is_one_of_several()? {
        true => done.iter().map(|it| it.bound.name().to_owned()).collect(),
        false => Vec::new(),
    };
    let (mut charges, mut accounts) = (Vec::new(), Vec::new());
    let (mut workflow_id, mut has_usage) = (None, false);
    for settled in done {
        charges.extend(settled.charges);
        for workflow in settled.workflows {
            has_usage |= workflow.has_usage;
            workflow_id.get_or_insert(workflow.id);
            let of_workflow = workflow.accounts.into_iter();
            accounts.extend(of_workflow.map(|account| (settled.bound.clone(), account)));
        }
    }
    let (previous_balance, new_balance) = match (&charges[..], &accounts[..]) {
        ([only], _) => (Some(only.previous_balance), Some(only.new_balance)),
        ([], [(bound, only)]) => {
            let balance = account::balance_now(&bound.book, only)?;
            (balance, balance)
        }
        _ => (None, None),
    };
    Ok(Settlement {
        previous_balance,
        new_balance,
        workflow_id: workflow_id.unwrap_or_else(|| id.to_owned()),
        status: match (charges.is_empty(), has_usage) {
            (false, _) => "settled",
            (true, true) => "already_settled",
            (true, false) => "no_usage",
        },
        charges,
        bindings,
    })
}

/// `token_balance.settle_workflows(text[], name) → rows`: settle several workflows as one, one row per
/// charge. Repeated ids count once; errors as of `settle_workflow`.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn settle_workflows(
    workflow_ids: Option<Vec<Option<String>>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(workflow_id, String),
            name!(user_id, String),
            name!(charged_tokens, i64),
            name!(previous_balance, i64),
            name!(new_balance, i64),
            name!(binding, String),
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
    let name = binding_at(fcinfo, 1);
    let mut charges = Vec::new();
    for Settled {
        bound,
        charges: of_binding,
        ..
    } in settle_ids(&ids, name.as_deref(), Counter::ByBatch)?
    {
        let of_binding = of_binding.into_iter();
        charges.extend(of_binding.map(|charge| (charge, bound.name().to_owned())));
    }
    let rows = charges.into_iter().map(|(charge, binding)| {
        (
            charge.workflow,
            charge.account,
            charge.tokens,
            charge.previous_balance,
            charge.new_balance,
            binding,
        )
    });
    Ok(TableIterator::new(rows))
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
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let name = binding_at(fcinfo, 3);
    sweep_pending(since, max_workflows, idle, name.as_deref())
}

fn sweep_pending(
    since: Option<TimestampWithTimeZone>,
    max_workflows: Option<i32>,
    idle: Option<Interval>,
    name: Option<&str>,
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
    Ok(to_json(&sweep::settle_pending(
        name,
        moments,
        max_workflows,
    )?)?)
}

/// `token_balance.settle_pending` as 0.2.0 declares it, for databases that are not updated yet.
#[pg_extern(sql = false)]
fn settle_pending(
    since: Option<TimestampWithTimeZone>,
    max_workflows: Option<i32>,
) -> Result<JsonB, ErrorReport> {
    sweep_pending(since, max_workflows, None, None)
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
    let name = binding_at(fcinfo, 2);
    Ok(sweep::settle_backlog(
        name.as_deref(),
        batch_size,
        existing,
        commits,
    )?)
}

/// The answer of `exempt_pending`.
#[derive(Serialize)]
struct Exempted {
    workflows: usize,
    pairs: usize,
    tokens_exempt: i128,
}

/// `token_balance.exempt_pending(timestamptz, name) → jsonb`: forgive what waits, completed runs and open ones alike; with
/// `until`, what is older than that.
///
/// Errors: 22023 for a time that is to come, where the usage has none, or where several bindings are attached and none is
/// named; 40001 and 40P01 to be retried, 25006 in a
/// read-only transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn exempt_pending(
    until: Option<TimestampWithTimeZone>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
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
    let exempted = exempt::exempt_pending(binding_at(fcinfo, 1).as_deref(), until)?;
    Ok(to_json(&Exempted {
        workflows: exempted.workflows,
        pairs: exempted.pairs,
        tokens_exempt: exempted.tokens,
    })?)
}
