//! The triggers on the workflow table: runs that complete are settled, once a statement.
//!
//! A row-level AFTER trigger fires for one row after the other, and to settle each by itself would
//! lock accounts in the order of the rows: two bulk statements could meet in a deadlock, and an
//! account that has many runs in one statement would be updated for each of them.
//!
//! So the triggers' WHEN condition, which the server evaluates as it queues a row's event, notes
//! where the row is ([`note_completion`]). The first event to fire settles all that is noted, in the
//! order that everybody keeps; the events after it find theirs done, unless something was written
//! in between.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::binding::{Binding, Completion, Payer, Workflows};
use crate::cache;
use crate::error::Result;
use crate::row::{Spot, StoredRow, StoredRows, TriggerCall, trigger_function};
use crate::settle::{Asked, settle};

/// A row whose event is queued.
struct Noted {
    spot: Spot,
    subtransaction: pg_sys::SubTransactionId,
}

/// A row that was settled before its event fired.
struct Done {
    /// The command that came next then.
    command: pg_sys::CommandId,
    subtransaction: pg_sys::SubTransactionId,
}

#[derive(Default)]
struct Notes {
    noted: Vec<Noted>,
    done: HashMap<Spot, Done>,
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

/// `token_balance.note_completion(oid, tid) → true`, last in the WHEN condition of the completion
/// triggers, and the condition of the one for late usage: note that the row at this place of this
/// table is about to fire one.
///
/// Everybody who writes these tables evaluates it, so everybody may call it. What is noted is
/// settled only if this transaction wrote that row and it is completed.
#[pg_extern(sql = false)]
fn note_completion(
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
) -> Result<bool, ErrorReport> {
    if let (Some(table), Some(row)) = (table, row) {
        let noted = Noted {
            spot: Spot::new(table, row),
            subtransaction: current_subtransaction(),
        };
        NOTES.with_borrow_mut(|notes| notes.noted.push(noted));
    }
    Ok(true)
}

/// `token_balance.note_status(text, text, text[], oid, tid)`, the whole WHEN condition of the
/// completion triggers of a table with a status: whether it was none of the completed ones and now
/// is, and if so, [`note_completion`].
///
/// One call in place of operators: the server reads a trigger's condition anew for each statement.
#[pg_extern(sql = false)]
fn note_status(
    old: Option<&str>,
    new: Option<&str>,
    completed: Option<Array<&str>>,
    table: Option<pg_sys::Oid>,
    row: Option<pg_sys::ItemPointerData>,
) -> Result<bool, ErrorReport> {
    let (Some(new), Some(completed)) = (new, completed) else {
        return Ok(false);
    };
    let is_completed = |status| completed.iter().any(|element| element == Some(status));
    if !is_completed(new) || old.is_some_and(is_completed) {
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

/// Trigger on the workflow table, AFTER INSERT OR UPDATE FOR EACH ROW: settle the row's workflow,
/// and with it all that are noted. Which rows are completed is the WHEN condition of the triggers
/// that attach makes.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled. Errors:
/// 39P01 if fired otherwise, 42809 on any other table, 55000 if nothing is attached.
fn settle_on_completion(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    if is_done(&row.spot()) {
        return Ok(());
    }
    let bound = cache::bound_and_locked()?;
    let binding = &bound.binding;
    let workflows = match &binding.workflows {
        Some(workflows) if bound.is_part_of(call.relation(), workflows.table.oid)? => workflows,
        _ => return Err(call.foreign()),
    };
    let mut runs = Runs::default();
    runs.add(binding, workflows, |column| row.new_text(column));
    let also = take_noted(&row.spot(), |table| {
        bound.is_part_of(table, workflows.table.oid)
    })?;
    runs.add_noted(binding, workflows, &also);
    let mut ids: Vec<_> = runs.payers.keys().cloned().collect();
    let payers = runs.payers;
    settle(&bound, &mut ids, &Asked::Completion { payers })?;
    remember_done(also);
    Ok(())
}

/// Workflows to be settled, each with the account that its row names.
#[derive(Default)]
struct Runs {
    payers: HashMap<String, Option<String>>,
}

impl Runs {
    fn add(
        &mut self,
        binding: &Binding,
        workflows: &Workflows,
        text: impl Fn(&str) -> Option<String>,
    ) {
        // A null id names no workflow, and one that the usage column's type cannot hold has no
        // usage.
        let Some(workflow) = text(&workflows.key.column.name)
            .and_then(|id| binding.usage_workflow.key_type.canonical(&id))
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

    /// Add the rows at `spots` that are what a note promises.
    fn add_noted(&mut self, binding: &Binding, workflows: &Workflows, spots: &[Spot]) {
        read_noted(spots, |row| {
            if is_completed(binding, workflows, |column| row.text(column)) {
                self.add(binding, workflows, |column| row.text(column));
            }
        });
    }
}

/// Whether a row is completed, as [`Binding::completed_sql`] says it in SQL.
fn is_completed(
    binding: &Binding,
    workflows: &Workflows,
    text: impl Fn(&str) -> Option<String>,
) -> bool {
    match &workflows.completion {
        Completion::Timestamp(column) => text(&column.name).is_some(),
        Completion::Status(column) => text(&column.name).is_some_and(|status| {
            // A cast of char(n) to text drops what pads it.
            let status = match column.base_type {
                pg_sys::BPCHAROID => status.trim_end_matches(' '),
                _ => &status,
            };
            let statuses = &binding.spec.completed_statuses;
            statuses.iter().any(|completed| completed == status)
        }),
        Completion::Row => true,
    }
}

/// All that is noted of the tables that are `ours`, once, without the row that fires now. Notes of
/// other tables are for their own triggers.
pub(crate) fn take_noted(
    firing: &Spot,
    mut ours: impl FnMut(pg_sys::Oid) -> Result<bool>,
) -> Result<Vec<Spot>> {
    let noted = NOTES.with_borrow_mut(|notes| std::mem::take(&mut notes.noted));
    let mut tables = HashMap::new();
    let (mut taken, mut left) = (Vec::with_capacity(noted.len()), Vec::new());
    for noted in noted {
        let table = noted.spot.table;
        let is_ours = match tables.get(&table) {
            Some(is_ours) => *is_ours,
            None => *tables.entry(table).or_insert(ours(table)?),
        };
        if !is_ours {
            left.push(noted);
        } else if noted.spot != *firing {
            taken.push(noted.spot);
        }
    }
    NOTES.with_borrow_mut(|notes| notes.noted.extend(left));
    Ok(taken)
}

/// Of rows at `spots`, those that this transaction has written: what `each` makes of them.
pub(crate) fn read_noted(spots: &[Spot], mut each: impl FnMut(&StoredRow)) {
    for spots in spots.chunk_by(|a, b| a.table == b.table) {
        let mut rows = StoredRows::of(spots[0].table);
        for spot in spots {
            if let Some(row) = rows.written_by_this_transaction(spot) {
                each(&row);
            }
        }
    }
}

pub(crate) fn remember_done(spots: Vec<Spot>) {
    if spots.is_empty() {
        return;
    }
    let (command, subtransaction) = (current_command(), current_subtransaction());
    let done = |spot| {
        let done = Done {
            command,
            subtransaction,
        };
        (spot, done)
    };
    NOTES.with_borrow_mut(|notes| notes.done.extend(spots.into_iter().map(done)));
}

/// Whether the row was settled and this transaction has written nothing since: an AFTER trigger of
/// the application may have added usage.
pub(crate) fn is_done(spot: &Spot) -> bool {
    let done = NOTES.with_borrow_mut(|notes| notes.done.remove(spot));
    done.is_some_and(|done| done.command == current_command())
}

fn current_command() -> pg_sys::CommandId {
    // SAFETY: reads a backend variable; `false` does not use the command id up.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}

fn current_subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// A subtransaction was rolled back. What was noted or settled in it was not: in it or inside it, that
/// is, since their ids only grow.
pub(crate) fn forget_subtransaction(subtransaction: pg_sys::SubTransactionId) {
    NOTES.with_borrow_mut(|notes| {
        notes
            .noted
            .retain(|noted| noted.subtransaction < subtransaction);
        notes
            .done
            .retain(|_, done| done.subtransaction < subtransaction);
    });
}

/// The transaction has ended: it leaves no notes.
pub(crate) fn forget() {
    NOTES.take();
}
