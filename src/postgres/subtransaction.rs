//! Work in a subtransaction of its own, whose failure is not that of the transaction.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use crate::error::Result;

/// What `work` gives; or what the server said of a value that could not be computed (SQLSTATE class 22, or an
/// exception of a function's own), and everything is as it was before. Any other error is raised.
///
/// From `exec_stmt_block` in pl_exec.c.
pub(crate) fn unless_data_exception<T>(
    work: impl FnOnce() -> Result<T>,
) -> Result<std::result::Result<T, String>> {
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
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => {
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    match outcome {
        Ok(result) => result.map(Ok),
        Err(error) => {
            let said = said_of_data(&error);
            match said {
                Some(said) => {
                    // Nobody raises it again.
                    // SAFETY: what was on the stack before is there still.
                    unsafe { pg_sys::error_context_stack = callbacks };
                    Ok(Err(said))
                }
                None => error.rethrow(),
            }
        }
    }
}

fn said_of_data(error: &CaughtError) -> Option<String> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else {
        return None;
    };
    let code = report.sql_error_code();
    let is_of_data = class(code) == class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION)
        || code == PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION;
    is_of_data.then(|| report.message().to_owned())
}

/// The first two of a code's five characters, each in six bits. From `ERRCODE_TO_CATEGORY` in elog.h.
fn class(code: PgSqlErrorCode) -> i32 {
    code as i32 & ((1 << 12) - 1)
}
