//! Sequences.

use pgrx::pg_sys;

use super::raw;

/// The next value, as the default of an identity column takes it: without a look at the caller's
/// privileges.
pub(crate) fn next_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: one call of a function of the server, which checks its argument.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| raw::nextval_internal(sequence, false)) }
}
