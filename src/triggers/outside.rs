//! The trigger on the users table that keeps balances from statements which are not the extension's:
//! `attach(outside_changes => 'keep')`. An ORM that saves whole rows writes the balance that it has read, and
//! would undo what was charged since. On partitioned users it keeps accounts from ids that take them to another partition,
//! too.

use pgrx::pg_sys::Datum;

use super::balance::USUAL_BALANCE_COLUMN;
use super::older;
use crate::binding::{OutsideChanges, books_of};
use crate::error::{Error, Result};
use crate::ledger::change::{is_announced, is_idle, is_restoring};
use crate::postgres::trigger::{TriggerCall, trigger_function};

trigger_function!(
    keep_balance_wrapper,
    pg_finfo_keep_balance_wrapper,
    "token_balance.keep_balance",
    keep_balance
);

/// Trigger on the users table, BEFORE UPDATE FOR EACH ROW: leave the balance as it was, unless the extension
/// changes it. A row that moves to another partition fires no AFTER UPDATE trigger: with 'refuse' it is an error here, and
/// so is another id, which nothing that is known of the account would follow.
///
/// Errors: 39P01 if fired otherwise, 42809 on any other table, 55000 for a change that is refused or if a
/// balance changes and nothing is attached, 0A000 for an id that takes the row to another partition.
fn keep_balance(call: &TriggerCall) -> Result<Datum> {
    let row = call.row_before_update()?;
    let books = books_of(call.relation());
    let is_ours = books.as_ref().is_ok_and(|books| !books.is_empty());
    if !is_ours && !row.changes(USUAL_BALANCE_COLUMN) {
        // What does not change the balance goes on.
        return Ok(call.unchanged());
    }
    let books = books?;
    if books.is_empty() {
        return Err(call.foreign());
    }
    let mut kept = Vec::new();
    for book in &books {
        let key = &book.accounts.user_key.column.name;
        if row.changes(key) && row.leaves_partition() {
            return Err(Error::LeavesPartition {
                relation: call.relation_name(),
                account: row.old_text(key).unwrap_or_default(),
                new: row.new_text(key).unwrap_or_default(),
            });
        }
        let column = book.accounts.balance_column.as_str();
        if !row.changes(column) {
            continue;
        }
        let account = row.old_text(key).unwrap_or_default();
        // A charge of the library before this one is not announced here.
        let is_ours = is_announced(book.accounts.id, &account) || is_restoring();
        if is_ours || is_idle() && older::is_loaded() {
            continue;
        }
        match book.accounts.outside_changes {
            OutsideChanges::Record => {}
            OutsideChanges::Keep => kept.push(column),
            OutsideChanges::Refuse => return Err(Error::OutsideChange { account }),
        }
    }
    match kept.is_empty() {
        true => Ok(call.unchanged()),
        false => Ok(row.with_old(&kept)),
    }
}
