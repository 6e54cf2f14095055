//! `token_balance.import_account` and `refuse_account`: what the database for which a document is does with it, once.

use serde_json::Value;

use super::document::Document;
use super::open;
use super::receipt::{Answered, Receipt};
use super::{Here, this_database};
use crate::binding::book;
use crate::binding::own::{extension_owner, refuse_older_catalog};
use crate::error::{Error, Result};
use crate::ledger::archive_table::keep_archivers_out;
use crate::ledger::change::actor;
use crate::ledger::moved::{self, IS_AWAY};
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// Open the account of the document here. A second call says what the first one did.
///
/// Errors: 22023 for what is no document, or one for another database; 55000 for one that was refused, or if the account
/// cannot be opened here by it; 22003 and 23514 for a balance that the column does not take; 40001 to be retried.
pub(crate) fn import(name: Option<&str>, document: &Value) -> Result<Receipt> {
    refuse_older_catalog()?;
    let (document, database) = for_this_database(document)?;
    let head = &document.head;
    keep_archivers_out();
    let book = book(name)?;
    let here = Here::of(&book)?;
    moved::take_turns(&head.user_id);
    match answered(&head.token)? {
        Some(Answered::Imported) => {
            return Ok(receipt(&document, database, Answered::Imported, true));
        }
        Some(Answered::Refused) => {
            return Err(Error::CannotMove {
                message: format!(
                    "the document of account \"{}\" was refused here",
                    head.user_id
                ),
                detail: Some(
                    "Its receipt says so, and the account may be open again where it comes from."
                        .into(),
                ),
                hint: Some(
                    "Export the account once more, after token_balance.take_back_account().".into(),
                ),
            });
        }
        None => {}
    }
    open::lock(&here, &document)?;
    open::drop_marks(&here, &document)?;
    open::check(&here, &document)?;
    come_back(&here, &document)?;
    open::open(&here, &document)?;
    write(&document, Answered::Imported, here.book.accounts.id)?;
    Ok(receipt(&document, database, Answered::Imported, false))
}

/// Never open an account by this document. A second call says what the first one did.
///
/// Errors: 22023 for what is no document, or one for another database; 55000 for one that was imported.
pub(crate) fn refuse(document: &Value) -> Result<Receipt> {
    refuse_older_catalog()?;
    let (document, database) = for_this_database(document)?;
    moved::take_turns(&document.head.user_id);
    let replayed = match answered(&document.head.token)? {
        Some(Answered::Refused) => true,
        Some(Answered::Imported) => {
            return Err(Error::CannotMove {
                message: format!("account \"{}\" was imported here", document.head.user_id),
                detail: Some("By this document.".into()),
                hint: Some(
                    "token_balance.import_account() gives its receipt once more. Export the account to move it back."
                        .into(),
                ),
            });
        }
        None => {
            write(&document, Answered::Refused, None)?;
            false
        }
    };
    Ok(receipt(&document, database, Answered::Refused, replayed))
}

/// The document, and this database's name. Error 22023 if it is for another one.
fn for_this_database(document: &Value) -> Result<(Document, String)> {
    let document = Document::read(document)?;
    let database = this_database()?;
    if document.head.destination != database {
        return Err(Error::InvalidArgument {
            message: format!(
                "document is for database \"{}\", and this is \"{database}\"",
                document.head.destination
            ),
            detail: None,
            hint: Some(
                "Call it there. A database has the name that current_database() says, or that of its setting \
                 token_balance.database."
                    .into(),
            ),
        });
    }
    Ok((document, database))
}

fn receipt(document: &Document, database: String, state: Answered, replayed: bool) -> Receipt {
    Receipt {
        token: document.head.token.clone(),
        user_id: document.head.user_id.clone(),
        database,
        state,
        replayed,
    }
}

/// What was answered to the token.
fn answered(token: &str) -> Result<Option<Answered>> {
    let _owner = RunAs::owner(extension_owner()?);
    let outcome = spi::query_as_of(
        "SELECT m.state FROM token_balance.account_move AS m WHERE m.token OPERATOR(pg_catalog.=) $1::pg_catalog.uuid \
         AND m.direction OPERATOR(pg_catalog.=) 'in'",
        &[Arg::Text(token)],
        Snapshot::Latest,
    )?;
    Ok(outcome.rows.first().map(|row| match row.text(0) {
        "refused" => Answered::Refused,
        _ => Answered::Imported,
    }))
}

fn write(document: &Document, state: Answered, accounts: Option<i16>) -> Result<()> {
    let head = &document.head;
    let _owner = RunAs::owner(extension_owner()?);
    let lineage = serde_json::Value::from(head.lineage.clone()).to_string();
    spi::query_as_of(
        "INSERT INTO token_balance.account_move (token, direction, accounts_id, user_id, database, state, lineage, \
         balance, actor) SELECT $1::pg_catalog.uuid, 'in', $2, $3, $4, $5, ARRAY(SELECT e.token::pg_catalog.uuid \
         FROM pg_catalog.jsonb_array_elements_text($6::pg_catalog.jsonb) WITH ORDINALITY AS e (token, place) \
         ORDER BY e.place), $7, $8",
        &[
            Arg::Text(&head.token),
            Arg::OptionalInt2(accounts),
            Arg::Text(&head.user_id),
            Arg::Text(&head.source),
            Arg::Text(state.name()),
            Arg::Text(&lineage),
            Arg::Int8(head.balance),
            Arg::Text(&actor()),
        ],
        Snapshot::Latest,
    )
    .map(drop)
}

/// The account has been here, and went with another token: it is not away any more. Error 55000 if the document does not
/// come of that move: the account that has left would be forgotten.
fn come_back(here: &Here, document: &Document) -> Result<()> {
    let head = &document.head;
    let own = here.book.accounts.own("m");
    let _owner = here.book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "SELECT m.token, m.database FROM token_balance.account_move AS m \
             WHERE {own} m.user_id OPERATOR(pg_catalog.=) $1 AND {IS_AWAY}"
        ),
        &[Arg::Text(&head.user_id)],
        Snapshot::Latest,
    )?;
    let Some(row) = outcome.rows.first() else {
        return Ok(());
    };
    if !head.lineage.iter().any(|token| token == row.text(0)) {
        return Err(Error::CannotMove {
            message: format!(
                "account \"{}\" has left this database for \"{}\", and the document does not come from there",
                head.user_id,
                row.text(1)
            ),
            detail: Some(format!("It left with token {}.", row.text(0))),
            hint: Some(
                "Import the document that it left with where it went, and export it from there."
                    .into(),
            ),
        });
    }
    spi::query_as_of(
        &format!(
            "UPDATE token_balance.account_move AS m SET state = 'returned', document = NULL, \
             ended_at = pg_catalog.clock_timestamp() \
             WHERE {own} m.user_id OPERATOR(pg_catalog.=) $1 AND {IS_AWAY}"
        ),
        &[Arg::Text(&head.user_id)],
        Snapshot::Latest,
    )
    .map(drop)
}
