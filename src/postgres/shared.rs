//! Memory that all sessions of a server share, by its name, without `shared_preload_libraries`.

use std::ffi::{CStr, c_void};
use std::mem::size_of;

use super::raw;
use super::subtransaction::unless_it_fails;
use super::versions;

/// What can be in memory that is shared: it has no pointers, and is changed by atomics alone.
///
/// # Safety
/// All bytes zero are a value of it, and it needs no more than the eight bytes' alignment that the server gives.
pub(crate) unsafe trait Shared: Sync + 'static {
    /// The first session has come. It may not fail: others wait meanwhile.
    fn begin(&self);
}

/// What has this name in the server's memory, begun by the first one to ask. It stays until the server stops, or has to
/// begin anew after a crash. None where the server has no such memory: before PostgreSQL 17, or if it has no room.
pub(crate) fn shared<T: Shared>(name: &CStr) -> Option<&'static T> {
    if !versions::NAMES_SHARED_MEMORY {
        return None;
    }
    // No room is no reason to refuse what the transaction is about.
    let place = unless_it_fails(|| {
        // SAFETY: the function that begins it is that of the type; the name outlives the call, which copies it.
        Ok(unsafe { versions::named_memory(name, size_of::<T>(), begin::<T>) })
    })?;
    // SAFETY: begun as a T, and mapped as long as this process lives.
    unsafe { place.cast::<T>().as_ref() }
}

/// Whether this transaction may ask for it: workers of a parallel query may not.
pub(crate) fn may_ask() -> bool {
    // SAFETY: reads a backend variable.
    versions::NAMES_SHARED_MEMORY && !unsafe { raw::IsInParallelMode() }
}

unsafe extern "C-unwind" fn begin<T: Shared>(place: *mut c_void) {
    // SAFETY: the server gives it as many bytes as were asked for, which nobody else sees yet.
    unsafe {
        place.cast::<T>().write_bytes(0, 1);
        (*place.cast::<T>()).begin();
    }
}
