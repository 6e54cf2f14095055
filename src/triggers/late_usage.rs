//! Late usage, `attach(late_usage => 'settle')`: usage that is written after its workflow was settled
//! is charged at once, by a trigger on the usage table.
//!
//! Usage may be written while its workflow is being settled, each transaction blind to the other's
//! rows. So a writer of usage shares a lock on the workflow to the end of its transaction, and a
//! settlement takes it alone: either the settlement waits and sees the row, or the writer waits and
//! sees that the workflow is settled.
//!
//! As with completions, the first event of a statement settles what all of its rows have noted
//! (`notes`): row by row, the accounts of one workflow would be held while the lock of the next
//! is waited for.

use std::collections::BTreeSet;

use pgrx::pg_sys::TEXTOID;

use super::notes::{is_done, leave_unsettled, read_noted, remember_done, take_noted};
use crate::binding::{
    Binding, Bound, Kept, LateUsage, bound_and_locked, bound_and_workflows_locked, completed,
};
use crate::error::Result;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::trigger::{TriggerCall, trigger_function};
use crate::postgres::value::Arg;
use crate::settle::lock::lock_written;
use crate::settle::occasion::Occasion;
use crate::settle::old_usage::tell_of_old_usage;
use crate::settle::settle;
use crate::settle::settlement::was_settled_sql;

struct Statements {
    is_over: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        let workflows = binding.workflows.iter();
        let relations: Vec<_> = workflows.map(|workflows| workflows.table.oid).collect();
        Statements {
            is_over: Statement::new(&is_over_sql(binding), &[TEXTOID]).of(&relations),
        }
    }
}

/// Whether usage of workflow $1 is late: a row of the workflow table says that it is completed.
/// Where there is none, that it was settled once says it.
fn is_over_sql(binding: &Binding) -> String {
    match &binding.workflows {
        Some(workflows) => format!(
            "SELECT 1 FROM {} AS w WHERE {} AND {} LIMIT 1",
            workflows.table.sql,
            workflows.key.key_type.equals_sql(
                &format!("w.{}", workflows.key.sql()),
                binding.usage_workflow.key_type,
                "$1"
            ),
            completed::sql(binding, "w")
        ),
        None => format!("SELECT 1 WHERE {}", was_settled_sql(binding, "$1")),
    }
}

trigger_function!(
    settle_late_usage_wrapper,
    pg_finfo_settle_late_usage_wrapper,
    "token_balance.settle_late_usage",
    settle_late_usage
);

/// Trigger on the usage table, AFTER INSERT FOR EACH ROW: settle the row's workflow if that is over,
/// and with it those of all rows that are noted.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled; so is all usage
/// while the workflow table, say, is gone. Errors: 39P01 if fired otherwise, 42809 on any other table,
/// 55000 if nothing is attached.
fn settle_late_usage(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    if is_done(&row.place()) {
        return Ok(());
    }
    let bound = match bound_and_workflows_locked() {
        Ok(bound) => bound,
        Err(error) if error.is_broken_binding() => {
            return leave_unsettled(call, &row.place(), error);
        }
        Err(error) => return Err(error),
    };
    let binding = &bound.binding;
    if !bound.book.is_part_of(call.relation(), binding.usage.oid)? {
        return Err(call.foreign());
    }
    if binding.spec.options.late_usage != LateUsage::Settle {
        return Ok(());
    }
    let also = take_noted(&row.place(), |table| {
        bound.book.is_part_of(table, binding.usage.oid)
    })?;
    let column = &binding.usage_workflow.column.name;
    let mut workflows = BTreeSet::from_iter(row.new_text(column));
    read_noted(&also, |row| workflows.extend(row.text(column)));
    settle_what_is_over(&bound, workflows)?;
    remember_done(also);
    Ok(())
}

/// All locks are taken in the order that everybody keeps, before anything is settled: those of
/// workflows that are over as a settlement takes them. Where one has been completed by the time that
/// its lock was granted, they are all taken again, or one would be waited for out of order.
fn settle_what_is_over(bound: &Bound, workflows: BTreeSet<String>) -> Result<()> {
    let (mut over, mut open) = (Vec::new(), Vec::from_iter(workflows));
    // One alone is mostly open, and has no order.
    if open.len() > 1 {
        (over, open) = partition_over(bound, open)?;
    }
    loop {
        let locks = lock_written(&over, &open);
        let (late, still_open) = partition_over(bound, open)?;
        if late.is_empty() {
            break;
        }
        locks.release();
        over.extend(late);
        open = still_open;
    }
    if over.is_empty() {
        return Ok(());
    }
    let bound = bound_and_locked()?;
    tell_of_old_usage(&bound, &over)?;
    settle(&bound, over, &Occasion::Sweep)?;
    Ok(())
}

/// Workflows that are over, and others.
fn partition_over(bound: &Bound, workflows: Vec<String>) -> Result<(Vec<String>, Vec<String>)> {
    let (mut over, mut open) = (Vec::new(), Vec::new());
    for workflow in workflows {
        if is_over(bound, &workflow)? {
            over.push(workflow);
        } else {
            open.push(workflow);
        }
    }
    Ok((over, open))
}

fn is_over(bound: &Bound, workflow: &str) -> Result<bool> {
    let owner = match &bound.binding.workflows {
        Some(workflows) => workflows.table.owner,
        None => bound.binding.accounts.extension_owner,
    };
    let _owner = RunAs::owner(owner);
    let outcome = bound
        .kept::<Statements>()
        .is_over
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    Ok(outcome.processed == 1)
}
