//! What is given back when a value is dropped.

use pgrx::pg_sys;

/// Give something back to the server, in a `drop`. But not while an error unwinds: then the abort of the
/// (sub)transaction gives back all that its resource owner, SPI and the stack of snapshots hold, and
/// what is given back twice is an error of its own. Nor while the backend ends: what it keeps between calls is dropped
/// when the process exits (a FATAL error unwinds nothing), and by then the server has given all back.
pub(crate) fn unless_unwinding(give_back: impl FnOnce()) {
    // SAFETY: reads a backend variable.
    let is_exiting = unsafe { pg_sys::proc_exit_inprogress };
    if !std::thread::panicking() && !is_exiting {
        give_back();
    }
}
