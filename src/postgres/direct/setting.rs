//! The setting `token_balance.direct`.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use crate::postgres::{raw, versions};

const NAME: &CStr = c"token_balance.direct";

static IS_USED: GucSetting<bool> = GucSetting::<bool>::new(true);

thread_local! {
    /// The setting of another version's library that this backend has loaded as well: a setting is defined once.
    static OF_ANOTHER_LIBRARY: Cell<Option<*const bool>> = const { Cell::new(None) };
}

/// Whether this room is to be used: with `token_balance.direct = off` each of its functions answers None, and
/// `pg_stat_statements`, `auto_explain` and hooks of the executor see the SQL statements.
///
/// In parallel mode the executor tells better than an access method that nothing can be written.
pub(crate) fn is_used() -> bool {
    // SAFETY: reads a backend variable, and raises nothing.
    let is_parallel = unsafe { raw::IsInParallelMode() };
    let is_on = match OF_ANOTHER_LIBRARY.get() {
        // SAFETY: a variable of a library, and none is ever unloaded.
        Some(variable) => unsafe { *variable },
        None => IS_USED.get(),
    };
    is_on && !is_parallel
}

/// Called once per backend.
pub(crate) fn init() {
    OF_ANOTHER_LIBRARY.set(defined());
    if OF_ANOTHER_LIBRARY.get().is_some() {
        return;
    }
    GucRegistry::define_bool_guc(
        NAME,
        c"Reads and writes rows without an executor where the result is the same.",
        c"With off, each row is read and written by an SQL statement, which extensions that look at statements see.",
        &IS_USED,
        GucContext::Userset,
        GucFlags::default(),
    );
}

/// The variable of the setting, if it is defined already. What was set before any library was loaded is not.
fn defined() -> Option<*const bool> {
    let setting = versions::setting(NAME);
    // SAFETY: a record of the server's, and one of that type if it says so.
    unsafe {
        let record = setting.as_ref()?;
        let is_boolean = record.vartype == pg_sys::config_type::PGC_BOOL;
        let is_defined = record.flags as u32 & pg_sys::GUC_CUSTOM_PLACEHOLDER == 0;
        (is_boolean && is_defined).then(|| {
            (*setting.cast::<pg_sys::config_bool>())
                .variable
                .cast_const()
        })
    }
}
