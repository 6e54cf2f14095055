//! Memory for a few rows at a time, of a context that a backend makes once.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use crate::postgres::raw;
use crate::postgres::unwind::unless_unwinding;

thread_local! {
    static CONTEXT: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
    static IS_IN_USE: Cell<bool> = const { Cell::new(false) };
}

/// While this value lives, memory comes from a context which is emptied at its end. One inside another one has a context
/// of its own.
pub(super) struct Scratch {
    outer: pg_sys::MemoryContext,
    own: pg_sys::MemoryContext,
    is_kept: bool,
}

impl Scratch {
    pub(super) fn enter() -> Self {
        let is_kept = !IS_IN_USE.replace(true);
        // SAFETY: contexts of this backend. The one that is kept is never deleted; another one goes with the present one.
        unsafe {
            let outer = pg_sys::CurrentMemoryContext;
            let own = match (is_kept, CONTEXT.get()) {
                (true, kept) if !kept.is_null() => kept,
                (true, _) => {
                    CONTEXT.set(new_context(pg_sys::TopMemoryContext));
                    CONTEXT.get()
                }
                (false, _) => new_context(outer),
            };
            pg_sys::CurrentMemoryContext = own;
            Scratch {
                outer,
                own,
                is_kept,
            }
        }
    }

    /// Give back what was allocated since.
    pub(super) fn reset(&self) {
        // SAFETY: the context is this one's own.
        unsafe { pg_guard_ffi_boundary(|| raw::MemoryContextReset(self.own)) };
    }
}

/// # Safety
/// The parent is a context of this backend.
unsafe fn new_context(parent: pg_sys::MemoryContext) -> pg_sys::MemoryContext {
    // SAFETY: as the caller promises; the name is static.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            parent,
            c"token_balance rows".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: that context outlives this value.
        unsafe { pg_sys::CurrentMemoryContext = self.outer };
        if self.is_kept {
            IS_IN_USE.set(false);
        }
        // While an error unwinds, the slots in it are still known to the server: it stays until it is used again, or is
        // gone with its parent.
        unless_unwinding(|| match self.is_kept {
            true => self.reset(),
            // SAFETY: made by `enter`, deleted once.
            false => unsafe { pg_sys::MemoryContextDelete(self.own) },
        });
    }
}
