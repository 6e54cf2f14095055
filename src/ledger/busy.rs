//! Busy accounts: charges are left in the queue (`queue`) where another session holds the account's row, and
//! applied by whoever holds it. So nobody waits for the row through another's commit.

use pgrx::pg_sys::TEXTOID;

use super::account::{self, Refusal};
use super::change::{Change, Line};
use super::queue::{self, Queued};
use crate::binding::{Bound, Kept};
use crate::error::Result;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::{Snapshot, uses_transaction_snapshot};
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

/// The statements on the row that is waited for.
struct Statements {
    hold: Statement,
    hold_unless_busy: Statement,
}

impl Kept for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        // Not FOR UPDATE: it would wait for the foreign-key checks of child rows.
        let hold = format!(
            "SELECT 1 FROM {} AS a WHERE a.{} OPERATOR(pg_catalog.=) $1::{} FOR NO KEY UPDATE",
            binding.users.sql,
            binding.user_key.sql(),
            binding.user_key.key_type.sql()
        );
        Statements {
            hold_unless_busy: Statement::new(&format!("{hold} SKIP LOCKED"), &[TEXTOID])
                .of(&[binding.users.oid]),
            hold: Statement::new(&hold, &[TEXTOID]).of(&[binding.users.oid]),
        }
    }
}

/// Hold the account's row to the end of the transaction, unless somebody else does.
///
/// A transaction that keeps one snapshot may not change a row that has changed since: its charges
/// always wait.
pub(crate) fn hold_unless_busy(bound: &Bound, account: &str) -> Result<bool> {
    if uses_transaction_snapshot() {
        return Ok(false);
    }
    run_hold(bound, &bound.kept::<Statements>().hold_unless_busy, account)
}

fn run_hold(bound: &Bound, statement: &Statement, account: &str) -> Result<bool> {
    let _owner = RunAs::owner(bound.binding.users.owner);
    let outcome = statement.run(&[Arg::Text(account)], Snapshot::Statement)?;
    Ok(outcome.processed == 1)
}

/// Leave charges of one account to the next holder of its row. Refused as a charge would be, as far as can
/// be told without holding the row.
pub(crate) fn leave(bound: &Bound, account: &str, lines: &[Line]) -> Result<Result<(), Refusal>> {
    let Some(balance) = account::column_now(bound, account)? else {
        return Ok(Err(Refusal::UnknownAccount));
    };
    let amount: i128 = lines.iter().map(|line| i128::from(line.amount)).sum();
    if i128::from(balance) + amount < i128::from(bound.binding.smallest_balance()) {
        return Ok(Err(Refusal::OutOfRange));
    }
    queue::add(bound, account, lines).map(Ok)
}

/// Apply what the queue has for an account whose row is held, in one UPDATE. How many charges that
/// were; those stay in the queue for which the column has no room.
pub(crate) fn apply(bound: &Bound, account: &str) -> Result<usize> {
    let queued = queue::take(bound, account)?;
    if queued.is_empty() || deduct(bound, account, &queued)? {
        return Ok(queued.len());
    }
    let mut applied = 0;
    for queued in queued.chunks(1) {
        if deduct(bound, account, queued)? {
            applied += 1;
        } else {
            queue::put_back(bound, account, queued)?;
        }
    }
    Ok(applied)
}

/// False if the account cannot pay them all.
fn deduct(bound: &Bound, account: &str, queued: &[Queued]) -> Result<bool> {
    let lines = queued.iter().map(|queued| Line {
        amount: -queued.tokens,
        workflow: Some(queued.workflow.clone()),
        actor: queued.actor.as_str().into(),
    });
    let change = Change::settlement(account, lines.collect());
    Ok(account::change(bound, change)?.is_ok())
}

/// Wait for the account's row and apply what the queue has for it. How many charges that were.
pub(crate) fn drain(bound: &Bound, account: &str) -> Result<usize> {
    if queue::is_used(&bound.binding) {
        drain_account(bound, account)
    } else {
        Ok(0)
    }
}

fn drain_account(bound: &Bound, account: &str) -> Result<usize> {
    if !run_hold(bound, &bound.kept::<Statements>().hold, account)? {
        return Ok(0);
    }
    let mut applied = 0;
    loop {
        let some = apply(bound, account)?;
        applied += some;
        if some < queue::BATCH {
            return Ok(applied);
        }
    }
}

/// Drain the queue of all accounts, in order. How many charges that were. Whatever the option says:
/// charges may be left from when it was another, or from an earlier binding.
pub(crate) fn drain_all(bound: &Bound) -> Result<usize> {
    let (mut accounts, _) = queue::totals_as_of(bound, Snapshot::Statement)?;
    accounts.sort_unstable();
    let mut applied = 0;
    for account in &accounts {
        applied += drain_account(bound, account)?;
    }
    Ok(applied)
}
