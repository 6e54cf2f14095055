//! archive_ledger, archive_settlements and archive.

use std::ffi::CStr;

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde::Serialize;

use super::common::{
    at_least_one, binding_at, past, refuse_read_only, required, some_time_before_now, to_json,
};
use crate::error::Error;
use crate::postgres::commit::MayCommit;
use crate::settle::retention::policy::{self, Policy};
use crate::settle::retention::{entries, settlements};

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
    let before = past("before", before, "Entries")?;
    refuse_read_only(c"token_balance.archive_ledger()");
    let archived = entries::archive_ledger(before, archive)?;
    Ok(to_json(&Archived {
        accounts: archived.accounts,
        entries: archived.entries,
        archive: archived.archive,
    })?)
}

/// The answer of `archive_settlements`.
#[derive(Serialize)]
struct Ended {
    /// Workflows whose settlements left.
    workflows: usize,
    settlements: usize,
    /// Null if they are gone for good.
    archive: Option<String>,
    /// Whether max_workflows was reached.
    more: bool,
}

/// `token_balance.archive_settlements(timestamptz, regclass, name, integer) → jsonb`: move settlements of which nothing is
/// left, and that are older than a moment, to a table of the caller's, or delete them.
///
/// Errors: as `archive_ledger`; 22023 for max_workflows below 1, 55000 if nothing is attached or the usage is a view that
/// was replaced, 42704 if none is attached by the name.
#[pg_extern(sql = false)]
fn archive_settlements(
    before: Option<TimestampWithTimeZone>,
    archive: Option<pg_sys::Oid>,
    binding: Option<&CStr>,
    max_workflows: Option<i32>,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.archive_settlements";
    let before = past(
        "before",
        required(function, "before", before)?,
        "Settlements",
    )?;
    let max_workflows = max_workflows
        .map(|count| at_least_one("max_workflows", count))
        .transpose()?;
    refuse_read_only(c"token_balance.archive_settlements()");
    let name = binding.map(CStr::to_string_lossy);
    let ended = settlements::archive_settlements(name.as_deref(), before, archive, max_workflows)?;
    Ok(to_json(&Ended {
        workflows: ended.workflows,
        settlements: ended.settlements,
        archive: ended.archive,
        more: ended.more,
    })?)
}

/// `CALL token_balance.archive(interval, regclass, regclass, regclass, integer, name)`: usage, the ledger and settlements
/// leave by one policy, with a commit a batch.
///
/// Errors: 22004 for nulls, 22023 for an interval that is not above 0 or batch_size below 1, 2D000 inside a transaction
/// block; of the tables as `archive_ledger` and `archive_settlements`.
#[pg_extern(sql = false)]
fn archive_by_policy(
    keep: Option<Interval>,
    usage_archive: Option<pg_sys::Oid>,
    ledger_archive: Option<pg_sys::Oid>,
    settlement_archive: Option<pg_sys::Oid>,
    batch_size: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<(), ErrorReport> {
    let function = "token_balance.archive";
    let keep = required(function, "keep", keep)?;
    let batch_size = required(function, "batch_size", batch_size)?;
    let batch_size = at_least_one("batch_size", batch_size)?;
    let before = some_time_before_now("keep", &keep)?;
    // SAFETY: the server's own fcinfo.
    let commits = unsafe { MayCommit::of(fcinfo) }.ok_or(Error::InTransaction { function })?;
    refuse_read_only(c"token_balance.archive()");
    let policy = Policy {
        before,
        usage: usage_archive,
        ledger: ledger_archive,
        settlements: settlement_archive,
        batch_size,
    };
    let name = binding_at(fcinfo, 5);
    Ok(policy::archive(name.as_deref(), &policy, commits)?)
}
