//! Keeps what an error of the server's says beside its message: the SQLSTATE, and the schema, table,
//! column, type and constraint that it is about.
//!
//! pgrx turns an error of the server into a panic and back. It knows only PostgreSQL's own SQLSTATEs:
//! one that an application's trigger made up (`RAISE ... USING ERRCODE = 'PT402'`) would come out as
//! XX000; and it does not take the names along. Error-context callbacks see an error when it is raised,
//! and may add to it when it is raised again.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

unsafe extern "C-unwind" {
    /// From elog.h, which pgrx does not bind.
    fn errcode(code: i32) -> i32;
}

/// The fields of an error that have a name in them, by the letters of the protocol's error fields.
const NAMES: [u8; 5] = [
    pg_sys::PG_DIAG_SCHEMA_NAME,
    pg_sys::PG_DIAG_TABLE_NAME,
    pg_sys::PG_DIAG_COLUMN_NAME,
    pg_sys::PG_DIAG_DATATYPE_NAME,
    pg_sys::PG_DIAG_CONSTRAINT_NAME,
];

/// What pgrx would lose of an error.
#[derive(Default)]
struct Kept {
    code: i32,
    names: [Option<CString>; NAMES.len()],
}

impl Kept {
    const fn nothing() -> Self {
        Kept {
            code: 0,
            names: [const { None }; NAMES.len()],
        }
    }

    /// Whether pgrx would lose anything of it.
    fn is_worth_it(&self) -> bool {
        let is_known =
            PgSqlErrorCode::from(self.code as isize) != PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
        self.code != 0 && (!is_known || self.names.iter().any(Option::is_some))
    }
}

thread_local! {
    /// Of the last error under way while [`with_error_fields_kept`] runs.
    static SEEN: RefCell<Kept> = const { RefCell::new(Kept::nothing()) };
    /// Of the error that is to be raised again.
    static RAISED_AGAIN: RefCell<Kept> = const { RefCell::new(Kept::nothing()) };
}

/// Run `statement`; an error that it raises leaves with its own SQLSTATE and names.
pub(crate) fn with_error_fields_kept<T>(statement: impl FnOnce() -> T) -> T {
    let mut watch = pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(see),
        arg: std::ptr::null_mut(),
    };
    SEEN.set(Kept::nothing());
    // SAFETY: the callback is on the stack of this frame and is taken off before the frame ends.
    unsafe {
        watch.previous = pg_sys::error_context_stack;
        pg_sys::error_context_stack = &mut watch;
    }
    let outcome = catch_unwind(AssertUnwindSafe(statement));
    // SAFETY: as above.
    unsafe { pg_sys::error_context_stack = watch.previous };
    outcome.unwrap_or_else(|panic| {
        let seen = SEEN.take();
        if seen.is_worth_it() {
            restore_when_raised_again(seen);
        }
        resume_unwind(panic)
    })
}

/// Called for every report, of which only errors end the statement.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn see(_argument: *mut c_void) {
    // SAFETY: called by the server while a report is under way, with the context for errors as the
    // current one, which CopyErrorData must not copy into. The copy is freed.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let report = pg_sys::CopyErrorData();
        if (*report).elevel >= PgLogLevel::ERROR as i32 {
            let name =
                |text: *const c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_owned());
            SEEN.set(Kept {
                code: (*report).sqlerrcode,
                names: [
                    name((*report).schema_name),
                    name((*report).table_name),
                    name((*report).column_name),
                    name((*report).datatype_name),
                    name((*report).constraint_name),
                ],
            });
        }
        pg_sys::FreeErrorData(report);
        pg_sys::MemoryContextSwitchTo(before);
    }
}

/// Nothing is reported between here and the frame that raises the error again for the server, whose
/// own handler then resets the stack of callbacks.
fn restore_when_raised_again(kept: Kept) {
    static mut RESTORE: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(restore),
        arg: std::ptr::null_mut(),
    };
    RAISED_AGAIN.set(kept);
    // SAFETY: a backend has one thread; the callback is static, so it may stay on the stack until
    // the server resets that.
    unsafe {
        let callback = &raw mut RESTORE;
        if pg_sys::error_context_stack != callback {
            (*callback).previous = pg_sys::error_context_stack;
            pg_sys::error_context_stack = callback;
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn restore(_argument: *mut c_void) {
    let kept = RAISED_AGAIN.take();
    // SAFETY: called by the server while the error is raised again: by pgrx, which sets none of these
    // fields. The names are copied.
    unsafe {
        if kept.code != 0 {
            errcode(kept.code);
        }
        for (field, name) in NAMES.iter().zip(&kept.names) {
            if let Some(name) = name {
                pg_sys::err_generic_string(i32::from(*field), name.as_ptr());
            }
        }
    }
}
