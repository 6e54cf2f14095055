//! Busy accounts: charges are left in the queue (`queue`) where another session holds the account's row, and
//! applied by whoever holds it. So nobody waits for the row through another's commit.

use pgrx::pg_sys::TEXTOID;

use super::account::{self, Refusal};
use super::change::{Change, Line};
use super::moved;
use super::queue::{self, Queued};
use crate::binding::{Book, Kept};
use crate::counters::{Counter, count, count_charges};
use crate::error::Result;
use crate::postgres::snapshot::{Snapshot, uses_transaction_snapshot};
use crate::postgres::spi::Statement;

/// The statement on the row that is not waited for.
struct Statements {
    hold_unless_busy: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        let hold = account::hold_sql(book);
        Statements {
            hold_unless_busy: Statement::new(&format!("{hold} SKIP LOCKED"), &[TEXTOID])
                .of(&[book.accounts.users.oid]),
        }
    }
}

/// Hold the account's row to the end of the transaction, unless somebody else does.
///
/// A transaction that keeps one snapshot may not change a row that has changed since: its charges
/// always wait.
pub(crate) fn hold_unless_busy(book: &Book, account: &str) -> Result<bool> {
    if uses_transaction_snapshot() {
        return Ok(false);
    }
    match account::hold_unless_busy(book, account) {
        Some(is_held) => Ok(is_held),
        None => {
            let statements = book.kept::<Statements>();
            account::run_hold(book, &statements.hold_unless_busy, account)
        }
    }
}

/// Leave charges of one account to the next holder of its row. Refused as a charge would be, as far as can
/// be told without holding the row.
pub(crate) fn leave(book: &Book, account: &str, lines: &[Line]) -> Result<Result<(), Refusal>> {
    queue::lock_id(account);
    // Who has waited for a move finds it made.
    if moved::database(book, account)?.is_some() {
        return Ok(Err(Refusal::Moved));
    }
    let Some(balance) = account::column_now(book, account)? else {
        return Ok(Err(Refusal::UnknownAccount));
    };
    let amount: i128 = lines.iter().map(|line| i128::from(line.amount)).sum();
    if i128::from(balance) + amount < i128::from(book.accounts.smallest_balance()) {
        return Ok(Err(Refusal::OutOfRange));
    }
    queue::add(book, account, lines)?;
    count(Counter::Queued, lines.len());
    Ok(Ok(()))
}

/// Apply what the queue has for an account whose row is held, in one UPDATE. How many charges that
/// were; those stay in the queue for which the column has no room.
pub(crate) fn apply(book: &Book, account: &str) -> Result<usize> {
    let queued = queue::take(book, account)?;
    if queued.is_empty() || deduct(book, account, &queued)? {
        return Ok(queued.len());
    }
    let mut applied = 0;
    for queued in queued {
        if deduct(book, account, std::slice::from_ref(&queued))? {
            applied += 1;
        } else {
            queue::put_back(book, account, queued)?;
        }
    }
    Ok(applied)
}

/// False if the account cannot pay them all.
fn deduct(book: &Book, account: &str, queued: &[Queued]) -> Result<bool> {
    let lines = queued.iter().map(|queued| Line {
        amount: -queued.tokens,
        workflow: Some(queued.workflow.clone()),
        binding: queued.binding,
        actor: queued.actor.as_str().into(),
    });
    let change = Change::settlement(account, lines.collect());
    let is_paid = account::change(book, change)?.is_ok();
    if is_paid {
        count(Counter::Applied, queued.len());
        count_charges(queued.iter().map(|queued| queued.tokens));
    }
    Ok(is_paid)
}

/// Wait for the account's row and apply what the queue has for it. How many charges that were.
pub(crate) fn drain(book: &Book, account: &str) -> Result<usize> {
    if queue::is_used(book) {
        drain_account(book, account)
    } else {
        Ok(0)
    }
}

fn drain_account(book: &Book, account: &str) -> Result<usize> {
    match account::hold(book, account)? {
        true => apply_all(book, account),
        false => Ok(0),
    }
}

/// Apply all that the queue has for an account whose row is held.
pub(crate) fn apply_all(book: &Book, account: &str) -> Result<usize> {
    let mut applied = 0;
    loop {
        let some = apply(book, account)?;
        applied += some;
        if some < queue::BATCH {
            return Ok(applied);
        }
    }
}

/// The same of all accounts whose row nobody else holds: for who holds accounts already, and must not wait. What is left is
/// the next one's.
pub(crate) fn drain_idle(book: &Book) -> Result<usize> {
    let (accounts, _) = queue::totals_as_of(book, Snapshot::Statement)?;
    let mut applied = 0;
    for account in &accounts {
        if hold_unless_busy(book, account)? {
            applied += apply_all(book, account)?;
        }
    }
    Ok(applied)
}

/// Drain the queue of all accounts, in order. How many charges that were. Whatever the option says:
/// charges may be left from when it was another, or from an earlier binding.
pub(crate) fn drain_all(book: &Book) -> Result<usize> {
    let (mut accounts, _) = queue::totals_as_of(book, Snapshot::Statement)?;
    accounts.sort_unstable();
    let mut applied = 0;
    for account in &accounts {
        applied += drain_account(book, account)?;
    }
    Ok(applied)
}
