//! Keeps the SQLSTATE of an error that a statement of ours meets.
//!
//! pgrx turns an error of the server into a panic and back, and knows only PostgreSQL's own
//! SQLSTATEs: one that an application's trigger made up (`RAISE ... USING ERRCODE = 'PT402'`) would
//! come out as XX000. Error-context callbacks see the code when the error is raised, and may set it
//! when it is raised again.

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::{PgSqlErrorCode, pg_sys};

unsafe extern "C-unwind" {
    /// From elog.h, which pgrx does not bind.
    fn errcode(code: i32) -> i32;
}

thread_local! {
    /// The code of the last report under way while [`with_sqlstate_kept`] runs.
    static SEEN: Cell<i32> = const { Cell::new(0) };
}

/// Run `statement`; an error that it raises leaves with its own SQLSTATE.
pub(crate) fn with_sqlstate_kept<T>(statement: impl FnOnce() -> T) -> T {
    let mut watch = pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(see),
        arg: std::ptr::null_mut(),
    };
    SEEN.set(0);
    // SAFETY: the callback is on the stack of this frame and is taken off before the frame ends.
    unsafe {
        watch.previous = pg_sys::error_context_stack;
        pg_sys::error_context_stack = &mut watch;
    }
    let outcome = catch_unwind(AssertUnwindSafe(statement));
    // SAFETY: as above.
    unsafe { pg_sys::error_context_stack = watch.previous };
    outcome.unwrap_or_else(|panic| {
        let code = SEEN.get();
        let is_known =
            PgSqlErrorCode::from(code as isize) != PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
        if code != 0 && !is_known {
            restore_when_raised_again(code);
        }
        resume_unwind(panic)
    })
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn see(_argument: *mut c_void) {
    // SAFETY: called by the server while a report is under way.
    SEEN.set(unsafe { pg_sys::geterrcode() });
}

/// Nothing is reported between here and the frame that raises the error again for the server, whose
/// own handler then resets the stack of callbacks.
fn restore_when_raised_again(code: i32) {
    static mut RESTORE: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(restore),
        arg: std::ptr::null_mut(),
    };
    // SAFETY: a backend has one thread; the callback is static, so it may stay on the stack until
    // the server resets that.
    unsafe {
        let callback = &raw mut RESTORE;
        if pg_sys::error_context_stack != callback {
            (*callback).previous = pg_sys::error_context_stack;
            pg_sys::error_context_stack = callback;
        }
        (*callback).arg = code as usize as *mut c_void;
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn restore(argument: *mut c_void) {
    // SAFETY: called by the server while the error is raised again.
    unsafe { errcode(argument as usize as i32) };
}
