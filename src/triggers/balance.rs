//! The trigger on the users table: each change of a balance becomes an entry of the ledger.

use super::older;
use crate::binding::{Book, OutsideChanges, books_of};
use crate::error::{Error, Result};
use crate::ledger::change::{is_announced, is_idle, is_move_announced, is_restoring};
use crate::ledger::crossing::notify_crossing;
use crate::ledger::{entries, moved, queue, reference};
use crate::postgres::datum::whole_part;
use crate::postgres::trigger::{TriggerCall, TriggerRow, trigger_function};
use crate::settle::settlement;

trigger_function!(
    record_balance_change_wrapper,
    pg_finfo_record_balance_change_wrapper,
    "token_balance.record_balance_change",
    record_balance_change
);

/// Trigger on a users table, AFTER INSERT OR UPDATE FOR EACH ROW: write the ledger, of each of its balance columns.
///
/// Errors: 39P01 if fired otherwise, 42809 on any other table, 22003 for a balance that is not a
/// whole number within bigint, 55000 if a balance changes and nothing is attached, or it is not the
/// extension that changes one and `attach` was told 'refuse'.
fn record_balance_change(call: &TriggerCall) -> Result<()> {
    if is_idle() && older::answers(call, c"record_balance_change_wrapper") {
        return Ok(());
    }
    let row = call.row()?;
    let books = match books_of(call.relation()) {
        Ok(books) => books,
        // In a restore the rows may come before the binding.
        Err(Error::NotAttached) if !row.changes(USUAL_BALANCE_COLUMN) => return Ok(()),
        // Without its key a row is nobody's account.
        Err(Error::ColumnDropped { .. }) if !row.changes(USUAL_BALANCE_COLUMN) => return Ok(()),
        Err(error) => return Err(error),
    };
    if books.is_empty() {
        return Err(call.foreign());
    }
    books.iter().try_for_each(|book| record(book, &row))
}

/// What attach calls the column where it is told nothing else.
pub(super) const USUAL_BALANCE_COLUMN: &str = "token_balance";

fn record(book: &Book, row: &TriggerRow) -> Result<()> {
    let key = &book.accounts.user_key.column.name;
    // A key column is unique, but may be null: such a row is nobody's account.
    let account = row.new_text(key).unwrap_or_default();
    if book.accounts.balance.is_none() {
        return without_column(book, row.old_text(key), &account);
    }
    let column = &book.accounts.balance_column;
    let new = balance(row.new_text(column), &account)?;
    if is_restoring() {
        return entries::record_restored(book, &account, new);
    }
    match row.old_text(key) {
        // Before it comes back its row does, with whatever balance: the chain is elsewhere.
        None if moved::database(book, &account)?.is_some() => Ok(()),
        None => entries::record_insert(book, &account, new),
        Some(old_account) => {
            let previous = balance(row.old_text(column), &old_account)?;
            let is_refused = book.accounts.outside_changes == OutsideChanges::Refuse;
            if is_refused && previous != new && !is_announced(book.accounts.id, &old_account) {
                return Err(Error::OutsideChange {
                    account: old_account,
                });
            }
            if old_account == account {
                if is_move_announced(book.accounts.id, &account) {
                    return entries::record_change(book, &account, previous, new);
                }
                if previous != new {
                    moved::refuse(book, &account)?;
                }
                notify_crossing(book, &account, previous, new)?;
                entries::record_change(book, &account, previous, new)
            } else {
                rename(book, (&old_account, previous), (&account, new))
            }
        }
    }
}

/// The balance column was dropped: users are written all the same. The ledger knows what attach is going to give
/// back, and to which id.
fn without_column(book: &Book, old_account: Option<String>, account: &str) -> Result<()> {
    match old_account {
        Some(old) if old != account => {
            let balance = entries::last_balance(book, &old)?.unwrap_or(0);
            rename(book, (&old, balance), (account, balance))
        }
        _ => Ok(()),
    }
}

/// What an account has used and paid follows it to its new id (usage by the application's own ON UPDATE
/// CASCADE), or it would be charged again.
fn rename(book: &Book, old: (&str, i64), new: (&str, i64)) -> Result<()> {
    moved::refuse(book, old.0)?;
    moved::refuse(book, new.0)?;
    entries::record_rename(book, old, new)?;
    queue::rename(book, old.0, new.0)?;
    reference::rename(book, old.0, new.0)?;
    settlement::rename_account(book, old.0, new.0)
}

/// The balance in a row. NULL, possible only while the column is being made, counts as 0.
fn balance(text: Option<String>, account: &str) -> Result<i64> {
    let text = text.unwrap_or_else(|| "0".into());
    whole_part(&text)
        .parse()
        .map_err(|_| Error::UnsupportedBalance {
            account: account.to_owned(),
            balance: text.clone(),
        })
}
