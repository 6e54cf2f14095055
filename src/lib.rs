//! `token_balance`: prepaid token balances for LLM and workflow platforms on PostgreSQL.
//!
//! A run that completes is settled inside the database: its usage leaves the balance atomically and
//! exactly once. Start reading at [`settle`], the one path of function, trigger and batch; the
//! contract is `docs/DESIGN.md`.

mod account;
mod api;
mod archive;
mod binding;
mod cache;
mod catalog;
mod charge;
mod claim;
mod completion;
mod credit;
mod direct;
mod error;
mod history;
mod jsonb;
mod key;
mod late;
mod ledger;
mod lock;
mod older;
mod overdraft;
mod pending;
mod queue;
mod reconcile;
mod row;
mod security;
mod settle;
mod spi;
mod sqlstate;
mod summary;
mod usage;

use pgrx::prelude::*;
use pgrx::{extension_sql_file, pg_sys};

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/tables.sql", name = "tables", bootstrap);
extension_sql_file!("../sql/functions.sql", name = "functions");
extension_sql_file!(
    "../sql/triggers.sql",
    name = "triggers",
    requires = ["functions"]
);
extension_sql_file!(
    "../sql/comments.sql",
    name = "comments",
    requires = ["triggers"]
);
extension_sql_file!("../sql/install.sql", name = "install", finalize);

/// Called once a backend, when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // pgrx appends a backtrace to DETAIL where RUST_BACKTRACE is in the server's environment. DETAIL
    // is for users. SAFETY: a backend has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        cache::register_callbacks();
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
    }
}

/// Called by the server when a transaction ends.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    if matches!(
        event,
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE
    ) {
        lock::forget();
        completion::forget();
    }
}

/// Called by the server when a subtransaction ends.
#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        lock::forget_subtransaction(subtransaction);
        completion::forget_subtransaction(subtransaction);
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pg_test/mod.rs"]
mod tests;

/// What `cargo pgrx test` asks of a crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        // A test that would run for ever fails instead.
        vec!["statement_timeout = '60s'"]
    }
}
