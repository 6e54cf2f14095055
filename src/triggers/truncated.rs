//! The triggers that tell of a TRUNCATE of users or usage: what was settled is known all the same, and an id that is
//! used again counts as settled.

use std::cell::Cell;

use pgrx::{PgLogLevel, pg_sys};

use crate::binding::own::extension_owner;
use crate::error::{Error, Result};
use crate::postgres::security::RunAs;
use crate::postgres::spi;
use crate::postgres::trigger::{TriggerCall, trigger_function};

trigger_function!(
    warn_of_truncate_wrapper,
    pg_finfo_warn_of_truncate_wrapper,
    "token_balance.warn_of_truncate",
    warn_of_truncate
);

thread_local! {
    /// The statement that was told of: when its transaction began, and its number there.
    static TOLD: Cell<(pg_sys::TimestampTz, pg_sys::CommandId)> = const { Cell::new((0, 0)) };
}

/// Trigger on users and usage, AFTER TRUNCATE FOR EACH STATEMENT: one WARNING per statement, if anything is known.
///
/// Error 39P01 if fired otherwise.
fn warn_of_truncate(call: &TriggerCall) -> Result<()> {
    if call.operation() != "TRUNCATE" {
        return Err(Error::TriggerProtocol {
            function: call.function,
            wanted: "AFTER TRUNCATE FOR EACH STATEMENT",
        });
    }
    // SAFETY: both read backend variables.
    let statement = unsafe {
        (
            pg_sys::GetCurrentTransactionStartTimestamp(),
            pg_sys::GetCurrentCommandId(false),
        )
    };
    if TOLD.get() == statement || !is_anything_known()? {
        return Ok(());
    }
    TOLD.set(statement);
    let relation = call.relation_name();
    Error::Truncated { relation }.report(PgLogLevel::WARNING);
    Ok(())
}

fn is_anything_known() -> Result<bool> {
    let _owner = RunAs::owner(extension_owner()?);
    let outcome = spi::query(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM token_balance.settlement) \
         OR EXISTS (SELECT 1 FROM token_balance.ledger)",
        &[],
    )?;
    Ok(!outcome.rows.is_empty())
}
