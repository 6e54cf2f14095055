//! The queue of busy accounts, `attach(busy_account => 'queue')`: charges that wait for their account's
//! row.
//!
//! A row of `token_balance.queue` is a charge that its workflow's settlement has claimed and that no
//! balance has paid yet. It is written in the same transaction as the claim.

use pgrx::pg_sys::{self, INT2OID, INT8OID, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use super::change::Line;
use crate::binding::{Book, BusyAccount, Kept};
use crate::error::{Error, Result};
use crate::postgres::clock::now;
use crate::postgres::direct::{Conflict, Holds, Inserter, Lookup, Shape, Wanted};
use crate::postgres::key::KeyType;
use crate::postgres::lock::{EXCLUSIVE, Object, SHARE, hash, lock};
use crate::postgres::snapshot::{Snapshot, uses_transaction_snapshot};
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, Row, moment_sql, texts};

/// The most charges that one UPDATE applies.
pub(super) const BATCH: usize = 10_000;

/// How many numbers are tried for a charge: others may have been queued for the account at the same time.
const MOST_TRIES: usize = 1_000;

/// The table as the extension makes it.
static SHAPE: Shape = Shape {
    columns: &[
        (TEXTOID, false),
        (INT8OID, false),
        (TEXTOID, false),
        (INT8OID, false),
        (TEXTOID, false),
        (TIMESTAMPTZOID, false),
        (INT2OID, false),
        (INT2OID, false),
    ],
    checks: &[],
};

/// The statements on the queue.
pub(super) struct Statements {
    inserter: Inserter,
    lookup: Lookup,
    insert: Statement,
    take: Statement,
    waiting: Statement,
    entries: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        let own = |alias| book.accounts.own(alias);
        let queued = |alias: &str| {
            format!(
                "{alias}.charge_id, {alias}.workflow_id, {alias}.tokens, {alias}.actor, {}, {}",
                moment_sql(&format!("{alias}.queued_at")),
                match book.accounts.id {
                    Some(_) => format!("{alias}.binding_id"),
                    None => "NULL".into(),
                }
            )
        };
        let insert = match book.accounts.id {
            Some(_) => {
                "INSERT INTO token_balance.queue (user_id, charge_id, workflow_id, tokens, actor, \
                 queued_at, accounts_id, binding_id) OVERRIDING SYSTEM VALUE \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING"
            }
            // The catalog of an older version.
            None => {
                "INSERT INTO token_balance.queue (user_id, charge_id, workflow_id, tokens, actor, \
                 queued_at) OVERRIDING SYSTEM VALUE SELECT $1, $2, $3, $4, $5, $6 \
                 WHERE $7 IS NULL OR $8 IS NULL OR true ON CONFLICT DO NOTHING"
            }
        };
        Statements {
            inserter: Inserter::new(book.own.queue, &SHAPE),
            lookup: Lookup::new(book.accounts.id.map(|id| Wanted {
                table: book.own.queue,
                owner: book.accounts.extension_owner,
                scope: Some(("accounts_id", id)),
                key: "user_id".into(),
                key_type: KeyType::Text,
                columns: vec![("charge_id".into(), Holds::Integer)],
            })),
            insert: Statement::new(
                insert,
                &SHAPE.columns.iter().map(|it| it.0).collect::<Vec<_>>(),
            ),
            take: Statement::new(
                &format!(
                    "DELETE FROM token_balance.queue AS q \
                     WHERE {} q.user_id OPERATOR(pg_catalog.=) $1 AND q.charge_id \
                     OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT f.charge_id \
                     FROM token_balance.queue AS f WHERE {} \
                     f.user_id OPERATOR(pg_catalog.=) $1 ORDER BY f.charge_id LIMIT {BATCH})) \
                     RETURNING {}",
                    own("q"),
                    own("f"),
                    queued("q")
                ),
                &[TEXTOID],
            ),
            waiting: Statement::new(
                &format!(
                    "SELECT COALESCE(pg_catalog.sum(q.tokens), 0) FROM token_balance.queue AS q \
                     WHERE {} q.user_id OPERATOR(pg_catalog.=) $1",
                    own("q")
                ),
                &[TEXTOID],
            ),
            entries: Statement::new(
                &format!(
                    "SELECT {} FROM token_balance.queue AS q \
                     WHERE {} q.user_id OPERATOR(pg_catalog.=) $1 ORDER BY q.charge_id",
                    queued("q"),
                    own("q")
                ),
                &[TEXTOID],
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
    /// The time, unless another one had that number; an older version numbered them from 1.
    charge_id: i64,
    /// The number of the workflow's binding.
    pub(super) binding: Option<i16>,
    pub(crate) workflow: String,
    pub(crate) tokens: i64,
    pub(crate) actor: String,
    pub(crate) queued_at: TimestampTz,
}

/// Put charges of one account into the queue.
pub(super) fn add(book: &Book, account: &str, lines: &[Line]) -> Result<()> {
    let queued = lines.iter().map(|line| {
        let queued_at = now();
        Queued {
            charge_id: queued_at,
            binding: line.binding,
            workflow: line.workflow.clone().unwrap_or_default(),
            tokens: -line.amount,
            actor: line.actor.to_string(),
            queued_at,
        }
    });
    put(book, account, queued)
}

fn put(book: &Book, account: &str, queued: impl Iterator<Item = Queued>) -> Result<()> {
    let _owner = book.run_as_extension();
    let statements = book.kept::<Statements>();
    let table = statements.inserter.open();
    let accounts = book.accounts.id;
    'charges: for mut queued in queued {
        let is_new = |queued: &Queued| {
            let row = [
                Arg::Text(account),
                Arg::Int8(queued.charge_id),
                Arg::Text(&queued.workflow),
                Arg::Int8(queued.tokens),
                Arg::Text(&queued.actor),
                Arg::OptionalTimestamp(Some(queued.queued_at)),
                Arg::OptionalInt2(accounts),
                Arg::OptionalInt2(queued.binding),
            ];
            Result::Ok(match &table {
                // One in doubt is not there: the next number is tried.
                Some(table) if accounts.and(queued.binding).is_some() => {
                    table.insert(&[row], Conflict::Stop) == 1
                }
                _ => statements.insert.run(&row, Snapshot::Statement)?.processed == 1,
            })
        };
        // Nobody gives numbers out: sessions share no sequence, which could be behind after a switch-over.
        for _ in 0..MOST_TRIES {
            if is_new(&queued)? {
                continue 'charges;
            }
            queued.charge_id += 1;
        }
        return Err(Error::ChargeSuppressed {
            relation: "token_balance.queue".into(),
            account: account.to_owned(),
        });
    }
    Ok(())
}

/// Take the account's charges out of the queue, in the order in which they came. Only the holder of its
/// row may.
pub(super) fn take(book: &Book, account: &str) -> Result<Vec<Queued>> {
    if is_empty(book, account) {
        return Ok(Vec::new());
    }
    take_as_of(book, account, Snapshot::Statement)
}

/// Whether the queue has nothing for an account, as a statement sees it; false where only SQL can tell.
fn is_empty(book: &Book, account: &str) -> bool {
    if uses_transaction_snapshot() {
        return false;
    }
    let _owner = book.run_as_extension();
    let reader = book.kept::<Statements>().lookup.reader();
    reader.is_some_and(|mut reader| !reader.has_any(account))
}

fn take_as_of(book: &Book, account: &str, snapshot: Snapshot) -> Result<Vec<Queued>> {
    let _owner = book.run_as_extension();
    let outcome = book
        .kept::<Statements>()
        .take
        .run(&[Arg::Text(account)], snapshot)?;
    let mut queued = queued_of(&outcome.rows)?;
    queued.sort_unstable_by_key(|queued| queued.charge_id);
    Ok(queued)
}

/// Have the account keep its id until the transaction ends: it has the charges that are left for it then.
pub(super) fn lock_id(account: &str) {
    lock(id_of(account), SHARE);
}

/// Wait for those who are just leaving a charge, and have the next ones wait.
pub(super) fn lock_id_alone(account: &str) {
    lock(id_of(account), EXCLUSIVE);
}

fn id_of(account: &str) -> Object {
    Object {
        space: 0x7469,
        key: hash(account),
    }
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
                binding: row.number(5),
            })
        })
        .collect()
}

/// Put back what was taken and cannot be paid.
pub(super) fn put_back(book: &Book, account: &str, queued: Queued) -> Result<()> {
    put(book, account, std::iter::once(queued))
}

/// What the queue has for an account, as the calling statement sees it. Tokens.
pub(crate) fn waiting(book: &Book, account: &str) -> Result<i64> {
    if !is_used(book) {
        return Ok(0);
    }
    let _owner = book.run_as_extension();
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
    let _owner = book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "SELECT q.user_id, pg_catalog.sum(q.tokens)::bigint FROM token_balance.queue AS q \
             WHERE {} true GROUP BY 1",
            book.accounts.own("q")
        ),
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
    let _owner = book.run_as_extension();
    let outcome = book
        .kept::<Statements>()
        .entries
        .run(&[Arg::Text(account)], Snapshot::Caller)?;
    queued_of(&outcome.rows)
}

/// The account's id was changed. Whatever the option says: charges may be left from when it was another.
pub(crate) fn rename(book: &Book, old_account: &str, account: &str) -> Result<()> {
    // The catalog of 0.1.0, before it is updated, has no queue.
    if book.own.queue == pg_sys::InvalidOid {
        return Ok(());
    }
    // What they leave is seen, however old the transaction's snapshot is.
    lock_id_alone(old_account);
    loop {
        let queued = take_as_of(book, old_account, Snapshot::Latest)?;
        if queued.is_empty() {
            return Ok(());
        }
        put(book, account, queued.into_iter())?;
    }
}
