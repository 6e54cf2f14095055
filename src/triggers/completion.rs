//! The triggers on the workflow table: runs that complete are settled, once per statement.
//!
//! The first event of a statement settles the runs of all its rows (`notes`).

use std::collections::HashMap;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::notes::{Row, is_done, leave_unsettled, note, read_noted, remember_done, take_noted};
use crate::binding::{Binding, Payer, Which, Workflows, bindings_locked, completed, is_part_of};
use crate::counters::Counter;
use crate::error::Result;
use crate::postgres::stored_row::{RowPlace, Versions};
use crate::postgres::trigger::{TriggerCall, trigger_function};
use crate::settle::occasion::Occasion;
use crate::settle::rename;
use crate::settle::settle;
use crate::settle::work::Work;

/// `token_balance.note_completion(oid, tid) → true`, last in the WHEN condition of the completion
/// triggers, and the condition of the one for late usage: note that the row at this place of this
/// table is about to fire one.
///
/// Every writer of these tables evaluates it, so everybody may call it. What is noted is
/// settled only if this transaction wrote that row and it is completed.
#[pg_extern(sql = false)]
fn note_completion(
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
) -> Result<bool, ErrorReport> {
    if let (Some(table), Some(row)) = (table, row) {
        note(Row {
            place: RowPlace::new(table, row),
            before: None,
        });
    }
    Ok(true)
}

/// `token_balance.note_usual_status(text, text, oid, tid)`, the whole WHEN condition of the completion triggers of a table
/// with a status, where the usual ones complete a run: whether it was none of these and now is, and if so,
/// [`note_completion`].
///
/// One call in place of operators, and no constant: the server reads a trigger's condition anew for each statement, byte
/// by byte of a constant, also for one that completes nothing.
#[pg_extern(sql = false)]
fn note_usual_status(
    old: Option<&str>,
    new: Option<&str>,
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
) -> Result<bool, ErrorReport> {
    note_if_completed(old, new, table, row, completed::is_usual)
}

/// `token_balance.note_status(text, text, text, oid, tid)`, the same where other statuses do: those of a list
/// ([`completed::list`]).
#[pg_extern(sql = false)]
fn note_listed_status(
    old: Option<&str>,
    new: Option<&str>,
    completed: Option<&str>,
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
) -> Result<bool, ErrorReport> {
    let completed = completed.unwrap_or_default();
    note_if_completed(old, new, table, row, |status| {
        completed::is_in_list(status, completed)
    })
}

/// `token_balance.note_status(text, text, text[], oid, tid)`, the same: what the triggers call that 0.2.0 has made, and
/// those of statuses that no list can have.
#[pg_extern(sql = false)]
fn note_status(
    old: Option<&str>,
    new: Option<&str>,
    completed: Option<Array<&str>>,
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
) -> Result<bool, ErrorReport> {
    note_if_completed(old, new, table, row, |status| {
        let completed = completed.iter().flat_map(|completed| completed.iter());
        completed::is_one_of(status, completed.flatten())
    })
}

fn note_if_completed(
    old: Option<&str>,
    new: Option<&str>,
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
    is_completed: impl Fn(&str) -> bool,
) -> Result<bool, ErrorReport> {
    if !new.is_some_and(&is_completed) || old.is_some_and(&is_completed) {
        return Ok(false);
    }
    note_completion(table, row)
}

trigger_function!(
    settle_on_completion_wrapper,
    pg_finfo_settle_on_completion_wrapper,
    "token_balance.settle_on_completion",
    settle_on_completion
);

/// Trigger on a workflow table, AFTER INSERT OR UPDATE FOR EACH ROW: settle the row's workflow,
/// and with it all that are noted, in all bindings of the table. Which rows are completed is the WHEN condition of the
/// triggers that attach makes.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled. Errors:
/// 39P01 if fired otherwise, 42809 on any other table, 55000 if nothing is attached, or what is wrong with the
/// bindings. One that is broken among others is a WARNING, and the run waits there.
fn settle_on_completion(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    if is_done(&row.place()) {
        return Ok(());
    }
    let relation = call.relation();
    let bounds = match bindings_locked(Which::OfWorkflows(relation))?.or_warn() {
        Ok(bounds) => bounds,
        Err(error) if error.lets_runs_complete() => {
            return leave_unsettled(call, &row.place(), error);
        }
        Err(error) => return Err(error),
    };
    if bounds.is_empty() {
        return Err(call.foreign());
    }
    let also = take_noted(&row.place(), |table| {
        for workflows in bounds.iter().filter_map(|it| it.binding.workflows.as_ref()) {
            if is_part_of(table, workflows.table.oid)? {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    let is_one_of_several = bounds.len() > 1;
    let mut works = Vec::with_capacity(bounds.len());
    for bound in bounds {
        let Some(workflows) = &bound.binding.workflows else {
            continue;
        };
        let mut runs = Runs::new();
        let new_text = |column: &str| row.new_text(column);
        // The condition is that of all bindings: another one may be completed by it.
        if !is_one_of_several || completed::of_row(&bound.binding, workflows, new_text) {
            runs.add(&bound.binding, workflows, &row.place(), new_text);
        }
        runs.add_noted(&bound.binding, workflows, &also);
        works.push(Work {
            workflows: runs.payers.keys().cloned().collect(),
            occasion: Occasion::Completion {
                payers: runs.payers,
            },
            bound,
        });
    }
    settle(works, Counter::ByTrigger)?;
    remember_done(also);
    Ok(())
}

/// Workflows to be settled, each with the account that its row names, and by the id that the row has by now: it may have
/// got another one since it was completed, where the trigger is deferred, or where another one came before it.
struct Runs {
    payers: HashMap<String, Option<String>>,
    /// None if this transaction has changed no id.
    versions: Option<Versions>,
}

impl Runs {
    fn new() -> Self {
        Runs {
            payers: HashMap::new(),
            versions: rename::is_any_noted().then(Versions::default),
        }
    }

    /// Add the run of the row that was completed at `place`, with its columns as they were then.
    fn add(
        &mut self,
        binding: &Binding,
        workflows: &Workflows,
        place: &RowPlace,
        text: impl Fn(&str) -> Option<String>,
    ) {
        let key = &workflows.key.column.name;
        let id = match &mut self.versions {
            Some(versions) => versions.text_now(place, key),
            None => text(key),
        };
        // A null id names no workflow, and one that the usage column's type cannot hold has no
        // usage.
        let Some(workflow) = id.and_then(|id| binding.usage_workflow.key_type.canonical(&id))
        else {
            return;
        };
        let payer = match &binding.payer {
            Payer::Workflow(key) => text(&key.column.name),
            Payer::Usage(_) => None,
        };
        // Of several rows of one workflow, the first that names an account.
        let known = self.payers.entry(workflow).or_default();
        if known.is_none() {
            *known = payer;
        }
    }

    /// Add those of the rows that are what a note promises.
    fn add_noted(&mut self, binding: &Binding, workflows: &Workflows, rows: &[Row]) {
        read_noted(rows, |row, _| {
            if completed::of_row(binding, workflows, |column| row.text(column)) {
                self.add(binding, workflows, &row.place(), |column| row.text(column));
            }
        });
    }
}
