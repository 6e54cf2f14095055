//! The trigger on the users table that keeps balances from statements which are not the extension's:
//! `attach(outside_changes => 'keep')`. An ORM that saves whole rows writes the balance that it has read, and
//! would undo what was charged since.

use pgrx::pg_sys::Datum;

use super::older;
use crate::binding::{BALANCE_COLUMN, OutsideChanges, book};
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
/// changes it. With 'refuse', where a row that moves to another partition fires no AFTER UPDATE trigger, it is
/// an error here.
///
/// Errors: 39P01 if fired otherwise, 42809 on any other table, 55000 for a change that is refused or if a
/// balance changes and nothing is attached.
fn keep_balance(call: &TriggerCall) -> Result<Datum> {
    let row = call.row_before_update()?;
    if !row.changes(BALANCE_COLUMN) {
        return Ok(call.unchanged());
    }
    let book = book()?;
    if !book.is_part_of(call.relation(), book.accounts.users.oid)? {
        return Err(call.foreign());
    }
    let key = &book.accounts.user_key.column.name;
    let account = row.old_text(key).unwrap_or_default();
    // A charge of the library before this one is not announced here.
    if is_announced(&account) || is_restoring() || is_idle() && older::is_loaded() {
        return Ok(call.unchanged());
    }
    match book.accounts.outside_changes {
        OutsideChanges::Record => Ok(call.unchanged()),
        OutsideChanges::Keep => Ok(row.with_old(BALANCE_COLUMN)),
        OutsideChanges::Refuse => Err(Error::OutsideChange { account }),
    }
}
