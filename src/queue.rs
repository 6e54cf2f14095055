//! Busy accounts, `attach(busy_account => 'queue')`: charges that wait for their account's row.
//!
//! A row of `token_balance.queue` is a charge that its workflow's settlement has claimed and that no
//! balance has paid yet. It is written in the same transaction as the claim. Who holds the account's
//! row applies all that is committed there, so nobody waits for the row through another's commit.

use pgrx::pg_sys::{self, INT8OID, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use crate::account::{self, Refusal};
use crate::binding::{Binding, BusyAccount};
use crate::cache::{Bound, Kept};
use crate::claim::Claim;
use crate::error::Result;
use crate::ledger::{self, Change, Part};
use crate::security::RunAs;
use crate::spi::{
    self, Arg, Row, Snapshot, Statement, moment_sql, texts, uses_transaction_snapshot,
};

/// So many charges are applied by one UPDATE, at most.
const BATCH: usize = 10_000;

/// The statements on the queue and on the row that is waited for, for one binding.
pub(crate) struct Statements {
    hold: Statement,
    hold_unless_busy: Statement,
    add: Statement,
    take: Statement,
    put_back: Statement,
    waiting: Statement,
    entries: Statement,
    rename: Statement,
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
            add: Statement::new(
                "INSERT INTO token_balance.queue (user_id, workflow_id, tokens, actor) \
                 VALUES ($1, $2, $3, $4)",
                &[TEXTOID, TEXTOID, INT8OID, TEXTOID],
            ),
            take: Statement::new(
                &format!(
                    "DELETE FROM token_balance.queue AS q \
                     WHERE q.user_id OPERATOR(pg_catalog.=) $1 AND q.charge_id \
                     OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT f.charge_id \
                     FROM token_balance.queue AS f \
                     WHERE f.user_id OPERATOR(pg_catalog.=) $1 ORDER BY f.charge_id LIMIT {BATCH})) \
                     RETURNING q.charge_id, q.workflow_id, q.tokens, q.actor, {}",
                    moment_sql("q.queued_at")
                ),
                &[TEXTOID],
            ),
            put_back: Statement::new(
                "INSERT INTO token_balance.queue \
                 (user_id, charge_id, workflow_id, tokens, actor, queued_at) \
                 OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6)",
                &[TEXTOID, INT8OID, TEXTOID, INT8OID, TEXTOID, TIMESTAMPTZOID],
            ),
            waiting: Statement::new(
                "SELECT COALESCE(pg_catalog.sum(q.tokens), 0) FROM token_balance.queue AS q \
                 WHERE q.user_id OPERATOR(pg_catalog.=) $1",
                &[TEXTOID],
            ),
            entries: Statement::new(
                &format!(
                    "SELECT q.charge_id, q.workflow_id, q.tokens, q.actor, {} \
                     FROM token_balance.queue AS q \
                     WHERE q.user_id OPERATOR(pg_catalog.=) $1 ORDER BY q.charge_id",
                    moment_sql("q.queued_at")
                ),
                &[TEXTOID],
            ),
            rename: Statement::new(
                "UPDATE token_balance.queue AS q SET user_id = $2 \
                 WHERE q.user_id OPERATOR(pg_catalog.=) $1",
                &[TEXTOID, TEXTOID],
            ),
        }
    }
}

/// Whether charges of this binding may be in the queue.
pub(crate) fn is_used(binding: &Binding) -> bool {
    binding.spec.options.busy_account == BusyAccount::Queue
}

/// A charge that waits for its account. Tokens; the time is in the server's count.
pub(crate) struct Queued {
    charge_id: i64,
    pub(crate) workflow: String,
    pub(crate) tokens: i64,
    pub(crate) actor: String,
    pub(crate) queued_at: TimestampTz,
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

/// Put charges of one account into the queue. Refused as a charge would be, as far as can be told
/// without holding the row.
pub(crate) fn add(bound: &Bound, account: &str, claims: &[Claim]) -> Result<Result<(), Refusal>> {
    let Some(balance) = account::column_now(bound, account)? else {
        return Ok(Err(Refusal::UnknownAccount));
    };
    let tokens: i128 = claims.iter().map(|claim| i128::from(claim.tokens)).sum();
    if i128::from(balance) - tokens < i128::from(bound.binding.smallest_balance()) {
        return Ok(Err(Refusal::OutOfRange));
    }
    let actor = ledger::actor();
    let _owner = RunAs::owner(bound.binding.extension_owner);
    for claim in claims {
        let args = [
            Arg::Text(account),
            Arg::Text(&claim.workflow),
            Arg::Int8(claim.tokens),
            Arg::Text(&actor),
        ];
        bound
            .kept::<Statements>()
            .add
            .run(&args, Snapshot::Statement)?;
    }
    Ok(Ok(()))
}

/// Take the account's charges out of the queue, in the order in which they came. Only who holds its
/// row may.
fn take(bound: &Bound, account: &str) -> Result<Vec<Queued>> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let outcome = bound
        .kept::<Statements>()
        .take
        .run(&[Arg::Text(account)], Snapshot::Statement)?;
    let mut queued = queued_of(&outcome.rows)?;
    queued.sort_unstable_by_key(|queued| queued.charge_id);
    Ok(queued)
}

fn queued_of(rows: &[Row]) -> Result<Vec<Queued>> {
    rows.iter()
        .map(|row| {
            Ok(Queued {
                charge_id: row.amount(0)?,
                workflow: row.text(1).to_owned(),
                tokens: row.amount(2)?,
                actor: row.text(3).to_owned(),
                queued_at: row.amount(4)?,
            })
        })
        .collect()
}

fn put_back(bound: &Bound, account: &str, queued: &[Queued]) -> Result<()> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    for queued in queued {
        let args = [
            Arg::Text(account),
            Arg::Int8(queued.charge_id),
            Arg::Text(&queued.workflow),
            Arg::Int8(queued.tokens),
            Arg::Text(&queued.actor),
            Arg::OptionalTimestamp(Some(queued.queued_at)),
        ];
        bound
            .kept::<Statements>()
            .put_back
            .run(&args, Snapshot::Statement)?;
    }
    Ok(())
}

/// Apply what the queue has for an account whose row is held, in one UPDATE. How many charges that
/// were; those stay in the queue for which the column has no room.
pub(crate) fn apply(bound: &Bound, account: &str) -> Result<usize> {
    let queued = take(bound, account)?;
    if queued.is_empty() || deduct(bound, account, &queued)? {
        return Ok(queued.len());
    }
    let mut applied = 0;
    for queued in queued.chunks(1) {
        if deduct(bound, account, queued)? {
            applied += 1;
        } else {
            put_back(bound, account, queued)?;
        }
    }
    Ok(applied)
}

/// False if the account cannot pay them all.
fn deduct(bound: &Bound, account: &str, queued: &[Queued]) -> Result<bool> {
    let parts = queued.iter().map(|queued| Part {
        amount: -queued.tokens,
        workflow: Some(queued.workflow.clone()),
        actor: queued.actor.as_str().into(),
    });
    let change = Change::settlement(account, parts.collect());
    Ok(account::change(bound, change)?.is_ok())
}

/// Wait for the account's row and apply what the queue has for it. How many charges that were.
pub(crate) fn drain(bound: &Bound, account: &str) -> Result<usize> {
    if is_used(&bound.binding) {
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
        if some < BATCH {
            return Ok(applied);
        }
    }
}

/// Drain the queue of all accounts, in order. How many charges that were. Whatever the option says:
/// charges may be left from when it was another, or from an earlier binding.
pub(crate) fn drain_all(bound: &Bound) -> Result<usize> {
    let (mut accounts, _) = totals_as_of(bound, Snapshot::Statement)?;
    accounts.sort_unstable();
    let mut applied = 0;
    for account in &accounts {
        applied += drain_account(bound, account)?;
    }
    Ok(applied)
}

/// What the queue has for an account, as the calling statement sees it. Tokens.
pub(crate) fn waiting(bound: &Bound, account: &str) -> Result<i64> {
    if !is_used(&bound.binding) {
        return Ok(0);
    }
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let outcome = bound
        .kept::<Statements>()
        .waiting
        .run(&[Arg::Text(account)], Snapshot::Caller)?;
    match outcome.rows.first() {
        Some(row) => row.amount(0),
        None => Ok(0),
    }
}

/// What the queue has, by account, as the calling statement sees it. Tokens.
pub(crate) fn totals(bound: &Bound) -> Result<(Vec<String>, Vec<i64>)> {
    totals_as_of(bound, Snapshot::Caller)
}

fn totals_as_of(bound: &Bound, snapshot: Snapshot) -> Result<(Vec<String>, Vec<i64>)> {
    // The catalog of 0.1.0, before it is updated, has no queue.
    if bound.own.queue == pg_sys::InvalidOid {
        return Ok((Vec::new(), Vec::new()));
    }
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let outcome = spi::query_as_of(
        "SELECT q.user_id, pg_catalog.sum(q.tokens)::bigint FROM token_balance.queue AS q \
         GROUP BY 1",
        &[],
        snapshot,
    )?;
    let tokens = outcome.rows.iter().map(|row| row.amount(1));
    Ok((texts(&outcome.rows, 0), tokens.collect::<Result<_>>()?))
}

/// The charges that wait for an account, in order, as the calling statement sees them.
pub(crate) fn entries(bound: &Bound, account: &str) -> Result<Vec<Queued>> {
    if !is_used(&bound.binding) {
        return Ok(Vec::new());
    }
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let outcome = bound
        .kept::<Statements>()
        .entries
        .run(&[Arg::Text(account)], Snapshot::Caller)?;
    queued_of(&outcome.rows)
}

/// The account's id was changed.
pub(crate) fn rename(bound: &Bound, old_account: &str, account: &str) -> Result<()> {
    if !is_used(&bound.binding) {
        return Ok(());
    }
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let ids = [Arg::Text(old_account), Arg::Text(account)];
    bound
        .kept::<Statements>()
        .rename
        .run(&ids, Snapshot::Statement)
        .map(|_| ())
}
