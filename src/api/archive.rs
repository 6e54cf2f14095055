//! archive_ledger.

use pgrx::pg_sys::TimestampTz;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde::Serialize;

use super::common::{refuse_read_only, required, to_json};
use crate::error::Error;
use crate::ledger::archive;
use crate::postgres::clock::now;

/// The answer of `archive_ledger`.
#[derive(Serialize)]
struct Archived {
    /// Accounts whose chain begins with a new opening entry.
    accounts: usize,
    /// Entries that were moved.
    entries: usize,
    archive: String,
}

/// `token_balance.archive_ledger(timestamptz, regclass) → jsonb`: move the ledger entries before a
/// moment to a table of the caller's.
///
/// Errors: 22004 for nulls, 22023 for a time that is to come, 42P01, 42809 and 42P16 for a table that
/// cannot hold entries, 42501 for one that the caller does not own, 27000 for one that does not take
/// them, 25006 in a read-only transaction, 40001 to be retried.
#[pg_extern(sql = false)]
fn archive_ledger(
    before: Option<TimestampWithTimeZone>,
    archive: Option<pg_sys::Oid>,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.archive_ledger";
    let before = required(function, "before", before)?;
    let archive = required(function, "archive", archive)?;
    let before = TimestampTz::from(before);
    if before > now() {
        return Err(Error::InvalidArgument {
            message: "before is in the future".into(),
            detail: None,
            hint: Some(
                "Entries are still to come that would be older: use a time that is past.".into(),
            ),
        }
        .into());
    }
    refuse_read_only(c"token_balance.archive_ledger()");
    let archived = archive::archive_ledger(before, archive)?;
    Ok(to_json(&Archived {
        accounts: archived.accounts,
        entries: archived.entries,
        archive: archived.archive,
    })?)
}
