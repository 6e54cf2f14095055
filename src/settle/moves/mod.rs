//! Accounts that move between databases, of which each has the extension (DESIGN Z3).
//!
//! An account is open in one database at most. `export` closes it here and makes a document of all that is known of it;
//! `arrival` opens it elsewhere by that, or refuses the document for good, and its receipt says which; `departure` is
//! what the receipt does at home: the document is dropped, or the account is opened here again.
//!
//! Locks are taken in this order: the account's moves, workflows, what is left for it in the queue, its row.

pub(crate) mod arrival;
pub(crate) mod departure;
mod document;
pub(crate) mod export;
mod open;
mod receipt;
mod whole;

use std::rc::Rc;

use crate::binding::{Book, Bound, Which, bindings_locked};
use crate::error::{Error, Result};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};

/// The accounts that a call is about, and all that charges them, locked as a settlement locks it.
struct Here {
    book: Rc<Book>,
    bounds: Vec<Rc<Bound>>,
}

impl Here {
    /// Errors: 55000 if nothing is attached, or what is wrong with a binding of these accounts.
    fn of(book: &Book) -> Result<Self> {
        let Some(accounts) = book.accounts.id else {
            return Err(Error::OlderCatalog);
        };
        let bounds = bindings_locked(Which::OfAccounts(accounts))?.all()?;
        match bounds.first() {
            Some(first) => Ok(Here {
                book: first.book.clone(),
                bounds,
            }),
            None => Err(Error::NotAttached),
        }
    }

    /// SQL for "the row `alias` of `token_balance.binding` is of one of these bindings".
    fn is_of_accounts(&self, alias: &str) -> String {
        format!(
            "{} {alias}.detached_at IS NULL",
            self.book.accounts.own(alias)
        )
    }
}

/// The workflows of which something is settled for an account, in a binding.
fn settled_workflows(bound: &Bound, account: &str) -> Result<Vec<String>> {
    let _owner = bound.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "SELECT s.workflow_id FROM token_balance.settlement AS s \
             WHERE {} s.user_id OPERATOR(pg_catalog.=) $1 ORDER BY 1",
            bound.binding.own("s")
        ),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    Ok(texts(&outcome.rows, 0))
}

/// The name by which this database is known to the others: the setting `token_balance.database`, or its own name.
pub(crate) fn this_database() -> Result<String> {
    let outcome = spi::query(
        "SELECT pg_catalog.current_setting('token_balance.database', true), pg_catalog.current_database()",
        &[],
    )?;
    let row = outcome.rows.first();
    let mut names = row.into_iter().flat_map(|row| [row.text(0), row.text(1)]);
    Ok(names
        .find(|name| !name.is_empty())
        .unwrap_or_default()
        .to_owned())
}
