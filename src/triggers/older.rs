//! The library of an older version, where a backend has that loaded as well.
//!
//! `ALTER EXTENSION token_balance UPDATE` moves all functions to this library at once, also under a
//! session that is in the midst of a settlement, or of a backlog, with the library before. Its next
//! UPDATE of users fires the ledger's trigger of this library; what kind of change it is, only the
//! other one knows, which announced it in its own memory (`ledger::change`).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use pgrx::pg_sys;

use crate::postgres::trigger::TriggerCall;

type TriggerFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

unsafe extern "C" {
    /// From dlfcn.h. It raises nothing.
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
    /// The same: 0, and nothing is written, for an address that no library has.
    fn dladdr(address: *const c_void, library: *mut Library) -> c_int;
}

/// Dl_info.
#[repr(C)]
struct Library {
    file: *const c_char,
    begin: *mut c_void,
    symbol: *const c_char,
    symbol_address: *mut c_void,
}

/// RTLD_DEFAULT: the first library that has the symbol, in the order of loading. The server loads
/// all of them so that they are found by this (RTLD_GLOBAL in dfmgr.c).
const FIRST: *mut c_void = if cfg!(target_os = "linux") {
    ptr::null_mut()
} else {
    ptr::without_provenance_mut(-2_isize as usize)
};

/// Let the library before this one answer the call of its trigger function `symbol`. Whether there
/// is one.
pub(crate) fn answers(call: &TriggerCall, symbol: &CStr) -> bool {
    // SAFETY: the symbol is a C string.
    let found = unsafe { dlsym(FIRST, symbol.as_ptr()) };
    if found.is_null() || found as usize == called(call) {
        return false;
    }
    // SAFETY: what the library exports by this name is a trigger function in each version. It is
    // called as the server calls it, and what it raises is caught; nothing is to be dropped.
    unsafe {
        let function = std::mem::transmute::<*mut c_void, TriggerFunction>(found);
        pg_sys::ffi::pg_guard_ffi_boundary(|| function(call.fcinfo));
    }
    true
}

/// Whether this backend has a library before this one. What is exported by both is found in the first.
pub(crate) fn is_loaded() -> bool {
    // SAFETY: the symbol is a C string.
    let found = unsafe { dlsym(FIRST, c"record_balance_change_wrapper".as_ptr()) };
    !found.is_null() && begin_of(found) != begin_of(begin_of as *const c_void)
}

/// Where the library is that has this address.
fn begin_of(address: *const c_void) -> *mut c_void {
    let nothing = ptr::null_mut();
    let mut library = Library {
        file: ptr::null(),
        begin: nothing,
        symbol: ptr::null(),
        symbol_address: nothing,
    };
    // SAFETY: writes into a live local of the type that it takes.
    unsafe { dladdr(address, &mut library) };
    library.begin
}

/// The address that the server called. Our own name for it will not do: the dynamic linker binds
/// that, too, to the first library that has it.
fn called(call: &TriggerCall) -> usize {
    // SAFETY: the server calls a function with what it knows of it.
    unsafe { (*(*call.fcinfo).flinfo).fn_addr }.map_or(0, |function| function as usize)
}
