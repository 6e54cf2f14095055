//! References: what a credit or refund with a caller's reference did. The same one again is answered by it.
//!
//! A row of `token_balance.reference` is written by whoever makes the credit, in its transaction, and not by the
//! ledger's trigger; and it goes with the account when that gets another id, so that whoever gets the old id
//! next replays nothing of a stranger's.

use pgrx::pg_sys::{INT2OID, INT8OID, TEXTOID};

use super::change::{Given, Kind};
use crate::binding::{Book, Kept, own};
use crate::error::{Error, Result};
use crate::postgres::lock::{EXCLUSIVE, Object, hash, lock};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, Row};

/// The statements on references.
struct Statements {
    find: Statement,
    /// None in the catalog of an older version, where no settlement is archived.
    refunds: Option<Statement>,
    remember: Statement,
    drop_taken: Statement,
    rename: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        let own = |alias| book.accounts.own(alias);
        let accounts = book.accounts.id.unwrap_or(0);
        let find = match book.accounts.id {
            Some(_) => format!(
                "SELECT r.kind, r.amount, r.previous_balance, r.new_balance, r.workflow_id, \
                 r.binding_id FROM token_balance.reference AS r WHERE {} r.user_id OPERATOR(pg_catalog.=) $1 \
                 AND r.reference OPERATOR(pg_catalog.=) $2",
                own("r")
            ),
            // The catalog of an older version: there the ledger has them.
            None => "SELECT l.kind, l.amount, l.previous_balance, l.new_balance, l.workflow_id, \
                     NULL::smallint FROM token_balance.ledger AS l WHERE l.user_id OPERATOR(pg_catalog.=) $1 \
                     AND l.reference OPERATOR(pg_catalog.=) $2 UNION ALL \
                     SELECT r.kind, r.amount, r.previous_balance, r.new_balance, r.workflow_id, \
                     NULL::smallint FROM token_balance.archived_reference AS r \
                     WHERE r.user_id OPERATOR(pg_catalog.=) $1 \
                     AND r.reference OPERATOR(pg_catalog.=) $2"
                .into(),
        };
        Statements {
            find: Statement::new(&find, &[TEXTOID, TEXTOID]),
            refunds: book.accounts.id.map(|_| {
                Statement::new(
                    &format!(
                        "SELECT r.kind, r.amount, r.previous_balance, r.new_balance, r.workflow_id, \
                         r.binding_id, r.user_id FROM token_balance.reference AS r \
                         WHERE {} r.reference OPERATOR(pg_catalog.=) $1 \
                         AND r.kind OPERATOR(pg_catalog.=) {} ORDER BY r.user_id COLLATE pg_catalog.\"C\"",
                        own("r"),
                        Kind::Refund.sql()
                    ),
                    &[TEXTOID],
                )
            }),
            remember: Statement::new(
                &format!(
                    "INSERT INTO token_balance.reference (accounts_id, user_id, reference, kind, \
                     amount, previous_balance, new_balance, workflow_id, binding_id) \
                     VALUES ({accounts}, $1, $2, $3, $4, $5, $6, $7, $8)"
                ),
                &[
                    TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, TEXTOID, INT2OID,
                ],
            ),
            drop_taken: Statement::new(
                &format!(
                    "DELETE FROM token_balance.reference AS r WHERE {} \
                     r.user_id OPERATOR(pg_catalog.=) $2 AND r.reference OPERATOR(pg_catalog.=) \
                     ANY (SELECT o.reference FROM token_balance.reference AS o \
                     WHERE {} o.user_id OPERATOR(pg_catalog.=) $1)",
                    own("r"),
                    own("o")
                ),
                &[TEXTOID, TEXTOID],
            ),
            rename: Statement::new(
                &format!(
                    "UPDATE token_balance.reference AS r SET user_id = $2 \
                     WHERE {} r.user_id OPERATOR(pg_catalog.=) $1",
                    own("r")
                ),
                &[TEXTOID, TEXTOID],
            ),
        }
    }
}

/// A credit or refund that was made with a reference.
pub(crate) struct Referenced {
    pub(crate) kind: String,
    pub(crate) workflow: Option<String>,
    /// The number of the binding in which a workflow was refunded; None if that was in several at once.
    pub(crate) binding: Option<i16>,
    pub(crate) given: Given,
}

impl Referenced {
    /// The error (23505) for another use of the reference.
    pub(crate) fn conflict(&self, account: &str, reference: &str) -> Error {
        Error::ReferenceUsed {
            account: account.to_owned(),
            reference: reference.to_owned(),
            kind: self.kind.clone(),
            amount: self.given.amount,
        }
    }
}

/// Wait for the lock on a reference and hold it until the transaction ends: two calls with one reference take
/// turns, and the second one finds what the first one did.
pub(crate) fn lock_reference(account: &str, reference: &str) {
    // Two pairs that give the same text only wait for each other.
    let key = hash(&format!("{account}\u{1}{reference}"));
    lock(Object { space: 0x7463, key }, EXCLUSIVE);
}

/// What was done for the account with this reference.
pub(crate) fn find(book: &Book, account: &str, reference: &str) -> Result<Option<Referenced>> {
    take_in_older(book)?;
    let _owner = book.run_as_extension();
    let args = [Arg::Text(account), Arg::Text(reference)];
    let outcome = book
        .kept::<Statements>()
        .find
        .run(&args, Snapshot::Latest)?;
    let row = outcome.rows.first();
    row.map(|row| referenced(book, row, account)).transpose()
}

fn referenced(book: &Book, row: &Row, account: &str) -> Result<Referenced> {
    Ok(Referenced {
        kind: row.text(0).to_owned(),
        workflow: row.owned(4),
        binding: row.number(5),
        given: Given {
            binding: Some(book.accounts.binding.clone()),
            account: account.to_owned(),
            amount: row.amount(1)?,
            previous_balance: row.amount(2)?,
            new_balance: row.amount(3)?,
        },
    })
}

/// What refunds with this reference gave, to whatever account.
pub(crate) fn refunds(book: &Book, reference: &str) -> Result<Vec<Referenced>> {
    take_in_older(book)?;
    let statements = book.kept::<Statements>();
    let Some(statement) = &statements.refunds else {
        return Ok(Vec::new());
    };
    let _owner = book.run_as_extension();
    let outcome = statement.run(&[Arg::Text(reference)], Snapshot::Latest)?;
    let rows = outcome.rows.iter();
    rows.map(|row| referenced(book, row, row.text(6))).collect()
}

/// Remember what was given with a reference.
pub(super) fn remember(
    book: &Book,
    reference: &str,
    kind: Kind,
    given: &Given,
    workflow: Option<&str>,
    binding: Option<i16>,
) -> Result<()> {
    if book.accounts.id.is_none() {
        return Ok(());
    }
    let _owner = book.run_as_extension();
    let args = [
        Arg::Text(&given.account),
        Arg::Text(reference),
        Arg::Text(kind.name()),
        Arg::Int8(given.amount),
        Arg::Int8(given.previous_balance),
        Arg::Int8(given.new_balance),
        Arg::OptionalText(workflow),
        Arg::OptionalInt2(binding),
    ];
    book.kept::<Statements>()
        .remember
        .run(&args, Snapshot::Statement)
        .map(drop)
}

/// The account has another id. What an earlier account of that id had with the same reference is no longer
/// asked for.
pub(crate) fn rename(book: &Book, old_account: &str, account: &str) -> Result<()> {
    if book.accounts.id.is_none() {
        return Ok(());
    }
    take_in_older(book)?;
    let _owner = book.run_as_extension();
    let ids = [Arg::Text(old_account), Arg::Text(account)];
    let statements = book.kept::<Statements>();
    statements.drop_taken.run(&ids, Snapshot::Statement)?;
    statements.rename.run(&ids, Snapshot::Statement).map(drop)
}

/// A dump of an older version has its references in the ledger and in `archived_reference`: take them over, once.
/// Another session that does so meanwhile is waited for.
fn take_in_older(book: &Book) -> Result<()> {
    if !book.accounts.is_of_older_dump {
        return Ok(());
    }
    let _owner = book.run_as_extension();
    let marked = spi::command(
        "UPDATE token_balance.binding SET singleton = NULL WHERE singleton OPERATOR(pg_catalog.=) true",
    )?;
    if marked > 0 {
        take_in_all()?;
        own::tell_other_sessions()?;
    }
    Ok(())
}

/// What an older version has left where it kept references. Nothing is taken twice.
pub(crate) fn take_in_all() -> Result<()> {
    spi::command(
        "INSERT INTO token_balance.reference (accounts_id, user_id, reference, kind, amount, \
         previous_balance, new_balance, workflow_id, binding_id) \
         SELECT 1, o.user_id, o.reference, o.kind, o.amount, o.previous_balance, o.new_balance, \
         o.workflow_id, CASE WHEN o.kind OPERATOR(pg_catalog.=) 'refund' \
         THEN 1 END FROM (SELECT r.user_id, r.reference, r.kind, r.amount, r.previous_balance, \
         r.new_balance, r.workflow_id FROM token_balance.archived_reference AS r UNION ALL \
         SELECT l.user_id, l.reference, l.kind, l.amount, l.previous_balance, l.new_balance, \
         l.workflow_id FROM token_balance.ledger AS l WHERE l.reference IS NOT NULL \
         AND l.accounts_id OPERATOR(pg_catalog.=) 1) AS o ON CONFLICT DO NOTHING",
    )?;
    spi::command("DELETE FROM token_balance.archived_reference").map(drop)
}
