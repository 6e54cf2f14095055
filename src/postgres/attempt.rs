//! Something that may fail without the rest failing with it, and that leaves nothing behind: a subtransaction that is
//! rolled back in any case, with its locks and settings.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::security::RunAs;
use crate::error::Result;

/// What `read` gives, as `role`; None where it fails, or waits for a lock longer than `patience`.
///
/// An error that is not of the statement is raised: that the query was cancelled, or the session ended.
pub(crate) fn attempt<T>(
    role: pg_sys::Oid,
    patience: Duration,
    read: impl FnOnce() -> Result<T>,
) -> Option<T> {
    // SAFETY: as in PL/pgSQL's block with an EXCEPTION clause: memory context and resource owner are put back, and
    // the subtransaction is the current one when it is rolled back, since what `read` began is over, or is ended
    // with its error.
    let caught = unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        wait_no_longer_than(patience);
        let caught = PgTryBuilder::new(AssertUnwindSafe(|| {
            let _role = RunAs::dropped_to(role);
            Ok(read().ok())
        }))
        .catch_others(Err)
        .execute();
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::RollbackAndReleaseCurrentSubTransaction();
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        caught
    };
    match caught {
        Ok(found) => found,
        Err(error) if is_of_the_statement(&error) => None,
        Err(error) => error.rethrow(),
    }
}

fn is_of_the_statement(error: &CaughtError) -> bool {
    let CaughtError::PostgresError(report) = error else {
        return false;
    };
    !matches!(
        report.sql_error_code(),
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
            | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            | PgSqlErrorCode::ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT
    )
}

/// To the end of the subtransaction.
///
/// # Safety
/// Inside a subtransaction.
unsafe fn wait_no_longer_than(patience: Duration) {
    let wanted = patience.as_millis().max(1);
    // SAFETY: reads a setting; the strings outlive the call, which copies the value.
    unsafe {
        let present = u128::try_from(pg_sys::LockTimeout).unwrap_or(0);
        if present > 0 && present <= wanted {
            return;
        }
        let value = super::datum::c_string(&format!("{wanted}ms"));
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}
