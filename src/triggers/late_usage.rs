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
use std::rc::Rc;

use pgrx::pg_sys::TEXTOID;

use super::notes::{is_done, leave_unsettled, read_noted, remember_done, take_noted};
use crate::binding::{
    Binding, Bound, Kept, LateUsage, Which, bindings_and_workflows_locked, bindings_locked,
    completed, is_part_of,
};
use crate::error::Result;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::trigger::{TriggerCall, trigger_function};
use crate::postgres::value::Arg;
use crate::settle::lock::lock_written;
use crate::settle::occasion::Occasion;
use crate::settle::old_usage::tell_of_old_usage;
use crate::settle::settle;
use crate::settle::settlement::was_settled_sql;
use crate::settle::work::Work;

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

/// Trigger on a usage table, AFTER INSERT FOR EACH ROW: settle the row's workflow if that is over,
/// and with it those of all rows that are noted, in all bindings of the table.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled; so is all usage
/// while the workflow table, say, is gone. Errors: 39P01 if fired otherwise, 42809 on any other table,
/// 55000 if nothing is attached.
fn settle_late_usage(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    if is_done(&row.place()) {
        return Ok(());
    }
    let bounds = match bindings_and_workflows_locked(Which::OfUsage(call.relation()))?.all() {
        Ok(bounds) => bounds,
        Err(error) if error.is_broken_binding() => {
            return leave_unsettled(call, &row.place(), error);
        }
        Err(error) => return Err(error),
    };
    if bounds.is_empty() {
        return Err(call.foreign());
    }
    let settles = |bound: &&Rc<Bound>| bound.binding.spec.options.late_usage == LateUsage::Settle;
    let bounds: Vec<_> = bounds.iter().filter(settles).collect();
    let Some(first) = bounds.first() else {
        return Ok(());
    };
    let also = take_noted(&row.place(), |table| {
        is_part_of(table, first.binding.usage.oid)
    })?;
    let mut written = Vec::with_capacity(bounds.len());
    for bound in bounds {
        let column = &bound.binding.usage_workflow.column.name;
        let mut workflows = BTreeSet::from_iter(row.new_text(column));
        read_noted(&also, |row| workflows.extend(row.text(column)));
        written.push(Written::of(bound, Vec::from_iter(workflows))?);
    }
    settle_what_is_over(written)?;
    remember_done(also);
    Ok(())
}

/// Workflows whose usage was written, of one binding.
struct Written {
    bound: Rc<Bound>,
    over: Vec<String>,
    open: Vec<String>,
}

impl Written {
    fn of(bound: &Rc<Bound>, workflows: Vec<String>) -> Result<Self> {
        // One alone is mostly open, and has no order.
        let (over, open) = match workflows.len() {
            0 | 1 => (Vec::new(), workflows),
            _ => partition_over(bound, workflows)?,
        };
        Ok(Written {
            bound: bound.clone(),
            over,
            open,
        })
    }

    /// Those that are over by now join the others that are. Whether there is any.
    fn look_again(&mut self) -> Result<bool> {
        let (late, still_open) = partition_over(&self.bound, std::mem::take(&mut self.open))?;
        self.open = still_open;
        let is_any = !late.is_empty();
        self.over.extend(late);
        Ok(is_any)
    }
}

/// All locks are taken in the order that everybody keeps, before anything is settled: those of
/// workflows that are over as a settlement takes them. Where one has been completed by the time that
/// its lock was granted, they are all taken again, or one would be waited for out of order.
fn settle_what_is_over(mut written: Vec<Written>) -> Result<()> {
    loop {
        let over = || written.iter().flat_map(|it| &it.over);
        let open = || written.iter().flat_map(|it| &it.open);
        let locks = lock_written(over(), open());
        let mut is_any_late = false;
        for written in &mut written {
            is_any_late |= written.look_again()?;
        }
        if !is_any_late {
            break;
        }
        locks.release();
    }
    written.retain(|written| !written.over.is_empty());
    if written.is_empty() {
        return Ok(());
    }
    let numbers = written.iter().map(|it| it.bound.binding.spec.number());
    let numbers: Vec<_> = numbers.collect();
    let bounds = bindings_locked(Which::Numbered(&numbers))?.all()?;
    let mut works = Vec::with_capacity(bounds.len());
    for bound in bounds {
        let number = bound.binding.spec.number();
        let of_binding = |written: &&Written| written.bound.binding.spec.number() == number;
        let workflows = written.iter().find(of_binding);
        let workflows = workflows.map_or_else(Vec::new, |written| written.over.clone());
        tell_of_old_usage(&bound, &workflows)?;
        works.push(Work {
            bound,
            workflows,
            occasion: Occasion::Sweep,
        });
    }
    settle(works).map(drop)
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
    let _owner = bound.run_as(owner);
    let outcome = bound
        .kept::<Statements>()
        .is_over
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    Ok(outcome.processed == 1)
}
