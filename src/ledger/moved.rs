//! Accounts that were moved to another database (`token_balance.export_account`): nothing is charged or given here until
//! they are back.
//!
//! Where an account is, `token_balance.account_move` says. It is read while the account's row is held, so that who waits
//! for a move that is just being made finds it.

use std::collections::HashSet;

use pgrx::pg_sys::TEXTOID;

use crate::binding::{Book, Kept};
use crate::error::{Error, Result};
use crate::postgres::direct::{Holds, Lookup, Wanted};
use crate::postgres::key::KeyType;
use crate::postgres::lock::{EXCLUSIVE, Object, hash, lock};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, texts};

/// SQL for "the move `m` is of an account that has left and is not back".
pub(crate) const IS_AWAY: &str =
    "m.state OPERATOR(pg_catalog.=) ANY (ARRAY['sent', 'confirmed']::pg_catalog.text[])";

/// The same of a state.
fn is_away(state: &str) -> bool {
    matches!(state, "sent" | "confirmed")
}

struct Statements {
    lookup: Lookup,
    database: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        Statements {
            lookup: Lookup::new(book.accounts.id.map(|id| Wanted {
                table: book.own.account_move,
                owner: book.accounts.extension_owner,
                scope: Some(("accounts_id", id)),
                key: "user_id".into(),
                key_type: KeyType::Text,
                columns: vec![
                    ("state".into(), Holds::Key(KeyType::Text)),
                    ("database".into(), Holds::Key(KeyType::Text)),
                ],
            })),
            database: Statement::new(
                &format!(
                    "SELECT m.database FROM token_balance.account_move AS m \
                     WHERE {} m.user_id OPERATOR(pg_catalog.=) $1 AND {IS_AWAY}",
                    book.accounts.own("m")
                ),
                &[TEXTOID],
            ),
        }
    }
}

/// Whether any of these accounts may be in another database: whoever moves the first one waits for all who have found that
/// none is, and keeps the others out until it is known.
pub(crate) fn is_used(book: &Book) -> bool {
    book.accounts.has_moved
}

/// The database that the account has moved to; None if it is here.
pub(crate) fn database(book: &Book, account: &str) -> Result<Option<String>> {
    if !is_used(book) {
        return Ok(None);
    }
    let _owner = book.run_as_extension();
    let statements = book.kept::<Statements>();
    if let Some(mut reader) = statements.lookup.reader() {
        let mut found = None;
        reader.read(&[account.to_owned()], |_, row| {
            if row.text(0).is_some_and(|state| is_away(&state)) {
                found = row.text(1);
            }
        });
        return Ok(found);
    }
    let outcome = statements
        .database
        .run(&[Arg::Text(account)], Snapshot::Latest)?;
    Ok(outcome.rows.first().and_then(|row| row.owned(0)))
}

/// Error 55000 if the account has moved.
pub(crate) fn refuse(book: &Book, account: &str) -> Result<()> {
    match database(book, account)? {
        Some(database) => Err(Error::AccountMoved {
            account: account.to_owned(),
            database,
        }),
        None => Ok(()),
    }
}

/// SQL for all accounts that are elsewhere.
pub(crate) fn all_sql(book: &Book) -> String {
    format!(
        "SELECT m.user_id FROM token_balance.account_move AS m WHERE {} {IS_AWAY}",
        book.accounts.own("m")
    )
}

/// The same, as the calling statement sees it.
pub(crate) fn all(book: &Book) -> Result<HashSet<String>> {
    if !is_used(book) {
        return Ok(HashSet::new());
    }
    let _owner = book.run_as_extension();
    let outcome = spi::query_as_of(&all_sql(book), &[], Snapshot::Caller)?;
    Ok(texts(&outcome.rows, 0).into_iter().collect())
}

/// Moves of one account take turns: the first lock of each of them.
pub(crate) fn take_turns(account: &str) {
    let key = hash(account);
    lock(Object { space: 0x746d, key }, EXCLUSIVE);
}
