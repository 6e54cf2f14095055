//! Work in a subtransaction of its own, whose failure is not that of the transaction.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::security::RunAs;
use crate::error::Result;

/// What becomes of what was done in it.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// It stays, unless the work fails.
    Kept,
    /// It is undone in any case, with its locks and settings.
    RolledBack,
}

/// What `work` gives; or what the server said of a value that could not be computed (SQLSTATE class 22, or an
/// exception of a function's own), and everything is as it was before. Any other error is raised.
pub(crate) fn unless_data_exception<T>(
    work: impl FnOnce() -> Result<T>,
) -> Result<std::result::Result<T, String>> {
    match run(End::Kept, is_of_data, work) {
        Ok(result) => result.map(Ok),
        Err(error) => Ok(Err(message(&error))),
    }
}

/// What `read` gives, as `role`; None where it fails, or waits for a lock longer than `patience`. It leaves nothing
/// behind.
///
/// An error that is not of the statement is raised: that the query was cancelled, or the session ended.
pub(crate) fn attempt<T>(
    role: pg_sys::Oid,
    patience: Duration,
    read: impl FnOnce() -> Result<T>,
) -> Option<T> {
    let read = || {
        // SAFETY: inside of a subtransaction.
        unsafe { wait_no_longer_than(patience) };
        let _role = RunAs::dropped_to(role);
        read()
    };
    run(End::RolledBack, is_of_the_statement, read).ok()?.ok()
}

/// What `work` gives; None where it fails, and everything is as it was before. An end that was asked for is raised.
pub(crate) fn unless_it_fails<T>(work: impl FnOnce() -> Result<T>) -> Option<T> {
    run(End::Kept, is_no_end, work).ok()?.ok()
}

/// What `work` gives, or an error that the caller tolerates; any other one is raised.
///
/// From `exec_stmt_block` in pl_exec.c.
fn run<T>(
    end: End,
    tolerates: fn(&CaughtError) -> bool,
    work: impl FnOnce() -> Result<T>,
) -> std::result::Result<Result<T>, CaughtError> {
    // SAFETY: all of it is put back below, as the server's own procedural language does.
    let (context, owner, callbacks) = unsafe {
        let outer = (
            pg_sys::CurrentMemoryContext,
            pg_sys::CurrentResourceOwner,
            pg_sys::error_context_stack,
        );
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(outer.0);
        outer
    };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(Err)
        .execute();
    // SAFETY: the subtransaction that was begun above is the innermost one: what began inside has ended.
    unsafe {
        pg_sys::MemoryContextSwitchTo(context);
        match (&outcome, end) {
            (Ok(_), End::Kept) => pg_sys::ReleaseCurrentSubTransaction(),
            _ => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    match outcome {
        Err(error) if !tolerates(&error) => error.rethrow(),
        Err(error) => {
            // Nobody raises it again, with what was kept of it.
            // SAFETY: what was on the stack before is there still.
            unsafe { pg_sys::error_context_stack = callbacks };
            Err(error)
        }
        Ok(result) => Ok(result),
    }
}

fn message(error: &CaughtError) -> String {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic {
        ereport: report, ..
    }) = error;
    report.message().to_owned()
}

fn is_of_data(error: &CaughtError) -> bool {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else {
        return false;
    };
    let code = report.sql_error_code();
    class(code) == class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION)
        || code == PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION
}

/// The first two of a code's five characters, each in six bits. From `ERRCODE_TO_CATEGORY` in elog.h.
fn class(code: PgSqlErrorCode) -> i32 {
    code as i32 & ((1 << 12) - 1)
}

/// The code of an error that the server has raised.
fn code_of_the_server(error: &CaughtError) -> Option<PgSqlErrorCode> {
    match error {
        CaughtError::PostgresError(report) => Some(report.sql_error_code()),
        _ => None,
    }
}

/// That the query was cancelled, or the session ends.
fn is_end(code: PgSqlErrorCode) -> bool {
    matches!(
        code,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT
    )
}

fn is_no_end(error: &CaughtError) -> bool {
    code_of_the_server(error).is_some_and(|code| !is_end(code))
}

fn is_of_the_statement(error: &CaughtError) -> bool {
    code_of_the_server(error).is_some_and(|code| {
        !is_end(code)
            && !matches!(
                code,
                PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
                    | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            )
    })
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
