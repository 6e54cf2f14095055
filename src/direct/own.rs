//! The extension's own tables, as this room knows them: `sql/tables.sql`.

use pgrx::pg_sys;
use pgrx::pg_sys::{INT8OID, TEXTOID, TIMESTAMPTZOID};

use super::raw;
use super::table::{Shape, Table};
use crate::cache::{self, Bound};

const SETTLEMENT: Shape = Shape {
    columns: &[
        (TEXTOID, false),       // workflow_id
        (TEXTOID, false),       // user_id
        (INT8OID, false),       // usage_tokens
        (INT8OID, false),       // charged_tokens
        (INT8OID, false),       // refunded_tokens
        (TIMESTAMPTZOID, true), // first_settled_at
        (TIMESTAMPTZOID, true), // last_settled_at
        (INT8OID, false),       // archived_charged_tokens
        (INT8OID, false),       // archived_refunded_tokens
    ],
    checks: &[],
};

const LEDGER: Shape = Shape {
    columns: &[
        (TEXTOID, false),        // user_id
        (INT8OID, false),        // entry_id
        (TEXTOID, false),        // kind
        (INT8OID, false),        // amount
        (INT8OID, false),        // previous_balance
        (INT8OID, false),        // new_balance
        (TEXTOID, true),         // workflow_id
        (TEXTOID, true),         // reference
        (TEXTOID, true),         // note
        (TEXTOID, false),        // actor
        (TIMESTAMPTZOID, false), // created_at
    ],
    // The kind is of an enum that has these and no others, and the new balance is reckoned.
    checks: &[c"ledger_kind", c"ledger_amount"],
};

/// None if SQL must write it.
pub(crate) fn settlement(bound: &Bound) -> Option<Table> {
    open(bound.own.settlement, &SETTLEMENT)
}

/// None if SQL must write it.
pub(crate) fn ledger(bound: &Bound) -> Option<(Table, EntryIds)> {
    if bound.own.entry_ids == pg_sys::InvalidOid {
        return None;
    }
    open(bound.own.ledger, &LEDGER).map(|table| (table, EntryIds(bound.own.entry_ids)))
}

fn open(table: pg_sys::Oid, shape: &Shape) -> Option<Table> {
    let table = Table::open(table, shape)?;
    // Who held the lock before may have made other tables, or another sequence.
    (!cache::is_stale()).then_some(table)
}

/// The ids that the ledger's identity column gives.
pub(crate) struct EntryIds(pg_sys::Oid);

impl EntryIds {
    /// As the column's own default does it: without a look at the caller's privileges.
    pub(crate) fn next(&self) -> i64 {
        // SAFETY: one call of a function of the server, which checks its argument.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| raw::nextval_internal(self.0, false)) }
    }
}

/// As `clock_timestamp()`.
pub(crate) fn now() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock, and raises nothing.
    unsafe { raw::GetCurrentTimestamp() }
}
