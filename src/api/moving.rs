//! export_account, import_account, refuse_account, confirm_export and take_back_account: accounts that move between
//! databases.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde::Serialize;

use super::common::{binding_at, refuse_read_only, required, to_json};
use crate::error::Error;
use crate::postgres::call::{self, Id};
use crate::settle::moves::{arrival, departure, export};

/// `token_balance.export_account(text, text, name) → jsonb`: close an account here. The answer is the document with which
/// `import_account` opens it in another database; called again before its receipt has come, the same one.
///
/// Errors: 22004 for nulls, 22023 for a destination that is empty or this database, P0002 for an unknown account, 55000 for
/// one that has left, or of which not all would go; 40001 and 40P01 to be retried, 25006 in a read-only transaction, 55000 if
/// nothing is attached.
#[pg_extern(sql = false)]
fn export_account(
    user_id: Option<&str>,
    destination: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.export_account";
    let user_id = required(function, "user_id", user_id)?;
    let destination = required(function, "destination", destination)?;
    refuse_read_only(c"token_balance.export_account()");
    let document = export::export(binding_at(fcinfo, 2).as_deref(), user_id, destination)?;
    let document = serde_json::from_str(&document).map_err(|error| Error::Spi {
        code: error.to_string(),
    })?;
    Ok(JsonB(document))
}

/// `token_balance.export_account(bigint | uuid, text, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn export_account_by_key(
    user_id: Option<Id>,
    destination: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    // SAFETY: the server's own fcinfo, and the first argument of the function that it calls.
    let user_id = user_id.and_then(|id| unsafe { call::id(fcinfo, 0, id) });
    export_account(user_id.as_deref(), destination, fcinfo)
}

/// `token_balance.import_account(jsonb, name) → jsonb`: open the account of a document here. The answer is the receipt for
/// `confirm_export`; called again, the same one, with `replayed`.
///
/// Errors: 22004 for a null, 22023 for what is no document, was changed, or is for another database; 55000 for one that was
/// refused, or if the account cannot be opened here by it; 22003 and 23514 for a balance that the column does not take; 40001
/// and 40P01 to be retried, 25006 in a read-only transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn import_account(
    document: Option<JsonB>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let document = required("token_balance.import_account", "document", document)?;
    refuse_read_only(c"token_balance.import_account()");
    let receipt = arrival::import(binding_at(fcinfo, 1).as_deref(), &document.0)?;
    Ok(to_json(&receipt)?)
}

/// `token_balance.refuse_account(jsonb) → jsonb`: never open an account by this document. The answer is the receipt for
/// `take_back_account`; called again, the same one, with `replayed`.
///
/// Errors: 22004 for a null, 22023 for what is no document, was changed, or is for another database; 55000 for one that was
/// imported, 25006 in a read-only transaction.
#[pg_extern(sql = false)]
fn refuse_account(document: Option<JsonB>) -> Result<JsonB, ErrorReport> {
    let document = required("token_balance.refuse_account", "document", document)?;
    refuse_read_only(c"token_balance.refuse_account()");
    Ok(to_json(&arrival::refuse(&document.0)?)?)
}

/// The answer of what a receipt does.
#[derive(Serialize)]
struct Ended {
    success: bool,
    token: String,
    user_id: String,
    /// Whether an earlier call did it.
    replayed: bool,
}

/// `token_balance.confirm_export(jsonb) → jsonb`: the account has arrived, and its document is dropped here.
///
/// Errors: 22004 for a null, 22023 for what is no receipt, that of a document which was refused, or of another database; P0002
/// for a document that did not leave from here, 55000 for an account that was taken back, 25006 in a read-only transaction.
#[pg_extern(sql = false)]
fn confirm_export(receipt: Option<JsonB>) -> Result<JsonB, ErrorReport> {
    let receipt = required("token_balance.confirm_export", "receipt", receipt)?;
    refuse_read_only(c"token_balance.confirm_export()");
    let (receipt, is_done) = departure::confirm(&receipt.0)?;
    Ok(ended(receipt.token, receipt.user_id, !is_done)?)
}

/// `token_balance.take_back_account(jsonb) → jsonb`: the account does not arrive, and is opened here again, as it left.
///
/// Errors: 22004 for a null, 22023 for what is no receipt, that of a document which was imported, or of another database; P0002
/// for a document that did not leave from here, 55000 if the account has arrived or has no row here; 40001 and 40P01 to be
/// retried, 25006 in a read-only transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn take_back_account(receipt: Option<JsonB>) -> Result<JsonB, ErrorReport> {
    let receipt = required("token_balance.take_back_account", "receipt", receipt)?;
    refuse_read_only(c"token_balance.take_back_account()");
    let (receipt, is_done) = departure::take_back(&receipt.0)?;
    Ok(ended(receipt.token, receipt.user_id, !is_done)?)
}

fn ended(token: String, user_id: String, replayed: bool) -> crate::error::Result<JsonB> {
    to_json(&Ended {
        success: true,
        token,
        user_id,
        replayed,
    })
}
