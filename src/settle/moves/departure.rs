//! `token_balance.confirm_export` and `take_back_account`: what the receipt of a document does where it comes from.

use serde_json::Value;

use super::Here;
use super::document::Document;
use super::open;
use super::receipt::{Answered, Receipt};
use crate::binding::own::{extension_owner, refuse_older_catalog};
use crate::binding::{Which, bindings, bindings_unlocked};
use crate::error::{Error, Result};
use crate::ledger::archive_table::keep_archivers_out;
use crate::ledger::moved;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// The account has arrived: its document is dropped. False if it was before.
///
/// Errors: 22023 for what is no receipt, or that of a document that was refused; P0002 for a token that did not leave from
/// here; 55000 for an account that was taken back.
pub(crate) fn confirm(receipt: &Value) -> Result<(Receipt, bool)> {
    refuse_older_catalog()?;
    let receipt = Receipt::read(receipt)?;
    wants(
        &receipt,
        Answered::Imported,
        "token_balance.take_back_account()",
    )?;
    moved::take_turns(&receipt.user_id);
    let departure = Departure::of(&receipt)?;
    // Error 42501 for accounts of others.
    bindings_unlocked(Which::OfAccounts(departure.accounts))?;
    match departure.state.as_str() {
        "sent" => {}
        // It has come back since.
        "confirmed" | "returned" => return Ok((receipt, false)),
        _ => return Err(taken_back(&receipt)),
    }
    departure.end(&receipt, "confirmed")?;
    Ok((receipt, true))
}

/// The account does not arrive: it is opened here again, as it left. False if it was before.
///
/// Errors: 22023 for what is no receipt, or that of a document that was imported; P0002 for a token that did not leave from
/// here; 55000 if the account has arrived or has no row; 40001 to be retried.
pub(crate) fn take_back(receipt: &Value) -> Result<(Receipt, bool)> {
    refuse_older_catalog()?;
    let receipt = Receipt::read(receipt)?;
    wants(
        &receipt,
        Answered::Refused,
        "token_balance.confirm_export()",
    )?;
    keep_archivers_out();
    let accounts = Departure::of(&receipt)?.accounts;
    let found = bindings(Which::OfAccounts(accounts))?.all()?;
    let Some(first) = found.first() else {
        return Err(Error::NotAttached);
    };
    let here = Here::of(&first.book)?;
    moved::take_turns(&receipt.user_id);
    let departure = Departure::of(&receipt)?;
    let document = match (departure.state.as_str(), &departure.document) {
        ("sent", Some(document)) => document,
        ("taken back", _) => return Ok((receipt, false)),
        _ => {
            return Err(Error::CannotMove {
                message: format!(
                    "account \"{}\" has arrived in database \"{}\"",
                    receipt.user_id, departure.database
                ),
                detail: Some("An earlier receipt has said so.".into()),
                hint: Some("Export it there to move it back.".into()),
            });
        }
    };
    let document: Value = serde_json::from_str(document).map_err(|error| Error::Spi {
        code: error.to_string(),
    })?;
    let document = Document::read(&document)?;
    open::lock(&here, &document)?;
    open::drop_marks(&here, &document)?;
    open::check(&here, &document)?;
    departure.end(&receipt, "taken back")?;
    open::open(&here, &document)?;
    Ok((receipt, true))
}

/// Error 22023 for the receipt of the other kind.
fn wants(receipt: &Receipt, state: Answered, other: &str) -> Result<()> {
    if receipt.state == state {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        message: format!("receipt says that the account was {}", receipt.state.name()),
        detail: None,
        hint: Some(format!("It is one for {other}.")),
    })
}

fn taken_back(receipt: &Receipt) -> Error {
    Error::CannotMove {
        message: format!("account \"{}\" was taken back", receipt.user_id),
        detail: Some(format!(
            "Database \"{}\" had refused it, and says now that it has it: one of the two was restored to an earlier state.",
            receipt.database
        )),
        hint: Some(
            "Find out which, and restore it to one in which the account is open once.".into(),
        ),
    }
}

/// What is known here of a document that has left.
struct Departure {
    accounts: i16,
    database: String,
    state: String,
    document: Option<String>,
}

impl Departure {
    /// Errors: P0002 for a token that did not leave from here, 22023 for the receipt of another database.
    fn of(receipt: &Receipt) -> Result<Self> {
        let _owner = RunAs::owner(extension_owner()?);
        let outcome = spi::query_as_of(
            "SELECT m.accounts_id, m.database, m.state, m.document FROM token_balance.account_move AS m \
             WHERE m.token::pg_catalog.text OPERATOR(pg_catalog.=) $1 AND m.user_id OPERATOR(pg_catalog.=) $2 \
             AND m.direction OPERATOR(pg_catalog.=) 'out'",
            &[Arg::Text(&receipt.token), Arg::Text(&receipt.user_id)],
            Snapshot::Latest,
        )?;
        let Some(row) = outcome.rows.first() else {
            return Err(Error::UnknownMove {
                account: receipt.user_id.clone(),
                token: receipt.token.clone(),
            });
        };
        if row.text(1) != receipt.database {
            return Err(Error::InvalidArgument {
                message: format!(
                    "receipt is of database \"{}\", and the document went to \"{}\"",
                    receipt.database,
                    row.text(1)
                ),
                detail: None,
                hint: None,
            });
        }
        Ok(Departure {
            accounts: row.amount(0)?,
            database: row.text(1).to_owned(),
            state: row.text(2).to_owned(),
            document: row.owned(3),
        })
    }

    fn end(&self, receipt: &Receipt, state: &str) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        let outcome = spi::query_as_of(
            "UPDATE token_balance.account_move AS m SET state = $2, document = NULL, \
             ended_at = pg_catalog.clock_timestamp() WHERE m.token::pg_catalog.text OPERATOR(pg_catalog.=) $1 \
             AND m.direction OPERATOR(pg_catalog.=) 'out' AND m.state OPERATOR(pg_catalog.=) 'sent'",
            &[Arg::Text(&receipt.token), Arg::Text(state)],
            Snapshot::Latest,
        )?;
        match outcome.processed {
            1 => Ok(()),
            _ => Err(Error::ConcurrentChange {
                account: receipt.user_id.clone(),
            }),
        }
    }
}
