//! An account's past out of the ledger: its statement, and its balance at a moment.

use pgrx::pg_sys::{TEXTOID, TIMESTAMPTZOID, TimestampTz};

use crate::binding::{Book, Kept};
use crate::error::{Error, Result};
use crate::ledger::account::{balance_of, column_of};
use crate::ledger::change::Kind;
use crate::ledger::queue::{self, Queued};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, Row, moment_sql};

struct Statements {
    statement: Statement,
    balance_at: Statement,
    opening: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        let own = book.accounts.own("l");
        Statements {
            statement: Statement::new(
                &format!(
                    "SELECT l.entry_id, {}, \
                 l.kind, l.amount, l.previous_balance, l.new_balance, \
                 l.workflow_id, l.reference, l.note, l.actor \
                 FROM token_balance.ledger AS l \
                 WHERE {own} l.user_id OPERATOR(pg_catalog.=) $1 \
                 AND ($2 IS NULL OR l.created_at OPERATOR(pg_catalog.>=) $2) \
                 AND ($3 IS NULL OR l.created_at OPERATOR(pg_catalog.<) $3) \
                 ORDER BY l.entry_id",
                    moment_sql("l.created_at")
                ),
                &[TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID],
            ),
            // Along the chain: two entries may have one timestamp.
            balance_at: Statement::new(
                &format!(
                    "SELECT l.new_balance FROM token_balance.ledger AS l \
                     WHERE {own} l.user_id OPERATOR(pg_catalog.=) $1 \
                     AND l.created_at OPERATOR(pg_catalog.<=) $2 \
                     ORDER BY l.entry_id DESC LIMIT 1"
                ),
                &[TEXTOID, TIMESTAMPTZOID],
            ),
            opening: Statement::new(
                &format!(
                    "SELECT l.previous_balance, {}, l.kind, l.note FROM token_balance.ledger AS l \
                     WHERE {own} l.user_id OPERATOR(pg_catalog.=) $1 ORDER BY l.entry_id LIMIT 1",
                    moment_sql("l.created_at")
                ),
                &[TEXTOID],
            ),
        }
    }
}

/// One ledger entry as people read it. Amounts are tokens; the time is in the server's count.
pub(crate) struct Line {
    /// None for a charge that still waits in the queue.
    pub(crate) entry_id: Option<i64>,
    pub(crate) created_at: TimestampTz,
    pub(crate) kind: String,
    pub(crate) amount: i64,
    pub(crate) previous_balance: i64,
    pub(crate) new_balance: i64,
    pub(crate) workflow_id: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) note: Option<String>,
    pub(crate) actor: String,
}

/// The entries of an account from `since` on and before `until`. Errors: P0002 for an account that
/// has neither a row nor an entry, 22023 for a period that is archived.
pub(crate) fn statement(
    book: &Book,
    account: &str,
    since: Option<TimestampTz>,
    until: Option<TimestampTz>,
) -> Result<Vec<Line>> {
    let queued = queue::entries(book, account)?;
    let outcome = {
        let _owner = book.run_as_extension();
        let args = [
            Arg::Text(account),
            Arg::OptionalTimestamp(since),
            Arg::OptionalTimestamp(until),
        ];
        book.kept::<Statements>()
            .statement
            .run(&args, snapshot(book))?
    };
    if outcome.rows.is_empty()
        && let Some(beginning) = beginning(book, account)?
        && until.is_some_and(|until| until <= beginning.at)
    {
        beginning.refuse_archived(account)?;
    }
    let mut lines: Vec<_> = outcome.rows.iter().map(line).collect::<Result<_>>()?;
    lines.extend(
        lines_of_queue(book, account, queued)?
            .into_iter()
            .filter(|line| since.is_none_or(|since| since <= line.created_at))
            .filter(|line| until.is_none_or(|until| line.created_at < until)),
    );
    Ok(lines)
}

fn line(row: &Row) -> Result<Line> {
    Ok(Line {
        entry_id: row.number(0),
        created_at: row.amount(1)?,
        kind: row.text(2).to_owned(),
        amount: row.amount(3)?,
        previous_balance: row.amount(4)?,
        new_balance: row.amount(5)?,
        workflow_id: row.owned(6),
        reference: row.owned(7),
        note: row.owned(8),
        actor: row.text(9).to_owned(),
    })
}

/// Where charges may wait in the queue, they and the ledger are read as of one moment.
fn snapshot(book: &Book) -> Snapshot {
    if queue::is_used(book) {
        Snapshot::Caller
    } else {
        Snapshot::Statement
    }
}

/// The entries that the queue's charges are going to be, after the last one that there is.
fn lines_of_queue(book: &Book, account: &str, queued: Vec<Queued>) -> Result<Vec<Line>> {
    if queued.is_empty() {
        return Ok(Vec::new());
    }
    let waiting: i64 = queued.iter().map(|queued| queued.tokens).sum();
    let mut balance = known(account, balance_of(book, account)?)?.saturating_add(waiting);
    let line = |queued: Queued| {
        let previous_balance = balance;
        balance -= queued.tokens;
        Line {
            entry_id: None,
            created_at: queued.queued_at,
            kind: Kind::Settlement.name().to_owned(),
            amount: -queued.tokens,
            previous_balance,
            new_balance: balance,
            workflow_id: Some(queued.workflow),
            reference: None,
            note: Some("waits for the account".to_owned()),
            actor: queued.actor,
        }
    };
    Ok(queued.into_iter().map(line).collect())
}

/// The balance of an account at a moment: after its last entry until then, or its opening balance.
/// Errors: P0002 for an account that has neither a row nor an entry, 22023 for a moment whose entries
/// are archived.
pub(crate) fn balance_at(book: &Book, account: &str, at: TimestampTz) -> Result<i64> {
    let queued = queue::entries(book, account)?;
    let waiting = queued
        .iter()
        .filter(|queued| queued.queued_at <= at)
        .map(|queued| queued.tokens)
        .sum::<i64>();
    Ok(ledger_balance_at(book, account, at)?.saturating_sub(waiting))
}

fn ledger_balance_at(book: &Book, account: &str, at: TimestampTz) -> Result<i64> {
    let found = {
        let _owner = book.run_as_extension();
        let args = [Arg::Text(account), Arg::OptionalTimestamp(Some(at))];
        let outcome = book
            .kept::<Statements>()
            .balance_at
            .run(&args, snapshot(book))?;
        let row = outcome.rows.first();
        row.map(|row| row.amount(0)).transpose()?
    };
    if let Some(balance) = found {
        return Ok(balance);
    }
    match beginning(book, account)? {
        Some(beginning) => {
            beginning.refuse_archived(account)?;
            Ok(beginning.balance)
        }
        None => known_balance(book, account),
    }
}

/// Where the ledger of an account begins.
struct Beginning {
    /// The balance before the first entry. Tokens.
    balance: i64,
    at: TimestampTz,
    /// Of an account with archived entries, where those are.
    archived: Option<String>,
}

impl Beginning {
    /// Error 22023 if there were entries before.
    fn refuse_archived(&self, account: &str) -> Result<()> {
        match &self.archived {
            Some(note) => Err(Error::EntriesArchived {
                account: account.to_owned(),
                note: note.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// None for an account without entries. Error P0002 if it has no row either.
fn beginning(book: &Book, account: &str) -> Result<Option<Beginning>> {
    let outcome = {
        let _owner = book.run_as_extension();
        book.kept::<Statements>()
            .opening
            .run(&[Arg::Text(account)], Snapshot::Statement)?
    };
    let Some(row) = outcome.rows.first() else {
        known_balance(book, account)?;
        return Ok(None);
    };
    Ok(Some(Beginning {
        balance: row.amount(0)?,
        at: row.amount(1)?,
        archived: (row.text(2) == Kind::Opening.name()).then(|| row.text(3).to_owned()),
    }))
}

fn known_balance(book: &Book, account: &str) -> Result<i64> {
    known(account, column_of(book, account)?)
}

fn known(account: &str, balance: Option<i64>) -> Result<i64> {
    balance.ok_or_else(|| Error::UnknownAccount {
        account: account.to_owned(),
    })
}
