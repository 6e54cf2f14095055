//! `token_balance`: prepaid token balances for LLM and workflow platforms on PostgreSQL.
//!
//! A run that completes is settled inside the database: its usage leaves the balance atomically and
//! exactly once. Start reading at [`settle`], the one path of function, trigger and batch. The
//! plan of the house is `docs/architecture.md`, the contract `docs/DESIGN.md`.

mod api;
mod attach;
mod binding;
mod counters;
mod error;
mod ledger;
mod postgres;
mod reports;
mod settle;
mod triggers;

use pgrx::extension_sql_file;
use pgrx::prelude::*;

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

/// Called once per backend, when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // pgrx appends a backtrace to DETAIL where RUST_BACKTRACE is in the server's environment. DETAIL
    // is for users. SAFETY: a backend has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    postgres::direct::init();
    postgres::invalidation::init();
    postgres::transaction::init();
    counters::init();
    settle::lock::init();
    settle::rename::init();
    settle::retention::deletions::init();
    triggers::notes::init();
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
