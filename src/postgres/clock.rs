//! The time.

use pgrx::pg_sys;

use super::raw;

/// As `clock_timestamp()`.
pub(crate) fn now() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock, and raises nothing.
    unsafe { raw::GetCurrentTimestamp() }
}
