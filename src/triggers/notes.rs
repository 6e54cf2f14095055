//! Rows that are about to fire a trigger, and rows whose trigger finds its work done.
//!
//! A row-level AFTER trigger fires for one row after the other, and to settle each by itself would
//! lock accounts in the order of the rows: two bulk statements could meet in a deadlock, and an
//! account that has many runs in one statement would be updated for each of them.
//!
//! So the triggers' WHEN condition, which the server evaluates as it queues a row's event, notes
//! where the row is. The first event to fire settles all that is noted, in the order that everybody keeps;
//! the events after it find theirs done, unless something was written in between.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::postgres::stored_row::{RowPlace, StoredRow, StoredRows};
use crate::postgres::transaction::{AtEnd, at_end, current_command, current_subtransaction};
use crate::postgres::trigger::TriggerCall;

/// Where a row is whose event is queued.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) place: RowPlace,
    /// Where the UPDATE found it that wrote it, if that is noted.
    pub(super) before: Option<RowPlace>,
}

struct Noted {
    row: Row,
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
    done: HashMap<RowPlace, Done>,
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

/// Note that the row is about to fire its trigger.
pub(super) fn note(row: Row) {
    let noted = Noted {
        row,
        subtransaction: current_subtransaction(),
    };
    NOTES.with_borrow_mut(|notes| notes.noted.push(noted));
}

/// All that is noted of the tables that are `ours`, once, without the row that fires now. Notes of
/// other tables are for their own triggers.
pub(super) fn take_noted(
    firing: &RowPlace,
    mut ours: impl FnMut(pg_sys::Oid) -> Result<bool>,
) -> Result<Vec<Row>> {
    let noted = NOTES.with_borrow_mut(|notes| std::mem::take(&mut notes.noted));
    let mut tables = HashMap::new();
    let (mut taken, mut left) = (Vec::with_capacity(noted.len()), Vec::new());
    for noted in noted {
        let table = noted.row.place.table;
        let is_ours = match tables.get(&table) {
            Some(is_ours) => *is_ours,
            None => *tables.entry(table).or_insert(ours(table)?),
        };
        if !is_ours {
            left.push(noted);
        } else if noted.row.place != *firing {
            taken.push(noted.row);
        }
    }
    NOTES.with_borrow_mut(|notes| notes.noted.extend(left));
    Ok(taken)
}

/// Of these rows, those that this transaction has written: what `each` makes of them, and of what they were before an
/// UPDATE where that is noted.
pub(super) fn read_noted(rows: &[Row], mut each: impl FnMut(&StoredRow, Option<&StoredRow>)) {
    for rows in rows.chunk_by(|a, b| a.place.table == b.place.table) {
        let mut stored = StoredRows::of(rows[0].place.table);
        for Row { place, before } in rows {
            match before {
                Some(before) => {
                    if let Some((row, old)) = stored.updated_by_this_transaction(place, before) {
                        each(&row, old.as_ref());
                    }
                }
                None => {
                    if let Some(row) = stored.written_by_this_transaction(place) {
                        each(&row, None);
                    }
                }
            }
        }
    }
}

/// The rows are settled, as far as the command goes that is running.
pub(super) fn remember_done(rows: Vec<Row>) {
    if rows.is_empty() {
        return;
    }
    let (command, subtransaction) = (current_command(), current_subtransaction());
    let done = |row: Row| {
        let done = Done {
            command,
            subtransaction,
        };
        (row.place, done)
    };
    NOTES.with_borrow_mut(|notes| notes.done.extend(rows.into_iter().map(done)));
}

/// Whether the row was settled and this transaction has written nothing since: an AFTER trigger of
/// the application may have added usage.
pub(super) fn is_done(place: &RowPlace) -> bool {
    let done = NOTES.with_borrow_mut(|notes| notes.done.remove(place));
    done.is_some_and(|done| done.command == current_command())
}

/// What the statement has noted waits for the sweep: a row is not refused because of another table. One warning per
/// statement.
pub(super) fn leave_unsettled(call: &TriggerCall, firing: &RowPlace, error: Error) -> Result<()> {
    let also = take_noted(firing, |table| Ok(table == call.relation()))?;
    error.report(PgLogLevel::WARNING);
    remember_done(also);
    Ok(())
}

/// Called once per backend.
pub(crate) fn init() {
    at_end(AtEnd {
        of_transaction: || drop(NOTES.take()),
        of_subtransaction: forget_subtransaction,
    });
}

/// A subtransaction was rolled back. What was noted or settled in it was not: in it or inside it, that
/// is, since their ids only grow.
fn forget_subtransaction(subtransaction: pg_sys::SubTransactionId) {
    NOTES.with_borrow_mut(|notes| {
        notes
            .noted
            .retain(|noted| noted.subtransaction < subtransaction);
        notes
            .done
            .retain(|_, done| done.subtransaction < subtransaction);
    });
}
