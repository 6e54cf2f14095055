//! The queue of busy accounts, `attach(busy_account => 'queue')`: charges that wait for their account's
//! row.
//!
//! A row of `token_balance.queue` is a charge that its workflow's settlement has claimed and that no
//! balance has paid yet. It is written in the same transaction as the claim.

use pgrx::pg_sys::{self, INT8OID, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use super::change::Line;
use crate::binding::{Book, BusyAccount, Kept};
use crate::error::Result;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, Row, moment_sql, texts};

/// The most charges that one UPDATE applies.
pub(super) const BATCH: usize = 10_000;

/// The statements on the queue.
pub(super) struct Statements {
    add: Statement,
    take: Statement,
    put_back: Statement,
    waiting: Statement,
    entries: Statement,
    rename: Statement,
}

impl Kept<Book> for Statements {
    fn of(_book: &Book) -> Self {
        Statements {
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

/// Whether charges of these accounts may be in the queue.
pub(crate) fn is_used(book: &Book) -> bool {
    book.accounts.busy_account == BusyAccount::Queue
}

/// A charge that waits for its account. Tokens; the time is in the server's count.
pub(crate) struct Queued {
    charge_id: i64,
    pub(crate) workflow: String,
    pub(crate) tokens: i64,
    pub(crate) actor: String,
    pub(crate) queued_at: TimestampTz,
}

/// Put charges of one account into the queue.
pub(super) fn add(book: &Book, account: &str, lines: &[Line]) -> Result<()> {
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let statements = book.kept::<Statements>();
    for line in lines {
        let args = [
            Arg::Text(account),
            Arg::OptionalText(line.workflow.as_deref()),
            Arg::Int8(-line.amount),
            Arg::Text(&line.actor),
        ];
        statements.add.run(&args, Snapshot::Statement)?;
    }
    Ok(())
}

/// Take the account's charges out of the queue, in the order in which they came. Only the holder of its
/// row may.
pub(super) fn take(book: &Book, account: &str) -> Result<Vec<Queued>> {
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let outcome = book
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

pub(super) fn put_back(book: &Book, account: &str, queued: &[Queued]) -> Result<()> {
    let _owner = RunAs::owner(book.accounts.extension_owner);
    for queued in queued {
        let args = [
            Arg::Text(account),
            Arg::Int8(queued.charge_id),
            Arg::Text(&queued.workflow),
            Arg::Int8(queued.tokens),
            Arg::Text(&queued.actor),
            Arg::OptionalTimestamp(Some(queued.queued_at)),
        ];
        book.kept::<Statements>()
            .put_back
            .run(&args, Snapshot::Statement)?;
    }
    Ok(())
}

/// What the queue has for an account, as the calling statement sees it. Tokens.
pub(crate) fn waiting(book: &Book, account: &str) -> Result<i64> {
    if !is_used(book) {
        return Ok(0);
    }
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let outcome = book
        .kept::<Statements>()
        .waiting
        .run(&[Arg::Text(account)], Snapshot::Caller)?;
    match outcome.rows.first() {
        Some(row) => row.amount(0),
        None => Ok(0),
    }
}

/// What the queue has, by account, as the calling statement sees it. Tokens.
pub(crate) fn totals(book: &Book) -> Result<(Vec<String>, Vec<i64>)> {
    totals_as_of(book, Snapshot::Caller)
}

pub(super) fn totals_as_of(book: &Book, snapshot: Snapshot) -> Result<(Vec<String>, Vec<i64>)> {
    // The catalog of 0.1.0, before it is updated, has no queue.
    if book.own.queue == pg_sys::InvalidOid {
        return Ok((Vec::new(), Vec::new()));
    }
    let _owner = RunAs::owner(book.accounts.extension_owner);
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
pub(crate) fn entries(book: &Book, account: &str) -> Result<Vec<Queued>> {
    if !is_used(book) {
        return Ok(Vec::new());
    }
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let outcome = book
        .kept::<Statements>()
        .entries
        .run(&[Arg::Text(account)], Snapshot::Caller)?;
    queued_of(&outcome.rows)
}

/// The account's id was changed.
pub(crate) fn rename(book: &Book, old_account: &str, account: &str) -> Result<()> {
    if !is_used(book) {
        return Ok(());
    }
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let ids = [Arg::Text(old_account), Arg::Text(account)];
    book.kept::<Statements>()
        .rename
        .run(&ids, Snapshot::Statement)
        .map(|_| ())
}
